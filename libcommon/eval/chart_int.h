/* Private to chart.c and chart_svg.c. */
#ifndef LP_EVAL_CHART_INT_H
#define LP_EVAL_CHART_INT_H

#include "eval/chart.h"

struct range {
	double x0, x1, y0, y1;
};
/* Of all finite points, never empty or of width 0; false when there is none. */
bool chart_range(const struct chart *c, struct range *r);

#endif
