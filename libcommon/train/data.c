#include "train/data.h"

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/xalloc.h"

#define FRAME_MAX (2ull << 30)

static void reserve(struct dataset *d, int64_t tokens, int64_t rows, int64_t seqs)
{
	size_t nt = (size_t)(d->n_tokens + tokens), nr = (size_t)(d->n_rows + rows) + 1, ns = (size_t)(d->n_seqs + seqs) + 1, cap;

	cap = d->cap_tokens;
	d->ids = xgrow(d->ids, &cap, nt, sizeof(*d->ids));
	d->mask = xgrow(d->mask, &d->cap_tokens, nt, sizeof(*d->mask));
	cap = d->cap_rows;
	d->row_start = xgrow(d->row_start, &cap, nr, sizeof(*d->row_start));
	d->row_seq = xgrow(d->row_seq, &d->cap_rows, nr, sizeof(*d->row_seq));
	cap = d->cap_seqs;
	d->seq_start = xgrow(d->seq_start, &cap, ns, sizeof(*d->seq_start));
	cap = d->cap_seqs;
	d->good = xgrow(d->good, &cap, ns, sizeof(*d->good));
	d->seq_record = xgrow(d->seq_record, &d->cap_seqs, ns, sizeof(*d->seq_record));
}

void dataset_add_row(struct dataset *d, const int32_t *ids, const uint8_t *mask, const int64_t *seq_start, const int64_t *record, int64_t n_seqs)
{
	int64_t n = seq_start[n_seqs] - seq_start[0];

	reserve(d, n, 1, n_seqs);
	memcpy(d->ids + d->n_tokens, ids, (size_t)n * sizeof(*ids));
	memcpy(d->mask + d->n_tokens, mask, (size_t)n);
	d->row_start[d->n_rows] = d->n_tokens;
	d->row_seq[d->n_rows] = d->n_seqs;
	for (int64_t i = 0; i < n_seqs; i++) {
		int64_t len = seq_start[i + 1] - seq_start[i];

		d->seq_start[d->n_seqs] = d->n_tokens + seq_start[i] - seq_start[0];
		d->good[d->n_seqs] = 1;
		d->seq_record[d->n_seqs++] = record[i];
		d->longest_seq = len > d->longest_seq ? len : d->longest_seq;
	}
	d->n_rows++;
	d->n_tokens += n;
	d->row_start[d->n_rows] = d->seq_start[d->n_seqs] = d->n_tokens;
	d->row_seq[d->n_rows] = d->n_seqs;
	d->longest_row = n > d->longest_row ? n : d->longest_row;
	d->n_targets += dataset_row_targets(d, d->n_rows - 1);
}

/* Sequences from s on that are of its pair. */
static int64_t pair_size(const struct token_frame *f, int64_t s)
{
	int64_t n = 1;

	while (s + n < f->n_seqs && f->pair_id[s + n] == f->pair_id[s])
		n++;
	return n;
}

static int64_t seq_targets(const struct dataset *d, int64_t s)
{
	int64_t n = 0;

	for (int64_t t = d->seq_start[s] + 1; t < d->seq_start[s + 1]; t++)
		n += d->mask[t] != 0;
	return n;
}

/* Pairs, or answers with a verdict: the first frame says which. */
static int add_answers(struct dataset *d, const struct token_frame *f, const char *path, struct err *e)
{
	for (int64_t s = 0, n; s < f->n_seqs; s += n) {
		enum dataset_kind kind = (n = pair_size(f, s)) == 1 ? DATA_LABELS : DATA_PAIRS;
		long long record = (long long)f->seq_record[s] + 1;

		if (n > 2 || (n == 2 && f->pair_side[s] == f->pair_side[s + 1]))
			return err_set(e, LP_DATA, "record %lld of '%s' is no pair: it has %lld answers, %s", record, path, (long long)n, n > 2 ? "not two" : "of one side");
		if (d->n_rows && d->kind != kind)
			return err_set(e, LP_DATA, "record %lld of '%s' has %s, and those before it have not; separate pairs from single answers", record, path,
			               n == 1 ? "one answer alone" : "two answers");
		d->kind = kind;
		dataset_add_row(d, f->input_ids + f->seq_start[s], f->loss_mask + f->seq_start[s], f->seq_start + s, f->seq_record + s, n);
		for (int64_t k = 0; k < n; k++) {
			d->good[d->n_seqs - n + k] = f->pair_side[s + k];
			if (seq_targets(d, d->n_seqs - n + k) == 0)
				return err_set(e, LP_DATA, "record %lld of '%s' has an answer without a token to learn from; tokenize with --over-long drop, or a greater --max-len", record,
				               path);
		}
	}
	return 0;
}

