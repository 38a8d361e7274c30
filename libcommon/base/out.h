/* Atomic output. A file is written under a temporary name beside its final
 * one, synced and renamed; a directory likewise. Until the commit nothing
 * stands under the final name; SIGINT, SIGTERM, SIGHUP and exit remove the
 * temporary. Standard output is flushed and checked by the commit too. */
#ifndef LP_BASE_OUT_H
#define LP_BASE_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct out;

/* path NULL or "-": stdout. /dev/..., and other non-regular files that exist,
 * are written in place. */
struct out *out_open(const char *path, struct err *e) LP_MUST_USE;
int out_write(struct out *o, const void *p, size_t n, struct err *e) LP_MUST_USE;
int out_flush(struct out *o, struct err *e) LP_MUST_USE;
uint64_t out_bytes(const struct out *o);
const char *out_name(const struct out *o); /* "(stdout)" or the final path */
void out_hash(const struct out *o, char hex[33]); /* XXH3-128 so far */
int out_commit(struct out *o, struct err *e) LP_MUST_USE; /* frees o in any case */
void out_abort(struct out *o); /* removes the temporary, frees; NULL is fine */

struct outdir;
/* Refuses an existing path unless force, which exchanges the two at commit. */
struct outdir *outdir_open(const char *path, bool force, struct err *e) LP_MUST_USE;
/* Where to create NAME inside (temporary directory); valid until the next call. */
const char *outdir_path(struct outdir *d, const char *name);
/* NAME with these bytes, whole. */
int outdir_put(struct outdir *d, const char *name, const void *p, size_t n, struct err *e) LP_MUST_USE;
int outdir_commit(struct outdir *d, struct err *e) LP_MUST_USE; /* frees d in any case */
void outdir_abort(struct outdir *d);

/* Removes every temporary still open: for exit paths and signal handlers. */
void out_abort_all(void);

#endif
