/* Normalisers of tokenizer.json. */
#ifndef LP_TEXT_TOK_NORM_H
#define LP_TEXT_TOK_NORM_H

#include "json/json.h"
#include "text/tok_re.h"
#include "text/tok_str.h"

struct tok_norm;
/* v may be NULL or null: *out is NULL, which changes nothing. */
int tok_norm_new(const struct json *v, const uint8_t *uni, struct tok_norm **out, struct err *e) LP_MUST_USE;
void tok_norm_free(struct tok_norm *n);
/* Does it turn spaces into U+2581, perhaps (*prefix) with one before the text, and nothing else? */
bool tok_norm_marks(const struct tok_norm *n, bool *prefix);
/* Changes a, with tmp as scratch. */
int tok_norm_apply(const struct tok_norm *n, struct tok_re_mem *m, struct astr *a, struct astr *tmp, struct err *e) LP_MUST_USE;

#endif
