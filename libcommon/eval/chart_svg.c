/* Charts as inline SVG. Colours and type come from the page's style sheet
 * (classes s0..s7, grid, axis, h); values appear on hover by CSS alone. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "eval/chart.h"
#include "eval/chart_int.h"

#define LEFT 52
#define RIGHT 12
#define TOP 24
#define BOTTOM 34
#define MAX_COLUMNS 160 /* of values on hover */

struct frame {
	const struct chart *c;
	struct range r;
	double w, h; /* of the plot */
};

static double px(const struct frame *f, double x)
{
	return LEFT + (x - f->r.x0) / (f->r.x1 - f->r.x0) * f->w;
}

static double py(const struct frame *f, double y)
{
	return TOP + (f->r.y1 - y) / (f->r.y1 - f->r.y0) * f->h;
}

void html_escape(struct sb *out, const char *s)
{
	for (; s && *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '&')
			sb_adds(out, "&amp;");
		else if (c == '<')
			sb_adds(out, "&lt;");
		else if (c == '>')
			sb_adds(out, "&gt;");
		else if (c == '"')
			sb_adds(out, "&quot;");
		else if (c == '\'')
			sb_adds(out, "&#39;");
		else if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
			sb_adds(out, "\xef\xbf\xbd"); /* no character of HTML */
		else
			sb_addc(out, (char)c);
	}
}

