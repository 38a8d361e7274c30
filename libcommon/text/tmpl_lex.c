/* Template text to tokens, with the white-space rules that transformers sets:
 * trim_blocks, lstrip_blocks, no trailing newline kept. It follows Jinja2's
 * lexer rule for rule, "{% raw %}" and the three ends "+%}", "-%}", "%}"
 * included. Line statements and other delimiters do not exist here. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <utf8proc.h>

#include "base/num.h"
#include "base/xalloc.h"
#include "text/tmpl_impl.h"

struct lexer {
	const char *s; /* normalised source, NUL behind it */
	size_t len, pos;
	uint32_t line;
	const char *name;
	struct arena *a;
	struct tok_list *out;
	bool line_starting; /* the last match ended with a newline */
	struct sb open;     /* open brackets, innermost last */
	struct err *e;
};

static int lex_fail(struct lexer *x, const char *what)
{
	return err_line(x->e, LP_USAGE, x->name, x->line, "bad template: %s", what);
}

static struct tok_item *add(struct lexer *x, enum tok_type type)
{
	struct tok_list *l = x->out;

	l->v = xgrow(l->v, &l->cap, l->n + 1, sizeof(*l->v));
	struct tok_item *t = &l->v[l->n++];
	*t = (struct tok_item){ .type = type, .line = x->line };
	return t;
}

/* Moves on by n bytes that were matched as one token. */
static void take(struct lexer *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		x->line += x->s[x->pos + i] == '\n';
	if (n)
		x->line_starting = x->s[x->pos + n - 1] == '\n';
	x->pos += n;
}

static bool at(const struct lexer *x, size_t pos, const char *lit)
{
	size_t n = strlen(lit);

	return x->len - pos >= n && pos <= x->len && memcmp(x->s + pos, lit, n) == 0;
}

/* First byte at or after pos that is no white space. */
static size_t skip_space(const struct lexer *x, size_t pos)
{
	const char *p = x->s + pos, *end = x->s + x->len;

	while (p < end) {
		const char *q = p;

		if (!uni_is_space(uni_next(&q, end)))
			break;
		p = q;
	}
	return (size_t)(p - x->s);
}

/* Length of "WORD" in "{%[-+]? WORD (-?)%}" after the sign, or 0. Sets *sign. */
static size_t match_raw(const struct lexer *x, size_t pos)
{
	size_t p = pos + 2;

	if (!at(x, pos, "{%"))
		return 0;
	if (p < x->len && (x->s[p] == '-' || x->s[p] == '+'))
		p++;
	p = skip_space(x, p);
	if (!at(x, p, "raw"))
		return 0;
	p = skip_space(x, p + 3);
	if (at(x, p, "-%}"))
		return skip_space(x, p + 3) - pos;
	return at(x, p, "%}") ? p + 2 - pos : 0;
}

static size_t match_endraw(const struct lexer *x, size_t pos)
{
	size_t p = pos + 2;

	if (!at(x, pos, "{%"))
		return 0;
	if (p < x->len && (x->s[p] == '-' || x->s[p] == '+'))
		p++;
	p = skip_space(x, p);
	if (!at(x, p, "endraw"))
		return 0;
	p = skip_space(x, p + 6);
	if (at(x, p, "+%}"))
		return p + 3 - pos;
	if (at(x, p, "-%}"))
		return skip_space(x, p + 3) - pos;
	if (!at(x, p, "%}"))
		return 0;
	return p + 2 + at(x, p + 2, "\n") - pos;
}

static char sign_at(const struct lexer *x, size_t pos)
{
	return pos < x->len && (x->s[pos] == '-' || x->s[pos] == '+') ? x->s[pos] : 0;
}

/* Adds text [pos, end) as data, its end stripped as the tag's sign says. */
static void add_data(struct lexer *x, size_t end, char sign, bool variable)
{
	const char *s = x->s + x->pos;
	size_t n = end - x->pos;

	if (sign == '-') {
		uni_strip(&s, &n, false, true, NULL, 0, true);
	} else if (sign != '+' && !variable) {
		size_t l = n;

		while (l > 0 && s[l - 1] != '\n')
			l--;
		if ((l > 0 || x->line_starting) && l < n && skip_space(x, x->pos + l) >= end)
			n = l;
	}
	if (n)
		add(x, T_DATA)->v = val_str(s, n);
}

