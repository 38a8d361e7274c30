/* The CPU product: large ones by kernels/gemm_pack.h, the others by OpenBLAS on
 * fixed tiles of C. */
#include "kernels/gemm.h"

#include <cblas.h>
#include <string.h>

#include "kernels/device.h"
#include "kernels/gemm_pack.h"
#include "kernels/gemm_skinny.h"

#define TILE_M 256
#define TILE_N 768

static int64_t min_i64(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* A few rows (decoding, skinny adapters) leave one tile; cut its columns finer. */
static int64_t tile_cols(int64_t m, int64_t n)
{
	if (m >= TILE_M * 2 || n <= 256)
		return TILE_N;
	return 256;
}

static void copy_matrix(struct device *d, float *c, const float *c0, int64_t m, int64_t n, int64_t ldc)
{
#pragma omp parallel for schedule(static) num_threads(d->threads) if (m * n > 32768)
	for (int64_t i = 0; i < m; i++)
		memcpy(c + i * ldc, c0 + i * ldc, (size_t)n * sizeof(*c));
}

void kn_gemm_cpu(struct device *d, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const void *pa,
                 int64_t lda, const void *pb, int64_t ldb, float beta, const void *c0, void *pc, int64_t ldc, bool f32_c)
{
	const float *a = pa, *b = pb;
	float *c = pc, *room;
	int64_t floats;
	int64_t tn = tile_cols(m, n);
	int64_t n_m = (m + TILE_M - 1) / TILE_M, n_n = (n + tn - 1) / tn;

	(void)f32_c; /* it is fp32 either way */
	if (c0 && c0 != pc)
		copy_matrix(d, c, c0, m, n, ldc);
	room = gemm_room_scratch(d->impl, &floats);
	if (kn_gemm_skinny(d->threads, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, room, floats) ||
	    kn_gemm_packed(d->impl, d->threads, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc))
		return;

#pragma omp parallel for schedule(dynamic) num_threads(d->threads) if (n_m * n_n > 1)
	for (int64_t t = 0; t < n_m * n_n; t++) {
		int64_t i = t % n_m * TILE_M, j = t / n_m * tn;
		const float *at = ta ? a + i : a + i * lda;
		const float *bt = tb ? b + j * ldb : b + j;

		cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans,
		            (int)min_i64(TILE_M, m - i), (int)min_i64(tn, n - j), (int)k, alpha, at, (int)lda, bt, (int)ldb,
		            beta, c + i * ldc + j, (int)ldc);
	}
}
