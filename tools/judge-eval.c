/* judge-eval: what a model's answers are worth. Subcommands: score one run,
 * compare two (ab), perplexity (ppl). The figures are libcommon/eval's. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/out.h"
#include "base/tool.h"
#include "base/xalloc.h"
#include "eval/ab.h"
#include "eval/join.h"
#include "eval/summary.h"
#include "fmt/lineage.h"
#include "json/jsonl.h"

enum sub { SCORE = 1, AB = 2, PPL = 4 };

static const char *regex_text, *summary_path, *scores_path;
static bool json_mode, no_base, alone, text_mode;
static int64_t keep = 10, max_samples, seed = 42, resamples = 2000;
static struct opt_list gate_texts;

static struct opt opts[] = {
	{ OPT_SECTION, .help = "Metrics (score, ab)" },
	{ OPT_STR, "regex", 0, &regex_text, "PATTERN", "an answer is right if PATTERN matches; with a group, if the last match's group is that of the expected answer" },
	{ OPT_FLAG, "json", 0, &json_mode, 0, "an answer is right if it is JSON equal to the expected answer's" },
	{ OPT_INT, "keep", 0, &keep, "N", "examples to keep for review", .min = 0, .max = 1e6 },
	{ OPT_INT, "seed", 0, &seed, "N", "seed of the bootstrap", .min = 0, .max = 9e15 },
	{ OPT_INT, "resamples", 0, &resamples, "N", "bootstrap resamples for the 95 % intervals; 0: none", .min = 0, .max = 1e6 },
	{ OPT_LIST, "gate", 0, &gate_texts, "GATE", "exit 1 unless [base.|delta.|win.]METRIC>=NUMBER holds (also > <= <)" },
	{ OPT_SECTION, .help = "score" },
	{ OPT_INT, "max-samples", 0, &max_samples, "N", "score only the first N records; 0: all", .min = 0, .max = 9e15 },
	{ OPT_STR, "summary", 0, &summary_path, "FILE", "write the summary (JSON) to FILE; -: to stdout, instead of the verdicts", .unrecorded = true },
	{ OPT_SECTION, .help = "ab" },
	{ OPT_FLAG, "no-base", 0, &no_base, 0, "report the tuned run alone" },
	{ OPT_FLAG, "text", 0, &text_mode, 0, "print the table for people, not JSON" },
	{ OPT_SECTION, .help = "ppl" },
	{ OPT_STR, "scores", 0, &scores_path, "FILE", "summary of score or ab to report beside the perplexity" },
	{ OPT_FLAG, "alone", 0, &alone, 0, "report perplexity although there are no scores" },
	OPT_COMMON
};

static const struct opt_spec spec = {
	.tool = "judge-eval",
	.summary = "score a model's answers, compare two runs",
	.synopsis = "score [OPTION]... [COMPLETIONS]\nab [OPTION]... BASE TUNED\nppl [OPTION]... [RECORDS]",
	.notes = "Metrics: rouge1 rouge2 rougeL exact norm_exact regex json_valid json format nll chars tokens, and ppl in gates.",
	.opts = opts,
};

/* Options that one or two subcommands have; the rest all have. */
static const struct {
	const char *name;
	int subs;
} only[] = {
	{ "regex", SCORE | AB }, { "json", SCORE | AB }, { "keep", SCORE | AB }, { "seed", SCORE | AB }, { "resamples", SCORE | AB },
	{ "max-samples", SCORE }, { "summary", SCORE }, { "no-base", AB }, { "text", AB }, { "scores", PPL }, { "alone", PPL },
};

struct gates {
	struct gate *g;
	size_t n;
};

static int gates_parse(struct gates *gs, struct err *e)
{
	gs->n = gate_texts.n;
	gs->g = xcalloc(gs->n + 1, sizeof(*gs->g));
	for (size_t i = 0; i < gs->n; i++)
		if (gate_parse(gate_texts.items[i], &gs->g[i], e))
			return -1;
	return 0;
}

/* Every gate must have a value: a gate on what was not measured is a mistake, not a miss. */
static int gates_check(const struct gates *gs, struct err *e)
{
	for (size_t i = 0; i < gs->n; i++)
		if (isnan(gs->g[i].value))
			return err_set(e, LP_USAGE, "gate '%s': that was not measured here", gs->g[i].text);
	return 0;
}

static void gates_write(const struct gates *gs, struct jw *w)
{
	if (!gs->n)
		return;
	jw_key(w, "gates");
	jw_arr(w);
	for (size_t i = 0; i < gs->n; i++)
		gate_write(&gs->g[i], w);
	jw_end_arr(w);
}