/* A string token's text: escapes as Python's unicode-escape. */
static int unescape(struct lexer *x, const char *s, size_t n, struct val *out)
{
	char *buf = arena_alloc(x->a, 2 * n + 1), *w = buf;
	const char *end = s + n;

	while (s < end) {
		if (*s != '\\' || s + 1 >= end) {
			*w++ = *s++;
			continue;
		}
		static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
		const char *hit = memchr(from, s[1], sizeof(from) - 1);
		unsigned digits = s[1] == 'x' ? 2 : s[1] == 'u' ? 4 : s[1] == 'U' ? 8 : 0;

		if (hit) {
			*w++ = to[hit - from];
			s += 2;
		} else if (s[1] == '\n') {
			s += 2;
		} else if (s[1] >= '0' && s[1] <= '7') {
			uint32_t c = 0;
			int k = 0;

			for (s++; k < 3 && s < end && *s >= '0' && *s <= '7'; k++)
				c = c * 8 + (uint32_t)(*s++ - '0');
			w += uni_put(w, c);
		} else if (digits) {
			uint32_t c = 0;

			if ((size_t)(end - s) < 2 + digits)
				return lex_fail(x, "a truncated \\x, \\u or \\U escape in a string");
			for (unsigned k = 0; k < digits; k++) {
				char d = s[2 + k];
				int h = d >= '0' && d <= '9' ? d - '0' : (d | 32) >= 'a' && (d | 32) <= 'f' ? (d | 32) - 'a' + 10 : -1;

				if (h < 0)
					return lex_fail(x, "a truncated \\x, \\u or \\U escape in a string");
				c = c * 16 + (uint32_t)h;
			}
			if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
				return lex_fail(x, "an escape in a string that is no Unicode character");
			w += uni_put(w, c);
			s += 2 + digits;
		} else if (s[1] == 'N') {
			return lex_fail(x, "\\N{...} in a string is not supported, write \\u or the character");
		} else if ((unsigned char)s[1] >= 0x80) {
			/* the reference escapes the character first, then reads "\\" */
			const char *q = s + 1;
			uint32_t c = uni_next(&q, end);
			char hex[16];
			int k = snprintf(hex, sizeof(hex), c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);

			memcpy(w, hex, (size_t)k); /* 4, 6 or 10 bytes for 3, 4 or 5: at most twice */
			w += k;
			s = q;
		} else {
			*w++ = *s++;
		}
	}
	*out = val_str(buf, (size_t)(w - buf));
	return 0;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* "(digit _)* digit" from p; returns the end, p when there is none. */
static size_t digits(const struct lexer *x, size_t p)
{
	size_t end = p;

	while (p < x->len && is_digit(x->s[p])) {
		end = ++p;
		if (p < x->len && x->s[p] == '_')
			p++;
	}
	return end;
}

static size_t match_float(const struct lexer *x, size_t pos)
{
	if (pos > 0 && x->s[pos - 1] == '.')
		return 0;
	size_t p = digits(x, pos);
	if (p == pos)
		return 0;
	size_t frac = p;
	if (p < x->len && x->s[p] == '.' && digits(x, p + 1) > p + 1)
		frac = digits(x, p + 1);
	if (frac < x->len && (x->s[frac] | 32) == 'e') {
		size_t q = frac + 1;

		if (q < x->len && (x->s[q] == '+' || x->s[q] == '-'))
			q++;
		if (digits(x, q) > q)
			return digits(x, q) - pos;
	}
	return frac > p ? frac - pos : 0;
}

static int digit_of(char c)
{
	return is_digit(c) ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'z' ? (c | 32) - 'a' + 10 : 99;
}

/* "(_? digit)*" of a base from p; returns the end. */
static size_t digits_of(const struct lexer *x, size_t p, int base)
{
	for (;;) {
		size_t q = p + (p < x->len && x->s[p] == '_');

		if (q >= x->len || digit_of(x->s[q]) >= base)
			return p;
		p = q + 1;
	}
}

static size_t match_int(const struct lexer *x, size_t pos, int *base)
{
	if (!is_digit(x->s[pos]))
		return 0;
	*base = 10;
	if (x->s[pos] != '0')
		return digits_of(x, pos + 1, 10) - pos;
	if (pos + 1 < x->len) {
		char c = (char)(x->s[pos + 1] | 32);
		int b = c == 'b' ? 2 : c == 'o' ? 8 : c == 'x' ? 16 : 0;

		if (b && digits_of(x, pos + 2, b) > pos + 2) {
			*base = b;
			return digits_of(x, pos + 2, b) - pos;
		}
	}
	return digits_of(x, pos + 1, 1) - pos;
}

/* Number text without "_", as a value. */
static int number(struct lexer *x, size_t n, int base, bool is_float)
{
	char *buf = arena_alloc(x->a, n + 1);
	size_t m = 0;

	for (size_t i = base == 10 ? 0 : 2; i < n; i++)
		if (x->s[x->pos + i] != '_')
			buf[m++] = x->s[x->pos + i];
	buf[m] = 0;
	struct tok_item *t = add(x, is_float ? T_FLOAT : T_INT);
	errno = 0;
	if (is_float) {
		t->v = val_float(strtod(buf, NULL));
		return 0;
	}
	t->v = val_int(strtoll(buf, NULL, base));
	if (errno == ERANGE) {
		if (base != 10)
			return lex_fail(x, "an integer beyond 64 bits");
		t->v = (struct val){ .t = V_BIG, .n = (uint32_t)m, .s = buf };
	}
	return 0;
}

static size_t match_name(const struct lexer *x, size_t pos)
{
	const char *p = x->s + pos, *end = x->s + x->len;

	while (p < end) {
		const char *q = p;
		uint32_t c = uni_next(&q, end);

		if (c < 0x80 ? !(c == '_' || is_digit((char)c) || ((c | 32) >= 'a' && (c | 32) <= 'z')) : !uni_is_alnum(c))
			break;
		p = q;
	}
	return (size_t)(p - x->s) - pos;
}

static size_t match_string(const struct lexer *x, size_t pos)
{
	char quote = x->s[pos];

	if (quote != '\'' && quote != '"')
		return 0;
	for (size_t p = pos + 1; p < x->len; p++) {
		if (x->s[p] == '\\')
			p++;
		else if (x->s[p] == quote)
			return p + 1 - pos;
	}
	return 0;
}

static const struct {
	const char *text;
	enum tok_type type;
} operators[] = {
	{ "//", T_FLOORDIV }, { "**", T_POW }, { "==", T_EQ }, { "!=", T_NE }, { ">=", T_GE }, { "<=", T_LE },
	{ "+", T_ADD }, { "-", T_SUB }, { "/", T_DIV }, { "*", T_MUL }, { "%", T_MOD }, { "~", T_TILDE },
	{ "[", T_LBRACKET }, { "]", T_RBRACKET }, { "(", T_LPAREN }, { ")", T_RPAREN }, { "{", T_LBRACE }, { "}", T_RBRACE },
	{ ">", T_GT }, { "<", T_LT }, { "=", T_ASSIGN }, { ".", T_DOT }, { ":", T_COLON }, { "|", T_PIPE }, { ",", T_COMMA },
	{ ";", T_SEMICOLON },
};

static int lex_operator(struct lexer *x)
{
	for (size_t i = 0; i < sizeof(operators) / sizeof(operators[0]); i++) {
		if (!at(x, x->pos, operators[i].text))
			continue;
		enum tok_type t = operators[i].type;

		if (t == T_LBRACKET || t == T_LPAREN || t == T_LBRACE) {
			sb_addc(&x->open, t == T_LBRACKET ? ']' : t == T_LPAREN ? ')' : '}');
		} else if (t == T_RBRACKET || t == T_RPAREN || t == T_RBRACE) {
			if (!x->open.len || x->open.s[x->open.len - 1] != x->s[x->pos])
				return lex_fail(x, "a closing bracket that nothing opened");
			x->open.s[--x->open.len] = 0;
		}
		add(x, t);
		take(x, strlen(operators[i].text));
		return 0;
	}
	return lex_fail(x, x->pos < x->len ? "a character that cannot stand in a tag" : "the template ends inside a tag");
}

/* The end of a tag at the current place: its length, or 0. */
static size_t match_end(const struct lexer *x, bool block)
{
	if (x->open.len)
		return 0;
	if (!block) {
		if (at(x, x->pos, "-}}"))
			return skip_space(x, x->pos + 3) - x->pos;
		return at(x, x->pos, "}}") ? 2 : 0;
	}
	if (at(x, x->pos, "+%}"))
		return 3;
	if (at(x, x->pos, "-%}"))
		return skip_space(x, x->pos + 3) - x->pos;
	return at(x, x->pos, "%}") ? 2u + at(x, x->pos + 2, "\n") : 0;
}

static int lex_tag(struct lexer *x, bool block)
{
	for (;;) {
		size_t n = match_end(x, block), space;
		int base = 10;

		if (n) {
			add(x, block ? T_BLOCK_END : T_VAR_END);
			take(x, n);
			return 0;
		}
		if (x->pos >= x->len)
			return 0; /* the parser says what is missing */
		space = skip_space(x, x->pos) - x->pos;
		if (space) {
			take(x, space);
		} else if ((n = match_float(x, x->pos))) {
			if (number(x, n, 10, true))
				return -1;
			take(x, n);
		} else if ((n = match_int(x, x->pos, &base))) {
			if (number(x, n, base, false))
				return -1;
			take(x, n);
		} else if ((n = match_name(x, x->pos))) {
			add(x, T_NAME)->v = val_str(x->s + x->pos, n);
			take(x, n);
		} else if ((n = match_string(x, x->pos))) {
			struct val v;

			if (unescape(x, x->s + x->pos + 1, n - 2, &v))
				return -1;
			add(x, T_STRING)->v = v;
			take(x, n);
		} else if (lex_operator(x)) {
			return -1;
		}
	}
}

static int lex_comment(struct lexer *x)
{
	for (size_t p = x->pos; p < x->len; p++) {
		if (at(x, p, "+#}"))
			return take(x, p + 3 - x->pos), 0;
		if (at(x, p, "-#}"))
			return take(x, skip_space(x, p + 3) - x->pos), 0;
		if (at(x, p, "#}"))
			return take(x, p + 2 + at(x, p + 2, "\n") - x->pos), 0;
	}
	/* an empty rest is the end of the template, as in the reference */
	return x->pos < x->len ? lex_fail(x, "missing end of comment tag") : 0;
}

static int lex_raw(struct lexer *x)
{
	for (size_t p = x->pos; p < x->len; p++) {
		size_t n = match_endraw(x, p);

		if (n) {
			add_data(x, p, sign_at(x, p + 2), false);
			take(x, p + n - x->pos);
			return 0;
		}
	}
	return x->pos < x->len ? lex_fail(x, "missing end of raw directive") : 0;
}

static int lex_root(struct lexer *x)
{
	while (x->pos < x->len) {
		size_t p = x->pos, n;

		while (p < x->len && !(x->s[p] == '{' && p + 1 < x->len && strchr("%{#", x->s[p + 1]) && x->s[p + 1]))
			p++;
		if (p >= x->len) {
			add(x, T_DATA)->v = val_str(x->s + x->pos, p - x->pos);
			take(x, p - x->pos);
			break;
		}
		char kind = x->s[p + 1], sign = sign_at(x, p + 2);
		add_data(x, p, sign, kind == '{');
		take(x, p - x->pos);
		if ((n = match_raw(x, p))) {
			take(x, n);
			if (lex_raw(x))
				return -1;
			continue;
		}
		if (kind != '#')
			add(x, kind == '%' ? T_BLOCK_BEGIN : T_VAR_BEGIN);
		take(x, 2u + (sign != 0));
		if (kind == '#' ? lex_comment(x) : lex_tag(x, kind == '%'))
			return -1;
	}
	return 0;
}

/* "\r\n" and "\r" to "\n", one newline at the end dropped. */
static void normalise(struct lexer *x, const char *src, size_t len)
{
	char *s = arena_alloc(x->a, len + 1);
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		if (src[i] == '\r') {
			s[n++] = '\n';
			i += i + 1 < len && src[i + 1] == '\n';
		} else {
			s[n++] = src[i];
		}
	}
	n -= n && s[n - 1] == '\n';
	s[n] = 0;
	x->s = s;
	x->len = n;
}

static bool valid_utf8(const char *s, size_t n)
{
	utf8proc_int32_t c;

	while (n) {
		utf8proc_ssize_t k = (unsigned char)*s < 0x80 ? 1 : utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &c);

		if (k <= 0)
			return false;
		s += k;
		n -= (size_t)k;
	}
	return true;
}

int tmpl_lex(const char *src, size_t len, const char *name, struct arena *a, struct tok_list *out, struct err *e)
{
	struct lexer x = { .name = name, .line = 1, .a = a, .out = out, .line_starting = true, .e = e };

	if (len > 64u << 20)
		return err_line(e, LP_USAGE, name, 0, "bad template: longer than 64 MiB");
	if (!valid_utf8(src, len))
		return err_line(e, LP_USAGE, name, 0, "bad template: not UTF-8");
	normalise(&x, src, len);
	int rc = lex_root(&x);
	add(&x, T_EOF);
	sb_release(&x.open);
	return rc;
}
