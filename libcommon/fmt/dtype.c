/* Element types and conversions. Every narrowing is one rounding to nearest,
 * ties to even; a NaN stays a NaN and is made quiet. Source and destination
 * may lie at any address: safetensors does not promise alignment. */
#include "fmt/dtype.h"

#include <string.h>

#include "base/compiler.h"

static const struct {
	const char *st, *hf;
	size_t bytes;
} types[DT_N] = {
	[DT_F32] = { "F32", "float32", 4 },   [DT_F16] = { "F16", "float16", 2 }, [DT_BF16] = { "BF16", "bfloat16", 2 },
	[DT_F64] = { "F64", "float64", 8 },   [DT_I64] = { "I64", "int64", 8 },   [DT_I32] = { "I32", "int32", 4 },
	[DT_I16] = { "I16", "int16", 2 },     [DT_I8] = { "I8", "int8", 1 },      [DT_U8] = { "U8", "uint8", 1 },
	[DT_BOOL] = { "BOOL", "bool", 1 },    [DT_U16] = { "U16", "uint16", 2 },  [DT_U32] = { "U32", "uint32", 4 },
	[DT_U64] = { "U64", "uint64", 8 },
};

size_t dtype_bytes(enum dtype t)
{
	return types[t].bytes;
}

const char *dtype_st_name(enum dtype t)
{
	return types[t].st;
}

const char *dtype_hf_name(enum dtype t)
{
	return types[t].hf;
}

bool dtype_from_st(const char *name, enum dtype *out)
{
	for (int i = 0; i < DT_N; i++)
		if (!strcmp(types[i].st, name)) {
			*out = (enum dtype)i;
			return true;
		}
	return false;
}

bool dtype_from_hf(const char *name, enum dtype *out)
{
	if (!strncmp(name, "torch.", 6))
		name += 6;
	for (int i = 0; i < DT_N; i++)
		if (!strcmp(types[i].hf, name)) {
			*out = (enum dtype)i;
			return true;
		}
	return false;
}

uint64_t tensor_elems(const struct tensor *t)
{
	uint64_t n = 1;

	for (int i = 0; i < t->n_dims; i++)
		n *= t->shape[i];
	return n;
}

static inline uint32_t bits32(float v)
{
	uint32_t u;

	memcpy(&u, &v, 4);
	return u;
}

static inline float float32(uint32_t u)
{
	float v;

	memcpy(&v, &u, 4);
	return v;
}

static inline uint16_t bf16_from_bits(uint32_t u)
{
	uint32_t r = (u + 0x7fffu + (u >> 16 & 1)) >> 16;

	return (u & 0x7fffffffu) > 0x7f800000u ? (uint16_t)(u >> 16 | 0x40) : (uint16_t)r;
}

uint16_t f32_to_bf16(float v)
{
	return bf16_from_bits(bits32(v));
}

float bf16_to_f32(uint16_t v)
{
	return float32((uint32_t)v << 16);
}

/* The usual three ranges: overflow and NaN; results below the smallest normal
 * half, where adding 0.5 lets the adder round at the right bit; the rest. */
uint16_t f32_to_f16(float v)
{
	uint32_t u = bits32(v), sign = u & 0x80000000u, o;

	u ^= sign;
	if (u > 0x7f800000u)
		o = 0x7e00 | (u >> 13 & 0x1ff);
	else if (u >= 143u << 23)
		o = 0x7c00;
	else if (u < 113u << 23)
		o = bits32(float32(u) + 0.5f) - bits32(0.5f);
	else
		o = (u - (112u << 23) + 0xfff + (u >> 13 & 1)) >> 13;
	return (uint16_t)(o | sign >> 16);
}

float f16_to_f32(uint16_t v)
{
	uint32_t u = (uint32_t)(v & 0x7fff) << 13, exp = u & 0x0f800000u;

	u += 112u << 23;
	if (exp == 0x0f800000u)
		u += 112u << 23;
	else if (!exp)
		u = bits32(float32(u + (1u << 23)) - float32(113u << 23));
	return float32(u | (uint32_t)(v & 0x8000) << 16);
}

/* Rounds to odd: where v is no float, the neighbour whose last bit is one.
 * A second rounding to a type two or more bits narrower then cannot err. */
static inline uint32_t f64_to_odd(double v)
{
	float f = (float)v;
	double back = (double)f;
	uint32_t u = bits32(f);

	if (back == v || v != v || (u & 1))
		return u;
	return (back < 0 ? -back : back) > (v < 0 ? -v : v) ? u - 1 : u + 1;
}

