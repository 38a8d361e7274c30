/* Statistics against values from exact arithmetic, and the A/B and
 * gate arithmetic that stands on them. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "eval/ab.h"
#include "eval/join.h"

START_TEST(means)
{
	double x[] = { 4, 1, 3, 2 }, big[] = { 1e100, 1, -1e100 };

	ck_assert_double_eq(stats_mean(x, 4), 2.5);
	ck_assert_double_eq(stats_median(x, 4), 2.5);
	ck_assert_double_eq(stats_median(x, 3), 2); /* sorted by now: 1 2 3 */
	ck_assert_double_eq_tol(stats_quantile(x, 4, 0.95), 3.85, 1e-12);
	ck_assert_double_eq(stats_mean(big, 3) * 3, 1);
	ck_assert(isnan(stats_mean(x, 0)) && isnan(stats_median(x, 0)));
}
END_TEST

START_TEST(sign_test)
{
	/* 2 sum of C(n, i) / 2^n, i to the smaller count, in exact arithmetic */
	ck_assert_double_eq_tol(stats_sign_test(8, 2), 0.109375, 1e-12);
	ck_assert_double_eq_tol(stats_sign_test(0, 10), 0.001953125, 1e-12);
	ck_assert_double_eq_tol(stats_sign_test(60, 40), 0.056887933640980784, 1e-10);
	ck_assert_double_eq(stats_sign_test(0, 0), 1);
	ck_assert_double_eq(stats_sign_test(5, 5), 1);
	ck_assert_double_lt(stats_sign_test(100000, 90000), 1e-9);
}
END_TEST

START_TEST(wilson)
{
	/* Wilson (1927), eq. for 8 of 10, z = 1.96 */
	struct interval ci = stats_wilson(8, 10);

	ck_assert_double_eq_tol(ci.lo, 0.4901625, 1e-6);
	ck_assert_double_eq_tol(ci.hi, 0.9433178, 1e-6);
	ck_assert_double_eq(stats_wilson(0, 10).lo, 0);
	ck_assert_double_eq_tol(stats_wilson(10, 10).hi, 1, 1e-15);
	ck_assert(isnan(stats_wilson(0, 0).lo));
}
END_TEST

/* On normal samples the percentile interval must be near the textbook's
 * mean -+ 1.96 s / sqrt(n), cover the truth about 95 times in 100, and be the
 * same each time. */
START_TEST(bootstrap)
{
	struct interval a, b;
	int covered = 0;

	for (int round = 0; round < 200; round++) {
		double x[100], mean, sd = 0;

		for (int i = 0; i < 100; i++)
			x[i] = 5 + rng_normal(3, (uint64_t)round, (uint64_t)i);
		a = stats_mean_ci(x, 100, (uint64_t)round, 500);
		b = stats_mean_ci(x, 100, (uint64_t)round, 500);
		ck_assert(a.lo == b.lo && a.hi == b.hi);
		mean = stats_mean(x, 100);
		for (int i = 0; i < 100; i++)
			sd += (x[i] - mean) * (x[i] - mean);
		sd = sqrt(sd / 99);
		ck_assert_double_eq_tol(a.hi - a.lo, 2 * 1.96 * sd / 10, 0.25 * 2 * 1.96 * sd / 10);
		covered += a.lo <= 5 && 5 <= a.hi;
	}
	ck_assert_int_ge(covered, 178); /* 190 expected, sd 3.1: 4 sd below */
	ck_assert(isnan(stats_mean_ci(NULL, 0, 1, 500).lo));
}
END_TEST

/* The two ways of an interval meet where one takes over. */
START_TEST(interval_of_many)
{
	double *x = malloc((STATS_BOOT_MAX + 1) * sizeof(*x));
	struct interval few, many;

	for (int i = 0; i <= STATS_BOOT_MAX; i++)
		x[i] = i % 3 == 0;
	few = stats_mean_ci(x, STATS_BOOT_MAX, 1, 2000);
	many = stats_mean_ci(x, STATS_BOOT_MAX + 1, 1, 2000);
	ck_assert_double_eq_tol(few.lo, many.lo, 0.003); /* the width is 0.041 */
	ck_assert_double_eq_tol(few.hi, many.hi, 0.003);
	free(x);
}
END_TEST

START_TEST(gates)
{
	struct err e = ERR_INIT;
	struct gate g;

	ck_assert_int_eq(gate_parse("rougeL>=0.3", &g, &e), 0);
	ck_assert(g.of == GATE_TUNED && g.metric == METRIC_ROUGEL && g.bound == 0.3);
	ck_assert(!gate_met(&g)); /* no value yet */
	g.value = 0.3;
	ck_assert(gate_met(&g));
	ck_assert_int_eq(gate_parse("delta.nll<0", &g, &e), 0);
	g.value = 0;
	ck_assert(!gate_met(&g));
	ck_assert_int_eq(gate_parse("ppl<=12.5", &g, &e), 0);
	ck_assert_int_eq(g.metric, GATE_PPL);
	ck_assert_int_eq(gate_parse("win.rougeL>0.5", &g, &e), 0);
	for (const char *const *p = (const char *const[]){ "", ">=1", "rougeL", "rougeL=1", "rougeL>=", "rougeL>=x", "bleu>1", "win.chars>0", "win.ppl>0", "rougeL>nan", NULL }; *p; p++) {
		ck_assert_msg(gate_parse(*p, &g, &e) == -1, "%s", *p);
		ck_assert_int_eq(e.code, LP_USAGE);
	}
}
END_TEST

