/* --help and --completion, from the option table. */
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "base/opt_priv.h"
#include "base/xalloc.h"

enum { HELP_COL = 26, WIDTH = 79 };

/* How much of text goes on this line: a word, or of a list of choices that is
 * longer than any line what fits, up to a '|'. */
static size_t piece(const char *text, size_t room, size_t line)
{
	size_t n = strcspn(text, " "), k;

	if (n <= line)
		return n;
	for (k = room < n ? room : n; k > 0 && text[k - 1] != '|'; k--)
		;
	return k ? k : n;
}

/* Words from column col on, wrapped at WIDTH, further lines from column indent. */
static void wrap(struct sb *out, const char *text, size_t col, size_t indent)
{
	while (*text) {
		size_t n = piece(text, col < WIDTH ? WIDTH - col : 0, WIDTH - indent);

		if (col + n > WIDTH && col > indent) {
			if (out->s[out->len - 1] == ' ')
				out->s[--out->len] = 0;
			sb_addf(out, "\n%*s", (int)indent, "");
			col = indent;
			continue;
		}
		sb_add(out, text, n);
		col += n;
		text += n;
		if (*text == ' ') {
			sb_addc(out, ' ');
			col++;
			text++;
		}
	}
	while (out->len && out->s[out->len - 1] == ' ')
		out->s[--out->len] = 0;
	sb_addc(out, '\n');
}

/* The table's notes keep their own lines, but none runs over the screen. */
static void add_notes(struct sb *out, const char *notes)
{
	sb_addc(out, '\n');
	while (*notes) {
		size_t n = strcspn(notes, "\n"), indent = strspn(notes, " ");
		char *line = xmemdup0(notes, n);

		if (n <= WIDTH)
			sb_addf(out, "%s\n", line);
		else
			wrap(out, line, 0, indent > 40 ? 0 : indent);
		free(line);
		notes += n + (notes[n] == '\n');
	}
}

static const char *arg_name(const struct opt *o)
{
	if (o->arg)
		return o->arg;
	switch (o->kind) {
	case OPT_INT: return "N";
	case OPT_F64: return "X";
	case OPT_SIZE: return "SIZE";
	case OPT_CHOICE: return o->choices;
	case OPT_LIST:
	case OPT_STR: return "TEXT";
	default: return NULL;
	}
}

static void row(struct sb *out, char letter, const char *name, const char *arg, const char *help)
{
	size_t start = out->len, col;

	if (letter)
		sb_addf(out, "  -%c, --%s", letter, name);
	else
		sb_addf(out, "      --%s", name);
	if (arg)
		sb_addf(out, " %s", arg);
	col = out->len - start;
	if (col + 2 > HELP_COL) {
		sb_addc(out, '\n');
		col = 0;
	}
	sb_addf(out, "%*s", (int)(HELP_COL - col), "");
	wrap(out, help, HELP_COL, HELP_COL);
}

static void add_default(const struct opt *o, struct sb *help)
{
	struct sb v = SB_INIT;

	if (o->kind == OPT_FLAG) {
		if (*(const bool *)o->value)
			sb_addf(help, " [default: on; --no-%s]", o->name);
	} else if (o->kind == OPT_LIST) {
		for (size_t i = 0; opt_value_text(o, i, &v); i++)
			sb_addc(&v, ' ');
		if (v.len)
			sb_addf(help, " [default: %.*s]", (int)v.len - 1, v.s);
		else
			sb_adds(help, " (may be repeated)");
	} else if (opt_value_text(o, 0, &v) && v.len) {
		sb_addf(help, " [default: %s]", v.s);
	}
	sb_release(&v);
}

static void option_row(const struct opt *o, struct sb *out)
{
	struct sb help = SB_INIT;

	sb_adds(&help, o->help ? o->help : "");
	if (o->kind == OPT_CHOICE && o->arg)
		sb_addf(&help, ": %s", o->choices);
	add_default(o, &help);
	row(out, o->letter, o->name, arg_name(o), sb_str(&help));
	sb_release(&help);
}

static void usage(const struct opt_spec *spec, struct sb *out)
{
	const char *s = spec->synopsis;

	for (int first = 1;; first = 0) {
		size_t n = strcspn(s, "\n");

		sb_addf(out, "%s %s%s%.*s\n", first ? "usage:" : "      ", spec->tool, n ? " " : "", (int)n, s);
		if (!s[n])
			return;
		s += n + 1;
	}
}

void opt_help_text(const struct opt_spec *spec, struct sb *out)
{
	bool heading = false;

	usage(spec, out);
	sb_addf(out, "\n%s\n", spec->summary);
	for (const struct opt *o = spec->opts; o->kind != OPT_END; o++) {
		if (o->kind == OPT_SECTION) {
			sb_addf(out, "\n%s:\n", o->help);
			heading = true;
			continue;
		}
		if (!heading)
			sb_adds(out, "\nOptions:\n");
		heading = true;
		option_row(o, out);
	}
	if (!heading)
		sb_adds(out, "\nOptions:\n");
	for (const struct opt_builtin *b = opt_builtins; b->name; b++)
		row(out, b->letter, b->name, b->arg, b->help);
	if (spec->notes)
		add_notes(out, spec->notes);
	sb_adds(out, "\nFlags take --no-NAME. Exit status: 0 done, 1 the answer is no, 2 usage,\n"
		     "3 bad data, 4 I/O, 5 device or memory, 6 training diverged.\n");
}

/* --- completion --- */

