/* Filters on numbers and on text as a whole. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/num.h"
#include "text/tmpl_impl.h"

/* Text of a number without the white space around it and "_" between digits; false: not a number. */
static bool number_text(struct val v, char *buf, size_t cap, bool hex)
{
	const char *s = v.s;
	size_t n = v.n, m = 0;

	uni_strip(&s, &n, true, true, NULL, 0, true);
	for (size_t i = 0; i < n; i++) {
		bool digit = (s[i] >= '0' && s[i] <= '9') || (hex && ((s[i] | 32) >= 'a' && (s[i] | 32) <= 'z'));

		if (s[i] == '_') {
			if (i == 0 || i + 1 >= n || s[i - 1] == '_' || s[i + 1] == '_' || s[i + 1] == '.' || s[i - 1] == '.')
				return false;
			continue;
		}
		if (!digit && !strchr("+-.eEinfatyINFATY", s[i]))
			return false;
		if (!s[i] || m + 1 >= cap)
			return false;
		buf[m++] = s[i];
	}
	buf[m] = 0;
	return m > 0;
}

/* int(text, base): V_MISSING when it is none */
static struct val int_of_text(struct rt *r, struct val v, int64_t base)
{
	char buf[128], *p = buf, *end;

	if (base != 0 && (base < 2 || base > 36))
		return val_missing;
	if (!number_text(v, buf, sizeof(buf), true))
		return val_missing;
	bool neg = *p == '-';
	p += *p == '-' || *p == '+';
	if (p[0] == '0' && ((base == 16 && (p[1] | 32) == 'x') || (base == 8 && (p[1] | 32) == 'o') || (base == 2 && (p[1] | 32) == 'b')))
		p += 2;
	else if (base == 0 && p[0] == '0' && p[1])
		base = (p[1] | 32) == 'x' ? 16 : (p[1] | 32) == 'o' ? 8 : (p[1] | 32) == 'b' ? 2 : 0, p += base ? 2 : 0;
	else if (base == 0)
		base = 10;
	if (!*p || *p == '+' || *p == '-' || base == 0)
		return val_missing;
	errno = 0;
	long long i = strtoll(p, &end, (int)base);
	if (*end)
		return val_missing;
	if (errno == ERANGE)
		return rt_fail(r, TMPL_LIMIT, "an integer beyond 64 bits");
	return val_int(neg ? -i : i);
}

static bool float_of_text(struct val v, double *d)
{
	char buf[512], *end;

	if (!number_text(v, buf, sizeof(buf), false))
		return false;
	*d = strtod(buf, &end);
	return !*end && end != buf;
}

static struct val int_of_float(struct rt *r, double d)
{
	if (fabs(d) >= 9.2e18)
		return rt_fail(r, TMPL_LIMIT, "an integer beyond 64 bits");
	return val_int((int64_t)d);
}

FILTER(f_int)
{
	static const char *const names[] = { "default", "base" };
	struct val arg[2], i = val_missing;
	int64_t base = 10;
	double d;

	if (bind_args(r, "int", a, names, 0, 2, arg) || (arg[1].t != V_MISSING && !arg_int(r, "int", arg[1], &base)))
		return val_err;
	if (is_type(v, T_INTS))
		return val_int(v.i);
	if (v.t == V_BIG)
		return v;
	if (v.t == V_UNDEF)
		return rt_undef_fail(r, v);
	if (v.t == V_FLOAT) {
		if (isinf(v.d))
			return rt_fail(r, TMPL_VALUE, "cannot convert float infinity to integer");
		if (!isnan(v.d))
			return int_of_float(r, v.d);
	}
	if (v.t == V_STR && (i = int_of_text(r, v, base)).t != V_MISSING)
		return i;
	if (v.t == V_STR && float_of_text(v, &d) && isfinite(d))
		return int_of_float(r, d);
	return arg[0].t == V_MISSING ? val_int(0) : arg[0];
}

FILTER(f_float)
{
	static const char *const names[] = { "default" };
	struct val dflt;
	double d;

	if (bind_args(r, "float", a, names, 0, 1, &dflt))
		return val_err;
	if (v.t == V_FLOAT)
		return v;
	if (is_type(v, T_INTS))
		return val_float((double)v.i);
	if (v.t == V_BIG)
		v.t = V_STR;
	if (v.t == V_UNDEF)
		return rt_undef_fail(r, v);
	if (v.t == V_STR && float_of_text(v, &d))
		return val_float(d);
	return dflt.t == V_MISSING ? val_float(0) : dflt;
}

