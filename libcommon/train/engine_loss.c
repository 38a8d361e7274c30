/* The loss: the head's product with the rows that predict, their losses, and the gradient of those rows. */
#include "train/engine.h"

/* --- the head, of which the last rows may be in host memory: then a segment travels while those before it are used --- */

static uint64_t row_bytes(const struct engine *g)
{
	return (uint64_t)g->w.head.cols * dtype_bytes(g->w.head.dtype);
}

static char *buffer(const struct engine *g, int64_t k)
{
	return (char *)g->head_ring + (uint64_t)(k % HEAD_RING * g->segment) * row_bytes(g);
}

/* Segment k of those in host memory begins to travel, into the buffer of the one whose products were the last. */
static void send_for(struct engine *g, int64_t k)
{
	int64_t from = k * g->segment, rows = g->w.head.rows - g->w.head_rows - from;

	if (rows > 0)
		g->dev->k.back(g->dev, SLOT_HEAD + (int)(k % HEAD_RING), buffer(g, k), (char *)g->w.head_host + (uint64_t)from * row_bytes(g),
		               (uint64_t)(rows < g->segment ? rows : g->segment) * row_bytes(g));
}

/* Before the head is read from its first row to its last. */
static void head_begin(struct engine *g)
{
	for (int64_t k = 0; k < HEAD_RING; k++)
		send_for(g, k);
}

/* Rows [first, first + *rows) in the activation type: at most `most` of them, and as many as are there at once. */
static const void *head_rows(struct engine *g, int64_t first, int64_t most, int64_t *rows)
{
	const struct wmat *h = &g->w.head;
	int64_t away = first - g->w.head_rows, n = away < 0 ? -away : h->rows - first;
	const char *src = (const char *)h->data + (uint64_t)first * row_bytes(g);

	if ((away >= 0 || g->head_rows_at) && most > g->segment)
		most = g->segment;
	*rows = n < most ? n : most;
	if (away >= 0) {
		g->dev->k.await(g->dev, SLOT_HEAD + (int)(away / g->segment % HEAD_RING));
		src = buffer(g, away / g->segment);
	}
	if (!g->head_rows_at)
		return src;
	g->dev->k.convert(g->dev, g->head_rows_at, h->cols, src, h->dtype, *rows, h->cols);
	return g->head_rows_at;
}

/* All products with the rows from first on are queued. */
static void head_done(struct engine *g, int64_t first)
{
	if (first >= g->w.head_rows)
		send_for(g, (first - g->w.head_rows) / g->segment + HEAD_RING);
}

void engine_head(struct engine *g, const void *hid, void *logits, int64_t n)
{
	struct device *d = g->dev;
	int64_t c = g->w.head.cols, vocab = g->w.head.rows, rows;

	head_begin(g);
	for (int64_t v = 0; v < vocab; v += rows) {
		const void *w = head_rows(g, v, vocab, &rows);

		d->k.gemm(d, false, true, n, rows, c, 1, hid, c, w, c, 0, NULL, act_at(d, logits, v), vocab, false);
		head_done(g, v);
	}
}

/* --- losses and gradients, a segment of the vocabulary at a time (xent.h) --- */

/* Of the n rows in hid; with x->acc their gradients, into d_hid. The segments are the same in every plan, since the order of
 * sums follows from them. */
static void loss_rows(struct engine *g, const struct kn_xent *x, double *nll)
{
	struct device *d = g->dev;
	int64_t c = g->w.head.cols, vocab = g->w.head.rows, rows;

	head_begin(g);
	for (int64_t v = 0; v < vocab; v += rows) {
		const void *w = head_rows(g, v, g->segment, &rows);

		d->k.gemm(d, false, true, x->n, rows, c, g->shape.grpo ? (float)(1 / g->shape.grpo->temperature) : 1, g->hid, c, w, c, 0, NULL, g->logits, g->segment, false);
		d->k.xent_segment(d, x, g->logits, g->segment, w, v, rows);
		if (x->acc)
			d->k.gemm(d, false, false, x->n, c, rows, 1, g->logits, g->segment, w, c, v ? 1 : 0, NULL, x->acc, c, true);
		head_done(g, v);
	}
	d->k.xent_end(d, x, nll, g->in.scale);
}

/* Where the head is trained: all logits of the n rows in hid, their losses, d_hid and the head's own gradient. */
static void loss_whole(struct engine *g, const struct kn_xent *x, double *nll)
{
	struct device *d = g->dev;
	const void *w = g->w.head.data;
	int64_t c = g->w.head.cols, vocab = g->w.head.rows, ld = g->ld_logits;

	d->k.gemm(d, false, true, x->n, vocab, c, 1, g->hid, c, w, c, 0, NULL, g->logits, ld, false);
	d->k.xent_whole(d, g->logits, ld, x->n, vocab, x->target, nll, g->in.scale);
	d->k.gemm(d, false, false, x->n, c, vocab, 1, g->logits, ld, w, c, 0, NULL, g->d_hid, c, false);
	d->k.gemm(d, true, false, vocab, c, x->n, 1, g->logits, ld, g->hid, c, 1, NULL, trained_table_grad(g->shape.base, true), c, true);
}

void engine_hidden_bwd(struct engine *g, const int32_t *rows, int64_t n)
{
	struct device *d = g->dev;
	int64_t c = g->w.desc.hidden;

	if (engine_trains(g, TRAIN_LAYERS))
		d->k.col_sums(d, trained_norm_grad(g->shape.base, -1, false), g->d_hid, c, g->x_hid, c, g->rstd_hid, n, c, g->col_scratch);
	device_zero(d, g->hid, (uint64_t)(n * c) * dtype_bytes(d->act));
	d->k.rmsnorm_bwd(d, g->hid, c, g->d_hid, g->x_hid, g->rstd_hid, g->w.norm, n, c);
	d->k.scatter_rows(d, g->d_res, g->ld_res, g->hid, rows, n, c);
}

void engine_loss(struct engine *g, const struct microbatch *b, bool grad)
{
	struct device *d = g->dev;
	int64_t c = g->w.desc.hidden, chunks = (b->n_targets + g->loss_rows - 1) / g->loss_rows;
	int64_t each = chunks ? (b->n_targets + chunks - 1) / chunks : 0; /* no small rest at the end */

	if (g->shape.pref && g->shape.pref->method == KN_PREF_REWARD) {
		engine_score_loss(g, b, grad);
		return;
	}
	if (grad)
		device_zero(d, g->d_res, (uint64_t)(b->n_tokens * g->ld_res) * dtype_bytes(d->act));
	for (int64_t i = 0; i < b->n_targets; i += each) {
		struct kn_xent x = { .n = b->n_targets - i < each ? b->n_targets - i : each, .c = c, .target = g->in.tgt_id + i, .rows = g->row_sums,
			.acc = grad ? g->d_acc : NULL, .dh = g->d_hid };

		engine_hidden(g, g->in.tgt_row + i, x.n);
		(grad && engine_trains(g, TRAIN_HEAD) ? loss_whole : loss_rows)(g, &x, g->nll + i);
		if (grad)
			engine_hidden_bwd(g, g->in.tgt_row + i, x.n);
	}
	/* d_qkv is there now, and what lies behind its rows' inner values is expected to be 0 */
	if (grad)
		device_zero(d, g->d_acc, (uint64_t)(g->loss_rows * c) * sizeof(*g->d_acc));
	if (g->shape.pref)
		engine_pref_loss(g, b, grad);
	else if (g->shape.grpo && grad)
		engine_grpo_loss(g, b);
	else
		d->k.sum(d, g->nll, b->n_targets, g->sums);
}
