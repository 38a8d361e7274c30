/* One tokeniser: added tokens, normaliser, pre-tokeniser, model, decoder, in
 * the reference's order. A struct tok does not change after tok_new; what a
 * call writes is taken from a pool, one set for each thread at work. */
#include "text/tok.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/in.h"
#include "base/xalloc.h"
#include "text/bpe.h"
#include "text/pretok.h"
#include "text/tok_added.h"
#include "text/tok_dec.h"
#include "text/tok_models.h"
#include "text/tok_norm.h"
#include "text/tok_uni.h"
#include "text/utf8.h"

#define TOKENIZER_JSON_MAX (512u << 20)

struct tok_mem {
	struct tok_mem *next;
	struct tok_re_mem *re;
	struct bpe_mem *bpe;
	struct unigram_mem *unigram;
	struct pretok_mem pretok;
	struct astr text, tmp;
	struct pieces segments, pieces;
	struct mtoks toks;
};
struct tok_pool {
	pthread_mutex_t lock;
	struct tok_mem *free;
};

struct tok {
	uint8_t *uni;
	struct vocab vocab;
	struct tok_norm *norm;
	struct pretok *pretok;
	struct tok_dec *dec;
	struct bpe *bpe; /* one of the three is set */
	struct unigram *unigram;
	struct wordpiece *wordpiece;
	struct added added;
	bool map;             /* pieces go to the model as mapped characters */
	pretok_scan_fn *scan; /* the whole pre-tokeniser, when it is a known pattern */
	int64_t n_ids;
	int32_t bos, eos;
	struct tok_pool *pool;
};

/* --- scratch --- */

static void mem_free(struct tok_mem *m)
{
	tok_re_mem_free(m->re);
	bpe_mem_free(m->bpe);
	unigram_mem_free(m->unigram);
	pretok_mem_release(&m->pretok);
	astr_release(&m->text);
	astr_release(&m->tmp);
	free(m->segments.p);
	free(m->pieces.p);
	free(m->toks.t);
	free(m);
}

static struct tok_mem *mem_get(const struct tok *t, struct err *e)
{
	struct tok_mem *m;

	pthread_mutex_lock(&t->pool->lock);
	m = t->pool->free;
	if (m)
		t->pool->free = m->next;
	pthread_mutex_unlock(&t->pool->lock);
	if (m)
		return m;
	m = xcalloc(1, sizeof(*m));
	m->re = tok_re_mem_new();
	if (!m->re) {
		free(m);
		err_set(e, LP_DEVICE, "out of memory for patterns");
		return NULL;
	}
	pretok_mem_init(&m->pretok);
	m->pretok.re = m->re;
	if (t->bpe)
		m->bpe = bpe_mem_new();
	if (t->unigram)
		m->unigram = unigram_mem_new();
	return m;
}

static void mem_put(const struct tok *t, struct tok_mem *m)
{
	pthread_mutex_lock(&t->pool->lock);
	m->next = t->pool->free;
	t->pool->free = m;
	pthread_mutex_unlock(&t->pool->lock);
}

/* --- reading --- */

void tok_free(struct tok *t)
{
	struct tok_mem *m;

	if (!t)
		return;
	while (t->pool && (m = t->pool->free) != NULL) {
		t->pool->free = m->next;
		mem_free(m);
	}
	if (t->pool)
		pthread_mutex_destroy(&t->pool->lock);
	free(t->pool);
	added_release(&t->added);
	tok_dec_free(t->dec);
	pretok_free(t->pretok);
	tok_norm_free(t->norm);
	bpe_free(t->bpe);
	unigram_free(t->unigram);
	wordpiece_free(t->wordpiece);
	vocab_release(&t->vocab);
	free(t->uni);
	free(t);
}

