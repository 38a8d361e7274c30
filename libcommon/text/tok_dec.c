/* Decoders: see tok_dec.h. */
#include "text/tok_dec.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "text/pretok.h"
#include "text/tok.h"
#include "text/utf8.h"

enum kind { K_BYTE_LEVEL, K_BYTE_FALLBACK, K_FUSE, K_REPLACE, K_STRIP, K_METASPACE, K_WORDPIECE, K_BPE, K_SEQ };

struct tok_dec {
	enum kind kind;
	struct tok_re *re;
	char *text; /* Replace: content; Strip, Metaspace: the character; WordPiece: prefix; BPE: suffix */
	size_t text_len;
	int64_t start, stop;
	bool flag; /* Metaspace: drops the first mark; WordPiece: cleans up */
	struct tok_dec **seq;
	size_t n_seq;
};

void tok_dec_free(struct tok_dec *d)
{
	if (!d)
		return;
	for (size_t i = 0; i < d->n_seq; i++)
		tok_dec_free(d->seq[i]);
	free(d->seq);
	tok_re_free(d->re);
	free(d->text);
	free(d);
}

/* --- reading --- */

static int load(const struct json *v, int depth, struct tok_dec **out, struct err *e) LP_MUST_USE;

static int load_text(struct tok_dec *d, const struct json *v, const char *key, const char *dflt, struct err *e)
{
	const char *s;

	if (!json_get_str(v, key, dflt, &s) || !s)
		return err_set(e, LP_DATA, "a decoder needs the string %s", key);
	d->text = xstrdup(s);
	d->text_len = strlen(s);
	return 0;
}

static int load_replace(struct tok_dec *d, const struct json *v, struct err *e)
{
	const struct json *p = json_get(v, "pattern"), *lit = json_get(p, "String"), *re = json_get(p, "Regex");

	d->kind = K_REPLACE;
	if (!json_is(lit, JSON_STR) && !json_is(re, JSON_STR))
		return err_set(e, LP_DATA, "decoder Replace needs a pattern (String or Regex)");
	d->re = json_is(lit, JSON_STR) ? tok_re_new_string(lit->s, lit->n, e) : tok_re_new(re->s, re->n, e);
	return d->re ? load_text(d, v, "content", NULL, e) : -1;
}

static int load_seq(struct tok_dec *d, const struct json *v, int depth, struct err *e)
{
	const struct json *list = json_get(v, "decoders");

	if (!json_is(list, JSON_ARR) || list->n > PRETOK_SEQ_MAX)
		return err_set(e, LP_DATA, "decoder Sequence needs a short list of decoders");
	d->kind = K_SEQ;
	d->seq = xcalloc(list->n + 1, sizeof(*d->seq));
	for (uint32_t i = 0; i < list->n; i++, d->n_seq++)
		if (load(&list->items[i], depth + 1, &d->seq[i], e))
			return -1;
	return 0;
}

static int load_metaspace(struct tok_dec *d, const struct json *v, struct err *e)
{
	const char *scheme;

	d->kind = K_METASPACE;
	if (!json_get_str(v, "prepend_scheme", "always", &scheme))
		return err_set(e, LP_DATA, "decoder Metaspace: prepend_scheme is not a string");
	d->flag = strcmp(scheme, "never") != 0;
	return load_text(d, v, "replacement", "\xE2\x96\x81", e);
}

static int load_one(struct tok_dec *d, const struct json *v, int depth, struct err *e)
{
	const char *type;

	if (!json_get_str(v, "type", NULL, &type) || !type)
		return err_set(e, LP_DATA, "a decoder has no type");
	if (!strcmp(type, "Sequence"))
		return load_seq(d, v, depth, e);
	if (!strcmp(type, "Replace"))
		return load_replace(d, v, e);
	if (!strcmp(type, "Metaspace"))
		return load_metaspace(d, v, e);
	if (!strcmp(type, "Strip")) {
		d->kind = K_STRIP;
		if (!json_get_i64(v, "start", 0, &d->start) || !json_get_i64(v, "stop", 0, &d->stop))
			return err_set(e, LP_DATA, "decoder Strip: start or stop is not a number");
		return load_text(d, v, "content", " ", e);
	}
	if (!strcmp(type, "WordPiece")) {
		d->kind = K_WORDPIECE;
		if (!json_get_bool(v, "cleanup", true, &d->flag))
			return err_set(e, LP_DATA, "decoder WordPiece: cleanup is not a boolean");
		return load_text(d, v, "prefix", "##", e);
	}
	if (!strcmp(type, "BPEDecoder")) {
		d->kind = K_BPE;
		return load_text(d, v, "suffix", "</w>", e);
	}
	if (!strcmp(type, "ByteLevel"))
		d->kind = K_BYTE_LEVEL;
	else if (!strcmp(type, "ByteFallback"))
		d->kind = K_BYTE_FALLBACK;
	else if (!strcmp(type, "Fuse"))
		d->kind = K_FUSE;
	else
		return err_set(e, LP_USAGE, "decoder '%s' is not supported", type);
	return 0;
}

