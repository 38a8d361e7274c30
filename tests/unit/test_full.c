/* Ten steps of full fine-tuning against PyTorch + transformers in fp64 (make_full.py): every weight trained, tied and untied tables, biases, two groups of
 * decay, cosine, clipping; AdamW, 8-bit states as transformers sets bitsandbytes up, and galore-torch; and embedding and head beside PEFT's adapter. Losses, gradients and where the weights end differ from that
 * truth by no more than twice what PyTorch in fp32 does, or on a device that LP_DEVICE names in bf16, which the golden says. And none of it depends on the plan, on threads, or on how a step is cut. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "train/run_int.h"

enum { STEPS = 10 };
#define DIR_MODEL "tests/conformance/model/"
static const struct {
	const char *name, *model;
	enum optim_kind kind;
	int64_t rank; /* GaLore's */
	const char *adapter;
} cases[] = { { "llama", DIR_MODEL "llama", OPTIM_ADAMW, 0 }, { "qwen2", DIR_MODEL "qwen2", OPTIM_ADAMW, 0 }, { "stories", "data/stories260K", OPTIM_ADAMW8, 0 },
	      { "galore", "data/stories260K", OPTIM_ADAMW, 8 }, { "tables", DIR_MODEL "llama", OPTIM_ADAMW, 0, DIR_MODEL "llama/adapter" } };

static struct st_file gold;

static void must(bool ok, const struct err *e)
{
	if (!ok)
		ck_abort_msg("%s: %s", e->path, e->msg);
}

static double number(const char *of, const char *name)
{
	char full[64];
	const char *s;

	snprintf(full, sizeof(full), "%s%s", of, name);
	s = st_meta(&gold.blob, full);
	ck_assert_msg(s != NULL, "no %s", full);
	return strtod(s, NULL);
}

static const struct tensor *golden(const char *of, const char *what, const char *name)
{
	char full[2 * ARCH_NAME];

	snprintf(full, sizeof(full), "%s.%s%s", of, what, name);
	return st_find(&gold.blob, full);
}

/* |a - b| / |b| */
static double away(const float *a, const struct tensor *b)
{
	double d = 0, s = 0;

	for (size_t i = 0; i < tensor_elems(b); i++) {
		double want = b->dtype == DT_F64 ? ((const double *)b->data)[i] : (double)((const float *)b->data)[i];

		d += ((double)a[i] - want) * ((double)a[i] - want);
		s += want * want;
	}
	return sqrt(d / s);
}

/* A gradient as fp32, allocated. */
static float *gradient(struct run *r, int64_t i)
{
	const struct trained_tensor *t = &r->base.tensors[i];
	float *x = xcalloc((size_t)t->n, sizeof(*x));

	if (t->g_once)
		r->dev.k.to_host(&r->dev, x, trained_grad(&r->base, i), t->n);
	else
		device_download(&r->dev, x, trained_grad(&r->base, i), (uint64_t)t->n * sizeof(*x));
	return x;
}

/* Of all tensors that the golden has: weights in the order of host, or gradients. Returns how many it has. */
static int check_tensors(struct run *r, const char *of, const char *what, const float *host, double most)
{
	int n = 0;

	for (int64_t i = 0; i < r->base.n_tensors; i++) {
		const struct trained_tensor *t = &r->base.tensors[i];
		const struct tensor *want = golden(of, what, t->name);
		float *grad;
		double d;

		if (!want)
			continue;
		grad = host ? NULL : gradient(r, i);
		d = away(host ? host + t->at : grad, want);
		free(grad);
		ck_assert_msg(d <= most, "%s.%s%s: %.2e away, at most %.2e", of, what, t->name, d, most);
		n++;
	}
	return n;
}

/* The adapter's tensors, which begin at x, the parameters or their gradients. */
static int check_adapter(struct run *r, const char *of, const char *what, const float *x, double most)
{
	float *host = xcalloc((size_t)r->lora.n_params + 1, sizeof(*host));
	int n = 0;

	device_download(&r->dev, host, x, (uint64_t)r->lora.n_params * sizeof(*host));
	for (int64_t i = 0; i < r->lora.n_tensors; i++) {
		const struct lora_tensor *t = &r->lora.tensors[i];
		const struct tensor *want = golden(of, what, t->name);

		ck_assert(want != NULL);
		ck_assert_msg(away(host + t->offset, want) <= most, "%s.%s%s: %.2e away, at most %.2e", of, what, t->name, away(host + t->offset, want), most);
		n++;
	}
	free(host);
	return n;
}

