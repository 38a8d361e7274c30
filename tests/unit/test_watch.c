/* Curves whose fault is known are named, at the step where it can be seen; sound ones are not. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "train/watch.h"

enum { STEPS = 400, WARMUP = 10 };
enum shape { HEALTHY, PLATEAU, SHORT, FLAT, RISING, NEAR_ZERO, NOISY, SPIKE, EARLY_SPIKE, NOT_A_NUMBER, N_SHAPES };

static double loss_at(enum shape s, uint64_t seed, int step)
{
	double fall = 1 + 3 * exp(-step / 30.0), noise = rng_normal(seed, s, (uint64_t)step);

	switch (s) {
	case PLATEAU:
		return step > 100 ? 1.2 * (1 + 0.03 * noise) : fall * (1 + 0.03 * noise);
	case FLAT:
		return 2.5 * (1 + 0.03 * noise);
	case RISING:
		return 2 + step / 100.0 + 0.05 * noise;
	case NEAR_ZERO:
		return 0.01 + 4 * exp(-step / 10.0) + 0.001 * fabs(noise);
	case NOISY:
		return fall * exp(0.35 * noise);
	case SPIKE:
		return fall * (1 + 0.04 * noise) * (step == 220 || step == 221 ? 3 : 1);
	case EARLY_SPIKE:
		return fall * (1 + 0.04 * noise) * (step == 14 ? 4 : 1);
	case NOT_A_NUMBER:
		return step == 77 ? (double)NAN : fall * (1 + 0.04 * noise);
	default:
		return fall * (1 + 0.04 * noise);
	}
}

/* The steps at which each name was first said, 0: never; how often in all. */
static int run(enum shape s, uint64_t seed, int first[WATCH_N], const char **advice)
{
	struct watch w = { 0 };
	struct watch_word out[WATCH_N];
	int said = 0;

	memset(first, 0, WATCH_N * sizeof(*first));
	for (int step = 1; step <= (s == SHORT ? 20 : STEPS); step++) {
		int n = watch_loss(&w, step, WARMUP, STEPS, loss_at(s, seed, step), out);

		for (int i = 0; i < n; i++)
			for (int c = 0; c < WATCH_N; c++)
				if (strcmp(out[i].name, watch_name((enum watch_code)c)) == 0 && !first[c]) {
					first[c] = step;
					*advice = out[i].advice;
				}
		said += n;
	}
	return said;
}

START_TEST(test_sound)
{
	static const enum shape sound[] = { HEALTHY, PLATEAU, SHORT, NOT_A_NUMBER };
	int first[WATCH_N];
	const char *advice;

	for (size_t i = 0; i < sizeof(sound) / sizeof(*sound); i++)
		for (uint64_t seed = 0; seed < 50; seed++)
			ck_assert_msg(run(sound[i], seed, first, &advice) == 0, "shape %d, seed %llu", (int)sound[i], (unsigned long long)seed);
}
END_TEST

static void names(enum shape s, enum watch_code c, int from, int to, const char *says)
{
	int first[WATCH_N];
	const char *advice = "";

	for (uint64_t seed = 0; seed < 20; seed++) {
		run(s, seed, first, &advice);
		ck_assert_msg(first[c] >= from && first[c] <= to, "shape %d, seed %llu: %s at step %d", (int)s, (unsigned long long)seed, watch_name(c), first[c]);
		for (int o = 0; o < WATCH_N; o++)
			ck_assert_msg(o == (int)c || !first[o], "shape %d, seed %llu: %s too, at step %d", (int)s, (unsigned long long)seed, watch_name((enum watch_code)o), first[o]);
		ck_assert_ptr_nonnull(strstr(advice, says));
	}
}

START_TEST(test_faults)
{
	names(FLAT, WATCH_FLAT, WARMUP + STEPS / 5, WARMUP + STEPS / 5, "--lr");
	names(NEAR_ZERO, WATCH_COLLAPSING, 40, 80, "--epochs");
	names(NOISY, WATCH_NOISY, 33, 120, "--accumulate");
	names(SPIKE, WATCH_EXPLODING, 220, 220, "--max-grad-norm");
	names(EARLY_SPIKE, WATCH_EXPLODING, 14, 14, "warm-up");
	int first[WATCH_N];
	const char *advice = "";

	run(RISING, 1, first, &advice);
	ck_assert(first[WATCH_EXPLODING] > 10 && first[WATCH_EXPLODING] < 60);
}
END_TEST

START_TEST(test_overfit)
{
	struct watch w = { 0 }, v = { 0 };
	struct watch_word out[WATCH_N];
	int said = 0, sound = 0;

	for (int step = 1; step <= STEPS; step++) {
		watch_loss(&w, step, WARMUP, STEPS, 0.3 + 3 * exp(-step / 80.0), out);
		watch_loss(&v, step, WARMUP, STEPS, 0.3 + 3 * exp(-step / 80.0), out);
		if (step % 25 == 0) {
			int n = watch_eval(&w, step, step > 100 ? 1.2 + 0.001 * (step - 100) : 1.2 + exp(-step / 10.0), out);

			said += n;
			if (n) {
				ck_assert_str_eq(out[0].name, "overfitting");
				ck_assert_int_eq(step, 125); /* 2 % above the best */
			}
			sound += watch_eval(&v, step, 1.2 + exp(-step / 30.0), out);
		}
	}
	ck_assert_int_eq(said, 1); /* it goes on, and is not repeated */
	ck_assert_int_eq(sound, 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("watch");
	TCase *t = tcase_create("watch");
	SRunner *r;
	int failed;

	tcase_add_test(t, test_sound);
	tcase_add_test(t, test_faults);
	tcase_add_test(t, test_overfit);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
