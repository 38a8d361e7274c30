/* Atomic output of a directory: built beside its final name, synced, renamed. */
#include "base/out.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/out_temp.h"
#include "base/sb.h"
#include "base/xalloc.h"

struct outdir {
	char *path, *tmp;
	bool force;
	struct temp *self;
	struct temp **nodes; /* of what is in it, each once */
	char **names;
	size_t n, cap_nodes, cap_names;
	struct sb at; /* outdir_path's answer */
};

static void remember(struct outdir *d, const char *path, int what)
{
	for (size_t i = 0; i < d->n; i++)
		if (!strcmp(d->names[i], path))
			return;
	d->nodes = xgrow(d->nodes, &d->cap_nodes, d->n + 1, sizeof(*d->nodes));
	d->names = xgrow(d->names, &d->cap_names, d->n + 1, sizeof(*d->names));
	d->nodes[d->n] = temp_add(path, what);
	d->names[d->n++] = xstrdup(path);
}

static void outdir_free(struct outdir *d)
{
	temp_forget(d->self);
	for (size_t i = 0; i < d->n; i++) {
		temp_forget(d->nodes[i]);
		free(d->names[i]);
	}
	free(d->nodes);
	free(d->names);
	sb_release(&d->at);
	free(d->path);
	free(d->tmp);
	free(d);
}

/* "out/" means "out"; "", "/", "." and ".." cannot be replaced. */
static char *dir_name(const char *path, struct err *e)
{
	size_t n = strlen(path);
	const char *last;
	char *p;

	while (n > 1 && path[n - 1] == '/')
		n--;
	p = xmemdup0(path, n);
	last = strrchr(p, '/') ? strrchr(p, '/') + 1 : p;
	if (!*last || !strcmp(last, ".") || !strcmp(last, "..")) {
		err_off(e, LP_USAGE, path, -1, "cannot be an output directory; name a new one");
		free(p);
		return NULL;
	}
	return p;
}

struct outdir *outdir_open(const char *path, bool force, struct err *e)
{
	char *p = dir_name(path, e);
	struct outdir *d;
	struct temp *self;
	struct stat st;
	bool there;

	if (!p)
		return NULL;
	there = !lstat(p, &st);
	if (there && !force) {
		err_off(e, LP_USAGE, p, -1, "exists already; give another name, or --force to replace it");
		free(p);
		return NULL;
	}
	if (there && !S_ISDIR(st.st_mode)) {
		err_off(e, LP_USAGE, p, -1, "is not a directory; give another name");
		free(p);
		return NULL;
	}
	d = xcalloc(1, sizeof(*d));
	d->path = p;
	d->force = force;
	self = temp_beside(p, TEMP_DIR, NULL, e);
	if (!self) {
		outdir_free(d);
		return NULL;
	}
	d->tmp = xstrdup(temp_path(self));
	d->self = self;
	return d;
}

/* Folders on the way to NAME are made here; a failure shows when the caller
 * opens the file. */
const char *outdir_path(struct outdir *d, const char *name)
{
	sb_reset(&d->at);
	sb_addf(&d->at, "%s/", d->tmp);
	for (const char *s = name; (s = strchr(s, '/')); s++) {
		sb_add(&d->at, name, (size_t)(s - name));
		if (s > name && !mkdir(d->at.s, 0777))
			remember(d, d->at.s, TEMP_DIR);
		sb_reset(&d->at);
		sb_addf(&d->at, "%s/", d->tmp);
	}
	sb_adds(&d->at, name);
	remember(d, d->at.s, TEMP_FILE);
	return d->at.s;
}

static int write_whole(int fd, const char *s, size_t n)
{
	while (n) {
		ssize_t k = write(fd, s, n);

		if (k < 0 && errno != EINTR)
			return -1;
		if (k > 0)
			s += k, n -= (size_t)k;
	}
	return 0;
}

int outdir_put(struct outdir *d, const char *name, const void *p, size_t n, struct err *e)
{
	const char *at = outdir_path(d, name), *failed = NULL;
	int fd = open(at, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666), saved;
	char *final;

	if (fd < 0) {
		failed = "create";
	} else if (write_whole(fd, p, n)) {
		failed = "write";
		saved = errno;
		close(fd);
		errno = saved;
	} else if (close(fd)) {
		failed = "close";
	}
	if (!failed)
		return 0;
	saved = errno;
	final = xasprintf("%s/%s", d->path, name); /* the name that the user knows */
	errno = saved;
	err_sys(e, final, failed);
	free(final);
	return -1;
}

