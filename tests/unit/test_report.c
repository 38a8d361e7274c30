/* Red flags on curves whose fault is known, logs that were appended to, and
 * the two views' escaping. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "base/xalloc.h"
#include "eval/chart.h"
#include "eval/report.h"

#define STEPS 200

enum shape { HEALTHY, FLAT, RISING, NEAR_ZERO, NOISY, SPIKE, EARLY_SPIKE, NOT_A_NUMBER, OVERFIT, N_SHAPES };

/* A run as a trainer logs it: 4 down to 1 with 4 % noise, and one fault. */
static double loss_at(enum shape s, int step)
{
	double fall = 1 + 3 * exp(-step / 30.0), noise = rng_normal(9, s, (uint64_t)step);

	switch (s) {
	case FLAT:
		return 2.5 * (1 + 0.04 * noise);
	case RISING:
		return 2 + step / 100.0 + 0.05 * noise;
	case NEAR_ZERO:
		return 0.01 + 4 * exp(-step / 10.0) + 0.001 * fabs(noise);
	case NOISY:
		return fall * exp(0.35 * noise);
	case SPIKE:
		return fall * (1 + 0.04 * noise) * (step == 120 || step == 121 ? 3 : 1);
	case EARLY_SPIKE:
		return fall * (1 + 0.04 * noise) * (step == 12 ? 4 : 1);
	case NOT_A_NUMBER:
		return step == 77 ? NAN : fall * (1 + 0.04 * noise);
	default:
		return fall * (1 + 0.04 * noise);
	}
}

static void make_run(struct run_log *r, enum shape s)
{
	memset(r, 0, sizeof(*r));
	r->train = xcalloc(STEPS, sizeof(*r->train));
	r->evals = xcalloc(8, sizeof(*r->evals));
	r->trainable = r->total = r->percent = r->seconds = r->first_nonfinite = NAN;
	r->done = true;
	for (int i = 0; i < STEPS; i++) {
		r->train[i] = (struct train_point){ i + 1, loss_at(s, i + 1), 1e-4, 1, NAN, NAN, NAN, NAN, NAN };
		if (isnan(r->train[i].loss) && r->n_nonfinite++ == 0)
			r->first_nonfinite = i + 1;
	}
	r->n_train = STEPS;
	for (int i = 0; i < 8; i++)
		r->evals[i] = (struct eval_point){ 25 * (i + 1), s == OVERFIT && i > 3 ? 1.2 + 0.1 * (i - 3) : 1.1 + 2 * exp(-i), false };
	r->n_evals = 8;
}

static const struct flag *find(const struct flag *f, size_t n, const char *code)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(f[i].code, code) == 0)
			return &f[i];
	return NULL;
}

START_TEST(each_fault_and_no_other)
{
	static const char *const want[N_SHAPES] = { NULL, "flat", "rising", "near-zero", "noisy", "spike", "spike", "nonfinite", "overfit" };
	struct flag flags[REPORT_MAX_FLAGS];

	for (int s = 0; s < N_SHAPES; s++) {
		struct run_log r;
		size_t n;

		make_run(&r, (enum shape)s);
		n = run_flags(&r, flags);
		if (want[s]) {
			ck_assert_msg(find(flags, n, want[s]) != NULL, "shape %d: no %s", s, want[s]);
			ck_assert_msg(n == 1, "shape %d: %zu flags, the first is %s: %s", s, n, flags[0].code, flags[0].what);
		} else {
			ck_assert_msg(n == 0, "healthy run: %s: %s", flags[0].code, flags[0].what);
		}
		if (s == SPIKE) {
			ck_assert_double_eq(flags[0].step, 120);
			ck_assert(strstr(flags[0].advice, "explodes") != NULL);
		}
		if (s == EARLY_SPIKE)
			ck_assert(strstr(flags[0].advice, "learning rate is too high") != NULL);
		if (s == NOT_A_NUMBER)
			ck_assert(flags[0].level == FLAG_BAD && flags[0].step == 77);
		run_log_release(&r);
	}
}
END_TEST

