/* DoRA in the engine: what products of a group with magnitudes are multiplied by, and what their gradients want (kernels/dora.h). A group's
 * product u stays where the layer keeps it: o's and down's in places of their own; gate's and up's where their outputs would
 * be, which the activation forms as it reads them; q's, k's and v's become the outputs there, and backward has their u from these. With dropout
 * PEFT's base product sees the masked input too, all but the part that LoRA has,
 *   y_j = W_j x + (f - 1) W_j x_j + f scale B_j A_j x_j + bias,  x_j = m_j x
 * so u is no part of y any more: every group's is kept, and each projection has a second product of its own, forward and back. */
#include <math.h>
#include <stdlib.h>

#include "base/xalloc.h"
#include "train/engine.h"

bool engine_is_dora(const struct engine *g, int64_t layer, enum linear_group grp)
{
	return g->lora && g->lora->dora && engine_lora_group(g, layer, grp);
}

static const struct dora_group *dora_of(const struct engine *g, int64_t layer, enum linear_group grp)
{
	return &g->dora[layer * GRP_N + grp];
}

/* --- places --- */

static bool has_adapters(const struct engine *g, enum linear_group grp)
{
	return g->lora && g->lora->dora && g->lora->groups[grp].n > 0;
}

bool engine_dora_keeps(const struct engine *g, enum linear_group grp)
{
	return has_adapters(g, grp) && (grp == GRP_O || grp == GRP_DOWN || (g->shape.train && g->lora->dropout > 0));
}

void engine_layout_dora(struct engine *g, struct layout *l)
{
	static const char name[] = "factors of magnitudes";

	for (int64_t i = 0; i < g->w.desc.layers; i++)
		for (int k = 0; k < GRP_N; k++) {
			struct dora_group *x = &g->dora[i * GRP_N + k];
			int64_t out = g->w.layers[i].grp[k].out;

			if (!has_adapters(g, k))
				continue;
			x->squares = layout_array(l, name, out, sizeof(*x->squares));
			x->factor = layout_array(l, name, out, sizeof(*x->factor));
			x->per = layout_array(l, name, out, sizeof(*x->per));
		}
}

/* --- factors: they change with the adapter, once a step --- */

static void measure(struct engine *g)
{
	struct edges at;

	for (int64_t i = 0; i < g->w.desc.layers && !g->dora_measured; i++)
		for (int k = 0; k < GRP_N; k++) {
			const struct wgroup *w = &g->w.layers[i].grp[k];

			if (engine_is_dora(g, i, k))
				g->dev->k.row_squares(g->dev, dora_of(g, i, k)->squares, engine_dense(g, i, k, &at), w->ld, w->out, w->in);
		}
	g->dora_measured = true;
}

/* The magnitudes of a group's projections that have an adapter in this layer; NULL for the others. */
static float *magnitudes(const struct engine *g, int64_t layer, enum linear_slot s, float *of)
{
	return g->lora->on[layer * LIN_N + (int)s] ? of + g->lora->mats[layer * LIN_N + (int)s].m : NULL;
}

static void group_factors(struct engine *g, int64_t layer, enum linear_group grp)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[layer].grp[grp];
	const struct dora_group *x = dora_of(g, layer, grp);
	struct kn_adapters p = engine_adapters(g, layer, grp);
	int64_t inner = p.n * p.rank;
	float *wa = g->adapter_scratch, *aa = wa + w->out * inner;
	struct kn_dora_factors a = { .out = w->out, .n = p.n, .rank = p.rank, .squares = x->squares, .wa = wa, .aa = aa, .factor = x->factor, .per = x->per };
	struct edges at;
	const void *dense = engine_dense(g, layer, grp, &at);

	/* A lies below W: one product is both */
	d->k.gemm(d, false, true, w->out + inner, inner, w->in, 1, dense, w->ld, at.lower, at.ld_lower, 0, NULL, wa, inner, true);
	a.b = at.right;
	a.ldb = at.ld_right;
	for (int j = 0; j < p.n; j++) {
		a.row[j] = p.row[j];
		a.rows[j] = p.rows[j];
		a.m[j] = magnitudes(g, layer, engine_lora_group(g, layer, grp)->slot[j], g->lora->params);
	}
	d->k.dora_factors(d, &a);
}

void engine_dora_refresh(struct engine *g)
{
	if (!g->lora || !g->lora->dora || g->dora_current)
		return;
	engine_place_adapters(g);
	measure(g);
	for (int64_t i = 0; i < g->w.desc.layers; i++)
		for (int k = 0; k < GRP_N; k++)
			if (engine_is_dora(g, i, k))
				group_factors(g, i, k);
	g->dora_current = true;
}

