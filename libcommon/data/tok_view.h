/* Token sequences for people and back: which token is trained on, and text
 * records again. */
#ifndef LP_DATA_TOK_VIEW_H
#define LP_DATA_TOK_VIEW_H

#include "base/sb.h"
#include "text/tok.h"

/* One line a token: {"record","pos","id","piece","mask"}; side NULL, "chosen" or "rejected". */
void tok_view_lines(const struct tok *t, const int32_t *ids, const uint8_t *mask, size_t n, int64_t record, const char *side, struct sb *out);
/* {"record","tokens","targets"}. */
void tok_view_count(int64_t record, const char *side, size_t tokens, size_t targets, struct sb *out);
/* The text for a terminal: targets stand out, special tokens too. */
int tok_view_colour(const struct tok *t, const int32_t *ids, const uint8_t *mask, size_t n, int64_t record, const char *side, struct sb *out, struct err *e) LP_MUST_USE;
/* {"text","spans","record"} of a sequence; an unfinished character at its end becomes U+FFFD. */
int tok_view_record(const struct tok *t, const int32_t *ids, const uint8_t *mask, size_t n, int64_t record, const char *side, struct sb *out, struct err *e) LP_MUST_USE;

#endif
