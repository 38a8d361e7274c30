/* An Ollama Modelfile for a model's own chat template.
 *
 * Its TEMPLATE (Go's text/template, over .System and .Messages) is derived from
 * what the model's template renders, then evaluated and compared with it on
 * small conversations: what cannot be expressed is refused by name. */
#ifndef LP_TEXT_MODELFILE_H
#define LP_TEXT_MODELFILE_H

#include "json/record.h"
#include "text/tmpl.h"

struct modelfile_opts {
	const char *from;    /* FROM: a file or the name of a model */
	const char *system;  /* SYSTEM, or NULL */
	double temperature;  /* negative: not written */
	int64_t num_ctx;     /* 0: not written */
	bool adds_bos;       /* the runtime puts a BOS before the text (the GGUF's add_bos_token): TEMPLATE then has none */
};
/* Appends the Modelfile to out, and to notes a line for each way in which the model's template does more
 * than Ollama can be told (tools, white space cut off contents, a date). o: date and variables. LP_DATA: a
 * feature of the template cannot be expressed. */
int modelfile_write(const struct chat_tmpl *t, const struct modelfile_opts *m, const struct chat_render_opts *o, struct sb *out, struct sb *notes,
                    struct err *e) LP_MUST_USE;
/* Will the GGUF say that a BOS is added? The post-processor of tokenizer.json (its text, or NULL) decides,
 * else tokenizer_config.json's add_bos_token, else the kind: SentencePiece's do. */
int modelfile_adds_bos(const struct chat_tmpl *t, const char *tokenizer_json, bool *adds, struct err *e) LP_MUST_USE;

/* Renders a conversation with the part of Go's templates that modelfile_write
 * uses: if, else, else if, end, range .Messages, eq .Role "x", .System, .Role,
 * .Content and string constants. Anything else is LP_DATA. */
int modelfile_render(const char *src, size_t len, const struct chat *c, struct sb *out, struct err *e) LP_MUST_USE;

#endif
