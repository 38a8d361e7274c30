/* C (M, N) = alpha * op(A) op(B) + beta * C, row-major.
 * op(A) is (M, K): A (M, K) with row stride lda, or A (K, M) when ta.
 * op(B) is (K, N): B (K, N) with row stride ldb, or B (N, K) when tb.
 * beta 0 overwrites C whatever it holds. K = 0 scales C.
 *
 * Error: each element is a sum of K products accumulated in fp32; against fp64
 * |err| <= K * 2^-24 * sum |a b| (Higham, Accuracy and Stability, 3.5); tests
 * allow that bound for the element's own terms.
 * The CPU takes large products itself (gemm_pack.h); of the others it cuts C into
 * fixed tiles (by shape alone), each OpenBLAS's product. Neither depends on the
 * number of threads. */
#ifndef LP_KERNELS_GEMM_H
#define LP_KERNELS_GEMM_H

#include <stdbool.h>
#include <stdint.h>

struct device;
typedef void kn_gemm_fn(struct device *d, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha,
                        const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
kn_gemm_fn kn_gemm_cpu;

#endif
