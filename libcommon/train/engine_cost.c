/* What a plan costs: which layer does what, about how long a micro-batch takes then, and what a recording of it takes. The estimate follows the
 * device's queue and its two copy queues through the passes, by shapes and the device's three speeds; it is close enough to
 * choose between plans, and decides nothing else. */
#include "train/engine.h"

/* --- which layer does what --- */

/* Whether the k-th of n is one of m that are spread evenly. */
static bool due(int64_t k, int64_t n, int64_t m)
{
	return (k + 1) * m / n > k * m / n;
}

void engine_spread(struct engine *g)
{
	int64_t layers = g->w.desc.layers, again = engine_again(g), below, k, others = 0, turn = 0, full = 0;
	bool shared = g->full + g->lean < layers;
	/* what runs again has a set to itself, where something does */
	int top = shared && g->lean ? g->sets : 0, sets = again > 0 ? g->sets - 1 : g->sets;

	below = layers - top;
	for (int64_t i = layers - 1; i >= 0; i--) {
		k = below - 1 - i;
		if (k < 0)
			g->keep[i] = (struct layer_keep){ KEEP_LEAN, (int)(layers - 1 - i) };
		else if (due(k, below, g->travel))
			g->keep[i] = (struct layer_keep){ KEEP_HOST, (int)(turn++ % sets) };
		else if (due(others++, below - g->travel, again))
			g->keep[i] = (struct layer_keep){ KEEP_NONE, g->sets - 1 };
		else
			g->keep[i] = (struct layer_keep){ full++ < g->full ? KEEP_FULL : KEEP_LEAN, -1 };
	}
}

/* --- how long it takes --- */

/* Seconds that a byte on its way costs everything else, in memory bandwidth and power: measured, 1 % of a step of 8B with the stream offloaded. */
#define DRAG 1.1e-12
/* Attention runs at a part of a large product's speed. */
#define ATTN_FWD 0.7
#define ATTN_BWD 0.5

struct costs {
	double fwd, bwd, again; /* of a layer whose weights are dense */
	double lean;            /* what a lean layer's backward does beyond a full one's */
	double dense, dense_again; /* making its weights dense once: all; those that running again takes */
	double set, stream;     /* copying a lean layer's activations, or the residual stream */
	double drag_set, drag_stream;
	double loss;
};

static double group_elements(const struct engine *g, enum linear_group k)
{
	const struct wgroup *w = &g->w.layers[0].grp[k];

	return (double)w->in * (double)w->out;
}

/* Elements of activations that a token's element-wise steps and adapters move. */
static void moved(const struct model_desc *m, double *fwd, double *bwd, double *down, double *lean)
{
	double c = (double)m->hidden, f = (double)m->ffn, q = (double)(m->heads * m->head_dim), kv = (double)(m->kv_heads * m->head_dim);

	*down = 2 * c + q + f; /* the inputs of all adapters */
	*fwd = 4 * c + 2 * (q + kv) + 3 * f + *down;
	*bwd = 8 * c + 2 * (q + kv) + 5 * f + (q + 2 * kv + 2 * c + 2 * f) + *down;
	*lean = 4 * c + f;
}

static struct costs costs_of(const struct engine *g)
{
	const struct model_desc *m = &g->w.desc;
	const struct device *d = g->dev;
	double t = (double)g->shape.max_tokens, act = (double)dtype_bytes(d->act), flops = d->flops * (g->w.fp8 ? 1.7 : 1), all = 0, again, fwd, bwd, down, lean, attn;
	double make = (double)(g->w.nf4 ? 0.53 : dtype_bytes(g->w.dtype)) + act; /* read and written for an element of dense weights */
	double products = g->lora && g->lora->dora && g->lora->dropout > 0 ? 4 : 2; /* DoRA's masked inputs have products of their own */
	uint64_t row[LEAN_PARTS], bytes = 0;
	struct costs c;

