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
#include "base/rng.h"
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
	double loss, squares, sum = 0, scale = dev.act == DT_F16 ? 4096 : 1; /* as make_16bit.py */

	engine_begin(&f->g);
	engine_run(&f->g, &f->b, true, scale / (double)f->b.n_targets);
	engine_squares(&f->g);
	must(f, engine_sums(&f->g, &loss, &squares, &f->e) == 0);
	device_download(&dev, nll, f->g.nll, (uint64_t)f->b.n_targets * sizeof(*nll));
	device_download(&dev, grads, f->lora.grads, (uint64_t)f->lora.n_params * sizeof(*grads));
	must(f, device_sync(&dev, &f->e) == 0);
	for (int64_t i = 0; i < f->lora.n_params; i++) {
		sum += (double)grads[i] * (double)grads[i];
		grads[i] /= (float)scale;
	}
	ck_assert_double_eq_tol(squares / sum, 1, 1e-12);
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

/* --- recordings --- */

/* A micro-batch of sequences of these lengths (ended by 0), with the salt's ids and targets. */
static void batch_of(struct fix *f, const int64_t *lengths, uint64_t salt)
{
	struct dataset d = { 0 };
	int32_t ids[64];
	uint8_t mask[64];
	int64_t start[65] = { 0 }, record[64], n = 0;

	for (; lengths[n]; n++) {
		start[n + 1] = start[n] + lengths[n];
		record[n] = (int64_t)salt + n;
	}
	for (int64_t i = 0; i < start[n]; i++) {
		ids[i] = (int32_t)(rng_u64(salt, 1, (uint64_t)i) % (uint64_t)f->desc.vocab);
		mask[i] = 1;
	}
	dataset_add_row(&d, ids, mask, start, record, n);
	microbatch_clear(&f->b);
	microbatch_add(&f->b, &d, 0);
	dataset_release(&d);
}

static bool never(struct device *d)
{
	(void)d;
	return false;
}

/* Optimiser steps of three micro-batches of two shapes, each with ids, masks, a scale and an adapter of its own, on an engine that records and
 * on one that does not: every loss and every gradient has the same bits. And a third shape in between, without dropout or a gradient. */
START_TEST(test_replayed)
{
	static const int64_t shapes[][5] = { { 30, 20, 14 }, { 7, 40 }, { 12, 1, 33 } };
	struct device quiet;
	struct fix f[2];
	uint64_t bytes;
	float *grads[2], *adapter;
	double nll[2][64], loss[2];

	open_device();
	quiet = dev;
	quiet.k.record = never;
	bytes = _i % 4 < 2 ? 0 : smallest(&dev, cases[_i / 4], _i % 2);
	for (int k = 0; k < 2; k++) {
		setup_dropout(&f[k], k ? &quiet : &dev, cases[_i / 4], _i % 2, bytes ? bytes + (32 << 10) : 0, 0.25); /* room for dropout */
		f[k].g.recordings = WORKS; /* every shape's, whatever room there is */
		grads[k] = xcalloc((size_t)f[k].lora.n_params, sizeof(float));
	}
	adapter = xcalloc((size_t)f[0].lora.n_params, sizeof(float));
	for (int i = 0; i < 18; i++) {
		const int64_t *s = shapes[i % 9 == 8 ? 2 : i % 2];
		bool grad = i % 9 != 8;

		for (int64_t j = 0; i % 3 == 0 && j < f[0].lora.n_params; j++)
			adapter[j] = (float)(rng_unit(5, (uint64_t)i, (uint64_t)j) - 0.5) * 0.1f;
		for (int k = 0; k < 2; k++) {
			if (i % 3 == 0) {
				device_upload(&dev, f[k].lora.params, adapter, (uint64_t)f[k].lora.n_params * sizeof(float));
				engine_begin(&f[k].g);
			}
			batch_of(&f[k], s, (uint64_t)i);
			engine_set_dropout(&f[k].g, grad, 7, i / 3);
			engine_run(&f[k].g, &f[k].b, grad, 1.0 / (double)(60 + 7 * i));
			must(&f[k], engine_sums(&f[k].g, &loss[k], NULL, &f[k].e) == 0);
			device_download(&dev, nll[k], f[k].g.nll, (uint64_t)f[k].b.n_targets * sizeof(double));
			device_download(&dev, grads[k], f[k].lora.grads, (uint64_t)f[k].lora.n_params * sizeof(float));
		}
		ck_assert(loss[0] == loss[1]);
		ck_assert_mem_eq(nll[0], nll[1], (size_t)f[0].b.n_targets * sizeof(double));
		ck_assert_mem_eq(grads[0], grads[1], (size_t)f[0].lora.n_params * sizeof(float));
	}
	ck_assert_int_eq(f[1].g.replayed, 0);
	/* all but the first of each shape */
	ck_assert_int_eq(f[0].g.replayed, dev.kind == DEVICE_CUDA ? 15 : 0);
	for (int k = 0; k < 2; k++) {
		teardown(&f[k]);
		free(grads[k]);
	}
	free(adapter);
}
END_TEST

