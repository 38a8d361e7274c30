/* Activations that travel: a layer's lean ones leave for host memory when its forward pass is over, and are back when
 * its backward pass begins. Layers take a few sets of device buffers in turn, from the top: a set is written again when its copy to the
 * host is done, and its next layer's activations start to come back when the layer above is through with it. */
#include "train/engine.h"

_Static_assert((int)SLOTS <= (int)COPY_SLOTS, "each buffer that travels has a copy slot");

static int slot_of(const struct engine *g, int64_t layer)
{
	return SLOT_SETS + g->keep[layer].set;
}

static void list(const struct acts *a, void *at[LEAN_PARTS])
{
	at[0] = a->qkv;
	at[1] = a->o;
	at[2] = a->x2;
	at[3] = a->gu;
	at[4] = a->lse;
	for (int k = 0; k < GRP_N; k++)
		at[5 + k] = a->s[k];
	for (int k = 0; k < GRP_N; k++)
		at[5 + GRP_N + k] = a->u[k];
}

void engine_set_await(struct engine *g, int64_t layer)
{
	if (g->travel && g->keep[layer].set >= 0)
		g->dev->k.await(g->dev, slot_of(g, layer));
}

/* A layer's activations to its set, or from there to host memory. */
static void travel(struct engine *g, int64_t layer, int64_t t, bool home)
{
	void *dev[LEAN_PARTS], *host[LEAN_PARTS];
	uint64_t row[LEAN_PARTS];

	engine_lean_rows(g, row);
	list(&g->acts[layer], dev);
	list(&g->acts_host[layer], host);
	for (int i = 0; i < LEAN_PARTS; i++)
		if (row[i] && home)
			g->dev->k.away(g->dev, slot_of(g, layer), host[i], dev[i], (uint64_t)t * row[i]);
		else if (row[i])
			g->dev->k.back(g->dev, slot_of(g, layer), dev[i], host[i], (uint64_t)t * row[i]);
}

void engine_set_away(struct engine *g, int64_t layer, int64_t t)
{
	if (g->keep[layer].how == KEEP_HOST && g->backward)
		travel(g, layer, t, true);
}

int64_t engine_set_next(const struct engine *g, int64_t layer)
{
	int64_t i = layer - 1;

	if (!g->travel || g->keep[layer].set < 0)
		return -1;
	while (i >= 0 && (g->keep[i].how != KEEP_HOST || g->keep[i].set != g->keep[layer].set))
		i--;
	return i;
}

void engine_set_back(struct engine *g, int64_t layer, int64_t t)
{
	int64_t next = engine_set_next(g, layer);

	if (next >= 0)
		travel(g, next, t, false);
}
