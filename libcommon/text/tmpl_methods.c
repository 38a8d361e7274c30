/* Methods of str, as Python 3 has them, and the table of all methods. Those
 * that would change a list or dict are in the table without a function: the
 * sandbox refuses them. */
#include <stdlib.h>

#include "text/tmpl_impl.h"

#define STR T(V_STR)

static struct val keep(struct val self, struct val v)
{
	if (v.t == V_STR)
		v.f = self.f;
	return v;
}

static struct val sub(struct val self, const char *s, size_t n)
{
	return keep(self, val_str(s, n));
}

static const char *const no_names[8];

static struct val strip(struct rt *r, struct val self, const struct args *a, bool left, bool right)
{
	struct val chars;
	const char *s = self.s;
	size_t n = self.n;

	if (bind_args(r, "strip", a, no_names, 0, 1, &chars))
		return val_err;
	bool space = chars.t == V_MISSING || chars.t == V_NONE;
	if (!space && chars.t != V_STR)
		return rt_fail(r, TMPL_TYPE, "strip arg must be None or str");
	uni_strip(&s, &n, left, right, space ? NULL : chars.s, space ? 0 : chars.n, space);
	return sub(self, s, n);
}

struct val m_strip(struct rt *r, struct val self, const struct args *a)
{
	return strip(r, self, a, true, true);
}

static struct val m_lstrip(struct rt *r, struct val self, const struct args *a)
{
	return strip(r, self, a, true, false);
}

static struct val m_rstrip(struct rt *r, struct val self, const struct args *a)
{
	return strip(r, self, a, false, true);
}

/* --- splitting --- */
static bool split_space(struct rt *r, struct val self, int64_t max, struct vec *out)
{
	const char *p = self.s, *end = p + self.n, *start;

	for (;;) {
		const char *q = p;

		while (p < end && (q = p, uni_is_space(uni_next(&q, end))))
			p = q;
		if (p >= end)
			return true;
		start = p;
		if (max >= 0 && out->n >= (uint64_t)max)
			return vec_add(r, out, sub(self, start, (size_t)(end - start)));
		while (p < end && (q = p, !uni_is_space(uni_next(&q, end))))
			p = q;
		if (!vec_add(r, out, sub(self, start, (size_t)(p - start))))
			return false;
	}
}

static bool split_sep(struct rt *r, struct val self, struct val sep, int64_t max, struct vec *out)
{
	const char *p = self.s, *end = p + self.n, *hit;

	while ((max < 0 || out->n < (uint64_t)max) && (hit = memmem(p, (size_t)(end - p), sep.s, sep.n))) {
		if (!vec_add(r, out, sub(self, p, (size_t)(hit - p))))
			return false;
		p = hit + sep.n;
	}
	return vec_add(r, out, sub(self, p, (size_t)(end - p)));
}

static const char *find_last(const char *s, size_t n, const char *what, size_t k)
{
	for (size_t i = n + 1 > k ? n - k + 1 : 0; i-- > 0;)
		if (memcmp(s + i, what, k) == 0)
			return s + i;
	return NULL;
}

static void reverse(struct vec *v)
{
	for (uint32_t i = 0; i < v->n / 2; i++) {
		struct val x = v->v[i];

		v->v[i] = v->v[v->n - 1 - i];
		v->v[v->n - 1 - i] = x;
	}
}

static bool rsplit_sep(struct rt *r, struct val self, struct val sep, int64_t max, struct vec *out)
{
	size_t n = self.n;
	const char *hit;

	while ((max < 0 || out->n < (uint64_t)max) && (hit = find_last(self.s, n, sep.s, sep.n))) {
		if (!vec_add(r, out, sub(self, hit + sep.n, n - (size_t)(hit - self.s) - sep.n)))
			return false;
		n = (size_t)(hit - self.s);
	}
	if (!vec_add(r, out, sub(self, self.s, n)))
		return false;
	reverse(out);
	return true;
}

