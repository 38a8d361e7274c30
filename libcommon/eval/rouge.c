/* Words become numbers once (a hash table from spelling to the number of its
 * stem, kept between pairs), and all else works on numbers. The longest
 * common subsequence is bit-parallel (Hyyro 2004), 64 reference tokens at a
 * time over the whole candidate, so that memory stays linear. */
#include "eval/rouge.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/xalloc.h"
#include "eval/porter.h"

#define VOCAB_MAX_WORDS (1u << 19) /* about 30 MiB; then the table starts anew */
#define VOCAB_MAX_BYTES (16u << 20)

struct word {
	uint64_t hash;
	size_t off;    /* spelling in text */
	uint32_t len;
	uint32_t stem; /* of a spelling: the number of its stem */
};

struct slot {
	uint32_t tag; /* upper half of the hash */
	uint32_t num; /* of the word, + 1; 0 is free */
};

/* Words of up to 16 letters, padded with zeros, and their stems: where most
 * lookups end. Each has one place; the latest there wins. */
#define FAST_BITS 13
struct fast {
	uint64_t key[2];
	uint32_t stem; /* number of the stem */
};

struct seq {
	uint32_t *id;
	size_t n, cap;
};

struct bigram {
	uint64_t key;
	int64_t count; /* in the reference; what the candidate has not yet matched */
	uint64_t round;
};

struct rouge {
	bool stem;
	/* vocabulary: words in order of appearance, and an open hash of them */
	struct word *words;
	size_t n_words, cap_words;
	struct slot *slots;
	size_t n_slots;
	char *text;
	size_t text_len, text_cap;
	struct fast *fast; /* 1 << FAST_BITS; a key of 0 is free */
	/* by word number */
	int64_t *count; /* all 0 between pairs */
	uint64_t *mask; /* likewise */
	size_t cap_count;
	/* of one pair */
	struct seq ref, cand;
	struct bigram *bigrams;
	size_t n_bigrams;
	uint64_t round;
	uint8_t *carry;
	size_t cap_carry;
	char *low; /* the word being read */
	size_t cap_low;
	char lower[256]; /* [a-z0-9] of an ASCII byte, 0 for all others */
};

struct rouge *rouge_new(bool stem)
{
	struct rouge *r = xcalloc(1, sizeof(*r));

	r->stem = stem;
	r->fast = xcalloc((size_t)1 << FAST_BITS, sizeof(*r->fast));
	for (int c = '0'; c <= '9'; c++)
		r->lower[c] = (char)c;
	for (int c = 'a'; c <= 'z'; c++)
		r->lower[c] = r->lower[c - 'a' + 'A'] = (char)c;
	return r;
}

void rouge_free(struct rouge *r)
{
	if (!r)
		return;
	free(r->words);
	free(r->fast);
	free(r->slots);
	free(r->text);
	free(r->count);
	free(r->mask);
	free(r->ref.id);
	free(r->cand.id);
	free(r->bigrams);
	free(r->carry);
	free(r->low);
	free(r);
}

/* Grows a buffer whose size comes from data: doubles, and can fail. */
static int grow(void *pp, size_t *cap, size_t n, size_t size, struct err *e)
{
	void **p = pp, *q;
	size_t want = *cap ? *cap : 256, bytes;

	if (n <= *cap)
		return 0;
	while (want < n)
		want *= 2;
	if (lp_mul_overflows(want, size, &bytes) || !(q = realloc(*p, bytes)))
		return err_set(e, LP_DEVICE, "no memory to score a text of %zu words", n);
	*p = q;
	*cap = want;
	return 0;
}

static void vocab_insert(struct rouge *r, uint32_t num)
{
	size_t i = r->words[num].hash & (r->n_slots - 1);

	while (r->slots[i].num)
		i = (i + 1) & (r->n_slots - 1);
	r->slots[i] = (struct slot){ (uint32_t)(r->words[num].hash >> 32), num + 1 };
}

