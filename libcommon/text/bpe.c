/* BPE: the merge loop and its word cache. Reading is in bpe_load.c. */
#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "text/bpe_int.h"
#include "text/utf8.h"

#define LINEAR_MAX 64  /* symbols; longer pieces use a heap */
#define CACHE_KEY 31   /* bytes of a word; the last byte of the key is its length */
#define CACHE_IDS 7
#define CACHE_SETS 32768u /* of two slots */

/* One line of the processor's cache. */
struct cache_slot {
	uint64_t key[4];
	uint32_t n;
	int32_t ids[CACHE_IDS];
};

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
	struct cache_slot *cache;
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
	m->cache = aligned_alloc(64, 2 * CACHE_SETS * sizeof(*m->cache));
	if (m->cache)
		memset(m->cache, 0, 2 * CACHE_SETS * sizeof(*m->cache));
	return m;
}

void bpe_mem_free(struct bpe_mem *m)
{
	if (!m)
		return;
	free(m->cache);
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

static void merge_linear(const struct bpe *b, struct bpe_mem *m)
{
	uint32_t rank[LINEAR_MAX];
	int32_t to[LINEAR_MAX];
	struct sym *s = m->sym;
	size_t n = m->n_sym, i;

	for (i = 0; i + 1 < n; i++)
		rank[i] = bpe_pair(b, s[i].id, s[i + 1].id, &to[i]);
	while (n > 1) {
		uint32_t best = BPE_NO_RANK;
		size_t at = 0;

		for (i = 0; i + 1 < n; i++)
			if (rank[i] < best) {
				best = rank[i];
				at = i;
			}
		if (best == BPE_NO_RANK)
			break;
		s[at].id = to[at];
		s[at].e = s[at + 1].e;
		n--;
		memmove(s + at + 1, s + at + 2, (n - at - 1) * sizeof(*s));
		if (n - at > 1) {
			memmove(rank + at + 1, rank + at + 2, (n - at - 2) * sizeof(*rank));
			memmove(to + at + 1, to + at + 2, (n - at - 2) * sizeof(*to));
			rank[at] = bpe_pair(b, s[at].id, s[at + 1].id, &to[at]);
		}
		if (at)
			rank[at - 1] = bpe_pair(b, s[at - 1].id, s[at].id, &to[at - 1]);
	}
	m->n_sym = n;
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

/* --- words and their cache --- */

static inline uint64_t load8(const char *s)
{
	uint64_t w;

	memcpy(&w, s, 8);
	return w;
}

/* 1 to 7 bytes in the low end, without reading beyond them. */
static inline uint64_t load_short(const char *s, size_t n)
{
	uint32_t lo, hi;

	if (n >= 4) {
		memcpy(&lo, s, 4);
		memcpy(&hi, s + n - 4, 4);
		return lo | (uint64_t)hi << (8 * (n - 4));
	}
	return (unsigned char)s[0] | (uint64_t)(unsigned char)s[n >> 1] << (8 * (n >> 1)) | (uint64_t)(unsigned char)s[n - 1] << (8 * (n - 1));
}

/* The word padded with zeros, its length in the last byte; 0 < n <= CACHE_KEY. */
static inline void make_key(const char *s, size_t n, uint64_t key[4])
{
	size_t i = 0, left = n;

	key[0] = key[1] = key[2] = key[3] = 0;
	for (; left >= 8; left -= 8, s += 8)
		key[i++] = load8(s);
	if (left)
		key[i] = i ? load8(s + left - 8) >> (8 * (8 - left)) : load_short(s, left);
	key[3] |= (uint64_t)n << 56;
}

static inline uint32_t key_hash(const uint64_t k[4])
{
	uint64_t h = (k[0] ^ k[3]) * 0x9E3779B97F4A7C15u;

	h ^= h >> 29;
	h = (h ^ k[1]) * 0xFF51AFD7ED558CCDu;
	h ^= h >> 32;
	h = (h ^ k[2]) * 0xC4CEB9FE1A85EC53u;
	return (uint32_t)(h >> 40) & (CACHE_SETS - 1);
}

static inline bool same_key(const struct cache_slot *c, const uint64_t k[4])
{
	return !((c->key[0] ^ k[0]) | (c->key[1] ^ k[1]) | (c->key[2] ^ k[2]) | (c->key[3] ^ k[3]));
}

/* The word's slot, or NULL; *set is where it would go. The newer of two stands first. */
static inline const struct cache_slot *find_word(const struct bpe_mem *m, const uint64_t key[4], struct cache_slot **set)
{
	*set = &m->cache[2 * key_hash(key)];
	if (same_key(*set, key))
		return *set;
	return same_key(*set + 1, key) ? *set + 1 : NULL;
}

static void store(const struct bpe *b, const struct bpe_mem *m, struct cache_slot *set, const uint64_t key[4], size_t n)
{
	uint32_t at = 0;

	if (m->n_sym > CACHE_IDS)
		return;
	for (size_t i = 0; i < m->n_sym; i++) { /* only what the lengths of the ids can give back */
		if (m->sym[i].b != at || m->sym[i].e - at != b->id_len[m->sym[i].id])
			return;
		at = m->sym[i].e;
	}
	if (at != n)
		return;
	set[1] = set[0];
	memcpy(set->key, key, sizeof(set->key));
	set->n = (uint32_t)m->n_sym;
	for (size_t i = 0; i < m->n_sym; i++)
		set->ids[i] = m->sym[i].id;
}

/* The word's symbols, merged, in m->sym. */
static void merge_word(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n)
{
	if (b->bytes)
		byte_symbols(b, m, s, n);
	else
		char_symbols(b, m, s, n);
	if (m->n_sym <= LINEAR_MAX && !b->traced)
		merge_linear(b, m);
	else
		merge_heap(b, m);
}

/* off: where the word stands in its piece. */
static void encode_word(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, size_t off, struct mtoks *out)
{
	const struct cache_slot *c = NULL;
	struct cache_slot *set = NULL;
	uint64_t key[4];

	if (n <= CACHE_KEY && m->cache) {
		make_key(s, n, key);
		c = find_word(m, key, &set);
	}
	for (uint32_t i = 0; c && i < c->n; i++) {
		size_t w = b->id_len[c->ids[i]];

		mtoks_add(out, c->ids[i], off, off + w);
		off += w;
	}
	if (c)
		return;
	merge_word(b, m, s, n);
	for (size_t i = 0; i < m->n_sym; i++)
		mtoks_add(out, m->sym[i].id, off + m->sym[i].b, off + m->sym[i].e);
	if (set)
		store(b, m, set, key, n);
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
			encode_word(b, m, s + from, i - from, from, out);
			from = i;
		}
		prev = c;
	}
	encode_word(b, m, s + from, n - from, from, out);
}

