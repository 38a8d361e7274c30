/* The table of block types, and the way from a type to its code. */
#include "fmt/quant.h"

#include <string.h>

#include "base/num.h"
#include "fmt/dtype.h"
#include "fmt/quant_lanes.h"

static const struct quant_info infos[] = {
	[QT_F32] = { "F32", 1, 4 },      [QT_F16] = { "F16", 1, 2 },      [QT_Q4_0] = { "Q4_0", 32, 18 },
	[QT_Q4_1] = { "Q4_1", 32, 20 },  [QT_Q5_0] = { "Q5_0", 32, 22 },  [QT_Q5_1] = { "Q5_1", 32, 24 },
	[QT_Q8_0] = { "Q8_0", 32, 34 },  [QT_Q4_K] = { "Q4_K", 256, 144 }, [QT_Q5_K] = { "Q5_K", 256, 176 },
	[QT_Q6_K] = { "Q6_K", 256, 210 }, [QT_BF16] = { "BF16", 1, 2 },
};

const struct quant_info *quant_info(uint32_t type)
{
	return type < sizeof(infos) / sizeof(*infos) && infos[type].name ? &infos[type] : NULL;
}

uint64_t quant_row_bytes(uint32_t type, uint64_t n)
{
	const struct quant_info *q = quant_info(type);
	uint64_t bytes;

	if (!q || n % q->block_elems || __builtin_mul_overflow(n / q->block_elems, (uint64_t)q->block_bytes, &bytes))
		return 0;
	return bytes;
}

LP_CLONES int64_t quant_find_nonfinite(const float *v, uint64_t n)
{
	uint64_t i = 0;

	for (; i + LANES <= n; i += LANES) {
		i32x8 u, m;
		int32_t any = 0;

		memcpy(&u, v + i, sizeof(u));
		m = (u & 0x7f800000) == 0x7f800000;
		for (int j = 0; j < LANES; j++)
			any |= m[j];
		if (any)
			break;
	}
	for (; i < n; i++)
		if (!(v[i] - v[i] == 0.0f))
			return (int64_t)i;
	return -1;
}

typedef uint16_t u16x8 __attribute__((vector_size(16)));

/* Eight finite floats to half floats, as f32_to_f16: below the smallest normal
 * half, adding 0.5 lets the adder round at the right bit. */
LANE_INLINE void lanes_f16(const f32x8 *v, i32x8 *h)
{
	i32x8 u = (i32x8)*v & 0x7fffffff, small = u < 113 << 23, huge = u >= 143 << 23;
	i32x8 sub = (i32x8)((f32x8)u + 0.5f) - 0x3f000000, norm = (u - (112 << 23) + 0xfff + (u >> 13 & 1)) >> 13;

	norm = (small & sub) | (~small & norm);
	norm = (huge & 0x7c00) | (~huge & norm);
	*h = norm | ((i32x8)*v >> 16 & 0x8000);
}

LANE_INLINE void lanes_bf16(const f32x8 *v, i32x8 *h)
{
	i32x8 u = (i32x8)*v;

	*h = (u + 0x7fff + (u >> 16 & 1)) >> 16 & 0xffff;
}

/* Eight values to halves at dst; lanes that became infinite are added to *over. */
LANE_INLINE void put_halves(bool bf16, const f32x8 *v, uint8_t *dst, size_t bytes, i32x8 *over)
{
	int exponent = bf16 ? 0x7f80 : 0x7c00;
	i32x8 h;
	u16x8 out;

	if (bf16)
		lanes_bf16(v, &h);
	else
		lanes_f16(v, &h);
	out = __builtin_convertvector(h, u16x8);
	memcpy(dst, &out, bytes);
	*over |= (h & exponent) == exponent;
}

/* One value a half each. False when one became infinite. */
LP_CLONES static bool encode_halves(bool bf16, const float *src, uint8_t *dst, uint64_t n)
{
	i32x8 over = { 0 };
	int32_t any = 0;
	uint64_t i = 0;
	f32x8 v;

	for (; i + LANES <= n; i += LANES) {
		memcpy(&v, src + i, sizeof(v));
		put_halves(bf16, &v, dst + 2 * i, 2 * LANES, &over);
	}
	v = (f32x8){ 0 };
	memcpy(&v, src + i, (n - i) * sizeof(*src));
	put_halves(bf16, &v, dst + 2 * i, 2 * (n - i), &over);
	for (int j = 0; j < LANES; j++)
		any |= over[j];
	return !any;
}

static int64_t find_infinite_half(bool bf16, const uint8_t *p, uint64_t n)
{
	uint16_t exponent = bf16 ? 0x7f80 : 0x7c00;

	for (uint64_t i = 0; i < n; i++)
		if ((get_u16(p + 2 * i) & exponent) == exponent)
			return (int64_t)i;
	return -1;
}

