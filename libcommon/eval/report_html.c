/* The report as one HTML file. All text from outside goes through html_escape. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/tool.h"
#include "base/xalloc.h"
#include "eval/chart.h"
#include "eval/report.h"
#include "eval/report_css.h"
#include "eval/report_int.h"

static void text(struct sb *out, const char *s)
{
	html_escape(out, s);
}

static void tile(struct sb *out, const char *label, const char *value, const char *below, int tone)
{
	sb_adds(out, "<div class=\"card tile\"><div class=\"l\">");
	text(out, label);
	sb_addf(out, "</div><div class=\"v\">%s</div><div class=\"d%s\">", value, tone > 0 ? " up" : tone < 0 ? " down" : "");
	text(out, below);
	sb_adds(out, "</div></div>");
}

/* Three figures are enough at this size. */
static const char *short_loss(double v, char buf[32])
{
	snprintf(buf, 32, v >= 100 ? "%.0f" : v >= 10 ? "%.1f" : v >= 1 ? "%.2f" : "%.3f", v);
	return buf;
}

/* "2.38 -> 1.98" and how much that is. */
static void loss_tile(struct sb *out, const char *label, double from, double to, double step)
{
	char a[32], b[32], value[128], below[96];

	if (isnan(to))
		return;
	if (isnan(from) || from == to) {
		snprintf(value, sizeof(value), "%s", short_loss(to, b));
		below[0] = '\0';
	} else {
		snprintf(value, sizeof(value), "<small>%s \xe2\x86\x92</small> %s", short_loss(from, a), short_loss(to, b));
		snprintf(below, sizeof(below), "%s by %.1f %%", to < from ? "down" : "up", 100 * fabs(to - from) / from);
		if (!isnan(step))
			snprintf(below + strlen(below), sizeof(below) - strlen(below), ", best at step %.0f", step);
	}
	tile(out, label, value, below, isnan(from) ? 0 : to < from ? 1 : to > from ? -1 : 0);
}

static void ab_tile(struct sb *out, const struct ab_result *r, enum metric m)
{
	const struct ab_stat *s = &r->stat[m];
	char value[96], below[96];

	snprintf(below, sizeof(below), r->has_base ? "%+.1f [%+.1f, %+.1f]" : "no base run to compare with", 100 * s->delta, 100 * s->ci.lo,
	         100 * s->ci.hi);
	if (r->has_base)
		snprintf(value, sizeof(value), "<small>%.1f \xe2\x86\x92</small> %.1f %%", 100 * s->base, 100 * s->tuned);
	else
		snprintf(value, sizeof(value), "%.1f %%", 100 * s->tuned);
	tile(out, metric_info(m)->label, value, below, ab_verdict(r, m));
}

/* At most two: what was asked for (--regex, --json), the words in common, and
 * exact matches if there are any. */
static void ab_tiles(struct sb *out, const struct ab_result *r)
{
	static const enum metric order[] = { METRIC_REGEX, METRIC_JSON, METRIC_ROUGEL, METRIC_NORM_EXACT, METRIC_ROUGE1 };
	int shown = 0;

	for (size_t i = 0; i < sizeof(order) / sizeof(*order) && shown < 2; i++) {
		const struct ab_stat *s = &r->stat[order[i]];

		if (!s->n || (order[i] == METRIC_NORM_EXACT && !(s->tuned > 0) && !(s->base > 0)))
			continue;
		ab_tile(out, r, order[i]);
		shown++;
	}
}

static void tiles(const struct report *r, struct sb *out)
{
	struct run_figures f;
	char a[32], b[64], c[32];

	sb_adds(out, "<section class=\"tiles\">");
	if (r->n_runs == 1) {
		run_figures(&r->runs[0], &f);
		loss_tile(out, "Held-out loss", f.first_eval, f.best_eval, f.best_step);
		loss_tile(out, "Training loss", f.first_loss, f.last_loss, NAN);
	}
	if (r->ab)
		ab_tiles(out, r->ab);
	if (r->n_runs == 1 && !isnan(f.seconds)) {
		snprintf(b, sizeof(b), "%s steps%s%s%s", fmt_count(f.steps, a), isnan(f.tok_s) ? "" : ", ", isnan(f.tok_s) ? "" : fmt_count(f.tok_s, c),
		         isnan(f.tok_s) ? "" : " tokens/s");
		tile(out, "Training time", fmt_seconds(f.seconds, c), b, 0);
	}
	sb_adds(out, "</section>");
}

