/* The plan: every buffer of a run, by lifetime, from shapes and what engine_choose.c tries. The same functions count bytes and, over memory, give
 * places. */
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
	for (int k = 0; k < GRP_N; k++)
		row[5 + GRP_N + k] = engine_dora_keeps(g, k) ? (uint64_t)g->w.layers[0].grp[k].out * act : 0;
}

/* What a piece's own backward uses up: x2, gu, and the u from there on. */
static bool of_piece(int part)
{
	return part == 2 || part == 3 || part >= 5 + GRP_N + (int)GRP_GU;
}

/* pieced: no inner values, and some have a piece's rows. */
static void layout_lean(struct engine *g, struct acts *a, struct layout *l, const char *name, bool pieced)
{
	uint64_t row[LEAN_PARTS];
	void *at[LEAN_PARTS];

	engine_lean_rows(g, row);
	for (int i = 0; i < LEAN_PARTS; i++) {
		int64_t rows = pieced && of_piece(i) ? piece_rows(g) : g->shape.max_tokens;

		at[i] = row[i] && !(pieced && i >= 5 && i < 5 + GRP_N) ? layout_array(l, name, rows, row[i]) : NULL;
	}
	a->far_whole = !pieced;
	a->qkv = at[0];
	a->o = at[1];
	a->x2 = at[2];
	a->gu = at[3];
	a->lse = at[4];
	memcpy(a->s, at + 5, sizeof(a->s));
	memcpy(a->u, at + 5 + GRP_N, sizeof(a->u));
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
	bool dora = g->lora && g->lora->dora;

	g->ld_res = m->hidden + more;
	g->d_res = acts(g, l, "gradients of activations", t * g->ld_res);
	g->d_y = acts(g, l, "gradients of activations", rows * (dora ? g->ld_res : m->hidden));
	g->d_qkv = g->d_acc = layout_take(l, "gradients of activations", at_least(act_bytes(g, qkv), (uint64_t)(g->loss_rows * m->hidden) * sizeof(float)));
	/* the gradient inside the feed-forward part, that of attention's output, and a segment of logits are never alive at once */
	once = t * (m->heads * m->head_dim + pad(g, GRP_O));
	once = rows * m->ffn > once ? rows * m->ffn : once;
	if (dora && rows * m->hidden > once) /* with dropout, a projection of the masked input */
		once = rows * m->hidden;
	once = g->loss_rows * g->segment > once ? g->loss_rows * g->segment : once;
	once = m->vocab > once ? m->vocab : once;
	g->ld_logits = (m->vocab + 63) / 64 * 64;
	if (engine_trains(g, TRAIN_HEAD))
		once = g->loss_rows * g->ld_logits > once ? g->loss_rows * g->ld_logits : once;
	g->chunk = clamp(once / m->vocab, 1, g->loss_rows);
	g->d_h = g->d_o = g->logits = layout_take(l, "gradients of activations, or logits", at_least(act_bytes(g, once), optim_ring(g)));
	if (g->optim_away) {
		g->shape.optim->ring = g->logits;
		g->shape.optim->slot = SLOT_OPTIM;
	}
}

