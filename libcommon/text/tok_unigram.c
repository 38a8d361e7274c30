/* Unigram: the best path through the pieces by the sum of their scores, in the
 * order of additions and comparisons of the reference, so ties fall alike. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "text/tok_models.h"
#include "text/utf8.h"

#define UNK_PENALTY 10.0

struct edge { /* trie: (node, byte) -> node */
	uint64_t key; /* node << 8 | byte, +1; 0: empty */
	uint32_t to;
};
struct unigram {
	const struct vocab *v;
	double *score; /* by id */
	struct edge *edges;
	uint64_t mask;
	unsigned shift;
	int32_t *piece; /* by trie node: id or -1 */
	uint32_t n_nodes;
	int32_t unk; /* -1: none */
	double unk_score;
	bool byte_fallback;
	int32_t byte_id[256];
	/* SentencePiece: */
	bool single;        /* sums are single precision */
	bool *chosen;       /* by id */
	float max;
};
struct node { /* best path that ends before byte i */
	double score;
	int64_t from; /* -1: none */
	int32_t id;
};
struct unigram_mem {
	struct node *best;
	size_t cap;
	struct mtoks path;
};

void unigram_free(struct unigram *u)
{
	if (!u)
		return;
	free(u->score);
	free(u->chosen);
	free(u->edges);
	free(u->piece);
	free(u);
}

struct unigram_mem *unigram_mem_new(void)
{
	return xcalloc(1, sizeof(struct unigram_mem));
}

void unigram_mem_free(struct unigram_mem *m)
{
	if (!m)
		return;
	free(m->best);
	free(m->path.t);
	free(m);
}

static struct edge *edge_at(const struct unigram *u, uint32_t node, unsigned char byte)
{
	uint64_t key = ((uint64_t)node << 8 | byte) + 1, h = key * 0x9E3779B97F4A7C15u >> u->shift;

	while (u->edges[h].key && u->edges[h].key != key)
		h = (h + 1) & u->mask;
	return &u->edges[h];
}

static int build_trie(struct unigram *u, struct err *e)
{
	size_t bytes = 0, n, slots = 16;
	unsigned log2 = 4;

	for (size_t id = 0; id < u->v->n_ids; id++)
		bytes += u->v->str[id].len > 0 ? (size_t)u->v->str[id].len : 0;
	while (slots < bytes * 2) {
		slots *= 2;
		log2++;
	}
	u->edges = lp_try_alloc(slots, sizeof(*u->edges), "the pieces' trie", e);
	u->piece = lp_try_alloc(bytes + 1, sizeof(*u->piece), "the pieces' trie", e);
	if (!u->edges || !u->piece)
		return -1;
	memset(u->edges, 0, slots * sizeof(*u->edges));
	u->mask = slots - 1;
	u->shift = 64 - log2;
	u->piece[0] = -1;
	u->n_nodes = 1;
	for (size_t id = 0; id < u->v->n_ids; id++) {
		const char *s = vocab_str(u->v, (int32_t)id, &n);
		uint32_t at = 0;

		for (size_t i = 0; s && i < n; i++) {
			struct edge *x = edge_at(u, at, (unsigned char)s[i]);

			if (!x->key) {
				x->key = ((uint64_t)at << 8 | (unsigned char)s[i]) + 1;
				x->to = u->n_nodes;
				u->piece[u->n_nodes++] = -1;
			}
			at = x->to;
		}
		if (s && n)
			u->piece[at] = vocab_find(u->v, s, n);
	}
	return 0;
}

static int load_pieces(struct unigram *u, const struct json *list, struct vocab *v, struct err *e)
{
	double min = INFINITY;

	if (!json_is(list, JSON_ARR) || !list->n)
		return err_set(e, LP_DATA, "model Unigram: vocab is not a list of pieces");
	if (vocab_reserve(v, list->n, e))
		return -1;
	u->score = xcalloc(list->n, sizeof(*u->score));
	for (uint32_t i = 0; i < list->n; i++) {
		const struct json *p = &list->items[i];

		if (p->type != JSON_ARR || p->n != 2 || p->items[0].type != JSON_STR || !json_as_f64(&p->items[1], &u->score[i]))
			return err_set(e, LP_DATA, "model Unigram: piece %u is not [text, score]", i);
		if (vocab_add(v, p->items[0].s, p->items[0].n, i, e))
			return -1;
		if (u->score[i] < min)
			min = u->score[i];
	}
	u->unk_score = min - UNK_PENALTY;
	return 0;
}

struct unigram *unigram_new(const struct json *model, struct vocab *v, struct err *e)
{
	struct unigram *u = xcalloc(1, sizeof(*u));
	int64_t unk;

