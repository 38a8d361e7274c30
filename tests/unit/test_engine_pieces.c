/* A micro-batch in pieces of tokens (train/engine.h): it trains as a whole one does, and no plan changes a bit of it: what is kept, what
 * runs again, how many layers' streams wait on the host. */
#include <math.h>
#include <stdio.h>

#include "engine_small.h"

enum { LAYERS = 6, EACH = 40 }; /* ends inside a sequence, and the last piece is shorter */

static const struct {
	double dropout;
	bool dora;
} kinds[] = { { 0, false }, { 0.2, false }, { 0, true }, { 0.2, true } };

/* What pieces change is the order of sums over tokens, and which kernel a product gets: on the CPU rounding of fp32, elsewhere that of
 * activations with 8 bits or more, some dozens of them one after the other. */
START_TEST(test_against_whole)
{
	struct fix a, b;
	float *ga, *gb;
	double la, lb, d, most;

	setup(&a, &(struct conf){ .layers = LAYERS, .dropout = kinds[_i].dropout, .dora = kinds[_i].dora });
	setup(&b, &(struct conf){ .layers = LAYERS, .dropout = kinds[_i].dropout, .dora = kinds[_i].dora, .piece = EACH });
	most = a.dev.act == DT_F32 ? 1e-5 : 0.03;
	ga = xcalloc((size_t)a.lora.n_params, sizeof(*ga));
	gb = xcalloc((size_t)a.lora.n_params, sizeof(*gb));
	la = run_step(&a, ga);
	lb = run_step(&b, gb);
	d = distance(ga, gb, a.lora.n_params);
	printf("%sdropout %g: loss %.6f, in pieces %.6f; gradients differ by %.3e\n", kinds[_i].dora ? "DoRA, " : "", kinds[_i].dropout, la, lb, d);
	ck_assert_double_le(fabs(la - lb), most * la);
	for (size_t i = 0; i < (size_t)a.lora.n_tensors; i++) {
		const struct lora_tensor *t = &a.lora.tensors[i];
		double one = distance(ga + t->offset, gb + t->offset, t->n);

		ck_assert_msg(one <= most, "%s: gradients differ by %.3e", t->name, one);
	}
	teardown(&a);
	teardown(&b);
	free(ga);
	free(gb);
}
END_TEST

/* One piece that is longer than the micro-batch, against what is taken unasked. */
START_TEST(test_one_piece)
{
	struct fix a, b;
	float *ga, *gb;

	setup(&a, &(struct conf){ .layers = LAYERS });
	setup(&b, &(struct conf){ .layers = LAYERS, .piece = ROWS * SEQ + 1 });
	ga = xcalloc((size_t)a.lora.n_params, sizeof(*ga));
	gb = xcalloc((size_t)a.lora.n_params, sizeof(*gb));
	ck_assert(run_step(&a, ga) == run_step(&b, gb));
	ck_assert_mem_eq(ga, gb, (size_t)a.lora.n_params * sizeof(*ga));
	teardown(&a);
	teardown(&b);
	free(ga);
	free(gb);
}
END_TEST

/* What was planned at least once. */
struct seen {
	bool full, lean, again, pieced; /* layers */
	bool travel, some, all;         /* layers, streams */
};

static void look(struct seen *s, const struct engine *g)
{
	s->full |= g->full > 0;
	s->lean |= g->lean > 0;
	s->again |= engine_again(g) > 0 && !g->pieced;
	s->pieced |= g->pieced;
	s->travel |= g->travel > 0;
	s->some |= g->away > 0 && g->away < LAYERS + 1 - RING;
	s->all |= g->away == LAYERS + 1 - RING;
}

/* Two micro-batches in one step: the second finds the buffers as the first left them. */
static double run_twice(struct fix *f, float *grads)
{
	double loss = run_step(f, grads);

	ck_assert(run_step(f, grads) == loss);
	return loss;
}

START_TEST(test_plans)
{
	enum { STEPS = 12 };
	static const int64_t host_streams[] = { 1, 2, 100 };
	uint64_t stream = ROWS * SEQ * 64 * sizeof(float), least, most, bytes;
	struct seen seen = { 0 };
	struct fix a, b;
	float *ga, *gb;
	double loss;

	setup(&a, &(struct conf){ .layers = LAYERS, .dropout = kinds[_i].dropout, .dora = kinds[_i].dora, .piece = EACH, .host_budget = 1 << 30 });
	ck_assert_int_eq(a.g.full, LAYERS);
	ga = xcalloc((size_t)a.lora.n_params, sizeof(*ga));
	gb = xcalloc((size_t)a.lora.n_params, sizeof(*gb));
	loss = run_twice(&a, ga);
	least = least_of(&a, 1e10);
	most = engine_bytes(&a.g);
	for (int k = 0; k < 3 * STEPS; k++) {
		struct conf s = { .layers = LAYERS, .dropout = kinds[_i].dropout, .dora = kinds[_i].dora, .host_rate = 1e10, .piece = EACH, .budget = least + (most - least) / STEPS * (uint64_t)(k / 3),
			.host_budget = (uint64_t)host_streams[k % 3] * (stream + 512) };

		if (!planned(&a, s.budget, s.host_budget, s.host_rate, &bytes)) /* with little on the host not every budget has a plan */
			continue;
		setup(&b, &s);
		look(&seen, &b.g);
		ck_assert_uint_le(engine_bytes(&b.g), s.budget);
		ck_assert_uint_le(b.g.host_plan.used, s.host_budget);
		ck_assert(run_twice(&b, gb) == loss);
		ck_assert_mem_eq(ga, gb, (size_t)a.lora.n_params * sizeof(*ga));
		teardown(&b);
	}
	printf("full %d lean %d again %d in pieces %d travel %d; some streams %d all %d\n", seen.full, seen.lean, seen.again, seen.pieced, seen.travel, seen.some, seen.all);
	/* every choice was there to be compared; a GPU's rows are of other lengths, and so are its plans */
	ck_assert(a.dev.kind != DEVICE_CPU || (seen.full && seen.lean && seen.again && seen.pieced && seen.travel && seen.some && seen.all));
	teardown(&a);
	free(ga);
	free(gb);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("engine_pieces");
	TCase *t = tcase_create("engine_pieces");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, test_against_whole, 0, sizeof(kinds) / sizeof(*kinds));
	tcase_add_test(t, test_one_piece);
	tcase_add_loop_test(t, test_plans, 0, sizeof(kinds) / sizeof(*kinds));
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
