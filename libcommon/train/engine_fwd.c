/* The forward pass. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "train/engine.h"

void engine_set_dropout(struct engine *g, bool on, uint64_t seed, int64_t step)
{
	g->dropout_on = on && g->lora && g->lora->dropout > 0;
	g->seed_step = rng_u64(seed, rng_stream("dropout"), (uint64_t)step);
}

/* --- the micro-batch on the device --- */

static void stage(const struct engine *g, int32_t *host, const int32_t *place, const void *src, int64_t n)
{
	if (n)
		memcpy(host + (place - (int32_t *)(void *)g->in.seed_step), src, (size_t)n * sizeof(*place));
}

void engine_send(struct engine *g, const struct microbatch *b)
{
	struct inputs *in = &g->in;
	struct device *d = g->dev;
	int turn = g->in_turn ^= 1, slot = SLOT_INPUTS + turn;
	int32_t *host = g->in_host[turn];

	d->k.settle(d, slot, NULL); /* the buffer has been read */
	stage(g, host, (int32_t *)(void *)in->seed_step, &g->seed_step, 2);
	stage(g, host, (int32_t *)(void *)in->scale, &g->scale, 1);
	stage(g, host, in->ids, b->ids, b->n_tokens);
	stage(g, host, in->pos, b->pos, b->n_tokens);
	stage(g, host, in->rec, b->rec, b->n_tokens);
	stage(g, host, in->seq_start, b->seq_start, b->n_seqs + 1);
	stage(g, host, in->tgt_row, b->tgt_row, b->n_targets);
	stage(g, host, in->tgt_id, b->tgt_id, b->n_targets);
	if (in->by_id)
		trained_sort_ids(b->ids, b->n_tokens, host + (in->by_id - (int32_t *)(void *)in->seed_step), host + (in->run - (int32_t *)(void *)in->seed_step));
	if (g->shape.pref) {
		float n = (float)g->drift_of;

		stage(g, host, (int32_t *)(void *)in->drift_of, &n, 1);
		stage(g, host, (int32_t *)(void *)in->ref, b->ref, 2 * b->n_seqs);
		stage(g, host, in->tgt_start, b->tgt_start, b->n_seqs + 1);
		stage(g, host, in->mate, b->mate, b->n_seqs);
		stage(g, host, in->good, b->good, b->n_seqs);
	}
	if (g->shape.grpo) {
		stage(g, host, (int32_t *)(void *)in->adv, b->adv, 2 * b->n_seqs);
		stage(g, host, (int32_t *)(void *)in->weight, b->weight, 2 * b->n_seqs);
		stage(g, host, (int32_t *)(void *)in->tok_old, b->tok_old, 2 * b->n_targets);
		stage(g, host, (int32_t *)(void *)in->tok_ref, b->tok_ref, 2 * b->n_targets);
		stage(g, host, in->tgt_start, b->tgt_start, b->n_seqs + 1);
	}
	in->n_tiles = attn_tiles(b->seq_start, b->n_seqs, host + (in->tiles - (int32_t *)(void *)in->seed_step));
	d->k.back(d, slot, in->seed_step, host, (uint64_t)g->in_count * sizeof(*host));
	d->k.await(d, slot);
}

/* --- projections with their adapters --- */

const struct lora_group *engine_lora_group(const struct engine *g, int64_t layer, enum linear_group grp)
{
	const struct lora_group *l = g->lora ? &g->lora->groups[layer * GRP_N + grp] : NULL;

	return l && l->n ? l : NULL;
}

struct kn_adapters engine_adapters(const struct engine *g, int64_t layer, enum linear_group grp)
{
	const struct wgroup *w = &g->w.layers[layer].grp[grp];
	const struct lora_group *l = engine_lora_group(g, layer, grp);
	struct kn_adapters a = { .in = w->in, .out = w->out, .pad = w->pad };

	if (!l)
		return a;
	a.n = l->n;
	a.rank = g->lora->rank;
	a.scale = g->lora->scale;
	a.a = g->lora->params + l->a;
	for (int j = 0; j < l->n; j++) {
		a.b[j] = g->lora->params + g->lora->mats[layer * LIN_N + (int)l->slot[j]].b;
		a.row[j] = w->row[l->slot[j] - w->first];
		a.rows[j] = g->w.layers[layer].lin[l->slot[j]].rows;
	}
	return a;
}