static int vocab_rehash(struct rouge *r, struct err *e)
{
	size_t n = r->n_slots ? 2 * r->n_slots : 4096;
	struct slot *slots = calloc(n, sizeof(*slots));

	if (!slots)
		return err_set(e, LP_DEVICE, "no memory for a vocabulary of %zu words", r->n_words);
	free(r->slots);
	r->slots = slots;
	r->n_slots = n;
	for (size_t i = 0; i < r->n_words; i++)
		vocab_insert(r, (uint32_t)i);
	return 0;
}

/* Between pairs only: the numbers of a pair must not change. */
static void vocab_trim(struct rouge *r)
{
	if (r->n_words < VOCAB_MAX_WORDS && r->text_len < VOCAB_MAX_BYTES)
		return;
	r->n_words = r->text_len = 0;
	memset(r->slots, 0, r->n_slots * sizeof(*r->slots));
	memset(r->fast, 0, sizeof(*r->fast) << FAST_BITS);
}

static int64_t vocab_find(const struct rouge *r, const char *w, size_t n, uint64_t hash)
{
	if (!r->n_slots)
		return -1;
	for (size_t i = hash & (r->n_slots - 1); r->slots[i].num; i = (i + 1) & (r->n_slots - 1)) {
		const struct word *v = &r->words[r->slots[i].num - 1];

		if (r->slots[i].tag == (uint32_t)(hash >> 32) && v->hash == hash && v->len == n && memcmp(r->text + v->off, w, n) == 0)
			return r->slots[i].num - 1;
	}
	return -1;
}

static int vocab_add(struct rouge *r, const char *w, size_t n, uint64_t hash, uint32_t *num, struct err *e)
{
	size_t old = r->cap_count;

	if (r->n_words >= UINT32_MAX - 1 || n > UINT32_MAX)
		return err_set(e, LP_DEVICE, "a text has too many different words to score");
	if (2 * (r->n_words + 1) > r->n_slots && vocab_rehash(r, e))
		return -1;
	if (grow(&r->words, &r->cap_words, r->n_words + 1, sizeof(*r->words), e) ||
	    grow(&r->text, &r->text_cap, r->text_len + n, 1, e))
		return -1;
	if (r->n_words >= old) {
		size_t cap = old;

		if (grow(&r->mask, &cap, r->n_words + 1, sizeof(*r->mask), e) ||
		    grow(&r->count, &r->cap_count, r->n_words + 1, sizeof(*r->count), e))
			return -1;
		memset(r->mask + old, 0, (r->cap_count - old) * sizeof(*r->mask));
		memset(r->count + old, 0, (r->cap_count - old) * sizeof(*r->count));
	}
	*num = (uint32_t)r->n_words++;
	r->words[*num] = (struct word){ hash, r->text_len, (uint32_t)n, *num };
	memcpy(r->text + r->text_len, w, n);
	r->text_len += n;
	vocab_insert(r, *num);
	return 0;
}

/* Finds or adds; a negative return is an error, *num the number. */
static int vocab_get(struct rouge *r, const char *w, size_t n, uint64_t hash, uint32_t *num, struct err *e)
{
	int64_t found = vocab_find(r, w, n, hash);

	if (found < 0)
		return vocab_add(r, w, n, hash, num, e);
	*num = (uint32_t)found;
	return 0;
}

/* Spellings and stems are two vocabularies in one table, told apart by their
 * hashes: the spelling "die" and the stem "die" of "dying" must meet,
 * whichever comes first. */
static int look_up(struct rouge *r, char *w, size_t n, uint32_t *num, struct err *e)
{
	uint64_t hash = xxh_u64(w, n, 0);
	int64_t found = vocab_find(r, w, n, hash);
	uint32_t raw;

	if (found >= 0) {
		*num = r->words[found].stem;
		return 0;
	}
	if (vocab_add(r, w, n, hash, &raw, e))
		return -1;
	if (r->stem && n > 3)
		n = porter_stem(w, n);
	if (vocab_get(r, w, n, ~xxh_u64(w, n, 0), num, e))
		return -1;
	r->words[raw].stem = *num;
	return 0;
}

