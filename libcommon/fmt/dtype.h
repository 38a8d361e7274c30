/* Element types of tensors, and one tensor's description. */
#ifndef LP_FMT_DTYPE_H
#define LP_FMT_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dtype { DT_F32, DT_F16, DT_BF16, DT_F64, DT_I64, DT_I32, DT_I16, DT_I8, DT_U8, DT_BOOL, DT_U16, DT_U32, DT_U64, DT_N };

size_t dtype_bytes(enum dtype t);
const char *dtype_st_name(enum dtype t);  /* "F32", "BF16", "I64", ... */
bool dtype_from_st(const char *name, enum dtype *out);
bool dtype_from_hf(const char *name, enum dtype *out); /* "float32", "bfloat16", "torch.float16" */
const char *dtype_hf_name(enum dtype t);

#define TENSOR_MAX_DIMS 8
struct tensor {
	const char *name;
	enum dtype dtype;
	int n_dims;
	uint64_t shape[TENSOR_MAX_DIMS]; /* row-major, slowest first */
	uint64_t bytes;                  /* of the data */
	const void *data;                /* NULL when only described */
};
uint64_t tensor_elems(const struct tensor *t);
/* The first element of F32, F16 or BF16 data that is infinite or not a number; -1 when all are finite. */
int64_t tensor_find_nonfinite(const struct tensor *t);
/* The first that is larger than 65504, the most that fp16 holds, or not finite. */
int64_t tensor_find_beyond_f16(const struct tensor *t);

/* Conversions, round to nearest even, NaN kept quiet; exact where possible. */
uint16_t f32_to_bf16(float v);
float bf16_to_f32(uint16_t v);
uint16_t f32_to_f16(float v);
float f16_to_f32(uint16_t v);
uint16_t f64_to_bf16(double v); /* one rounding */
uint16_t f64_to_f16(double v);
void to_f32(enum dtype from, const void *src, float *dst, size_t n); /* F32, F16, BF16, F64 */
void from_f32(enum dtype to, const float *src, void *dst, size_t n);

#endif
