/* Token frames (docs/formats/lp-tokens.5): checked whole before anybody
 * indexes by them, on the way in and on the way out. Spec: fmt/tokens.h. */
#include "fmt/tokens.h"

#include <inttypes.h>
#include <string.h>

#include "base/compiler.h"
#include "base/num.h"

static int bad(struct err *e, const char *what)
{
	return err_set(e, LP_DATA, "corrupt token frame: %s", what);
}

/* n + 1 ascending offsets from 0 to total, none empty. */
static bool offsets_ok(const int64_t *at, int64_t n, int64_t total)
{
	if (at[0] != 0 || at[n] != total)
		return false;
	for (int64_t i = 0; i < n; i++)
		if (at[i + 1] <= at[i])
			return false;
	return true;
}

/* Is an id negative, or not below vocab? Many are looked at together. */
LP_CLONES static bool beyond(const int32_t *ids, int64_t n, uint64_t vocab)
{
	uint32_t last = vocab > INT32_MAX ? INT32_MAX : (uint32_t)vocab - 1, any = 0;

	uint32_t lane[16] = { 0 };
	int64_t i = 0;

	for (; i + 16 <= n; i += 16)
		for (int k = 0; k < 16; k++)
			lane[k] |= (uint32_t)ids[i + k] | (last - (uint32_t)ids[i + k]);
	for (; i < n; i++)
		any |= (uint32_t)ids[i] | (last - (uint32_t)ids[i]);
	for (int k = 0; k < 16; k++)
		any |= lane[k];
	return vocab == 0 ? n > 0 : any >> 31; /* both have their top bit clear for an id from 0 to last */
}

static int check_frame(const struct token_frame *f, uint64_t vocab, struct err *e)
{
	uint8_t bits = 0;
	bool over;
	int64_t s = 0;

	if (!offsets_ok(f->row_start, f->n_rows, f->n_tokens))
		return bad(e, "row_start does not ascend from 0 to the number of tokens");
	if (!offsets_ok(f->seq_start, f->n_seqs, f->n_tokens))
		return bad(e, "seq_start does not ascend from 0 to the number of tokens");
	for (int64_t r = 0; r < f->n_rows; r++) {
		while (f->seq_start[s] < f->row_start[r])
			s++;
		if (f->seq_start[s] != f->row_start[r])
			return bad(e, "a row begins inside a sequence");
	}
	over = beyond(f->input_ids, f->n_tokens, vocab);
	for (int64_t i = 0; i < f->n_tokens; i++)
		bits |= f->loss_mask[i];
	for (int64_t i = 0; over && i < f->n_tokens; i++)
		if (f->input_ids[i] < 0 || (uint64_t)f->input_ids[i] >= vocab)
			return err_set(e, LP_DATA, "corrupt token frame: token id %" PRId32 " is outside the vocabulary of %" PRIu64,
				       f->input_ids[i], vocab);
	if (bits > 1)
		return bad(e, "loss_mask holds other than 0 and 1");
	for (int64_t i = 0; i < f->n_seqs; i++) {
		if (f->seq_record[i] < 0)
			return bad(e, "a negative record number");
		if (f->pair_side && f->pair_side[i] > 1)
			return bad(e, "pair_side holds other than 0 and 1");
	}
	if (!f->pair_id != !f->pair_side)
		return bad(e, "pair_id and pair_side go together");
	return 0;
}

/* The data of a one-dimensional tensor of this type, aligned for it; *n
 * elements. NULL with *e set, or unset when it is absent. */
static const void *column(const struct st_blob *b, const char *name, enum dtype type, int64_t *n, struct err *e)
{
	const struct tensor *t = st_find(b, name);

	if (!t)
		return NULL;
	if (t->dtype != type || t->n_dims != 1 || t->shape[0] > INT64_MAX / 16) {
		err_set(e, LP_DATA, "corrupt token frame: %s is not one-dimensional %s", name, dtype_st_name(type));
		return NULL;
	}
	if (!t->data || (uintptr_t)t->data % dtype_bytes(type)) {
		err_set(e, LP_DATA, "corrupt token frame: %s is not aligned", name);
		return NULL;
	}
	*n = (int64_t)t->shape[0];
	return t->data;
}

