/* BPE: the merge loop and its word cache. Reading is in bpe_load.c. */
#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "text/bpe_int.h"
#include "text/bpe_words.h"
#include "text/utf8.h"

#define LINEAR_MAX 64  /* symbols; longer pieces use a heap */
/* A symbol of the piece being merged. */
struct sym {
	int32_t id;
	uint32_t b, e;
	int32_t prev, next;
};
struct cand {
	uint32_t rank, pos;
	int32_t id; /* what the pair becomes */
};

struct bpe_mem {
	struct words words; /* empty where tokens are traced */
	struct word_tok *long_word;
	size_t cap_long;
	struct sym *sym;
	size_t n_sym, cap_sym;
	struct cand *heap;
	size_t n_heap, cap_heap;
	uint32_t *trace; /* by id: see bpe_trace */
};

void mtoks_grow(struct mtoks *o)
{
	o->t = xgrow(o->t, &o->cap, o->n + 64, sizeof(*o->t));
}

struct bpe_mem *bpe_mem_new(const struct bpe *b)
{
	struct bpe_mem *m = xcalloc(1, sizeof(*m));

	if (b->traced) { /* what a word's merges leave in trace would be missing for one that is known */
		m->trace = xcalloc(b->v->n_ids + 1, sizeof(*m->trace));
		return m;
	}
	words_init(&m->words); /* without memory each word is merged each time */
	return m;
}

void bpe_mem_free(struct bpe_mem *m)
{
	if (!m)
		return;
	words_release(&m->words);
	free(m->long_word);
	free(m->sym);
	free(m->heap);
	free(m->trace);
	free(m);
}

uint32_t bpe_trace(const struct bpe_mem *m, int32_t id)
{
	return m->trace ? m->trace[id] : 0;
}

bool bpe_byte_mode(const struct bpe *b)
{
	return b->bytes;
}

/* --- the piece as symbols --- */

static void add_sym(struct bpe_mem *m, int32_t id, size_t b, size_t e)
{
	if (m->n_sym == m->cap_sym)
		m->sym = xgrow(m->sym, &m->cap_sym, m->n_sym + 1, sizeof(*m->sym));
	m->sym[m->n_sym++] = (struct sym){ id, (uint32_t)b, (uint32_t)e, 0, 0 };
}

static void byte_symbols(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n)
{
	m->n_sym = 0;
	for (size_t i = 0; i < n; i++)
		if (b->byte_id[(unsigned char)s[i]] >= 0)
			add_sym(m, b->byte_id[(unsigned char)s[i]], i, i + 1);
}

static int32_t char_id(const struct bpe *b, const char *s, unsigned w, bool first, bool last)
{
	char buf[4 + 2 * BPE_AFFIX_MAX];
	size_t n = 0;

	if ((first || !b->prefix_len) && (!last || !b->suffix_len)) {
		unsigned k;
		uint32_t c = utf8_get(s, &k);

		return c < BPE_DIRECT ? b->direct[c] : vocab_find(b->v, s, w);
	}
	if (!first && b->prefix_len) {
		memcpy(buf, b->prefix, b->prefix_len);
		n = b->prefix_len;
	}
	memcpy(buf + n, s, w);
	n += w;
	if (last && b->suffix_len) {
		memcpy(buf + n, b->suffix, b->suffix_len);
		n += b->suffix_len;
	}
	return vocab_find(b->v, buf, n);
}

/* Byte tokens of a character (with its affixes, as the reference does). */
static bool fall_back(const struct bpe *b, struct bpe_mem *m, const char *s, size_t i, unsigned w, bool first, bool last)
{
	const char *part[3] = { b->prefix, s + i, b->suffix };
	size_t len[3] = { first ? 0 : b->prefix_len, w, last ? b->suffix_len : 0 };

	for (int p = 0; p < 3; p++)
		for (size_t k = 0; k < len[p]; k++)
			if (b->byte_id[(unsigned char)part[p][k]] < 0)
				return false;
	for (int p = 0; p < 3; p++)
		for (size_t k = 0; k < len[p]; k++)
			add_sym(m, b->byte_id[(unsigned char)part[p][k]], p == 1 ? i + k : i, p == 1 ? i + k + 1 : i + 1);
	return true;
}

