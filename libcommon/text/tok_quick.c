/* tokenizer.json without a tree: see tok_quick.h. What is cut out is checked
 * here, the rest of the file by the strict parser. Of merges nothing is left to
 * check when their halves are strings of the vocabulary. */
#include "text/tok_quick.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "text/tok_b64.h"

#define AHEAD 16 /* merges whose halves are asked for before they are looked up; a power of two */

void tok_quick_release(struct tok_quick *q)
{
	vocab_release(&q->vocab);
	lp_pages_free(q->merges.p, q->merges.cap * sizeof(*q->merges.p));
	sb_release(&q->rest);
	memset(q, 0, sizeof(*q));
}

/* --- merges --- */

/* A merge's half, and the place of its look-up. */
struct half {
	const char *s;
	size_t n, room; /* room: bytes that may be read */
	uint64_t key[2];
};

/* Behind its quote; with escapes it goes to memory that lives as long as a. */
static bool read_string(struct quick *q, struct arena *a, struct half *h)
{
	struct quick again = *q;
	bool slash;
	char *copy;

	if (!quick_slice(q, &h->s, &h->n, &slash))
		return false;
	h->room = (size_t)(q->end - h->s);
	if (!slash)
		return true;
	if (q->end - q->s < 8)
		return false;
	again.end = q->s;
	h->room = h->n + 32;
	h->s = copy = arena_alloc(a, h->room);
	return quick_string(&again, copy, &h->n);
}

/* "a b" or ["a","b"]. */
static bool read_merge(struct quick *q, struct arena *a, struct half h[2])
{
	const char *sp;
	size_t n;

	if (quick_char(q, '['))
		return quick_char(q, '"') && read_string(q, a, &h[0]) && quick_char(q, ',') && quick_char(q, '"') && read_string(q, a, &h[1]) && quick_char(q, ']');
	if (!quick_char(q, '"') || !read_string(q, a, &h[0]))
		return false;
	n = h[0].n;
	sp = memchr(h[0].s, ' ', n);
	if (!sp || (n >= 8 && !memcmp(h[0].s, "#version", 8)))
		return false;
	h[0].n = (size_t)(sp - h[0].s);
	h[1].s = sp + 1;
	h[1].n = n - h[0].n - 1;
	h[1].room = h[0].room - h[0].n - 1;
	return !memchr(h[1].s, ' ', h[1].n);
}

/* Is that the string of id, in two halves? */
static inline bool is_both(const struct vocab *v, int64_t id, const struct half h[2])
{
	size_t n;
	const char *s = id <= INT32_MAX ? vocab_str(v, (int32_t)id, &n) : NULL;

	return s && n == h[0].n + h[1].n && vocab_same(s, h[0].s, h[0].n) && vocab_same(s + h[0].n, h[1].s, h[1].n);
}

/* The token of both halves together; *last: the one that the merge before it made. Most
 * merges make the same, or the next one. */
static int32_t together(const struct vocab *v, const struct half h[2], int32_t last)
{
	char buf[256];
	size_t n = h[0].n + h[1].n;

	if (is_both(v, last, h))
		return last;
	if (is_both(v, (int64_t)last + 1, h))
		return last + 1;
	if (n > sizeof(buf))
		return -1;
	memcpy(buf, h[0].s, h[0].n);
	memcpy(buf + h[0].n, h[1].s, h[1].n);
	return vocab_find(v, buf, n);
}

/* Looks up what has been asked for. */
static bool add_merge(struct tok_quick *t, const struct half h[2], int32_t *last)
{
	const struct vocab *v = &t->vocab;
	struct bpe_pairs *m = &t->merges;
	int32_t l = vocab_find_key(v, h[0].s, h[0].n, h[0].key), r = vocab_find_key(v, h[1].s, h[1].n, h[1].key);

	m->p = lp_pages_grow(m->p, &m->cap, m->n + 1, sizeof(*m->p));
	*last = together(v, h, *last);
	m->p[m->n++] = (struct bpe_pair_ids){ { l, r }, *last, (uint32_t)h[0].n };
	return l >= 0 && r >= 0;
}

