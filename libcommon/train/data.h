/* Training data in memory, the order of its rows, and micro-batches: sequences
 * laid end to end without padding. */
#ifndef LP_TRAIN_DATA_H
#define LP_TRAIN_DATA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "fmt/tokens.h"

/* What rows are: sequences to learn from; pairs of answers to one prompt, two sequences each; or answers with a verdict. */
enum dataset_kind { DATA_PLAIN, DATA_PAIRS, DATA_LABELS };

struct dataset {
	enum dataset_kind kind;
	int32_t *ids;       /* (n_tokens) */
	uint8_t *mask;      /* (n_tokens) */
	int64_t *row_start; /* (n_rows + 1) */
	int64_t *row_seq;   /* (n_rows + 1): first sequence of each row */
	int64_t *seq_start; /* (n_seqs + 1) */
	int64_t *seq_record; /* (n_seqs) */
	uint8_t *good;      /* (n_seqs) 1: chosen; of plain rows all are */
	double *ref;        /* (n_seqs) what the reference gives each, or NULL: 0 */
	/* GRPO, else NULL: of each completion, its advantage and its tokens' weight; of each of its tokens, log-probabilities when it was made
	 * and of the reference, 0 where nobody looks */
	double *adv, *weight;       /* (n_seqs) */
	double *tok_old, *tok_ref;  /* (n_tokens) */
	int64_t n_tokens, n_rows, n_seqs;
	size_t cap_tokens, cap_rows, cap_seqs;
	int64_t longest_row, longest_seq;
	int64_t n_targets;
	char hash[33];      /* of the stream */
	char *tokenizer_hash, *template_hash, *lineage; /* of the first frame's metadata, NULL when absent */
};
/* Reads a whole token stream. Both sides of a preference pair become one row; a pair that lacks one, or an answer without a target, is LP_DATA. An id outside vocab, a sequence over max_pos, or
 * a set without targets is LP_DATA / LP_USAGE. Takes in. */
int dataset_load_take(struct dataset *d, struct in *in, int64_t vocab, int64_t max_pos, struct err *e) LP_MUST_USE;
/* Adds one row by hand (tests, replays). seq_start: n_seqs + 1 offsets from 0. */
void dataset_add_row(struct dataset *d, const int32_t *ids, const uint8_t *mask, const int64_t *seq_start, const int64_t *record, int64_t n_seqs);
/* Adds all rows of from; its records are counted on behind those of d. Returns where they begin. */
int64_t dataset_append(struct dataset *d, const struct dataset *from);
void dataset_release(struct dataset *d);
/* Every sequence becomes a row of its own. */
void dataset_unpair(struct dataset *d);
/* Of rows of one sequence: each prompt (what comes before the first target) with the answer of the next row of another record, of pairs of
 * the same side; no sequence is longer than d's longest. Its rows are d's, one for one. LP_DATA when there is one record alone. */
int dataset_mismatch(const struct dataset *d, struct dataset *to, struct err *e) LP_MUST_USE;
/* Targets of a row: masked tokens other than a sequence's first. */
int64_t dataset_row_targets(const struct dataset *d, int64_t row);
/* Tokens of the n longest rows together: the room that micro-batches of n rows need. */
int64_t dataset_max_batch_tokens(const struct dataset *d, int64_t n);

/* The row at place i of an endless walk through shuffled epochs. Each has all rows once; or, mixed, so many of each part, which is
 * walked through in shuffles of its own that go on from epoch to epoch. A function of seed, epoch and i. */
struct order_part {
	int64_t first, n_rows; /* rows */
	int64_t take;          /* in an epoch; all together the order's n_rows */
};
struct order {
	uint64_t seed;
	int64_t n_rows, epoch; /* epoch that perm holds, -1 none */
	uint32_t *perm;
	struct order_part *parts; /* (n_parts), NULL: not mixed */
	size_t n_parts;
};
void order_init(struct order *o, uint64_t seed, int64_t n_rows);
void order_mix(struct order *o, const struct order_part *parts, size_t n); /* after order_init; copies parts */
int64_t order_row(struct order *o, int64_t epoch, int64_t i);
void order_release(struct order *o);

/* One micro-batch; arrays have room for the plan's max_tokens. */
struct microbatch {
	int64_t n_tokens, n_seqs, n_targets;
	int32_t *ids, *pos, *rec;  /* (T) */
	int32_t *seq_start;        /* (n_seqs + 1) */
	int32_t *tgt_row, *tgt_id; /* (n_targets): hidden row that predicts, and the token */
	int32_t *tgt_start;        /* (n_seqs + 1) first target of each sequence */
	int32_t *mate, *good;      /* (n_seqs) the other sequence of the row, or itself; dataset's good */
	double *ref;               /* (n_seqs) dataset's */
	double *adv, *weight;      /* (n_seqs) dataset's, or 0 */
	double *tok_old, *tok_ref; /* (n_targets) */
	bool ends;                 /* set by the caller: the last token of each sequence is what predicts, and nothing else */
	int64_t cap;
};
void microbatch_init(struct microbatch *b, int64_t max_tokens);
void microbatch_release(struct microbatch *b);
void microbatch_clear(struct microbatch *b);
/* Appends a row; the caller has made sure that it fits. */
void microbatch_add(struct microbatch *b, const struct dataset *d, int64_t row);

#endif
