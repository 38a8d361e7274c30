/* The plan: every buffer of a run, by lifetime, from shapes and a budget. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "train/engine.h"

#define HEAD_ELEMENTS (1 << 24)

static int64_t clamp(int64_t v, int64_t lo, int64_t hi)
{
	return v < lo ? lo : v > hi ? hi : v;
}

static float *floats(struct layout *l, const char *name, int64_t n)
{
	return layout_array(l, name, n, sizeof(float));
}

static void *acts(const struct engine *g, struct layout *l, const char *name, int64_t n)
{
	return layout_array(l, name, n, dtype_bytes(g->dev->act));
}

static int64_t pad(const struct engine *g, enum linear_group k)
{
	return g->w.layers[0].grp[k].pad;
}

/* What is an element-wise step away from the rest: the inputs of qkv, gate/up and down. */
static void layout_near(struct engine *g, struct acts *a, struct layout *l, const char *name)
{
	const struct model_desc *m = &g->w.desc;
	int64_t t = g->shape.max_tokens;

	a->y1 = acts(g, l, name, t * (m->hidden + pad(g, GRP_QKV)));
	a->y2 = acts(g, l, name, t * (m->hidden + pad(g, GRP_GU)));
	a->h = acts(g, l, name, t * (m->ffn + pad(g, GRP_DOWN)));
	a->rstd1 = floats(l, name, t);
	a->rstd2 = floats(l, name, t);
}

void engine_lean_rows(const struct engine *g, uint64_t row[LEAN_PARTS])
{
	const struct model_desc *m = &g->w.desc;
	uint64_t act = dtype_bytes(g->dev->act);

	row[0] = (uint64_t)(group_out(m, GRP_QKV) + pad(g, GRP_QKV)) * act;
	row[1] = (uint64_t)(m->heads * m->head_dim + pad(g, GRP_O)) * act;
	row[2] = (uint64_t)m->hidden * act;
	row[3] = (uint64_t)(2 * m->ffn + pad(g, GRP_GU)) * act;
	row[4] = (uint64_t)m->heads * sizeof(float);
	/* inner values lie behind the rows of x; where these do not stay, a lean layer keeps a copy */
	for (int k = 0; k < GRP_N; k++)
		row[5 + k] = g->shape.train && k != GRP_O ? (uint64_t)pad(g, k) * act : 0;
}

static void layout_lean(struct engine *g, struct acts *a, struct layout *l, const char *name)
{
	uint64_t row[LEAN_PARTS];
	void *at[LEAN_PARTS];

	engine_lean_rows(g, row);
	for (int i = 0; i < LEAN_PARTS; i++)
		at[i] = row[i] ? layout_array(l, name, g->shape.max_tokens, row[i]) : NULL;
	a->qkv = at[0];
	a->o = at[1];
	a->x2 = at[2];
	a->gu = at[3];
	a->lse = at[4];
	memcpy(a->s, at + 5, sizeof(a->s));
}

/* One layer's: parts of what layers share, or its own. */
static struct acts layout_layer(struct engine *g, const struct layer_keep *k, const struct acts *shared, const struct acts sets[SETS], struct layout *l)
{
	struct acts a = k->set >= 0 ? sets[k->set] : *shared;

	if (k->set < 0)
		layout_lean(g, &a, l, "activations, kept");
	if (k->how == KEEP_FULL)
		layout_near(g, &a, l, "activations, kept");
	if (k->how == KEEP_FULL || k->how == KEEP_NONE)
		memset(a.s, 0, sizeof(a.s));
	return a;
}

static void layout_activations(struct engine *g, struct layout *l)
{
	const struct model_desc *m = &g->w.desc;
	int64_t t = g->shape.max_tokens, c = m->hidden;
	struct acts shared = { 0 }, sets[SETS];

	engine_spread(g);
	if (g->full < m->layers)
		layout_near(g, &shared, l, "activations, shared");
	for (int k = 0; k < SETS; k++)
		sets[k] = shared;
	for (int k = 0; k < g->sets && g->full + g->lean < m->layers; k++)
		layout_lean(g, &sets[k], l, "activations, shared");
	for (int64_t i = 0; i < m->layers; i++) {
		if (i > 0 && !g->shape.train)
			g->x1[i] = g->x1[0];
		else if (g->offload && i >= RING)
			g->x1[i] = g->x1[i - RING];
		else
			g->x1[i] = acts(g, l, "residual stream of each layer", t * c);
		/* the last are still there when backward comes */
		g->x1_host[i] = g->offload && i < m->layers - RING ? acts(g, &g->host_plan, "residual stream of each layer", t * c) : NULL;
		g->acts[i] = layout_layer(g, &g->keep[i], &shared, sets, l);
		if (g->keep[i].how == KEEP_HOST)
			layout_lean(g, &g->acts_host[i], &g->host_plan, "activations that travel");
	}
	g->x_final = acts(g, l, "residual stream of each layer", t * c);
	g->rstd_final = floats(l, "final norm", t);
	g->y_final = acts(g, l, "final norm", t * c);
}