/* Where a group's adapters stand beside dense, its own form or a scratch. */
static struct edges edges_at(const struct engine *g, const struct wgroup *w, void *dense)
{
	if (!dense)
		return (struct edges){ w->lower, w->right, w->in, w->pad };
	return (struct edges){ act_at(g->dev, dense, w->out * w->ld), act_at(g->dev, dense, w->in), w->ld, w->ld };
}

static void place(struct engine *g, const struct edges *at, struct kn_adapters a)
{
	if (a.n)
		g->dev->k.adapter_place(g->dev, at->right, at->ld_right, at->lower, at->ld_lower, &a);
}

void engine_place_adapters(struct engine *g)
{
	for (int64_t i = 0; i < g->w.desc.layers; i++)
		for (int k = 0; k < GRP_N; k++) {
			const struct wgroup *w = &g->w.layers[i].grp[k];
			struct edges at = edges_at(g, w, w->dense);
			struct kn_adapters a = engine_adapters(g, i, k);

			if (at.lower)
				place(g, &at, a);
			if (a.n && g->w.fp8)
				g->dev->k.fp8_place(g->dev, &w->w8, &w->w8t, &a);
		}
}

struct edges engine_edges(struct engine *g, int64_t layer, enum linear_group grp)
{
	const struct wgroup *w = &g->w.layers[layer].grp[grp];
	struct edges at = edges_at(g, w, w->dense || w->lower ? w->dense : g->dense);

	if (!w->dense && !w->lower)
		place(g, &at, engine_adapters(g, layer, grp));
	return at;
}

void *engine_dense(struct engine *g, int64_t layer, enum linear_group grp, struct edges *at)
{
	const struct layer_weights *lw = &g->w.layers[layer];
	void *dense = weights_dense(g->dev, lw, grp, g->dense);

	*at = edges_at(g, &lw->grp[grp], dense);
	if (!lw->grp[grp].dense)
		place(g, at, engine_adapters(g, layer, grp));
	return dense;
}

const struct kn_adapter_masks *engine_masks(const struct engine *g, int64_t layer, enum linear_group grp, int64_t from, struct kn_adapter_masks *m)
{
	const struct lora_group *l = engine_lora_group(g, layer, grp);

	if (!g->dropout_on)
		return NULL;
	*m = (struct kn_adapter_masks){ .rank = g->lora->rank, .rec = g->in.rec + from, .pos = g->in.pos + from, .room = g->xd };
	for (int j = 0; l && j < l->n; j++)
		m->key[j] = (struct kn_dropout_key){ g->in.seed_step, g->lora->mats[layer * LIN_N + (int)l->slot[j]].id, (float)g->lora->dropout };
	return m;
}

void engine_lora_down(struct engine *g, int64_t layer, enum linear_group grp, void *x, const struct edges *at, struct piece p)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[layer].grp[grp];
	const struct lora_group *l = engine_lora_group(g, layer, grp);
	void *keep = g->acts[layer].s[grp];
	struct kn_adapter_masks m;

	if (!l)
		return;
	d->k.adapter_down(d, &(struct kn_adapter_outer){ .t = p.n, .in = w->in, .nr = l->n * g->lora->rank, .x = x, .ldx = w->ld, .a = at->lower, .lda = at->ld_lower,
	                                                 .masks = engine_masks(g, layer, grp, p.from, &m) });
	if (keep)
		d->k.copy_rows(d, act_at(d, keep, p.from * w->pad), w->pad, act_at(d, x, w->in), w->ld, p.n, w->pad);
}

void engine_product8(struct engine *g, const void *x, int64_t ldx, int64_t t, int64_t cols, int64_t inner, const struct fp8_mat *w8, int64_t n, const void *c0,
                     void *c, int64_t ldc)
{
	struct fp8_mat q = g->in8;

	q.ld = cols + fp8_tail(inner);
	g->dev->k.fp8_rows(g->dev, &q, x, ldx, t, cols, inner, fp8_tail(inner), FP8_TOP_ACT);
	g->dev->k.fp8_gemm(g->dev, t, n, q.ld, &q, w8, c0, c, ldc);
}

