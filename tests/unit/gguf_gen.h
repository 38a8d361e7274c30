/* The inputs of the GGUF goldens, made by a counter: tests/oracle/make_gguf.py
 * has the same in numpy. All values are integers times powers of two, so that
 * both make the same bits. */
#ifndef LP_TESTS_GGUF_GEN_H
#define LP_TESTS_GGUF_GEN_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fmt/dtype.h"

#define GEN_ROWS 64
#define GEN_COLS 256
#define GEN_KINDS 17

static inline uint64_t gen_mix(uint64_t seed, uint64_t i)
{
	uint64_t z = (seed << 32) + i + 0x9E3779B97F4A7C15u;

	z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
	z = (z ^ z >> 27) * 0x94D049BB133111EBu;
	return z ^ z >> 31;
}

/* A sum of four 16-bit numbers, centred: about a bell. */
static inline int64_t gen_bell(uint64_t u)
{
	return (int64_t)((u & 0xffff) + (u >> 16 & 0xffff) + (u >> 32 & 0xffff) + (u >> 48)) - 131070;
}

static inline float gen_scaled(int64_t v, int e)
{
	return (float)ldexp((double)v, e);
}

static inline float gen_bits(uint32_t b)
{
	float v;

	memcpy(&v, &b, 4);
	return v;
}

/* Element (r, c) of the rows of a kind: ordinary, and every odd case. */
static inline float gen_value(int kind, int r, int c)
{
	uint64_t u = gen_mix((uint64_t)kind, (uint64_t)(r * GEN_COLS + c)), w = gen_mix(100 + (uint64_t)kind, (uint64_t)r);
	uint64_t g = gen_mix(200 + (uint64_t)kind, (uint64_t)(r * 8 + c / 32));
	bool hit = (int)(w & 255) == c;
	uint32_t b = (uint32_t)u;
	int64_t bell = gen_bell(u);

	switch (kind) {
	case 0: /* ordinary weights */
		return gen_scaled(bell, -20);
	case 1: /* many magnitudes */
		return gen_scaled(bell, -20 - (int)(u >> 40 & 15));
	case 2:
		return 0.0f;
	case 3:
		return -0.0f;
	case 4: /* a constant row */
		return gen_scaled(gen_bell(w), -18);
	case 5: /* constant sub-blocks */
		return gen_scaled(gen_bell(g), -18);
	case 6: /* all positive */
		return gen_scaled(bell < 0 ? -bell : bell, -20);
	case 7: /* all far below zero */
		return gen_scaled(-(bell < 0 ? -bell : bell) - 3 * (1 << 20), -20);
	case 8: /* one outlier */
		return hit ? gen_scaled(gen_bell(w), -6) : gen_scaled(bell, -30);
	case 9: /* one value */
		return hit ? gen_scaled(gen_bell(w), -16) : 0.0f;
	case 10: /* small integers, many ties */
		return (float)(u % 7) - 3.0f;
	case 11: /* sparse */
		return u >> 60 == 0 ? gen_scaled(bell, -20) : 0.0f;
	case 12: /* a ramp */
		return gen_scaled(c * (int64_t)(w & 63) - 1000, -8);
	case 13: /* subnormal */
		return gen_bits(b & 0x807fffff);
	case 14: /* ever smaller */
		return gen_scaled(bell, -20 - 2 * r);
	case 15: /* ever larger */
		return gen_scaled(bell, r);
	default: /* any finite float */
		return gen_bits((b & 0x7f800000) == 0x7f800000 ? b & 0xbfffffff : b);
	}
}

static inline void gen_rows(int kind, float *x)
{
	for (int i = 0; i < GEN_ROWS * GEN_COLS; i++)
		x[i] = gen_value(kind, i / GEN_COLS, i % GEN_COLS);
}

/* --- models --- */
struct gen_model {
	const char *name, *family;
	int hidden, ffn, heads, kv_heads, head_dim, layers, vocab;
	bool tied, bias;
	enum dtype dtype;
};

static const struct gen_model gen_models[] = {
	{ "wide", "llama", 256, 512, 4, 2, 64, 9, 300, false, false, DT_F32 },
	{ "tied", "qwen2", 256, 768, 8, 2, 32, 5, 300, true, true, DT_BF16 },
	{ "thirty-two", "mistral", 96, 160, 6, 3, 16, 4, 300, false, false, DT_BF16 },
	{ "odd", "llama", 60, 100, 5, 5, 12, 3, 301, true, true, DT_F16 },
	{ "mixed", "llama", 256, 288, 4, 1, 32, 3, 300, false, true, DT_F32 },
};
#define GEN_MODELS ((int)(sizeof(gen_models) / sizeof(*gen_models)))

/* The k-th tensor of a model: its shape, and its values in the model's dtype (free()). */
static inline void *gen_weights(uint64_t k, uint64_t n, enum dtype to)
{
	float *x = malloc(n * sizeof(*x));
	void *p = malloc(n * dtype_bytes(to));

	for (uint64_t i = 0; x && p && i < n; i++)
		x[i] = gen_scaled(gen_bell(gen_mix(1000 + k, i)), -21);
	from_f32(to, x, p, n);
	free(x);
	return p;
}

#endif