static void layout_gradients(struct engine *g, struct layout *l)
{
	const struct model_desc *m = &g->w.desc;
	int64_t once, t = g->shape.max_tokens, more = pad(g, GRP_O) > pad(g, GRP_DOWN) ? pad(g, GRP_O) : pad(g, GRP_DOWN);

	g->ld_res = m->hidden + more;
	g->d_res = acts(g, l, "gradients of activations", t * g->ld_res);
	g->d_y = acts(g, l, "gradients of activations", t * m->hidden);
	g->d_qkv = acts(g, l, "gradients of activations", t * (group_out(m, GRP_QKV) + pad(g, GRP_QKV)));
	/* the gradient inside the feed-forward part, that of attention's output, and logits are never alive at once */
	once = t * (m->heads * m->head_dim + pad(g, GRP_O));
	once = t * m->ffn > once ? t * m->ffn : once;
	once = g->chunk * m->vocab > once ? g->chunk * m->vocab : once;
	g->d_h = g->d_o = g->logits = acts(g, l, "gradients of activations, or logits", once);
}

static void layout_inputs(struct engine *g, struct layout *l)
{
	struct inputs *in = &g->in;
	int64_t t = g->shape.max_tokens;
	const int64_t sizes[] = { t, t, t, t + 1, t, t, 2 * (t / ATTN_TILE + t) };
	int32_t **const at[] = { &in->ids, &in->pos, &in->rec, &in->seq_start, &in->tgt_row, &in->tgt_id, &in->tiles };
	int32_t *base;

	g->in_count = 0;
	for (int i = 0; i < 7; i++)
		g->in_count += sizes[i];
	base = layout_array(l, "micro-batch", g->in_count, sizeof(int32_t));
	for (int i = 0; i < 7; i++) {
		*at[i] = base;
		base = base ? base + sizes[i] : NULL;
	}
}

static uint64_t adapter_scratch(const struct engine *g)
{
	uint64_t most = 0;

	for (int k = 0; k < GRP_N; k++) {
		uint64_t n = g->dev->k.adapter_scratch(g->dev, g->shape.max_tokens, g->w.layers[0].grp[k].in, g->w.layers[0].grp[k].out,
		                                        g->lora->groups[k].n, g->lora->rank);

		most = n > most ? n : most;
	}
	return most;
}

/* The most columns that go into a product in 8 bits. */
static int64_t widest_product(const struct engine *g)
{
	int64_t most = 0;

	for (int k = 0; k < GRP_N; k++) {
		const struct wgroup *w = &g->w.layers[0].grp[k];
		int64_t n = (w->in > w->out ? w->in : w->out) + w->tail;

		most = n > most ? n : most;
	}
	return most;
}

