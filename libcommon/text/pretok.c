/* Pre-tokenisers: reading them, and cutting pieces. */
#include "text/pretok.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "text/tok_uni.h"
#include "text/utf8.h"

enum kind { K_BYTE_LEVEL, K_SPLIT, K_METASPACE, K_DIGITS, K_PUNCT, K_WHITESPACE, K_WHITESPACE_SPLIT, K_CHAR, K_BERT, K_FIXED, K_SEQ };
enum scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };

struct pretok {
	enum kind kind;
	const uint8_t *uni;
	/* Split, ByteLevel: */
	struct tok_re *re;
	pretok_scan_fn *scan;
	enum split_behavior behavior;
	bool invert;
	bool prefix_space, use_regex;
	bool of_space; /* splits at a space */
	/* Metaspace, CharDelimiterSplit: */
	char mark[5];
	size_t mark_len;
	enum scheme scheme;
	bool split;
	bool individual;  /* Digits */
	int64_t length;   /* FixedLength */
	struct pretok **seq;
	size_t n_seq;
};

void pretok_free(struct pretok *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->n_seq; i++)
		pretok_free(p->seq[i]);
	free(p->seq);
	tok_re_free(p->re);
	free(p);
}

/* --- bytes as characters --- */

uint32_t byte_to_char(unsigned char b)
{
	if ((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174)
		return b;
	return b <= 32 ? 256u + b : b <= 160 ? 256u + 33 + (b - 127u) : 256u + 67; /* 173 is the last */
}

int char_to_byte(uint32_t c)
{
	if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255))
		return (int)c;
	if (c < 256 || c > 256 + 67)
		return -1;
	c -= 256;
	return c <= 32 ? (int)c : c <= 66 ? (int)(c - 33 + 127) : 173;
}

/* --- reading --- */

static int load(const struct json *v, const uint8_t *uni, int depth, struct pretok **out, struct err *e) LP_MUST_USE;

static int load_behavior(const struct json *v, const char *dflt, enum split_behavior *out, struct err *e)
{
	static const char *const names[] = { "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous" };
	const char *s;

	if (json_get_str(v, "behavior", dflt, &s) && s)
		for (unsigned i = 0; i < 5; i++)
			if (!strcmp(s, names[i])) {
				*out = (enum split_behavior)i;
				return 0;
			}
	return err_set(e, LP_DATA, "a pre-tokenizer has an unknown behavior");
}

static int load_split(const struct json *v, struct pretok *p, struct err *e)
{
	const struct json *pat = json_get(v, "pattern"), *lit = json_get(pat, "String"), *re = json_get(pat, "Regex");

	p->kind = K_SPLIT;
	if (load_behavior(v, NULL, &p->behavior, e))
		return -1;
	if (!json_get_bool(v, "invert", false, &p->invert))
		return err_set(e, LP_DATA, "pre-tokenizer Split: invert is not a boolean");
	if (json_is(lit, JSON_STR))
		p->re = tok_re_new_string(lit->s, lit->n, e);
	else if (json_is(re, JSON_STR))
		p->re = tok_re_new(re->s, re->n, e);
	else
		return err_set(e, LP_DATA, "pre-tokenizer Split needs a pattern (String or Regex)");
	if (!p->re)
		return -1;
	p->of_space = json_is(lit, JSON_STR) && json_str_is(lit, " ") && !p->invert;
	if (json_is(re, JSON_STR) && p->behavior == SPLIT_ISOLATED)
		p->scan = pretok_scan_for(re->s, re->n);
	return 0;
}

static int load_mark(const struct json *v, const char *key, const char *dflt, struct pretok *p, struct err *e)
{
	const char *s;

	if (!json_get_str(v, key, dflt, &s) || !s || !*s || strlen(s) != utf8_len((unsigned char)*s))
		return err_set(e, LP_DATA, "pre-tokenizer: %s must be one character", key);
	p->mark_len = strlen(s);
	memcpy(p->mark, s, p->mark_len);
	return 0;
}

