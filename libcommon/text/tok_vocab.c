/* A vocabulary: see tok_vocab.h. */
#include "text/tok_vocab.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

void vocab_release(struct vocab *v)
{
	if (!v->borrowed) {
		free(v->pool);
		free(v->str);
		lp_pages_free(v->slots, ((size_t)v->mask + 1) * sizeof(*v->slots));
	}
	memset(v, 0, sizeof(*v));
}

int vocab_reserve(struct vocab *v, size_t strings, struct err *e)
{
	size_t n = 1024;

	if (strings > VOCAB_MAX_ID)
		return err_set(e, LP_DATA, "the vocabulary has more than %d entries", VOCAB_MAX_ID);
	while (n < strings * 3 / 2)
		n *= 2;
	if (v->slots)
		return 0;
	v->slots = lp_pages(n * sizeof(*v->slots));
	if (!v->slots)
		return err_set(e, LP_DEVICE, "out of memory for a vocabulary of %zu strings", strings);
	v->mask = (uint32_t)(n - 1);
	return 0;
}

/* --- hashing: short strings, in order --- */

static inline uint64_t stir(uint64_t h, uint64_t x)
{
	h = (h ^ x) * 0x9E3779B97F4A7C15u;
	return h ^ h >> 32;
}

static inline uint64_t hash_of(const char *s, size_t n)
{
	uint64_t h = n * 0xC2B2AE3D27D4EB4Fu;

	if (n >= 8) {
		for (; n > 16; s += 8, n -= 8)
			h = stir(h, vocab_load8(s));
		h = stir(stir(h, vocab_load8(s)), vocab_load8(s + n - 8));
	} else if (n >= 4) {
		h = stir(h, (uint64_t)vocab_load4(s) << 32 | vocab_load4(s + n - 4));
	} else if (n) {
		h = stir(h, (uint64_t)(unsigned char)s[0] << 16 | (uint64_t)(unsigned char)s[n >> 1] << 8 | (unsigned char)s[n - 1]);
	}
	return stir(h, n);
}

static inline uint32_t slot_of(const struct vocab *v, const char *s, size_t n, uint64_t hash)
{
	uint32_t h = (uint32_t)hash & v->mask, tag = (uint32_t)(hash >> 32);

	for (; v->slots[h].id1; h = (h + 1) & v->mask)
		if (v->slots[h].tag == tag && vocab_is(v, v->slots[h].id1 - 1, s, n))
			break;
	return h;
}

uint64_t vocab_hash(const struct vocab *v, const char *s, size_t n)
{
	uint64_t hash = hash_of(s, n);

	if (v->slots)
		__builtin_prefetch(&v->slots[(uint32_t)hash & v->mask]);
	return hash;
}

int32_t vocab_find_hashed(const struct vocab *v, const char *s, size_t n, uint64_t hash)
{
	return v->slots ? v->slots[slot_of(v, s, n, hash)].id1 - 1 : -1;
}

int32_t vocab_find(const struct vocab *v, const char *s, size_t n)
{
	return v->slots ? v->slots[slot_of(v, s, n, hash_of(s, n))].id1 - 1 : -1;
}

/* Each step reads what the step before it asked for. */
void vocab_find_many(const struct vocab *v, struct vocab_query *q, size_t n)
{
	for (size_t i = 0; i < n; i++)
		q[i].hash = vocab_hash(v, q[i].s, q[i].n);
	for (size_t i = 0; i < n && v->n_ids; i++) {
		q[i].id = v->slots[(uint32_t)q[i].hash & v->mask].id1 - 1;
		__builtin_prefetch(&v->str[q[i].id < 0 ? 0 : q[i].id]);
	}
	for (size_t i = 0; i < n && v->n_ids; i++)
		__builtin_prefetch(v->pool + v->str[q[i].id < 0 ? 0 : q[i].id].off);
	for (size_t i = 0; i < n; i++)
		q[i].id = vocab_find_hashed(v, q[i].s, q[i].n, q[i].hash);
}

/* --- adding --- */

/* The string of an id that has none. */
static void put_string(struct vocab *v, const char *s, size_t n, size_t id)
{
	v->pool = xgrow(v->pool, &v->pool_cap, v->pool_len + n + 1, 1);
	memcpy(v->pool + v->pool_len, s, n);
	v->pool[v->pool_len + n] = 0;
	v->str[id] = (struct vocab_str){ (uint32_t)v->pool_len, (int32_t)n };
	v->pool_len += n + 1;
}