static bool rsplit_space(struct rt *r, struct val self, int64_t max, struct vec *out)
{
	const char *p = self.s + self.n, *q, *stop;

	for (;;) {
		while (p > self.s && (q = p, uni_is_space(uni_prev(self.s, &q))))
			p = q;
		if (p <= self.s)
			break;
		stop = p;
		if (max >= 0 && out->n >= (uint64_t)max) {
			if (!vec_add(r, out, sub(self, self.s, (size_t)(stop - self.s))))
				return false;
			break;
		}
		while (p > self.s && (q = p, !uni_is_space(uni_prev(self.s, &q))))
			p = q;
		if (!vec_add(r, out, sub(self, p, (size_t)(stop - p))))
			return false;
	}
	reverse(out);
	return true;
}

static struct val split(struct rt *r, struct val self, const struct args *a, bool right)
{
	static const char *const names[] = { "sep", "maxsplit" };
	struct val arg[2];
	struct vec out = { 0 };
	int64_t max = -1;

	if (bind_args(r, "split", a, names, 0, 2, arg) || rt_steps(r, self.n >> 5))
		return val_err;
	if (arg[1].t != V_MISSING && !arg_int(r, "split", arg[1], &max))
		return val_err;
	bool ok;
	if (arg[0].t == V_MISSING || arg[0].t == V_NONE) {
		ok = right ? rsplit_space(r, self, max, &out) : split_space(r, self, max, &out);
	} else {
		if (arg[0].t != V_STR)
			return rt_fail(r, TMPL_TYPE, "must be str or None, not %s", type_name(arg[0]));
		if (!arg[0].n)
			return rt_fail(r, TMPL_VALUE, "empty separator");
		ok = right ? rsplit_sep(r, self, arg[0], max, &out) : split_sep(r, self, arg[0], max, &out);
	}
	return ok ? val_list(out.v, out.n) : val_err;
}

struct val m_split(struct rt *r, struct val self, const struct args *a)
{
	return split(r, self, a, false);
}

static struct val m_rsplit(struct rt *r, struct val self, const struct args *a)
{
	return split(r, self, a, true);
}

