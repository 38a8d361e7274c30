#include "eval/stats.h"

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "base/xalloc.h"

#define Z975 1.959963984540054 /* 97.5 % of the normal distribution lie below */

double stats_mean(const double *x, size_t n)
{
	double sum = 0, lost = 0;

	if (!n)
		return NAN;
	for (size_t i = 0; i < n; i++) { /* Neumaier's sum */
		double t = sum + x[i];

		lost += fabs(sum) >= fabs(x[i]) ? (sum - t) + x[i] : (x[i] - t) + sum;
		sum = t;
	}
	return (sum + lost) / (double)n;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double quantile_sorted(const double *x, size_t n, double q)
{
	double at = q * (double)(n - 1), below = floor(at);
	size_t i = (size_t)below;

	return i + 1 < n ? x[i] + (at - below) * (x[i + 1] - x[i]) : x[n - 1];
}

double stats_quantile(double *x, size_t n, double q)
{
	if (!n)
		return NAN;
	qsort(x, n, sizeof(*x), by_value);
	return quantile_sorted(x, n, q);
}

double stats_median(double *x, size_t n)
{
	return stats_quantile(x, n, 0.5);
}

static struct interval normal_ci(const double *x, size_t n)
{
	double mean = stats_mean(x, n), sum = 0, half;

	for (size_t i = 0; i < n; i++)
		sum += (x[i] - mean) * (x[i] - mean);
	half = Z975 * sqrt(sum / (double)(n - 1) / (double)n);
	return (struct interval){ mean - half, mean + half };
}

struct interval stats_mean_ci(const double *x, size_t n, uint64_t seed, unsigned resamples)
{
	uint64_t key = seed ^ rng_stream("bootstrap");
	struct interval ci = { NAN, NAN };
	double *means;

	if (n == 1)
		ci.lo = ci.hi = x[0];
	if (n < 2 || !resamples)
		return ci;
	if (n > STATS_BOOT_MAX)
		return normal_ci(x, n);
	means = xmalloc(resamples * sizeof(*means));
	for (unsigned b = 0; b < resamples; b++) {
		double sum = 0;

		for (size_t i = 0; i < n; i++)
			sum += x[rng_below(key, b, i, n)];
		means[b] = sum / (double)n;
	}
	qsort(means, resamples, sizeof(*means), by_value);
	ci.lo = quantile_sorted(means, resamples, 0.025);
	ci.hi = quantile_sorted(means, resamples, 0.975);
	free(means);
	return ci;
}

static double log_factorial(uint64_t n)
{
	int sign;

	return lgamma_r((double)n + 1, &sign);
}

double stats_sign_test(uint64_t wins, uint64_t losses)
{
	uint64_t n = wins + losses, k = wins < losses ? wins : losses;
	double p = 0;

	/* 2 * P(X <= k), X binomial(n, 1/2), by logarithms: n may be large. */
	for (uint64_t i = 0; i <= k && n; i++)
		p += exp(log_factorial(n) - log_factorial(i) - log_factorial(n - i) - (double)n * log(2));
	p *= 2;
	return n == 0 || p > 1 ? 1 : p;
}

struct interval stats_wilson(uint64_t hits, uint64_t n)
{
	const double z = Z975;
	double p, mid, half, d;
	struct interval ci = { NAN, NAN };

	if (!n)
		return ci;
	p = (double)hits / (double)n;
	d = 1 + z * z / (double)n;
	mid = (p + z * z / (2 * (double)n)) / d;
	half = z / d * sqrt(p * (1 - p) / (double)n + z * z / (4 * (double)n * (double)n));
	ci.lo = mid - half > 0 ? mid - half : 0;
	ci.hi = mid + half < 1 ? mid + half : 1;
	return ci;
}
