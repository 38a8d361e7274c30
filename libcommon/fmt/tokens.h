/* Token frames: what tokenize writes and training reads (docs/formats/lp-tokens.5).
 *
 * A frame holds rows; a row is one or more packed sequences laid end to end.
 * Tensors of a frame with R rows, S sequences, T tokens:
 *   input_ids  I32 (T)    all rows, one after another
 *   loss_mask  U8  (T)    1 where the token is a target (its prediction by the token before counts)
 *   row_start  I64 (R+1)  token offsets of rows in the frame
 *   seq_start  I64 (S+1)  token offsets of sequences; every row start is a sequence start
 *   seq_record I64 (S)    source record number, from 0, in input order
 *   pair_id    I64 (S)    preference pairs share one; only in preference streams
 *   pair_side  U8  (S)    1 chosen, 0 rejected; with pair_id
 * The first token of a sequence never counts as a target.
 * Metadata: tokenizer (name), tokenizer_hash, template_hash, vocab_size, max_len, packing ("none","best-fit"),
 * bos_id, eos_id, lineage (JSON). */
#ifndef LP_FMT_TOKENS_H
#define LP_FMT_TOKENS_H

#include "fmt/st.h"

struct token_frame {
	int64_t n_rows, n_seqs, n_tokens;
	const int32_t *input_ids;   /* (T) */
	const uint8_t *loss_mask;   /* (T) */
	const int64_t *row_start;   /* (R+1) */
	const int64_t *seq_start;   /* (S+1) */
	const int64_t *seq_record;  /* (S) */
	const int64_t *pair_id;     /* (S) or NULL */
	const uint8_t *pair_side;   /* (S) or NULL */
};
/* Checks every tensor's dtype, shape, order and range (ids below vocab_size
 * where the metadata gives one). Points into the blob. */
int token_frame_view(const struct st_blob *b, struct token_frame *f, struct err *e) LP_MUST_USE;
int token_frame_write(struct st_writer *w, const struct token_frame *f, const struct st_kv *meta, size_t n_meta, struct err *e) LP_MUST_USE;

#endif
