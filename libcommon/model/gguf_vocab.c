/* The tokenizer's keys. Two kinds exist in llama.cpp for our families:
 *   "gpt2"   byte-level BPE: tokens and merges, from tokenizer.json;
 *   "llama"  BPE with byte fallback: tokens and scores, from tokenizer.model, or
 *            from tokenizer.json with scores made of the order of its merges.
 * Every row of the embedding gets a token; rows without one are filled. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sb.h"
#include "model/gguf_plan.h"
#include "text/spm_file.h"

struct vocab {
	struct gguf_writer *w;
	const struct model_texts *texts;
	const struct model_desc *desc;
	struct arena arena;
	struct json tokenizer, config; /* tokenizer.json, tokenizer_config.json; JSON_NULL when absent */
	struct gguf_token *tokens;
	int64_t n;                     /* rows of the embedding */
	bool byte_level;               /* else byte fallback */
	struct err *e;
};

static int refuse(struct vocab *v, const char *what)
{
	return err_line(v->e, LP_DATA, "tokenizer.json", 0, "%s", what);
}

static int too_many(struct vocab *v, int64_t id)
{
	return err_line(v->e, LP_DATA, "tokenizer.json", 0,
	                "token %lld lies beyond the embedding's %lld rows; give the tokenizer that belongs to the model", (long long)id, (long long)v->n);
}

/* A piece that added tokens are written as: llama.cpp matches them in the text
 * itself, where a space is a space. */
static void set_added(struct vocab *v, int64_t id, const struct json *content, bool special)
{
	struct gguf_token *t = &v->tokens[id];
	const char *s = content->s, *hit;
	size_t n = content->n;
	struct sb b = SB_INIT;

	special = special || !strcmp(s, "<pad>") || !strcmp(s, "<mask>") || !strcmp(s, "<2mass>") || !strcmp(s, "[@BOS@]") ||
	          (n > 3 && !strncmp(s, "<|", 2) && !strcmp(s + n - 2, "|>")) || (n > 8 && !strncmp(s, "<unused", 7) && s[n - 1] == '>');
	t->type = special ? TOKEN_CONTROL : TOKEN_USER;
	t->score = -1000.0f;
	if (!special) {
		while ((hit = memmem(s, n, "\xe2\x96\x81", 3))) {
			sb_add(&b, s, (size_t)(hit - s));
			sb_addc(&b, ' ');
			n -= (size_t)(hit + 3 - s);
			s = hit + 3;
		}
		sb_add(&b, s, n);
		n = b.len;
		s = arena_strndup(&v->arena, sb_str(&b), n);
		sb_release(&b);
	}
	t->s = s;
	t->len = n;
}

static int add_added(struct vocab *v, int64_t id, const struct json *token)
{
	const struct json *content = json_get(token, "content");
	bool special;

	if (!json_is(content, JSON_STR) || !content->n || !json_get_bool(token, "special", false, &special))
		return refuse(v, "an added token is no token; is the file damaged?");
	if (id < 0 || id >= v->n)
		return too_many(v, id);
	set_added(v, id, content, special);
	return 0;
}

/* tokenizer.json's added tokens; only_new: those ids that are still free. */
static int add_from_tokenizer(struct vocab *v, bool only_new)
{
	const struct json *list = json_get(&v->tokenizer, "added_tokens");
	int64_t id;

	for (uint32_t i = 0; json_is(list, JSON_ARR) && i < list->n; i++) {
		if (!json_get_i64(&list->items[i], "id", -1, &id))
			return refuse(v, "an added token has no id");
		if (only_new && id >= 0 && id < v->n && v->tokens[id].s && v->tokens[id].type != TOKEN_UNUSED)
			continue;
		if (add_added(v, id, &list->items[i]))
			return -1;
	}
	return 0;
}