void engine_start_magnitudes(struct engine *g)
{
	struct device *d = g->dev;

	measure(g);
	for (int64_t i = 0; i < g->w.desc.layers; i++)
		for (int s = 0; s < LIN_N; s++) {
			enum linear_group k = group_of(s);
			int64_t n = g->w.layers[i].lin[s].rows;
			float *m = g->lora->mats[i * LIN_N + s].m < 0 ? NULL : magnitudes(g, i, s, g->lora->params), *length;
			double *squares;

			if (!m)
				continue;
			squares = xcalloc((size_t)n, sizeof(*squares));
			length = xcalloc((size_t)n, sizeof(*length));
			device_download(d, squares, dora_of(g, i, k)->squares + g->w.layers[i].grp[k].row[s - (int)group_first(k)], (uint64_t)n * sizeof(*squares));
			for (int64_t r = 0; r < n; r++)
				length[r] = (float)sqrt(squares[r]);
			device_upload(d, m, length, (uint64_t)n * sizeof(*length));
			free(squares);
			free(length);
		}
}

/* --- forward --- */

/* What the group's product gives is in a place of its own. */
static bool apart(const struct engine *g, enum linear_group grp)
{
	return g->dropout_on || grp == GRP_O || grp == GRP_DOWN;
}

/* y NULL: only what backward wants. */
static void linear(struct engine *g, int64_t layer, enum linear_group grp, void *x, const void *add, void *y, int64_t ldy, struct piece p)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[layer].grp[grp];
	struct acts a = engine_acts(g, layer, p.from);
	void *u = apart(g, grp) ? a.u[grp] : y;
	int64_t ldu = apart(g, grp) ? w->out : ldy;
	struct edges at;
	const void *dense = engine_dense(g, layer, grp, &at);

	engine_lora_down(g, layer, grp, x, &at, p);
	d->k.gemm(d, false, true, p.n, w->out, w->ld, 1, x, w->ld, dense, w->ld, 0, NULL, u, ldu, false);
	if (y && grp != GRP_GU)
		d->k.dora_out(d, &(struct kn_dora_out){ .t = p.n, .out = w->out, .u = u, .ldu = ldu, .add = add, .ld_add = ldy, .factor = dora_of(g, layer, grp)->factor,
		                                        .bias = w->bias, .y = y, .ldy = ldy });
}

/* Projection j of it: u from the masked input, and into y what its factor adds. */
static void masked_part(struct engine *g, int64_t layer, enum linear_group grp, const void *x, const void *dense, const struct edges *at, const struct kn_adapter_masks *m,
                        int j, void *y, int64_t ldy, struct piece p)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[layer].grp[grp];
	struct kn_adapters k = engine_adapters(g, layer, grp);
	int64_t row = k.row[j], rows = k.rows[j];
	void *u = act_at(d, engine_acts(g, layer, p.from).u[grp], row), *base = g->d_h;

	d->k.dropout(d, g->xd, w->in, x, w->ld, m->rec, m->pos, p.n, w->in, m->key[j], false);
	d->k.gemm(d, false, true, p.n, rows, w->in, 1, g->xd, w->in, act_at(d, dense, row * w->ld), w->ld, 0, NULL, base, rows, false);
	d->k.copy_rows(d, u, w->out, base, rows, p.n, rows);
	d->k.gemm(d, false, true, p.n, rows, k.rank, 1, act_at(d, x, w->in + j * k.rank), w->ld, act_at(d, at->right, row * at->ld_right + j * k.rank), at->ld_right, 1,
	          NULL, u, w->out, false);
	if (y)
		d->k.dora_out(d, &(struct kn_dora_out){ .t = p.n, .out = rows, .u = u, .ldu = w->out, .add = act_at(d, y, row), .ld_add = ldy, .less = base, .ld_less = rows,
		                                        .factor = dora_of(g, layer, grp)->factor + row, .y = act_at(d, y, row), .ldy = ldy });
}

static void masked_linear(struct engine *g, int64_t layer, enum linear_group grp, void *x, const void *add, void *y, int64_t ldy, struct piece p)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[layer].grp[grp];
	struct kn_adapter_masks m;
	struct edges at;
	const void *dense = engine_dense(g, layer, grp, &at);

	engine_lora_down(g, layer, grp, x, &at, p);
	if (y)
		d->k.gemm(d, false, true, p.n, w->out, w->in, 1, x, w->ld, dense, w->ld, add ? 1 : 0, add, y, ldy, false);
	if (y && w->bias)
		d->k.bias_add(d, y, ldy, w->bias, p.n, w->out);
	engine_masks(g, layer, grp, p.from, &m);
	for (int j = 0; j < engine_lora_group(g, layer, grp)->n; j++)
		masked_part(g, layer, grp, x, dense, &at, &m, j, y, ldy, p);
}

void engine_dora_linear(struct engine *g, int64_t layer, enum linear_group grp, void *x, const void *add, void *y, int64_t ldy, struct piece p)
{
	(g->dropout_on ? masked_linear : linear)(g, layer, grp, x, add, y, ldy, p);
}

