#include "kernels/basis.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "kernels/adam.h"
#include "kernels/device.h"

/* LAPACK, which OpenBLAS has in it: the eigenvectors numbered il to iu (from 1, by growing eigenvalue) of a symmetric matrix, column by column. */
void dsyevr_(const char *jobz, const char *range, const char *uplo, const int *n, double *a, const int *lda, const double *vl, const double *vu, const int *il, const int *iu,
             const double *abstol, int *m, double *w, double *z, const int *ldz, int *isuppz, double *work, const int *lwork, int *iwork, const int *liwork, int *info);

enum { WORK = 33, IWORK = 10 }; /* of dsyevr, a row: more than it asks for at the least */

struct parts { /* of scratch */
	double *g, *gram, *values, *vectors, *work;
	int *support, *iwork;
};

static uint64_t place(struct parts *s, char *at, int64_t rows, int64_t cols, int64_t r)
{
	int64_t k = rows < cols ? rows : cols, n[] = { rows * cols, k * k, k, k * r, WORK * k };
	double **to[] = { &s->g, &s->gram, &s->values, &s->vectors, &s->work };
	uint64_t used = 0;

	for (int i = 0; i < 5; i++) {
		*to[i] = (double *)(void *)(at ? at + used : NULL);
		used += (uint64_t)n[i] * sizeof(double);
	}
	s->support = (int *)(void *)(at ? at + used : NULL);
	s->iwork = at ? s->support + 2 * r : NULL;
	return used + (uint64_t)(2 * r + IWORK * k) * sizeof(int);
}

uint64_t kn_basis_scratch_cpu(const struct device *d, int64_t rows, int64_t cols, int64_t r)
{
	struct parts s;

	(void)d;
	return place(&s, NULL, rows, cols, r);
}

uint64_t kn_basis_scratch_cuda(const struct device *d, int64_t rows, int64_t cols, int64_t r)
{
	int64_t k = rows < cols ? rows : cols, most = rows < cols ? cols : rows;
	uint64_t y = ((uint64_t)(most * r) * dtype_bytes(d->act) + 255) / 256 * 256, z = ((uint64_t)(k * r) * sizeof(float) + 255) / 256 * 256;

	return y + z + (uint64_t)(r * r) * sizeof(double);
}

static bool leading(struct parts *s, int64_t rows, int64_t cols, int64_t r)
{
	int k = (int)(rows < cols ? rows : cols), from = k - (int)r + 1, found, work = WORK * k, iwork = IWORK * k, info;
	double none = 0;

	cblas_dgemm(CblasRowMajor, rows < cols ? CblasNoTrans : CblasTrans, rows < cols ? CblasTrans : CblasNoTrans, k, k, (int)(rows < cols ? cols : rows), 1, s->g, (int)cols,
	            s->g, (int)cols, 0, s->gram, k);
	for (int i = 0; i < k; i++)
		if (!isfinite(s->gram[i * k + i]))
			return false;
	dsyevr_("V", "I", "U", &k, s->gram, &k, &none, &none, &from, &k, &none, &found, s->values, s->vectors, &k, s->support, s->work, &work, s->iwork, &iwork, &info);
	return info == 0 && found == (int)r;
}

void kn_basis_cpu(struct device *d, void *pp, const void *pg, int64_t rows, int64_t cols, int64_t r, uint64_t seed, void *scratch)
{
	int64_t k = rows < cols ? rows : cols;
	const float *g = pg;
	float *p = pp;
	struct parts s;

	(void)d;
	(void)seed;
	place(&s, scratch, rows, cols, r);
	for (int64_t i = 0; i < rows * cols; i++)
		s.g[i] = (double)g[i];
	if (!leading(&s, rows, cols, r)) {
		memset(p, 0, (size_t)(r * k) * sizeof(*p));
		return;
	}
	for (int64_t i = 0; i < r; i++) {
		const double *v = s.vectors + (r - 1 - i) * k;
		double sign = v[cblas_idamax((int)k, v, 1)] < 0 ? -1 : 1;

		for (int64_t j = 0; j < k; j++)
			p[i * k + j] = (float)(sign * v[j]);
	}
}

void kn_add_update_cpu(struct device *d, void *p, int16_t *rest, const float *u, int64_t n, float scale, float keep, const struct kn_adam *a)
{
	uint16_t *w = p;
	float unused;

	if (!kn_adam_scale(a, &unused))
		return;
#pragma omp parallel for num_threads(d->threads) if (n > 32768)
	for (int64_t i = 0; i < n; i++)
		if (rest)
			w[i] = kn_halve((kn_join(w[i], rest[i]) + scale * u[i]) * keep, &rest[i]);
		else
			((float *)p)[i] = (((float *)p)[i] + scale * u[i]) * keep;
}
