/* The 256-element super-blocks Q4_K, Q5_K, Q6_K. A super-block has 8 (Q4_K,
 * Q5_K) or 16 (Q6_K) sub-blocks, each with a scale found by trying a range of
 * steps and keeping the best weighted least-squares fit. All sub-blocks of a
 * super-block are fitted at once, one lane each (quant_lanes.h). */
#include "fmt/quant.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "fmt/quant_lanes.h"

#define QK 256

/* --- Q4_K and Q5_K: x ~ scale * q + min, q in 0..q_max, min <= 0 --- */

struct affine {
	f32x8 x[32], w[32];  /* [element][sub-block] */
	f32x8 scale, low;    /* the best fit; low is the (non-positive) minimum */
	f32x8 step, step_low; /* what quantised it: q = step * (x - step_low) */
	i32x8 flat;          /* sub-blocks without a spread: all codes are 0 */
};

/* How many steps are tried, and from where: step = (first + 0.1 t + q_max) / spread. */
struct affine_search {
	int q_max, n_steps;
	float first;
};

LANE_INLINE void affine_load(struct affine *a, const float *src)
{
	f32x8 sum2 = { 0 }, mean;

	for (int i = 0; i < 32; i++)
		for (int j = 0; j < LANES; j++)
			a->x[i][j] = src[32 * j + i];
	for (int i = 0; i < 32; i++)
		sum2 += a->x[i] * a->x[i];
	sum2 /= 32.0f;
	for (int j = 0; j < LANES; j++)
		mean[j] = sqrtf(sum2[j]);
	for (int i = 0; i < 32; i++)
		a->w[i] = mean + (f32x8)((i32x8)a->x[i] & 0x7fffffff);
}

/* The weighted squared error of x against scale * q + low. */
LANE_INLINE void affine_error(const struct affine *a, const f32x8 *q, const f32x8 *scale, const f32x8 *low, f32x8 *error)
{
	f32x8 sum = { 0 };

	for (int i = 0; i < 32; i++) {
		f32x8 d = *scale * q[i] + *low - a->x[i];

		sum += a->w[i] * (d * d);
	}
	*error = sum;
}

/* One try: quantise by step and low, fit scale and minimum to the codes, keep
 * the fit in those lanes where it is better. */
LANE_INLINE void affine_try(struct affine *a, const struct affine_search *s, const f32x8 *step, const f32x8 *sum_w,
                            const f32x8 *sum_x, f32x8 *best)
{
	f32x8 q[32], sum_q = { 0 }, sum_q2 = { 0 }, sum_xq = { 0 }, det, scale, low, error, zero = { 0 }, alone;
	i32x8 keep, above;

	for (int i = 0; i < 32; i++) {
		f32x8 v = *step * (a->x[i] - a->low), wq;
		i32x8 n;

		nearest_clamped(&v, 0, s->q_max, &n);
		q[i] = __builtin_convertvector(n, f32x8);
		wq = a->w[i] * q[i];
		sum_q += wq;
		sum_q2 += wq * q[i];
		sum_xq += wq * a->x[i];
	}
	det = *sum_w * sum_q2 - sum_q * sum_q;
	scale = (*sum_w * sum_xq - *sum_x * sum_q) / det;
	low = (sum_q2 * *sum_x - sum_q * sum_xq) / det;
	above = low > 0.0f;
	alone = sum_xq / sum_q2;
	lane_keep(&above, &alone, &scale);
	scale = alone;
	lane_keep(&above, &zero, &low);
	low = zero;
	affine_error(a, q, &scale, &low, &error);
	keep = (det > 0.0f) & (error < *best) & ~a->flat;
	lane_keep(&keep, &error, best);
	*best = error;
	lane_keep(&keep, &scale, &a->scale);
	a->scale = scale;
	alone = *step;
	lane_keep(&keep, &alone, &a->step);
	a->step = alone;
	alone = a->low;
	lane_keep(&keep, &alone, &a->step_low);
	a->step_low = alone;
	lane_keep(&keep, &low, &a->low);
	a->low = low;
}

