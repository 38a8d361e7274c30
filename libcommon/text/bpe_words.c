/* Words met before: see bpe_words.h. */
#include "text/bpe_words.h"

#include <stdlib.h>

#include "base/hash.h"
#include "base/xalloc.h"

_Static_assert(sizeof(struct word) == 32, "two to a line of the cache");

#define SET_BYTES ((size_t)2 * sizeof(struct word) << WORD_SETS_LOG2)
#define SLOTS 32768u        /* of longer words; two numbers each */
#define LOG_WORDS (1u << 18) /* numbers in the log: 1 MiB */

/* The sets are zero pages until words come. */
bool words_init(struct words *w)
{
	memset(w, 0, sizeof(*w));
	w->sets = lp_pages(SET_BYTES);
	if (!w->sets)
		return false;
	w->slots = xcalloc((size_t)2 * SLOTS, sizeof(*w->slots));
	w->log = xmalloc(LOG_WORDS * sizeof(*w->log));
	w->log_len = 1; /* place 0 is no place */
	return true;
}

void words_release(struct words *w)
{
	lp_pages_free(w->sets, SET_BYTES);
	free(w->slots);
	free(w->log);
	memset(w, 0, sizeof(*w));
}

/* An entry's head is two numbers, its tokens n pairs behind. */
static uint32_t *slot_of(const struct words *w, const char *s, size_t len, uint32_t *tag)
{
	uint64_t h = xxh_u64(s, len, 0);

	*tag = (uint32_t)(h >> 32);
	return w->slots + 2 * ((uint32_t)h & (SLOTS - 1));
}

const struct word_tok *words_find_long(const struct words *w, const char *s, size_t len, size_t *n)
{
	uint32_t tag;
	const uint32_t *slot = w->slots ? slot_of(w, s, len, &tag) : NULL, *x;

	if (!slot || !slot[1] || slot[0] != tag)
		return NULL;
	x = w->log + slot[1];
	*n = x[1];
	if (x[0] != len || memcmp(x + 2 + 2 * *n, s, len) != 0)
		return NULL;
	return (const struct word_tok *)(x + 2);
}

void words_add_long(struct words *w, const char *s, size_t len, const struct word_tok *t, size_t n)
{
	size_t need = 2 + 2 * n + (len + 3) / 4;
	uint32_t tag, *slot, *x;

	if (!w->slots || len > WORD_LONGEST || n > len)
		return;
	if (w->log_len + need > LOG_WORDS) {
		memset(w->slots, 0, (size_t)2 * SLOTS * sizeof(*w->slots));
		w->log_len = 1;
	}
	slot = slot_of(w, s, len, &tag);
	x = w->log + w->log_len;
	x[0] = (uint32_t)len;
	x[1] = (uint32_t)n;
	memcpy(x + 2, t, n * sizeof(*t));
	memcpy(x + 2 + 2 * n, s, len);
	slot[0] = tag;
	slot[1] = (uint32_t)w->log_len;
	w->log_len += need;
}
