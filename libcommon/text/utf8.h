/* UTF-8: reading, writing, checking. Only shortest forms of scalar values are
 * valid (no surrogates, nothing above U+10FFFF). */
#ifndef LP_TEXT_UTF8_H
#define LP_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The code point at s, which must be valid; *n is its length in bytes. */
static inline uint32_t utf8_get(const char *s, unsigned *n)
{
	const unsigned char *p = (const unsigned char *)s;

	if (p[0] < 0x80) {
		*n = 1;
		return p[0];
	}
	if (p[0] < 0xE0) {
		*n = 2;
		return (uint32_t)(p[0] & 0x1F) << 6 | (p[1] & 0x3Fu);
	}
	if (p[0] < 0xF0) {
		*n = 3;
		return (uint32_t)(p[0] & 0x0F) << 12 | (uint32_t)(p[1] & 0x3F) << 6 | (p[2] & 0x3Fu);
	}
	*n = 4;
	return (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3F) << 12 | (uint32_t)(p[2] & 0x3F) << 6 | (p[3] & 0x3Fu);
}

/* Length of a valid sequence from its first byte. */
static inline unsigned utf8_len(unsigned char first)
{
	return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

static inline bool utf8_is_cont(char c)
{
	return ((unsigned char)c & 0xC0) == 0x80;
}

/* Start of the character that ends at byte i of valid text (i > 0). */
static inline size_t utf8_prev(const char *s, size_t i)
{
	do
		i--;
	while (i && utf8_is_cont(s[i]));
	return i;
}

/* Writes 1..4 bytes; cp must be a scalar value. */
unsigned utf8_put(char buf[4], uint32_t cp);

/* Length of the valid prefix of s[0..n): n when all of it is valid. */
size_t utf8_valid_len(const char *s, size_t n);

#endif