START_TEST(joins)
{
	struct join *j = join_new();
	char id[32];

	for (int i = 0; i < 5000; i++) {
		int n = snprintf(id, sizeof(id), "\"q%d\"", i);

		ck_assert_int_eq(join_add(j, id, (size_t)n), i);
		ck_assert_int_eq(join_add(j, id, (size_t)n), -1);
	}
	ck_assert_int_eq(join_find(j, "\"q4321\"", 7), 4321);
	ck_assert_int_eq(join_find(j, "q4321", 5), -1);
	ck_assert_str_eq(join_id(j, 17), "\"q17\"");
	join_free(j);
}
END_TEST

static void add(struct ab *ab, bool tuned, int id, const char *expected, const char *response)
{
	struct scorer *s = scorer_new(NULL, false);
	struct arena a = ARENA_INIT;
	struct err e = ERR_INIT;
	struct verdict v;
	struct json rec;
	char text[512];

	snprintf(text, sizeof(text), "{\"id\":%d,\"prompt\":\"p%d\",\"response\":\"%s\",\"expected\":\"%s\",\"nll\":%d,\"n_tokens\":2}", id, id, response, expected, tuned ? 2 : 4);
	ck_assert_int_eq(json_parse_str(text, &a, &rec, &e), 0);
	ck_assert_int_eq(scorer_read(s, &rec, 1, &v, &e), 0);
	ck_assert_int_eq(tuned ? ab_add_tuned(ab, &v, &e) : ab_add_base(ab, &v, &e), 0);
	scorer_free(s);
	arena_release(&a);
}

/* Twenty pairs whose outcome is known by construction; the JSON reads back. */
START_TEST(compare)
{
	struct ab *ab = ab_new(3);
	struct ab_result r, back;
	struct err e = ERR_INIT;
	struct sb out = SB_INIT;
	struct jw w = jw_to(&out);
	struct arena a = ARENA_INIT;
	struct json v;

	for (int i = 0; i < 20; i++)
		add(ab, false, i, "red fox", i < 5 ? "red fox" : "blue cow");
	for (int i = 19; i >= 0; i--)
		add(ab, true, i, "red fox", i == 0 ? "cow" : "red fox");
	ck_assert_int_eq(ab_finish(ab, false, 1, 1000, &r, &e), 0);
	ck_assert_uint_eq(r.n_pairs, 20);
	ck_assert_double_eq(r.stat[METRIC_EXACT].base, 0.25);
	ck_assert_double_eq(r.stat[METRIC_EXACT].tuned, 0.95);
	ck_assert_double_eq_tol(r.stat[METRIC_EXACT].delta, 0.7, 1e-12);
	ck_assert_uint_eq(r.stat[METRIC_EXACT].win, 15);
	ck_assert_uint_eq(r.stat[METRIC_EXACT].tie, 4);
	ck_assert_uint_eq(r.stat[METRIC_EXACT].loss, 1);
	ck_assert_int_eq(ab_verdict(&r, METRIC_EXACT), 1);
	ck_assert_int_eq(ab_verdict(&r, METRIC_NLL), 1); /* lower is better */
	ck_assert_uint_eq(r.stat[METRIC_NLL].win, 20);
	ck_assert_int_eq(ab_verdict(&r, METRIC_CHARS), 0);
	ck_assert_double_eq_tol(r.base_ppl, exp(2), 1e-12);
	ck_assert_double_eq_tol(r.tuned_ppl, exp(1), 1e-12);
	ck_assert_uint_eq(r.n_samples, 3);
	ck_assert_str_eq(r.samples[0].tuned, "cow");
	jw_obj(&w);
	jw_key(&w, "report");
	jw_str(&w, "ab");
	ab_write(&r, &w);
	jw_end_obj(&w);
	ck_assert_int_eq(json_parse_str(out.s, &a, &v, &e), 0);
	ck_assert_msg(ab_read(&v, &back, &e) == 0, "%s", e.msg);
	ck_assert_uint_eq(back.n_pairs, 20);
	ck_assert_double_eq(back.stat[METRIC_EXACT].ci.lo, r.stat[METRIC_EXACT].ci.lo);
	ck_assert_uint_eq(back.stat[METRIC_NLL].win, 20);
	ck_assert_str_eq(back.samples[1].base, "red fox");
	ab_result_release(&r);
	ab_result_release(&back);
	ab_free(ab);
	arena_release(&a);
	sb_release(&out);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("stats");
	TCase *tc = tcase_create("stats");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_add_test(tc, means);
	tcase_add_test(tc, sign_test);
	tcase_add_test(tc, wilson);
	tcase_add_test(tc, bootstrap);
	tcase_add_test(tc, interval_of_many);
	tcase_add_test(tc, gates);
	tcase_add_test(tc, joins);
	tcase_add_test(tc, compare);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
