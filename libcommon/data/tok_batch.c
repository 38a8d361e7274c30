/* Batches of text records: see tok_batch.h. */
#include "data/tok_batch.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

#define BATCH_BYTES (1u << 20)
#define BATCH_RECORDS 1024

void tok_batch_init(struct tok_batch *b)
{
	memset(b, 0, sizeof(*b));
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
	for (size_t i = 0; i < b->cap_init; i++)
		for (int k = 0; k < 2; k++) {
			tok_out_release(&b->recs[i].t[k].out);
			free(b->recs[i].t[k].mask);
		}
	free(b->recs);
	arena_release(&b->arena);
}

/* --- reading --- */

static int read_spans(struct tok_batch *b, const struct json *v, struct tok_text *t, struct err *e)
{
	int64_t at[2];
	size_t last = 0;

	t->n_spans = 0;
	t->spans = NULL;
	t->all = !v || v->type == JSON_NULL;
	if (t->all)
		return 0;
	if (v->type != JSON_ARR)
		return err_set(e, LP_DATA, "spans is not a list of [begin, end]");
	t->spans = arena_alloc(&b->arena, (v->n + 1) * sizeof(*t->spans));
	for (uint32_t i = 0; i < v->n; i++) {
		const struct json *s = &v->items[i];

		if (s->type != JSON_ARR || s->n != 2 || !json_as_i64(&s->items[0], &at[0]) || !json_as_i64(&s->items[1], &at[1]))
			return err_set(e, LP_DATA, "span %u is not [begin, end]", i);
		if (at[0] < 0 || at[1] < at[0] || (uint64_t)at[1] > t->len || (uint64_t)at[0] < last)
			return err_set(e, LP_DATA, "span %u, [%lld, %lld], is not in order within the %zu bytes of the text", i, (long long)at[0], (long long)at[1], t->len);
		for (int k = 0; k < 2; k++)
			if ((size_t)at[k] < t->len && ((unsigned char)t->text[at[k]] & 0xC0) == 0x80)
				return err_set(e, LP_DATA, "span %u cuts a character at byte %lld", i, (long long)at[k]);
		t->spans[t->n_spans++] = (struct tok_span){ (size_t)at[0], (size_t)at[1] };
		last = (size_t)at[1];
	}
	return 0;
}

/* A side of a pair: the answer behind the prompt; spans are bytes of the answer,
 * and without them all of it is the target. */
static int read_side(struct tok_batch *b, const struct json *v, const char *side, const char *spans_key, const struct json *prompt, struct tok_text *t, struct err *e)
{
	const struct json *s = json_get(v, side);
	char *text;

	if (!json_is(s, JSON_STR))
		return err_set(e, LP_DATA, "%s is not a rendered text; run chat-template first", side);
	text = arena_alloc(&b->arena, (size_t)prompt->n + s->n + 1);
	memcpy(text, prompt->s, prompt->n);
	memcpy(text + prompt->n, s->s, s->n);
	text[prompt->n + s->n] = 0;
	t->text = text + prompt->n;
	t->len = s->n;
	if (read_spans(b, json_get(v, spans_key), t, e))
		return -1;
	if (t->all) {
		t->all = false;
		t->spans = arena_alloc(&b->arena, sizeof(*t->spans));
		t->spans[0] = (struct tok_span){ 0, t->len };
		t->n_spans = 1;
	}
	for (size_t i = 0; i < t->n_spans; i++) {
		t->spans[i].begin += prompt->n;
		t->spans[i].end += prompt->n;
	}
	t->text = text;
	t->len += prompt->n;
	return 0;
}

static int read_pair(struct tok_batch *b, const struct json *v, struct tok_rec *r, struct err *e)
{
	const struct json *prompt = json_get(v, "prompt"), *label = json_get(v, "label");
	bool one = !json_get(v, "rejected") && json_is(label, JSON_BOOL);

	if (!json_is(prompt, JSON_STR))
		return err_set(e, LP_DATA, "a preference record needs prompt, chosen and rejected as rendered texts; run chat-template first");
	r->pair = true;
	r->n_texts = one ? 1 : 2;
	r->t[0].good = one ? label->b : true;
	r->t[1].good = false;
	if (read_side(b, v, "chosen", "chosen_spans", prompt, &r->t[0], e))
		return -1;
	return one ? 0 : read_side(b, v, "rejected", "rejected_spans", prompt, &r->t[1], e);
}

static int read_record(struct tok_batch *b, const struct json *v, struct tok_rec *r, struct err *e)
{
	const struct json *text = json_get(v, "text");

	if (json_get(v, "chosen") || json_get(v, "rejected"))
		return read_pair(b, v, r, e);
	if (!json_is(text, JSON_STR))
		return err_set(e, LP_DATA, json_get(v, "messages") ? "a chat record; run chat-template first" : "no text; a text record is {\"text\",\"spans\"}");
	r->pair = false;
	r->n_texts = 1;
	r->t[0].text = arena_strndup(&b->arena, text->s, text->n);
	r->t[0].len = text->n;
	return read_spans(b, json_get(v, "spans"), &r->t[0], e);
}

int tok_batch_read(struct tok_batch *b, struct jsonl *j, bool keep_raw, struct err *e)
{
	struct jsonl_rec rec;
	size_t bytes = 0;
	int rc = 1;

	forget_problems(b);
	b->n = 0;
	arena_reset(&b->arena);
	while (b->n < BATCH_RECORDS && bytes < BATCH_BYTES && (rc = jsonl_next(j, &rec, e)) == 1) {
		struct tok_rec *r;

		if (b->n == b->cap_init) {
			b->recs = xgrow(b->recs, &b->cap, b->n + 1, sizeof(*b->recs));
			memset(&b->recs[b->n], 0, sizeof(*b->recs));
			b->cap_init = b->n + 1;
		}
		r = &b->recs[b->n];
		r->line = rec.line;
		r->number = b->n_read;
		r->dropped = false;
		if (read_record(b, &rec.v, r, e))
			return err_where(e, in_name(jsonl_in(j)), rec.line);
		r->raw = keep_raw ? arena_strndup(&b->arena, rec.raw, rec.raw_len) : NULL;
		r->raw_len = rec.raw_len;
		bytes += rec.raw_len;
		b->n++;
		b->n_read++;
	}
	return rc < 0 ? -1 : b->n > 0;
}

