/* Forward, loss, gradients and ten optimiser steps against PyTorch + PEFT in
 * fp64 (tests/conformance/model/README.md), and that none of it depends on how the
 * same sequences are cut into batch, accumulation and packing.
 *
 * Tolerances. Each case's metadata says how far torch's own fp32 lies from the
 * fp64 truth; ours may lie at most twice as far (STYLE.md), or 1e-6 of the
 * scale where torch is nearer than that. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "base/xalloc.h"
#include "engine_fix.h"

/* The CPU with one thread or two; what was opened stays open. */
static struct device *cpu(int threads)
{
	static struct device devices[2];
	struct device *d = &devices[threads - 1];
	struct err e = ERR_INIT;

	if (!d->k.alloc)
		ck_assert_msg(device_open(d, "cpu", NULL, threads, &e) == 0, "%s", e.msg);
	return d;
}

/* The same with host memory apart from its own, and a loss of several segments of the vocabulary and several chunks of targets. */
static struct device *apart(void)
{
	static struct device d;

	if (!d.k.alloc) {
		d = *cpu(2);
		d.host_rate = 1e10;
		d.segment = 16;
		d.logits = 256;
	}
	return &d;
}

static double gold_meta(struct fix *f, const char *key)
{
	const char *s = st_meta(&f->gold.blob, key);
	double v;

	ck_assert_msg(s && parse_f64(s, &v), "no metadata %s", key);
	return v;
}

static double max_abs_diff(const struct tensor *t, const float *x, double *scale)
{
	double d = 0;

	*scale = 0;
	for (size_t i = 0; i < tensor_elems(t); i++) {
		d = fmax(d, fabs((double)x[i] - value(t, i)));
		*scale = fmax(*scale, fabs(value(t, i)));
	}
	return d;
}

static double rel_l2(const struct tensor *t, const float *x)
{
	double d = 0, n = 0;

	for (size_t i = 0; i < tensor_elems(t); i++) {
		d += ((double)x[i] - value(t, i)) * ((double)x[i] - value(t, i));
		n += value(t, i) * value(t, i);
	}
	return sqrt(d / (n > 0 ? n : 1));
}

static void check_forward(struct fix *f, const char *logits, const char *nll, double torch_error)
{
	int64_t n = f->b.n_tokens, v = f->desc.vocab;
	float *all = xcalloc((size_t)(n * v), sizeof(*all));
	const struct tensor *want = gold(f, nll);
	double scale, diff;

	for (int32_t i = 0; i < n; i++) {
		must(f, engine_logits(&f->g, &f->b, &i, 1, &f->e) == 0);
		memcpy(all + i * v, f->g.logits, (size_t)v * sizeof(*all));
	}
	diff = max_abs_diff(gold(f, logits), all, &scale);
	ck_assert_msg(diff <= fmax(2 * torch_error, 1e-6 * scale), "%s: %g, torch %g, scale %g", logits, diff, torch_error, scale);
	free(all);
	engine_run(&f->g, &f->b, false, 1);
	for (int64_t i = 0; i < f->b.n_targets; i++)
		ck_assert_double_eq_tol(f->g.nll[i], value(want, (size_t)f->b.tgt_row[i] + 1), 2e-6 * (1 + scale));
}

START_TEST(test_forward)
{
	struct fix f;

	setup(&f, cpu(2), cases[_i], false, 0);
	check_forward(&f, "logits", "nll", gold_meta(&f, "fp32_logits_max_abs"));
	f.g.lora = NULL;
	check_forward(&f, "base.logits", "base.nll", gold_meta(&f, "fp32_logits_max_abs"));
	teardown(&f);
}
END_TEST

