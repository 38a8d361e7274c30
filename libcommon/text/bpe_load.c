/* Reading a BPE model: vocabulary tables and merges. */
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "text/bpe_int.h"
#include "text/pretok.h"
#include "text/utf8.h"

void bpe_free(struct bpe *b)
{
	if (!b)
		return;
	if (!b->borrowed) {
		vocab_release(&b->raw);
		lp_pages_free(b->merges, (b->mask + 1) * sizeof(*b->merges));
		free(b->first);
		free(b->direct);
		free(b->joined);
	}
	free(b->joined_ascii);
	free(b);
}

static int load_affix(const struct json *m, const char *key, char *buf, size_t *len, struct err *e)
{
	const char *s;

	if (!json_get_str(m, key, NULL, &s) || (s && strlen(s) >= BPE_AFFIX_MAX))
		return err_set(e, LP_DATA, "model BPE: %s is not a short string", key);
	*len = s ? strlen(s) : 0;
	if (s)
		memcpy(buf, s, *len);
	return 0;
}

static int load_flags(struct bpe *b, const struct json *m, struct err *e)
{
	const char *unk;
	double dropout;

	if (!json_get_bool(m, "byte_fallback", false, &b->byte_fallback) || !json_get_bool(m, "fuse_unk", false, &b->fuse_unk) ||
	    !json_get_bool(m, "ignore_merges", false, &b->ignore_merges) || !json_get_str(m, "unk_token", NULL, &unk) ||
	    !json_get_f64(m, "dropout", 0, &dropout))
		return err_set(e, LP_DATA, "model BPE: a field has the wrong type");
	if (dropout != 0)
		return err_set(e, LP_USAGE, "model BPE: dropout %g makes tokens random and is not supported; set it to null", dropout);
	if (load_affix(m, "continuing_subword_prefix", b->prefix, &b->prefix_len, e) || load_affix(m, "end_of_word_suffix", b->suffix, &b->suffix_len, e))
		return -1;
	b->unk = unk ? vocab_find(b->v, unk, strlen(unk)) : -1;
	return 0;
}

/* The bytes that a byte-level string stands for; false when it is not one. */
static bool unmap(const char *s, size_t n, char *out, size_t *len)
{
	unsigned w;

	*len = 0;
	for (size_t i = 0; i < n; i += w) {
		int c = char_to_byte(utf8_get(s + i, &w));

		if (c < 0)
			return false;
		out[(*len)++] = (char)c;
	}
	return true;
}

/* Byte mode is right when every byte has its token, or a missing one is simply dropped. */
static void find_bytes(struct bpe *b, bool want)
{
	char u[4];

	b->bytes = want && !b->prefix_len && !b->suffix_len;
	for (int i = 0; i < 256; i++) {
		b->byte_id[i] = vocab_find(b->v, u, utf8_put(u, byte_to_char((unsigned char)i)));
		if (b->byte_id[i] < 0 && (b->unk >= 0 || b->byte_fallback))
			b->bytes = false;
	}
	if (b->bytes)
		return;
	for (int i = 0; i < 256; i++) {
		char name[7] = { '<', '0', 'x', "0123456789ABCDEF"[i >> 4], "0123456789ABCDEF"[i & 15], '>', 0 };

		b->byte_id[i] = b->byte_fallback ? vocab_find(b->v, name, 6) : -1;
	}
}

/* --- whole words --- */

/* Tokens as the bytes that they stand for. */
static int load_raw(struct bpe *b, struct err *e)
{
	char buf[65536];
	size_t n, len;

	if (!b->ignore_merges)
		return 0;
	if (vocab_reserve(&b->raw, b->v->n_strings, e))
		return -1;
	for (size_t id = 0; id < b->v->n_ids; id++) {
		const char *s = vocab_str(b->v, (int32_t)id, &n);

		if (!s || n > sizeof(buf) || !unmap(s, n, buf, &len) || !len)
			continue;
		if (len <= WORD_BYTES)
			vocab_put_short(&b->raw, buf, len, (int32_t)id);
		else if (vocab_add(&b->raw, buf, len, (int64_t)id, e))
			return -1;
	}
	return 0;
}

