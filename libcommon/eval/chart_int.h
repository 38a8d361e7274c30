/* Private to chart.c and chart_svg.c. */
#ifndef LP_EVAL_CHART_INT_H
#define LP_EVAL_CHART_INT_H

#include <math.h>

#include "eval/chart.h"

/* Finite, and not so large that differences are not. */
static inline bool chart_shows(double x, double y)
{
	return fabs(x) < 1e100 && fabs(y) < 1e100;
}

struct range {
	double x0, x1, y0, y1;
};
/* Of all points that show, wide enough for ticks; false when there is none. */
bool chart_range(const struct chart *c, struct range *r);

#endif