static void flag_list(const struct report *r, struct sb *out)
{
	static const char *const class[] = { "info", "warn", "bad" }, *const sign[] = { "i", "!", "\xe2\x9c\x95" };
	struct flag flags[REPORT_MAX_FLAGS];
	size_t all = 0;

	sb_adds(out, "<ul class=\"flags\">");
	for (size_t i = 0; i < r->n_runs; i++) {
		size_t n = run_flags(&r->runs[i], flags), serious = 0;

		for (size_t k = 0; k < n; k++) {
			sb_addf(out, "<li class=\"%s\"><i>%s</i><div><b>", class[flags[k].level], sign[flags[k].level]);
			if (r->n_runs > 1) {
				text(out, r->runs[i].name);
				sb_adds(out, ": ");
			}
			sb_addf(out, "%s</b> \xc2\xb7 ", flags[k].code);
			text(out, flags[k].what);
			sb_adds(out, " <span class=\"a\">\xe2\x80\x93 ");
			text(out, flags[k].advice);
			sb_adds(out, "</span></div></li>");
			serious += flags[k].level > FLAG_INFO;
		}
		all += serious;
	}
	if (!all && r->n_runs)
		sb_adds(out, "<li class=\"ok\"><i>\xe2\x9c\x93</i><div><b>No red flags</b> \xc2\xb7 the loss falls, without spikes, strong noise or overfitting</div></li>");
	sb_adds(out, "</ul>");
}

/* --- curves --- */

static void one_chart(struct sb *out, const char *title, const struct curves *cv, const char *x_label, int w, int h, bool zero)
{
	struct chart c = { title, x_label, cv->series, cv->n, w, h, zero };

	if (chart_empty(&c))
		return;
	/* a wide one would shrink beyond reading on a phone: there it scrolls */
	sb_addf(out, "<div class=\"card%s\"><h3>", w > 600 ? " wide" : "");
	text(out, title);
	sb_adds(out, "</h3>");
	chart_svg(&c, out);
	sb_adds(out, "</div>");
}

static void draw(const struct report *r, struct sb *out, const char *title, unsigned what, int w, int h, bool zero)
{
	struct curves cv;

	curves_init(&cv, r, what);
	one_chart(out, title, &cv, "step", w, h, zero);
	curves_release(&cv);
}

/* Whether its loss is a target token's, in nats: other methods' losses are of answers, and have no perplexity. */
static bool of_tokens(const struct run_log *r)
{
	return !r->method || strcmp(r->method, "sft") == 0;
}

static void eval_table(const struct report *r, struct sb *out)
{
	char a[32], b[32];
	size_t any = 0;

	for (size_t i = 0; i < r->n_runs; i++)
		any += r->runs[i].n_evals;
	if (!any)
		return;
	sb_adds(out, "<details><summary>Held-out losses as a table</summary>");
	for (size_t i = 0; i < r->n_runs; i++) {
		struct run_figures f;

		run_figures(&r->runs[i], &f);
		if (r->n_runs > 1) {
			sb_adds(out, "<h3>");
			text(out, r->runs[i].name);
			sb_adds(out, "</h3>");
		}
		sb_addf(out, "<table><tr><th>step</th><th>held-out loss</th>%s<th></th></tr>", of_tokens(&r->runs[i]) ? "<th>perplexity</th>" : "");
		for (size_t k = 0; k < r->runs[i].n_evals; k++) {
			const struct eval_point *p = &r->runs[i].evals[k];

			sb_addf(out, "<tr><td>%s</td><td>%s</td>", fmt_count(p->step, a), fmt_loss(p->loss, b));
			if (of_tokens(&r->runs[i]))
				sb_addf(out, "<td>%s</td>", fmt_loss(exp(p->loss), a));
			sb_addf(out, "<td class=\"t\">%s</td></tr>", p->step == f.best_step ? "best" : "");
		}
		sb_adds(out, "</table>");
	}
	sb_adds(out, "</details>");
}

