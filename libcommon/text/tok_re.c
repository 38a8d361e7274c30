/* Oniguruma patterns through PCRE2. The differences that matter are rewritten:
 * \s \S \d \D \w \W \h \v, (?m) (dot matches newline in Ruby), and general
 * categories of code points newer than PCRE2's Unicode tables. Class set
 * operations (&&, nested classes) and unknown escapes are refused by name. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/tok_re.h"

#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/sb.h"
#include "base/xalloc.h"
#include "text/tok_uni.h"

struct tok_re {
	pcre2_code *code;
	char *lit; /* a literal instead */
	size_t lit_len;
};
struct tok_re_mem {
	pcre2_match_data *md;
	pcre2_match_context *mc;
	pcre2_jit_stack *stack;
};

/* Assigned between Unicode 14 (the oldest PCRE2 we meet) and the reference's. */
static const uint32_t newer[][2] = {
#include "text/tok_uni_new.h"
};

static const char SPACES[] = "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
/* Oniguruma's \w: Alphabetic, marks, decimal digits, connectors, and six of Latin-1. */
static const char WORDS[] = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\xb2\\xb3\\xb9\\xbc-\\xbe";

static void add_newer(struct sb *o, uint32_t mask, uint8_t bit)
{
	size_t i = 0, k;
	uint32_t lo, hi;
	uint8_t a, b;

	for (k = 0; k < sizeof(newer) / sizeof(*newer); k++) {
		while (uni_run(i, &lo, &hi, &a, &b) && hi < newer[k][0])
			i++;
		for (size_t j = i; uni_run(j, &lo, &hi, &a, &b) && lo <= newer[k][1]; j++) {
			uint32_t from = lo > newer[k][0] ? lo : newer[k][0], to = hi < newer[k][1] ? hi : newer[k][1], c;
			bool in_a = (mask >> (a & UNI_CAT) & 1) || (a & bit), in_b = b && ((mask >> (b & UNI_CAT) & 1) || (b & bit));

			if (!b ? in_a : in_a && in_b)
				sb_addf(o, "\\x{%x}-\\x{%x}", (unsigned)from, (unsigned)to);
			else if (b && (in_a || in_b))
				for (c = from; c <= to; c++)
					if (((c - lo) & 1) ? in_b : in_a)
						sb_addf(o, "\\x{%x}", (unsigned)c);
		}
	}
}

/* Categories that a property name means, or 0 when it is no general category. */
static uint32_t category_mask(const char *s, size_t n)
{
	static const char names[][3] = { "Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps",
		"Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cs" };
	uint32_t m = 0;

	for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (n && n <= 2 && memcmp(names[i], s, n) == 0)
			m |= 1u << i;
	return m;
}

struct tr {
	const char *s;
	size_t n, i;
	struct sb o;
	bool in_class;
	struct err *e;
};

static int refuse(struct tr *t, const char *what)
{
	return err_set(t->e, LP_USAGE, "pattern '%.*s': %s at byte %zu is not supported", (int)(t->n < 200 ? t->n : 200), t->s, what, t->i);
}

/* One set, inside or outside a class; neg only outside. */
static void add_set(struct tr *t, bool neg, const char *text, uint32_t mask, uint8_t bit)
{
	if (!t->in_class)
		sb_adds(&t->o, neg ? "[^" : "[");
	sb_adds(&t->o, text);
	if (mask || bit)
		add_newer(&t->o, mask, bit);
	if (!t->in_class)
		sb_addc(&t->o, ']');
}