/* The order of a pending unknown and byte tokens behind it is the reference's. */
static void char_symbols(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n)
{
	size_t unk_b = 0, unk_e = 0;
	bool unk = false;
	unsigned w;

	m->n_sym = 0;
	for (size_t i = 0; i < n; i += w) {
		bool first = i == 0, last;
		int32_t id;

		w = utf8_len((unsigned char)s[i]);
		last = i + w >= n;
		id = char_id(b, s + i, w, first, last);
		if (id >= 0) {
			if (unk)
				add_sym(m, b->unk, unk_b, unk_e);
			unk = false;
			add_sym(m, id, i, i + w);
			continue;
		}
		if (b->byte_fallback && fall_back(b, m, s, i, w, first, last))
			continue;
		if (b->unk < 0)
			continue;
		if (unk && b->fuse_unk) {
			unk_e = i + w;
			continue;
		}
		if (unk)
			add_sym(m, b->unk, unk_b, unk_e);
		unk = true;
		unk_b = i;
		unk_e = i + w;
	}
	if (unk)
		add_sym(m, b->unk, unk_b, unk_e);
}

/* --- merging --- */

/* A short word while it is merged: symbol i begins at place i, and is gone when
 * its bit of alive is clear. */
struct row {
	uint32_t rank[LINEAR_MAX]; /* of it and the next one */
	int32_t id[LINEAR_MAX], to[LINEAR_MAX];
	uint64_t alive;
};

static void row_pair(const struct bpe *b, struct row *r, unsigned i)
{
	uint64_t behind = i < 63 ? r->alive >> (i + 1) : 0;

	r->rank[i] = behind ? bpe_pair(b, r->id[i], r->id[i + 1 + (unsigned)__builtin_ctzll(behind)], &r->to[i]) : BPE_NO_RANK;
}

static void row_merge(const struct bpe *b, struct row *r, size_t n)
{
	for (;;) {
		uint32_t best = BPE_NO_RANK;
		unsigned at = 0, gone;
		uint64_t before;

		for (unsigned i = 0; i < n; i++) {
			at = r->rank[i] < best ? i : at;
			best = r->rank[i] < best ? r->rank[i] : best;
		}
		if (best == BPE_NO_RANK)
			return;
		gone = at + 1 + (unsigned)__builtin_ctzll(r->alive >> (at + 1));
		r->id[at] = r->to[at];
		r->rank[gone] = BPE_NO_RANK;
		r->alive &= ~(1ull << gone);
		row_pair(b, r, at);
		before = r->alive & ((1ull << at) - 1);
		if (before)
			row_pair(b, r, 63 - (unsigned)__builtin_clzll(before));
	}
}

/* m->sym by its bytes in s, or by its ids where s is NULL. */
static void merge_row(const struct bpe *b, struct bpe_mem *m, const unsigned char *s)
{
	struct sym *sym = m->sym;
	size_t n = m->n_sym, k = 0, i;
	struct row r;

	if (n < 2)
		return;
	for (i = 0; i < n; i++) {
		r.id[i] = sym[i].id;
		if (i + 1 < n && s) {
			const struct bpe_first *f = &b->first[s[i] << 8 | s[i + 1]];

			r.rank[i] = f->rank;
			r.to[i] = f->id;
		} else if (i + 1 < n) {
			r.rank[i] = bpe_pair(b, sym[i].id, sym[i + 1].id, &r.to[i]);
		}
	}
	r.rank[n - 1] = BPE_NO_RANK;
	r.alive = UINT64_MAX >> (64 - n);
	row_merge(b, &r, n);
	for (i = 0; i < n; i++)
		if (r.alive >> i & 1)
			sym[k++] = (struct sym){ r.id[i], sym[i].b, sym[i].e, 0, 0 };
		else
			sym[k - 1].e = sym[i].e;
	m->n_sym = k;
}

static inline bool before(const struct cand *a, const struct cand *b)
{
	return a->rank < b->rank || (a->rank == b->rank && a->pos < b->pos);
}

static void heap_push(struct bpe_mem *m, struct cand c)
{
	size_t i, up;

	if (m->n_heap == m->cap_heap)
		m->heap = xgrow(m->heap, &m->cap_heap, m->n_heap + 1, sizeof(*m->heap));
	for (i = m->n_heap++; i && (up = (i - 1) / 2, before(&c, &m->heap[up])); i = up)
		m->heap[i] = m->heap[up];
	m->heap[i] = c;
}

static struct cand heap_pop(struct bpe_mem *m)
{
	struct cand top = m->heap[0], c = m->heap[--m->n_heap];
	size_t i = 0, k;

	while ((k = 2 * i + 1) < m->n_heap) {
		if (k + 1 < m->n_heap && before(&m->heap[k + 1], &m->heap[k]))
			k++;
		if (!before(&m->heap[k], &c))
			break;
		m->heap[i] = m->heap[k];
		i = k;
	}
	m->heap[i] = c;
	return top;
}