/* --- walking what was written --- */

typedef int visit_fn(int dirfd, const char *name, bool is_dir, void *ctx);

/* Depth first, contents before their directory. Links are not followed. The
 * depth is bounded by the descriptors that one process may hold. */
static int walk(int parent, const char *name, visit_fn *visit, void *ctx)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), bad = 0;
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *de;
	int saved;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return -1;
	}
	while (!bad && (errno = 0, de = readdir(dir))) {
		struct stat st;

		if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, ".."))
			continue;
		if (fstatat(fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW))
			bad = -1;
		else if (S_ISDIR(st.st_mode))
			bad = walk(fd, de->d_name, visit, ctx);
		else
			bad = visit(fd, de->d_name, false, ctx);
	}
	if (!bad && errno)
		bad = -1;
	if (!bad)
		bad = visit(parent, name, true, ctx);
	saved = errno;
	closedir(dir);
	errno = saved; /* the caller tells it */
	return bad;
}

static int sync_one(int dirfd, const char *name, bool is_dir, void *ctx)
{
	int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), bad;

	(void)ctx;
	(void)is_dir;
	if (fd < 0)
		return errno == ELOOP ? 0 : -1; /* a link has nothing of its own to sync */
	bad = temp_sync(fd);
	close(fd);
	return bad;
}

static int remove_one(int dirfd, const char *name, bool is_dir, void *ctx)
{
	(void)ctx;
	return unlinkat(dirfd, name, is_dir ? AT_REMOVEDIR : 0);
}

void outdir_abort(struct outdir *d)
{
	if (!d)
		return;
	walk(AT_FDCWD, d->tmp, remove_one, NULL);
	outdir_free(d);
}

/* Puts tmp in the place of path, which exists; what stood there is then at tmp. */
static int exchange(struct outdir *d, struct err *e)
{
	char *aside;

	if (!renameat2(AT_FDCWD, d->tmp, AT_FDCWD, d->path, RENAME_EXCHANGE))
		return 0;
	if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
		return err_sys(e, d->path, "replace");
	/* A file system without exchange: two renames, back again on failure. */
	aside = xasprintf("%s.old", d->tmp);
	if (rename(d->path, aside)) {
		err_sys(e, d->path, "replace");
		free(aside);
		return -1;
	}
	if (rename(d->tmp, d->path)) {
		err_sys(e, d->path, "replace");
		if (rename(aside, d->path))
			err_off(e, LP_IO, d->path, -1, "cannot replace it; the old one is at %s", aside);
		free(aside);
		return -1;
	}
	if (rename(aside, d->tmp)) {
		free(d->tmp);
		d->tmp = aside;
		return 0;
	}
	free(aside);
	return 0;
}

static int place(struct outdir *d, bool *old_at_tmp, struct err *e)
{
	struct stat st;

	*old_at_tmp = false;
	if (d->force && !lstat(d->path, &st)) {
		*old_at_tmp = true;
		return exchange(d, e);
	}
	if (!renameat2(AT_FDCWD, d->tmp, AT_FDCWD, d->path, RENAME_NOREPLACE))
		return 0;
	if ((errno == EINVAL || errno == ENOSYS) && lstat(d->path, &st) && !rename(d->tmp, d->path))
		return 0;
	return err_sys(e, d->path, "rename the temporary directory to it");
}

int outdir_commit(struct outdir *d, struct err *e)
{
	bool old_at_tmp;
	int bad = 0;

	if (walk(AT_FDCWD, d->tmp, sync_one, NULL))
		bad = err_sys(e, d->path, "sync");
	if (!bad)
		bad = place(d, &old_at_tmp, e);
	if (bad) {
		outdir_abort(d);
		return -1;
	}
	temp_forget(d->self);
	for (size_t i = 0; i < d->n; i++)
		temp_forget(d->nodes[i]);
	bad = temp_sync_parent(d->path, e);
	if (old_at_tmp && walk(AT_FDCWD, d->tmp, remove_one, NULL) && !bad)
		bad = err_off(e, LP_IO, d->path, -1, "written, but the old directory cannot be removed from %s", d->tmp);
	outdir_free(d);
	return bad;
}
