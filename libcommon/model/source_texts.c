/* The texts that travel with a model: which files they are, and which keys of
 * a stream's index frame. One table serves reading, writing and streaming. */
#include "model/source_texts.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/xalloc.h"

#define TEXT_MAX ((size_t)256 << 20)

static const struct {
	const char *file, *key;
	size_t at;
} texts[MODEL_N_TEXTS] = {
	{ "config.json", "config", offsetof(struct model_texts, config) },
	{ "tokenizer.json", "tokenizer", offsetof(struct model_texts, tokenizer) },
	{ "tokenizer_config.json", "tokenizer_config", offsetof(struct model_texts, tokenizer_config) },
	{ "chat_template.jinja", "chat_template", offsetof(struct model_texts, chat_template) },
	{ "generation_config.json", "generation_config", offsetof(struct model_texts, generation_config) },
	{ "special_tokens_map.json", "special_tokens_map", offsetof(struct model_texts, special_tokens_map) },
	{ "added_tokens.json", "added_tokens", offsetof(struct model_texts, added_tokens) },
};

static char **field(const struct model_texts *t, size_t i)
{
	return (char **)((char *)(uintptr_t)t + texts[i].at);
}

void model_texts_release(struct model_texts *t)
{
	for (size_t i = 0; i < MODEL_N_TEXTS; i++)
		free(*field(t, i));
	free(t->tokenizer_model);
	memset(t, 0, sizeof(*t));
}

static char *slurp_if(const char *dir, const char *file, size_t *len, bool *failed, struct err *e)
{
	char *path = xasprintf("%s/%s", dir, file), *text = NULL;

	*len = 0;
	if (!access(path, F_OK)) {
		text = in_slurp(path, TEXT_MAX, len, e);
		*failed |= !text;
	}
	free(path);
	return text;
}

int model_texts_read(struct model_texts *t, const char *dir, struct err *e)
{
	bool failed = false;
	size_t len;

	memset(t, 0, sizeof(*t));
	for (size_t i = 0; i < MODEL_N_TEXTS && !failed; i++) {
		char *text = slurp_if(dir, texts[i].file, &len, &failed, e);

		*field(t, i) = text;
		if (text && strlen(text) != len)
			failed = err_off(e, LP_DATA, dir, -1, "%s holds a NUL byte: it is no text", texts[i].file) != 0;
	}
	if (!failed)
		t->tokenizer_model = (unsigned char *)slurp_if(dir, "tokenizer.model", &t->tokenizer_model_bytes, &failed, e);
	if (failed)
		model_texts_release(t);
	return failed ? -1 : 0;
}

int model_texts_load(struct model_texts *t, const char *dir, struct err *e)
{
	if (model_texts_read(t, dir, e))
		return -1;
	if (t->config)
		return 0;
	model_texts_release(t);
	return err_off(e, LP_USAGE, dir, -1, "no config.json: this is not a model directory");
}

int model_texts_save(const struct model_texts *t, struct outdir *d, struct err *e)
{
	for (size_t i = 0; i < MODEL_N_TEXTS; i++) {
		const char *text = *field(t, i);

		if (text && outdir_put(d, texts[i].file, text, strlen(text), e))
			return -1;
	}
	if (t->tokenizer_model)
		return outdir_put(d, "tokenizer.model", t->tokenizer_model, t->tokenizer_model_bytes, e);
	return 0;
}

size_t model_texts_to_meta(const struct model_texts *t, struct st_kv *kv, char **base64)
{
	size_t n = 0;

	for (size_t i = 0; i < MODEL_N_TEXTS; i++)
		if (*field(t, i))
			kv[n++] = (struct st_kv){ texts[i].key, *field(t, i) };
	*base64 = NULL;
	if (t->tokenizer_model) {
		*base64 = xmalloc((t->tokenizer_model_bytes + 2) / 3 * 4 + 1);
		EVP_EncodeBlock((unsigned char *)*base64, t->tokenizer_model, (int)t->tokenizer_model_bytes);
		kv[n++] = (struct st_kv){ "tokenizer_model_base64", *base64 };
	}
	return n;
}

static int decode_model(struct model_texts *t, const char *b64, const char *path, struct err *e)
{
	size_t len = strlen(b64), pad = 0;
	int n;

	if (len % 4 || len > TEXT_MAX)
		return err_off(e, LP_DATA, path, 0, "corrupt: tokenizer_model_base64 is not base64");
	while (pad < 2 && pad < len && b64[len - 1 - pad] == '=')
		pad++;
	t->tokenizer_model = xmalloc(len + 1);
	n = EVP_DecodeBlock(t->tokenizer_model, (const unsigned char *)b64, (int)len);
	if (n < 0)
		return err_off(e, LP_DATA, path, 0, "corrupt: tokenizer_model_base64 is not base64");
	t->tokenizer_model_bytes = (size_t)n - pad;
	return 0;
}

int model_texts_from_meta(struct model_texts *t, const struct st_blob *b, const char *path, struct err *e)
{
	const char *b64 = st_meta(b, "tokenizer_model_base64");

	memset(t, 0, sizeof(*t));
	for (size_t i = 0; i < MODEL_N_TEXTS; i++) {
		const char *text = st_meta(b, texts[i].key);

		*field(t, i) = text ? xstrdup(text) : NULL;
	}
	if (!t->config)
		return err_off(e, LP_DATA, path, 0, "corrupt: the model stream carries no config.json");
	return b64 ? decode_model(t, b64, path, e) : 0;
}
