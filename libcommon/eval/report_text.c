/* The report in a terminal. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "eval/match.h"
#include "eval/report_int.h"

/* One line of text, safe for a terminal: controls (C0, DEL, C1) and line
 * breaks as a space, at most chars code points. */
static void plain(struct sb *out, const char *s, size_t chars, bool ascii)
{
	size_t n = strlen(s), end = match_prefix(s, n, chars);

	for (size_t i = 0; i < end; i++) {
		unsigned char c = (unsigned char)s[i];

		if (c < 0x20 || c == 0x7f) {
			sb_addc(out, ' ');
		} else if (c == 0xc2 && i + 1 < end && (unsigned char)s[i + 1] < 0xa0) {
			sb_addc(out, ' ');
			i++;
		} else if (c < 0x80 || !ascii) {
			sb_addc(out, (char)c);
		} else if ((c & 0xc0) != 0x80) {
			sb_addc(out, '?');
		}
	}
	if (end < n)
		sb_adds(out, "...");
}

static void run_facts(const struct run_log *r, bool ascii, struct sb *out)
{
	struct run_figures f;
	char a[32], b[32];

	run_figures(r, &f);
	if (r->model) {
		sb_adds(out, "  model       ");
		plain(out, r->model, 200, ascii);
		sb_addc(out, '\n');
	}
	if (!isnan(r->trainable))
		sb_addf(out, "  trainable   %s of %s (%.3f %%)\n", fmt_count(r->trainable, a), fmt_count(r->total, b),
		        isnan(r->percent) ? 100 * r->trainable / r->total : r->percent);
	if (!isnan(f.best_eval))
		sb_addf(out, "  held-out    %s to %s, best at step %.0f\n", fmt_loss(f.first_eval, a), fmt_loss(f.best_eval, b), f.best_step);
	if (!isnan(f.last_loss))
		sb_addf(out, "  training    %s to %s\n", fmt_loss(f.first_loss, a), fmt_loss(f.last_loss, b));
	sb_addf(out, "  time        %s, %s steps", fmt_seconds(f.seconds, a), fmt_count(f.steps, b));
	if (!isnan(f.tokens))
		sb_addf(out, ", %s target tokens", fmt_count(f.tokens, a));
	if (!isnan(f.tok_s))
		sb_addf(out, ", %s tokens/s", fmt_count(f.tok_s, a));
	if (!isnan(f.peak_bytes))
		sb_addf(out, ", peak %s", fmt_bytes(f.peak_bytes, a));
	sb_addc(out, '\n');
}

static void run_flags_text(const struct run_log *r, struct sb *out)
{
	static const char *const sign[] = { "note", "FLAG", "FLAG" };
	struct flag flags[REPORT_MAX_FLAGS];
	size_t n = run_flags(r, flags), serious = 0;

	for (size_t i = 0; i < n; i++) {
		sb_addf(out, "  %s %s: %s\n       %s\n", sign[flags[i].level], flags[i].code, flags[i].what, flags[i].advice);
		serious += flags[i].level > FLAG_INFO;
	}
	if (!serious)
		sb_adds(out, "  no red flags\n");
}

static void sparks(const struct report *r, int width, bool ascii, struct sb *out)
{
	static const struct {
		unsigned what;
		const char *name;
	} rows[] = { { CURVE_LR, "rate" }, { CURVE_GRAD, "gradient" }, { CURVE_RATE, "tokens/s" }, { CURVE_MARGIN, "margin" }, { CURVE_REWARD, "reward" } };

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct curves cv;
		struct chart c;
		char lo[32], hi[32];
		double min = INFINITY, max = -INFINITY;

		curves_init(&cv, r, rows[i].what);
		c = (struct chart){ .series = cv.series, .n_series = cv.n };
		if (!chart_empty(&c)) {
			for (size_t k = 0; k < cv.series[0].n; k++)
				if (isfinite(cv.series[0].y[k])) {
					min = fmin(min, cv.series[0].y[k]);
					max = fmax(max, cv.series[0].y[k]);
				}
			chart_number(min, lo);
			chart_number(max, hi);
			sb_addf(out, "%9s ", rows[i].name);
			chart_spark(cv.series[0].y, cv.series[0].n, width - 36 > 10 ? width - 36 : 10, ascii, out);
			sb_addf(out, "  %s to %s\n", lo, hi);
		}
		curves_release(&cv);
	}
}

