/* Loss scaling: its states beside torch.amp.GradScaler's, and a run on the CPU whose fp32 gradients overflow because the
 * scale starts at 2^120 or more. A power of two changes no bit of fp32, so the steps that are taken must give what an unscaled run
 * gives. And weights beyond fp16's range, which a device that computes in it refuses. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "run_fix.h"
#include "train/checkpoint.h"

START_TEST(test_states)
{
	struct scaler s;

	scaler_init(&s, 0);
	ck_assert(!s.on && s.scale == 1);
	ck_assert(scaler_update(&s, true) && !scaler_update(&s, false));
	ck_assert(s.scale == 1 && s.overflows == 0);
	scaler_init(&s, SCALER_START);
	ck_assert(s.on && s.scale == 65536);
	for (int i = 0; i < SCALER_INTERVAL - 1; i++)
		ck_assert(scaler_update(&s, true));
	ck_assert(s.scale == 65536);
	ck_assert(scaler_update(&s, true) && s.scale == 131072 && s.good == 0);
	/* one that overflows halves, and the count begins anew */
	for (int i = 0; i < SCALER_INTERVAL - 1; i++)
		scaler_update(&s, true);
	ck_assert(scaler_update(&s, false) && s.scale == 65536 && s.good == 0 && s.overflows == 1);
	for (int i = 0; i < SCALER_INTERVAL - 1; i++)
		scaler_update(&s, true);
	ck_assert(s.scale == 65536);
	ck_assert(scaler_update(&s, true) && s.scale == 131072);
	/* down to 1, and no further */
	for (int i = 0; i < 17; i++)
		ck_assert(scaler_update(&s, false));
	ck_assert(s.scale == 1 && s.overflows == 18);
	ck_assert(!scaler_update(&s, false));
	ck_assert(s.scale == 1 && s.overflows == 19);
	/* up to fp32's last power of two */
	scaler_init(&s, 0x1p126);
	for (int i = 0; i < 3 * SCALER_INTERVAL; i++)
		scaler_update(&s, true);
	ck_assert(s.scale == 0x1p127);
}
END_TEST

static void same_params(struct run *r, const float *want)
{
	float *p = params(r);

	ck_assert_mem_eq(p, want, (size_t)r->lora.n_params * sizeof(*p));
	free(p);
}

START_TEST(test_steps)
{
	struct train_config plain_c, scaled_c;
	struct run plain, scaled;
	struct err e = ERR_INIT;

	scratch_open();
	plain_c = config(0), scaled_c = config(0x1p127);
	start(&plain, &plain_c);
	start(&scaled, &scaled_c);
	ck_assert(!plain.scaler.on && scaled.scaler.on);
	for (int64_t s = 0; s < ROWS; s++) {
		struct step_result a, b;
		int64_t overflows = scaled.scaler.overflows, taken = scaled.optim.step;
		double scale = scaled.scaler.scale;
		float *before = params(&scaled);

		plain.step = scaled.step = s;
		must(step(&plain, s, &a, &e) == 0, &e);
		ck_assert(!a.overflow);
		must(step(&scaled, s, &b, &e) == 0, &e);
		while (b.overflow) {
			ck_assert(!isfinite(b.grad_norm) && isfinite(b.loss));
			ck_assert_int_eq(scaled.optim.step, taken);
			same_params(&scaled, before);
			ck_assert(scaled.scaler.scale == (scale /= 2));
			ck_assert_int_eq(scaled.scaler.overflows, ++overflows);
			must(step(&scaled, s, &b, &e) == 0, &e);
		}
		ck_assert(a.loss == b.loss && a.grad_norm == b.grad_norm);
		ck_assert_int_eq(scaled.optim.step, s + 1);
		free(before);
		before = params(&plain);
		same_params(&scaled, before);
		free(before);
	}
	ck_assert_int_gt(scaled.scaler.overflows, 0);
	ck_assert(scaled.scaler.scale > 1);
	run_release(&plain);
	run_release(&scaled);
	scratch_close();
}
END_TEST

static double *infinite_at; /* the sum of squares */

