/* From a plan to memory: what is filled before the first step, and given back in the end. */
#include <math.h>
#include <stdlib.h>

#include "base/xalloc.h"
#include "train/engine.h"

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
		g->sums_host[i] = g->in_host[i] ? g->dev->k.host_alloc(g->dev, ENGINE_SUMS * sizeof(double), "sums", e) : NULL;
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
	engine_layout(g);
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
	free(g->dora);
	g->dora = NULL;
	g->x1 = NULL;
	g->x1_host = NULL;
	g->acts = NULL;
	g->acts_host = NULL;
	g->keep = NULL;
}
