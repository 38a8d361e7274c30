/* Figures of samples: means, quantiles, intervals. All are functions of their
 * arguments alone; the bootstrap draws from a counter-based generator. */
#ifndef LP_EVAL_STATS_H
#define LP_EVAL_STATS_H

#include <stddef.h>
#include <stdint.h>

struct interval {
	double lo, hi;
};

double stats_mean(const double *x, size_t n); /* NAN when n is 0; exact to rounding (compensated) */
/* Quantile q in [0, 1] by linear interpolation, as numpy's default; x is
 * reordered (sorted). NAN when n is 0. */
double stats_quantile(double *x, size_t n, double q);
double stats_median(double *x, size_t n); /* sorts x */

/* 95 % interval of a mean: percentile bootstrap up to STATS_BOOT_MAX values,
 * beyond that mean -+ 1.96 standard errors, to which it tends. NAN ends when n
 * is 0 or resamples is; a point when n is 1. Equal columns of n values get
 * the same resampled rows for a seed. */
#define STATS_BOOT_MAX 2000
struct interval stats_mean_ci(const double *x, size_t n, uint64_t seed, unsigned resamples);

/* Two-sided exact sign test: how likely so unequal a split of wins and losses
 * is when both are as likely; 1 when there is none of either. */
double stats_sign_test(uint64_t wins, uint64_t losses);
/* Wilson's 95 % interval of a rate; NAN ends when n is 0. */
struct interval stats_wilson(uint64_t hits, uint64_t n);

#endif