static int load_metaspace(const struct json *v, struct pretok *p, struct err *e)
{
	const char *scheme;
	bool prefix;

	p->kind = K_METASPACE;
	if (load_mark(v, "replacement", "\xE2\x96\x81", p, e))
		return -1;
	if (!json_get_str(v, "prepend_scheme", "always", &scheme) || !json_get_bool(v, "add_prefix_space", true, &prefix) ||
	    !json_get_bool(v, "split", true, &p->split))
		return err_set(e, LP_DATA, "pre-tokenizer Metaspace: a field has the wrong type");
	if (!strcmp(scheme, "always"))
		p->scheme = PREPEND_ALWAYS;
	else if (!strcmp(scheme, "first"))
		p->scheme = PREPEND_FIRST;
	else if (!strcmp(scheme, "never"))
		p->scheme = PREPEND_NEVER;
	else
		return err_set(e, LP_DATA, "pre-tokenizer Metaspace: unknown prepend_scheme '%s'", scheme);
	if (!prefix && p->scheme != PREPEND_NEVER)
		return err_set(e, LP_DATA, "pre-tokenizer Metaspace: add_prefix_space does not match prepend_scheme");
	return 0;
}

static int load_seq(const struct json *v, struct pretok *p, int depth, struct err *e)
{
	const struct json *list = json_get(v, "pretokenizers");

	if (!json_is(list, JSON_ARR) || list->n > PRETOK_SEQ_MAX)
		return err_set(e, LP_DATA, "pre-tokenizer Sequence needs a short list of pretokenizers");
	p->kind = K_SEQ;
	p->seq = xcalloc(list->n + 1, sizeof(*p->seq));
	for (uint32_t i = 0; i < list->n; i++) {
		if (load(&list->items[i], p->uni, depth + 1, &p->seq[p->n_seq], e))
			return -1;
		p->n_seq += p->seq[p->n_seq] != NULL;
	}
	return 0;
}

static int load_byte_level(const struct json *v, struct pretok *p, struct err *e)
{
	p->kind = K_BYTE_LEVEL;
	p->behavior = SPLIT_ISOLATED;
	p->scan = pretok_scan_for(pretok_gpt2_pattern, strlen(pretok_gpt2_pattern));
	if (!json_get_bool(v, "add_prefix_space", true, &p->prefix_space) || !json_get_bool(v, "use_regex", true, &p->use_regex))
		return err_set(e, LP_DATA, "pre-tokenizer ByteLevel: a flag is not a boolean");
	return 0;
}

static int load_one(const struct json *v, struct pretok *p, int depth, struct err *e)
{
	const char *type;

	if (!json_get_str(v, "type", NULL, &type) || !type)
		return err_set(e, LP_DATA, "a pre-tokenizer has no type");
	p->behavior = SPLIT_REMOVED;
	if (!strcmp(type, "Sequence"))
		return load_seq(v, p, depth, e);
	if (!strcmp(type, "ByteLevel"))
		return load_byte_level(v, p, e);
	if (!strcmp(type, "Split"))
		return load_split(v, p, e);
	if (!strcmp(type, "Metaspace"))
		return load_metaspace(v, p, e);
	if (!strcmp(type, "Digits")) {
		p->kind = K_DIGITS;
		if (!json_get_bool(v, "individual_digits", false, &p->individual))
			return err_set(e, LP_DATA, "pre-tokenizer Digits: individual_digits is not a boolean");
		p->behavior = p->individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
		return 0;
	}
	if (!strcmp(type, "Punctuation")) {
		p->kind = K_PUNCT;
		return load_behavior(v, "Isolated", &p->behavior, e);
	}
	if (!strcmp(type, "CharDelimiterSplit")) {
		p->kind = K_CHAR;
		return load_mark(v, "delimiter", NULL, p, e);
	}
	if (!strcmp(type, "FixedLength")) {
		p->kind = K_FIXED;
		if (!json_get_i64(v, "length", 5, &p->length) || p->length < 1)
			return err_set(e, LP_DATA, "pre-tokenizer FixedLength: length must be at least 1");
		return 0;
	}
	if (!strcmp(type, "Whitespace"))
		p->kind = K_WHITESPACE;
	else if (!strcmp(type, "WhitespaceSplit"))
		p->kind = K_WHITESPACE_SPLIT;
	else if (!strcmp(type, "BertPreTokenizer"))
		p->kind = K_BERT;
	else
		return err_set(e, LP_USAGE, "pre-tokenizer '%s' is not supported", type);
	return 0;
}

