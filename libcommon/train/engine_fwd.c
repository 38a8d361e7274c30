/* The forward pass and the loss. */
#include <math.h>

#include "base/rng.h"
#include "train/engine.h"

void engine_set_dropout(struct engine *g, bool on, uint64_t seed, int64_t step)
{
	g->dropout_on = on && g->lora && g->lora->dropout > 0;
	g->dropout.seed_step = rng_u64(seed, rng_stream("dropout"), (uint64_t)step);
	g->dropout.p = g->lora ? (float)g->lora->dropout : 0;
}

/* lora_s (T, r) = dropout(x) A^T; false when the projection has no adapter. */
static bool lora_down(struct engine *g, const struct lora_mat *l, int64_t cols, const float *x, float *lora_s, const struct microbatch *b)
{
	struct device *d = g->dev;
	int64_t r;

	if (!l || l->b < 0)
		return false;
	r = g->lora->rank;
	if (g->dropout_on) {
		g->dropout.tensor = l->id;
		d->k.dropout(d, g->xd, x, b->rec, b->pos, b->n_tokens, cols, g->dropout, false);
		x = g->xd;
	}
	d->k.gemm(d, false, true, b->n_tokens, r, cols, 1, x, cols, g->lora->params + l->a, cols, 0, lora_s, r);
	return true;
}

static const struct lora_mat *lora_of(const struct engine *g, int64_t layer, enum linear_slot s)
{
	return g->lora ? &g->lora->mats[layer * LIN_N + s] : NULL;
}

/* y (T, out) = x W^T + bias + scale * dropout(x) A^T B^T. */
static void linear(struct engine *g, int64_t layer, enum linear_slot s, const float *x, float *y, float *lora_s, const struct microbatch *b)
{
	struct device *d = g->dev;
	const struct wmat *m = &g->w.layers[layer].lin[s];
	const struct lora_mat *l = lora_of(g, layer, s);
	int64_t t = b->n_tokens;

	d->k.gemm(d, false, true, t, m->rows, m->cols, 1, x, m->cols, weights_f32(d, m, g->wide), m->cols, 0, y, m->rows);
	if (m->bias)
		d->k.bias_add(d, y, m->bias, t, m->rows);
	if (lora_down(g, l, m->cols, x, lora_s, b))
		d->k.gemm(d, false, true, t, m->rows, g->lora->rank, g->lora->scale, lora_s, g->lora->rank, g->lora->params + l->b,
		          g->lora->rank, 1, y, m->rows);
}

void engine_layer(struct engine *g, int64_t i, const struct microbatch *b, engine_attn_fn *attn, void *ctx, bool again)
{
	struct device *d = g->dev;
	const struct model_desc *m = &g->w.desc;
	const struct layer_weights *lw = &g->w.layers[i];
	struct acts *a = &g->acts[i];
	int64_t t = b->n_tokens, c = m->hidden, hd = m->head_dim;
	float eps = (float)m->rms_eps;

	if (i > 0 && !again)
		d->k.rmsnorm_fwd(d, g->x1[i], a->y1, a->rstd1, g->acts[i - 1].x2, g->delta, lw->norm1, t, c, eps);
	else
		d->k.rmsnorm_fwd(d, NULL, a->y1, a->rstd1, g->x1[i], NULL, lw->norm1, t, c, eps);
	linear(g, i, LIN_Q, a->y1, a->q, a->s[LIN_Q], b);
	linear(g, i, LIN_K, a->y1, a->k, a->s[LIN_K], b);
	linear(g, i, LIN_V, a->y1, a->v, a->s[LIN_V], b);
	d->k.rope(d, a->q, m->heads * hd, b->pos, g->cos_tab, g->sin_tab, t, m->heads, hd, hd, false);
	d->k.rope(d, a->k, m->kv_heads * hd, b->pos, g->cos_tab, g->sin_tab, t, m->kv_heads, hd, hd, false);
	attn(ctx, g, i, a, b);
	linear(g, i, LIN_O, a->o, g->delta, a->s[LIN_O], b);
	d->k.rmsnorm_fwd(d, a->x2, a->y2, a->rstd2, g->x1[i], g->delta, lw->norm2, t, c, eps);
	linear(g, i, LIN_GATE, a->y2, a->g, a->s[LIN_GATE], b);
	linear(g, i, LIN_UP, a->y2, a->u, a->s[LIN_UP], b);
	d->k.swiglu_fwd(d, a->h, a->g, a->u, t * m->ffn);
	if (again) /* backward wants no output of the layer, only what its last adapter saw */
		lora_down(g, lora_of(g, i, LIN_DOWN), m->ffn, a->h, a->s[LIN_DOWN], b);
	else
		linear(g, i, LIN_DOWN, a->h, g->delta, a->s[LIN_DOWN], b);
}

