/* A small model whose weights are made here, with its adapter and its micro-batch, on the device that LP_DEVICE names (cpu).
 * Included once, by tests of the engine that need no golden. */
#ifndef LP_TESTS_ENGINE_SMALL_H
#define LP_TESTS_ENGINE_SMALL_H

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/xalloc.h"
#include "train/engine.h"

enum { SEQ = 48, ROWS = 3 };

struct conf {
	int64_t layers;
	bool fp8, dora;
	double dropout, noise;
	uint64_t budget, host_budget;
	int64_t piece;                /* 0: the engine's */
	double host_rate;             /* 0: the device's */
	void (*watch)(struct device *d); /* gets the device before it is planned for; NULL: nobody */
};

struct fix {
	struct device dev;
	struct model_desc model;
	struct lora lora;
	struct engine g;
	struct dataset data;
	struct microbatch b;
	struct err e;
};

static struct model_desc small_model(int64_t layers)
{
	return (struct model_desc){ .family = "llama", .layers = layers, .hidden = 64, .heads = 4, .kv_heads = 2, .head_dim = 16, .ffn = 160, .vocab = 96, .max_pos = 256,
		.rms_eps = 1e-5, .tied = false, .rope_theta = 10000, .dtype = DT_F32 };
}

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
	size_t row = (size_t)f->model.hidden * dtype_bytes(w->dtype);
	char *y = normal(f->model.vocab * f->model.hidden, 0, sd, w->dtype, 1 + head);

	device_upload(&f->dev, t.device, y, (uint64_t)t.on_device * row);
	if (t.on_host)
		memcpy(t.host, y + (size_t)(f->model.vocab - t.on_host) * row, (size_t)t.on_host * row);
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
	send(f, w->norm, f->model.hidden, 1, 0.1, DT_F32, 3);
	for (int64_t i = 0; i < f->model.layers; i++) {
		send(f, w->layers[i].norm1, f->model.hidden, 1, 0.1, DT_F32, 10 + (uint64_t)i);
		send(f, w->layers[i].norm2, f->model.hidden, 1, 0.1, DT_F32, 20 + (uint64_t)i);
		for (int k = 0; k < GRP_N; k++)
			send_group(f, &w->layers[i].grp[k], (uint64_t)(100 + i * GRP_N + k));
	}
	weights_to_fp8(&f->g.w, &f->dev, f->g.dense);
	/* B not zero, so that every path of the adapters carries something */
	send(f, f->lora.params, f->lora.n_params, 0, 0.05, DT_F32, 4);
	if (f->lora.dora)
		engine_start_magnitudes(&f->g);
}

static void add_row(struct fix *f, int64_t row)
{
	int32_t ids[SEQ];
	uint8_t mask[SEQ];
	int64_t start[2] = { 0, SEQ };

	for (int i = 0; i < SEQ; i++)
		ids[i] = (int32_t)(rng_u64(6, (uint64_t)row, (uint64_t)i) % (uint64_t)f->model.vocab);
	memset(mask, 1, sizeof(mask));
	dataset_add_row(&f->data, ids, mask, start, &row, 1);
}

static void setup(struct fix *f, const struct conf *c)
{
	const char *spec = getenv("LP_DEVICE") ? getenv("LP_DEVICE") : "cpu";
	struct engine_shape s = { .max_tokens = ROWS * SEQ, .max_seq = SEQ, .train = true, .fp8 = c->fp8, .budget = c->budget, .host_budget = c->host_budget, .noise = c->noise, .piece = c->piece };

	memset(f, 0, sizeof(*f));
	f->model = small_model(c->layers);
	must(f, device_open(&f->dev, spec, getenv("LP_COMPUTE"), 1, &f->e) == 0);
	if (c->host_rate > 0)
		f->dev.host_rate = c->host_rate;
	if (c->watch)
		c->watch(&f->dev);
	f->lora = (struct lora){ .rank = 4, .alpha = 8, .dropout = c->dropout, .dora = c->dora };
	must(f, lora_targets("all", f->lora.targets, &f->e) == 0);
	lora_init(&f->lora, &f->model);
	must(f, engine_plan(&f->g, &f->dev, &f->model, f->dev.act, false, &f->lora, &s, &f->e) == 0);
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

/* Whether there is a plan of the same shape for these budgets, with host memory at this rate; *bytes: what it takes, or the least. */
static inline bool planned(const struct fix *f, uint64_t budget, uint64_t host_budget, double host_rate, uint64_t *bytes)
{
	struct engine_shape s = f->g.shape;
	struct device d = f->dev;
	struct lora l = f->lora;
	struct err e = ERR_INIT;
	struct engine g;
	bool fits;

	s.budget = budget;
	s.host_budget = host_budget;
	d.host_rate = host_rate;
	fits = engine_plan(&g, &d, &f->model, d.act, false, &l, &s, &e) == 0;
	*bytes = engine_bytes(&g);
	engine_release(&g);
	return fits;
}

/* The least that a plan takes. */
static inline uint64_t least_of(const struct fix *f, double host_rate)
{
	uint64_t n;

	ck_assert(!planned(f, 1, f->g.shape.host_budget, host_rate, &n));
	return n;
}

/* The micro-batch as a step of its own: the loss of a token, and the adapter's gradients. */
static inline double run_step(struct fix *f, float *grads)
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

/* Of b from a, as a part of a's length. */
static inline double distance(const float *a, const float *b, int64_t n)
{
	double d = 0, s = 0;

	for (int64_t i = 0; i < n; i++) {
		d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
		s += (double)a[i] * a[i];
	}
	return sqrt(d / s);
}

#endif
