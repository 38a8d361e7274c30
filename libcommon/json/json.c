/* Access to a parsed tree, and the writer. */
#include "json/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "base/xalloc.h"

/* --- access --- */

bool json_is(const struct json *v, enum json_type t)
{
	return v && v->type == t;
}

bool json_str_is(const struct json *v, const char *s)
{
	return json_is(v, JSON_STR) && v->n == strlen(s) && !memcmp(v->s, s, v->n);
}

bool json_as_f64(const struct json *v, double *out)
{
	return json_is(v, JSON_NUM) && parse_f64(v->s, out);
}

/* 5, -3, and 5.0 or 1e3, which some writers make of whole numbers. */
bool json_as_i64(const struct json *v, int64_t *out)
{
	double f;

	if (!json_is(v, JSON_NUM))
		return false;
	if (parse_i64(v->s, out))
		return true;
	if (!strpbrk(v->s, ".eE") || !parse_f64(v->s, &f) || f != floor(f) || fabs(f) > 0x1p53)
		return false;
	*out = (int64_t)f;
	return true;
}

/* Present and not null? */
static const struct json *get_some(const struct json *obj, const char *key)
{
	const struct json *v = json_get(obj, key);

	return json_is(v, JSON_NULL) ? NULL : v;
}

bool json_get_i64(const struct json *obj, const char *key, int64_t dflt, int64_t *out)
{
	const struct json *v = get_some(obj, key);

	*out = dflt;
	return !v || json_as_i64(v, out);
}

bool json_get_f64(const struct json *obj, const char *key, double dflt, double *out)
{
	const struct json *v = get_some(obj, key);

	*out = dflt;
	return !v || json_as_f64(v, out);
}

bool json_get_bool(const struct json *obj, const char *key, bool dflt, bool *out)
{
	const struct json *v = get_some(obj, key);

	*out = dflt;
	if (!v)
		return true;
	if (v->type != JSON_BOOL)
		return false;
	*out = v->b;
	return true;
}

bool json_get_str(const struct json *obj, const char *key, const char *dflt, const char **out)
{
	const struct json *v = get_some(obj, key);

	*out = dflt;
	if (!v)
		return true;
	if (v->type != JSON_STR)
		return false;
	*out = v->s;
	return true;
}

/* --- equality --- */

static int by_key(const void *a, const void *b)
{
	const struct json_member *x = *(const struct json_member *const *)a, *y = *(const struct json_member *const *)b;
	uint32_t n = x->key_len < y->key_len ? x->key_len : y->key_len;
	int c = memcmp(x->key, y->key, n);

	if (c)
		return c;
	if (x->key_len != y->key_len)
		return x->key_len < y->key_len ? -1 : 1;
	return x < y ? -1 : x > y; /* duplicates keep their order */
}

static const struct json_member **sorted(const struct json *o)
{
	const struct json_member **m = xcalloc(o->n, sizeof(*m));

	for (uint32_t i = 0; i < o->n; i++)
		m[i] = &o->members[i];
	qsort(m, o->n, sizeof(*m), by_key);
	return m;
}

static bool equal_objects(const struct json *a, const struct json *b)
{
	const struct json_member **x = sorted(a), **y = sorted(b);
	bool same = true;

	for (uint32_t i = 0; i < a->n && same; i++)
		same = x[i]->key_len == y[i]->key_len && !memcmp(x[i]->key, y[i]->key, x[i]->key_len) &&
		       json_equal(&x[i]->val, &y[i]->val);
	free(x);
	free(y);
	return same;
}

bool json_equal(const struct json *a, const struct json *b)
{
	if (a->type != b->type)
		return false;
	switch (a->type) {
	case JSON_NULL:
		return true;
	case JSON_BOOL:
		return a->b == b->b;
	case JSON_NUM:
	case JSON_STR:
		return a->n == b->n && !memcmp(a->s, b->s, a->n);
	case JSON_ARR:
		if (a->n != b->n)
			return false;
		for (uint32_t i = 0; i < a->n; i++)
			if (!json_equal(&a->items[i], &b->items[i]))
				return false;
		return true;
	case JSON_OBJ:
		return a->n == b->n && equal_objects(a, b);
	}
	return false;
}

/* --- writer --- */

/* Most times there is room: the call is for the other times. */
static inline void grow(struct sb *b, size_t extra)
{
	if (b->cap - b->len <= extra)
		sb_grow(b, extra);
}

static inline void put(struct jw *w, char c, bool comma)
{
	grow(w->out, 1);
	w->out->s[w->out->len++] = c;
	w->out->s[w->out->len] = 0;
	w->comma = comma;
}

static inline void item(struct jw *w)
{
	if (w->comma)
		put(w, ',', true);
	w->comma = true;
}

void jw_obj(struct jw *w)
{
	item(w);
	put(w, '{', false);
}

void jw_end_obj(struct jw *w)
{
	put(w, '}', true);
}

void jw_arr(struct jw *w)
{
	item(w);
	put(w, '[', false);
}

void jw_end_arr(struct jw *w)
{
	put(w, ']', true);
}

