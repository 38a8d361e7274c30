/* Small element-wise and row operations.
 * bias_add: x (T, C) += b (C).       gather_rows: y[i] = x[idx[i]], rows of C.
 * scatter_rows: y[idx[i]] = x[i], rows of C (distinct idx; other rows untouched).
 * sum_squares: sum of x[i]^2 over n, fp64, in chunks of 4096 folded in order.
 * widen: F32, BF16 or F16 weights to fp32. All exact but the sum. */
#ifndef LP_KERNELS_VEC_H
#define LP_KERNELS_VEC_H

#include <stdint.h>

#include "fmt/dtype.h"

struct device;
typedef void kn_bias_add_fn(struct device *d, float *x, const float *b, int64_t t, int64_t c);
typedef void kn_gather_rows_fn(struct device *d, float *y, const float *x, const int32_t *idx, int64_t n, int64_t c);
typedef void kn_scatter_rows_fn(struct device *d, float *y, const float *x, const int32_t *idx, int64_t n, int64_t c);
typedef void kn_sum_squares_fn(struct device *d, const float *x, int64_t n, double *out);
typedef void kn_widen_fn(struct device *d, float *y, const void *x, enum dtype dt, int64_t n);
kn_bias_add_fn kn_bias_add_cpu;
kn_gather_rows_fn kn_gather_rows_cpu;
kn_scatter_rows_fn kn_scatter_rows_cpu;
kn_sum_squares_fn kn_sum_squares_cpu;
kn_widen_fn kn_widen_cpu;

#endif
