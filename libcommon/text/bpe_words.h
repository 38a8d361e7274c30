/* Words that have been merged before, and their tokens: private to bpe*.c. A
 * word of up to 15 bytes and 3 tokens, nearly all of them, is half a line of the
 * processor's cache; any other goes to a log that begins anew when it is full.
 * Looking up many words at once lets their memory arrive together. */
#ifndef LP_TEXT_BPE_WORDS_H
#define LP_TEXT_BPE_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "text/word_key.h"

#define WORD_IDS 3
#define WORD_SETS_LOG2 17 /* of two words */
#define WORD_LONGEST 1024 /* bytes; longer ones are not kept */

struct word {
	uint64_t key[2];       /* the bytes, zeros behind them, the length in the last byte; length 0: empty */
	int32_t id[WORD_IDS];
	uint8_t n;             /* 0: more than fit; the word is among the longer ones */
	uint8_t end[WORD_IDS]; /* where each token ends in the word; behind the last one the word's end again */
};

struct words {
	struct word *sets;     /* the one that was last found stands first in its set */
	uint32_t *slots;       /* of longer words: tag and place in log */
	uint32_t *log;         /* entries: bytes, tokens, (id, end) of each, the word's bytes */
	size_t log_len;
};
bool words_init(struct words *w); /* false: no memory; w then keeps nothing */
void words_release(struct words *w);

/* One token of a long word. */
struct word_tok {
	int32_t id;
	uint32_t end;
};
/* A longer word's tokens, or NULL. */
const struct word_tok *words_find_long(const struct words *w, const char *s, size_t len, size_t *n);
void words_add_long(struct words *w, const char *s, size_t len, const struct word_tok *t, size_t n);

static inline uint32_t word_set(const uint64_t key[2])
{
	return (uint32_t)word_hash(key) >> (32 - WORD_SETS_LOG2);
}

static inline bool word_is(const struct word *w, const uint64_t key[2])
{
	return !((w->key[0] ^ key[0]) | (w->key[1] ^ key[1]));
}

/* The word, moved to the front of its set; or NULL. */
static inline const struct word *words_find(const struct words *w, const uint64_t key[2], uint32_t set)
{
	struct word *x = &w->sets[2 * (size_t)set], t;

	if (word_is(x, key))
		return x;
	if (!word_is(x + 1, key))
		return NULL;
	t = x[0];
	x[0] = x[1];
	x[1] = t;
	return x;
}

#endif
