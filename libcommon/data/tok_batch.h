/* Text records in batches: read, tokenised by several threads, and judged in
 * input order. What a record may be: {"text","spans"}, {"text"} (every token
 * is a target), a preference pair {"prompt","chosen","rejected","chosen_spans",
 * "rejected_spans"}, or one answer with its verdict {"prompt","chosen","label"}. */
#ifndef LP_DATA_TOK_BATCH_H
#define LP_DATA_TOK_BATCH_H

#include "json/jsonl.h"
#include "text/tok.h"

enum tok_over { TOK_REFUSE, TOK_TRUNCATE, TOK_DROP, TOK_SPLIT }; /* split: left whole for the caller to cut */
enum tok_train { TOK_TRAIN_ALL, TOK_TRAIN_LAST, TOK_TRAIN_NONE }; /* of a text's spans */
struct tok_policy {
	const struct tok *tok;
	size_t max_len;         /* tokens; 0: no limit */
	enum tok_over over;     /* what to do with longer ones; TOK_REFUSE: LP_DATA */
	enum tok_train train;
	bool allow_double_bos, allow_masked;
	bool add_bos, add_eos;  /* around each text, where it has none */
};

struct tok_span {
	size_t begin, end; /* bytes of the text */
};
struct tok_text {
	const char *text; /* valid UTF-8, in the batch's arena */
	size_t len;
	struct tok_span *spans;
	size_t n_spans;
	bool all;            /* no spans given: every token is a target */
	bool good;           /* of a pair: the chosen one, or the label */
	struct tok_out out;
	uint8_t *mask;       /* (out.n) */
	size_t cap_mask;
	size_t n_full;       /* tokens before truncation */
	size_t n_targets;    /* what counts: never the first token */
};
struct tok_rec {
	uint64_t line;
	int64_t number;      /* from 0, in input order */
	const char *raw;     /* the record's line, when kept */
	size_t raw_len;
	struct tok_text t[2]; /* text; or chosen, rejected */
	int n_texts;
	bool pair, dropped;  /* dropped: longer than max_len */
	struct err *problem; /* NULL: none */
};
struct tok_batch {
	struct tok_rec *recs;
	size_t n, cap, cap_init;
	struct arena arena;
	int64_t n_read;      /* records of all batches */
};
void tok_batch_init(struct tok_batch *b);
void tok_batch_release(struct tok_batch *b);
/* The next records, about a megabyte of text. 1 some, 0 end, -1 error. */
int tok_batch_read(struct tok_batch *b, struct jsonl *j, bool keep_raw, struct err *e) LP_MUST_USE;
/* Tokenises and masks all of them; what is wrong with a record stands in it. */
void tok_batch_encode(struct tok_batch *b, const struct tok_policy *p, int threads);

#endif