static void layout_scratch(struct engine *g, struct layout *l)
{
	const struct model_desc *m = &g->w.desc;
	int64_t t = g->shape.max_tokens, widest = m->ffn;
	bool convert = g->w.dtype != g->dev->act;

	widest = m->hidden > widest ? m->hidden : widest;
	widest = m->heads * m->head_dim > widest ? m->heads * m->head_dim : widest;
	layout_inputs(g, l);
	g->xd = g->lora && g->lora->dropout > 0 ? acts(g, l, "dropout", t * widest) : NULL;
	g->adapter_scratch = g->lora && g->shape.train ? layout_take(l, "inside the adapter", adapter_scratch(g)) : NULL;
	g->dense = g->w.dense || g->w.cached_layers == m->layers ? NULL : acts(g, l, "one group of projections, dense", weights_largest(&g->w));
	if (g->w.fp8) {
		g->in8.q = layout_array(l, "activations in 8 bits", t * widest_product(g), 1);
		g->in8.scale = floats(l, "activations in 8 bits", t);
	}
	g->head_rows_at = convert ? acts(g, l, "converted rows of the head", g->head_rows * m->hidden) : NULL;
	g->hid = acts(g, l, "loss", g->chunk * m->hidden);
	g->d_hid = g->shape.train ? acts(g, l, "loss", g->chunk * m->hidden) : NULL;
	if (!g->shape.train)
		g->logits = acts(g, l, "logits of one chunk", g->chunk * m->vocab);
	g->nll = layout_array(l, "loss", t, sizeof(double));
	g->sums = layout_array(l, "loss", 2, sizeof(double));
	g->attn_scratch = layout_take(l, "attention", g->dev->k.attn_scratch(g->dev, t, g->shape.max_seq, m->heads, m->head_dim, g->shape.train));
	g->decode_scratch = layout_take(l, "attention", g->dev->k.decode_scratch(g->dev, g->shape.decode, g->shape.max_seq, m->heads, m->head_dim));
	g->skinny_scratch = engine_decode_rows(g) ? layout_take(l, "decoding", g->dev->k.skinny_scratch(g->dev, engine_decode_rows(g), widest, KN_PARTS * (g->lora ? g->lora->rank : 0))) : NULL;
	g->cos_tab = floats(l, "rotary tables", g->shape.max_seq * (m->head_dim / 2));
	g->sin_tab = floats(l, "rotary tables", g->shape.max_seq * (m->head_dim / 2));
}

static void layout_all(struct engine *g)
{
	weights_layout(&g->w, g->dev, &g->plan[ARENA_WEIGHTS], &g->plan[ARENA_CACHE], &g->host_plan);
	g->embed_way = g->w.host_embed ? acts(g, &g->host_plan, "embeddings", g->shape.max_tokens * g->w.desc.hidden) : NULL;
	if (g->lora)
		lora_layout(g->lora, &g->plan[ARENA_ADAPTER], g->shape.train);
	if (g->lora && g->shape.optim)
		optim_layout(g->shape.optim, g->lora, &g->plan[ARENA_ADAPTER]);
	layout_activations(g, &g->plan[ARENA_ACTIVATIONS]);
	if (g->shape.train)
		layout_gradients(g, &g->plan[ARENA_ACTIVATIONS]);
	layout_scratch(g, &g->plan[ARENA_SCRATCH]);
}

struct choice {
	int64_t full, lean, travel, cached;
	int sets;
	bool offload, host_embed;
};

static void plan_with(struct engine *g, struct choice c)
{
	static const char *const titles[ARENA_N] = { "weights", "adapter", "activations", "scratch", "cache" };

	memset(g->plan, 0, sizeof(g->plan));
	for (int i = 0; i < ARENA_N; i++)
		g->plan[i].title = titles[i];
	memset(&g->host_plan, 0, sizeof(g->host_plan));
	g->host_plan.title = "host";
	g->offload = c.offload;
	g->w.host_embed = c.host_embed;
	g->full = c.full;
	g->lean = c.lean;
	g->travel = c.travel;
	g->sets = c.sets;
	g->w.cached_layers = c.cached;
	layout_all(g);
}

uint64_t engine_bytes(const struct engine *g)
{
	uint64_t sum = 0;

	for (int i = 0; i < ARENA_N; i++)
		sum = sum + g->plan[i].used < sum ? UINT64_MAX : sum + g->plan[i].used;
	return sum;
}

static uint64_t host_budget(const struct engine *g)
{
	return g->shape.host_budget ? g->shape.host_budget : g->dev->host_bytes;
}

static bool fits(struct engine *g, struct choice c)
{
	plan_with(g, c);
	if (g->host_plan.used > host_budget(g))
		return false;
	return g->shape.budget == 0 ? engine_bytes(g) != UINT64_MAX : engine_bytes(g) <= g->shape.budget;
}

/* Raises one choice to the most up to max that fits; as it is it does. A layer is lean or full: what becomes full is lean no more. */
static void raise_to_most(struct engine *g, struct choice *c, int64_t *what, int64_t max)
{
	int64_t lo = *what, hi = max, all = c->full + c->lean;

	while (lo < hi) {
		*what = lo + (hi - lo + 1) / 2;
		if (what == &c->full)
			c->lean = all - c->full;
		if (fits(g, *c))
			lo = *what;
		else
			hi = *what - 1;
	}
	*what = lo;
	if (what == &c->full)
		c->lean = all - c->full;
}

