/* Products with the gated activation (swiglu.h) at their end, so that its operands need not come back from memory.
 * Forward: gu (T, 2F) = x W^T, x (T, K), W (2F, K): F rows of gates, then F of ups; h (T, F) = silu(g) u, of g and u as they are stored.
 * Backward: d_h (T, F) = x W, x (T, K), W (K, F); g and u become their gradients in place, and with h (not NULL) the
 * forward's h is formed once more. dh (T, F) is room for d_h, which may be used or not; it is rounded to the activation type
 * either way.
 * These are gemm.h's product and then swiglu.h's operation, with their errors. */
#ifndef LP_KERNELS_GATED_H
#define LP_KERNELS_GATED_H

#include <stdint.h>

struct device;
struct kn_gated {
	int64_t t, f, k;
	const void *x, *w; /* row strides ldx, ldw */
	int64_t ldx, ldw;
	void *gu, *h;      /* row strides ldg, ldh */
	int64_t ldg, ldh;
	void *dh;          /* backward */
};
typedef void kn_gated_fn(struct device *d, const struct kn_gated *a);
kn_gated_fn kn_gated_fwd_cpu, kn_gated_bwd_cpu;

#endif
