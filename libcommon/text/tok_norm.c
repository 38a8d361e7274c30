/* Normalisers. Unicode forms work on runs that begin with a starter, so that
 * each changed byte keeps the range of its own run; text that is already
 * normal, nearly all of it, is never copied. */
#include "text/tok_norm.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/xalloc.h"
#include "text/pretok.h"
#include "text/spm.h"
#include "text/tok_b64.h"
#include "text/tok_uni.h"
#include "text/utf8.h"

enum kind { K_NFC, K_NFD, K_NFKC, K_NFKD, K_LOWER, K_PREPEND, K_REPLACE, K_STRIP, K_ACCENTS, K_BYTES, K_NMT, K_BERT, K_CHARSMAP, K_SEQ };

struct tok_norm {
	enum kind kind;
	const uint8_t *uni;
	struct tok_re *re;
	char *text; /* prepended or put in place */
	size_t text_len;
	bool left, right; /* strip */
	bool of_space;    /* replaces a space */
	bool clean, chinese, accents, lower; /* BertNormalizer */
	struct charsmap map; /* Precompiled */
	struct tok_norm **seq;
	size_t n_seq;
};

void tok_norm_free(struct tok_norm *n)
{
	if (!n)
		return;
	for (size_t i = 0; i < n->n_seq; i++)
		tok_norm_free(n->seq[i]);
	free(n->seq);
	tok_re_free(n->re);
	charsmap_release(&n->map);
	free(n->text);
	free(n);
}

/* --- reading --- */

static int load(const struct json *v, const uint8_t *uni, int depth, struct tok_norm **out, struct err *e) LP_MUST_USE;

static int load_seq(const struct json *v, struct tok_norm *n, int depth, struct err *e)
{
	const struct json *list = json_get(v, "normalizers");

	if (!json_is(list, JSON_ARR) || list->n > PRETOK_SEQ_MAX)
		return err_set(e, LP_DATA, "normalizer Sequence needs a short list of normalizers");
	n->kind = K_SEQ;
	n->seq = xcalloc(list->n + 1, sizeof(*n->seq));
	for (uint32_t i = 0; i < list->n; i++, n->n_seq++)
		if (load(&list->items[i], n->uni, depth + 1, &n->seq[i], e))
			return -1;
	return 0;
}

static int load_replace(const struct json *v, struct tok_norm *n, struct err *e)
{
	const struct json *p = json_get(v, "pattern"), *lit = json_get(p, "String"), *re = json_get(p, "Regex"), *c = json_get(v, "content");

	if (!json_is(c, JSON_STR) || (!json_is(lit, JSON_STR) && !json_is(re, JSON_STR)))
		return err_set(e, LP_DATA, "normalizer Replace needs a pattern (String or Regex) and content");
	n->kind = K_REPLACE;
	n->text = xmemdup0(c->s, c->n);
	n->text_len = c->n;
	n->of_space = json_is(lit, JSON_STR) && json_str_is(lit, " ");
	n->re = json_is(lit, JSON_STR) ? tok_re_new_string(lit->s, lit->n, e) : tok_re_new(re->s, re->n, e);
	return n->re ? 0 : -1;
}

static int load_charsmap(const struct json *v, struct tok_norm *n, struct err *e)
{
	const struct json *b64 = json_get(v, "precompiled_charsmap");
	unsigned char *blob;
	size_t len;
	int rc;

	n->kind = K_CHARSMAP;
	if (!json_is(b64, JSON_STR))
		return err_set(e, LP_DATA, "normalizer Precompiled needs precompiled_charsmap");
	blob = xmalloc(b64->n + 4);
	rc = b64_decode(b64->s, b64->n, blob, &len) ? 0 : err_set(e, LP_DATA, "normalizer Precompiled: its map is not base64");
	if (!rc)
		rc = charsmap_load(&n->map, blob, len, e);
	free(blob);
	return rc;
}

