/* The backward pass: layer by layer from the top, gradients of the frozen
 * weights never formed. */
#include "train/engine.h"

/* Of one group and the rows of p: dy (T, out) has room behind its rows, as the input x had. */
struct back {
	int64_t layer;
	enum linear_group grp;
	void *dy;
	int64_t ldy;
	struct piece p;
};

/* dx += dropout'(d_s A), adapter by adapter: each has a mask of its own. */
static void through_masks(struct engine *g, const struct back *k, const struct lora_group *l, const struct edges *at, void *dx, int64_t ld_dx)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[k->layer].grp[k->grp];
	struct kn_adapter_masks m;

	d->k.adapter_through(d, &(struct kn_adapter_outer){ .t = k->p.n, .in = w->in, .nr = l->n * g->lora->rank, .x = dx, .ldx = ld_dx, .a = at->lower, .lda = at->ld_lower,
	                                                    .ds = act_at(d, k->dy, w->out), .ld_ds = k->ldy, .masks = engine_masks(g, k->layer, k->grp, k->p.from, &m) });
}

/* d_s behind dy's rows, and dB. */
static void inner_bwd(struct engine *g, const struct back *k, const void *x, const struct edges *at)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[k->layer].grp[k->grp];
	struct kn_adapters p = engine_adapters(g, k->layer, k->grp);
	struct kn_adapter_grad a = { .t = k->p.n, .out = p.out, .n = p.n, .rank = p.rank, .scale = p.scale, .dy = k->dy, .ldy = k->ldy,
		                     .b = at->right, .ldg = at->ld_right, .s = act_at(d, x, w->in), .ld_s = w->ld,
		                     .squares = g->squares + engine_squares_b(g, k->layer, k->grp), .scratch = g->adapter_scratch };

	for (int j = 0; j < p.n; j++) {
		a.row[j] = p.row[j];
		a.rows[j] = p.rows[j];
		a.db[j] = g->lora->grads + (p.b[j] - g->lora->params);
	}
	d->k.adapter_grad(d, &a);
}

/* linear_bwd of a group with magnitudes, which leaves du in dy's place: of what they scale, and with dropout of all but what goes
 * through the masks, the gradient is dy itself. */
static void dora_bwd(struct engine *g, struct back *k, const void *x, void *dx, int64_t ld_dx)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[k->layer].grp[k->grp];
	const void *dense = NULL;
	struct edges at;

	if (dx)
		dense = engine_dense(g, k->layer, k->grp, &at);
	else
		at = engine_edges(g, k->layer, k->grp);
	if (dx && g->dropout_on)
		d->k.gemm(d, false, false, k->p.n, w->in, w->out, 1, k->dy, k->ldy, dense, w->ld, 0, NULL, dx, ld_dx, false);
	engine_dora_scale(g, k->layer, k->grp, &k->dy, &k->ldy, k->p);
	inner_bwd(g, k, x, &at);
	if (dx && g->dropout_on)
		engine_dora_through(g, k->layer, k->grp, k->dy, k->ldy, dense, &at, dx, ld_dx, k->p);
	else if (dx)
		d->k.gemm(d, false, false, k->p.n, w->in, w->out + w->pad, 1, k->dy, k->ldy, dense, w->ld, 0, NULL, dx, ld_dx, false);
}

/* From dy, and the inner values behind the rows of x: d_s = dy scale B behind dy's rows, dB, and dx (T, in), row stride
 * ld_dx, unless it is NULL. */
static void linear_bwd(struct engine *g, struct back *k, const void *x, void *dx, int64_t ld_dx)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[k->layer].grp[k->grp];
	const struct lora_group *l = engine_lora_group(g, k->layer, k->grp);
	bool fold = l && !g->dropout_on; /* d_s A in the product of dy W */
	const void *dense = NULL;
	struct edges at;

	if (!l && !dx)
		return;
	if (engine_is_dora(g, k->layer, k->grp)) {
		dora_bwd(g, k, x, dx, ld_dx);
		return;
	}
	if (dx && !g->w.fp8)
		dense = engine_dense(g, k->layer, k->grp, &at);
	else
		at = engine_edges(g, k->layer, k->grp);
	if (l)
		inner_bwd(g, k, x, &at);
	if (dx && g->w.fp8)
		engine_product8(g, k->dy, k->ldy, k->p.n, w->out, fold ? l->n * g->lora->rank : 0, &w->w8t, w->in, NULL, dx, ld_dx);
	else if (dx)
		d->k.gemm(d, false, false, k->p.n, w->in, w->out + (fold ? w->pad : 0), 1, k->dy, k->ldy, dense, w->ld, 0, NULL, dx, ld_dx, false);
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
	d->k.adapter_outer(d, &(struct kn_adapter_outer){ .t = k->p.n, .in = w->in, .nr = l->n * g->lora->rank, .x = x, .ldx = w->ld, .ds = act_at(d, k->dy, w->out),
	                                                  .ld_ds = k->ldy, .da = g->lora->grads + l->a,
	                                                  .squares = g->squares + engine_squares_a(g, k->layer, k->grp), .scratch = g->adapter_scratch,
	                                                  .masks = engine_masks(g, k->layer, k->grp, k->p.from, &m) });
}

