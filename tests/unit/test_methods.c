/* Ten steps with several methods at once, against PyTorch + PEFT in fp64 (make_methods.py): a rank-stabilised adapter on projections
 * that a regular expression names, LoRA+, warm-up-stable-decay, clipping. Loss, gradient and its norm, and where the adapter ends
 * differ from that truth by no more than twice what PyTorch in fp32 does, which the golden says; adapters that are not there stay 0. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "train/run_int.h"
#include "golden_fix.h"

enum { STEPS = 10 };

static const void *data(const char *what, const char *name)
{
	char full[ARCH_NAME + 16];
	const struct tensor *t;

	snprintf(full, sizeof(full), "%s%s", what, name);
	t = st_find(&gold.blob, full);
	ck_assert_msg(t != NULL, "no %s", full);
	return t->data;
}

/* |a - b| / |b| */
static double away(const float *a, const double *b, int64_t n)
{
	double d = 0, s = 0;

	for (int64_t i = 0; i < n; i++) {
		d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
		s += b[i] * b[i];
	}
	return sqrt(d / s);
}

static void check_values(const struct lora *l, const float *x, const char *what, double most)
{
	for (int64_t i = 0; i < l->n_tensors; i++) {
		const struct lora_tensor *t = &l->tensors[i];
		double d;

		if (t->on) {
			d = away(x + t->offset, data(what, t->name), t->n);
			ck_assert_msg(d <= most, "%s%s: %.2e away, at most %.2e", what, t->name, d, most);
			continue;
		}
		for (int64_t j = 0; j < t->n; j++)
			ck_assert_msg(x[t->offset + j] == 0, "%s is not there, and %g", t->name, (double)x[t->offset + j]);
	}
}

static void load_init(struct run *r)
{
	for (int64_t i = 0; i < r->lora.n_tensors; i++) {
		const struct lora_tensor *t = &r->lora.tensors[i];

		if (t->on)
			memcpy(r->lora.params + t->offset, data("init.", t->name), (size_t)t->n * sizeof(float));
	}
}

static void take_steps(struct run *r, const struct train_config *c)
{
	float loss[STEPS], norm[STEPS];
	struct step_result res;
	struct err e = ERR_INIT;

	for (int64_t s = 0; s < STEPS; s++) {
		int64_t rows[2] = { s * 2 % r->train.n_rows, (s * 2 + 1) % r->train.n_rows };
		char what[16];

		r->step = s;
		run_queue(r, rows, 2, c->lr * schedule_factor(&r->schedule, s));
		must(run_result(r, &res, &e) == 0, &e);
		loss[s] = (float)res.loss;
		norm[s] = (float)res.grad_norm;
		snprintf(what, sizeof(what), "grad.%d.", (int)s);
		if (s == 0 || s == STEPS - 1)
			check_values(&r->lora, r->lora.grads, what, 2 * number("fp32_grad."));
	}
	ck_assert_double_le(away(loss, data("loss", ""), STEPS), 2 * number("fp32_loss"));
	ck_assert_double_le(away(norm, data("grad_norm", ""), STEPS), 2 * number("fp32_grad_norm"));
	check_values(&r->lora, r->lora.params, "final.", 2 * number("fp32_final."));
}

START_TEST(test_ten_steps)
{
	static const char *const streams[] = { "tests/conformance/model/methods.tokens.safetensors" };
	struct err e = ERR_INIT;
	struct train_config c = { .model = "data/stories260K", .streams = streams, .n_streams = 1, .device = "cpu", .threads = 1, .rslora = true, .accumulate = 1, .batch = 2,
		                  .max_steps = STEPS, .schedule = SCHEDULE_WSD, .decay_shape = SHAPE_SQRT,
		                  .optim = { .kind = OPTIM_ADAMW, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8 } };
	struct run r;

	must(st_file_open(&gold, "tests/conformance/model/methods.safetensors", &e) == 0, &e);
	c.targets = setting("targets");
	c.rank = (int64_t)number("rank");
	c.alpha = number("alpha");
	c.lr = number("lr");
	c.warmup_steps = (int64_t)number("warmup");
	c.decay_steps = (int64_t)number("decay_steps");
	c.max_grad_norm = number("clip");
	c.optim.weight_decay = number("weight_decay");
	c.optim.b_rate = number("ratio");
	must(run_prepare(&r, &c, true, &e) == 0, &e);
	must(run_load(&r, &e) == 0, &e);
	load_init(&r);
	take_steps(&r, &c);
	run_release(&r);
	st_file_close(&gold);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("methods");
	TCase *t = tcase_create("methods");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_test(t, test_ten_steps);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
