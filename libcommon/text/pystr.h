/* Python 3's str.lower, str.strip and len over UTF-8, for checks that must
 * agree with rules stated in Python. Text is valid UTF-8 (as parsed JSON is);
 * case data is Unicode 15 (utf8proc 2.8). */
#ifndef LP_TEXT_PYSTR_H
#define LP_TEXT_PYSTR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/sb.h"

/* Code points. */
size_t py_len(const char *s, size_t n);
/* Whether str.isspace() holds for this code point: what strip() removes. */
bool py_is_space(int32_t cp);
/* The part that strip() leaves, as a range of s. */
void py_strip(const char *s, size_t n, const char **begin, size_t *len);
/* Full lower-casing: the final sigma, and U+0130 to two code points. Replaces what out holds. */
void py_lower(const char *s, size_t n, struct sb *out);
/* split() and " ".join(): runs of white space to one space, none at the ends. Replaces what out holds. */
void py_collapse(const char *s, size_t n, struct sb *out);

#endif
