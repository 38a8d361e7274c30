/* The fold of one matrix. Fast: tiles of a row in fp64, four ranks at a time,
 * in the order that merge.h defines. Slow: the definition. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "model/merge.h"

enum { TILE = 512 }; /* columns; sums, deltas and weights of a tile stay in the first cache */

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
	return widen(m->a, &t->a, e) || widen(m->b, &t->b, e) ? -1 : 0;
}

void fold_release(struct fold *f)
{
	for (size_t i = 0; i < f->n_terms; i++) {
		free(f->terms[i].a);
		free(f->terms[i].b);
	}
	free(f->terms);
	memset(f, 0, sizeof(*f));
}

/* s[j] += b_k a_k[j] over all k, in order. */
LP_CLONES static void add_products(double *restrict s, const double *a, const double *b, int64_t r, int64_t stride, int n)
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

/* The float whose later rounding to 16 bits is that of v: v rounded to odd (fmt/dtype.c). */
static inline uint32_t to_odd(double v)
{
	float f = (float)v;
	double back = (double)f;
	uint32_t u, away;

	memcpy(&u, &f, 4);
	away = fabs(back) > fabs(v) ? 0xffffffffu : 1u;
	return back != v && !(u & 1) ? u + away : u;
}

static inline uint32_t odd_to_bf16(uint32_t u)
{
	uint32_t r = (u + 0x7fffu + (u >> 16 & 1)) >> 16;

	return (u & 0x7fffffffu) > 0x7f800000u ? u >> 16 | 0x40 : r;
}

/* v[j] = w[j] + d[j] rounded to bf16, counting as struct fold_count says. */
LP_CLONES static void round_bf16(const float *w, const double *d, uint16_t *dst, int n, struct fold_count *c)
{
	uint32_t moved = 0, lost = 0, bad = 0;

#pragma omp simd reduction(+ : moved, lost, bad)
	for (int j = 0; j < n; j++) {
		uint32_t u, v, plain;

		memcpy(&u, &w[j], 4);
		plain = odd_to_bf16(u);
		v = odd_to_bf16(to_odd((double)w[j] + d[j]));
		dst[j] = (uint16_t)v;
		moved += d[j] != 0 ? 1u : 0u;
		lost += d[j] != 0 && v == plain ? 1u : 0u;
		bad += (v & 0x7f80) == 0x7f80 && (u & 0x7f800000u) != 0x7f800000u ? 1u : 0u;
	}
	c->moved += moved;
	c->lost += lost;
	c->bad += bad;
}

LP_CLONES static void round_f32(const float *w, const double *d, float *dst, int n, struct fold_count *c)
{
	uint32_t moved = 0, lost = 0, bad = 0;

#pragma omp simd reduction(+ : moved, lost, bad)
	for (int j = 0; j < n; j++) {
		float v = (float)((double)w[j] + d[j]);

		dst[j] = v;
		moved += d[j] != 0 ? 1u : 0u;
		lost += d[j] != 0 && v == w[j] ? 1u : 0u;
		bad += v - v != 0 && w[j] - w[j] == 0 ? 1u : 0u;
	}
	c->moved += moved;
	c->lost += lost;
	c->bad += bad;
}

static void round_f16(const float *w, const double *d, uint16_t *dst, int n, struct fold_count *c)
{
	for (int j = 0; j < n; j++) {
		uint16_t v = f64_to_f16((double)w[j] + d[j]);

		dst[j] = v;
		c->moved += d[j] != 0;
		c->lost += d[j] != 0 && v == f32_to_f16(w[j]);
		c->bad += (v & 0x7c00) == 0x7c00 && isfinite(w[j]);
	}
}

static void tile_delta(const struct fold *f, int64_t row, int64_t at, int n, double *delta)
{
	double s[TILE];

	memset(delta, 0, (size_t)n * sizeof(*delta));
	for (size_t t = 0; t < f->n_terms; t++) {
		const struct fold_term *q = &f->terms[t];

		memset(s, 0, (size_t)n * sizeof(*s));
		add_products(s, q->a + at, q->b + row * q->r, q->r, f->cols, n);
#pragma omp simd
		for (int j = 0; j < n; j++)
			delta[j] += q->coef * s[j];
	}
}

void fold_row(const struct fold *f, int64_t row, const void *w, enum dtype from, enum dtype to, void *dst, struct fold_count *c)
{
	size_t in = dtype_bytes(from), out = dtype_bytes(to);
	double delta[TILE];
	float wide[TILE];
	union {
		float f[TILE];
		uint16_t h[TILE];
	} narrow; /* the output, aligned for its type */

	for (int64_t at = 0; at < f->cols; at += TILE) {
		int n = f->cols - at < TILE ? (int)(f->cols - at) : TILE;

		tile_delta(f, row, at, n, delta);
		to_f32(from, (const uint8_t *)w + (size_t)at * in, wide, (size_t)n);
		if (to == DT_BF16)
			round_bf16(wide, delta, narrow.h, n, c);
		else if (to == DT_F16)
			round_f16(wide, delta, narrow.h, n, c);
		else
			round_f32(wide, delta, narrow.f, n, c);
		memcpy((uint8_t *)dst + (size_t)at * out, &narrow, (size_t)n * out);
	}
}

void fold_row_slow(const struct fold *f, int64_t row, const void *w, enum dtype from, enum dtype to, void *dst)
{
	size_t in = dtype_bytes(from), out = dtype_bytes(to);

	for (int64_t j = 0; j < f->cols; j++) {
		double delta = 0, v;
		float base, narrow;
		uint16_t half;

		for (size_t t = 0; t < f->n_terms; t++) {
			const struct fold_term *q = &f->terms[t];
			double s = 0;

			for (int64_t k = 0; k < q->r; k++)
				s += q->b[row * q->r + k] * q->a[k * f->cols + j];
			delta += q->coef * s;
		}
		to_f32(from, (const uint8_t *)w + (size_t)j * in, &base, 1);
		v = (double)base + delta;
		narrow = (float)v;
		half = to == DT_BF16 ? f64_to_bf16(v) : f64_to_f16(v);
		memcpy((uint8_t *)dst + (size_t)j * out, to == DT_F32 ? (void *)&narrow : (void *)&half, out);
	}
}