static void curves(const struct report *r, struct sb *out)
{
	bool nats = true;

	if (!r->n_runs)
		return;
	for (size_t i = 0; i < r->n_runs; i++)
		nats = nats && of_tokens(&r->runs[i]);
	sb_adds(out, "<h2>Curves</h2>");
	if (r->n_runs == 1) {
		draw(r, out, nats ? "Loss, nats per target token" : "Loss", CURVE_TRAIN | CURVE_EVAL, 1000, 340, false);
	} else {
		draw(r, out, nats ? "Training loss, nats per target token" : "Training loss", CURVE_TRAIN, 1000, 300, false);
		sb_adds(out, "<div style=\"height:12px\"></div>");
		draw(r, out, nats ? "Held-out loss, nats per target token" : "Held-out loss", CURVE_EVAL, 1000, 300, false);
	}
	sb_adds(out, "<div class=\"three\">");
	draw(r, out, "Learning rate", CURVE_LR, 330, 190, true);
	draw(r, out, "Gradient norm", CURVE_GRAD, 330, 190, true);
	draw(r, out, "Throughput, tokens/s", CURVE_RATE, 330, 190, true);
	draw(r, out, "Margin of rewards", CURVE_MARGIN, 330, 190, false);
	draw(r, out, "Mean reward", CURVE_REWARD, 330, 190, false);
	sb_adds(out, "</div>");
	eval_table(r, out);
}

/* --- facts --- */

static void fact(struct sb *out, const char *name, const char *value)
{
	if (!value || !*value || strcmp(value, "-") == 0)
		return;
	sb_adds(out, "<div><dt>");
	text(out, name);
	sb_adds(out, "</dt><dd>");
	text(out, value);
	sb_adds(out, "</dd></div>");
}

static void facts(const struct run_log *r, struct sb *out)
{
	struct run_figures f;
	char a[32], b[96], name[96];

	run_figures(r, &f);
	sb_adds(out, "<div class=\"card\"><dl>");
	fact(out, "Model", r->model);
	fact(out, "Method", r->method);
	if (!isnan(r->trainable)) {
		double percent = isnan(r->percent) ? 100 * r->trainable / r->total : r->percent;

		fact(out, "Trainable parameters", fmt_count(r->trainable, a));
		fact(out, "All parameters", fmt_count(r->total, a));
		snprintf(b, sizeof(b), "%.3f %%", percent);
		fact(out, "Trainable share", isnan(percent) ? "" : b);
	}
	fact(out, "Steps", fmt_count(f.steps, a));
	fact(out, "Target tokens", fmt_count(f.tokens, a));
	fact(out, "Time", fmt_seconds(f.seconds, a));
	fact(out, "Tokens/s, median", fmt_count(f.tok_s, a));
	fact(out, "Peak memory, measured", fmt_bytes(f.peak_bytes, a));
	for (size_t i = 0; i < r->n_facts; i++) {
		snprintf(name, sizeof(name), "Plan: %.60s", r->facts[i].name);
		for (char *p = name; *p; p++)
			*p = *p == '_' ? ' ' : *p;
		fact(out, name, fmt_bytes(r->facts[i].value, a));
	}
	sb_adds(out, "</dl>");
	if (r->n_older)
		sb_addf(out, "<p class=\"note\">The log holds %zu earlier run%s; this is the last.</p>", r->n_older, r->n_older == 1 ? "" : "s");
	sb_adds(out, "</div>");
}

static void run_table(const struct report *r, struct sb *out)
{
	struct run_figures f;
	char t[6][32];

	sb_adds(out, "<h2>Runs</h2><div class=\"card wide\"><table><tr><th>run</th><th>steps</th><th>training loss</th><th>best held-out</th><th>at step</th>"
	             "<th>tokens/s</th><th>time</th></tr>");
	for (size_t i = 0; i < r->n_runs; i++) {
		run_figures(&r->runs[i], &f);
		sb_addf(out, "<tr><td><svg width=\"22\" height=\"10\"><path class=\"s%zu line\" d=\"M2 5h14\"/></svg>", i % 8);
		text(out, r->runs[i].name);
		sb_addf(out, "</td><td>%s</td><td>%s</td><td>%s</td><td>%s</td><td>%s</td><td>%s</td></tr>", fmt_count(f.steps, t[0]), fmt_loss(f.last_loss, t[1]),
		        fmt_loss(f.best_eval, t[2]), fmt_count(f.best_step, t[3]), fmt_count(f.tok_s, t[4]), fmt_seconds(f.seconds, t[5]));
	}
	sb_adds(out, "</table></div>");
}

