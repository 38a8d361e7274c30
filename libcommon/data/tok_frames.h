/* Sequences into token frames (fmt/tokens.h): rows of one sequence each in the
 * order given, or rows packed best-fit within a bounded window. */
#ifndef LP_DATA_TOK_FRAMES_H
#define LP_DATA_TOK_FRAMES_H

#include <stdbool.h>

#include "fmt/tokens.h"

#define TOK_FRAME_TOKENS (1u << 20) /* a frame ends when it holds this many */
#define TOK_FRAME_SEQS (1u << 16)

struct token_seq {
	const int32_t *ids;
	const uint8_t *mask;
	size_t n;
	int64_t record;
	int64_t pair; /* -1: none; all sequences of a stream alike */
	uint8_t side;
};

struct tok_frames {
	struct st_writer *w; /* borrowed */
	bool pack;
	uint32_t max_len;
	size_t window;  /* sequences that are packed together; 0: a frame's worth */
	bool shuffle;   /* rows of a window in an order of their own; the sequences of a record stay together */
	uint64_t seed;
	size_t records; /* records of a frame; 0: by tokens only */
	const struct st_kv *meta; /* as they are when a frame is written */
	size_t n_meta;
	/* The frame so far, in order of arrival: */
	int32_t *ids;
	uint8_t *mask;
	size_t n_tokens, cap_ids, cap_mask;
	struct tok_frame_seq *seqs;
	size_t n_seqs, cap_seqs;
	size_t n_records;
	int64_t last_record;
	uint64_t n_frames;
	struct tok_columns *columns; /* scratch */
	/* Totals of what has been written: */
	uint64_t rows, tokens;
};
void tok_frames_init(struct tok_frames *f, struct st_writer *w);
void tok_frames_release(struct tok_frames *f);
/* Copies s. *full: the frame is complete and wants tok_frames_flush before the next record. */
int tok_frames_add(struct tok_frames *f, const struct token_seq *s, bool *full, struct err *e) LP_MUST_USE;
int tok_frames_flush(struct tok_frames *f, struct err *e) LP_MUST_USE; /* nothing when empty */

#endif
