#include "kernels/dora.h"

#include <math.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/device.h"
#include "kernels/lanes.h"

enum { COLS = 64 }; /* columns of a task: each is summed over all tokens in order */

void kn_row_squares_cpu(struct device *d, double *squares, const void *w, int64_t ldw, int64_t out, int64_t in)
{
#pragma omp parallel for num_threads(d->threads) if (out * in > 4096)
	for (int64_t i = 0; i < out; i++) {
		const float *row = (const float *)w + i * ldw;
		double s = 0;

		for (int64_t k = 0; k < in; k++)
			s += (double)row[k] * (double)row[k];
		squares[i] = s;
	}
}

/* n^2 of row i, in which adapter j is. */
static double length_squared(const struct kn_dora_factors *a, int64_t i, int j)
{
	int64_t nr = a->n * a->rank, at = j * a->rank;
	const float *b = (const float *)a->b + i * a->ldb + at, *wa = a->wa + i * nr + at, *aa = a->aa + at * nr + at;
	double s = a->squares[i];

	for (int64_t k = 0; k < a->rank; k++) {
		double inner = 0;

		for (int64_t l = 0; l < a->rank; l++)
			inner += (double)aa[k * nr + l] * (double)b[l];
		s += (double)b[k] * (2 * (double)wa[k] + inner);
	}
	return s;
}

void kn_dora_factors_cpu(struct device *d, const struct kn_dora_factors *a)
{
	for (int64_t i = 0; i < a->out; i++) {
		a->factor[i] = 1;
		a->per[i] = 0;
	}
	for (int j = 0; j < a->n; j++)
#pragma omp parallel for num_threads(d->threads) if (a->rows[j] * a->rank * a->rank > 4096)
		for (int64_t i = 0; i < (a->m[j] ? a->rows[j] : 0); i++) {
			double s = length_squared(a, a->row[j] + i, j), n = s > 0 ? 1 / sqrt(s) : 0;

			a->factor[a->row[j] + i] = (float)((double)a->m[j][i] * n);
			a->per[a->row[j] + i] = (float)n;
		}
}

void kn_dora_out_cpu(struct device *d, const struct kn_dora_out *a)
{
#pragma omp parallel for num_threads(d->threads) if (a->t * a->out > 4096)
	for (int64_t i = 0; i < a->t; i++) {
		const float *u = (const float *)a->u + i * a->ldu, *add = (const float *)a->add + (a->add ? i * a->ld_add : 0);
		const float *less = (const float *)a->less + (a->less ? i * a->ld_less : 0);
		float *y = (float *)a->y + i * a->ldy;

		for (int64_t c = 0; c < a->out; c++) {
			float v = u[c] * a->factor[c];

			if (a->less)
				v -= less[c];
			if (a->bias)
				v += a->bias[c];
			y[c] = a->add ? add[c] + v : v;
		}
	}
}

/* --- sums over tokens --- */

/* What sums of the columns from c on add to the magnitudes' gradients. */
static void add_sums(const struct kn_dora_back *a, const double *sum, int64_t c, int64_t n)
{
	for (int64_t i = c; i < c + n; i++)
		for (int j = 0; j < a->n; j++)
			if (a->dm[j] && i >= a->row[j] && i < a->row[j] + a->rows[j]) {
				double f = a->of_output ? (double)a->factor[i] : 1;

				a->dm[j][i - a->row[j]] += (float)(f == 0 ? 0 : sum[i - c] * (double)a->per[i] / f);
			}
}

static void leave_squares(struct device *d, const struct kn_dora_back *a)
{
	if (!a->squares)
		return;
	memset(a->squares, 0, (size_t)kn_adapter_squares(a->out) * sizeof(*a->squares));
	for (int j = 0; j < a->n; j++)
		if (a->dm[j])
			kn_sum_squares_cpu(d, a->dm[j], a->rows[j], a->squares + j);
}

LP_CLONES
static void back_columns(const struct kn_dora_back *a, int64_t c, int64_t n)
{
	double sum[COLS] = { 0 };

	for (int64_t i = 0; i < a->t; i++) {
		const float *dy = (const float *)a->dy + i * a->ldy + c, *u = (const float *)a->u + (a->u ? i * a->ldu + c : 0);
		float *du = (float *)a->du + i * a->ld_du + c;

		if (a->u)
			for (int64_t k = 0; k < n; k++)
				sum[k] += (double)dy[k] * (double)(a->of_output && a->bias ? u[k] - a->bias[c + k] : u[k]);
		for (int64_t k = 0; k < n; k++)
			du[k] = dy[k] * a->factor[c + k];
	}
	if (a->u)
		add_sums(a, sum, c, n);
}

