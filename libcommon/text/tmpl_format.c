/* Python's two ways to format: "%s" % x, and str.format with its mini-language. */
#include <math.h>
#include <stdio.h>

#include "base/num.h"
#include "text/tmpl_impl.h"

#define MAX_WIDTH 1000000

struct spec {
	char fill[5];
	size_t fill_n;
	char align, sign, type, group;
	bool alt, zero;
	int64_t width, prec; /* -1: not given */
};

/* --- numbers --- */
static void group_digits(struct sb *b, const char *s, size_t n, char sep, size_t every)
{
	for (size_t i = 0; i < n; i++) {
		sb_addc(b, s[i]);
		if (sep && (n - i - 1) % every == 0 && i + 1 < n)
			sb_addc(b, sep);
	}
}

/* Sign (if any) and body set into the field. */
static void put_number(struct sb *out, const struct spec *f, bool neg, const char *prefix, const char *body, size_t n)
{
	char sign = neg ? '-' : f->sign == '+' || f->sign == ' ' ? f->sign : 0;
	size_t len = (sign != 0) + strlen(prefix) + n, width = f->width > 0 ? (size_t)f->width : 0;
	size_t pad = width > len ? width - len : 0, left = 0, mid = 0, right = 0;
	char align = f->align ? f->align : f->zero ? '=' : '>';

	if (align == '<')
		right = pad;
	else if (align == '^')
		left = pad / 2, right = pad - left;
	else if (align == '=')
		mid = pad;
	else
		left = pad;
	while (left--)
		sb_add(out, f->fill, f->fill_n);
	if (sign)
		sb_addc(out, sign);
	sb_adds(out, prefix);
	while (mid--)
		sb_add(out, f->zero && !f->align ? "0" : f->fill, f->zero && !f->align ? 1 : f->fill_n);
	sb_add(out, body, n);
	while (right--)
		sb_add(out, f->fill, f->fill_n);
}