static const char *device_name(void)
{
	return getenv("LP_DEVICE") ? getenv("LP_DEVICE") : "cpu";
}

/* fp16 trains no weights. */
static bool refused(void)
{
	return getenv("LP_COMPUTE") && strcmp(getenv("LP_COMPUTE"), "fp16") == 0;
}

static struct train_config config(int i, const char **stream)
{
	static char path[128];
	struct train_config c = { .model = cases[i].model, .streams = stream, .n_streams = 1, .device = device_name(), .threads = 1, .accumulate = 1, .batch = 2, .max_steps = STEPS,
		                  .trained = TRAIN_LAYERS | TRAIN_EMBED | TRAIN_HEAD, .schedule = SCHEDULE_COSINE, .log_every = 1,
		                  .galore_rank = cases[i].rank, .galore_every = 4, .galore_scale = 0.25,
		                  .optim = { .kind = cases[i].kind, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .piece = 2048 } };

	snprintf(path, sizeof(path), DIR_MODEL "full.%s.tokens.safetensors", cases[i].name);
	*stream = path;
	c.adapter = cases[i].adapter;
	if (c.adapter)
		c.trained = TRAIN_EMBED | TRAIN_HEAD;
	c.lr = number("", "lr");
	c.warmup_steps = (int64_t)number("", "warmup");
	c.max_grad_norm = number("", "clip");
	c.optim.weight_decay = number("", "weight_decay");
	return c;
}

static void start(struct run *r, const struct train_config *c)
{
	struct err e = ERR_INIT;

	must(run_prepare(r, c, true, &e) == 0, &e);
	must(run_load(r, &e) == 0, &e);
}

static void step(struct run *r, int64_t s, struct step_result *res)
{
	int64_t rows[2] = { s * 2 % r->train.n_rows, (s * 2 + 1) % r->train.n_rows };
	struct err e = ERR_INIT;

	r->step = s;
	run_queue(r, rows, 2, r->c->lr * schedule_factor(&r->schedule, s));
	must(run_result(r, res, &e) == 0, &e);
}

START_TEST(test_ten_steps)
{
	const char *of = cases[_i].name, *stream;
	struct err e = ERR_INIT;
	struct train_config c;
	float loss[STEPS], norm[STEPS], *end;
	struct step_result res;
	struct run r;
	char prefix[32];

	/* another device's directions are not the singular vectors themselves (kernels/basis.h) */
	if (refused() || (cases[_i].rank && strcmp(device_name(), "cpu") != 0))
		return;
	must(st_file_open(&gold, DIR_MODEL "full.safetensors", &e) == 0, &e);
	c = config(_i, &stream);
	start(&r, &c);
	snprintf(prefix, sizeof(prefix), "%s.%s_", of, r.dev.act == DT_F32 ? "fp32" : "bf16");
	for (int64_t s = 0; s < STEPS; s++) {
		step(&r, s, &res);
		loss[s] = (float)res.loss;
		norm[s] = (float)res.grad_norm;
	}
	ck_assert_double_le(away(loss, golden(of, "loss", "")), 2 * number(prefix, "loss"));
	ck_assert_double_le(away(norm, golden(of, "grad_norm", "")), 2 * number(prefix, "grad_norm"));
	ck_assert_int_ge(check_tensors(&r, of, "grad.", NULL, 2 * number(prefix, "grad.")), _i < 2 || cases[_i].adapter ? r.base.n_tensors : 0);
	check_adapter(&r, of, "grad.", r.lora.grads, 2 * number(prefix, "grad."));
	end = xcalloc((size_t)run_params(&r), sizeof(*end));
	run_get_params(&r, end);
	ck_assert_int_ge(check_tensors(&r, of, "final.", end + r.lora.n_params, 2 * number(prefix, "final.")) + check_adapter(&r, of, "final.", r.lora.params, 2 * number(prefix, "final.")), 10);
	free(end);
	run_release(&r);
	st_file_close(&gold);
}
END_TEST