/* tokenizer_config.json's: "added_tokens_decoder": { "32000": { "content", "special" } }. */
static int add_from_config(struct vocab *v)
{
	const struct json *o = json_get(&v->config, "added_tokens_decoder");
	struct json id;
	int64_t n;

	for (uint32_t i = 0; json_is(o, JSON_OBJ) && i < o->n; i++) {
		id = (struct json){ .type = JSON_NUM, .n = o->members[i].key_len, .s = o->members[i].key };
		if (!json_as_i64(&id, &n))
			return err_line(v->e, LP_DATA, "tokenizer_config.json", 0, "'%s' in added_tokens_decoder is no token id", id.s);
		if (add_added(v, n, &o->members[i].val))
			return -1;
	}
	return 0;
}

/* --- tokens of tokenizer.json --- */

static int read_vocab(struct vocab *v)
{
	const struct json *o = json_get(json_get(&v->tokenizer, "model"), "vocab");
	int64_t id;

	if (!json_is(o, JSON_OBJ) || !o->n)
		return refuse(v, "it has no vocabulary");
	for (uint32_t i = 0; i < o->n; i++) {
		if (!json_as_i64(&o->members[i].val, &id) || id < 0)
			return refuse(v, "a token's id is no whole number");
		if (id >= v->n)
			return too_many(v, id);
		if (v->tokens[id].s)
			return refuse(v, "two tokens have the same id");
		v->tokens[id] = (struct gguf_token){ o->members[i].key, o->members[i].key_len, -1000.0f, TOKEN_NORMAL };
	}
	return 0;
}

/* The two halves of a merge: "a b", or ["a", "b"]. */
static bool split_merge(const struct json *m, struct gguf_str *a, struct gguf_str *b)
{
	const char *gap;

	if (m->type == JSON_STR) {
		gap = memchr(m->s, ' ', m->n);
		if (!gap)
			return false;
		*a = (struct gguf_str){ m->s, (uint64_t)(gap - m->s) };
		*b = (struct gguf_str){ gap + 1, m->n - a->len - 1 };
	} else {
		if (m->type != JSON_ARR || m->n != 2 || m->items[0].type != JSON_STR || m->items[1].type != JSON_STR)
			return false;
		*a = (struct gguf_str){ m->items[0].s, m->items[0].n };
		*b = (struct gguf_str){ m->items[1].s, m->items[1].n };
	}
	return a->len && b->len;
}

/* A space inside a half would be taken for the gap: it is written as byte-level
 * pieces write it (U+0120). */
static void add_half(struct sb *b, const struct gguf_str *s)
{
	for (uint64_t i = 0; i < s->len; i++)
		if (s->s[i] == ' ')
			sb_adds(b, "\xc4\xa0");
		else
			sb_addc(b, s->s[i]);
}

static int put_merges(struct vocab *v)
{
	const struct json *list = json_get(json_get(&v->tokenizer, "model"), "merges");
	struct gguf_str a, b;
	struct sb text = SB_INIT;
	int rc = 0;

	if (!json_is(list, JSON_ARR))
		return refuse(v, "it has no merges");
	gguf_put_array(v->w, "tokenizer.ggml.merges", GGUF_STR, list->n);
	for (uint32_t i = 0; i < list->n && !rc; i++) {
		if (!split_merge(&list->items[i], &a, &b)) {
			rc = refuse(v, "a merge is no pair");
			break;
		}
		sb_reset(&text);
		add_half(&text, &a);
		sb_addc(&text, ' ');
		add_half(&text, &b);
		gguf_item_put_str(v->w, sb_str(&text), text.len);
	}
	sb_release(&text);
	return rc;
}