/* --- backward --- */

static struct kn_dora_back back_of(const struct engine *g, int64_t layer, enum linear_group grp, int64_t t)
{
	const struct wgroup *w = &g->w.layers[layer].grp[grp];
	const struct dora_group *x = dora_of(g, layer, grp);
	struct kn_adapters p = engine_adapters(g, layer, grp);
	struct kn_dora_back b = { .t = t, .out = w->out, .n = p.n, .factor = x->factor, .per = x->per, .bias = w->bias, .scratch = g->adapter_scratch };

	for (int j = 0; j < p.n; j++) {
		b.row[j] = p.row[j];
		b.rows[j] = p.rows[j];
		b.dm[j] = g->lora->grads ? magnitudes(g, layer, engine_lora_group(g, layer, grp)->slot[j], g->lora->grads) : NULL;
	}
	b.squares = g->squares ? g->squares + engine_squares_m(g, layer, grp) : NULL;
	return b;
}

void engine_dora_scale(struct engine *g, int64_t layer, enum linear_group grp, void **dy, int64_t *ldy, struct piece p)
{
	const struct wgroup *w = &g->w.layers[layer].grp[grp];
	struct kn_dora_back b = back_of(g, layer, grp, p.n);
	struct acts a = engine_acts(g, layer, p.from);
	bool shared = grp == GRP_O || grp == GRP_DOWN; /* the residual stream's gradient goes on as it is */

	if (grp == GRP_GU && !g->dropout_on)
		return; /* the activation did it */
	b.of_output = !apart(g, grp);
	b.u = apart(g, grp) ? a.u[grp] : a.qkv;
	b.ldu = apart(g, grp) ? w->out : *ldy;
	b.dy = *dy;
	b.ldy = *ldy;
	b.du = shared ? g->d_y : *dy;
	b.ld_du = shared ? g->ld_res : *ldy;
	b.pad = shared ? g->ld_res - w->out : 0;
	g->dev->k.dora_back(g->dev, &b);
	*dy = b.du;
	*ldy = b.ld_du;
}

void engine_dora_through(struct engine *g, int64_t layer, enum linear_group grp, void *du, int64_t ld_du, const void *dense, const struct edges *at, void *dx, int64_t ld_dx,
                         struct piece p)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[layer].grp[grp];
	struct kn_adapters k = engine_adapters(g, layer, grp);
	struct kn_adapter_masks m;

	engine_masks(g, layer, grp, p.from, &m);
	for (int j = 0; j < k.n; j++) {
		void *e = act_at(d, du, k.row[j]);

		d->k.dora_rest(d, e, ld_du, dora_of(g, layer, grp)->factor + k.row[j], p.n, k.rows[j]);
		d->k.gemm(d, false, false, p.n, w->in, k.rows[j], 1, e, ld_du, act_at(d, dense, k.row[j] * w->ld), w->ld, 0, NULL, g->xd, w->in, false);
		d->k.gemm(d, false, false, p.n, w->in, k.rank, 1, act_at(d, du, w->out + j * k.rank), ld_du, act_at(d, at->lower, j * k.rank * at->ld_lower), at->ld_lower, 1, NULL,
		          g->xd, w->in, false);
		d->k.dropout(d, dx, ld_dx, g->xd, w->in, m.rec, m.pos, p.n, w->in, m.key[j], true);
	}
}

/* --- the activation --- */

static struct kn_dora_gate gate_of(const struct engine *g, int64_t layer, const struct acts *a, int64_t t)
{
	const struct wgroup *w = &g->w.layers[layer].grp[GRP_GU];
	struct kn_dora_gate x = { .back = back_of(g, layer, GRP_GU, t), .h = a->h, .ldh = g->w.layers[layer].grp[GRP_DOWN].ld };

	x.back.u = a->gu;
	x.back.ldu = w->out + w->pad;
	return x;
}

bool engine_dora_gates(const struct engine *g, int64_t layer)
{
	return engine_is_dora(g, layer, GRP_GU) && !g->dropout_on;
}

void engine_dora_gate(struct engine *g, int64_t layer, struct piece p)
{
	struct acts a = engine_acts(g, layer, p.from);
	struct kn_dora_gate x = gate_of(g, layer, &a, p.n);

	g->dev->k.dora_gate_fwd(g->dev, &x);
}

void engine_dora_gate_bwd(struct engine *g, int64_t layer, struct piece p, bool again)
{
	struct acts a = engine_acts(g, layer, p.from);
	struct kn_dora_gate x = gate_of(g, layer, &a, p.n);

	x.dh = g->d_h;
	if (!again)
		x.h = NULL;
	g->dev->k.dora_gate_bwd(g->dev, &x);
}