static void put_int(struct sb *out, const struct spec *f, int64_t i)
{
	uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
	unsigned base = f->type == 'x' || f->type == 'X' ? 16 : f->type == 'o' ? 8 : f->type == 'b' ? 2 : 10;
	const char *prefix = !f->alt ? "" : f->type == 'x' ? "0x" : f->type == 'X' ? "0X" : f->type == 'o' ? "0o" : f->type == 'b' ? "0b" : "";
	char buf[80];
	size_t n = sizeof(buf);
	struct sb body = SB_INIT;

	do
		buf[--n] = (f->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[u % base];
	while ((u /= base));
	while (f->prec > 0 && (int64_t)(sizeof(buf) - n) < f->prec && n > 0) /* "%.5d" */
		buf[--n] = '0';
	group_digits(&body, buf + n, sizeof(buf) - n, f->group, base == 10 ? 3 : 4);
	put_number(out, f, i < 0, prefix, body.s, body.len);
	sb_release(&body);
}

/* The exponent of "d.ddde+XX". */
static int exp_of(const char *s)
{
	const char *e = strchr(s, 'e');
	int x = 0;

	if (!e)
		return 0;
	for (const char *p = e + 2; *p; p++)
		x = x * 10 + (*p - '0');
	return e[1] == '-' ? -x : x;
}

/* "1.500e+02" to "1.5e+02" */
static void trim_exp(char *s)
{
	char *e = strchr(s, 'e'), *p = e;

	if (!e || !memchr(s, '.', (size_t)(e - s)))
		return;
	while (p[-1] == '0')
		p--;
	p -= p[-1] == '.';
	memmove(p, e, strlen(e) + 1);
}

/* Digits of |d| for a float conversion, without sign. */
static void float_body(struct sb *b, const struct spec *f, double d)
{
	char fmt[16], buf[512], type = f->type;
	int prec = f->prec < 0 ? 6 : f->prec > 400 ? 400 : (int)f->prec;

	if (!isfinite(d)) {
		sb_adds(b, type == 'E' || type == 'F' || type == 'G' ? (isnan(d) ? "NAN" : "INF") : isnan(d) ? "nan" : "inf");
		return;
	}
	if (!type && f->prec < 0) { /* as str() */
		sb_add(b, buf, fmt_f64(d, buf));
		return;
	}
	if (!type) { /* as %g, with a digit after the point, and an exponent one earlier */
		int p = prec ? prec : 1, e;

		snprintf(buf, sizeof(buf), "%.*e", p - 1, d);
		e = exp_of(buf);
		if (e >= -4 && e < p - 1) {
			snprintf(buf, sizeof(buf), "%.*g", p, d);
			sb_adds(b, buf);
			if (!strchr(buf, '.'))
				sb_adds(b, ".0");
		} else {
			snprintf(buf, sizeof(buf), "%.*g", p, d);
			if (!strchr(buf, 'e')) {
				snprintf(buf, sizeof(buf), "%.*e", p - 1, d);
				trim_exp(buf);
			}
			sb_adds(b, buf);
		}
		return;
	}
	snprintf(fmt, sizeof(fmt), "%%%s.*%c", f->alt ? "#" : "", type == 'n' ? 'g' : type == '%' ? 'f' : type);
	if (snprintf(buf, sizeof(buf), fmt, prec, type == '%' ? d * 100 : d) >= (int)sizeof(buf)) {
		sb_addf(b, "%.*f", prec, d);
		return;
	}
	size_t whole = strspn(buf, "0123456789");
	group_digits(b, buf, whole, f->group, 3);
	sb_adds(b, buf + whole);
	if (type == '%')
		sb_addc(b, '%');
}

static void put_float(struct sb *out, const struct spec *f, double d)
{
	struct sb body = SB_INIT;

	float_body(&body, f, fabs(d));
	put_number(out, f, signbit(d) && !isnan(d), "", body.s, body.len);
	sb_release(&body);
}

static void put_text(struct sb *out, const struct spec *f, const char *s, size_t n)
{
	if (f->prec >= 0)
		n = uni_offset(s, n, (size_t)f->prec);
	size_t len = uni_count(s, n), width = f->width > 0 ? (size_t)f->width : 0, pad = width > len ? width - len : 0;
	size_t left = f->align == '>' ? pad : f->align == '^' ? pad / 2 : 0;

	for (size_t i = 0; i < left; i++)
		sb_add(out, f->fill, f->fill_n);
	sb_add(out, s, n);
	for (size_t i = left; i < pad; i++)
		sb_add(out, f->fill, f->fill_n);
}

static int bad(struct rt *r, enum tmpl_why why, const char *what)
{
	rt_fail(r, why, "%s", what);
	return -1;
}

/* --- the mini-language of format() --- */
static int parse_number(const char **p, const char *end, int64_t *out)
{
	if (*p >= end || **p < '0' || **p > '9')
		return 0;
	for (*out = 0; *p < end && **p >= '0' && **p <= '9'; (*p)++)
		if ((*out = *out * 10 + (**p - '0')) > MAX_WIDTH)
			return -1;
	return 1;
}

static int parse_spec(struct rt *r, const char *s, size_t n, struct spec *f)
{
	const char *p = s, *end = s + n, *q = s;

	*f = (struct spec){ .fill = " ", .fill_n = 1, .width = -1, .prec = -1 };
	if (n) {
		uni_next(&q, end);
		if (q < end && strchr("<>=^", *q)) {
			f->fill_n = (size_t)(q - p);
			memcpy(f->fill, p, f->fill_n);
			f->align = *q;
			p = q + 1;
		} else if (strchr("<>=^", *p)) {
			f->align = *p++;
		}
	}
	if (p < end && strchr("+- ", *p))
		f->sign = *p++;
	if (p < end && *p == '#')
		f->alt = true, p++;
	if (p < end && *p == '0') {
		f->zero = true, p++;
		if (f->align && f->fill_n == 1 && f->fill[0] == ' ' && s[0] == f->align)
			f->fill[0] = '0'; /* "<05": zeros as the fill */
	}
	if (parse_number(&p, end, &f->width) < 0)
		return bad(r, TMPL_VALUE, "too many decimal digits in format string");
	if (p < end && (*p == ',' || *p == '_'))
		f->group = *p++;
	if (p < end && *p == '.') {
		p++;
		if (parse_number(&p, end, &f->prec) != 1)
			return bad(r, TMPL_VALUE, "format specifier missing precision");
	}
	if (p < end)
		f->type = *p++;
	return p == end ? 0 : bad(r, TMPL_VALUE, "invalid format specifier");
}

static int format_number(struct rt *r, struct sb *b, struct val v, struct spec *f)
{
	char buf[4];

	if (v.t == V_FLOAT || (f->type && strchr("eEfFgG%", f->type))) {
		if (f->type && !strchr("eEfFgGn%", f->type))
			return bad(r, TMPL_VALUE, "unknown format code for object of type 'float'");
		put_float(b, f, v.t == V_FLOAT ? v.d : (double)v.i);
		return 0;
	}
	if (f->prec >= 0)
		return bad(r, TMPL_VALUE, "precision not allowed in integer format specifier");
	if (f->type == 'c') {
		if (v.i < 0 || v.i > 0x10ffff)
			return bad(r, TMPL_VALUE, "%c arg not in range(0x110000)");
		put_text(b, f, buf, uni_put(buf, (uint32_t)v.i));
		return 0;
	}
	if (f->type && !strchr("bdnoxX", f->type))
		return bad(r, TMPL_VALUE, "unknown format code for object of type 'int'");
	put_int(b, f, v.i);
	return 0;
}

int format_value(struct rt *r, struct sb *b, struct val v, const char *spec, size_t n)
{
	struct spec f;

	if (n == 0)
		return text_add(r, b, v);
	if (parse_spec(r, spec, n, &f))
		return -1;
	if (is_type(v, T(V_BOOL) | T(V_INT) | T(V_FLOAT)))
		return format_number(r, b, v, &f);
	if (v.t != V_STR) {
		rt_fail(r, TMPL_TYPE, "unsupported format string passed to %s.__format__", type_name(v));
		return -1;
	}
	if ((f.type && f.type != 's') || f.sign || f.alt || f.group || f.align == '=')
		return bad(r, TMPL_VALUE, "invalid format specifier for object of type 'str'");
	if (f.zero && f.fill[0] == ' ')
		f.fill[0] = '0';
	put_text(b, &f, v.s, v.n);
	return 0;
}

/* --- str.format --- */
struct formatter {
	struct rt *r;
	const struct args *a;
	struct val map; /* format_map's, or V_MISSING */
	int64_t next;   /* automatic numbering; -1: explicit numbers were used */
	bool escape;
};

static struct val named_arg(struct formatter *f, struct val name)
{
	struct val v;

	if (f->map.t != V_MISSING)
		return is_type(f->map, T_DICTS) && dict_get(f->map, name, &v) ? v : rt_fail(f->r, TMPL_VALUE, "no value for '%.*s'", (int)name.n, name.s);
	for (uint32_t i = 0; i < f->a->n_kw; i++)
		if (val_equal(f->a->kw[i].key, name))
			return f->a->kw[i].v;
	return rt_fail(f->r, TMPL_VALUE, "no value for '%.*s'", (int)name.n, name.s);
}

static struct val first_of_field(struct formatter *f, const char *s, size_t n)
{
	int64_t i = 0;
	const char *p = s;

	if (n == 0) {
		if (f->next < 0)
			return rt_fail(f->r, TMPL_VALUE, "cannot switch from manual field specification to automatic field numbering");
		i = f->next++;
	} else if (parse_number(&p, s + n, &i) == 1 && p == s + n) {
		if (f->next > 0)
			return rt_fail(f->r, TMPL_VALUE, "cannot switch from automatic field numbering to manual field specification");
		f->next = -1;
	} else {
		return named_arg(f, val_str(s, n));
	}
	if (f->map.t != V_MISSING || i >= f->a->n_pos)
		return rt_fail(f->r, TMPL_VALUE, "replacement index %lld out of range for positional args tuple", (long long)i);
	return f->a->pos[i];
}

/* "name.attr[key]..." */
static struct val field_value(struct formatter *f, const char *s, size_t n)
{
	size_t i = 0;

	while (i < n && s[i] != '.' && s[i] != '[')
		i++;
	struct val v = first_of_field(f, s, i);
	while (i < n && v.t != V_ERR) {
		size_t j = i + 1;
		bool item = s[i] == '[';

		while (j < n && (item ? s[j] != ']' : s[j] != '.' && s[j] != '['))
			j++;
		struct val key = val_str(s + i + 1, j - i - 1);
		const char *p = key.s;
		int64_t k;

		if (!key.n || (item && j >= n))
			return rt_fail(f->r, TMPL_VALUE, "empty attribute in format string");
		if (item && parse_number(&p, key.s + key.n, &k) == 1 && p == key.s + key.n)
			key = val_int(k);
		v = item ? get_item(f->r, v, key) : get_attr(f->r, v, key, method_find(key.s, key.n));
		i = j + item;
	}
	return v;
}

static int format_into(struct formatter *f, struct sb *b, const char *s, size_t n, int depth);

/* One "{...}", s after the brace; returns its length with the closing brace, or -1. */
static int64_t format_field(struct formatter *f, struct sb *b, const char *s, size_t n, int depth)
{
	size_t i = 0, name, nest = 0, spec = 0;
	char conv = 0;
	struct sb sp = SB_INIT, one = SB_INIT;

	while (i < n && s[i] != '}' && s[i] != ':' && s[i] != '!' && s[i] != '{')
		i += s[i] == '[' && memchr(s + i, ']', n - i) ? (size_t)((const char *)memchr(s + i, ']', n - i) - (s + i)) : 1;
	name = i;
	if (i + 1 < n && s[i] == '!') {
		conv = s[i + 1];
		i += 2;
	}
	if (i < n && s[i] == ':') {
		spec = ++i;
		while (i < n && (s[i] != '}' || nest)) {
			nest += s[i] == '{';
			nest -= s[i] == '}';
			i++;
		}
	}
	if (i >= n || s[i] != '}')
		return bad(f->r, TMPL_VALUE, "expected '}' before end of string");
	struct val v = field_value(f, s, name);
	if (v.t != V_ERR && conv == 'r')
		v = val_repr(f->r, v);
	else if (v.t != V_ERR && conv == 's')
		v = val_text(f->r, v);
	else if (conv && v.t != V_ERR)
		v = rt_fail(f->r, TMPL_VALUE, "unknown conversion specifier");
	int rc = v.t == V_ERR || (spec && format_into(f, &sp, s + spec, i - spec, depth + 1)) || format_value(f->r, &one, v, sp.s, sp.len);
	if (!rc && f->escape && depth == 0 && !(v.t == V_STR && v.f & STR_MARKUP))
		escape_add(b, one.s, one.len);
	else if (!rc)
		sb_add(b, one.s, one.len);
	sb_release(&sp);
	sb_release(&one);
	return rc ? -1 : (int64_t)i + 1;
}

static int format_into(struct formatter *f, struct sb *b, const char *s, size_t n, int depth)
{
	if (depth > 1)
		return bad(f->r, TMPL_VALUE, "max string recursion exceeded");
	for (size_t i = 0; i < n;) {
		if ((s[i] == '{' || s[i] == '}') && i + 1 < n && s[i + 1] == s[i]) {
			sb_addc(b, s[i]);
			i += 2;
		} else if (s[i] == '}') {
			return bad(f->r, TMPL_VALUE, "single '}' encountered in format string");
		} else if (s[i] == '{') {
			int64_t k = format_field(f, b, s + i + 1, n - i - 1, depth);

			if (k < 0 || b->len > f->r->max_output)
				return k < 0 ? -1 : bad(f->r, TMPL_LIMIT, "a formatted text that is too long");
			i += (size_t)k + 1;
		} else {
			sb_addc(b, s[i++]);
		}
	}
	return 0;
}

struct val format_str(struct rt *r, struct val fmt, const struct args *a, struct val map)
{
	struct formatter f = { r, a, map, 0, fmt.f & STR_MARKUP };
	struct sb b = SB_INIT;

	if (format_into(&f, &b, fmt.s, fmt.n, 0)) {
		sb_release(&b);
		return val_err;
	}
	struct val v = rt_take(r, &b);
	return fmt.f & STR_MARKUP ? markup(v) : v;
}

/* --- printf style --- */
struct percent {
	struct rt *r;
	struct val arg;
	uint32_t used, n; /* of the tuple; n = 1 for a single value */
	bool escape;
};

static struct val next_arg(struct percent *p)
{
	if (p->used >= p->n)
		return rt_fail(p->r, TMPL_TYPE, "not enough arguments for format string");
	p->used++;
	return p->arg.t == V_TUPLE ? p->arg.l[p->used - 1] : p->arg;
}

static int star_or_number(struct percent *p, const char **s, const char *end, int64_t *out)
{
	struct val v;

	if (*s < end && **s == '*') {
		(*s)++;
		v = next_arg(p);
		if (v.t == V_ERR)
			return -1;
		if (!val_index(v, out) || *out > MAX_WIDTH || *out < -MAX_WIDTH)
			return bad(p->r, TMPL_TYPE, "* wants int");
		return 0;
	}
	return parse_number(s, end, out) < 0 ? bad(p->r, TMPL_VALUE, "width too big") : 0;
}

static int convert(struct percent *p, struct sb *b, struct spec *f, struct val v)
{
	char buf[4];
	struct val t;

	switch (f->type) {
	case 's': case 'r': case 'a':
		if (f->type == 's' && p->escape)
			v = val_escape(p->r, v);
		t = f->type == 's' ? val_text(p->r, v) : val_repr(p->r, v);
		if (t.t == V_ERR)
			return -1;
		put_text(b, f, t.s, t.n);
		return 0;
	case 'c':
		if (v.t == V_STR && uni_count(v.s, v.n) == 1) {
			put_text(b, f, v.s, v.n);
			return 0;
		}
		if (!is_type(v, T_INTS) || v.i < 0 || v.i > 0x10ffff)
			return bad(p->r, TMPL_TYPE, "%c requires int or char");
		put_text(b, f, buf, uni_put(buf, (uint32_t)v.i));
		return 0;
	case 'd': case 'i': case 'u': case 'x': case 'X': case 'o':
		if (v.t == V_FLOAT && strchr("diu", f->type) && fabs(v.d) < 9e18)
			v = val_int((int64_t)v.d);
		if (!is_type(v, T_INTS)) {
			rt_fail(p->r, TMPL_TYPE, "%%%c format: a number is required, not %s", f->type, type_name(v));
			return -1;
		}
		put_int(b, f, v.i);
		return 0;
	case 'e': case 'E': case 'f': case 'F': case 'g': case 'G':
		if (!is_type(v, T(V_BOOL) | T(V_INT) | T(V_FLOAT))) {
			rt_fail(p->r, TMPL_TYPE, "must be real number, not %s", type_name(v));
			return -1;
		}
		put_float(b, f, v.t == V_FLOAT ? v.d : (double)v.i);
		return 0;
	default:
		return bad(p->r, TMPL_VALUE, "unsupported format character");
	}
}

/* One conversion, *s after the "%". */
static int percent_one(struct percent *p, struct sb *b, const char **s, const char *end)
{
	struct spec f = { .fill = " ", .fill_n = 1, .align = '>', .width = -1, .prec = -1 };
	struct val v = val_missing;

	if (*s < end && **s == '(') {
		const char *q = memchr(*s, ')', (size_t)(end - *s));

		if (!q)
			return bad(p->r, TMPL_VALUE, "incomplete format key");
		if (p->arg.t == V_UNDEF)
			return rt_undef_fail(p->r, p->arg).t == V_ERR ? -1 : 0;
		if (!is_type(p->arg, T_DICTS))
			return bad(p->r, TMPL_TYPE, "format requires a mapping");
		if (!dict_get(p->arg, val_str(*s + 1, (size_t)(q - *s - 1)), &v))
			return bad(p->r, TMPL_VALUE, "a key that the mapping of the format lacks");
		p->used = p->n;
		*s = q + 1;
	}
	bool left = false, zero = false;
	for (; *s < end && strchr("-+ 0#", **s); (*s)++) {
		left |= **s == '-';
		zero |= **s == '0';
		f.alt |= **s == '#';
		if (**s == '+' || (**s == ' ' && !f.sign))
			f.sign = **s;
	}
	if (star_or_number(p, s, end, &f.width))
		return -1;
	if (f.width < -1) {
		left = true;
		f.width = -f.width;
	}
	if (*s < end && **s == '.') {
		(*s)++;
		f.prec = 0;
		if (star_or_number(p, s, end, &f.prec))
			return -1;
		f.prec = f.prec < 0 ? 0 : f.prec;
	}
	while (*s < end && strchr("hlL", **s))
		(*s)++;
	if (*s >= end)
		return bad(p->r, TMPL_VALUE, "incomplete format");
	f.type = *(*s)++;
	if (f.type == '%') {
		sb_addc(b, '%');
		return 0;
	}
	f.zero = zero && !left && !strchr("sracu", f.type);
	f.align = left ? '<' : f.zero ? 0 : '>';
	if (v.t == V_MISSING && (v = next_arg(p)).t == V_ERR)
		return -1;
	return convert(p, b, &f, v);
}

struct val format_percent(struct rt *r, struct val fmt, struct val arg)
{
	struct percent p = { r, arg, 0, arg.t == V_TUPLE ? arg.n : 1, fmt.f & STR_MARKUP };
	const char *s = fmt.s, *end = s + fmt.n;
	struct sb b = SB_INIT;
	int rc = 0;

	while (s < end && !rc) {
		const char *q = memchr(s, '%', (size_t)(end - s));

		sb_add(&b, s, (size_t)((q ? q : end) - s));
		s = q ? q + 1 : end;
		if (q)
			rc = percent_one(&p, &b, &s, end);
		if (!rc && b.len > r->max_output)
			rc = bad(r, TMPL_LIMIT, "a formatted text that is too long");
	}
	/* a single mapping, list or the like may stay unused */
	if (!rc && p.used < p.n && !is_type(arg, T_DICTS | T_LISTS | T(V_RANGE) | T(V_UNDEF)))
		rc = bad(r, TMPL_TYPE, "not all arguments converted during string formatting");
	if (rc) {
		sb_release(&b);
		return val_err;
	}
	struct val v = rt_take(r, &b);
	return fmt.f & STR_MARKUP ? markup(v) : v;
}
