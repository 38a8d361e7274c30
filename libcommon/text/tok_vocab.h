/* A vocabulary: ids to strings and back. Strings may hold any byte. */
#ifndef LP_TEXT_TOK_VOCAB_H
#define LP_TEXT_TOK_VOCAB_H

#include <string.h>

#include "base/err.h"
#include "json/json.h"

#define VOCAB_MAX_ID (1 << 24)

struct vocab_slot {
	uint32_t tag;    /* of the hash, so that most others are told apart without their text */
	int32_t id1;     /* id + 1; 0: empty */
};
struct vocab {
	char *pool;
	size_t pool_len, pool_cap;
	uint32_t *off;   /* by id; strings are NUL-terminated in pool */
	int32_t *len;    /* by id; -1: unused */
	size_t n_ids;    /* highest id + 1 */
	size_t n_strings; /* distinct strings */
	size_t cap;
	struct vocab_slot *slots; /* open addressing */
	uint32_t mask;
};
void vocab_release(struct vocab *v);
/* {"string": id, ...} */
int vocab_from_obj(struct vocab *v, const struct json *obj, struct err *e) LP_MUST_USE;
int vocab_reserve(struct vocab *v, size_t strings, struct err *e) LP_MUST_USE;
/* A string that is there already gets the new id. */
int vocab_add(struct vocab *v, const char *s, size_t n, int64_t id, struct err *e) LP_MUST_USE;
int32_t vocab_find(const struct vocab *v, const char *s, size_t n); /* -1: absent */
/* The same in two steps, for many strings at once: the memory that the first
 * asks for arrives while the others are hashed. */
uint64_t vocab_hash(const struct vocab *v, const char *s, size_t n);
int32_t vocab_find_hashed(const struct vocab *v, const char *s, size_t n, uint64_t hash);
static inline const char *vocab_str(const struct vocab *v, int32_t id, size_t *n)
{
	if (id < 0 || (size_t)id >= v->n_ids || v->len[id] < 0)
		return NULL;
	*n = (size_t)v->len[id];
	return v->pool + v->off[id];
}

/* Is that the string of id? */
static inline bool vocab_is(const struct vocab *v, int64_t id, const char *s, size_t n)
{
	return id >= 0 && (size_t)id < v->n_ids && v->len[id] == (int64_t)n && !memcmp(v->pool + v->off[id], s, n);
}

#endif