void kn_dora_back_cpu(struct device *d, const struct kn_dora_back *a)
{
#pragma omp parallel for num_threads(d->threads) if (a->t * a->out > 4096)
	for (int64_t c = 0; c < a->out; c += COLS)
		back_columns(a, c, a->out - c < COLS ? a->out - c : COLS);
	for (int64_t i = 0; a->pad && i < a->t; i++)
		memset((float *)a->du + i * a->ld_du + a->out, 0, (size_t)a->pad * sizeof(float));
	if (a->u)
		leave_squares(d, a);
}

/* --- gate and up --- */

static inline __attribute__((always_inline)) float sigmoid(float z)
{
	return 1.0f / (1.0f + lanes_exp(z < -88.0f ? 88.0f : -z));
}

LP_CLONES
static void gate_row(float *restrict h, const float *restrict u, const struct kn_dora_back *a)
{
	const float *f = a->factor, *b = a->bias;
	int64_t n = a->out / 2;

	for (int64_t i = 0; i < n; i++) {
		float z = u[i] * f[i] + (b ? b[i] : 0), v = u[n + i] * f[n + i] + (b ? b[n + i] : 0);

		h[i] = z * sigmoid(z) * v;
	}
}

void kn_dora_gate_fwd_cpu(struct device *d, const struct kn_dora_gate *a)
{
#pragma omp parallel for num_threads(d->threads) if (a->back.t * a->back.out > 4096)
	for (int64_t i = 0; i < a->back.t; i++)
		gate_row((float *)a->h + i * a->ldh, (const float *)a->back.u + i * a->back.ldu, &a->back);
}

LP_CLONES
static void gate_columns(const struct kn_dora_gate *g, int64_t c, int64_t n)
{
	const struct kn_dora_back *a = &g->back;
	int64_t half = a->out / 2;
	const float *f = a->factor + c, *b = a->bias ? a->bias + c : NULL;
	double sum[2][COLS] = { { 0 } };

	for (int64_t i = 0; i < a->t; i++) {
		const float *dh = (const float *)g->dh + i * half + c;
		float *up = (float *)(uintptr_t)a->u + i * a->ldu + c, dg[COLS], dv[COLS];

		for (int64_t k = 0; k < n; k++) {
			float z = up[k] * f[k] + (b ? b[k] : 0), v = up[half + k] * f[half + k] + (b ? b[half + k] : 0), s = sigmoid(z);

			dv[k] = dh[k] * z * s;
			dg[k] = dh[k] * v * s * (1.0f + z * (1.0f - s));
		}
		for (int64_t k = 0; k < n; k++) {
			sum[0][k] += (double)dg[k] * (double)up[k];
			sum[1][k] += (double)dv[k] * (double)up[half + k];
			up[k] = dg[k] * f[k];
			up[half + k] = dv[k] * f[half + k];
		}
	}
	add_sums(a, sum[0], c, n);
	add_sums(a, sum[1], half + c, n);
}

void kn_dora_gate_bwd_cpu(struct device *d, const struct kn_dora_gate *a)
{
	int64_t half = a->back.out / 2;

	if (a->h)
		kn_dora_gate_fwd_cpu(d, a);
#pragma omp parallel for num_threads(d->threads) if (a->back.t * a->back.out > 4096)
	for (int64_t c = 0; c < half; c += COLS)
		gate_columns(a, c, half - c < COLS ? half - c : COLS);
	leave_squares(d, &a->back);
}

void kn_dora_rest_cpu(struct device *d, void *x, int64_t ldx, const float *factor, int64_t t, int64_t n)
{
#pragma omp parallel for num_threads(d->threads) if (t * n > 4096)
	for (int64_t i = 0; i < t; i++) {
		float *row = (float *)x + i * ldx;

		for (int64_t c = 0; c < n; c++)
			row[c] *= factor[c] == 0 ? 0 : (factor[c] - 1) / factor[c];
	}
}
