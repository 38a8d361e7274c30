/* Decoders of tokenizer.json: token strings back to text. */
#ifndef LP_TEXT_TOK_DEC_H
#define LP_TEXT_TOK_DEC_H

#include "base/sb.h"
#include "json/json.h"
#include "text/tok_re.h"

/* The token strings on their way; all memory is the arena's. */
struct dtok {
	const char *s;
	size_t n;
};
struct dtoks {
	struct dtok *t;
	size_t n;
	struct arena arena;
};
struct tok_dec;
int tok_dec_new(const struct json *v, struct tok_dec **out, struct err *e) LP_MUST_USE; /* null: *out NULL */
void tok_dec_free(struct tok_dec *d);
/* Bytes that form no UTF-8 become U+FFFD as in the reference, but a sequence that
 * only lacks its end stays as it is when it is last (see utf8_complete_len). */
int tok_dec_apply(const struct tok_dec *d, struct tok_re_mem *m, struct dtoks *t, struct err *e) LP_MUST_USE;
/* Any bytes as text, by the same rule. */
void tok_dec_lossy(struct sb *out, const char *s, size_t n);

#endif
