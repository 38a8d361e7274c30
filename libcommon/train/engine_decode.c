/* A step of decoding: few rows, every weight read once as it lies in memory. */
#include "train/engine.h"

int64_t engine_decode_rows(const struct engine *g)
{
	int64_t rows = g->shape.decode;

	return rows <= g->dev->few && rows <= g->chunk ? rows : 0;
}

static int64_t planned(const struct engine *g)
{
	return g->decode_rows ? g->decode_rows : g->shape.decode;
}

/* y (T, out) = x W^T with the group's adapters and bias, + add; gated: (T, F) of gate and up. */
static void product(struct engine *g, int64_t layer, enum linear_group grp, const void *x, const void *add, void *y, int64_t ldy, int64_t t, bool gated)
{
	const struct layer_weights *lw = &g->w.layers[layer];
	const struct wgroup *w = &lw->grp[grp];
	struct kn_skinny s = { .t = t, .planned = planned(g), .in = w->in, .out = w->out, .x = x, .ldx = w->ld, .y = y, .ldy = ldy, .add = add, .bias = w->bias, .gated = gated,
		.n = w->n, .dense = w->dense, .ldw = w->ld, .adapters = engine_adapters(g, layer, grp), .scratch = g->skinny_scratch,
		.factor = engine_is_dora(g, layer, grp) ? g->dora[layer * GRP_N + grp].factor : NULL };

	for (int j = 0; j < w->n; j++) {
		s.row[j] = w->row[j];
		s.rows[j] = lw->lin[w->first + j].rows;
		s.q[j] = lw->lin[w->first + j].q;
	}
	g->dev->k.skinny(g->dev, &s);
}

struct kn_kv_cache engine_layer_cache(const struct engine *g, const struct kn_kv_cache *c, int64_t layer, int64_t context)
{
	int64_t at = layer * context * c->width;
	struct kn_kv_cache part = *c;

	part.k = act_at(g->dev, c->k, at);
	part.v = act_at(g->dev, c->v, at);
	return part;
}

static void attention(struct engine *g, int64_t layer, int64_t t, const struct kn_kv_cache *c, int64_t context)
{
	struct device *d = g->dev;
	struct acts *a = &g->acts[layer];
	struct microbatch none = { .n_tokens = t };
	struct kn_kv_cache here = engine_layer_cache(g, c, layer, context);
	struct kn_attn_shape s;

	engine_attn_shape(g, layer, &none, &s);
	d->k.kv_turn(d, &s, &here, a->qkv, g->cos_tab, g->sin_tab, g->in.rec, g->in.pos, t);
	d->k.attn_decode(d, &s, a->qkv, &here, g->in.rec, g->in.tgt_id, context, a->o);
}

static void layer(struct engine *g, int64_t i, int64_t t, const struct kn_kv_cache *cache, int64_t context)
{
	struct device *d = g->dev;
	const struct model_desc *m = &g->w.desc;
	const struct wgroup *grp = g->w.layers[i].grp;
	struct acts *a = &g->acts[i];
	struct piece all = { 0, t };
	bool gated = !grp[GRP_GU].bias;

	engine_norm1(g, i, all);
	product(g, i, GRP_QKV, a->y1, NULL, a->qkv, grp[GRP_QKV].out + grp[GRP_QKV].pad, t, false);
	attention(g, i, t, cache, context);
	product(g, i, GRP_O, a->o, g->x1[i], a->x2, m->hidden, t, false);
	engine_norm2(g, i, all);
	if (gated) {
		product(g, i, GRP_GU, a->y2, NULL, a->h, grp[GRP_DOWN].ld, t, true);
	} else {
		product(g, i, GRP_GU, a->y2, NULL, a->gu, grp[GRP_GU].out + grp[GRP_GU].pad, t, false);
		d->k.swiglu_fwd(d, a->h, grp[GRP_DOWN].ld, a->gu, grp[GRP_GU].out + grp[GRP_GU].pad, t, m->ffn);
	}
	product(g, i, GRP_DOWN, a->h, a->x2, g->x1[i + 1], m->hidden, t, false);
}

/* Up to these rows the head is a product for few rows as well, whose bits do not depend on how many they are. */
#define HEAD_ROWS 16

static void head(struct engine *g, int64_t t)
{
	const struct model_desc *m = &g->w.desc;
	struct kn_skinny s = { .t = t, .planned = planned(g), .in = m->hidden, .out = m->vocab, .x = g->hid, .ldx = m->hidden, .y = g->logits, .ldy = m->vocab,
		.dense = g->w.head.data, .ldw = m->hidden, .scratch = g->skinny_scratch };

	/* as many rows as are planned, whatever lies in them: the library's bits depend on their number */
	if (g->head_rows_at || planned(g) > HEAD_ROWS)
		engine_head(g, g->hid, g->logits, planned(g));
	else
		g->dev->k.skinny(g->dev, &s);
}

void engine_decode(struct engine *g, int64_t t, const struct kn_kv_cache *c, int64_t context)
{
	struct device *d = g->dev;
	const struct model_desc *m = &g->w.desc;

	d->k.embed_fwd(d, g->x1[0], g->in.ids, g->w.embed.data, g->w.embed.dtype, t, m->hidden);
	for (int64_t i = 0; i < m->layers; i++)
		layer(g, i, t, c, context);
	d->k.rmsnorm_fwd(d, g->hid, m->hidden, g->rstd_hid, g->x1[m->layers], g->w.norm, t, m->hidden, (float)m->rms_eps);
	head(g, t);
}
