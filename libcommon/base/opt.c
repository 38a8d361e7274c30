#include "base/opt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/num.h"
#include "base/opt_priv.h"
#include "base/tool.h"
#include "base/xalloc.h"

struct opt_common opt_common;

const struct opt_builtin opt_builtins[] = {
	{ "config", 0, "FILE", "read options from FILE: \"name = value\" lines or one JSON object; the command line wins" },
	{ "print-config", 0, NULL, "print the effective options as such a file, and end" },
	{ "completion", 0, "SHELL", "print a completion script for bash, zsh or fish, and end" },
	{ "help", 'h', NULL, "print this, and end" },
	{ "version", 'V', NULL, "print the version, and end" },
	{ NULL, 0, NULL, NULL },
};

bool opt_has_value(enum opt_kind k)
{
	return k > OPT_FLAG;
}

struct opt *opt_find(const struct opt_spec *spec, const char *name, size_t n)
{
	for (struct opt *o = spec->opts; o->kind != OPT_END; o++)
		if (o->name && strlen(o->name) == n && !memcmp(o->name, name, n))
			return o;
	return NULL;
}

static struct opt *find_letter(const struct opt_spec *spec, char c)
{
	for (struct opt *o = spec->opts; o->kind != OPT_END; o++)
		if (o->kind != OPT_SECTION && o->letter == c)
			return o;
	return NULL;
}

static const struct opt_builtin *find_builtin(const char *name, size_t n)
{
	for (const struct opt_builtin *b = opt_builtins; b->name; b++)
		if (strlen(b->name) == n && !memcmp(b->name, name, n))
			return b;
	return NULL;
}

/* --- unknown options --- */

static size_t min3(size_t a, size_t b, size_t c)
{
	size_t m = a < b ? a : b;

	return m < c ? m : c;
}

/* Edit distance; names over 40 bytes are never near. */
static size_t distance(const char *a, size_t n, const char *b)
{
	enum { LONGEST = 40 };
	size_t m = strlen(b), row[LONGEST + 1];

	if (n > LONGEST || m > LONGEST)
		return LONGEST;
	for (size_t j = 0; j <= m; j++)
		row[j] = j;
	for (size_t i = 1; i <= n; i++) {
		size_t diag = row[0];

		row[0] = i;
		for (size_t j = 1; j <= m; j++) {
			size_t up = row[j];

			row[j] = min3(up + 1, row[j - 1] + 1, diag + (a[i - 1] != b[j - 1]));
			diag = up;
		}
	}
	return row[m];
}

int opt_unknown(const struct opt_spec *spec, const char *name, size_t n, struct err *e)
{
	const char *best = NULL;
	size_t best_d = (n + 1) / 3 + 1, d; /* no more than a third of it is mistyped */

	for (const struct opt *o = spec->opts; o->kind != OPT_END; o++)
		if (o->name && (d = distance(name, n, o->name)) < best_d)
			best_d = d, best = o->name;
	for (const struct opt_builtin *b = opt_builtins; b->name; b++)
		if ((d = distance(name, n, b->name)) < best_d)
			best_d = d, best = b->name;
	if (best)
		return err_set(e, LP_USAGE, "unknown option '--%.*s' (did you mean '--%s'?; see --help)", (int)n, name, best);
	return err_set(e, LP_USAGE, "unknown option '--%.*s' (see --help)", (int)n, name);
}

/* --- values --- */

static bool parse_bool(const char *s, bool *out)
{
	static const char *const words[] = { "false", "true", "no", "yes", "off", "on", "0", "1" };

	for (size_t i = 0; i < 8; i++)
		if (!strcmp(s, words[i])) {
			*out = i & 1;
			return true;
		}
	return false;
}

/* The choice that s names, in capitals or not, as the table spells it; NULL for
 * none. It lives as long as the process, as option values do. */
static const char *find_choice(const char *choices, const char *s)
{
	size_t n = strlen(s), k;

	for (;; choices += k + 1) {
		k = strcspn(choices, "|");
		if (k == n && !strncasecmp(choices, s, n))
			return memcmp(choices, s, n) ? xmemdup0(choices, n) : s;
		if (!choices[k])
			return NULL;
	}
}

