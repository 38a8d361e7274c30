#include "base/layout.h"

#include <string.h>

#include "base/xalloc.h"

static void count(struct layout *l, const char *name, uint64_t bytes)
{
	int i = 0;

	while (i < l->n_items && strcmp(l->items[i].name, name) != 0)
		i++;
	if (i == l->n_items) {
		if (l->n_items == LAYOUT_ITEMS)
			i = LAYOUT_ITEMS - 1; /* the last row takes the rest */
		else
			l->items[l->n_items++].name = name;
	}
	l->items[i].bytes += bytes;
}

void *layout_take(struct layout *l, const char *name, uint64_t bytes)
{
	uint64_t room = (bytes + LAYOUT_ALIGN - 1) / LAYOUT_ALIGN * LAYOUT_ALIGN, at = l->used;

	if (l->used == UINT64_MAX || room < bytes || l->used + room < l->used) {
		l->used = UINT64_MAX;
		return NULL;
	}
	l->used += room;
	if (!l->base)
		count(l, name, room);
	return l->base ? l->base + at : NULL;
}

void *layout_array(struct layout *l, const char *name, int64_t n, size_t size)
{
	size_t bytes;

	if (n < 0 || lp_mul_overflows((size_t)n, size, &bytes))
		bytes = SIZE_MAX;
	return layout_take(l, name, bytes);
}

void layout_place(struct layout *l, void *base)
{
	l->base = base;
	l->used = 0;
}