static bool line_end(uint32_t c)
{
	return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

struct val m_splitlines(struct rt *r, struct val self, const struct args *a)
{
	static const char *const names[] = { "keepends" };
	const char *p = self.s, *end = p + self.n, *start = p;
	struct val ends;
	struct vec out = { 0 };

	if (bind_args(r, "splitlines", a, names, 0, 1, &ends))
		return val_err;
	while (p < end) {
		const char *q = p;
		uint32_t c = uni_next(&q, end);

		if (!line_end(c)) {
			p = q;
			continue;
		}
		if (c == '\r' && q < end && *q == '\n')
			q++;
		if (!vec_add(r, &out, sub(self, start, (size_t)((val_truth(ends) ? q : p) - start))))
			return val_err;
		p = start = q;
	}
	if (start < end && !vec_add(r, &out, sub(self, start, (size_t)(end - start))))
		return val_err;
	return val_list(out.v, out.n);
}

static struct val partition(struct rt *r, struct val self, const struct args *a, bool right)
{
	struct val sep, *l = rt_alloc(r, 3 * sizeof(*l));

	if (!l || bind_args(r, "partition", a, no_names, 1, 1, &sep) || !arg_str(r, "partition", sep))
		return val_err;
	if (!sep.n)
		return rt_fail(r, TMPL_VALUE, "empty separator");
	const char *hit = right ? find_last(self.s, self.n, sep.s, sep.n) : memmem(self.s, self.n, sep.s, sep.n);
	l[0] = l[1] = l[2] = sub(self, "", 0);
	if (!hit) {
		l[right ? 2 : 0] = self;
		return val_tuple(l, 3);
	}
	size_t before = (size_t)(hit - self.s);
	l[0] = sub(self, self.s, before);
	l[1] = sub(self, hit, sep.n);
	l[2] = sub(self, hit + sep.n, self.n - before - sep.n);
	return val_tuple(l, 3);
}

static struct val m_partition(struct rt *r, struct val self, const struct args *a)
{
	return partition(r, self, a, false);
}

static struct val m_rpartition(struct rt *r, struct val self, const struct args *a)
{
	return partition(r, self, a, true);
}

/* --- looking for --- */
/* self[start:end] of arguments 1 and 2 as bytes [*from, *to); false: error. *none: start lies beyond the end. */
static bool window(struct rt *r, struct val self, const struct val *arg, size_t *from, size_t *to, bool *none)
{
	int64_t len = -1, b[2] = { 0, INT64_MAX };

	*none = false;
	*from = 0;
	*to = self.n;
	if (arg[1].t == V_MISSING)
		return true;
	len = (int64_t)uni_count(self.s, self.n);
	for (int i = 0; i < 2; i++) {
		if (arg[i + 1].t == V_MISSING || arg[i + 1].t == V_NONE)
			continue;
		if (!arg_int(r, "slice index", arg[i + 1], &b[i]))
			return false;
		b[i] += b[i] < 0 ? len : 0;
		b[i] = b[i] < 0 ? 0 : b[i];
	}
	*none = b[0] > len || b[0] > b[1];
	*from = uni_offset(self.s, self.n, (size_t)(b[0] > len ? len : b[0]));
	*to = uni_offset(self.s, self.n, (size_t)(b[1] > len ? len : b[1]));
	return true;
}

static struct val find(struct rt *r, struct val self, const struct args *a, bool right, bool must)
{
	struct val arg[3];
	size_t from, to;
	bool none;

	if (bind_args(r, "find", a, no_names, 1, 3, arg) || !arg_str(r, "find", arg[0]) || !window(r, self, arg, &from, &to, &none) ||
	    rt_steps(r, self.n >> 5))
		return val_err;
	const char *hit = NULL;
	if (!none)
		hit = right ? find_last(self.s + from, to - from, arg[0].s, arg[0].n)
		            : arg[0].n ? memmem(self.s + from, to - from, arg[0].s, arg[0].n) : self.s + from;
	if (hit)
		return val_int((int64_t)uni_count(self.s, (size_t)(hit - self.s)));
	return must ? rt_fail(r, TMPL_VALUE, "substring not found") : val_int(-1);
}

static struct val m_find(struct rt *r, struct val self, const struct args *a)
{
	return find(r, self, a, false, false);
}

static struct val m_rfind(struct rt *r, struct val self, const struct args *a)
{
	return find(r, self, a, true, false);
}

static struct val m_index(struct rt *r, struct val self, const struct args *a)
{
	return find(r, self, a, false, true);
}

static struct val m_rindex(struct rt *r, struct val self, const struct args *a)
{
	return find(r, self, a, true, true);
}

static struct val m_count(struct rt *r, struct val self, const struct args *a)
{
	struct val arg[3];
	size_t from, to;
	bool none;
	int64_t n = 0;

	if (bind_args(r, "count", a, no_names, 1, 3, arg) || !arg_str(r, "count", arg[0]) || !window(r, self, arg, &from, &to, &none))
		return val_err;
	if (none)
		return val_int(0);
	if (!arg[0].n)
		return val_int((int64_t)uni_count(self.s + from, to - from) + 1);
	const char *p = self.s + from, *end = self.s + to, *hit;
	for (; (hit = memmem(p, (size_t)(end - p), arg[0].s, arg[0].n)); n++)
		p = hit + arg[0].n;
	return val_int(n);
}

static struct val ends_with(struct rt *r, struct val self, const struct args *a, bool end)
{
	struct val arg[3], one;
	size_t from, to;
	bool none;

	if (bind_args(r, "startswith", a, no_names, 1, 3, arg) || !window(r, self, arg, &from, &to, &none))
		return val_err;
	uint32_t n = arg[0].t == V_TUPLE ? arg[0].n : 1;
	for (uint32_t i = 0; i < n; i++) {
		one = arg[0].t == V_TUPLE ? arg[0].l[i] : arg[0];
		if (one.t != V_STR)
			return rt_fail(r, TMPL_TYPE, "%s first arg must be str or a tuple of str, not %s", end ? "endswith" : "startswith", type_name(one));
		if (!none && one.n <= to - from && memcmp(end ? self.s + to - one.n : self.s + from, one.s, one.n) == 0)
			return val_true;
	}
	return val_false;
}

static struct val m_startswith(struct rt *r, struct val self, const struct args *a)
{
	return ends_with(r, self, a, false);
}

static struct val m_endswith(struct rt *r, struct val self, const struct args *a)
{
	return ends_with(r, self, a, true);
}

static struct val m_removeprefix(struct rt *r, struct val self, const struct args *a)
{
	struct val p;

	if (bind_args(r, "removeprefix", a, no_names, 1, 1, &p) || !arg_str(r, "removeprefix", p))
		return val_err;
	if (p.n <= self.n && memcmp(self.s, p.s, p.n) == 0)
		return sub(self, self.s + p.n, self.n - p.n);
	return self;
}

static struct val m_removesuffix(struct rt *r, struct val self, const struct args *a)
{
	struct val p;

	if (bind_args(r, "removesuffix", a, no_names, 1, 1, &p) || !arg_str(r, "removesuffix", p))
		return val_err;
	if (p.n && p.n <= self.n && memcmp(self.s + self.n - p.n, p.s, p.n) == 0)
		return sub(self, self.s, self.n - p.n);
	return self;
}

/* --- making new strings --- */
struct val str_replace(struct rt *r, struct val self, struct val old, struct val new, int64_t max)
{
	struct sb b = SB_INIT;
	const char *p = self.s, *end = p + self.n, *hit;

	if (self.f & STR_MARKUP && (new = val_escape(r, new)).t == V_ERR)
		return new;
	if (rt_steps(r, self.n >> 5))
		return val_err;
	if (max == 0 || (old.n && !memmem(p, self.n, old.s, old.n)))
		return self;
	if (!old.n) { /* between all characters */
		for (int64_t k = 0; max < 0 || k < max; k++) {
			sb_add(&b, new.s, new.n);
			if (p >= end || b.len > r->max_output)
				break;
			const char *q = p;
			uni_next(&q, end);
			sb_add(&b, p, (size_t)(q - p));
			p = q;
		}
	} else {
		for (int64_t k = 0; (max < 0 || k < max) && b.len <= r->max_output && (hit = memmem(p, (size_t)(end - p), old.s, old.n)); k++) {
			sb_add(&b, p, (size_t)(hit - p));
			sb_add(&b, new.s, new.n);
			p = hit + old.n;
		}
	}
	sb_add(&b, p, (size_t)(end - p));
	if (b.len > r->max_output) {
		sb_release(&b);
		return rt_fail(r, TMPL_LIMIT, "a text of more than %zu MiB", r->max_output >> 20);
	}
	return keep(self, rt_take(r, &b));
}

static struct val m_replace(struct rt *r, struct val self, const struct args *a)
{
	struct val arg[3];
	int64_t max = -1;

	if (bind_args(r, "replace", a, no_names, 2, 3, arg) || !arg_str(r, "replace", arg[0]) || !arg_str(r, "replace", arg[1]) ||
	    (arg[2].t != V_MISSING && !arg_int(r, "replace", arg[2], &max)))
		return val_err;
	return str_replace(r, self, arg[0], arg[1], max);
}

static struct val m_join(struct rt *r, struct val self, const struct args *a)
{
	struct val it, x;
	struct sb b = SB_INIT;
	struct iter *in;
	int rc, n = 0;

	if (bind_args(r, "join", a, no_names, 1, 1, &it) || !(in = iter_of(r, it)))
		return val_err;
	while ((rc = iter_next(r, in, &x)) == 1 && x.t == V_STR && b.len <= r->max_output) {
		if (n++)
			sb_add(&b, self.s, self.n);
		if (self.f & STR_MARKUP && !(x.f & STR_MARKUP))
			escape_add(&b, x.s, x.n);
		else
			sb_add(&b, x.s, x.n);
	}
	if (rc == 1 && x.t != V_STR)
		rt_fail(r, TMPL_TYPE, "sequence item %d: expected str instance, %s found", n, type_name(x));
	else if (rc == 1)
		rt_fail(r, TMPL_LIMIT, "a text of more than %zu MiB", r->max_output >> 20);
	if (rc) {
		sb_release(&b);
		return val_err;
	}
	return keep(self, rt_take(r, &b));
}

static struct val cased(struct rt *r, struct val self, const struct args *a, enum uni_case to)
{
	struct sb b = SB_INIT;

	if (bind_args(r, "case method", a, no_names, 0, 0, NULL) || rt_steps(r, self.n >> 3))
		return val_err;
	uni_case_add(&b, self.s, self.n, to);
	return keep(self, rt_take(r, &b));
}

struct val m_upper(struct rt *r, struct val self, const struct args *a)
{
	return cased(r, self, a, UNI_UPPER);
}

struct val m_lower(struct rt *r, struct val self, const struct args *a)
{
	return cased(r, self, a, UNI_LOWER);
}

static struct val m_casefold(struct rt *r, struct val self, const struct args *a)
{
	return cased(r, self, a, UNI_FOLD);
}

static void add_mapped(struct sb *b, uint32_t c, enum uni_case to)
{
	uint32_t m[3];
	char buf[4];
	size_t n = uni_map(c, to, m);

	for (size_t i = 0; i < n; i++)
		sb_add(b, buf, uni_put(buf, m[i]));
}

/* A title-case first letter, the rest in lower case (which may look back for a final sigma). */
struct val m_capitalize(struct rt *r, struct val self, const struct args *a)
{
	struct sb b = SB_INIT, low = SB_INIT;
	const char *p = self.s, *end = p + self.n;

	if (bind_args(r, "capitalize", a, no_names, 0, 0, NULL) || rt_steps(r, self.n >> 3))
		return val_err;
	if (p < end) {
		uint32_t first[3];
		char buf[4];
		uint32_t c = uni_next(&p, end);
		size_t skip = 0, n = uni_map(c, UNI_LOWER, first);

		add_mapped(&b, c, UNI_TITLE);
		uni_case_add(&low, self.s, self.n, UNI_LOWER);
		for (size_t i = 0; i < n; i++)
			skip += uni_put(buf, first[i]);
		sb_add(&b, low.s + skip, low.len - skip);
	}
	sb_release(&low);
	return keep(self, rt_take(r, &b));
}

static struct val by_word(struct rt *r, struct val self, const struct args *a, bool title)
{
	struct sb b = SB_INIT;
	const char *p = self.s, *end = p + self.n;
	bool in_word = false;

	if (bind_args(r, "title", a, no_names, 0, 0, NULL) || rt_steps(r, self.n >> 3))
		return val_err;
	while (p < end) {
		const char *q = p;
		uint32_t c = uni_next(&q, end);

		bool lower = title ? in_word : uni_is_upper(c);

		if (lower && c == 0x3a3 && uni_final_sigma(self.s, p, q, end))
			sb_adds(&b, "\xcf\x82");
		else if (!title && !lower && !uni_is_lower(c))
			sb_add(&b, p, (size_t)(q - p));
		else
			add_mapped(&b, c, lower ? UNI_LOWER : title ? UNI_TITLE : UNI_UPPER);
		in_word = uni_is_cased(c);
		p = q;
	}
	return keep(self, rt_take(r, &b));
}

static struct val m_title(struct rt *r, struct val self, const struct args *a)
{
	return by_word(r, self, a, true);
}

static struct val m_swapcase(struct rt *r, struct val self, const struct args *a)
{
	return by_word(r, self, a, false);
}

/* align: -1 left, 0 centre, 1 right */
static struct val justify(struct rt *r, struct val self, const struct args *a, int align)
{
	struct val arg[2];
	struct sb b = SB_INIT;
	int64_t width, len = (int64_t)uni_count(self.s, self.n);

	if (bind_args(r, "center", a, no_names, 1, 2, arg) || !arg_int(r, "center", arg[0], &width))
		return val_err;
	if (arg[1].t == V_MISSING)
		arg[1] = val_str(" ", 1);
	if (arg[1].t != V_STR || uni_count(arg[1].s, arg[1].n) != 1)
		return rt_fail(r, TMPL_TYPE, "the fill character must be exactly one character long");
	if (width > 10000000)
		return rt_fail(r, TMPL_LIMIT, "a field wider than 10 million characters");
	int64_t pad = width > len ? width - len : 0;
	int64_t left = align < 0 ? 0 : align > 0 ? pad : pad / 2 + (pad & width & 1);
	for (int64_t i = 0; i < left; i++)
		sb_add(&b, arg[1].s, arg[1].n);
	sb_add(&b, self.s, self.n);
	for (int64_t i = left; i < pad; i++)
		sb_add(&b, arg[1].s, arg[1].n);
	return keep(self, rt_take(r, &b));
}

struct val m_center(struct rt *r, struct val self, const struct args *a)
{
	return justify(r, self, a, 0);
}

static struct val m_ljust(struct rt *r, struct val self, const struct args *a)
{
	return justify(r, self, a, -1);
}

static struct val m_rjust(struct rt *r, struct val self, const struct args *a)
{
	return justify(r, self, a, 1);
}

static struct val m_zfill(struct rt *r, struct val self, const struct args *a)
{
	struct val w;
	struct sb b = SB_INIT;
	int64_t width, len = (int64_t)uni_count(self.s, self.n);

	if (bind_args(r, "zfill", a, no_names, 1, 1, &w) || !arg_int(r, "zfill", w, &width))
		return val_err;
	if (width > 10000000)
		return rt_fail(r, TMPL_LIMIT, "a field wider than 10 million characters");
	size_t sign = self.n && (self.s[0] == '-' || self.s[0] == '+');
	sb_add(&b, self.s, sign);
	for (int64_t i = len; i < width; i++)
		sb_addc(&b, '0');
	sb_add(&b, self.s + sign, self.n - sign);
	return keep(self, rt_take(r, &b));
}

static struct val m_expandtabs(struct rt *r, struct val self, const struct args *a)
{
	static const char *const names[] = { "tabsize" };
	struct val t;
	struct sb b = SB_INIT;
	int64_t size = 8, col = 0;

	if (bind_args(r, "expandtabs", a, names, 0, 1, &t) || (t.t != V_MISSING && !arg_int(r, "expandtabs", t, &size)))
		return val_err;
	size = size > 1000 ? 1000 : size;
	for (uint32_t i = 0; i < self.n; i++) {
		char c = self.s[i];

		if (c == '\t') {
			for (int64_t k = size > 0 ? size - col % size : 0; k > 0; k--, col++)
				sb_addc(&b, ' ');
			continue;
		}
		sb_addc(&b, c);
		col = c == '\n' || c == '\r' ? 0 : col + (((unsigned char)c & 0xc0) != 0x80);
	}
	return keep(self, rt_take(r, &b));
}

static struct val m_format(struct rt *r, struct val self, const struct args *a)
{
	return format_str(r, self, a, val_missing);
}

static struct val m_format_map(struct rt *r, struct val self, const struct args *a)
{
	static const struct args none;
	struct val map;

	if (bind_args(r, "format_map", a, no_names, 1, 1, &map))
		return val_err;
	return format_str(r, self, &none, map);
}

static struct val m_translate(struct rt *r, struct val self, const struct args *a)
{
	struct val table, to;
	struct sb b = SB_INIT;
	const char *p = self.s, *end = p + self.n;

	if (bind_args(r, "translate", a, no_names, 1, 1, &table))
		return val_err;
	if (!is_type(table, T_DICTS))
		return rt_fail(r, TMPL_TYPE, "'%s' object is not a translation table", type_name(table));
	while (p < end) {
		const char *q = p;
		uint32_t c = uni_next(&q, end);
		char buf[4];

		if (!dict_get(table, val_int(c), &to))
			sb_add(&b, p, (size_t)(q - p));
		else if (to.t == V_STR)
			sb_add(&b, to.s, to.n);
		else if (to.t == V_INT && to.i >= 0 && to.i <= 0x10ffff)
			sb_add(&b, buf, uni_put(buf, (uint32_t)to.i));
		p = q;
	}
	return keep(self, rt_take(r, &b));
}

static struct val m_encode(struct rt *r, struct val self, const struct args *a)
{
	(void)self;
	(void)a;
	return rt_fail(r, TMPL_RUNTIME, "str.encode gives bytes, which templates here do not have");
}

/* --- questions --- */
#define IS_ALL(name, test)                                                         \
	static struct val name(struct rt *r, struct val self, const struct args *a) \
	{                                                                           \
		const char *p = self.s, *end = p + self.n;                          \
		bool yes = self.n > 0;                                              \
                                                                                    \
		if (bind_args(r, #name, a, no_names, 0, 0, NULL))                        \
			return val_err;                                             \
		while (yes && p < end)                                              \
			yes = test(uni_next(&p, end));                              \
		return val_bool(yes);                                               \
	}
IS_ALL(m_isalnum, uni_is_alnum)
IS_ALL(m_isalpha, uni_is_alpha)
IS_ALL(m_isdecimal, uni_is_decimal)
IS_ALL(m_isdigit, uni_is_digit)
IS_ALL(m_isnumeric, uni_is_numeric)
IS_ALL(m_isspace, uni_is_space)
IS_ALL(m_isprintable_some, uni_is_printable)

static struct val m_isprintable(struct rt *r, struct val self, const struct args *a)
{
	return self.n ? m_isprintable_some(r, self, a) : val_true;
}

static struct val m_isascii(struct rt *r, struct val self, const struct args *a)
{
	if (bind_args(r, "isascii", a, no_names, 0, 0, NULL))
		return val_err;
	for (uint32_t i = 0; i < self.n; i++)
		if ((unsigned char)self.s[i] >= 0x80)
			return val_false;
	return val_true;
}

static struct val m_isidentifier(struct rt *r, struct val self, const struct args *a)
{
	const char *p = self.s, *end = p + self.n;
	bool first = true;

	if (bind_args(r, "isidentifier", a, no_names, 0, 0, NULL))
		return val_err;
	for (; p < end; first = false) {
		uint32_t c = uni_next(&p, end);

		if (!(c == '_' || (first ? uni_is_alpha(c) : uni_is_alpha(c) || uni_is_decimal(c))))
			return val_false;
	}
	return val_bool(!first);
}

/* no letter of the wrong case, and at least one of the right */
static struct val is_case(struct rt *r, struct val self, const struct args *a, bool upper)
{
	const char *p = self.s, *end = p + self.n;
	bool some = false;

	if (bind_args(r, "islower", a, no_names, 0, 0, NULL))
		return val_err;
	while (p < end) {
		uint32_t c = uni_next(&p, end);

		if (uni_is_title(c) || (upper ? uni_is_lower(c) : uni_is_upper(c)))
			return val_false;
		some |= upper ? uni_is_upper(c) : uni_is_lower(c);
	}
	return val_bool(some);
}

struct val m_islower(struct rt *r, struct val self, const struct args *a)
{
	return is_case(r, self, a, false);
}

struct val m_isupper(struct rt *r, struct val self, const struct args *a)
{
	return is_case(r, self, a, true);
}

static struct val m_istitle(struct rt *r, struct val self, const struct args *a)
{
	const char *p = self.s, *end = p + self.n;
	bool in_word = false, some = false;

	if (bind_args(r, "istitle", a, no_names, 0, 0, NULL))
		return val_err;
	while (p < end) {
		uint32_t c = uni_next(&p, end);
		bool high = uni_is_upper(c) || uni_is_title(c), low = uni_is_lower(c);

		if ((high && in_word) || (low && !in_word))
			return val_false;
		in_word = high || low;
		some |= in_word;
	}
	return val_bool(some);
}

/* --- the table, sorted by name; several types may share one --- */
#define LISTS (T(V_LIST) | T(V_JARR))
#define DICTS (T(V_DICT) | T(V_JOBJ))
static const struct method methods[] = {
	{ "append", LISTS, NULL },
	{ "capitalize", STR, m_capitalize },
	{ "casefold", STR, m_casefold },
	{ "center", STR, m_center },
	{ "clear", LISTS | DICTS, NULL },
	{ "copy", LISTS | DICTS, m_copy },
	{ "count", STR, m_count },
	{ "count", LISTS | T(V_TUPLE) | T(V_RANGE), m_seq_count },
	{ "encode", STR, m_encode },
	{ "endswith", STR, m_endswith },
	{ "expandtabs", STR, m_expandtabs },
	{ "extend", LISTS, NULL },
	{ "find", STR, m_find },
	{ "format", STR, m_format },
	{ "format_map", STR, m_format_map },
	{ "fromkeys", DICTS, m_fromkeys },
	{ "get", DICTS, m_get },
	{ "index", STR, m_index },
	{ "index", LISTS | T(V_TUPLE) | T(V_RANGE), m_seq_index },
	{ "insert", LISTS, NULL },
	{ "is_integer", T(V_FLOAT), m_is_integer },
	{ "isalnum", STR, m_isalnum },
	{ "isalpha", STR, m_isalpha },
	{ "isascii", STR, m_isascii },
	{ "isdecimal", STR, m_isdecimal },
	{ "isdigit", STR, m_isdigit },
	{ "isidentifier", STR, m_isidentifier },
	{ "islower", STR, m_islower },
	{ "isnumeric", STR, m_isnumeric },
	{ "isprintable", STR, m_isprintable },
	{ "isspace", STR, m_isspace },
	{ "istitle", STR, m_istitle },
	{ "isupper", STR, m_isupper },
	{ "items", DICTS, m_items },
	{ "join", STR, m_join },
	{ "keys", DICTS, m_keys },
	{ "ljust", STR, m_ljust },
	{ "lower", STR, m_lower },
	{ "lstrip", STR, m_lstrip },
	{ "next", T(V_CYCLER), m_next },
	{ "partition", STR, m_partition },
	{ "pop", LISTS | DICTS, NULL },
	{ "popitem", DICTS, NULL },
	{ "remove", LISTS, NULL },
	{ "removeprefix", STR, m_removeprefix },
	{ "removesuffix", STR, m_removesuffix },
	{ "replace", STR, m_replace },
	{ "reset", T(V_CYCLER), m_reset },
	{ "reverse", LISTS, NULL },
	{ "rfind", STR, m_rfind },
	{ "rindex", STR, m_rindex },
	{ "rjust", STR, m_rjust },
	{ "rpartition", STR, m_rpartition },
	{ "rsplit", STR, m_rsplit },
	{ "rstrip", STR, m_rstrip },
	{ "setdefault", DICTS, NULL },
	{ "sort", LISTS, NULL },
	{ "split", STR, m_split },
	{ "splitlines", STR, m_splitlines },
	{ "startswith", STR, m_startswith },
	{ "strip", STR, m_strip },
	{ "swapcase", STR, m_swapcase },
	{ "title", STR, m_title },
	{ "translate", STR, m_translate },
	{ "update", DICTS, NULL },
	{ "upper", STR, m_upper },
	{ "values", DICTS, m_values },
	{ "zfill", STR, m_zfill },
};
#define N_METHODS (sizeof(methods) / sizeof(methods[0]))

const struct method *method_find(const char *s, size_t n)
{
	size_t lo = 0, hi = N_METHODS;

	while (lo < hi) { /* the first that is not below s */
		size_t mid = (lo + hi) / 2, len = strlen(methods[mid].name);
		int c = memcmp(methods[mid].name, s, len < n ? len : n);

		if (c < 0 || (c == 0 && len < n))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < N_METHODS && strlen(methods[lo].name) == n && !memcmp(methods[lo].name, s, n) ? &methods[lo] : NULL;
}

const struct method *method_for(const struct method *m, uint8_t type)
{
	for (const char *name = m->name; m < methods + N_METHODS && !strcmp(m->name, name); m++)
		if (m->types & T(type))
			return m;
	return NULL;
}