/* Steps that are queued without a look, as a run queues them: inputs and sums go through their buffers in turn. */
START_TEST(test_queued)
{
	static const int64_t shapes[][4] = { { 30, 20, 14 }, { 7, 40 } };
	struct fix f;
	double waited[8], loss;

	open_device();
	setup_dropout(&f, &dev, cases[_i], true, 0, 0.25);
	for (int ahead = 0; ahead < 2; ahead++)
		for (int i = 0; i < 8 + ahead; i++) {
			if (i < 8) {
				engine_set_dropout(&f.g, true, 7, i);
				engine_begin(&f.g);
				for (int k = 0; k < 3; k++) {
					batch_of(&f, shapes[k % 2], (uint64_t)(3 * i + k));
					engine_run(&f.g, &f.b, true, 1e-3 * (i + 1));
				}
				engine_sums_send(&f.g, i % 2);
			}
			if (i < ahead)
				continue;
			must(&f, engine_sums_wait(&f.g, (i - ahead) % 2, ahead ? &loss : &waited[i], NULL, &f.e) == 0);
			ck_assert(!ahead || loss == waited[i - 1]);
		}
	teardown(&f);
}
END_TEST

/* What is kept, and for how long, with a device that only counts. */
static int recorded, replayed, forgotten, refuse;
static char tokens[64];

static bool fake_record(struct device *d)
{
	(void)d;
	return true;
}
static void *fake_recorded(struct device *d, int64_t *operations)
{
	(void)d;
	*operations = 100;
	return refuse ? NULL : &tokens[recorded++];
}
static void fake_replay(struct device *d, void *recording)
{
	(void)d, (void)recording;
	replayed++;
}
static void fake_forget(struct device *d, void *recording)
{
	(void)d;
	forgotten += recording == &tokens[0];
}

static void open_counting(struct device *d)
{
	struct err e = ERR_INIT;

	ck_assert_msg(device_open(d, "cpu", NULL, 1, &e) == 0, "%s", e.msg);
	d->k.record = fake_record;
	d->k.recorded = fake_recorded;
	d->k.replay = fake_replay;
	d->k.forget = fake_forget;
	recorded = replayed = forgotten = refuse = 0;
}

START_TEST(test_recordings_kept)
{
	struct device counting;
	struct fix f;

	open_counting(&counting);
	setup(&f, &counting, "llama", false, 0);
	engine_begin(&f.g);
	for (int round = 0; round < 4; round++) {
		/* 0: the first shape three times; 1: seven others once, the first is still there; 2: eight others, it is not; 3: refused */
		int64_t n = round == 0 ? 3 : round == 2 ? WORKS : WORKS - 1;

		refuse = round == 3;
		for (int64_t i = 0; i < n; i++) {
			batch_of(&f, (int64_t[]){ round == 0 ? 40 : 10 * round + i - 8, 0 }, 1);
			engine_run(&f.g, &f.b, true, 1);
			if (round == 3) {
				engine_run(&f.g, &f.b, true, 1);
				engine_run(&f.g, &f.b, true, 1);
			}
		}
		batch_of(&f, (int64_t[]){ 40, 0 }, 1);
		engine_run(&f.g, &f.b, true, 1);
		ck_assert_int_eq(recorded, 1);
		ck_assert_int_eq(replayed, round == 0 ? 3 : 4);
		ck_assert_int_eq(forgotten, round >= 2);
	}
	ck_assert_int_eq(f.g.avoided, 400);
	teardown(&f);
	device_close(&counting);
}
END_TEST

/* A recording is part of the plan, and more are made where the budget has room for them. */
START_TEST(test_recordings_planned)
{
	struct device counting;
	struct fix f;
	uint64_t one, without;

	open_counting(&counting);
	setup(&f, &counting, "llama", false, 0);
	without = engine_bytes(&f.g);
	ck_assert_int_eq(f.g.recordings, WORKS);
	teardown(&f);
	counting.launch_bytes = 1 << 12;
	setup(&f, &counting, "llama", false, 0);
	one = engine_recording_bytes(&f.g);
	ck_assert_uint_gt(one, (uint64_t)f.desc.layers * (100 << 12));
	ck_assert_uint_eq(engine_bytes(&f.g), without + one);
	ck_assert_int_eq(f.g.recordings, WORKS);
	teardown(&f);
	for (int n = 1; n <= WORKS + 1; n++) {
		setup(&f, &counting, "llama", false, without + (uint64_t)n * one + one / 2);
		ck_assert_uint_eq(engine_bytes(&f.g), without + one);
		ck_assert_int_eq(f.g.recordings, n < WORKS ? n : WORKS);
		teardown(&f);
	}
	device_close(&counting);
}
END_TEST

static void run_shape(struct fix *f, int64_t tokens_in_it)
{
	batch_of(f, (int64_t[]){ tokens_in_it, 0 }, 1);
	engine_run(&f->g, &f->b, true, 1);
}

/* With room for one it stays as long as it is wanted at times. */
START_TEST(test_recordings_room)
{
	struct device counting;
	struct fix f;

	open_counting(&counting);
	setup(&f, &counting, "llama", false, 0);
	f.g.recordings = 1;
	engine_begin(&f.g);
	for (int i = 0; i < 20; i++)
		run_shape(&f, i % 2 ? 30 : 40);
	ck_assert_int_eq(recorded, 1);
	ck_assert_int_eq(replayed, 9); /* the one that came a second time first */
	for (int i = 0; i < 20; i++)
		run_shape(&f, 30);
	ck_assert_int_eq(recorded, 2);
	ck_assert_int_eq(forgotten, 1);
	ck_assert_int_eq(replayed, 9 + 20 - (WORKS - 2)); /* as it is, until the other has not been wanted for WORKS turns */
	teardown(&f);
	device_close(&counting);
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
	tcase_add_loop_test(t, test_replayed, 0, 16);
	tcase_add_loop_test(t, test_queued, 0, 4);
	tcase_add_test(t, test_recordings_kept);
	tcase_add_test(t, test_recordings_planned);
	tcase_add_test(t, test_recordings_room);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