static bool is_lean(const struct engine *g, int64_t i)
{
	return g->keep[i].how == KEEP_LEAN || g->keep[i].how == KEEP_HOST;
}

/* What layers share has been overwritten since layer i's forward pass wrote it: by layers above it, and, but for what is there for all
 * tokens, by later pieces. */
static bool is_gone(const struct engine *g, int64_t i, int64_t t, bool whole)
{
	return g->keep[i].how == KEEP_NONE && (i < g->w.desc.layers - 1 || (!whole && t > g->shape.piece));
}

/* A lean layer's inner values go back behind the rows that they came from, so that what reads them has the same
 * strides, and so the same kernels, in every plan. s: of the piece's rows. */
static void restore_inner(struct engine *g, int64_t i, enum linear_group k, void *x, const void *s, int64_t t)
{
	const struct wgroup *w = &g->w.layers[i].grp[k];

	if (is_lean(g, i) && w->pad)
		g->dev->k.copy_rows(g->dev, act_at(g->dev, x, w->in), w->ld, s, w->pad, t, w->pad);
}

/* What linear_bwd does of the down projection, and the gradients of g and u: in the product of dy W where nothing comes between.
 * again: h is formed once more. */
static void down_bwd(struct engine *g, struct back *k, const struct acts *a, bool again)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[k->layer].grp[GRP_DOWN], *gu = &g->w.layers[k->layer].grp[GRP_GU];
	const struct lora_group *l = engine_lora_group(g, k->layer, GRP_DOWN);
	int64_t ldg = gu->out + gu->pad, f = g->w.desc.ffn;
	void *h = again ? a->h : NULL, *dense;
	struct edges at;

	if (g->w.fp8 || (l && g->dropout_on) || engine_is_dora(g, k->layer, GRP_DOWN) || engine_is_dora(g, k->layer, GRP_GU)) {
		linear_bwd(g, k, a->h, g->d_h, f);
		if (engine_dora_gates(g, k->layer))
			engine_dora_gate_bwd(g, k->layer, k->p, again);
		else
			d->k.swiglu_bwd(d, a->gu, ldg, g->d_h, h, w->ld, k->p.n, f);
		return;
	}
	dense = engine_dense(g, k->layer, GRP_DOWN, &at);
	if (l)
		inner_bwd(g, k, a->h, &at);
	d->k.gated_bwd(d, &(struct kn_gated){ .t = k->p.n, .f = f, .k = w->out + (l ? w->pad : 0), .x = k->dy, .ldx = k->ldy, .w = dense, .ldw = w->ld,
	                                      .gu = a->gu, .ldg = ldg, .h = h, .ldh = w->ld, .dh = g->d_h });
}

static void mlp_bwd(struct engine *g, int64_t i, struct piece p)
{
	struct device *d = g->dev;
	struct acts a = engine_acts(g, i, p.from);
	const struct model_desc *m = &g->w.desc;
	struct layer_weights *lw = &g->w.layers[i];
	void *d_res = act_at(d, g->d_res, p.from * g->ld_res);
	struct back down = { i, GRP_DOWN, d_res, g->ld_res, p }, gu = { i, GRP_GU, a.gu, 2 * m->ffn + lw->grp[GRP_GU].pad, p };

	restore_inner(g, i, GRP_DOWN, a.h, a.s[GRP_DOWN], p.n);
	down_bwd(g, &down, &a, is_lean(g, i));
	linear_bwd_a(g, &down, a.h);
	restore_inner(g, i, GRP_GU, a.y2, a.s[GRP_GU], p.n);
	linear_bwd(g, &gu, a.y2, g->d_y, m->hidden);
	if (is_lean(g, i))
		engine_norm2(g, i, p);
	linear_bwd_a(g, &gu, a.y2);
	d->k.rmsnorm_bwd(d, d_res, g->ld_res, g->d_y, a.x2, a.rstd2, lw->norm2, p.n, m->hidden);
}

