/* Text records in batches: read in one place, parsed and tokenised in another,
 * and judged in input order. What a record may be: tok_record.h. */
#ifndef LP_DATA_TOK_BATCH_H
#define LP_DATA_TOK_BATCH_H

#include "data/tok_record.h"
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

struct tok_batch {
	struct tok_rec *recs;
	size_t n, cap, cap_init;
	char input_hash[33];    /* of the input's bytes up to here */
	/* Scratch: */
	struct sb raw;          /* the records' lines, each with a newline behind */
	struct json_parser *parser;
	struct arena names, texts, tree;
	struct tok_out out;     /* of all texts, one after another */
	uint8_t *mask;
	size_t cap_mask;
};
void tok_batch_init(struct tok_batch *b);
void tok_batch_release(struct tok_batch *b);
/* The next records, at most max and as much text as stays near the processor;
 * first: the number of the first one. 1 some, 0 end, -1 error: then the records
 * that came before it are there as well. */
int tok_batch_read(struct tok_batch *b, struct jsonl *j, int64_t first, uint64_t max, struct err *e) LP_MUST_USE;
/* Parses, tokenises and masks all of them; what is wrong with a record stands in it. */
void tok_batch_encode(struct tok_batch *b, const struct tok_policy *p);

/* All of an input through a number of threads: each reads a batch, encodes it,
 * and has it used when those before it have been. */
struct tok_pipe {
	struct jsonl *records;
	const struct tok_policy *policy;
	int threads;
	int64_t limit; /* records; 0: all */
	int (*use)(void *arg, struct tok_batch *b, struct err *e); /* never two at once */
	void *arg;
};
int tok_pipe_run(const struct tok_pipe *p, struct err *e) LP_MUST_USE;

#endif