static void layout_inputs(struct engine *g, struct layout *l)
{
	struct inputs *in = &g->in;
	int64_t t = g->shape.max_tokens, s = g->shape.pref ? t : 0, c = g->shape.grpo ? t : 0, by_id = engine_trains(g, TRAIN_EMBED) ? t : 0;
	int32_t *head, *ref, *adv, *weight, *tok_old, *tok_ref; /* head: seed_step, scale, drift_of */
	const int64_t sizes[] = { 4, 2 * s, 2 * c, 2 * c, 2 * c, 2 * c, t, t, t, t + 1, t, t, by_id, by_id ? t + 1 : 0, 2 * (t / ATTN_TILE + t), s || c ? t + 1 : 0, s, s };
	int32_t **const at[] = { &head, &ref, &adv, &weight, &tok_old, &tok_ref, &in->ids, &in->pos, &in->rec, &in->seq_start, &in->tgt_row, &in->tgt_id, &in->by_id, &in->run, &in->tiles, &in->tgt_start, &in->mate, &in->good };
	enum { PARTS = sizeof(sizes) / sizeof(*sizes) };
	int32_t *base;

	g->in_count = 0;
	for (int i = 0; i < PARTS; i++)
		g->in_count += sizes[i];
	base = layout_array(l, "micro-batch", g->in_count, sizeof(int32_t));
	for (int i = 0; i < PARTS; i++) {
		*at[i] = base;
		base = base ? base + sizes[i] : NULL;
	}
	in->seed_step = (void *)head;
	in->scale = head ? (void *)(head + 2) : NULL;
	in->drift_of = head ? (void *)(head + 3) : NULL;
	in->ref = (void *)ref;
	in->adv = (void *)adv;
	in->weight = (void *)weight;
	in->tok_old = (void *)tok_old;
	in->tok_ref = (void *)tok_ref;
}

static uint64_t adapter_scratch(const struct engine *g)
{
	const struct lora *lora = g->lora;
	uint64_t most = 0;

	for (int k = 0; k < GRP_N; k++) {
		const struct wgroup *w = &g->w.layers[0].grp[k];
		int n = lora->groups[k].n;

		if (g->shape.train)
			most = at_least(most, g->dev->k.adapter_scratch(g->dev, piece_rows(g), w->in, w->out, n, lora->rank));
		if (lora->dora && n)
			most = at_least(most, kn_dora_scratch(g->shape.train ? piece_rows(g) : 0, w->out, n * lora->rank));
	}
	return most;
}

/* The most columns that go into a product in 8 bits, and that a bias or norm may have. */
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
	g->adapter_scratch = g->lora && (g->shape.train || g->lora->dora) ? layout_take(l, "inside the adapter", adapter_scratch(g)) : NULL;
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
	g->sums = layout_array(l, "loss", ENGINE_SUMS, sizeof(double));
	g->score_squares = layout_array(l, "loss", 1, sizeof(double));
	g->value = g->shape.pref ? layout_array(l, "loss", t, sizeof(double)) : NULL;
	g->factor = g->shape.pref || g->shape.grpo ? layout_array(l, "loss", t, sizeof(double)) : NULL;
	g->refused = layout_array(l, "loss", 1, sizeof(*g->refused));
	g->attn_scratch = layout_take(l, "attention", g->dev->k.attn_scratch(g->dev, t, g->shape.max_seq, m->heads, m->head_dim, g->shape.train));
	g->decode_scratch = layout_take(l, "attention", g->dev->k.decode_scratch(g->dev, g->shape.decode + g->shape.beside, g->shape.max_seq, m->heads, m->head_dim));
	g->skinny_scratch = engine_decode_rows(g) ? layout_take(l, "decoding", g->dev->k.skinny_scratch(g->dev, engine_decode_rows(g), widest, KN_PARTS * (g->lora ? g->lora->rank : 0))) : NULL;
	g->col_scratch = g->shape.base ? floats(l, "sums of columns", COL_PARTS * widest_product(g)) : NULL;
	g->cos_tab = floats(l, "rotary tables", g->shape.max_seq * (m->head_dim / 2));
	g->sin_tab = floats(l, "rotary tables", g->shape.max_seq * (m->head_dim / 2));
}