static int tr_property(struct tr *t, bool neg)
{
	const char *name;
	size_t n;
	uint32_t mask;
	char text[80];

	if (t->i < t->n && t->s[t->i] != '{') { /* \pL */
		name = t->s + t->i;
		n = 1;
		t->i++;
	} else {
		const char *end = t->i < t->n ? memchr(t->s + t->i, '}', t->n - t->i) : NULL;

		if (!end)
			return refuse(t, "a property without its brace");
		name = t->s + t->i + 1;
		n = (size_t)(end - name);
		t->i += n + 2;
		if (n && *name == '^') {
			neg = !neg;
			name++;
			n--;
		}
	}
	if (n > 60)
		return refuse(t, "a property name this long");
	mask = category_mask(name, n);
	memcpy(text, neg && (!mask || t->in_class) ? "\\P{" : "\\p{", 3);
	memcpy(text + 3, name, n);
	memcpy(text + 3 + n, "}", 2);
	if (!mask || (neg && t->in_class)) /* scripts and the like as PCRE2 knows them */
		sb_adds(&t->o, text);
	else
		add_set(t, neg, text, mask, 0);
	return 0;
}

static int tr_escape(struct tr *t)
{
	char c;

	if (++t->i >= t->n)
		return refuse(t, "a backslash at the end");
	c = t->s[t->i++];
	switch (c) {
	case 's':
	case 'S':
		if (t->in_class && c == 'S')
			sb_adds(&t->o, "\\P{White_Space}");
		else
			add_set(t, c == 'S', SPACES, 0, 0);
		return 0;
	case 'd':
	case 'D':
		if (t->in_class && c == 'D')
			sb_adds(&t->o, "\\P{Nd}");
		else
			add_set(t, c == 'D', "\\p{Nd}", 1u << UC_ND, 0);
		return 0;
	case 'w':
	case 'W':
		if (t->in_class && c == 'W')
			return refuse(t, "\\W inside a class");
		add_set(t, c == 'W', WORDS, 0, UNI_WORD);
		return 0;
	case 'h':
	case 'H':
		if (t->in_class && c == 'H')
			return refuse(t, "\\H inside a class");
		add_set(t, c == 'H', "0-9a-fA-F", 0, 0);
		return 0;
	case 'p':
	case 'P':
		return tr_property(t, c == 'P');
	case 'v':
		sb_adds(&t->o, "\\x0b");
		return 0;
	case 'u':
		if (t->n - t->i < 4 || strspn(t->s + t->i, "0123456789abcdefABCDEF") < 4)
			return refuse(t, "\\u without four hex digits");
		sb_addf(&t->o, "\\x{%.4s}", t->s + t->i);
		t->i += 4;
		return 0;
	}
	if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
		if (!strchr(t->in_class ? "nrtfaexb" : "nrtfaexbBAzZGkKRX", c))
			return refuse(t, "this escape");
	sb_addc(&t->o, '\\');
	sb_addc(&t->o, c);
	return 0;
}

static int tr_class(struct tr *t)
{
	bool first = true;

	sb_addc(&t->o, '[');
	t->i++;
	if (t->i < t->n && t->s[t->i] == '^') {
		sb_addc(&t->o, '^');
		t->i++;
	}
	t->in_class = true;
	for (; t->i < t->n; first = false) {
		char c = t->s[t->i];

		if (c == ']' && !first)
			break;
		if (c == '\\') {
			if (tr_escape(t))
				return -1;
			continue;
		}
		if (c == '&' && t->i + 1 < t->n && t->s[t->i + 1] == '&')
			return refuse(t, "class intersection (&&)");
		if (c == '[') {
			const char *end = t->i + 1 < t->n && t->s[t->i + 1] == ':' ? memchr(t->s + t->i, ']', t->n - t->i) : NULL;

			if (!end)
				return refuse(t, "a class inside a class");
			sb_add(&t->o, t->s + t->i, (size_t)(end - (t->s + t->i)) + 1);
			t->i = (size_t)(end - t->s) + 1;
			continue;
		}
		sb_addc(&t->o, c);
		t->i++;
	}
	if (t->i >= t->n)
		return refuse(t, "a class without its end");
	t->in_class = false;
	t->i++;
	sb_addc(&t->o, ']');
	return 0;
}

/* (?m...) is (?s...) here; the letters up to ':' or ')' are options. */
static void tr_group(struct tr *t)
{
	size_t j = t->i + 2;

	sb_addc(&t->o, '(');
	t->i++;
	if (j > t->n || t->s[t->i] != '?')
		return;
	while (j < t->n && strchr("imx-", t->s[j]))
		j++;
	if (j >= t->n || (t->s[j] != ':' && t->s[j] != ')'))
		return;
	for (; t->i < j; t->i++)
		sb_addc(&t->o, t->s[t->i] == 'm' ? 's' : t->s[t->i]);
}

