/* Reads a SentencePiece tokenizer.model: the pieces and two settings of its
 * protocol buffer, all other fields skipped. Fields: ModelProto 1 pieces
 * (1 text, 2 score, 3 type), 2 trainer (3 model type), 3 normaliser (3 dummy
 * prefix). */
#include <string.h>

#include "base/num.h"
#include "model/gguf_plan.h"

struct field {
	uint32_t number, wire;    /* wire: 0 varint, 1 eight bytes, 2 bytes, 5 four bytes */
	uint64_t value;           /* varint, or length */
	const unsigned char *p;   /* bytes of wires 1, 2, 5 */
};

static bool varint(const unsigned char **p, const unsigned char *end, uint64_t *v)
{
	*v = 0;
	for (int shift = 0; shift < 64 && *p < end; shift += 7) {
		unsigned char b = *(*p)++;

		*v |= (uint64_t)(b & 127) << shift;
		if (b < 128)
			return true;
	}
	return false;
}

/* 1 a field, 0 the end, -1 not a protocol buffer. */
static int next_field(const unsigned char **p, const unsigned char *end, struct field *f)
{
	uint64_t tag;

	if (*p == end)
		return 0;
	if (!varint(p, end, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
		return -1;
	f->number = (uint32_t)(tag >> 3);
	f->wire = tag & 7;
	if (f->wire == 0)
		return varint(p, end, &f->value) ? 1 : -1;
	if (f->wire == 1)
		f->value = 8;
	else if (f->wire == 5)
		f->value = 4;
	else if (f->wire != 2 || !varint(p, end, &f->value))
		return -1;
	if (f->value > (uint64_t)(end - *p))
		return -1;
	f->p = *p;
	*p += f->value;
	return 1;
}

static bool read_piece(const struct field *whole, struct gguf_token *t)
{
	const unsigned char *p = whole->p, *end = p + whole->value;
	struct field f;
	uint32_t bits;
	int rc;

	*t = (struct gguf_token){ "", 0, 0.0f, TOKEN_NORMAL };
	while ((rc = next_field(&p, end, &f)) == 1) {
		if (f.number == 1 && f.wire == 2) {
			t->s = (const char *)f.p;
			t->len = f.value;
		} else if (f.number == 2 && f.wire == 5) {
			bits = get_u32(f.p);
			memcpy(&t->score, &bits, 4);
		} else if (f.number == 3 && f.wire == 0) {
			if (f.value < TOKEN_NORMAL || f.value > TOKEN_BYTE)
				return false;
			t->type = (enum gguf_token_type)f.value;
		}
	}
	return rc == 0 && t->len > 0 && t->score - t->score == 0.0f;
}

/* The varint field want of a message; dflt when absent; -1 when it is damaged. */
static int64_t setting(const struct field *whole, uint32_t want, int64_t dflt)
{
	const unsigned char *p = whole->p, *end = p + whole->value;
	struct field f;
	int rc;

	while ((rc = next_field(&p, end, &f)) == 1)
		if (f.number == want && f.wire == 0)
			dflt = (int64_t)(f.value & INT32_MAX);
	return rc < 0 ? -1 : dflt;
}

int spm_parse(const unsigned char *bytes, size_t n, struct arena *a, struct spm *out, struct err *e)
{
	const unsigned char *p = bytes, *end = bytes + n;
	struct field f;
	size_t count = 0;
	int64_t model_type = 1, prefix = 1;
	int rc;

	while ((rc = next_field(&p, end, &f)) == 1)
		count += f.number == 1 && f.wire == 2;
	if (rc < 0 || !count)
		return err_off(e, LP_DATA, "tokenizer.model", p - bytes, "not a SentencePiece model");
	out->pieces = arena_calloc(a, count, sizeof(*out->pieces));
	out->n = 0;
	for (p = bytes; next_field(&p, end, &f) == 1;) {
		if (f.wire != 2)
			continue;
		if (f.number == 1 && !read_piece(&f, &out->pieces[out->n++]))
			return err_off(e, LP_DATA, "tokenizer.model", p - bytes, "piece %zu is damaged", out->n - 1);
		if (f.number == 2)
			model_type = setting(&f, 3, 1);
		if (f.number == 3)
			prefix = setting(&f, 3, 1);
	}
	if (model_type < 0 || prefix < 0)
		return err_off(e, LP_DATA, "tokenizer.model", -1, "its settings are damaged");
	out->bpe = model_type == 2;
	out->dummy_prefix = prefix != 0;
	return 0;
}
