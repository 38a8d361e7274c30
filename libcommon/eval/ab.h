/* A/B: two runs over the same prompts, joined on id and compared metric by
 * metric. The result is read back from its JSON by ft-report. */
#ifndef LP_EVAL_AB_H
#define LP_EVAL_AB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "eval/gate.h"
#include "eval/stats.h"
#include "eval/verdict.h"

struct ab_stat { /* over the n pairs to which the metric applies; n is 0 for none */
	size_t n;
	double base, tuned, delta; /* means; base and delta NAN without a base run */
	struct interval ci;        /* of delta, 95 %, paired bootstrap */
	size_t win, tie, loss;     /* of the tuned run; 0 for metrics without a better side */
	struct interval win_ci;    /* of win / n, Wilson */
	double p;                  /* sign test over wins and losses */
};

struct ab_sample {
	char *id, *prompt, *expected, *base, *tuned; /* NULL when not known; owned */
	double rouge[2];                             /* ROUGE-L of base and tuned, NAN */
};

struct ab_result {
	size_t n_pairs;
	bool has_base;
	struct ab_stat stat[N_METRICS];
	double base_ppl, tuned_ppl; /* NAN */
	struct ab_sample *samples;
	size_t n_samples, cap_samples;
};
void ab_result_release(struct ab_result *r);

/* Collects. Ids must be unique in each run; every tuned record must have a
 * base one with the same prompt, and the other way round. */
struct ab;
struct ab *ab_new(size_t keep_samples);
void ab_free(struct ab *a);
int ab_add_base(struct ab *a, const struct verdict *v, struct err *e) LP_MUST_USE;
int ab_add_tuned(struct ab *a, const struct verdict *v, struct err *e) LP_MUST_USE;
/* Without a base run (no ab_add_base at all) only when no_base. Fills *r,
 * which then owns the samples (release it after an error too). LP_DATA for a base record without partner;
 * LP_USAGE when nothing but likelihood or length could be compared. */
int ab_finish(struct ab *a, bool no_base, uint64_t seed, unsigned resamples, struct ab_result *r, struct err *e) LP_MUST_USE;

/* The samples alone, no statistics: *r then has only those, n_pairs and has_base. */
int ab_take_samples(struct ab *a, struct ab_result *r, struct err *e) LP_MUST_USE;

/* 1: tuned is better, -1 worse, 0 no clear difference: the interval holds 0,
 * or there are fewer than AB_FEW pairs, of which a bootstrap makes too much,
 * and the sign test is not below 0.05. */
#define AB_FEW 20
int ab_verdict(const struct ab_result *r, enum metric m);
double ab_value(const struct ab_result *r, const struct gate *g);
/* Members into an open object; ab_read takes them back. */
void ab_write(const struct ab_result *r, struct jw *w);
int ab_read(const struct json *obj, struct ab_result *r, struct err *e) LP_MUST_USE;
void ab_text(const struct ab_result *r, struct sb *out);

#endif
