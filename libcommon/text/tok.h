/* Tokenisers: SentencePiece models, tekken.json and tiktoken ranks, equal to
 * their own libraries id for id, and what tokenizer.json describes, equal to
 * Hugging Face tokenizers: byte-level BPE (Llama 3, Qwen 2.5, GPT-2), BPE with
 * byte fallback (Llama 2, Mistral), added tokens, normalisers,
 * pre-tokenisers and decoders. What the file asks for and we do not know is
 * refused by name, never guessed. */
#ifndef LP_TEXT_TOK_H
#define LP_TEXT_TOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "json/json.h"

struct tok;
/* One encoding: token i covers bytes [begin[i], end[i]) of the input text
 * (begin is what decides whether it is a target). */
struct tok_out {
	int32_t *ids;
	uint32_t *begin, *end;
	size_t n, cap;
};
void tok_out_release(struct tok_out *o);
void tok_out_reserve(struct tok_out *o, size_t extra);
void tok_out_add(struct tok_out *o, int32_t id, uint32_t b, uint32_t e);

/* From the text of tokenizer.json; config_json (tokenizer_config.json) may be NULL. name is for errors. */
struct tok *tok_new(const char *tokenizer_json, size_t len, const char *config_json, const char *name, struct err *e) LP_MUST_USE;
/* The tokeniser of a model's directory: tokenizer.json, tekken.json,
 * tokenizer.model (SentencePiece or tiktoken ranks), tiktoken.model or
 * qwen.tiktoken, the first that is there, with tokenizer_config.json. Special
 * tokens in a text are found, whatever the kind. */
struct tok *tok_load_dir(const char *model_dir, struct err *e) LP_MUST_USE;
/* The same for a directory or one file. pattern: of tiktoken ranks, a name
 * (tok_pattern) or a regular expression; NULL: known from the file. */
struct tok *tok_load_model(const char *path, const char *pattern, struct err *e) LP_MUST_USE;
/* As tok_load_model, and its file's hash can be asked for if that is not packed. What is
 * loaded does not depend on how. */
struct tok_how {
	bool keep;      /* the tables of a large one are kept from run to run (tok_cache.h) */
	bool will_hash; /* the hash will be asked for: another thread may work on it */
	int threads;    /* that may work on it all */
};
struct tok *tok_load_hashed(const char *path, const char *pattern, const struct tok_how *how, struct err *e) LP_MUST_USE;
bool tok_was_kept(const struct tok *t);       /* it was made of such tables */
const char *tok_sha256(struct tok *t);        /* of its file, worked out when it is asked for; NULL: not known. By one thread at a time */
const char *tok_pattern(const char *name); /* gpt2, cl100k, o200k, llama3, qwen ...; NULL: no such name */
const char *tok_path(const struct tok *t); /* the file; NULL when it came from memory */
/* One tokeniser file, its kind found from its contents: tokenizer.json, a
 * SentencePiece model, tekken.json, tiktoken ranks (the pattern from the file's
 * contents or name). Text is encoded as the kind's own library does it:
 * control symbols of the last three in a text are plain text. */
struct tok *tok_load_file(const char *path, struct err *e) LP_MUST_USE;
/* From the pieces of a SentencePiece model; special tokens in a text are found. */
struct spm_file;
struct tok *tok_from_pieces(const struct spm_file *f, const char *name, struct err *e) LP_MUST_USE;
void tok_free(struct tok *t);

/* Appends the ids of text (valid UTF-8) to out; special tokens in the text are
 * recognised; nothing is added before or behind. Thread-safe on one tok. */
int tok_encode(const struct tok *t, const char *text, size_t len, struct tok_out *out, struct err *e) LP_MUST_USE;
/* Appends the text of ids to out. skip_special drops special tokens. */
int tok_decode(const struct tok *t, const int32_t *ids, size_t n, bool skip_special, struct sb *out, struct err *e) LP_MUST_USE;
/* The piece of one token as it stands in the vocabulary; NULL when id is unused.
 * Of tekken.json and tiktoken ranks these are bytes, not always UTF-8. */
const char *tok_piece(const struct tok *t, int32_t id);
/* Appends it as UTF-8, bytes as byte-level vocabularies write them; false: unused. */
bool tok_show_piece(const struct tok *t, int32_t id, struct sb *out);
int32_t tok_id(const struct tok *t, const char *piece); /* -1 when absent */
bool tok_is_special(const struct tok *t, int32_t id);
int64_t tok_vocab_size(const struct tok *t);            /* highest id + 1 */
/* From tokenizer_config: -1 when there is none. */
int32_t tok_bos(const struct tok *t);
int32_t tok_eos(const struct tok *t);
/* Incremental decoding for generation: text so far is stable up to the
 * returned byte count (an unfinished UTF-8 sequence is held back). */
size_t utf8_complete_len(const char *s, size_t n);

#endif
