/* What SVG and terminal charts share, and the terminal ones. */
#include "eval/chart.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "eval/chart_int.h"
#include "eval/report.h"

double chart_tick(double lo, double hi, int n)
{
	double raw = (hi - lo) / n, p, m;

	if (!(raw > 0))
		return 1;
	p = pow(10, floor(log10(raw)));
	m = raw / p;
	return p * (m <= 1 ? 1 : m <= 2 ? 2 : m <= 5 ? 5 : 10);
}

void chart_number(double v, char buf[32])
{
	if (v != 0 && (fabs(v) < 1e-3 || fabs(v) >= 1e7))
		snprintf(buf, 32, "%.3g", v);
	else if (fabs(v) >= 1000)
		fmt_count(v, buf);
	else
		snprintf(buf, 32, "%.4g", v);
}

bool chart_range(const struct chart *c, struct range *r)
{
	*r = (struct range){ INFINITY, -INFINITY, INFINITY, -INFINITY };
	for (size_t s = 0; s < c->n_series; s++)
		for (size_t i = 0; i < c->series[s].n; i++) {
			double x = c->series[s].x[i], y = c->series[s].y[i];

			if (!chart_shows(x, y))
				continue;
			r->x0 = fmin(r->x0, x);
			r->x1 = fmax(r->x1, x);
			r->y0 = fmin(r->y0, y);
			r->y1 = fmax(r->y1, y);
		}
	if (r->x0 > r->x1)
		return false;
	if (c->zero)
		r->y0 = fmin(0, r->y0);
	if (r->x1 - r->x0 <= 1e-9 * fabs(r->x1))
		r->x1 = r->x0 + fmax(1, 0.1 * fabs(r->x0));
	if (r->y1 - r->y0 <= 1e-9 * fabs(r->y1)) { /* one level: it lies in the middle */
		double pad = r->y0 != 0 ? fabs(r->y0) * 0.1 : 1;

		r->y1 += pad;
		r->y0 -= c->zero && r->y0 == 0 ? 0 : pad;
	}
	return true;
}

bool chart_empty(const struct chart *c)
{
	struct range r;

	return !chart_range(c, &r);
}

static void utf8(struct sb *out, unsigned cp)
{
	sb_addc(out, (char)(0xe0 | cp >> 12));
	sb_addc(out, (char)(0x80 | (cp >> 6 & 63)));
	sb_addc(out, (char)(0x80 | (cp & 63)));
}

void chart_spark(const double *y, size_t n, int width, bool ascii, struct sb *out)
{
	static const char levels[] = "_.-~=^*#";
	double lo = INFINITY, hi = -INFINITY;
	int cells = n < (size_t)width ? (int)n : width;

	for (size_t i = 0; i < n; i++)
		if (chart_shows(0, y[i])) {
			lo = fmin(lo, y[i]);
			hi = fmax(hi, y[i]);
		}
	for (int c = 0; c < cells; c++) {
		size_t from = (size_t)c * n / (size_t)cells, to = ((size_t)c + 1) * n / (size_t)cells;
		double v = median_of(y + from, to - from);
		int level = chart_shows(0, v) && hi > lo ? (int)((v - lo) / (hi - lo) * 7.999) : 3;

		if (!chart_shows(0, v))
			sb_addc(out, ' ');
		else if (ascii)
			sb_addc(out, levels[level < 0 ? 0 : level]);
		else
			utf8(out, 0x2581 + (unsigned)(level < 0 ? 0 : level));
	}
}

/* A grid of dots, 2 x 4 to a cell (as Braille has them), and marks by cell. */
struct grid {
	int w, h; /* cells */
	uint8_t *dots;
	char *marks;
};

static void dot(struct grid *g, int x, int y)
{
	static const uint8_t bit[4][2] = { { 1, 8 }, { 2, 16 }, { 4, 32 }, { 64, 128 } };

	if (x >= 0 && y >= 0 && x < 2 * g->w && y < 4 * g->h)
		g->dots[y / 4 * g->w + x / 2] |= bit[y % 4][x % 2];
}

static void stroke(struct grid *g, int x0, int y0, int x1, int y1)
{
	int n = abs(x1 - x0) > abs(y1 - y0) ? abs(x1 - x0) : abs(y1 - y0);

	for (int i = 0; i <= n; i++)
		dot(g, n ? x0 + (x1 - x0) * i / n : x0, n ? y0 + (int)lround((double)(y1 - y0) * i / n) : y0);
}

static void plot(struct grid *g, const struct series *s, const struct range *r)
{
	bool pen = false;
	int px = 0, py = 0;

	for (size_t i = 0; i < s->n; i++) {
		int x, y;

		if (!chart_shows(s->x[i], s->y[i])) {
			pen = false;
			continue;
		}
		x = (int)lround((s->x[i] - r->x0) / (r->x1 - r->x0) * (2 * g->w - 1));
		y = (int)lround((r->y1 - s->y[i]) / (r->y1 - r->y0) * (4 * g->h - 1));
		if (s->look == LOOK_DOTS)
			g->marks[y / 4 * g->w + x / 2] = 1;
		else
			stroke(g, pen ? px : x, pen ? py : y, x, y);
		pen = true;
		px = x;
		py = y;
	}
}

#define UPPER 0x1b /* the upper four dots */

static void cell(const struct grid *g, int i, bool ascii, struct sb *out)
{
	if (!g->marks[i] && !g->dots[i])
		sb_addc(out, ' ');
	else if (g->marks[i] && !ascii)
		utf8(out, 0x25cf);
	else if (g->marks[i])
		sb_addc(out, 'o');
	else if (!ascii)
		utf8(out, 0x2800 + (unsigned)g->dots[i]);
	else
		sb_addc(out, !(g->dots[i] & UPPER) ? '.' : g->dots[i] & ~UPPER ? ':' : '\'');
}

/* The round value that row y of h stands for, if there is one. */
static bool row_tick(const struct range *r, int y, int h, double *v)
{
	double tick = chart_tick(r->y0, r->y1, h / 3 > 1 ? h / 3 : 1), cell = (r->y1 - r->y0) / h;
	double top = r->y1 - y * cell, n = floor(top / tick + 1e-9);

	*v = n * tick;
	return *v > top - cell + 1e-9 * tick;
}

void chart_cells(const struct chart *c, int width, int height, bool ascii, struct sb *out)
{
	struct range r;
	struct grid g;
	char text[32], last[32];
	double v;
	int margin = 10;

	if (!chart_range(c, &r))
		return;
	g.w = width - margin - 1 > 10 ? width - margin - 1 : 10;
	g.h = height > 2 ? height : 2;
	g.dots = xcalloc((size_t)(g.w * g.h), 1);
	g.marks = xcalloc((size_t)(g.w * g.h), 1);
	for (size_t i = 0; i < c->n_series; i++)
		plot(&g, &c->series[i], &r);
	for (int y = 0; y < g.h; y++) {
		text[0] = '\0';
		if (row_tick(&r, y, g.h, &v))
			chart_number(v, text);
		sb_addf(out, "%*s ", margin - 2, text);
		sb_adds(out, ascii ? "|" : "\xe2\x94\x82");
		for (int x = 0; x < g.w; x++)
			cell(&g, y * g.w + x, ascii, out);
		while (out->s[out->len - 1] == ' ')
			out->s[--out->len] = '\0';
		sb_addc(out, '\n');
	}
	chart_number(r.x0, text);
	chart_number(r.x1, last);
	sb_addf(out, "%*s%s%*s\n", margin, "", text, g.w - (int)strlen(text), last);
	free(g.dots);
	free(g.marks);
}
