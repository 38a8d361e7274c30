/* The fold of one matrix. Fast: tiles of a row in fp64, four ranks at a time,
 * in the order that merge.h defines. Slow: the definition. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "base/xalloc.h"
#include "model/merge.h"

enum { TILE = 128 }; /* columns: at rank 16, A's part of a tile and all sums stay in the first cache */

static int widen(const struct tensor *t, double **out, struct err *e)
{
	size_t n = (size_t)tensor_elems(t);
	float *f = lp_try_alloc(n, sizeof(*f), "adapter matrix", e);
	double *d = f ? lp_try_alloc(n, sizeof(*d), "adapter matrix", e) : NULL;
	bool finite = true;

	if (!d) {
		free(f);
		return -1;
	}
	to_f32(t->dtype, t->data, f, n);
	for (size_t i = 0; i < n; i++) {
		d[i] = (double)f[i];
		finite &= isfinite(f[i]) != 0;
	}
	free(f);
	*out = d;
	return finite ? 0 : err_set(e, LP_DATA, "tensor '%.200s' has infinite or NaN values: the training diverged", t->name);
}

int fold_add(struct fold *f, const struct tensor *w, const struct peft_module *m, double weight, struct err *e)
{
	struct fold_term *t;

	if (w->n_dims != 2 || m->b->shape[0] != w->shape[0] || m->a->shape[1] != w->shape[1])
		return err_set(e, LP_USAGE, "module '%.200s' is %" PRIu64 " x %" PRIu64 " in the adapter and not in the model: it is of another base",
			       m->path, m->b->shape[0], m->a->shape[1]);
	f->rows = (int64_t)w->shape[0];
	f->cols = (int64_t)w->shape[1];
	f->terms = xrealloc(f->terms, (f->n_terms + 1) * sizeof(*f->terms));
	t = &f->terms[f->n_terms++];
	*t = (struct fold_term){ .r = m->r, .coef = m->scale * weight };
	if (widen(m->a, &t->a, e) || widen(m->b, &t->b, e))
		return -1;
	return m->m ? widen(m->m, &f->m, e) : 0;
}

void fold_release(struct fold *f)
{
	for (size_t i = 0; i < f->n_terms; i++) {
		free(f->terms[i].a);
		free(f->terms[i].b);
	}
	free(f->terms);
	free(f->m);
	memset(f, 0, sizeof(*f));
}

/* s[j] += b_k a_k[j] over all k, in order. The products are exact in fp64, so
 * that fusing them into the sums, where the machine can, changes no bit. */
LP_CLONES LP_FUSED static void add_products(double *restrict s, const double *a, const double *b, int64_t r, int64_t stride, int n)
{
	int64_t k = 0;

	for (; k + 4 <= r; k += 4) {
		const double *a0 = a + k * stride, *a1 = a0 + stride, *a2 = a1 + stride, *a3 = a2 + stride;
		double b0 = b[k], b1 = b[k + 1], b2 = b[k + 2], b3 = b[k + 3];

#pragma omp simd
		for (int j = 0; j < n; j++)
			s[j] = (((s[j] + b0 * a0[j]) + b1 * a1[j]) + b2 * a2[j]) + b3 * a3[j];
	}
	for (; k < r; k++) {
		const double *ak = a + k * stride, bk = b[k];

#pragma omp simd
		for (int j = 0; j < n; j++)
			s[j] += bk * ak[j];
	}
}

/* A tile on its way to the output. The loops below keep to one width each, which lets them be vectorised. */
struct tile {
	int n;
	float w[TILE];    /* base */
	double d[TILE];   /* delta */
	double by;        /* what w + d is multiplied by: 1, or a row's factor */
	bool whole;       /* what moved is all that is not w; else what has a delta */
	float f[TILE];    /* float nearest to by (w + d) */
	float rest[TILE]; /* of the sign of by (w + d) - f; 0 where equal */
	float move[TILE]; /* 0 where nothing moved */
};

/* 2^100 keeps every remainder and delta that could matter above float's underflow:
 * a delta under 2^-249 counts as none. */
LP_CLONES static void sum_tile(struct tile *t)
{
#pragma omp simd
	for (int j = 0; j < t->n; j++) {
		double v = ((double)t->w[j] + t->d[j]) * t->by, moved = t->whole ? v - (double)t->w[j] : t->d[j];
		float f = (float)v;

		t->f[j] = f;
		t->rest[j] = (float)((v - (double)f) * 0x1p100);
		t->move[j] = (float)(moved * 0x1p100);
	}
}