static int load_bert(const struct json *v, struct tok_norm *n, struct err *e)
{
	n->kind = K_BERT;
	if (!json_get_bool(v, "clean_text", true, &n->clean) || !json_get_bool(v, "handle_chinese_chars", true, &n->chinese) ||
	    !json_get_bool(v, "lowercase", true, &n->lower) || !json_get_bool(v, "strip_accents", n->lower, &n->accents))
		return err_set(e, LP_DATA, "BertNormalizer: a flag is not a boolean");
	return 0;
}

static int load_one(const struct json *v, struct tok_norm *n, int depth, struct err *e)
{
	static const struct { const char *name; enum kind kind; } plain[] = {
		{ "NFC", K_NFC }, { "NFD", K_NFD }, { "NFKC", K_NFKC }, { "NFKD", K_NFKD }, { "Lowercase", K_LOWER },
		{ "StripAccents", K_ACCENTS }, { "ByteLevel", K_BYTES }, { "Nmt", K_NMT },
	};
	const char *type, *s;

	if (!json_get_str(v, "type", NULL, &type) || !type)
		return err_set(e, LP_DATA, "a normalizer has no type");
	for (size_t i = 0; i < sizeof(plain) / sizeof(*plain); i++)
		if (!strcmp(type, plain[i].name)) {
			n->kind = plain[i].kind;
			return 0;
		}
	if (!strcmp(type, "Sequence"))
		return load_seq(v, n, depth, e);
	if (!strcmp(type, "Replace"))
		return load_replace(v, n, e);
	if (!strcmp(type, "BertNormalizer"))
		return load_bert(v, n, e);
	if (!strcmp(type, "Prepend")) {
		n->kind = K_PREPEND;
		if (!json_get_str(v, "prepend", NULL, &s) || !s)
			return err_set(e, LP_DATA, "normalizer Prepend needs prepend");
		n->text = xstrdup(s);
		n->text_len = strlen(s);
		return 0;
	}
	if (!strcmp(type, "Strip")) {
		n->kind = K_STRIP;
		if (!json_get_bool(v, "strip_left", true, &n->left) || !json_get_bool(v, "strip_right", true, &n->right))
			return err_set(e, LP_DATA, "normalizer Strip: a flag is not a boolean");
		return 0;
	}
	if (!strcmp(type, "Precompiled"))
		return load_charsmap(v, n, e);
	return err_set(e, LP_USAGE, "normalizer '%s' is not supported", type);
}

static int load(const struct json *v, const uint8_t *uni, int depth, struct tok_norm **out, struct err *e)
{
	*out = NULL;
	if (!v || v->type == JSON_NULL)
		return 0;
	if (depth > TOK_DEPTH_MAX)
		return err_set(e, LP_DATA, "normalizers are nested too deeply");
	*out = xcalloc(1, sizeof(**out));
	(*out)->uni = uni;
	if (load_one(v, *out, depth, e)) {
		tok_norm_free(*out);
		*out = NULL;
		return -1;
	}
	return 0;
}

int tok_norm_new(const struct json *v, const uint8_t *uni, struct tok_norm **out, struct err *e)
{
	return load(v, uni, 0, out, e);
}

/* --- Unicode forms --- */

#define RUN_MAX 1024    /* code points of one run; a longer pile of marks is cut, which bounds the sort */
#define EXPANSION 18    /* code points that one decomposes into, at most */
#define RUN_ON_STACK 16 /* code points; longer runs take memory */

/* The reference's tables are Unicode 12.1: it leaves later decompositions alone. */
static bool newer_decomposition(uint32_t c)
{
	return c == 0x11938 || c == 0xA7F2 || c == 0xA7F3 || c == 0xA7F4 || c == 0xAB69 || c == 0x32FF || c == 0xA7F1 ||
	       (c >= 0x10780 && c <= 0x107BF) || (c >= 0x1FBF0 && c <= 0x1FBF9) || (c >= 0x1E030 && c <= 0x1E06D) ||
	       (c >= 0x1CCD6 && c <= 0x1CCF9) || c == 0x105C9 || c == 0x105E4;
}