static void infinite(struct device *d, const double *x, int64_t n, double *out)
{
	kn_sum_cpu(d, x, n, out);
	if (out == infinite_at)
		*out = INFINITY;
}

/* At a scale of 1 there is nothing left to try; and with scaling off an infinite gradient is an error at once. */
START_TEST(test_floor)
{
	struct train_config c;
	struct run r;

	scratch_open();
	c = config(_i ? 2 : 0);
	start(&r, &c);
	r.dev.k.sum = infinite;
	infinite_at = r.g.sums + 1;
	for (int last = !_i; last < 2; last++) {
		struct err e = ERR_INIT;
		struct step_result res;
		float *before = params(&r);
		int rc = step(&r, 2, &res, &e);

		ck_assert_int_eq(rc, last ? -1 : 0);
		ck_assert(res.overflow == (_i == 1));
		ck_assert_int_eq(r.optim.step, 0);
		same_params(&r, before);
		free(before);
		if (!last)
			continue;
		ck_assert_int_eq(e.code, LP_DIVERGED);
		ck_assert_msg(strstr(e.msg, _i ? "overflows fp16 at a loss scale of 1" : "the gradient is not finite") != NULL, "%s", e.msg);
		ck_assert_msg(strstr(e.msg, "records 3") != NULL, "%s", e.msg);
	}
	run_release(&r);
	scratch_close();
}
END_TEST

static double field(const char *line, const char *name)
{
	const char *p = strstr(line, name);

	ck_assert_msg(p != NULL, "no %s in %s", name, line);
	return strtod(p + strlen(name), NULL);
}

/* The whole loop: steps that overflow are steps, but the schedule waits for them. */
START_TEST(test_loop)
{
	struct train_config c;
	struct err e = ERR_INIT;
	char line[1024], out[256];
	int64_t overflows = 0, steps = 0;
	int signal;
	double scale = 0x1p127;
	FILE *f;

	scratch_open();
	c = config(scale);
	snprintf(out, sizeof(out), "%s", at("out"));
	c.out = out;
	c.epochs = 2;
	opt_common.log = at("log");
	must(log_open("test", &e) == 0, &e);
	must(train_run(&c, &signal, &e) == 0, &e);
	must(log_close(&e) == 0, &e);
	f = fopen(opt_common.log, "r");
	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f)) {
		if (strstr(line, "\"event\":\"overflow\"")) {
			overflows++;
			scale /= 2;
			ck_assert_double_eq_tol(field(line, "\"loss_scale\":") / scale, 1, 1e-9);
			ck_assert_int_eq((int64_t)field(line, "\"overflows\":"), overflows);
			ck_assert_int_eq((int64_t)field(line, "\"step\":"), steps + 1);
		}
		if (strstr(line, "\"event\":\"train\"")) {
			bool skipped = strstr(line, "\"grad_norm\":null") != NULL;

			steps++;
			ck_assert_int_eq((int64_t)field(line, "\"step\":"), steps);
			ck_assert_double_eq_tol(field(line, "\"lr\":"), 0.25 * (1 - (double)(steps - 1 - overflows + skipped) / 12), 1e-9);
			ck_assert_double_eq_tol(field(line, "\"loss_scale\":") / scale, 1, 1e-9);
		}
		if (strstr(line, "\"event\":\"done\""))
			ck_assert_int_eq((int64_t)field(line, "\"overflows\":"), overflows);
	}
	fclose(f);
	ck_assert_int_eq(steps, 12);
	ck_assert_int_gt(overflows, 0);
	ck_assert_int_lt(overflows, 12);
	scratch_close();
}
END_TEST

