#include "eval/join.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/sb.h"
#include "base/xalloc.h"

struct row {
	size_t off; /* of the id in text */
	size_t len;
	uint64_t hash;
};

struct join {
	struct sb text;
	struct row *rows;
	size_t n_rows, cap_rows;
	size_t *slots; /* row + 1; 0 is free */
	size_t n_slots;
};

struct join *join_new(void)
{
	return xcalloc(1, sizeof(struct join));
}

void join_free(struct join *j)
{
	if (!j)
		return;
	sb_release(&j->text);
	free(j->rows);
	free(j->slots);
	free(j);
}

static void insert(struct join *j, size_t row)
{
	size_t i = j->rows[row].hash & (j->n_slots - 1);

	while (j->slots[i])
		i = (i + 1) & (j->n_slots - 1);
	j->slots[i] = row + 1;
}

int64_t join_find(const struct join *j, const char *id, size_t len)
{
	uint64_t hash = xxh_u64(id, len, 0);

	if (!j->n_slots)
		return -1;
	for (size_t i = hash & (j->n_slots - 1); j->slots[i]; i = (i + 1) & (j->n_slots - 1)) {
		const struct row *r = &j->rows[j->slots[i] - 1];

		if (r->hash == hash && r->len == len && memcmp(j->text.s + r->off, id, len) == 0)
			return (int64_t)j->slots[i] - 1;
	}
	return -1;
}

int64_t join_add(struct join *j, const char *id, size_t len)
{
	if (join_find(j, id, len) >= 0)
		return -1;
	if (2 * (j->n_rows + 1) > j->n_slots) {
		free(j->slots);
		j->n_slots = j->n_slots ? 2 * j->n_slots : 256;
		j->slots = xcalloc(j->n_slots, sizeof(*j->slots));
		for (size_t i = 0; i < j->n_rows; i++)
			insert(j, i);
	}
	j->rows = xgrow(j->rows, &j->cap_rows, j->n_rows + 1, sizeof(*j->rows));
	j->rows[j->n_rows] = (struct row){ j->text.len, len, xxh_u64(id, len, 0) };
	sb_add(&j->text, id, len);
	sb_addc(&j->text, '\0');
	insert(j, j->n_rows);
	return (int64_t)j->n_rows++;
}

size_t join_rows(const struct join *j)
{
	return j->n_rows;
}

const char *join_id(const struct join *j, size_t row)
{
	return j->text.s + j->rows[row].off;
}
