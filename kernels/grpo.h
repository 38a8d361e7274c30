/* The loss of GRPO. A micro-batch has S completions; each of their tokens has a log-probability, and a loss that looks at that, at what it
 * was when the completion was made, at what a reference gives it, and at the completion's advantage (grpo_token.h has the formulas).
 *   grpo_loss: *loss += weight[s] * sum of losses; factor[i] = weight[s] * d loss / d logp[i], divided by the temperature;
 *              sums go up by what is told
 *   grpo_rows: x[row[i]] *= -factor[i], rows of C, for each target i: from scale * d nll / dh, whose logits were z, to scale * d loss / dh,
 *              whose logits are z / temperature
 * nll[i] is that of softmax(z / temperature), as completions are drawn. Losses, factors and sums are fp64, in an order that follows from
 * shapes; x is rounded once to the activation type. */
#ifndef LP_KERNELS_GRPO_H
#define LP_KERNELS_GRPO_H

#include <stdbool.h>
#include <stdint.h>

struct device;
struct kn_grpo_rule {
	double beta;        /* of the KL; 0: no reference is looked at */
	double low, high;   /* the ratio counts within [1 - low, 1 + high] */
	double temperature;
	bool unbiased;      /* the KL is weighted by the ratio, so that its gradient is the reverse KL's */
	bool on_policy;     /* the completions are the model's as it is: old is not looked at, and every ratio is 1 */
};
/* What is told of a micro-batch: sums over tokens of the KL, and of ratios that were cut off below and above. */
enum kn_grpo_sum { KN_GRPO_KL, KN_GRPO_LOW, KN_GRPO_HIGH, KN_GRPO_SUMS };
struct kn_grpo { /* device memory, but for the rule and the numbers */
	struct kn_grpo_rule rule;
	int64_t n_seqs, n_targets;
	const int32_t *tgt_start;   /* (S+1) first target of each completion */
	const double *adv, *weight; /* (S) */
	const double *old, *ref;    /* (targets) log-probabilities */
	double *factor;             /* (targets) */
	double *loss, *sums;        /* +=; (KN_GRPO_SUMS) */
};
typedef void kn_grpo_loss_fn(struct device *d, const struct kn_grpo *p, const double *nll);
typedef void kn_grpo_rows_fn(struct device *d, const struct kn_grpo *p, void *x, int64_t ldx, const int32_t *row, int64_t c);
kn_grpo_loss_fn kn_grpo_loss_cpu;
kn_grpo_rows_fn kn_grpo_rows_cpu;

#endif
