/* LD_PRELOAD: makes the n-th call of one function fail. LP_FAULT=write:3 is the
 * function and n (from 1); LP_FAULT_MARK is a file that is made when it happened,
 * so that a test can tell "failed and was noticed" from "was never called".
 *
 *   write    the n-th write to a file or standard output: ENOSPC
 *   short    that write takes half; the one after it fails
 *   fsync    EIO
 *   rename   EIO (renameat2 too)
 *   exchange a file system that cannot exchange two names: EINVAL, and the n-th rename after that EIO
 *   close    of a file opened for writing, by the program itself, not by a library: EDQUOT, after closing it
 *   read     EIO
 *   malloc   malloc, calloc, realloc, aligned_alloc called by the program itself, not by a library: NULL
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum fault { NONE, WRITE, SHORT, FSYNC, RENAME, CLOSE, READ, MALLOC, EXCHANGE };

static enum fault what;
static atomic_int left;
static atomic_bool refused; /* an exchange of names */
static uintptr_t text_from, text_to; /* of the program */

static int find_program(struct dl_phdr_info *info, size_t size, void *ctx)
{
	(void)size;
	(void)ctx;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];

		if (p->p_type == PT_LOAD && p->p_flags & PF_X) {
			text_from = info->dlpi_addr + p->p_vaddr;
			text_to = text_from + p->p_memsz;
		}
	}
	return 1; /* the first is the program */
}

__attribute__((constructor)) static void setup(void)
{
	static const char *const names[] = { "", "write", "short", "fsync", "rename", "close", "read", "malloc", "exchange" };
	const char *s = getenv("LP_FAULT"), *colon = s ? strchr(s, ':') : NULL;

	dl_iterate_phdr(find_program, NULL);
	for (int i = 1; colon && i < (int)(sizeof(names) / sizeof(*names)); i++)
		if (strlen(names[i]) == (size_t)(colon - s) && !memcmp(names[i], s, (size_t)(colon - s))) {
			atomic_store(&left, (int)strtol(colon + 1, NULL, 10));
			what = (enum fault)i;
		}
	unsetenv("LD_PRELOAD"); /* programs that it starts run as they are */
}

static void mark(void)
{
	const char *path = getenv("LP_FAULT_MARK");
	long fd = path ? syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT, 0666) : -1;

	if (fd >= 0)
		syscall(SYS_close, fd);
}

/* True for the call that must fail. */
static bool now(enum fault f)
{
	if (what != f || atomic_fetch_sub(&left, 1) != 1)
		return false;
	mark();
	return true;
}

static bool from_program(const void *caller)
{
	return (uintptr_t)caller >= text_from && (uintptr_t)caller < text_to;
}

ssize_t write(int fd, const void *p, size_t n)
{
	if (fd != 2 && now(WRITE)) {
		errno = ENOSPC;
		return -1;
	}
	if (fd != 2 && what == SHORT) {
		int k = atomic_fetch_sub(&left, 1);

		if (k == 1 && n > 1)
			n /= 2;
		if (k == 0) {
			mark();
			errno = ENOSPC;
			return -1;
		}
	}
	return syscall(SYS_write, fd, p, n);
}

ssize_t read(int fd, void *p, size_t n)
{
	if (now(READ)) {
		errno = EIO;
		return -1;
	}
	return syscall(SYS_read, fd, p, n);
}

int fsync(int fd)
{
	if (now(FSYNC)) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fsync, fd);
}

int rename(const char *from, const char *to)
{
	if (now(RENAME) || (atomic_load(&refused) && now(EXCHANGE))) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
	if (what == EXCHANGE && flags & 2) { /* RENAME_EXCHANGE */
		atomic_store(&refused, true);
		errno = EINVAL;
		return -1;
	}
	if (now(RENAME)) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_renameat2, a, from, b, to, flags);
}

int close(int fd)
{
	int flags = what == CLOSE ? (int)syscall(SYS_fcntl, fd, F_GETFL) : 0, rc = (int)syscall(SYS_close, fd);

	if (what == CLOSE && flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && from_program(__builtin_return_address(0)) && now(CLOSE)) {
		errno = EDQUOT;
		return -1;
	}
	return rc;
}

/* dlsym itself allocates on some systems: glibc's own names need no look-up. */
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

#define REFUSED() (what == MALLOC && from_program(__builtin_return_address(0)) && now(MALLOC))

void *malloc(size_t n)
{
	return REFUSED() ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
	return REFUSED() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
	return REFUSED() ? NULL : __libc_realloc(p, n);
}

void *aligned_alloc(size_t align, size_t n)
{
	return REFUSED() ? NULL : __libc_memalign(align, n);
}
