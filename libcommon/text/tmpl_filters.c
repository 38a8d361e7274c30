/* The table of filters, and those that treat one value as text. */
#include <stdlib.h>

#include "text/tmpl_impl.h"

static const struct args none;

/* soft_str: the string itself, Markup kept; other values as str() */
static struct val soft(struct rt *r, struct val v)
{
	return v.t == V_STR ? v : val_text(r, v);
}

static FILTER(f_attr)
{
	static const char *const names[] = { "name" };
	struct val name;

	if (bind_args(r, "attr", a, names, 1, 1, &name) || !arg_str(r, "attr", name))
		return val_err;
	return attr_only(r, v, name);
}

static FILTER(f_capitalize)
{
	struct val s = soft(r, v);

	return s.t == V_ERR ? s : m_capitalize(r, s, a);
}

static FILTER(f_center)
{
	static const char *const names[] = { "width" };
	struct val width, s = soft(r, v);

	if (s.t == V_ERR || bind_args(r, "center", a, names, 0, 1, &width))
		return val_err;
	if (width.t == V_MISSING)
		width = val_int(80);
	struct args one = { &width, NULL, 1, 0 };
	return m_center(r, s, &one);
}

static FILTER(f_default)
{
	static const char *const names[] = { "default_value", "boolean" };
	struct val arg[2];

	if (bind_args(r, "default", a, names, 0, 2, arg))
		return val_err;
	if (v.t == V_UNDEF || (val_truth(arg[1]) && !val_truth(v)))
		return arg[0].t == V_MISSING ? val_str("", 0) : arg[0];
	return v;
}

static FILTER(f_escape)
{
	return bind_args(r, "escape", a, NULL, 0, 0, NULL) ? val_err : val_escape(r, v);
}

static FILTER(f_forceescape)
{
	struct val s = val_text(r, v);

	if (s.t == V_ERR || bind_args(r, "forceescape", a, NULL, 0, 0, NULL))
		return val_err;
	return val_escape(r, s);
}

static FILTER(f_format)
{
	struct val s = soft(r, v);

	if (s.t == V_ERR)
		return s;
	if (a->n_pos && a->n_kw)
		return rt_fail(r, TMPL_RUNTIME, "can't handle positional and keyword arguments at the same time");
	if (!a->n_kw)
		return format_percent(r, s, val_tuple(a->pos, a->n_pos));
	struct dict *d = dict_new(r, a->n_kw);
	for (uint32_t i = 0; d && i < a->n_kw; i++)
		if (!dict_put(r, d, a->kw[i].key, a->kw[i].v))
			return val_err;
	return d ? format_percent(r, s, val_dict(d)) : val_err;
}

static FILTER(f_indent)
{
	static const char *const names[] = { "width", "first", "blank" };
	struct val arg[3], lines;
	char spaces[256];
	struct sb b = SB_INIT;

	if (bind_args(r, "indent", a, names, 0, 3, arg))
		return val_err;
	struct val by = arg[0];
	if (by.t != V_STR) {
		int64_t n = 4;

		if (by.t != V_MISSING && !arg_int(r, "indent", by, &n))
			return val_err;
		if (n > (int64_t)sizeof(spaces))
			return rt_fail(r, TMPL_LIMIT, "an indent of more than %zu", sizeof(spaces));
		n = n < 0 ? 0 : n;
		memset(spaces, ' ', (size_t)n);
		by = val_str(spaces, (size_t)n);
	}
	/* as the reference: a newline is added, which splitlines then takes away */
	struct val s = op_binary(r, OP_ADD, v, val_str("\n", 1));
	if (s.t == V_ERR || !arg_str(r, "indent", s) || (lines = m_splitlines(r, s, &none)).t == V_ERR)
		return val_err;
	for (uint32_t i = 0; i < lines.n; i++) {
		if (i)
			sb_addc(&b, '\n');
		if (i == 0 ? val_truth(arg[1]) : val_truth(arg[2]) || lines.l[i].n > 0)
			sb_add(&b, by.s, by.n);
		sb_add(&b, lines.l[i].s, lines.l[i].n);
		if (b.len > r->max_output) {
			sb_release(&b);
			return rt_fail(r, TMPL_LIMIT, "a text of more than %zu MiB", r->max_output >> 20);
		}
	}
	struct val out = rt_take(r, &b);
	return v.t == V_STR && v.f & STR_MARKUP ? markup(out) : out;
}

static FILTER(f_lower)
{
	struct val s = soft(r, v);

	return s.t == V_ERR ? s : m_lower(r, s, a);
}

static FILTER(f_upper)
{
	struct val s = soft(r, v);

	return s.t == V_ERR ? s : m_upper(r, s, a);
}

static FILTER(f_pprint)
{
	struct val s = val_repr(r, v);

	if (s.t == V_ERR || bind_args(r, "pprint", a, NULL, 0, 0, NULL))
		return val_err;
	if (is_type(v, T_DICTS) || uni_count(s.s, s.n) > 80)
		return rt_fail(r, TMPL_RUNTIME, "pprint of a dict or of more than 80 columns is not supported, use tojson(indent=2)");
	return s;
}

