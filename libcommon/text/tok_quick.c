/* tokenizer.json without a tree: see tok_quick.h. What is cut out is checked
 * here, the rest of the file by the strict parser. */
#include "text/tok_quick.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

#define AHEAD 16 /* merges whose halves are looked up together */

void tok_quick_release(struct tok_quick *q)
{
	vocab_release(&q->vocab);
	free(q->merges.p);
	sb_release(&q->rest);
	memset(q, 0, sizeof(*q));
}

/* --- merges --- */

/* A string behind its quote; with escapes it goes to memory that lives as long as a. */
static bool read_string(struct quick *q, struct arena *a, const char **s, size_t *n)
{
	struct quick again = *q;
	bool slash;
	char *copy;

	if (!quick_slice(q, s, n, &slash))
		return false;
	if (!slash)
		return true;
	if (q->end - q->s < 8)
		return false;
	again.end = q->s;
	copy = arena_alloc(a, *n + 32);
	*s = copy;
	return quick_string(&again, copy, n);
}

/* "a b" or ["a","b"]. */
static bool read_merge(struct quick *q, struct arena *a, struct vocab_query h[2])
{
	const char *sp;
	size_t n;

	if (quick_char(q, '['))
		return quick_char(q, '"') && read_string(q, a, &h[0].s, &h[0].n) && quick_char(q, ',') && quick_char(q, '"') && read_string(q, a, &h[1].s, &h[1].n) &&
		       quick_char(q, ']');
	if (!quick_char(q, '"') || !read_string(q, a, &h[0].s, &n))
		return false;
	sp = memchr(h[0].s, ' ', n);
	if (!sp || (n >= 8 && !memcmp(h[0].s, "#version", 8)))
		return false;
	h[0].n = (size_t)(sp - h[0].s);
	h[1].s = sp + 1;
	h[1].n = n - h[0].n - 1;
	return !memchr(h[1].s, ' ', h[1].n);
}

/* The token of both halves together; *last: the one that the merge before it made. Most
 * merges make the same, or the next one. */
static int32_t together(const struct vocab *v, const struct vocab_query h[2], int32_t last)
{
	char buf[256];
	size_t n = h[0].n + h[1].n;

	if (n > sizeof(buf))
		return -1;
	memcpy(buf, h[0].s, h[0].n);
	memcpy(buf + h[0].n, h[1].s, h[1].n);
	if (vocab_is(v, last, buf, n))
		return last;
	return vocab_is(v, (int64_t)last + 1, buf, n) ? last + 1 : vocab_find(v, buf, n);
}

static bool read_merges(struct tok_quick *t, struct quick *q)
{
	struct bpe_pairs *m = &t->merges;
	struct vocab_query h[AHEAD][2];
	struct arena a = ARENA_INIT;
	bool ok = true, more = !quick_char(q, ']');
	int32_t last = -1;
	size_t cap = 0, k;

	while (ok && more) {
		arena_reset(&a);
		for (k = 0; k < AHEAD && ok && more; k++) {
			ok = read_merge(q, &a, h[k]);
			more = quick_char(q, ',');
		}
		if (!ok)
			break;
		vocab_find_many(&t->vocab, h[0], 2 * k);
		m->p = xgrow(m->p, &cap, m->n + AHEAD, sizeof(*m->p));
		for (size_t j = 0; j < k && ok; j++) {
			last = together(&t->vocab, h[j], last);
			ok = h[j][0].id >= 0 && h[j][1].id >= 0;
			m->p[m->n++] = (struct bpe_pair_ids){ { h[j][0].id, h[j][1].id }, last };
		}
	}
	arena_release(&a);
	return ok && (!m->n || quick_char(q, ']'));
}

/* --- the file --- */

struct seen {
	bool model, vocab, merges;
};

/* The text from *from on, up to before what has just been read, and something else for that. */
static void replace(struct tok_quick *t, const char **from, const char *until, const char *with, const struct quick *q)
{
	sb_add(&t->rest, *from, (size_t)(until - *from));
	sb_adds(&t->rest, with);
	*from = q->s;
}

static bool read_model(struct tok_quick *t, struct quick *q, const char **from, struct seen *seen)
{
	if (quick_char(q, '}'))
		return false;
	do {
		quick_space(q);
		if (quick_key(q, "vocab")) {
			const char *at = q->s;

			if (seen->vocab || !quick_char(q, '{') || !vocab_from_text(&t->vocab, q))
				return false;
			seen->vocab = true;
			replace(t, from, at, "{}", q);
		} else if (quick_key(q, "merges")) {
			const char *at = q->s;

			if (seen->merges || !seen->vocab || !quick_char(q, '[') || !read_merges(t, q))
				return false;
			seen->merges = true;
			replace(t, from, at, "[]", q);
		} else {
			const char *s;
			size_t n;
			bool slash;

			if (!quick_char(q, '"') || !quick_slice(q, &s, &n, &slash) || slash || !quick_char(q, ':') || !quick_skip(q))
				return false;
		}
	} while (quick_char(q, ','));
	return quick_char(q, '}');
}

static bool read_file(struct tok_quick *t, struct quick *q)
{
	const char *from = q->s, *s;
	struct seen seen = { 0 };
	bool slash;
	size_t n;

	if (!quick_char(q, '{'))
		return false;
	do {
		if (quick_key(q, "model")) {
			if (seen.model || !quick_char(q, '{') || !read_model(t, q, &from, &seen))
				return false;
			seen.model = true;
		} else if (!quick_char(q, '"') || !quick_slice(q, &s, &n, &slash) || slash || !quick_char(q, ':') || !quick_skip(q)) {
			return false;
		}
	} while (quick_char(q, ','));
	sb_add(&t->rest, from, (size_t)(q->end - from));
	return seen.model && seen.vocab && seen.merges;
}

bool tok_quick_read(struct tok_quick *t, const char *text, size_t len)
{
	struct quick q = { text, text + len };

	memset(t, 0, sizeof(*t));
	if (!json_utf8_ok(text, len) || !read_file(t, &q)) {
		tok_quick_release(t);
		return false;
	}
	sb_grow(&t->rest, JSON_PADDING);
	memset(t->rest.s + t->rest.len, 0, JSON_PADDING);
	return true;
}

bool tok_quick_tekken(struct sb *rest, const char *text, size_t len)
{
	struct quick q = { text, text + len };
	const char *from = text, *s;
	bool slash, seen = false;
	size_t n;

	if (!quick_char(&q, '{'))
		return false;
	do {
		if (quick_key(&q, "vocab")) {
			const char *at = q.s;

			if (seen || !quick_skip(&q))
				return false;
			seen = true;
			sb_add(rest, from, (size_t)(at - from));
			sb_adds(rest, "[]");
			from = q.s;
		} else if (!quick_char(&q, '"') || !quick_slice(&q, &s, &n, &slash) || slash || !quick_char(&q, ':') || !quick_skip(&q)) {
			return false;
		}
	} while (quick_char(&q, ','));
	sb_add(rest, from, (size_t)(q.end - from));
	sb_grow(rest, JSON_PADDING);
	memset(rest->s + rest->len, 0, JSON_PADDING);
	return seen;
}