/* LP_OK or LP_NO, each missed gate said on stderr. */
static int gates_status(const struct gates *gs)
{
	int status = LP_OK;

	for (size_t i = 0; i < gs->n; i++)
		if (!gate_met(&gs->g[i])) {
			warn("gate '%s' is not met: %.6g", gs->g[i].text, gs->g[i].value);
			status = LP_NO;
		}
	return status;
}

static void report_open(struct jw *w, const char *kind)
{
	jw_obj(w);
	jw_key(w, "report");
	jw_str(w, kind);
}

static void report_close(struct jw *w, const struct gates *gs, const struct lineage *l)
{
	struct sb made = SB_INIT;

	gates_write(gs, w);
	lineage_json(l, &made);
	jw_key(w, "lineage");
	jw_raw(w, sb_str(&made), made.len);
	jw_end_obj(w);
	sb_addc(w->out, '\n');
	sb_release(&made);
}

/* The table on a terminal, for whom JSON on stdout says little. */
static void show(const struct sb *text)
{
	if (isatty(2) && !opt_common.quiet)
		fputs(sb_str(text), stderr);
}

typedef int (*each_fn)(void *ctx, const struct jsonl_rec *rec, struct err *e);

/* Reads a whole record stream; errors get the place, the input goes into the lineage. */
static int each(const char *path, each_fn fn, void *ctx, struct lineage *l, struct err *e)
{
	struct in *in = in_open(path, e);
	struct jsonl *j = in ? jsonl_open_take(in, NULL, e) : NULL;
	struct jsonl_rec rec;
	char hex[33], hash[40];
	int rc;

	if (!j)
		return -1;
	while ((rc = jsonl_next(j, &rec, e)) == 1) {
		if (fn(ctx, &rec, e)) {
			err_where(e, in_name(jsonl_in(j)), rec.line);
			rc = -1;
			break;
		}
	}
	if (!rc) {
		in_hash(jsonl_in(j), hex);
		snprintf(hash, sizeof(hash), "xxh3:%s", hex);
		lineage_input(l, in_name(jsonl_in(j)), hash, NULL);
	}
	jsonl_close(j);
	return rc;
}

static int put(const char *path, const struct sb *text, struct err *e)
{
	struct out *o = out_open(path, e);

	if (!o)
		return -1;
	if (out_write(o, sb_str(text), text->len, e)) {
		out_abort(o);
		return -1;
	}
	return out_commit(o, e);
}

/* --- score --- */

struct score_ctx {
	struct scorer *scorer;
	struct summary sum;
	struct out *out; /* of the verdicts; NULL when the summary is the output */
	struct join *ids;
	struct sb line;
};

static int score_one(void *ctx, const struct jsonl_rec *rec, struct err *e)
{
	struct score_ctx *c = ctx;
	struct verdict v;

	if (max_samples && c->sum.n_total >= (size_t)max_samples) {
		c->sum.n_total++;
		return 0;
	}
	c->sum.n_total++;
	if (scorer_score(c->scorer, &rec->v, rec->line, &v, e))
		return -1;
	summary_add(&c->sum, &v);
	progress("%zu records", c->sum.n_total);
	if (!c->out)
		return 0;
	sb_reset(&c->line);
	verdict_write(&v, c->sum.n_scored <= (size_t)keep, &c->line);
	return out_write(c->out, sb_str(&c->line), c->line.len, e);
}

static int log_summary(const struct summary *s, const char *event, struct err *e)
{
	struct sb f = SB_INIT;
	int rc;

	sb_addf(&f, "\"scored\":%zu", s->n_scored);
	for (int m = 0; m < N_METRICS; m++)
		if (s->col[m].n)
			sb_addf(&f, ",\"%s\":%s", metric_info((enum metric)m)->name, log_num(s->mean[m]));
	if (s->nll_tokens)
		sb_addf(&f, ",\"ppl\":%s", log_num(s->ppl));
	rc = log_metric(event, e, "%s", sb_str(&f));
	sb_release(&f);
	return rc;
}

static int score_finish(struct score_ctx *c, struct gates *gs, struct lineage *l, struct err *e)
{
	struct sb report = SB_INIT, text = SB_INIT;
	struct jw w = jw_to(&report);
	bool to_stdout = summary_path && strcmp(summary_path, "-") == 0;
	char hex[33], hash[40];
	int rc = -1;

	if (!c->sum.n_total)
		return err_set(e, LP_DATA, "no completion records");
	summary_close(&c->sum, (uint64_t)seed, (unsigned)resamples);
	for (size_t i = 0; i < gs->n; i++)
		gs->g[i].value = summary_value(&c->sum, &gs->g[i]);
	if (!c->sum.n_expected)
		warn("no record has an expected answer: only lengths%s are measured", regex_text || json_mode ? " and patterns" : "");
	if (gates_check(gs, e))
		return -1;
	report_open(&w, "score");
	summary_write(&c->sum, &w);
	report_close(&w, gs, l);
	summary_text(&c->sum, &text);
	if (c->out) {
		struct out *o = c->out;

		out_hash(o, hex);
		snprintf(hash, sizeof(hash), "xxh3:%s", hex);
		c->out = NULL;
		if (out_commit(o, e) || lineage_sidecar(l, opt_common.output, hash, e))
			goto out;
	}
	if (summary_path && put(to_stdout ? opt_common.output : summary_path, &report, e))
		goto out;
	show(&text);
	rc = log_summary(&c->sum, "score", e);
out:
	sb_release(&report);
	sb_release(&text);
	return rc;
}

