/* A tokenizer.json of BPE, or a tekken.json, read without a tree of its vocabulary and
 * merges, which are nearly all of it. */
#ifndef LP_TEXT_TOK_QUICK_H
#define LP_TEXT_TOK_QUICK_H

#include "base/sb.h"
#include "text/bpe.h"

struct tok_quick {
	struct vocab vocab;  /* of a tekken.json by rank, and before vocab_index */
	struct bpe_pairs merges;
	int threads;    /* that may work on it */
	struct sb rest; /* the file with an empty vocab and no merges, JSON_PADDING bytes behind */
};
/* False: the file is not of the plain form, or not right; q is then empty. */
bool tok_quick_read(struct tok_quick *q, const char *text, size_t len, int threads);
void tok_quick_release(struct tok_quick *q);

#endif
