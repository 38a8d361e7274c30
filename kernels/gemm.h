/* C (M, N) = alpha * op(A) op(B) + beta * C0, row-major; C0 is C, or another matrix c0 with
 * C's row stride (a residual stream that is added where the product is made).
 * op(A) is (M, K): A (M, K) with row stride lda, or A (K, M) when ta.
 * op(B) is (K, N): B (K, N) with row stride ldb, or B (N, K) when tb.
 * beta 0 overwrites C whatever it holds. K = 0 scales C0. A and B are of the
 * activation type; C too, or fp32 with f32_c (gradients of adapters).
 *
 * Error: each element is a sum of K products accumulated in fp32; against fp64
 * |err| <= K * 2^-24 * sum |a b| (Higham, Accuracy and Stability, 3.5), and one
 * rounding to C's type; tests allow that bound for the element's own terms.
 * The CPU takes large products itself (gemm_pack.h); of the others it cuts C into
 * fixed tiles (by shape alone), each OpenBLAS's product. Neither depends on the
 * number of threads. CUDA: cuBLASLt, fp32 accumulation; the shape alone fixes the bits. */
#ifndef LP_KERNELS_GEMM_H
#define LP_KERNELS_GEMM_H

#include <stdbool.h>
#include <stdint.h>

struct device;
/* c0 NULL: C itself. */
typedef void kn_gemm_fn(struct device *d, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha,
                        const void *a, int64_t lda, const void *b, int64_t ldb, float beta, const void *c0, void *c, int64_t ldc, bool f32_c);
kn_gemm_fn kn_gemm_cpu;

#endif