static int translate(struct tr *t)
{
	while (t->i < t->n) {
		char c = t->s[t->i];

		if (c == '\\') {
			if (tr_escape(t))
				return -1;
		} else if (c == '[') {
			if (tr_class(t))
				return -1;
		} else if (c == '(') {
			tr_group(t);
		} else {
			sb_addc(&t->o, c);
			t->i++;
		}
	}
	return 0;
}

static int compile(struct tok_re *re, const struct tr *t, struct err *e)
{
	pcre2_compile_context *cc = pcre2_compile_context_create(NULL);
	int code;
	PCRE2_SIZE at;
	PCRE2_UCHAR msg[200];

	if (!cc)
		return err_set(e, LP_DEVICE, "out of memory for a pattern");
	pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
	re->code = pcre2_compile((PCRE2_SPTR)sb_str(&t->o), t->o.len, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &at, cc);
	pcre2_compile_context_free(cc);
	if (!re->code) {
		pcre2_get_error_message(code, msg, sizeof(msg));
		return err_set(e, LP_USAGE, "pattern '%.*s': %s", (int)(t->n < 200 ? t->n : 200), t->s, (const char *)msg);
	}
	pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE); /* without JIT it is only slower */
	return 0;
}

struct tok_re *tok_re_new(const char *pattern, size_t len, struct err *e)
{
	struct tok_re *re = xcalloc(1, sizeof(*re));
	struct tr t = { .s = pattern, .n = len, .e = e };
	int rc = translate(&t);

	if (!rc)
		rc = compile(re, &t, e);
	sb_release(&t.o);
	if (rc) {
		tok_re_free(re);
		return NULL;
	}
	return re;
}

struct tok_re *tok_re_new_string(const char *literal, size_t len, struct err *e)
{
	struct tok_re *re = xcalloc(1, sizeof(*re));

	(void)e;
	re->lit = xmemdup0(literal, len);
	re->lit_len = len;
	return re;
}

void tok_re_free(struct tok_re *re)
{
	if (!re)
		return;
	if (re->code)
		pcre2_code_free(re->code);
	free(re->lit);
	free(re);
}

struct tok_re_mem *tok_re_mem_new(void)
{
	struct tok_re_mem *m = xcalloc(1, sizeof(*m));

	m->md = pcre2_match_data_create(1, NULL);
	m->mc = pcre2_match_context_create(NULL);
	m->stack = pcre2_jit_stack_create(32 << 10, 16 << 20, NULL);
	if (!m->md || !m->mc) {
		tok_re_mem_free(m);
		return NULL;
	}
	if (m->stack)
		pcre2_jit_stack_assign(m->mc, NULL, m->stack);
	pcre2_set_match_limit(m->mc, 200u << 20);
	return m;
}

void tok_re_mem_free(struct tok_re_mem *m)
{
	if (!m)
		return;
	pcre2_match_data_free(m->md);
	pcre2_match_context_free(m->mc);
	pcre2_jit_stack_free(m->stack);
	free(m);
}

int tok_re_next(const struct tok_re *re, struct tok_re_mem *m, const char *s, size_t n, size_t from, size_t *b, size_t *e)
{
	const PCRE2_SIZE *ov;
	int rc;

	if (re->lit) {
		const char *p = re->lit_len && from <= n ? memmem(s + from, n - from, re->lit, re->lit_len) : NULL;

		if (!p)
			return 0;
		*b = (size_t)(p - s);
		*e = *b + re->lit_len;
		return 1;
	}
	rc = pcre2_match(re->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, m->md, m->mc);
	if (rc == PCRE2_ERROR_NOMATCH)
		return 0;
	if (rc < 0)
		return -1;
	ov = pcre2_get_ovector_pointer(m->md);
	*b = ov[0];
	*e = ov[1];
	return 1;
}