static int load_model(struct tok *t, const struct json *m, struct err *e)
{
	const char *type;

	if (!json_is(m, JSON_OBJ) || !json_get_str(m, "type", NULL, &type))
		return err_set(e, LP_DATA, "it has no model");
	if (!type) /* files of the first releases */
		type = json_get(m, "merges") ? "BPE" : json_is(json_get(m, "vocab"), JSON_ARR) ? "Unigram" : "WordPiece";
	if (!strcmp(type, "Unigram")) {
		t->unigram = unigram_new(m, &t->vocab, e);
		return t->unigram ? 0 : -1;
	}
	if (strcmp(type, "BPE") && strcmp(type, "WordPiece") && strcmp(type, "WordLevel"))
		return err_set(e, LP_USAGE, "model '%s' is not supported", type);
	if (vocab_from_obj(&t->vocab, json_get(m, "vocab"), e))
		return -1;
	if (!strcmp(type, "BPE")) {
		t->bpe = bpe_new(m, &t->vocab, pretok_is_byte_level(t->pretok), e);
		return t->bpe ? 0 : -1;
	}
	t->wordpiece = wordpiece_new(m, &t->vocab, !strcmp(type, "WordLevel"), e);
	return t->wordpiece ? 0 : -1;
}

static int check_post_processor(const struct json *v, int depth, struct err *e)
{
	static const char *const known[] = { "TemplateProcessing", "ByteLevel", "BertProcessing", "RobertaProcessing", "Sequence" };
	const struct json *list = json_get(v, "processors");
	const char *type;

	if (!v || v->type == JSON_NULL)
		return 0;
	if (!json_get_str(v, "type", NULL, &type) || !type || depth > TOK_DEPTH_MAX)
		return err_set(e, LP_DATA, "its post_processor has no type");
	for (uint32_t i = 0; json_is(list, JSON_ARR) && i < list->n; i++)
		if (check_post_processor(&list->items[i], depth + 1, e))
			return -1;
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (!strcmp(type, known[i]))
			return 0;
	return err_set(e, LP_USAGE, "post-processor '%s' is not supported", type);
}

static int load(struct tok *t, const struct json *v, struct err *e)
{
	if (!json_is(v, JSON_OBJ))
		return err_set(e, LP_DATA, "not an object");
	t->uni = uni_table_new();
	if (!t->uni)
		return err_set(e, LP_DEVICE, "out of memory for the character table");
	if (tok_norm_new(json_get(v, "normalizer"), t->uni, &t->norm, e) || pretok_new(json_get(v, "pre_tokenizer"), t->uni, &t->pretok, e) ||
	    tok_dec_new(json_get(v, "decoder"), &t->dec, e) || check_post_processor(json_get(v, "post_processor"), 0, e) ||
	    load_model(t, json_get(v, "model"), e) || added_load(&t->added, json_get(v, "added_tokens"), &t->vocab, t->norm, t->uni, e))
		return -1;
	t->map = !(t->bpe && bpe_byte_mode(t->bpe));
	t->scan = t->map ? NULL : pretok_single(t->pretok);
	t->n_ids = (int64_t)t->vocab.n_ids;
	for (size_t i = 0; i < t->added.n; i++)
		if (t->added.t[i].id >= t->n_ids)
			t->n_ids = (int64_t)t->added.t[i].id + 1;
	return 0;
}

/* A special token of tokenizer_config.json: text, or an object with content. */
static int32_t config_token(const struct tok *t, const struct json *config, const char *key)
{
	const struct json *v = json_get(config, key);

	if (json_is(v, JSON_OBJ))
		v = json_get(v, "content");
	return json_is(v, JSON_STR) ? tok_id(t, v->s) : -1;
}

static int parse(struct json_parser *p, const char *text, size_t len, struct arena *a, struct json *out, struct err *e)
{
	char *pad = lp_try_alloc(len + JSON_PADDING, 1, "tokenizer.json", e);
	int rc;

	if (!pad)
		return -1;
	memcpy(pad, text, len);
	memset(pad + len, 0, JSON_PADDING);
	rc = json_parse(p, pad, len, a, out, e);
	free(pad);
	return rc;
}

struct tok *tok_new(const char *tokenizer_json, size_t len, const char *config_json, const char *name, struct err *e)
{
	struct tok *t = xcalloc(1, sizeof(*t));
	struct json_parser *p = json_parser_new();
	struct arena a = ARENA_INIT;
	struct json v;
	int rc;

