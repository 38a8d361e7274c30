/* Softmax cross-entropy over rows of logits (N, V), in place.
 *   loss[n] = log sum_v e^z[n][v] - z[n][target[n]]     (nats, fp64)
 *   z[n][v] <- (softmax(z[n])[v] - [v == target[n]]) * scale    when grad
 * scale lies in device memory: a recording (device.h) serves every step. The row sum is taken in fp32 lanes over chunks of 4096 and folded in fp64,
 * so the loss agrees with fp64 to 1e-6 relative for V up to 2^20. */
#ifndef LP_KERNELS_XENT_H
#define LP_KERNELS_XENT_H

#include <stdbool.h>
#include <stdint.h>

struct device;
typedef void kn_xent_fn(struct device *d, void *z, const int32_t *target, double *loss, int64_t n, int64_t v, const float *scale, bool grad);
kn_xent_fn kn_xent_cpu;

#endif