uint16_t f64_to_bf16(double v)
{
	return bf16_from_bits(f64_to_odd(v));
}

uint16_t f64_to_f16(double v)
{
	return f32_to_f16(float32(f64_to_odd(v)));
}

LP_CLONES static void widen_bf16(const uint8_t *restrict src, float *restrict dst, size_t n)
{
#pragma omp simd
	for (size_t i = 0; i < n; i++) {
		uint16_t h;

		memcpy(&h, src + 2 * i, 2);
		dst[i] = bf16_to_f32(h);
	}
}

LP_CLONES static void narrow_bf16(const float *restrict src, uint8_t *restrict dst, size_t n)
{
#pragma omp simd
	for (size_t i = 0; i < n; i++) {
		uint16_t h = bf16_from_bits(bits32(src[i]));

		memcpy(dst + 2 * i, &h, 2);
	}
}

void to_f32(enum dtype from, const void *src, float *dst, size_t n)
{
	const uint8_t *p = src;

	if (from == DT_F32 && n) {
		memcpy(dst, src, n * 4);
	} else if (from == DT_BF16) {
		widen_bf16(p, dst, n);
	} else if (from == DT_F16) {
		for (size_t i = 0; i < n; i++) {
			uint16_t h;

			memcpy(&h, p + 2 * i, 2);
			dst[i] = f16_to_f32(h);
		}
	} else if (from == DT_F64) {
		for (size_t i = 0; i < n; i++) {
			double d;

			memcpy(&d, p + 8 * i, 8);
			dst[i] = (float)d;
		}
	}
}

void from_f32(enum dtype to, const float *src, void *dst, size_t n)
{
	uint8_t *p = dst;

	if (to == DT_F32 && n) {
		memcpy(dst, src, n * 4);
	} else if (to == DT_BF16) {
		narrow_bf16(src, p, n);
	} else if (to == DT_F16) {
		for (size_t i = 0; i < n; i++) {
			uint16_t h = f32_to_f16(src[i]);

			memcpy(p + 2 * i, &h, 2);
		}
	} else if (to == DT_F64) {
		for (size_t i = 0; i < n; i++) {
			double d = src[i];

			memcpy(p + 8 * i, &d, 8);
		}
	}
}

/* Sizes in the order of their bits: infinities and NaNs come last. */
LP_CLONES static bool any_from32(const uint8_t *p, size_t n, uint32_t limit)
{
	uint32_t bad = 0;

	for (size_t i = 0; i < n; i++) {
		uint32_t u;

		memcpy(&u, p + 4 * i, 4);
		bad |= (u & 0x7fffffffu) >= limit;
	}
	return bad;
}

LP_CLONES static bool any_from16(const uint8_t *p, size_t n, uint16_t limit)
{
	uint16_t bad = 0;

	for (size_t i = 0; i < n; i++) {
		uint16_t h;

		memcpy(&h, p + 2 * i, 2);
		bad |= (h & 0x7fff) >= limit;
	}
	return bad;
}

static bool any_from(enum dtype type, const uint8_t *p, size_t at, size_t n, uint32_t limit)
{
	return type == DT_F32 ? any_from32(p + 4 * at, n, limit) : any_from16(p + 2 * at, n, (uint16_t)limit);
}

/* The first element whose bits, without the sign, are limit or more. */
static int64_t find_from(const struct tensor *t, uint32_t limit)
{
	const size_t n = (size_t)tensor_elems(t), block = 4096;
	size_t first = n;

	/* a model comes from a map of its file: the pages are fetched by all threads, too */
#pragma omp parallel for schedule(static) reduction(min : first) if (n > 1u << 20)
	for (size_t begin = 0; begin < n; begin += block) {
		size_t end = n - begin < block ? n : begin + block;

		if (begin < first && any_from(t->dtype, t->data, begin, end - begin, limit))
			first = begin;
	}
	for (size_t i = first; i < n; i++)
		if (any_from(t->dtype, t->data, i, 1, limit))
			return (int64_t)i;
	return -1;
}

int64_t tensor_find_nonfinite(const struct tensor *t)
{
	return find_from(t, t->dtype == DT_F32 ? 0x7f800000 : t->dtype == DT_F16 ? 0x7c00 : 0x7f80);
}

int64_t tensor_find_beyond_f16(const struct tensor *t)
{
	return find_from(t, t->dtype == DT_F32 ? 0x477fe001 : t->dtype == DT_F16 ? 0x7c00 : 0x4780);
}
