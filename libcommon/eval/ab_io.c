/* The A/B result as JSON, back from JSON, and as a table. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/xalloc.h"
#include "eval/ab.h"

static void number(struct jw *w, const char *key, double v)
{
	jw_key(w, key);
	jw_f64(w, v);
}

static void count(struct jw *w, const char *key, size_t n)
{
	jw_key(w, key);
	jw_i64(w, (int64_t)n);
}

static void interval(struct jw *w, const char *key, struct interval ci)
{
	jw_key(w, key);
	jw_arr(w);
	jw_f64(w, ci.lo);
	jw_f64(w, ci.hi);
	jw_end_arr(w);
}

static void text(struct jw *w, const char *key, const char *s)
{
	jw_key(w, key);
	jw_str(w, s);
}

static void write_stat(const struct ab_result *r, enum metric m, struct jw *w)
{
	static const char *const words[] = { "worse", "no clear difference", "better" };
	const struct ab_stat *s = &r->stat[m];
	int better = metric_info(m)->better;

	jw_key(w, metric_info(m)->name);
	jw_obj(w);
	count(w, "n", s->n);
	number(w, "tuned", s->tuned);
	if (r->has_base) {
		number(w, "base", s->base);
		number(w, "delta", s->delta);
		interval(w, "delta_ci95", s->ci);
	}
	if (r->has_base && better) {
		count(w, "win", s->win);
		count(w, "tie", s->tie);
		count(w, "loss", s->loss);
		interval(w, "win_rate_ci95", s->win_ci);
		number(w, "sign_test_p", s->p);
		text(w, "better_is", better > 0 ? "higher" : "lower");
		text(w, "verdict", words[ab_verdict(r, m) + 1]);
	}
	jw_end_obj(w);
}

void ab_write(const struct ab_result *r, struct jw *w)
{
	count(w, "pairs", r->n_pairs);
	jw_key(w, "base_run");
	jw_bool(w, r->has_base);
	jw_key(w, "metrics");
	jw_obj(w);
	for (int m = 0; m < N_METRICS; m++)
		if (r->stat[m].n)
			write_stat(r, (enum metric)m, w);
	jw_end_obj(w);
	if (!isnan(r->tuned_ppl)) {
		jw_key(w, "perplexity");
		jw_obj(w);
		number(w, "base", r->base_ppl);
		number(w, "tuned", r->tuned_ppl);
		jw_end_obj(w);
	}
	jw_key(w, "samples");
	jw_arr(w);
	for (size_t i = 0; i < r->n_samples; i++) {
		const struct ab_sample *s = &r->samples[i];

		jw_obj(w);
		jw_key(w, "id");
		jw_raw(w, s->id, strlen(s->id));
		text(w, "prompt", s->prompt);
		text(w, "expected", s->expected);
		text(w, "base", s->base);
		text(w, "tuned", s->tuned);
		number(w, "rougeL_base", s->rouge[0]);
		number(w, "rougeL_tuned", s->rouge[1]);
		jw_end_obj(w);
	}
	jw_end_arr(w);
}

/* --- reading back --- */

static bool get_count(const struct json *o, const char *key, size_t *out)
{
	int64_t v;

	if (!json_get_i64(o, key, 0, &v) || v < 0)
		return false;
	*out = (size_t)v;
	return true;
}

static bool get_interval(const struct json *o, const char *key, struct interval *ci)
{
	const struct json *a = json_get(o, key);

	*ci = (struct interval){ NAN, NAN };
	if (!a || a->type == JSON_NULL)
		return true;
	if (a->type != JSON_ARR || a->n != 2)
		return false;
	if (a->items[0].type == JSON_NULL || a->items[1].type == JSON_NULL)
		return true;
	return json_as_f64(&a->items[0], &ci->lo) && json_as_f64(&a->items[1], &ci->hi);
}

static bool read_stat(const struct json *o, struct ab_stat *s)
{
	return json_is(o, JSON_OBJ) && get_count(o, "n", &s->n) && json_get_f64(o, "tuned", NAN, &s->tuned) &&
	       json_get_f64(o, "base", NAN, &s->base) && json_get_f64(o, "delta", NAN, &s->delta) &&
	       get_interval(o, "delta_ci95", &s->ci) && get_count(o, "win", &s->win) && get_count(o, "tie", &s->tie) &&
	       get_count(o, "loss", &s->loss) && get_interval(o, "win_rate_ci95", &s->win_ci) && json_get_f64(o, "sign_test_p", 1, &s->p);
}

static char *get_text(const struct json *o, const char *key)
{
	const struct json *t = json_get(o, key);

	return json_is(t, JSON_STR) ? xmemdup0(t->s, t->n) : NULL;
}

