/* Gated activation: h = silu(g) * u, silu(z) = z / (1 + e^-z). All (n).
 * Backward, in place: g and u hold the forward's inputs and receive dg and du:
 *   du = dh silu(g);  dg = dh u sig(g) (1 + g (1 - sig(g))).
 * Error: the exponential within 2 ulp, then a handful of roundings: 1e-6
 * relative to max(|h|, |g u|) in tests. */
#ifndef LP_KERNELS_SWIGLU_H
#define LP_KERNELS_SWIGLU_H

#include <stdint.h>

struct device;
typedef void kn_swiglu_fwd_fn(struct device *d, float *h, const float *g, const float *u, int64_t n);
typedef void kn_swiglu_bwd_fn(struct device *d, float *g, float *u, const float *dh, int64_t n);
kn_swiglu_fwd_fn kn_swiglu_fwd_cpu;
kn_swiglu_bwd_fn kn_swiglu_bwd_cpu;

#endif