static int load(const struct json *v, int depth, struct tok_dec **out, struct err *e)
{
	*out = NULL;
	if (!v || v->type == JSON_NULL)
		return 0;
	if (depth > TOK_DEPTH_MAX)
		return err_set(e, LP_DATA, "decoders are nested too deeply");
	*out = xcalloc(1, sizeof(**out));
	if (load_one(*out, v, depth, e)) {
		tok_dec_free(*out);
		*out = NULL;
		return -1;
	}
	return 0;
}

int tok_dec_new(const struct json *v, struct tok_dec **out, struct err *e)
{
	return load(v, 0, out, e);
}

/* --- applying --- */

/* As Rust's from_utf8_lossy: one U+FFFD for each maximal bad part. */
void tok_dec_lossy(struct sb *o, const char *s, size_t n)
{
	size_t complete = utf8_complete_len(s, n), i = 0;

	while (i < n) {
		size_t ok = utf8_valid_len(s + i, n - i), bad;

		sb_add(o, s + i, ok);
		i += ok;
		if (i >= n)
			break;
		if (i == complete) { /* unfinished at the end */
			sb_add(o, s + i, n - i);
			break;
		}
		for (bad = 1; i + bad < n && bad < 4 && utf8_complete_len(s + i, bad + 1) == 0; bad++)
			; /* still the beginning of a sequence */
		sb_adds(o, "\xEF\xBF\xBD");
		i += bad;
	}
}

static void take(struct dtoks *t, size_t i, struct sb *o)
{
	t->t[i].s = arena_strndup(&t->arena, sb_str(o), o->len);
	t->t[i].n = o->len;
	sb_reset(o);
}

