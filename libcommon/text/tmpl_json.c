/* tojson as transformers defines it: json.dumps with ensure_ascii off unless
 * asked, no HTML escaping, indent, separators and sort_keys. */
#include <math.h>
#include <stdlib.h>

#include "base/num.h"
#include "text/tmpl_impl.h"

#define JSON_DEPTH 900

struct dump {
	struct rt *r;
	struct sb out;
	struct val indent; /* a string, or V_MISSING */
	struct val item_sep, key_sep;
	bool ascii, sort;
};

static void put_str(struct dump *d, const char *s, size_t n)
{
	const char *p = s, *end = s + n, *run = s;

	sb_addc(&d->out, '"');
	while (p < end) {
		unsigned char c = (unsigned char)*p;
		const char *q = p;

		if (c >= 0x20 && c != '"' && c != '\\' && (!d->ascii || c < 0x7f)) {
			p++;
			continue;
		}
		sb_add(&d->out, run, (size_t)(p - run));
		uint32_t u = uni_next(&q, end);
		static const char special[] = "\"\\\b\f\n\r\t";
		const char *hit = u < 0x80 ? memchr(special, (int)u, 7) : NULL;
		if (hit) {
			sb_addc(&d->out, '\\');
			sb_addc(&d->out, "\"\\bfnrt"[hit - special]);
		} else if (u >= 0x10000) {
			sb_addf(&d->out, "\\u%04x\\u%04x", 0xd800 + ((u - 0x10000) >> 10), 0xdc00 + ((u - 0x10000) & 0x3ff));
		} else {
			sb_addf(&d->out, "\\u%04x", u);
		}
		p = run = q;
	}
	sb_add(&d->out, run, (size_t)(p - run));
	sb_addc(&d->out, '"');
}

static void put_double(struct dump *d, double x)
{
	char buf[32];

	if (isnan(x))
		sb_adds(&d->out, "NaN");
	else if (isinf(x))
		sb_adds(&d->out, x < 0 ? "-Infinity" : "Infinity");
	else
		sb_add(&d->out, buf, fmt_f64(x, buf));
}

static void newline(struct dump *d, int level)
{
	if (d->indent.t == V_MISSING)
		return;
	sb_addc(&d->out, '\n');
	for (int i = 0; i < level; i++)
		sb_add(&d->out, d->indent.s, d->indent.n);
}

static void put_sep(struct dump *d, int level)
{
	sb_add(&d->out, d->item_sep.s, d->item_sep.n);
	newline(d, level);
}

static int put(struct dump *d, struct val v, int level);

static int put_key(struct dump *d, struct val k)
{
	struct val t;

	switch (k.t) {
	case V_STR:
		put_str(d, k.s, k.n);
		return 0;
	case V_NONE:
		sb_adds(&d->out, "\"null\"");
		return 0;
	case V_BOOL:
		sb_adds(&d->out, k.i ? "\"true\"" : "\"false\"");
		return 0;
	case V_INT: case V_BIG: case V_FLOAT:
		sb_addc(&d->out, '"');
		if (k.t == V_FLOAT)
			put_double(d, k.d);
		else if ((t = val_text(d->r, k)).t != V_ERR)
			sb_add(&d->out, t.s, t.n);
		sb_addc(&d->out, '"');
		return 0;
	default:
		rt_fail(d->r, TMPL_TYPE, "keys must be str, int, float, bool or None, not %s", type_name(k));
		return -1;
	}
}

/* Pairs in order of their keys; -1 when keys cannot be compared. */
static int sort_pairs(struct rt *r, struct pair *p, uint32_t n)
{
	for (uint32_t i = 1; i < n; i++) { /* insertion: objects are small, and steps are counted */
		struct pair x = p[i];
		uint32_t k = i;
		int c;

		for (; k > 0; k--) {
			if (rt_steps(r, 1) || !val_order(r, x.k, p[k - 1].k, "<", &c))
				return -1;
			if (c >= 0)
				break;
			p[k] = p[k - 1];
		}
		p[k] = x;
	}
	return 0;
}

