/* The backward pass: layer by layer from the top, gradients of the frozen
 * weights never formed. */
#include "train/engine.h"

/* Of one group: dy (T, out) has room behind its rows, as the input x had. */
struct back {
	int64_t layer;
	enum linear_group grp;
	void *dy;
	int64_t ldy, t;
};

/* dx += dropout'(d_s A), adapter by adapter: each has a mask of its own. */
static void through_masks(struct engine *g, const struct back *k, const struct lora_group *l, const struct edges *at, void *dx, int64_t ld_dx)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[k->layer].grp[k->grp];
	struct kn_adapter_masks m;

	d->k.adapter_through(d, &(struct kn_adapter_outer){ .t = k->t, .in = w->in, .nr = l->n * g->lora->rank, .x = dx, .ldx = ld_dx, .a = at->lower, .lda = at->ld_lower,
	                                                    .ds = act_at(d, k->dy, w->out), .ld_ds = k->ldy, .masks = engine_masks(g, k->layer, k->grp, &m) });
}

/* d_s behind dy's rows, and dB. */
static void inner_bwd(struct engine *g, const struct back *k, const void *x, const struct edges *at)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[k->layer].grp[k->grp];
	struct kn_adapters p = engine_adapters(g, k->layer, k->grp);
	struct kn_adapter_grad a = { .t = k->t, .out = p.out, .n = p.n, .rank = p.rank, .scale = p.scale, .dy = k->dy, .ldy = k->ldy,
		                     .b = at->right, .ldg = at->ld_right, .s = act_at(d, x, w->in), .ld_s = w->ld,
		                     .squares = g->squares + engine_squares_b(g, k->layer, k->grp), .scratch = g->adapter_scratch };

	for (int j = 0; j < p.n; j++) {
		a.row[j] = p.row[j];
		a.rows[j] = p.rows[j];
		a.db[j] = g->lora->grads + (p.b[j] - g->lora->params);
	}
	d->k.adapter_grad(d, &a);
}

/* From dy, and the inner values behind the rows of x: d_s = dy scale B behind dy's rows, dB, and dx (T, in), row stride
 * ld_dx, unless it is NULL. */
static void linear_bwd(struct engine *g, const struct back *k, const void *x, void *dx, int64_t ld_dx)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[k->layer].grp[k->grp];
	const struct lora_group *l = engine_lora_group(g, k->layer, k->grp);
	bool fold = l && !g->dropout_on; /* d_s A in the product of dy W */
	const void *dense = NULL;
	struct edges at;

	if (!l && !dx)
		return;
	if (dx && !g->w.fp8)
		dense = engine_dense(g, k->layer, k->grp, &at);
	else
		at = engine_edges(g, k->layer, k->grp);
	if (l)
		inner_bwd(g, k, x, &at);
	if (dx && g->w.fp8)
		engine_product8(g, k->dy, k->ldy, k->t, w->out, fold ? l->n * g->lora->rank : 0, &w->w8t, w->in, NULL, dx, ld_dx);
	else if (dx)
		d->k.gemm(d, false, false, k->t, w->in, w->out + (fold ? w->pad : 0), 1, k->dy, k->ldy, dense, w->ld, 0, NULL, dx, ld_dx, false);
	if (dx && l && g->dropout_on)
		through_masks(g, k, l, &at, dx, ld_dx);
}

/* From the group's input x and the d_s that linear_bwd left behind dy: dA. */
static void linear_bwd_a(struct engine *g, const struct back *k, void *x)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[k->layer].grp[k->grp];
	const struct lora_group *l = engine_lora_group(g, k->layer, k->grp);
	struct kn_adapter_masks m;

	if (!l)
		return;
	d->k.adapter_outer(d, &(struct kn_adapter_outer){ .t = k->t, .in = w->in, .nr = l->n * g->lora->rank, .x = x, .ldx = w->ld, .ds = act_at(d, k->dy, w->out),
	                                                  .ld_ds = k->ldy, .da = g->lora->grads + l->a,
	                                                  .squares = g->squares + engine_squares_a(g, k->layer, k->grp), .scratch = g->adapter_scratch,
	                                                  .masks = engine_masks(g, k->layer, k->grp, &m) });
}

static bool is_lean(const struct engine *g, int64_t i)
{
	int64_t from_top = g->w.desc.layers - 1 - i;

	return from_top >= g->full && from_top < g->full + g->lean;
}

/* A lean layer's inner values go back behind the rows that they came from, so that what reads them has the same
 * strides, and so the same kernels, in every plan. */
static void restore_inner(struct engine *g, int64_t i, enum linear_group k, void *x, int64_t t)
{
	const struct wgroup *w = &g->w.layers[i].grp[k];
	const struct acts *a = &g->acts[i];

	if (is_lean(g, i) && w->pad)
		g->dev->k.copy_rows(g->dev, act_at(g->dev, x, w->in), w->ld, a->s[k], w->pad, t, w->pad);
}

