/* Preference methods (kernels/pref.h): the loss is a function of what the model gives whole sequences, so it is known only when all of a
 * micro-batch's targets are. By then the gradients of the targets' own losses are in d_res, whose rows are multiplied by what the method
 * makes of their sequences: the head is not run twice, and nothing of it needs the host. */
#include "train/engine.h"

void engine_set_drift(struct engine *g, bool on, int64_t n)
{
	g->drift = on;
	g->drift_of = (double)n;
}

int engine_values(struct engine *g, double *host, int64_t n_seqs, struct err *e)
{
	device_download(g->dev, host, g->value, (uint64_t)n_seqs * sizeof(*host));
	return device_sync(g->dev, e);
}

static struct kn_pref pref_of(const struct engine *g, const struct microbatch *b)
{
	return (struct kn_pref){ .rule = *g->shape.pref, .n_seqs = b->n_seqs, .n_targets = b->n_targets, .tgt_start = g->in.tgt_start, .mate = g->in.mate,
		                 .good = g->in.good, .ref = g->in.ref, .drift_of = g->in.drift_of, .value = g->value, .factor = g->factor,
		                 .loss = g->sums + SUM_LOSS, .sums = g->sums + SUM_TOLD };
}

void engine_pref_loss(struct engine *g, const struct microbatch *b, bool grad)
{
	struct device *d = g->dev;
	struct kn_pref p = pref_of(g, b);

	d->k.pref_values(d, &p, g->nll);
	if (g->drift) {
		d->k.pref_drift(d, &p);
		return;
	}
	d->k.pref_loss(d, &p);
	if (grad)
		d->k.pref_rows(d, &p, g->d_res, g->ld_res, g->in.tgt_row, g->w.desc.hidden);
}

/* The head is a vector, and the rows that it reads, one of each sequence, are few: they are normed again where they have not stayed. */
void engine_score_loss(struct engine *g, const struct microbatch *b, bool grad)
{
	struct device *d = g->dev;
	struct kn_pref p = pref_of(g, b);
	const float *w = g->lora->params + g->lora->score;
	int64_t c = g->w.desc.hidden, most = g->loss_rows;

	for (int64_t i = 0; i < b->n_targets; i += most) {
		int64_t n = b->n_targets - i < most ? b->n_targets - i : most;

		engine_hidden(g, g->in.tgt_row + i, n);
		d->k.score_fwd(d, g->value + i, g->hid, w, n, c);
	}
	d->k.pref_loss(d, &p);
	if (!grad)
		return;
	device_zero(d, g->d_res, (uint64_t)(b->n_tokens * g->ld_res) * dtype_bytes(d->act));
	for (int64_t i = 0; i < b->n_targets; i += most) {
		int64_t n = b->n_targets - i < most ? b->n_targets - i : most;

		if (b->n_targets > most)
			engine_hidden(g, g->in.tgt_row + i, n);
		d->k.score_bwd(d, g->d_hid, g->lora->grads + g->lora->score, g->factor + i, g->hid, w, g->in.scale, n, c);
		engine_hidden_bwd(g, g->in.tgt_row + i, n);
	}
}
