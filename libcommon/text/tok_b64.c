/* Base64: see tok_b64.h. */
#include "text/tok_b64.h"

#include <stdint.h>

/* What a digit stands for, and 64; 0: no digit. */
#define D(c, n) [c] = (n) | 64
static const uint8_t digit[256] = {
	D('A', 0), D('B', 1), D('C', 2), D('D', 3), D('E', 4), D('F', 5), D('G', 6), D('H', 7), D('I', 8), D('J', 9), D('K', 10), D('L', 11), D('M', 12),
	D('N', 13), D('O', 14), D('P', 15), D('Q', 16), D('R', 17), D('S', 18), D('T', 19), D('U', 20), D('V', 21), D('W', 22), D('X', 23), D('Y', 24), D('Z', 25),
	D('a', 26), D('b', 27), D('c', 28), D('d', 29), D('e', 30), D('f', 31), D('g', 32), D('h', 33), D('i', 34), D('j', 35), D('k', 36), D('l', 37), D('m', 38),
	D('n', 39), D('o', 40), D('p', 41), D('q', 42), D('r', 43), D('s', 44), D('t', 45), D('u', 46), D('v', 47), D('w', 48), D('x', 49), D('y', 50), D('z', 51),
	D('0', 52), D('1', 53), D('2', 54), D('3', 55), D('4', 56), D('5', 57), D('6', 58), D('7', 59), D('8', 60), D('9', 61), D('+', 62), D('/', 63),
};

bool b64_decode(const char *s, size_t n, unsigned char *out, size_t *len)
{
	size_t k = 0, pad = n && s[n - 1] == '=' ? (n > 1 && s[n - 2] == '=' ? 2 : 1) : 0;

	if (n % 4)
		return false;
	for (size_t i = 0; i < n; i += 4) {
		uint32_t w = 0, all = 64;

		for (size_t j = 0; j < 4; j++) {
			uint32_t d = i + j >= n - pad ? 64 : digit[(unsigned char)s[i + j]];

			all &= d;
			w = w << 6 | (d & 63);
		}
		if (!all)
			return false;
		out[k++] = (unsigned char)(w >> 16);
		out[k++] = (unsigned char)(w >> 8);
		out[k++] = (unsigned char)w;
	}
	*len = k - pad;
	return true;
}
