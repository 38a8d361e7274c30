/* A vocabulary: ids to strings and back. Strings may hold any byte. */
#ifndef LP_TEXT_TOK_VOCAB_H
#define LP_TEXT_TOK_VOCAB_H

#include <string.h>

#include "base/err.h"
#include "base/sb.h"
#include "json/json.h"
#include "json/json_quick.h"
#include "text/word_key.h"

#define VOCAB_MAX_ID (1 << 24)

/* Strings by what they hash to, a line of the processor's cache: of a short one its bytes
 * are here, and nothing else is read to find it. */
#define VOCAB_BUCKET 3
struct vocab_bucket {
	uint64_t key[VOCAB_BUCKET][2]; /* word_key; of longer strings vocab_long_key; second number 0: empty */
	int32_t id[VOCAB_BUCKET];
	uint32_t spilt;                /* others went to the next one */
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
	struct vocab_bucket *slots; /* open addressing */
	uint32_t mask;
	bool borrowed;   /* the memory is another's */
};
void vocab_release(struct vocab *v);
/* {"string": id, ...} */
int vocab_from_obj(struct vocab *v, const struct json *obj, struct err *e) LP_MUST_USE;
/* The same behind its bracket, and that bracket's fellow, without a tree. False: not
 * in the plain form, no UTF-8, or strings or ids that are there twice; v is then as it was, empty. */
bool vocab_from_text(struct vocab *v, struct quick *q);
/* In its parts. A string behind its quote, with escapes by way of mem: */
bool vocab_read_string(struct quick *q, struct sb *mem, const char **s, size_t *n);
bool vocab_append(struct vocab *v, const char *s, size_t n, size_t id); /* not to be found before vocab_index; false: the id is there, or too much */
bool vocab_index(struct vocab *v);                                      /* false: a string is there twice */
/* Before that: of ids without a gap the first n stay, and become by, by + 1, ... False: too many. */
bool vocab_shift(struct vocab *v, size_t n, size_t by);
/* At first; more are taken as well. */
int vocab_reserve(struct vocab *v, size_t strings, struct err *e) LP_MUST_USE;
/* A string that is there already gets the new id. */
int vocab_add(struct vocab *v, const char *s, size_t n, int64_t id, struct err *e) LP_MUST_USE;
/* Only to be found: it stands for no id in str. n within 1 and WORD_BYTES; v is reserved for it. */
void vocab_put_short(struct vocab *v, const char *s, size_t n, int32_t id);
/* Every search ends, and finds an id below n_ids. */
bool vocab_table_ok(const struct vocab *v, size_t n_ids);
int32_t vocab_find(const struct vocab *v, const char *s, size_t n); /* -1: absent */
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

void vocab_long_key(const char *s, size_t n, uint64_t key[2]);

/* room: bytes that may be read from s on. */
static inline void vocab_key(const char *s, size_t n, size_t room, uint64_t key[2])
{
	if (n - 1 < WORD_BYTES)
		word_key(s, n, room, key);
	else
		vocab_long_key(s, n, key);
}

/* Asks for the memory of a look-up to come. (A macro: a function that does no more is
 * taken for one that does nothing.) */
#define vocab_want(v, key) __builtin_prefetch(&(v)->slots[word_hash(key) & (v)->mask])

int32_t vocab_find_long(const struct vocab *v, const char *s, size_t n, const uint64_t key[2]);

/* By its key. v has slots. */
static inline int32_t vocab_find_key(const struct vocab *v, const char *s, size_t n, const uint64_t key[2])
{
	if (n - 1 >= WORD_BYTES)
		return vocab_find_long(v, s, n, key);
	for (uint64_t h = word_hash(key) & v->mask;; h = (h + 1) & v->mask) {
		const struct vocab_bucket *x = &v->slots[h];

		for (int i = 0; i < VOCAB_BUCKET; i++)
			if (x->key[i][0] == key[0] && x->key[i][1] == key[1])
				return x->id[i];
		if (!x->spilt)
			return -1;
	}
}

#endif