void engine_forward(struct engine *g, const struct microbatch *b, engine_attn_fn *attn, void *ctx)
{
	struct device *d = g->dev;
	const struct model_desc *m = &g->w.desc;

	d->k.embed_fwd(d, g->x1[0], b->ids, g->w.embed.data, g->w.embed.dtype, b->n_tokens, m->hidden);
	for (int64_t i = 0; i < m->layers; i++)
		engine_layer(g, i, b, attn, ctx, false);
	d->k.rmsnorm_fwd(d, g->x_final, g->y_final, g->rstd_final, g->acts[m->layers - 1].x2, g->delta, g->w.norm, b->n_tokens,
	                 m->hidden, (float)m->rms_eps);
}

const float *engine_head_rows(struct engine *g, int64_t first, int64_t *rows)
{
	const struct wmat *h = &g->w.head;
	const char *src = (const char *)h->data + (size_t)(first * h->cols) * dtype_bytes(h->dtype);

	*rows = h->rows - first;
	if (!g->wide_head)
		return (const float *)(const void *)src;
	if (*rows > g->head_rows)
		*rows = g->head_rows;
	g->dev->k.widen(g->dev, g->wide_head, src, h->dtype, *rows * h->cols);
	return g->wide_head;
}

void engine_head(struct engine *g, const float *hid, float *logits, int64_t n)
{
	struct device *d = g->dev;
	int64_t c = g->w.head.cols, vocab = g->w.head.rows, rows;

	for (int64_t v = 0; v < vocab; v += rows) {
		const float *w = engine_head_rows(g, v, &rows);

		d->k.gemm(d, false, true, n, rows, c, 1, hid, c, w, c, 0, logits + v, vocab);
	}
}

/* --- attention over the micro-batch's own sequences --- */

void engine_attn_shape(const struct engine *g, int64_t layer, const struct microbatch *b, struct kn_attn_shape *s)
{
	const struct model_desc *m = &g->w.desc;

	*s = (struct kn_attn_shape){ .n_heads = m->heads, .n_kv = m->kv_heads, .head_dim = m->head_dim, .ldq = m->heads * m->head_dim,
		.ldk = m->kv_heads * m->head_dim, .ldv = m->kv_heads * m->head_dim, .ldo = m->heads * m->head_dim,
		.window = model_window(m, layer), .scale = (float)(1 / sqrt((double)m->head_dim)), .n_seqs = b->n_seqs,
		.seq_start = b->seq_start, .scratch = g->attn_scratch };
}

void engine_attn_self(void *ctx, struct engine *g, int64_t layer, struct acts *a, const struct microbatch *b)
{
	struct kn_attn_shape s;

	(void)ctx;
	engine_attn_shape(g, layer, b, &s);
	g->dev->k.attn_fwd(g->dev, &s, a->q, a->k, a->v, a->o, a->lse);
}

/* --- loss --- */

/* Chunks of target rows: logits, losses, and with grad the gradient of the
 * final norm's output, so that full logits never exist. */
static void loss_chunks(struct engine *g, const struct microbatch *b, bool grad, float scale)
{
	struct device *d = g->dev;
	int64_t c = g->w.desc.hidden, vocab = g->w.desc.vocab, rows;

	if (grad)
		device_zero(d, g->d_y, (uint64_t)(b->n_tokens * c) * sizeof(float));
	for (int64_t i = 0; i < b->n_targets; i += g->chunk) {
		int64_t n = b->n_targets - i < g->chunk ? b->n_targets - i : g->chunk;

		d->k.gather_rows(d, g->hid, g->y_final, b->tgt_row + i, n, c);
		engine_head(g, g->hid, g->logits, n);
		d->k.xent(d, g->logits, b->tgt_id + i, g->nll + i, n, vocab, scale, grad);
		if (!grad)
			continue;
		for (int64_t v = 0; v < vocab; v += rows) {
			const float *w = engine_head_rows(g, v, &rows);

			d->k.gemm(d, false, false, n, c, rows, 1, g->logits + v, vocab, w, c, v ? 1 : 0, g->d_hid, c);
		}
		d->k.scatter_rows(d, g->d_y, g->d_hid, b->tgt_row + i, n, c);
	}
}

int engine_run(struct engine *g, const struct microbatch *b, bool grad, double scale, struct err *e)
{
	engine_forward(g, b, engine_attn_self, NULL);
	loss_chunks(g, b, grad, (float)scale);
	if (grad)
		engine_backward(g, b);
	return device_sync(g->dev, e);
}

int engine_logits(struct engine *g, const struct microbatch *b, const int32_t *rows, int64_t n, struct err *e)
{
	engine_forward(g, b, engine_attn_self, NULL);
	g->dev->k.gather_rows(g->dev, g->hid, g->y_final, rows, n, g->w.desc.hidden);
	engine_head(g, g->hid, g->logits, n);
	return device_sync(g->dev, e);
}
