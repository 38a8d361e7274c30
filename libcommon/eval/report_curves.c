#include <math.h>
#include <stdlib.h>

#include "base/xalloc.h"
#include "eval/report_int.h"

#define SMOOTH_FROM 60 /* points; fewer are drawn as they are */

static double *own(struct curves *c, size_t n)
{
	c->owned = xrealloc(c->owned, (c->n_owned + 1) * sizeof(*c->owned));
	return c->owned[c->n_owned++] = xmalloc((n + 1) * sizeof(double));
}

static void add(struct curves *c, const char *name, const double *x, const double *y, size_t n, int color, enum series_look look, double mark)
{
	c->series = xrealloc(c->series, (c->n + 1) * sizeof(*c->series));
	c->series[c->n++] = (struct series){ name, x, y, n, color, look, mark };
}

static double field(const struct train_point *p, unsigned what)
{
	switch (what) {
	case CURVE_LR:
		return p->lr;
	case CURVE_GRAD:
		return p->grad_norm;
	case CURVE_RATE:
		return p->tok_s;
	case CURVE_MARGIN:
		return p->margin;
	case CURVE_REWARD:
		return p->reward;
	default:
		return p->loss;
	}
}

/* Mean over a centred window, gaps left out and left in place. */
static void smooth(const double *y, size_t n, double *out)
{
	size_t half = n / 60 + 1, from = 0, to = 0, k = 0;
	double sum = 0;

	for (size_t i = 0; i < n; i++) {
		for (; to < n && to <= i + half; to++)
			if (isfinite(y[to])) {
				sum += y[to];
				k++;
			}
		for (; from + half < i; from++)
			if (isfinite(y[from])) {
				sum -= y[from];
				k--;
			}
		out[i] = isfinite(y[i]) ? sum / (double)k : NAN;
	}
}

static void add_train(struct curves *c, const struct run_log *run, unsigned what, const char *name, int color)
{
	double *x = own(c, run->n_train), *y = own(c, run->n_train);

	for (size_t i = 0; i < run->n_train; i++) {
		x[i] = run->train[i].step;
		y[i] = field(&run->train[i], what);
	}
	if (what == CURVE_TRAIN && run->n_train >= SMOOTH_FROM) {
		double *mean = own(c, run->n_train);

		smooth(y, run->n_train, mean);
		add(c, name, x, y, run->n_train, color, LOOK_FAINT, NAN);
		add(c, name, x, mean, run->n_train, color, LOOK_LINE, NAN);
		return;
	}
	add(c, name, x, y, run->n_train, color, LOOK_LINE, NAN);
}

static void add_eval(struct curves *c, const struct run_log *run, const char *name, int color)
{
	double *x = own(c, run->n_evals), *y = own(c, run->n_evals);
	struct run_figures f;

	run_figures(run, &f);
	for (size_t i = 0; i < run->n_evals; i++) {
		x[i] = run->evals[i].step;
		y[i] = run->evals[i].loss;
	}
	add(c, name, x, y, run->n_evals, color, LOOK_DOTS, run->n_evals > 1 ? f.best_step : NAN);
}

void curves_init(struct curves *c, const struct report *r, unsigned what)
{
	*c = (struct curves){ 0 };
	for (size_t i = 0; i < r->n_runs; i++) {
		const struct run_log *run = &r->runs[i];
		bool one = r->n_runs == 1;

		for (unsigned k = CURVE_TRAIN; k <= CURVE_REWARD; k *= 2) {
			static const char *const names[] = { [CURVE_TRAIN] = "training", [CURVE_LR] = "rate", [CURVE_GRAD] = "norm", [CURVE_RATE] = "tokens/s", [CURVE_MARGIN] = "margin", [CURVE_REWARD] = "reward" };

			if (!(what & k))
				continue;
			if (k == CURVE_EVAL)
				add_eval(c, run, one ? "held-out" : run->name, one ? 1 : (int)i);
			else
				add_train(c, run, k, one ? names[k] : run->name, (int)i);
		}
	}
}

void curves_release(struct curves *c)
{
	for (size_t i = 0; i < c->n_owned; i++)
		free(c->owned[i]);
	free(c->owned);
	free(c->series);
}
