/* Internal to out.c and out_dir.c: temporaries that signals and exit remove. */
#ifndef LP_BASE_OUT_TEMP_H
#define LP_BASE_OUT_TEMP_H

#include "base/err.h"

enum temp_kind { TEMP_NONE, TEMP_FILE, TEMP_DIR };
struct temp;

/* What path names is a temporary from now on. Copies path. */
struct temp *temp_add(const char *path, int what);
void temp_forget(struct temp *t); /* it stays; NULL is fine */
const char *temp_path(const struct temp *t);

/* Makes DIR/.NAME.PID.N.tmp beside path (a file leaves its descriptor in *fd),
 * a temporary from its first moment on. NULL on error. */
struct temp *temp_beside(const char *path, int what, int *fd, struct err *e) LP_MUST_USE;

int temp_sync(int fd); /* fsync; what cannot be synced (a pipe) is fine */
int temp_sync_parent(const char *path, struct err *e) LP_MUST_USE;

#endif