/* y (T, out), row stride ldy, = add + x W^T + bias + scale * dropout(x) A^T B^T; add NULL: nothing. The rows are p's, and the
 * room behind x's is used. */
static void linear(struct engine *g, int64_t layer, enum linear_group grp, void *x, const void *add, void *y, int64_t ldy, struct piece p)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[layer].grp[grp];
	const struct lora_group *l = engine_lora_group(g, layer, grp);
	const void *dense = NULL;
	struct edges at;

	if (engine_is_dora(g, layer, grp)) {
		engine_dora_linear(g, layer, grp, x, add, y, ldy, p);
		return;
	}
	if (g->w.fp8)
		at = engine_edges(g, layer, grp);
	else
		dense = engine_dense(g, layer, grp, &at);
	engine_lora_down(g, layer, grp, x, &at, p);
	if (g->w.fp8)
		engine_product8(g, x, w->ld, p.n, w->in, l ? l->n * g->lora->rank : 0, &w->w8, w->out, add, y, ldy);
	else
		d->k.gemm(d, false, true, p.n, w->out, l ? w->ld : w->in, 1, x, w->ld, dense, w->ld, add ? 1 : 0, add, y, ldy, false);
	if (w->bias)
		d->k.bias_add(d, y, ldy, w->bias, p.n, w->out);
}

/* gu, and h: the activation is part of the product where nothing comes between. */
static void linear_gated(struct engine *g, int64_t layer, const struct acts *a, struct piece p)
{
	struct device *d = g->dev;
	const struct wgroup *w = &g->w.layers[layer].grp[GRP_GU];
	int64_t f = g->w.desc.ffn, ldg = w->out + w->pad, ldh = g->w.layers[layer].grp[GRP_DOWN].ld;
	struct edges at;
	void *dense;

	if (g->w.fp8 || w->bias || engine_is_dora(g, layer, GRP_GU)) {
		linear(g, layer, GRP_GU, a->y2, NULL, a->gu, ldg, p);
		if (engine_dora_gates(g, layer))
			engine_dora_gate(g, layer, p);
		else
			d->k.swiglu_fwd(d, a->h, ldh, a->gu, ldg, p.n, f);
		return;
	}
	dense = engine_dense(g, layer, GRP_GU, &at);
	engine_lora_down(g, layer, GRP_GU, a->y2, &at, p);
	d->k.gated_fwd(d, &(struct kn_gated){ .t = p.n, .f = f, .k = engine_lora_group(g, layer, GRP_GU) ? w->ld : w->in, .x = a->y2, .ldx = w->ld, .w = dense, .ldw = w->ld,
	                                      .gu = a->gu, .ldg = ldg, .h = a->h, .ldh = ldh });
}

/* A group's inner values alone. */
static void inner_again(struct engine *g, int64_t layer, enum linear_group grp, void *x, struct piece p)
{
	struct edges at = engine_edges(g, layer, grp);

	engine_lora_down(g, layer, grp, x, &at, p);
}

/* --- layers --- */

static int64_t ld_in(const struct engine *g, enum linear_group grp)
{
	return g->w.layers[0].grp[grp].ld;
}

static int64_t ld_out(const struct engine *g, enum linear_group grp)
{
	return g->w.layers[0].grp[grp].out + g->w.layers[0].grp[grp].pad;
}

struct acts engine_acts(const struct engine *g, int64_t layer, int64_t from)
{
	struct device *d = g->dev;
	struct acts a = g->acts[layer];

