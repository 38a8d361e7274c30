/* Aligned text: see tok_str.h. */
#include "text/tok_str.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "text/utf8.h"

void astr_borrow(struct astr *a, const char *s, size_t n, uint32_t base)
{
	a->s = s;
	a->len = n;
	a->ident = true;
	a->base = base;
}

void astr_release(struct astr *a)
{
	free(a->buf);
	free(a->b);
	free(a->e);
	memset(a, 0, sizeof(*a));
}

void astr_start(struct astr *out)
{
	out->s = out->buf;
	out->len = 0;
	out->ident = false;
}

static void need(struct astr *a, size_t extra)
{
	if (a->len + extra <= a->cap)
		return;
	a->cap = (a->len + extra) * 2 + 64;
	a->buf = xrealloc(a->buf, a->cap);
	a->b = xrealloc(a->b, a->cap * sizeof(*a->b));
	a->e = xrealloc(a->e, a->cap * sizeof(*a->e));
	a->s = a->buf;
}

void astr_copy(struct astr *out, const struct astr *in, size_t from, size_t n)
{
	size_t i;

	if (!n)
		return;
	need(out, n);
	memcpy(out->buf + out->len, in->s + from, n);
	if (in->ident) {
		uint32_t o = in->base + (uint32_t)from;

		for (i = 0; i < n; i++) {
			out->b[out->len + i] = o + (uint32_t)i;
			out->e[out->len + i] = o + (uint32_t)i + 1;
		}
	} else {
		memcpy(out->b + out->len, in->b + from, n * sizeof(*in->b));
		memcpy(out->e + out->len, in->e + from, n * sizeof(*in->e));
	}
	out->len += n;
}

void astr_put(struct astr *out, const char *s, size_t n, uint32_t b, uint32_t e)
{
	size_t i;

	need(out, n);
	for (i = 0; i < n; i++) {
		out->buf[out->len + i] = s[i];
		out->b[out->len + i] = b;
		out->e[out->len + i] = e;
	}
	out->len += n;
}

void astr_put_cp(struct astr *out, uint32_t cp, uint32_t b, uint32_t e)
{
	char u[4];

	astr_put(out, u, utf8_put(u, cp), b, e);
}

void astr_swap(struct astr *a, struct astr *b)
{
	struct astr t = *a;

	*a = *b;
	*b = t;
}

void pieces_add(struct pieces *l, size_t off, size_t len, int32_t id)
{
	if (l->n == l->cap)
		l->p = xgrow(l->p, &l->cap, l->n + 1, sizeof(*l->p));
	l->p[l->n++] = (struct piece){ off, len, id };
}