/* The weights after three steps. */
static float *three_steps(const struct train_config *c, struct run *r)
{
	struct step_result res;
	float *end;

	start(r, c);
	for (int64_t s = 0; s < 3; s++)
		step(r, s, &res);
	end = xcalloc((size_t)run_params(r), sizeof(*end));
	run_get_params(r, end);
	return end;
}

/* Nothing kept, or all, and between; one thread, or three. */
START_TEST(test_plan_changes_no_bit)
{
	const char *stream;
	struct err e = ERR_INIT;
	struct train_config c;
	struct run all, some;
	float *want, *got;
	uint64_t least, most;
	int64_t again = 0;

	if (refused())
		return;
	must(st_file_open(&gold, DIR_MODEL "full.safetensors", &e) == 0, &e);
	c = config(_i, &stream);
	want = three_steps(&c, &all);
	most = engine_bytes(&all.g);
	c.threads = 3;
	c.memory = all.dev.overhead + 1;
	ck_assert_int_eq(run_prepare(&some, &c, true, &e), -1);
	ck_assert_int_eq(e.code, LP_DEVICE);
	least = engine_bytes(&some.g);
	run_release(&some);
	for (uint64_t k = 0; k < 8; k++) {
		c.memory = all.dev.overhead + least + (most - least) / 8 * k;
		got = three_steps(&c, &some);
		ck_assert_mem_eq(want, got, (size_t)run_params(&all) * sizeof(*want));
		again += engine_again(&some.g);
		free(got);
		run_release(&some);
	}
	ck_assert_int_gt(again, 0);
	free(want);
	run_release(&all);
	st_file_close(&gold);
}
END_TEST

/* The plan once more, for a device whose memory is not the host's, and so much of it; false: it does not fit. */
static bool plan_apart(struct run *r, uint64_t budget)
{
	struct engine_shape s = r->g.shape;
	struct err e = ERR_INIT;

	engine_release(&r->g);
	r->dev.host_rate = 1e10;
	s.budget = budget;
	return engine_plan(&r->g, &r->dev, &r->desc, r->dev.act, false, &r->lora, &s, &e) == 0;
}

/* Paged states: they come to the device in pieces, which tensors are cut for, and go back. */
START_TEST(test_states_away)
{
	const char *stream;
	struct err e = ERR_INIT;
	struct train_config c;
	struct run all, some;
	struct step_result res;
	float *want, *got;
	uint64_t least, most;
	int away = 0;

	if (refused())
		return;
	must(st_file_open(&gold, DIR_MODEL "full.safetensors", &e) == 0, &e);
	c = config(_i, &stream);
	want = three_steps(&c, &all);
	most = engine_bytes(&all.g);
	must(run_prepare(&some, &c, true, &e) == 0, &e);
	ck_assert(!plan_apart(&some, 1));
	least = engine_bytes(&some.g);
	run_release(&some);
	for (uint64_t k = 0; k < 8; k++) {
		must(run_prepare(&some, &c, true, &e) == 0, &e);
		ck_assert(plan_apart(&some, least + (most - least) / 8 * k));
		must(run_load(&some, &e) == 0, &e);
		for (int64_t s = 0; s < 3; s++)
			step(&some, s, &res);
		got = xcalloc((size_t)run_params(&some), sizeof(*got));
		run_get_params(&some, got);
		ck_assert_mem_eq(want, got, (size_t)run_params(&all) * sizeof(*want));
		away += some.g.optim_away && some.optim.n_pieces > OPTIM_RING;
		free(got);
		run_release(&some);
	}
	ck_assert_int_gt(away, 0);
	free(want);
	run_release(&all);
	st_file_close(&gold);
}
END_TEST

/* What two correct runs may be apart: wide where sums are fp32 throughout, else what bf16 does to either. */
static double off(const struct run *r, int i, const char *what, double wide)
{
	char prefix[32];

	snprintf(prefix, sizeof(prefix), "%s.bf16_", cases[i].name);
	return r->dev.act == DT_F32 ? wide : 4 * number(prefix, what);
}