bool opt_in_limits(const struct opt *o, double v)
{
	return (o->min == 0 && o->max == 0) || (v >= o->min && v <= o->max);
}

static int bad_value(const struct opt *o, const char *text, const char *what, struct err *e)
{
	char lo[32], hi[32];

	if (o->min == 0 && o->max == 0)
		return err_set(e, LP_USAGE, "--%s needs %s, not '%s'", o->name, what, text);
	if (o->kind == OPT_INT) {
		snprintf(lo, sizeof(lo), "%.0f", o->min);
		snprintf(hi, sizeof(hi), "%.0f", o->max);
	} else {
		fmt_f64(o->min, lo);
		fmt_f64(o->max, hi);
	}
	return err_set(e, LP_USAGE, "--%s needs %s from %s to %s, not '%s'", o->name, what, lo, hi, text);
}

/* Items of a weaker source (default, configuration) make way for the first
 * of a stronger one. */
static void list_set(struct opt *o, const char *text, enum opt_from from)
{
	struct opt_list *l = o->value;

	if (from > o->from)
		l->n = 0;
	opt_list_add(l, text);
}

int opt_set(struct opt *o, const char *text, enum opt_from from, struct err *e)
{
	double f;
	int64_t i;
	const char *choice;

	switch (o->kind) {
	case OPT_FLAG:
		if (!text)
			*(bool *)o->value = true;
		else if (!parse_bool(text, o->value))
			return err_set(e, LP_USAGE, "--%s takes true or false, not '%s'", o->name, text);
		break;
	case OPT_STR:
		*(const char **)o->value = text;
		break;
	case OPT_INT:
		if (!parse_i64(text, &i) || !opt_in_limits(o, (double)i))
			return bad_value(o, text, "a whole number", e);
		*(int64_t *)o->value = i;
		break;
	case OPT_F64:
		if (!parse_f64(text, &f) || !opt_in_limits(o, f))
			return bad_value(o, text, "a number", e);
		*(double *)o->value = f;
		break;
	case OPT_SIZE:
		if (!parse_size(text, o->value))
			return err_set(e, LP_USAGE, "--%s needs a size such as 512M or 8G, not '%s'", o->name, text);
		break;
	case OPT_CHOICE:
		choice = find_choice(o->choices, text);
		if (!choice)
			return err_set(e, LP_USAGE, "--%s needs one of %s, not '%s'", o->name, o->choices, text);
		*(const char **)o->value = choice;
		break;
	case OPT_LIST:
		list_set(o, text, from);
		break;
	case OPT_END:
	case OPT_SECTION:
		break;
	}
	o->from = (unsigned char)from;
	return 0;
}

void opt_list_add(struct opt_list *l, const char *item)
{
	/* a table's default list may be static: cap 0 says that items are not ours */
	if (!l->cap && l->n) {
		const char **copy = xcalloc(l->n + 8, sizeof(*copy));

		memcpy(copy, l->items, l->n * sizeof(*copy));
		l->items = copy;
		l->cap = l->n + 8;
	} else if (!l->cap) {
		l->items = NULL;
	}
	l->items = xgrow(l->items, &l->cap, l->n + 1, sizeof(*l->items));
	l->items[l->n++] = item;
}

void opt_split(const char *csv, struct opt_list *l)
{
	while (*csv) {
		size_t n = strcspn(csv, ",");

		if (n)
			opt_list_add(l, xmemdup0(csv, n));
		csv += n + (csv[n] == ',');
	}
}

bool opt_given(const struct opt_spec *spec, const char *name)
{
	const struct opt *o = opt_find(spec, name, strlen(name));

	return o && o->from != OPT_DEFAULT;
}

/* --- the command line --- */

/* The line is walked twice: first for --help, --config and mistakes in names,
 * then, with the configuration read, for the values. */
struct walk {
	const struct opt_spec *spec;
	int argc;
	char **argv;
	int at;           /* argument being looked at */
	int n_left;       /* operands kept at argv[1..] (second time only) */
	bool second;
	bool print_config;
};

static int emit(struct sb *text)
{
	bool bad = fwrite(text->s, 1, text->len, stdout) != text->len;

	sb_release(text);
	exit(tool_done(bad ? LP_IO : LP_OK));
}

