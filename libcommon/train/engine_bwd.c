/* The backward pass: layer by layer from the top, gradients of the frozen
 * weights never formed. */
#include "train/engine.h"

/* Given dy (T, out): dx (T, in), overwritten or added to (dx NULL: not wanted),
 * and the adapter's dA, dB. x is the forward's input, a->s what A made of it. */
static void linear_bwd(struct engine *g, int64_t layer, enum linear_slot s, const float *x, const float *dy, float *dx, bool add,
                       const struct microbatch *b)
{
	struct device *d = g->dev;
	const struct wmat *m = &g->w.layers[layer].lin[s];
	const struct lora_mat *l = g->lora ? &g->lora->mats[layer * LIN_N + s] : NULL;
	const float *lora_s = g->acts[layer].s[s];
	float *p, *dp;
	int64_t t = b->n_tokens, r, in = m->cols, out = m->rows;

	if (dx)
		d->k.gemm(d, false, false, t, in, out, 1, dy, out, weights_f32(d, m, g->wide), in, add ? 1 : 0, dx, in);
	if (!l || l->b < 0)
		return;
	r = g->lora->rank;
	p = g->lora->params;
	dp = g->lora->grads;
	d->k.gemm(d, true, false, out, r, t, g->lora->scale, dy, out, lora_s, r, 1, dp + l->b, r);
	d->k.gemm(d, false, false, t, r, out, g->lora->scale, dy, out, p + l->b, r, 0, g->d_s, r);
	if (!g->dropout_on) {
		d->k.gemm(d, true, false, r, in, t, 1, g->d_s, r, x, in, 1, dp + l->a, in);
		if (dx)
			d->k.gemm(d, false, false, t, in, r, 1, g->d_s, r, p + l->a, in, 1, dx, in);
		return;
	}
	g->dropout.tensor = l->id;
	d->k.dropout(d, g->xd, x, b->rec, b->pos, t, in, g->dropout, false);
	d->k.gemm(d, true, false, r, in, t, 1, g->d_s, r, g->xd, in, 1, dp + l->a, in);
	if (!dx)
		return;
	d->k.gemm(d, false, false, t, in, r, 1, g->d_s, r, p + l->a, in, 0, g->xd, in);
	d->k.dropout(d, dx, g->xd, b->rec, b->pos, t, in, g->dropout, true);
}

static void mlp_bwd(struct engine *g, int64_t i, const struct microbatch *b)
{
	struct device *d = g->dev;
	struct acts *a = &g->acts[i];
	const struct model_desc *m = &g->w.desc;

	linear_bwd(g, i, LIN_DOWN, a->h, g->d_res, g->d_h, false, b);
	d->k.swiglu_bwd(d, a->g, a->u, g->d_h, b->n_tokens * m->ffn);
	linear_bwd(g, i, LIN_GATE, a->y2, a->g, g->d_y, false, b);
	linear_bwd(g, i, LIN_UP, a->y2, a->u, g->d_y, true, b);
	d->k.rmsnorm_bwd(d, g->d_res, g->d_y, a->x2, a->rstd2, g->w.layers[i].norm2, b->n_tokens, m->hidden);
}

/* Below the first layer nothing is trained: its input needs no gradient. */
static void attn_bwd(struct engine *g, int64_t i, const struct microbatch *b)
{
	struct device *d = g->dev;
	struct acts *a = &g->acts[i];
	const struct model_desc *m = &g->w.desc;
	struct kn_attn_shape s;
	int64_t t = b->n_tokens, hd = m->head_dim;
	float *dx = i > 0 ? g->d_y : NULL;

	linear_bwd(g, i, LIN_O, a->o, g->d_res, g->d_o, false, b);
	engine_attn_shape(g, i, b, &s);
	d->k.attn_bwd(d, &s, a->q, a->k, a->v, a->o, a->lse, g->d_o, g->d_q, g->d_k, g->d_v);
	d->k.rope(d, g->d_q, m->heads * hd, b->pos, g->cos_tab, g->sin_tab, t, m->heads, hd, hd, true);
	d->k.rope(d, g->d_k, m->kv_heads * hd, b->pos, g->cos_tab, g->sin_tab, t, m->kv_heads, hd, hd, true);
	linear_bwd(g, i, LIN_Q, a->y1, g->d_q, dx, false, b);
	linear_bwd(g, i, LIN_K, a->y1, g->d_k, dx, true, b);
	linear_bwd(g, i, LIN_V, a->y1, g->d_v, dx, true, b);
	if (dx)
		d->k.rmsnorm_bwd(d, g->d_res, dx, g->x1[i], a->rstd1, g->w.layers[i].norm1, t, m->hidden);
}

void engine_backward(struct engine *g, const struct microbatch *b)
{
	struct device *d = g->dev;
	const struct model_desc *m = &g->w.desc;

	device_zero(d, g->d_res, (uint64_t)(b->n_tokens * m->hidden) * sizeof(float));
	d->k.rmsnorm_bwd(d, g->d_res, g->d_y, g->x_final, g->rstd_final, g->w.norm, b->n_tokens, m->hidden);
	for (int64_t i = m->layers - 1; i >= 0; i--) {
		/* of the layers that share their activations the last one run still has its own there */
		if (i < m->layers - 1 - g->kept)
			engine_layer(g, i, b, engine_attn_self, NULL, true);
		mlp_bwd(g, i, b);
		attn_bwd(g, i, b);
	}
}