START_TEST(test_gradients)
{
	struct fix f;
	bool nf4 = _i >= 4 && _i < 8;
	double worst = 0, torch_error;

	setup(&f, _i >= 8 ? apart() : cpu(2), cases[_i % 4], nf4, 0);
	torch_error = gold_meta(&f, "fp32_grad_rel_l2");
	if (nf4)
		check_forward(&f, "nf4.logits", "nf4.nll", gold_meta(&f, "fp32_logits_max_abs"));
	engine_run(&f.g, &f.b, true, 1.0 / (double)f.b.n_targets);
	for (int64_t i = 0; i < f.lora.n_tensors; i++) {
		struct lora_tensor *t = &f.lora.tensors[i];

		worst = fmax(worst, rel_l2(gold_lora(&f, nf4 ? "nf4.grad." : "grad.", t), f.lora.grads + t->offset));
	}
	ck_assert_msg(worst <= fmax(2 * torch_error, 2e-6), "relative L2 %g, torch %g", worst, torch_error);
	teardown(&f);
}
END_TEST

/* AdamW moves an element by its gradient over that gradient's own size, so one
 * whose gradient is k times below its tensor's carries the rounding (about 1e-6
 * of the tensor's) k times larger. Hence two bounds: the tensor as a whole to
 * 1e-5, and no element (k up to 1000) off by more than 1e-3 of all the steps. */
START_TEST(test_ten_steps)
{
	struct fix f;
	float *m, *v;
	double rates = 0, scale;

	setup(&f, cpu(1), cases[_i], false, 0);
	m = xcalloc((size_t)f.lora.n_params, sizeof(*m));
	v = xcalloc((size_t)f.lora.n_params, sizeof(*v));
	for (size_t s = 0; s < 10; s++) {
		double sum = 0, norm2, norm;
		struct kn_adam a = { value(gold(&f, "step.lr"), s), 0.9, 0.999, 1e-8, 0.01, (int64_t)s + 1, 1 };

		memset(f.lora.grads, 0, (size_t)f.lora.n_params * sizeof(float));
		engine_run(&f.g, &f.b, true, 1.0 / (double)f.b.n_targets);
		for (int64_t i = 0; i < f.b.n_targets; i++)
			sum += f.g.nll[i];
		ck_assert_double_eq_tol(sum / (double)f.b.n_targets, value(gold(&f, "step.loss"), s), 1e-5);
		f.dev->k.sum_squares(f.dev, f.lora.grads, f.lora.n_params, &norm2);
		norm = sqrt(norm2);
		ck_assert_double_eq_tol(norm, value(gold(&f, "step.grad_norm"), s), 1e-4 * norm);
		a.grad_scale = (float)fmin(1, 1.0 / (norm + 1e-6));
		rates += a.lr;
		kn_adamw_cpu(f.dev, f.lora.params, f.lora.grads, m, v, f.lora.n_params, &a);
	}
	for (int64_t i = 0; i < f.lora.n_tensors; i++) {
		struct lora_tensor *t = &f.lora.tensors[i];
		double d = max_abs_diff(gold_lora(&f, "final.", t), f.lora.params + t->offset, &scale);

		ck_assert_msg(d <= 1e-3 * rates, "%s: %g", t->name, d);
		d = rel_l2(gold_lora(&f, "final.", t), f.lora.params + t->offset);
		ck_assert_msg(d <= 1e-5, "%s: relative L2 %g", t->name, d);
	}
	free(m);
	free(v);
	teardown(&f);
}
END_TEST

/* Sum of losses over the set's sequences cut as how says: 0 packed in one row,
 * 1 one sequence a micro-batch, 2 the last sequence alone; fills grads. */
static double loss_cut(struct fix *f, int how, double scale)
{
	const int64_t *start = gold(f, "seq_start")->data, *rec = gold(f, "seq_record")->data;
	static const int cuts[3][4] = { { 0, 3 }, { 0, 1, 2, 3 }, { 0, 2, 3 } };
	double sum = 0;

	memset(f->lora.grads, 0, (size_t)f->lora.n_params * sizeof(float));
	for (int c = 0; cuts[how][c] < 3; c++) {
		int a = cuts[how][c], z = cuts[how][c + 1];

		dataset_release(&f->data);
		dataset_add_row(&f->data, (const int32_t *)gold(f, "input_ids")->data + start[a], (const uint8_t *)gold(f, "loss_mask")->data + start[a],
		                start + a, rec + a, z - a);
		microbatch_clear(&f->b);
		microbatch_add(&f->b, &f->data, 0);
		engine_run(&f->g, &f->b, true, scale);
		for (int64_t i = 0; i < f->b.n_targets; i++)
			sum += f->g.nll[i];
	}
	return sum;
}

