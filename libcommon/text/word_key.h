/* A short string as two numbers, which are compared and hashed in its stead. */
#ifndef LP_TEXT_WORD_KEY_H
#define LP_TEXT_WORD_KEY_H

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WORD_BYTES 15

static inline uint64_t word_load8(const char *s)
{
	uint64_t x;

	memcpy(&x, s, 8);
	return le64toh(x);
}
static inline uint32_t word_load4(const char *s)
{
	uint32_t x;

	memcpy(&x, s, 4);
	return le32toh(x);
}
static inline uint64_t word_byte(const char *s, size_t i)
{
	return (uint64_t)(unsigned char)s[i] << 8 * i;
}

/* s[0..len), len within 1 and WORD_BYTES; room: bytes that may be read from s on. The
 * bytes, zeros behind them, the length in the last byte: never zero. Of little room by
 * loads that overlap. */
static inline void word_key(const char *s, size_t len, size_t room, uint64_t key[2])
{
	if (room >= 16) {
		key[0] = word_load8(s) & UINT64_MAX >> (len < 8 ? 64 - 8 * len : 0);
		key[1] = len > 8 ? word_load8(s + 8) & UINT64_MAX >> (128 - 8 * len) : 0;
	} else if (len >= 8) {
		key[0] = word_load8(s);
		key[1] = len > 8 ? word_load8(s + len - 8) >> (128 - 8 * len) : 0;
	} else {
		key[0] = len >= 4 ? word_load4(s) | (uint64_t)word_load4(s + len - 4) << 8 * (len - 4) : word_byte(s, 0) | word_byte(s, len >> 1) | word_byte(s, len - 1);
		key[1] = 0;
	}
	key[1] |= (uint64_t)len << 56;
}

/* 32 bits. */
static inline uint64_t word_hash(const uint64_t key[2])
{
	uint64_t h = key[0] * 0x9E3779B97F4A7C15u + (key[1] ^ key[1] >> 29) * 0xC2B2AE3D27D4EB4Fu;

	return (h ^ h >> 32) * 0xD6E8FEB86659FD93u >> 32;
}

#endif