static void mlp_bwd(struct engine *g, int64_t i, int64_t t)
{
	struct device *d = g->dev;
	struct acts *a = &g->acts[i];
	const struct model_desc *m = &g->w.desc;
	struct layer_weights *lw = &g->w.layers[i];
	struct back down = { i, GRP_DOWN, g->d_res, g->ld_res, t }, gu = { i, GRP_GU, a->gu, 2 * m->ffn + lw->grp[GRP_GU].pad, t };

	restore_inner(g, i, GRP_DOWN, a->h, t);
	linear_bwd(g, &down, a->h, g->d_h, m->ffn);
	d->k.swiglu_bwd(d, a->gu, gu.ldy, g->d_h, is_lean(g, i) ? a->h : NULL, lw->grp[GRP_DOWN].ld, t, m->ffn);
	linear_bwd_a(g, &down, a->h);
	restore_inner(g, i, GRP_GU, a->y2, t);
	linear_bwd(g, &gu, a->y2, g->d_y, m->hidden);
	if (is_lean(g, i))
		engine_norm2(g, i, t);
	linear_bwd_a(g, &gu, a->y2);
	d->k.rmsnorm_bwd(d, g->d_res, g->ld_res, g->d_y, a->x2, a->rstd2, lw->norm2, t, m->hidden);
}

/* Below the first layer nothing is trained: its input needs no gradient. */
static void attn_bwd(struct engine *g, int64_t i, const struct microbatch *b)
{
	struct device *d = g->dev;
	struct acts *a = &g->acts[i];
	const struct model_desc *m = &g->w.desc;
	struct layer_weights *lw = &g->w.layers[i];
	int64_t t = b->n_tokens;
	struct kn_attn_shape s;
	struct back o, qkv;

	engine_attn_shape(g, i, b, &s);
	o = (struct back){ i, GRP_O, g->d_res, g->ld_res, t };
	qkv = (struct back){ i, GRP_QKV, g->d_qkv, s.ldq, t };
	linear_bwd(g, &o, a->o, g->d_o, lw->grp[GRP_O].ld);
	linear_bwd_a(g, &o, a->o);
	d->k.attn_bwd(d, &s, a->qkv, engine_k(g, a->qkv), engine_v(g, a->qkv), a->o, a->lse, g->d_o, g->d_qkv, engine_k(g, g->d_qkv), engine_v(g, g->d_qkv));
	engine_rotate(g, g->d_qkv, s.ldq, t, true);
	restore_inner(g, i, GRP_QKV, a->y1, t);
	linear_bwd(g, &qkv, a->y1, i > 0 ? g->d_y : NULL, m->hidden);
	if (is_lean(g, i))
		engine_norm1(g, i, t);
	linear_bwd_a(g, &qkv, a->y1);
	if (i > 0)
		d->k.rmsnorm_bwd(d, g->d_res, g->ld_res, g->d_y, g->x1[i], a->rstd1, lw->norm1, t, m->hidden);
}

/* The residual stream of layer i is there when it is wanted, and one that will be soon starts to travel: into the buffer that the
 * layer above i is done with. */
static void bring_back(struct engine *g, int64_t i, int64_t t)
{
	struct device *d = g->dev;
	int64_t next = i - RING + 1;

	if (!g->offload)
		return;
	d->k.await(d, (int)(i % RING));
	if (i < g->w.desc.layers - 1 && next >= 0 && g->x1_host[next])
		d->k.back(d, (int)(next % RING), g->x1[next], g->x1_host[next], (uint64_t)(t * g->w.desc.hidden) * dtype_bytes(d->act));
}

void engine_backward(struct engine *g, const struct microbatch *b)
{
	struct device *d = g->dev;
	const struct model_desc *m = &g->w.desc;
	int64_t keeping = g->full + g->lean;

	device_zero(d, g->d_res, (uint64_t)(b->n_tokens * g->ld_res) * dtype_bytes(d->act));
	d->k.rmsnorm_bwd(d, g->d_res, g->ld_res, g->d_y, g->x_final, g->rstd_final, g->w.norm, b->n_tokens, m->hidden);
	for (int64_t i = m->layers - 1; i >= 0; i--) {
		bring_back(g, i, b->n_tokens);
		/* what shares its activations runs again, but for the top layer, whose are still there */
		if (m->layers - 1 - i >= keeping && i < m->layers - 1)
			engine_layer(g, i, b, engine_attn_self, NULL, true);
		mlp_bwd(g, i, b->n_tokens);
		attn_bwd(g, i, b);
	}
}