static int byte_level(struct vocab *v, const char *pre)
{
	const struct json *norm = json_get(&v->tokenizer, "normalizer"), *list = json_get(norm, "normalizers");

	/* llama.cpp normalises nothing; it leaves NFC to the caller, and so do we */
	if (json_is(norm, JSON_OBJ) && !json_str_is(json_get(norm, "type"), "NFC") && !(json_is(list, JSON_ARR) && !list->n))
		return refuse(v, "its normaliser has no form in GGUF");
	if (!pre)
		pre = gguf_pre_name(&v->tokenizer, v->e);
	if (!pre)
		return err_where(v->e, "tokenizer.json", 0);
	if (read_vocab(v) || add_from_tokenizer(v, false) || add_from_config(v))
		return -1;
	gguf_put_str(v->w, "tokenizer.ggml.model", "gpt2", 4);
	gguf_put_str(v->w, "tokenizer.ggml.pre", pre, strlen(pre));
	return put_merges(v);
}

/* --- byte fallback --- */

struct piece_id {
	const char *s;
	size_t len;
	int64_t id;
};

static int compare_pieces(const void *a, const void *b)
{
	const struct piece_id *x = a, *y = b;
	int d = memcmp(x->s, y->s, x->len < y->len ? x->len : y->len);

	return d ? d : (x->len > y->len) - (x->len < y->len);
}

/* llama.cpp joins first what scores highest, Hugging Face what was merged first:
 * a piece scores minus the number of its first merge. Pieces that no merge makes
 * are never compared. */
static int score_by_merges(struct vocab *v)
{
	const struct json *list = json_get(json_get(&v->tokenizer, "model"), "merges");
	struct piece_id *ids = arena_calloc(&v->arena, (size_t)v->n, sizeof(*ids)), want, *hit;
	struct gguf_str a, b;
	struct sb joined = SB_INIT;
	size_t n = 0;
	int rc = 0;

	if (!json_is(list, JSON_ARR))
		return refuse(v, "it has no merges");
	for (int64_t i = 0; i < v->n; i++)
		if (v->tokens[i].s && v->tokens[i].type == TOKEN_NORMAL)
			ids[n++] = (struct piece_id){ v->tokens[i].s, v->tokens[i].len, i };
	qsort(ids, n, sizeof(*ids), compare_pieces);
	for (uint32_t i = list->n; i-- > 0 && !rc;) {
		if (!split_merge(&list->items[i], &a, &b)) {
			rc = refuse(v, "a merge is no pair");
			break;
		}
		sb_reset(&joined);
		sb_add(&joined, a.s, a.len);
		sb_add(&joined, b.s, b.len);
		want = (struct piece_id){ sb_str(&joined), joined.len, 0 };
		hit = bsearch(&want, ids, n, sizeof(*ids), compare_pieces);
		if (!hit)
			rc = refuse(v, "a merge makes a piece that is not in the vocabulary");
		else
			v->tokens[hit->id].score = -(float)i;
	}
	sb_release(&joined);
	return rc;
}

static bool is_byte_piece(const struct gguf_token *t)
{
	return t->len == 6 && !memcmp(t->s, "<0x", 3) && t->s[5] == '>' && strspn(t->s + 3, "0123456789abcdefABCDEF") == 2;
}

static int pieces_from_json(struct vocab *v)
{
	const char *unk;

	if (read_vocab(v) || score_by_merges(v) || add_from_tokenizer(v, false) || add_from_config(v))
		return -1;
	if (!json_get_str(json_get(&v->tokenizer, "model"), "unk_token", NULL, &unk))
		unk = NULL;
	for (int64_t i = 0; i < v->n; i++) {
		struct gguf_token *t = &v->tokens[i];

		if (t->s && is_byte_piece(t))
			t->type = TOKEN_BYTE;
		else if (t->s && unk && t->len == strlen(unk) && !memcmp(t->s, unk, t->len))
			t->type = TOKEN_UNKNOWN;
	}
	return 0;
}

/* tokenizer.model must be of the same tokenizer as tokenizer.json: pieces at the
 * same places (added tokens apart). */
