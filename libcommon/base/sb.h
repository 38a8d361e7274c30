/* A growing byte string, always NUL-terminated (s is never NULL after a
 * first append; use sb_str for a valid C string at any time). */
#ifndef LP_BASE_SB_H
#define LP_BASE_SB_H

#include <stddef.h>

#include "base/compiler.h"

struct sb {
	char *s;
	size_t len, cap;
};
#define SB_INIT { 0, 0, 0 }

void sb_release(struct sb *b);
void sb_reset(struct sb *b); /* length 0, memory kept */
void sb_grow(struct sb *b, size_t extra);
void sb_add(struct sb *b, const void *s, size_t n);
void sb_adds(struct sb *b, const char *s);
void sb_addc(struct sb *b, char c);
void sb_addf(struct sb *b, const char *fmt, ...) LP_PRINTF(2, 3);
const char *sb_str(const struct sb *b); /* never NULL */
char *sb_detach(struct sb *b);          /* caller frees; b is empty again */

#endif