int token_frame_view(const struct st_blob *b, struct token_frame *f, struct err *e)
{
	const char *vocab_text = st_meta(b, "vocab_size");
	uint64_t vocab = (uint64_t)INT32_MAX + 1;
	int64_t t = -1, m = -1, r = -1, s = -1, rec = -1, pid = -1, side = -1;
	struct err first = ERR_INIT;

	memset(f, 0, sizeof(*f));
	if (vocab_text && (!parse_u64(vocab_text, &vocab) || !vocab))
		return bad(e, "vocab_size is no number");
	f->input_ids = column(b, "input_ids", DT_I32, &t, &first);
	f->loss_mask = column(b, "loss_mask", DT_U8, &m, &first);
	f->row_start = column(b, "row_start", DT_I64, &r, &first);
	f->seq_start = column(b, "seq_start", DT_I64, &s, &first);
	f->seq_record = column(b, "seq_record", DT_I64, &rec, &first);
	f->pair_id = column(b, "pair_id", DT_I64, &pid, &first);
	f->pair_side = column(b, "pair_side", DT_U8, &side, &first);
	if (first.code) {
		*e = first;
		return -1;
	}
	if (!f->input_ids || !f->loss_mask || !f->row_start || !f->seq_start || !f->seq_record)
		return err_set(e, LP_DATA, "not a token frame: input_ids, loss_mask, row_start, seq_start and seq_record are needed");
	f->n_tokens = t, f->n_rows = r - 1, f->n_seqs = s - 1;
	if (m != t || r < 1 || s < 1 || rec != s - 1 || (f->pair_id && pid != rec) || (f->pair_side && side != rec))
		return bad(e, "its tensors differ in length");
	return check_frame(f, vocab, e);
}

int token_frame_write(struct st_writer *w, const struct token_frame *f, const struct st_kv *meta, size_t n_meta, struct err *e)
{
	/* The widest first, so that each is aligned wherever the data begins on 8 bytes. */
	const struct {
		const char *name;
		enum dtype type;
		int64_t n;
		const void *data;
	} cols[] = {
		{ "row_start", DT_I64, f->n_rows + 1, f->row_start }, { "seq_start", DT_I64, f->n_seqs + 1, f->seq_start },
		{ "seq_record", DT_I64, f->n_seqs, f->seq_record },   { "pair_id", DT_I64, f->n_seqs, f->pair_id },
		{ "input_ids", DT_I32, f->n_tokens, f->input_ids },   { "loss_mask", DT_U8, f->n_tokens, f->loss_mask },
		{ "pair_side", DT_U8, f->n_seqs, f->pair_side },
	};
	struct tensor t[7];
	size_t n = 0;
	uint64_t vocab = (uint64_t)INT32_MAX + 1;

	for (size_t i = 0; i < n_meta; i++)
		if (!strcmp(meta[i].key, "vocab_size") && meta[i].value && !parse_u64(meta[i].value, &vocab))
			return bad(e, "vocab_size is no number");
	if (check_frame(f, vocab, e))
		return -1;
	for (size_t i = 0; i < sizeof(cols) / sizeof(cols[0]); i++) {
		if ((cols[i].data == f->pair_id || cols[i].data == f->pair_side) && !cols[i].data)
			continue;
		t[n++] = (struct tensor){ .name = cols[i].name, .dtype = cols[i].type, .n_dims = 1, .shape = { (uint64_t)cols[i].n },
					  .bytes = (uint64_t)cols[i].n * dtype_bytes(cols[i].type), .data = cols[i].data };
	}
	return st_writer_frame(w, t, n, meta, n_meta, (uint64_t)f->n_seqs, (uint64_t)f->n_tokens, e);
}
