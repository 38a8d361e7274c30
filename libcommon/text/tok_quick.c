/* tokenizer.json without a tree: see tok_quick.h. What is cut out is checked
 * here, the rest of the file by the strict parser. Of merges nothing is left to
 * check when their halves are strings of the vocabulary. */
#include "text/tok_quick.h"

#include <pthread.h>
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

#ifdef __SSE2__
/* A string of less than 16 bytes without escapes at s, behind its quote. */
static inline bool short_string(const char *s, const char *end, struct half *h)
{
	unsigned stop = quick_ends16(s);

	if (!stop || s[h->n = (size_t)__builtin_ctz(stop)] != '"')
		return false;
	h->s = s;
	h->room = (size_t)(end - s);
	return true;
}

/* ["a","b"] of such strings, as most merges are written. */
static inline bool read_short_pair(struct quick *q, struct half h[2])
{
	const char *s = q->s;

	if (q->end - s < 64 || s[0] != '[' || s[1] != '"' || !short_string(s + 2, q->end, &h[0]))
		return false;
	s = h[0].s + h[0].n;
	if (s[1] != ',' || s[2] != '"' || !short_string(s + 3, q->end, &h[1]))
		return false;
	s = h[1].s + h[1].n;
	if (s[1] != ']')
		return false;
	q->s = s + 2;
	return true;
}
#else
static inline bool read_short_pair(struct quick *q, struct half h[2])
{
	(void)q;
	(void)h;
	return false;
}
#endif

/* "a b" or ["a","b"]. */
static bool read_merge(struct quick *q, struct arena *a, struct half h[2])
{
	const char *sp;
	size_t n;

	if (read_short_pair(q, h))
		return true;
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
static bool add_merge(const struct vocab *v, struct bpe_pairs *m, const struct half h[2], int32_t *last)
{
	int32_t l = vocab_find_key(v, h[0].s, h[0].n, h[0].key), r = vocab_find_key(v, h[1].s, h[1].n, h[1].key);

	if (m->n == m->cap)
		m->p = lp_pages_grow(m->p, &m->cap, m->n + 1, sizeof(*m->p));
	*last = together(v, h, *last);
	m->p[m->n++] = (struct bpe_pair_ids){ { l, r }, *last, (uint32_t)h[0].n };
	return l >= 0 && r >= 0;
}

#define LEAST_MERGE 6 /* bytes of text: "a b", */

/* Some of the merges. */
struct share {
	const struct vocab *v;
	struct quick q;     /* before the first one; out: behind the list, or at stop */
	const char *stop;   /* behind a comma, perhaps; NULL: at the list's end */
	struct bpe_pairs m;
	bool ok;
};

static void *read_share(void *arg)
{
	struct share *x = arg;
	struct half h[AHEAD][2];
	struct arena a = ARENA_INIT;
	size_t n = 0, done = 0;
	int32_t last = -1;
	bool more = true;

	x->ok = true;
	x->m.p = lp_pages_grow(NULL, &x->m.cap, (size_t)((x->stop ? x->stop : x->q.end) - x->q.s) / LEAST_MERGE + 1, sizeof(*x->m.p)); /* pages that are not used are not there */
	while (x->ok && more && x->q.s != x->stop) {
		struct half *y = h[n++ % AHEAD];

		x->ok = read_merge(&x->q, &a, y);
		more = quick_char(&x->q, ',');
		for (int i = 0; i < 2 && x->ok; i++) {
			vocab_key(y[i].s, y[i].n, y[i].room, y[i].key);
			vocab_want(x->v, y[i].key);
		}
		if (x->ok && n - done == AHEAD)
			x->ok = add_merge(x->v, &x->m, h[done++ % AHEAD], &last);
	}
	while (x->ok && done < n)
		x->ok = add_merge(x->v, &x->m, h[done++ % AHEAD], &last);
	arena_release(&a);
	x->ok = x->ok && (more || quick_char(&x->q, ']'));
	return NULL;
}

/* Behind a comma between two merges in the middle of the text, or so it looks. */
static const char *middle(const struct quick *q)
{
	struct quick at = { q->s + (q->end - q->s) / 2, q->end };

	for (; at.s && at.s < q->end; at.s++) {
		at.s = memchr(at.s, ']', (size_t)(q->end - at.s));
		if (!at.s)
			return NULL;
		struct quick next = { at.s + 1, q->end };
		if (!quick_char(&next, ','))
			continue;
		const char *found = next.s;
		if (quick_char(&next, '[') && quick_char(&next, '"'))
			return found;
	}
	return NULL;
}

/* The second half by another thread. What it did counts when the first half ends where it began. */
static void read_shares(struct share *x, struct share *y)
{
	pthread_t thread;
	bool two = (x->stop = y->q.s = middle(&x->q)) && !pthread_create(&thread, NULL, read_share, y);

	if (!two)
		x->stop = NULL;
	read_share(x);
	if (two)
		pthread_join(thread, NULL);
	if (two && x->q.s == x->stop && x->ok) {
		x->ok = y->ok;
		x->q = y->q;
		x->m.p = lp_pages_grow(x->m.p, &x->m.cap, x->m.n + y->m.n, sizeof(*x->m.p));
		memcpy(x->m.p + x->m.n, y->m.p, y->m.n * sizeof(*x->m.p));
		x->m.n += y->m.n;
	}
}

#define SHARED_FROM (1 << 20) /* bytes; less is not worth a thread */

static bool read_merges(struct tok_quick *t, struct quick *q)
{
	struct share x = { .v = &t->vocab, .q = *q }, y = x;

	if (!t->vocab.slots)
		return false;
	if (quick_char(q, ']'))
		return true;
	x.q = *q;
	y.q.end = q->end;
	if (t->threads > 1 && q->end - q->s >= SHARED_FROM)
		read_shares(&x, &y);
	else
		read_share(&x);
	lp_pages_free(y.m.p, y.m.cap * sizeof(*y.m.p));
	t->merges = x.m;
	*q = x.q;
	return x.ok;
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

bool tok_quick_read(struct tok_quick *t, const char *text, size_t len, int threads)
{
	struct quick q = { text, text + len };

	memset(t, 0, sizeof(*t));
	t->threads = threads;
	if (!read_file(t, &q)) {
		tok_quick_release(t);
		return false;
	}
	sb_grow(&t->rest, JSON_PADDING);
	memset(t->rest.s + t->rest.len, 0, JSON_PADDING);
	return true;
}
