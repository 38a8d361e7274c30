/* Which part of a data set a record belongs to. Everything follows from the
 * record's key, the seed and the ratios, by integer arithmetic: the same on
 * every machine. */
#ifndef LP_DATA_SPLIT_H
#define LP_DATA_SPLIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/sb.h"
#include "json/record.h"

#define SPLIT_MAX_PARTS 64

struct split_part {
	char *name;
	uint64_t weight; /* in units of 1e-9 */
	uint64_t bound;  /* hashes below it, and not below the part before, are this part's; the last one's is not used */
};
struct split {
	struct split_part parts[SPLIT_MAX_PARTS];
	size_t n;
	uint64_t total; /* of the weights */
};

/* "80/10/10" (train, val, test), "90/10" (train, val). Fractions must add up to
 * 1, percentages to 100; small whole numbers ("8/1/1") are proportions. LP_USAGE. */
int split_parse_ratio(const char *text, struct split *s, struct err *e) LP_MUST_USE;
/* "train=0.8,val=0.1,test=0.1": unique names of letters, digits, - and _. */
int split_parse_parts(const char *text, struct split *s, struct err *e) LP_MUST_USE;
/* "sample" with this share (over 0, at most 1), and "rest". */
int split_set_sample(struct split *s, double share, struct err *e) LP_MUST_USE;
void split_release(struct split *s);
/* Index of a part, or -1. */
int split_find(const struct split *s, const char *name);

/* --- keys --- */

enum split_by {
	SPLIT_BY_PROMPT, /* all before the last assistant turn; everything when there is none before it */
	SPLIT_BY_FIRST,  /* up to the first user turn: all conversations with one opening */
	SPLIT_BY_RECORD  /* the whole record */
};
struct split_keyer {
	enum split_by by;
	const char *group;       /* --group FIELD: its value alone; NULL: by */
	const struct chat_map *map;
	uint64_t seed;
	uint64_t n_whole;        /* out: records that are no chat, taken whole */
	struct sb text, scratch; /* its own; split_keyer_release */
};
struct split_key {
	uint64_t hash; /* decides */
	uint64_t id;   /* with hash: tells keys apart */
};
/* White space in the key's text is collapsed. LP_DATA when the group field is absent. */
int split_key_of(struct split_keyer *k, const struct json *v, struct arena *a, struct split_key *key, struct err *e) LP_MUST_USE;
void split_keyer_release(struct split_keyer *k);

/* --- assignment --- */

/* Hash mode: the part of a hash alone. A record's part never changes when others come or go. */
size_t split_by_hash(const struct split *s, uint64_t hash);

/* Exact mode: sizes n * weight / total by largest remainder, records of one key
 * together; a part is off by less than the largest group. part[i] is for keys[i]. */
struct split_sizes {
	uint64_t want[SPLIT_MAX_PARTS], got[SPLIT_MAX_PARTS];
	uint64_t largest_group, n_groups;
};
int split_exact(const struct split *s, const struct split_key *keys, size_t n, uint8_t *part, struct split_sizes *sizes, struct err *e) LP_MUST_USE;

#endif