/* The number of the stem of w, which is overwritten; 16 bytes behind it are there to use. */
static int word_number(struct rouge *r, char *w, size_t n, uint32_t *num, struct err *e)
{
	uint64_t key[2];
	struct fast *f;

	if (n > 16)
		return look_up(r, w, n, num, e);
	memset(w + n, 0, 16);
	memcpy(key, w, 16);
	f = &r->fast[(key[0] ^ (key[1] >> 7 | key[1] << 57)) * 0x9e3779b97f4a7c15u >> (64 - FAST_BITS)];
	if (f->key[0] == key[0] && f->key[1] == key[1]) {
		*num = f->stem;
		return 0;
	}
	if (look_up(r, w, n, num, e))
		return -1;
	*f = (struct fast){ { key[0], key[1] }, *num };
	return 0;
}

/* Two characters beyond ASCII have an ASCII letter in what Python's str.lower
 * makes of them: U+212A (k), and U+0130 (i and a combining dot, so that the
 * word ends behind it). Returns their bytes, or 0. */
static size_t odd_letter(const uint8_t *s, size_t len, char *c)
{
	*c = s[0] == 0xc4 ? 'i' : 'k';
	if (len > 1 && s[0] == 0xc4 && s[1] == 0xb0)
		return 2;
	return len > 2 && s[0] == 0xe2 && s[1] == 0x84 && s[2] == 0xaa ? 3 : 0;
}

/* The word that begins at s[*i], lower-cased, into r->low; *i behind it.
 * Returns its length, 0 when none begins there, -1 for want of memory. */
static int64_t read_word(struct rouge *r, const uint8_t *s, size_t len, size_t *i, struct err *e)
{
	size_t n = 0, odd;
	char c = 0;

	do {
		size_t end = *i;

		while (end < len && r->lower[s[end]])
			end++;
		if (n + (end - *i) + 17 > r->cap_low && grow(&r->low, &r->cap_low, n + (end - *i) + 17, 1, e))
			return -1;
		for (; *i < end; ++*i)
			r->low[n++] = r->lower[s[*i]];
		odd = *i < len && s[*i] >= 0x80 ? odd_letter(s + *i, len - *i, &c) : 0;
		if (odd)
			r->low[n++] = c;
		*i += odd;
	} while (odd == 3);
	return (int64_t)n;
}

static int tokenize(struct rouge *r, const char *text, size_t len, struct seq *out, struct err *e)
{
	const uint8_t *s = (const uint8_t *)text;
	size_t i = 0;

	out->n = 0;
	while (i < len) {
		int64_t n = read_word(r, s, len, &i, e);

		if (n < 0)
			return -1;
		if (!n) {
			i++;
			continue;
		}
		if (grow(&out->id, &out->cap, out->n + 1, sizeof(*out->id), e) || word_number(r, r->low, (size_t)n, &out->id[out->n], e))
			return -1;
		out->n++;
	}
	return 0;
}

static struct rouge_prf prf(uint64_t hits, size_t n_ref, size_t n_cand)
{
	struct rouge_prf s = { 0, 0, 0 };

	s.p = (double)hits / (double)(n_cand ? n_cand : 1);
	s.r = (double)hits / (double)(n_ref ? n_ref : 1);
	if (s.p + s.r > 0)
		s.f = 2 * s.p * s.r / (s.p + s.r);
	return s;
}

/* Words in common, each counted as often as both have it. */
static uint64_t unigram_hits(struct rouge *r)
{
	uint64_t hits = 0;

	for (size_t i = 0; i < r->ref.n; i++)
		r->count[r->ref.id[i]]++;
	for (size_t i = 0; i < r->cand.n; i++)
		if (r->count[r->cand.id[i]] > 0) {
			r->count[r->cand.id[i]]--;
			hits++;
		}
	for (size_t i = 0; i < r->ref.n; i++)
		r->count[r->ref.id[i]] = 0;
	return hits;
}