FILTER(f_abs)
{
	if (bind_args(r, "abs", a, NULL, 0, 0, NULL))
		return val_err;
	if (v.t == V_FLOAT)
		return val_float(fabs(v.d));
	if (is_type(v, T_INTS))
		return v.i < 0 ? op_unary(r, true, v) : val_int(v.i);
	return rt_fail(r, TMPL_TYPE, "bad operand type for abs(): '%s'", type_name(v));
}

/* Half to even on the exact binary value, as Python rounds. */
static double round_to(double d, int64_t digits)
{
	char buf[512];

	if (!isfinite(d) || digits > 330)
		return d;
	if (digits < -330)
		return copysign(0, d);
	if (digits < 0) {
		double p = pow(10, (double)-digits), q = d / p, f = floor(q);
		double diff = q - f;

		f += diff > 0.5 || (diff == 0.5 && fmod(f, 2) != 0);
		return f * p;
	}
	if (fabs(d) > 1e30)
		return d;
	snprintf(buf, sizeof(buf), "%.*f", (int)digits, d);
	return strtod(buf, NULL);
}

static struct val round_int(struct rt *r, int64_t i, int64_t digits)
{
	int64_t p = 1;

	if (digits >= 0)
		return val_int(i);
	if (digits < -18)
		return val_int(0);
	for (; digits < 0; digits++)
		p *= 10;
	int64_t rest = i % p, down = i - rest;
	if (rest < 0)
		rest += p, down -= p;
	if (rest * 2 > p || (rest * 2 == p && (down / p) % 2))
		return op_binary(r, OP_ADD, val_int(down), val_int(p));
	return val_int(down);
}

FILTER(f_round)
{
	static const char *const names[] = { "precision", "method" };
	struct val arg[2];
	int64_t digits = 0;

	if (bind_args(r, "round", a, names, 0, 2, arg) || (arg[0].t != V_MISSING && !arg_int(r, "round", arg[0], &digits)))
		return val_err;
	bool ceiling = val_equal(arg[1], val_cstr("ceil")), floored = val_equal(arg[1], val_cstr("floor"));
	if (arg[1].t != V_MISSING && !ceiling && !floored && !val_equal(arg[1], val_cstr("common")))
		return rt_fail(r, TMPL_RUNTIME, "method must be common, ceil or floor");
	if (v.t == V_BIG && digits >= 0 && !ceiling && !floored)
		return v;
	if (!is_type(v, T(V_BOOL) | T(V_INT) | T(V_FLOAT)))
		return rt_fail(r, TMPL_TYPE, "type %s doesn't define __round__ method", type_name(v));
	if (ceiling || floored) {
		double p = pow(10, (double)digits), x = (v.t == V_FLOAT ? v.d : (double)v.i) * p;

		if (!isfinite(x))
			return rt_fail(r, TMPL_VALUE, "cannot convert float to integer");
		return val_float((ceiling ? ceil(x) : floor(x)) / p);
	}
	return v.t == V_FLOAT ? val_float(round_to(v.d, digits)) : round_int(r, v.i, digits);
}

FILTER(f_filesizeformat)
{
	static const char *const names[] = { "binary" };
	static const char *const units[2][8] = { { "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB" },
		{ "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB" } };
	static const struct args none;
	struct val binary, f;
	char buf[400];
	int i = 0;

	if (bind_args(r, "filesizeformat", a, names, 0, 1, &binary))
		return val_err;
	double unused;
	if (v.t == V_STR ? !float_of_text(v, &unused) : !is_type(v, T_NUMS | T(V_UNDEF)))
		return rt_fail(r, v.t == V_STR ? TMPL_VALUE : TMPL_TYPE, "could not convert '%s' to a number of bytes", type_name(v));
	if ((f = f_float(r, v, &none)).t == V_ERR)
		return f;
	double base = val_truth(binary) ? 1024 : 1000, unit = base * base;
	if (f.d == 1)
		return val_cstr("1 Byte");
	if (f.d < base) {
		snprintf(buf, sizeof(buf), "%lld Bytes", (long long)f.d);
		return rt_str(r, buf, strlen(buf));
	}
	for (; i < 7 && f.d >= unit; i++)
		unit *= base;
	snprintf(buf, sizeof(buf), "%.1f %s", base * f.d / unit, units[val_truth(binary)][i]);
	return rt_str(r, buf, strlen(buf));
}

