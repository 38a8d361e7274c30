/* ft-report: what people look at after a fine-tuning run: one HTML file, or
 * the same in the terminal. The work is done by libcommon/eval/report*. */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/num.h"
#include "base/out.h"
#include "base/tool.h"
#include "base/xalloc.h"
#include "eval/report.h"
#include "json/jsonl.h"

static struct opt_list logs, verdicts, samples;
static const char *ab_path, *title = "Fine-tuning report";
static bool text_mode, ascii, fail;
static int64_t show = 10, width;

static struct opt opts[] = {
	{ OPT_SECTION, .help = "What to report" },
	{ OPT_LIST, "train-log", 0, &logs, "FILE", "training log of qlora-train --log; several are compared" },
	{ OPT_STR, "ab", 0, &ab_path, "FILE", "comparison of judge-eval ab" },
	{ OPT_LIST, "verdicts", 0, &verdicts, "FILE", "verdicts or completions, first of the base run, then of the tuned: the comparison is made here" },
	{ OPT_LIST, "samples", 0, &samples, "FILE", "completions to show side by side, first of the base run, then of the tuned" },
	{ OPT_SECTION, .help = "How" },
	{ OPT_STR, "title", 0, &title, "TEXT", "title of the report" },
	{ OPT_INT, "show", 0, &show, "N", "sample answers to show", .min = 0, .max = 1000 },
	{ OPT_FLAG, "text", 0, &text_mode, 0, "for a terminal instead of HTML" },
	{ OPT_INT, "width", 0, &width, "N", "columns of --text; 0: the terminal's, or 80", .min = 0, .max = 200 },
	{ OPT_FLAG, "ascii", 0, &ascii, 0, "draw --text with ASCII only (the default outside a UTF-8 locale)" },
	{ OPT_FLAG, "fail-on-flags", 0, &fail, 0, "exit 1 when there is a red flag" },
	OPT_COMMON
};

static const struct opt_spec spec = {
	.tool = "ft-report",
	.summary = "loss curves, red flags, comparison and answers of fine-tuning runs",
	.synopsis = "[OPTION]... [FILE]...",
	.notes = "Operands go on with the last of --verdicts or --samples that lacks its second file; else they are training logs.",
	.opts = opts,
};

/* "--verdicts BASE TUNED" is how people write two files. */
static void place_operands(int n, char **files)
{
	for (int i = 0; i < n; i++)
		opt_list_add(verdicts.n == 1 ? &verdicts : samples.n == 1 ? &samples : &logs, files[i]);
}

static int read_run(const char *path, struct ab *ab, bool tuned, struct scorer *scorer, struct err *e)
{
	struct in *in = in_open(path, e);
	struct jsonl *j = in ? jsonl_open_take(in, NULL, e) : NULL;
	struct jsonl_rec rec;
	struct verdict v;
	int rc;

	if (!j)
		return -1;
	while ((rc = jsonl_next(j, &rec, e)) == 1)
		if (scorer_read(scorer, &rec.v, rec.line, &v, e) || (tuned ? ab_add_tuned(ab, &v, e) : ab_add_base(ab, &v, e))) {
			rc = err_where(e, in_name(jsonl_in(j)), rec.line);
			break;
		}
	jsonl_close(j);
	return rc;
}

/* Joins one or two files; the last is the tuned run. */
static int compare(const struct opt_list *l, const char *option, bool stats, struct ab_result *r, struct err *e)
{
	struct ab *ab;
	struct scorer *scorer;
	int rc;

	if (l->n > 2)
		return err_set(e, LP_USAGE, "--%s takes two files: of the base run, then of the tuned", option);
	if (stats && l->n == 1)
		return err_set(e, LP_USAGE, "--%s needs the base run's file first: give BASE and TUNED (judge-eval ab --no-base reports one run)", option);
	ab = ab_new((size_t)show);
	scorer = scorer_new(NULL, false);
	rc = l->n == 2 ? read_run(l->items[0], ab, false, scorer, e) : 0;
	if (!rc)
		rc = read_run(l->items[l->n - 1], ab, true, scorer, e);
	if (!rc)
		rc = stats ? ab_finish(ab, false, 42, 2000, r, e) : ab_take_samples(ab, r, e);
	ab_free(ab);
	scorer_free(scorer);
	return rc;
}

