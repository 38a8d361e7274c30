#include "eval/match.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/arena.h"
#include "base/xalloc.h"

static bool is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static void trim(const char **s, size_t *len)
{
	while (*len && is_space(**s))
		++*s, --*len;
	while (*len && is_space((*s)[*len - 1]))
		--*len;
}

bool match_exact(const char *a, size_t a_len, const char *b, size_t b_len)
{
	trim(&a, &a_len);
	trim(&b, &b_len);
	return a_len == b_len && memcmp(a, b, a_len) == 0;
}

bool match_format(const char *a, size_t a_len, const char *b, size_t b_len)
{
	return (memmem(a, a_len, "```", 3) != NULL) == (memmem(b, b_len, "```", 3) != NULL);
}

size_t match_code_points(const char *s, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++)
		n += (s[i] & 0xc0) != 0x80;
	return n;
}

size_t match_prefix(const char *s, size_t len, size_t n)
{
	size_t i;

	for (i = 0; i < len; i++)
		if ((s[i] & 0xc0) != 0x80 && n-- == 0)
			break;
	return i;
}

/* What str.split() splits at. */
static bool is_white(utf8proc_int32_t c)
{
	switch (utf8proc_category(c)) {
	case UTF8PROC_CATEGORY_ZS:
	case UTF8PROC_CATEGORY_ZL:
	case UTF8PROC_CATEGORY_ZP:
		return true;
	default:
		return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f) || c == 0x85;
	}
}

static bool is_punct(utf8proc_int32_t c)
{
	return c > 0 && c < 128 && strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", c) != NULL;
}

static bool is_article(const char *w, size_t n)
{
	return (n == 1 && w[0] == 'a') || (n == 2 && memcmp(w, "an", 2) == 0) || (n == 3 && memcmp(w, "the", 3) == 0);
}

/* Bytes of the character at s, and whether text is split there. */
static size_t step(const char *s, size_t len, bool *white)
{
	utf8proc_int32_t c;
	utf8proc_ssize_t k;

	*white = is_space(*s) || (*s >= 0x1c && *s <= 0x1f);
	if ((unsigned char)*s < 0x80)
		return 1;
	k = utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)len, &c);
	*white = k > 0 && is_white(c);
	return k > 0 ? (size_t)k : 1; /* not UTF-8: the byte stands for itself */
}

/* One word between white space, folded and without punctuation. Composing
 * never reaches over white space, so words can be folded one by one. */
static void fold_word(const char *s, size_t len, struct sb *out)
{
	utf8proc_uint8_t *folded = NULL;
	utf8proc_ssize_t n = -1;
	unsigned char all = 0;

	for (size_t i = 0; i < len; i++)
		all |= (unsigned char)s[i];
	if (all >= 0x80)
		n = utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)len, &folded, UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_CASEFOLD);
	if (n >= 0) {
		s = (const char *)folded;
		len = (size_t)n;
	}
	sb_grow(out, len);
	for (size_t i = 0; i < len; i++)
		if (!is_punct((unsigned char)s[i]))
			sb_addc(out, s[i] >= 'A' && s[i] <= 'Z' ? (char)(s[i] + 32) : s[i]);
	free(folded);
}

struct words {
	const char *s;
	size_t len, at;
};

/* The next word that counts, in *out; false at the end. */
static bool next_word(struct words *w, struct sb *out)
{
	sb_reset(out);
	while (w->at < w->len) {
		size_t from = w->at, n = 0;
		bool white = false;

		while (w->at < w->len && !white) {
			n = w->at - from;
			w->at += step(w->s + w->at, w->len - w->at, &white);
		}
		if (!white)
			n = w->at - from;
		sb_reset(out);
		fold_word(w->s + from, n, out);
		if (out->len && !is_article(out->s, out->len))
			return true;
	}
	return false;
}

void match_normal(const char *s, size_t len, struct sb *out)
{
	struct words w = { s, len, 0 };
	struct sb word = SB_INIT;
	size_t first = out->len;

	while (next_word(&w, &word)) {
		if (out->len > first)
			sb_addc(out, ' ');
		sb_add(out, word.s, word.len);
	}
	sb_release(&word);
}

bool match_normalised(const char *a, size_t a_len, const char *b, size_t b_len)
{
	struct words wa = { a, a_len, 0 }, wb = { b, b_len, 0 };
	struct sb x = SB_INIT, y = SB_INIT;
	bool more, same = true;

	do {
		more = next_word(&wa, &x);
		same = next_word(&wb, &y) == more && (!more || (x.len == y.len && memcmp(x.s, y.s, x.len) == 0));
	} while (more && same);
	sb_release(&x);
	sb_release(&y);
	return same;
}

/* --- JSON --- */

static bool json_same(const struct json *a, const struct json *b)
{
	double x, y;

	if (a->type != b->type)
		return false;
	switch (a->type) {
	case JSON_NULL:
		return true;
	case JSON_BOOL:
		return a->b == b->b;
	case JSON_NUM:
		if (a->n == b->n && memcmp(a->s, b->s, a->n) == 0)
			return true;
		/* Whole numbers past 2^53 would meet as doubles: their texts decide. */
		if (!strpbrk(a->s, ".eE") && !strpbrk(b->s, ".eE"))
			return false;
		return json_as_f64(a, &x) && json_as_f64(b, &y) && x == y;
	case JSON_STR:
		return a->n == b->n && memcmp(a->s, b->s, a->n) == 0;
	case JSON_ARR:
		for (uint32_t i = 0; i < a->n && a->n == b->n; i++)
			if (!json_same(&a->items[i], &b->items[i]))
				return false;
		return a->n == b->n;
	case JSON_OBJ:
		for (uint32_t i = 0; i < a->n && a->n == b->n; i++) {
			const struct json *v = json_get(b, a->members[i].key);

			if (!v || !json_same(&a->members[i].val, v))
				return false;
		}
		return a->n == b->n;
	}
	return false;
}

