/* Text records: see tok_record.h. The common form, {"text":"...","spans":[[b,e],...]}
 * as chat-template writes it, is read in one go; whatever is not exactly that,
 * and all that is wrong, is left to the strict parser. */
#include "data/tok_record.h"

#include <endian.h>
#include <string.h>

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

struct quick {
	const char *s, *end;
	struct arena *a;
};

static bool take(struct quick *q, const char *word)
{
	size_t n = strlen(word);

	while (q->s < q->end && (*q->s == ' ' || *q->s == '\t'))
		q->s++;
	if ((size_t)(q->end - q->s) < n || memcmp(q->s, word, n) != 0)
		return false;
	q->s += n;
	return true;
}

#define EACH 0x0101010101010101u
#define TOPS (0x80 * EACH)

/* The top bit of each byte of x that is a quote, a backslash or a control character. */
static inline uint64_t ends_run(uint64_t x)
{
	uint64_t m = x & ~TOPS;

	return (~(m + 0x60 * EACH) | ~((m ^ '"' * EACH) + 0x7F * EACH) | ~((m ^ '\\' * EACH) + 0x7F * EACH)) & ~x & TOPS;
}

static int hex4(const char *s)
{
	int v = 0;

	for (int i = 0; i < 4; i++) {
		char c = s[i];
		int d = c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;

		if (d < 0)
			return -1;
		v = v * 16 + d;
	}
	return v;
}

/* The escape at q->s, behind its backslash, to w; NULL: none. */
static char *unescape(struct quick *q, char *w)
{
	static const char plain[256] = { ['"'] = '"', ['\\'] = '\\', ['/'] = '/', ['b'] = '\b', ['f'] = '\f', ['n'] = '\n', ['r'] = '\r', ['t'] = '\t' };
	char c = plain[(unsigned char)*q->s];
	int u, low;

	if (c) {
		*w++ = c;
		q->s++;
		return w;
	}
	if (*q->s != 'u' || q->end - q->s < 5 || (u = hex4(q->s + 1)) < 0)
		return NULL;
	q->s += 5;
	if (u >= 0xD800 && u < 0xE000) {
		low = u < 0xDC00 && q->end - q->s >= 6 && q->s[0] == '\\' && q->s[1] == 'u' ? hex4(q->s + 2) : -1;
		if (low < 0xDC00 || low > 0xDFFF)
			return NULL;
		u = 0x10000 + ((u - 0xD800) << 10) + (low - 0xDC00);
		q->s += 6;
	}
	return w + utf8_put(w, (uint32_t)u);
}

/* A string behind its quote. Reads at most 8 bytes beyond end, and writes as far beyond the text. */
static bool quick_string(struct quick *q, struct tok_text *t)
{
	char *text = arena_alloc(q->a, (size_t)(q->end - q->s) + 16), *w = text;
	uint64_t seen = 0;

	for (;;) {
		uint64_t x, stop;

		if (q->s >= q->end)
			return false;
		memcpy(&x, q->s, 8);
		memcpy(w, &x, 8);
		stop = ends_run(le64toh(x));
		seen |= x;
		if (!stop) {
			q->s += 8;
			w += 8;
			continue;
		}
		q->s += __builtin_ctzll(stop) >> 3;
		w += __builtin_ctzll(stop) >> 3;
		if (q->s >= q->end)
			return false;
		if (*q->s == '"')
			break;
		if (*q->s++ != '\\' || !(w = unescape(q, w)))
			return false;
	}
	q->s++;
	*w = 0;
	t->text = text;
	t->len = (size_t)(w - text);
	return !(seen & TOPS) || utf8_valid_len(text, t->len) == t->len;
}

static bool quick_number(struct quick *q, size_t *n)
{
	const char *from;

	take(q, "");
	for (from = q->s, *n = 0; q->s < q->end && *q->s >= '0' && *q->s <= '9' && q->s - from < 10; q->s++)
		*n = *n * 10 + (size_t)(*q->s - '0');
	return q->s > from && (*from != '0' || q->s == from + 1);
}

static bool quick_spans(struct quick *q, struct tok_text *t)
{
	size_t cap = 0, last = 0;

	t->all = false;
	t->n_spans = 0;
	if (take(q, "]"))
		return true;
	do {
		struct tok_span s;

		if (!take(q, "[") || !quick_number(q, &s.begin) || !take(q, ",") || !quick_number(q, &s.end) || !take(q, "]") || s.begin < last || s.end < s.begin)
			return false;
		if (t->n_spans == cap) {
			struct tok_span *more = arena_alloc(q->a, (cap = 2 * cap + 4) * sizeof(*more));

			if (t->n_spans)
				memcpy(more, t->spans, t->n_spans * sizeof(*more));
			t->spans = more;
		}
		t->spans[t->n_spans++] = s;
		last = s.end;
	} while (take(q, ","));
	return take(q, "]");
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
	struct quick q = { raw, raw + len, a };
	struct tok_text *t = &r->t[0];

	r->pair = false;
	r->n_texts = 1;
	t->all = true;
	t->spans = NULL;
	t->n_spans = 0;
	if (!take(&q, "{") || !take(&q, "\"text\"") || !take(&q, ":") || !take(&q, "\"") || !quick_string(&q, t))
		return false;
	if (take(&q, ",") && (!take(&q, "\"spans\"") || !take(&q, ":") || !take(&q, "[") || !quick_spans(&q, t)))
		return false;
	return take(&q, "}") && q.s == q.end && spans_fit(t);
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
