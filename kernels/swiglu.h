/* Gated activation: h = silu(g) * u, silu(z) = z / (1 + e^-z). gu (T, 2F) with row
 * stride ldg holds g in its first F columns and u in the next; h (T, F) has row
 * stride ldh.
 * Backward, in place: g and u hold the forward's inputs and receive dg and du:
 *   du = dh silu(g);  dg = dh u sig(g) (1 + g (1 - sig(g))).
 * dh (T, F). With h (not NULL) the forward's result is formed once more on the way.
 * Error: the exponential within 2 ulp, then a handful of roundings: 1e-6
 * relative to max(|h|, |g u|) in tests, and the rounding of the activation type. */
#ifndef LP_KERNELS_SWIGLU_H
#define LP_KERNELS_SWIGLU_H

#include <stdint.h>

struct device;
typedef void kn_swiglu_fwd_fn(struct device *d, void *h, int64_t ldh, const void *gu, int64_t ldg, int64_t t, int64_t f);
typedef void kn_swiglu_bwd_fn(struct device *d, void *gu, int64_t ldg, const void *dh, void *h, int64_t ldh, int64_t t, int64_t f);
kn_swiglu_fwd_fn kn_swiglu_fwd_cpu;
kn_swiglu_bwd_fn kn_swiglu_bwd_cpu;

#endif