static void plot(const struct report *r, const char *title, unsigned what, int width, bool ascii, struct sb *out)
{
	struct curves cv;
	struct chart c = { .title = title, .x_label = "step" };

	curves_init(&cv, r, what);
	/* The smoothed line would cover its own points here. */
	for (size_t i = 0; i + 1 < cv.n; i++)
		if (cv.series[i].look == LOOK_FAINT)
			cv.series[i].n = 0;
	c.series = cv.series;
	c.n_series = cv.n;
	if (!chart_empty(&c)) {
		sb_addf(out, "\n%s\n", title);
		chart_cells(&c, width, 14, ascii, out);
	}
	curves_release(&cv);
}

/* Three lines of at most width columns, broken at spaces where there are any. */
static void answer(struct sb *out, const char *label, const char *s, int width, bool ascii)
{
	struct sb all = SB_INIT;
	size_t room = (size_t)width - 12, at = 0;

	if (!s)
		return;
	plain(&all, s, 3 * room - 12, ascii);
	do {
		const char *line = sb_str(&all) + at;
		size_t left = all.len - at, n = match_prefix(line, left, room), cut = n;

		while (n < left && cut > n / 2 && line[cut] != ' ')
			cut--;
		if (n < left && cut > n / 2)
			n = cut;
		sb_addf(out, "  %-9s ", at ? "" : label);
		sb_add(out, line, n);
		sb_addc(out, '\n');
		at += n;
		while (at < all.len && all.s[at] == ' ')
			at++;
	} while (at < all.len);
	sb_release(&all);
}

static void samples(const struct report *r, int width, bool ascii, struct sb *out)
{
	size_t n = r->samples->n_samples < (size_t)r->max_samples ? r->samples->n_samples : (size_t)r->max_samples;

	if (n)
		sb_adds(out, "\nAnswers side by side\n");
	for (size_t i = 0; i < n; i++) {
		const struct ab_sample *s = &r->samples->samples[i];

		sb_adds(out, i ? "\n" : "");
		answer(out, "prompt", s->prompt, width, ascii);
		answer(out, "base", s->base, width, ascii);
		answer(out, "tuned", s->tuned, width, ascii);
		answer(out, "expected", s->expected, width, ascii);
	}
}

void report_text(const struct report *r, int width, bool ascii, struct sb *out)
{
	width = width < 40 ? 40 : width > 200 ? 200 : width;
	plain(out, r->title, 200, ascii);
	sb_addc(out, '\n');
	for (size_t i = 0; i < r->n_runs; i++) {
		if (r->n_runs > 1) {
			sb_addc(out, '\n');
			plain(out, r->runs[i].name, 200, ascii);
			sb_addc(out, '\n');
		}
		run_facts(&r->runs[i], ascii, out);
		run_flags_text(&r->runs[i], out);
		struct report one = { .runs = &r->runs[i], .n_runs = 1 };

		plot(&one, r->runs[i].n_evals ? ascii ? "Loss (line: training, o: held-out)" : "Loss (line: training, \xe2\x97\x8f: held-out)" : "Training loss",
		     CURVE_TRAIN | CURVE_EVAL, width, ascii, out);
		sparks(&one, width, ascii, out);
	}
	if (r->ab) {
		sb_addf(out, "\n%s\n", r->ab->has_base ? "Base against tuned" : "Scores");
		ab_text(r->ab, out);
	} else {
		sb_adds(out, "\nNo answers were compared: a loss alone does not say whether they are better (judge-eval ab).\n");
	}
	if (r->samples)
		samples(r, width, ascii, out);
}
