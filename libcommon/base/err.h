/* Errors are values: a library function that can fail returns int (0 good,
 * -1 bad) and fills a caller's struct err. Libraries never print or exit. */
#ifndef LP_BASE_ERR_H
#define LP_BASE_ERR_H

#include <stdarg.h>
#include <stdint.h>

#include "base/compiler.h"

/* Exit statuses, the same in every program (docs/formats/lp-exit.5). */
enum lp_status {
	LP_OK = 0,       /* done */
	LP_NO = 1,       /* ran, and the answer is no */
	LP_USAGE = 2,    /* usage or configuration */
	LP_DATA = 3,     /* bad data */
	LP_IO = 4,       /* reading or writing failed */
	LP_DEVICE = 5,   /* device or memory */
	LP_DIVERGED = 6  /* training diverged */
};

struct err {
	enum lp_status code;
	char path[512];  /* the file concerned, "" when none */
	uint64_t line;   /* from 1; 0 when not line data */
	int64_t off;     /* byte offset; -1 when not known */
	char msg[1024];  /* lower case, no full stop: reason, then remedy */
};

#define ERR_INIT { LP_OK, "", 0, -1, "" }

/* All return -1, so that "return err_set(e, ...)" reads well. The path, line
 * and offset given before with err_where survive unless given again. */
int err_set(struct err *e, enum lp_status code, const char *fmt, ...) LP_PRINTF(3, 4);
int err_line(struct err *e, enum lp_status code, const char *path, uint64_t line, const char *fmt, ...) LP_PRINTF(5, 6);
int err_off(struct err *e, enum lp_status code, const char *path, int64_t off, const char *fmt, ...) LP_PRINTF(5, 6);
/* "cannot VERB: strerror(errno)" about path, status LP_IO. */
int err_sys(struct err *e, const char *path, const char *verb);
/* Fills in a place where e has none yet; a line only of the file that e names. Returns -1. */
int err_where(struct err *e, const char *path, uint64_t line);

#endif
