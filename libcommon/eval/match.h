/* Yes-or-no comparisons of what a model wrote with what was expected. */
#ifndef LP_EVAL_MATCH_H
#define LP_EVAL_MATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/sb.h"
#include "json/json.h"

/* Byte for byte, white space at both ends aside. */
bool match_exact(const char *a, size_t a_len, const char *b, size_t b_len);

/* Exact match as SQuAD normalises, for any script: case folded, ASCII
 * punctuation dropped, the words a, an and the dropped, white space runs made
 * one. Equal to SQuAD's own on ASCII. match_normal writes that form. */
bool match_normalised(const char *a, size_t a_len, const char *b, size_t b_len);
void match_normal(const char *s, size_t len, struct sb *out);

/* A code block (```) in both texts or in neither. */
bool match_format(const char *a, size_t a_len, const char *b, size_t b_len);

/* JSON that means the same: members in any order, numbers by value, a ```
 * fence around it dropped. *valid: the response is JSON at all. */
bool match_json(const char *expected, size_t n_expected, const char *response, size_t n_response, bool *valid);

size_t match_code_points(const char *s, size_t len);
/* Bytes of the first n code points. */
size_t match_prefix(const char *s, size_t len, size_t n);

/* A PCRE2 pattern (UTF-8; ^ and $ are the ends of the text, (?m) makes them
 * those of lines). Without a group: the response must have a match. With
 * one: group 1 of the last match is the answer, and must be the same text in
 * the response as in the expected one ("#### (\S+)"). */
struct match_regex;
struct match_regex *match_regex_new(const char *pattern, struct err *e) LP_MUST_USE; /* LP_USAGE */
void match_regex_free(struct match_regex *m);
bool match_regex_has_group(const struct match_regex *m);
/* 1 yes, 0 no, -1 error: text that is not UTF-8, or a pattern that needs too many steps. */
int match_regex_test(struct match_regex *m, const char *expected, size_t n_expected, const char *response, size_t n_response,
                     struct err *e) LP_MUST_USE;

#endif
