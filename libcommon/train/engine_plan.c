/* The plan: every buffer of a run, by lifetime, from shapes and a budget. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "train/engine.h"

#define LOGITS_FLOATS (1 << 24) /* a chunk of logits is at most 64 MiB, and at least 16 rows */
#define HEAD_FLOATS (1 << 24)

static int64_t clamp(int64_t v, int64_t lo, int64_t hi)
{
	return v < lo ? lo : v > hi ? hi : v;
}

static float *floats(struct layout *l, const char *name, int64_t n)
{
	return layout_array(l, name, n, sizeof(float));
}

static void layout_acts(struct engine *g, struct acts *a, struct layout *l, const char *name)
{
	const struct model_desc *m = &g->w.desc;
	int64_t t = g->shape.max_tokens, c = m->hidden, h = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;

	a->y1 = floats(l, name, t * c);
	a->rstd1 = floats(l, name, t);
	a->q = floats(l, name, t * h);
	a->k = floats(l, name, t * kv);
	a->v = floats(l, name, t * kv);
	a->o = floats(l, name, t * h);
	a->lse = floats(l, name, t * m->heads);
	a->x2 = floats(l, name, t * c);
	a->y2 = floats(l, name, t * c);
	a->rstd2 = floats(l, name, t);
	a->g = floats(l, name, t * m->ffn);
	a->u = floats(l, name, t * m->ffn);
	a->h = floats(l, name, t * m->ffn);
	for (int s = 0; s < LIN_N; s++)
		a->s[s] = g->lora && g->lora->targets[s] ? floats(l, name, t * g->lora->rank) : NULL;
}

static void layout_activations(struct engine *g, struct layout *l)
{
	const struct model_desc *m = &g->w.desc;
	int64_t t = g->shape.max_tokens, c = m->hidden, last = m->layers - 1;
	struct acts shared;

	/* the shared set serves every layer that does not keep its own */
	if (g->kept < m->layers)
		layout_acts(g, &shared, l, "activations, shared");
	for (int64_t i = 0; i < m->layers; i++) {
		if (i > 0 && !g->shape.train)
			g->x1[i] = g->x1[0];
		else
			g->x1[i] = floats(l, "residual stream of each layer", t * c);
		/* the last layers keep: backward needs them first */
		if (last - i < g->kept)
			layout_acts(g, &g->acts[i], l, "activations, kept");
		else
			g->acts[i] = shared;
	}
	g->x_final = floats(l, "residual stream of each layer", t * c);
	g->rstd_final = floats(l, "final norm", t);
	g->y_final = floats(l, "final norm", t * c);
	g->delta = floats(l, "sub-layer output", t * c);
}

static void layout_gradients(struct engine *g, struct layout *l)
{
	const struct model_desc *m = &g->w.desc;
	int64_t t = g->shape.max_tokens, c = m->hidden, h = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;

	g->d_res = floats(l, "gradients of activations", t * c);
	g->d_y = floats(l, "gradients of activations", t * c);
	g->d_q = floats(l, "gradients of activations", t * h);
	g->d_o = floats(l, "gradients of activations", t * h);
	g->d_k = floats(l, "gradients of activations", t * kv);
	g->d_v = floats(l, "gradients of activations", t * kv);
	g->d_h = floats(l, "gradients of activations", t * m->ffn);
}

static void layout_scratch(struct engine *g, struct layout *l)
{
	const struct model_desc *m = &g->w.desc;
	int64_t t = g->shape.max_tokens, widest = m->ffn;
	bool widen = g->w.nf4 || g->w.dtype != DT_F32;

	widest = m->hidden > widest ? m->hidden : widest;
	widest = m->heads * m->head_dim > widest ? m->heads * m->head_dim : widest;
	if (g->lora) {
		g->d_s = floats(l, "inside the adapter", t * g->lora->rank);
		g->xd = g->lora->dropout > 0 ? floats(l, "dropout", t * widest) : NULL;
	}
	g->wide = widen ? floats(l, "one widened projection", weights_largest(m)) : NULL;
	g->wide_head = g->w.dtype != DT_F32 ? floats(l, "widened rows of the head", g->head_rows * m->hidden) : NULL;
	g->hid = floats(l, "loss", g->chunk * m->hidden);
	g->d_hid = g->shape.train ? floats(l, "loss", g->chunk * m->hidden) : NULL;
	g->logits = floats(l, "logits of one chunk", g->chunk * m->vocab);
	g->nll = layout_array(l, "loss", t, sizeof(double));
	g->attn_scratch = floats(l, "attention", kn_attn_scratch(g->dev, g->shape.max_seq, m->head_dim));
	g->cos_tab = floats(l, "rotary tables", g->shape.max_seq * (m->head_dim / 2));
	g->sin_tab = floats(l, "rotary tables", g->shape.max_seq * (m->head_dim / 2));
}