static bool read_merges(struct tok_quick *t, struct quick *q)
{
	struct half h[AHEAD][2];
	struct arena a = ARENA_INIT;
	bool ok = t->vocab.slots, more = !quick_char(q, ']');
	size_t n = 0, done = 0;
	int32_t last = -1;

	while (ok && more) {
		struct half *x = h[n++ % AHEAD];

		ok = read_merge(q, &a, x);
		more = quick_char(q, ',');
		for (int i = 0; i < 2 && ok; i++) {
			vocab_key(x[i].s, x[i].n, x[i].room, x[i].key);
			vocab_want(&t->vocab, x[i].key);
		}
		if (ok && n - done == AHEAD)
			ok = add_merge(t, h[done++ % AHEAD], &last);
	}
	while (ok && done < n)
		ok = add_merge(t, h[done++ % AHEAD], &last);
	arena_release(&a);
	return ok && (!n || quick_char(q, ']'));
}

/* --- a tekken.json's vocabulary --- */

/* {"rank": n, "token_bytes": "base64", "token_str": "..."}, behind its bracket. */
static bool read_token(struct vocab *v, struct quick *q, uint32_t rank, struct sb *mem)
{
	unsigned char bytes[TOKEN_MAX];
	const char *s;
	size_t n, len;
	uint32_t id;

	if (!quick_key(q, "rank") || !quick_count(q, &id) || id != rank || !quick_char(q, ',') || !quick_key(q, "token_bytes") || !quick_char(q, '"') ||
	    !vocab_read_string(q, mem, &s, &n) || n > TOKEN_MAX || !b64_decode(s, n, bytes, &len) || !len || !vocab_append(v, (const char *)bytes, len, id))
		return false;
	if (!quick_char(q, ',') || !quick_key(q, "token_str"))
		return false;
	if (quick_char(q, '"'))
		return vocab_read_string(q, mem, &s, &n) && quick_char(q, '}');
	if (q->end - q->s < 4 || memcmp(q->s, "null", 4) != 0)
		return false;
	q->s += 4;
	return quick_char(q, '}');
}

static bool read_tekken(struct tok_quick *t, struct quick *q)
{
	const char *from = q->s;
	struct sb mem = SB_INIT;
	uint32_t rank = 0;
	bool ok;

	do
		ok = rank < VOCAB_MAX_ID && quick_char(q, '{') && read_token(&t->vocab, q, rank++, &mem);
	while (ok && quick_char(q, ','));
	sb_release(&mem);
	return ok && quick_char(q, ']') && json_utf8_ok(from, (size_t)(q->s - from));
}

/* --- the file --- */

struct seen {
	bool model, vocab, merges, tekken;
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
			if (seen.model || seen.tekken || !quick_char(q, '{') || !read_model(t, q, &from, &seen))
				return false;
			seen.model = true;
		} else if (quick_key(q, "vocab")) {
			const char *at = q->s;

			if (seen.tekken || seen.model || !quick_char(q, '[') || !read_tekken(t, q))
				return false;
			seen.tekken = true;
			replace(t, &from, at, "[]", q);
		} else if (!quick_char(q, '"') || !quick_slice(q, &s, &n, &slash) || slash || !quick_char(q, ':') || !quick_skip(q)) {
			return false;
		}
	} while (quick_char(q, ','));
	sb_add(&t->rest, from, (size_t)(q->end - from));
	return seen.tekken || (seen.model && seen.vocab && seen.merges);
}

bool tok_quick_read(struct tok_quick *t, const char *text, size_t len)
{
	struct quick q = { text, text + len };

	memset(t, 0, sizeof(*t));
	if (!read_file(t, &q)) {
		tok_quick_release(t);
		return false;
	}
	sb_grow(&t->rest, JSON_PADDING);
	memset(t->rest.s + t->rest.len, 0, JSON_PADDING);
	return true;
}