static void load_direct(struct bpe *b)
{
	size_t n;
	unsigned w;

	b->direct = xmalloc(BPE_DIRECT * sizeof(*b->direct));
	memset(b->direct, 0xFF, BPE_DIRECT * sizeof(*b->direct));
	for (size_t id = 0; id < b->v->n_ids; id++) {
		const char *s = vocab_str(b->v, (int32_t)id, &n);

		if (!s || !n)
			continue;
		if (n <= 3 && utf8_valid_len(s, n) == n && utf8_len((unsigned char)*s) == n && utf8_get(s, &w) < BPE_DIRECT)
			b->direct[utf8_get(s, &w)] = vocab_find(b->v, s, n);
	}
}

/* --- merges --- */

static void put_merge(struct bpe *b, int32_t l, int32_t r, uint32_t rank, int32_t id)
{
	uint64_t key = bpe_pair_key(l, r), h = key * BPE_PAIR_MIX >> b->shift;

	for (;; h = (h + 1) & b->mask) {
		struct bpe_bucket *x = &b->merges[h];

		for (int i = 0; i < BPE_BUCKET; i++) {
			if (x->pair[i] && x->pair[i] != key)
				continue;
			x->pair[i] = key; /* the last of equal pairs stays, as in the reference */
			x->rank[i] = rank;
			x->id[i] = (x->id[i] & BPE_SPILT) | (uint32_t)id;
			return;
		}
		x->id[0] |= BPE_SPILT;
	}
}

/* The two halves of one merge: "a b" or ["a","b"]. */
static bool halves(const struct json *v, const char *s[2], size_t n[2])
{
	const char *sp;

	if (v->type == JSON_ARR && v->n == 2 && v->items[0].type == JSON_STR && v->items[1].type == JSON_STR) {
		for (int i = 0; i < 2; i++) {
			s[i] = v->items[i].s;
			n[i] = v->items[i].n;
		}
		return true;
	}
	if (v->type != JSON_STR)
		return false;
	sp = memchr(v->s, ' ', v->n);
	if (!sp || memchr(sp + 1, ' ', v->n - (size_t)(sp - v->s) - 1))
		return false;
	s[0] = v->s;
	n[0] = (size_t)(sp - v->s);
	s[1] = sp + 1;
	n[1] = v->n - n[0] - 1;
	return true;
}

static inline void mark_pair(struct bpe *b, uint32_t x, uint32_t y)
{
	uint32_t k = bpe_joined_bit(x, y);

	b->joined[k >> 6] |= 1ull << (k & 63);
}

/* Any characters that stand side by side in s. */
static void mark_joined(struct bpe *b, const char *s, size_t n)
{
	unsigned w;
	uint32_t prev, c;

	if (!n)
		return;
	prev = utf8_get(s, &w);
	for (size_t i = w; i < n; i += w) {
		c = utf8_get(s + i, &w);
		mark_pair(b, prev, c);
		prev = c;
	}
}

/* The two that a merge brings together; those within its halves are other merges'. */
static void mark_merge(struct bpe *b, const struct bpe_pair_ids *p, int32_t to)
{
	size_t n = 0;
	const char *s = vocab_str(b->v, to, &n);
	unsigned w;

	if (p->cut && p->cut < n)
		mark_pair(b, utf8_get(s + utf8_prev(s, p->cut), &w), utf8_get(s + p->cut, &w));
}

/* Merges of a tree by their halves; a line of the file's version is no merge, id -1. */
static int pairs_from(const struct bpe *b, const struct json *list, struct bpe_pairs *out, struct err *e)
{
	if (!json_is(list, JSON_ARR))
		return err_set(e, LP_DATA, "model BPE: merges is not a list");
	out->p = lp_pages_grow(NULL, &out->cap, list->n, sizeof(*out->p));
	out->n = list->n;
	for (uint32_t i = 0; i < list->n; i++) {
		const struct json *v = &list->items[i];
		const char *s[2];
		size_t n[2];

		out->p[i] = (struct bpe_pair_ids){ { -1, -1 }, -1, 0 };
		if (v->type == JSON_STR && !strncmp(v->s, "#version", 8))
			continue;
		if (!halves(v, s, n))
			return err_set(e, LP_DATA, "model BPE: merge %u is not two tokens", i);
		out->p[i].cut = (uint32_t)n[0];
		for (int k = 0; k < 2; k++) {
			out->p[i].id[k] = vocab_find(b->v, s[k], n[k]);
			if (out->p[i].id[k] < 0)
				return err_set(e, LP_DATA, "model BPE: merge %u: '%.*s' is not in the vocabulary", i, (int)(n[k] < 100 ? n[k] : 100), s[k]);
		}
	}
	return 0;
}