static int check_same(struct vocab *v, const struct spm_file *m)
{
	const struct json *o = json_get(json_get(&v->tokenizer, "model"), "vocab");
	int64_t id;

	for (uint32_t i = 0; json_is(o, JSON_OBJ) && i < o->n; i++) {
		const struct json_member *t = &o->members[i];

		if (!json_as_i64(&t->val, &id) || id < 0 || id >= (int64_t)m->n || m->pieces[id].type == SPM_UNUSED)
			continue;
		if (m->pieces[id].len != t->key_len || memcmp(m->pieces[id].s, t->key, t->key_len))
			return err_line(v->e, LP_DATA, "tokenizer.model", 0,
			                "piece %lld is not tokenizer.json's '%s': the two are of different tokenizers; remove the wrong one", (long long)id, t->key);
	}
	return 0;
}

static int add_from_added_file(struct vocab *v)
{
	struct json o;
	int64_t id;

	if (!v->texts->added_tokens)
		return 0;
	if (json_parse_str(v->texts->added_tokens, &v->arena, &o, v->e))
		return err_where(v->e, "added_tokens.json", 0);
	for (uint32_t i = 0; o.type == JSON_OBJ && i < o.n; i++) {
		if (!json_as_i64(&o.members[i].val, &id) || id < 0 || id >= v->n)
			return err_line(v->e, LP_DATA, "added_tokens.json", 0, "'%s' has no row in the embedding", o.members[i].key);
		v->tokens[id] = (struct gguf_token){ o.members[i].key, o.members[i].key_len, -1000.0f, TOKEN_USER };
	}
	return 0;
}

static int pieces_from_model(struct vocab *v, const struct spm_file *m)
{
	if ((int64_t)m->n > v->n)
		return too_many(v, (int64_t)m->n - 1);
	if (check_same(v, m))
		return -1;
	for (size_t i = 0; i < m->n; i++) {
		const struct spm_piece *p = &m->pieces[i];

		v->tokens[i] = (struct gguf_token){ p->s, p->len, p->score, (enum gguf_token_type)p->type };
		/* llama.cpp's converter has no other name for them */
		if (p->type == SPM_USER)
			v->tokens[i].type = TOKEN_NORMAL;
	}
	if (add_from_added_file(v) || add_from_config(v))
		return -1;
	return add_from_tokenizer(v, true);
}

/* Does Hugging Face put a space before the text? Its normaliser or Metaspace says so. */
static bool json_prefix(const struct json *step)
{
	const struct json *type = json_get(step, "type"), *list = json_get(step, "normalizers");
	const char *scheme;
	bool old;

	if (!list)
		list = json_get(step, "pretokenizers");
	for (uint32_t i = 0; json_is(list, JSON_ARR) && i < list->n; i++)
		if (json_prefix(&list->items[i]))
			return true;
	if (json_str_is(type, "Prepend"))
		return true;
	if (!json_str_is(type, "Metaspace") || !json_get_bool(step, "add_prefix_space", true, &old))
		return false;
	return json_get_str(step, "prepend_scheme", old ? "always" : "never", &scheme) && strcmp(scheme, "never") != 0;
}

static int byte_fallback(struct vocab *v, const char *pre)
{
	bool have_json = v->tokenizer.type == JSON_OBJ, have_model = v->texts->tokenizer_model != NULL, prefix;
	struct spm_file m = { 0 };

	if (have_model && spm_parse(v->texts->tokenizer_model, v->texts->tokenizer_model_bytes, "tokenizer.model", &v->arena, &m, v->e))
		return -1;
	if (have_model && m.model != SPM_BPE)
		return err_line(v->e, LP_DATA, "tokenizer.model", 0, "a unigram model: llama.cpp would cut its text otherwise; only BPE models are exported");
	if (have_model ? pieces_from_model(v, &m) : pieces_from_json(v))
		return -1;
	prefix = have_json ? json_prefix(json_get(&v->tokenizer, "normalizer")) || json_prefix(json_get(&v->tokenizer, "pre_tokenizer"))
	                   : m.rules.dummy_prefix;
	gguf_put_str(v->w, "tokenizer.ggml.model", "llama", 5);
	gguf_put_str(v->w, "tokenizer.ggml.pre", pre ? pre : "default", strlen(pre ? pre : "default"));
	gguf_put_bool(v->w, "tokenizer.ggml.add_space_prefix", prefix);
	gguf_put_array(v->w, "tokenizer.ggml.scores", GGUF_F32, (uint64_t)v->n);
	for (int64_t i = 0; i < v->n; i++)
		gguf_item_put_f32(v->w, v->tokens[i].s ? v->tokens[i].score : -10000.0f);
	return 0;
}

