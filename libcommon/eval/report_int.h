/* Private to the report's two views: the curves of its runs. */
#ifndef LP_EVAL_REPORT_INT_H
#define LP_EVAL_REPORT_INT_H

#include "eval/chart.h"
#include "eval/report.h"

enum curve_kind { CURVE_TRAIN = 1, CURVE_EVAL = 2, CURVE_LR = 4, CURVE_GRAD = 8, CURVE_RATE = 16, CURVE_MARGIN = 32, CURVE_REWARD = 64 };

struct curves {
	struct series *series;
	size_t n;
	double **owned;
	size_t n_owned;
};
/* The curves of all runs, in colours by run; with one run, training and
 * held-out loss have a colour each. A training loss of many points comes as
 * itself, faint, and as a running mean. */
void curves_init(struct curves *c, const struct report *r, unsigned what);
void curves_release(struct curves *c);

#endif