static void attn_out_bwd(struct engine *g, int64_t i, struct piece p)
{
	struct device *d = g->dev;
	struct acts a = engine_acts(g, i, p.from);
	int64_t ld = g->w.layers[i].grp[GRP_O].ld;
	struct back o = { i, GRP_O, act_at(d, g->d_res, p.from * g->ld_res), g->ld_res, p };

	linear_bwd(g, &o, a.o, act_at(d, g->d_o, p.from * ld), ld);
	linear_bwd_a(g, &o, a.o);
}

/* Below the first layer nothing is trained: its input needs no gradient. gone: y1 is not there any more. */
static void qkv_bwd(struct engine *g, int64_t i, struct piece p, int64_t ld, bool gone)
{
	struct device *d = g->dev;
	struct acts a = engine_acts(g, i, p.from);
	int64_t c = g->w.desc.hidden;
	struct back qkv = { i, GRP_QKV, act_at(d, g->d_qkv, p.from * ld), ld, p };

	if (gone)
		engine_input_again(g, i, p);
	restore_inner(g, i, GRP_QKV, a.y1, a.s[GRP_QKV], p.n);
	linear_bwd(g, &qkv, a.y1, i > 0 ? g->d_y : NULL, c);
	if (is_lean(g, i))
		engine_norm1(g, i, p);
	linear_bwd_a(g, &qkv, a.y1);
	if (i > 0)
		d->k.rmsnorm_bwd(d, act_at(d, g->d_res, p.from * g->ld_res), g->ld_res, g->d_y, act_at(d, g->x1[i], p.from * c), a.rstd1, g->w.layers[i].norm1, p.n, c);
}

static void layer_bwd(struct engine *g, int64_t i, const struct microbatch *b)
{
	struct acts *a = &g->acts[i];
	int64_t t = b->n_tokens, each = g->shape.piece;
	struct kn_attn_shape s;

	if (is_gone(g, i, t, true))
		engine_attend(g, i, b, engine_attn_self, NULL);
	for (int64_t from = 0; from < t; from += each) {
		struct piece p = engine_piece(g, from, t);

		if (is_gone(g, i, t, false))
			engine_feed(g, i, p, true);
		mlp_bwd(g, i, p);
	}
	for (int64_t from = 0; from < t; from += each)
		attn_out_bwd(g, i, engine_piece(g, from, t));
	engine_attn_shape(g, i, b, &s);
	g->dev->k.attn_bwd(g->dev, &s, a->qkv, engine_k(g, a->qkv), engine_v(g, a->qkv), a->o, a->lse, g->d_o, g->d_qkv, engine_k(g, g->d_qkv), engine_v(g, g->d_qkv));
	engine_rotate(g, g->d_qkv, s.ldq, t, true);
	if (engine_is_dora(g, i, GRP_QKV) && !g->dropout_on) /* magnitudes' gradients want q and k as their products gave them */
		engine_rotate(g, a->qkv, s.ldq, t, true);
	for (int64_t from = 0; from < t; from += each)
		qkv_bwd(g, i, engine_piece(g, from, t), s.ldq, g->keep[i].how == KEEP_NONE && t > each);
}

/* The residual stream of layer i is there when it is wanted, and one that will be soon starts to travel: into the buffer that the
 * layer above i is done with. */
static void bring_back(struct engine *g, int64_t i, int64_t t)
{
	struct device *d = g->dev;
	int64_t next = i - RING + 1;

	if (!g->away)
		return;
	d->k.await(d, (int)(i % RING));
	if (next >= 0 && g->x1_host[next])
		d->k.back(d, (int)(next % RING), g->x1[next], g->x1_host[next], (uint64_t)(t * g->w.desc.hidden) * dtype_bytes(d->act));
}

void engine_backward(struct engine *g, const struct microbatch *b)
{
	for (int64_t i = g->w.desc.layers - 1; i >= 0; i--) {
		bring_back(g, i, b->n_tokens);
		if (g->keep[i].how == KEEP_HOST)
			engine_set_await(g, i);
		layer_bwd(g, i, b);
		engine_set_back(g, i, b->n_tokens);
	}
}
