/* The CPU attention: blocks of 64 queries against the keys that they may see,
 * products by OpenBLAS inside one work item, items in parallel. */
#include "kernels/attn.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "base/compiler.h"
#include "kernels/device.h"
#include "kernels/lanes.h"

#define QB 64 /* queries in a block */

/* Of one thread: probabilities and their gradient for one block of queries, (QB, max_len) each. */
static uint64_t rows_of_scores(const struct device *d, int64_t max_seq)
{
	return (uint64_t)d->threads * 2 * QB * (uint64_t)(max_seq + LANES) * sizeof(float);
}

uint64_t kn_attn_scratch_cpu(const struct device *d, int64_t max_tokens, int64_t max_seq, int64_t n_heads, int64_t head_dim, bool train)
{
	(void)max_tokens;
	(void)n_heads;
	(void)head_dim;
	(void)train;
	return rows_of_scores(d, max_seq);
}

uint64_t kn_decode_scratch_cpu(const struct device *d, int64_t rows, int64_t max_seq, int64_t n_heads, int64_t head_dim)
{
	(void)n_heads;
	(void)head_dim;
	return rows ? rows_of_scores(d, max_seq) : 0;
}

/* What attn_bwd_workspace (attn_cuda.h) can be at the most: as many sequences as tokens. */
uint64_t kn_attn_scratch_cuda(const struct device *d, int64_t max_tokens, int64_t max_seq, int64_t n_heads, int64_t head_dim, bool train)
{
	(void)d;
	(void)max_seq;
	(void)head_dim;
	return train ? (uint64_t)(2 * n_heads * (5 * max_tokens + 2 * ATTN_TILE + 3)) * sizeof(float) : 0;
}

/* And attn_decode_workspace: keys in 32 pieces. */
uint64_t kn_decode_scratch_cuda(const struct device *d, int64_t rows, int64_t max_seq, int64_t n_heads, int64_t head_dim)
{
	(void)d;
	(void)max_seq;
	return rows ? (uint64_t)(65536 + rows * n_heads * (4 + 32 * (8 + 4 * head_dim)) + 256) : 0;
}

struct tile {
	int32_t seq, at;
};

static int by_work(const void *a, const void *b)
{
	const struct tile *x = a, *y = b;

	if (x->at != y->at)
		return x->at > y->at ? -1 : 1;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

int64_t attn_tiles(const int32_t *seq_start, int64_t n_seqs, int32_t *tiles)
{
	int64_t n = 0;

	for (int64_t s = 0; s < n_seqs; s++)
		for (int32_t i = 0; i * ATTN_TILE < seq_start[s + 1] - seq_start[s]; i++) {
			tiles[2 * n] = (int32_t)s;
			tiles[2 * n++ + 1] = i;
		}
	qsort(tiles, (size_t)n, 2 * sizeof(*tiles), by_work);
	return n;
}

static int64_t longest(const struct kn_attn_shape *s)
{
	int64_t m = 1;

	for (int64_t i = 0; i < s->n_seqs; i++)
		if (s->seq_start[i + 1] - s->seq_start[i] > m)
			m = s->seq_start[i + 1] - s->seq_start[i];
	return m;
}

/* The keys that queries [q0, q1) of a sequence may see: [first, q1). */
static int64_t first_key(const struct kn_attn_shape *s, int64_t q0)
{
	return s->window > 0 && q0 - s->window + 1 > 0 ? q0 - s->window + 1 : 0;
}

/* Visible keys of query i, as columns of a block that starts at key k0. */
static void visible(const struct kn_attn_shape *s, int64_t i, int64_t k0, int64_t *lo, int64_t *hi)
{
	*lo = first_key(s, i) - k0;
	*hi = i + 1 - k0;
}

/* p[0..n) <- e^(p - max), zero outside [lo, hi); returns the sum, *max. */
LP_CLONES
static float softmax_row(float *p, int64_t lo, int64_t hi, int64_t n, float *max)
{
	float m = lanes_max(p + lo, hi - lo), s[LANES] = { 0 };
	int64_t i = lo;

	for (int64_t j = 0; j < lo; j++)
		p[j] = 0;
	for (int64_t j = hi; j < n; j++)
		p[j] = 0;
	lanes_exp_less(p + lo, hi - lo, m);
	for (; i + LANES <= hi; i += LANES)
		for (int l = 0; l < LANES; l++)
			s[l] += p[i + l];
	for (int l = 0; i + l < hi; l++)
		s[l] += p[i + l];
	*max = m;
	return lanes_fold(s);
}

LP_CLONES
static void scale_to(float *o, const float *x, int64_t n, float by)
{
	for (int64_t i = 0; i < n; i++)
		o[i] = x[i] * by;
}

static void nt(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc)
{
	cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)n, (int)k, alpha, a, (int)lda, b, (int)ldb, 0, c, (int)ldc);
}