static double grads_rel(const float *a, const float *b, int64_t n)
{
	double d = 0, s = 0;

	for (int64_t i = 0; i < n; i++) {
		d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
		s += (double)b[i] * b[i];
	}
	return s > 0 ? sqrt(d / s) : sqrt(d);
}

START_TEST(test_cut_does_not_matter)
{
	struct fix f;
	float *first;
	double loss;

	setup(&f, cpu(2), cases[_i % 4], false, 0);
	f.lora.dropout = _i >= 4 ? 0.3 : 0;
	if (f.lora.dropout > 0) { /* room for dropout comes with the plan */
		f.g.xd = xcalloc(64 * 64, sizeof(float));
		engine_set_dropout(&f.g, true, 7, 3);
	}
	loss = loss_cut(&f, 0, 1.0 / 20);
	first = xcalloc((size_t)f.lora.n_params, sizeof(*first));
	memcpy(first, f.lora.grads, (size_t)f.lora.n_params * sizeof(float));
	for (int how = 1; how < 3; how++) {
		ck_assert_double_eq_tol(loss_cut(&f, how, 1.0 / 20) / loss, 1, 1e-6);
		for (int64_t i = 0; i < f.lora.n_tensors; i++) {
			struct lora_tensor *t = &f.lora.tensors[i];

			ck_assert_double_le(grads_rel(f.lora.grads + t->offset, first + t->offset, t->n), 1e-5);
		}
	}
	if (f.lora.dropout > 0)
		free(f.g.xd);
	free(first);
	teardown(&f);
}
END_TEST

/* Dropout with another step's mask gives another loss; the same step's the same bits. */
START_TEST(test_dropout_is_keyed)
{
	struct fix f;
	double a, b, c;

	setup(&f, cpu(2), "llama", false, 0);
	f.lora.dropout = 0.5;
	f.g.xd = xcalloc(64 * 64, sizeof(float));
	engine_set_dropout(&f.g, true, 7, 3);
	a = loss_cut(&f, 0, 1);
	engine_set_dropout(&f.g, true, 7, 4);
	b = loss_cut(&f, 0, 1);
	engine_set_dropout(&f.g, true, 7, 3);
	c = loss_cut(&f, 0, 1);
	ck_assert(a != b);
	ck_assert(a == c);
	free(f.g.xd);
	teardown(&f);
}
END_TEST

/* What the plan chooses from free memory, and the number of threads, change no bit. */
START_TEST(test_plan_changes_no_bit)
{
	struct fix all, some;
	uint64_t least, most;
	int64_t recomputed = 0, lean = 0, uncached = 0;

	least = smallest(cpu(2), "llama", _i);
	setup(&all, cpu(1), "llama", _i, 0);
	engine_run(&all.g, &all.b, true, 0.05);
	ck_assert_int_eq(all.g.full, all.desc.layers);
	most = engine_bytes(&all.g);
	for (int k = 0; k < 64; k++) {
		uint64_t budget = least + (most - least) / 64 * (uint64_t)k;

		setup(&some, cpu(2), "llama", _i, budget);
		ck_assert_uint_le(engine_bytes(&some.g), budget);
		recomputed += some.desc.layers - some.g.full - some.g.lean;
		lean += some.g.lean;
		uncached += !some.g.w.dense && some.g.w.cached_layers < some.desc.layers;
		engine_run(&some.g, &some.b, true, 0.05);
		ck_assert_mem_eq(all.lora.grads, some.lora.grads, (size_t)all.lora.n_params * sizeof(float));
		ck_assert_mem_eq(all.g.nll, some.g.nll, (size_t)all.b.n_targets * sizeof(double));
		teardown(&some);
	}
	ck_assert(recomputed > 0 && lean > 0 && (all.g.w.dense || uncached > 0)); /* every choice was there to be compared */
	teardown(&all);
}
END_TEST

