/* Methods of str that split and search, as Python 3 has them. */
#include "text/tmpl_impl.h"

static const char *const no_names[8];

/* A piece of self: Markup stays Markup. */
static struct val sub(struct val self, const char *s, size_t n)
{
	struct val v = val_str(s, n);

	v.f = self.f;
	return v;
}

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

struct val m_rsplit(struct rt *r, struct val self, const struct args *a)
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

	if (bind_args(r, "splitlines", a, names, 0, 1, &ends) || rt_slow(r, self))
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

struct val m_partition(struct rt *r, struct val self, const struct args *a)
{
	return partition(r, self, a, false);
}

struct val m_rpartition(struct rt *r, struct val self, const struct args *a)
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

struct val m_find(struct rt *r, struct val self, const struct args *a)
{
	return find(r, self, a, false, false);
}

struct val m_rfind(struct rt *r, struct val self, const struct args *a)
{
	return find(r, self, a, true, false);
}

struct val m_index(struct rt *r, struct val self, const struct args *a)
{
	return find(r, self, a, false, true);
}

struct val m_rindex(struct rt *r, struct val self, const struct args *a)
{
	return find(r, self, a, true, true);
}

struct val m_count(struct rt *r, struct val self, const struct args *a)
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

struct val m_startswith(struct rt *r, struct val self, const struct args *a)
{
	return ends_with(r, self, a, false);
}

struct val m_endswith(struct rt *r, struct val self, const struct args *a)
{
	return ends_with(r, self, a, true);
}

struct val m_removeprefix(struct rt *r, struct val self, const struct args *a)
{
	struct val p;

	if (bind_args(r, "removeprefix", a, no_names, 1, 1, &p) || !arg_str(r, "removeprefix", p))
		return val_err;
	if (p.n <= self.n && memcmp(self.s, p.s, p.n) == 0)
		return sub(self, self.s + p.n, self.n - p.n);
	return self;
}

struct val m_removesuffix(struct rt *r, struct val self, const struct args *a)
{
	struct val p;

	if (bind_args(r, "removesuffix", a, no_names, 1, 1, &p) || !arg_str(r, "removesuffix", p))
		return val_err;
	if (p.n && p.n <= self.n && memcmp(self.s + self.n - p.n, p.s, p.n) == 0)
		return sub(self, self.s, self.n - p.n);
	return self;
}
