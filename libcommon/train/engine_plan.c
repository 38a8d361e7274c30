/* The plan: every buffer of a run, by lifetime, from shapes and a budget. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "train/engine.h"

#define LOSS_ROWS 2048 /* more make a product no faster, and their sums more memory */

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

static uint64_t act_bytes(const struct engine *g, int64_t n)
{
	return (uint64_t)n * dtype_bytes(g->dev->act);
}

static uint64_t at_least(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static int64_t pad(const struct engine *g, enum linear_group k)
{
	return g->w.layers[0].grp[k].pad;
}

/* Rows of the largest piece. */
static int64_t piece_rows(const struct engine *g)
{
	return g->shape.max_tokens < g->shape.piece ? g->shape.max_tokens : g->shape.piece;
}

/* What is an element-wise step away from the rest: the inputs of qkv, gate/up and down. */
static void layout_near(struct engine *g, struct acts *a, struct layout *l, const char *name, bool whole)
{
	const struct model_desc *m = &g->w.desc;
	int64_t all = g->shape.max_tokens, t = whole ? all : piece_rows(g);

	a->near_whole = whole;
	a->y1 = acts(g, l, name, t * (m->hidden + pad(g, GRP_QKV)));
	a->y2 = acts(g, l, name, t * (m->hidden + pad(g, GRP_GU)));
	a->h = acts(g, l, name, t * (m->ffn + pad(g, GRP_DOWN)));
	a->rstd1 = floats(l, name, all);
	a->rstd2 = floats(l, name, all);
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

/* pieced: no inner values, and x2 and gu of a piece. */
static void layout_lean(struct engine *g, struct acts *a, struct layout *l, const char *name, bool pieced)
{
	uint64_t row[LEAN_PARTS];
	void *at[LEAN_PARTS];

	engine_lean_rows(g, row);
	for (int i = 0; i < LEAN_PARTS; i++) {
		int64_t rows = pieced && (i == 2 || i == 3) ? piece_rows(g) : g->shape.max_tokens;

		at[i] = row[i] && !(pieced && i >= 5) ? layout_array(l, name, rows, row[i]) : NULL;
	}
	a->far_whole = !pieced;
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
		layout_lean(g, &a, l, "activations, kept", false);
	if (k->how == KEEP_FULL)
		layout_near(g, &a, l, "activations, kept", true);
	if (k->how == KEEP_FULL || k->how == KEEP_NONE)
		memset(a.s, 0, sizeof(a.s));
	return a;
}

/* With what travels (engine.h, x1) the RING buffers are enough for those below, and for what is above them on the device. */
static void layout_stream(struct engine *g, struct layout *l)
{
	static const char name[] = "residual stream of each layer";
	int64_t n = g->shape.max_tokens * g->w.desc.hidden;

	for (int64_t i = 0; i <= g->w.desc.layers; i++) {
		if (i > 0 && !g->shape.train)
			g->x1[i] = g->x1[0];
		else if (i >= RING && i < g->away + RING)
			g->x1[i] = g->x1[i - RING];
		else
			g->x1[i] = acts(g, l, name, n);
	}
	for (int64_t i = 0; i < g->w.desc.layers; i++)
		g->x1_host[i] = i < g->away ? acts(g, &g->host_plan, name, n) : NULL;
}

static void layout_activations(struct engine *g, struct layout *l)
{
	const struct model_desc *m = &g->w.desc;
	struct acts shared = { 0 }, sets[SETS];

	engine_spread(g);
	if (g->full < m->layers)
		layout_near(g, &shared, l, "activations, shared", false);
	for (int k = 0; k < SETS; k++)
		sets[k] = shared;
	for (int k = 0; k < g->sets && g->full + g->lean < m->layers; k++)
		layout_lean(g, &sets[k], l, "activations, shared", g->pieced);
	for (int64_t i = 0; i < m->layers; i++) {
		g->acts[i] = layout_layer(g, &g->keep[i], &shared, sets, l);
		if (g->keep[i].how == KEEP_HOST)
			layout_lean(g, &g->acts_host[i], &g->host_plan, "activations that travel", false);
	}
}

/* What the optimiser's step wants of the device for states in host memory. */
static uint64_t optim_ring(const struct engine *g)
{
	return g->optim_away ? OPTIM_RING * optim_ring_bytes(g->shape.optim, g->lora) : 0;
}

static void layout_gradients(struct engine *g, struct layout *l)
{
	const struct model_desc *m = &g->w.desc;
	int64_t once, t = g->shape.max_tokens, rows = piece_rows(g), qkv = t * (group_out(m, GRP_QKV) + pad(g, GRP_QKV));
	int64_t more = pad(g, GRP_O) > pad(g, GRP_DOWN) ? pad(g, GRP_O) : pad(g, GRP_DOWN);

	g->ld_res = m->hidden + more;
	g->d_res = acts(g, l, "gradients of activations", t * g->ld_res);
	g->d_y = acts(g, l, "gradients of activations", rows * m->hidden);
	g->d_qkv = g->d_acc = layout_take(l, "gradients of activations", at_least(act_bytes(g, qkv), (uint64_t)(g->loss_rows * m->hidden) * sizeof(float)));
	/* the gradient inside the feed-forward part, that of attention's output, and a segment of logits are never alive at once */
	once = t * (m->heads * m->head_dim + pad(g, GRP_O));
	once = rows * m->ffn > once ? rows * m->ffn : once;
	once = g->loss_rows * g->segment > once ? g->loss_rows * g->segment : once;
	once = m->vocab > once ? m->vocab : once;
	g->chunk = clamp(once / m->vocab, 1, g->loss_rows);
	g->d_h = g->d_o = g->logits = layout_take(l, "gradients of activations, or logits", at_least(act_bytes(g, once), optim_ring(g)));
	if (g->optim_away) {
		g->shape.optim->ring = g->logits;
		g->shape.optim->slot = RING + HEAD_RING;
	}
}

static void layout_inputs(struct engine *g, struct layout *l)
{
	struct inputs *in = &g->in;
	int64_t t = g->shape.max_tokens;
	int32_t *head; /* seed_step and scale */
	const int64_t sizes[] = { 4, t, t, t, t + 1, t, t, 2 * (t / ATTN_TILE + t) };
	int32_t **const at[] = { &head, &in->ids, &in->pos, &in->rec, &in->seq_start, &in->tgt_row, &in->tgt_id, &in->tiles };
	int32_t *base;

	g->in_count = 0;
	for (int i = 0; i < 8; i++)
		g->in_count += sizes[i];
	base = layout_array(l, "micro-batch", g->in_count, sizeof(int32_t));
	for (int i = 0; i < 8; i++) {
		*at[i] = base;
		base = base ? base + sizes[i] : NULL;
	}
	in->seed_step = (void *)head;
	in->scale = head ? (void *)(head + 2) : NULL;
}

static uint64_t adapter_scratch(const struct engine *g)
{
	uint64_t most = 0;

	for (int k = 0; k < GRP_N; k++) {
		uint64_t n = g->dev->k.adapter_scratch(g->dev, piece_rows(g), g->w.layers[0].grp[k].in, g->w.layers[0].grp[k].out,
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

/* A group's dense form, and in the loss, where there is none, what travels of the head. */
static void layout_dense(struct engine *g, struct layout *l)
{
	bool away = g->w.head_rows < g->w.head.rows;
	uint64_t dense = g->w.dense || g->w.cached_layers == g->w.desc.layers ? 0 : act_bytes(g, weights_largest(&g->w));
	uint64_t ring = away ? (uint64_t)(HEAD_RING * g->segment * g->w.head.cols) * dtype_bytes(g->w.head.dtype) : 0;

	g->dense = dense || ring ? layout_take(l, dense ? "one group of projections, dense" : "head on its way", at_least(dense, ring)) : NULL;
	g->head_ring = away ? g->dense : NULL;
}

static void layout_scratch(struct engine *g, struct layout *l)
{
	const struct model_desc *m = &g->w.desc;
	int64_t t = g->shape.max_tokens, rows = piece_rows(g), widest = m->ffn, most = g->loss_rows > g->chunk ? g->loss_rows : g->chunk;
	bool convert = g->w.dtype != g->dev->act;

	widest = m->hidden > widest ? m->hidden : widest;
	widest = m->heads * m->head_dim > widest ? m->heads * m->head_dim : widest;
	layout_inputs(g, l);
	g->xd = g->lora && g->lora->dropout > 0 ? acts(g, l, "dropout", rows * widest) : NULL;
	g->adapter_scratch = g->lora && g->shape.train ? layout_take(l, "inside the adapter", adapter_scratch(g)) : NULL;
	layout_dense(g, l);
	if (g->w.fp8) {
		g->in8.q = layout_array(l, "activations in 8 bits", rows * widest_product(g), 1);
		g->in8.scale = floats(l, "activations in 8 bits", rows);
	}
	g->head_rows_at = convert ? acts(g, l, "converted rows of the head", g->segment * m->hidden) : NULL;
	g->x_hid = acts(g, l, "loss", most * m->hidden);
	g->hid = acts(g, l, "loss", most * m->hidden);
	g->rstd_hid = floats(l, "loss", most);
	g->d_hid = g->shape.train ? acts(g, l, "loss", g->loss_rows * m->hidden) : NULL;
	g->row_sums = layout_array(l, "loss", g->loss_rows, sizeof(*g->row_sums));
	if (!g->shape.train)
		g->logits = layout_take(l, "logits of one chunk", at_least(act_bytes(g, g->chunk * m->vocab), act_bytes(g, g->loss_rows * g->segment)));
	g->nll = layout_array(l, "loss", t, sizeof(double));
	g->sums = layout_array(l, "loss", 2, sizeof(double));
	g->refused = layout_array(l, "loss", 1, sizeof(*g->refused));
	g->attn_scratch = layout_take(l, "attention", g->dev->k.attn_scratch(g->dev, t, g->shape.max_seq, m->heads, m->head_dim, g->shape.train));
	g->decode_scratch = layout_take(l, "attention", g->dev->k.decode_scratch(g->dev, g->shape.decode + g->shape.beside, g->shape.max_seq, m->heads, m->head_dim));
	g->skinny_scratch = engine_decode_rows(g) ? layout_take(l, "decoding", g->dev->k.skinny_scratch(g->dev, engine_decode_rows(g), widest, KN_PARTS * (g->lora ? g->lora->rank : 0))) : NULL;
	g->cos_tab = floats(l, "rotary tables", g->shape.max_seq * (m->head_dim / 2));
	g->sin_tab = floats(l, "rotary tables", g->shape.max_seq * (m->head_dim / 2));
}

static void layout_all(struct engine *g)
{
	weights_layout(&g->w, g->dev, &g->plan[ARENA_WEIGHTS], &g->plan[ARENA_CACHE], &g->host_plan);
	g->embed_way = g->w.host_embed ? acts(g, &g->host_plan, "embeddings", piece_rows(g) * g->w.desc.hidden) : NULL;
	engine_layout_noise(g, &g->host_plan);
	if (g->lora)
		lora_layout(g->lora, &g->plan[ARENA_ADAPTER], g->shape.train);
	g->squares = g->lora && g->shape.train ? layout_array(&g->plan[ARENA_ADAPTER], "gradients", engine_squares_a(g, g->w.desc.layers, 0), sizeof(double)) : NULL;
	if (g->lora && g->shape.optim)
		optim_layout(g->shape.optim, g->lora, &g->plan[ARENA_ADAPTER], g->optim_away ? &g->host_plan : NULL);
	layout_stream(g, &g->plan[ARENA_ACTIVATIONS]);
	layout_activations(g, &g->plan[ARENA_ACTIVATIONS]);
	if (g->shape.train)
		layout_gradients(g, &g->plan[ARENA_ACTIVATIONS]);
	layout_scratch(g, &g->plan[ARENA_SCRATCH]);
}

struct choice {
	int64_t full, lean, travel, cached;
	int sets;
	bool pieced, host_embed, optim_away;
	int64_t away;      /* streams of layers in host memory, the first ones */
	int64_t head_away; /* segments of the head there, the last ones */
};

static int64_t segments(const struct engine *g)
{
	return (g->w.head.rows + g->segment - 1) / g->segment;
}

static void plan_with(struct engine *g, struct choice c)
{
	static const char *const titles[ARENA_N] = { "weights", "adapter", "activations", "scratch", "cache" };

	memset(g->plan, 0, sizeof(g->plan));
	for (int i = 0; i < ARENA_N; i++)
		g->plan[i].title = titles[i];
	memset(&g->host_plan, 0, sizeof(g->host_plan));
	g->host_plan.title = "host";
	g->away = c.away;
	g->optim_away = c.optim_away;
	g->w.host_embed = c.host_embed || c.head_away > 0; /* a tied head is the embedding */
	g->w.head_rows = clamp((segments(g) - c.head_away) * g->segment, 0, g->w.head.rows);
	g->full = c.full;
	g->lean = c.lean;
	g->travel = c.travel;
	g->sets = c.sets;
	g->pieced = c.pieced;
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

static bool fits(struct engine *g, struct choice c)
{
	plan_with(g, c);
	if (g->host_plan.used > g->shape.host_budget)
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

	c->lean = c->pieced ? 0 : c->sets; /* the top layers, in the sets that all share */
	if (!fits(g, *c))
		return false;
	if (!c->pieced)
		raise_to_most(g, c, &c->lean, layers);
	if (wants_dense(g)) /* decoding reads the codes: a dense copy would be four times as many bytes */
		raise_to_most(g, c, &c->cached, layers);
	if (!c->pieced)
		raise_to_most(g, c, &c->full, c->lean == layers ? layers : c->lean - c->sets);
	return true;
}

/* Of the layers that would run again as many travel as make it fastest: with one more the copies would be waited for. */
static void send_lean(struct engine *g, struct choice *c)
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

/* As many streams travel as there are whose buffers are wanted again before backward comes. */
static int64_t most_streams(const struct engine *g)
{
	return g->w.desc.layers + 1 > RING ? g->w.desc.layers + 1 - RING : 0;
}

/* As many of them as the host has room for. */
static void send_streams(struct engine *g, struct choice *c)
{
	c->away = most_streams(g);
	for (plan_with(g, *c); c->away > 0 && g->host_plan.used > g->shape.host_budget; plan_with(g, *c))
		c->away--;
}

/* What is chosen fits: no more streams travel than it takes. */
static void lower_streams(struct engine *g, struct choice *c)
{
	int64_t lo = 0, hi = c->away;

	while (lo < hi) {
		c->away = lo + (hi - lo) / 2;
		if (fits(g, *c))
			hi = c->away;
		else
			lo = c->away + 1;
	}
	c->away = hi;
}

struct best {
	struct choice c;
	double seconds; /* 0: nothing fitted so far */
};

/* Fills up what c leaves open, with streams or without; the result is the best if it is estimated faster than the best so far. */
static void consider(struct engine *g, struct choice c, bool streams, struct best *best)
{
	double s;

	if (streams)
		send_streams(g, &c);
	if (!fill_up(g, &c))
		return;
	send_lean(g, &c);
	lower_streams(g, &c);
	plan_with(g, c);
	s = engine_seconds(g);
	if (best->seconds > 0 && s >= best->seconds)
		return;
	best->c = c;
	best->seconds = s;
}

/* The same with each number of sets up to most, from `from` on, and where micro-batches go through in pieces with a piece's rows. */
static void consider_sets(struct engine *g, struct choice c, int from, int most, bool streams, struct best *best)
{
	for (c.sets = from; c.sets <= most; c.sets++)
		consider(g, c, streams, best);
	c.sets = 1;
	c.pieced = true;
	if (g->shape.train && g->shape.max_tokens > g->shape.piece)
		consider(g, c, streams, best);
}

/* Whether everything stays on the device and is dense: the host has nothing to give. */
static bool has_all(const struct engine *g, const struct best *b)
{
	return b->seconds > 0 && b->c.full + b->c.lean == g->w.desc.layers && (b->c.cached == g->w.desc.layers || !wants_dense(g));
}

/* Bytes that come to the device in a step, and that no work before them hides. */
static uint64_t waits_for(const struct engine *g, const struct choice *c)
{
	uint64_t segment = (uint64_t)(g->segment * g->w.head.cols) * dtype_bytes(g->w.head.dtype);

	return (uint64_t)c->head_away * segment + (c->optim_away ? optim_bytes(g->shape.optim, g->lora) : 0);
}

static bool fits_with_streams(struct engine *g, struct choice *c)
{
	send_streams(g, c);
	return fits(g, *c);
}

/* The optimiser's states, as few segments of the head as do, or both: what the step waits least for. When nothing fits, *c is the
 * smallest plan. */
static void send_least(struct engine *g, struct choice *c)
{
	struct choice try = *c, best = *c;
	uint64_t least = UINT64_MAX;
	int kinds = g->lora && g->shape.optim ? 2 : 1;

	for (int k = 0; k < kinds; k++) {
		try.optim_away = k;
		for (try.head_away = 0; try.head_away < segments(g) && !fits_with_streams(g, &try);)
			try.head_away++;
		if (fits_with_streams(g, &try) && waits_for(g, &try) < least) {
			least = waits_for(g, &try);
			best = try;
		}
	}
	*c = least == UINT64_MAX ? try : best;
}

/* c is the smallest plan. */
static int refuse(struct engine *g, struct choice c, bool host, struct err *e)
{
	double mib = 1 << 20;

	c.away = host ? most_streams(g) : 0;
	plan_with(g, c);
	if (g->host_plan.used > g->shape.host_budget && (g->shape.budget == 0 || engine_bytes(g) <= g->shape.budget))
		return err_set(e, LP_DEVICE, "the plan fits with %.1f MiB of page-locked host memory, and %.1f MiB may be used; raise --host-memory or --memory, or lower --batch or "
		               "--max-len", (double)g->host_plan.used / mib, (double)g->shape.host_budget / mib);
	return err_set(e, LP_DEVICE, "the smallest plan needs %.1f MiB and %.1f MiB may be used; raise --memory by %.0f MiB, or lower --batch or --max-len", (double)engine_bytes(g) / mib,
	               (double)g->shape.budget / mib, ceil((double)(engine_bytes(g) - g->shape.budget) / mib));
}

/* What waits in host memory, in the order of what it costs. Activations and the residual stream travel under the work, but for nothing
 * that is not worth it. For an embedding there the device waits at each micro-batch while its rows are picked. Of the head and of the
 * optimiser's states only what the loss and the update do themselves hides the copies. */
static int decide(struct engine *g, struct err *e)
{
	struct choice least = { .sets = 1, .pieced = !g->shape.train || g->shape.max_tokens > g->shape.piece };
	struct best best = { 0 };
	int64_t layers = g->w.desc.layers;
	bool host = g->dev->host_rate > 0 && g->shape.train;
	int sets = (int)(layers - 1 < SETS ? layers - 1 : SETS);

	if (!g->shape.train)
		consider(g, least, false, &best);
	else
		consider_sets(g, (struct choice){ 0 }, 1, 1, false, &best);
	if (host && !has_all(g, &best)) {
		consider_sets(g, (struct choice){ 0 }, 2, sets, false, &best);
		consider_sets(g, (struct choice){ 0 }, 1, sets, true, &best);
	}
	if (host && best.seconds == 0)
		consider_sets(g, (struct choice){ .host_embed = !g->w.desc.tied }, 1, sets, true, &best);
	if (best.seconds == 0) {
		least.lean = !least.pieced;
		least.host_embed = host && !g->w.desc.tied;
		if (host)
			send_least(g, &least);
		consider(g, least, host, &best);
	}
	if (best.seconds == 0)
		return refuse(g, least, host, e);
	plan_with(g, best.c);
	return 0;
}

/* The rows of the head that the loss takes at a time, and how many that predict: of the shape and the device alone. */
static void choose_segments(struct engine *g)
{
	int64_t vocab = g->w.head.rows, n = (vocab + g->dev->segment - 1) / g->dev->segment, each = (vocab + n - 1) / n, whole = each > 256 ? 256 : 8;

	/* whole tiles of any product, and rows of 16 bytes */
	g->segment = (each + whole - 1) / whole * whole;
	g->loss_rows = clamp(g->dev->logits / g->segment, 16, LOSS_ROWS);
	g->loss_rows -= g->loss_rows > 256 ? g->loss_rows % 256 : 0;
	g->loss_rows = clamp(g->loss_rows, 0, g->shape.max_tokens);
	g->chunk = clamp(g->dev->logits / vocab, 16, 4096);
	g->chunk -= g->chunk > 256 ? g->chunk % 256 : 0;
	g->chunk = clamp(g->chunk, 0, g->shape.max_tokens);
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
	g->shape.piece = shape->piece ? shape->piece : ENGINE_PIECE;
	g->shape.host_budget = shape->host_budget ? shape->host_budget : dev->host_bytes;
	for (int k = 0; k < GRP_N; k++) {
		pads[k] = lora_pad(lora, dev, k);
		tails[k] = lora_tail(lora, k);
		if (shape->fp8 && (group_in(m, k) % 16 || group_out(m, k) % 16))
			return err_set(e, LP_USAGE, "products in 8 bits need widths that are multiples of 16, and the model has one of %lld by %lld; leave --compute fp8 out",
			               (long long)group_out(m, k), (long long)group_in(m, k));
	}
	weights_init(&g->w, dev, m, base, nf4, pads, shape->fp8 ? tails : NULL);
	g->x1 = xcalloc((size_t)m->layers + 1, sizeof(*g->x1));
	g->x1_host = xcalloc((size_t)m->layers, sizeof(*g->x1_host));
	g->acts = xcalloc((size_t)m->layers, sizeof(*g->acts));
	g->acts_host = xcalloc((size_t)m->layers, sizeof(*g->acts_host));
	g->keep = xcalloc((size_t)m->layers, sizeof(*g->keep));
	choose_segments(g);
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

/* What travels at every micro-batch and step, in turns. */
static int alloc_turns(struct engine *g, struct err *e)
{
	for (int i = 0; i < 2; i++) {
		g->in_host[i] = g->dev->k.host_alloc(g->dev, (uint64_t)g->in_count * sizeof(int32_t), "a micro-batch", e);
		g->sums_host[i] = g->in_host[i] ? g->dev->k.host_alloc(g->dev, 2 * sizeof(double), "sums", e) : NULL;
		if (!g->sums_host[i])
			return -1;
	}
	return 0;
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
	if (alloc_turns(g, e) < 0)
		return -1;
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
	for (int i = 0; i < WORKS; i++)
		if (g->works[i].recording)
			g->dev->k.forget(g->dev, g->works[i].recording);
	for (int i = 0; i < 2; i++) {
		if (g->in_host[i])
			g->dev->k.host_free(g->dev, g->in_host[i]);
		if (g->sums_host[i])
			g->dev->k.host_free(g->dev, g->sums_host[i]);
	}
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
	free(g->x1);
	free(g->x1_host);
	free(g->acts);
	free(g->acts_host);
	free(g->keep);
	g->x1 = NULL;
	g->x1_host = NULL;
	g->acts = NULL;
	g->acts_host = NULL;
	g->keep = NULL;
}
