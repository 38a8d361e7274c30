/* Methods of dict, list and the small objects, and the global functions. */
#include <math.h>
#include <time.h>

#include "text/tmpl_impl.h"

#define MAX_RANGE 100000 /* the sandbox's own limit */

static const char *const no_names[8];

/* --- methods --- */
struct val m_copy(struct rt *r, struct val self, const struct args *a)
{
	return bind_args(r, "copy", a, no_names, 0, 0, NULL) ? val_err : self; /* nothing can change it */
}

struct val m_seq_count(struct rt *r, struct val self, const struct args *a)
{
	struct val x, y;
	struct iter *it;
	int64_t n = 0;
	int rc;

	if (bind_args(r, "count", a, no_names, 1, 1, &x) || !(it = iter_of(r, self)))
		return val_err;
	while ((rc = iter_next(r, it, &y)) == 1)
		n += rt_equal(r, x, y);
	return rc < 0 ? val_err : val_int(n);
}

struct val m_seq_index(struct rt *r, struct val self, const struct args *a)
{
	struct val arg[3], y;
	int64_t len, from = 0, to;

	if (bind_args(r, "index", a, no_names, 1, 3, arg) || !val_len(self, &len))
		return val_err;
	to = len;
	if (arg[1].t != V_MISSING && !arg_int(r, "index", arg[1], &from))
		return val_err;
	if (arg[2].t != V_MISSING && !arg_int(r, "index", arg[2], &to))
		return val_err;
	from = from < 0 ? (from + len < 0 ? 0 : from + len) : from;
	to = to < 0 ? to + len : to > len ? len : to;
	if (rt_steps(r, (uint64_t)len))
		return val_err;
	for (int64_t i = from; i < to; i++) {
		y = get_item(r, self, val_int(i));
		if (rt_equal(r, y, arg[0]))
			return val_int(i);
	}
	return rt_fail(r, TMPL_VALUE, "the value is not in the %s", type_name(self));
}

struct val m_fromkeys(struct rt *r, struct val self, const struct args *a)
{
	struct val arg[2], k;
	struct dict *d = dict_new(r, 0);
	struct iter *it;
	int rc;

	(void)self;
	if (!d || bind_args(r, "fromkeys", a, no_names, 1, 2, arg) || !(it = iter_of(r, arg[0])))
		return val_err;
	while ((rc = iter_next(r, it, &k)) == 1)
		if (!dict_put(r, d, k, arg[1].t == V_MISSING ? val_none : arg[1]))
			return val_err;
	return rc < 0 ? val_err : val_dict(d);
}

struct val m_get(struct rt *r, struct val self, const struct args *a)
{
	struct val arg[2], v;

	if (bind_args(r, "get", a, no_names, 1, 2, arg))
		return val_err;
	if (!val_hashable(r, arg[0]))
		return rt_fail(r, TMPL_TYPE, "unhashable type: '%s'", type_name(arg[0]));
	return dict_get(self, arg[0], &v) ? v : arg[1].t == V_MISSING ? val_none : arg[1];
}

static struct val view(struct rt *r, struct val self, const struct args *a, enum view_kind kind)
{
	struct view *v = rt_alloc(r, sizeof(*v));

	if (!v || bind_args(r, "items", a, no_names, 0, 0, NULL) || !(v->d = dict_of(r, self)))
		return val_err;
	v->kind = kind;
	return (struct val){ .t = V_VIEW, .view = v };
}

struct val m_items(struct rt *r, struct val self, const struct args *a)
{
	return view(r, self, a, VIEW_ITEMS);
}

struct val m_keys(struct rt *r, struct val self, const struct args *a)
{
	return view(r, self, a, VIEW_KEYS);
}

struct val m_values(struct rt *r, struct val self, const struct args *a)
{
	return view(r, self, a, VIEW_VALUES);
}

