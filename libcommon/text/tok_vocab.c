/* A vocabulary: see tok_vocab.h. */
#include "text/tok_vocab.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/xalloc.h"

void vocab_release(struct vocab *v)
{
	free(v->pool);
	free(v->off);
	free(v->len);
	free(v->slots);
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
	v->slots = xcalloc(n, sizeof(*v->slots));
	v->mask = (uint32_t)(n - 1);
	return 0;
}

static inline uint32_t slot_of(const struct vocab *v, const char *s, size_t n, uint64_t hash)
{
	uint32_t h = (uint32_t)hash & v->mask, tag = (uint32_t)(hash >> 32);

	while (v->slots[h].id1) {
		int32_t id = v->slots[h].id1 - 1;

		if (v->slots[h].tag == tag && (size_t)v->len[id] == n && !memcmp(v->pool + v->off[id], s, n))
			break;
		h = (h + 1) & v->mask;
	}
	return h;
}

uint64_t vocab_hash(const struct vocab *v, const char *s, size_t n)
{
	uint64_t hash = xxh_u64(s, n, 0);

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
	return v->slots ? v->slots[slot_of(v, s, n, xxh_u64(s, n, 0))].id1 - 1 : -1;
}

/* hash: of s. */
static int add(struct vocab *v, const char *s, size_t n, int64_t id, uint64_t hash, struct err *e)
{
	uint32_t h;

	if (id < 0 || id >= VOCAB_MAX_ID)
		return err_set(e, LP_DATA, "token id %lld is not within 0..%d", (long long)id, VOCAB_MAX_ID - 1);
	if (n > INT32_MAX || v->pool_len + n + 1 > UINT32_MAX || v->n_strings >= v->mask)
		return err_set(e, LP_DATA, "the vocabulary is too large");
	while (v->cap <= (size_t)id) {
		size_t cap = v->cap ? v->cap * 2 : 1024;

		v->off = xrealloc(v->off, cap * sizeof(*v->off));
		v->len = xrealloc(v->len, cap * sizeof(*v->len));
		for (size_t i = v->cap; i < cap; i++)
			v->off[i] = 0, v->len[i] = -1;
		v->cap = cap;
	}
	h = slot_of(v, s, n, hash);
	if (!v->slots[h].id1)
		v->n_strings++;
	v->slots[h] = (struct vocab_slot){ (uint32_t)(hash >> 32), (int32_t)id + 1 };
	if ((size_t)id >= v->n_ids)
		v->n_ids = (size_t)id + 1;
	if (v->len[id] >= 0)
		return err_set(e, LP_DATA, "token id %lld stands for two strings in the vocabulary", (long long)id);
	v->pool = xgrow(v->pool, &v->pool_cap, v->pool_len + n + 1, 1);
	memcpy(v->pool + v->pool_len, s, n);
	v->pool[v->pool_len + n] = 0;
	v->off[id] = (uint32_t)v->pool_len;
	v->len[id] = (int32_t)n;
	v->pool_len += n + 1;
	return 0;
}

int vocab_add(struct vocab *v, const char *s, size_t n, int64_t id, struct err *e)
{
	return add(v, s, n, id, xxh_u64(s, n, 0), e);
}

#define AHEAD 16 /* strings hashed before they are stored */

int vocab_from_obj(struct vocab *v, const struct json *obj, struct err *e)
{
	uint64_t hash[AHEAD];
	int64_t id;

	if (!json_is(obj, JSON_OBJ))
		return err_set(e, LP_DATA, "the model's vocab is not an object");
	if (vocab_reserve(v, obj->n, e))
		return -1;
	for (uint32_t i = 0; i < obj->n; i++) {
		const struct json_member *m = &obj->members[i];

		for (uint32_t k = i; i % AHEAD == 0 && k < obj->n && k < i + AHEAD; k++)
			hash[k - i] = vocab_hash(v, obj->members[k].key, obj->members[k].key_len);
		if (!json_as_i64(&m->val, &id))
			return err_set(e, LP_DATA, "the vocabulary's id of '%.60s' is not a whole number", m->key);
		if (add(v, m->key, m->key_len, id, hash[i % AHEAD], e))
			return -1;
	}
	return 0;
}
