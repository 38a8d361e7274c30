/* The figures of one run: means with intervals over its verdicts, perplexity,
 * how answers ended, and the first few for a person to read. */
#ifndef LP_EVAL_SUMMARY_H
#define LP_EVAL_SUMMARY_H

#include <stddef.h>
#include <stdint.h>

#include "eval/gate.h"
#include "eval/stats.h"
#include "eval/verdict.h"

struct column { /* values of one metric, where it applies */
	double *x;
	size_t n, cap;
};

struct summary {
	struct column col[N_METRICS];
	size_t n_scored, n_total, n_expected;
	size_t keep;          /* examples to hold */
	size_t n_examples;
	struct sb examples;   /* JSON objects, comma between */
	size_t n_stop, n_length, n_other; /* by finish; records without one count nowhere */
	double nll;
	uint64_t nll_tokens;
	/* after summary_close */
	double mean[N_METRICS], median[N_METRICS];
	struct interval ci[N_METRICS];
	double ppl; /* NAN without likelihoods */
};

void summary_init(struct summary *s, size_t keep);
void summary_release(struct summary *s);
void summary_add(struct summary *s, const struct verdict *v);
/* Sorts the columns; seed and resamples are the bootstrap's. */
void summary_close(struct summary *s, uint64_t seed, unsigned resamples);
double summary_value(const struct summary *s, const struct gate *g); /* NAN for what is no single run's */
/* Members "records", "scored", "metrics", ... into an open object. */
void summary_write(const struct summary *s, struct jw *w);
/* A table for people. */
void summary_text(const struct summary *s, struct sb *out);
/* True if some metric says something about the answers themselves. */
bool summary_has_task_metric(const struct summary *s);

#endif
