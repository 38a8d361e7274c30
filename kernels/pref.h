/* Losses of preferences. A micro-batch has S sequences; what a method sees of each is a value: the log-probability of its targets, or
 * the score that a reward model gives it (pref_pair.h has the formulas).
 *   pref_values: value[s] = - sum of nll over the targets of s
 *   pref_loss: of every pair, or with KTO of every sequence, the loss; factor[s] = d loss / d value[s]; sums go up by what is told
 *   pref_rows: x[row[i]] *= -factor[s], rows of C, for each target i of s: from scale * d nll to scale * d loss
 *   pref_drift: sums[KN_PREF_DRIFT] += sum of (value - ref), of KTO's answers that do not belong to their prompts
 *   score_fwd: value[s] = h[s] . w;  score_bwd: dh[s] = scale * factor[s] w, dw += scale * sum of factor[s] h[s]
 * Values, factors and sums are fp64, in an order that follows from shapes; x and dh are rounded once to the activation type, dw once to fp32. */
#ifndef LP_KERNELS_PREF_H
#define LP_KERNELS_PREF_H

#include <stdint.h>

struct device;
enum kn_pref_method { KN_PREF_DPO, KN_PREF_IPO, KN_PREF_ORPO, KN_PREF_SIMPO, KN_PREF_KTO, KN_PREF_REWARD };
struct kn_pref_rule {
	enum kn_pref_method method;
	double beta, smoothing;        /* smoothing: DPO and SimPO */
	double gamma;                  /* SimPO's margin */
	double desirable, undesirable; /* KTO's weights */
};
/* What is told of a micro-batch: sums over chosen and over rejected answers, and how many pairs have the greater reward on the right side. */
enum kn_pref_sum { KN_PREF_REWARD_CHOSEN, KN_PREF_REWARD_REJECTED, KN_PREF_VALUE_CHOSEN, KN_PREF_VALUE_REJECTED, KN_PREF_RIGHT, KN_PREF_DRIFT, KN_PREF_SUMS };
struct kn_pref { /* device memory, but for the rule and the numbers */
	struct kn_pref_rule rule;
	int64_t n_seqs, n_targets;
	const int32_t *tgt_start; /* (S+1) first target of each sequence */
	const int32_t *mate;      /* (S) the other answer of the pair; KTO: not read */
	const int32_t *good;      /* (S) 1: chosen, 0: rejected */
	const double *ref;        /* (S) */
	const float *drift_of;    /* how many answers sums[KN_PREF_DRIFT] is of */
	double *value, *factor;   /* (S) */
	double *loss, *sums;      /* +=; (KN_PREF_SUMS) */
};
typedef void kn_pref_values_fn(struct device *d, const struct kn_pref *p, const double *nll);
typedef void kn_pref_loss_fn(struct device *d, const struct kn_pref *p);
typedef void kn_pref_rows_fn(struct device *d, const struct kn_pref *p, void *x, int64_t ldx, const int32_t *row, int64_t c);
typedef void kn_pref_drift_fn(struct device *d, const struct kn_pref *p);
/* h, dh (n, C) activations, value and factor of the same n; w, dw (C) fp32. scale lies in device memory. */
typedef void kn_score_fwd_fn(struct device *d, double *value, const void *h, const float *w, int64_t n, int64_t c);
typedef void kn_score_bwd_fn(struct device *d, void *dh, float *dw, const double *factor, const void *h, const float *w, const float *scale, int64_t n, int64_t c);
kn_pref_values_fn kn_pref_values_cpu;
kn_pref_loss_fn kn_pref_loss_cpu;
kn_pref_rows_fn kn_pref_rows_cpu;
kn_pref_drift_fn kn_pref_drift_cpu;
kn_score_fwd_fn kn_score_fwd_cpu;
kn_score_bwd_fn kn_score_bwd_cpu;

#endif