	t->bos = t->eos = -1;
	t->pool = xcalloc(1, sizeof(*t->pool));
	pthread_mutex_init(&t->pool->lock, NULL);
	rc = parse(p, tokenizer_json, len, &a, &v, e);
	if (!rc)
		rc = load(t, &v, e);
	if (!rc && config_json) {
		arena_reset(&a);
		rc = parse(p, config_json, strlen(config_json), &a, &v, e);
		if (!rc) {
			t->bos = config_token(t, &v, "bos_token");
			t->eos = config_token(t, &v, "eos_token");
		}
	}
	json_parser_free(p);
	arena_release(&a);
	if (!rc)
		return t;
	err_where(e, name, 0);
	tok_free(t);
	return NULL;
}

struct tok *tok_load_dir(const char *model_dir, struct err *e)
{
	char *path = xasprintf("%s/tokenizer.json", model_dir), *config_path = xasprintf("%s/tokenizer_config.json", model_dir);
	bool has_config = access(config_path, F_OK) == 0; /* it may be missing */
	char *text, *config = NULL;
	struct tok *t = NULL;
	size_t n, config_n;

	text = in_slurp(path, TOKENIZER_JSON_MAX, &n, e);
	if (text && has_config)
		config = in_slurp(config_path, TOKENIZER_JSON_MAX, &config_n, e);
	if (text && (config || !has_config))
		t = tok_new(text, n, config, path, e);
	free(text);
	free(config);
	free(path);
	free(config_path);
	return t;
}

struct tok *tok_load_file(const char *path, struct err *e)
{
	size_t n;
	char *text = in_slurp(path, TOKENIZER_JSON_MAX, &n, e);
	struct tok *t = text ? tok_new(text, n, NULL, path, e) : NULL;

	free(text);
	return t;
}

/* --- encoding --- */

void tok_out_release(struct tok_out *o)
{
	free(o->ids);
	free(o->begin);
	free(o->end);
	memset(o, 0, sizeof(*o));
}

static void out_reserve(struct tok_out *o, size_t extra)
{
	if (o->n + extra <= o->cap)
		return;
	o->cap = (o->n + extra) * 3 / 2 + 256;
	o->ids = xrealloc(o->ids, o->cap * sizeof(*o->ids));
	o->begin = xrealloc(o->begin, o->cap * sizeof(*o->begin));
	o->end = xrealloc(o->end, o->cap * sizeof(*o->end));
}

static void out_add(struct tok_out *o, int32_t id, uint32_t b, uint32_t e)
{
	out_reserve(o, 1);
	o->ids[o->n] = id;
	o->begin[o->n] = b;
	o->end[o->n++] = e;
}

/* The tokens of a piece, with the input's bytes for the piece's own. */
static void flush(struct tok_mem *m, const struct astr *a, size_t off, struct tok_out *out)
{
	out_reserve(out, m->toks.n);
	for (size_t i = 0; i < m->toks.n; i++) {
		const struct mtok *x = &m->toks.t[i];

		out->ids[out->n] = x->id;
		out->begin[out->n] = astr_begin(a, off + x->b);
		out->end[out->n++] = astr_end(a, off + (x->e > x->b ? x->e - 1 : x->b));
	}
	m->toks.n = 0;
}

static int encode_piece(const struct tok *t, struct tok_mem *m, const struct astr *a, size_t off, size_t len, struct tok_out *out, struct err *e)
{
	int rc = 0;

	if (t->bpe)
		bpe_encode(t->bpe, m->bpe, a->s + off, len, &m->toks);
	else if (t->unigram)
		rc = unigram_encode(t->unigram, m->unigram, a->s + off, len, &m->toks, e);
	else
		rc = wordpiece_encode(t->wordpiece, a->s + off, len, &m->toks, e);
	flush(m, a, off, out);
	return rc;
}

static int encode_scan(const struct tok *t, struct tok_mem *m, const struct astr *a, struct piece x, struct tok_out *out, struct err *e)
{
	size_t end = x.off + x.len, i, j;

	for (i = x.off; i < end; i = j) {
		j = t->scan(t->uni, a->s, i, end);
		if (a->ident && bpe_encode_known(t->bpe, m->bpe, a->s + i, j - i, a->base + (uint32_t)i, out))
			continue;
		if (encode_piece(t, m, a, i, j - i, out, e))
			return -1;
	}
	return 0;
}