FILTER(f_truncate)
{
	static const char *const names[] = { "length", "killwords", "end", "leeway" };
	struct val arg[4], head;
	int64_t length = 255, leeway = 5;

	if (rt_slow(r, v))
		return val_err;
	if (bind_args(r, "truncate", a, names, 0, 4, arg) || (arg[0].t != V_MISSING && !arg_int(r, "truncate", arg[0], &length)) ||
	    (arg[3].t != V_MISSING && arg[3].t != V_NONE && !arg_int(r, "truncate", arg[3], &leeway)))
		return val_err;
	struct val end = arg[2].t == V_MISSING ? val_cstr("...") : arg[2];
	int64_t len;
	if (!val_len(v, &len))
		return rt_fail(r, TMPL_TYPE, "object of type '%s' has no len()", type_name(v));
	if (!arg_str(r, "truncate", end))
		return val_err;
	int64_t n_end = (int64_t)uni_count(end.s, end.n);
	if (length < n_end || leeway < 0)
		return rt_fail(r, TMPL_VALUE, "truncate: expected length >= %lld and leeway >= 0", (long long)n_end);
	if (len <= length + leeway)
		return v;
	if (!arg_str(r, "truncate", v))
		return val_err;
	head = v;
	head.n = (uint32_t)uni_offset(v.s, v.n, (size_t)(length - n_end));
	if (!val_truth(arg[1]))
		for (uint32_t i = head.n; i-- > 0;)
			if (v.s[i] == ' ') {
				head.n = i;
				break;
			}
	return str_concat(r, head, end);
}

static bool word_char(uint32_t c)
{
	return c == '_' || uni_is_alnum(c);
}

FILTER(f_wordcount)
{
	struct val s = val_text(r, v);
	int64_t n = 0;
	bool in = false;

	if (rt_slow(r, v))
		return val_err;
	if (s.t == V_ERR || bind_args(r, "wordcount", a, NULL, 0, 0, NULL))
		return val_err;
	for (const char *p = s.s, *end = p + s.n; p < end;) {
		bool w = word_char(uni_next(&p, end));

		n += w && !in;
		in = w;
	}
	return val_int(n);
}

/* --- wordwrap: Python's textwrap with white space kept as it is --- */
struct wrap {
	struct rt *r;
	struct sb *out;
	const char *sep;
	size_t n_sep;
	int64_t width;
	bool long_words, hyphens;
	bool any; /* a line was written */
};

static bool wrap_space(char c)
{
	return c == ' ' || (c >= 9 && c <= 13);
}

/* Length in bytes of the next unbreakable piece. */
static size_t chunk(const struct wrap *w, const char *s, size_t n)
{
	size_t i = 0;

	if (wrap_space(s[0])) {
		while (i < n && wrap_space(s[i]))
			i++;
		return i;
	}
	while (i < n && !wrap_space(s[i])) {
		const char *q = s + i;
		bool letter_before = i > 1 && s[i] == '-';

		if (letter_before && w->hyphens) {
			const char *b = s + i;
			uint32_t c1 = uni_prev(s, &b), c2 = b > s ? uni_prev(s, &b) : 0, d1 = 0, d2 = 0;
			const char *f = s + i + 1, *end = s + n;

			d1 = f < end ? uni_next(&f, end) : 0;
			d2 = f < end ? uni_next(&f, end) : 0;
			if (word_char(c1) && !uni_is_numeric(c1) && c2 && word_char(c2) && d1 && word_char(d1) && d2 && word_char(d2) && !uni_is_numeric(d2))
				return i + 1;
		}
		uni_next(&q, s + n);
		i = (size_t)(q - s);
	}
	return i;
}

