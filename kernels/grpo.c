#include "kernels/grpo.h"

#include "kernels/device.h"
#include "kernels/grpo_token.h"

static void one_token(const struct kn_grpo *p, int64_t s, int64_t i, double nll)
{
	struct kn_grpo_out o;

	grpo_token(&p->rule, -nll, p->old[i], p->ref[i], p->adv[s], &o);
	p->factor[i] = p->weight[s] * o.d / p->rule.temperature;
	*p->loss += p->weight[s] * o.loss;
	p->sums[KN_GRPO_KL] += o.kl;
	p->sums[KN_GRPO_LOW] += o.low;
	p->sums[KN_GRPO_HIGH] += o.high;
}

void kn_grpo_loss_cpu(struct device *d, const struct kn_grpo *p, const double *nll)
{
	(void)d;
	for (int64_t s = 0; s < p->n_seqs; s++)
		for (int64_t i = p->tgt_start[s]; i < p->tgt_start[s + 1]; i++)
			one_token(p, s, i, nll[i]);
}

void kn_grpo_rows_cpu(struct device *d, const struct kn_grpo *p, void *x, int64_t ldx, const int32_t *row, int64_t c)
{
	(void)d;
	for (int64_t i = 0; i < p->n_targets; i++) {
		float *y = (float *)x + row[i] * ldx, by = (float)-p->factor[i];

		for (int64_t j = 0; j < c; j++)
			y[j] *= by;
	}
}