static void push_pair(const struct bpe *b, struct bpe_mem *m, int32_t i, int32_t j)
{
	struct cand c = { 0, (uint32_t)i, 0 };

	if (i < 0 || j < 0)
		return;
	c.rank = bpe_pair(b, m->sym[i].id, m->sym[j].id, &c.id);
	if (c.rank == BPE_NO_RANK)
		return;
	heap_push(m, c);
	if (b->traced && b->traced[c.id])
		m->trace[c.id] = m->sym[i].e - m->sym[i].b;
}

static void merge_heap(const struct bpe *b, struct bpe_mem *m)
{
	struct sym *s = m->sym;
	size_t n = m->n_sym, i, k = 0;

	m->n_heap = 0;
	for (i = 0; i < n; i++) {
		s[i].prev = (int32_t)i - 1;
		s[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
		push_pair(b, m, (int32_t)i, s[i].next);
	}
	while (m->n_heap) {
		struct cand c = heap_pop(m);
		struct sym *l = &s[c.pos], *r;
		int32_t id;

		if (l->id < 0 || l->next < 0)
			continue;
		r = &s[l->next];
		if (bpe_pair(b, l->id, r->id, &id) == BPE_NO_RANK || id != c.id)
			continue; /* the pair has changed since */
		l->id = c.id;
		l->e = r->e;
		r->id = -1;
		l->next = r->next;
		if (l->next >= 0)
			s[l->next].prev = (int32_t)c.pos;
		push_pair(b, m, l->prev, (int32_t)c.pos);
		push_pair(b, m, (int32_t)c.pos, l->next);
	}
	for (i = 0; i < n; i++)
		if (s[i].id >= 0)
			s[k++] = s[i];
	m->n_sym = k;
}

/* --- words --- */

/* The word's tokens in m->sym. whole: a word of the vocabulary is one token where
 * the model ignores merges. */
static void find_tokens(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, bool whole)
{
	int32_t id = whole && b->ignore_merges ? vocab_find(b->whole, s, n) : -1;

	if (id >= 0) {
		m->n_sym = 0;
		add_sym(m, id, 0, n);
		return;
	}
	if (b->bytes)
		byte_symbols(b, m, s, n);
	else
		char_symbols(b, m, s, n);
	if (m->n_sym <= LINEAR_MAX && !b->traced)
		merge_row(b, m, b->first && m->n_sym == n ? (const unsigned char *)s : NULL);
	else
		merge_heap(b, m);
}

/* Only tokens without a gap are kept: they are stored by their ends. */
static bool tiles(const struct bpe_mem *m, size_t n)
{
	uint32_t at = 0;

	for (size_t i = 0; i < m->n_sym; i++) {
		if (m->sym[i].b != at || m->sym[i].e == at)
			return false;
		at = m->sym[i].e;
	}
	return at == n;
}

static void keep_long(struct bpe_mem *m, const char *s, size_t n)
{
	m->long_word = xgrow(m->long_word, &m->cap_long, m->n_sym, sizeof(*m->long_word));
	for (size_t i = 0; i < m->n_sym; i++)
		m->long_word[i] = (struct word_tok){ m->sym[i].id, m->sym[i].e };
	words_add_long(&m->words, s, n, m->long_word, m->n_sym);
}

/* key: NULL for a word that is too long for a set. */
static void keep(struct bpe_mem *m, const char *s, size_t n, const uint64_t *key)
{
	struct word w;

	if (!m->words.sets || !tiles(m, n))
		return;
	if (!key || m->n_sym > WORD_IDS) {
		keep_long(m, s, n);
		return;
	}
	memcpy(w.key, key, sizeof(w.key));
	w.n = (uint8_t)m->n_sym;
	for (size_t i = 0; i < WORD_IDS; i++) {
		w.id[i] = i < m->n_sym ? m->sym[i].id : 0;
		w.end[i] = (uint8_t)(i < m->n_sym ? m->sym[i].e : n);
	}
	m->words.sets[2 * (size_t)word_set(key) + 1] = w; /* behind the one that has been found before */
}

/* --- many words at once --- */

/* A word's tokens to out, room for all that a word may have being there. */
static inline size_t put_word(const struct word *w, uint32_t at, struct tok_out *out, size_t n)
{
	int32_t *restrict ids = out->ids + n;
	uint32_t *restrict begin = out->begin + n, *restrict end = out->end + n;

	memcpy(ids, w->id, sizeof(w->id));
	begin[0] = at;
	begin[1] = end[0] = at + w->end[0];
	begin[2] = end[1] = at + w->end[1];
	end[2] = at + w->end[2];
	return n + w->n;
}

static void put_long(const struct word_tok *t, size_t n, uint32_t at, struct tok_out *out)
{
	uint32_t from = at;

	tok_out_reserve(out, n);
	for (size_t i = 0; i < n; i++) {
		out->ids[out->n] = t[i].id;
		out->begin[out->n] = from;
		out->end[out->n++] = from = at + t[i].end;
	}
}

/* One that is not among the short words. */
static void put_other(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, const uint64_t *key, uint32_t at, struct tok_out *out)
{
	size_t k;
	const struct word_tok *t = words_find_long(&m->words, s, n, &k);

	if (t) {
		put_long(t, k, at, out);
		return;
	}
	find_tokens(b, m, s, n, true);
	tok_out_reserve(out, m->n_sym);
	for (size_t i = 0; i < m->n_sym; i++) {
		out->ids[out->n] = m->sym[i].id;
		out->begin[out->n] = at + m->sym[i].b;
		out->end[out->n++] = at + m->sym[i].e;
	}
	keep(m, s, n, key);
}

struct ahead {
	uint64_t key[2];
	uint32_t set;
};

void bpe_encode_words(const struct bpe *b, struct bpe_mem *m, const char *s, size_t len, size_t from, const uint32_t *end, size_t n, uint32_t base, struct tok_out *out)
{
	struct ahead x[BPE_AHEAD];
	size_t at = from, k, w;

	for (k = 0; k < n && m->words.sets; at = end[k++]) {
		w = end[k] - at;
		if (w > WORD_BYTES)
			continue;
		word_key(s + at, w, len - at, x[k].key);
		x[k].set = word_set(x[k].key);
		__builtin_prefetch(&m->words.sets[2 * (size_t)x[k].set], 1);
	}
	for (k = 0, at = from; k < n; at = end[k++]) {
		bool is_short = end[k] - at <= WORD_BYTES && m->words.sets;
		const struct word *known = is_short ? words_find(&m->words, x[k].key, x[k].set) : NULL;

		if (out->cap - out->n < WORD_IDS)
			tok_out_reserve(out, WORD_IDS);
		if (known)
			out->n = put_word(known, base + (uint32_t)at, out, out->n);
		else
			put_other(b, m, s + at, end[k] - at, is_short ? x[k].key : NULL, base + (uint32_t)at, out);
	}
}

/* --- one word, or a text that is cut by none --- */

static void add_known(struct mtoks *out, size_t off, const struct word *w)
{
	for (size_t i = 0, from = 0; i < w->n; from = w->end[i++])
		mtoks_add(out, w->id[i], off + from, off + w->end[i]);
}

/* off: where the word stands in its piece. */
static void encode_word(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, size_t off, bool whole, struct mtoks *out)
{
	bool is_short = n <= WORD_BYTES && m->words.sets;
	const struct word *known = NULL;
	const struct word_tok *t;
	uint64_t key[2];
	size_t k, from = off;

	if (is_short) {
		word_key(s, n, n, key);
		known = words_find(&m->words, key, word_set(key));
	}
	if (known) {
		add_known(out, off, known);
		return;
	}
	t = words_find_long(&m->words, s, n, &k);
	for (size_t i = 0; t && i < k; i++, from = off + t[i - 1].end)
		mtoks_add(out, t[i].id, from, off + t[i].end);
	if (t)
		return;
	find_tokens(b, m, s, n, whole);
	for (size_t i = 0; i < m->n_sym; i++)
		mtoks_add(out, m->sym[i].id, off + m->sym[i].b, off + m->sym[i].e);
	keep(m, s, n, is_short ? key : NULL);
}

/* Characters that no merge brings together can be cut between. */
static void encode_cut(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, struct mtoks *out)
{
	size_t from = 0, i;
	unsigned w;
	uint32_t prev = utf8_get(s, &w), c;

	for (i = w; i < n; i += w) {
		c = utf8_get(s + i, &w);
		if (!bpe_joined(b, prev, c)) {
			encode_word(b, m, s + from, i - from, from, false, out);
			from = i;
		}
		prev = c;
	}
	encode_word(b, m, s + from, n - from, from, false, out);
}

void bpe_encode(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, struct mtoks *out)
{
	int32_t id;

	if (!n)
		return;
	if (!b->joined) {
		encode_word(b, m, s, n, 0, true, out);
		return;
	}
	id = b->ignore_merges ? vocab_find(b->whole, s, n) : -1; /* of a whole piece; its parts are merged */
	if (id >= 0)
		mtoks_add(out, id, 0, n);
	else
		encode_cut(b, m, s, n, out);
}
