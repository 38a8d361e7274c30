/* A GGUF's vocabulary as a tokeniser: written as tokenizer.json, or as the pieces
 * of a SentencePiece model, and read as one. */
#include "model/gguf_tok.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/xalloc.h"
#include "fmt/gguf.h"
#include "model/gguf_plan.h"
#include "text/spm_file.h"

#define KEY(name) "tokenizer.ggml." name

struct source {
	struct gguf g;
	const struct gguf_key *tokens, *types, *merges, *scores;
	const char *path;
};

bool gguf_tok_is(const char *path)
{
	FILE *f = fopen(path, "rb");
	char magic[4] = { 0 };
	bool yes = f && fread(magic, 1, 4, f) == 4 && !memcmp(magic, "GGUF", 4);

	if (f)
		fclose(f);
	return yes;
}

static int type_of(const struct source *s, uint64_t i)
{
	return s->types && i < s->types->n ? (int)gguf_item_i64(s->types, i) : TOKEN_NORMAL;
}

static const struct gguf_key *array(const struct source *s, const char *key, enum gguf_type item)
{
	const struct gguf_key *k = gguf_find(&s->g, key);

	return k && k->type == GGUF_ARR && k->item_type == item ? k : NULL;
}

static void hash_strings(struct sha *h, const struct gguf_key *k)
{
	for (uint64_t i = 0; k && i < k->n; i++) {
		sha_add(h, &k->strs[i].len, sizeof(k->strs[i].len));
		sha_add(h, k->strs[i].s, (size_t)k->strs[i].len);
	}
}

/* Of what makes tokens: the strings, their kinds and order. */
static void hash_of(const struct source *s, char hex[65])
{
	struct sha *h = sha_new();
	struct gguf_str text;

	if (gguf_get_str(&s->g, KEY("model"), &text))
		sha_add(h, text.s, (size_t)text.len);
	if (gguf_get_str(&s->g, KEY("pre"), &text))
		sha_add(h, text.s, (size_t)text.len);
	hash_strings(h, s->tokens);
	hash_strings(h, s->merges);
	for (uint64_t i = 0; i < s->tokens->n; i++) {
		int32_t type = type_of(s, i);
		float score = s->scores && i < s->scores->n ? gguf_item_f32(s->scores, i) : 0;

		sha_add(h, &type, sizeof(type));
		sha_add(h, &score, sizeof(score));
	}
	sha_hex(h, hex);
	sha_free(h);
}

/* --- as tokenizer.json --- */

/* Steps as gguf_pre_steps has them, a line each; a pattern may hold a line end itself. */
static const char *step_end(const char *p)
{
	static const char *const words[] = { "split ", "digits\n", "bytes\n", "words\n" };

	for (; (p = strchr(p, '\n')) != NULL; p++) {
		if (!p[1])
			return p;
		for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
			if (!strncmp(p + 1, words[i], strlen(words[i])))
				return p;
	}
	return NULL;
}

static void put_steps(struct jw *w, const char *steps)
{
	sb_adds(w->out, "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[");
	for (const char *p = steps, *end; *p && (end = step_end(p)) != NULL; p = end + 1) {
		struct jw re = jw_to(w->out);

		if (p != steps)
			sb_addc(w->out, ',');
		if (!strncmp(p, "split ", 6)) {
			sb_adds(w->out, "{\"type\":\"Split\",\"pattern\":{\"Regex\":");
			jw_strn(&re, p + 6, (size_t)(end - p) - 6);
			sb_adds(w->out, "},\"behavior\":\"Isolated\",\"invert\":false}");
		} else if (*p == 'd') {
			sb_adds(w->out, "{\"type\":\"Digits\",\"individual_digits\":true}");
		} else {
			sb_addf(w->out, "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":%s}", *p == 'w' ? "true" : "false");
		}
	}
	sb_adds(w->out, "]},");
}

