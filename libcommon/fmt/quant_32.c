/* The 32-element blocks Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: one scale, for *_1 a
 * minimum too, and codes by rounding. */
#include "fmt/quant.h"

#include <math.h>
#include <string.h>

#include "fmt/quant_lanes.h"

#define QB 32
#define GROUPS (QB / LANES)

LANE_INLINE void load_block(const float *src, f32x8 x[GROUPS])
{
	memcpy(x, src, QB * sizeof(*src));
}

/* Truncates; what does not fit an int becomes 0 in its low byte, as the
 * conversion instruction of the reference's machine has it. */
LANE_INLINE void truncate_codes(const f32x8 *v, i32x8 *q)
{
	i32x8 fits = (*v < 2147483648.0f) & (*v >= -2147483648.0f);
	f32x8 w = (f32x8)(fits & (i32x8)*v);

	*q = __builtin_convertvector(w, i32x8);
}

/* The value of largest magnitude, the first of equals; its sign kept. */
static inline float extreme(const float *x)
{
	float amax = 0, max = 0;

	for (int i = 0; i < QB; i++)
		if (amax < fabsf(x[i])) {
			amax = fabsf(x[i]);
			max = x[i];
		}
	return max;
}

/* Codes 0..2^bits - 1 of one block: truncated (x - low) * inv + bias, in a byte,
 * with an upper limit. */
LANE_INLINE void codes(const float *src, float low, float inv, float bias, int limit, uint8_t code[QB])
{
	f32x8 x[GROUPS];

	load_block(src, x);
	for (int g = 0; g < GROUPS; g++) {
		f32x8 v = (x[g] - low) * inv + bias;
		i32x8 q;

		truncate_codes(&v, &q);
		for (int j = 0; j < LANES; j++) {
			/* the reference passes through a signed byte */
			int c = (int8_t)q[j];

			code[LANES * g + j] = (uint8_t)(c < limit ? c : limit);
		}
	}
}

static inline void put_nibbles(uint8_t *dst, const uint8_t code[QB])
{
	for (int i = 0; i < 16; i++)
		dst[i] = (uint8_t)((code[i] & 15) | code[16 + i] << 4);
}

static inline void put_fifth_bits(uint8_t *dst, const uint8_t code[QB])
{
	uint32_t high = 0;

	for (int i = 0; i < QB; i++)
		high |= (uint32_t)(code[i] >> 4 & 1) << i;
	for (int i = 0; i < 4; i++)
		dst[i] = (uint8_t)(high >> 8 * i);
}

/* One scale: codes centred on 8 or 16; the value of largest magnitude gets code 0. */
LANE_INLINE bool block_centred(const float *src, uint8_t *dst, int half, uint8_t code[QB])
{
	float d = extreme(src) / (float)-half, inv = d != 0.0f ? 1.0f / d : 0.0f;
	uint16_t h = scale_f16(d);

	put_f16(dst, h);
	codes(src, 0.0f, inv, (float)half + 0.5f, 2 * half - 1, code);
	return f16_finite(h);
}

/* Scale and minimum. */
LANE_INLINE bool block_affine(const float *src, uint8_t *dst, int top, uint8_t code[QB])
{
	float low = src[0], high = src[0], d, inv;
	uint16_t hd, hm;

	for (int i = 1; i < QB; i++) {
		low = src[i] < low ? src[i] : low;
		high = src[i] > high ? src[i] : high;
	}
	d = (high - low) / (float)top;
	inv = d != 0.0f ? 1.0f / d : 0.0f;
	hd = scale_f16(d);
	hm = scale_f16(low);
	put_f16(dst, hd);
	put_f16(dst + 2, hm);
	codes(src, low, inv, 0.5f, top, code);
	return f16_finite(hd) && f16_finite(hm);
}

LP_CLONES int64_t quant_encode_q4_0(const float *src, uint8_t *dst, uint64_t n_blocks)
{
	int64_t bad = -1;
	uint8_t code[QB];

	for (uint64_t b = 0; b < n_blocks; b++, src += QB, dst += 18) {
		if (!block_centred(src, dst, 8, code) && bad < 0)
			bad = (int64_t)(b * QB);
		put_nibbles(dst + 2, code);
	}
	return bad;
}

LP_CLONES int64_t quant_encode_q4_1(const float *src, uint8_t *dst, uint64_t n_blocks)
{
	int64_t bad = -1;
	uint8_t code[QB];

	for (uint64_t b = 0; b < n_blocks; b++, src += QB, dst += 20) {
		if (!block_affine(src, dst, 15, code) && bad < 0)
			bad = (int64_t)(b * QB);
		put_nibbles(dst + 4, code);
	}
	return bad;
}

LP_CLONES int64_t quant_encode_q5_0(const float *src, uint8_t *dst, uint64_t n_blocks)
{
	int64_t bad = -1;
	uint8_t code[QB];

	for (uint64_t b = 0; b < n_blocks; b++, src += QB, dst += 22) {
		if (!block_centred(src, dst, 16, code) && bad < 0)
			bad = (int64_t)(b * QB);
		put_fifth_bits(dst + 2, code);
		put_nibbles(dst + 6, code);
	}
	return bad;
}

LP_CLONES int64_t quant_encode_q5_1(const float *src, uint8_t *dst, uint64_t n_blocks)
{
	int64_t bad = -1;
	uint8_t code[QB];

	for (uint64_t b = 0; b < n_blocks; b++, src += QB, dst += 24) {
		if (!block_affine(src, dst, 31, code) && bad < 0)
			bad = (int64_t)(b * QB);
		put_fifth_bits(dst + 4, code);
		put_nibbles(dst + 8, code);
	}
	return bad;
}

LP_CLONES int64_t quant_encode_q8_0(const float *src, uint8_t *dst, uint64_t n_blocks)
{
	int64_t bad = -1;

	for (uint64_t b = 0; b < n_blocks; b++, src += QB, dst += 34) {
		f32x8 x[GROUPS];
		i32x8 top = { 0 };
		int32_t most = 0;
		float amax, d, inv;
		uint16_t h;

		load_block(src, x);
		/* Magnitudes of finite floats order as their bits do. */
		for (int g = 0; g < GROUPS; g++) {
			i32x8 a = (i32x8)x[g] & 0x7fffffff, m = a > top;

			top = (m & a) | (~m & top);
		}
		for (int j = 0; j < LANES; j++)
			most = top[j] > most ? top[j] : most;
		memcpy(&amax, &most, 4);
		d = amax / 127.0f;
		inv = d != 0.0f ? 1.0f / d : 0.0f;
		h = scale_f16(d);
		put_f16(dst, h);
		if (!f16_finite(h) && bad < 0)
			bad = (int64_t)(b * QB);
		for (int g = 0; g < GROUPS; g++) {
			f32x8 v = x[g] * inv;
			/* Half away from zero: adding the float below one half
			 * with the value's sign, then truncating, is roundf. */
			f32x8 half = (f32x8)(((i32x8)v & (int32_t)0x80000000) | 0x3effffff);
			i32x8 q;

			v += half;
			truncate_codes(&v, &q);
			for (int j = 0; j < LANES; j++)
				dst[2 + LANES * g + j] = (uint8_t)q[j];
		}
	}
	return bad;
}