static void nn(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc)
{
	cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)n, (int)k, alpha, a, (int)lda, b, (int)ldb, 0, c, (int)ldc);
}

static void tn_add(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc)
{
	cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)m, (int)n, (int)k, alpha, a, (int)lda, b, (int)ldb, 1, c, (int)ldc);
}

/* Scores that do not grow past the cap. */
static void cap_row(float *p, int64_t n, float cap)
{
	for (int64_t j = 0; cap > 0 && j < n; j++)
		p[j] = cap * tanhf(p[j] / cap);
}

static void fwd_head(const struct kn_attn_shape *s, int64_t t0, int64_t len, int64_t h, const float *q, const float *k,
                     const float *v, float *o, float *lse, float *p)
{
	int64_t kvh = h / (s->n_heads / s->n_kv), d = s->head_dim;

	for (int64_t i0 = 0; i0 < len; i0 += QB) {
		int64_t i1 = i0 + QB < len ? i0 + QB : len, k0 = first_key(s, i0), n = i1 - k0;
		const float *kb = k + (t0 + k0) * s->ldk + kvh * d, *vb = v + (t0 + k0) * s->ldv + kvh * d;
		float *ob = o + (t0 + i0) * s->ldo + h * d, inv[QB];

		nt(i1 - i0, n, d, s->scale, q + (t0 + i0) * s->ldq + h * d, s->ldq, kb, s->ldk, p, n);
		for (int64_t i = i0; i < i1; i++) {
			int64_t lo, hi;
			float max, sum;

			visible(s, i, k0, &lo, &hi);
			cap_row(p + (i - i0) * n + lo, hi - lo, s->softcap);
			sum = softmax_row(p + (i - i0) * n, lo, hi, n, &max);
			inv[i - i0] = 1.0f / sum;
			lse[(t0 + i) * s->n_heads + h] = max + logf(sum);
		}
		nn(i1 - i0, d, n, 1, p, n, vb, s->ldv, ob, s->ldo);
		for (int64_t i = 0; i < i1 - i0; i++)
			scale_to(ob + i * s->ldo, ob + i * s->ldo, d, inv[i]);
	}
}

void kn_attn_fwd_cpu(struct device *dev, const struct kn_attn_shape *s, const void *q, const void *k, const void *v, void *o, float *lse)
{
	int64_t items = s->n_seqs * s->n_heads, room = 2 * QB * (longest(s) + LANES);

#pragma omp parallel for schedule(dynamic) num_threads(dev->threads)
	for (int64_t w = 0; w < items; w++) {
		int64_t seq = w / s->n_heads, t0 = s->seq_start[seq];

		fwd_head(s, t0, s->seq_start[seq + 1] - t0, w % s->n_heads, q, k, v, o, lse, (float *)s->scratch + omp_get_thread_num() * room);
	}
}

