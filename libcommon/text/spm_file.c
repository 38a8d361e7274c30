/* Reads a SentencePiece model file, a protocol buffer; fields that are not
 * named here are skipped. ModelProto: 1 pieces (1 text, 2 score, 3 type),
 * 2 trainer (see TRAINER_*), 3 normaliser (2 character map, 3 dummy prefix,
 * 4 removes extra white space, 5 escapes white space), 5 denormaliser. */
#include <string.h>

#include "base/num.h"
#include "text/spm_file.h"
#include "text/utf8.h"

enum { TRAINER_MODEL = 3, TRAINER_SUFFIX = 24, TRAINER_BYTES = 35, TRAINER_BOS = 41, TRAINER_EOS = 42, TRAINER_UNK_SURFACE = 44 };
enum { NORM_CHARSMAP = 2, NORM_PREFIX = 3, NORM_EXTRA = 4, NORM_ESCAPE = 5 };

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

static bool read_piece(const struct field *whole, struct spm_piece *t)
{
	const unsigned char *p = whole->p, *end = p + whole->value;
	struct field f;
	uint32_t bits;
	int rc;

	*t = (struct spm_piece){ "", 0, 0.0f, SPM_NORMAL };
	while ((rc = next_field(&p, end, &f)) == 1) {
		if (f.number == 1 && f.wire == 2) {
			t->s = (const char *)f.p;
			t->len = f.value;
		} else if (f.number == 2 && f.wire == 5) {
			bits = get_u32(f.p);
			memcpy(&t->score, &bits, 4);
		} else if (f.number == 3 && f.wire == 0) {
			if (f.value < SPM_NORMAL || f.value > SPM_BYTE)
				return false;
			t->type = (enum spm_type)f.value;
		}
	}
	return rc == 0 && t->len > 0 && t->score - t->score == 0.0f && utf8_valid_len(t->s, t->len) == t->len;
}

static bool read_trainer(const struct field *whole, struct spm_file *out)
{
	const unsigned char *p = whole->p, *end = p + whole->value;
	struct field f;
	int rc;

	while ((rc = next_field(&p, end, &f)) == 1) {
		if (f.number == TRAINER_UNK_SURFACE && f.wire == 2) {
			out->unk_surface = (const char *)f.p;
			out->unk_surface_len = f.value;
		}
		if (f.wire != 0)
			continue;
		if (f.number == TRAINER_MODEL) {
			if (f.value < SPM_UNIGRAM || f.value > SPM_CHAR)
				return false;
			out->model = (enum spm_model)f.value;
		} else if (f.number == TRAINER_SUFFIX) {
			out->rules.suffix = f.value != 0;
		} else if (f.number == TRAINER_BYTES) {
			out->byte_fallback = f.value != 0;
		} else if (f.number == TRAINER_BOS) {
			out->bos = (int32_t)f.value;
		} else if (f.number == TRAINER_EOS) {
			out->eos = (int32_t)f.value;
		}
	}
	return rc == 0 && utf8_valid_len(out->unk_surface, out->unk_surface_len) == out->unk_surface_len;
}

static bool read_rules(const struct field *whole, struct spm_rules *out)
{
	const unsigned char *p = whole->p, *end = p + whole->value;
	struct field f;
	int rc;

	while ((rc = next_field(&p, end, &f)) == 1) {
		if (f.number == NORM_CHARSMAP && f.wire == 2) {
			out->charsmap = f.value ? f.p : NULL;
			out->charsmap_len = f.value;
		}
		if (f.wire != 0)
			continue;
		if (f.number == NORM_PREFIX)
			out->dummy_prefix = f.value != 0;
		else if (f.number == NORM_EXTRA)
			out->remove_extra = f.value != 0;
		else if (f.number == NORM_ESCAPE)
			out->escape = f.value != 0;
	}
	return rc == 0;
}

/* Does the denormaliser have rules? */
static bool read_denormalizer(const struct field *whole, struct spm_file *out)
{
	struct spm_rules r = { 0 };

	if (!read_rules(whole, &r))
		return false;
	out->denormalizes = r.charsmap != NULL;
	return true;
}

int spm_parse(const unsigned char *bytes, size_t n, const char *name, struct arena *a, struct spm_file *out, struct err *e)
{
	const unsigned char *p = bytes, *end = bytes + n;
	struct field f;
	size_t count = 0;
	int rc;

	while ((rc = next_field(&p, end, &f)) == 1)
		count += f.number == 1 && f.wire == 2;
	if (rc < 0 || !count)
		return err_off(e, LP_DATA, name, p - bytes, "not a SentencePiece model");
	*out = (struct spm_file){ .model = SPM_UNIGRAM, .bos = 1, .eos = 2, .unk_surface = " \xE2\x81\x87 ", .unk_surface_len = 5 };
	out->rules = (struct spm_rules){ .dummy_prefix = true, .remove_extra = true, .escape = true };
	out->pieces = arena_calloc(a, count, sizeof(*out->pieces));
	for (p = bytes; next_field(&p, end, &f) == 1;) {
		if (f.wire != 2)
			continue;
		if (f.number == 1 && !read_piece(&f, &out->pieces[out->n++]))
			return err_off(e, LP_DATA, name, p - bytes, "piece %zu is damaged", out->n - 1);
		if ((f.number == 2 && !read_trainer(&f, out)) || (f.number == 3 && !read_rules(&f, &out->rules)) ||
		    (f.number == 5 && !read_denormalizer(&f, out)))
			return err_off(e, LP_DATA, name, p - bytes, "its settings are damaged");
	}
	if (out->bos >= (int64_t)out->n || out->bos < 0)
		out->bos = -1;
	if (out->eos >= (int64_t)out->n || out->eos < 0)
		out->eos = -1;
	return 0;
}