static void axes(const struct frame *f, struct sb *out)
{
	double step = chart_tick(f->r.y0, f->r.y1, f->c->height < 200 ? 4 : 5);
	char t[32];

	sb_adds(out, "<g class=\"grid\">");
	for (double k = ceil(f->r.y0 / step); k * step <= f->r.y1 + step * 1e-9; k++) {
		double v = k * step;

		chart_number(v, t);
		sb_addf(out, "<line x1=\"%d\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>", LEFT,
		        LEFT + f->w, py(f, v), py(f, v), LEFT - 8, py(f, v) + 4, t);
	}
	sb_adds(out, "</g><g class=\"axis\">");
	step = chart_tick(f->r.x0, f->r.x1, f->c->width < 400 ? 4 : 8);
	for (double k = ceil(f->r.x0 / step); k * step <= f->r.x1 + step * 1e-9; k++) {
		double x = k * step;

		chart_number(x, t);
		sb_addf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>", px(f, x), TOP + f->h + 17, t);
	}
	sb_addf(out, "<line x1=\"%d\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT, LEFT + f->w, TOP + f->h, TOP + f->h);
	if (f->c->x_label)
		sb_addf(out, "<text class=\"xl\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text>", LEFT + f->w, TOP + f->h + 31, f->c->x_label);
	sb_adds(out, "</g>");
}

/* A line over at most two points (lowest, highest) for each half pixel. */
static void line(const struct frame *f, const struct series *s, struct sb *out)
{
	size_t buckets = (size_t)(2 * f->w), per = s->n / buckets + 1;
	bool pen = false;

	sb_addf(out, "<path class=\"s%d %s\" d=\"", s->color % 8, s->look == LOOK_FAINT ? "faint" : "line");
	for (size_t i = 0; i < s->n; i += per) {
		size_t end = i + per < s->n ? i + per : s->n, lo = i, hi = i;

		for (size_t k = i; k < end; k++) {
			if (chart_shows(s->x[k], s->y[k]) && !(s->y[k] >= s->y[lo]))
				lo = k;
			if (chart_shows(s->x[k], s->y[k]) && !(s->y[k] <= s->y[hi] && chart_shows(s->x[hi], s->y[hi])))
				hi = k;
		}
		for (int k = 0; k < (lo == hi ? 1 : 2); k++) {
			size_t at = (lo < hi) == (k == 0) ? lo : hi;

			if (!chart_shows(s->x[at], s->y[at])) {
				pen = false;
				continue;
			}
			sb_addf(out, "%c%.1f %.1f", pen ? 'L' : 'M', px(f, s->x[at]), py(f, s->y[at]));
			pen = true;
		}
	}
	sb_adds(out, "\"/>");
	for (size_t i = 0; i < s->n && s->n <= 400; i++) {
		bool marked = s->x[i] == s->mark;

		if (chart_shows(s->x[i], s->y[i]) && (s->look == LOOK_DOTS || marked || s->n == 1))
			sb_addf(out, "<circle class=\"s%d %s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%s\"/>", s->color % 8, marked ? "ring" : "dot", px(f, s->x[i]),
			        py(f, s->y[i]), marked ? "6" : "3.5");
	}
}

static void legend(const struct frame *f, struct sb *out)
{
	double x = LEFT;
	size_t shown = 0;

	for (size_t i = 0; i < f->c->n_series; i++)
		shown += f->c->series[i].look != LOOK_FAINT && f->c->series[i].n;
	if (shown < 2)
		return;
	sb_adds(out, "<g class=\"legend\">");
	for (size_t i = 0; i < f->c->n_series; i++) {
		const struct series *s = &f->c->series[i];

		if (s->look == LOOK_FAINT || !s->n)
			continue;
		sb_addf(out, "<path class=\"s%d line\" d=\"M%.1f 9h16\"/>", s->color % 8, x);
		if (s->look == LOOK_DOTS)
			sb_addf(out, "<circle class=\"s%d dot\" cx=\"%.1f\" cy=\"9\" r=\"3.5\"/>", s->color % 8, x + 8);
		sb_addf(out, "<text x=\"%.1f\" y=\"13\">", x + 22);
		html_escape(out, s->name);
		sb_adds(out, "</text>");
		x += 22 + 7.2 * (double)strlen(s->name) + 18;
	}
	sb_adds(out, "</g>");
}

/* The point of s nearest to x, if it is within half a column. */
static const double *near(const struct series *s, double x, double reach, double *at)
{
	size_t lo = 0, hi = s->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (s->x[mid] < x)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == s->n || (lo > 0 && x - s->x[lo - 1] < s->x[lo] - x))
		lo--;
	if (lo >= s->n || fabs(s->x[lo] - x) > reach || !chart_shows(s->x[lo], s->y[lo]))
		return NULL;
	*at = s->x[lo];
	return &s->y[lo];
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* The x of the columns: every point, or evenly spaced when there are too many. */
static size_t columns(const struct frame *f, double *x)
{
	size_t n = 0, total = 0;
	double *all;

	for (size_t i = 0; i < f->c->n_series; i++)
		total += f->c->series[i].look == LOOK_FAINT ? 0 : f->c->series[i].n;
	all = xmalloc((total + 1) * sizeof(*all));
	total = 0;
	for (size_t i = 0; i < f->c->n_series; i++)
		for (size_t k = 0; f->c->series[i].look != LOOK_FAINT && k < f->c->series[i].n; k++)
			if (chart_shows(f->c->series[i].x[k], f->c->series[i].y[k]))
				all[total++] = f->c->series[i].x[k];
	qsort(all, total, sizeof(*all), by_value);
	for (size_t i = 0; i < total; i++)
		if (!i || all[i] != all[i - 1])
			all[n++] = all[i];
	total = n;
	n = total < MAX_COLUMNS ? total : MAX_COLUMNS;
	for (size_t i = 0; i < n; i++)
		x[i] = all[n == total ? i : i * (total - 1) / (n - 1)];
	free(all);
	return n;
}

static void hover(const struct frame *f, struct sb *out)
{
	double x[MAX_COLUMNS];
	size_t n = columns(f, x);
	char t[32];

	for (size_t i = 0; i < n; i++) {
		double from = i ? (px(f, x[i - 1]) + px(f, x[i])) / 2 : LEFT, to = i + 1 < n ? (px(f, x[i]) + px(f, x[i + 1])) / 2 : LEFT + f->w;
		double reach = (to - from) / 2 / f->w * (f->r.x1 - f->r.x0) + 1e-9;
		struct sb say = SB_INIT;

		chart_number(x[i], t);
		sb_addf(&say, "%s %s", f->c->x_label ? f->c->x_label : "", t);
		sb_addf(out, "<g class=\"h\"><rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%.1f\"/><g class=\"v\"><line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%.1f\"/>",
		        from, TOP, to - from > 0 ? to - from : 1, f->h, px(f, x[i]), px(f, x[i]), TOP, TOP + f->h);
		for (size_t k = 0; k < f->c->n_series; k++) {
			const struct series *s = &f->c->series[k];
			double at;
			const double *y = s->look == LOOK_FAINT ? NULL : near(s, x[i], reach, &at);

			if (!y)
				continue;
			sb_addf(out, "<circle class=\"s%d dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/>", s->color % 8, px(f, at), py(f, *y));
			chart_number(*y, t);
			sb_addf(&say, " \xc2\xb7 %s %s", s->name, t);
		}
		sb_addf(out, "<text x=\"%.1f\" y=\"13\" text-anchor=\"end\">", LEFT + f->w);
		html_escape(out, sb_str(&say));
		sb_adds(out, "</text></g></g>");
		sb_release(&say);
	}
}

void chart_svg(const struct chart *c, struct sb *out)
{
	struct frame f = { .c = c, .w = c->width - LEFT - RIGHT, .h = c->height - TOP - BOTTOM };
	double pad;

	if (!chart_range(c, &f.r))
		return;
	pad = (f.r.y1 - f.r.y0) * 0.05;
	f.r.y1 += pad;
	if (!c->zero || f.r.y0 < 0)
		f.r.y0 -= f.r.y0 >= 0 && f.r.y0 < pad ? f.r.y0 : pad;
	sb_addf(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", c->width, c->height);
	html_escape(out, c->title);
	sb_adds(out, "\">");
	axes(&f, out);
	for (size_t i = 0; i < c->n_series; i++)
		line(&f, &c->series[i], out);
	legend(&f, out);
	hover(&f, out);
	sb_adds(out, "</svg>");
}