static void grow_ids(struct vocab *v, size_t id)
{
	while (v->cap <= id) {
		size_t cap = v->cap ? v->cap * 2 : 1024;

		v->str = xrealloc(v->str, cap * sizeof(*v->str));
		for (size_t i = v->cap; i < cap; i++)
			v->str[i] = (struct vocab_str){ 0, -1 };
		v->cap = cap;
	}
	if (id >= v->n_ids)
		v->n_ids = id + 1;
}

/* hash: of s. */
static int add(struct vocab *v, const char *s, size_t n, int64_t id, uint64_t hash, struct err *e)
{
	uint32_t h;

	if (id < 0 || id >= VOCAB_MAX_ID)
		return err_set(e, LP_DATA, "token id %lld is not within 0..%d", (long long)id, VOCAB_MAX_ID - 1);
	if (n > INT32_MAX || v->pool_len + n + 1 > UINT32_MAX || v->n_strings >= v->mask)
		return err_set(e, LP_DATA, "the vocabulary is too large");
	grow_ids(v, (size_t)id);
	h = slot_of(v, s, n, hash);
	if (!v->slots[h].id1)
		v->n_strings++;
	v->slots[h] = (struct vocab_slot){ (uint32_t)(hash >> 32), (int32_t)id + 1 };
	if (v->str[id].len >= 0)
		return err_set(e, LP_DATA, "token id %lld stands for two strings in the vocabulary", (long long)id);
	put_string(v, s, n, (size_t)id);
	return 0;
}

int vocab_add(struct vocab *v, const char *s, size_t n, int64_t id, struct err *e)
{
	return add(v, s, n, id, hash_of(s, n), e);
}

#define AHEAD 16 /* strings hashed before they are stored */

int vocab_from_obj(struct vocab *v, const struct json *obj, struct err *e)
{
	int64_t id;

	if (!json_is(obj, JSON_OBJ))
		return err_set(e, LP_DATA, "the model's vocab is not an object");
	if (vocab_reserve(v, obj->n, e))
		return -1;
	for (uint32_t i = 0; i < obj->n; i++) {
		const struct json_member *m = &obj->members[i];

		if (!json_as_i64(&m->val, &id))
			return err_set(e, LP_DATA, "the vocabulary's id of '%.60s' is not a whole number", m->key);
		if (vocab_add(v, m->key, m->key_len, id, e))
			return -1;
	}
	return 0;
}

/* One member to pool and str; its place among the slots comes later. */
static bool read_member(struct vocab *v, struct quick *q, char **scratch, size_t *cap)
{
	const char *s, *from = q->s;
	bool slash;
	uint32_t id;
	size_t n;

	if (!quick_char(q, '"'))
		return false;
	from = q->s;
	if (!quick_slice(q, &s, &n, &slash))
		return false;
	if (slash) {
		struct quick again = { from, q->s };

		if (q->end - q->s < 8)
			return false;
		*scratch = xgrow(*scratch, cap, n + 32, 1);
		if (!quick_string(&again, *scratch, &n))
			return false;
		s = *scratch;
	}
	if (!quick_char(q, ':') || !quick_count(q, &id) || id >= VOCAB_MAX_ID || v->pool_len + n + 1 > UINT32_MAX || n > INT32_MAX)
		return false;
	grow_ids(v, id);
	if (v->str[id].len >= 0)
		return false;
	put_string(v, s, n, id);
	v->n_strings++;
	return true;
}

/* All strings into the slots; false when one is there twice. */
static bool index_all(struct vocab *v)
{
	uint64_t hash[AHEAD];

	for (size_t id = 0; id < v->n_ids; id++) {
		uint32_t h;

		for (size_t k = id; id % AHEAD == 0 && k < v->n_ids && k < id + AHEAD; k++)
			if (v->str[k].len >= 0)
				hash[k - id] = vocab_hash(v, v->pool + v->str[k].off, (size_t)v->str[k].len);
		if (v->str[id].len < 0)
			continue;
		h = slot_of(v, v->pool + v->str[id].off, (size_t)v->str[id].len, hash[id % AHEAD]);
		if (v->slots[h].id1)
			return false;
		v->slots[h] = (struct vocab_slot){ (uint32_t)(hash[id % AHEAD] >> 32), (int32_t)id + 1 };
	}
	return true;
}

bool vocab_from_text(struct vocab *v, struct quick *q)
{
	struct err e = ERR_INIT;
	char *scratch = NULL;
	size_t cap = 0;
	bool ok = true;

	if (!quick_char(q, '}')) {
		do
			ok = read_member(v, q, &scratch, &cap);
		while (ok && quick_char(q, ','));
		ok = ok && quick_char(q, '}');
	}
	free(scratch);
	ok = ok && !vocab_reserve(v, v->n_strings, &e) && index_all(v);
	if (!ok)
		vocab_release(v);
	return ok;
}
