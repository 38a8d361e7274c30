#include "kernels/fp8.h"

#include <math.h>
#include <string.h>

#include "kernels/device.h"

uint8_t fp8_code(float v)
{
	uint8_t sign = signbit(v) ? 0x80 : 0;
	float a = fabsf(v);
	int e;

	if (isnan(v))
		return sign | 0x7f;
	if (a >= FP8_MAX)
		return sign | 0x7e;
	frexpf(a, &e); /* a = m 2^e, m in [1/2, 1) */
	e = a == 0 || e < -5 ? -5 : e;
	/* in steps of 2^(e - 4): 8 to 16 of them, fewer below 2^-6; 16 is the next exponent's first */
	return sign | (uint8_t)((e + 5) * 8 + (int)nearbyintf(ldexpf(a, 4 - e)));
}

float fp8_value(uint8_t code)
{
	int e = code >> 3 & 15, m = code & 7;
	float a = e ? ldexpf((float)(8 + m), e - 10) : ldexpf((float)m, -9);

	if ((code & 0x7f) == 0x7f)
		a = NAN;
	return code & 0x80 ? -a : a;
}

/* What a row's numbers are multiplied by; leaves its scale. */
static float leave_scale(float *scale, float most, float top)
{
	*scale = most > 0 ? most / top : 1;
	return most > 0 ? top / most : 1;
}

/* hi, hi and lo, or hi, lo and hi, of value i of r. */
static void put_pair(uint8_t *tail, int64_t r, int64_t i, float v, bool weight)
{
	uint8_t hi = fp8_code(v), lo = fp8_code(v - fp8_value(hi));

	tail[i] = hi;
	tail[r + i] = weight ? lo : hi;
	tail[2 * r + i] = weight ? hi : lo;
}

void kn_fp8_rows_cpu(struct device *d, const struct fp8_mat *q, const void *px, int64_t ldx, int64_t t, int64_t cols, int64_t r, int64_t tail, float top)
{
#pragma omp parallel for schedule(static) num_threads(d->threads) if (t * cols > 32768)
	for (int64_t i = 0; i < t; i++) {
		const float *x = (const float *)px + i * ldx;
		uint8_t *to = q->q + i * q->ld;
		float most = 0, by;

		for (int64_t j = 0; j < cols; j++)
			most = fmaxf(most, fabsf(x[j]));
		by = leave_scale(&q->scale[i], most, top);
		for (int64_t j = 0; j < cols; j++)
			to[j] = fp8_code(x[j] * by);
		memset(to + cols, 0, (size_t)tail);
		for (int64_t j = 0; j < r; j++)
			put_pair(to + cols, r, j, x[cols + j] * by, false);
	}
}

void kn_fp8_cols_cpu(struct device *d, const struct fp8_mat *q, const void *px, int64_t ldx, int64_t rows, int64_t cols, int64_t tail, float top)
{
	const float *x = px;

#pragma omp parallel for schedule(static) num_threads(d->threads) if (rows * cols > 32768)
	for (int64_t j = 0; j < cols; j++) {
		uint8_t *to = q->q + j * q->ld;
		float most = 0, by;

		for (int64_t i = 0; i < rows; i++)
			most = fmaxf(most, fabsf(x[i * ldx + j]));
		by = leave_scale(&q->scale[j], most, top);
		for (int64_t i = 0; i < rows; i++)
			to[i] = fp8_code(x[i * ldx + j] * by);
		memset(to + rows, 0, (size_t)tail);
	}
}

void kn_fp8_place_cpu(struct device *d, const struct fp8_mat *w, const struct fp8_mat *wt, const struct kn_adapters *a)
{
	int64_t r = a->rank, all = a->n * r;

	(void)d;
	for (int64_t i = 0; i < a->out; i++)
		memset(w->q + i * w->ld + a->in, 0, (size_t)(3 * all));
	for (int j = 0; j < a->n; j++)
		for (int64_t i = 0; i < a->rows[j]; i++)
			for (int64_t k = 0; k < r; k++) {
				int64_t row = a->row[j] + i;

				put_pair(w->q + row * w->ld + a->in, all, j * r + k, a->scale * a->b[j][i * r + k] / w->scale[row], true);
			}
	for (int64_t c = 0; c < a->in; c++)
		for (int64_t k = 0; k < all; k++)
			put_pair(wt->q + c * wt->ld + a->out, all, k, a->a[k * a->in + c] / wt->scale[c], true);
}

void kn_fp8_gemm_cpu(struct device *d, int64_t m, int64_t n, int64_t k, const struct fp8_mat *a, const struct fp8_mat *b, const void *c0, void *c, int64_t ldc)
{
	float value[256];

	for (int i = 0; i < 256; i++)
		value[i] = fp8_value((uint8_t)i);
#pragma omp parallel for schedule(static) num_threads(d->threads) if (m * n * k > 32768)
	for (int64_t i = 0; i < m; i++)
		for (int64_t j = 0; j < n; j++) {
			const uint8_t *x = a->q + i * a->ld, *w = b->q + j * b->ld;
			float sum = 0;

			for (int64_t l = 0; l < k; l++)
				sum += value[x[l]] * value[w[l]];
			sum *= a->scale[i] * b->scale[j];
			((float *)c)[i * ldc + j] = c0 ? ((const float *)c0)[i * ldc + j] + sum : sum;
		}
}
