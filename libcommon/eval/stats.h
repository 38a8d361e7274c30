/* Figures of samples: means, quantiles, intervals. All are functions of their
 * arguments alone; the bootstrap draws from a counter-based generator. */
#ifndef LP_EVAL_STATS_H
#define LP_EVAL_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct interval {
	double lo, hi;
};

double stats_mean(const double *x, size_t n); /* NAN when n is 0; exact to rounding (compensated) */
/* Quantile q in [0, 1] by linear interpolation, as numpy's default; x is
 * reordered (sorted). NAN when n is 0. */
double stats_quantile(double *x, size_t n, double q);
double stats_median(double *x, size_t n); /* sorts x */

/* Percentile bootstrap of the mean: columns is n_cols samples of n values
 * each, resampled by the same rows, so that columns may be paired. out[c] is
 * the 95 % interval of column c's mean. NAN ends when n is 0; a point when n
 * is 1. */
int stats_bootstrap(const double *const *columns, size_t n_cols, size_t n, uint64_t seed, unsigned resamples,
                    struct interval *out, struct err *e) LP_MUST_USE;

/* Two-sided exact sign test: how likely so unequal a split of wins and losses
 * is when both are as likely; 1 when there is none of either. */
double stats_sign_test(uint64_t wins, uint64_t losses);
/* Wilson's 95 % interval of a rate; NAN ends when n is 0. */
struct interval stats_wilson(uint64_t hits, uint64_t n);

#endif
