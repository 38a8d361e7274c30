/* NEFTune's noise on the embeddings, on the device that LP_DEVICE names (cpu): each value as its definition says, uniform, of the
 * sequence's own length, other at each step, the same however rows are cut, and none when it is off. */
#include <math.h>

#include "engine_small.h"

enum { LAYERS = 1, FIRST = 12, C = 64, T = ROWS * SEQ };
#define ALPHA 5.0
#define SEED 42

/* The embeddings of the micro-batch, as fp32. */
static void embed(struct fix *f, const struct microbatch *b, bool on, int64_t step, float *x)
{
	engine_set_noise(&f->g, on, SEED, step);
	engine_send(&f->g, b);
	engine_embed(&f->g, b);
	f->dev.k.to_host(&f->dev, x, f->g.x1[0], b->n_tokens * C);
	must(f, device_sync(&f->dev, &f->e) == 0);
}

/* Rows of a sequence, but for the first: it has two. */
static void two_in_first(struct fix *f)
{
	f->b.seq_start[0] = 0;
	memmove(f->b.seq_start + 2, f->b.seq_start + 1, ROWS * sizeof(int32_t));
	f->b.seq_start[1] = FIRST;
	f->b.n_seqs++;
	for (int i = FIRST; i < SEQ; i++) {
		f->b.pos[i] = i - FIRST;
		f->b.rec[i] = 77;
	}
}

static int length_at(int64_t t)
{
	return t < FIRST ? FIRST : t < SEQ ? SEQ - FIRST : SEQ;
}

static float bound(int64_t t)
{
	return (float)(ALPHA / sqrt((double)length_at(t) * C));
}

static float defined(const struct fix *f, int64_t step, int64_t t, int64_t c)
{
	uint64_t seed = rng_u64(SEED, rng_stream("neftune"), (uint64_t)step);
	const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) }, ctr[4] = { (uint32_t)(c / 4), (uint32_t)f->b.pos[t], (uint32_t)f->b.rec[t], 0 };
	uint32_t out[4];

	philox4x32(ctr, key, out);
	return (float)(int32_t)out[c % 4] * 0x1p-31f;
}

static float rounded(const struct fix *f, float v)
{
	float code; /* room enough */

	from_f32(f->dev.act, &v, &code, 1);
	to_f32(f->dev.act, &code, &v, 1);
	return v;
}

static const struct conf confs[] = { { .layers = LAYERS, .noise = ALPHA }, { .layers = LAYERS, .noise = ALPHA, .piece = 40 } };

START_TEST(test_definition)
{
	float plain[T * C], noisy[T * C], again[T * C];
	struct fix f;

	setup(&f, &confs[_i]);
	two_in_first(&f);
	embed(&f, &f.b, false, 3, plain);
	for (int64_t step = 3; step < 5; step++) {
		embed(&f, &f.b, true, step, noisy);
		for (int64_t i = 0; i < T * C; i++)
			ck_assert_float_eq(noisy[i], rounded(&f, plain[i] + defined(&f, step, i / C, i % C) * bound(i / C)));
	}
	embed(&f, &f.b, false, 5, again);
	ck_assert_mem_eq(again, plain, sizeof(plain));
	teardown(&f);
}
END_TEST

/* The definition's values: mean, variance, fourth moment, and neighbours. */
START_TEST(test_statistics)
{
	enum { STEPS = 100 };
	double n = (double)STEPS * T * C, sum = 0, squares = 0, fourth = 0, beside = 0, below = 0, later = 0;
	struct fix f;

	setup(&f, &confs[0]);
	two_in_first(&f);
	for (int64_t step = 0; step < STEPS; step++)
		for (int64_t t = 0; t < T; t++)
			for (int64_t c = 0; c < C; c++) {
				double u = (double)defined(&f, step, t, c);

				ck_assert(u >= -1 && u <= 1);
				sum += u;
				squares += u * u;
				fourth += u * u * u * u;
				beside += u * (double)defined(&f, step, t, (c + 1) % C);
				below += u * (double)defined(&f, step, (t + 1) % T, c);
				later += u * (double)defined(&f, step + 1, t, c);
			}
	/* five standard deviations of each mean */
	ck_assert_double_eq_tol(sum / n, 0, 5 * sqrt(1.0 / 3 / n));
	ck_assert_double_eq_tol(squares / n, 1.0 / 3, 5 * sqrt(4.0 / 45 / n));
	ck_assert_double_eq_tol(fourth / n, 1.0 / 5, 5 * sqrt(16.0 / 225 / n));
	ck_assert_double_eq_tol(beside / n, 0, 5 * sqrt(1.0 / 9 / n));
	ck_assert_double_eq_tol(below / n, 0, 5 * sqrt(1.0 / 9 / n));
	ck_assert_double_eq_tol(later / n, 0, 5 * sqrt(1.0 / 9 / n));
	teardown(&f);
}
END_TEST

START_TEST(test_cut)
{
	float whole[T * C], part[T * C];
	struct microbatch one;
	struct fix f;

	setup(&f, &confs[0]);
	embed(&f, &f.b, true, 9, whole);
	microbatch_init(&one, SEQ);
	for (int64_t i = ROWS; i-- > 0;) {
		microbatch_clear(&one);
		microbatch_add(&one, &f.data, i);
		embed(&f, &one, true, 9, part);
		ck_assert_mem_eq(part, whole + i * SEQ * C, SEQ * C * sizeof(*part));
	}
	microbatch_release(&one);
	teardown(&f);
}
END_TEST

/* What a step sees changes its loss; recorded launches take new noise each time. */
START_TEST(test_step)
{
	double loss[6];
	struct fix f;

	setup(&f, &confs[0]);
	for (int i = 0; i < 6; i++) {
		engine_set_noise(&f.g, i < 4, SEED, i / 2); /* 0 0 1 1 off off */
		engine_begin(&f.g);
		engine_run(&f.g, &f.b, true, 1);
		must(&f, engine_sums(&f.g, &loss[i], NULL, &f.e) == 0);
	}
	for (int i = 0; i < 6; i += 2)
		ck_assert_double_eq(loss[i], loss[i + 1]);
	ck_assert(loss[0] != loss[2] && loss[2] != loss[4] && loss[0] != loss[4]);
	teardown(&f);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("engine_noise");
	TCase *t = tcase_create("engine_noise");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, test_definition, 0, 2);
	tcase_add_test(t, test_statistics);
	tcase_add_test(t, test_cut);
	tcase_add_test(t, test_step);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
