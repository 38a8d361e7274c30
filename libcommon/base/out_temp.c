/* The list of temporaries that signals and exit remove. Every node is at the
 * head of the list and never freed, so that a signal handler may walk it at
 * any time, newest first: a directory goes after the files in it. */
#include "base/out_temp.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/out.h"
#include "base/xalloc.h"

struct temp {
	struct temp *next;
	char *path;
	pid_t owner; /* a forked child must not remove its parent's */
	atomic_int what; /* enum temp_kind */
};
static _Atomic(struct temp *) temps;
static atomic_flag handlers_set = ATOMIC_FLAG_INIT;
static const int fatal[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT, SIGALRM };

/* Newest first, so that a directory's files go before it. Only calls that are
 * allowed in a signal handler. */
static void remove_temps(void)
{
	pid_t me = getpid();

	for (struct temp *t = atomic_load(&temps); t; t = t->next) {
		int what = atomic_exchange(&t->what, TEMP_NONE);

		if (what == TEMP_NONE || t->owner != me)
			continue;
		if (what == TEMP_DIR)
			rmdir(t->path);
		else
			unlink(t->path);
	}
}

static void on_signal(int sig)
{
	int saved = errno;

	remove_temps();
	signal(sig, SIG_DFL);
	raise(sig); /* delivered when the handler returns */
	errno = saved;
}

static void set_handlers(void)
{
	struct sigaction sa = { .sa_handler = on_signal }, old;

	if (atomic_flag_test_and_set(&handlers_set))
		return;
	sigfillset(&sa.sa_mask);
	for (size_t i = 0; i < sizeof(fatal) / sizeof(*fatal); i++)
		if (!sigaction(fatal[i], NULL, &old) && old.sa_handler == SIG_DFL)
			sigaction(fatal[i], &sa, NULL);
	atexit(out_abort_all);
}

static void temp_block(sigset_t *old)
{
	sigset_t all;

	sigemptyset(&all);
	for (size_t i = 0; i < sizeof(fatal) / sizeof(*fatal); i++)
		sigaddset(&all, fatal[i]);
	pthread_sigmask(SIG_BLOCK, &all, old);
}

static void temp_unblock(const sigset_t *old)
{
	pthread_sigmask(SIG_SETMASK, old, NULL);
}

/* Always a new node at the head: order is what makes directories go last. It
 * counts once its kind is set; no allocation can fail after that. */
static struct temp *temp_new(char *path_take)
{
	struct temp *t = xcalloc(1, sizeof(*t));

	set_handlers();
	t->path = path_take;
	t->owner = getpid();
	t->next = atomic_load(&temps);
	while (!atomic_compare_exchange_weak(&temps, &t->next, t))
		;
	return t;
}

struct temp *temp_add(const char *path, int what)
{
	struct temp *t = temp_new(xstrdup(path));

	atomic_store(&t->what, what);
	return t;
}

const char *temp_path(const struct temp *t)
{
	return t->path;
}

void temp_forget(struct temp *t)
{
	if (t)
		atomic_store(&t->what, TEMP_NONE);
}

struct temp *temp_beside(const char *path, int what, int *fd, struct err *e)
{
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	int dir_len = (int)(base - path);

	for (unsigned i = 0; i < 10000; i++) {
		/* the name limit is 255 bytes: 24 are ours */
		struct temp *t = temp_new(xasprintf("%.*s.%.200s.%ld.%u.tmp", dir_len, path, base, (long)getpid(), i));
		sigset_t old;
		int rc, saved;

		temp_block(&old);
		if (what == TEMP_DIR)
			rc = mkdir(t->path, 0777);
		else
			rc = *fd = open(t->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
		saved = errno;
		if (rc >= 0)
			atomic_store(&t->what, what);
		temp_unblock(&old);
		if (rc >= 0)
			return t;
		errno = saved;
		if (errno != EEXIST)
			break;
	}
	err_sys(e, path, what == TEMP_DIR ? "create a temporary directory beside it" : "create a temporary file beside it");
	return NULL;
}

int temp_sync(int fd)
{
	return fsync(fd) && errno != EINVAL && errno != ENOSYS && errno != EROFS ? -1 : 0;
}

/* The rename itself lasts only when the directory is synced. */
int temp_sync_parent(const char *path, struct err *e)
{
	const char *slash = strrchr(path, '/');
	char *dir = slash ? xmemdup0(path, slash == path ? 1 : (size_t)(slash - path)) : xstrdup(".");
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), bad = 0;

	free(dir);
	if (fd < 0)
		return 0; /* a directory that may be written but not read */
	if (temp_sync(fd))
		bad = err_sys(e, path, "sync the directory of");
	close(fd);
	return bad;
}

void out_abort_all(void)
{
	remove_temps();
}