#define MERGE_MAX 65536 /* bytes of what one makes */

/* What the merge of two tokens makes, into buf. False: too long. */
static bool join(const struct bpe *b, const struct bpe_pair_ids *p, char buf[MERGE_MAX], size_t *len)
{
	size_t n[2] = { 0, 0 }, skip;
	const char *l = vocab_str(b->v, p->id[0], &n[0]), *r = vocab_str(b->v, p->id[1], &n[1]);

	skip = n[1] < b->prefix_len ? n[1] : b->prefix_len;
	*len = n[0] + n[1] - skip;
	if (*len > MERGE_MAX)
		return false;
	memcpy(buf, l, n[0]);
	memcpy(buf + n[0], r + skip, n[1] - skip);
	return true;
}

/* Tokens that stand for a byte, or look so, are within these two. */
static void byte_tokens(const struct bpe *b, int32_t *lo, int32_t *hi)
{
	*lo = INT32_MAX;
	*hi = -1;
	for (size_t id = 0, n; b->byte_fallback && id < b->v->n_ids; id++) {
		const char *s = vocab_str(b->v, (int32_t)id, &n);

		if (!s || n != 6 || memcmp(s, "<0x", 3) != 0)
			continue;
		*lo = (int32_t)id < *lo ? (int32_t)id : *lo;
		*hi = (int32_t)id;
	}
}

/* The token that merge i makes: p->to when that is known. */
static int made(const struct bpe *b, const struct bpe_pair_ids *p, uint32_t i, int32_t *to, struct err *e)
{
	char buf[MERGE_MAX];
	size_t len;

	*to = p->to;
	if (*to >= 0 && !b->prefix_len)
		return 0;
	if (!join(b, p, buf, &len))
		return err_set(e, LP_DATA, "model BPE: merge %u is longer than %d bytes", i, MERGE_MAX);
	*to = vocab_find(b->v, buf, len);
	if (*to < 0)
		return err_set(e, LP_DATA, "model BPE: merge %u makes '%.*s', which is not in the vocabulary", i, (int)(len < 100 ? len : 100), buf);
	return 0;
}

/* Cutting between characters is exact when no merge takes byte tokens and every
 * character leaves a token of its own: one that is dropped, or fused with other
 * unknowns, would join its neighbours. */
static bool may_cut(const struct bpe *b)
{
	bool all = b->byte_fallback;

	if (b->bytes || b->prefix_len || b->suffix_len)
		return false;
	for (int i = 0; i < 256; i++)
		all = all && b->byte_id[i] >= 0;
	return all || (b->unk >= 0 && !b->fuse_unk && !b->byte_fallback);
}

/* An empty table for n merges. */
static int new_table(struct bpe *b, size_t n, struct err *e)
{
	size_t slots = 4; /* buckets */
	unsigned log2 = 2;

	while (slots * BPE_BUCKET < n * 3 / 2) {
		slots *= 2;
		log2++;
	}
	b->merges = lp_pages(slots * sizeof(*b->merges));
	if (!b->merges)
		return err_set(e, LP_DEVICE, "out of memory for %zu merges", n);
	b->mask = slots - 1;
	b->shift = 64 - log2;
	return 0;
}

/* What each two bytes make, so that a word's first look-ups are near. */
static void find_first(struct bpe *b)
{
	struct bpe_first *f = b->bytes ? xmalloc(256 * 256 * sizeof(*f)) : NULL;

	b->first = f;
	for (int i = 0; f && i < 256 * 256; i++) {
		int32_t l = b->byte_id[i >> 8], r = b->byte_id[i & 255];

		f[i] = (struct bpe_first){ BPE_NO_RANK, -1 };
		if (l >= 0 && r >= 0)
			f[i].rank = bpe_pair(b, l, r, &f[i].id);
	}
}