static void byte_level(struct dtoks *t, struct sb *o)
{
	struct sb all = SB_INIT;

	for (size_t i = 0; i < t->n; i++) {
		const struct dtok *x = &t->t[i];
		size_t at = all.len;
		unsigned w;

		for (size_t k = 0; k < x->n; k += w) {
			int b = char_to_byte(utf8_get(x->s + k, &w));

			if (b < 0) { /* not byte-level: as it stands */
				all.len = at;
				sb_add(&all, x->s, x->n);
				break;
			}
			sb_addc(&all, (char)b);
		}
	}
	tok_dec_lossy(o, sb_str(&all), all.len);
	sb_release(&all);
	t->n = 1;
	take(t, 0, o);
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static void flush_bytes(struct sb *bytes, struct sb *o, bool last)
{
	size_t n = bytes->len, ok = utf8_valid_len(sb_str(bytes), n);

	if (ok == n || (last && ok == utf8_complete_len(bytes->s, n)))
		sb_add(o, sb_str(bytes), n);
	else
		for (size_t i = 0; i < n; i++)
			sb_adds(o, "\xEF\xBF\xBD");
	sb_reset(bytes);
}

static void byte_fallback(struct dtoks *t, struct sb *o)
{
	struct sb bytes = SB_INIT;
	size_t k = 0;

	for (size_t i = 0; i < t->n; i++) {
		struct dtok x = t->t[i];

		if (x.n == 6 && !memcmp(x.s, "<0x", 3) && x.s[5] == '>' && hex(x.s[3]) >= 0 && hex(x.s[4]) >= 0) {
			sb_addc(&bytes, (char)(hex(x.s[3]) << 4 | hex(x.s[4])));
			continue;
		}
		if (bytes.len) {
			flush_bytes(&bytes, o, false);
			take(t, k++, o);
		}
		t->t[k++] = x;
	}
	if (bytes.len) {
		flush_bytes(&bytes, o, true);
		take(t, k++, o);
	}
	t->n = k;
	sb_release(&bytes);
}

static int replace(const struct tok_dec *d, struct tok_re_mem *m, struct dtoks *t, struct sb *o, struct err *e)
{
	for (size_t i = 0; i < t->n; i++) {
		const char *s = t->t[i].s;
		size_t n = t->t[i].n, from = 0, done = 0, b, end;
		int rc;

		while (from <= n && (rc = tok_re_next(d->re, m, s, n, from, &b, &end)) != 0) {
			if (rc < 0)
				return err_set(e, LP_DATA, "decoder Replace: the pattern took too many steps");
			sb_add(o, s + done, b - done);
			sb_add(o, d->text, d->text_len);
			done = end;
			from = end > b ? end : b + (b < n ? utf8_len((unsigned char)s[b]) : 1);
		}
		if (!done && !o->len)
			continue;
		sb_add(o, s + done, n - done);
		take(t, i, o);
	}
	return 0;
}

static void strip(const struct tok_dec *d, struct dtok *x)
{
	size_t w = d->text_len;

	for (int64_t i = 0; w && i < d->start && x->n >= w && !memcmp(x->s, d->text, w); i++) {
		x->s += w;
		x->n -= w;
	}
	for (int64_t i = 0; w && i < d->stop && x->n >= w && !memcmp(x->s + x->n - w, d->text, w); i++)
		x->n -= w;
}

static void metaspace(const struct tok_dec *d, struct dtoks *t, struct sb *o)
{
	for (size_t i = 0; i < t->n; i++) {
		const char *s = t->t[i].s, *end = s + t->t[i].n, *p;

		for (; d->text_len && (p = memmem(s, (size_t)(end - s), d->text, d->text_len)) != NULL; s = p + d->text_len) {
			sb_add(o, s, (size_t)(p - s));
			if (i || !d->flag)
				sb_addc(o, ' ');
		}
		sb_add(o, s, (size_t)(end - s));
		take(t, i, o);
	}
}

static void replace_all(struct sb *b, const char *what, const char *with)
{
	struct sb o = SB_INIT;
	const char *s = sb_str(b), *p;

	for (; (p = strstr(s, what)) != NULL; s = p + strlen(what)) {
		sb_add(&o, s, (size_t)(p - s));
		sb_adds(&o, with);
	}
	sb_adds(&o, s);
	sb_release(b);
	*b = o;
}

static void word_pieces(const struct tok_dec *d, struct dtoks *t, struct sb *o)
{
	static const char *const clean[][2] = { { " .", "." }, { " ?", "?" }, { " !", "!" }, { " ,", "," }, { " ' ", "'" }, { " n't", "n't" },
		{ " 'm", "'m" }, { " do not", " don't" }, { " 's", "'s" }, { " 've", "'ve" }, { " 're", "'re" } };

	for (size_t i = 0; i < t->n; i++) {
		struct dtok x = t->t[i];

		if (i && x.n >= d->text_len && !memcmp(x.s, d->text, d->text_len)) {
			x.s += d->text_len;
			x.n -= d->text_len;
		} else if (i) {
			sb_addc(o, ' ');
		}
		sb_add(o, x.s, x.n);
		for (size_t k = 0; d->flag && k < sizeof(clean) / sizeof(*clean); k++)
			replace_all(o, clean[k][0], clean[k][1]);
		take(t, i, o);
	}
}

static void bpe_suffix(const struct tok_dec *d, struct dtoks *t, struct sb *o)
{
	for (size_t i = 0; i < t->n; i++) {
		sb_add(o, t->t[i].s, t->t[i].n);
		if (d->text_len && o->len)
			replace_all(o, d->text, i + 1 < t->n ? " " : "");
		take(t, i, o);
	}
}

static int apply(const struct tok_dec *d, struct tok_re_mem *m, struct dtoks *t, struct sb *o, struct err *e)
{
	switch (d->kind) {
	case K_BYTE_LEVEL:
		byte_level(t, o);
		return 0;
	case K_BYTE_FALLBACK:
		byte_fallback(t, o);
		return 0;
	case K_FUSE:
		for (size_t i = 0; i < t->n; i++)
			sb_add(o, t->t[i].s, t->t[i].n);
		t->n = 1;
		take(t, 0, o);
		return 0;
	case K_REPLACE:
		return replace(d, m, t, o, e);
	case K_STRIP:
		for (size_t i = 0; i < t->n; i++)
			strip(d, &t->t[i]);
		return 0;
	case K_METASPACE:
		metaspace(d, t, o);
		return 0;
	case K_WORDPIECE:
		word_pieces(d, t, o);
		return 0;
	case K_BPE:
		bpe_suffix(d, t, o);
		return 0;
	case K_SEQ:
		for (size_t i = 0; i < d->n_seq; i++)
			if (d->seq[i] && apply(d->seq[i], m, t, o, e))
				return -1;
		return 0;
	}
	return 0;
}

int tok_dec_apply(const struct tok_dec *d, struct tok_re_mem *m, struct dtoks *t, struct err *e)
{
	struct sb o = SB_INIT;
	int rc = d && t->n ? apply(d, m, t, &o, e) : 0;

	sb_release(&o);
	return rc;
}