static int add_frame(struct dataset *d, const struct token_frame *f, int64_t vocab, const char *path, struct err *e)
{
	int64_t s = 0;

	for (int64_t t = 0; t < f->n_tokens; t++)
		if (f->input_ids[t] < 0 || f->input_ids[t] >= vocab)
			return err_set(e, LP_DATA, "'%s' holds token id %d, and the model has %lld; it was tokenised for another model", path,
			               f->input_ids[t], (long long)vocab);
	if (d->n_rows && (d->kind != DATA_PLAIN) != (f->pair_id != NULL))
		return err_set(e, LP_DATA, "'%s' holds preferences and plain rows; separate them", path);
	if (f->pair_id)
		return add_answers(d, f, path, e);
	for (int64_t r = 0; r < f->n_rows; r++) {
		int64_t first = s;

		while (s < f->n_seqs && f->seq_start[s] < f->row_start[r + 1])
			s++;
		dataset_add_row(d, f->input_ids + f->row_start[r], f->loss_mask + f->row_start[r], f->seq_start + first,
		                f->seq_record + first, s - first);
	}
	return 0;
}

static char *keep_meta(char *old, const struct st_blob *b, const char *key)
{
	const char *v = st_meta(b, key);

	return old || !v ? old : xstrdup(v);
}

int dataset_load_take(struct dataset *d, struct in *in, int64_t vocab, int64_t max_pos, struct err *e)
{
	char *path = xstrdup(in_name(in));
	struct st_reader *r;
	const struct st_blob *b;
	struct token_frame f;
	int rc = -1;

	memset(d, 0, sizeof(*d));
	r = st_reader_open_take(in, e);
	while (r && (rc = st_reader_next(r, &b, FRAME_MAX, e)) == 1) {
		rc = -1;
		if (token_frame_view(b, &f, e) < 0 || add_frame(d, &f, vocab, path, e) < 0)
			break;
		d->tokenizer_hash = keep_meta(d->tokenizer_hash, b, "tokenizer_hash");
		d->template_hash = keep_meta(d->template_hash, b, "template_hash");
		d->lineage = keep_meta(d->lineage, b, "lineage");
	}
	if (rc == 0 && d->n_targets == 0)
		rc = err_set(e, LP_DATA, "'%s' holds no token to learn from (%lld sequences, all masked); look at it with tokenize --show-mask",
		             path, (long long)d->n_seqs);
	if (rc == 0 && d->longest_seq > max_pos)
		rc = err_set(e, LP_USAGE, "'%s' holds a sequence of %lld tokens, and the model reads at most %lld; tokenise with --max-len %lld, or go past it with --allow-long",
		             path, (long long)d->longest_seq, (long long)max_pos, (long long)max_pos);
	if (rc == 0)
		st_reader_hash(r, d->hash);
	st_reader_close(r);
	free(path);
	return rc;
}

int64_t dataset_append(struct dataset *d, const struct dataset *from)
{
	int64_t *record = xcalloc((size_t)from->n_seqs + 1, sizeof(*record)), begin = 0;

	for (int64_t s = 0; s < d->n_seqs; s++)
		begin = d->seq_record[s] >= begin ? d->seq_record[s] + 1 : begin;
	for (int64_t s = 0; s < from->n_seqs; s++)
		record[s] = begin + from->seq_record[s];
	for (int64_t r = 0; r < from->n_rows; r++) {
		int64_t at = from->row_start[r], s = from->row_seq[r];

		dataset_add_row(d, from->ids + at, from->mask + at, from->seq_start + s, record + s, from->row_seq[r + 1] - s);
	}
	memcpy(d->good + d->n_seqs - from->n_seqs, from->good, (size_t)from->n_seqs);
	if (d->kind != from->kind) /* answers of one kind and of the other, each by itself */
		d->kind = DATA_LABELS;
	free(record);
	return begin;
}

void dataset_release(struct dataset *d)
{
	free(d->ids);
	free(d->mask);
	free(d->row_start);
	free(d->row_seq);
	free(d->seq_start);
	free(d->seq_record);
	free(d->good);
	free(d->ref);
	free(d->adv);
	free(d->weight);
	free(d->tok_old);
	free(d->tok_ref);
	free(d->tokenizer_hash);
	free(d->template_hash);
	free(d->lineage);
	memset(d, 0, sizeof(*d));
}