/* A text can be marked where the mark is a character of the model, as it is: then
 * each word of the text, spaces and all, always has the same tokens. */
static void find_marked(struct bpe *b)
{
	if (!b->joined || b->traced || b->ignore_merges || !b->direct || b->direct[BPE_MARK] < 0)
		return;
	b->joined_ascii = xmalloc(128 * 128);
	for (uint32_t i = 0; i < 128 * 128; i++) {
		uint32_t l = i >> 7, r = i & 127;

		b->joined_ascii[i] = bpe_joined(b, l == ' ' ? BPE_MARK : l, r == ' ' ? BPE_MARK : r);
	}
}

bool bpe_takes_marks(const struct bpe *b)
{
	return b->joined_ascii != NULL;
}

void bpe_set_final(struct bpe *b, const struct bpe_final *f)
{
	b->final = f;
}

#define AHEAD 16 /* merges whose memory is asked for together */

static int load_pairs(struct bpe *b, const struct bpe_pairs *m, struct err *e)
{
	int32_t to, lo, hi;
	bool byte_merges = false;

	if (new_table(b, m->n, e))
		return -1;
	if (may_cut(b))
		b->joined = xcalloc((1u << BPE_JOINED_BITS) / 64, sizeof(*b->joined));
	byte_tokens(b, &lo, &hi);
	for (size_t i = 0; i < m->n; i++) {
		const struct bpe_pair_ids *p = &m->p[i], *ahead = &m->p[i + AHEAD < m->n ? i + AHEAD : i];

		bpe_want(b, ahead->id[0], ahead->id[1]);
		if (p->id[0] < 0)
			continue;
		if (made(b, p, (uint32_t)i, &to, e))
			return -1;
		for (int k = 0; k < 2; k++)
			byte_merges |= p->id[k] >= lo && p->id[k] <= hi;
		if (b->joined)
			mark_merge(b, p, to);
		put_merge(b, p->id[0], p->id[1], (uint32_t)i, to);
	}
	if (byte_merges) {
		free(b->joined);
		b->joined = NULL;
	}
	return 0;
}

static int load_merges(struct bpe *b, const struct bpe_pairs *given, const struct json *list, struct err *e)
{
	struct bpe_pairs m = { 0 };
	int rc;

	if (given)
		return load_pairs(b, given, e);
	rc = pairs_from(b, list, &m, e);
	if (!rc)
		rc = load_pairs(b, &m, e);
	lp_pages_free(m.p, m.cap * sizeof(*m.p));
	return rc;
}

static int make_tables(struct bpe *b, const struct bpe_pairs *merges, const struct json *list, struct err *e)
{
	if (!b->bytes)
		load_direct(b);
	else if (load_raw(b, e))
		return -1;
	if (load_merges(b, merges, list, e))
		return -1;
	find_first(b);
	return 0;
}

struct bpe *bpe_new(const struct json *model, const struct bpe_pairs *merges, const struct bpe_tables *tables, const struct vocab *v, bool want_bytes, struct err *e)
{
	struct bpe *b = xcalloc(1, sizeof(*b));
	int rc;

	b->v = v;
	rc = load_flags(b, model, e);
	if (!rc) {
		find_bytes(b, want_bytes);
		b->whole = b->bytes ? &b->raw : v;
		rc = tables ? bpe_borrow(b, tables, e) : make_tables(b, merges, json_get(model, "merges"), e);
	}
	if (!rc) {
		find_marked(b);
		return b;
	}
	bpe_free(b);
	return NULL;
}

/* --- from ranks --- */

struct way {
	int32_t l, r;
	uint32_t rank;
	int32_t id;
};
struct ways {
	struct way *w;
	size_t n, cap;
};

#define SPLITS 16 /* looked up together */

static inline size_t step(const struct bpe *b, char c)
{
	return b->bytes ? 1 : utf8_len((unsigned char)c);
}

static void add_way(struct ways *l, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
	if (l->n == l->cap)
		l->w = lp_pages_grow(l->w, &l->cap, l->n + 1, sizeof(*l->w));
	l->w[l->n++] = (struct way){ left, right, rank, id };
}

/* A token's halves at each place where it can be cut, asked for. */
struct cuts {
	uint64_t key[SPLITS][2][2];
	size_t n, at; /* at: the place of the first */
};

