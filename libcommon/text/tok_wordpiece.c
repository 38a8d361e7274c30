/* WordPiece: the longest piece from the left; WordLevel: whole words. */
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "text/tok_models.h"
#include "text/utf8.h"

#define PREFIX_MAX 32

struct wordpiece {
	const struct vocab *v;
	bool whole;
	int32_t unk; /* -1: none */
	char prefix[PREFIX_MAX];
	size_t prefix_len;
	int64_t max_chars;
};

void wordpiece_free(struct wordpiece *w)
{
	free(w);
}

struct wordpiece *wordpiece_new(const struct json *model, const struct vocab *v, bool whole_words, struct err *e)
{
	struct wordpiece *w = xcalloc(1, sizeof(*w));
	const char *unk, *prefix;

	w->v = v;
	w->whole = whole_words;
	if (!json_get_str(model, "unk_token", whole_words ? "<unk>" : "[UNK]", &unk) || !json_get_str(model, "continuing_subword_prefix", "##", &prefix) ||
	    !json_get_i64(model, "max_input_chars_per_word", 100, &w->max_chars) || strlen(prefix) >= PREFIX_MAX) {
		err_set(e, LP_DATA, "model %s: a field has the wrong type", whole_words ? "WordLevel" : "WordPiece");
		free(w);
		return NULL;
	}
	w->unk = vocab_find(v, unk, strlen(unk));
	w->prefix_len = strlen(prefix);
	memcpy(w->prefix, prefix, w->prefix_len);
	return w;
}

static int unknown(const struct wordpiece *w, size_t n, struct mtoks *out, struct err *e)
{
	if (w->unk < 0)
		return err_set(e, LP_DATA, "the text has a word outside the vocabulary, which has no unknown token");
	mtoks_add(out, w->unk, 0, n);
	return 0;
}

/* The longest piece at byte b, ending on a character; its end, or b. */
static size_t longest_piece(const struct wordpiece *w, const char *s, size_t n, size_t b, char *buf, int32_t *id)
{
	size_t p = b ? w->prefix_len : 0;

	memcpy(buf, w->prefix, p);
	memcpy(buf + p, s + b, n - b);
	for (size_t end = n; end > b; end = utf8_prev(s, end)) {
		*id = vocab_find(w->v, buf, p + end - b);
		if (*id >= 0)
			return end;
	}
	return b;
}

int wordpiece_encode(const struct wordpiece *w, const char *s, size_t n, struct mtoks *out, struct err *e)
{
	size_t start = out->n, b = 0, end;
	int64_t chars = 0;
	char *buf;
	int32_t id;

	if (w->whole) {
		id = vocab_find(w->v, s, n);
		if (id < 0)
			return unknown(w, n, out, e);
		mtoks_add(out, id, 0, n);
		return 0;
	}
	for (size_t i = 0; i < n; i++)
		chars += !utf8_is_cont(s[i]);
	if (chars > w->max_chars)
		return unknown(w, n, out, e);
	buf = xmalloc(n + w->prefix_len + 1); /* at most max_chars characters */
	for (; b < n; b = end) {
		end = longest_piece(w, s, n, b, buf, &id);
		if (end == b) {
			out->n = start;
			free(buf);
			return unknown(w, n, out, e);
		}
		mtoks_add(out, id, b, end);
	}
	free(buf);
	return 0;
}
