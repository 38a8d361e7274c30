/* ROUGE-1, ROUGE-2 and ROUGE-L of one text against another, equal to the
 * Python package rouge_score with use_stemmer: its tokens (lower case, runs of
 * [a-z0-9]), Porter's stemmer as in NLTK on words longer than 3 letters, its
 * arithmetic. Not summary-level ROUGE-Lsum, not several references. */
#ifndef LP_EVAL_ROUGE_H
#define LP_EVAL_ROUGE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct rouge_prf {
	double p, r, f; /* precision, recall, F: 0..1 */
};
struct rouge_scores {
	struct rouge_prf r1, r2, rl;
	size_t n_ref, n_cand; /* tokens */
};

/* A scorer keeps its vocabulary and buffers from pair to pair (the vocabulary
 * is dropped when it grows past some MiB). One thread at a time. */
struct rouge;
struct rouge *rouge_new(bool stem);
void rouge_free(struct rouge *r); /* NULL is fine */

/* ref is what was expected, cand what a model wrote; UTF-8, any length. Fails
 * only when memory is short (LP_DEVICE). */
int rouge_score(struct rouge *r, const char *ref, size_t ref_len, const char *cand, size_t cand_len,
                struct rouge_scores *out, struct err *e) LP_MUST_USE;

#endif