static int put_dict(struct dump *d, struct val v, int level)
{
	const struct dict *t = dict_of(d->r, v);
	struct pair *p;

	if (!t)
		return -1;
	if (!t->n) {
		sb_adds(&d->out, "{}");
		return 0;
	}
	p = t->p;
	if (d->sort) {
		if (!(p = rt_alloc(d->r, t->n * sizeof(*p))))
			return -1;
		memcpy(p, t->p, t->n * sizeof(*p));
		if (sort_pairs(d->r, p, t->n))
			return -1;
	}
	sb_addc(&d->out, '{');
	newline(d, level + 1);
	for (uint32_t i = 0; i < t->n; i++) {
		if (i)
			put_sep(d, level + 1);
		if (put_key(d, p[i].k))
			return -1;
		sb_add(&d->out, d->key_sep.s, d->key_sep.n);
		if (put(d, p[i].v, level + 1))
			return -1;
	}
	newline(d, level);
	sb_addc(&d->out, '}');
	return 0;
}

static int put_list(struct dump *d, struct val v, int level)
{
	if (!v.n) {
		sb_adds(&d->out, "[]");
		return 0;
	}
	sb_addc(&d->out, '[');
	newline(d, level + 1);
	for (uint32_t i = 0; i < v.n; i++) {
		if (i)
			put_sep(d, level + 1);
		if (put(d, seq_at(v, i), level + 1))
			return -1;
	}
	newline(d, level);
	sb_addc(&d->out, ']');
	return 0;
}

static int put(struct dump *d, struct val v, int level)
{
	if (rt_steps(d->r, 1))
		return -1;
	if (level > JSON_DEPTH || d->out.len > d->r->max_output) {
		rt_fail(d->r, TMPL_LIMIT, "a value too deep or too large for tojson");
		return -1;
	}
	switch (v.t) {
	case V_NONE:
		sb_adds(&d->out, "null");
		return 0;
	case V_BOOL:
		sb_adds(&d->out, v.i ? "true" : "false");
		return 0;
	case V_INT:
		sb_addf(&d->out, "%lld", (long long)v.i);
		return 0;
	case V_BIG:
		sb_add(&d->out, v.s, v.n);
		return 0;
	case V_FLOAT:
		put_double(d, v.d);
		return 0;
	case V_STR:
		if (rt_slow(d->r, v))
			return -1;
		put_str(d, v.s, v.n);
		return 0;
	case V_LIST: case V_TUPLE: case V_JARR:
		return put_list(d, v, level);
	case V_DICT: case V_JOBJ:
		return put_dict(d, v, level);
	default:
		rt_fail(d->r, TMPL_TYPE, "Object of type %s is not JSON serializable", type_name(v));
		return -1;
	}
}

static int set_indent(struct dump *d, struct val v)
{
	struct rt *r = d->r;

	if (v.t == V_MISSING || v.t == V_NONE)
		return 0;
	if (v.t == V_STR) {
		d->indent = v;
	} else {
		int64_t n;

		if (!arg_int(r, "tojson", v, &n))
			return -1;
		n = n < 0 ? 0 : n > 1000 ? 1000 : n;
		char *s = rt_alloc(r, (size_t)n);
		if (!s)
			return -1;
		memset(s, ' ', (size_t)n);
		d->indent = val_str(s, (size_t)n);
	}
	d->item_sep = val_cstr(",");
	return 0;
}

static int set_separators(struct dump *d, struct val v)
{
	const struct val *l;
	uint32_t n;

	if (v.t == V_MISSING || v.t == V_NONE)
		return 0;
	if (vec_of(d->r, v, &l, &n))
		return -1;
	if (n != 2 || l[0].t != V_STR || l[1].t != V_STR) {
		rt_fail(d->r, TMPL_TYPE, "tojson: separators must be two strings");
		return -1;
	}
	d->item_sep = l[0];
	d->key_sep = l[1];
	return 0;
}

struct val json_dump(struct rt *r, struct val v, const struct args *a)
{
	static const char *const names[] = { "ensure_ascii", "indent", "separators", "sort_keys" };
	struct dump d = { .r = r, .indent = val_missing, .item_sep = val_cstr(", "), .key_sep = val_cstr(": ") };
	struct val arg[4];

	if (bind_args(r, "tojson", a, names, 0, 4, arg) || set_indent(&d, arg[1]) || set_separators(&d, arg[2]))
		return val_err;
	d.ascii = val_truth(arg[0]);
	d.sort = val_truth(arg[3]);
	if (put(&d, v, 0)) {
		sb_release(&d.out);
		return val_err;
	}
	return rt_take(r, &d.out);
}