/* The inside of a text that is one fenced block, else the text. */
static void unfence(const char **s, size_t *len)
{
	const char *nl;

	trim(s, len);
	if (*len < 6 || memcmp(*s, "```", 3) != 0 || memcmp(*s + *len - 3, "```", 3) != 0)
		return;
	nl = memchr(*s, '\n', *len - 3);
	if (!nl)
		return;
	*len -= (size_t)(nl + 1 - *s) + 3;
	*s = nl + 1;
	trim(s, len);
}

static bool parse(const char *s, size_t len, struct arena *a, struct json *v)
{
	struct err e = ERR_INIT;
	char *text;
	bool good;

	unfence(&s, &len);
	if (memchr(s, '\0', len)) /* would cut the string below */
		return false;
	text = xmemdup0(s, len);
	good = json_parse_str(text, a, v, &e) == 0;
	free(text);
	return good;
}

bool match_json(const char *expected, size_t n_expected, const char *response, size_t n_response, bool *valid)
{
	struct arena a = ARENA_INIT;
	struct json want, got;
	bool same;

	*valid = parse(response, n_response, &a, &got);
	same = *valid && expected && parse(expected, n_expected, &a, &want) && json_same(&want, &got);
	arena_release(&a);
	return same;
}

/* --- regular expressions --- */

struct match_regex {
	pcre2_code *code;
	pcre2_match_data *data;
	pcre2_match_context *ctx;
	bool group;
};

struct match_regex *match_regex_new(const char *pattern, struct err *e)
{
	struct match_regex *m = xcalloc(1, sizeof(*m));
	int code;
	size_t at;
	uint32_t groups = 0;

	m->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
	if (!m->code) {
		PCRE2_UCHAR why[256];

		pcre2_get_error_message(code, why, sizeof(why));
		err_set(e, LP_USAGE, "bad regular expression '%s' at offset %zu: %s", pattern, at, (char *)why);
		match_regex_free(m);
		return NULL;
	}
	pcre2_jit_compile(m->code, PCRE2_JIT_COMPLETE); /* without it, only slower */
	pcre2_pattern_info(m->code, PCRE2_INFO_CAPTURECOUNT, &groups);
	m->group = groups > 0;
	m->data = pcre2_match_data_create_from_pattern(m->code, NULL);
	m->ctx = pcre2_match_context_create(NULL);
	if (!m->data || !m->ctx) {
		err_set(e, LP_DEVICE, "no memory for the regular expression");
		match_regex_free(m);
		return NULL;
	}
	pcre2_set_match_limit(m->ctx, 10u << 20);
	pcre2_set_heap_limit(m->ctx, 64u << 10); /* KiB */
	return m;
}

void match_regex_free(struct match_regex *m)
{
	if (!m)
		return;
	pcre2_match_context_free(m->ctx);
	pcre2_match_data_free(m->data);
	pcre2_code_free(m->code);
	free(m);
}

bool match_regex_has_group(const struct match_regex *m)
{
	return m->group;
}

/* 1 and the answer's place (the last match's group, or the first match when
 * the pattern has no group), 0 none, -1 error. */
static int answer(struct match_regex *m, const char *s, size_t len, const char **at, size_t *n, struct err *e)
{
	PCRE2_SIZE from = 0;
	int found = 0;

	while (from <= len) {
		int rc = pcre2_match(m->code, (PCRE2_SPTR)s, len, from, 0, m->data, m->ctx);
		const PCRE2_SIZE *v = pcre2_get_ovector_pointer(m->data);

		if (rc == PCRE2_ERROR_NOMATCH)
			return found;
		if (rc < 0) {
			PCRE2_UCHAR why[256];

			pcre2_get_error_message(rc, why, sizeof(why));
			return err_set(e, LP_DATA, "the regular expression failed: %s", (char *)why);
		}
		found = 1;
		*at = s + v[0];
		*n = v[1] - v[0];
		if (!m->group)
			return 1;
		if (rc > 1 && v[2] != PCRE2_UNSET) {
			*at = s + v[2];
			*n = v[3] - v[2];
		}
		/* On, past an empty match by one whole character. */
		from = v[1] > from ? v[1] : from + 1;
		while (from < len && (s[from] & 0xc0) == 0x80)
			from++;
	}
	return found;
}

int match_regex_test(struct match_regex *m, const char *expected, size_t n_expected, const char *response, size_t n_response, struct err *e)
{
	const char *want, *got;
	size_t n_want, n_got;
	int rc = answer(m, response, n_response, &got, &n_got, e);

	if (rc != 1 || !m->group)
		return rc;
	rc = answer(m, expected, n_expected, &want, &n_want, e);
	if (rc != 1)
		return rc;
	return n_want == n_got && memcmp(want, got, n_got) == 0;
}
