/* UTF-8 and character classes as Python 3's str has them. Categories come
 * from utf8proc; what it lacks (full case mappings, digit and numeric
 * values) is in tmpl_uni_tab.h, written by tests/oracle/make_unicode.py. */
#include <stdlib.h>

#include <utf8proc.h>

#include "text/tmpl_impl.h"
#include "text/tmpl_uni_tab.h"

uint32_t uni_next(const char **p, const char *end)
{
	const unsigned char *s = (const unsigned char *)*p;
	uint32_t c = *s;
	int more = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;

	if (end - *p <= more)
		more = (int)(end - *p) - 1; /* never past the end, even of bad text */
	if (more > 0)
		c &= 0x3fu >> more;
	for (int i = 1; i <= more; i++)
		c = c << 6 | (s[i] & 0x3f);
	*p += 1 + (more > 0 ? more : 0);
	return c;
}

uint32_t uni_prev(const char *start, const char **p)
{
	const char *end = *p, *q = end - 1;

	while (q > start && end - q < 4 && ((unsigned char)*q & 0xc0) == 0x80)
		q--;
	*p = q;
	return uni_next(&q, end);
}

size_t uni_put(char *b, uint32_t c)
{
	if (c < 0x80)
		return b[0] = (char)c, 1;
	if (c < 0x800)
		return b[0] = (char)(0xc0 | c >> 6), b[1] = (char)(0x80 | (c & 63)), 2;
	if (c < 0x10000)
		return b[0] = (char)(0xe0 | c >> 12), b[1] = (char)(0x80 | (c >> 6 & 63)), b[2] = (char)(0x80 | (c & 63)), 3;
	b[0] = (char)(0xf0 | c >> 18), b[1] = (char)(0x80 | (c >> 12 & 63));
	b[2] = (char)(0x80 | (c >> 6 & 63)), b[3] = (char)(0x80 | (c & 63));
	return 4;
}

size_t uni_count(const char *s, size_t n)
{
	size_t k = 0;

	for (size_t i = 0; i < n; i++)
		k += ((unsigned char)s[i] & 0xc0) != 0x80;
	return k;
}

size_t uni_offset(const char *s, size_t n, size_t cp)
{
	size_t i = 0;

	for (; i < n; i++)
		if (((unsigned char)s[i] & 0xc0) != 0x80 && cp-- == 0)
			break;
	return i;
}

bool uni_is_space(uint32_t c)
{
	if (c < 0x80)
		return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f);
	return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
	       c == 0x202f || c == 0x205f || c == 0x3000;
}

static utf8proc_category_t cat(uint32_t c)
{
	return utf8proc_category((utf8proc_int32_t)c);
}

static bool in_ranges(uint32_t c, const uint32_t (*r)[2], size_t n)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (c > r[mid][1])
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < n && c >= r[lo][0];
}
#define IN(c, table) in_ranges(c, table, sizeof(table) / sizeof(table[0]))