void dataset_unpair(struct dataset *d)
{
	d->row_start = xgrow(d->row_start, &d->cap_rows, (size_t)d->n_seqs + 1, sizeof(*d->row_start));
	d->row_seq = xrealloc(d->row_seq, d->cap_rows * sizeof(*d->row_seq));
	for (int64_t s = 0; s <= d->n_seqs; s++) {
		d->row_start[s] = d->seq_start[s];
		d->row_seq[s] = s;
	}
	d->n_rows = d->n_seqs;
	d->longest_row = d->longest_seq;
}

static int64_t first_target(const struct dataset *d, int64_t s)
{
	int64_t t = d->seq_start[s] + 1;

	while (!d->mask[t])
		t++;
	return t;
}

/* The next row, round the end, whose answer may stand in for that of s; -1: there is none. */
static int64_t stand_in(const struct dataset *d, int64_t s)
{
	for (int64_t k = 1; k < d->n_seqs; k++) {
		int64_t o = (s + k) % d->n_seqs;

		if (d->seq_record[o] != d->seq_record[s] && (d->kind != DATA_PAIRS || d->good[o] == d->good[s]))
			return o;
	}
	return -1;
}

int dataset_mismatch(const struct dataset *d, struct dataset *to, struct err *e)
{
	int32_t *ids = xcalloc((size_t)d->longest_seq, sizeof(*ids));
	uint8_t *mask = xcalloc((size_t)d->longest_seq, 1);
	int rc = 0;

	memset(to, 0, sizeof(*to));
	to->kind = d->kind;
	for (int64_t s = 0; s < d->n_seqs && rc == 0; s++) {
		int64_t from = d->seq_start[s], prompt = first_target(d, s) - from, o = stand_in(d, s), answer, n;

		if (o < 0) {
			rc = err_set(e, LP_DATA, "kto compares answers with those of other records, and there is one record alone");
			break;
		}
		answer = first_target(d, o);
		n = d->seq_start[o + 1] - answer;
		n = prompt + n > d->longest_seq ? d->longest_seq - prompt : n;
		memcpy(ids, d->ids + from, (size_t)prompt * sizeof(*ids));
		memset(mask, 0, (size_t)prompt);
		memcpy(ids + prompt, d->ids + answer, (size_t)n * sizeof(*ids));
		memcpy(mask + prompt, d->mask + answer, (size_t)n);
		dataset_add_row(to, ids, mask, (int64_t[]){ 0, prompt + n }, d->seq_record + s, 1);
		to->good[s] = d->good[s];
	}
	free(ids);
	free(mask);
	if (rc < 0)
		dataset_release(to);
	return rc;
}

int64_t dataset_row_targets(const struct dataset *d, int64_t row)
{
	int64_t n = 0;

	for (int64_t s = d->row_seq[row]; s < d->row_seq[row + 1]; s++)
		n += seq_targets(d, s);
	return n;
}

static int longer_first(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? 1 : x > y ? -1 : 0;
}

int64_t dataset_max_batch_tokens(const struct dataset *d, int64_t n)
{
	int64_t *len = xcalloc((size_t)d->n_rows + 1, sizeof(*len)), sum = 0;

	for (int64_t r = 0; r < d->n_rows; r++)
		len[r] = d->row_start[r + 1] - d->row_start[r];
	qsort(len, (size_t)d->n_rows, sizeof(*len), longer_first);
	for (int64_t r = 0; r < d->n_rows && r < n; r++)
		sum += len[r];
	free(len);
	return sum;
}

void order_init(struct order *o, uint64_t seed, int64_t n_rows)
{
	*o = (struct order){ .seed = seed, .n_rows = n_rows };
	o->epoch = -1;
	o->perm = xcalloc((size_t)n_rows + 1, sizeof(*o->perm));
}

void order_mix(struct order *o, const struct order_part *parts, size_t n)
{
	o->parts = xcalloc(n, sizeof(*o->parts));
	o->n_parts = n;
	memcpy(o->parts, parts, n * sizeof(*parts));
}

/* Rows of part k in this epoch, to rows: its walk goes on where the epoch before left it. */
static void walk(const struct order *o, size_t k, int64_t epoch, uint32_t *rows)
{
	const struct order_part *p = &o->parts[k];
	uint32_t *perm = xcalloc((size_t)p->n_rows, sizeof(*perm));
	int64_t pass = -1;

	for (int64_t j = 0; j < p->take; j++) {
		int64_t at = epoch * p->take + j;

		if (at / p->n_rows != pass) {
			pass = at / p->n_rows;
			rng_permutation(o->seed, rng_u64(rng_stream("part"), k, (uint64_t)pass), (uint32_t)p->n_rows, perm);
		}
		rows[j] = (uint32_t)p->first + perm[at % p->n_rows];
	}
	free(perm);
}

