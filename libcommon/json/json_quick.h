/* Reading JSON of one known form in one go, without a tree: for what is large or
 * comes often. Every step says no to anything but that form, valid or not; the
 * caller then has the strict parser judge the text, which also finds the words
 * for what is wrong. */
#ifndef LP_JSON_JSON_QUICK_H
#define LP_JSON_JSON_QUICK_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct quick {
	const char *s, *end;
};

#define QUICK_EACH 0x0101010101010101u
#define QUICK_TOPS (0x80 * QUICK_EACH)

void quick_space(struct quick *q);
bool quick_char_far(struct quick *q, char c); /* white space, then c */

static inline bool quick_char(struct quick *q, char c)
{
	if (q->s >= q->end || *q->s != c)
		return quick_char_far(q, c);
	q->s++;
	return true;
}

bool quick_key(struct quick *q, const char *name);    /* white space, then "name" : */

/* A whole number of at most 9 digits. */
static inline bool quick_count(struct quick *q, uint32_t *n)
{
	const char *from;

	if (q->s < q->end && *q->s <= ' ')
		quick_space(q);
	for (from = q->s, *n = 0; q->s < q->end && *q->s >= '0' && *q->s <= '9' && q->s - from < 10; q->s++)
		*n = *n * 10 + (uint32_t)(*q->s - '0');
	return q->s > from && q->s - from < 10 && (*from != '0' || q->s == from + 1);
}

/* The top bit of each byte of x that is a quote, a backslash or a control character. */
static inline uint64_t quick_ends(uint64_t x)
{
	uint64_t m = x & ~QUICK_TOPS;

	return (~(m + 0x60 * QUICK_EACH) | ~((m ^ '"' * QUICK_EACH) + 0x7F * QUICK_EACH) | ~((m ^ '\\' * QUICK_EACH) + 0x7F * QUICK_EACH)) & ~x & QUICK_TOPS;
}

#ifdef __SSE2__
/* The same of 16 bytes, a bit for each. */
static inline unsigned quick_ends16(const char *s)
{
	__m128i x = _mm_loadu_si128((const __m128i *)(const void *)s), control = _mm_set1_epi8(0x1F);
	__m128i is = _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8('"')), _mm_cmpeq_epi8(x, _mm_set1_epi8('\\')));

	return (unsigned)_mm_movemask_epi8(_mm_or_si128(is, _mm_cmpeq_epi8(_mm_min_epu8(x, control), x)));
}
#endif

/* To the next such byte; false: there is none. */
static inline bool quick_to_end(struct quick *q)
{
#ifdef __SSE2__ /* most strings end within the first 16 bytes */
	for (; q->end - q->s >= 16; q->s += 16) {
		unsigned stop = quick_ends16(q->s);

		if (stop) {
			q->s += __builtin_ctz(stop);
			return true;
		}
	}
#endif
	for (; q->end - q->s >= 8; q->s += 8) {
		uint64_t x, stop;

		memcpy(&x, q->s, 8);
		stop = quick_ends(le64toh(x));
		if (stop) {
			q->s += __builtin_ctzll(stop) >> 3;
			return true;
		}
	}
	for (; q->s < q->end; q->s++)
		if (*q->s == '"' || *q->s == '\\' || (unsigned char)*q->s < 0x20)
			return true;
	return false;
}

/* A string behind its quote, up to where it ends; *slash: it has escapes, and is
 * not as it stands. Reads nothing beyond end. UTF-8 is the caller's to check. */
static inline bool quick_slice(struct quick *q, const char **s, size_t *n, bool *slash)
{
	*s = q->s;
	*slash = false;
	while (quick_to_end(q)) {
		if (*q->s == '"') {
			*n = (size_t)(q->s++ - *s);
			return true;
		}
		if (*q->s != '\\' || q->end - q->s < 2)
			return false;
		*slash = true;
		q->s += 2;
	}
	return false;
}

/* The same copied to out, which has room for all that is left and 16 bytes more,
 * without its escapes; *w: its length. May read 8 bytes beyond end. False as well when it is not UTF-8. */
bool quick_string(struct quick *q, char *out, size_t *w);
bool quick_skip(struct quick *q);                     /* any value; only its brackets and strings are looked at */

bool json_utf8_ok(const char *s, size_t n);

#ifdef __cplusplus
}
#endif

#endif