static bool is_compat(enum kind k)
{
	return k == K_NFKC || k == K_NFKD;
}

static size_t decompose(enum kind k, uint32_t c, int32_t *out, size_t room)
{
	utf8proc_ssize_t n;
	int last = 0;

	if (!newer_decomposition(c)) {
		n = utf8proc_decompose_char((int32_t)c, out, (utf8proc_ssize_t)room,
		                            UTF8PROC_DECOMPOSE | UTF8PROC_STABLE | (is_compat(k) ? UTF8PROC_COMPAT : 0), &last);
		if (n > 0 && (size_t)n <= room)
			return (size_t)n;
	}
	out[0] = (int32_t)c;
	return 1;
}

/* A character that nothing before it can combine with or move across. */
static bool is_starter(enum kind k, uint32_t c)
{
	int32_t d[EXPANSION];
	const utf8proc_property_t *p;

	if (c < 0x300)
		return true;
	decompose(k, c, d, EXPANSION);
	if (d[0] >= 0x1160 && d[0] <= 0x11FF)
		return false;
	p = utf8proc_get_property(d[0]);
	return p->category != UTF8PROC_CATEGORY_MN && p->category != UTF8PROC_CATEGORY_MC && p->category != UTF8PROC_CATEGORY_ME;
}

/* A starter that stays as it is when alone. */
static bool is_stable(enum kind k, uint32_t c)
{
	if (c < (k == K_NFC ? 0x300u : 0xA0u))
		return true;
	if ((k == K_NFD || k == K_NFKD) && c >= 0xAC00 && c <= 0xD7A3)
		return false;
	return c >= 0x300 && utf8proc_get_property((int32_t)c)->decomp_seqindex == UINT16_MAX && is_starter(k, c);
}

static void sort_marks(int32_t *c, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		int32_t x = c[i];
		int ccc = utf8proc_get_property(x)->combining_class;
		size_t j = i;

		if (!ccc)
			continue;
		while (j > 0 && utf8proc_get_property(c[j - 1])->combining_class > ccc) {
			c[j] = c[j - 1];
			j--;
		}
		c[j] = x;
	}
}

/* One run in[from, to): normalised and appended with the run's range. */
static void put_run(enum kind k, const struct astr *in, size_t from, size_t to, struct astr *out)
{
	int32_t few[RUN_ON_STACK * EXPANSION], *c = few;
	size_t n = 0, i, same = out->len;
	unsigned w;

	if (to - from > RUN_ON_STACK) /* bytes, so never fewer than its code points */
		c = xmalloc((to - from) * EXPANSION * sizeof(*c));
	for (i = from; i < to; i += w)
		n += decompose(k, utf8_get(in->s + i, &w), c + n, EXPANSION);
	sort_marks(c, n);
	if (k == K_NFC || k == K_NFKC) {
		utf8proc_ssize_t m = utf8proc_normalize_utf32(c, (utf8proc_ssize_t)n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);

		n = m < 0 ? n : (size_t)m;
	}
	for (i = 0; i < n; i++) {
		if (c[i] == 0x11938 && (k == K_NFC || k == K_NFKC) && to - from > 4) { /* composed by newer tables only */
			astr_put_cp(out, 0x11935, astr_begin(in, from), astr_end(in, to - 1));
			c[i] = 0x11930;
		}
		astr_put_cp(out, (uint32_t)c[i], astr_begin(in, from), astr_end(in, to - 1));
	}
	if (out->len - same == to - from && !memcmp(out->buf + same, in->s + from, to - from)) {
		out->len = same; /* nothing changed: keep each byte's own range */
		astr_copy(out, in, from, to - from);
	}
	if (c != few)
		free(c);
}