/* Whether a dense copy of the weights would be read. */
static bool wants_dense(const struct engine *g)
{
	return !g->w.dense && !engine_decode_rows(g) && !g->w.fp8;
}

/* The fastest for the device memory that there is, given what goes to the host; false: it does not fit. In the order of what a
 * byte saves: a lean layer saves a forward pass, a third of the step; a dense copy of a layer's weights two dequantisations; a
 * full layer the element-wise steps. All leave every bit unchanged. */
static bool fill_up(struct engine *g, struct choice *c)
{
	int64_t layers = g->w.desc.layers;

	c->lean = g->shape.train ? c->sets : 0; /* the top layers, in the sets that all share */
	if (!fits(g, *c))
		return false;
	if (g->shape.train)
		raise_to_most(g, c, &c->lean, layers);
	if (wants_dense(g)) /* decoding reads the codes: a dense copy would be four times as many bytes */
		raise_to_most(g, c, &c->cached, layers);
	if (g->shape.train)
		raise_to_most(g, c, &c->full, c->lean == layers ? layers : c->lean - c->sets);
	return true;
}

/* Of the layers that would run again as many travel as make it fastest: with one more the copies would be waited for. */
static void send_away(struct engine *g, struct choice *c)
{
	int64_t most = g->w.desc.layers - c->full - c->lean, best = 0;
	double seconds = 0;

	if (c->sets == 1)
		return;
	raise_to_most(g, c, &c->travel, most);
	for (g->travel = 0; g->travel <= c->travel; g->travel++) {
		double s;

		engine_spread(g);
		s = engine_seconds(g);
		if (g->travel == 0 || s < seconds) {
			seconds = s;
			best = g->travel;
		}
	}
	c->travel = best;
}

struct best {
	struct choice c;
	double seconds; /* 0: nothing fitted so far */
};

/* Fills up what c leaves open; the result is the best if it is estimated faster than the best so far. */
static void consider(struct engine *g, struct choice c, struct best *best)
{
	double s;

	if (!fill_up(g, &c))
		return;
	send_away(g, &c);
	plan_with(g, c);
	s = engine_seconds(g);
	if (best->seconds > 0 && s >= best->seconds)
		return;
	best->c = c;
	best->seconds = s;
}

/* Whether everything stays on the device and is dense: the host has nothing to give. */
static bool has_all(const struct engine *g, const struct best *b)
{
	return b->seconds > 0 && b->c.full + b->c.lean == g->w.desc.layers && (b->c.cached == g->w.desc.layers || !wants_dense(g));
}

static int refuse(const struct engine *g, struct err *e)
{
	if (engine_bytes(g) <= g->shape.budget && g->host_plan.used > host_budget(g))
		return err_set(e, LP_DEVICE, "the plan fits with %.1f MiB of page-locked host memory, and %.1f MiB may be used; raise --host-memory or --memory, or lower --batch or "
		               "--max-len", (double)g->host_plan.used / (1 << 20), (double)host_budget(g) / (1 << 20));
	return err_set(e, LP_DEVICE, "the smallest plan needs %.1f MiB and %.1f MiB may be used; lower --batch or --max-len, "
	               "or raise --memory", (double)engine_bytes(g) / (1 << 20), (double)g->shape.budget / (1 << 20));
}

/* An embedding in host memory makes the device wait at each micro-batch, and is the last resort. */
static int decide(struct engine *g, struct err *e)
{
	struct choice smallest = { .sets = 1 };
	struct best best = { 0 };
	int64_t layers = g->w.desc.layers, sets = g->dev->host_rate > 0 && g->shape.train ? (layers - 1 < SETS ? layers - 1 : SETS) : 0;

	consider(g, smallest, &best);
	if (sets > 0 && !has_all(g, &best)) {
		for (int k = 2; k <= sets; k++)
			consider(g, (struct choice){ .sets = k }, &best);
		for (int k = 1; k <= sets && layers > RING; k++)
			consider(g, (struct choice){ .sets = k, .offload = true }, &best);
		smallest.offload = layers > RING;
		smallest.host_embed = !g->w.desc.tied;
		for (int k = 1; k <= sets && best.seconds == 0; k++)
			consider(g, (struct choice){ .sets = k, .offload = smallest.offload, .host_embed = smallest.host_embed }, &best);
	}
	if (best.seconds > 0) {
		plan_with(g, best.c);
		return 0;
	}
	smallest.lean = g->shape.train;
	plan_with(g, smallest);
	return refuse(g, e);
}

