/* Greedy decoding's choice, and the next step's inputs from it, where the logits are.
 *   id = argmax_v z[i][v], the lowest among equals
 *   logprob = z[i][id] - log sum_v e^z[i][v]
 * z (N, V) of the activation type. For row i: out[i * most + count[i]] = id, logprob[i * most + count[i]] the logarithm,
 * then count[i]++ (nothing is kept of a row whose count has reached most); ids[i] = id, pos[i]++, len[i]++.
 * Row sums are in fp32 lanes folded in fp64 as xent.h's are: 1e-6 relative. NaN is never the greatest; a row of
 * nothing else gives id 0. */
#ifndef LP_KERNELS_PICK_H
#define LP_KERNELS_PICK_H

#include <stdint.h>

struct kn_pick {
	const void *z;
	int64_t n, v, most;
	int32_t *ids, *pos, *len, *count; /* (N) */
	int32_t *out;                     /* (N, most) */
	double *logprob;                  /* (N, most) */
};

struct device;
typedef void kn_pick_fn(struct device *d, const struct kn_pick *p);
kn_pick_fn kn_pick_cpu;

#endif