/* Where a definition begins and ends. */
START_TEST(limits)
{
	struct flag flags[REPORT_MAX_FLAGS];
	struct run_log r;

	make_run(&r, HEALTHY);
	r.done = false;
	r.n_evals = 0;
	ck_assert_uint_eq(run_flags(&r, flags), 2);
	ck_assert(find(flags, 2, "unfinished") && find(flags, 2, "no-held-out"));
	for (int i = 0; i < STEPS; i++)
		r.train[i].loss = i < 3 ? 1.00 : 0.979; /* down by 2.1 % */
	r.done = true;
	ck_assert(!find(flags, run_flags(&r, flags), "flat"));
	for (int i = 3; i < STEPS; i++)
		r.train[i].loss = 0.981;
	ck_assert(find(flags, run_flags(&r, flags), "flat") != NULL);
	r.n_train = 9; /* too few to say */
	ck_assert(!find(flags, run_flags(&r, flags), "flat"));
	run_log_release(&r);
	make_run(&r, OVERFIT);
	r.n_evals = 5; /* 1.3 after a best of 1.2: 8 % */
	ck_assert(find(flags, run_flags(&r, flags), "overfit") != NULL);
	r.n_evals = 4;
	ck_assert(!find(flags, run_flags(&r, flags), "overfit"));
	run_log_release(&r);
}
END_TEST

static void put_log(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	ck_assert(f != NULL);
	fputs(text, f);
	ck_assert_int_eq(fclose(f), 0);
}

START_TEST(logs)
{
	static const char first[] = "{\"event\":\"plan\",\"model\":\"m1\",\"trainable\":10,\"total\":100,\"weights_bytes\":400}\n"
		"{\"event\":\"train\",\"step\":1,\"loss\":3}\n{\"event\":\"train\",\"step\":2,\"loss\":2.5}\n{\"event\":\"eval\",\"step\":2,\"loss\":2.6,\"best\":true}\n"
		"{\"event\":\"train\",\"step\":3,\"loss\":null}\n{\"event\":\"other\",\"step\":\"x\"}\n{\"tool\":\"judge-eval\",\"event\":\"done\",\"seconds\":9}\n";
	static const char resumed[] = "{\"event\":\"plan\",\"model\":\"m1\",\"memory\":{\"peak_bytes\":7}}\n{\"event\":\"train\",\"step\":3,\"loss\":2}\n"
		"{\"event\":\"train\",\"step\":4,\"loss\":1.5,\"unknown\":[1]}\n{\"event\":\"done\",\"step\":4,\"loss\":1.5,\"seconds\":12.5}\n";
	static const char again[] = "{\"event\":\"plan\",\"model\":\"m2\"}\n{\"event\":\"train\",\"step\":1,\"loss\":5}\n";
	char path[] = "/tmp/lp-report.XXXXXX", all[4096];
	struct run_log r;
	struct err e = ERR_INIT;
	int fd = mkstemp(path);

	ck_assert_int_ge(fd, 0);
	close(fd);
	put_log(path, first);
	ck_assert_msg(run_log_read(path, &r, &e) == 0, "%s", e.msg);
	ck_assert_uint_eq(r.n_train, 3);
	ck_assert_uint_eq(r.n_nonfinite, 1);
	ck_assert(!r.done);
	ck_assert_str_eq(r.model, "m1");
	ck_assert_uint_eq(r.n_facts, 1);
	ck_assert_str_eq(r.facts[0].name, "weights");
	run_log_release(&r);

	/* A resumed run: step 3 is written again, its failure is gone. */
	snprintf(all, sizeof(all), "%s%s", first, resumed);
	put_log(path, all);
	ck_assert_int_eq(run_log_read(path, &r, &e), 0);
	ck_assert_uint_eq(r.n_train, 4);
	ck_assert_double_eq(r.train[2].loss, 2);
	ck_assert_uint_eq(r.n_evals, 1);
	ck_assert_uint_eq(r.n_nonfinite, 0);
	ck_assert(r.done && r.seconds == 12.5 && r.n_older == 0);
	ck_assert_str_eq(r.facts[0].name, "peak");
	run_log_release(&r);

	/* Another run in the same file: the last counts. */
	snprintf(all, sizeof(all), "%s%s%s", first, resumed, again);
	put_log(path, all);
	ck_assert_int_eq(run_log_read(path, &r, &e), 0);
	ck_assert_uint_eq(r.n_train, 1);
	ck_assert_uint_eq(r.n_evals, 0);
	ck_assert_uint_eq(r.n_older, 1);
	ck_assert_str_eq(r.model, "m2");
	ck_assert(!r.done);
	run_log_release(&r);

	for (const char *const *p = (const char *const[]){ "", "{\"event\":\"plan\"}\n", "[1]\n", "{\"event\":\"train\",\"loss\":1}\n",
	                                                   "{\"event\":\"train\",\"step\":\"1\"}\n", "{\"event\":\"train\",", NULL }; *p; p++) {
		put_log(path, *p);
		ck_assert_msg(run_log_read(path, &r, &e) == -1, "accepted: %s", *p);
		ck_assert_int_eq(e.code, LP_DATA);
		e = (struct err)ERR_INIT;
	}
	unlink(path);
}
END_TEST