static void read_sample(const struct json *o, struct ab_result *r)
{
	const struct json *id = json_get(o, "id");
	struct ab_sample *s;
	struct sb b = SB_INIT;
	struct jw w = jw_to(&b);

	r->samples = xgrow(r->samples, &r->cap_samples, r->n_samples + 1, sizeof(*r->samples));
	s = &r->samples[r->n_samples++];
	if (id)
		jw_value(&w, id);
	else
		sb_adds(&b, "null");
	s->id = sb_detach(&b);
	s->prompt = get_text(o, "prompt");
	s->expected = get_text(o, "expected");
	s->base = get_text(o, "base");
	s->tuned = get_text(o, "tuned");
	if (!json_get_f64(o, "rougeL_base", NAN, &s->rouge[0]))
		s->rouge[0] = NAN;
	if (!json_get_f64(o, "rougeL_tuned", NAN, &s->rouge[1]))
		s->rouge[1] = NAN;
}

int ab_read(const struct json *obj, struct ab_result *r, struct err *e)
{
	const struct json *metrics = json_get(obj, "metrics"), *ppl = json_get(obj, "perplexity"), *samples = json_get(obj, "samples");

	memset(r, 0, sizeof(*r));
	if (!json_str_is(json_get(obj, "report"), "ab") || !json_is(metrics, JSON_OBJ))
		return err_set(e, LP_DATA, "not a comparison as judge-eval ab writes it (\"report\":\"ab\")");
	if (!get_count(obj, "pairs", &r->n_pairs) || !json_get_bool(obj, "base_run", true, &r->has_base))
		return err_set(e, LP_DATA, "a field of the comparison has the wrong type: pairs or base_run");
	for (int m = 0; m < N_METRICS; m++) {
		const struct json *o = json_get(metrics, metric_info((enum metric)m)->name);

		if (o && !read_stat(o, &r->stat[m]))
			return err_set(e, LP_DATA, "a field of the metric %s has the wrong type", metric_info((enum metric)m)->name);
	}
	if (!json_get_f64(ppl, "base", NAN, &r->base_ppl) || !json_get_f64(ppl, "tuned", NAN, &r->tuned_ppl))
		return err_set(e, LP_DATA, "perplexity is not a number");
	for (uint32_t i = 0; json_is(samples, JSON_ARR) && i < samples->n; i++)
		read_sample(&samples->items[i], r);
	return 0;
}

/* --- for people --- */

static void row_text(const struct ab_result *r, enum metric m, struct sb *out)
{
	static const char *const words[] = { "worse", "", "better" };
	const struct metric_info *info = metric_info(m);
	const struct ab_stat *s = &r->stat[m];
	double k = info->rate ? 100 : 1;
	int d = m == METRIC_NLL ? 3 : 1;
	char ci[64] = "", wtl[64] = "";

	if (!r->has_base) {
		sb_addf(out, "  %-18s %7.*f%s\n", info->label, d, k * s->tuned, info->rate ? "%" : "");
		return;
	}
	snprintf(ci, sizeof(ci), "[%+.*f, %+.*f]", d, k * s->ci.lo, d, k * s->ci.hi);
	if (info->better)
		snprintf(wtl, sizeof(wtl), "%zu/%zu/%zu", s->win, s->tie, s->loss);
	sb_addf(out, "  %-18s %7.*f %7.*f %+7.*f  %-16s %-9s %s", info->label, d, k * s->base, d, k * s->tuned, d, k * s->delta, ci, wtl,
	        words[ab_verdict(r, m) + 1]);
	while (out->s[out->len - 1] == ' ')
		out->s[--out->len] = '\0';
	sb_addc(out, '\n');
}

void ab_text(const struct ab_result *r, struct sb *out)
{
	sb_addf(out, "%zu %s (rates in per cent)\n", r->n_pairs, r->has_base ? "pairs" : "records, no base run");
	if (r->has_base)
		sb_addf(out, "  %-18s %7s %7s %7s  %-16s win/tie/loss\n", "metric", "base", "tuned", "delta", "95 % interval");
	for (int m = 0; m < N_METRICS; m++)
		if (r->stat[m].n)
			row_text(r, (enum metric)m, out);
	if (!isnan(r->tuned_ppl) && r->has_base)
		sb_addf(out, "  %-18s %7.2f %7.2f %+7.2f\n", "Perplexity", r->base_ppl, r->tuned_ppl, r->tuned_ppl - r->base_ppl);
	else if (!isnan(r->tuned_ppl))
		sb_addf(out, "  %-18s %7.2f\n", "Perplexity", r->tuned_ppl);
}
