/* What GRPO makes of one token (Shao et al. 2024, as TRL has it): its loss and the loss's derivative by the log-probability. Nothing but
 * these numbers goes in, so a loss cannot depend on what else a batch holds. In fp64.
 * Compiled for the host by grpo.c and for the device by grpo.cu, which says so in KN_GRPO_FN. */
#ifndef LP_KERNELS_GRPO_TOKEN_H
#define LP_KERNELS_GRPO_TOKEN_H

#include <math.h>

#include "kernels/grpo.h"

#ifndef KN_GRPO_FN
#define KN_GRPO_FN static inline
#endif

struct kn_grpo_out {
	double loss, d, kl;
	int low, high; /* the ratio is beyond a limit, and the advantage would take it further */
};

/* Schulman's third estimator of KL(model, reference): x - 1 - log x is never below 0, and its mean over the model's tokens is the KL.
 * Weighted by the ratio its gradient's mean is the KL's too (DeepSeek-V3.2). */
KN_GRPO_FN double grpo_kl(double logp, double ref, double ratio, int unbiased, double *d)
{
	double x = exp(ref - logp), kl = expm1(ref - logp) - (ref - logp);

	*d = unbiased ? ratio * (kl + 1 - x) : 1 - x;
	return unbiased ? ratio * kl : kl;
}

KN_GRPO_FN void grpo_token(const struct kn_grpo_rule *r, double logp, double old, double ref, double adv, struct kn_grpo_out *o)
{
	double ratio = exp(logp - (r->on_policy ? logp : old)), cut, d = 0; /* what is no number stays none */

	o->low = ratio < 1 - r->low && adv < 0;
	o->high = ratio > 1 + r->high && adv > 0;
	cut = o->low ? 1 - r->low : o->high ? 1 + r->high : ratio;
	o->loss = -cut * adv;
	o->d = o->low || o->high ? 0 : -ratio * adv;
	o->kl = r->beta != 0 ? grpo_kl(logp, ref, ratio, r->unbiased, &d) : 0;
	o->loss += r->beta * o->kl;
	o->d += r->beta * d;
}

#endif
