/* Products of kernels/gemm.h with one short side, the adapters': C (m, n) where n
 * is 16 or 32, or m is at most 96 and op(A) is A^T. The long operand is read once,
 * where it lies: laying it out in panels would cost more than the product. On
 * processors with AVX-512, or AVX2 and FMA.
 *
 * Each element is its own K products, fused and in order: its bits follow from
 * K alone. The bound is gemm.h's. */
#ifndef LP_KERNELS_GEMM_SKINNY_H
#define LP_KERNELS_GEMM_SKINNY_H

#include <stdbool.h>
#include <stdint.h>

/* False, and nothing done: not of this kind, or no such processor. room: k * n floats when B is (n, k). */
bool kn_gemm_skinny(int threads, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                    const float *b, int64_t ldb, float beta, float *c, int64_t ldc, float *room, int64_t room_floats);

#endif
