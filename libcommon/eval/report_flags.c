/* Red flags: each is a few lines over the logged losses; report.h says what
 * they mean. Medians throughout, so that one odd point decides nothing. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/xalloc.h"
#include "eval/report.h"

struct curve { /* finite training losses */
	double *loss, *step;
	size_t n;
	double noise; /* width, as report.h defines it */
};

#define NEAR_ZERO 0.05 /* nats a token: over 95 % on each */
#define AROUND 4 /* points on each side of the running median */

static double running_median(const double *x, size_t n, size_t i)
{
	size_t from = i < AROUND ? 0 : i - AROUND, to = i + AROUND + 1 < n ? i + AROUND + 1 : n;

	return median_of(x + from, to - from);
}

static void curve_init(struct curve *c, const struct run_log *r)
{
	double *off;

	c->loss = xmalloc((r->n_train + 1) * sizeof(double));
	c->step = xmalloc((r->n_train + 1) * sizeof(double));
	c->n = 0;
	for (size_t i = 0; i < r->n_train; i++)
		if (!isnan(r->train[i].loss)) {
			c->loss[c->n] = r->train[i].loss;
			c->step[c->n++] = r->train[i].step;
		}
	off = xmalloc((c->n + 1) * sizeof(*off));
	for (size_t i = 0; i < c->n; i++) {
		double level = running_median(c->loss, c->n, i);

		off[i] = level > 0 && c->loss[i] > 0 ? fabs(log(c->loss[i] / level)) : 0;
	}
	c->noise = c->n ? 1.4826 * median_of(off, c->n) : 0;
	free(off);
}

static struct flag *add(struct flag *flags, size_t *n, const char *code, enum flag_level level, double step, const char *advice)
{
	struct flag *f = &flags[*n];

	*n += *n + 1 < REPORT_MAX_FLAGS;
	f->code = code;
	f->level = level;
	f->step = step;
	f->advice = advice;
	f->what[0] = '\0';
	return f;
}

static void check_level(const struct curve *c, const struct run_figures *g, struct flag *flags, size_t *n)
{
	double drop = g->first_loss - g->last_loss, clear = 2 * c->noise * g->first_loss;
	struct flag *f;

	if (c->n >= 5 && g->last_loss < NEAR_ZERO) {
		f = add(flags, n, "near-zero", FLAG_WARN, NAN, "the model is learning the examples by heart: fewer epochs, more data, or a lower rank");
		snprintf(f->what, sizeof(f->what), "training loss ends at %.4f, near 0", g->last_loss);
	}
	if (c->n < 10 || !(g->first_loss >= NEAR_ZERO))
		return;
	if (-drop > 0.1 * g->first_loss && -drop > clear) {
		f = add(flags, n, "rising", FLAG_BAD, NAN, "lower the learning rate, and look at the data");
		snprintf(f->what, sizeof(f->what), "training loss rises from %.4f to %.4f", g->first_loss, g->last_loss);
	} else if ((drop < 0.02 * g->first_loss || drop < clear) && median_of(c->loss, c->n / 5) < 1.02 * g->last_loss) {
		f = add(flags, n, "flat", FLAG_WARN, NAN, "the learning rate may be too low, or the data teach nothing new: check the loss mask and the template");
		snprintf(f->what, sizeof(f->what), "training loss does not fall: %.4f at the start, %.4f at the end", g->first_loss, g->last_loss);
	}
}

static void check_spikes(const struct curve *c, struct flag *flags, size_t *n)
{
	size_t spikes = 0, first = 0, worst = 0;
	double worst_ratio = 0;
	struct flag *f;

	for (size_t i = 5; i < c->n; i++) {
		size_t k = i < 9 ? i : 9;
		double before = median_of(c->loss + i - k, k), l = c->loss[i];

		if (!(l > 1.5 * before) || !(l > exp(6 * c->noise) * before))
			continue;
		if (spikes++ == 0)
			first = i;
		if (l / before > worst_ratio) {
			worst_ratio = l / before;
			worst = i;
		}
	}
	if (!spikes)
		return;
	f = add(flags, n, "spike", FLAG_WARN, c->step[first],
	        first * 10 < c->n ? "so early, the learning rate is too high or the warm-up too short" :
	                            "the gradient explodes: lower the learning rate or --max-grad-norm, and look at that batch");
	snprintf(f->what, sizeof(f->what), "training loss jumps %zu time%s, most at step %.0f: %.4f, %.1f times the level before", spikes,
	         spikes == 1 ? "" : "s", c->step[worst], c->loss[worst], worst_ratio);
}

static void check_noise(const struct curve *c, struct flag *flags, size_t *n)
{
	struct flag *f;

	if (c->n < 20 || !(c->noise > 0.2))
		return;
	f = add(flags, n, "noisy", FLAG_WARN, NAN, "the batch is too small (raise --accumulate) or the learning rate too high");
	snprintf(f->what, sizeof(f->what), "training loss swings by %.0f %% of its level from one record to the next", 100 * c->noise);
}

static void check_overfit(const struct run_log *r, const struct curve *c, const struct run_figures *g, struct flag *flags, size_t *n)
{
	size_t split = 0;
	struct flag *f;

	if (r->n_evals < 3 || !(g->last_eval > 1.02 * g->best_eval))
		return;
	while (split < c->n && c->step[split] <= g->best_step)
		split++;
	if (!split || split == c->n || median_of(c->loss + split, c->n - split) >= median_of(c->loss, split))
		return;
	f = add(flags, n, "overfit", FLAG_WARN, g->best_step, "stop there (the best checkpoint), or take fewer epochs, more dropout, or more data");
	snprintf(f->what, sizeof(f->what), "held-out loss rises from %.4f at step %.0f to %.4f while training loss falls", g->best_eval, g->best_step,
	         g->last_eval);
}

static int by_level(const void *a, const void *b)
{
	const struct flag *x = a, *y = b;

	return (int)y->level - (int)x->level;
}

size_t run_flags(const struct run_log *r, struct flag flags[REPORT_MAX_FLAGS])
{
	struct run_figures g;
	struct curve c;
	struct flag *f;
	size_t n = 0;

	run_figures(r, &g);
	curve_init(&c, r);
	if (r->n_nonfinite) {
		f = add(flags, &n, "nonfinite", FLAG_BAD, r->first_nonfinite, "lower the learning rate, and look at the batch that the log names");
		snprintf(f->what, sizeof(f->what), "loss is not a number %zu time%s, first at step %.0f", r->n_nonfinite, r->n_nonfinite == 1 ? "" : "s",
		         r->first_nonfinite);
	}
	check_level(&c, &g, flags, &n);
	check_spikes(&c, flags, &n);
	check_noise(&c, flags, &n);
	check_overfit(r, &c, &g, flags, &n);
	if (!r->done && r->n_train) {
		f = add(flags, &n, "unfinished", FLAG_INFO, g.steps, "the run was stopped, or is still going; the same command goes on from its newest checkpoint");
		snprintf(f->what, sizeof(f->what), "the log ends at step %.0f without a done record", g.steps);
	}
	if (!r->n_evals) {
		f = add(flags, &n, "no-held-out", FLAG_INFO, NAN, "give qlora-train held-out data, so that overfitting can be seen");
		snprintf(f->what, sizeof(f->what), "there is no held-out loss");
	}
	qsort(flags, n, sizeof(*flags), by_level);
	free(c.loss);
	free(c.step);
	return n;
}
