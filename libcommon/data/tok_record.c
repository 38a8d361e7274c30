/* Text records: see tok_record.h. The common form, {"text":"...","spans":[[b,e],...]}
 * as chat-template writes it, is read in one go; whatever is not exactly that,
 * and all that is wrong, is left to the strict parser. */
#include "data/tok_record.h"

#include <string.h>

#include "json/json_quick.h"
#include "text/utf8.h"

/* --- from a tree --- */

static int read_spans(struct arena *a, const struct json *v, struct tok_text *t, struct err *e)
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
	t->spans = arena_alloc(a, (v->n + 1) * sizeof(*t->spans));
	for (uint32_t i = 0; i < v->n; i++) {
		const struct json *s = &v->items[i];

		if (s->type != JSON_ARR || s->n != 2 || !json_as_i64(&s->items[0], &at[0]) || !json_as_i64(&s->items[1], &at[1]))
			return err_set(e, LP_DATA, "span %u is not [begin, end]", i);
		if (at[0] < 0 || at[1] < at[0] || (uint64_t)at[1] > t->len || (uint64_t)at[0] < last)
			return err_set(e, LP_DATA, "span %u, [%lld, %lld], is not in order within the %zu bytes of the text", i, (long long)at[0], (long long)at[1], t->len);
		for (int k = 0; k < 2; k++)
			if ((size_t)at[k] < t->len && utf8_is_cont(t->text[at[k]]))
				return err_set(e, LP_DATA, "span %u cuts a character at byte %lld", i, (long long)at[k]);
		t->spans[t->n_spans++] = (struct tok_span){ (size_t)at[0], (size_t)at[1] };
		last = (size_t)at[1];
	}
	return 0;
}

/* A side of a pair: the answer behind the prompt; spans are bytes of the answer,
 * and without them all of it is the target. */
static int read_side(struct arena *a, const struct json *v, const char *side, const char *spans_key, const struct json *prompt, struct tok_text *t, struct err *e)
{
	const struct json *s = json_get(v, side);
	char *text;

	if (!json_is(s, JSON_STR))
		return err_set(e, LP_DATA, "%s is not a rendered text; run chat-template first", side);
	text = arena_alloc(a, (size_t)prompt->n + s->n + 1);
	memcpy(text, prompt->s, prompt->n);
	memcpy(text + prompt->n, s->s, s->n);
	text[prompt->n + s->n] = 0;
	t->text = text + prompt->n;
	t->len = s->n;
	if (read_spans(a, json_get(v, spans_key), t, e))
		return -1;
	if (t->all) {
		t->all = false;
		t->spans = arena_alloc(a, sizeof(*t->spans));
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

static int read_pair(struct arena *a, const struct json *v, struct tok_rec *r, struct err *e)
{
	const struct json *prompt = json_get(v, "prompt"), *label = json_get(v, "label");
	bool one = !json_get(v, "rejected") && json_is(label, JSON_BOOL);

	if (!json_is(prompt, JSON_STR))
		return err_set(e, LP_DATA, "a preference record needs prompt, chosen and rejected as rendered texts; run chat-template first");
	r->pair = true;
	r->n_texts = one ? 1 : 2;
	r->t[0].good = one ? label->b : true;
	r->t[1].good = false;
	if (read_side(a, v, "chosen", "chosen_spans", prompt, &r->t[0], e))
		return -1;
	return one ? 0 : read_side(a, v, "rejected", "rejected_spans", prompt, &r->t[1], e);
}

static int read_tree(struct arena *a, const struct json *v, struct tok_rec *r, struct err *e)
{
	const struct json *text = json_get(v, "text");

	if (json_get(v, "chosen") || json_get(v, "rejected"))
		return read_pair(a, v, r, e);
	if (!json_is(text, JSON_STR))
		return err_set(e, LP_DATA, json_get(v, "messages") ? "a chat record; run chat-template first" : "no text; a text record is {\"text\",\"spans\"}");
	r->pair = false;
	r->n_texts = 1;
	r->t[0].text = arena_strndup(a, text->s, text->n);
	r->t[0].len = text->n;
	return read_spans(a, json_get(v, "spans"), &r->t[0], e);
}

/* --- the common form at once --- */

/* A list of [begin, end] behind its bracket, in order. */
static bool quick_spans(struct quick *q, struct arena *a, struct tok_text *t)
{
	size_t cap = 0, last = 0;
	uint32_t at[2];

	t->all = false;
	if (quick_char(q, ']'))
		return true;
	do {
		if (!quick_char(q, '[') || !quick_count(q, &at[0]) || !quick_char(q, ',') || !quick_count(q, &at[1]) || !quick_char(q, ']') || at[0] < last || at[1] < at[0])
			return false;
		if (t->n_spans == cap) {
			struct tok_span *more = arena_alloc(a, (cap = 2 * cap + 4) * sizeof(*more));

			if (t->n_spans)
				memcpy(more, t->spans, t->n_spans * sizeof(*more));
			t->spans = more;
		}
		t->spans[t->n_spans++] = (struct tok_span){ at[0], at[1] };
		last = at[1];
	} while (quick_char(q, ','));
	return quick_char(q, ']');
}

static bool spans_fit(const struct tok_text *t)
{
	if (t->n_spans && t->spans[t->n_spans - 1].end > t->len)
		return false;
	for (size_t i = 0; i < t->n_spans; i++)
		if ((t->spans[i].begin < t->len && utf8_is_cont(t->text[t->spans[i].begin])) || (t->spans[i].end < t->len && utf8_is_cont(t->text[t->spans[i].end])))
			return false;
	return true;
}

/* False: not that form, or not right. */
static bool read_quick(const char *raw, size_t len, struct arena *a, struct tok_rec *r)
{
	struct quick q = { raw, raw + len };
	struct tok_text *t = &r->t[0];
	char *text;

	r->pair = false;
	r->n_texts = 1;
	t->all = true;
	t->spans = NULL;
	t->n_spans = 0;
	if (!quick_char(&q, '{') || !quick_key(&q, "text") || !quick_char(&q, '"'))
		return false;
	t->text = text = arena_alloc(a, (size_t)(q.end - q.s) + 16);
	if (!quick_string(&q, text, &t->len))
		return false;
	if (quick_char(&q, ',') && (!quick_key(&q, "spans") || !quick_char(&q, '[') || !quick_spans(&q, a, t)))
		return false;
	return quick_char(&q, '}') && q.s == q.end && spans_fit(t);
}

int tok_record_parse(struct json_parser *p, const char *raw, size_t len, struct arena *texts, struct arena *tree, struct tok_rec *r, struct err *e)
{
	struct json v;

	if (read_quick(raw, len, texts, r))
		return 0;
	arena_reset(tree);
	if (json_parse(p, raw, len, tree, &v, e))
		return -1;
	return read_tree(texts, &v, r, e);
}
