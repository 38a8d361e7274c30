#include "kernels/vec.h"

#include <string.h>

#include "kernels/device.h"

#define CHUNK 4096

void kn_bias_add_cpu(struct device *d, float *x, const float *b, int64_t t, int64_t c)
{
#pragma omp parallel for num_threads(d->threads) if (t * c > 32768)
	for (int64_t i = 0; i < t; i++)
		for (int64_t j = 0; j < c; j++)
			x[i * c + j] += b[j];
}

void kn_gather_rows_cpu(struct device *d, float *y, const float *x, const int32_t *idx, int64_t n, int64_t c)
{
	(void)d;
	for (int64_t i = 0; i < n; i++)
		memcpy(y + i * c, x + idx[i] * c, (size_t)c * sizeof(*x));
}

void kn_scatter_rows_cpu(struct device *d, float *y, const float *x, const int32_t *idx, int64_t n, int64_t c)
{
	(void)d;
	for (int64_t i = 0; i < n; i++)
		memcpy(y + idx[i] * c, x + i * c, (size_t)c * sizeof(*x));
}

void kn_sum_squares_cpu(struct device *d, const float *x, int64_t n, double *out)
{
	double total = 0;

	(void)d;
	for (int64_t i = 0; i < n; i += CHUNK) {
		double s = 0;

		for (int64_t j = i; j < n && j < i + CHUNK; j++)
			s += (double)x[j] * (double)x[j];
		total += s;
	}
	*out = total;
}

void kn_widen_cpu(struct device *d, float *y, const void *x, enum dtype dt, int64_t n)
{
	size_t size = dtype_bytes(dt);

#pragma omp parallel for num_threads(d->threads) if (n > CHUNK)
	for (int64_t i = 0; i < n; i += CHUNK)
		to_f32(dt, (const char *)x + (size_t)i * size, y + i, (size_t)(n - i < CHUNK ? n - i : CHUNK));
}
