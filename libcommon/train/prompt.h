/* Records to prompts and back: what lm-generate puts before a model, and the
 * text that the model's tokens add. */
#ifndef LP_TRAIN_PROMPT_H
#define LP_TRAIN_PROMPT_H

#include "json/jsonl.h"
#include "json/record.h"
#include "model/source.h"
#include "text/tmpl.h"
#include "text/tok.h"

struct prompter {
	struct tok *tok;
	struct chat_tmpl *tmpl;  /* NULL with raw */
	struct chat_map map;
	struct chat_render_opts how;
	bool raw;                /* {"prompt"} is the text itself, BOS put before it */
	bool score;              /* keep the last answer, with its mask */
	int64_t max_tokens;      /* a longer prompt is LP_DATA */
	bool drop_long;          /* it is none: the prompt is too_long, to be left out */
};

struct prompt { /* one record on its way through; everything is its own memory */
	char *id;                 /* JSON text: the record's id, or its line number */
	uint64_t line;            /* of the record, from 1 */
	char *text;               /* what the model sees */
	char *expected;           /* the answer that the record held, or NULL */
	size_t expected_len;
	int32_t *ids;
	int64_t n_ids;
	bool too_long;            /* more than max_tokens */
	uint8_t *mask;            /* (n_ids) with score: 1 on the last answer's tokens */
};
/* A model's tokenizer and template, and its end tokens. */
struct prompt_texts {
	struct prompter prompter;
	char date[32];
	int32_t stop[32];
	int64_t n_stop;
};
/* From a model's directory; without a template prompts are raw. On an error it is still to be released. */
int prompt_texts_load(struct prompt_texts *t, const char *model, const int32_t *eos, int n_eos, struct err *e) LP_MUST_USE;
void prompt_texts_release(struct prompt_texts *t);
/* On an error p is still to be released. */
int prompt_make(const struct prompter *m, const struct jsonl_rec *r, struct arena *a, struct prompt *p, struct err *e) LP_MUST_USE;
void prompt_release(struct prompt *p);

/* What n new tokens add to the prompt's text: decoded behind the prompt, so that a space that
 * a decoder drops at the beginning of a text is not lost. Special tokens are left out. */
int prompt_response(const struct prompter *m, const struct prompt *p, const int32_t *ids, int64_t n, struct sb *out, struct err *e) LP_MUST_USE;

/* The model's end tokens: generation_config.json's, config.json's (eos, n_eos), the tokenizer's; at most max. */
int prompt_stops(const struct model_texts *t, const int32_t *eos, int n_eos, const struct tok *tok, int32_t *stop, int64_t max, int64_t *n, struct err *e) LP_MUST_USE;

#endif