/* From byte c->at on, as many as there is room for. */
static void want_cuts(const struct bpe *b, int32_t id, struct cuts *c)
{
	size_t n, i = c->at, room;
	const char *s = vocab_str(b->v, id, &n);

	c->n = 0;
	if (!s)
		return;
	room = b->v->pool_cap - b->v->str[id].off;
	for (; c->n < SPLITS && i < n; c->n++, i += step(b, s[i])) {
		uint64_t (*key)[2] = c->key[c->n];

		vocab_key(s, i, room, key[0]);
		vocab_key(s + i, n - i, room - i, key[1]);
		vocab_want(b->v, key[0]);
		vocab_want(b->v, key[1]);
	}
}

/* Every way to make token id of two tokens. c: its first cuts. */
static void find_pairs(const struct bpe *b, int32_t id, uint32_t rank, struct cuts *c, struct ways *l)
{
	size_t n;
	const char *s = vocab_str(b->v, id, &n);

	for (; c->n; want_cuts(b, id, c))
		for (size_t w = 0; w < c->n; c->at += step(b, s[c->at]), w++) {
			int32_t left = vocab_find_key(b->v, s, c->at, c->key[w][0]), right;

			right = left < 0 ? -1 : vocab_find_key(b->v, s + c->at, n - c->at, c->key[w][1]);
			if (right >= 0)
				add_way(l, left, right, rank, id);
		}
}

#define TOKENS 4 /* tokens whose cuts are asked for early */

static void start_cuts(const struct bpe *b, size_t id, struct cuts *c)
{
	size_t n;
	const char *s = vocab_str(b->v, (int32_t)id, &n);

	c->at = s && n ? step(b, *s) : 0;
	want_cuts(b, s && n ? (int32_t)id : -1, c);
}

static int load_ranks(struct bpe *b, const uint32_t *rank, struct err *e)
{
	struct ways l = { 0 };
	struct cuts c[TOKENS];
	size_t n;
	int rc;

	if (may_cut(b) && !b->traced)
		b->joined = xcalloc((1u << BPE_JOINED_BITS) / 64, sizeof(*b->joined));
	for (size_t id = 0; id < TOKENS; id++)
		start_cuts(b, id, &c[id]);
	for (size_t id = 0; id < b->v->n_ids; id++) {
		const char *s = vocab_str(b->v, (int32_t)id, &n);

		if (s && n && rank[id] != BPE_NO_RANK) {
			find_pairs(b, (int32_t)id, rank[id], &c[id % TOKENS], &l);
			if (b->joined)
				mark_joined(b, s, n);
		}
		start_cuts(b, id + TOKENS, &c[id % TOKENS]);
	}
	rc = new_table(b, l.n, e);
	for (size_t i = 0; i < l.n && !rc; i++) {
		const struct way *ahead = &l.w[i + AHEAD < l.n ? i + AHEAD : i];

		bpe_want(b, ahead->l, ahead->r);
		put_merge(b, l.w[i].l, l.w[i].r, l.w[i].rank, l.w[i].id);
	}
	lp_pages_free(l.w, l.cap * sizeof(*l.w));
	return rc;
}

static int tables_of_ranks(struct bpe *b, const uint32_t *rank, struct err *e)
{
	if (!b->bytes)
		load_direct(b);
	if (load_ranks(b, rank, e))
		return -1;
	find_first(b);
	return 0;
}

struct bpe *bpe_from_ranks(const struct vocab *v, const uint32_t *rank, bool bytes, int32_t unk, const bool *traced, const struct bpe_tables *tables, struct err *e)
{
	struct bpe *b = xcalloc(1, sizeof(*b));

	b->v = b->whole = v;
	b->bytes = b->ignore_merges = bytes;
	b->unk = unk;
	b->traced = traced;
	for (int i = 0; i < 256; i++) {
		char c = (char)i;

		b->byte_id[i] = bytes ? vocab_find(v, &c, 1) : -1;
	}
	if (tables ? bpe_borrow(b, tables, e) : tables_of_ranks(b, rank, e)) {
		bpe_free(b);
		return NULL;
	}
	find_marked(b);
	return b;
}