/* End of the run that begins at i; *stable: one character that stays. */
static size_t run_end(enum kind k, const struct astr *a, size_t i, bool *stable)
{
	unsigned w;
	uint32_t c = utf8_get(a->s + i, &w);
	size_t j = i + w, n = 1;

	*stable = is_stable(k, c);
	while (j < a->len && n < RUN_MAX && ((unsigned char)a->s[j] >= 0xCC)) {
		c = utf8_get(a->s + j, &w);
		if (is_starter(k, c))
			break;
		j += w;
		n++;
		*stable = false;
	}
	return j;
}

static void unicode_form(enum kind k, struct astr *a, struct astr *tmp)
{
	size_t i = 0, j, done = 0;
	bool stable, changed = false;

	while (i < a->len) {
		uint64_t w8;

		if (a->len - i > 8) { /* eight ASCII bytes with ASCII behind them */
			memcpy(&w8, a->s + i, 8);
			if (!(w8 & 0x8080808080808080u)) {
				i += 7;
				continue;
			}
		}
		j = run_end(k, a, i, &stable);
		if (!stable) {
			if (!changed)
				astr_start(tmp);
			changed = true;
			astr_copy(tmp, a, done, i - done);
			put_run(k, a, i, j, tmp);
			done = j;
		}
		i = j;
	}
	if (changed) {
		astr_copy(tmp, a, done, a->len - done);
		astr_swap(a, tmp);
	}
}

/* --- the others --- */

static void put_lower(struct astr *out, const struct astr *a, size_t i, unsigned w, uint32_t c)
{
	uint32_t l = (uint32_t)utf8proc_tolower((int32_t)c);

	if (c == 0x130) { /* the one letter whose lower case is two */
		astr_put(out, "i\xCC\x87", 3, astr_begin(a, i), astr_end(a, i + w - 1));
		return;
	}
	if (l == c)
		astr_copy(out, a, i, w);
	else
		astr_put_cp(out, l, astr_begin(a, i), astr_end(a, i + w - 1));
}