struct val m_is_integer(struct rt *r, struct val self, const struct args *a)
{
	if (bind_args(r, "is_integer", a, no_names, 0, 0, NULL))
		return val_err;
	return val_bool(isfinite(self.d) && self.d == floor(self.d));
}

struct val m_next(struct rt *r, struct val self, const struct args *a)
{
	struct cycler *c = self.cycler;

	if (bind_args(r, "next", a, no_names, 0, 0, NULL))
		return val_err;
	struct val v = c->items[c->pos];
	c->pos = (c->pos + 1) % c->n;
	return v;
}

struct val m_reset(struct rt *r, struct val self, const struct args *a)
{
	self.cycler->pos = 0;
	return bind_args(r, "reset", a, no_names, 0, 0, NULL) ? val_err : val_none;
}

/* --- functions --- */
static struct val g_range(struct rt *r, struct val self, const struct args *a)
{
	struct val arg[3];
	struct range *g = rt_alloc(r, sizeof(*g));
	int64_t v[3] = { 0, 0, 1 };

	(void)self;
	if (!g || bind_args(r, "range", a, no_names, 1, 3, arg))
		return val_err;
	for (uint32_t i = 0; i < 3; i++)
		if (arg[i].t != V_MISSING && !arg_int(r, "range", arg[i], &v[i]))
			return val_err;
	if (arg[1].t == V_MISSING) {
		v[1] = v[0];
		v[0] = 0;
	}
	if (v[2] == 0)
		return rt_fail(r, TMPL_VALUE, "range() arg 3 must not be zero");
	long double span = (long double)v[1] - v[0], step = v[2];
	long double len = span / step > 0 ? ceill(span / step) : 0;
	if (len > MAX_RANGE)
		return rt_fail(r, TMPL_LIMIT, "range too big: the sandbox blocks ranges larger than %d", MAX_RANGE);
	*g = (struct range){ v[0], v[1], v[2], (int64_t)len };
	return (struct val){ .t = V_RANGE, .range = g };
}

static int dict_fill(struct rt *r, struct dict *d, struct val from)
{
	struct val item;
	const struct val *kv;
	uint32_t n;
	int rc;

	if (is_type(from, T_DICTS)) {
		const struct dict *s = dict_of(r, from);

		for (uint32_t i = 0; s && i < s->n; i++)
			if (!dict_put(r, d, s->p[i].k, s->p[i].v))
				return -1;
		return s ? 0 : -1;
	}
	struct iter *it = iter_of(r, from);
	if (!it)
		return -1;
	while ((rc = iter_next(r, it, &item)) == 1) {
		if (vec_of(r, item, &kv, &n))
			return -1;
		if (n != 2) {
			rt_fail(r, TMPL_VALUE, "dictionary update sequence element has length %u; 2 is required", n);
			return -1;
		}
		if (!dict_put(r, d, kv[0], kv[1]))
			return -1;
	}
	return rc;
}

static struct val g_dict(struct rt *r, struct val self, const struct args *a)
{
	struct dict *d = dict_new(r, a->n_kw);

	(void)self;
	if (!d)
		return val_err;
	if (a->n_pos > 1)
		return rt_fail(r, TMPL_TYPE, "dict expected at most 1 argument, got %u", a->n_pos);
	if (a->n_pos && dict_fill(r, d, a->pos[0]))
		return val_err;
	for (uint32_t i = 0; i < a->n_kw; i++)
		if (!dict_put(r, d, a->kw[i].key, a->kw[i].v))
			return val_err;
	return val_dict(d);
}

static struct val g_raise(struct rt *r, struct val self, const struct args *a)
{
	static const char *const names[] = { "message" };
	struct val m;

	(void)self;
	if (bind_args(r, "raise_exception", a, names, 1, 1, &m) || (m = val_text(r, m)).t == V_ERR)
		return val_err;
	return rt_fail(r, TMPL_RAISED, "%.*s", m.n > 800 ? 800 : (int)m.n, m.s);
}