int64_t quant_encode(enum quant_type type, const float *src, void *dst, uint64_t n)
{
	switch (type) {
	case QT_F32:
		memcpy(dst, src, n * sizeof(*src));
		return -1;
	case QT_F16:
	case QT_BF16:
		return encode_halves(type == QT_BF16, src, dst, n) ? -1 : find_infinite_half(type == QT_BF16, dst, n);
	case QT_Q4_0:
		return quant_encode_q4_0(src, dst, n / 32);
	case QT_Q4_1:
		return quant_encode_q4_1(src, dst, n / 32);
	case QT_Q5_0:
		return quant_encode_q5_0(src, dst, n / 32);
	case QT_Q5_1:
		return quant_encode_q5_1(src, dst, n / 32);
	case QT_Q8_0:
		return quant_encode_q8_0(src, dst, n / 32);
	case QT_Q4_K:
		return quant_encode_q4_k(src, dst, n / 256);
	case QT_Q5_K:
		return quant_encode_q5_k(src, dst, n / 256);
	case QT_Q6_K:
		return quant_encode_q6_k(src, dst, n / 256);
	}
	return 0;
}

/* --- decoding --- */

static inline uint8_t nibble(const uint8_t *p, int i)
{
	return i < 16 ? p[i] & 15 : p[i - 16] >> 4;
}

/* The five 32-element types. */
static void decode_32(enum quant_type type, const uint8_t *b, float *y)
{
	float d = f16_to_f32(get_f16(b)), m = type == QT_Q4_1 || type == QT_Q5_1 ? f16_to_f32(get_f16(b + 2)) : 0.0f;
	uint32_t high = type == QT_Q5_0 ? get_u32(b + 2) : type == QT_Q5_1 ? get_u32(b + 4) : 0;

	for (int i = 0; i < 32; i++) {
		int five = (int)(high >> i & 1) << 4;

		switch (type) {
		case QT_Q4_0:
			y[i] = (float)(nibble(b + 2, i) - 8) * d;
			break;
		case QT_Q4_1:
			y[i] = (float)nibble(b + 4, i) * d + m;
			break;
		case QT_Q5_0:
			y[i] = (float)((nibble(b + 6, i) | five) - 16) * d;
			break;
		case QT_Q5_1:
			y[i] = (float)(nibble(b + 8, i) | five) * d + m;
			break;
		default:
			y[i] = (float)(int8_t)b[2 + i] * d;
		}
	}
}

/* Q4_K and Q5_K: sub-block j is elements 32 j ..; its codes are the low (even
 * j) or high nibbles of 32 bytes. */
static void decode_affine(bool five, const uint8_t *b, float *y)
{
	float d = f16_to_f32(get_f16(b)), dmin = f16_to_f32(get_f16(b + 2));
	const uint8_t *s = b + 4, *q = five ? b + 48 : b + 16;

	for (int j = 0; j < 8; j++, y += 32) {
		int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
		int low = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
		float step = d * (float)scale, base = dmin * (float)low;

		for (int i = 0; i < 32; i++) {
			uint8_t byte = q[32 * (j / 2) + i];
			int code = j & 1 ? byte >> 4 : byte & 15;

			if (five)
				code |= (b[16 + i] >> j & 1) << 4;
			y[i] = step * (float)code - base;
		}
	}
}

static void decode_q6_k(const uint8_t *b, float *y)
{
	float d = f16_to_f32(get_f16(b + 208));

	for (int k = 0; k < 256; k++) {
		int h = k / 128, part = k % 128 / 32, i = k % 32;
		uint8_t low = b[64 * h + 32 * (part & 1) + i], high = b[128 + 32 * h + i];
		int code = (part < 2 ? low & 15 : low >> 4) | (high >> 2 * part & 3) << 4;

		y[k] = d * (float)(int8_t)b[192 + k / 16] * (float)(code - 32);
	}
}

void quant_decode(enum quant_type type, const void *src, float *dst, uint64_t n)
{
	const struct quant_info *q = quant_info(type);
	const uint8_t *b = src;

	if (type == QT_F32 || type == QT_F16 || type == QT_BF16) {
		to_f32(type == QT_F32 ? DT_F32 : type == QT_F16 ? DT_F16 : DT_BF16, src, dst, n);
		return;
	}
	for (uint64_t i = 0; i < n; i += q->block_elems, b += q->block_bytes, dst += q->block_elems)
		if (q->block_elems == 32)
			decode_32(type, b, dst);
		else if (type == QT_Q6_K)
			decode_q6_k(b, dst);
		else
			decode_affine(type == QT_Q5_K, b, dst);
}
