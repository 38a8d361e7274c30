/* Large products of kernels/gemm.h on processors with AVX-512, or AVX2 and FMA:
 * both operands are laid out in panels once, by all threads, for all threads,
 * and blocks of C are computed from them in registers.
 *
 * Each element is its own K products, fused and in order, in steps of 512 that
 * are added to C one after the other: its bits follow from K (and beta) alone,
 * from neither M and N nor its place nor the threads. The bound is gemm.h's. */
#ifndef LP_KERNELS_GEMM_PACK_H
#define LP_KERNELS_GEMM_PACK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct gemm_room;
/* Room for panels, 16 MiB, touched when used, and the kernel with the most fp32
 * lanes (16 or 8), at most these. *out NULL where this processor has none: kn_gemm_packed then takes
 * no product. LP_DEVICE without memory: results must not follow from how much there is. */
int gemm_room_new(int lanes, struct gemm_room **out, struct err *e) LP_MUST_USE;
void gemm_room_free(struct gemm_room *r);
/* One of its panels, for whoever wants a place while no product runs: *floats of them; NULL and 0 without room. */
float *gemm_room_scratch(struct gemm_room *r, int64_t *floats);

/* False, and nothing done: r is NULL, or the shape is too small to be worth it. */
bool kn_gemm_packed(struct gemm_room *r, int threads, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                    int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

#endif
