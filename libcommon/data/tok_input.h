/* What stands beside the input of tokenize: the lineage of the text records,
 * and the model's own limit. */
#ifndef LP_DATA_TOK_INPUT_H
#define LP_DATA_TOK_INPUT_H

#include "base/in.h"

struct tok_sidecar {
	char *lineage;       /* of the input, as JSON; NULL: there is none */
	char *input_hash;    /* of the bytes that it speaks of */
	char *template_hash; /* of the template that rendered them; NULL: not known */
};
/* path.lineage.json, when it is there and readable. template_hash, when given, wins. */
void tok_sidecar_read(struct tok_sidecar *s, const char *path, const char *template_hash);
void tok_sidecar_release(struct tok_sidecar *s);
/* A sidecar that was left behind by other bytes must not speak for these: in has been read to its end. */
int tok_sidecar_check(const struct tok_sidecar *s, const struct in *in, struct err *e) LP_MUST_USE;

/* The model's positions, 0 when it does not say: path may be a tokenizer alone,
 * or a file. A config.json that is there and cannot be read is an error. */
int tok_model_limit(const char *path, int64_t *n, struct err *e) LP_MUST_USE;

#endif
