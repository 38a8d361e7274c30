/* Reading JSON of one known form in one go, without a tree: for what is large or
 * comes often. Every step says no to anything but that form, valid or not; the
 * caller then has the strict parser judge the text, which also finds the words
 * for what is wrong. */
#ifndef LP_JSON_JSON_QUICK_H
#define LP_JSON_JSON_QUICK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct quick {
	const char *s, *end;
};

void quick_space(struct quick *q);
bool quick_char(struct quick *q, char c);             /* white space, then c */
bool quick_key(struct quick *q, const char *name);    /* white space, then "name" : */
bool quick_count(struct quick *q, uint32_t *n);       /* a whole number of at most 9 digits */
/* A string behind its quote, up to where it ends; *slash: it has escapes, and is
 * not as it stands. Reads nothing beyond end. UTF-8 is the caller's to check. */
bool quick_slice(struct quick *q, const char **s, size_t *n, bool *slash);
/* The same copied to out, which has room for all that is left and 16 bytes more,
 * without its escapes; *w: its length. May read 8 bytes beyond end. False as well when it is not UTF-8. */
bool quick_string(struct quick *q, char *out, size_t *w);
bool quick_skip(struct quick *q);                     /* any value; only its brackets and strings are looked at */

bool json_utf8_ok(const char *s, size_t n);

#ifdef __cplusplus
}
#endif

#endif
