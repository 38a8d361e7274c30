/* Private to quant_*.c: eight floats side by side. One lane is one sub-block,
 * so a sum over a sub-block keeps its order while eight of them advance
 * together. Pointers, not values, pass between functions: eight floats have no
 * settled calling convention without AVX. */
#ifndef LP_FMT_QUANT_LANES_H
#define LP_FMT_QUANT_LANES_H

#include <stdint.h>
#include <string.h>

#include "fmt/dtype.h"

#define LANES 8
typedef float f32x8 __attribute__((vector_size(32)));
typedef int32_t i32x8 __attribute__((vector_size(32)));

#define LANE_INLINE static inline __attribute__((always_inline))

/* Round to nearest, ties to even, for |v| < 2^22, by the adder: the magic
 * constant leaves the integer in the low mantissa bits. Out of range the result
 * is what the bits say, which the reference encoder has too. */
#define ROUND_MAGIC 12582912.0f /* 1.5 * 2^23 */

LANE_INLINE int nearest_int(float v)
{
	float m = v + ROUND_MAGIC;
	int32_t u;

	memcpy(&u, &m, 4);
	return (u & 0x007fffff) - 0x00400000;
}

/* *q = nearest integers of *v, kept within [lo, hi]. */
LANE_INLINE void nearest_clamped(const f32x8 *v, int lo, int hi, i32x8 *q)
{
	f32x8 m = *v + ROUND_MAGIC;
	i32x8 i = ((i32x8)m & 0x007fffff) - 0x00400000, c;

	c = i < lo;
	i = (c & lo) | (~c & i);
	c = i > hi;
	*q = (c & hi) | (~c & i);
}

/* *a where the mask is set, *b elsewhere, into *a. */
LANE_INLINE void lane_keep(const i32x8 *mask, f32x8 *a, const f32x8 *b)
{
	*a = (f32x8)((*mask & (i32x8)*a) | (~*mask & (i32x8)*b));
}

/* As the reference rounds: a result that is no number is a quiet one without payload. */
static inline uint16_t scale_f16(float v)
{
	return v != v ? (uint16_t)(f32_to_f16(v) | 0x7e00) & 0xfe00 : f32_to_f16(v);
}

static inline void put_f16(uint8_t *p, uint16_t h)
{
	p[0] = (uint8_t)h;
	p[1] = (uint8_t)(h >> 8);
}

static inline uint16_t get_f16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static inline bool f16_finite(uint16_t h)
{
	return (h & 0x7c00) != 0x7c00;
}

#endif