	a.qkv = act_at(d, a.qkv, from * ld_out(g, GRP_QKV));
	a.o = act_at(d, a.o, from * ld_in(g, GRP_O));
	a.rstd1 += from;
	a.rstd2 += from;
	a.lse += from * g->w.desc.heads;
	if (a.near_whole) {
		a.y1 = act_at(d, a.y1, from * ld_in(g, GRP_QKV));
		a.y2 = act_at(d, a.y2, from * ld_in(g, GRP_GU));
		a.h = act_at(d, a.h, from * ld_in(g, GRP_DOWN));
	}
	if (a.far_whole) {
		a.x2 = act_at(d, a.x2, from * g->w.desc.hidden);
		a.gu = act_at(d, a.gu, from * ld_out(g, GRP_GU));
	}
	for (int k = 0; k < GRP_N; k++)
		if (a.u[k] && (k < GRP_GU || a.far_whole))
			a.u[k] = act_at(d, a.u[k], from * g->w.layers[layer].grp[k].out);
	for (int k = 0; k < GRP_N; k++)
		a.s[k] = a.s[k] ? act_at(d, a.s[k], from * g->w.layers[layer].grp[k].pad) : NULL;
	return a;
}

static void *stream_at(const struct engine *g, int64_t i, int64_t from)
{
	return act_at(g->dev, g->x1[i], from * g->w.desc.hidden);
}

void engine_norm1(struct engine *g, int64_t i, struct piece p)
{
	const struct model_desc *m = &g->w.desc;
	struct acts a = engine_acts(g, i, p.from);

	g->dev->k.rmsnorm_fwd(g->dev, a.y1, ld_in(g, GRP_QKV), a.rstd1, stream_at(g, i, p.from), g->w.layers[i].norm1, p.n, m->hidden, (float)m->rms_eps);
}

void engine_norm2(struct engine *g, int64_t i, struct piece p)
{
	const struct model_desc *m = &g->w.desc;
	struct acts a = engine_acts(g, i, p.from);

	g->dev->k.rmsnorm_fwd(g->dev, a.y2, ld_in(g, GRP_GU), a.rstd2, a.x2, g->w.layers[i].norm2, p.n, m->hidden, (float)m->rms_eps);
}

void engine_rotate(struct engine *g, void *qkv, int64_t ld, int64_t t, bool inverse)
{
	const struct model_desc *m = &g->w.desc;

	/* q and k lie side by side: their heads turn alike */
	g->dev->k.rope(g->dev, qkv, ld, g->in.pos, g->cos_tab, g->sin_tab, t, m->heads + m->kv_heads, m->head_dim, m->head_dim, inverse);
}

void engine_attend(struct engine *g, int64_t i, const struct microbatch *b, engine_attn_fn *attn, void *ctx)
{
	int64_t t = b->n_tokens, ld = ld_out(g, GRP_QKV);

	for (int64_t from = 0; from < t; from += g->shape.piece) {
		struct piece p = engine_piece(g, from, t);
		struct acts a = engine_acts(g, i, from);

		engine_norm1(g, i, p);
		linear(g, i, GRP_QKV, a.y1, NULL, a.qkv, ld, p);
	}
	engine_rotate(g, g->acts[i].qkv, ld, t, false);
	attn(ctx, g, i, &g->acts[i], b);
}

void engine_feed(struct engine *g, int64_t i, struct piece p, bool again)
{
	const struct model_desc *m = &g->w.desc;
	struct acts a = engine_acts(g, i, p.from);

	linear(g, i, GRP_O, a.o, stream_at(g, i, p.from), a.x2, m->hidden, p);
	engine_norm2(g, i, p);
	linear_gated(g, i, &a, p);
	if (again && engine_is_dora(g, i, GRP_DOWN))
		engine_dora_linear(g, i, GRP_DOWN, a.h, NULL, NULL, m->hidden, p);
	else if (again) /* backward wants no output of the layer, only what its last adapter saw */
		inner_again(g, i, GRP_DOWN, a.h, p);
	else
		linear(g, i, GRP_DOWN, a.h, a.x2, stream_at(g, i + 1, p.from), m->hidden, p);
}

void engine_input_again(struct engine *g, int64_t i, struct piece p)
{
	engine_norm1(g, i, p);
	inner_again(g, i, GRP_QKV, engine_acts(g, i, p.from).y1, p);
}