START_TEST(escaping)
{
	struct ab_sample s = { "\"<i>\"", "a<script>\n&\"'", "\x1b[31mred\xc2\x9b" "1m", "", NULL, { NAN, NAN } };
	struct ab_result a = { .n_pairs = 1, .has_base = true, .samples = &s, .n_samples = 1 };
	struct report r = { "T<b>", NULL, 0, NULL, &a, 5 };
	struct sb html = SB_INIT, text = SB_INIT;

	report_html(&r, &html);
	ck_assert(strstr(html.s, "a&lt;script&gt;\n&amp;&quot;&#39;") != NULL);
	ck_assert(strstr(html.s, "<script") == NULL);
	ck_assert(strstr(html.s, "T&lt;b&gt;") != NULL && strstr(html.s, "&lt;i&gt;") != NULL);
	ck_assert(strchr(html.s, '\x1b') == NULL);
	ck_assert(strstr(html.s, "http") == NULL); /* nothing from outside */
	report_text(&r, 80, false, &text);
	ck_assert(strchr(text.s, '\x1b') == NULL && strstr(text.s, "\xc2\x9b") == NULL);
	ck_assert(strstr(text.s, "red 1m") != NULL);
	sb_release(&html);
	sb_release(&text);
}
END_TEST

START_TEST(charts)
{
	double x[5] = { 0, 1, 2, 3, 4 }, y[5] = { NAN, NAN, NAN, NAN, NAN };
	struct series s = { "a", x, y, 5, 0, LOOK_LINE, NAN };
	struct chart c = { "t", "step", &s, 1, 300, 150, false };
	struct sb out = SB_INIT;
	char b[32];

	ck_assert(chart_empty(&c));
	chart_svg(&c, &out);
	chart_cells(&c, 40, 5, true, &out);
	ck_assert_uint_eq(out.len, 0);
	y[2] = 7; /* one point among gaps */
	chart_svg(&c, &out);
	ck_assert(strstr(out.s, "<circle") != NULL && strstr(out.s, "nan") == NULL && strstr(out.s, "inf") == NULL);
	/* values that differ in the last bit, or by all there is */
	for (int i = 0; i < 5; i++)
		y[i] = 1e20;
	y[3] = nextafter(1e20, 1e21);
	chart_svg(&c, &out);
	chart_cells(&c, 40, 5, false, &out);
	y[0] = -1.7e308, y[1] = 1.7e308, x[4] = 1e308, y[2] = 3;
	chart_svg(&c, &out);
	chart_cells(&c, 40, 5, false, &out);
	chart_spark(y, 5, 9, false, &out);
	ck_assert(strstr(out.s, "nan") == NULL && strstr(out.s, "inf") == NULL);
	sb_reset(&out);
	x[4] = 4;
	for (int i = 0; i < 5; i++)
		y[i] = i;
	chart_spark(y, 5, 80, true, &out);
	ck_assert_str_eq(out.s, "_.~^#");
	sb_reset(&out);
	chart_cells(&c, 30, 4, true, &out);
	ck_assert(strchr(out.s, '|') != NULL);
	ck_assert_double_eq(chart_tick(0, 10, 5), 2);
	ck_assert_double_eq_tol(chart_tick(0, 0.013, 4), 0.005, 1e-12);
	ck_assert_str_eq(fmt_count(8114147328.0, b), "8,114,147,328");
	ck_assert_str_eq(fmt_count(-1234, b), "-1,234");
	ck_assert_str_eq(fmt_count(999, b), "999");
	ck_assert_str_eq(fmt_bytes(1536, b), "1.5 KiB");
	ck_assert_str_eq(fmt_seconds(3725, b), "1 h 02 min");
	ck_assert_str_eq(fmt_seconds(96.3, b), "1 min 36 s");
	sb_release(&out);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("report");
	TCase *tc = tcase_create("report");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_add_test(tc, each_fault_and_no_other);
	tcase_add_test(tc, limits);
	tcase_add_test(tc, logs);
	tcase_add_test(tc, escaping);
	tcase_add_test(tc, charts);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
