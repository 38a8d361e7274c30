/* Patterns of tokenizer.json: Oniguruma's Ruby syntax (what the reference
 * runs), translated to PCRE2 with the reference's Unicode classes. */
#ifndef LP_TEXT_TOK_RE_H
#define LP_TEXT_TOK_RE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct tok_re;
struct tok_re *tok_re_new(const char *pattern, size_t len, struct err *e) LP_MUST_USE;
struct tok_re *tok_re_new_string(const char *literal, size_t len, struct err *e) LP_MUST_USE; /* matches itself; may be empty: never matches */
void tok_re_free(struct tok_re *re);
/* What a thread needs to run any pattern. */
struct tok_re_mem;
struct tok_re_mem *tok_re_mem_new(void);
void tok_re_mem_free(struct tok_re_mem *m);
/* The next match in s[0..n) at or after from (never empty twice at one place is
 * the caller's care). 1 match [*b, *e), 0 none, -1 the pattern's own limits. */
int tok_re_next(const struct tok_re *re, struct tok_re_mem *m, const char *s, size_t n, size_t from, size_t *b, size_t *e);

#endif