/* Nor does what waits in host memory: embedding, segments of the head, tied or not, the optimiser's states. */
START_TEST(test_host_changes_no_bit)
{
	struct fix all, some;
	const char *name = cases[_i % 4];
	bool nf4 = _i >= 4;
	uint64_t least = smallest(apart(), name, nf4), most;
	float *grads;
	int64_t away = 0, partly = 0, optim = 0, logits = 0;

	setup(&all, apart(), name, nf4, 0);
	ck_assert(all.b.n_targets > all.g.loss_rows && all.desc.vocab % all.g.segment != 0);
	engine_run(&all.g, &all.b, true, 0.05);
	grads = xcalloc((size_t)all.lora.n_params, sizeof(*grads));
	memcpy(grads, all.lora.grads, (size_t)all.lora.n_params * sizeof(*grads));
	optim_step(&all.optim, apart(), 0.01, 1, NULL, 0);
	most = engine_bytes(&all.g);
	for (uint64_t budget = least; budget < most; budget += (most - least) / 64 + 1) {
		setup(&some, apart(), name, nf4, budget);
		ck_assert_uint_le(engine_bytes(&some.g), budget);
		engine_run(&some.g, &some.b, true, 0.05);
		ck_assert_mem_eq(grads, some.lora.grads, (size_t)all.lora.n_params * sizeof(float));
		ck_assert_mem_eq(all.g.nll, some.g.nll, (size_t)all.b.n_targets * sizeof(double));
		optim_step(&some.optim, apart(), 0.01, 1, NULL, 0);
		ck_assert_mem_eq(all.lora.params, some.lora.params, (size_t)all.lora.n_params * sizeof(float));
		optim += some.g.optim_away;
		away += some.g.w.head_rows == 0;
		partly += some.g.w.head_rows > 0 && some.g.w.head_rows < all.desc.vocab;
		must(&some, engine_logits(&some.g, &some.b, &(int32_t){ 5 }, 1, &some.e) == 0);
		must(&all, engine_logits(&all.g, &all.b, &(int32_t){ 5 }, 1, &all.e) == 0);
		for (int64_t v = 0; v < all.desc.vocab; v++)
			logits += fabs(((float *)all.g.logits)[v] - ((float *)some.g.logits)[v]) > 1e-5;
		teardown(&some);
	}
	ck_assert_int_eq(logits, 0);
	ck_assert(away > 0 && partly > 0 && optim > 0); /* every choice was there to be compared */
	free(grads);
	teardown(&all);
}
END_TEST

START_TEST(test_plan_refuses)
{
	struct fix f;
	struct engine g;
	struct engine_shape shape = { .max_tokens = 64, .max_seq = 40, .train = true, .budget = 1000 };

	setup(&f, cpu(1), "llama", false, 0);
	ck_assert_int_eq(engine_plan(&g, f.dev, &f.desc, DT_F32, false, &f.lora, &shape, &f.e), -1);
	ck_assert_int_eq(f.e.code, LP_DEVICE);
	engine_release(&g);
	teardown(&f);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("engine");
	TCase *t = tcase_create("engine");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, test_forward, 0, 4);
	tcase_add_loop_test(t, test_gradients, 0, 12);
	tcase_add_loop_test(t, test_ten_steps, 0, 4);
	tcase_add_loop_test(t, test_cut_does_not_matter, 0, 8);
	tcase_add_test(t, test_dropout_is_keyed);
	tcase_add_loop_test(t, test_plan_changes_no_bit, 0, 2);
	tcase_add_loop_test(t, test_host_changes_no_bit, 0, 8);
	tcase_add_test(t, test_plan_refuses);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
