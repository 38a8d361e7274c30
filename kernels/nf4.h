/* NF4 with double quantisation, as bitsandbytes defines it (QLoRA, Dettmers et
 * al. 2023; functional.quantize_4bit, blocksize 64, compress_statistics).
 *
 * First level: blocks of 64 elements in row-major order; absmax[b] = max |x|; a
 * code is the index of the NF4 level whose interval holds x * (1 / absmax)
 * (boundaries are the fp32 midpoints; a tie goes down); two codes a byte, the
 * first element in the high nibble. Second level: absmax minus offset, blocks
 * of 256, the signed dynamic 8-bit map. As bitsandbytes' CPU code does, a value
 * times (1 / absmax2) is first snapped to a grid of 65,536 points on [-1, 1], then the
 * nearest map entry is taken; a block of zeros has codes 0.
 * offset is the fp64 mean of absmax rounded to fp32 (bitsandbytes' own order of
 * summation varies by device; the difference is within 2 ulp).
 *
 * Dequantised: level[code] * (map[qabsmax] * absmax2 + offset), fp32, each
 * operation rounded once: bit-equal to bitsandbytes given its offset.
 *
 * We quantise twice always. A checkpoint that came in 4 bits may have its first
 * level as it is (compress_statistics off): plain, and then level[code] * absmax2. */
#ifndef LP_KERNELS_NF4_H
#define LP_KERNELS_NF4_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "fmt/dtype.h"
#include "kernels/dynmap.h"

#define NF4_BLOCK 64
#define NF4_BLOCK2 256

struct nf4 {
	int64_t n;         /* elements */
	uint8_t *codes;    /* ((n + 1) / 2) */
	uint8_t *qabsmax;  /* (n_blocks); plain: not read */
	float *absmax2;    /* (n_blocks2); plain: (n_blocks), the first level itself */
	float offset;
	bool plain;        /* one level of scales */
};
static inline int64_t nf4_blocks(int64_t n)
{
	return (n + NF4_BLOCK - 1) / NF4_BLOCK;
}
static inline int64_t nf4_blocks2(int64_t n)
{
	return (nf4_blocks(n) + NF4_BLOCK2 - 1) / NF4_BLOCK2;
}
/* How many qabsmax and absmax2 are. */
static inline int64_t nf4_n_qabsmax(const struct nf4 *q)
{
	return q->plain ? 0 : nf4_blocks(q->n);
}
static inline int64_t nf4_n_absmax2(const struct nf4 *q)
{
	return q->plain ? nf4_blocks(q->n) : nf4_blocks2(q->n);
}
/* Host only: the scale of block b. */
static inline float nf4_scale(const struct nf4 *q, int64_t b)
{
	float absmax;

	if (q->plain)
		return q->absmax2[b];
	absmax = dynmap_signed[q->qabsmax[b]] * q->absmax2[b / NF4_BLOCK2];
	return absmax + q->offset;
}

/* Host only. x (n); q's pointers are the caller's; absmax (n_blocks) is scratch
 * and returns the first level unquantised. */
void nf4_quantize(const float *x, struct nf4 *q, float *absmax);
/* The second level alone, for a given offset. */
void nf4_quantize_absmax(const float *absmax, int64_t n_blocks, float offset, uint8_t *qabsmax, float *absmax2);

struct device;
/* q's arrays (not plain) in device memory from x (q->n) of F32, BF16 or F16 in host memory; sets q->offset, and waits. room: device
 * memory of nf4_quant_room bytes. LP_DEVICE without memory for it. */
typedef int kn_nf4_quant_fn(struct device *d, struct nf4 *q, const void *x, enum dtype dt, void *room, struct err *e);
kn_nf4_quant_fn kn_nf4_quant_cpu;
static inline uint64_t nf4_quant_room(int64_t n)
{
	return (uint64_t)((n * 4 + 255) / 256 * 256 + nf4_blocks(n) * 4 + 256);
}
/* y (rows, cols) of the activation type, row stride ldy: the dequantised value, rounded once. */
typedef void kn_nf4_dequant_fn(struct device *d, void *y, int64_t ldy, const struct nf4 *q, int64_t rows, int64_t cols);
kn_nf4_dequant_fn kn_nf4_dequant_cpu;

#endif