/* Text between added tokens of the raw kind. */
static int encode_segment(const struct tok *t, struct tok_mem *m, const char *text, struct piece seg, struct tok_out *out, struct err *e)
{
	struct astr *a = &m->text;

	astr_borrow(a, text + seg.off, seg.len, (uint32_t)seg.off);
	if (tok_norm_apply(t->norm, m->re, a, &m->tmp, e))
		return -1;
	m->pieces.n = 0;
	added_split(&t->added, &t->added.norm, a->s, a->len, &m->pieces);
	if (!t->scan && pretok_apply(t->pretok, &m->pretok, a, &m->pieces, t->map, e))
		return -1;
	for (size_t i = 0; i < m->pieces.n; i++) {
		struct piece x = m->pieces.p[i];

		if (!x.len)
			continue;
		if (x.id >= 0)
			out_add(out, x.id, astr_begin(a, x.off), astr_end(a, x.off + x.len - 1));
		else if (t->scan ? encode_scan(t, m, a, x, out, e) : encode_piece(t, m, a, x.off, x.len, out, e))
			return -1;
	}
	return 0;
}

int tok_encode(const struct tok *t, const char *text, size_t len, struct tok_out *out, struct err *e)
{
	struct tok_mem *m;
	int rc = 0;

	if (len >= INT32_MAX / 4)
		return err_set(e, LP_DATA, "a text of %zu bytes is too long to tokenise at once", len);
	if (utf8_valid_len(text, len) != len)
		return err_set(e, LP_DATA, "the text is not UTF-8 at byte %zu", utf8_valid_len(text, len));
	m = mem_get(t, e);
	if (!m)
		return -1;
	m->segments.n = 0;
	m->toks.n = 0;
	added_split(&t->added, &t->added.raw, text, len, &m->segments);
	for (size_t i = 0; i < m->segments.n && !rc; i++) {
		struct piece x = m->segments.p[i];

		if (x.id >= 0)
			out_add(out, x.id, (uint32_t)x.off, (uint32_t)(x.off + x.len));
		else
			rc = encode_segment(t, m, text, x, out, e);
	}
	mem_put(t, m);
	return rc;
}

/* --- ids and text --- */

static const char *piece_of(const struct tok *t, int32_t id, size_t *n)
{
	const struct added_token *a = added_by_id(&t->added, id);

	if (a) {
		*n = a->shown_len;
		return a->shown;
	}
	return vocab_str(&t->vocab, id, n);
}

const char *tok_piece(const struct tok *t, int32_t id)
{
	size_t n;

	return piece_of(t, id, &n);
}

int32_t tok_id(const struct tok *t, const char *piece)
{
	const struct added_token *a = added_by_text(&t->added, piece, strlen(piece));

	return a ? a->id : vocab_find(&t->vocab, piece, strlen(piece));
}

static bool is_special(const struct tok *t, const char *s, size_t n)
{
	const struct added_token *a = added_by_text(&t->added, s, n);

	return a && a->special;
}

bool tok_is_special(const struct tok *t, int32_t id)
{
	const struct added_token *a = added_by_id(&t->added, id);

	return a && a->special;
}

int64_t tok_vocab_size(const struct tok *t)
{
	return t->n_ids;
}

int32_t tok_bos(const struct tok *t)
{
	return t->bos;
}

int32_t tok_eos(const struct tok *t)
{
	return t->eos;
}

static void join(const struct dtoks *d, bool spaces, struct sb *out)
{
	for (size_t i = 0; i < d->n; i++) {
		if (spaces && i)
			sb_addc(out, ' ');
		sb_add(out, d->t[i].s, d->t[i].n);
	}
}

int tok_decode(const struct tok *t, const int32_t *ids, size_t n, bool skip_special, struct sb *out, struct err *e)
{
	struct tok_mem *m = mem_get(t, e);
	struct dtoks d = { .arena = ARENA_INIT };
	int rc;

	if (!m)
		return -1;
	d.t = xcalloc(n + 1, sizeof(*d.t));
	for (size_t i = 0; i < n; i++) {
		struct dtok *x = &d.t[d.n];

		x->s = piece_of(t, ids[i], &x->n);
		if (x->s && !(skip_special && is_special(t, x->s, x->n)))
			d.n++;
	}
	rc = tok_dec_apply(t->dec, m->re, &d, e);
	if (!rc)
		join(&d, !t->dec, out);
	free(d.t);
	arena_release(&d.arena);
	mem_put(t, m);
	return rc;
}
