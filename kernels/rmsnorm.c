#include "kernels/rmsnorm.h"

#include "base/compiler.h"
#include "kernels/device.h"
#include "kernels/lanes.h"

LP_CLONES
static float fwd_row(float *y, const float *x, const float *w, int64_t c, float eps)
{
	float rstd = 1.0f / sqrtf(lanes_dot(x, x, c) / (float)c + eps);

	for (int64_t i = 0; i < c; i++)
		y[i] = x[i] * rstd * w[i];
	return rstd;
}

void kn_rmsnorm_fwd_cpu(struct device *d, void *y, int64_t ldy, float *rstd, const void *x, const float *w, int64_t t, int64_t c, float eps)
{
#pragma omp parallel for num_threads(d->threads) if (t * c > 32768)
	for (int64_t i = 0; i < t; i++) {
		float r = fwd_row((float *)y + i * ldy, (const float *)x + i * c, w, c, eps);

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

void kn_rmsnorm_bwd_cpu(struct device *d, void *pdx, int64_t ld_dx, const void *pdy, const void *px, const float *rstd,
                        const float *w, int64_t t, int64_t c)
{
	float *dx = pdx;
	const float *dy = pdy, *x = px;

#pragma omp parallel for num_threads(d->threads) if (t * c > 32768)
	for (int64_t i = 0; i < t; i++)
		bwd_row(dx + i * ld_dx, dy + i * c, x + i * c, rstd[i], w, c);
}
