/* Memory laid out before it is allocated: the same function runs twice over a
 * struct layout, first without memory (the plan), then with it (the
 * allocation), so a forecast cannot differ from what is used. */
#ifndef LP_BASE_LAYOUT_H
#define LP_BASE_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#define LAYOUT_ALIGN 64
#define LAYOUT_ITEMS 32

struct layout_item {
	const char *name;
	uint64_t bytes;
};
struct layout {
	const char *title; /* "weights" */
	char *base;        /* NULL while planning */
	uint64_t used;
	struct layout_item items[LAYOUT_ITEMS]; /* by name, in order of first use */
	int n_items;
};

/* The next bytes (aligned up to 64), or NULL while planning. name: a literal;
 * equal names are summed. */
void *layout_take(struct layout *l, const char *name, uint64_t bytes);
/* n elements of size, the same; saturates on overflow, so that no plan fits. */
void *layout_array(struct layout *l, const char *name, int64_t n, size_t size);
/* Starts the second pass over memory of at least l->used bytes. */
void layout_place(struct layout *l, void *base);

#endif