int engine_plan(struct engine *g, struct device *dev, const struct model_desc *m, enum dtype base, bool nf4,
                struct lora *lora, const struct engine_shape *shape, struct err *e)
{
	int64_t pads[GRP_N], tails[GRP_N];

	memset(g, 0, sizeof(*g));
	g->dev = dev;
	if (m->bnb.on && !nf4)
		return err_set(e, LP_USAGE, "the base is a checkpoint in 4 bits, whose full weights nobody has: use it with --quant nf4, or give the 16-bit model that it was made from");
	g->lora = lora;
	g->shape = *shape;
	for (int k = 0; k < GRP_N; k++) {
		pads[k] = lora_pad(lora, dev, k);
		tails[k] = lora_tail(lora, k);
		if (shape->fp8 && (group_in(m, k) % 16 || group_out(m, k) % 16))
			return err_set(e, LP_USAGE, "products in 8 bits need widths that are multiples of 16, and the model has one of %lld by %lld; leave --compute fp8 out",
			               (long long)group_out(m, k), (long long)group_in(m, k));
	}
	weights_init(&g->w, dev, m, base, nf4, pads, shape->fp8 ? tails : NULL);
	g->x1 = xcalloc((size_t)m->layers, sizeof(*g->x1));
	g->x1_host = xcalloc((size_t)m->layers, sizeof(*g->x1_host));
	g->acts = xcalloc((size_t)m->layers, sizeof(*g->acts));
	g->acts_host = xcalloc((size_t)m->layers, sizeof(*g->acts_host));
	g->keep = xcalloc((size_t)m->layers, sizeof(*g->keep));
	g->chunk = clamp(dev->logits / m->vocab, 16, 4096);
	g->chunk -= g->chunk > 256 ? g->chunk % 256 : 0; /* whole tiles of any product */
	if (g->chunk > shape->max_tokens)
		g->chunk = shape->max_tokens;
	g->head_rows = clamp(HEAD_ELEMENTS / m->hidden, 16, m->vocab);
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
	g->host_memory = g->host_plan.used ? g->dev->k.host_alloc(g->dev, g->host_plan.used, "what waits there", e) : NULL;
	if (g->host_plan.used && !g->host_memory)
		return -1;
	layout_place(&g->host_plan, g->host_memory);
	layout_all(g);
	g->in_host = xcalloc((size_t)g->in_count, sizeof(*g->in_host));
	fill_rotary(g);
	if (g->lora && g->shape.optim)
		optim_start(g->shape.optim, g->lora, g->dev);
	return 0;
}

int engine_load(struct engine *g, struct model_source *s, struct err *e)
{
	void *room = g->memory[ARENA_ACTIVATIONS];
	uint64_t bytes = g->plan[ARENA_ACTIVATIONS].used;
	int rc = weights_load(&g->w, s, g->dev, room, bytes, e);

	device_zero(g->dev, room, bytes); /* what lies behind rows is expected to be 0 */
	if (rc == 0)
		weights_to_fp8(&g->w, g->dev, g->dense);
	return rc;
}

void engine_release(struct engine *g)
{
	for (int i = 0; i < ARENA_N; i++) {
		if (g->memory[i])
			device_free(g->dev, g->memory[i]);
		g->memory[i] = NULL;
	}
	if (g->host_memory)
		g->dev->k.host_free(g->dev, g->host_memory);
	g->host_memory = NULL;
	weights_release(&g->w);
	if (g->shape.optim)
		optim_release(g->shape.optim);
	free(g->in_host);
	free(g->x1);
	free(g->x1_host);
	free(g->acts);
	free(g->acts_host);
	free(g->keep);
	g->in_host = NULL;
	g->x1 = NULL;
	g->x1_host = NULL;
	g->acts = NULL;
	g->acts_host = NULL;
	g->keep = NULL;
}
