/* Small element-wise and row operations, on the activation type unless said.
 * bias_add: x (T, C), row stride ldx, += b (C, fp32).
 * gather_rows: y[i] = x[idx[i]], rows of C.
 * scatter_rows: y[idx[i]] = x[i], rows of C, row stride ldy of y (distinct idx; other rows untouched).
 * copy_rows: y (T, C), row stride ldy, = x (T, C), row stride ldx.
 * sum_squares: *out = sum of x[i]^2 over n, fp64, x fp32, in chunks of 4096 folded in
 * order; out is device memory. sum: *out += sum of x[i] over n, fp64, the same way.
 * add_squares: *out += the sum of squares of n values of F32 or of the activation type, fp64, in 1,024 parts that
 * n fixes, folded in order.
 * col_sums: out (C, fp32) += sum over t of a[t] * b[t] * s[t], a and b (T, C) with row strides, s (T) fp32; b NULL: of a[t]. The
 * gradients of a norm's weights and of a bias. In COL_PARTS parts of rows that T fixes, each summed in fp32 or wider; scratch:
 * COL_PARTS * C floats of device memory. Error: |err| <= (T / COL_PARTS + COL_PARTS) * 2^-24 * sum |a b s|.
 * to_host: n values of the activation type as fp32 in host memory; waits.
 * convert: y (rows, cols), row stride ldy, = x (rows, cols) of F32, BF16 or F16,
 * rounded once to the activation type. All exact but the sums. */
#ifndef LP_KERNELS_VEC_H
#define LP_KERNELS_VEC_H

#include <stdint.h>

#include "fmt/dtype.h"

struct device;
typedef void kn_bias_add_fn(struct device *d, void *x, int64_t ldx, const float *b, int64_t t, int64_t c);
typedef void kn_gather_rows_fn(struct device *d, void *y, const void *x, const int32_t *idx, int64_t n, int64_t c);
typedef void kn_scatter_rows_fn(struct device *d, void *y, int64_t ldy, const void *x, const int32_t *idx, int64_t n, int64_t c);
typedef void kn_copy_rows_fn(struct device *d, void *y, int64_t ldy, const void *x, int64_t ldx, int64_t t, int64_t c);
typedef void kn_sum_squares_fn(struct device *d, const float *x, int64_t n, double *out);
typedef void kn_sum_fn(struct device *d, const double *x, int64_t n, double *out);
typedef void kn_add_squares_fn(struct device *d, const void *x, enum dtype dt, int64_t n, double *out);
enum { COL_PARTS = 128 };
typedef void kn_col_sums_fn(struct device *d, float *out, const void *a, int64_t lda, const void *b, int64_t ldb, const float *s, int64_t t, int64_t c, float *scratch);
typedef void kn_convert_fn(struct device *d, void *y, int64_t ldy, const void *x, enum dtype dt, int64_t rows, int64_t cols);
typedef void kn_to_host_fn(struct device *d, float *host, const void *x, int64_t n);
kn_to_host_fn kn_to_host_cpu;
kn_bias_add_fn kn_bias_add_cpu;
kn_gather_rows_fn kn_gather_rows_cpu;
kn_scatter_rows_fn kn_scatter_rows_cpu;
kn_copy_rows_fn kn_copy_rows_cpu;
kn_sum_squares_fn kn_sum_squares_cpu;
kn_sum_fn kn_sum_cpu;
kn_add_squares_fn kn_add_squares_cpu;
kn_col_sums_fn kn_col_sums_cpu;
kn_convert_fn kn_convert_cpu;

#endif
