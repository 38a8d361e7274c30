/* Option values as text: --config files in, --print-config and the lineage's
 * JSON out. A configuration is "name = value" lines or one flat JSON object;
 * the latter is read here, by a scanner for just that, because json/ is a
 * layer above. */
#include <stdlib.h>
#include <string.h>

#include "base/in.h"
#include "base/num.h"
#include "base/opt_priv.h"
#include "base/xalloc.h"

enum { CONFIG_MAX = 1 << 20 };

/* 8G rather than 8589934592, when it is exact. */
static void size_text(uint64_t v, struct sb *out)
{
	const char *unit = "KMGT";

	if (!v || v % 1024) {
		sb_addf(out, "%llu", (unsigned long long)v);
		return;
	}
	for (v /= 1024; v % 1024 == 0 && unit[1]; v /= 1024)
		unit++;
	sb_addf(out, "%llu%c", (unsigned long long)v, *unit);
}

bool opt_value_text(const struct opt *o, size_t i, struct sb *out)
{
	char buf[32];
	const char *s = NULL;

	if (o->kind == OPT_LIST) {
		const struct opt_list *l = o->value;

		if (i >= l->n)
			return false;
		s = l->items[i];
	} else if (i) {
		return false;
	}
	switch (o->kind) {
	case OPT_FLAG:
		s = *(const bool *)o->value ? "true" : "false";
		break;
	case OPT_STR:
	case OPT_CHOICE:
		s = *(const char *const *)o->value;
		break;
	case OPT_INT:
		if (!opt_in_limits(o, (double)*(const int64_t *)o->value))
			return false;
		sb_addf(out, "%lld", (long long)*(const int64_t *)o->value);
		return true;
	case OPT_SIZE:
		size_text(*(const uint64_t *)o->value, out);
		return true;
	case OPT_F64:
		if (!opt_in_limits(o, *(const double *)o->value))
			return false;
		sb_add(out, buf, fmt_f64(*(const double *)o->value, buf));
		return true;
	default:
		break;
	}
	if (!s)
		return false;
	sb_adds(out, s);
	return true;
}

static void json_string(struct sb *out, const char *s)
{
	sb_addc(out, '"');
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\')
			sb_addf(out, "\\%c", c);
		else if (c == '\n')
			sb_adds(out, "\\n");
		else if (c == '\t')
			sb_adds(out, "\\t");
		else if (c < 0x20)
			sb_addf(out, "\\u%04x", c);
		else
			sb_addc(out, *s);
	}
	sb_addc(out, '"');
}

static bool is_text(enum opt_kind k)
{
	return k == OPT_STR || k == OPT_CHOICE || k == OPT_LIST;
}

/* --- out --- */

/* Bare when reading it back gives the same. */
static void config_value(struct sb *out, const char *s)
{
	size_t n = strlen(s);
	bool bare = n && !strpbrk(s, "\"#\\\n\t\r") && s[0] != ' ' && s[n - 1] != ' ';

	if (bare)
		sb_adds(out, s);
	else
		json_string(out, s);
}

void opt_config_text(const struct opt_spec *spec, struct sb *out)
{
	struct sb v = SB_INIT;

	for (const struct opt *o = spec->opts; o->kind != OPT_END; o++) {
		size_t i;

		if (o->kind == OPT_SECTION) {
			sb_addf(out, "%s# %s\n", out->len ? "\n" : "", o->help);
			continue;
		}
		for (i = 0; sb_reset(&v), opt_value_text(o, i, &v); i++) {
			sb_addf(out, "%s = ", o->name);
			config_value(out, sb_str(&v));
			sb_addc(out, '\n');
		}
		if (!i)
			sb_addf(out, "# %s =\n", o->name);
	}
	sb_release(&v);
}

