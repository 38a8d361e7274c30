#include "kernels/vec.h"

#include <string.h>

#include "kernels/device.h"

#define CHUNK 4096

void kn_bias_add_cpu(struct device *d, void *x, int64_t ldx, const float *b, int64_t t, int64_t c)
{
#pragma omp parallel for num_threads(d->threads) if (t * c > 32768)
	for (int64_t i = 0; i < t; i++) {
		float *row = (float *)x + i * ldx;

		for (int64_t j = 0; j < c; j++)
			row[j] += b[j];
	}
}

void kn_gather_rows_cpu(struct device *d, void *y, const void *x, const int32_t *idx, int64_t n, int64_t c)
{
	(void)d;
	for (int64_t i = 0; i < n; i++)
		memcpy((float *)y + i * c, (const float *)x + idx[i] * c, (size_t)c * sizeof(float));
}

void kn_scatter_rows_cpu(struct device *d, void *y, int64_t ldy, const void *x, const int32_t *idx, int64_t n, int64_t c)
{
	(void)d;
	for (int64_t i = 0; i < n; i++)
		memcpy((float *)y + idx[i] * ldy, (const float *)x + i * c, (size_t)c * sizeof(float));
}

void kn_copy_rows_cpu(struct device *d, void *y, int64_t ldy, const void *x, int64_t ldx, int64_t t, int64_t c)
{
	(void)d;
	for (int64_t i = 0; i < t; i++)
		memcpy((float *)y + i * ldy, (const float *)x + i * ldx, (size_t)c * sizeof(float));
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

void kn_sum_cpu(struct device *d, const double *x, int64_t n, double *out)
{
	double s = 0;

	(void)d;
	for (int64_t i = 0; i < n; i++)
		s += x[i];
	*out += s;
}

void kn_convert_cpu(struct device *d, void *y, int64_t ldy, const void *x, enum dtype dt, int64_t rows, int64_t cols)
{
	size_t row_bytes = (size_t)cols * dtype_bytes(dt);

#pragma omp parallel for num_threads(d->threads) if (rows * cols > CHUNK)
	for (int64_t i = 0; i < rows; i++)
		to_f32(dt, (const char *)x + (size_t)i * row_bytes, (float *)y + i * ldy, (size_t)cols);
}

void kn_to_host_cpu(struct device *d, float *host, const void *x, int64_t n)
{
	(void)d;
	memcpy(host, x, (size_t)n * sizeof(*host));
}
