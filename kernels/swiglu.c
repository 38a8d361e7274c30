#include "kernels/swiglu.h"

#include "base/compiler.h"
#include "kernels/device.h"
#include "kernels/lanes.h"

/* 1 / (1 + e^-z), with the exponent clamped where the result is 0 or 1 anyway. */
static inline __attribute__((always_inline)) float sigmoid(float z)
{
	return 1.0f / (1.0f + lanes_exp(z < -88.0f ? 88.0f : -z));
}

LP_CLONES
static void fwd_row(float *restrict h, const float *restrict g, const float *restrict u, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		h[i] = g[i] * sigmoid(g[i]) * u[i];
}

void kn_swiglu_fwd_cpu(struct device *d, void *h, int64_t ldh, const void *gu, int64_t ldg, int64_t t, int64_t f)
{
#pragma omp parallel for num_threads(d->threads) if (t * f > 4096)
	for (int64_t i = 0; i < t; i++) {
		const float *g = (const float *)gu + i * ldg;

		fwd_row((float *)h + i * ldh, g, g + f, f);
	}
}

LP_CLONES
static void bwd_row(float *restrict g, float *restrict u, const float *restrict dh, int64_t n)
{
	for (int64_t i = 0; i < n; i++) {
		float z = g[i], s = sigmoid(z), du = dh[i] * z * s;

		g[i] = dh[i] * u[i] * s * (1.0f + z * (1.0f - s));
		u[i] = du;
	}
}

void kn_swiglu_bwd_cpu(struct device *d, void *gu, int64_t ldg, const void *dh, void *h, int64_t ldh, int64_t t, int64_t f)
{
#pragma omp parallel for num_threads(d->threads) if (t * f > 4096)
	for (int64_t i = 0; i < t; i++) {
		float *g = (float *)gu + i * ldg;

		if (h)
			fwd_row((float *)h + i * ldh, g, g + f, f);
		bwd_row(g, g + f, (const float *)dh + i * f, f);
	}
}
