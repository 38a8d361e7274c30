/* Training with the projections' products in eight bits, against the same step without: losses and gradients of one small model
 * whose weights are made here. LP_DEVICE names the device, as tests/kernels/test_kn_ops.c says. What is right of each product
 * tests/kernels/test_kn_fp8.c says; here, that the engine puts each one in its place. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine_small.h"

enum { LAYERS = 3 };

static const double dropouts[] = { 0, 0.2 };

/* A code's error is uniform within a sixteenth at the worst: 0.018 of a number, root mean square, and a product of two such has
 * 0.026 of its own size. Three layers of four products, forward and back, are independent; eight times that is what is allowed, and
 * a product in the wrong place (without its tail, say) is off by the size of what it should be. */
START_TEST(test_against_16_bits)
{
	struct fix a, b;
	float *ga, *gb;
	double la, lb, d;

	setup(&a, &(struct conf){ .layers = LAYERS, .host_rate = 1e10, .fp8 = false, .dropout = dropouts[_i], .budget = 0 });
	if (!a.dev.fp8) {
		teardown(&a);
		return;
	}
	setup(&b, &(struct conf){ .layers = LAYERS, .host_rate = 1e10, .fp8 = true, .dropout = dropouts[_i], .budget = 0 });
	ga = xcalloc((size_t)a.lora.n_params, sizeof(*ga));
	gb = xcalloc((size_t)a.lora.n_params, sizeof(*gb));
	la = run_step(&a, ga);
	lb = run_step(&b, gb);
	d = distance(ga, gb, a.lora.n_params);
	printf("dropout %g: loss %.6f, in 8 bits %.6f; gradients off by %.3e\n", dropouts[_i], la, lb, d);
	ck_assert_msg(fabs(la - lb) < 0.026 * la && la != lb, "loss %.6f, in 8 bits %.6f", la, lb);
	ck_assert_msg(d < 0.2 && d > 1e-3, "gradients off by %.3e", d);
	for (size_t i = 0; i < (size_t)a.lora.n_tensors; i++) {
		const struct lora_tensor *t = &a.lora.tensors[i];
		double one = distance(ga + t->offset, gb + t->offset, t->n);

		ck_assert_msg(one < 0.3, "%s: gradient off by %.3e", t->name, one);
	}
	teardown(&a);
	teardown(&b);
	free(ga);
	free(gb);
}
END_TEST

/* As little memory as a plan needs, against all there is: no bit changes. */
START_TEST(test_plans)
{
	struct fix a, b;
	float *ga, *gb;

	setup(&a, &(struct conf){ .layers = LAYERS, .host_rate = 1e10, .fp8 = true, .dropout = 0, .budget = 0 });
	if (!a.dev.fp8) {
		teardown(&a);
		return;
	}
	setup(&b, &(struct conf){ .layers = LAYERS, .host_rate = 1e10, .fp8 = true, .dropout = 0, .budget = least_of(&a, 1e10) });
	ck_assert_int_lt(b.g.full + b.g.lean, LAYERS);
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

int main(void)
{
	Suite *s = suite_create("engine_fp8");
	TCase *t = tcase_create("engine_fp8");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, test_against_16_bits, 0, sizeof(dropouts) / sizeof(*dropouts));
	tcase_add_test(t, test_plans);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
