/* A vocabulary: see tok_vocab.h. */
#include "text/tok_vocab.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

void vocab_release(struct vocab *v)
{
	if (!v->borrowed) {
		lp_pages_free(v->pool, v->pool_cap);
		lp_pages_free(v->str, v->cap * sizeof(*v->str));
		lp_pages_free(v->slots, ((size_t)v->mask + 1) * sizeof(*v->slots));
	}
	memset(v, 0, sizeof(*v));
}

int vocab_reserve(struct vocab *v, size_t strings, struct err *e)
{
	size_t n = 512; /* buckets */

	if (strings > VOCAB_MAX_ID)
		return err_set(e, LP_DATA, "the vocabulary has more than %d entries", VOCAB_MAX_ID);
	while (n < strings / 2)
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

/* No short string's: the last byte is more than any length of those. */
void vocab_long_key(const char *s, size_t n, uint64_t key[2])
{
	key[0] = hash_of(s, n);
	key[1] = (uint64_t)0xFF << 56 | n;
}

int32_t vocab_find_long(const struct vocab *v, const char *s, size_t n, const uint64_t key[2])
{
	for (uint64_t h = word_hash(key) & v->mask;; h = (h + 1) & v->mask) {
		const struct vocab_bucket *x = &v->slots[h];

		for (int i = 0; i < VOCAB_BUCKET; i++)
			if (x->key[i][0] == key[0] && x->key[i][1] == key[1] && vocab_is(v, x->id[i], s, n))
				return x->id[i];
		if (!x->spilt)
			return -1;
	}
}

int32_t vocab_find(const struct vocab *v, const char *s, size_t n)
{
	uint64_t key[2];

	if (!v->slots)
		return -1;
	vocab_key(s, n, n, key);
	return vocab_find_key(v, s, n, key);
}

/* Where a string stands, or may be put. */
struct place {
	int32_t *id;
	uint64_t *key;
};

static struct place place_of(struct vocab *v, const char *s, size_t n, const uint64_t key[2])
{
	bool is_long = n - 1 >= WORD_BYTES;

	for (uint64_t h = word_hash(key) & v->mask;; h = (h + 1) & v->mask) {
		struct vocab_bucket *x = &v->slots[h];

		for (int i = 0; i < VOCAB_BUCKET; i++)
			if (!x->key[i][1] || (x->key[i][0] == key[0] && x->key[i][1] == key[1] && (!is_long || vocab_is(v, x->id[i], s, n))))
				return (struct place){ &x->id[i], x->key[i] };
		x->spilt = 1;
	}
}

static void fill(struct place p, const uint64_t key[2], int32_t id)
{
	memcpy(p.key, key, 2 * sizeof(*key));
	*p.id = id;
}

static void put_id(struct vocab *v, struct place p, const uint64_t key[2], int32_t id)
{
	v->n_strings += !p.key[1];
	fill(p, key, id);
}

static struct place free_place(struct vocab_bucket *slots, uint32_t mask, const uint64_t key[2])
{
	for (uint64_t h = word_hash(key) & mask;; h = (h + 1) & mask) {
		for (int i = 0; i < VOCAB_BUCKET; i++)
			if (!slots[h].key[i][1])
				return (struct place){ &slots[h].id[i], slots[h].key[i] };
		slots[h].spilt = 1;
	}
}

/* Room for one more: a quarter stays free, so that every search ends soon. */
static int make_room(struct vocab *v, struct err *e)
{
	size_t n = (size_t)v->mask + 1;
	struct vocab_bucket *more;

	if (v->slots && v->n_strings < n * VOCAB_BUCKET / 4 * 3)
		return 0;
	if (!v->slots)
		return vocab_reserve(v, 0, e);
	if (!(more = lp_pages(2 * n * sizeof(*more))))
		return err_set(e, LP_DEVICE, "out of memory for a vocabulary of %zu strings", v->n_strings);
	for (size_t h = 0; h < n; h++)
		for (int i = 0; i < VOCAB_BUCKET; i++)
			if (v->slots[h].key[i][1])
				fill(free_place(more, (uint32_t)(2 * n - 1), v->slots[h].key[i]), v->slots[h].key[i], v->slots[h].id[i]);
	lp_pages_free(v->slots, n * sizeof(*v->slots));
	v->slots = more;
	v->mask = (uint32_t)(2 * n - 1);
	return 0;
}

void vocab_put_short(struct vocab *v, const char *s, size_t n, int32_t id)
{
	uint64_t key[2];

	word_key(s, n, n, key);
	put_id(v, place_of(v, s, n, key), key, id);
}

bool vocab_table_ok(const struct vocab *v, size_t n_ids)
{
	size_t spilt = 0;
	bool ok = true;

	for (size_t h = 0; h <= v->mask; h++) {
		spilt += v->slots[h].spilt != 0;
		for (int i = 0; i < VOCAB_BUCKET; i++)
			ok &= v->slots[h].id[i] >= 0 && (size_t)v->slots[h].id[i] < n_ids;
	}
	return ok && spilt <= v->mask;
}

/* --- adding --- */

/* The string of an id that has none. */
static void put_string(struct vocab *v, const char *s, size_t n, size_t id)
{
	v->pool = lp_pages_grow(v->pool, &v->pool_cap, v->pool_len + n + 1, 1);
	memcpy(v->pool + v->pool_len, s, n);
	v->pool[v->pool_len + n] = 0;
	v->str[id] = (struct vocab_str){ (uint32_t)v->pool_len, (int32_t)n };
	v->pool_len += n + 1;
}

static void grow_ids(struct vocab *v, size_t id)
{
	v->str = lp_pages_grow(v->str, &v->cap, id + 1, sizeof(*v->str));
	for (; v->n_ids <= id; v->n_ids++)
		v->str[v->n_ids] = (struct vocab_str){ 0, -1 };
}

int vocab_add(struct vocab *v, const char *s, size_t n, int64_t id, struct err *e)
{
	uint64_t key[2];

	if (id < 0 || id >= VOCAB_MAX_ID)
		return err_set(e, LP_DATA, "token id %lld is not within 0..%d", (long long)id, VOCAB_MAX_ID - 1);
	if (n > INT32_MAX || v->pool_len + n + 1 > UINT32_MAX)
		return err_set(e, LP_DATA, "the vocabulary is too large");
	if (make_room(v, e))
		return -1;
	grow_ids(v, (size_t)id);
	vocab_key(s, n, n, key);
	put_id(v, place_of(v, s, n, key), key, (int32_t)id);
	if (v->str[id].len >= 0)
		return err_set(e, LP_DATA, "token id %lld stands for two strings in the vocabulary", (long long)id);
	put_string(v, s, n, (size_t)id);
	return 0;
}

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

/* --- adding all that a text has --- */

bool vocab_read_string(struct quick *q, struct sb *mem, const char **s, size_t *n)
{
	const char *from = q->s;
	bool slash;

	if (!quick_slice(q, s, n, &slash))
		return false;
	if (!slash)
		return true;
	struct quick again = { from, q->s };
	if (q->end - q->s < 8)
		return false;
	sb_reset(mem);
	sb_grow(mem, *n + 32);
	*s = mem->s;
	return quick_string(&again, mem->s, n);
}

bool vocab_append(struct vocab *v, const char *s, size_t n, size_t id)
{
	if (id >= VOCAB_MAX_ID || v->pool_len + n + 1 > UINT32_MAX || n > INT32_MAX)
		return false;
	grow_ids(v, id);
	if (v->str[id].len >= 0)
		return false;
	put_string(v, s, n, id);
	v->n_strings++;
	return true;
}

bool vocab_shift(struct vocab *v, size_t n, size_t by)
{
	if (by > VOCAB_MAX_ID || n > v->n_ids || n + by > VOCAB_MAX_ID)
		return false;
	if (n + by)
		grow_ids(v, n + by - 1);
	memmove(v->str + by, v->str, n * sizeof(*v->str));
	for (size_t i = 0; i < by; i++)
		v->str[i] = (struct vocab_str){ 0, -1 };
	v->n_ids = n + by;
	v->n_strings = n;
	return true;
}

#define AHEAD 16 /* strings whose places are asked for before they are put there */

/* The key of an id's string, whose place will be there soon. */
static inline void want_place(const struct vocab *v, size_t id, uint64_t key[2])
{
	struct vocab_str x = id < v->n_ids ? v->str[id] : (struct vocab_str){ 0, -1 };

	if (x.len < 0)
		return;
	vocab_key(v->pool + x.off, (size_t)x.len, v->pool_cap - x.off, key);
	vocab_want(v, key);
}

bool vocab_index(struct vocab *v)
{
	struct err e = ERR_INIT;
	uint64_t key[AHEAD][2];

	if (vocab_reserve(v, v->n_strings, &e))
		return false;
	v->n_strings = 0;
	for (size_t id = 0; id < AHEAD; id++)
		want_place(v, id, key[id]);
	for (size_t id = 0; id < v->n_ids; id++) {
		const struct vocab_str *x = &v->str[id];

		if (x->len >= 0) {
			struct place p = place_of(v, v->pool + x->off, (size_t)x->len, key[id % AHEAD]);

			if (p.key[1])
				return false;
			put_id(v, p, key[id % AHEAD], (int32_t)id);
		}
		want_place(v, id + AHEAD, key[id % AHEAD]);
	}
	return true;
}

bool vocab_from_text(struct vocab *v, struct quick *q)
{
	struct sb mem = SB_INIT;
	const char *s, *from = q->s;
	bool ok = true;
	uint32_t id;
	size_t n;

	v->pool = lp_pages_grow(NULL, &v->pool_cap, (size_t)(q->end - q->s) + 1, 1); /* pages that are not used are not there */
	if (!quick_char(q, '}')) {
		do
			ok = quick_char(q, '"') && vocab_read_string(q, &mem, &s, &n) && quick_char(q, ':') && quick_count(q, &id) && vocab_append(v, s, n, id);
		while (ok && quick_char(q, ','));
		ok = ok && quick_char(q, '}');
	}
	sb_release(&mem);
	ok = ok && json_utf8_ok(from, (size_t)(q->s - from)) && vocab_index(v);
	if (!ok)
		vocab_release(v);
	return ok;
}