static int load_ab(const char *path, struct ab_result *r, struct err *e)
{
	struct arena a = ARENA_INIT;
	struct json v;
	int rc = json_load(path, &a, &v, e);

	if (!rc && ab_read(&v, r, e))
		rc = err_where(e, path, 0);
	arena_release(&a);
	return rc;
}

static int columns(void)
{
	const char *env = getenv("COLUMNS");
	struct winsize ws;
	int64_t n;

	if (width)
		return (int)width;
	if (!ioctl(1, TIOCGWINSZ, &ws) && ws.ws_col)
		return ws.ws_col;
	return env && parse_i64(env, &n) && n > 0 && n < 1000 ? (int)n : 80;
}

static bool utf8_locale(void)
{
	const char *l = getenv("LC_ALL");

	if (!l || !*l)
		l = getenv("LC_CTYPE");
	if (!l || !*l)
		l = getenv("LANG");
	return l && (strcasestr(l, "utf-8") || strcasestr(l, "utf8"));
}

static bool any_flag(const struct report *r)
{
	struct flag flags[REPORT_MAX_FLAGS];

	for (size_t i = 0; i < r->n_runs; i++) {
		size_t n = run_flags(&r->runs[i], flags);

		if (n && flags[0].level > FLAG_INFO)
			return true;
	}
	return false;
}

static int write_report(const struct report *r, struct err *e)
{
	struct sb page = SB_INIT;
	struct out *o = out_open(opt_common.output, e);
	int rc = o ? 0 : -1;

	if (!o)
		return -1;
	if (text_mode)
		report_text(r, columns(), opt_given(&spec, "ascii") ? ascii : !utf8_locale(), &page);
	else
		report_html(r, &page);
	rc = out_write(o, sb_str(&page), page.len, e);
	sb_release(&page);
	if (rc) {
		out_abort(o);
		return rc;
	}
	return out_commit(o, e);
}

static int run(struct report *r, struct ab_result *ab, struct ab_result *shown, struct err *e)
{
	if (!logs.n && !ab_path && !verdicts.n && !samples.n)
		return err_set(e, LP_USAGE, "nothing to report: give --train-log, --ab, --verdicts or --samples");
	if (ab_path && verdicts.n)
		return err_set(e, LP_USAGE, "--ab and --verdicts are two ways to the same table: give one");
	r->runs = xcalloc(logs.n + 1, sizeof(*r->runs));
	for (size_t i = 0; i < logs.n; i++, r->n_runs++)
		if (run_log_read(logs.items[i], &r->runs[i], e))
			return -1;
	if (ab_path || verdicts.n) {
		if (ab_path ? load_ab(ab_path, ab, e) : compare(&verdicts, "verdicts", true, ab, e))
			return -1;
		r->ab = r->samples = ab;
	}
	if (samples.n) {
		if (compare(&samples, "samples", false, shown, e))
			return -1;
		r->samples = shown;
	}
	if (write_report(r, e))
		return -1;
	return fail && any_flag(r) ? LP_NO : LP_OK;
}

int main(int argc, char **argv)
{
	struct ab_result ab = { 0 }, shown = { 0 };
	struct report r = { 0 };
	struct err e = ERR_INIT;
	int rc;

	tool_init(&spec, &argc, &argv);
	place_operands(argc - 1, argv + 1);
	r.title = title;
	r.max_samples = show;
	rc = run(&r, &ab, &shown, &e);
	for (size_t i = 0; i < r.n_runs; i++)
		run_log_release(&r.runs[i]);
	free(r.runs);
	ab_result_release(&ab);
	ab_result_release(&shown);
	return rc < 0 ? tool_fail(&e) : tool_done(rc);
}
