/* Training with the projections' products in eight bits, against the same step without: losses and gradients of one small model
 * whose weights are made here. LP_DEVICE names the device, as tests/kernels/test_kn_ops.c says. What is right of each product
 * tests/kernels/test_kn_fp8.c says; here, that the engine puts each one in its place. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/xalloc.h"
#include "train/engine.h"

enum { SEQ = 48, ROWS = 3 };

static const struct model_desc model = { .family = "llama", .layers = 3, .hidden = 64, .heads = 4, .kv_heads = 2, .head_dim = 16, .ffn = 160, .vocab = 96, .max_pos = 256,
	.rms_eps = 1e-5, .tied = false, .rope_theta = 10000, .dtype = DT_F32 };

struct fix {
	struct device dev;
	struct lora lora;
	struct engine g;
	struct dataset data;
	struct microbatch b;
	struct err e;
};

static void must(struct fix *f, bool ok)
{
	if (!ok)
		ck_abort_msg("%s", f->e.msg);
}

/* n numbers of N(mean, sd), as dt. */
static void *normal(int64_t n, double mean, double sd, enum dtype dt, uint64_t stream)
{
	float *x = xcalloc((size_t)n, sizeof(*x));
	void *y = xcalloc((size_t)n, sizeof(*x));

	for (int64_t i = 0; i < n; i++)
		x[i] = (float)(mean + sd * rng_normal(5, stream, (uint64_t)i));
	from_f32(dt, x, y, (size_t)n);
	free(x);
	return y;
}

static void send(struct fix *f, void *to, int64_t n, double mean, double sd, enum dtype dt, uint64_t stream)
{
	void *y = normal(n, mean, sd, dt, stream);

	device_upload(&f->dev, to, y, (uint64_t)n * dtype_bytes(dt));
	free(y);
}

/* The embedding, or the head, wherever its rows are. */
static void send_table(struct fix *f, bool head, double sd)
{
	const struct weights *w = &f->g.w;
	struct table_place t = weights_table(w, head);
	size_t row = (size_t)model.hidden * dtype_bytes(w->dtype);
	char *y = normal(model.vocab * model.hidden, 0, sd, w->dtype, 1 + head);

	device_upload(&f->dev, t.device, y, (uint64_t)t.on_device * row);
	if (t.on_host)
		memcpy(t.host, y + (size_t)(model.vocab - t.on_host) * row, (size_t)t.on_host * row);
	free(y);
}

static void send_group(struct fix *f, const struct wgroup *w, uint64_t stream)
{
	for (int64_t i = 0; i < w->out; i++)
		send(f, act_at(&f->dev, w->dense, i * w->ld), w->in, 0, 0.1, f->dev.act, stream * 1000 + (uint64_t)i);
}

static void fill(struct fix *f)
{
	const struct weights *w = &f->g.w;

	send_table(f, false, 1);
	send_table(f, true, 0.1);
	send(f, w->norm, model.hidden, 1, 0.1, DT_F32, 3);
	for (int64_t i = 0; i < model.layers; i++) {
		send(f, w->layers[i].norm1, model.hidden, 1, 0.1, DT_F32, 10 + (uint64_t)i);
		send(f, w->layers[i].norm2, model.hidden, 1, 0.1, DT_F32, 20 + (uint64_t)i);
		for (int k = 0; k < GRP_N; k++)
			send_group(f, &w->layers[i].grp[k], (uint64_t)(100 + i * GRP_N + k));
	}
	weights_to_fp8(&f->g.w, &f->dev, f->g.dense);
	/* B not zero, so that every path of the adapters carries something */
	send(f, f->lora.params, f->lora.n_params, 0, 0.05, DT_F32, 4);
}

static void add_row(struct fix *f, int64_t row)
{
	int32_t ids[SEQ];
	uint8_t mask[SEQ];
	int64_t start[2] = { 0, SEQ };

	for (int i = 0; i < SEQ; i++)
		ids[i] = (int32_t)(rng_u64(6, (uint64_t)row, (uint64_t)i) % (uint64_t)model.vocab);
	memset(mask, 1, sizeof(mask));
	dataset_add_row(&f->data, ids, mask, start, &row, 1);
}