/* p <- e^(p - lse) on the visible keys, 0 elsewhere; ds <- p (ds - dd). */
LP_CLONES
static void bwd_row(float *p, float *ds, int64_t lo, int64_t hi, int64_t n, float lse, float dd)
{
	int64_t j = lo;

	for (int64_t i = 0; i < lo; i++)
		p[i] = ds[i] = 0;
	for (int64_t i = hi; i < n; i++)
		p[i] = ds[i] = 0;
	lanes_exp_less(p + lo, hi - lo, lse);
	for (; j + LANES <= hi; j += LANES)
		for (int l = 0; l < LANES; l++)
			ds[j + l] = p[j + l] * (ds[j + l] - dd);
	for (; j < hi; j++)
		ds[j] = p[j] * (ds[j] - dd);
}

/* The same of scores that a cap is still to be put on. */
static void bwd_row_capped(float *p, float *ds, int64_t lo, int64_t hi, int64_t n, float lse, float dd, float cap)
{
	for (int64_t j = 0; j < n; j++) {
		bool seen = j >= lo && j < hi;
		float t = seen ? tanhf(p[j] / cap) : 0;

		p[j] = seen ? expf(cap * t - lse) : 0;
		ds[j] = seen ? p[j] * (ds[j] - dd) * (1 - t * t) : 0;
	}
}

LP_CLONES
static float dot(const float *a, const float *b, int64_t n)
{
	return lanes_dot(a, b, n);
}

struct bwd {
	const struct kn_attn_shape *s;
	const float *q, *k, *v, *o, *lse, *d_o;
	float *dq, *dk, *dv;
};

static void bwd_head(const struct bwd *g, int64_t t0, int64_t len, int64_t h, float *p, float *ds)
{
	const struct kn_attn_shape *s = g->s;
	int64_t kvh = h / (s->n_heads / s->n_kv), d = s->head_dim;

	for (int64_t i0 = 0; i0 < len; i0 += QB) {
		int64_t i1 = i0 + QB < len ? i0 + QB : len, m = i1 - i0, k0 = first_key(s, i0), n = i1 - k0;
		int64_t qo = (t0 + i0) * s->ldq + h * d, oo = (t0 + i0) * s->ldo + h * d;
		int64_t ko = (t0 + k0) * s->ldk + kvh * d, vo = (t0 + k0) * s->ldv + kvh * d;

		nt(m, n, d, s->scale, g->q + qo, s->ldq, g->k + ko, s->ldk, p, n);
		nt(m, n, d, 1, g->d_o + oo, s->ldo, g->v + vo, s->ldv, ds, n);
		for (int64_t i = 0; i < m; i++) {
			float lse = g->lse[(t0 + i0 + i) * s->n_heads + h], dd = dot(g->d_o + oo + i * s->ldo, g->o + oo + i * s->ldo, d);
			int64_t lo, hi;

			visible(s, i0 + i, k0, &lo, &hi);
			if (s->softcap > 0)
				bwd_row_capped(p + i * n, ds + i * n, lo, hi, n, lse, dd, s->softcap);
			else
				bwd_row(p + i * n, ds + i * n, lo, hi, n, lse, dd);
		}
		tn_add(n, d, m, 1, p, n, g->d_o + oo, s->ldo, g->dv + vo, s->ldv);
		tn_add(n, d, m, s->scale, ds, n, g->q + qo, s->ldq, g->dk + ko, s->ldk);
		nn(m, d, n, s->scale, ds, n, g->k + ko, s->ldk, g->dq + qo, s->ldq);
	}
}

