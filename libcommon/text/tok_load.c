/* Loading a tokeniser: tokenizer.json here, tekken.json and tiktoken ranks in
 * tok_ranks.c, SentencePiece in spm*.c; the kind is found from the contents. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/in.h"
#include "base/num.h"
#include "base/xalloc.h"
#include "text/tok_file.h"
#include "text/tok_hash.h"
#include "text/tok_int.h"
#include "text/tok_quick.h"
#include "text/tok_uni.h"

#define CONFIG_MAX (512u << 20)

/* All that a file describes. */
static void forget(struct tok *t)
{
	added_release(&t->added);
	tok_dec_free(t->dec);
	pretok_free(t->pretok);
	tok_norm_free(t->norm);
	spm_free(t->spm);
	bpe_free(t->bpe);
	unigram_free(t->unigram);
	wordpiece_free(t->wordpiece);
	vocab_release(&t->vocab);
	t->dec = NULL;
	t->pretok = NULL;
	t->norm = NULL;
	t->spm = NULL;
	t->bpe = NULL;
	t->unigram = NULL;
	t->wordpiece = NULL;
}

void tok_free(struct tok *t)
{
	struct tok_mem *m;

	if (!t)
		return;
	while (t->pool && (m = t->pool->free) != NULL) {
		t->pool->free = m->next;
		tok_mem_free(m);
	}
	if (t->pool)
		pthread_mutex_destroy(&t->pool->lock);
	free(t->pool);
	forget(t);
	tok_cache_close(&t->cache);
	tok_hash_end(&t->hash);
	tok_file_close(&t->file);
	free(t->path);
	free(t->uni);
	free(t);
}

/* A BPE model's vocabulary and merges that have been read, or its tables. */
struct parts {
	struct tok_quick *quick;
	const struct tok_cache *cache;
};

