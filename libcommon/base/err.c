#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void set_path(struct err *e, const char *path)
{
	snprintf(e->path, sizeof(e->path), "%s", path ? path : "");
}

/* Formats aside first: an argument may be e->msg itself. */
static int set_msg(struct err *e, enum lp_status code, const char *fmt, va_list ap) LP_PRINTF(3, 0);
static int set_msg(struct err *e, enum lp_status code, const char *fmt, va_list ap)
{
	char msg[sizeof(e->msg)];

	vsnprintf(msg, sizeof(msg), fmt, ap);
	memcpy(e->msg, msg, sizeof(msg));
	e->code = code;
	return -1;
}

int err_set(struct err *e, enum lp_status code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	set_msg(e, code, fmt, ap);
	va_end(ap);
	return -1;
}

int err_line(struct err *e, enum lp_status code, const char *path, uint64_t line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	set_msg(e, code, fmt, ap);
	va_end(ap);
	set_path(e, path);
	e->line = line;
	return -1;
}

int err_off(struct err *e, enum lp_status code, const char *path, int64_t off, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	set_msg(e, code, fmt, ap);
	va_end(ap);
	set_path(e, path);
	e->off = off;
	return -1;
}

int err_sys(struct err *e, const char *path, const char *verb)
{
	const char *why = strerror(errno);

	err_set(e, LP_IO, "cannot %s: %s", verb, why);
	set_path(e, path);
	e->line = 0;
	e->off = -1;
	return -1;
}

int err_where(struct err *e, const char *path, uint64_t line)
{
	/* a line of this file is no place in another one */
	if (e->path[0] && path && strncmp(e->path, path, sizeof(e->path) - 1))
		return -1;
	if (!e->path[0])
		set_path(e, path);
	if (!e->line)
		e->line = line;
	return -1;
}
