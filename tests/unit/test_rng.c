/* base/rng.c: the known answers are those of Random123's kat_vectors. */
#include "scratch.h"

#include <math.h>

#include "base/rng.h"

START_TEST(known_answers)
{
	static const struct {
		uint32_t ctr[4], key[2], out[4];
	} kat[] = {
		{ { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
		{ { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff }, { 0xffffffff, 0xffffffff },
		  { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
		{ { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, { 0xa4093822, 0x299f31d0 },
		  { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
	};

	for (size_t i = 0; i < 3; i++) {
		uint32_t out[4];

		philox4x32(kat[i].ctr, kat[i].key, out);
		for (int k = 0; k < 4; k++)
			ck_assert_msg(out[k] == kat[i].out[k], "case %zu word %d: %08x", i, k, out[k]);
	}
	ck_assert(rng_u64(0, 0, 0) == 0xe169c58d6627e8d5u);
}
END_TEST

START_TEST(every_argument_counts)
{
	uint64_t v = rng_u64(1, 2, 3);

	ck_assert(v == rng_u64(1, 2, 3));
	ck_assert(v != rng_u64(2, 2, 3) && v != rng_u64(1, 3, 3) && v != rng_u64(1, 2, 4));
	ck_assert(rng_u64(1ull << 40, 0, 0) != rng_u64(0, 0, 0));
	ck_assert(rng_u64(0, 1ull << 40, 0) != rng_u64(0, 0, 0));
	ck_assert(rng_u64(0, 0, 1ull << 40) != rng_u64(0, 0, 0));
	ck_assert(rng_stream("dropout") != rng_stream("shuffle"));
	ck_assert(rng_stream("dropout") == rng_stream("dropout"));
}
END_TEST

/* Bounds are six standard errors of each figure for n draws. */
START_TEST(moments)
{
	enum { N = 200000 };
	double u = 0, uu = 0, s = 0, ss = 0, s4 = 0;

	for (uint64_t i = 0; i < N; i++) {
		double x = rng_unit(7, i, 1), z = rng_normal(7, i, 2);

		ck_assert(x >= 0 && x < 1 && isfinite(z));
		u += x, uu += x * x;
		s += z, ss += z * z, s4 += z * z * z * z;
	}
	ck_assert_double_eq_tol(u / N, 0.5, 6 * sqrt(1.0 / 12 / N));
	ck_assert_double_eq_tol(uu / N, 1.0 / 3, 6 * sqrt(4.0 / 45 / N));
	ck_assert_double_eq_tol(s / N, 0, 6 * sqrt(1.0 / N));
	ck_assert_double_eq_tol(ss / N, 1, 6 * sqrt(2.0 / N));
	ck_assert_double_eq_tol(s4 / N, 3, 6 * sqrt(96.0 / N));
}
END_TEST

START_TEST(below_is_fair)
{
	enum { N = 120000 };
	unsigned count[6] = { 0 };

	for (uint64_t i = 0; i < N; i++)
		count[rng_below(3, i, 0, 6)]++;
	for (int k = 0; k < 6; k++) /* six standard deviations of a binomial */
		ck_assert_double_eq_tol(count[k], N / 6.0, 6 * sqrt(N * 5.0 / 36));
	for (uint64_t i = 0; i < 1000; i++) {
		ck_assert(rng_below(3, i, 0, 1) == 0);
		ck_assert(rng_below(3, i, 0, (1ull << 63) + 1) <= 1ull << 63); /* rejects nearly half */
		ck_assert(rng_below(3, i, 0, UINT64_MAX) < UINT64_MAX);
	}
}
END_TEST

START_TEST(permutations)
{
	enum { N = 1000 };
	uint32_t a[N], b[N], one;
	bool seen[N] = { false };
	unsigned fixed = 0;

	rng_permutation(5, 1, N, a);
	rng_permutation(5, 1, N, b);
	ck_assert_int_eq(memcmp(a, b, sizeof(a)), 0);
	rng_permutation(6, 1, N, b);
	ck_assert_int_ne(memcmp(a, b, sizeof(a)), 0);
	for (int i = 0; i < N; i++) {
		ck_assert(a[i] < N && !seen[a[i]]);
		seen[a[i]] = true;
		fixed += a[i] == (uint32_t)i;
	}
	ck_assert_uint_lt(fixed, 10); /* one is expected; ten has probability 1e-7 */
	rng_permutation(5, 1, 1, &one);
	ck_assert_uint_eq(one, 0);
	rng_permutation(5, 1, 0, NULL);
}
END_TEST

/* The order that data sets are split and shuffled in: a change here changes
 * every run that was ever made, so it is pinned. */
START_TEST(pinned)
{
	static const uint32_t want[8] = { 5, 0, 6, 1, 3, 2, 4, 7 };
	uint32_t p[8];

	rng_permutation(42, 0, 8, p);
	for (int i = 0; i < 8; i++)
		ck_assert_msg(p[i] == want[i], "{ %u, %u, %u, %u, %u, %u, %u, %u }", p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("rng");
	TCase *c = tcase_create("all");

	tcase_add_test(c, known_answers);
	tcase_add_test(c, every_argument_counts);
	tcase_add_test(c, moments);
	tcase_add_test(c, below_is_fair);
	tcase_add_test(c, permutations);
	tcase_add_test(c, pinned);
	suite_add_tcase(s, c);
	return run_tests(s);
}