/* --- both --- */

static void put_tokens(struct vocab *v)
{
	char pad[32];

	gguf_put_array(v->w, "tokenizer.ggml.tokens", GGUF_STR, (uint64_t)v->n);
	for (int64_t i = 0; i < v->n; i++)
		if (v->tokens[i].s)
			gguf_item_put_str(v->w, v->tokens[i].s, v->tokens[i].len);
		else
			gguf_item_put_str(v->w, pad, (size_t)snprintf(pad, sizeof(pad), "[PAD%lld]", (long long)i));
	gguf_put_array(v->w, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)v->n);
	for (int64_t i = 0; i < v->n; i++)
		gguf_item_put_i32(v->w, v->tokens[i].s ? v->tokens[i].type : TOKEN_UNUSED);
}

/* "bos_token": "<s>" or { "content": "<s>" }; its id among the tokens, -1. */
static int64_t special_id(const struct vocab *v, const char *key)
{
	const struct json *t = json_get(&v->config, key);

	if (json_is(t, JSON_OBJ))
		t = json_get(t, "content");
	for (int64_t i = v->n; json_is(t, JSON_STR) && i-- > 0;)
		if (v->tokens[i].s && v->tokens[i].len == t->n && !memcmp(v->tokens[i].s, t->s, t->n))
			return i;
	return -1;
}

/* Does the single-text template of the post-processor start (end) with a special
 * token? 1 or 0; -1 when there is no template. */
static int template_adds(const struct json *post, bool last)
{
	const struct json *type = json_get(post, "type"), *list = json_get(post, "processors"), *single;
	int found = -1, one;

	for (uint32_t i = 0; json_is(list, JSON_ARR) && i < list->n; i++) {
		one = template_adds(&list->items[i], last);
		found = one >= 0 ? one : found;
	}
	if (json_str_is(type, "ByteLevel"))
		return 0;
	if (!json_str_is(type, "TemplateProcessing"))
		return found;
	single = json_get(post, "single");
	if (!json_is(single, JSON_ARR) || single->n < 2)
		return 0;
	return json_is(json_get(&single->items[last ? single->n - 1 : 0], "SpecialToken"), JSON_OBJ);
}

static int put_specials(struct vocab *v, const struct json *model_config)
{
	static const struct {
		const char *token, *id, *key;
	} kinds[] = {
		{ "bos_token", "bos_token_id", "tokenizer.ggml.bos_token_id" },
		{ "eos_token", "eos_token_id", "tokenizer.ggml.eos_token_id" },
		{ "unk_token", "unk_token_id", "tokenizer.ggml.unknown_token_id" },
		{ "sep_token", "sep_token_id", "tokenizer.ggml.seperator_token_id" },
		{ "pad_token", "pad_token_id", "tokenizer.ggml.padding_token_id" },
	};
	const struct json *post = json_get(&v->tokenizer, "post_processor"), *flag;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		int64_t id = special_id(v, kinds[i].token);

		if (id < 0 && (!json_get_i64(model_config, kinds[i].id, -1, &id) || id < 0))
			continue;
		if (id >= v->n)
			return err_set(v->e, LP_DATA, "%s %lld lies beyond the embedding's %lld rows", kinds[i].id, (long long)id, (long long)v->n);
		gguf_put_u32(v->w, kinds[i].key, (uint32_t)id);
	}
	for (int last = 0; last < 2; last++) {
		int adds = json_is(post, JSON_OBJ) ? template_adds(post, last) : -1;

		flag = json_get(&v->config, last ? "add_eos_token" : "add_bos_token");
		if (adds < 0 && json_is(flag, JSON_BOOL))
			adds = flag->b;
		/* silence means no to Hugging Face, but yes to llama.cpp for
		 * some names of byte-level tokenizers */
		if (adds < 0 && v->byte_level)
			adds = 0;
		if (adds >= 0)
			gguf_put_bool(v->w, last ? "tokenizer.ggml.add_eos_token" : "tokenizer.ggml.add_bos_token", adds);
	}
	return 0;
}

