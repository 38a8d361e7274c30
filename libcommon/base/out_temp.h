/* Internal to out.c and out_dir.c: temporaries that signals and exit remove. */
#ifndef LP_BASE_OUT_TEMP_H
#define LP_BASE_OUT_TEMP_H

#include <signal.h>

#include "base/err.h"

enum temp_kind { TEMP_NONE, TEMP_FILE, TEMP_DIR };
struct temp;

/* Copies path. Call with signals blocked, around making the thing itself. */
struct temp *temp_add(const char *path, int what);
void temp_forget(struct temp *t); /* NULL is fine */
void temp_block(sigset_t *old);
void temp_unblock(const sigset_t *old);

/* Makes DIR/.NAME.PID.N.tmp beside path (a file leaves its descriptor in *fd)
 * and returns the name, which the caller frees; NULL on error. */
char *temp_beside(const char *path, int what, int *fd, struct err *e) LP_MUST_USE;

int temp_sync(int fd); /* fsync; what cannot be synced (a pipe) is fine */
int temp_sync_parent(const char *path, struct err *e) LP_MUST_USE;

#endif
