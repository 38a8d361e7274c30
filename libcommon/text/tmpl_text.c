/* Text forms of values: Python's str() and repr(), and HTML escaping. */
#include <math.h>
#include <stdio.h>

#include "base/num.h"
#include "text/tmpl_impl.h"

#define TEXT_DEPTH 600

void repr_str(struct sb *b, const char *s, size_t n, bool ascii)
{
	bool single = memchr(s, '\'', n) != NULL, dbl = memchr(s, '"', n) != NULL;
	char quote = single && !dbl ? '"' : '\'';
	const char *p = s, *end = s + n;

	sb_addc(b, quote);
	while (p < end) {
		const char *q = p;
		uint32_t c = uni_next(&q, end);

		if (c == (uint32_t)quote || c == '\\') {
			sb_addc(b, '\\');
			sb_addc(b, (char)c);
		} else if (c == '\n' || c == '\r' || c == '\t') {
			sb_addc(b, '\\');
			sb_addc(b, c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
		} else if (uni_is_printable(c) && (c < 0x80 || !ascii)) {
			sb_add(b, p, (size_t)(q - p));
		} else {
			sb_addf(b, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
		}
		p = q;
	}
	sb_addc(b, quote);
}

static void float_add(struct sb *b, double d)
{
	char buf[32];

	if (isnan(d))
		sb_adds(b, "nan");
	else if (isinf(d))
		sb_adds(b, d < 0 ? "-inf" : "inf");
	else
		sb_add(b, buf, fmt_f64(d, buf));
}

static int items_add(struct rt *r, struct sb *b, const struct val *l, uint32_t n, int depth)
{
	for (uint32_t i = 0; i < n; i++) {
		if (i)
			sb_adds(b, ", ");
		if (repr_add(r, b, l[i], depth + 1))
			return -1;
	}
	return 0;
}

static int pairs_add(struct rt *r, struct sb *b, const struct pair *p, uint32_t n, int depth)
{
	sb_addc(b, '{');
	for (uint32_t i = 0; i < n; i++) {
		if (i)
			sb_adds(b, ", ");
		if (repr_add(r, b, p[i].k, depth + 1))
			return -1;
		sb_adds(b, ": ");
		if (repr_add(r, b, p[i].v, depth + 1))
			return -1;
	}
	sb_addc(b, '}');
	return 0;
}

static int view_add(struct rt *r, struct sb *b, const struct view *v, int depth)
{
	static const char *const names[] = { "dict_keys([", "dict_values([", "dict_items([" };

	sb_adds(b, names[v->kind]);
	for (uint32_t i = 0; i < v->d->n; i++) {
		struct val kv[2] = { v->d->p[i].k, v->d->p[i].v };

		if (i)
			sb_adds(b, ", ");
		if (repr_add(r, b, v->kind == VIEW_KEYS ? kv[0] : v->kind == VIEW_VALUES ? kv[1] : val_tuple(kv, 2), depth + 1))
			return -1;
	}
	sb_adds(b, "])");
	return 0;
}

static int seq_add(struct rt *r, struct sb *b, struct val v, int depth)
{
	const struct val *l;
	uint32_t n;

	if (vec_of(r, v, &l, &n))
		return -1;
	sb_addc(b, v.t == V_TUPLE ? '(' : '[');
	if (items_add(r, b, l, n, depth))
		return -1;
	if (v.t == V_TUPLE && n == 1)
		sb_addc(b, ',');
	sb_addc(b, v.t == V_TUPLE ? ')' : ']');
	return 0;
}

static int loop_add(struct rt *r, struct sb *b, struct loop *l)
{
	int64_t len = loop_length(r, l);
	bool found;

	if (len < 0)
		return -1;
	sb_addf(b, "<LoopContext %lld/%lld>", (long long)loop_attr(r, l, val_cstr("index"), &found).i, (long long)len);
	return 0;
}

static void object_add(struct sb *b, struct val v)
{
	switch (v.t) {
	case V_RANGE:
		sb_addf(b, v.range->step == 1 ? "range(%lld, %lld)" : "range(%lld, %lld, %lld)", (long long)v.range->start,
		        (long long)v.range->stop, (long long)v.range->step);
		break;
	case V_MACRO:
		if (v.macro->fn->name.t == V_STR) {
			sb_adds(b, "<Macro ");
			repr_str(b, v.macro->fn->name.s, v.macro->fn->name.n, false);
			sb_addc(b, '>');
		} else {
			sb_adds(b, "<Macro anonymous>");
		}
		break;
	default: /* Python prints an address: there is no right answer */
		sb_addf(b, "<%s object>", type_name(v));
	}
}

int repr_add(struct rt *r, struct sb *b, struct val v, int depth)
{
	const struct dict *d;

	if (depth > TEXT_DEPTH) {
		rt_fail(r, TMPL_LIMIT, "a value nested more than %d deep", TEXT_DEPTH);
		return -1;
	}
	if (rt_steps(r, 1))
		return -1;
	if (b->len > r->max_output) {
		rt_fail(r, TMPL_LIMIT, "a text of more than %zu MiB", r->max_output >> 20);
		return -1;
	}
	switch (v.t) {
	case V_UNDEF:
		sb_adds(b, "Undefined");
		return 0;
	case V_NONE:
		sb_adds(b, "None");
		return 0;
	case V_BOOL:
		sb_adds(b, v.i ? "True" : "False");
		return 0;
	case V_INT:
		sb_addf(b, "%lld", (long long)v.i);
		return 0;
	case V_BIG:
		sb_add(b, v.s, v.n);
		return 0;
	case V_FLOAT:
		float_add(b, v.d);
		return 0;
	case V_STR:
		if (is_hole(r, v))
			return hole_look(r), -1;
		if (v.f & STR_MARKUP)
			sb_adds(b, "Markup(");
		repr_str(b, v.s, v.n, false);
		if (v.f & STR_MARKUP)
			sb_addc(b, ')');
		return 0;
	case V_LIST: case V_TUPLE: case V_JARR:
		return seq_add(r, b, v, depth);
	case V_DICT: case V_JOBJ:
		d = dict_of(r, v);
		return d ? pairs_add(r, b, d->p, d->n, depth) : -1;
	case V_NS:
		sb_adds(b, "<Namespace ");
		if (pairs_add(r, b, v.ns->p, v.ns->n, depth))
			return -1;
		sb_addc(b, '>');
		return 0;
	case V_LOOP:
		return loop_add(r, b, v.loop);
	case V_VIEW:
		return view_add(r, b, v.view, depth);
	default:
		object_add(b, v);
		return 0;
	}
}

int text_add(struct rt *r, struct sb *b, struct val v)
{
	if (v.t == V_STR) {
		sb_add(b, v.s, v.n);
		return 0;
	}
	return v.t == V_UNDEF ? 0 : repr_add(r, b, v, 0);
}

struct val val_text(struct rt *r, struct val v)
{
	struct sb b = SB_INIT;

	if (v.t == V_STR)
		return val_str(v.s, v.n);
	if (v.t == V_UNDEF)
		return val_str("", 0);
	repr_add(r, &b, v, 0);
	return rt_take(r, &b);
}

struct val val_repr(struct rt *r, struct val v)
{
	struct sb b = SB_INIT;

	repr_add(r, &b, v, 0);
	return rt_take(r, &b);
}

void escape_add(struct sb *b, const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		switch (s[i]) {
		case '&':
			sb_adds(b, "&amp;");
			break;
		case '<':
			sb_adds(b, "&lt;");
			break;
		case '>':
			sb_adds(b, "&gt;");
			break;
		case '"':
			sb_adds(b, "&#34;");
			break;
		case '\'':
			sb_adds(b, "&#39;");
			break;
		default:
			sb_addc(b, s[i]);
		}
	}
}

struct val markup(struct val v)
{
	if (v.t == V_STR)
		v.f |= STR_MARKUP;
	return v;
}

struct val val_escape(struct rt *r, struct val v)
{
	struct sb b = SB_INIT;

	if (v.t == V_STR && v.f & STR_MARKUP)
		return v;
	if (v.t != V_STR && (v = val_text(r, v)).t == V_ERR)
		return v;
	if (is_hole(r, v))
		return hole_look(r);
	if (rt_slow(r, v))
		return val_err;
	escape_add(&b, v.s, v.n);
	return markup(rt_take(r, &b));
}

struct val str_concat(struct rt *r, struct val a, struct val b)
{
	bool m = (a.f | b.f) & STR_MARKUP;

	if (m && !(a.f & STR_MARKUP) && (a = val_escape(r, a)).t == V_ERR)
		return a;
	if (m && !(b.f & STR_MARKUP) && (b = val_escape(r, b)).t == V_ERR)
		return b;
	size_t n = (size_t)a.n + b.n;
	if (n > r->max_output)
		return rt_fail(r, TMPL_LIMIT, "a text of more than %zu MiB", r->max_output >> 20);
	char *p = rt_alloc(r, n);
	if (!p || rt_steps(r, n >> 6))
		return val_err;
	memcpy(p, a.s, a.n);
	memcpy(p + a.n, b.s, b.n);
	watch_copy(r, p, a.s, a.n);
	watch_copy(r, p + a.n, b.s, b.n);
	struct val v = val_str(p, n);
	return m ? markup(v) : v;
}
