/* Activations that travel: a layer's lean ones leave for host memory when its forward pass is over, and are back when
 * its backward pass begins. Layers take a few sets of device buffers in turn, from the top: a set is written again when its copy to the
 * host is done, and its next layer's activations start to come back when the layer above is through with it. */
#include "train/engine.h"

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
}

void engine_set_await(struct engine *g, int64_t layer)
{
	if (g->travel && g->keep[layer].set >= 0)
		g->dev->k.await(g->dev, slot_of(g, layer));
}

void engine_set_away(struct engine *g, int64_t layer, int64_t t)
{
	void *from[LEAN_PARTS], *to[LEAN_PARTS];
	uint64_t row[LEAN_PARTS];

	if (g->keep[layer].how != KEEP_HOST || !g->backward)
		return;
	engine_lean_rows(g, row);
	list(&g->acts[layer], from);
	list(&g->acts_host[layer], to);
	for (int i = 0; i < LEAN_PARTS; i++)
		if (row[i])
			g->dev->k.away(g->dev, slot_of(g, layer), to[i], from[i], (uint64_t)t * row[i]);
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
	void *from[LEAN_PARTS], *to[LEAN_PARTS];
	uint64_t row[LEAN_PARTS];

	if (next < 0)
		return;
	engine_lean_rows(g, row);
	list(&g->acts_host[next], from);
	list(&g->acts[next], to);
	for (int i = 0; i < LEAN_PARTS; i++)
		if (row[i])
			g->dev->k.back(g->dev, slot_of(g, next), to[i], from[i], (uint64_t)t * row[i]);
}
