/* Batches of text records: see tok_batch.h. */
#include "data/tok_batch.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

#define BATCH_BYTES (128u << 10) /* with its tokens, this stays in the processor's second cache */
#define BATCH_RECORDS 1024

void tok_batch_init(struct tok_batch *b)
{
	memset(b, 0, sizeof(*b));
	b->parser = json_parser_new();
}

static void forget_problems(struct tok_batch *b)
{
	for (size_t i = 0; i < b->n; i++) {
		free(b->recs[i].problem);
		b->recs[i].problem = NULL;
	}
}

void tok_batch_release(struct tok_batch *b)
{
	forget_problems(b);
	tok_out_release(&b->out);
	json_parser_free(b->parser);
	arena_release(&b->names);
	arena_release(&b->texts);
	arena_release(&b->tree);
	sb_release(&b->raw);
	free(b->mask);
	free(b->recs);
}

/* --- reading --- */

static void add(struct tok_batch *b, const struct jsonl_rec *rec, const char *name, int64_t number)
{
	const char *last = b->n ? b->recs[b->n - 1].name : NULL;
	struct tok_rec *r;

	if (b->n == b->cap_init) {
		b->recs = xgrow(b->recs, &b->cap, b->n + 1, sizeof(*b->recs));
		memset(&b->recs[b->n], 0, sizeof(*b->recs));
		b->cap_init = b->n + 1;
	}
	r = &b->recs[b->n++];
	r->name = last && !strcmp(last, name) ? last : arena_strndup(&b->names, name, strlen(name));
	r->line = rec->line;
	r->number = number;
	r->dropped = false;
	r->raw_at = b->raw.len;
	r->raw_len = rec->raw_len;
	sb_add(&b->raw, rec->raw, rec->raw_len);
	sb_addc(&b->raw, '\n');
}

int tok_batch_read(struct tok_batch *b, struct jsonl *j, int64_t first, uint64_t max, struct err *e)
{
	struct in *in = jsonl_in(j);
	struct jsonl_rec rec;
	int rc = 1;

	forget_problems(b);
	b->n = 0;
	arena_reset(&b->names);
	sb_reset(&b->raw);
	if (b->raw.cap > 64 * (size_t)BATCH_BYTES) /* a giant's memory goes back */
		sb_release(&b->raw);
	while (b->n < BATCH_RECORDS && b->n < max && b->raw.len < BATCH_BYTES && (rc = jsonl_next_raw(j, &rec, e)) == 1)
		add(b, &rec, in_name(in), first + (int64_t)b->n);
	sb_grow(&b->raw, JSON_PADDING);
	memset(b->raw.s + b->raw.len, 0, JSON_PADDING);
	for (size_t i = 0; i < b->n; i++)
		b->recs[i].raw = b->raw.s + b->recs[i].raw_at;
	in_hash(in, b->input_hash);
	return rc < 0 ? -1 : b->n > 0;
}

/* --- one text, its tokens behind those of the texts before it --- */

static void insert(struct tok_out *o, size_t at, int32_t id, uint32_t byte)
{
	size_t n = o->n - at;

	tok_out_add(o, id, byte, byte);
	memmove(o->ids + at + 1, o->ids + at, n * sizeof(*o->ids));
	memmove(o->begin + at + 1, o->begin + at, n * sizeof(*o->begin));
	memmove(o->end + at + 1, o->end + at, n * sizeof(*o->end));
	o->ids[at] = id;
	o->begin[at] = o->end[at] = byte;
}

static int check_bos(const struct tok_policy *p, const int32_t *ids, size_t n_ids, struct err *e)
{
	int32_t bos = tok_bos(p->tok);
	size_t n = 0;

	if (bos < 0 || p->allow_double_bos)
		return 0;
	if (bos == tok_eos(p->tok)) /* one token for both: only a doubled start is wrong */
		n = n_ids > 1 && ids[0] == bos && ids[1] == bos ? 2 : 0;
	else
		for (size_t i = 0; i < n_ids; i++)
			n += ids[i] == bos;
	if (n < 2)
		return 0;
	return err_set(e, LP_DATA, "the text begins %zu times ('%s'); render it without the second one, or give --allow-double-bos", n, tok_piece(p->tok, bos));
}