static int use_builtin(struct walk *w, const struct opt_builtin *b, const char *value, struct err *e)
{
	struct sb text = SB_INIT;

	if (!strcmp(b->name, "print-config")) {
		w->print_config = true;
		return 0;
	}
	if (w->second)
		return 0;
	if (!strcmp(b->name, "config"))
		return opt_load_config(w->spec, value, e);
	if (!strcmp(b->name, "help"))
		opt_help_text(w->spec, &text);
	else if (!strcmp(b->name, "version"))
		sb_addf(&text, "%s %s (lorapipe)\n", w->spec->tool, lp_version);
	else if (opt_completion(w->spec, value, &text, e))
		return -1;
	return emit(&text);
}

static int next_value(struct walk *w, const char *name, const char **value, struct err *e)
{
	if (w->at + 1 >= w->argc)
		return err_set(e, LP_USAGE, "--%s needs a value (see --help)", name);
	*value = w->argv[++w->at];
	return 0;
}

static int long_option(struct walk *w, const char *text, struct err *e)
{
	size_t n = strcspn(text, "=");
	const char *value = text[n] ? text + n + 1 : NULL;
	const struct opt_builtin *b;
	struct opt *o = opt_find(w->spec, text, n);

	if (!o && (b = find_builtin(text, n))) {
		if (!b->arg && value)
			return err_set(e, LP_USAGE, "--%s takes no value", b->name);
		if (b->arg && !value && next_value(w, b->name, &value, e))
			return -1;
		return use_builtin(w, b, value, e);
	}
	if (!o && n > 3 && !memcmp(text, "no-", 3)) {
		o = opt_find(w->spec, text + 3, n - 3);
		if (!o || o->kind != OPT_FLAG)
			return opt_unknown(w->spec, text, n, e);
		if (value)
			return err_set(e, LP_USAGE, "--no-%s takes no value", o->name);
		return w->second ? opt_set(o, "false", OPT_CMDLINE, e) : 0;
	}
	if (!o)
		return opt_unknown(w->spec, text, n, e);
	if (!value && opt_has_value(o->kind) && next_value(w, o->name, &value, e))
		return -1;
	return w->second ? opt_set(o, value, OPT_CMDLINE, e) : 0;
}

/* "-qv", "-o FILE", "-oFILE". */
static int letters(struct walk *w, const char *s, struct err *e)
{
	for (; *s; s++) {
		struct opt *o = find_letter(w->spec, *s);
		const char *value = NULL;

		if (!o) {
			const struct opt_builtin *b = opt_builtins;

			while (b->name && b->letter != *s)
				b++;
			if (!b->name)
				return err_set(e, LP_USAGE, "unknown option '-%c' (see --help)", *s);
			if (use_builtin(w, b, NULL, e))
				return -1;
			continue;
		}
		if (opt_has_value(o->kind)) {
			if (s[1])
				value = s + 1;
			else if (next_value(w, o->name, &value, e))
				return -1;
		}
		if (w->second && opt_set(o, value, OPT_CMDLINE, e))
			return -1;
		if (value)
			break;
	}
	return 0;
}

static int walk_args(struct walk *w, struct err *e)
{
	bool ended = false;

	w->n_left = 1;
	for (w->at = 1; w->at < w->argc; w->at++) {
		char *s = w->argv[w->at];

		if (ended || s[0] != '-' || !s[1]) {
			if (w->second)
				w->argv[w->n_left++] = s;
		} else if (s[1] != '-') {
			if (letters(w, s + 1, e))
				return -1;
		} else if (!s[2]) {
			ended = true;
		} else if (long_option(w, s + 2, e)) {
			return -1;
		}
	}
	return 0;
}

int opt_parse(const struct opt_spec *spec, int *argc, char **argv, struct err *e)
{
	struct walk w = { .spec = spec, .argc = *argc, .argv = argv };
	struct sb text = SB_INIT;

	for (struct opt *o = spec->opts; o->kind != OPT_END; o++)
		o->from = OPT_DEFAULT;
	if (walk_args(&w, e))
		return -1;
	w.second = true;
	if (walk_args(&w, e))
		return -1;
	if (*argc > 0) {
		*argc = w.n_left;
		argv[w.n_left] = NULL;
	}
	if (w.print_config) {
		opt_config_text(spec, &text);
		return emit(&text);
	}
	return 0;
}