/* chat_template.jinja, else tokenizer_config.json's: one text, or a list of
 * named ones, of which "default" is the template and the others go along. */
static void put_template(struct vocab *v)
{
	const struct json *t = json_get(&v->config, "chat_template");
	const char *name, *text;
	char key[128];

	if (v->texts->chat_template) {
		gguf_put_str(v->w, "tokenizer.chat_template", v->texts->chat_template, strlen(v->texts->chat_template));
		return;
	}
	if (json_is(t, JSON_STR))
		gguf_put_str(v->w, "tokenizer.chat_template", t->s, t->n);
	for (uint32_t i = 0; json_is(t, JSON_ARR) && i < t->n; i++) {
		if (!json_get_str(&t->items[i], "name", NULL, &name) || !json_get_str(&t->items[i], "template", NULL, &text) || !name || !text)
			continue;
		snprintf(key, sizeof(key), "tokenizer.chat_template.%.80s", name);
		gguf_put_str(v->w, strcmp(name, "default") ? key : "tokenizer.chat_template", text, strlen(text));
	}
}

static int put_all(struct vocab *v, const char *pre)
{
	const struct json *model;
	struct json config;
	bool fallback = true;

	if (json_parse_str(v->texts->config, &v->arena, &config, v->e))
		return err_where(v->e, "config.json", 0);
	if (v->texts->tokenizer && json_parse_str(v->texts->tokenizer, &v->arena, &v->tokenizer, v->e))
		return err_where(v->e, "tokenizer.json", 0);
	if (v->texts->tokenizer_config && json_parse_str(v->texts->tokenizer_config, &v->arena, &v->config, v->e))
		return err_where(v->e, "tokenizer_config.json", 0);
	if (!v->texts->tokenizer && !v->texts->tokenizer_model)
		return err_set(v->e, LP_DATA, "the model has neither tokenizer.json nor tokenizer.model: a GGUF file needs one");
	model = json_get(&v->tokenizer, "model");
	if (v->texts->tokenizer && !json_str_is(json_get(model, "type"), "BPE"))
		return refuse(v, "only BPE tokenizers are exported");
	if (v->texts->tokenizer && !json_get_bool(model, "byte_fallback", false, &fallback))
		fallback = false;
	v->byte_level = !fallback;
	if (v->byte_level ? byte_level(v, pre) : byte_fallback(v, pre))
		return -1;
	put_tokens(v);
	if (put_specials(v, &config))
		return -1;
	put_template(v);
	return 0;
}

int gguf_put_tokenizer(struct gguf_writer *w, const struct model_texts *t, const struct model_desc *m, const char *pre, struct err *e)
{
	struct vocab v = { w, t, m, ARENA_INIT, { .type = JSON_NULL }, { .type = JSON_NULL }, NULL, m->vocab, false, e };
	int rc;

	v.tokens = arena_calloc(&v.arena, (size_t)v.n, sizeof(*v.tokens));
	rc = put_all(&v, pre);
	arena_release(&v.arena);
	return rc;
}