static void put_added(const struct source *s, struct sb *out)
{
	struct jw w = jw_to(out);

	jw_arr(&w);
	for (uint64_t i = 0; i < s->tokens->n; i++) {
		int type = type_of(s, i);

		if (type != TOKEN_CONTROL && type != TOKEN_USER)
			continue;
		jw_obj(&w);
		jw_key(&w, "id");
		jw_i64(&w, (int64_t)i);
		jw_key(&w, "content");
		jw_strn(&w, s->tokens->strs[i].s, (size_t)s->tokens->strs[i].len);
		jw_key(&w, "special");
		jw_bool(&w, type == TOKEN_CONTROL);
		jw_key(&w, "normalized");
		jw_bool(&w, false);
		jw_end_obj(&w);
	}
	jw_end_arr(&w);
}

static void put_model(const struct source *s, bool ignore_merges, struct sb *out)
{
	struct jw w = jw_to(out);

	jw_obj(&w);
	jw_key(&w, "type");
	jw_str(&w, "BPE");
	jw_key(&w, "ignore_merges");
	jw_bool(&w, ignore_merges);
	jw_key(&w, "vocab");
	jw_obj(&w);
	for (uint64_t i = 0; i < s->tokens->n; i++)
		if (type_of(s, i) != TOKEN_UNUSED) {
			jw_keyn(&w, s->tokens->strs[i].s, (size_t)s->tokens->strs[i].len);
			jw_i64(&w, (int64_t)i);
		}
	jw_end_obj(&w);
	jw_key(&w, "merges");
	jw_arr(&w);
	for (uint64_t i = 0; i < s->merges->n; i++)
		jw_strn(&w, s->merges->strs[i].s, (size_t)s->merges->strs[i].len);
	jw_end_arr(&w);
	jw_end_obj(&w);
}

/* Begin and end tokens, as tokenizer_config.json names them. */
static void put_config(const struct source *s, struct sb *out)
{
	static const char *const keys[][2] = { { "bos_token", KEY("bos_token_id") }, { "eos_token", KEY("eos_token_id") } };
	struct jw w = jw_to(out);
	uint64_t id;

	jw_obj(&w);
	for (size_t i = 0; i < 2; i++)
		if (gguf_get_u64(&s->g, keys[i][1], &id) && id < s->tokens->n) {
			jw_key(&w, keys[i][0]);
			jw_strn(&w, s->tokens->strs[id].s, (size_t)s->tokens->strs[id].len);
		}
	jw_end_obj(&w);
}

static struct tok *byte_level(const struct source *s, struct err *e)
{
	struct gguf_str pre = { "default", 7 };
	struct sb json = SB_INIT, config = SB_INIT;
	struct jw w = jw_to(&json);
	bool ignore_merges;
	const char *steps;
	struct tok *t;

	gguf_get_str(&s->g, KEY("pre"), &pre);
	steps = gguf_pre_steps(pre.s, (size_t)pre.len, &ignore_merges);
	if (!steps || !s->merges) {
		if (!steps)
			err_set(e, LP_USAGE, "its pre-tokenizer '%.*s' is not known; give the model's tokenizer.json", (int)(pre.len < 60 ? pre.len : 60), pre.s);
		else
			err_set(e, LP_DATA, "it has no merges");
		return NULL;
	}
	sb_addf(&json, "{\"normalizer\":%s,", pre.len >= 4 && !memcmp(pre.s, "qwen", 4) ? "{\"type\":\"NFC\"}" : "null");
	put_steps(&w, steps);
	sb_adds(&json, "\"decoder\":{\"type\":\"ByteLevel\"},\"added_tokens\":");
	put_added(s, &json);
	sb_adds(&json, ",\"model\":");
	put_model(s, ignore_merges, &json);
	sb_addc(&json, '}');
	put_config(s, &config);
	t = tok_new(sb_str(&json), json.len, sb_str(&config), s->path, e);
	sb_release(&json);
	sb_release(&config);
	return t;
}

