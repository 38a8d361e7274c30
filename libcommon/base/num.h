/* Strict number parsing and little-endian bytes. */
#ifndef LP_BASE_NUM_H
#define LP_BASE_NUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whole string or nothing: false on junk, overflow, or an empty string. */
bool parse_i64(const char *s, int64_t *out);
bool parse_u64(const char *s, uint64_t *out);
bool parse_f64(const char *s, double *out); /* finite only; locale-free */
bool parse_size(const char *s, uint64_t *out); /* 512, 64K, 24G, 1.5GiB, 8GB (K, M, G, T are powers of 1024) */

/* Shortest decimal text that reads back as the same double, as Python's
 * repr prints it ("0.1", "1e-05", "3.0"). buf needs 32 bytes. Returns length. */
size_t fmt_f64(double v, char *buf);

static inline uint16_t get_u16(const void *p)
{
	const uint8_t *b = (const uint8_t *)p;
	return (uint16_t)(b[0] | b[1] << 8);
}
static inline uint32_t get_u32(const void *p)
{
	const uint8_t *b = (const uint8_t *)p;
	return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
static inline uint64_t get_u64(const void *p)
{
	return (uint64_t)get_u32(p) | (uint64_t)get_u32((const uint8_t *)p + 4) << 32;
}
static inline void put_u32(void *p, uint32_t v)
{
	uint8_t *b = (uint8_t *)p;
	b[0] = (uint8_t)v, b[1] = (uint8_t)(v >> 8), b[2] = (uint8_t)(v >> 16), b[3] = (uint8_t)(v >> 24);
}
static inline void put_u64(void *p, uint64_t v)
{
	put_u32(p, (uint32_t)v);
	put_u32((uint8_t *)p + 4, (uint32_t)(v >> 32));
}

#endif