static bool is_chinese(uint32_t c)
{
	return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
	       (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

static bool nmt_dropped(uint32_t c)
{
	return (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
}

static bool nmt_space(uint32_t c)
{
	return c == 9 || c == 10 || c == 12 || c == 13 || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
	       c == 0xFEFF || c == 0xFFFD;
}

enum step { STEP_LOWER, STEP_ACCENTS, STEP_NONSPACING, STEP_NMT, STEP_CLEAN, STEP_CHINESE, STEP_BYTES };

/* One pass that maps character by character. */
struct marks {
	uint32_t lo, hi;
};

static bool among(const struct marks *m, size_t n, uint32_t c)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (c < m[mid].lo)
			hi = mid;
		else if (c > m[mid].hi)
			lo = mid + 1;
		else
			return true;
	}
	return false;
}

/* Does StripAccents take it out, or BertNormalizer? Each has a table of its own in the
 * reference, older than the others: marks that it does not know, and some that are none now. */
static bool is_accent(uint32_t c, uint32_t mask, bool bert)
{
	static const struct marks left[] = {
#include "text/tok_marks_tab.h"
	};
	static const struct marks left_bert[] = {
#include "text/tok_marks_bert_tab.h"
	};

	if (c < 0x300)
		return false;
	if (bert)
		return c == 0x1734 || c == 0x1171E || ((mask & 1u << UC_MN) && !among(left_bert, sizeof(left_bert) / sizeof(*left_bert), c));
	return c == 0x1CF2 || c == 0x1CF3 || ((mask & UM_M) && !among(left, sizeof(left) / sizeof(*left), c));
}

static void each_char(const struct tok_norm *n, enum step step, struct astr *a, struct astr *tmp)
{
	unsigned w;

	astr_start(tmp);
	for (size_t i = 0; i < a->len; i += w) {
		uint32_t c = utf8_get(a->s + i, &w), m = uni_mask(n->uni, c), b = astr_begin(a, i), e = astr_end(a, i + w - 1);

		if ((step == STEP_ACCENTS && is_accent(c, m, false)) || (step == STEP_NONSPACING && is_accent(c, m, true)) || (step == STEP_NMT && nmt_dropped(c)))
			continue;
		if (step == STEP_CLEAN && (c == 0 || c == 0xFFFD || (c != '\t' && c != '\n' && c != '\r' && (m & (1u << UC_CC | 1u << UC_CF | 1u << UC_CO)))))
			continue;
		if (step == STEP_LOWER) {
			put_lower(tmp, a, i, w, c);
		} else if (step == STEP_BYTES) {
			for (unsigned k = 0; k < w; k++)
				astr_put_cp(tmp, byte_to_char((unsigned char)a->s[i + k]), b, e);
		} else if ((step == STEP_NMT && nmt_space(c)) || (step == STEP_CLEAN && uni_is_space(c))) {
			astr_put(tmp, " ", 1, b, e);
		} else if (step == STEP_CHINESE && is_chinese(c)) {
			astr_put(tmp, " ", 1, b, e);
			astr_copy(tmp, a, i, w);
			astr_put(tmp, " ", 1, b, e);
		} else {
			astr_copy(tmp, a, i, w);
		}
	}
	astr_swap(a, tmp);
}

static int replace(const struct tok_norm *n, struct tok_re_mem *m, struct astr *a, struct astr *tmp, struct err *e)
{
	size_t from = 0, done = 0, b, end;
	bool changed = false;
	int rc;

	while (from <= a->len && (rc = tok_re_next(n->re, m, a->s, a->len, from, &b, &end)) != 0) {
		uint32_t ob, oe;

		if (rc < 0)
			return err_set(e, LP_DATA, "normalizer Replace: the pattern took too many steps");
		if (!changed)
			astr_start(tmp);
		changed = true;
		astr_copy(tmp, a, done, b - done);
		if (end > b) { /* what is put in place came from the last character, says the reference */
			ob = astr_begin(a, utf8_prev(a->s, end));
			oe = astr_end(a, end - 1);
		} else {
			ob = oe = b < a->len ? astr_begin(a, b) : b ? astr_end(a, b - 1) : a->ident ? a->base : 0;
		}
		astr_put(tmp, n->text, n->text_len, ob, oe);
		done = end;
		from = end > b ? end : b + (b < a->len ? utf8_len((unsigned char)a->s[b]) : 1);
	}
	if (changed) {
		astr_copy(tmp, a, done, a->len - done);
		astr_swap(a, tmp);
	}
	return 0;
}

static void strip(const struct tok_norm *n, struct astr *a, struct astr *tmp)
{
	size_t i = 0, j = a->len;
	unsigned w;

	while (n->left && i < j && uni_is_space(utf8_get(a->s + i, &w)))
		i += w;
	while (n->right && j > i && uni_is_space(utf8_get(a->s + utf8_prev(a->s, j), &w)))
		j = utf8_prev(a->s, j);
	if (i == 0 && j == a->len)
		return;
	astr_start(tmp);
	astr_copy(tmp, a, i, j - i);
	astr_swap(a, tmp);
}

static void bert(const struct tok_norm *n, struct astr *a, struct astr *tmp)
{
	if (n->clean)
		each_char(n, STEP_CLEAN, a, tmp);
	if (n->chinese)
		each_char(n, STEP_CHINESE, a, tmp);
	if (n->accents) {
		unicode_form(K_NFD, a, tmp);
		each_char(n, STEP_NONSPACING, a, tmp);
	}
	if (n->lower)
		each_char(n, STEP_LOWER, a, tmp);
}

/* End of the grapheme that begins at i. */
static size_t grapheme_end(const struct astr *a, size_t i)
{
	utf8proc_int32_t state = 0;
	unsigned w;
	uint32_t c = utf8_get(a->s + i, &w), next;

	if (c < 0x80 && c != '\r' && (i + 1 == a->len || (unsigned char)a->s[i + 1] < 0x80))
		return i + 1;
	for (i += w; i < a->len; i += w, c = next) {
		next = utf8_get(a->s + i, &w);
		if (utf8proc_grapheme_break_stateful((int32_t)c, (int32_t)next, &state))
			break;
	}
	return i;
}

/* The rule's text for a->s[b, e), each character with the range of its fellow. */
static void put_rule(struct astr *out, const char *rule, const struct astr *a, size_t b, size_t e)
{
	unsigned w, k = utf8_len((unsigned char)a->s[b]);

	for (; *rule; rule += w) {
		w = utf8_len((unsigned char)*rule);
		astr_put(out, rule, w, astr_begin(a, b), astr_end(a, b + k - 1));
		if (b + k < e) {
			b += k;
			k = utf8_len((unsigned char)a->s[b]);
		}
	}
}

/* As the reference does it: a short grapheme is replaced whole by the rule of its
 * shortest beginning that has one; else its characters one by one. */
static void precompiled(const struct tok_norm *n, struct astr *a, struct astr *tmp)
{
	const char *rule;
	size_t end, used;
	unsigned w;

	astr_start(tmp);
	for (size_t i = 0; i < a->len; i = end) {
		end = grapheme_end(a, i);
		rule = end - i < 6 ? charsmap_find(&n->map, a->s + i, end - i, true, &used) : NULL;
		if (rule) {
			put_rule(tmp, rule, a, i, end);
			continue;
		}
		for (size_t k = i; k < end; k += w) {
			w = utf8_len((unsigned char)a->s[k]);
			rule = charsmap_find(&n->map, a->s + k, w, true, &used);
			if (rule)
				put_rule(tmp, rule, a, k, k + w);
			else
				astr_copy(tmp, a, k, w);
		}
	}
	astr_swap(a, tmp);
}

static bool is_mark(const struct tok_norm *n)
{
	return n->text_len == 3 && !memcmp(n->text, "\xE2\x96\x81", 3);
}

bool tok_norm_marks(const struct tok_norm *n, bool *prefix)
{
	size_t last = n && n->kind == K_SEQ && n->n_seq ? n->n_seq - 1 : 0;

	*prefix = last == 1 && n->seq[0]->kind == K_PREPEND && is_mark(n->seq[0]);
	if (!n || last > 1 || (last == 1 && !*prefix) || (n->kind == K_SEQ && !n->n_seq))
		return false;
	if (n->kind == K_SEQ)
		n = n->seq[last];
	return n->kind == K_REPLACE && n->of_space && is_mark(n);
}

int tok_norm_apply(const struct tok_norm *n, struct tok_re_mem *m, struct astr *a, struct astr *tmp, struct err *e)
{
	if (!n || !a->len)
		return 0;
	switch (n->kind) {
	case K_NFC:
	case K_NFD:
	case K_NFKC:
	case K_NFKD:
		unicode_form(n->kind, a, tmp);
		return 0;
	case K_LOWER:
		each_char(n, STEP_LOWER, a, tmp);
		return 0;
	case K_PREPEND:
		astr_start(tmp);
		astr_put(tmp, n->text, n->text_len, astr_begin(a, 0), astr_end(a, 0));
		astr_copy(tmp, a, 0, a->len);
		astr_swap(a, tmp);
		return 0;
	case K_REPLACE:
		return replace(n, m, a, tmp, e);
	case K_STRIP:
		strip(n, a, tmp);
		return 0;
	case K_ACCENTS:
		each_char(n, STEP_ACCENTS, a, tmp);
		return 0;
	case K_BYTES:
		each_char(n, STEP_BYTES, a, tmp);
		return 0;
	case K_NMT:
		each_char(n, STEP_NMT, a, tmp);
		return 0;
	case K_BERT:
		bert(n, a, tmp);
		return 0;
	case K_CHARSMAP:
		precompiled(n, a, tmp);
		return 0;
	case K_SEQ:
		for (size_t i = 0; i < n->n_seq; i++)
			if (tok_norm_apply(n->seq[i], m, a, tmp, e))
				return -1;
		return 0;
	}
	return 0;
}