/* p: NULL: all of it stands in m. */
static int load_model(struct tok *t, const struct json *m, const struct parts *p, struct err *e)
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
	if (p && p->cache) {
		t->vocab = p->cache->vocab;
	} else if (p) {
		t->vocab = p->quick->vocab;
		memset(&p->quick->vocab, 0, sizeof(p->quick->vocab));
	} else if (vocab_from_obj(&t->vocab, json_get(m, "vocab"), e))
		return -1;
	if (!strcmp(type, "BPE")) {
		t->bpe = bpe_new(m, p && p->quick ? &p->quick->merges : NULL, p && p->cache ? &p->cache->tables : NULL, &t->vocab, pretok_is_byte_level(t->pretok), e);
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

/* Is the whole way from text to model no more than marking spaces? */
static bool only_marks(const struct tok *t, struct marking *m)
{
	bool normalised;

	memset(m, 0, sizeof(*m));
	if (!t->bpe || !bpe_takes_marks(t->bpe) || t->added.norm.n)
		return false;
	normalised = tok_norm_marks(t->norm, &m->prefix);
	return (normalised || !t->norm) && pretok_marks(t->pretok, normalised, m);
}

static int load_json(struct tok *t, const struct json *v, const struct parts *p, struct err *e)
{
	if (!json_is(v, JSON_OBJ))
		return err_set(e, LP_DATA, "not an object");
	if (!json_get(v, "model") && json_get(v, "config") && json_is(json_get(v, "vocab"), JSON_ARR))
		return tok_from_tekken(t, v, p ? p->cache : NULL, p && p->quick ? &p->quick->vocab : NULL, e);
	if (tok_norm_new(json_get(v, "normalizer"), t->uni, &t->norm, e) || pretok_new(json_get(v, "pre_tokenizer"), t->uni, &t->pretok, e) ||
	    tok_dec_new(json_get(v, "decoder"), &t->dec, e) || check_post_processor(json_get(v, "post_processor"), 0, e) ||
	    load_model(t, json_get(v, "model"), p, e) || added_load(&t->added, json_get(v, "added_tokens"), &t->vocab, t->norm, t->uni, e))
		return -1;
	t->map = !(t->bpe && bpe_byte_mode(t->bpe));
	t->scan = t->map ? NULL : pretok_single(t->pretok);
	t->marked = only_marks(t, &t->marking);
	t->n_ids = (int64_t)t->vocab.n_ids;
	for (size_t i = 0; i < t->added.n; i++)
		if (t->added.t[i].id >= t->n_ids)
			t->n_ids = (int64_t)t->added.t[i].id + 1;
	return 0;
}

/* --- SentencePiece --- */

static int load_pieces(struct tok *t, const struct spm_file *f, struct err *e)
{
	t->spm = spm_new(f, &t->vocab, e);
	if (!t->spm || added_init(&t->added, t->uni, f->n + TOK_SPECIALS_MAX, e))
		return -1;
	for (size_t i = 0; i < f->n; i++)
		if (f->pieces[i].type == SPM_CONTROL && added_put(&t->added, f->pieces[i].s, f->pieces[i].len, (int32_t)i, true, e))
			return -1;
	t->bos = (int32_t)f->bos;
	t->eos = (int32_t)f->eos;
	t->n_ids = (int64_t)f->n;
	return 0;
}

static int load_spm(struct tok *t, const char *bytes, size_t n, const char *name, struct err *e)
{
	struct arena a = ARENA_INIT;
	struct spm_file f;
	int rc = spm_parse((const unsigned char *)bytes, n, name, &a, &f, e);

	if (!rc && f.denormalizes)
		rc = err_set(e, LP_USAGE, "its denormaliser is not supported");
	if (!rc)
		rc = load_pieces(t, &f, e);
	arena_release(&a);
	return rc;
}

/* --- tokenizer_config.json --- */

/* A special token: text, or an object with content. dflt when none is named. */
static int32_t config_token(const struct tok *t, const struct json *config, const char *key, int32_t dflt)
{
	const struct json *v = json_get(config, key);

	if (json_is(v, JSON_OBJ))
		v = json_get(v, "content");
	return json_is(v, JSON_STR) ? tok_id(t, v->s) : dflt;
}

/* added_tokens_decoder: {"id": {"content", "special"}}. tokenizer.json has its own list. */
static int config_added(struct tok *t, const struct json *config, struct err *e)
{
	const struct json *list = json_get(config, "added_tokens_decoder");
	int64_t id;
	bool special;

	if (!json_is(list, JSON_OBJ))
		return 0;
	if (list->n > TOK_SPECIALS_MAX)
		return err_set(e, LP_DATA, "added_tokens_decoder has more than %d tokens", TOK_SPECIALS_MAX);
	for (uint32_t i = 0; i < list->n; i++) {
		const struct json_member *m = &list->members[i];
		const struct json *c = json_get(&m->val, "content");

		if (!parse_i64(m->key, &id) || id < 0 || id >= VOCAB_MAX_ID || !json_is(c, JSON_STR) || !json_get_bool(&m->val, "special", false, &special))
			return err_set(e, LP_DATA, "added_tokens_decoder: '%.60s' is not a token with content", m->key);
		if (added_put(&t->added, c->s, c->n, (int32_t)id, special, e))
			return -1;
	}
	return 0;
}

/* --- all kinds --- */

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

static bool looks_like_json(const char *s, size_t n)
{
	while (n && isspace((unsigned char)*s))
		s++, n--;
	return n && (*s == '{' || *s == '['); /* a model file begins with a newline, and a length that is neither */
}

struct source {
	const struct spm_file *pieces; /* instead of a text */
	const char *text, *config, *name, *pattern;
	size_t len;
	struct tok_hash *hash; /* of a plain file, the tokenizer's own; NULL: not wanted */
	bool hashed, will_hash; /* a plain file, whose hash may be asked for, will be */
	int threads;
	bool keep;          /* what a plain file makes is kept */
	bool find_specials; /* special tokens in a text are found, whatever the kind */
};

/* rest: the file without them. What fails here is tried again by the way that knows what to say. */
static int load_parts(struct tok *t, const struct parts *parts, const char *rest, size_t len, struct json_parser *p, struct arena *a)
{
	struct err e = ERR_INIT;
	struct json v;
	const char *type = NULL;

	if (json_parse(p, rest, len, a, &v, &e))
		return -1;
	if (!json_get_str(json_get(&v, "model"), "type", "BPE", &type) || strcmp(type, "BPE") || load_json(t, &v, parts, &e)) {
		forget(t);
		return -1;
	}
	return 0;
}

/* True: t is what the kept tables and the rest of the file make. */
static bool load_kept(struct tok *t, const struct source *s, const char *path, struct json_parser *p, struct arena *a)
{
	struct parts parts = { NULL, &t->cache };

	if (!tok_cache_open(&t->cache, path, s->len))
		return false;
	if (!load_parts(t, &parts, t->cache.rest, t->cache.rest_len, p, a)) {
		memcpy(s->hash->hex, t->cache.sha256, sizeof(s->hash->hex));
		return true;
	}
	tok_cache_close(&t->cache);
	return false;
}

static void keep(struct tok *t, const struct source *s, const char *path, const struct sb *rest)
{
	struct bpe_tables tables;

	if (!t->bpe)
		return;
	bpe_tables_of(t->bpe, &tables);
	tok_cache_write(path, s->len, tok_hash_hex(s->hash), rest->s, rest->len, &t->vocab, &tables);
}

/* False: the file is to be read with a tree. */
static bool load_quick(struct tok *t, const struct source *s, struct json_parser *p, struct arena *a)
{
	char *path = s->keep ? tok_cache_path(s->text, s->len) : NULL;
	struct tok_quick quick;
	struct parts parts = { &quick, NULL };
	bool ok = path && load_kept(t, s, path, p, a);

	if (!ok && s->hash)
		tok_hash_begin(s->hash);
	if (!ok && tok_quick_read(&quick, s->text, s->len, s->threads)) {
		ok = !load_parts(t, &parts, quick.rest.s, quick.rest.len, p, a);
		if (ok && path)
			keep(t, s, path, &quick.rest);
		tok_quick_release(&quick);
	}
	free(path);
	return ok;
}

static int load_ranks(struct tok *t, const struct source *s, struct err *e)
{
	char *path = s->keep ? tok_cache_path(s->text, s->len) : NULL;
	struct err ignored = ERR_INIT;
	struct sb none = SB_INIT;
	bool kept = path && tok_cache_open(&t->cache, path, s->len);
	int rc;

	if (kept && tok_from_tiktoken(t, s->text, s->len, s->name, s->pattern, &t->cache, NULL, &ignored)) {
		forget(t);
		tok_cache_close(&t->cache);
		kept = false;
	}
	if (kept)
		memcpy(s->hash->hex, t->cache.sha256, sizeof(s->hash->hex));
	else if (s->hash)
		tok_hash_begin(s->hash);
	rc = kept ? 0 : tok_from_tiktoken(t, s->text, s->len, s->name, s->pattern, NULL, s->hash, e);
	if (!rc && path && !kept) {
		sb_grow(&none, JSON_PADDING);
		keep(t, s, path, &none);
	}
	sb_release(&none);
	free(path);
	return rc;
}

static int load_kind(struct tok *t, const struct source *s, struct json_parser *p, struct arena *a, struct err *e)
{
	struct json v;

	if (s->pieces)
		return load_pieces(t, s->pieces, e);
	if (tok_file_is_ranks(s->text, s->len))
		return load_ranks(t, s, e);
	if (s->pattern)
		return err_set(e, LP_USAGE, "a pattern goes with tiktoken ranks, and this is another kind; leave it out");
	if (!looks_like_json(s->text, s->len) && s->len && *s->text == '\n')
		return load_spm(t, s->text, s->len, s->name, e);
	if (load_quick(t, s, p, a))
		return 0;
	return parse(p, s->text, s->len, a, &v, e) || load_json(t, &v, NULL, e) ? -1 : 0;
}

static int load(struct tok *t, const struct source *s, struct json_parser *p, struct arena *a, struct err *e)
{
	struct json v;
	bool other;

	if (load_kind(t, s, p, a, e))
		return -1;
	other = t->spm || t->raw_bytes;
	arena_reset(a);
	if (s->config) {
		if (parse(p, s->config, strlen(s->config), a, &v, e) || (other && config_added(t, &v, e)))
			return -1;
		t->bos = config_token(t, &v, "bos_token", t->bos);
		t->eos = config_token(t, &v, "eos_token", t->eos);
	}
	if (!other)
		return 0;
	added_index(&t->added);
	if (t->added.n_ids > t->n_ids)
		t->n_ids = t->added.n_ids;
	if (s->find_specials)
		added_match(&t->added);
	return 0;
}

static struct tok *load_source(struct source *s, struct err *e)
{
	struct tok *t = xcalloc(1, sizeof(*t));
	struct json_parser *p = json_parser_new();
	struct arena a = ARENA_INIT;
	int rc = 0;

	t->bos = t->eos = -1;
	if (s->hashed) {
		t->hash = (struct tok_hash){ .text = s->text, .len = s->len, .threads = s->will_hash ? s->threads : 1 };
		s->hash = &t->hash;
	}
	t->pool = xcalloc(1, sizeof(*t->pool));
	pthread_mutex_init(&t->pool->lock, NULL);
	t->uni = uni_table_new();
	if (!t->uni)
		rc = err_set(e, LP_DEVICE, "out of memory for the character table");
	if (!rc)
		rc = load(t, s, p, &a, e);
	json_parser_free(p);
	arena_release(&a);
	if (!rc)
		return t;
	err_where(e, s->name, 0);
	tok_free(t);
	return NULL;
}

struct tok *tok_new(const char *tokenizer_json, size_t len, const char *config_json, const char *name, struct err *e)
{
	struct source s = { .text = tokenizer_json, .len = len, .config = config_json, .name = name };

	return load_source(&s, e);
}

struct tok *tok_from_pieces(const struct spm_file *f, const char *name, struct err *e)
{
	struct source s = { .pieces = f, .name = name, .find_specials = true };

	return load_source(&s, e);
}

/* How a file is loaded. */
struct how {
	const char *config_path, *pattern;
	bool find_specials, hashed;
	struct tok_how hash; /* when hashed */
};

/* The file at path, with tokenizer_config.json beside it when wanted. */
static struct tok *load_path(const char *path, const struct how *how, struct err *e)
{
	bool has_config = how->config_path && access(how->config_path, F_OK) == 0; /* it may be missing */
	struct source s = { .name = path, .pattern = how->pattern, .find_specials = how->find_specials };
	struct tok *t = NULL;
	struct tok_file f;
	char *config = NULL;
	size_t config_n;

	if (tok_file_open(&f, path, e))
		return NULL;
	if (has_config)
		config = in_slurp(how->config_path, CONFIG_MAX, &config_n, e);
	s.text = f.text;
	s.len = f.len;
	s.hashed = how->hashed && f.map; /* what was packed has another hash */
	s.keep = how->hash.keep && s.hashed;
	s.will_hash = s.keep || how->hash.will_hash;
	s.threads = how->hash.threads;
	s.config = config;
	if (config || !has_config)
		t = load_source(&s, e);
	free(config);
	if (t)
		t->path = xstrdup(path);
	if (t && s.hashed && !*t->hash.hex)
		t->file = f; /* until someone asks */
	else
		tok_file_close(&f);
	return t;
}

struct tok *tok_load_file(const char *path, struct err *e)
{
	struct how how = { 0 };

	return load_path(path, &how, e);
}

struct tok *tok_load_dir(const char *model_dir, struct err *e)
{
	return tok_load_model(model_dir, NULL, e);
}

static struct tok *load_model_path(const char *path, struct how how, struct err *e)
{
	static const char *const names[] = { "tokenizer.json", "tekken.json", "tokenizer.model", "tiktoken.model", "qwen.tiktoken", "tokenizer.json" };
	const size_t n = sizeof(names) / sizeof(*names);
	char *file = NULL, *config;
	struct stat st;
	struct tok *t;

	how.find_specials = true;
	if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
		return load_path(path, &how, e);
	for (size_t i = 0; i < n; i++) { /* of none, the first name is the one that is missed */
		free(file);
		file = xasprintf("%s/%s", path, names[i]);
		if (access(file, F_OK) == 0)
			break;
	}
	how.config_path = config = xasprintf("%s/tokenizer_config.json", path);
	t = load_path(file, &how, e);
	free(file);
	free(config);
	return t;
}

struct tok *tok_load_model(const char *path, const char *pattern, struct err *e)
{
	struct how how = { .pattern = pattern };

	return load_model_path(path, how, e);
}

struct tok *tok_load_hashed(const char *path, const char *pattern, const struct tok_how *hash, struct err *e)
{
	struct how how = { .pattern = pattern, .hashed = true, .hash = *hash };

	return load_model_path(path, how, e);
}

const char *tok_sha256(struct tok *t)
{
	if (!t->hash.text)
		return NULL;
	tok_hash_hex(&t->hash);
	tok_file_close(&t->file);
	return t->hash.hex;
}

bool tok_was_kept(const struct tok *t)
{
	return t->cache.map != NULL;
}

const char *tok_path(const struct tok *t)
{
	return t->path;
}
