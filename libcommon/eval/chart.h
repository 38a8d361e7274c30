/* One line chart: as SVG with axes and values on hover (by CSS, no script),
 * or in the cells of a terminal. */
#ifndef LP_EVAL_CHART_H
#define LP_EVAL_CHART_H

#include <stdbool.h>
#include <stddef.h>

#include "base/sb.h"

enum series_look {
	LOOK_LINE,
	LOOK_FAINT, /* a thin line behind, without a value on hover and out of the legend */
	LOOK_DOTS,  /* a line with a mark at each point */
};
struct series {
	const char *name;
	const double *x, *y; /* x ascending; points whose y is NAN are gaps */
	size_t n;
	int color; /* 0.. of the palette */
	enum series_look look;
	double mark; /* x of a point to ring, or NAN */
};
struct chart {
	const char *title, *x_label;
	const struct series *series;
	size_t n_series;
	int width, height; /* pixels of the SVG's own coordinates */
	bool zero;         /* y starts at 0 */
};
bool chart_empty(const struct chart *c); /* nothing finite to draw */
void chart_svg(const struct chart *c, struct sb *out);
/* width x height cells: Braille dots, or ASCII. Series drawn as DOTS show as
 * marks over the rest. */
void chart_cells(const struct chart *c, int width, int height, bool ascii, struct sb *out);
/* One line of blocks for a series, at most width cells. */
void chart_spark(const double *y, size_t n, int width, bool ascii, struct sb *out);

/* Round steps (1, 2, 5 times a power of ten) for about n ticks over [lo, hi]. */
double chart_tick(double lo, double hi, int n);
/* 0.0002, 2e-05, 12,000: short text of a tick or value. */
void chart_number(double v, char buf[32]);
void html_escape(struct sb *out, const char *s);

#endif