/* --- one text --- */

static void insert(struct tok_out *o, size_t at, int32_t id, uint32_t byte)
{
	if (o->n + 1 > o->cap) {
		o->cap = o->n + 64;
		o->ids = xrealloc(o->ids, o->cap * sizeof(*o->ids));
		o->begin = xrealloc(o->begin, o->cap * sizeof(*o->begin));
		o->end = xrealloc(o->end, o->cap * sizeof(*o->end));
	}
	memmove(o->ids + at + 1, o->ids + at, (o->n - at) * sizeof(*o->ids));
	memmove(o->begin + at + 1, o->begin + at, (o->n - at) * sizeof(*o->begin));
	memmove(o->end + at + 1, o->end + at, (o->n - at) * sizeof(*o->end));
	o->ids[at] = id;
	o->begin[at] = o->end[at] = byte;
	o->n++;
}

static int check_bos(const struct tok_policy *p, const struct tok_out *o, struct err *e)
{
	int32_t bos = tok_bos(p->tok);
	size_t n = 0;

	if (bos < 0 || p->allow_double_bos)
		return 0;
	if (bos == tok_eos(p->tok)) /* one token for both: only a doubled start is wrong */
		n = o->n > 1 && o->ids[0] == bos && o->ids[1] == bos ? 2 : 0;
	else
		for (size_t i = 0; i < o->n; i++)
			n += o->ids[i] == bos;
	if (n < 2)
		return 0;
	return err_set(e, LP_DATA, "the text begins %zu times ('%s'); render it without the second one, or give --allow-double-bos", n, tok_piece(p->tok, bos));
}

/* A token is a target when its first byte is inside a span. */
static void mask(struct tok_text *t, bool eos_added)
{
	size_t k = 0;

	if (t->cap_mask < t->out.n) {
		t->cap_mask = t->out.n + 64;
		t->mask = xrealloc(t->mask, t->cap_mask);
	}
	for (size_t i = 0; i < t->out.n; i++) {
		while (k < t->n_spans && t->spans[k].end <= t->out.begin[i])
			k++;
		t->mask[i] = t->all || (k < t->n_spans && t->out.begin[i] >= t->spans[k].begin && t->out.begin[i] < t->spans[k].end);
	}
	if (eos_added)
		t->mask[t->out.n - 1] = 1;
	if (t->out.n)
		t->mask[0] = 0;
}

static int encode_text(const struct tok_policy *p, struct tok_text *t, bool *dropped, struct err *e)
{
	int32_t bos = tok_bos(p->tok), eos = tok_eos(p->tok);
	bool eos_added = false;

	t->out.n = 0;
	if (tok_encode(p->tok, t->text, t->len, &t->out, e))
		return -1;
	if (p->add_bos && bos >= 0 && !(t->out.n && t->out.ids[0] == bos))
		insert(&t->out, 0, bos, 0);
	if (p->add_eos && eos >= 0 && !(t->out.n && t->out.ids[t->out.n - 1] == eos)) {
		insert(&t->out, t->out.n, eos, (uint32_t)t->len);
		eos_added = true;
	}
	if (check_bos(p, &t->out, e))
		return -1;
	if (p->train == TOK_TRAIN_LAST && t->n_spans > 1) {
		t->spans[0] = t->spans[t->n_spans - 1];
		t->n_spans = 1;
	}
	mask(t, eos_added);
	if (p->train == TOK_TRAIN_NONE)
		memset(t->mask, 0, t->out.n);
	t->n_full = t->out.n;
	if (p->max_len && t->out.n > p->max_len) {
		if (p->over == TOK_REFUSE)
			return err_set(e, LP_DATA, "%zu tokens, and --max-len is %zu; raise it, or give --over-long truncate, split or drop", t->out.n, p->max_len);
		*dropped |= p->over == TOK_DROP;
		if (p->over == TOK_TRUNCATE)
			t->out.n = p->max_len;
	}
	t->n_targets = 0;
	for (size_t i = 0; i < t->out.n; i++)
		t->n_targets += t->mask[i];
	if (!t->out.n)
		return err_set(e, LP_DATA, "the text is empty");
	if (!t->n_targets && !p->allow_masked && p->train != TOK_TRAIN_NONE)
		return err_set(e, LP_DATA, "no token to learn from%s; look at it with --show-mask, or give --allow-masked",
		               t->n_full > t->out.n ? " is left after truncation" : "");
	return 0;
}

static void encode_record(const struct tok_policy *p, struct tok_rec *r)
{
	struct err e = ERR_INIT;

	for (int k = 0; k < r->n_texts; k++)
		if (encode_text(p, &r->t[k], &r->dropped, &e)) {
			r->problem = xmalloc(sizeof(e));
			*r->problem = e;
			return;
		}
}

void tok_batch_encode(struct tok_batch *b, const struct tok_policy *p, int threads)
{
	if (threads <= 1) {
		for (size_t i = 0; i < b->n; i++)
			encode_record(p, &b->recs[i]);
		return;
	}
#pragma omp parallel for schedule(dynamic, 8) num_threads(threads)
	for (size_t i = 0; i < b->n; i++)
		encode_record(p, &b->recs[i]);
}