static inline uint32_t bits(float f)
{
	uint32_t u;

	memcpy(&u, &f, 4);
	return u;
}

/* f's neighbour with an odd last bit, on the side of the remainder: a second
 * rounding to 16 bits then is as good as one (fmt/dtype.c). Infinite or NaN: as it is. */
static inline uint32_t to_odd(float f, float rest)
{
	uint32_t u = bits(f), step = ((u ^ bits(rest)) >> 31) ? 0xffffffffu : 1u;

	return (rest > 0 || rest < 0) && !(u & 1) ? u + step : u;
}

static inline uint32_t odd_to_bf16(uint32_t u)
{
	uint32_t r = (u + 0x7fffu + (u >> 16 & 1)) >> 16;

	return (u & 0x7fffffffu) > 0x7f800000u ? u >> 16 | 0x40 : r;
}

static inline void add_counts(struct fold_count *c, uint32_t moved, uint32_t lost, uint32_t bad)
{
	c->moved += moved;
	c->lost += lost;
	c->bad += bad;
}

LP_CLONES static void round_bf16(const struct tile *t, uint16_t *dst, struct fold_count *c)
{
	uint32_t moved = 0, lost = 0, bad = 0, out[TILE];

#pragma omp simd reduction(+ : moved, lost, bad)
	for (int j = 0; j < t->n; j++) {
		uint32_t w = bits(t->w[j]), plain = odd_to_bf16(w), v = odd_to_bf16(to_odd(t->f[j], t->rest[j])), m = t->move[j] != 0 ? 1u : 0u;

		out[j] = v;
		moved += m;
		lost += v == plain ? m : 0u;
		bad += (v & 0x7f80) == 0x7f80 && (w & 0x7f800000u) != 0x7f800000u ? 1u : 0u;
	}
#pragma omp simd
	for (int j = 0; j < t->n; j++)
		dst[j] = (uint16_t)out[j];
	add_counts(c, moved, lost, bad);
}

LP_CLONES static void round_f32(const struct tile *t, float *dst, struct fold_count *c)
{
	uint32_t moved = 0, lost = 0, bad = 0;

#pragma omp simd reduction(+ : moved, lost, bad)
	for (int j = 0; j < t->n; j++) {
		uint32_t w = bits(t->w[j]), v = bits(t->f[j]), m = t->move[j] != 0 ? 1u : 0u;

		dst[j] = t->f[j];
		moved += m;
		lost += v == w ? m : 0u;
		bad += (v & 0x7f800000u) == 0x7f800000u && (w & 0x7f800000u) != 0x7f800000u ? 1u : 0u;
	}
	add_counts(c, moved, lost, bad);
}

static void round_f16(const struct tile *t, uint16_t *dst, struct fold_count *c)
{
	for (int j = 0; j < t->n; j++) {
		uint32_t u = to_odd(t->f[j], t->rest[j]);
		float odd;
		uint16_t v;

		memcpy(&odd, &u, 4);
		v = f32_to_f16(odd);
		dst[j] = v;
		add_counts(c, t->move[j] != 0, t->move[j] != 0 && v == f32_to_f16(t->w[j]), (v & 0x7c00) == 0x7c00 && isfinite(t->w[j]));
	}
}

/* Columns [at, at + n) of every term's A, one rank after another. */
static void pack(const struct fold *f, int64_t at, int n, double *a)
{
	for (size_t i = 0; i < f->n_terms; i++)
		for (int64_t k = 0; k < f->terms[i].r; k++, a += TILE)
			memcpy(a, f->terms[i].a + k * f->cols + at, (size_t)n * sizeof(*a));
}

/* delta += coef * s; here the product is rounded, so nothing may be fused. */
LP_CLONES static void add_scaled(double *restrict delta, const double *s, double coef, int n)
{
#pragma omp simd
	for (int j = 0; j < n; j++)
		delta[j] += coef * s[j];
}

static void tile_delta(const struct fold *f, int64_t row, const double *a, int n, double *delta)
{
	double s[TILE];

	memset(delta, 0, (size_t)n * sizeof(*delta));
	for (size_t i = 0; i < f->n_terms; i++) {
		const struct fold_term *q = &f->terms[i];

		memset(s, 0, (size_t)n * sizeof(*s));
		add_products(s, a, q->b + row * q->r, q->r, TILE, n);
		add_scaled(delta, s, q->coef, n);
		a += q->r * TILE;
	}
}

