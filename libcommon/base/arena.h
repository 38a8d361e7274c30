/* A bump allocator: many small objects of one lifetime, freed together. */
#ifndef LP_BASE_ARENA_H
#define LP_BASE_ARENA_H

#include <stddef.h>

struct arena_block;
struct arena {
	struct arena_block *head; /* newest block */
	size_t used, cap;         /* of the newest block */
	size_t total;             /* bytes in all blocks */
};
#define ARENA_INIT { 0, 0, 0, 0 }

void *arena_alloc(struct arena *a, size_t bytes);          /* 16-byte aligned, not cleared */
void *arena_calloc(struct arena *a, size_t n, size_t size); /* cleared; product checked */
char *arena_strndup(struct arena *a, const char *s, size_t n); /* NUL added */
void arena_reset(struct arena *a);   /* keeps one block for the next round */
void arena_release(struct arena *a); /* frees everything */

#endif
