#include "kernels/rmsnorm.h"

#include "base/compiler.h"
#include "kernels/device.h"
#include "kernels/lanes.h"

LP_CLONES
static float fwd_row(float *xo, float *y, const float *x, const float *delta, const float *w, int64_t c, float eps)
{
	float rstd;

	if (delta)
		for (int64_t i = 0; i < c; i++)
			xo[i] = x[i] + delta[i];
	else if (xo && xo != x)
		memcpy(xo, x, (size_t)c * sizeof(*x));
	if (xo)
		x = xo;
	rstd = 1.0f / sqrtf(lanes_dot(x, x, c) / (float)c + eps);
	for (int64_t i = 0; i < c; i++)
		y[i] = x[i] * rstd * w[i];
	return rstd;
}

void kn_rmsnorm_fwd_cpu(struct device *d, void *pxo, void *py, int64_t ldy, float *rstd, const void *px, const void *pdelta,
                        const float *w, int64_t t, int64_t c, float eps)
{
	float *xo = pxo, *y = py;
	const float *x = px, *delta = pdelta;

#pragma omp parallel for num_threads(d->threads) if (t * c > 32768)
	for (int64_t i = 0; i < t; i++) {
		float r = fwd_row(xo ? xo + i * c : NULL, y + i * ldy, x + i * c, delta ? delta + i * c : NULL, w, c, eps);

		if (rstd)
			rstd[i] = r;
	}
}

LP_CLONES
static void bwd_row(float *dx, const float *dy, const float *x, float rstd, const float *w, int64_t c)
{
	float s[LANES] = { 0 }, m;
	int64_t i = 0;

	for (; i + LANES <= c; i += LANES)
		for (int l = 0; l < LANES; l++)
			s[l] += dy[i + l] * w[i + l] * x[i + l];
	for (int l = 0; i + l < c; l++)
		s[l] += dy[i + l] * w[i + l] * x[i + l];
	m = lanes_fold(s) * rstd * rstd / (float)c;
	for (i = 0; i < c; i++)
		dx[i] += rstd * (w[i] * dy[i] - x[i] * m);
}

void kn_rmsnorm_bwd_cpu(struct device *d, void *pdx, int64_t ld_dx, const void *pdy, const void *pxo, const float *rstd,
                        const float *w, int64_t t, int64_t c)
{
	float *dx = pdx;
	const float *dy = pdy, *xo = pxo;

#pragma omp parallel for num_threads(d->threads) if (t * c > 32768)
	for (int64_t i = 0; i < t; i++)
		bwd_row(dx + i * ld_dx, dy + i * c, xo + i * c, rstd[i], w, c);
}
