/* A vocabulary: ids to strings and back. Strings may hold any byte. */
#ifndef LP_TEXT_TOK_VOCAB_H
#define LP_TEXT_TOK_VOCAB_H

#include <string.h>

#include "base/err.h"
#include "json/json.h"
#include "json/json_quick.h"

#define VOCAB_MAX_ID (1 << 24)

struct vocab_slot {
	uint32_t tag;    /* of the hash, so that most others are told apart without their text */
	int32_t id1;     /* id + 1; 0: empty */
};
struct vocab_str {
	uint32_t off;    /* in pool; a NUL stands behind */
	int32_t len;     /* -1: unused */
};
struct vocab {
	char *pool;
	size_t pool_len, pool_cap;
	struct vocab_str *str; /* by id */
	size_t n_ids;    /* highest id + 1 */
	size_t n_strings; /* distinct strings */
	size_t cap;
	struct vocab_slot *slots; /* open addressing */
	uint32_t mask;
	bool borrowed;   /* the memory is another's */
};
void vocab_release(struct vocab *v);
/* {"string": id, ...} */
int vocab_from_obj(struct vocab *v, const struct json *obj, struct err *e) LP_MUST_USE;
/* The same behind its bracket, and that bracket's fellow, without a tree. False: not
 * in the plain form, or strings or ids that are there twice; v is then as it was, empty. */
bool vocab_from_text(struct vocab *v, struct quick *q);
int vocab_reserve(struct vocab *v, size_t strings, struct err *e) LP_MUST_USE;
/* A string that is there already gets the new id. */
int vocab_add(struct vocab *v, const char *s, size_t n, int64_t id, struct err *e) LP_MUST_USE;
int32_t vocab_find(const struct vocab *v, const char *s, size_t n); /* -1: absent */
/* Of many strings at once, whose memory then arrives together. */
struct vocab_query {
	const char *s;
	size_t n;
	uint64_t hash; /* scratch */
	int32_t id;
};
void vocab_find_many(const struct vocab *v, struct vocab_query *q, size_t n);
/* The same in two steps: the memory that the first
 * asks for arrives while others are hashed. */
uint64_t vocab_hash(const struct vocab *v, const char *s, size_t n);
int32_t vocab_find_hashed(const struct vocab *v, const char *s, size_t n, uint64_t hash);
static inline const char *vocab_str(const struct vocab *v, int32_t id, size_t *n)
{
	if (id < 0 || (size_t)id >= v->n_ids || v->str[id].len < 0)
		return NULL;
	*n = (size_t)v->str[id].len;
	return v->pool + v->str[id].off;
}

static inline uint64_t vocab_load8(const char *s)
{
	uint64_t x;

	memcpy(&x, s, 8);
	return x;
}
static inline uint32_t vocab_load4(const char *s)
{
	uint32_t x;

	memcpy(&x, s, 4);
	return x;
}

/* memcmp's question for strings as short as tokens are. */
static inline bool vocab_same(const char *a, const char *b, size_t n)
{
	if (n > 16)
		return !memcmp(a, b, n);
	if (n >= 8)
		return vocab_load8(a) == vocab_load8(b) && vocab_load8(a + n - 8) == vocab_load8(b + n - 8);
	if (n >= 4)
		return vocab_load4(a) == vocab_load4(b) && vocab_load4(a + n - 4) == vocab_load4(b + n - 4);
	return !n || (a[0] == b[0] && a[n >> 1] == b[n >> 1] && a[n - 1] == b[n - 1]);
}

/* Is that the string of id? */
static inline bool vocab_is(const struct vocab *v, int64_t id, const char *s, size_t n)
{
	return id >= 0 && (size_t)id < v->n_ids && v->str[id].len == (int64_t)n && vocab_same(v->pool + v->str[id].off, s, n);
}

#endif