/* The place of a bigram in this pair's table; a slot of an older round is free. */
static struct bigram *bigram_at(struct rouge *r, uint32_t a, uint32_t b)
{
	uint64_t key = (uint64_t)a << 32 | b;
	size_t i = (key * 0x9e3779b97f4a7c15u) >> 20 & (r->n_bigrams - 1);

	while (r->bigrams[i].round == r->round && r->bigrams[i].key != key)
		i = (i + 1) & (r->n_bigrams - 1);
	if (r->bigrams[i].round != r->round)
		r->bigrams[i] = (struct bigram){ key, 0, 0 };
	return &r->bigrams[i];
}

static int bigram_hits(struct rouge *r, uint64_t *hits, struct err *e)
{
	size_t n = r->n_bigrams ? r->n_bigrams : 1024;

	*hits = 0;
	while (n < 2 * r->ref.n)
		n *= 2;
	if (n > r->n_bigrams) {
		struct bigram *b = calloc(n, sizeof(*b));

		if (!b)
			return err_set(e, LP_DEVICE, "no memory to score a text of %zu words", r->ref.n);
		free(r->bigrams);
		r->bigrams = b;
		r->n_bigrams = n;
	}
	r->round++;
	for (size_t i = 1; i < r->ref.n; i++) {
		struct bigram *b = bigram_at(r, r->ref.id[i - 1], r->ref.id[i]);

		b->round = r->round;
		b->count++;
	}
	for (size_t i = 1; i < r->cand.n; i++) {
		struct bigram *b = bigram_at(r, r->cand.id[i - 1], r->cand.id[i]);

		if (b->round == r->round && b->count > 0) {
			b->count--;
			++*hits;
		}
	}
	return 0;
}

/* Length of the longest common subsequence. A zero bit of v marks a
 * reference token at which the length grows; the sum's carry runs from one
 * block of 64 tokens into the next at the same candidate token. */
static int lcs(struct rouge *r, uint64_t *length, struct err *e)
{
	const uint32_t *ref = r->ref.id, *cand = r->cand.id;

	*length = 0;
	if (grow(&r->carry, &r->cap_carry, r->cand.n, 1, e))
		return -1;
	if (r->cand.n)
		memset(r->carry, 0, r->cand.n);
	for (size_t at = 0; at < r->ref.n; at += 64) {
		size_t n = r->ref.n - at < 64 ? r->ref.n - at : 64;
		uint64_t v = ~(uint64_t)0;

		for (size_t i = 0; i < n; i++)
			r->mask[ref[at + i]] |= (uint64_t)1 << i;
		for (size_t j = 0; j < r->cand.n; j++) {
			uint64_t m = r->mask[cand[j]], u = v & m, sum;
			bool over = __builtin_add_overflow(v, u, &sum);

			over |= __builtin_add_overflow(sum, (uint64_t)r->carry[j], &sum);
			r->carry[j] = over;
			v = sum | (v & ~m);
		}
		*length += (uint64_t)__builtin_popcountll(~v);
		for (size_t i = 0; i < n; i++)
			r->mask[ref[at + i]] = 0;
	}
	return 0;
}

int rouge_score(struct rouge *r, const char *ref, size_t ref_len, const char *cand, size_t cand_len,
                struct rouge_scores *out, struct err *e)
{
	uint64_t bi, common;

	vocab_trim(r);
	if (tokenize(r, ref, ref_len, &r->ref, e) || tokenize(r, cand, cand_len, &r->cand, e) ||
	    bigram_hits(r, &bi, e) || lcs(r, &common, e))
		return -1;
	out->n_ref = r->ref.n;
	out->n_cand = r->cand.n;
	out->r1 = prf(unigram_hits(r), r->ref.n, r->cand.n);
	out->r2 = prf(bi, r->ref.n ? r->ref.n - 1 : 0, r->cand.n ? r->cand.n - 1 : 0);
	out->rl = prf(common, r->ref.n, r->cand.n);
	return 0;
}
