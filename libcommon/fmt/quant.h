/* Quantised block layouts of GGUF (ggml's types; the numbers are the file
 * format's). Every encoder gives the bytes of ggml's reference encoder without
 * an importance matrix, on any processor and with any number of threads: each
 * floating-point operation is done in its order (build with
 * -ffp-contract=off), only independent sub-blocks run side by side. */
#ifndef LP_FMT_QUANT_H
#define LP_FMT_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

enum quant_type {
	QT_F32 = 0,
	QT_F16 = 1,
	QT_Q4_0 = 2,
	QT_Q4_1 = 3,
	QT_Q5_0 = 6,
	QT_Q5_1 = 7,
	QT_Q8_0 = 8,
	QT_Q4_K = 12,
	QT_Q5_K = 13,
	QT_Q6_K = 14,
	QT_BF16 = 30
};

struct quant_info {
	const char *name;      /* "Q4_K", as the format names it */
	uint32_t block_elems;  /* a row is a whole number of blocks */
	uint32_t block_bytes;
};
/* NULL for a type that is not in the enumeration. */
const struct quant_info *quant_info(uint32_t type);
/* Bytes of a row of n elements; 0 when n is no whole number of blocks, the
 * type is not known, or the product overflows. */
uint64_t quant_row_bytes(uint32_t type, uint64_t n);

/* n finite values (a whole number of blocks) into blocks. Returns -1, or the
 * index of the first element of the first block that the type cannot hold: its
 * scale or its value is beyond the type's range. dst is written in any case. */
int64_t quant_encode(enum quant_type type, const float *src, void *dst, uint64_t n) LP_MUST_USE;
/* The values that n elements' blocks stand for, as ggml computes them. */
void quant_decode(enum quant_type type, const void *src, float *dst, uint64_t n);

/* Index of the first value that is infinite or not a number; -1 when all are finite. */
int64_t quant_find_nonfinite(const float *v, uint64_t n) LP_MUST_USE;

/* The encoders and decoders by family; quant_encode and quant_decode choose. */
int64_t quant_encode_q4_0(const float *src, uint8_t *dst, uint64_t n_blocks) LP_MUST_USE;
int64_t quant_encode_q4_1(const float *src, uint8_t *dst, uint64_t n_blocks) LP_MUST_USE;
int64_t quant_encode_q5_0(const float *src, uint8_t *dst, uint64_t n_blocks) LP_MUST_USE;
int64_t quant_encode_q5_1(const float *src, uint8_t *dst, uint64_t n_blocks) LP_MUST_USE;
int64_t quant_encode_q8_0(const float *src, uint8_t *dst, uint64_t n_blocks) LP_MUST_USE;
int64_t quant_encode_q4_k(const float *src, uint8_t *dst, uint64_t n_blocks) LP_MUST_USE;
int64_t quant_encode_q5_k(const float *src, uint8_t *dst, uint64_t n_blocks) LP_MUST_USE;
int64_t quant_encode_q6_k(const float *src, uint8_t *dst, uint64_t n_blocks) LP_MUST_USE;

#endif
