/* A micro-batch from end to end, recorded where the device can, and what stands at the ends of an optimiser step. */
#include <string.h>

#include "train/engine.h"

void engine_begin(struct engine *g)
{
	g->dora_current = false;
	/* the last step's may be on their way */
	g->dev->k.await(g->dev, SLOT_SUMS);
	g->dev->k.await(g->dev, SLOT_SUMS + 1);
	device_zero(g->dev, g->sums, ENGINE_SUMS * sizeof(*g->sums));
	if (g->lora && g->lora->grads)
		device_zero(g->dev, g->lora->grads, (uint64_t)g->lora->n_params * sizeof(float));
}

void engine_resume(struct engine *g)
{
	device_zero(g->dev, g->refused, sizeof(*g->refused));
}

/* --- recordings --- */

static int64_t longest(const struct microbatch *b)
{
	int64_t n = 0;

	for (int64_t i = 0; i < b->n_seqs; i++)
		if (b->seq_start[i + 1] - b->seq_start[i] > n)
			n = b->seq_start[i + 1] - b->seq_start[i];
	return n;
}

static bool same(const struct work_shape *a, const struct work_shape *b)
{
	return a->n_tokens == b->n_tokens && a->n_seqs == b->n_seqs && a->n_tiles == b->n_tiles && a->n_targets == b->n_targets && a->longest == b->longest &&
	       a->grad == b->grad && a->dropout == b->dropout && a->drift == b->drift && a->lora == b->lora;
}

/* The work of this shape; a new one takes the place of what was wanted longest ago. */
static struct work *work_of(struct engine *g, const struct microbatch *b, bool grad)
{
	struct work_shape s = { b->n_tokens, b->n_seqs, g->in.n_tiles, b->n_targets, g->w.desc.window ? longest(b) : 0, grad, g->dropout_on, g->drift, g->lora };
	struct work *w = g->works;

	for (int i = 0; i < WORKS; i++) {
		if (g->works[i].last && same(&g->works[i].shape, &s))
			return &g->works[i];
		if (g->works[i].last < w->last)
			w = &g->works[i];
	}
	if (w->recording)
		g->dev->k.forget(g->dev, w->recording);
	*w = (struct work){ .shape = s };
	return w;
}

/* Whether there is room for one more. What was wanted in the last WORKS micro-batches does not give way, so that shapes that come in turn
 * are not recorded over and over. */
static bool make_room(struct engine *g)
{
	struct work *oldest = NULL;
	int n = 0;

	for (int i = 0; i < WORKS; i++) {
		struct work *w = &g->works[i];

		n += w->recording != NULL;
		if (w->recording && (!oldest || w->last < oldest->last))
			oldest = w;
	}
	if (n < g->recordings)
		return true;
	if (oldest->last + WORKS > g->wanted)
		return false;
	g->dev->k.forget(g->dev, oldest->recording);
	oldest->recording = NULL;
	return true;
}

/* All that follows the embedding: nothing of it needs the host. */
static void do_work(struct engine *g, const struct microbatch *b, bool grad)
{
	g->backward = grad;
	engine_place_adapters(g);
	engine_layers(g, b, engine_attn_self, NULL);
	engine_loss(g, b, grad);
	if (grad)
		engine_backward(g, b);
}

/* The first time runs as it is: what is made at first use is there when the second is recorded, and shapes that do not come again
 * cost nothing. */
static void do_recorded(struct engine *g, const struct microbatch *b, bool grad)
{
	struct device *d = g->dev;
	struct work *w = work_of(g, b, grad);
	bool again = w->last > 0;

	w->last = ++g->wanted;
	/* beside the work of several pieces its launches are nothing, and a recording of them all takes what no plan has */
	w->plain |= b->n_tokens > g->shape.piece;
	if (again && !w->recording && !w->plain && make_room(g)) {
		if (d->k.record(d)) {
			do_work(g, b, grad);
			w->recording = d->k.recorded(d, &w->operations);
		}
		w->plain = !w->recording;
	}
	if (!w->recording) {
		do_work(g, b, grad);
		return;
	}
	d->k.replay(d, w->recording);
	g->replayed++;
	g->avoided += w->operations;
}

void engine_run(struct engine *g, const struct microbatch *b, bool grad, double scale)
{
	g->scale = (float)scale;
	engine_send(g, b);
	engine_embed(g, b);
	engine_dora_refresh(g);
	do_recorded(g, b, grad);
}

/* --- sums --- */

/* Parts of the groups of a layer before this one, GRP_N: of all. */
static int64_t parts_before(const struct engine *g, enum linear_group grp)
{
	int64_t n = 0;

	for (int k = 0; k < (int)grp; k++) {
		const struct wgroup *w = &g->w.layers[0].grp[k];

		n += kn_adapter_squares(g->lora->groups[k].n * g->lora->rank * w->in) + kn_adapter_squares(w->out * g->lora->rank);
		n += g->lora->dora ? kn_adapter_squares(w->out) : 0;
	}
	return n;
}

int64_t engine_squares_a(const struct engine *g, int64_t layer, enum linear_group grp)
{
	return layer * parts_before(g, GRP_N) + parts_before(g, grp);
}

int64_t engine_squares_b(const struct engine *g, int64_t layer, enum linear_group grp)
{
	return engine_squares_a(g, layer, grp) + kn_adapter_squares(g->lora->groups[grp].n * g->lora->rank * g->w.layers[0].grp[grp].in);
}

int64_t engine_squares_m(const struct engine *g, int64_t layer, enum linear_group grp)
{
	return engine_squares_b(g, layer, grp) + kn_adapter_squares(g->w.layers[0].grp[grp].out * g->lora->rank);
}

void engine_squares(struct engine *g)
{
	g->dev->k.sum(g->dev, g->squares, engine_squares_a(g, g->w.desc.layers, 0), g->sums + SUM_SQUARES);
	if (!g->lora || !g->lora->has_score)
		return;
	g->dev->k.sum_squares(g->dev, g->lora->grads + g->lora->score, g->w.desc.hidden, g->score_squares);
	g->dev->k.sum(g->dev, g->score_squares, 1, g->sums + SUM_SQUARES);
}

void engine_sums_send(struct engine *g, int turn)
{
	g->dev->k.away(g->dev, SLOT_SUMS + turn, g->sums_host[turn], g->sums, ENGINE_SUMS * sizeof(*g->sums));
}

int engine_sums_wait(struct engine *g, int turn, double *loss, double *squares, struct err *e)
{
	if (g->dev->k.settle(g->dev, SLOT_SUMS + turn, e) < 0)
		return -1;
	*loss = g->sums_host[turn][SUM_LOSS];
	if (squares)
		*squares = g->sums_host[turn][SUM_SQUARES];
	return 0;
}

int engine_sums(struct engine *g, double *loss, double *squares, struct err *e)
{
	engine_sums_send(g, 0);
	return engine_sums_wait(g, 0, loss, squares, e);
}
