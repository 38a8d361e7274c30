#include "base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

enum { ALIGN = 16, FIRST_BLOCK = 16 << 10, LARGEST_STEP = 4 << 20 };

struct arena_block {
	struct arena_block *next; /* older */
	size_t bytes;             /* behind the header */
};
#define HEAD_BYTES ((sizeof(struct arena_block) + ALIGN - 1) & ~(size_t)(ALIGN - 1))

static void add_block(struct arena *a, size_t need)
{
	size_t bytes = a->cap ? a->cap * 2 : FIRST_BLOCK, whole;
	struct arena_block *b;

	if (bytes > LARGEST_STEP)
		bytes = LARGEST_STEP;
	if (bytes < need)
		bytes = need;
	if (lp_add_overflows(bytes, HEAD_BYTES, &whole))
		whole = SIZE_MAX; /* xmalloc says so */
	b = xmalloc(whole);
	b->next = a->head;
	b->bytes = bytes;
	a->head = b;
	a->used = 0;
	a->cap = bytes;
	a->total += bytes;
}

void *arena_alloc(struct arena *a, size_t bytes)
{
	size_t padded = (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
	void *p;

	if (padded < bytes)
		padded = SIZE_MAX; /* add_block cannot satisfy it and dies */
	if (padded > a->cap - a->used)
		add_block(a, padded);
	p = (char *)a->head + HEAD_BYTES + a->used;
	a->used += padded;
	return p;
}

void *arena_calloc(struct arena *a, size_t n, size_t size)
{
	size_t bytes;
	void *p;

	if (lp_mul_overflows(n, size, &bytes))
		bytes = SIZE_MAX;
	p = arena_alloc(a, bytes);
	memset(p, 0, bytes);
	return p;
}

char *arena_strndup(struct arena *a, const char *s, size_t n)
{
	char *p = arena_alloc(a, n + 1);

	if (n)
		memcpy(p, s, n);
	p[n] = 0;
	return p;
}

/* Keeps the newest block unless one record made it huge: a long stream
 * must not keep the memory of its longest line. */
void arena_reset(struct arena *a)
{
	struct arena_block *b, *next;

	if (!a->head)
		return;
	if (a->cap > 2 * (size_t)LARGEST_STEP) {
		arena_release(a);
		return;
	}
	for (b = a->head->next; b; b = next) {
		next = b->next;
		free(b);
	}
	a->head->next = NULL;
	a->used = 0;
	a->total = a->cap;
}

void arena_release(struct arena *a)
{
	struct arena_block *b, *next;

	for (b = a->head; b; b = next) {
		next = b->next;
		free(b);
	}
	memset(a, 0, sizeof(*a));
}
