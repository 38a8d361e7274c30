/* BPE: a word's symbols and their merging. Words that come again are bpe_encode.c's,
 * reading is bpe_load.c's. */
#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "text/bpe_int.h"
#include "text/utf8.h"

#define LINEAR_MAX 64  /* symbols; longer pieces use a heap */
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
	free(m->spare);
	free(m->mark);
	free(m->first);
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

void bpe_add_sym(struct bpe_mem *m, int32_t id, size_t b, size_t e)
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
			bpe_add_sym(m, b->byte_id[(unsigned char)s[i]], i, i + 1);
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
			bpe_add_sym(m, b->byte_id[(unsigned char)part[p][k]], p == 1 ? i + k : i, p == 1 ? i + k + 1 : i + 1);
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
				bpe_add_sym(m, b->unk, unk_b, unk_e);
			unk = false;
			bpe_add_sym(m, id, i, i + w);
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
			bpe_add_sym(m, b->unk, unk_b, unk_e);
		unk = true;
		unk_b = i;
		unk_e = i + w;
	}
	if (unk)
		bpe_add_sym(m, b->unk, unk_b, unk_e);
}

/* --- merging --- */

/* A short word while it is merged: symbol i begins at place i, and is gone when
 * its bit of alive is clear. The rank of it and the next one has the place in
 * its low bits: the least number is the merge that comes next. */
#define PLACE_BITS 6
struct row {
	uint64_t rank[LINEAR_MAX];
	int32_t id[LINEAR_MAX], to[LINEAR_MAX];
	uint64_t alive;
};
#define NO_MERGE ((uint64_t)BPE_NO_RANK << PLACE_BITS)

/* The pairs that a merge would make are asked for when it is found: by the time it
 * is done, they are there. */
static inline __attribute__((always_inline)) void row_want(const struct bpe *b, const struct row *r, unsigned i, uint64_t before, uint64_t behind)
{
	if (r->rank[i] >= NO_MERGE)
		return;
	if (before)
		bpe_want(b, r->id[63 - (unsigned)__builtin_clzll(before)], r->to[i]);
	if (behind)
		bpe_want(b, r->to[i], r->id[(unsigned)__builtin_ctzll(behind)]);
}

static inline void row_pair(const struct bpe *b, struct row *r, unsigned i, unsigned next)
{
	r->rank[i] = (uint64_t)bpe_pair(b, r->id[i], r->id[next], &r->to[i]) << PLACE_BITS | i;
}

static void row_merge(const struct bpe *b, struct row *r, size_t n)
{
	for (;;) {
		uint64_t best = NO_MERGE, before, behind, rest;
		unsigned at, gone, prev, next;

		for (size_t i = 0; i < n; i++)
			best = r->rank[i] < best ? r->rank[i] : best;
		if (best == NO_MERGE)
			return;
		at = (unsigned)best & (LINEAR_MAX - 1);
		behind = r->alive & ~1ull << at;
		gone = (unsigned)__builtin_ctzll(behind);
		r->id[at] = r->to[at];
		r->rank[at] = r->rank[gone] = NO_MERGE;
		r->alive &= ~(1ull << gone);
		behind &= behind - 1;
		before = r->alive & ((1ull << at) - 1);
		if (behind) {
			next = (unsigned)__builtin_ctzll(behind);
			rest = behind & (behind - 1);
			row_pair(b, r, at, next);
			row_want(b, r, at, before, rest);
		}
		if (before) {
			prev = 63 - (unsigned)__builtin_clzll(before);
			row_pair(b, r, prev, at);
			row_want(b, r, prev, before & ~(1ull << prev), behind);
		}
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
	for (i = 0; i < n; i++)
		r.id[i] = sym[i].id;
	for (i = 0; i + 1 < n; i++) {
		if (!s) {
			row_pair(b, &r, (unsigned)i, (unsigned)i + 1);
			continue;
		}
		r.rank[i] = (uint64_t)b->first[s[i] << 8 | s[i + 1]].rank << PLACE_BITS | i;
		r.to[i] = b->first[s[i] << 8 | s[i + 1]].id;
	}
	r.rank[n - 1] = NO_MERGE;
	r.alive = UINT64_MAX >> (64 - n);
	for (i = 0; i + 1 < n; i++)
		row_want(b, &r, (unsigned)i, r.alive & ((1ull << i) - 1), i + 2 < n ? 1ull << (i + 2) : 0);
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

void bpe_tokens(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, bool whole)
{
	int32_t id = whole && b->ignore_merges ? vocab_find(b->whole, s, n) : -1;

	if (id >= 0) {
		m->n_sym = 0;
		bpe_add_sym(m, id, 0, n);
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

/* A space has one byte in the text, and three as a mark: ends go back. */
static void unmark(struct bpe_mem *m, const char *s)
{
	uint32_t at = 0, marked = 0;

	for (size_t i = 0; i < m->n_sym; i++) {
		m->sym[i].b = at;
		for (; marked < m->sym[i].e; at++)
			marked += s[at] == ' ' ? BPE_MARK_BYTES : 1;
		m->sym[i].e = at;
	}
}

/* What the model does not know becomes a token for each byte, any other the one of its name. */
static void finish(const struct bpe_final *f, struct bpe_mem *m, const char *s)
{
	struct sym *from = m->sym;
	size_t n = m->n_sym, cap = m->cap_sym;

	for (size_t i = 0; i < n; i++)
		if (from[i].id < 0 || (size_t)from[i].id >= f->n || from[i].id == f->unk)
			goto bytes;
		else
			from[i].id = f->name_of[from[i].id];
	return;
bytes:
	m->sym = m->spare;
	m->cap_sym = m->cap_spare;
	m->n_sym = 0;
	for (size_t i = 0; i < n; i++) {
		bool known = from[i].id >= 0 && (size_t)from[i].id < f->n && from[i].id != f->unk;

		if (known)
			bpe_add_sym(m, f->name_of[from[i].id], from[i].b, from[i].e);
		for (uint32_t k = from[i].b; !known && k < from[i].e; k++)
			bpe_add_sym(m, f->byte_id[(unsigned char)s[k]], k, k + 1);
	}
	m->spare = from;
	m->cap_spare = cap;
}

void bpe_marked_tokens(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n)
{
	size_t len = 0;

	m->mark = xgrow(m->mark, &m->cap_mark, BPE_MARK_BYTES * n, 1);
	for (size_t i = 0; i < n; i++)
		if (s[i] == ' ') {
			memcpy(m->mark + len, "\xE2\x96\x81", BPE_MARK_BYTES);
			len += BPE_MARK_BYTES;
		} else {
			m->mark[len++] = s[i];
		}
	bpe_tokens(b, m, m->mark, len, false);
	unmark(m, s);
	if (b->final)
		finish(b->final, m, s);
}