bool uni_is_alpha(uint32_t c)
{
	if (c < 0x80)
		return (c | 32) >= 'a' && (c | 32) <= 'z';
	utf8proc_category_t k = cat(c);
	return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool uni_is_decimal(uint32_t c)
{
	return c < 0x80 ? c >= '0' && c <= '9' : cat(c) == UTF8PROC_CATEGORY_ND;
}

bool uni_is_digit(uint32_t c)
{
	return uni_is_decimal(c) || (c >= 0x80 && IN(c, uni_digits));
}

bool uni_is_numeric(uint32_t c)
{
	return uni_is_decimal(c) || (c >= 0x80 && IN(c, uni_numerics));
}

bool uni_is_alnum(uint32_t c)
{
	return uni_is_alpha(c) || uni_is_numeric(c);
}

bool uni_is_printable(uint32_t c)
{
	if (c < 0x7f)
		return c >= 0x20;
	switch (cat(c)) {
	case UTF8PROC_CATEGORY_CC: case UTF8PROC_CATEGORY_CF: case UTF8PROC_CATEGORY_CS: case UTF8PROC_CATEGORY_CO:
	case UTF8PROC_CATEGORY_CN: case UTF8PROC_CATEGORY_ZL: case UTF8PROC_CATEGORY_ZP: case UTF8PROC_CATEGORY_ZS:
		return false;
	default:
		return true;
	}
}

bool uni_is_upper(uint32_t c)
{
	return c < 0x80 ? c >= 'A' && c <= 'Z' : cat(c) == UTF8PROC_CATEGORY_LU || IN(c, uni_other_upper);
}

bool uni_is_lower(uint32_t c)
{
	return c < 0x80 ? c >= 'a' && c <= 'z' : cat(c) == UTF8PROC_CATEGORY_LL || IN(c, uni_other_lower);
}

bool uni_is_title(uint32_t c)
{
	return c >= 0x80 && cat(c) == UTF8PROC_CATEGORY_LT;
}

bool uni_is_cased(uint32_t c)
{
	return uni_is_upper(c) || uni_is_lower(c) || uni_is_title(c);
}

static int special_cmp(const void *key, const void *item)
{
	uint32_t a = *(const uint32_t *)key, b = ((const struct uni_special *)item)->c;

	return a < b ? -1 : a > b;
}

size_t uni_map(uint32_t c, enum uni_case to, uint32_t out[3])
{
	if (c < 0x80) {
		bool up = c >= 'A' && c <= 'Z', low = c >= 'a' && c <= 'z';

		out[0] = to == UNI_UPPER || to == UNI_TITLE ? (low ? c - 32 : c) : (up ? c + 32 : c);
		return 1;
	}
	const struct uni_special *s = bsearch(&c, uni_special, sizeof(uni_special) / sizeof(uni_special[0]), sizeof(uni_special[0]), special_cmp);
	if (s && s->to[to][0]) {
		size_t n = 0;

		while (n < 3 && s->to[to][n])
			out[n] = s->to[to][n], n++;
		return n;
	}
	utf8proc_int32_t i = (utf8proc_int32_t)c;
	out[0] = (uint32_t)(to == UNI_UPPER ? utf8proc_toupper(i) : to == UNI_TITLE ? utf8proc_totitle(i) : utf8proc_tolower(i));
	return 1;
}

/* Is the capital sigma at p the end of a word? Then its small form is final. */
bool uni_final_sigma(const char *s, const char *p, const char *next, const char *end)
{
	bool before = false, after = false;

	while (p > s) {
		uint32_t c = uni_prev(s, &p);

		if (IN(c, uni_case_ignorable))
			continue;
		before = uni_is_cased(c);
		break;
	}
	while (next < end) {
		uint32_t c = uni_next(&next, end);

		if (IN(c, uni_case_ignorable))
			continue;
		after = uni_is_cased(c);
		break;
	}
	return before && !after;
}

void uni_case_add(struct sb *b, const char *s, size_t n, enum uni_case to)
{
	const char *p = s, *end = s + n;

	sb_grow(b, n + 16);
	while (p < end) {
		const char *q = p;
		uint32_t c = uni_next(&q, end), m[3];
		char buf[4];
		size_t k = uni_map(c, to, m);

		if (c == 0x3a3 && to == UNI_LOWER && uni_final_sigma(s, p, q, end))
			m[0] = 0x3c2;
		for (size_t i = 0; i < k; i++)
			sb_add(b, buf, uni_put(buf, m[i]));
		p = q;
	}
}

static bool has_char(const char *chars, size_t n, uint32_t c)
{
	const char *p = chars, *end = chars + n;

	while (p < end)
		if (uni_next(&p, end) == c)
			return true;
	return false;
}

void uni_strip(const char **s, size_t *n, bool left, bool right, const char *chars, size_t n_chars, bool any_space)
{
	const char *a = *s, *b = a + *n;

	while (left && a < b) {
		const char *q = a;
		uint32_t c = uni_next(&q, b);

		if (any_space ? !uni_is_space(c) : !has_char(chars, n_chars, c))
			break;
		a = q;
	}
	while (right && a < b) {
		const char *q = b;
		uint32_t c = uni_prev(a, &q);

		if (any_space ? !uni_is_space(c) : !has_char(chars, n_chars, c))
			break;
		b = q;
	}
	*s = a;
	*n = (size_t)(b - a);
}