/* A run goes on with the scale, and the count, that it had. */
START_TEST(test_state)
{
	struct train_config c;
	struct run a, b;
	struct err e = ERR_INIT;
	char out[256];
	bool found;

	scratch_open();
	c = config(1024);
	snprintf(out, sizeof(out), "%s", at("out"));
	c.out = out;
	start(&a, &c);
	must(checkpoint_open(&a, &e) == 0, &e);
	a.step = 9;
	a.scaler = (struct scaler){ true, 0x1p-3 * 4096, 1234, 5 };
	must(checkpoint_save(&a, false, &e) == 0 && checkpoint_wait(&a, &e) == 0, &e);
	start(&b, &c);
	must(checkpoint_open(&b, &e) == 0, &e);
	must(checkpoint_load(&b, &found, &e) == 0, &e);
	ck_assert(found && b.scaler.on && b.scaler.scale == 512);
	ck_assert_int_eq(b.scaler.good, 1234);
	ck_assert_int_eq(b.scaler.overflows, 5);
	a.scaler.scale = 0.5;
	must(checkpoint_save(&a, false, &e) == 0 && checkpoint_wait(&a, &e) == 0, &e);
	ck_assert_int_eq(checkpoint_load(&b, &found, &e), -1);
	ck_assert_int_eq(e.code, LP_DATA);
	run_release(&a);
	run_release(&b);
	scratch_close();
}
END_TEST

/* --- weights --- */

/* The model, with element 7 of a tensor as given, in the scratch folder. */
static void model_with(const char *tensor, float x)
{
	struct err e = ERR_INIT;
	struct in *in = in_open(MODEL "/config.json", &e);
	char *copy, config[4096];
	int64_t n = 0, got = 1;
	struct st_file f;
	const struct tensor *t;

	for (; in && got > 0; n += got)
		got = in_read(in, config + n, sizeof(config) - (size_t)n, &e);
	must(in && got == 0, &e);
	in_close(in);
	put_file(at("config.json"), config, (size_t)n);
	must(st_file_open(&f, MODEL "/model.safetensors", &e) == 0, &e);
	ck_assert((t = st_find(&f.blob, tensor)) != NULL && t->dtype == DT_F32);
	copy = xmalloc(f.map_bytes);
	memcpy(copy, f.map, f.map_bytes);
	memcpy(copy + ((const char *)t->data - (const char *)f.map) + 4 * 7, &x, 4);
	put_file(at("model.safetensors"), copy, f.map_bytes);
	free(copy);
	st_file_close(&f);
}

/* A CPU that is told to hold fp16: nothing is computed, weights are only brought there. */
static int load_as_f16(struct err *e)
{
	struct engine_shape shape = { .max_tokens = 8, .max_seq = 8 };
	struct model_desc m;
	struct model_source *s;
	struct device dev;
	struct engine g;
	int rc;

	must(model_desc_load(scratch, &m, e) == 0 && (s = model_source_open(scratch, e)) != NULL, e);
	must(device_open(&dev, "cpu", NULL, 1, e) == 0, e);
	dev.act = DT_F16;
	must(engine_plan(&g, &dev, &m, DT_F32, false, NULL, &shape, e) == 0 && engine_alloc(&g, e) == 0, e);
	rc = engine_load(&g, s, e);
	engine_release(&g);
	model_source_close(s);
	device_close(&dev);
	return rc;
}

START_TEST(test_weights)
{
	static const char *const tensors[] = { "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight" };
	struct err e = ERR_INIT;

	scratch_open();
	model_with(tensors[_i], _i ? -65504.0f : 65504.0f);
	must(load_as_f16(&e) == 0, &e);
	model_with(tensors[_i], _i ? 65505.0f : -70000.0f);
	ck_assert_int_eq(load_as_f16(&e), -1);
	ck_assert_int_eq(e.code, LP_DATA);
	ck_assert_msg(strstr(e.msg, tensors[_i]) && strstr(e.msg, "element 7, is beyond 65504"), "%s", e.msg);
	/* vectors stay fp32 */
	e = (struct err)ERR_INIT;
	model_with("model.norm.weight", 1e6f);
	must(load_as_f16(&e) == 0, &e);
	scratch_close();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("scaler");
	TCase *t = tcase_create("scaler");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_test(t, test_states);
	tcase_add_test(t, test_steps);
	tcase_add_loop_test(t, test_floor, 0, 2);
	tcase_add_test(t, test_loop);
	tcase_add_test(t, test_state);
	tcase_add_loop_test(t, test_weights, 0, 2);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