/* --- comparison --- */

/* The interval of a difference as a mark on a line through 0; scale is the
 * largest end of all rows. */
static void forest(struct sb *out, const struct ab_stat *s, double scale, int verdict)
{
	const char *tone = verdict > 0 ? " up" : verdict < 0 ? " down" : "";
	double k = 72 / scale;

	sb_addf(out, "<svg width=\"160\" height=\"18\" viewBox=\"0 0 160 18\" aria-hidden=\"true\"><line class=\"zero\" x1=\"80\" x2=\"80\" y1=\"1\" y2=\"17\"/>"
	        "<line class=\"bar%s\" x1=\"%.1f\" x2=\"%.1f\" y1=\"9\" y2=\"9\"/><circle class=\"pt%s\" cx=\"%.1f\" cy=\"9\" r=\"4\"/></svg>",
	        tone, 80 + k * s->ci.lo, 80 + k * s->ci.hi, tone, 80 + k * s->delta);
}

static void ab_row(const struct ab_result *r, enum metric m, double scale, struct sb *out)
{
	static const char *const words[] = { "\xe2\x96\xbc worse", "no clear difference", "\xe2\x96\xb2 better" };
	static const char *const tones[] = { " down", "", " up" };
	const struct metric_info *info = metric_info(m);
	const struct ab_stat *s = &r->stat[m];
	double k = info->rate ? 100 : 1;
	int v = ab_verdict(r, m), d = m == METRIC_NLL ? 3 : 1;
	const char *unit = info->rate ? " %" : "";

	sb_addf(out, "<tr><td>%s</td>", info->label);
	if (!r->has_base) {
		sb_addf(out, "<td>%.*f%s</td><td>%zu</td></tr>", d, k * s->tuned, unit, s->n);
		return;
	}
	sb_addf(out, "<td>%.*f%s</td><td>%.*f%s</td><td>%+.*f</td><td class=\"ci\">[%+.*f, %+.*f]</td><td class=\"fp\">", d, k * s->base, unit, d, k * s->tuned, unit, d,
	        k * s->delta, d, k * s->ci.lo, d, k * s->ci.hi);
	if (info->rate && scale > 0)
		forest(out, s, scale, v);
	sb_adds(out, "</td>");
	if (info->better)
		sb_addf(out, "<td>%zu / %zu / %zu</td><td class=\"t%s\">%s</td></tr>", s->win, s->tie, s->loss, s->tie == s->n ? " ci" : tones[v + 1],
		        s->tie == s->n ? "the same" : words[v + 1]);
	else
		sb_adds(out, "<td></td><td></td></tr>");
}

static void comparison(const struct ab_result *r, struct sb *out)
{
	double scale = 0;

	sb_addf(out, "<h2>%s</h2><div class=\"card wide\"><table>", r->has_base ? "Base against tuned" : "Scores");
	if (r->has_base)
		sb_adds(out, "<tr><th>metric</th><th>base</th><th>tuned</th><th>difference</th><th>95 % interval</th><th class=\"fp\"></th><th>win / tie / loss</th><th class=\"t\"></th></tr>");
	else
		sb_adds(out, "<tr><th>metric</th><th>value</th><th>n</th></tr>");
	for (int m = 0; m < N_METRICS; m++)
		if (r->stat[m].n && metric_info((enum metric)m)->rate && !isnan(r->stat[m].ci.lo))
			scale = fmax(scale, fmax(fabs(r->stat[m].ci.lo), fabs(r->stat[m].ci.hi)));
	for (int m = 0; m < N_METRICS; m++)
		if (r->stat[m].n)
			ab_row(r, (enum metric)m, scale, out);
	if (!isnan(r->tuned_ppl) && r->has_base)
		sb_addf(out, "<tr><td>Perplexity</td><td>%.2f</td><td>%.2f</td><td>%+.2f</td><td></td><td class=\"fp\"></td><td></td><td></td></tr>", r->base_ppl, r->tuned_ppl,
		        r->tuned_ppl - r->base_ppl);
	sb_addf(out, "</table></div><p class=\"note\">%zu prompt%s, the same for both models. Differences of rates are in points; intervals are paired bootstraps. "
	        "\xe2\x80\x9c" "Better\xe2\x80\x9d and \xe2\x80\x9cworse\xe2\x80\x9d mean that the interval leaves out 0%s.</p>", r->n_pairs, r->n_pairs == 1 ? "" : "s",
	        r->n_pairs < AB_FEW ? ", and with so few prompts also that the sign test is below 0.05" : "");
}