static void wrap_line(struct wrap *w, const char *s, size_t n)
{
	size_t start = 0, len = 0; /* the current line's bytes [start, start + len) */
	int64_t used = 0;
	size_t i = 0;

	while (i < n) {
		size_t k = chunk(w, s + i, n - i);
		int64_t cp = (int64_t)uni_count(s + i, k);

		if (rt_steps(w->r, 1 + k / 4)) /* the rest of a long word is looked at for each of its lines */
			return;
		if (len == 0 && wrap_space(s[i]) && w->any) { /* lines after the first begin with a word */
			i += k;
			start = i;
			continue;
		}
		if (used + cp <= w->width) {
			used += cp;
			len += k;
			i += k;
			continue;
		}
		if (cp > w->width) { /* too long for any line */
			int64_t room = w->width - used < 1 && len == 0 ? 1 : w->width - used;

			if (w->long_words && room > 0) {
				size_t part = uni_offset(s + i, k, (size_t)room);

				len += part;
				i += part;
			} else if (!w->long_words && len == 0) {
				len += k;
				i += k;
			}
		}
		while (len && wrap_space(s[start + len - 1]))
			len--;
		if (len) {
			if (w->any)
				sb_add(w->out, w->sep, w->n_sep);
			sb_add(w->out, s + start, len);
			w->any = true;
		}
		start = i;
		len = 0;
		used = 0;
	}
	while (len && wrap_space(s[start + len - 1]))
		len--;
	if (len) {
		if (w->any)
			sb_add(w->out, w->sep, w->n_sep);
		sb_add(w->out, s + start, len);
	}
}

FILTER(f_wordwrap)
{
	static const char *const names[] = { "width", "break_long_words", "wrapstring", "break_on_hyphens" };
	static const struct args none;
	struct val arg[4], lines, sep;
	struct sb b = SB_INIT;
	int64_t width = 79;

	if (rt_slow(r, v))
		return val_err;
	if (bind_args(r, "wordwrap", a, names, 0, 4, arg) || (arg[0].t != V_MISSING && !arg_int(r, "wordwrap", arg[0], &width)))
		return val_err;
	if (v.t == V_UNDEF)
		return rt_undef_fail(r, v);
	if (width <= 0)
		return rt_fail(r, TMPL_VALUE, "invalid width (must be > 0)");
	sep = arg[2].t == V_MISSING || arg[2].t == V_NONE ? val_cstr("\n") : arg[2];
	if (!arg_str(r, "wordwrap", v) || !arg_str(r, "wordwrap", sep) || (lines = m_splitlines(r, v, &none)).t == V_ERR)
		return val_err;
	for (uint32_t i = 0; i < lines.n; i++) {
		struct wrap w = { r, &b, sep.s, sep.n, width, arg[1].t == V_MISSING || val_truth(arg[1]), arg[3].t == V_MISSING || val_truth(arg[3]), false };

		if (i)
			sb_add(&b, sep.s, sep.n);
		wrap_line(&w, lines.l[i].s, lines.l[i].n);
	}
	return rt_take(r, &b);
}