static struct val g_strftime_now(struct rt *r, struct val self, const struct args *a)
{
	static const char *const names[] = { "format" };
	struct val f;

	(void)self;
	if (bind_args(r, "strftime_now", a, names, 1, 1, &f) || !arg_str(r, "strftime_now", f))
		return val_err;
	return time_format(r, f);
}

/* strftime of the pinned time; a NUL in the format ends it. */
struct val time_format(struct rt *r, struct val f)
{
	time_t t = (time_t)r->now;
	struct tm tm;
	char fmt[512], buf[2048];

	if (f.n >= sizeof(fmt))
		return rt_fail(r, TMPL_LIMIT, "a date format longer than %zu bytes", sizeof(fmt));
	memcpy(fmt, f.s, f.n);
	fmt[f.n] = 0;
	gmtime_r(&t, &tm);
	tm.tm_zone = ""; /* the reference's time is naive: %Z is empty */
	struct sb b = SB_INIT;
	for (const char *p = fmt; *p; p++) {
		char one[4] = { '%', p[1], 0, 0 };

		if (*p != '%' || !p[1]) {
			sb_addc(&b, *p);
			continue;
		}
		p++;
		if (*p == 'f') {
			sb_adds(&b, "000000");
		} else if (*p == 'z' || *p == 'Z') {
			continue;
		} else if ((*p == '-' || *p == '_' || *p == '0' || *p == '^' || *p == '#' || *p == 'E' || *p == 'O') && p[1]) {
			one[1] = *p;
			one[2] = *++p;
			sb_add(&b, buf, strftime(buf, sizeof(buf), one, &tm));
		} else {
			sb_add(&b, buf, strftime(buf, sizeof(buf), one, &tm));
		}
	}
	return rt_take(r, &b);
}

static struct val g_cycler(struct rt *r, struct val self, const struct args *a)
{
	struct cycler *c = rt_alloc(r, sizeof(*c));
	struct val *items = rt_alloc(r, a->n_pos * sizeof(*items));

	(void)self;
	if (!c || !items)
		return val_err;
	if (!a->n_pos)
		return rt_fail(r, TMPL_RUNTIME, "at least one item has to be provided");
	memcpy(items, a->pos, a->n_pos * sizeof(*items));
	*c = (struct cycler){ items, a->n_pos, 0 };
	return (struct val){ .t = V_CYCLER, .cycler = c };
}

static struct val g_joiner(struct rt *r, struct val self, const struct args *a)
{
	static const char *const names[] = { "sep" };
	struct joiner *j = rt_alloc(r, sizeof(*j));
	struct val sep;

	(void)self;
	if (!j || bind_args(r, "joiner", a, names, 0, 1, &sep))
		return val_err;
	*j = (struct joiner){ sep.t == V_MISSING ? val_cstr(", ") : sep, false };
	return (struct val){ .t = V_JOINER, .joiner = j };
}

static struct val g_lipsum(struct rt *r, struct val self, const struct args *a)
{
	(void)self;
	(void)a;
	return rt_fail(r, TMPL_SECURITY, "lipsum() is refused: a template must give the same text each time");
}

static const struct builtin globals[] = {
	{ "range", g_range }, { "dict", g_dict }, { "namespace", func_namespace }, { "raise_exception", g_raise },
	{ "strftime_now", g_strftime_now }, { "cycler", g_cycler }, { "joiner", g_joiner }, { "lipsum", g_lipsum },
	{ "dict.fromkeys", m_fromkeys }, /* an attribute of dict: no name has a dot */
};

const struct builtin *global_find(const char *s, size_t n)
{
	for (size_t i = 0; i < sizeof(globals) / sizeof(globals[0]); i++)
		if (strlen(globals[i].name) == n && !memcmp(globals[i].name, s, n))
			return &globals[i];
	return NULL;
}
