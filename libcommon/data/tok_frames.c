/* Token frames from sequences: see tok_frames.h. */
#include "data/tok_frames.h"

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/xalloc.h"
#include "text/pack.h"

struct tok_frame_seq {
	size_t at; /* its first token */
	uint32_t n;
	uint8_t side;
	int64_t record, pair;
};

static void columns_free(struct tok_columns *c);

void tok_frames_init(struct tok_frames *f, struct st_writer *w)
{
	memset(f, 0, sizeof(*f));
	f->w = w;
	f->last_record = -1;
}

void tok_frames_release(struct tok_frames *f)
{
	free(f->ids);
	free(f->mask);
	free(f->seqs);
	columns_free(f->columns);
	memset(f, 0, sizeof(*f));
}

int tok_frames_add(struct tok_frames *f, const struct token_seq *s, bool *full, struct err *e)
{
	struct tok_frame_seq q = { f->n_tokens, (uint32_t)s->n, s->side, s->record, s->pair };
	size_t window = f->window && f->window < TOK_FRAME_SEQS ? f->window : TOK_FRAME_SEQS;

	if (!s->n || s->n > INT32_MAX)
		return err_set(e, LP_DATA, "a sequence of %zu tokens cannot be written", s->n);
	f->ids = xgrow(f->ids, &f->cap_ids, f->n_tokens + s->n, sizeof(*f->ids));
	f->mask = xgrow(f->mask, &f->cap_mask, f->n_tokens + s->n, sizeof(*f->mask));
	f->seqs = xgrow(f->seqs, &f->cap_seqs, f->n_seqs + 1, sizeof(*f->seqs));
	memcpy(f->ids + f->n_tokens, s->ids, s->n * sizeof(*f->ids));
	memcpy(f->mask + f->n_tokens, s->mask, s->n);
	f->mask[f->n_tokens] = 0; /* nothing predicts the first token */
	f->n_tokens += s->n;
	f->seqs[f->n_seqs++] = q;
	f->n_records += s->record != f->last_record;
	f->last_record = s->record;
	*full = f->n_tokens >= TOK_FRAME_TOKENS || f->n_seqs >= window || (f->records && f->n_records >= f->records);
	return 0;
}

/* The sequences of order[] in groups, a row or a record each, the groups in an
 * order that seed and frame give. */
static void shuffle(const struct tok_frames *f, uint32_t *order, uint32_t *row)
{
	uint32_t *group = xcalloc(f->n_seqs + 1, sizeof(*group)), *from = xcalloc(f->n_seqs, sizeof(*from));
	uint32_t *was = xcalloc(f->n_seqs, sizeof(*was)), *perm, n = 0, at = 0, new_row = 0;

	memcpy(was, order, f->n_seqs * sizeof(*was));
	memcpy(from, row, f->n_seqs * sizeof(*from));
	for (uint32_t i = 0; i < f->n_seqs; i++) /* begins of groups */
		if (!i || (f->pack ? row[i] != row[i - 1] : f->seqs[order[i]].record != f->seqs[order[i - 1]].record))
			group[n++] = i;
	group[n] = (uint32_t)f->n_seqs;
	perm = xcalloc(n + 1, sizeof(*perm));
	rng_permutation(f->seed, rng_stream("tokenize.shuffle") + f->n_frames, n, perm);
	for (uint32_t g = 0; g < n; g++)
		for (uint32_t i = group[perm[g]]; i < group[perm[g] + 1]; i++, at++) {
			new_row += at && (i == group[perm[g]] || from[i] != from[i - 1]);
			order[at] = was[i];
			row[at] = new_row;
		}
	free(group);
	free(from);
	free(was);
	free(perm);
}

/* Members of each row, rows in order: order[i] is the i-th sequence to be
 * written, row[i] its row. */
static int arrange(const struct tok_frames *f, uint32_t *order, uint32_t *row, size_t *n_rows, struct err *e)
{
	uint32_t *len, *bin, *first;
	int rc;

	*n_rows = f->n_seqs;
	for (size_t i = 0; i < f->n_seqs; i++)
		order[i] = row[i] = (uint32_t)i;
	if (!f->pack)
		return 0;
	len = xcalloc(f->n_seqs, sizeof(*len));
	bin = xcalloc(f->n_seqs, sizeof(*bin));
	for (size_t i = 0; i < f->n_seqs; i++)
		len[i] = f->seqs[i].n;
	rc = pack_best_fit(len, f->n_seqs, f->max_len, bin, n_rows, e);
	first = xcalloc(*n_rows + 1, sizeof(*first));
	for (size_t i = 0; i < f->n_seqs && !rc; i++)
		first[bin[i] + 1]++;
	for (size_t i = 0; i < *n_rows; i++)
		first[i + 1] += first[i];
	for (size_t i = 0; i < f->n_seqs && !rc; i++) {
		order[first[bin[i]]] = (uint32_t)i;
		row[first[bin[i]]++] = bin[i];
	}
	free(first);
	free(len);
	free(bin);
	return rc;
}