static int load(const struct json *v, const uint8_t *uni, int depth, struct pretok **out, struct err *e)
{
	*out = NULL;
	if (!v || v->type == JSON_NULL)
		return 0;
	if (depth > TOK_DEPTH_MAX)
		return err_set(e, LP_DATA, "pre-tokenizers are nested too deeply");
	*out = xcalloc(1, sizeof(**out));
	(*out)->uni = uni;
	if (load_one(v, *out, depth, e)) {
		pretok_free(*out);
		*out = NULL;
		return -1;
	}
	return 0;
}

int pretok_new(const struct json *v, const uint8_t *uni, struct pretok **out, struct err *e)
{
	return load(v, uni, 0, out, e);
}

/* --- what the whole of it amounts to --- */

bool pretok_is_byte_level(const struct pretok *p)
{
	if (!p)
		return false;
	if (p->kind == K_SEQ)
		return p->n_seq && pretok_is_byte_level(p->seq[p->n_seq - 1]);
	return p->kind == K_BYTE_LEVEL;
}

pretok_scan_fn *pretok_single(const struct pretok *p)
{
	if (!p)
		return NULL;
	if (p->kind == K_SEQ && p->n_seq == 1)
		return pretok_single(p->seq[0]);
	if (p->kind == K_BYTE_LEVEL)
		return p->use_regex && !p->prefix_space ? p->scan : NULL;
	if (p->kind != K_SEQ || p->n_seq != 2 || p->seq[0]->kind != K_SPLIT || p->seq[1]->kind != K_BYTE_LEVEL)
		return NULL;
	if (p->seq[1]->use_regex || p->seq[1]->prefix_space)
		return NULL;
	return p->seq[0]->scan; /* a tiling: inverted or not, isolated is the same */
}

bool pretok_marks(const struct pretok *p, bool normalised, struct marking *m)
{
	if (normalised)
		return !p || (p->kind == K_SPLIT && p->of_space); /* which finds none */
	if (!p || p->kind != K_METASPACE || p->split || p->mark_len != 3 || memcmp(p->mark, "\xE2\x96\x81", 3) != 0)
		return false;
	*m = (struct marking){ .prefix = p->scheme != PREPEND_NEVER, .only_first = p->scheme == PREPEND_FIRST, .unless_space = true };
	return true;
}

/* --- cutting --- */

void pretok_mem_init(struct pretok_mem *m)
{
	memset(m, 0, sizeof(*m));
}

void pretok_mem_release(struct pretok_mem *m)
{
	astr_release(&m->tmp);
	free(m->tmp_l.p);
	free(m->cuts.p);
}

#define SCAN_AHEAD 64 /* pieces found in one call */

/* cuts: consecutive ranges of s[0..n), id 1 where the pattern matched, else 0. */
static int cut_regex(const struct pretok *p, struct pretok_mem *m, const char *s, size_t n, struct err *e)
{
	size_t from = 0, done = 0, b, end;
	bool any = false;
	int rc;

	m->cuts.n = 0;
	if (p->scan) {
		uint32_t ends[SCAN_AHEAD];

		for (size_t i = 0, k; (k = p->scan(p->uni, s, i, n, ends, SCAN_AHEAD)) != 0;)
			for (size_t w = 0; w < k; i = ends[w++])
				pieces_add(&m->cuts, i, ends[w] - i, 1);
		return 0;
	}
	while (from <= n && (rc = tok_re_next(p->re, m->re, s, n, from, &b, &end)) != 0) {
		if (rc < 0)
			return err_set(e, LP_DATA, "a pre-tokenizer's pattern took too many steps");
		if (b == end && any && b == done) { /* no empty match right behind a match */
			from = b + (b < n ? utf8_len((unsigned char)s[b]) : 1);
			continue;
		}
		if (b > done)
			pieces_add(&m->cuts, done, b - done, 0);
		pieces_add(&m->cuts, b, end - b, 1);
		done = end;
		any = true;
		from = end > b ? end : b + (b < n ? utf8_len((unsigned char)s[b]) : 1);
	}
	if (done < n)
		pieces_add(&m->cuts, done, n - done, 0);
	return 0;
}

