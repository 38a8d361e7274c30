#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/num.h"
#include "base/opt.h"
#include "base/sb.h"
#include "base/tool.h"
#include "base/xalloc.h"

/* What one process says to people and to its log: process state by nature. */
static struct {
	int fd; /* of --log, 0 when there is none */
	char *tool;
	double last; /* when the progress line was drawn */
	bool drawn;
} say;

double now_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int log_open(const char *tool, struct err *e)
{
	int fd;

	if (!opt_common.log)
		return 0;
	fd = open(opt_common.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (fd < 0)
		return err_sys(e, opt_common.log, "open the log");
	say.fd = fd;
	free(say.tool);
	say.tool = xstrdup(tool);
	return 0;
}

/* One write per record: several programs may append to one file. */
int log_metric(const char *event, struct err *e, const char *fields_fmt, ...)
{
	struct sb b = SB_INIT;
	struct timespec t;
	va_list ap;
	char *fields;
	int n, bad = 0;

	if (!say.fd)
		return 0;
	va_start(ap, fields_fmt);
	n = vasprintf(&fields, fields_fmt, ap);
	va_end(ap);
	if (n < 0)
		return err_set(e, LP_DEVICE, "out of memory for a metric record");
	clock_gettime(CLOCK_REALTIME, &t);
	sb_addf(&b, "{\"tool\":\"%s\",\"event\":\"%s\",\"time\":%lld.%03ld%s%s}\n", say.tool, event, (long long)t.tv_sec,
		t.tv_nsec / 1000000, n ? "," : "", fields);
	free(fields);
	for (size_t done = 0; done < b.len && !bad;) {
		ssize_t k = write(say.fd, b.s + done, b.len - done);

		if (k > 0)
			done += (size_t)k;
		else if (k < 0 && errno != EINTR)
			bad = err_sys(e, opt_common.log, "write");
	}
	sb_release(&b);
	return bad;
}

const char *log_num(double v)
{
	static char buf[8][32];
	static unsigned next;
	char *b = buf[next++ % 8];

	if (isfinite(v))
		fmt_f64(v, b);
	else
		snprintf(b, sizeof(buf[0]), "null");
	return b;
}

int log_close(struct err *e)
{
	int fd = say.fd;

	say.fd = 0;
	free(say.tool);
	say.tool = NULL;
	if (fd && close(fd))
		return err_sys(e, opt_common.log, "close");
	return 0;
}

/* A background job must not draw over what the shell does. */
static bool foreground(void)
{
	return isatty(2) && tcgetpgrp(2) == getpgrp();
}

void progress(const char *fmt, ...)
{
	double now = now_seconds();
	va_list ap;

	if (opt_common.quiet || now - say.last < 0.1 || !foreground())
		return;
	say.last = now;
	say.drawn = true;
	fputs("\r\033[K", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fflush(stderr);
}

void progress_done(void)
{
	if (say.drawn)
		fputs("\r\033[K", stderr);
	say.drawn = false;
	say.last = 0;
}

static void tell_people(const char *kind, const char *fmt, va_list ap) LP_PRINTF(2, 0);
static void tell_people(const char *kind, const char *fmt, va_list ap)
{
	char *msg;

	if (vasprintf(&msg, fmt, ap) < 0)
		return;
	fflush(stdout);
	progress_done();
	fprintf(stderr, "%s: %s%s\n", tool_name(), kind, msg);
	free(msg);
}

void warn(const char *fmt, ...)
{
	va_list ap;

	if (opt_common.quiet)
		return;
	va_start(ap, fmt);
	tell_people("warning: ", fmt, ap);
	va_end(ap);
}

void note(const char *fmt, ...)
{
	va_list ap;

	if (opt_common.quiet || !(opt_common.verbose || foreground()))
		return;
	va_start(ap, fmt);
	tell_people("", fmt, ap);
	va_end(ap);
}