/* The frame's columns in the order of writing; kept from frame to frame. */
struct tok_columns {
	int32_t *ids;
	uint8_t *mask, *side;
	int64_t *row_start, *seq_start, *seq_record, *pair;
	uint32_t *order, *row;
	size_t cap_ids, cap_mask, cap_side, cap_row_start, cap_seq_start, cap_seq_record, cap_pair, cap_order, cap_row;
};

static void columns_free(struct tok_columns *c)
{
	if (!c)
		return;
	free(c->ids);
	free(c->mask);
	free(c->side);
	free(c->row_start);
	free(c->seq_start);
	free(c->seq_record);
	free(c->pair);
	free(c->order);
	free(c->row);
	free(c);
}

static struct tok_columns *columns_for(struct tok_frames *f, bool moved)
{
	struct tok_columns *c = f->columns ? f->columns : xcalloc(1, sizeof(*c));
	size_t n = f->n_seqs;

	f->columns = c;
	if (moved) {
		c->ids = xgrow(c->ids, &c->cap_ids, f->n_tokens, sizeof(*c->ids));
		c->mask = xgrow(c->mask, &c->cap_mask, f->n_tokens, 1);
	}
	c->side = xgrow(c->side, &c->cap_side, n, 1);
	c->row_start = xgrow(c->row_start, &c->cap_row_start, n + 1, sizeof(*c->row_start));
	c->seq_start = xgrow(c->seq_start, &c->cap_seq_start, n + 1, sizeof(*c->seq_start));
	c->seq_record = xgrow(c->seq_record, &c->cap_seq_record, n, sizeof(*c->seq_record));
	c->pair = xgrow(c->pair, &c->cap_pair, n, sizeof(*c->pair));
	c->order = xgrow(c->order, &c->cap_order, n, sizeof(*c->order));
	c->row = xgrow(c->row, &c->cap_row, n, sizeof(*c->row));
	return c;
}

/* moved: tokens stand in another order than they came in. */
static void fill(const struct tok_frames *f, bool moved, struct tok_columns *c)
{
	size_t at = 0, r = 0;

	for (size_t i = 0; i < f->n_seqs; i++) {
		const struct tok_frame_seq *q = &f->seqs[c->order[i]];

		if (moved) {
			memcpy(c->ids + at, f->ids + q->at, q->n * sizeof(*c->ids));
			memcpy(c->mask + at, f->mask + q->at, q->n);
		}
		if (!i || c->row[i] != c->row[i - 1])
			c->row_start[r++] = (int64_t)at;
		c->seq_start[i] = (int64_t)at;
		c->seq_record[i] = q->record;
		c->pair[i] = q->pair;
		c->side[i] = q->side;
		at += q->n;
	}
	c->row_start[r] = c->seq_start[f->n_seqs] = (int64_t)at;
}

int tok_frames_flush(struct tok_frames *f, struct err *e)
{
	bool moved = f->pack || f->shuffle;
	struct tok_columns *c;
	struct token_frame t;
	size_t n_rows = 0;

	if (!f->n_seqs)
		return 0;
	c = columns_for(f, moved);
	if (arrange(f, c->order, c->row, &n_rows, e))
		return -1;
	if (f->shuffle)
		shuffle(f, c->order, c->row);
	fill(f, moved, c);
	t = (struct token_frame){ .n_rows = (int64_t)n_rows, .n_seqs = (int64_t)f->n_seqs, .n_tokens = (int64_t)f->n_tokens, .input_ids = moved ? c->ids : f->ids,
		.loss_mask = moved ? c->mask : f->mask, .row_start = c->row_start, .seq_start = c->seq_start, .seq_record = c->seq_record };
	if (f->seqs[0].pair >= 0) {
		t.pair_id = c->pair;
		t.pair_side = c->side;
	}
	if (token_frame_write(f->w, &t, f->meta, f->n_meta, e))
		return -1;
	f->n_frames++;
	f->rows += n_rows;
	f->tokens += f->n_tokens;
	f->n_tokens = f->n_seqs = f->n_records = 0;
	f->last_record = -1;
	return 0;
}
