/* SentencePiece's precompiled character map: the length of a double array
 * (Darts-clone units, little-endian), the array, then the replacements. */
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "base/xalloc.h"
#include "text/spm.h"
#include "text/utf8.h"

int charsmap_load(struct charsmap *c, const unsigned char *blob, size_t n, struct err *e)
{
	size_t bytes = n >= 4 ? get_u32(blob) : 0;

	memset(c, 0, sizeof(*c));
	if (n < 5 || bytes < 4 || bytes % 4 || bytes > n - 5 || blob[n - 1])
		return err_set(e, LP_DATA, "its precompiled character map is damaged");
	if (utf8_valid_len((const char *)blob + 4 + bytes, n - 4 - bytes) != n - 4 - bytes)
		return err_set(e, LP_DATA, "its precompiled character map has replacements that are not UTF-8");
	c->n_units = bytes / 4;
	c->units = lp_try_alloc(c->n_units, sizeof(*c->units), "the character map", e);
	if (!c->units)
		return -1;
	for (size_t i = 0; i < c->n_units; i++)
		c->units[i] = get_u32(blob + 4 + 4 * i);
	c->n_texts = n - 4 - bytes;
	c->texts = xmemdup0((const char *)blob + 4 + bytes, c->n_texts);
	return 0;
}

void charsmap_release(struct charsmap *c)
{
	free(c->units);
	free(c->texts);
	memset(c, 0, sizeof(*c));
}

static uint32_t offset_of(uint32_t unit)
{
	return (unit >> 10) << ((unit & 512) >> 6);
}

const char *charsmap_find(const struct charsmap *c, const char *s, size_t n, bool shortest, size_t *used)
{
	const char *found = NULL;
	uint32_t at, unit;

	if (!c->n_units)
		return NULL;
	at = offset_of(c->units[0]);
	for (size_t i = 0; i < n && s[i]; i++) {
		at ^= (unsigned char)s[i];
		if (at >= c->n_units)
			break;
		unit = c->units[at];
		if ((unit & (1u << 31 | 0xFF)) != (unsigned char)s[i])
			break;
		at ^= offset_of(unit);
		if (at >= c->n_units)
			break;
		if (unit >> 8 & 1) { /* a rule ends here */
			uint32_t value = c->units[at] & 0x7FFFFFFF;

			if (value >= c->n_texts || utf8_is_cont(c->texts[value]))
				break;
			found = c->texts + value;
			*used = i + 1;
			if (shortest)
				break;
		}
	}
	return found;
}

bool charsmap_begins(const struct charsmap *c, unsigned char byte)
{
	uint32_t at = offset_of(c->units[0]) ^ byte;

	return at < c->n_units && (c->units[at] & (1u << 31 | 0xFF)) == byte;
}
