/* Base64 as tokeniser files use it. */
#ifndef LP_TEXT_TOK_B64_H
#define LP_TEXT_TOK_B64_H

#include <stdbool.h>
#include <stddef.h>

#define TOKEN_MAX 4096 /* bytes of one token */

/* Strict RFC 4648, padded; out needs n / 4 * 3 bytes. False: it is none. */
bool b64_decode(const char *s, size_t n, unsigned char *out, size_t *len);

#endif
