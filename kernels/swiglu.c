#include "kernels/swiglu.h"

#include "base/compiler.h"
#include "kernels/device.h"
#include "kernels/lanes.h"

#define CHUNK 4096

/* 1 / (1 + e^-z), with the exponent clamped where the result is 0 or 1 anyway. */
static inline __attribute__((always_inline)) float sigmoid(float z)
{
	return 1.0f / (1.0f + lanes_exp(z < -88.0f ? 88.0f : -z));
}

LP_CLONES
static void fwd_chunk(float *restrict h, const float *restrict g, const float *restrict u, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		h[i] = g[i] * sigmoid(g[i]) * u[i];
}

void kn_swiglu_fwd_cpu(struct device *d, float *h, const float *g, const float *u, int64_t n)
{
#pragma omp parallel for num_threads(d->threads) if (n > CHUNK)
	for (int64_t i = 0; i < n; i += CHUNK)
		fwd_chunk(h + i, g + i, u + i, n - i < CHUNK ? n - i : CHUNK);
}

LP_CLONES
static void bwd_chunk(float *restrict g, float *restrict u, const float *restrict dh, int64_t n)
{
	for (int64_t i = 0; i < n; i++) {
		float z = g[i], s = sigmoid(z), du = dh[i] * z * s;

		g[i] = dh[i] * u[i] * s * (1.0f + z * (1.0f - s));
		u[i] = du;
	}
}

void kn_swiglu_bwd_cpu(struct device *d, float *g, float *u, const float *dh, int64_t n)
{
#pragma omp parallel for num_threads(d->threads) if (n > CHUNK)
	for (int64_t i = 0; i < n; i += CHUNK)
		bwd_chunk(g + i, u + i, dh + i, n - i < CHUNK ? n - i : CHUNK);
}