void engine_embed(struct engine *g, const struct microbatch *b)
{
	struct device *d = g->dev;
	const struct wmat *w = &g->w.embed;
	int64_t c = g->w.desc.hidden;

	if (g->noise_on) {
		engine_embed_noisy(g, b);
		return;
	}
	if (!g->w.host_embed) {
		d->k.embed_fwd(d, g->x1[0], g->in.ids, w->data, w->dtype, b->n_tokens, c);
		return;
	}
	for (int64_t from = 0; from < b->n_tokens; from += g->shape.piece)
		d->k.embed_host(d, stream_at(g, 0, from), b->ids + from, w->data, w->dtype, engine_piece(g, from, b->n_tokens).n, c, g->embed_way);
}

void engine_layers(struct engine *g, const struct microbatch *b, engine_attn_fn *attn, void *ctx)
{
	struct device *d = g->dev;
	const struct model_desc *m = &g->w.desc;
	uint64_t stream = (uint64_t)(b->n_tokens * m->hidden) * dtype_bytes(d->act);

	for (int64_t i = 0; i < m->layers; i++) {
		if (g->away)
			d->k.await(d, (int)((i + 1) % RING)); /* the layer writes there */
		if (g->x1_host[i] && g->backward)
			d->k.away(d, (int)(i % RING), g->x1_host[i], g->x1[i], stream);
		engine_set_await(g, i);
		engine_attend(g, i, b, attn, ctx);
		for (int64_t from = 0; from < b->n_tokens; from += g->shape.piece)
			engine_feed(g, i, engine_piece(g, from, b->n_tokens), false);
		engine_set_away(g, i, b->n_tokens);
	}
}

void engine_forward(struct engine *g, const struct microbatch *b, engine_attn_fn *attn, void *ctx)
{
	engine_embed(g, b);
	engine_layers(g, b, attn, ctx);
}

void engine_hidden(struct engine *g, const int32_t *rows, int64_t n)
{
	struct device *d = g->dev;
	const struct model_desc *m = &g->w.desc;

	d->k.gather_rows(d, g->x_hid, g->x1[m->layers], rows, n, m->hidden);
	d->k.rmsnorm_fwd(d, g->hid, m->hidden, g->rstd_hid, g->x_hid, g->w.norm, n, m->hidden, (float)m->rms_eps);
}

/* --- attention over the micro-batch's own sequences --- */

void engine_attn_shape(const struct engine *g, int64_t layer, const struct microbatch *b, struct kn_attn_shape *s)
{
	const struct model_desc *m = &g->w.desc;
	int64_t ld = ld_out(g, GRP_QKV);

	*s = (struct kn_attn_shape){ .n_heads = m->heads, .n_kv = m->kv_heads, .head_dim = m->head_dim, .ldq = ld, .ldk = ld, .ldv = ld,
		.ldo = ld_in(g, GRP_O),
		.window = model_window(m, layer), .scale = (float)(1 / sqrt((double)m->head_dim)), .n_seqs = b->n_seqs,
		.n_tokens = b->n_tokens, .seq_start = b->seq_start, .seq_start_dev = g->in.seq_start, .tiles = g->in.tiles,
		.n_tiles = g->in.n_tiles, .scratch = g->attn_scratch, .decode_scratch = g->decode_scratch };
}

void engine_attn_self(void *ctx, struct engine *g, int64_t layer, struct acts *a, const struct microbatch *b)
{
	struct kn_attn_shape s;

	(void)ctx;
	engine_attn_shape(g, layer, b, &s);
	g->dev->k.attn_fwd(g->dev, &s, a->qkv, engine_k(g, a->qkv), engine_v(g, a->qkv), a->o, a->lse);
}

int engine_logits(struct engine *g, const struct microbatch *b, const int32_t *rows, int64_t n, struct err *e)
{
	struct microbatch with = *b;

	/* the rows asked for take the place of the targets' */
	with.n_targets = n;
	with.tgt_row = (int32_t *)(uintptr_t)rows;
	with.tgt_id = (int32_t *)(uintptr_t)rows;
	engine_send(g, &with);
	engine_place_adapters(g);
	g->dora_current = false;
	engine_dora_refresh(g);
	engine_forward(g, b, engine_attn_self, NULL);
	engine_hidden(g, g->in.tgt_row, n);
	engine_head(g, g->hid, g->logits, n);
	return device_sync(g->dev, e);
}