/* A token is a target when its first byte is inside a span. */
static void mask(struct tok_batch *b, const struct tok_text *t, bool eos_added)
{
	const uint32_t *begin = b->out.begin + t->at;
	uint8_t *m;
	size_t k = 0;

	b->mask = xgrow(b->mask, &b->cap_mask, b->out.n + 1, 1);
	m = b->mask + t->at;
	if (t->all)
		memset(m, 1, t->n);
	for (size_t i = 0; i < t->n && !t->all; i++) {
		while (k < t->n_spans && t->spans[k].end <= begin[i])
			k++;
		m[i] = k < t->n_spans && begin[i] >= t->spans[k].begin;
	}
	if (eos_added)
		m[t->n - 1] = 1;
	if (t->n)
		m[0] = 0;
}

static int cut(struct tok_batch *b, const struct tok_policy *p, struct tok_text *t, bool *dropped, struct err *e)
{
	if (!p->max_len || t->n <= p->max_len)
		return 0;
	if (p->over == TOK_REFUSE)
		return err_set(e, LP_DATA, "%zu tokens, and --max-len is %zu; raise it, or give --over-long truncate, split or drop", t->n, p->max_len);
	*dropped |= p->over == TOK_DROP;
	if (p->over == TOK_TRUNCATE) {
		t->n = p->max_len;
		b->out.n = t->at + t->n;
	}
	return 0;
}

static int encode_text(struct tok_batch *b, const struct tok_policy *p, struct tok_text *t, bool *dropped, struct err *e)
{
	int32_t bos = tok_bos(p->tok), eos = tok_eos(p->tok);
	struct tok_out *o = &b->out;
	bool eos_added = false;

	t->at = o->n;
	if (tok_encode(p->tok, t->text, t->len, o, e))
		return -1;
	if (p->add_bos && bos >= 0 && !(o->n > t->at && o->ids[t->at] == bos))
		insert(o, t->at, bos, 0);
	if (p->add_eos && eos >= 0 && !(o->n > t->at && o->ids[o->n - 1] == eos)) {
		tok_out_add(o, eos, (uint32_t)t->len, (uint32_t)t->len);
		eos_added = true;
	}
	t->n = t->n_full = o->n - t->at;
	if (check_bos(p, o->ids + t->at, t->n, e))
		return -1;
	if (p->train == TOK_TRAIN_LAST && t->n_spans > 1) {
		t->spans[0] = t->spans[t->n_spans - 1];
		t->n_spans = 1;
	}
	mask(b, t, eos_added);
	if (p->train == TOK_TRAIN_NONE)
		memset(b->mask + t->at, 0, t->n);
	if (cut(b, p, t, dropped, e))
		return -1;
	t->n_targets = 0;
	for (size_t i = 0; i < t->n; i++)
		t->n_targets += b->mask[t->at + i];
	if (!t->n)
		return err_set(e, LP_DATA, "the text is empty");
	if (!t->n_targets && !p->allow_masked && p->train != TOK_TRAIN_NONE)
		return err_set(e, LP_DATA, "no token to learn from%s; look at it with --show-mask, or give --allow-masked",
		               t->n_full > t->n ? " is left after truncation" : "");
	return 0;
}

static int encode_record(struct tok_batch *b, const struct tok_policy *p, struct tok_rec *r, struct err *e)
{
	if (tok_record_parse(b->parser, r->raw, r->raw_len, &b->texts, &b->tree, r, e)) {
		r->n_texts = 0;
		return -1;
	}
	for (int k = 0; k < r->n_texts; k++)
		if (encode_text(b, p, &r->t[k], &r->dropped, e))
			return -1;
	return 0;
}

void tok_batch_encode(struct tok_batch *b, const struct tok_policy *p)
{
	struct err e = ERR_INIT;

	b->out.n = 0;
	arena_reset(&b->texts);
	for (size_t i = 0; i < b->n; i++)
		if (encode_record(b, p, &b->recs[i], &e)) { /* none behind it will be used */
			b->recs[i].problem = xmalloc(sizeof(e));
			*b->recs[i].problem = e;
			b->n = i + 1;
		}
	for (size_t i = 0; i < b->n; i++)
		for (int k = 0; k < b->recs[i].n_texts; k++) {
			b->recs[i].t[k].ids = b->out.ids + b->recs[i].t[k].at;
			b->recs[i].t[k].mask = b->mask + b->recs[i].t[k].at;
		}
}