static void round_tile(const struct tile *t, enum dtype to, uint8_t *dst, struct fold_count *c)
{
	union {
		float f[TILE];
		uint16_t h[TILE];
	} out; /* aligned for its type, as dst may not be */

	if (to == DT_BF16)
		round_bf16(t, out.h, c);
	else if (to == DT_F16)
		round_f16(t, out.h, c);
	else
		round_f32(t, out.f, c);
	memcpy(dst, &out, (size_t)t->n * dtype_bytes(to));
}

/* Elements [at, at + t->n) of row i of w, which begins at row `row`, and their deltas. */
static void load_tile(const struct fold *f, int64_t row, int64_t i, int64_t at, const double *a, const void *w, enum dtype from, struct tile *t)
{
	tile_delta(f, row + i, a, t->n, t->d);
	to_f32(from, (const uint8_t *)w + (size_t)(i * f->cols + at) * dtype_bytes(from), t->w, (size_t)t->n);
}

enum { SUMS = 8 };

static double factor(double m, const double l[SUMS])
{
	double s = 0;

	for (int i = 0; i < SUMS; i++)
		s += l[i];
	return s > 0 ? m / sqrt(s) : 0;
}

LP_CLONES static void add_squares(double l[SUMS], const struct tile *t)
{
	for (int j = 0; j < t->n; j++) {
		double v = (double)t->w[j] + t->d[j];

		l[j % SUMS] += v * v;
	}
}

/* Each row's factor, into by (n). */
static void factors(const struct fold *f, int64_t row, int64_t n, const void *w, enum dtype from, double *a, double *by)
{
	double(*l)[SUMS] = xcalloc((size_t)n, sizeof(*l));
	struct tile t;

	for (int64_t at = 0; at < f->cols; at += TILE) {
		t.n = f->cols - at < TILE ? (int)(f->cols - at) : TILE;
		pack(f, at, t.n, a);
		for (int64_t i = 0; i < n; i++) {
			load_tile(f, row, i, at, a, w, from, &t);
			add_squares(l[i], &t);
		}
	}
	for (int64_t i = 0; i < n; i++)
		by[i] = factor(f->m[row + i], l[i]);
	free(l);
}

void fold_rows(const struct fold *f, int64_t row, int64_t n, const void *w, enum dtype from, enum dtype to, void *dst, struct fold_count *c)
{
	double *a, *by = f->m ? xmalloc((size_t)n * sizeof(*by)) : NULL;
	struct tile t = { .by = 1, .whole = f->m != NULL };
	int64_t ranks = 0;

	for (size_t i = 0; i < f->n_terms; i++)
		ranks += f->terms[i].r;
	a = xmalloc((size_t)ranks * TILE * sizeof(*a));
	if (by)
		factors(f, row, n, w, from, a, by);
	for (int64_t at = 0; at < f->cols; at += TILE) {
		t.n = f->cols - at < TILE ? (int)(f->cols - at) : TILE;
		pack(f, at, t.n, a);
		for (int64_t i = 0; i < n; i++) {
			load_tile(f, row, i, at, a, w, from, &t);
			t.by = by ? by[i] : 1;
			sum_tile(&t);
			round_tile(&t, to, (uint8_t *)dst + (size_t)(i * f->cols + at) * dtype_bytes(to), c);
		}
	}
	free(a);
	free(by);
}

/* One element before its row's factor. */
static double element(const struct fold *f, int64_t row, int64_t col, const void *w, enum dtype from)
{
	double delta = 0;
	float base;

	for (size_t t = 0; t < f->n_terms; t++) {
		const struct fold_term *q = &f->terms[t];
		double s = 0;

		for (int64_t k = 0; k < q->r; k++)
			s += q->b[row * q->r + k] * q->a[k * f->cols + col];
		delta += q->coef * s;
	}
	to_f32(from, (const uint8_t *)w + (size_t)col * dtype_bytes(from), &base, 1);
	return (double)base + delta;
}

void fold_row_slow(const struct fold *f, int64_t row, const void *w, enum dtype from, enum dtype to, void *dst)
{
	double l[SUMS] = { 0 }, by = 1;
	size_t out = dtype_bytes(to);

	for (int64_t j = 0; f->m && j < f->cols; j++) {
		double v = element(f, row, j, w, from);

		l[j % SUMS] += v * v;
	}
	if (f->m)
		by = factor(f->m[row], l);
	for (int64_t j = 0; j < f->cols; j++) {
		double v = element(f, row, j, w, from) * by;
		float narrow = (float)v;
		uint16_t half = to == DT_BF16 ? f64_to_bf16(v) : f64_to_f16(v);

		memcpy((uint8_t *)dst + (size_t)j * out, to == DT_F32 ? (void *)&narrow : (void *)&half, out);
	}
}