static void same_gradient(struct run *a, int64_t i, struct run *b, int64_t j, double most)
{
	float *x = gradient(a, i), *y = gradient(b, j);
	struct tensor want = { .dtype = DT_F32, .n_dims = 1, .shape = { (uint64_t)a->base.tensors[i].n }, .data = x };

	ck_assert_double_le(away(y, &want), most);
	free(x);
	free(y);
}

/* Two micro-batches of a row each, whose gradients are added up, or one of two. */
START_TEST(test_cut_does_not_matter)
{
	const char *stream;
	struct err e = ERR_INIT;
	struct train_config c;
	struct run one, two;
	struct step_result a, b;

	if (refused())
		return;
	must(st_file_open(&gold, DIR_MODEL "full.safetensors", &e) == 0, &e);
	c = config(_i, &stream);
	start(&one, &c);
	step(&one, 0, &a);
	c.batch = 1;
	c.accumulate = 2;
	start(&two, &c);
	step(&two, 0, &b);
	ck_assert(two.base.wide && !one.base.wide);
	ck_assert_double_eq_tol(a.loss / b.loss, 1, off(&one, _i, "loss", 1e-6));
	ck_assert_double_eq_tol(a.grad_norm / b.grad_norm, 1, off(&one, _i, "grad_norm", 1e-6));
	for (int64_t i = 0; i < one.base.n_tensors; i++)
		same_gradient(&one, i, &two, i, off(&one, _i, "grad.", 1e-5));
	run_release(&one);
	run_release(&two);
	st_file_close(&gold);
}
END_TEST

/* What is frozen stays; the rest has the gradients that it has beside trained tables. */
START_TEST(test_frozen_tables)
{
	const char *stream;
	struct err e = ERR_INIT;
	struct train_config c;
	struct run all, some;
	struct step_result a, b;

	if (refused())
		return;
	must(st_file_open(&gold, DIR_MODEL "full.safetensors", &e) == 0, &e);
	c = config(0, &stream);
	start(&all, &c);
	step(&all, 0, &a);
	c.trained = TRAIN_LAYERS | (_i == 1 ? TRAIN_EMBED : _i == 2 ? TRAIN_HEAD : 0);
	start(&some, &c);
	step(&some, 0, &b);
	ck_assert_double_eq_tol(a.loss / b.loss, 1, off(&all, 0, "loss", 1e-6));
	ck_assert(b.grad_norm < a.grad_norm);
	ck_assert_int_eq(some.base.n_tensors, all.base.n_tensors - 2 + (_i > 0));
	for (int64_t i = 0; i < some.base.n_tensors; i++)
		for (int64_t j = 0; j < all.base.n_tensors; j++)
			if (strcmp(all.base.tensors[j].name, some.base.tensors[i].name) == 0)
				same_gradient(&all, j, &some, i, off(&all, 0, "grad.", 1e-5));
	run_release(&all);
	run_release(&some);
	st_file_close(&gold);
}
END_TEST

/* bf16 and what it lacks are fp32, at every value. */
START_TEST(test_halves)
{
	static const uint32_t odd[] = { 0, 0x80000000u, 0x3f800000u, 0x3f808000u, 0x3f807fffu, 0x3f818000u, 0xbf7fffffu, 0x00000001u, 0x007fffffu, 0x7f7f7fffu };
	uint32_t u = 12345;

	for (int i = 0; i < 100000; i++) {
		int16_t rest;
		uint16_t w;
		float p, back;
		uint32_t bits = i < 10 ? odd[i] : (u = u * 1664525u + 1013904223u);

		memcpy(&p, &bits, sizeof(p));
		if (!isfinite(p))
			continue;
		w = kn_halve(p, &rest);
		back = kn_join(w, rest);
		ck_assert_mem_eq(&back, &p, sizeof(p));
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("full");
	TCase *t = tcase_create("full");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, test_ten_steps, 0, 5);
	tcase_add_loop_test(t, test_plan_changes_no_bit, 0, 5);
	tcase_add_loop_test(t, test_states_away, 0, 5);
	tcase_add_loop_test(t, test_cut_does_not_matter, 0, 3);
	tcase_add_loop_test(t, test_frozen_tables, 0, 3);
	tcase_add_test(t, test_halves);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
