/* UTF-8, and the only place that decides what is valid. */
#include "text/utf8.h"

#include <string.h>

#include "text/tok.h"

unsigned utf8_put(char buf[4], uint32_t cp)
{
	unsigned char *p = (unsigned char *)buf;

	if (cp < 0x80) {
		p[0] = (unsigned char)cp;
		return 1;
	}
	if (cp < 0x800) {
		p[0] = (unsigned char)(0xC0 | cp >> 6);
		p[1] = (unsigned char)(0x80 | (cp & 0x3F));
		return 2;
	}
	if (cp < 0x10000) {
		p[0] = (unsigned char)(0xE0 | cp >> 12);
		p[1] = (unsigned char)(0x80 | (cp >> 6 & 0x3F));
		p[2] = (unsigned char)(0x80 | (cp & 0x3F));
		return 3;
	}
	p[0] = (unsigned char)(0xF0 | cp >> 18);
	p[1] = (unsigned char)(0x80 | (cp >> 12 & 0x3F));
	p[2] = (unsigned char)(0x80 | (cp >> 6 & 0x3F));
	p[3] = (unsigned char)(0x80 | (cp & 0x3F));
	return 4;
}

/* Bytes that the sequence at p needs, or 0 when its first two bytes forbid it:
 * the second byte's range excludes long forms, surrogates and what is above. */
static unsigned seq_need(const unsigned char *p, size_t n)
{
	unsigned char lo = 0x80, hi = 0xBF;
	unsigned need;

	if (p[0] < 0xC2 || p[0] > 0xF4)
		return 0;
	need = utf8_len(p[0]);
	if (p[0] == 0xE0)
		lo = 0xA0;
	else if (p[0] == 0xED)
		hi = 0x9F;
	else if (p[0] == 0xF0)
		lo = 0x90;
	else if (p[0] == 0xF4)
		hi = 0x8F;
	if (n > 1 && (p[1] < lo || p[1] > hi))
		return 0;
	return need;
}

size_t utf8_valid_len(const char *s, size_t n)
{
	const unsigned char *p = (const unsigned char *)s;
	size_t i = 0;

	while (i < n) {
		unsigned need, k;
		uint64_t w;

		while (n - i >= 8) {
			memcpy(&w, p + i, 8);
			if (w & 0x8080808080808080u)
				break;
			i += 8;
		}
		if (i >= n)
			break;
		if (p[i] < 0x80) {
			i++;
			continue;
		}
		need = seq_need(p + i, n - i);
		if (!need || n - i < need)
			return i;
		for (k = 2; k < need; k++)
			if ((p[i + k] & 0xC0) != 0x80)
				return i;
		i += need;
	}
	return n;
}

size_t utf8_complete_len(const char *s, size_t n)
{
	const unsigned char *p = (const unsigned char *)s;
	size_t back;

	for (back = 1; back <= 3 && back <= n; back++) {
		unsigned char c = p[n - back];
		unsigned need;

		if ((c & 0xC0) == 0x80)
			continue;
		need = c < 0x80 ? 1 : seq_need(p + n - back, back);
		return need > back ? n - back : n;
	}
	return n;
}