void kn_attn_bwd_cpu(struct device *dev, const struct kn_attn_shape *s, const void *q, const void *k, const void *v,
                     const void *o, const float *lse, const void *d_o, void *dq, void *dk, void *dv)
{
	struct bwd g = { s, q, k, v, o, lse, d_o, dq, dk, dv };
	int64_t items = s->n_seqs * s->n_kv, group = s->n_heads / s->n_kv, max = longest(s) + LANES;

#pragma omp parallel for schedule(dynamic) num_threads(dev->threads)
	for (int64_t w = 0; w < items; w++) {
		int64_t seq = w / s->n_kv, kvh = w % s->n_kv, t0 = s->seq_start[seq], len = s->seq_start[seq + 1] - t0;
		float *p = (float *)s->scratch + omp_get_thread_num() * 2 * QB * max;

		for (int64_t t = t0; t < t0 + len; t++) {
			memset(g.dk + t * s->ldk + kvh * s->head_dim, 0, (size_t)s->head_dim * sizeof(*g.dk));
			memset(g.dv + t * s->ldv + kvh * s->head_dim, 0, (size_t)s->head_dim * sizeof(*g.dv));
		}
		for (int64_t h = kvh * group; h < (kvh + 1) * group; h++)
			bwd_head(&g, t0, len, h, p, p + QB * max);
	}
}

LP_CLONES
static void axpy(float *y, const float *x, float a, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		y[i] += a * x[i];
}

static void decode_head(const struct kn_attn_shape *s, const float *q, const float *k, const float *v, int64_t width, int64_t len, float *o, float *p)
{
	int64_t d = s->head_dim, k0 = first_key(s, len - 1), n = len - k0;
	float max, sum;

	for (int64_t j = 0; j < n; j++)
		p[j] = dot(q, k + (k0 + j) * width, d) * s->scale;
	cap_row(p, n, s->softcap);
	sum = softmax_row(p, 0, n, n, &max);
	memset(o, 0, (size_t)d * sizeof(*o));
	for (int64_t j = 0; j < n; j++)
		axpy(o, v + (k0 + j) * width, p[j], d);
	scale_to(o, o, d, 1.0f / sum);
}

void kn_attn_decode_cpu(struct device *dev, const struct kn_attn_shape *s, const void *q, const struct kn_kv_cache *c,
                        const int32_t *slot, const int32_t *len, int64_t longest_len, void *o)
{
	int64_t items = s->n_tokens * s->n_heads, group = s->n_heads / s->n_kv;

#pragma omp parallel for schedule(dynamic) num_threads(dev->threads) if (items * longest_len * s->head_dim > 32768)
	for (int64_t w = 0; w < items; w++) {
		int64_t i = w / s->n_heads, h = w % s->n_heads, at = slot[i] * c->slot_stride + h / group * s->head_dim;

		decode_head(s, (const float *)q + i * s->ldq + h * s->head_dim, (const float *)c->k + at, (const float *)c->v + at, c->width,
		            len[i], (float *)o + i * s->ldo + h * s->head_dim,
		            (float *)s->decode_scratch + omp_get_thread_num() * 2 * QB * (longest_len + LANES));
	}
}

void kn_kv_append_cpu(struct device *d, const struct kn_attn_shape *s, const struct kn_kv_cache *c, const void *k, const void *v,
                      const int32_t *slot, const int32_t *pos, int64_t t)
{
	(void)d;
	for (int64_t i = 0; i < t; i++) {
		int64_t at = slot[i] * c->slot_stride + pos[i] * c->width;

		memcpy((float *)c->k + at, (const float *)k + i * s->ldk, (size_t)c->width * sizeof(float));
		memcpy((float *)c->v + at, (const float *)v + i * s->ldv, (size_t)c->width * sizeof(float));
	}
}

void kn_kv_turn_cpu(struct device *d, const struct kn_attn_shape *s, const struct kn_kv_cache *c, void *qkv, const float *cos_tab,
                    const float *sin_tab, const int32_t *slot, const int32_t *pos, int64_t t)
{
	float *k = (float *)qkv + s->n_heads * s->head_dim;

	kn_rope_cpu(d, qkv, s->ldq, pos, cos_tab, sin_tab, t, s->n_heads + s->n_kv, s->head_dim, s->head_dim, false);
	kn_kv_append_cpu(d, s, c, k, k + s->n_kv * s->head_dim, slot, pos, t);
}