void opt_json(const struct opt_spec *spec, struct sb *out)
{
	struct sb v = SB_INIT;
	bool comma = false;

	sb_addc(out, '{');
	for (const struct opt *o = spec->opts; o->kind != OPT_END; o++) {
		bool list = o->kind == OPT_LIST;

		if (o->kind == OPT_SECTION || o->unrecorded)
			continue;
		sb_adds(out, comma ? "," : "");
		comma = true;
		json_string(out, o->name);
		sb_adds(out, list ? ":[" : ":");
		for (size_t i = 0;; i++) {
			sb_reset(&v);
			if (!opt_value_text(o, i, &v)) {
				sb_adds(out, i || list ? "" : "null");
				break;
			}
			sb_adds(out, i ? "," : "");
			if (o->kind == OPT_SIZE)
				sb_addf(out, "%llu", (unsigned long long)*(const uint64_t *)o->value);
			else if (is_text(o->kind))
				json_string(out, sb_str(&v));
			else
				sb_add(out, v.s, v.len);
			if (!list)
				break;
		}
		if (list)
			sb_addc(out, ']');
	}
	sb_addc(out, '}');
	sb_release(&v);
}

/* --- in --- */

struct conf {
	const struct opt_spec *spec;
	const char *path;
	const char *s; /* what is left to read */
	uint64_t line;
	struct err *e;
};

static int conf_bad(struct conf *c, const char *what)
{
	return err_line(c->e, LP_USAGE, c->path, c->line, "%s", what);
}

static void skip_space(struct conf *c, const char *set)
{
	for (; *c->s && strchr(set, *c->s); c->s++)
		c->line += *c->s == '\n';
}

static int hex4(const char *s, unsigned *out)
{
	unsigned v = 0;

	for (int i = 0; i < 4; i++) {
		const char *digits = "0123456789abcdef", *d = s[i] ? strchr(digits, s[i] >= 'A' && s[i] <= 'F' ? s[i] | 0x20 : s[i]) : NULL;

		if (!d)
			return -1;
		v = v * 16 + (unsigned)(d - digits);
	}
	*out = v;
	return 0;
}

static void add_utf8(struct sb *out, unsigned c)
{
	if (c < 0x80) {
		sb_addc(out, (char)c);
	} else if (c < 0x800) {
		sb_addc(out, (char)(0xc0 | c >> 6));
		sb_addc(out, (char)(0x80 | (c & 63)));
	} else if (c < 0x10000) {
		sb_addc(out, (char)(0xe0 | c >> 12));
		sb_addc(out, (char)(0x80 | (c >> 6 & 63)));
		sb_addc(out, (char)(0x80 | (c & 63)));
	} else {
		sb_addc(out, (char)(0xf0 | c >> 18));
		sb_addc(out, (char)(0x80 | (c >> 12 & 63)));
		sb_addc(out, (char)(0x80 | (c >> 6 & 63)));
		sb_addc(out, (char)(0x80 | (c & 63)));
	}
}

/* c->s is behind \u. */
static int unicode_escape(struct conf *c, struct sb *out)
{
	unsigned u, low;

	if (hex4(c->s, &u) || !u || (u >= 0xdc00 && u < 0xe000))
		return conf_bad(c, "bad \\u escape");
	c->s += 4;
	if (u >= 0xd800 && u < 0xdc00) {
		if (c->s[0] != '\\' || c->s[1] != 'u' || hex4(c->s + 2, &low) || low < 0xdc00 || low > 0xdfff)
			return conf_bad(c, "bad \\u escape");
		u = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
		c->s += 6;
	}
	add_utf8(out, u);
	return 0;
}

/* "..." as in JSON; the result is allocated and lives as long as the process
 * (option values point to it). */
static int string(struct conf *c, char **out)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	struct sb b = SB_INIT;

	for (c->s++; *c->s != '"'; ) {
		const char *k;

		if (!*c->s || *c->s == '\n') {
			sb_release(&b);
			return conf_bad(c, "no closing '\"'");
		}
		if (*c->s != '\\') {
			sb_addc(&b, *c->s++);
			continue;
		}
		c->s++;
		if (*c->s == 'u') {
			c->s++;
			if (!unicode_escape(c, &b))
				continue;
		} else if (*c->s && (k = strchr(from, *c->s))) {
			sb_addc(&b, to[k - from]);
			c->s++;
			continue;
		} else {
			conf_bad(c, "bad escape");
		}
		sb_release(&b);
		return -1;
	}
	c->s++;
	*out = sb_detach(&b);
	return 0;
}

