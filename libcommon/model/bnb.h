/* Checkpoints that are in bitsandbytes' 4-bit form already: what config.json says of
 * them, and the tensors that a quantised matrix consists of (bitsandbytes,
 * functional.QuantState.as_dict). For a projection NAME of n weights:
 *   NAME.weight                 the codes, (n + 1) / 2 bytes as a column of bnb_4bit_quant_storage
 *   NAME.weight.absmax          U8 (blocks of 64), or F32 without double quantisation
 *   NAME.weight.nested_absmax   F32 (blocks of 256 of these)    with double quantisation
 *   NAME.weight.quant_map       F32 (16): NF4's levels
 *   NAME.weight.nested_quant_map F32 (256): the dynamic map     with double quantisation
 *   NAME.weight.quant_state.bitsandbytes__nf4  U8: JSON with block sizes, shape and the offset
 * in any order and in any shard. Nothing of it is computed anew. */
#ifndef LP_MODEL_BNB_H
#define LP_MODEL_BNB_H

#include "fmt/dtype.h"
#include "model/arch.h"

/* quantization_config (NULL or null: none) into m->bnb, after the shapes are in m. LP_DATA for
 * what is not NF4 of bitsandbytes. */
int bnb_read(const struct json *q, struct model_desc *m, struct err *e) LP_MUST_USE;

enum bnb_part { BNB_CODES, BNB_ABSMAX, BNB_NESTED_ABSMAX, BNB_MAP, BNB_NESTED_MAP, BNB_STATE, BNB_FP4, BNB_PARTS };
/* What follows "NAME.weight", from "" to ".quant_state.bitsandbytes__nf4". */
const char *bnb_tail(enum bnb_part p);
/* The part whose tail this is, or -1. */
int bnb_part(const char *tail);
/* A bit for each part that a matrix has. */
unsigned bnb_parts(bool plain);

/* Checks a part of a matrix (rows, cols): its type, size and values. of BNB_STATE: sets *offset. */
int bnb_check(const struct tensor *t, enum bnb_part p, int64_t rows, int64_t cols, bool plain, float *offset, struct err *e) LP_MUST_USE;

#endif