static void setup(struct fix *f, bool fp8, double dropout, uint64_t budget)
{
	const char *spec = getenv("LP_DEVICE") ? getenv("LP_DEVICE") : "cpu";
	struct engine_shape s = { .max_tokens = ROWS * SEQ, .max_seq = SEQ, .train = true, .fp8 = fp8, .budget = budget };

	memset(f, 0, sizeof(*f));
	must(f, device_open(&f->dev, spec, NULL, 2, &f->e) == 0);
	f->dev.apart = true; /* the plans of a GPU on the CPU as well */
	f->lora = (struct lora){ .rank = 4, .alpha = 8, .dropout = dropout };
	must(f, lora_targets("all", f->lora.targets, &f->e) == 0);
	lora_init(&f->lora, &model);
	must(f, engine_plan(&f->g, &f->dev, &model, f->dev.act, false, &f->lora, &s, &f->e) == 0);
	must(f, engine_alloc(&f->g, &f->e) == 0);
	fill(f);
	for (int64_t i = 0; i < ROWS; i++)
		add_row(f, i);
	microbatch_init(&f->b, ROWS * SEQ);
	microbatch_clear(&f->b);
	for (int64_t i = 0; i < ROWS; i++)
		microbatch_add(&f->b, &f->data, i);
}

static void teardown(struct fix *f)
{
	microbatch_release(&f->b);
	dataset_release(&f->data);
	engine_release(&f->g);
	lora_release(&f->lora);
	device_close(&f->dev);
}

/* The loss of a token, and the adapter's gradients. */
static double run(struct fix *f, float *grads)
{
	double loss;

	engine_set_dropout(&f->g, f->lora.dropout > 0, 1, 1);
	engine_begin(&f->g);
	engine_run(&f->g, &f->b, true, 1.0 / (double)f->b.n_targets);
	must(f, engine_sums(&f->g, &loss, NULL, &f->e) == 0);
	device_download(&f->dev, grads, f->lora.grads, (uint64_t)f->lora.n_params * sizeof(*grads));
	must(f, device_sync(&f->dev, &f->e) == 0);
	return loss / (double)f->b.n_targets;
}

static double distance(const float *a, const float *b, int64_t n)
{
	double d = 0, s = 0;

	for (int64_t i = 0; i < n; i++) {
		d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
		s += (double)a[i] * a[i];
	}
	return sqrt(d / s);
}

static const double dropouts[] = { 0, 0.2 };

/* A code's error is uniform within a sixteenth at the worst: 0.018 of a number, root mean square, and a product of two such has
 * 0.026 of its own size. Three layers of four products, forward and back, are independent; eight times that is what is allowed, and
 * a product in the wrong place (without its tail, say) is off by the size of what it should be. */
START_TEST(test_against_16_bits)
{
	struct fix a, b;
	float *ga, *gb;
	double la, lb, d;

	setup(&a, false, dropouts[_i], 0);
	if (!a.dev.fp8) {
		teardown(&a);
		return;
	}
	setup(&b, true, dropouts[_i], 0);
	ga = xcalloc((size_t)a.lora.n_params, sizeof(*ga));
	gb = xcalloc((size_t)a.lora.n_params, sizeof(*gb));
	la = run(&a, ga);
	lb = run(&b, gb);
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

/* About the least memory that a plan needs. */
static uint64_t least_of(struct fix *f, uint64_t most)
{
	for (uint64_t n = most / 8; n < most; n += most / 64) {
		struct engine_shape s = { .max_tokens = ROWS * SEQ, .max_seq = SEQ, .train = true, .fp8 = true, .budget = n };
		struct lora l = f->lora;
		struct engine g;
		bool fits = engine_plan(&g, &f->dev, &model, f->dev.act, false, &l, &s, &f->e) == 0;

		engine_release(&g);
		if (fits)
			return n;
	}
	return most;
}

/* That little, against all there is: no bit changes. */
START_TEST(test_plans)
{
	struct fix a, b;
	float *ga, *gb;

	setup(&a, true, 0, 0);
	if (!a.dev.fp8) {
		teardown(&a);
		return;
	}
	setup(&b, true, 0, least_of(&a, engine_bytes(&a.g)));
	ck_assert_int_lt(b.g.full + b.g.lean, model.layers);
	ga = xcalloc((size_t)a.lora.n_params, sizeof(*ga));
	gb = xcalloc((size_t)a.lora.n_params, sizeof(*gb));
	ck_assert(run(&a, ga) == run(&b, gb));
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
