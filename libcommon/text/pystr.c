/* Word-wise over ASCII, code point by code point elsewhere. The contexts of
 * the final sigma follow the Unicode Standard, table 3-17 (Final_Sigma). */
#include "text/pystr.h"

#include <string.h>
#include <utf8proc.h>

#define ONES 0x0101010101010101ull
#define HIGH 0x8080808080808080ull

static uint64_t load8(const char *p)
{
	uint64_t x;

	memcpy(&x, p, 8);
	return x;
}

size_t py_len(const char *s, size_t n)
{
	size_t cont = 0, i = 0;

	for (; i + 8 <= n; i += 8) {
		uint64_t x = load8(s + i);

		if (x & HIGH) /* continuation bytes: 10xxxxxx */
			cont += (size_t)(((x >> 7 & ~x >> 6 & ONES) * ONES) >> 56);
	}
	for (; i < n; i++)
		cont += ((unsigned char)s[i] & 0xc0) == 0x80;
	return n - cont;
}

bool py_is_space(int32_t c)
{
	return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
	       (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* The code point at s (n > 0 bytes left) and its length; a stray byte is itself. */
static size_t decode(const char *s, size_t n, int32_t *cp)
{
	if ((unsigned char)*s < 0x80) {
		*cp = (unsigned char)*s;
		return 1;
	}
	utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)(n > 4 ? 4 : n), cp);

	if (k > 0)
		return (size_t)k;
	*cp = (unsigned char)*s;
	return 1;
}

/* The code point that ends before s[i], i > 0. */
static size_t decode_back(const char *s, size_t i, int32_t *cp)
{
	size_t k = 1;

	while (k < 4 && k < i && ((unsigned char)s[i - k] & 0xc0) == 0x80)
		k++;
	if (decode(s + i - k, k, cp) != k) {
		*cp = (unsigned char)s[i - 1];
		return 1;
	}
	return k;
}

void py_strip(const char *s, size_t n, const char **begin, size_t *len)
{
	size_t b = 0, k;
	int32_t cp;

	while (b < n && (k = decode(s + b, n - b, &cp), py_is_space(cp)))
		b += k;
	while (n > b && (k = decode_back(s, n, &cp), py_is_space(cp)))
		n -= k;
	*begin = s + b;
	*len = n - b;
}

/* --- lower --- */

static bool between(int32_t c, int32_t a, int32_t b)
{
	return c >= a && c <= b;
}

/* Derived property Case_Ignorable: Mn, Me, Cf, Lm, Sk, and the word-break classes
 * MidLetter, MidNumLet and Single_Quote. */
static bool is_case_ignorable(int32_t c)
{
	switch (utf8proc_category(c)) {
	case UTF8PROC_CATEGORY_MN:
	case UTF8PROC_CATEGORY_ME:
	case UTF8PROC_CATEGORY_CF:
	case UTF8PROC_CATEGORY_LM:
	case UTF8PROC_CATEGORY_SK:
		return true;
	default:
		break;
	}
	switch (c) {
	case 0x27: case 0x2e: case 0x3a: case 0xb7: case 0x387: case 0x55f: case 0x5f4: case 0x2018: case 0x2019:
	case 0x2024: case 0x2027: case 0xfe13: case 0xfe52: case 0xfe55: case 0xff07: case 0xff0e: case 0xff1a:
		return true;
	default:
		return false;
	}
}

/* Derived property Cased, of code points that are not ignorable. */
static bool is_cased(int32_t c)
{
	switch (utf8proc_category(c)) {
	case UTF8PROC_CATEGORY_LU:
	case UTF8PROC_CATEGORY_LL:
	case UTF8PROC_CATEGORY_LT:
		return true;
	default: /* Other_Uppercase and Other_Lowercase */
		return c == 0xaa || c == 0xba || between(c, 0x2160, 0x217f) || between(c, 0x24b6, 0x24e9) ||
		       between(c, 0x1f130, 0x1f149) || between(c, 0x1f150, 0x1f169) || between(c, 0x1f170, 0x1f189);
	}
}

