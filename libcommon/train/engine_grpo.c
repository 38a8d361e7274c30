/* GRPO (kernels/grpo.h): the loss of a token is a function of its log-probability, so the gradients of the targets' own losses, which are in
 * d_res by then, are multiplied row by row, as a preference method's are sequence by sequence (engine_pref.c). Passes without gradient are asked
 * for log-probabilities alone. */
#include "train/engine.h"

void engine_grpo_loss(struct engine *g, const struct microbatch *b)
{
	struct device *d = g->dev;
	struct kn_grpo p = { .rule = *g->shape.grpo, .n_seqs = b->n_seqs, .n_targets = b->n_targets, .tgt_start = g->in.tgt_start, .adv = g->in.adv,
		             .weight = g->in.weight, .old = g->in.tok_old, .ref = g->in.tok_ref, .factor = g->factor, .loss = g->sums + SUM_LOSS,
		             .sums = g->sums + SUM_TOLD };

	d->k.grpo_loss(d, &p, g->nll);
	d->k.grpo_rows(d, &p, g->d_res, g->ld_res, g->in.tgt_row, g->w.desc.hidden);
}

int engine_nll(struct engine *g, double *host, int64_t n_targets, struct err *e)
{
	device_download(g->dev, host, g->nll, (uint64_t)n_targets * sizeof(*host));
	return device_sync(g->dev, e);
}
