/* Packing: nothing lost, nothing too long, full rows, the same every time. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/xalloc.h"
#include "text/pack.h"

/* Packs, checks what must always hold, gives the share that is filled. */
static double packed(const uint32_t *len, size_t n, uint32_t cap)
{
	uint32_t *bin = xcalloc(n + 1, sizeof(*bin)), *again = xcalloc(n + 1, sizeof(*again));
	uint64_t *sum, total = 0;
	size_t n_bins, n2, seen = 0;
	struct err e = ERR_INIT;

	ck_assert_msg(pack_best_fit(len, n, cap, bin, &n_bins, &e) == 0, "%s", e.msg);
	ck_assert_int_eq(pack_best_fit(len, n, cap, again, &n2, &e), 0);
	ck_assert_uint_eq(n_bins, n2);
	ck_assert(n == 0 || memcmp(bin, again, n * sizeof(*bin)) == 0);
	sum = xcalloc(n_bins + 1, sizeof(*sum));
	for (size_t i = 0; i < n; i++) {
		ck_assert_uint_lt(bin[i], n_bins);
		ck_assert_uint_le(bin[i], seen); /* numbered by first sequence */
		seen += bin[i] == seen;
		sum[bin[i]] += len[i];
		total += len[i];
	}
	ck_assert_uint_eq(seen, n_bins);
	for (size_t b = 0; b < n_bins; b++) {
		ck_assert_uint_le(sum[b], cap);
		ck_assert_uint_gt(sum[b], 0);
	}
	free(bin);
	free(again);
	free(sum);
	return n_bins ? (double)total / ((double)n_bins * cap) : 1;
}

static double uniform(uint64_t i)
{
	return ((double)(rng_u64(7, 1, i) >> 11) + 0.5) / 9007199254740992.0;
}

START_TEST(log_normal)
{
	size_t n = 4096;
	uint32_t *len = xcalloc(n, sizeof(*len));

	for (size_t i = 0; i < n; i++) {
		double z = sqrt(-2 * log(uniform(2 * i))) * cos(2 * M_PI * uniform(2 * i + 1)), l = exp(5.5 + 0.8 * z);

		len[i] = l < 1 ? 1 : l > 2048 ? 2048 : (uint32_t)l;
	}
	ck_assert_double_ge(packed(len, n, 2048), 0.95);
	free(len);
}
END_TEST

START_TEST(small_and_odd)
{
	static const uint32_t exact[] = { 3, 7, 5, 5, 1, 9 }, same[] = { 6, 6, 6 }, full[] = { 10, 10 };
	uint32_t len[300];

	ck_assert_double_eq(packed(exact, 6, 10), 1.0); /* 30 tokens, three rows */
	ck_assert_double_eq(packed(same, 3, 10), 0.6);
	ck_assert_double_eq(packed(full, 2, 10), 1.0);
	packed(NULL, 0, 10);
	for (uint32_t cap = 1; cap < 200; cap += 13)
		for (size_t n = 1; n < 300; n += 37) {
			for (size_t i = 0; i < n; i++)
				len[i] = 1 + (uint32_t)(rng_u64(3, cap, i) % cap);
			packed(len, n, cap);
		}
}
END_TEST

START_TEST(refused)
{
	static const uint32_t longer[] = { 5, 11 }, empty[] = { 0 };
	uint32_t bin[2];
	size_t n;
	struct err e = ERR_INIT;

	ck_assert_int_eq(pack_best_fit(longer, 2, 10, bin, &n, &e), -1);
	ck_assert_int_eq(e.code, LP_DATA);
	ck_assert_int_eq(pack_best_fit(empty, 1, 10, bin, &n, &e), -1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("pack");
	TCase *tc = tcase_create("pack");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_add_test(tc, log_normal);
	tcase_add_test(tc, small_and_odd);
	tcase_add_test(tc, refused);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
