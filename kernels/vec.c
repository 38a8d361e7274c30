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

enum { PARTS = 1024 };

void kn_add_squares_cpu(struct device *d, const void *px, enum dtype dt, int64_t n, double *out)
{
	const float *x = px;
	double parts[PARTS], s = 0;
	int64_t per = (n + PARTS - 1) / PARTS;

	(void)dt; /* fp32 either way */
#pragma omp parallel for num_threads(d->threads) if (n > 32768)
	for (int64_t k = 0; k < PARTS; k++) {
		double part = 0;

		for (int64_t i = per * k; i < n && i < per * (k + 1); i++)
			part += (double)x[i] * (double)x[i];
		parts[k] = part;
	}
	for (int64_t k = 0; k < PARTS; k++)
		s += parts[k];
	*out += s;
}

#define COLS 64 /* that a thread sums at once */

static void col_sums(float *out, const float *a, int64_t lda, const float *b, int64_t ldb, const float *s, int64_t t, int64_t c)
{
	double sum[COLS] = { 0 };

	for (int64_t i = 0; i < t; i++)
		for (int64_t j = 0; j < c; j++)
			sum[j] += (double)a[i * lda + j] * (b ? (double)b[i * ldb + j] * (double)s[i] : 1);
	for (int64_t j = 0; j < c; j++)
		out[j] += (float)sum[j];
}

void kn_col_sums_cpu(struct device *d, float *out, const void *a, int64_t lda, const void *b, int64_t ldb, const float *s, int64_t t, int64_t c, float *scratch)
{
	(void)scratch;
#pragma omp parallel for num_threads(d->threads) if (t * c > 32768)
	for (int64_t j = 0; j < c; j += COLS)
		col_sums(out + j, (const float *)a + j, lda, b ? (const float *)b + j : NULL, ldb, s, t, c - j < COLS ? c - j : COLS);
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
