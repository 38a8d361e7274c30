/* Token counts of a data set: percentiles, and what each length would cut. */
#ifndef LP_DATA_TOK_STATS_H
#define LP_DATA_TOK_STATS_H

#include <stdint.h>

#include "base/sb.h"

struct tok_stats {
	uint64_t *count; /* sequences by length, up to TOK_STATS_EXACT */
	size_t cap;
	uint64_t n, tokens, targets, max, min;
	uint64_t longer, longer_tokens; /* beyond TOK_STATS_EXACT */
	uint64_t truncated, cut_tokens, dropped, dropped_tokens, split;
};
#define TOK_STATS_EXACT (1u << 20)
void tok_stats_release(struct tok_stats *s);
void tok_stats_add(struct tok_stats *s, uint64_t tokens, uint64_t targets);
/* The smallest length that at least that share of the sequences do not exceed. */
uint64_t tok_stats_percentile(const struct tok_stats *s, double share);
/* One JSON object, with a newline. max_len, rows, row_tokens: of what was written; rows 0: not written. */
void tok_stats_json(const struct tok_stats *s, uint64_t max_len, uint64_t rows, uint64_t row_tokens, struct sb *out);

/* The same for people: a bar for each power of two, what common lengths would cut. columns: of the terminal. */
void tok_stats_picture(const struct tok_stats *s, int columns, struct sb *out);

#endif
