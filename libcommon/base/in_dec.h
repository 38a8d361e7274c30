/* Internal to in.c: one file's bytes, decompressed when they begin like gzip,
 * zstd, xz or bzip2. What is inside (text, a tar) is not looked at. */
#ifndef LP_BASE_IN_DEC_H
#define LP_BASE_IN_DEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct dec;

/* Borrows fd and name. */
struct dec *dec_open(int fd, const char *name, struct err *e) LP_MUST_USE;
void dec_close(struct dec *d); /* NULL is fine */
/* 1..n bytes, 0 at the proved end (check sums included), -1. */
int64_t dec_read(struct dec *d, void *buf, size_t n, struct err *e) LP_MUST_USE;
bool dec_is_plain(const struct dec *d);

/* read(2) that is not interrupted. */
int64_t read_some(int fd, void *buf, size_t n);
/* True when more bytes than these n could change what the head says: text is
 * judged at once, so that a slow pipe's first line is not held back. */
bool head_wants_more(const char *head, size_t n);
enum { HEAD_BYTES = 512 }; /* tells all formats, tar included */

/* "truncated or corrupt archive (why)"; why NULL: unknown format. */
int archive_err(const char *why, const char *name, struct err *e);

#endif
