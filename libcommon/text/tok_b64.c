/* Base64: see tok_b64.h. */
#include "text/tok_b64.h"

#include <stdint.h>

static int digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool b64_decode(const char *s, size_t n, unsigned char *out, size_t *len)
{
	size_t k = 0, pad = n && s[n - 1] == '=' ? (n > 1 && s[n - 2] == '=' ? 2 : 1) : 0;

	if (n % 4)
		return false;
	for (size_t i = 0; i < n; i += 4) {
		uint32_t w = 0;

		for (size_t j = 0; j < 4; j++) {
			int d = i + j >= n - pad ? 0 : digit(s[i + j]);

			if (d < 0)
				return false;
			w = w << 6 | (uint32_t)d;
		}
		out[k++] = (unsigned char)(w >> 16);
		out[k++] = (unsigned char)(w >> 8);
		out[k++] = (unsigned char)w;
	}
	*len = k - pad;
	return true;
}
