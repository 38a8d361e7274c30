/* Sums in sixteen fixed lanes: vector units of any width give the same bits. CPU kernels only. */
#ifndef LP_KERNELS_LANES_H
#define LP_KERNELS_LANES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16

static inline __attribute__((always_inline)) float lanes_fold(const float s[LANES])
{
	float a[8], b[4];

	for (int i = 0; i < 8; i++)
		a[i] = s[i] + s[i + 8];
	for (int i = 0; i < 4; i++)
		b[i] = a[i] + a[i + 4];
	return (b[0] + b[2]) + (b[1] + b[3]);
}

static inline __attribute__((always_inline)) float lanes_dot(const float *x, const float *y, int64_t n)
{
	float s[LANES] = { 0 };
	int64_t i = 0;

	for (; i + LANES <= n; i += LANES)
		for (int l = 0; l < LANES; l++)
			s[l] += x[i + l] * y[i + l];
	for (int l = 0; i + l < n; l++)
		s[l] += x[i + l] * y[i + l];
	return lanes_fold(s);
}

static inline __attribute__((always_inline)) float lanes_max(const float *x, int64_t n)
{
	float s[LANES];
	int64_t i = 0;

	for (int l = 0; l < LANES; l++)
		s[l] = -INFINITY;
	for (; i + LANES <= n; i += LANES)
		for (int l = 0; l < LANES; l++)
			s[l] = x[i + l] > s[l] ? x[i + l] : s[l];
	for (int l = 0; i + l < n; l++)
		s[l] = x[i + l] > s[l] ? x[i + l] : s[l];
	for (int l = 1; l < LANES; l++)
		s[0] = s[l] > s[0] ? s[l] : s[0];
	return s[0];
}

/* e^x for x <= 88, within 2 ulp: x = n ln 2 + r, |r| <= ln 2 / 2, the Taylor
 * polynomial of degree 7 (its remainder is under 2^-27), then 2^n by exponent
 * bits. Below -87.3 the result is 0 (it would be subnormal). NaN stays NaN. */
static inline __attribute__((always_inline)) float lanes_exp(float x)
{
	float c = x < -87.3f ? -87.3f : x;
	float t = c * 1.44269504f + 12582912.0f;
	float n = t - 12582912.0f;
	float r = (c - n * 0.693145752f) - n * 1.42860677e-6f;
	float p = 1.98412698e-4f;
	uint32_t bits;
	float scale;

	p = p * r + 1.38888889e-3f;
	p = p * r + 8.33333333e-3f;
	p = p * r + 4.16666667e-2f;
	p = p * r + 1.66666667e-1f;
	p = p * r + 0.5f;
	p = p * r * r + r + 1.0f;
	bits = (uint32_t)((int32_t)n + 127) << 23;
	memcpy(&scale, &bits, 4);
	return x < -87.3f ? 0.0f : p * scale;
}

/* x[i] <- e^(x[i] - max). The fixed inner count is what lets -O2 use vectors. */
static inline __attribute__((always_inline)) void lanes_exp_less(float *x, int64_t n, float max)
{
	int64_t i = 0;

	for (; i + LANES <= n; i += LANES)
		for (int l = 0; l < LANES; l++)
			x[i + l] = lanes_exp(x[i + l] - max);
	for (; i < n; i++)
		x[i] = lanes_exp(x[i] - max);
}

#endif