/* A shell function name: everything but letters and digits becomes '_'. */
static void identifier(struct sb *out, const char *s)
{
	for (; *s; s++) {
		bool plain = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9');

		sb_addc(out, plain ? *s : '_');
	}
}

/* "a|b" as "a b". */
static void choice_words(struct sb *out, const char *choices)
{
	for (; *choices; choices++)
		sb_addc(out, *choices == '|' ? ' ' : *choices);
}

/* Inside '...' of a shell; zsh and fish also dislike a few others. */
static void quoted(struct sb *out, const char *s, const char *special)
{
	for (; *s; s++) {
		if (*s == '\'')
			sb_adds(out, "'\\''");
		else if (strchr(special, *s))
			sb_addf(out, "\\%c", *s);
		else
			sb_addc(out, *s);
	}
}

static void bash_script(const struct opt_spec *spec, const char *fn, struct sb *out)
{
	sb_addf(out, "# bash completion for %s\n_%s()\n{\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
		     "\tCOMPREPLY=()\n\tcase $prev in\n", spec->tool, fn);
	for (const struct opt *o = spec->opts; o->kind != OPT_END; o++) {
		if (o->kind != OPT_CHOICE)
			continue;
		sb_addf(out, "\t--%s) COMPREPLY=($(compgen -W '", o->name);
		choice_words(out, o->choices);
		sb_adds(out, "' -- \"$cur\")); return ;;\n");
	}
	sb_adds(out, "\t--completion) COMPREPLY=($(compgen -W 'bash zsh fish' -- \"$cur\")); return ;;\n\tesac\n"
		     "\tif [[ $cur == -* ]]; then\n\t\tCOMPREPLY=($(compgen -W '");
	for (const struct opt *o = spec->opts; o->kind != OPT_END; o++)
		if (o->kind != OPT_SECTION)
			sb_addf(out, "--%s ", o->name);
	for (const struct opt_builtin *b = opt_builtins; b->name; b++)
		sb_addf(out, "--%s%s", b->name, b[1].name ? " " : "");
	sb_addf(out, "' -- \"$cur\"))\n\telse\n\t\tCOMPREPLY=($(compgen -f -- \"$cur\"))\n\tfi\n}\ncomplete -o filenames -F _%s %s\n", fn, spec->tool);
}

static void zsh_row(struct sb *out, const char *name, const char *help, const char *arg, const char *choices, bool many)
{
	sb_addf(out, " \\\n\t'%s--%s%s[", many ? "*" : "", name, arg ? "=" : "");
	quoted(out, help, "[]:");
	sb_addc(out, ']');
	if (choices) {
		sb_adds(out, ":value:(");
		choice_words(out, choices);
		sb_addc(out, ')');
	} else if (arg) {
		sb_adds(out, ":");
		quoted(out, arg, "[]:");
		sb_adds(out, ":_files");
	}
	sb_addc(out, '\'');
}

static void zsh_script(const struct opt_spec *spec, struct sb *out)
{
	sb_addf(out, "#compdef %s\n_arguments", spec->tool);
	for (const struct opt *o = spec->opts; o->kind != OPT_END; o++)
		if (o->kind != OPT_SECTION)
			zsh_row(out, o->name, o->help ? o->help : "", arg_name(o), o->choices, o->kind == OPT_LIST);
	for (const struct opt_builtin *b = opt_builtins; b->name; b++)
		zsh_row(out, b->name, b->help, b->arg, strcmp(b->name, "completion") ? NULL : "bash|zsh|fish", false);
	sb_adds(out, " \\\n\t'*:file:_files'\n");
}

static void fish_row(struct sb *out, const char *tool, char letter, const char *name, const char *help, bool arg, const char *choices)
{
	sb_addf(out, "complete -c %s -l %s", tool, name);
	if (letter)
		sb_addf(out, " -s %c", letter);
	if (choices) {
		sb_adds(out, " -x -a '");
		choice_words(out, choices);
		sb_addc(out, '\'');
	} else if (arg) {
		sb_adds(out, " -r");
	}
	sb_adds(out, " -d '");
	for (; *help; help++) { /* fish escapes within '...' by a backslash */
		if (*help == '\'' || *help == '\\')
			sb_addc(out, '\\');
		sb_addc(out, *help);
	}
	sb_adds(out, "'\n");
}

static void fish_script(const struct opt_spec *spec, struct sb *out)
{
	for (const struct opt *o = spec->opts; o->kind != OPT_END; o++)
		if (o->kind != OPT_SECTION)
			fish_row(out, spec->tool, o->letter, o->name, o->help ? o->help : "", opt_has_value(o->kind), o->choices);
	for (const struct opt_builtin *b = opt_builtins; b->name; b++)
		fish_row(out, spec->tool, b->letter, b->name, b->help, b->arg, strcmp(b->name, "completion") ? NULL : "bash|zsh|fish");
}

int opt_completion(const struct opt_spec *spec, const char *shell, struct sb *out, struct err *e)
{
	struct sb fn = SB_INIT;
	int bad = 0;

	identifier(&fn, spec->tool);
	if (!strcmp(shell, "bash"))
		bash_script(spec, sb_str(&fn), out);
	else if (!strcmp(shell, "zsh"))
		zsh_script(spec, out);
	else if (!strcmp(shell, "fish"))
		fish_script(spec, out);
	else
		bad = err_set(e, LP_USAGE, "--completion needs one of bash|zsh|fish, not '%s'", shell);
	sb_release(&fn);
	return bad;
}