static void mix(struct order *o, int64_t epoch)
{
	uint32_t *rows = xcalloc((size_t)o->n_rows + 1, sizeof(*rows)), *to = rows;

	for (size_t k = 0; k < o->n_parts; to += o->parts[k++].take)
		walk(o, k, epoch, to);
	for (int64_t i = 0; i < o->n_rows; i++)
		o->perm[i] = rows[o->perm[i]];
	free(rows);
}

int64_t order_row(struct order *o, int64_t epoch, int64_t i)
{
	if (o->epoch != epoch) {
		rng_permutation(o->seed, rng_stream("order") + (uint64_t)epoch, (uint32_t)o->n_rows, o->perm);
		if (o->parts)
			mix(o, epoch);
	}
	o->epoch = epoch;
	return o->perm[i];
}

void order_release(struct order *o)
{
	free(o->perm);
	free(o->parts);
}

void microbatch_init(struct microbatch *b, int64_t max_tokens)
{
	size_t n = (size_t)max_tokens + 1;

	memset(b, 0, sizeof(*b));
	b->cap = max_tokens;
	b->ids = xcalloc(n, sizeof(int32_t));
	b->pos = xcalloc(n, sizeof(int32_t));
	b->rec = xcalloc(n, sizeof(int32_t));
	b->seq_start = xcalloc(n + 1, sizeof(int32_t));
	b->tgt_row = xcalloc(n, sizeof(int32_t));
	b->tgt_id = xcalloc(n, sizeof(int32_t));
	b->tgt_start = xcalloc(n + 1, sizeof(int32_t));
	b->mate = xcalloc(n, sizeof(int32_t));
	b->good = xcalloc(n, sizeof(int32_t));
	b->ref = xcalloc(n, sizeof(double));
	b->adv = xcalloc(n, sizeof(double));
	b->weight = xcalloc(n, sizeof(double));
	b->tok_old = xcalloc(n, sizeof(double));
	b->tok_ref = xcalloc(n, sizeof(double));
}

void microbatch_release(struct microbatch *b)
{
	free(b->ids);
	free(b->pos);
	free(b->rec);
	free(b->seq_start);
	free(b->tgt_row);
	free(b->tgt_id);
	free(b->tgt_start);
	free(b->mate);
	free(b->good);
	free(b->ref);
	free(b->adv);
	free(b->weight);
	free(b->tok_old);
	free(b->tok_ref);
}

void microbatch_clear(struct microbatch *b)
{
	b->n_tokens = b->n_seqs = b->n_targets = 0;
	b->seq_start[0] = b->tgt_start[0] = 0;
}

static void add_target(struct microbatch *b, int64_t row, int32_t id)
{
	b->tgt_row[b->n_targets] = (int32_t)row;
	b->tgt_id[b->n_targets++] = id;
}

void microbatch_add(struct microbatch *b, const struct dataset *d, int64_t row)
{
	int64_t first = d->row_seq[row], n = d->row_seq[row + 1] - first;

	for (int64_t s = first; s < first + n; s++) {
		for (int64_t t = d->seq_start[s]; t < d->seq_start[s + 1]; t++) {
			int64_t i = b->n_tokens++, p = t - d->seq_start[s];

			b->ids[i] = d->ids[t];
			b->pos[i] = (int32_t)p;
			b->rec[i] = (int32_t)d->seq_record[s];
			if (b->ends || p == 0 || !d->mask[t])
				continue;
			b->tok_old[b->n_targets] = d->tok_old ? d->tok_old[t] : 0;
			b->tok_ref[b->n_targets] = d->tok_ref ? d->tok_ref[t] : 0;
			add_target(b, i - 1, d->ids[t]);
		}
		if (b->ends)
			add_target(b, b->n_tokens - 1, 0);
		b->mate[b->n_seqs] = (int32_t)(b->n_seqs + (n == 2 ? s == first ? 1 : -1 : 0));
		b->good[b->n_seqs] = d->good[s];
		b->ref[b->n_seqs] = d->ref ? d->ref[s] : 0;
		b->adv[b->n_seqs] = d->adv ? d->adv[s] : 0;
		b->weight[b->n_seqs] = d->weight ? d->weight[s] : 0;
		b->seq_start[++b->n_seqs] = (int32_t)b->n_tokens;
		b->tgt_start[b->n_seqs] = (int32_t)b->n_targets;
	}
}