void engine_layout(struct engine *g)
{
	weights_layout(&g->w, g->dev, &g->plan[ARENA_WEIGHTS], &g->plan[ARENA_CACHE], &g->host_plan);
	g->embed_way = g->w.host_embed ? acts(g, &g->host_plan, "embeddings", piece_rows(g) * g->w.desc.hidden) : NULL;
	engine_layout_noise(g, &g->host_plan);
	if (g->shape.base)
		trained_layout(g->shape.base, &g->w, g->dev, &g->plan[ARENA_ADAPTER]);
	if (g->shape.optim && g->shape.optim->galore)
		galore_layout(g->shape.optim->galore, g->dev, &g->plan[ARENA_ADAPTER]);
	if (g->lora)
		lora_layout(g->lora, &g->plan[ARENA_ADAPTER], g->shape.train);
	g->squares = g->lora && g->shape.train ? layout_array(&g->plan[ARENA_ADAPTER], "gradients", engine_squares_a(g, g->w.desc.layers, 0), sizeof(double)) : NULL;
	engine_layout_dora(g, &g->plan[ARENA_ADAPTER]);
	if (g->lora && g->shape.optim)
		optim_layout(g->shape.optim, g->lora, &g->plan[ARENA_ADAPTER], &g->host_plan, g->optim_away);
	layout_stream(g, &g->plan[ARENA_ACTIVATIONS]);
	layout_activations(g, &g->plan[ARENA_ACTIVATIONS]);
	if (g->shape.train)
		layout_gradients(g, &g->plan[ARENA_ACTIVATIONS]);
	layout_scratch(g, &g->plan[ARENA_SCRATCH]);
}

uint64_t engine_bytes(const struct engine *g)
{
	uint64_t sum = engine_recording_bytes(g);

	for (int i = 0; i < ARENA_N; i++)
		sum = sum + g->plan[i].used < sum ? UINT64_MAX : sum + g->plan[i].used;
	return sum;
}

/* The rows of the head that the loss takes at a time, and how many that predict: of the shape and the device alone. */
static void choose_segments(struct engine *g)
{
	int64_t vocab = g->w.head.rows, n = (vocab + g->dev->segment - 1) / g->dev->segment, each = (vocab + n - 1) / n, whole = each > 256 ? 256 : 8;

	/* whole tiles of any product, and rows of 16 bytes */
	g->segment = (each + whole - 1) / whole * whole;
	g->loss_rows = clamp(g->dev->logits / g->segment, 16, LOSS_ROWS);
	if (engine_trains(g, TRAIN_HEAD)) /* all logits of a row are there */
		g->loss_rows = clamp(2 * g->dev->logits / vocab, 16, LOSS_ROWS);
	g->loss_rows -= g->loss_rows > 256 ? g->loss_rows % 256 : 0;
	g->loss_rows = clamp(g->loss_rows, 0, g->shape.max_tokens);
	g->chunk = clamp(g->dev->logits / vocab, 16, 4096);
	g->chunk -= g->chunk > 256 ? g->chunk % 256 : 0;
	g->chunk = clamp(g->chunk, 0, g->shape.max_tokens);
}

bool engine_trains(const struct engine *g, unsigned what)
{
	const struct trained *t = g->shape.base;

	return t && ((what & TRAIN_LAYERS && t->what & TRAIN_LAYERS) || (what & TRAIN_EMBED && t->embed >= 0) || (what & TRAIN_HEAD && t->head >= 0));
}

int engine_plan(struct engine *g, struct device *dev, const struct model_desc *m, enum dtype base, bool nf4,
                struct lora *lora, const struct engine_shape *shape, struct err *e)
{
	int64_t pads[GRP_N], tails[GRP_N];

	memset(g, 0, sizeof(*g));
	g->dev = dev;
	if (m->bnb.on && !nf4)
		return err_set(e, LP_USAGE, "the base is a checkpoint in 4 bits, whose full weights nobody has: use it with --quant nf4, or give the 16-bit model that it was made from");
	if (shape->fp8 && lora && lora->dora)
		return err_set(e, LP_USAGE, "products in 8 bits know no magnitudes; leave --compute fp8 or --dora out");
	g->lora = lora;
	g->shape = *shape;
	if (shape->base)
		base = dev->act; /* trained in place */
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
	g->dora = xcalloc((size_t)m->layers * GRP_N, sizeof(*g->dora));
	choose_segments(g);
	return engine_choose(g, e);
}
