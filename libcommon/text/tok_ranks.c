/* Vocabularies that are ranks of byte strings, text cut by one pattern:
 * tiktoken's rank files (equal to tiktoken 0.14.0, encode_ordinary) and
 * Mistral's tekken.json (equal to mistral-common 1.13.1). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "base/xalloc.h"
#include "text/tok_b64.h"
#include "text/tok_int.h"

/* Patterns by name, and the published files that go with them. */
static const struct pattern {
	const char *name, *text;
} patterns[] = {
	{ "gpt2", pretok_gpt2_pattern },
	{ "r50k", pretok_gpt2_pattern },
	{ "p50k", pretok_gpt2_pattern },
	{ "cl100k", pretok_cl100k_pattern },
	{ "o200k", pretok_o200k_pattern },
	{ "llama3", pretok_llama3_pattern },
	{ "llama4", pretok_o200k_pattern },
	{ "qwen", pretok_qwen2_pattern },
};
static const struct { const char *sha, *name; } published[] = {
	{ "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930", "r50k" },
	{ "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069", "p50k" },
	{ "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7", "cl100k" },
	{ "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d", "o200k" },
	{ "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55", "llama3" },
	{ "d0bdbaf59b0762c8c807617e2d8ea51420eb1b1de266df2495be755c8e0ed6ed", "llama4" },
	{ "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186", "qwen" },
};

const char *tok_pattern(const char *name)
{
	for (size_t i = 0; i < sizeof(patterns) / sizeof(*patterns); i++)
		if (!strcmp(patterns[i].name, name))
			return patterns[i].text;
	return NULL;
}

/* Of ranks without a pattern: published contents, else a name in the file's name. */
static const char *guess_pattern(const char hex[65], const char *path)
{
	const char *base = strrchr(path, '/');

	for (size_t i = 0; i < sizeof(published) / sizeof(*published); i++)
		if (!strcmp(published[i].sha, hex))
			return tok_pattern(published[i].name);
	base = base ? base + 1 : path;
	for (size_t i = 0; i < sizeof(patterns) / sizeof(*patterns); i++)
		if (strstr(base, patterns[i].name))
			return patterns[i].text;
	return NULL;
}

/* Is there a counted repeat, {n} or {n,m}, at p? */
static bool is_count(const char *p)
{
	return *p == '{' && p[1] >= '0' && p[1] <= '9' && p[1 + strspn(p + 1, "0123456789,")] == '}';
}

/* These libraries run Rust's syntax: $ is the end of the text, where the rest of
 * the program takes Oniguruma's. */
static char *translate(const char *p, struct err *e)
{
	struct sb out = SB_INIT;
	bool set = false;

	for (; *p; p++) {
		if (*p == '\\' && p[1]) {
			sb_add(&out, p++, 2);
			continue;
		}
		if (*p == '[' || *p == ']')
			set = *p == '[';
		if (!set && is_count(p) && strchr(p, '}')[1] == '+') {
			err_set(e, LP_USAGE, "the pattern has a counted repeat that is possessive, {n,m}+; write (?>X{n,m}) for X{n,m}+");
			sb_release(&out);
			return NULL;
		}
		if (!set && *p == '$')
			sb_adds(&out, "\\z");
		else
			sb_addc(&out, *p);
	}
	return sb_detach(&out);
}

/* Cutting by pattern: what it does not match is dropped, as these libraries do;
 * a pattern that is known matches everything, and runs by hand. */
