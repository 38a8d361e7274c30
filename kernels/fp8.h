/* Products of frozen weights in eight bits, on tensor cores that know them (compute capability 9.0 on).
 *
 * A number is e4m3 (Micikevicius et al., FP8 formats for deep learning, 2022): a sign, 4 bits of exponent, 3 of fraction, 448 at
 * the most, no infinity; 2^-6 is the smallest normal one and 2^-9 the step below it. A row of a matrix has one scale, its largest
 * magnitude over FP8_TOP_*, so its largest numbers stand below 448 with room for what else shares the row.
 *
 * That is its adapter. An adapter's numbers change with every step and matter more than one part in 16, so each is two codes,
 * hi + lo with lo the rest that hi leaves. With the inner values s = x A^T (R of them) behind a row of x and a group's B beside
 * its weights, the products of R stand in 3 R columns, a row's tail:
 *   x: hi(s) | hi(s) | lo(s)        W: hi(scale B) | lo(scale B) | hi(scale B)
 * and for the gradient dx = dy W + d_s A, with W^T's rows: hi(A^T) | lo(A^T) | hi(A^T). What is left out is lo lo.
 *
 * Error of a code against its number v in units of the scale: |v| 2^-4 or 2^-10, whichever is more; of hi + lo: |v| 2^-8 or 2^-10.
 * A number beyond 448 scales becomes 448 of them (an adapter's that is larger than eight times its row of weights, an inner value of four times its row of x); NaN stays one, and
 * a row with an infinity has no finite product. */
#ifndef LP_KERNELS_FP8_H
#define LP_KERNELS_FP8_H

#include <stdint.h>

#include "kernels/adapter.h"

#define FP8_MAX 448.0f
#define FP8_TOP_WEIGHT 56.0f  /* 448 / 8 */
#define FP8_TOP_ACT 112.0f    /* 448 / 4 */

struct fp8_mat {
	uint8_t *q;   /* (rows, ld) */
	int64_t ld;   /* bytes, a multiple of 16 */
	float *scale; /* (rows) */
};
/* Columns of a tail for R inner values: whole lines of 128 bytes, so that a row of whole lines has them still. */
static inline int64_t fp8_tail(int64_t r)
{
	return (3 * r + 127) / 128 * 128;
}

struct device;
/* x (T, cols) of the activation type, row stride ldx, with r inner values behind each row (0: none), to q (T, cols + tail); tail is
 * fp8_tail(r) or more, zero behind it. */
typedef void kn_fp8_rows_fn(struct device *d, const struct fp8_mat *q, const void *x, int64_t ldx, int64_t t, int64_t cols, int64_t r, int64_t tail, float top);
/* x (rows, cols), row stride ldx, turned: q (cols, rows), its tail (of `tail` columns) zero. */
typedef void kn_fp8_cols_fn(struct device *d, const struct fp8_mat *q, const void *x, int64_t ldx, int64_t rows, int64_t cols, int64_t tail, float top);
/* Adapters into the tails of w (out, in + tail) and of its other form wt (in, out + tail). a->pad is not read. */
typedef void kn_fp8_place_fn(struct device *d, const struct fp8_mat *w, const struct fp8_mat *wt, const struct kn_adapters *a);
/* C (M, N) of the activation type, row stride ldc, = A (M, K) B (N, K)^T [+ c0, of C's stride, C itself or another]; K whole pieces
 * of 16. One rounding of the sums, which the CPU makes in fp32; Hopper's tensor cores keep about 14 bits of them. */
typedef void kn_fp8_gemm_fn(struct device *d, int64_t m, int64_t n, int64_t k, const struct fp8_mat *a, const struct fp8_mat *b, const void *c0, void *c, int64_t ldc);
kn_fp8_rows_fn kn_fp8_rows_cpu;
kn_fp8_cols_fn kn_fp8_cols_cpu;
kn_fp8_place_fn kn_fp8_place_cpu;
kn_fp8_gemm_fn kn_fp8_gemm_cpu;

/* To the nearest, ties to even; beyond 448: 448. */
uint8_t fp8_code(float v);
float fp8_value(uint8_t code);

#endif