LANE_INLINE void affine_fit(struct affine *a, const struct affine_search *s)
{
	f32x8 low = a->x[0], high = a->x[0], sum_w = a->w[0], sum_x = a->w[0] * a->x[0], q[32], best, zero = { 0 };
	i32x8 m;

	for (int i = 1; i < 32; i++) {
		f32x8 v = a->x[i];

		m = v < low;
		lane_keep(&m, &v, &low);
		low = v;
		v = a->x[i];
		m = v > high;
		lane_keep(&m, &v, &high);
		high = v;
		sum_w += a->w[i];
		sum_x += a->w[i] * a->x[i];
	}
	m = low > 0.0f;
	lane_keep(&m, &zero, &low);
	low = zero;
	a->flat = high == low;
	a->low = a->step_low = low;
	a->step = (float)s->q_max / (high - low);
	a->scale = 1.0f / a->step;
	for (int i = 0; i < 32; i++) {
		f32x8 v = a->step * (a->x[i] - low);

		nearest_clamped(&v, 0, s->q_max, &m);
		q[i] = __builtin_convertvector(m, f32x8);
	}
	affine_error(a, q, &a->scale, &a->low, &best);
	/* The reference moves its minimum with every better fit, and the next
	 * try's spread with it; so do we. */
	for (int t = 0; t <= s->n_steps; t++) {
		f32x8 step = (s->first + 0.1f * (float)t + (float)s->q_max) / (high - a->low);

		affine_try(a, s, &step, &sum_w, &sum_x, &best);
	}
	zero = (f32x8){ 0 };
	lane_keep(&a->flat, &zero, &a->scale);
	a->scale = zero;
}

/* Six-bit scales and minima of eight sub-blocks in twelve bytes: the first four
 * whole, the last four split between low nibbles and the spare top bits. */
static inline void pack_scales(const uint8_t scale[8], const uint8_t low[8], uint8_t out[12])
{
	for (int j = 0; j < 4; j++) {
		out[j] = (uint8_t)(scale[j] | (scale[j + 4] >> 4) << 6);
		out[j + 4] = (uint8_t)(low[j] | (low[j + 4] >> 4) << 6);
		out[j + 8] = (uint8_t)((scale[j + 4] & 15) | (low[j + 4] & 15) << 4);
	}
}

/* Codes of the whole super-block, code[32 * j + i], and the 16-byte head.
 * Returns false when a scale is beyond a half float. */
LANE_INLINE bool affine_encode(const float *src, const struct affine_search *s, uint8_t *head, uint8_t code[QK])
{
	struct affine a;
	float max_scale = 0, max_low = 0, inv_scale, inv_low, d, dmin;
	uint8_t scale[8], low[8];
	f32x8 by, plus;
	uint16_t hd, hm;

	affine_load(&a, src);
	affine_fit(&a, s);
	for (int j = 0; j < LANES; j++) {
		if (a.scale[j] > max_scale)
			max_scale = a.scale[j];
		if (-a.low[j] > max_low)
			max_low = -a.low[j];
	}
	inv_scale = max_scale > 0 ? 63.0f / max_scale : 0.0f;
	inv_low = max_low > 0 ? 63.0f / max_low : 0.0f;
	for (int j = 0; j < LANES; j++) {
		uint8_t ls = (uint8_t)nearest_int(inv_scale * a.scale[j]), lm = (uint8_t)nearest_int(inv_low * -a.low[j]);

		scale[j] = ls < 63 ? ls : 63;
		low[j] = lm < 63 ? lm : 63;
	}
	hd = scale_f16(max_scale / 63.0f);
	hm = scale_f16(max_low / 63.0f);
	put_f16(head, hd);
	put_f16(head + 2, hm);
	pack_scales(scale, low, head + 4);
	d = f16_to_f32(hd);
	dmin = f16_to_f32(hm);
	for (int j = 0; j < LANES; j++) {
		by[j] = d * scale[j];
		plus[j] = dmin * low[j];
	}
	for (int i = 0; i < 32; i++) {
		f32x8 v = (a.x[i] + plus) / by, w = a.step * (a.x[i] - a.step_low);
		i32x8 q, was;

		nearest_clamped(&v, 0, s->q_max, &q);
		nearest_clamped(&w, 0, s->q_max, &was);
		/* A scale that rounded to nothing leaves the codes of the fit. */
		was = was & ~a.flat;
		was = (by == 0.0f) & was;
		q = (~(by == 0.0f) & q) | was;
		for (int j = 0; j < LANES; j++)
			code[32 * j + i] = (uint8_t)q[j];
	}
	return f16_finite(hd) && f16_finite(hm);
}

