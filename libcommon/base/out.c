/* Atomic output of one file. */
#include "base/out.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/out_temp.h"
#include "base/xalloc.h"

enum { BUF_BYTES = 256 << 10 };

struct out {
	int fd;
	char *path;        /* final; "(stdout)" */
	struct temp *node; /* its temporary; NULL when written in place */
	char *buf;
	size_t len;
	uint64_t flushed;
	struct xxh *hash;
	bool failed;
};

/* A link is followed, so that its target is replaced, not the link. */
static char *final_name(const char *path)
{
	struct stat st;

	if (!lstat(path, &st) && S_ISLNK(st.st_mode)) {
		char *real = realpath(path, NULL);

		if (real)
			return real;
	}
	return xstrdup(path);
}

/* Devices, FIFOs, and the names of open descriptors (/dev/stdout, >(...)). */
static bool in_place(const char *path)
{
	struct stat st;

	if (!strncmp(path, "/dev/fd/", 8) || !strncmp(path, "/dev/std", 8) || !strncmp(path, "/proc/", 6))
		return true;
	return !stat(path, &st) && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

static int open_file(struct out *o, struct err *e)
{
	struct stat st;
	size_t n = strlen(o->path);

	if (!n)
		return err_set(e, LP_USAGE, "an output's name is empty; give a file name, or - for standard output");
	if (o->path[n - 1] == '/' || (!stat(o->path, &st) && S_ISDIR(st.st_mode)))
		return err_off(e, LP_IO, o->path, -1, "is a directory; give a file name");
	o->node = temp_beside(o->path, TEMP_FILE, &o->fd, e);
	return o->node ? 0 : -1;
}

struct out *out_open(const char *path, struct err *e)
{
	struct out *o = xcalloc(1, sizeof(*o));

	o->fd = -1;
	if (!path || !strcmp(path, "-")) {
		fflush(stdout); /* what stdio holds comes first */
		o->fd = 1;
		o->path = xstrdup("(stdout)");
	} else if (in_place(path)) {
		o->path = xstrdup(path);
		o->fd = open(path, O_WRONLY | O_CLOEXEC);
		if (o->fd < 0)
			err_sys(e, path, "open");
	} else {
		o->path = final_name(path);
		if (open_file(o, e))
			o->fd = -1;
	}
	if (o->fd < 0) {
		free(o->path);
		free(o);
		return NULL;
	}
	o->buf = xmalloc(BUF_BYTES);
	o->hash = xxh_new();
	return o;
}

static int write_all(struct out *o, const char *p, size_t n, struct err *e)
{
	xxh_add(o->hash, p, n);
	o->flushed += n;
	while (n) {
		ssize_t k = write(o->fd, p, n);

		if (k < 0 && errno == EAGAIN) {
			struct pollfd f = { .fd = o->fd, .events = POLLOUT };

			poll(&f, 1, -1);
		} else if (k < 0 && errno != EINTR) {
			o->failed = true;
			return err_sys(e, o->path, "write");
		} else if (k > 0) {
			p += k;
			n -= (size_t)k;
		}
	}
	return 0;
}

int out_flush(struct out *o, struct err *e)
{
	size_t n = o->len;

	o->len = 0;
	return n ? write_all(o, o->buf, n, e) : 0;
}

int out_write(struct out *o, const void *p, size_t n, struct err *e)
{
	if (n <= BUF_BYTES - o->len) {
		if (n)
			memcpy(o->buf + o->len, p, n);
		o->len += n;
		return 0;
	}
	if (out_flush(o, e))
		return -1;
	if (n >= BUF_BYTES)
		return write_all(o, p, n, e);
	memcpy(o->buf, p, n);
	o->len = n;
	return 0;
}

uint64_t out_bytes(const struct out *o)
{
	return o->flushed + o->len;
}

const char *out_name(const struct out *o)
{
	return o->path;
}

void out_hash(const struct out *o, char hex[33])
{
	struct xxh *h = xxh_copy(o->hash);

	xxh_add(h, o->buf, o->len);
	xxh_hex(h, hex);
	xxh_free(h);
}

static void out_free(struct out *o)
{
	if (o->fd > 1)
		close(o->fd);
	xxh_free(o->hash);
	free(o->buf);
	free(o->path);
	free(o);
}

void out_abort(struct out *o)
{
	if (!o)
		return;
	if (o->node)
		unlink(temp_path(o->node));
	temp_forget(o->node);
	out_free(o);
}

static int commit_file(struct out *o, struct err *e)
{
	int fd = o->fd;

	if (temp_sync(fd))
		return err_sys(e, o->path, "sync");
	o->fd = -1;
	if (close(fd))
		return err_sys(e, o->path, "close");
	if (rename(temp_path(o->node), o->path))
		return err_sys(e, o->path, "rename the temporary file to it");
	temp_forget(o->node);
	o->node = NULL;
	return temp_sync_parent(o->path, e);
}

int out_commit(struct out *o, struct err *e)
{
	int bad = out_flush(o, e), fd = o->fd;

	if (!bad && o->failed)
		bad = err_off(e, LP_IO, o->path, -1, "an earlier write failed");
	if (!bad && o->node) {
		bad = commit_file(o, e);
	} else if (!bad && fd > 1) {
		o->fd = -1;
		if (close(fd))
			bad = err_sys(e, o->path, "close");
	}
	if (bad)
		out_abort(o);
	else
		out_free(o);
	return bad;
}