static int run_score(const char *path, struct scorer *scorer, struct gates *gs, struct lineage *l, struct err *e)
{
	struct score_ctx c = { .scorer = scorer };
	int rc = -1;

	summary_init(&c.sum, (size_t)keep);
	if (!summary_path || strcmp(summary_path, "-") != 0) {
		c.out = out_open(opt_common.output, e);
		if (!c.out)
			goto out;
	}
	if (each(path, score_one, &c, l, e) || score_finish(&c, gs, l, e))
		goto out;
	rc = gates_status(gs);
out:
	out_abort(c.out);
	summary_release(&c.sum);
	sb_release(&c.line);
	return rc;
}

/* --- ab --- */

struct ab_ctx {
	struct ab *ab;
	struct scorer *scorer;
	bool tuned;
};

static int ab_one(void *ctx, const struct jsonl_rec *rec, struct err *e)
{
	struct ab_ctx *c = ctx;
	struct verdict v;

	if (scorer_read(c->scorer, &rec->v, rec->line, &v, e))
		return -1;
	return c->tuned ? ab_add_tuned(c->ab, &v, e) : ab_add_base(c->ab, &v, e);
}

static int ab_report(struct ab_result *r, struct gates *gs, struct lineage *l, struct err *e)
{
	struct sb report = SB_INIT, text = SB_INIT;
	struct jw w = jw_to(&report);
	int rc = -1;

	for (size_t i = 0; i < gs->n; i++)
		gs->g[i].value = ab_value(r, &gs->g[i]);
	if (gates_check(gs, e))
		return -1;
	report_open(&w, "ab");
	ab_write(r, &w);
	report_close(&w, gs, l);
	ab_text(r, &text);
	if (put(opt_common.output, text_mode ? &text : &report, e))
		goto out;
	if (!text_mode)
		show(&text);
	rc = log_metric("ab", e, "\"pairs\":%zu,\"rougeL_base\":%s,\"rougeL_tuned\":%s", r->n_pairs, log_num(r->stat[METRIC_ROUGEL].base),
	                log_num(r->stat[METRIC_ROUGEL].tuned));
out:
	sb_release(&report);
	sb_release(&text);
	return rc;
}

static int run_ab(int n, char **paths, struct scorer *scorer, struct gates *gs, struct lineage *l, struct err *e)
{
	struct ab_ctx c = { .scorer = scorer };
	struct ab_result r = { 0 };
	int rc = -1;

	if (n == 2 && no_base)
		return err_set(e, LP_USAGE, "--no-base takes one run; drop it, or the base run");
	if (n == 1 && !no_base)
		return err_set(e, LP_USAGE, "a comparison needs the base model's run first: give BASE TUNED, or --no-base to do without");
	if (n != 2 - no_base)
		return err_set(e, LP_USAGE, "ab takes two files: BASE TUNED");
	c.ab = ab_new((size_t)keep);
	if (n == 2 && each(paths[0], ab_one, &c, l, e))
		goto out;
	c.tuned = true;
	if (each(paths[n - 1], ab_one, &c, l, e) || ab_finish(c.ab, no_base, (uint64_t)seed, (unsigned)resamples, &r, e) ||
	    ab_report(&r, gs, l, e))
		goto out;
	rc = gates_status(gs);
out:
	ab_free(c.ab);
	ab_result_release(&r);
	return rc;
}

/* --- ppl --- */

static int ppl_one(void *ctx, const struct jsonl_rec *rec, struct err *e)
{
	struct score_ctx *c = ctx;
	struct verdict v;

	c->sum.n_total++;
	if (scorer_read(c->scorer, &rec->v, rec->line, &v, e))
		return -1;
	if (isnan(v.nll))
		return err_set(e, LP_DATA, "no likelihood (nll and the number of its tokens): lm-generate --score and qlora-train --eval-only write it");
	if (join_add(c->ids, v.id, v.id_len) < 0)
		return err_set(e, LP_DATA, "duplicate id %.200s: its tokens would count twice", v.id);
	summary_add(&c->sum, &v);
	return 0;
}