/* A whole word of the vocabulary, when merges do not matter. Kept among the words
 * where those are whole pieces too. */
static bool encode_whole(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, struct mtoks *out)
{
	int32_t id = vocab_find(b->whole, s, n);
	struct cache_slot *set;
	uint64_t key[4];

	if (id < 0)
		return false;
	mtoks_add(out, id, 0, n);
	if (n <= CACHE_KEY && m->cache && !b->joined) {
		m->n_sym = 0;
		add_sym(m, id, 0, n);
		make_key(s, n, key);
		find_word(m, key, &set);
		store(b, m, set, key, n);
	}
	return true;
}

void bpe_encode(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, struct mtoks *out)
{
	if (!n || (b->ignore_merges && encode_whole(b, m, s, n, out)))
		return;
	if (b->joined)
		encode_cut(b, m, s, n, out);
	else
		encode_word(b, m, s, n, 0, out);
}

bool bpe_encode_known(const struct bpe *b, struct bpe_mem *m, const char *s, size_t n, uint32_t base, struct tok_out *out)
{
	const struct cache_slot *c;
	struct cache_slot *set;
	uint64_t key[4];
	size_t at = out->n;

	if (n > CACHE_KEY || !m->cache || b->joined || out->cap - at < CACHE_IDS)
		return false;
	make_key(s, n, key);
	c = find_word(m, key, &set);
	if (!c)
		return false;
	for (uint32_t i = 0; i < c->n; i++) {
		out->ids[at] = c->ids[i];
		out->begin[at] = base;
		base += b->id_len[c->ids[i]];
		out->end[at++] = base;
	}
	out->n = at;
	return true;
}