static FILTER(f_replace)
{
	static const char *const names[] = { "old", "new", "count" };
	struct val arg[3], s = val_text(r, v), old, new;
	int64_t max = -1;

	if (s.t == V_ERR || bind_args(r, "replace", a, names, 2, 3, arg))
		return val_err;
	if (arg[2].t != V_MISSING && arg[2].t != V_NONE && !arg_int(r, "replace", arg[2], &max))
		return val_err;
	if ((old = val_text(r, arg[0])).t == V_ERR || (new = val_text(r, arg[1])).t == V_ERR)
		return val_err;
	return str_replace(r, s, old, new, max);
}

static FILTER(f_safe)
{
	struct val s = soft(r, v);

	return bind_args(r, "safe", a, NULL, 0, 0, NULL) ? val_err : s.t == V_ERR ? s : markup(s);
}

static FILTER(f_string)
{
	return bind_args(r, "string", a, NULL, 0, 0, NULL) ? val_err : soft(r, v);
}

/* Words begin after white space and after -({[< */
static FILTER(f_title)
{
	struct val s = soft(r, v);
	struct sb b = SB_INIT;

	if (s.t == V_ERR || bind_args(r, "title", a, NULL, 0, 0, NULL) || rt_steps(r, 2 * (uint64_t)s.n))
		return val_err;
	for (const char *p = s.s, *end = p + s.n; p < end;) {
		const char *q = p, *w;
		bool sep = false;

		for (w = p; w < end; w = q) {
			uint32_t c = uni_next(&q, end);

			sep = uni_is_space(c) || (c < 0x80 && strchr("-({[<", (int)c) && c);
			if (sep)
				break;
		}
		if (w > p) { /* a word: its first character, then the rest as a string of its own */
			const char *first = p;

			uni_next(&first, w);
			uni_case_add(&b, p, (size_t)(first - p), UNI_UPPER);
			uni_case_add(&b, first, (size_t)(w - first), UNI_LOWER);
		}
		if (w >= end)
			break;
		sb_add(&b, w, (size_t)(q - w));
		p = q;
	}
	struct val out = rt_take(r, &b);
	out.f = s.f;
	return out;
}

static FILTER(f_trim)
{
	static const char *const names[] = { "chars" };
	struct val chars, s = soft(r, v);

	if (s.t == V_ERR || bind_args(r, "trim", a, names, 0, 1, &chars))
		return val_err;
	struct args one = { &chars, NULL, chars.t != V_MISSING, 0 };
	return m_strip(r, s, &one);
}

static FILTER(f_tojson)
{
	return json_dump(r, v, a);
}

static FILTER(f_refused)
{
	(void)v;
	(void)a;
	return rt_fail(r, TMPL_RUNTIME, "the filters random and urlize are not supported in chat templates");
}

/* sorted by name */
static const struct builtin filters[] = {
	{ "abs", f_abs }, { "attr", f_attr }, { "batch", f_batch }, { "capitalize", f_capitalize }, { "center", f_center },
	{ "count", f_length }, { "d", f_default }, { "default", f_default }, { "dictsort", f_dictsort }, { "e", f_escape },
	{ "escape", f_escape }, { "filesizeformat", f_filesizeformat }, { "first", f_first }, { "float", f_float },
	{ "forceescape", f_forceescape }, { "format", f_format }, { "groupby", f_groupby }, { "indent", f_indent }, { "int", f_int },
	{ "items", f_items }, { "join", f_join }, { "last", f_last }, { "length", f_length }, { "list", f_list }, { "lower", f_lower },
	{ "map", f_map }, { "max", f_max }, { "min", f_min }, { "pprint", f_pprint }, { "random", f_refused }, { "reject", f_reject },
	{ "rejectattr", f_rejectattr }, { "replace", f_replace }, { "reverse", f_reverse }, { "round", f_round }, { "safe", f_safe },
	{ "select", f_select }, { "selectattr", f_selectattr }, { "slice", f_slice }, { "sort", f_sort }, { "string", f_string },
	{ "striptags", f_striptags }, { "sum", f_sum }, { "title", f_title }, { "tojson", f_tojson }, { "trim", f_trim },
	{ "truncate", f_truncate }, { "unique", f_unique }, { "upper", f_upper }, { "urlencode", f_urlencode }, { "urlize", f_refused },
	{ "wordcount", f_wordcount }, { "wordwrap", f_wordwrap }, { "xmlattr", f_xmlattr },
};

const struct builtin *filter_find(const char *s, size_t n)
{
	for (size_t i = 0; i < sizeof(filters) / sizeof(filters[0]); i++)
		if (strlen(filters[i].name) == n && !memcmp(filters[i].name, s, n))
			return &filters[i];
	return NULL;
}