/* Room for six bytes is there. */
static void escaped(struct sb *out, unsigned char c)
{
	static const char hex[] = "0123456789abcdef";
	char *p = out->s + out->len, letter = c == '\n' ? 'n' : c == '"' || c == '\\' ? (char)c : c == '\t' ? 't' : c == '\r' ? 'r' : c == '\b' ? 'b' : c == '\f' ? 'f' : 0;

	p[0] = '\\';
	p[1] = letter;
	out->len += 2;
	if (letter)
		return;
	p[1] = 'u';
	p[2] = p[3] = '0';
	p[4] = hex[c >> 4];
	p[5] = hex[c & 15];
	out->len += 4;
}

/* Marks the bytes of v that need escaping. The lowest mark is exact: only above a hit can the borrow make a false one. */
static inline uint64_t marks(uint64_t v)
{
	const uint64_t ones = 0x0101010101010101u;

	return ((v - ones * 0x20) | ((v ^ ones * '"') - ones) | ((v ^ ones * '\\') - ones)) & ~v & ones << 7;
}

/* Nothing to escape in 32 bytes? The compiler makes vectors of this. */
static inline bool all_plain(const unsigned char *s)
{
	unsigned char bad = 0;

	for (int i = 0; i < 32; i++)
		bad |= (unsigned char)((s[i] < 0x20) | (s[i] == '"') | (s[i] == '\\'));
	return !bad;
}

/* Copies s up to the next byte that needs escaping; how many bytes. p has room
 * for n and eight more, which may be written ahead. */
static size_t plain_run(char *p, const char *s, size_t n)
{
	size_t i = 0;

	for (; i + 32 <= n && all_plain((const unsigned char *)s + i); i += 32)
		memcpy(p + i, s + i, 32);
	for (; i + 8 <= n; i += 8) {
		uint64_t mark = marks(get_u64(s + i));

		memcpy(p + i, s + i, 8);
		if (mark)
			return i + (size_t)__builtin_ctzll(mark) / 8;
	}
	for (; i < n; i++) {
		unsigned char c = (unsigned char)s[i];

		if (c < 0x20 || c == '"' || c == '\\')
			break;
		p[i] = (char)c;
	}
	return i;
}

static void string(struct sb *out, const char *s, size_t n)
{
	const char *end = s + n;

	grow(out, n + 32);
	out->s[out->len++] = '"';
	for (;;) {
		size_t run = plain_run(out->s + out->len, s, (size_t)(end - s));

		out->len += run;
		if ((s += run) == end)
			break;
		grow(out, (size_t)(end - s) + 32); /* this escape, the rest if it is plain, and the closing quote */
		escaped(out, (unsigned char)*s++);
	}
	out->s[out->len++] = '"';
	out->s[out->len] = 0;
}

void jw_keyn(struct jw *w, const char *key, size_t n)
{
	item(w);
	string(w->out, key, n);
	put(w, ':', false);
}

void jw_key(struct jw *w, const char *key)
{
	jw_keyn(w, key, strlen(key));
}

void jw_strn(struct jw *w, const char *s, size_t n)
{
	item(w);
	string(w->out, s, n);
}

void jw_str(struct jw *w, const char *s)
{
	if (s)
		jw_strn(w, s, strlen(s));
	else
		jw_null(w);
}

void jw_i64(struct jw *w, int64_t v)
{
	char buf[24], *p = buf + sizeof(buf);
	uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;

	do
		*--p = (char)('0' + u % 10);
	while (u /= 10);
	if (v < 0)
		*--p = '-';
	jw_raw(w, p, (size_t)(buf + sizeof(buf) - p));
}

void jw_f64(struct jw *w, double v)
{
	char buf[32];

	if (!isfinite(v)) {
		jw_null(w);
		return;
	}
	jw_raw(w, buf, fmt_f64(v, buf));
}

void jw_bool(struct jw *w, bool v)
{
	jw_raw(w, v ? "true" : "false", v ? 4 : 5);
}

void jw_null(struct jw *w)
{
	jw_raw(w, "null", 4);
}

void jw_raw(struct jw *w, const char *text, size_t n)
{
	item(w);
	grow(w->out, n);
	memcpy(w->out->s + w->out->len, text, n);
	w->out->len += n;
	w->out->s[w->out->len] = 0;
}

void jw_value(struct jw *w, const struct json *v)
{
	switch (v->type) {
	case JSON_NULL:
		jw_null(w);
		break;
	case JSON_BOOL:
		jw_bool(w, v->b);
		break;
	case JSON_NUM:
		jw_raw(w, v->s, v->n);
		break;
	case JSON_STR:
		jw_strn(w, v->s, v->n);
		break;
	case JSON_ARR:
		jw_arr(w);
		for (uint32_t i = 0; i < v->n; i++)
			jw_value(w, &v->items[i]);
		jw_end_arr(w);
		break;
	case JSON_OBJ:
		jw_obj(w);
		for (uint32_t i = 0; i < v->n; i++) {
			jw_keyn(w, v->members[i].key, v->members[i].key_len);
			jw_value(w, &v->members[i].val);
		}
		jw_end_obj(w);
		break;
	}
}