static void answer(struct sb *out, const char *class, const char *label, const char *s)
{
	sb_addf(out, "<div class=\"%s\"><h3>%s</h3>", class, label);
	if (s && *s) {
		sb_adds(out, "<div class=\"txt\">");
		text(out, s);
		sb_adds(out, "</div></div>");
	} else {
		sb_adds(out, s ? "<div class=\"none\">empty</div></div>" : "<div class=\"none\">not recorded</div></div>");
	}
}

static void samples(const struct report *rep, struct sb *out)
{
	const struct ab_result *r = rep->samples;
	size_t n = r->n_samples < (size_t)rep->max_samples ? r->n_samples : (size_t)rep->max_samples;

	if (!n)
		return;
	sb_adds(out, "<h2>Answers side by side</h2>");
	for (size_t i = 0; i < n; i++) {
		const struct ab_sample *s = &r->samples[i];

		sb_adds(out, "<article class=\"card sample\"><header><span>");
		text(out, s->id);
		sb_adds(out, "</span><span>");
		if (!isnan(s->rouge[1]) && !isnan(s->rouge[0]))
			sb_addf(out, "ROUGE-L %.1f \xe2\x86\x92 %.1f", 100 * s->rouge[0], 100 * s->rouge[1]);
		else if (!isnan(s->rouge[1]))
			sb_addf(out, "ROUGE-L %.1f", 100 * s->rouge[1]);
		sb_adds(out, "</span></header>");
		if (s->prompt) {
			sb_adds(out, "<div class=\"txt q\">");
			text(out, s->prompt);
			sb_adds(out, "</div>");
		}
		sb_adds(out, "<div class=\"cols\">");
		if (r->has_base || s->base)
			answer(out, "base", "Base", s->base);
		answer(out, "tuned", "Tuned", s->tuned);
		answer(out, "want", "Expected", s->expected);
		sb_adds(out, "</div></article>");
	}
	sb_adds(out, "<p class=\"note\">The first answers of the run, cut to 300 characters.</p>");
}

void report_html(const struct report *r, struct sb *out)
{
	sb_adds(out, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
	             "<meta name=\"generator\" content=\"lorapipe ");
	text(out, lp_version);
	sb_adds(out, "\"><title>");
	text(out, r->title);
	sb_addf(out, "</title><style>\n%s</style></head><body><main><h1>", report_css);
	text(out, r->title);
	sb_adds(out, "</h1><div class=\"sub\">");
	for (size_t i = 0; i < r->n_runs; i++) {
		sb_adds(out, i ? ", " : "");
		text(out, r->n_runs == 1 && r->runs[i].model ? r->runs[i].model : r->runs[i].name);
	}
	sb_adds(out, "</div>");
	tiles(r, out);
	flag_list(r, out);
	if (r->n_runs > 1)
		run_table(r, out);
	if (r->ab)
		comparison(r->ab, out);
	else
		sb_adds(out, "<p class=\"note\">No answers were compared: a loss alone does not say whether they are better (judge-eval ab).</p>");
	curves(r, out);
	if (r->samples)
		samples(r, out);
	for (size_t i = 0; i < r->n_runs; i++) {
		sb_addf(out, "<h2>Run%s", r->n_runs > 1 ? " " : "");
		text(out, r->n_runs > 1 ? r->runs[i].name : "");
		sb_adds(out, "</h2>");
		facts(&r->runs[i], out);
	}
	sb_adds(out, "<footer>Written by ft-report, lorapipe ");
	text(out, lp_version);
	sb_adds(out, ". What the red flags mean is in its manual page.</footer></main></body></html>\n");
}