/* --- HTML and URLs --- */
static int quote_add(struct rt *r, struct sb *b, struct val v, bool query)
{
	struct val s = val_text(r, v);

	if (s.t == V_ERR || rt_steps(r, 4 * (uint64_t)s.n))
		return -1;
	for (uint32_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.s[i];

		if ((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || strchr("_.-~", c) || (c == '/' && !query))
			sb_addc(b, (char)c);
		else if (c == ' ' && query)
			sb_addc(b, '+');
		else
			sb_addf(b, "%%%02X", c);
	}
	return 0;
}

FILTER(f_urlencode)
{
	struct sb b = SB_INIT;
	struct val item;
	int rc = 0;

	if (rt_slow(r, v))
		return val_err;
	if (bind_args(r, "urlencode", a, NULL, 0, 0, NULL))
		return val_err;
	if (v.t == V_STR || !val_iterable(v)) {
		rc = quote_add(r, &b, v, false);
	} else {
		static const struct args none;
		struct val src = is_type(v, T_DICTS) ? m_items(r, v, &none) : v;
		struct iter *it = src.t == V_ERR ? NULL : iter_of(r, src);

		rc = it ? 0 : -1;
		while (!rc && (rc = iter_next(r, it, &item)) == 1) {
			const struct val *kv;
			uint32_t n;

			if (b.len)
				sb_addc(&b, '&');
			rc = vec_of(r, item, &kv, &n) ? -1 : 0;
			if (!rc && n != 2)
				rc = rt_fail(r, TMPL_VALUE, "urlencode: pairs are needed").t == V_ERR ? -1 : 0;
			rc = rc || quote_add(r, &b, kv[0], true) || (sb_addc(&b, '='), quote_add(r, &b, kv[1], true)) ? -1 : 0;
		}
	}
	if (rc < 0) {
		sb_release(&b);
		return val_err;
	}
	return rt_take(r, &b);
}

FILTER(f_xmlattr)
{
	static const char *const names[] = { "autospace" };
	struct val space, e;
	struct sb b = SB_INIT;
	const struct dict *d;

	if (rt_slow(r, v))
		return val_err;
	if (bind_args(r, "xmlattr", a, names, 0, 1, &space))
		return val_err;
	if (!is_type(v, T_DICTS))
		return v.t == V_UNDEF ? rt_undef_fail(r, v) : rt_fail(r, TMPL_TYPE, "'%s' object has no attribute 'items'", type_name(v));
	if (!(d = dict_of(r, v)))
		return val_err;
	for (uint32_t i = 0; i < d->n; i++) {
		struct val k = d->p[i].k;

		if (d->p[i].v.t == V_NONE || d->p[i].v.t == V_UNDEF)
			continue;
		if (k.t != V_STR || memchr(k.s, ' ', k.n) || memchr(k.s, '/', k.n) || memchr(k.s, '>', k.n) ||
		    memchr(k.s, '=', k.n) || memchr(k.s, '\n', k.n) || memchr(k.s, '\t', k.n)) {
			sb_release(&b);
			return rt_fail(r, TMPL_VALUE, "invalid character in attribute name");
		}
		if (b.len || space.t == V_MISSING || val_truth(space))
			sb_addc(&b, ' ');
		if ((k = val_escape(r, k)).t == V_ERR || (e = val_escape(r, d->p[i].v)).t == V_ERR) {
			sb_release(&b);
			return val_err;
		}
		sb_add(&b, k.s, k.n);
		sb_adds(&b, "=\"");
		sb_add(&b, e.s, e.n);
		sb_addc(&b, '"');
	}
	return rt_take(r, &b);
}

/* The entities that occur in practice, and numbers. */
static void unescape_add(struct sb *b, const char *s, size_t n)
{
	static const struct {
		const char *name, *to;
	} named[] = { { "amp;", "&" }, { "lt;", "<" }, { "gt;", ">" }, { "quot;", "\"" }, { "apos;", "'" }, { "nbsp;", "\xc2\xa0" } };

	for (size_t i = 0; i < n; i++) {
		size_t k = 0;
		char buf[4], *end;

		if (s[i] == '&' && i + 2 < n && s[i + 1] == '#') {
			bool hex = (s[i + 2] | 32) == 'x';
			char num[12] = { 0 };

			memcpy(num, s + i + 2 + hex, n - i - 2 - hex < 11 ? n - i - 2 - hex : 11);
			unsigned long c = strtoul(num, &end, hex ? 16 : 10);
			if (end != num && c > 0 && c <= 0x10ffff && !(c >= 0xd800 && c < 0xe000)) {
				sb_add(b, buf, uni_put(buf, (uint32_t)c));
				i += 1 + hex + (size_t)(end - num) + (*end == ';');
				continue;
			}
		}
		for (; s[i] == '&' && k < 6; k++)
			if (n - i - 1 >= strlen(named[k].name) && !memcmp(s + i + 1, named[k].name, strlen(named[k].name)))
				break;
		if (s[i] == '&' && k < 6) {
			sb_adds(b, named[k].to);
			i += strlen(named[k].name);
		} else {
			sb_addc(b, s[i]);
		}
	}
}

FILTER(f_striptags)
{
	static const struct args none;
	struct val s = val_text(r, v), words;
	struct sb b = SB_INIT, out = SB_INIT;
	const char *p, *end, *lt;

	if (rt_slow(r, v))
		return val_err;
	if (s.t == V_ERR || bind_args(r, "striptags", a, NULL, 0, 0, NULL))
		return val_err;
	for (p = s.s, end = p + s.n; (lt = memchr(p, '<', (size_t)(end - p)));) {
		bool comment = end - lt >= 4 && !memcmp(lt, "<!--", 4);
		const char *stop = comment ? memmem(lt + 4, (size_t)(end - lt - 4), "-->", 3) : memchr(lt, '>', (size_t)(end - lt));

		if (!stop)
			break;
		sb_add(&b, p, (size_t)(lt - p));
		p = stop + (comment ? 3 : 1);
	}
	sb_add(&b, p, (size_t)(end - p));
	if ((s = rt_take(r, &b)).t == V_ERR || (words = m_split(r, s, &none)).t == V_ERR)
		return val_err;
	for (uint32_t i = 0; i < words.n; i++) {
		if (i)
			sb_addc(&b, ' ');
		sb_add(&b, words.l[i].s, words.l[i].n);
	}
	unescape_add(&out, b.s, b.len);
	sb_release(&b);
	return rt_take(r, &out);
}
