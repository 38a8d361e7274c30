/* Root-mean-square norm.
 *   rstd[t] = 1 / sqrt(mean_c x[t][c]^2 + eps),  y = x * rstd * w
 * x (T, C); y (T, C) with row stride ldy; rstd (T) and w (C) fp32. rstd NULL: not wanted.
 * Backward, w frozen: dx += rstd * (w dy - xh * mean_c(w dy xh)), xh = x rstd,
 * dx with row stride ld_dx, dy (T, C).
 * Error: sums over C in fp32 lanes; against fp64 relative 4 * 2^-24 * sqrt(C) at
 * most on rstd, so tests allow 1e-6 * (1 + |y|) up to C = 8192, and the rounding
 * of the activation type. */
#ifndef LP_KERNELS_RMSNORM_H
#define LP_KERNELS_RMSNORM_H

#include <stdint.h>

struct device;
typedef void kn_rmsnorm_fwd_fn(struct device *d, void *y, int64_t ldy, float *rstd, const void *x, const float *w, int64_t t, int64_t c, float eps);
typedef void kn_rmsnorm_bwd_fn(struct device *d, void *dx, int64_t ld_dx, const void *dy, const void *x, const float *rstd,
                               const float *w, int64_t t, int64_t c);
kn_rmsnorm_fwd_fn kn_rmsnorm_fwd_cpu;
kn_rmsnorm_bwd_fn kn_rmsnorm_bwd_cpu;

#endif