static bool char_matches(const struct pretok *p, enum kind kind, uint32_t c)
{
	switch (kind) {
	case K_DIGITS:
		return uni_class(p->uni, c) & UNI_NUMERIC;
	case K_PUNCT:
		return uni_class(p->uni, c) & UNI_PUNCT;
	case K_WHITESPACE_SPLIT:
		return uni_is_space(c);
	default: {
		unsigned w;

		return c == utf8_get(p->mark, &w);
	}
	}
}

static void cut_chars(const struct pretok *p, enum kind kind, struct pretok_mem *m, const char *s, size_t n)
{
	size_t done = 0;
	unsigned w;

	m->cuts.n = 0;
	for (size_t i = 0; i < n; i += w)
		if (char_matches(p, kind, utf8_get(s + i, &w))) {
			if (i > done)
				pieces_add(&m->cuts, done, i - done, 0);
			pieces_add(&m->cuts, i, w, 1);
			done = i + w;
		}
	if (done < n)
		pieces_add(&m->cuts, done, n - done, 0);
}

/* Whitespace: \w+|[^\w\s]+ are the pieces, the rest goes. */
static void cut_words(const struct pretok *p, struct pretok_mem *m, const char *s, size_t n)
{
	int was = -1;
	unsigned w;

	m->cuts.n = 0;
	for (size_t i = 0; i < n; i += w) {
		uint32_t c = utf8_get(s + i, &w);
		int is = uni_is_word_rust(p->uni, c) ? 0 : uni_is_space(c) ? 1 : 2;

		if (is == was && m->cuts.n)
			m->cuts.p[m->cuts.n - 1].len += w;
		else
			pieces_add(&m->cuts, i, w, is == 1);
		was = is;
	}
}

static void cut_fixed(const struct pretok *p, struct pretok_mem *m, const char *s, size_t n)
{
	m->cuts.n = 0;
	for (size_t i = 0, j; i < n; i = j) {
		int64_t k = 0;

		for (j = i; j < n && k < p->length; k++)
			j += utf8_len((unsigned char)s[j]);
		pieces_add(&m->cuts, i, j - i, 0);
	}
}

static void add_nonempty(struct pieces *l, size_t off, size_t len)
{
	if (len)
		pieces_add(l, off, len, -1);
}

/* Joins or drops the cuts as the behaviour says; the pieces go to out. */
static void behave(struct pieces *cuts, enum split_behavior how, bool invert, size_t base, struct pieces *out)
{
	struct piece *c = cuts->p;
	size_t n = cuts->n, k = 0;
	bool was = false;

	for (size_t i = 0; i < n && invert; i++)
		c[i].id = !c[i].id;
	if (how == SPLIT_MERGED_NEXT) { /* from the end, then in order */
		size_t to = n;

		for (size_t i = n; i-- > 0;) {
			bool is = c[i].id == 1;

			if (is && !was && to < n) {
				c[to].len += c[to].off - c[i].off;
				c[to].off = c[i].off;
			} else {
				c[--to] = c[i];
			}
			was = is;
		}
		for (; to < n; to++)
			add_nonempty(out, base + c[to].off, c[to].len);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		bool is = c[i].id == 1;
		bool join = how == SPLIT_CONTIGUOUS ? is == was : how == SPLIT_MERGED_PREVIOUS && is && !was;

		was = is;
		if (how == SPLIT_REMOVED && is)
			continue;
		if (join && k)
			c[k - 1].len = c[i].off + c[i].len - c[k - 1].off;
		else
			c[k++] = c[i];
	}
	for (size_t i = 0; i < k; i++)
		add_nonempty(out, base + c[i].off, c[i].len);
}

/* One simple step over every piece. */
static int step_split(const struct pretok *p, enum kind kind, enum split_behavior how, struct pretok_mem *m, const struct astr *a, struct pieces *l, struct err *e)
{
	m->tmp_l.n = 0;
	for (size_t i = 0; i < l->n; i++) {
		struct piece x = l->p[i];
		const char *s = a->s + x.off;

		if (x.id >= 0) {
			pieces_add(&m->tmp_l, x.off, x.len, x.id);
			continue;
		}
		switch (kind) {
		case K_SPLIT:
		case K_BYTE_LEVEL:
			if (cut_regex(p, m, s, x.len, e))
				return -1;
			break;
		case K_WHITESPACE:
			cut_words(p, m, s, x.len);
			break;
		case K_FIXED:
			cut_fixed(p, m, s, x.len);
			break;
		default:
			cut_chars(p, kind, m, s, x.len);
		}
		behave(&m->cuts, how, kind == K_SPLIT && p->invert, x.off, &m->tmp_l);
	}
	struct pieces t = *l;
	*l = m->tmp_l;
	m->tmp_l = t;
	return 0;
}