static void layout_all(struct engine *g)
{
	weights_layout(&g->w, &g->plan[ARENA_WEIGHTS], &g->plan[ARENA_CACHE]);
	if (g->lora)
		lora_layout(g->lora, &g->plan[ARENA_ADAPTER], g->shape.train);
	if (g->lora && g->shape.optim)
		optim_layout(g->shape.optim, g->lora, &g->plan[ARENA_ADAPTER]);
	layout_activations(g, &g->plan[ARENA_ACTIVATIONS]);
	if (g->shape.train)
		layout_gradients(g, &g->plan[ARENA_ACTIVATIONS]);
	layout_scratch(g, &g->plan[ARENA_SCRATCH]);
}

static void plan_with(struct engine *g, int64_t kept, int64_t cached)
{
	static const char *const titles[ARENA_N] = { "weights", "adapter", "activations", "scratch", "cache" };

	memset(g->plan, 0, sizeof(g->plan));
	for (int i = 0; i < ARENA_N; i++)
		g->plan[i].title = titles[i];
	g->kept = kept;
	g->w.cached_layers = cached;
	layout_all(g);
}

uint64_t engine_bytes(const struct engine *g)
{
	uint64_t sum = 0;

	for (int i = 0; i < ARENA_N; i++)
		sum = sum + g->plan[i].used < sum ? UINT64_MAX : sum + g->plan[i].used;
	return sum;
}

static bool fits(struct engine *g, int64_t kept, int64_t cached)
{
	plan_with(g, kept, cached);
	return g->shape.budget == 0 ? engine_bytes(g) != UINT64_MAX : engine_bytes(g) <= g->shape.budget;
}

/* The largest n in [0, max] that fits; -1 when not even 0 does. vary_kept says
 * which of the two choices n is; the other stays. */
static int64_t most(struct engine *g, int64_t max, bool vary_kept, int64_t other)
{
	int64_t lo = -1, hi = max;

	while (lo < hi) {
		int64_t mid = lo + (hi - lo + 1) / 2;

		if (vary_kept ? fits(g, mid, other) : fits(g, other, mid))
			lo = mid;
		else
			hi = mid - 1;
	}
	return lo;
}

/* A layer that keeps its activations saves a forward pass, a third of the
 * step; a widened copy saves two dequantisations, some per cent: in that order.
 * Both leave every bit unchanged. */
static int decide(struct engine *g, struct err *e)
{
	int64_t layers = g->w.desc.layers, kept = g->shape.train ? most(g, layers, true, 0) : 0, cached;

	if (kept < 0 || !fits(g, kept, 0))
		return err_set(e, LP_DEVICE, "the smallest plan needs %.1f MiB and %.1f MiB may be used; lower --batch or --max-len, "
		               "or raise --memory", (double)engine_bytes(g) / (1 << 20), (double)g->shape.budget / (1 << 20));
	cached = g->w.nf4 || g->w.dtype != DT_F32 ? most(g, layers, false, kept) : 0;
	plan_with(g, kept, cached);
	return 0;
}

int engine_plan(struct engine *g, struct device *dev, const struct model_desc *m, enum dtype base, bool nf4,
                struct lora *lora, const struct engine_shape *shape, struct err *e)
{
	memset(g, 0, sizeof(*g));
	g->dev = dev;
	g->lora = lora;
	g->shape = *shape;
	weights_init(&g->w, m, base, nf4);
	g->x1 = xcalloc((size_t)m->layers, sizeof(*g->x1));
	g->acts = xcalloc((size_t)m->layers, sizeof(*g->acts));
	g->chunk = clamp(LOGITS_FLOATS / m->vocab, 16, 1024);
	if (g->chunk > shape->max_tokens)
		g->chunk = shape->max_tokens;
	g->head_rows = clamp(HEAD_FLOATS / m->hidden, 16, m->vocab);
	return decide(g, e);
}

static void fill_rotary(struct engine *g)
{
	int64_t half = g->w.desc.head_dim / 2, n = g->shape.max_seq * half;
	float *inv = xcalloc((size_t)half, sizeof(*inv)), *c = xcalloc((size_t)n, sizeof(*c)), *s = xcalloc((size_t)n, sizeof(*s));

	model_inv_freq(&g->w.desc, inv);
	for (int64_t p = 0; p < g->shape.max_seq; p++)
		for (int64_t i = 0; i < half; i++) {
			float angle = (float)p * inv[i];

			c[p * half + i] = (float)cos((double)angle);
			s[p * half + i] = (float)sin((double)angle);
		}
	device_upload(g->dev, g->cos_tab, c, (uint64_t)n * sizeof(*c));
	device_upload(g->dev, g->sin_tab, s, (uint64_t)n * sizeof(*s));
	free(inv);
	free(c);
	free(s);
}

int engine_alloc(struct engine *g, struct err *e)
{
	for (int i = 0; i < ARENA_N; i++) {
		g->memory[i] = device_alloc(g->dev, g->plan[i].used, g->plan[i].title, e);
		if (!g->memory[i])
			return -1;
		layout_place(&g->plan[i], g->memory[i]);
	}
	layout_all(g);
	fill_rotary(g);
	return 0;
}

void engine_release(struct engine *g)
{
	for (int i = 0; i < ARENA_N; i++) {
		if (g->memory[i])
			device_free(g->dev, g->memory[i]);
		g->memory[i] = NULL;
	}
	weights_release(&g->w);
	free(g->x1);
	free(g->acts);
	g->x1 = NULL;
	g->acts = NULL;
}
