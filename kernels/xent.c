#include "kernels/xent.h"

#include "base/compiler.h"
#include "kernels/device.h"
#include "kernels/lanes.h"

#define CHUNK 4096

/* z <- e^(z - max); returns the sum. NaN in, NaN out. */
LP_CLONES
static float exp_chunk(float *z, int64_t n, float max)
{
	float s[LANES] = { 0 };
	int64_t i = 0;

	lanes_exp_less(z, n, max);
	for (; i + LANES <= n; i += LANES)
		for (int l = 0; l < LANES; l++)
			s[l] += z[i + l];
	for (int l = 0; i + l < n; l++)
		s[l] += z[i + l];
	return lanes_fold(s);
}

LP_CLONES
static void scale_row(float *z, int64_t n, float by)
{
	for (int64_t i = 0; i < n; i++)
		z[i] *= by;
}

LP_CLONES
static float row_max(const float *z, int64_t n)
{
	return lanes_max(z, n);
}

static double xent_row(float *z, int32_t target, int64_t v, float scale, bool grad)
{
	float max = row_max(z, v), zt = z[target];
	double sum = 0;

	for (int64_t i = 0; i < v; i += CHUNK)
		sum += (double)exp_chunk(z + i, v - i < CHUNK ? v - i : CHUNK, max);
	if (grad) {
		scale_row(z, v, (float)((double)scale / sum));
		z[target] -= scale;
	}
	return log(sum) + ((double)max - (double)zt);
}

void kn_xent_cpu(struct device *d, void *z, const int32_t *target, double *loss, int64_t n, int64_t v, const float *scale, bool grad)
{
#pragma omp parallel for num_threads(d->threads) if (n * v > 16384)
	for (int64_t i = 0; i < n; i++)
		loss[i] = xent_row((float *)z + i * v, target[i], v, *scale, grad);
}
