/* kernels/gemm_pack.c against fp64: edges of panels, more than one room in
 * each direction, transposed or not, strides; and what it promises about bits. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/xalloc.h"
#include "kernels/gemm_pack.h"

static struct gemm_room *rooms[2]; /* 16 lanes, 8 */

static float *noise(int64_t n, uint64_t stream)
{
	float *x = xcalloc((size_t)n + 1, sizeof(*x));

	for (int64_t i = 0; i < n; i++)
		x[i] = (float)rng_normal(5, stream, (uint64_t)i);
	return x;
}

/* m, n, k: one panel and a piece, pieces of every size class, rooms in k, in n, in m. */
static const int64_t shapes[][3] = { { 48, 48, 16 }, { 61, 65, 17 }, { 97, 130, 513 }, { 53, 70, 1100 }, { 50, 2100, 66 }, { 2100, 50, 35 } };
#define N_SHAPES ((int)(sizeof(shapes) / sizeof(*shapes)))

static void element(const float *c, const float *c0, double sum, double abs_sum, int64_t k, float beta, int64_t i, int64_t j)
{
	double was = beta != 0 ? (double)beta * (double)*c0 : 0, want = was + 0.5 * sum;
	double bound = (double)(k + 3) * 0x1p-24 * (abs_sum + fabs(was));

	ck_assert_msg(fabs((double)*c - want) <= bound, "(%lld, %lld): %.9g, not %.9g (bound %.3g)", (long long)i, (long long)j, (double)*c, want, bound);
}

START_TEST(against_fp64)
{
	struct gemm_room *room = rooms[_i / (8 * N_SHAPES)];
	const int64_t *shape = shapes[_i / 8 % N_SHAPES];
	int64_t m = shape[0], n = shape[1], k = shape[2];
	bool ta = _i & 1, tb = _i & 2;
	float beta = _i & 4 ? 0 : -2;
	int64_t lda = (ta ? m : k) + 3, ldb = (tb ? k : n) + 1, ldc = n + 5;
	float *a = noise((ta ? k : m) * lda, 1), *b = noise((tb ? n : k) * ldb, 2), *c = noise(m * ldc, 3), *c0 = noise(m * ldc, 3);

	for (int64_t i = 0; i < m * ldc && beta == 0; i++)
		c[i] = i % ldc < n ? NAN : c[i]; /* overwritten, whatever is there */
	ck_assert(kn_gemm_packed(room, 1, ta, tb, m, n, k, 0.5f, a, lda, b, ldb, beta, c, ldc));
	for (int64_t i = 0; i < m; i++) {
		for (int64_t j = 0; j < n; j++) {
			double s = 0, abs_sum = 0;

			for (int64_t l = 0; l < k; l++) {
				double x = (double)a[ta ? l * lda + i : i * lda + l] * (double)b[tb ? j * ldb + l : l * ldb + j];

				s += x;
				abs_sum += fabs(x);
			}
			element(&c[i * ldc + j], &c0[i * ldc + j], s, abs_sum, k, beta, i, j);
		}
		ck_assert_mem_eq(c + i * ldc + n, c0 + i * ldc + n, 5 * sizeof(*c));
	}
	free(a);
	free(b);
	free(c);
	free(c0);
}
END_TEST

START_TEST(bits_follow_from_k_alone)
{
	struct gemm_room *room = rooms[_i];
	const int64_t m = 500, n = 333, k = 1300, part_m = 77, part_n = 100;
	float *a = noise(m * k, 1), *b = noise(n * k, 2), *c = noise(m * n, 3), *c3 = noise(m * n, 3), *p = noise(m * n, 3);

	ck_assert(kn_gemm_packed(room, 1, false, true, m, n, k, 1, a, k, b, k, 1, c, n));
	ck_assert(kn_gemm_packed(room, 3, false, true, m, n, k, 1, a, k, b, k, 1, c3, n));
	ck_assert_mem_eq(c, c3, (size_t)(m * n) * sizeof(*c));
	/* a piece of C by itself, from the middle */
	ck_assert(kn_gemm_packed(room, 2, false, true, part_m, part_n, k, 1, a + 31 * k, k, b + 50 * k, k, 1, p + 31 * n + 50, n));
	for (int64_t i = 31; i < 31 + part_m; i++)
		ck_assert_mem_eq(p + i * n + 50, c + i * n + 50, (size_t)part_n * sizeof(*c));
	free(a);
	free(b);
	free(c);
	free(c3);
	free(p);
}
END_TEST

START_TEST(small_shapes_are_left)
{
	float x[64] = { 0 };

	ck_assert(!kn_gemm_packed(rooms[0], 1, false, false, 1, 8, 8, 1, x, 8, x, 8, 0, x, 8));
	ck_assert(!kn_gemm_packed(NULL, 1, false, false, 4096, 4096, 4096, 1, NULL, 4096, NULL, 4096, 0, NULL, 4096));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("kn_gemm_pack");
	TCase *t = tcase_create("all");
	SRunner *r;
	int failed;
	struct err e = ERR_INIT;

	if (gemm_room_new(16, &rooms[0], &e) < 0 || gemm_room_new(8, &rooms[1], &e) < 0) {
		fprintf(stderr, "%s\n", e.msg);
		return 1;
	}
	tcase_set_timeout(t, 120);
	tcase_add_test(t, small_shapes_are_left);
	if (rooms[0] && rooms[1]) {
		tcase_add_loop_test(t, against_fp64, 0, 2 * 8 * N_SHAPES);
		tcase_add_loop_test(t, bits_follow_from_k_alone, 0, 2);
	}
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	if (!rooms[0])
		printf("# skip: not built by GCC, or on a processor with neither AVX-512 nor AVX2 with FMA\n");
	srunner_free(r);
	gemm_room_free(rooms[0]);
	gemm_room_free(rooms[1]);
	return failed != 0;
}
