#include "base/sb.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

void sb_release(struct sb *b)
{
	free(b->s);
	memset(b, 0, sizeof(*b));
}

void sb_reset(struct sb *b)
{
	b->len = 0;
	if (b->s)
		b->s[0] = 0;
}

/* Room for extra bytes and the NUL. */
void sb_grow(struct sb *b, size_t extra)
{
	size_t need;
	int fresh = !b->s;

	if (lp_add_overflows(b->len, extra, &need) || lp_add_overflows(need, 1, &need))
		need = SIZE_MAX;
	if (need <= b->cap)
		return;
	b->s = xgrow(b->s, &b->cap, need < 64 ? 64 : need, 1);
	if (fresh)
		b->s[0] = 0;
}

void sb_add(struct sb *b, const void *s, size_t n)
{
	if (b->cap - b->len <= n) /* also when both are 0 */
		sb_grow(b, n);
	if (n)
		memcpy(b->s + b->len, s, n);
	b->len += n;
	b->s[b->len] = 0;
}

void sb_adds(struct sb *b, const char *s)
{
	sb_add(b, s, strlen(s));
}

void sb_addc(struct sb *b, char c)
{
	if (b->len + 2 > b->cap)
		sb_grow(b, 1);
	b->s[b->len++] = c;
	b->s[b->len] = 0;
}

void sb_addf(struct sb *b, const char *fmt, ...)
{
	va_list ap, again;
	int n;

	sb_grow(b, 64);
	va_start(ap, fmt);
	va_copy(again, ap);
	n = vsnprintf(b->s + b->len, b->cap - b->len, fmt, ap);
	va_end(ap);
	if (n > 0 && (size_t)n >= b->cap - b->len) {
		sb_grow(b, (size_t)n);
		vsnprintf(b->s + b->len, b->cap - b->len, fmt, again);
	}
	va_end(again);
	if (n > 0)
		b->len += (size_t)n;
	b->s[b->len] = 0;
}

const char *sb_str(const struct sb *b)
{
	return b->s ? b->s : "";
}

char *sb_detach(struct sb *b)
{
	char *s = b->s ? b->s : xstrdup("");

	memset(b, 0, sizeof(*b));
	return s;
}
