/* Byte input: a file, stdin ("-" or NULL), decompressed on the way (gzip,
 * zstd, xz, bzip2), members of tar and zip joined, all through libarchive;
 * plain files take the short way. A cut or corrupt archive is LP_DATA. */
#ifndef LP_BASE_IN_H
#define LP_BASE_IN_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hash.h"

struct in;

struct in *in_open(const char *path, struct err *e) LP_MUST_USE; /* NULL on error */
/* Reads 1..n bytes; 0 only at the proved end; -1 on error. */
int64_t in_read(struct in *in, void *buf, size_t n, struct err *e) LP_MUST_USE;
/* Exactly n bytes or an error: LP_DATA "truncated" names what. */
int in_read_full(struct in *in, void *buf, size_t n, const char *what, struct err *e) LP_MUST_USE;
/* The next line without its newline, in *line (valid until the next call, NUL
 * and 64 readable bytes behind it). 1 a line, 0 end, -1 error. A line over
 * max bytes is LP_DATA. */
int in_line(struct in *in, const char **line, size_t *len, size_t max, struct err *e) LP_MUST_USE;
/* Looks at up to n bytes without consuming; returns how many are there
 * (fewer only at the end), -1 on error. n at most 4096. */
int64_t in_peek(struct in *in, const void **p, size_t n, struct err *e) LP_MUST_USE;
uint64_t in_offset(const struct in *in); /* decoded bytes consumed */
uint64_t in_line_no(const struct in *in); /* of the last in_line, from 1 */
const char *in_name(const struct in *in); /* "(stdin)" for standard input; "a.tar:member" */
/* XXH3-128 of all decoded bytes consumed so far, 32 hex digits. */
void in_hash(const struct in *in, char hex[33]);
void in_close(struct in *in); /* NULL is fine */

/* A whole small file (at most max bytes), NUL-terminated, caller frees. */
char *in_slurp(const char *path, size_t max, size_t *len, struct err *e) LP_MUST_USE;

#endif
