#include "base/xalloc.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* The documented exception to "libraries never exit": see the header. */
static void LP_NORETURN no_memory(size_t bytes)
{
	fprintf(stderr, "%s: out of memory (%zu bytes asked)\n", program_invocation_short_name, bytes);
	exit(LP_DEVICE);
}

bool lp_mul_overflows(size_t a, size_t b, size_t *product)
{
	return __builtin_mul_overflow(a, b, product);
}

bool lp_add_overflows(size_t a, size_t b, size_t *sum)
{
	return __builtin_add_overflow(a, b, sum);
}

#define HUGE_PAGE ((size_t)2 << 20)

void *lp_pages(size_t bytes)
{
	size_t spare = bytes >= HUGE_PAGE ? HUGE_PAGE : 0, head;
	char *p;

	if (bytes > SIZE_MAX / 2)
		return NULL;
	p = mmap(NULL, bytes + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	if (!spare)
		return p;
	head = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
	if (head)
		munmap(p, head);
	bytes = (bytes + 4095) & ~(size_t)4095;
	if (spare > head)
		munmap(p + head + bytes, spare - head);
	madvise(p + head, bytes, MADV_HUGEPAGE);
	return p + head;
}

void lp_pages_free(void *p, size_t bytes)
{
	if (p)
		munmap(p, bytes);
}

void *xmalloc(size_t bytes)
{
	void *p = malloc(bytes ? bytes : 1);

	if (!p)
		no_memory(bytes);
	return p;
}

void *xcalloc(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size ? size : 1);

	if (!p)
		no_memory(n > SIZE_MAX / (size ? size : 1) ? SIZE_MAX : n * size);
	return p;
}

void *xrealloc(void *p, size_t bytes)
{
	void *q = realloc(p, bytes ? bytes : 1);

	if (!q)
		no_memory(bytes);
	return q;
}

/* Doubled from cap, or from least, until n fit; *bytes is what they take. */
static size_t grown(size_t cap, size_t least, size_t n, size_t size, size_t *bytes)
{
	size_t want = cap < least ? least : cap;

	while (want < n)
		want = want > SIZE_MAX / 2 ? n : want * 2;
	if (lp_mul_overflows(want, size, bytes))
		no_memory(SIZE_MAX);
	return want;
}

void *xgrow(void *p, size_t *cap, size_t n, size_t size)
{
	size_t want, bytes;

	if (n <= *cap)
		return p;
	want = grown(*cap, 8, n, size, &bytes);
	p = xrealloc(p, bytes);
	*cap = want;
	return p;
}

void *lp_pages_grow(void *p, size_t *cap, size_t n, size_t size)
{
	size_t want, bytes;
	void *q;

	if (n <= *cap)
		return p;
	want = grown(*cap, 4096, n, size, &bytes);
	if (bytes > HUGE_PAGE / 8 && bytes < HUGE_PAGE) { /* the next ones would come soon, page by page */
		want = HUGE_PAGE / size;
		bytes = want * size;
	}
	q = lp_pages(bytes);
	if (!q)
		no_memory(bytes);
	if (p)
		memcpy(q, p, *cap * size);
	lp_pages_free(p, *cap * size);
	*cap = want;
	return q;
}

char *xmemdup0(const char *s, size_t n)
{
	char *p;

	if (n == SIZE_MAX)
		no_memory(n);
	p = xmalloc(n + 1);
	if (n)
		memcpy(p, s, n);
	p[n] = 0;
	return p;
}

char *xstrdup(const char *s)
{
	return xmemdup0(s, strlen(s));
}

char *xasprintf(const char *fmt, ...)
{
	va_list ap;
	char *s;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	if (n < 0)
		no_memory(strlen(fmt));
	return s;
}

void *lp_try_alloc(size_t n, size_t size, const char *what, struct err *e)
{
	size_t bytes, padded;
	void *p = NULL;

	if (lp_mul_overflows(n, size, &bytes) || lp_add_overflows(bytes, 63, &padded)) {
		err_set(e, LP_DEVICE, "%s: %zu x %zu bytes is more than can be addressed", what, n, size);
		return NULL;
	}
	padded &= ~(size_t)63;
	if (!padded)
		padded = 64;
	if (padded <= PTRDIFF_MAX)
		p = aligned_alloc(64, padded);
	if (!p)
		err_set(e, LP_DEVICE, "out of memory for %s (%zu bytes)", what, bytes);
	return p;
}