/* Takes value: text options point to it from now on. */
static int assign_take(struct conf *c, const char *name, char *value)
{
	struct opt *o = opt_find(c->spec, name, strlen(name));
	int bad;

	err_where(c->e, c->path, c->line);
	bad = o ? opt_set(o, value, OPT_CONFIG, c->e) : opt_unknown(c->spec, name, strlen(name), c->e);
	if (bad || !is_text(o->kind))
		free(value);
	if (!bad) {
		c->e->line = 0;
		c->e->path[0] = 0;
	}
	return bad;
}

static int bare_word(struct conf *c, const char *end_set, char **out)
{
	size_t n = strcspn(c->s, end_set);

	while (n && (c->s[n - 1] == ' ' || c->s[n - 1] == '\t' || c->s[n - 1] == '\r'))
		n--;
	if (!n)
		return conf_bad(c, "a value is missing");
	*out = xmemdup0(c->s, n);
	c->s += n;
	return 0;
}

static int scalar(struct conf *c, const char *name)
{
	char *v = NULL;

	if (*c->s == '"' ? string(c, &v) : bare_word(c, ",]} \n\t\r", &v))
		return -1;
	if (!strcmp(v, "null")) { /* the default stays */
		free(v);
		return 0;
	}
	return assign_take(c, name, v);
}

static int json_pair(struct conf *c)
{
	static const char space[] = " \t\r\n";
	char *name;
	int bad = 0;

	if (*c->s != '"')
		return conf_bad(c, "expected \"name\"");
	if (string(c, &name))
		return -1;
	skip_space(c, space);
	if (*c->s != ':') {
		free(name);
		return conf_bad(c, "expected ':'");
	}
	c->s++;
	skip_space(c, space);
	if (*c->s != '[') {
		bad = scalar(c, name);
		free(name);
		return bad;
	}
	do {
		c->s++;
		skip_space(c, space);
		if (*c->s == ']')
			break;
		bad = scalar(c, name);
		skip_space(c, space);
	} while (!bad && *c->s == ',');
	free(name);
	if (bad || *c->s != ']')
		return bad ? bad : conf_bad(c, "expected ',' or ']'");
	c->s++;
	return 0;
}

static int json_config(struct conf *c)
{
	static const char space[] = " \t\r\n";

	do {
		c->s++;
		skip_space(c, space);
		if (*c->s == '}')
			break;
		if (json_pair(c))
			return -1;
		skip_space(c, space);
	} while (*c->s == ',');
	if (*c->s != '}')
		return conf_bad(c, "expected ',' or '}'");
	c->s++;
	skip_space(c, space);
	return *c->s ? conf_bad(c, "text behind the object") : 0;
}

static int line_config(struct conf *c)
{
	char *name = NULL, *value = NULL;
	size_t n = strcspn(c->s, " \t=\r\n");
	int bad = 0;

	name = xmemdup0(c->s, n);
	c->s += n;
	skip_space(c, " \t");
	if (!n || *c->s != '=') {
		free(name);
		return conf_bad(c, "expected \"name = value\"");
	}
	c->s++;
	skip_space(c, " \t");
	bad = *c->s == '"' ? string(c, &value) : bare_word(c, "#\n", &value);
	if (!bad)
		bad = assign_take(c, name, value);
	free(name);
	if (bad)
		return -1;
	skip_space(c, " \t\r");
	if (*c->s && *c->s != '\n' && *c->s != '#')
		return conf_bad(c, "text behind the value");
	return 0;
}

int opt_load_config(const struct opt_spec *spec, const char *path, struct err *e)
{
	size_t len;
	char *text = in_slurp(path, CONFIG_MAX, &len, e);
	struct conf c = { .spec = spec, .path = strcmp(path, "-") ? path : "(stdin)", .s = text, .line = 1, .e = e };
	int bad = 0;

	if (!text)
		return -1;
	if (strlen(text) != len) {
		free(text);
		return err_off(e, LP_USAGE, path, -1, "is not a text file");
	}
	skip_space(&c, " \t\r\n");
	if (*c.s == '{') {
		bad = json_config(&c);
	} else {
		while (*c.s && !bad) {
			if (*c.s == '#')
				c.s += strcspn(c.s, "\n");
			else
				bad = line_config(&c);
			skip_space(&c, " \t\r\n");
		}
	}
	free(text);
	return bad;
}