	for (int k = 0; k < GRP_N; k++)
		all += group_elements(g, k);
	again = all - (engine_dora_keeps(g, GRP_DOWN) ? 0 : group_elements(g, GRP_DOWN));
	moved(m, &fwd, &bwd, &down, &lean);
	if (g->lora && g->lora->dora) { /* the columns' factors */
		fwd += 6 * (double)m->hidden;
		bwd += 6 * (double)m->hidden + 5 * (double)group_out(m, GRP_QKV);
	}
	engine_lean_rows(g, row);
	for (int i = 0; i < LEAN_PARTS; i++)
		bytes += row[i];
	attn = 2 * t * (double)(g->shape.max_seq * m->heads * m->head_dim) / d->flops;
	c.fwd = products * t * all / flops + attn / ATTN_FWD + t * act * fwd / d->memory_rate;
	c.again = products * t * again / flops + attn / ATTN_FWD + t * act * fwd / d->memory_rate;
	c.bwd = products * t * all / flops + 2.5 * attn / ATTN_BWD + t * act * bwd / d->memory_rate;
	c.lean = t * act * lean / d->memory_rate;
	c.dense = g->w.dense || g->w.fp8 ? 0 : make * all / d->memory_rate;
	c.dense_again = g->w.dense || g->w.fp8 ? 0 : make * again / d->memory_rate;
	c.set = t * (double)bytes / d->host_rate;
	c.stream = t * act * (double)m->hidden / d->host_rate;
	c.drag_set = t * (double)bytes * DRAG;
	c.drag_stream = t * act * (double)m->hidden * DRAG;
	c.loss = 4 * t * (double)(m->hidden * m->vocab) / d->flops;
	return c;
}

/* When each queue is free, and when each slot's last copy is done. */
struct clock {
	double work, out, in, slot[COPY_SLOTS];
};

static void wait_until(double *queue, double when)
{
	if (*queue < when)
		*queue = when;
}

static void copy(struct clock *k, double *queue, int slot, double takes, double drag)
{
	wait_until(queue, k->work);
	wait_until(queue, k->slot[slot]);
	*queue += takes;
	k->slot[slot] = *queue;
	k->work += drag;
}

static void forward(const struct engine *g, const struct costs *c, struct clock *k)
{
	for (int64_t i = 0; i < g->w.desc.layers; i++) {
		const struct layer_keep *p = &g->keep[i];

		if (g->away) {
			wait_until(&k->work, k->slot[(i + 1) % RING]);
			if (i < g->away)
				copy(k, &k->out, (int)(i % RING), c->stream, c->drag_stream);
		}
		if (p->set >= 0)
			wait_until(&k->work, k->slot[SLOT_SETS + p->set]);
		k->work += c->fwd + (i < g->w.cached_layers ? 0 : c->dense);
		if (p->how == KEEP_HOST)
			copy(k, &k->out, SLOT_SETS + p->set, c->set, c->drag_set);
	}
}

static void backward(const struct engine *g, const struct costs *c, struct clock *k)
{
	for (int64_t i = g->w.desc.layers - 1; i >= 0; i--) {
		const struct layer_keep *p = &g->keep[i];
		int64_t next = engine_set_next(g, i);

		if (g->away) {
			wait_until(&k->work, k->slot[i % RING]);
			if (i - RING + 1 >= 0 && i - RING + 1 < g->away)
				copy(k, &k->in, (int)((i - RING + 1) % RING), c->stream, c->drag_stream);
		}
		if (p->how == KEEP_HOST)
			wait_until(&k->work, k->slot[SLOT_SETS + p->set]);
		if (p->how == KEEP_NONE)
			k->work += c->again + (i < g->w.cached_layers ? 0 : c->dense_again);
		k->work += c->bwd + (i < g->w.cached_layers ? 0 : c->dense) + (p->how == KEEP_LEAN || p->how == KEEP_HOST ? c->lean : 0);
		if (next >= 0)
			copy(k, &k->in, SLOT_SETS + p->set, c->set, c->drag_set);
	}
}

double engine_seconds(const struct engine *g)
{
	struct costs c = costs_of(g);
	struct clock k = { 0 };

	forward(g, &c, &k);
	k.work += c.loss;
	backward(g, &c, &k);
	return k.work;
}

/* --- what the device keeps of it --- */

/* Operations of a layer, forward and backward: 106 were recorded for 8B and for 70B, the copies of what travels and the layer's share
 * of the loss among them. The same for every plan: one that keeps less never needs more for it. */
#define LAYER_LAUNCHES 115
/* What DoRA adds: factors, sums and their folds; and with dropout the products of each projection. */
#define DORA_LAUNCHES 16
#define DORA_MASKED_LAUNCHES 110

uint64_t engine_recording_bytes(const struct engine *g)
{
	bool dora = g->lora && g->lora->dora;
	int64_t launches = LAYER_LAUNCHES + (dora ? DORA_LAUNCHES : 0) + (dora && g->lora->dropout > 0 ? DORA_MASKED_LAUNCHES : 0);

	return g->shape.train ? (uint64_t)(g->w.desc.layers * launches) * g->dev->launch_bytes : 0;
}