/* Whether the capital sigma at s[i] (2 bytes) ends a word. */
static bool is_final_sigma(const char *s, size_t n, size_t i)
{
	size_t j = i;
	int32_t c = 0;

	do {
		if (!j)
			return false;
		j -= decode_back(s, j, &c);
	} while (is_case_ignorable(c));
	if (!is_cased(c))
		return false;
	j = i + 2;
	do {
		if (j >= n)
			return true;
		j += decode(s + j, n - j, &c);
	} while (is_case_ignorable(c));
	return !is_cased(c);
}

/* ASCII capitals of eight ASCII bytes to small letters. */
static uint64_t lower8(uint64_t x)
{
	uint64_t above_at = x + (0x80 - 'A') * ONES, above_z = x + (0x80 - 'Z' - 1) * ONES;

	return x | ((above_at & ~above_z & HIGH) >> 2);
}

static size_t lower_one(const char *s, size_t n, size_t i, struct sb *out)
{
	utf8proc_uint8_t buf[4];
	int32_t c;
	size_t k = decode(s + i, n - i, &c);

	if (c == 0x3a3)
		c = is_final_sigma(s, n, i) ? 0x3c2 : 0x3c3;
	else if (c == 0x130) {
		sb_add(out, "i\xcc\x87", 3);
		return k;
	} else if (k > 1) {
		c = utf8proc_tolower(c);
	} else if (c >= 0x80) { /* a stray byte */
		sb_addc(out, s[i]);
		return 1;
	} else if (c >= 'A' && c <= 'Z') {
		c += 'a' - 'A';
	}
	sb_add(out, buf, (size_t)utf8proc_encode_char(c, buf));
	return k;
}

void py_lower(const char *s, size_t n, struct sb *out)
{
	size_t i = 0;

	sb_reset(out);
	sb_grow(out, n + 8);
	while (i < n) {
		size_t start = i;

		while (i + 8 <= n) {
			uint64_t x = load8(s + i);

			if (x & HIGH)
				break;
			x = lower8(x);
			if (out->cap < out->len + (i - start) + 9)
				sb_grow(out, n - i + 64);
			memcpy(out->s + out->len + (i - start), &x, 8);
			i += 8;
		}
		out->len += i - start;
		for (int k = 0; k < 8 && i < n; k++)
			i += lower_one(s, n, i, out);
	}
	if (out->s)
		out->s[out->len] = '\0';
}

/* Length of the white space beyond ASCII at s, 0 when there is none. */
static size_t wide_space(const char *s, size_t n)
{
	unsigned char lead = (unsigned char)*s;
	int32_t c;
	size_t k;

	if (lead != 0xc2 && lead != 0xe1 && lead != 0xe2 && lead != 0xe3)
		return 0;
	k = decode(s, n, &c);
	return py_is_space(c) ? k : 0;
}

void py_collapse(const char *s, size_t n, struct sb *out)
{
	static const unsigned char ascii_space[256] = {
		[0x09] = 1, [0x0a] = 1, [0x0b] = 1, [0x0c] = 1, [0x0d] = 1, [0x1c] = 1, [0x1d] = 1, [0x1e] = 1, [0x1f] = 1, [0x20] = 1,
	};
	size_t prev = 1, k;
	char *w;

	sb_reset(out);
	sb_grow(out, n + 1);
	w = out->s;
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s[i];
		size_t space = ascii_space[c];

		if (c >= 0x80 && (k = wide_space(s + i, n - i)) != 0) {
			space = 1;
			i += k - 1;
		}
		*w = space ? ' ' : (char)c;
		w += !(space & prev);
		prev = space;
	}
	out->len = (size_t)(w - out->s);
	if (out->len && out->s[out->len - 1] == ' ')
		out->len--;
	out->s[out->len] = '\0';
}