LP_CLONES int64_t quant_encode_q4_k(const float *src, uint8_t *dst, uint64_t n_blocks)
{
	static const struct affine_search s = { 15, 20, -1.0f };
	int64_t bad = -1;
	uint8_t code[QK];

	for (uint64_t b = 0; b < n_blocks; b++, src += QK, dst += 144) {
		if (!affine_encode(src, &s, dst, code) && bad < 0)
			bad = (int64_t)(b * QK);
		for (int c = 0; c < 4; c++)
			for (int i = 0; i < 32; i++)
				dst[16 + 32 * c + i] = (uint8_t)(code[64 * c + i] | code[64 * c + 32 + i] << 4);
	}
	return bad;
}

LP_CLONES int64_t quant_encode_q5_k(const float *src, uint8_t *dst, uint64_t n_blocks)
{
	static const struct affine_search s = { 31, 15, -0.5f };
	int64_t bad = -1;
	uint8_t code[QK];

	for (uint64_t b = 0; b < n_blocks; b++, src += QK, dst += 176) {
		if (!affine_encode(src, &s, dst, code) && bad < 0)
			bad = (int64_t)(b * QK);
		for (int i = 0; i < 32; i++) {
			uint8_t high = 0;

			for (int j = 0; j < 8; j++)
				high |= (uint8_t)((code[32 * j + i] >> 4) << j);
			dst[16 + i] = high;
		}
		for (int c = 0; c < 4; c++)
			for (int i = 0; i < 32; i++)
				dst[48 + 32 * c + i] = (uint8_t)((code[64 * c + i] & 15) | (code[64 * c + 32 + i] & 15) << 4);
	}
	return bad;
}

/* --- Q6_K: x ~ scale * q, q in -32..31, 16 sub-blocks of 16 --- */

struct linear {
	f32x8 x[16], w[16], wx[16]; /* weights are x^2 */
	f32x8 scale, step;          /* best fit, and the step that quantised it */
	i32x8 empty;                /* nothing in the sub-block: scale 0, codes 0 */
};
#define LINEAR_EPS 1e-15f

LANE_INLINE void linear_try(const struct linear *a, const f32x8 *step, f32x8 *sum_xq, f32x8 *sum_q2)
{
	f32x8 sx = { 0 }, s2 = { 0 };

	for (int i = 0; i < 16; i++) {
		f32x8 v = *step * a->x[i], q;
		i32x8 n;

		nearest_clamped(&v, -32, 31, &n);
		q = __builtin_convertvector(n, f32x8);
		sx += a->wx[i] * q;
		s2 += a->w[i] * q * q;
	}
	*sum_xq = sx;
	*sum_q2 = s2;
}