/* Rewrites every piece: Metaspace's marks, ByteLevel's prefix and mapping. */
enum rewrite { RW_MARKS, RW_PREFIX, RW_MAP };

static void put_piece(const struct pretok *p, enum rewrite rw, const struct astr *a, struct piece x, struct astr *out)
{
	size_t end = x.off + x.len, i = x.off, j;

	if (rw == RW_PREFIX) {
		if (x.len && a->s[i] != ' ')
			astr_put(out, " ", 1, astr_begin(a, i), astr_end(a, i));
		astr_copy(out, a, i, x.len);
	} else if (rw == RW_MAP) {
		for (; i < end; i++)
			astr_put_cp(out, byte_to_char((unsigned char)a->s[i]), astr_begin(a, i), astr_end(a, i));
	} else {
		bool marked = a->s[i] == ' ' || (x.len >= p->mark_len && !memcmp(a->s + i, p->mark, p->mark_len));

		if (!marked && (p->scheme == PREPEND_ALWAYS || (p->scheme == PREPEND_FIRST && astr_begin(a, i) == 0)))
			astr_put(out, p->mark, p->mark_len, astr_begin(a, i), astr_end(a, i));
		while (i < end) {
			const char *sp = memchr(a->s + i, ' ', end - i);

			j = sp ? (size_t)(sp - a->s) : end;
			astr_copy(out, a, i, j - i);
			if (sp)
				astr_put(out, p->mark, p->mark_len, astr_begin(a, j), astr_end(a, j));
			i = j + 1;
		}
	}
}

static void step_rewrite(const struct pretok *p, enum rewrite rw, struct pretok_mem *m, struct astr *a, struct pieces *l)
{
	astr_start(&m->tmp);
	for (size_t i = 0; i < l->n; i++) {
		size_t at = m->tmp.len;

		if (l->p[i].id >= 0)
			astr_copy(&m->tmp, a, l->p[i].off, l->p[i].len);
		else if (l->p[i].len)
			put_piece(p, rw, a, l->p[i], &m->tmp);
		l->p[i].off = at;
		l->p[i].len = m->tmp.len - at;
	}
	astr_swap(a, &m->tmp);
}

static int apply_metaspace(const struct pretok *p, struct pretok_mem *m, struct astr *a, struct pieces *l, struct err *e)
{
	step_rewrite(p, RW_MARKS, m, a, l);
	return p->split ? step_split(p, K_CHAR, SPLIT_MERGED_NEXT, m, a, l, e) : 0;
}

int pretok_apply(const struct pretok *p, struct pretok_mem *m, struct astr *a, struct pieces *l, bool map, struct err *e)
{
	if (!p)
		return 0;
	switch (p->kind) {
	case K_SEQ:
		for (size_t i = 0; i < p->n_seq; i++)
			if (pretok_apply(p->seq[i], m, a, l, map || i + 1 < p->n_seq, e))
				return -1;
		return 0;
	case K_BYTE_LEVEL:
		if (p->prefix_space)
			step_rewrite(p, RW_PREFIX, m, a, l);
		if (p->use_regex && step_split(p, K_BYTE_LEVEL, SPLIT_ISOLATED, m, a, l, e))
			return -1;
		if (map)
			step_rewrite(p, RW_MAP, m, a, l);
		return 0;
	case K_METASPACE:
		return apply_metaspace(p, m, a, l, e);
	case K_BERT:
		return step_split(p, K_WHITESPACE_SPLIT, SPLIT_REMOVED, m, a, l, e) || step_split(p, K_PUNCT, SPLIT_ISOLATED, m, a, l, e) ? -1 : 0;
	case K_FIXED:
		return step_split(p, K_FIXED, SPLIT_ISOLATED, m, a, l, e);
	default:
		return step_split(p, p->kind, p->behavior, m, a, l, e);
	}
}