/* The metrics of another report, which must say something about answers. */
static int load_scores(struct arena *a, struct json *report, const struct json **metrics, struct err *e)
{
	if (json_load(scores_path, a, report, e))
		return -1;
	*metrics = json_get(report, "metrics");
	for (int m = 0; m < N_METRICS; m++)
		if (metric_info((enum metric)m)->needs_text && json_get(*metrics, metric_info((enum metric)m)->name))
			return 0;
	return err_line(e, LP_DATA, scores_path, 0, "holds no scores of answers: give the summary of judge-eval score or the report of judge-eval ab");
}

static int ppl_report(struct score_ctx *c, struct gates *gs, const struct json *metrics, struct lineage *l, struct err *e)
{
	struct sb report = SB_INIT;
	struct jw w = jw_to(&report);
	int rc;

	for (size_t i = 0; i < gs->n; i++)
		gs->g[i].value = summary_value(&c->sum, &gs->g[i]);
	if (gates_check(gs, e))
		return -1;
	report_open(&w, "ppl");
	jw_key(&w, "perplexity");
	jw_f64(&w, c->sum.ppl);
	jw_key(&w, "nll");
	jw_f64(&w, c->sum.nll);
	jw_key(&w, "tokens");
	jw_i64(&w, (int64_t)c->sum.nll_tokens);
	jw_key(&w, "records");
	jw_i64(&w, (int64_t)c->sum.n_total);
	if (metrics) {
		jw_key(&w, "metrics");
		jw_value(&w, metrics);
	}
	report_close(&w, gs, l);
	rc = put(opt_common.output, &report, e);
	sb_release(&report);
	return rc ? rc : log_summary(&c->sum, "ppl", e);
}

static int run_ppl(const char *path, struct scorer *scorer, struct gates *gs, struct lineage *l, struct err *e)
{
	struct score_ctx c = { .scorer = scorer };
	struct arena a = ARENA_INIT;
	struct json report;
	const struct json *metrics = NULL;
	int rc = -1;

	if (!scores_path && !alone)
		return err_set(e, LP_USAGE, "perplexity alone does not say whether answers are better: give --scores SUMMARY of judge-eval score or ab, "
		               "or --alone");
	summary_init(&c.sum, 0);
	c.ids = join_new();
	if ((scores_path && load_scores(&a, &report, &metrics, e)) || each(path, ppl_one, &c, l, e))
		goto out;
	if (!c.sum.n_total) {
		err_set(e, LP_DATA, "no records");
		goto out;
	}
	summary_close(&c.sum, 0, 0);
	if (!ppl_report(&c, gs, metrics, l, e))
		rc = gates_status(gs);
out:
	join_free(c.ids);
	summary_release(&c.sum);
	arena_release(&a);
	return rc;
}

static int check_options(enum sub sub, const char *name, struct err *e)
{
	for (size_t i = 0; i < sizeof(only) / sizeof(*only); i++)
		if (!(only[i].subs & sub) && opt_given(&spec, only[i].name))
			return err_set(e, LP_USAGE, "--%s has no meaning for %s", only[i].name, name);
	return 0;
}

static int run(int n, char **args, struct err *e)
{
	static const char *const names[] = { [SCORE] = "score", [AB] = "ab", [PPL] = "ppl" };
	struct match_regex *regex = NULL;
	struct scorer *scorer = NULL;
	struct gates gs = { 0 };
	struct lineage l;
	enum sub sub = 0;
	int rc = -1;

	for (int i = SCORE; i <= PPL; i *= 2)
		if (n && strcmp(args[0], names[i]) == 0)
			sub = (enum sub)i;
	if (!sub)
		return err_set(e, LP_USAGE, n ? "no subcommand '%s': score, ab or ppl" : "which one: score, ab or ppl?%s", n ? args[0] : "");
	n--, args++;
	if (sub != AB && n > 1)
		return err_set(e, LP_USAGE, "%s takes one file", names[sub]);
	lineage_init(&l, &spec);
	if (check_options(sub, names[sub], e) || gates_parse(&gs, e) || (regex_text && !(regex = match_regex_new(regex_text, e))))
		goto out;
	scorer = scorer_new(regex, json_mode);
	rc = sub == SCORE ? run_score(n ? args[0] : "-", scorer, &gs, &l, e) :
	     sub == AB    ? run_ab(n, args, scorer, &gs, &l, e) :
	                    run_ppl(n ? args[0] : "-", scorer, &gs, &l, e);
out:
	scorer_free(scorer);
	match_regex_free(regex);
	lineage_release(&l);
	free(gs.g);
	return rc;
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	int rc;

	tool_init(&spec, &argc, &argv);
	rc = run(argc - 1, argv + 1, &e);
	return rc < 0 ? tool_fail(&e) : tool_done(rc);
}