/* Eight sub-blocks of 16 from src. */
LANE_INLINE void linear_fit(struct linear *a, const float *src)
{
	f32x8 amax = { 0 }, max = { 0 }, sum_xq, sum_q2, best, some;
	i32x8 m;

	for (int i = 0; i < 16; i++) {
		for (int j = 0; j < LANES; j++)
			a->x[i][j] = src[16 * j + i];
		a->w[i] = a->x[i] * a->x[i];
		a->wx[i] = a->w[i] * a->x[i];
		some = (f32x8)((i32x8)a->x[i] & 0x7fffffff);
		m = some > amax;
		lane_keep(&m, &some, &amax);
		amax = some;
		some = a->x[i];
		lane_keep(&m, &some, &max);
		max = some;
	}
	a->empty = amax < LINEAR_EPS;
	a->step = -32.0f / max;
	linear_try(a, &a->step, &sum_xq, &sum_q2);
	some = (f32x8){ 0 };
	a->scale = sum_xq / sum_q2;
	m = sum_q2 == 0.0f;
	lane_keep(&m, &some, &a->scale);
	a->scale = some;
	best = a->scale * sum_xq;
	for (int t = -9; t <= 9; t++) {
		f32x8 step, scale;

		if (!t)
			continue;
		step = -(32.0f + 0.1f * (float)t) / max;
		linear_try(a, &step, &sum_xq, &sum_q2);
		m = (sum_q2 > 0.0f) & (sum_xq * sum_xq > best * sum_q2);
		scale = sum_xq / sum_q2;
		lane_keep(&m, &step, &a->step);
		a->step = step;
		some = scale * sum_xq;
		lane_keep(&m, &some, &best);
		best = some;
		lane_keep(&m, &scale, &a->scale);
		a->scale = scale;
	}
	some = (f32x8){ 0 };
	lane_keep(&a->empty, &some, &a->scale);
	a->scale = some;
}

LANE_INLINE bool linear_encode(const float *src, uint8_t *dst, uint8_t code[QK])
{
	struct linear half[2];
	float max = 0, amax = 0, step;
	bool fits = true;
	int8_t scale[16];
	uint16_t hd;

	linear_fit(&half[0], src);
	linear_fit(&half[1], src + QK / 2);
	for (int j = 0; j < 16; j++) {
		float s = half[j / 8].scale[j % 8];

		if (fabsf(s) > amax) {
			amax = fabsf(s);
			max = s;
		}
		/* Squares that overflow leave no scale; the reference passes
		 * over such a sub-block and writes zeros. */
		fits = fits && fabsf(s) <= FLT_MAX;
	}
	if (amax < LINEAR_EPS) {
		memset(dst, 0, 210);
		memset(code, 0, QK);
		return fits;
	}
	step = -128.0f / max;
	hd = scale_f16(1.0f / step);
	put_f16(dst + 208, hd);
	for (int j = 0; j < 16; j++) {
		int n = nearest_int(step * half[j / 8].scale[j % 8]);

		scale[j] = (int8_t)(n < 127 ? n : 127);
		dst[192 + j] = (uint8_t)scale[j];
	}
	for (int h = 0; h < 2; h++) {
		f32x8 by;

		for (int j = 0; j < LANES; j++)
			by[j] = f16_to_f32(hd) * scale[8 * h + j];
		for (int i = 0; i < 16; i++) {
			f32x8 v = half[h].x[i] / by, w = half[h].step * half[h].x[i];
			i32x8 q, was;

			nearest_clamped(&v, -32, 31, &q);
			nearest_clamped(&w, -32, 31, &was);
			was = ~half[h].empty & (was + 32);
			q = (~(by == 0.0f) & (q + 32)) | ((by == 0.0f) & was);
			for (int j = 0; j < LANES; j++)
				code[128 * h + 16 * j + i] = (uint8_t)q[j];
		}
	}
	return fits && f16_finite(hd);
}

LP_CLONES int64_t quant_encode_q6_k(const float *src, uint8_t *dst, uint64_t n_blocks)
{
	int64_t bad = -1;
	uint8_t code[QK];

	for (uint64_t b = 0; b < n_blocks; b++, src += QK, dst += 210) {
		if (!linear_encode(src, dst, code) && bad < 0)
			bad = (int64_t)(b * QK);
		for (int h = 0; h < 2; h++)
			for (int i = 0; i < 32; i++) {
				const uint8_t *c = code + 128 * h + i;

				dst[64 * h + i] = (uint8_t)((c[0] & 15) | (c[64] & 15) << 4);
				dst[64 * h + 32 + i] = (uint8_t)((c[32] & 15) | (c[96] & 15) << 4);
				dst[128 + 32 * h + i] = (uint8_t)(c[0] >> 4 | (c[32] >> 4) << 2 | (c[64] >> 4) << 4 | (c[96] >> 4) << 6);
			}
	}
	return bad;
}
