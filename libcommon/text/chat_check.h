/* Does what a model is trained on agree with what it is served with? The
 * questions that decide it, put to a template by rendering. */
#ifndef LP_TEXT_CHAT_CHECK_H
#define LP_TEXT_CHAT_CHECK_H

#include "json/record.h"
#include "text/tmpl.h"
#include "text/tok.h"

enum chat_check_what {
	CHECK_SPANS,  /* every conversation renders, and what the assistant writes is found exactly */
	CHECK_PROMPT, /* the prompt of an answer that is learned is the start of the training text (in tokens as well, with a tokeniser) */
	CHECK_BOS,    /* exactly one beginning of sequence, where the model has one */
	CHECK_END,    /* the end of turn is learned with every answer */
	CHECK_SYSTEM, /* a system prompt is written or refused, not dropped */
	CHECK_TOKENS, /* what looks like a special token is one of the tokeniser's */
	CHECK_N
};
enum chat_answer { CHECK_UNASKED, CHECK_YES, CHECK_NO };

struct chat_check {
	const struct chat_tmpl *t;
	const struct tok *tok;            /* NULL: no tokeniser to ask */
	const struct chat_render_opts *o; /* date, variables and span_choice; one with scratch is faster */
	struct {
		enum chat_answer answer;
		uint64_t n_no; /* conversations that say no */
		char note[400]; /* of the first no, or a remark; "" none */
	} v[CHECK_N];
	uint64_t n; /* conversations asked */
	char end[64]; /* the end of turn, "" when there is none */
};
extern const char *const chat_check_names[CHECK_N];

/* t, tok and o are kept, not owned. Asks with small conversations of its own. */
void chat_check_begin(struct chat_check *k, const struct chat_tmpl *t, const struct tok *tok, const struct chat_render_opts *o);
/* Asks with one more conversation; where names it in notes ("line 7"). */
void chat_check_add(struct chat_check *k, const struct chat *c, const char *where);
bool chat_check_good(const struct chat_check *k); /* no answer is no */

#endif