	u->v = v;
	if (load_pieces(u, json_get(model, "vocab"), v, e) || build_trie(u, e))
		goto bad;
	if (!json_get_i64(model, "unk_id", -1, &unk) || !json_get_bool(model, "byte_fallback", false, &u->byte_fallback) || unk >= (int64_t)v->n_ids) {
		err_set(e, LP_DATA, "model Unigram: unk_id or byte_fallback is wrong");
		goto bad;
	}
	u->unk = (int32_t)unk;
	for (int i = 0; i < 256; i++) {
		char name[7] = { '<', '0', 'x', "0123456789ABCDEF"[i >> 4], "0123456789ABCDEF"[i & 15], '>', 0 };

		u->byte_id[i] = vocab_find(v, name, 6);
	}
	return u;
bad:
	unigram_free(u);
	return NULL;
}

struct unigram *unigram_from_scores(const struct vocab *v, const struct unigram_scores *s, struct err *e)
{
	struct unigram *u = xcalloc(1, sizeof(*u));

	u->v = v;
	u->single = true;
	u->max = s->max;
	u->unk = s->unk;
	u->unk_score = s->min - (float)UNK_PENALTY;
	u->score = xcalloc(v->n_ids + 1, sizeof(*u->score));
	u->chosen = xcalloc(v->n_ids + 1, sizeof(*u->chosen));
	for (size_t id = 0; id < v->n_ids; id++) {
		u->score[id] = s->score[id];
		u->chosen[id] = s->chosen[id];
	}
	if (build_trie(u, e)) {
		unigram_free(u);
		return NULL;
	}
	for (uint32_t i = 0; i < u->n_nodes; i++)
		if (u->piece[i] >= 0 && s->unused[u->piece[i]])
			u->piece[i] = -1;
	return u;
}

/* The score of a path and a piece more. Of equal ones the first stays, so each sum
 * is rounded as the reference rounds it. A chosen piece wins by its length. */
static double longer(const struct unigram *u, double here, int32_t id, size_t len)
{
	if (!u->single)
		return u->score[id] + here;
	return (float)(u->chosen[id] ? (float)len * u->max - 0.1 : u->score[id]) + (float)here;
}

static void relax(struct node *to, double score, size_t from, int32_t id)
{
	if (to->from >= 0 && !(score > to->score))
		return;
	to->score = score;
	to->from = (int64_t)from;
	to->id = id;
}

static int best_paths(const struct unigram *u, struct unigram_mem *m, const char *s, size_t n, struct err *e)
{
	if (m->cap < n + 1) {
		free(m->best);
		m->cap = 0;
		m->best = lp_try_alloc(n + 1, sizeof(*m->best), "the pieces of a text", e);
		if (!m->best)
			return -1;
		m->cap = n + 1;
	}
	for (size_t i = 0; i <= n; i++)
		m->best[i] = (struct node){ 0, -1, 0 };
	for (size_t i = 0; i < n;) {
		double here = m->best[i].score;
		size_t w = utf8_len((unsigned char)s[i]), j;
		uint32_t at = 0;
		bool single = false;

		for (j = i; j < n; j++) {
			const struct edge *x = edge_at(u, at, (unsigned char)s[j]);

			if (!x->key)
				break;
			at = x->to;
			if (u->piece[at] < 0)
				continue;
			relax(&m->best[j + 1], longer(u, here, u->piece[at], j + 1 - i), i, u->piece[at]);
			single |= j + 1 - i == w;
		}
		if (!single) {
			if (u->unk < 0)
				return err_set(e, LP_DATA, "the text has a character outside the vocabulary, which has no unknown token");
			relax(&m->best[i + w], u->single ? (float)u->unk_score + (float)here : u->unk_score + here, i, u->unk);
		}
		i += w;
	}
	return 0;
}

/* One stretch of the path: a piece, or unknown characters fused. */
static void emit(const struct unigram *u, const char *s, size_t b, size_t e, struct mtoks *out)
{
	int32_t id = vocab_find(u->v, s + b, e - b);
	size_t i;

	if (id < 0 && u->byte_fallback) {
		for (i = b; i < e && u->byte_id[(unsigned char)s[i]] >= 0; i++)
			;
		if (i == e) {
			for (i = b; i < e; i++)
				mtoks_add(out, u->byte_id[(unsigned char)s[i]], i, i + 1);
			return;
		}
	}
	mtoks_add(out, id < 0 ? u->unk : id, b, e);
}

int unigram_encode(const struct unigram *u, struct unigram_mem *m, const char *s, size_t n, struct mtoks *out, struct err *e)
{
	if (!n)
		return 0;
	if (best_paths(u, m, s, n, e))
		return -1;
	m->path.n = 0;
	for (size_t end = n; end > 0; end = (size_t)m->best[end].from) {
		struct mtok *last = m->path.n ? &m->path.t[m->path.n - 1] : NULL;
		size_t from = (size_t)m->best[end].from;

		if (!u->single && last && u->unk >= 0 && last->id == u->unk && m->best[end].id == u->unk)
			last->b = (uint32_t)from;
		else
			mtoks_add(&m->path, m->best[end].id, from, end);
	}
	for (size_t i = m->path.n; i-- > 0;)
		if (u->single)
			mtoks_add(out, m->path.t[i].id, m->path.t[i].b, m->path.t[i].e);
		else
			emit(u, s, m->path.t[i].b, m->path.t[i].e, out);
	return 0;
}
