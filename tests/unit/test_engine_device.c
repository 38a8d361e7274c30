/* Forward, loss and gradients on the device that LP_DEVICE names (cpu), 16-bit ones too: against the fp64 goldens,
 * at most twice as far from them as PyTorch + PEFT in the device's type are (tests/conformance/model/bf16.json, fp16.json;
 * the CPU's fp32 takes the former); and that neither the plan nor a second run changes a bit. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "json/json.h"
#include "engine_fix.h"

static struct device dev; /* one for all: a CUDA context takes its time */
static struct arena arena = ARENA_INIT;
static struct json bounds;

static double bound(struct fix *f, const char *what)
{
	const struct json *j = json_get(json_get(&bounds, f->name), what);
	double v = 0;

	ck_assert_msg(j && json_as_f64(j, &v), "no bound of %s for %s", what, f->name);
	return v;
}

static void open_device(void)
{
	struct err e = ERR_INIT;
	const char *spec = getenv("LP_DEVICE") ? getenv("LP_DEVICE") : "cpu";

	if (dev.k.alloc)
		return;
	ck_assert_msg(device_open(&dev, spec, getenv("LP_COMPUTE"), 2, &e) == 0, "%s", e.msg);
	ck_assert_msg(json_load(dev.act == DT_F16 ? DIR_MODEL "fp16.json" : DIR_MODEL "bf16.json", &arena, &bounds, &e) == 0, "%s", e.msg);
}

/* Runs once; the adapter's gradients and the losses come to the host. */
static float *run(struct fix *f, double *nll)
{
	float *grads = xcalloc((size_t)f->lora.n_params, sizeof(*grads));
	double loss, scale = dev.act == DT_F16 ? 4096 : 1; /* as make_16bit.py */

	engine_begin(&f->g);
	engine_run(&f->g, &f->b, true, scale / (double)f->b.n_targets);
	must(f, engine_sums(&f->g, &loss, NULL, &f->e) == 0);
	device_download(&dev, nll, f->g.nll, (uint64_t)f->b.n_targets * sizeof(*nll));
	device_download(&dev, grads, f->lora.grads, (uint64_t)f->lora.n_params * sizeof(*grads));
	must(f, device_sync(&dev, &f->e) == 0);
	for (int64_t i = 0; i < f->lora.n_params; i++)
		grads[i] /= (float)scale;
	return grads;
}

static void check_losses(struct fix *f, const double *nll, const char *want)
{
	double sum = 0, truth = 0, worst = 0;

	for (int64_t i = 0; i < f->b.n_targets; i++) {
		double w = value(gold(f, want), (size_t)f->b.tgt_row[i] + 1);

		worst = fmax(worst, fabs(nll[i] - w));
		sum += nll[i];
		truth += w;
	}
	ck_assert_msg(worst <= 2 * bound(f, "nll"), "%s: a loss is off by %g, PyTorch's worst by %g", f->name, worst, bound(f, "nll"));
	/* the mean's error is the errors' own, averaged: PyTorch's may be near 0 by luck */
	ck_assert_msg(fabs(sum - truth) / (double)f->b.n_targets <= 2 * fmax(bound(f, "loss"), bound(f, "nll") / sqrt((double)f->b.n_targets)),
	              "%s: the loss is off by %g", f->name, (sum - truth) / (double)f->b.n_targets);
	printf("%s%s: loss of a token off by %.2e (PyTorch %.2e), mean by %.2e (%.2e)\n", f->name, f->g.w.nf4 ? " nf4" : "", worst, bound(f, "nll"),
	       fabs(sum - truth) / (double)f->b.n_targets, bound(f, "loss"));
}

static void check_grads(struct fix *f, const float *grads, const char *prefix)
{
	double off = 0, size = 0, worst = 0;

	for (int64_t i = 0; i < f->lora.n_tensors; i++) {
		const struct lora_tensor *t = &f->lora.tensors[i];
		const struct tensor *want = gold_lora(f, prefix, t);
		double d = 0, n = 0;

		for (int64_t j = 0; j < t->n; j++) {
			double w = value(want, (size_t)j), x = (double)grads[t->offset + j] - w;

			d += x * x;
			n += w * w;
		}
		off += d;
		size += n;
		worst = fmax(worst, sqrt(d / n));
	}
	printf("%s%s: gradients off by %.2e (PyTorch %.2e), worst tensor %.2e (%.2e)\n", f->name, f->g.w.nf4 ? " nf4" : "", sqrt(off / size),
	       bound(f, "grad"), worst, bound(f, "grad_worst"));
	ck_assert_double_le(sqrt(off / size), 2 * bound(f, "grad"));
	ck_assert_double_le(worst, 2 * bound(f, "grad_worst"));
}

START_TEST(test_against_goldens)
{
	struct fix f;
	bool nf4 = _i >= 4;
	double nll[64];
	float *grads;

	open_device();
	setup(&f, &dev, cases[_i % 4], nf4, 0);
	grads = run(&f, nll);
	check_losses(&f, nll, nf4 ? "nf4.nll" : "nll");
	check_grads(&f, grads, nf4 ? "nf4.grad." : "grad.");
	free(grads);
	teardown(&f);
}
END_TEST

/* Many: what is of one segment of the vocabulary, and in host memory as a whole or not at all, is of several. */
static void set_segments(bool many)
{
	static struct device as_opened;

	if (!as_opened.k.alloc)
		as_opened = dev;
	dev.host_rate = 1e10;
	dev.segment = many ? 16 : as_opened.segment;
	dev.logits = many ? 256 : as_opened.logits;
}

START_TEST(test_no_bit_changes)
{
	struct fix all, some;
	bool nf4 = _i % 2;
	const char *name = cases[_i / 2 % 4];
	double nll[64], nll2[64];
	uint64_t least, most;
	float *grads, *grads2;

	open_device();
	set_segments(_i >= 8);
	least = smallest(&dev, name, nf4);
	setup(&all, &dev, name, nf4, 0);
	most = engine_bytes(&all.g);
	grads = run(&all, nll);
	for (uint64_t k = 0; k <= 16; k++) {
		setup(&some, &dev, name, nf4, k < 16 ? least + (most - least) / 16 * k : 0);
		grads2 = run(&some, nll2);
		ck_assert_mem_eq(nll, nll2, (size_t)all.b.n_targets * sizeof(*nll));
		ck_assert_mem_eq(grads, grads2, (size_t)all.lora.n_params * sizeof(*grads));
		free(grads2);
		teardown(&some);
	}
	free(grads);
	teardown(&all);
	set_segments(false);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("engine_device");
	TCase *t = tcase_create("engine_device");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, test_against_goldens, 0, 8);
	tcase_add_loop_test(t, test_no_bit_changes, 0, 16);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