static int load_pattern(struct tok *t, const char *pattern, struct err *e)
{
	bool known = pretok_scan_for(pattern, strlen(pattern)) != NULL;
	char *text = known ? xstrdup(pattern) : translate(pattern, e);
	struct arena a = ARENA_INIT;
	struct sb s = SB_INIT;
	struct jw w = jw_to(&s);
	struct json v;
	int rc;

	if (!text)
		return -1;
	sb_adds(&s, "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":");
	jw_str(&w, text);
	sb_adds(&s, known ? "},\"behavior\":\"Isolated\",\"invert\":false}" : "},\"behavior\":\"Removed\",\"invert\":true}");
	sb_adds(&s, ",{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":false,\"use_regex\":false}]}");
	rc = json_parse_str(sb_str(&s), &a, &v, e);
	if (!rc)
		rc = pretok_new(&v, t->uni, &t->pretok, e);
	free(text);
	sb_release(&s);
	arena_release(&a);
	return rc;
}

/* The vocabulary is there: ranks are ids in order. */
static int finish(struct tok *t, const char *pattern, const struct tok_cache *kept, struct err *e)
{
	uint32_t *rank = kept ? NULL : xmalloc((t->vocab.n_ids + 1) * sizeof(*rank));
	int rc = load_pattern(t, pattern, e);

	for (size_t i = 0; rank && i < t->vocab.n_ids; i++)
		rank[i] = (uint32_t)i;
	if (!rc && !(t->bpe = bpe_from_ranks(&t->vocab, rank, true, -1, NULL, kept ? &kept->tables : NULL, e)))
		rc = -1;
	free(rank);
	t->raw_bytes = true;
	t->scan = pretok_single(t->pretok);
	t->n_ids = (int64_t)t->vocab.n_ids;
	for (int i = 0; i < 256 && !rc; i++) {
		char c = (char)i;

		if (vocab_find(&t->vocab, &c, 1) < 0)
			rc = err_set(e, LP_DATA, "the byte 0x%02x has no rank", i);
	}
	return rc;
}

/* False: it is for the way that says what is wrong. */
static bool decode_token(const char *b64, size_t n, unsigned char buf[TOKEN_MAX], size_t *len)
{
	return n <= TOKEN_MAX && b64_decode(b64, n, buf, len) && *len;
}

static int add_token(struct tok *t, const char *b64, size_t n, int64_t id, struct err *e)
{
	unsigned char buf[TOKEN_MAX];
	size_t len;

	if (!decode_token(b64, n, buf, &len))
		return err_set(e, LP_DATA, "the token of rank %lld is not base64 of 1 to %d bytes", (long long)id, TOKEN_MAX / 4 * 3);
	if (vocab_find(&t->vocab, (const char *)buf, len) >= 0)
		return err_set(e, LP_DATA, "the token of rank %lld is there twice", (long long)id);
	return vocab_add(&t->vocab, (const char *)buf, len, id, e);
}

/* --- tiktoken --- */

/* All lines at once, in the published form. False: they are to be read one by one, which finds words for what is wrong. */
static bool quick_ranks(struct vocab *v, const char *text, size_t len)
{
	struct quick q = { text, text + len };
	unsigned char buf[TOKEN_MAX];
	uint32_t id;
	size_t n;
	bool ok = true;

	while (ok && q.s < q.end) {
		const char *sp = memchr(q.s, ' ', (size_t)(q.end - q.s));

		ok = sp && decode_token(q.s, (size_t)(sp - q.s), buf, &n);
		q.s = sp ? sp + 1 : q.end;
		ok = ok && q.s < q.end && *q.s >= '0' && quick_count(&q, &id) && vocab_append(v, (const char *)buf, n, id);
		ok = ok && (q.s == q.end || *q.s++ == '\n');
	}
	ok = ok && vocab_index(v);
	if (!ok)
		vocab_release(v);
	return ok;
}

static int read_rank(struct tok *t, const char *line, const char *end, struct err *e)
{
	const char *sp = memchr(line, ' ', (size_t)(end - line));
	char digits[24];
	int64_t id;

	if (!sp || (size_t)(end - sp) > sizeof(digits))
		return err_set(e, LP_DATA, "not a token and its rank");
	memcpy(digits, sp + 1, (size_t)(end - sp - 1));
	digits[end - sp - 1] = 0;
	if (!parse_i64(digits, &id))
		return err_set(e, LP_DATA, "the rank is not a number");
	return add_token(t, line, (size_t)(sp - line), id, e);
}

static int read_ranks(struct tok *t, const char *text, size_t len, const char *path, struct err *e)
{
	const char *p = text, *end = text + len;

	if (quick_ranks(&t->vocab, text, len))
		return 0;
	for (uint64_t n = 1; p < end; n++) {
		const char *nl = memchr(p, '\n', (size_t)(end - p)), *stop = nl ? nl : end;

		if (stop > p && read_rank(t, p, stop > p && stop[-1] == '\r' ? stop - 1 : stop, e))
			return err_where(e, path, n);
		p = nl ? nl + 1 : end;
	}
	return 0;
}

int tok_from_tiktoken(struct tok *t, const char *text, size_t len, const char *path, const char *pattern, const struct tok_cache *kept, struct tok_hash *hash, struct err *e)
{
	struct tok_hash own = { .text = text, .len = len };

	if (kept)
		t->vocab = kept->vocab;
	else if (read_ranks(t, text, len, path, e))
		return -1;
	if (!pattern)
		pattern = guess_pattern(kept ? kept->sha256 : tok_hash_hex(hash ? hash : &own), path);
	else if (tok_pattern(pattern))
		pattern = tok_pattern(pattern);
	if (!pattern)
		return err_set(e, LP_USAGE, "ranks do not say how text is cut, and these are not known; give --pattern NAME or a regular expression");
	if (added_init(&t->added, t->uni, TOK_SPECIALS_MAX, e))
		return -1;
	return finish(t, pattern, kept, e);
}

/* --- tekken.json --- */

/* What files without a list of their own have, by rank. */
static const char *const first_specials[] = { "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
	"[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
	"[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]" };
#define N_FIRST (int64_t)(sizeof(first_specials) / sizeof(*first_specials))

static int tekken_specials(struct tok *t, const struct json *list, int64_t n, struct err *e)
{
	int64_t given = json_is(list, JSON_ARR) ? (int64_t)list->n : N_FIRST, rank;
	const char *s;
	char filler[32];

	if (given > n)
		return err_set(e, LP_DATA, "it has more special tokens than default_num_special_tokens");
	for (int64_t i = 0; i < n; i++) {
		const struct json *v = i < given && given && json_is(list, JSON_ARR) ? &list->items[i] : NULL;

		rank = i;
		if (i >= given) {
			snprintf(filler, sizeof(filler), "<SPECIAL_%lld>", (long long)i);
			s = filler;
		} else if (!v) {
			s = first_specials[i];
		} else if (!json_get_str(v, "token_str", NULL, &s) || !s || !json_get_i64(v, "rank", -1, &rank) || rank < 0 || rank >= n) {
			return err_set(e, LP_DATA, "special token %lld is not a rank and token_str", (long long)i);
		}
		if (added_put(&t->added, s, strlen(s), (int32_t)rank, true, e))
			return -1;
	}
	return 0;
}

static int tekken_vocab(struct tok *t, const struct json *list, int64_t n, int64_t specials, struct err *e)
{
	const char *b64;
	int64_t rank;

	if (n > (int64_t)list->n)
		return err_set(e, LP_DATA, "tekken: config needs pattern, default_vocab_size and default_num_special_tokens that go with the vocab");
	if (vocab_reserve(&t->vocab, (size_t)n, e))
		return -1;
	for (int64_t i = 0; i < n; i++) {
		const struct json *x = &list->items[i];

		if (!json_get_i64(x, "rank", -1, &rank) || rank != i || !json_get_str(x, "token_bytes", NULL, &b64) || !b64)
			return err_set(e, LP_DATA, "tekken: vocab entry %lld is not a rank and token_bytes in order", (long long)i);
		if (add_token(t, b64, strlen(b64), specials + i, e))
			return -1;
	}
	return 0;
}

/* The first n of read become t's. */
static int take_vocab(struct tok *t, struct vocab *read, int64_t n, int64_t specials, struct err *e)
{
	if (n > (int64_t)read->n_ids || !vocab_shift(read, (size_t)n, (size_t)specials) || !vocab_index(read))
		return err_set(e, LP_DATA, "tekken: the vocab is not as its config says");
	t->vocab = *read;
	memset(read, 0, sizeof(*read));
	return 0;
}

int tok_from_tekken(struct tok *t, const struct json *v, const struct tok_cache *kept, struct vocab *read, struct err *e)
{
	const struct json *config = json_get(v, "config");
	int64_t size, specials;
	const char *pattern;

	if (!json_get_i64(config, "default_vocab_size", -1, &size) || !json_get_i64(config, "default_num_special_tokens", -1, &specials) ||
	    !json_get_str(config, "pattern", NULL, &pattern) || !pattern || size < 0 || specials < 0 || specials > size ||
	    specials > TOK_SPECIALS_MAX)
		return err_set(e, LP_DATA, "tekken: config needs pattern, default_vocab_size and default_num_special_tokens that go with the vocab");
	if (kept)
		t->vocab = kept->vocab;
	else if (read ? take_vocab(t, read, size - specials, specials, e) : tekken_vocab(t, json_get(v, "vocab"), size - specials, specials, e))
		return -1;
	if (added_init(&t->added, t->uni, (size_t)specials + TOK_SPECIALS_MAX, e) || tekken_specials(t, json_get(v, "special_tokens"), specials, e))
		return -1;
	t->bos = tok_id(t, "<s>");
	t->eos = tok_id(t, "</s>");
	return finish(t, pattern, kept, e);
}