/* --- as a SentencePiece model --- */

/* A user's token is written with spaces, which the text has as marks. */
static void marked(struct arena *a, const struct gguf_str *in, struct spm_piece *p)
{
	char *text = arena_alloc(a, 3 * (size_t)in->len + 1);

	p->s = text;
	p->len = 0;
	for (uint64_t i = 0; i < in->len; i++)
		if (in->s[i] == ' ') {
			memcpy(text + p->len, "\xE2\x96\x81", 3);
			p->len += 3;
		} else {
			text[p->len++] = in->s[i];
		}
}

static struct tok *byte_fallback(const struct source *s, struct err *e)
{
	struct arena a = ARENA_INIT;
	struct spm_file f = { .model = SPM_BPE, .rules = { .dummy_prefix = true, .escape = true }, .byte_fallback = true, .bos = -1, .eos = -1, .unk_surface = " \xE2\x81\x87 ", .unk_surface_len = 5 };
	struct tok *t = NULL;
	uint64_t id;

	gguf_get_bool(&s->g, KEY("add_space_prefix"), &f.rules.dummy_prefix);
	gguf_get_bool(&s->g, KEY("remove_extra_whitespaces"), &f.rules.remove_extra);
	if (gguf_get_u64(&s->g, KEY("bos_token_id"), &id))
		f.bos = id < s->tokens->n ? (int64_t)id : -1;
	if (gguf_get_u64(&s->g, KEY("eos_token_id"), &id))
		f.eos = id < s->tokens->n ? (int64_t)id : -1;
	for (f.n = (size_t)s->tokens->n; f.n && type_of(s, f.n - 1) == TOKEN_UNUSED; f.n--) /* rows without a token */
		;
	f.pieces = arena_calloc(&a, f.n + 1, sizeof(*f.pieces));
	for (size_t i = 0; i < f.n; i++) {
		struct spm_piece *p = &f.pieces[i];
		int type = type_of(s, i);

		*p = (struct spm_piece){ s->tokens->strs[i].s, (size_t)s->tokens->strs[i].len, gguf_item_f32(s->scores, i), (enum spm_type)type };
		if (type < TOKEN_NORMAL || type > TOKEN_BYTE) {
			err_set(e, LP_DATA, "token %zu has the type %d, which is none", i, type);
			goto out;
		}
		if (type == TOKEN_USER)
			marked(&a, &s->tokens->strs[i], p);
	}
	t = tok_from_pieces(&f, s->path, e);
out:
	arena_release(&a);
	return t;
}

struct tok *gguf_tok_load(const char *path, char sha256[65], struct err *e)
{
	struct source s = { .path = path };
	struct gguf_str model = { "", 0 };
	struct tok *t = NULL;

	if (gguf_open(&s.g, path, e))
		return NULL;
	s.tokens = array(&s, KEY("tokens"), GGUF_STR);
	s.merges = array(&s, KEY("merges"), GGUF_STR);
	s.scores = array(&s, KEY("scores"), GGUF_F32);
	s.types = array(&s, KEY("token_type"), GGUF_I32);
	gguf_get_str(&s.g, KEY("model"), &model);
	if (!s.tokens || s.tokens->n > INT32_MAX)
		err_line(e, LP_DATA, path, 0, "it has no vocabulary");
	else if (model.len == 4 && !memcmp(model.s, "gpt2", 4))
		t = byte_level(&s, e);
	else if (model.len == 5 && !memcmp(model.s, "llama", 5) && s.scores && s.scores->n == s.tokens->n)
		t = byte_fallback(&s, e);
	else
		err_line(e, LP_USAGE, path, 0, "a tokenizer of the kind '%.*s' is not read from GGUF; give the model's own tokenizer file", (int)(model.len < 60 ? model.len : 60), model.s);
	if (t)
		hash_of(&s, sha256);
	else
		err_where(e, path, 0);
	gguf_close(&s.g);
	return t;
}
