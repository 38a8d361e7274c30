#include "eval/summary.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

void summary_init(struct summary *s, size_t keep)
{
	memset(s, 0, sizeof(*s));
	s->keep = keep;
	s->ppl = NAN;
}

void summary_release(struct summary *s)
{
	for (int m = 0; m < N_METRICS; m++)
		free(s->col[m].x);
	sb_release(&s->examples);
}

static void add_example(struct summary *s, const struct verdict *v)
{
	struct jw w = jw_to(&s->examples);

	if (s->n_examples++)
		sb_addc(&s->examples, ',');
	jw_obj(&w);
	jw_key(&w, "id");
	jw_raw(&w, v->id, v->id_len);
	verdict_write_review(v, &w);
	jw_key(&w, "rouge1");
	jw_f64(&w, v->m[METRIC_ROUGE1]);
	jw_key(&w, "rougeL");
	jw_f64(&w, v->m[METRIC_ROUGEL]);
	jw_end_obj(&w);
}

void summary_add(struct summary *s, const struct verdict *v)
{
	s->n_scored++;
	s->n_expected += v->has_expected;
	for (int m = 0; m < N_METRICS; m++) {
		struct column *c = &s->col[m];

		if (isnan(v->m[m]))
			continue;
		c->x = xgrow(c->x, &c->cap, c->n + 1, sizeof(*c->x));
		c->x[c->n++] = v->m[m];
	}
	if (!isnan(v->nll)) {
		s->nll += v->nll;
		s->nll_tokens += v->n_tokens;
	}
	if (v->finish) {
		s->n_stop += strcmp(v->finish, "stop") == 0;
		s->n_length += strcmp(v->finish, "length") == 0;
		s->n_other += strcmp(v->finish, "stop") != 0 && strcmp(v->finish, "length") != 0;
	}
	if (s->n_examples < s->keep && v->response)
		add_example(s, v);
}

void summary_close(struct summary *s, uint64_t seed, unsigned resamples)
{
	for (int m = 0; m < N_METRICS; m++) {
		struct column *c = &s->col[m];

		s->ci[m] = stats_mean_ci(c->x, c->n, seed, resamples);
		s->mean[m] = stats_mean(c->x, c->n);
		s->median[m] = stats_median(c->x, c->n);
	}
	s->ppl = s->nll_tokens ? exp(s->nll / (double)s->nll_tokens) : NAN;
}

bool summary_has_task_metric(const struct summary *s)
{
	for (int m = 0; m < N_METRICS; m++)
		if (s->col[m].n && metric_info((enum metric)m)->needs_text)
			return true;
	return false;
}

double summary_value(const struct summary *s, const struct gate *g)
{
	if (g->of != GATE_TUNED)
		return NAN;
	return g->metric == GATE_PPL ? s->ppl : s->mean[g->metric];
}

static void member(struct jw *w, const char *key, double v)
{
	jw_key(w, key);
	jw_f64(w, v);
}

static void count(struct jw *w, const char *key, size_t n)
{
	jw_key(w, key);
	jw_i64(w, (int64_t)n);
}

void summary_write(const struct summary *s, struct jw *w)
{
	count(w, "records", s->n_total);
	count(w, "scored", s->n_scored);
	count(w, "with_expected", s->n_expected);
	jw_key(w, "metrics");
	jw_obj(w);
	for (int m = 0; m < N_METRICS; m++) {
		if (!s->col[m].n)
			continue;
		jw_key(w, metric_info((enum metric)m)->name);
		jw_obj(w);
		member(w, "mean", s->mean[m]);
		member(w, "median", s->median[m]);
		jw_key(w, "ci95");
		jw_arr(w);
		jw_f64(w, s->ci[m].lo);
		jw_f64(w, s->ci[m].hi);
		jw_end_arr(w);
		count(w, "n", s->col[m].n);
		jw_end_obj(w);
	}
	jw_end_obj(w);
	if (s->nll_tokens) {
		jw_key(w, "perplexity");
		jw_obj(w);
		member(w, "value", s->ppl);
		member(w, "nll", s->nll);
		count(w, "tokens", s->nll_tokens);
		jw_end_obj(w);
	}
	if (s->n_stop + s->n_length + s->n_other) {
		jw_key(w, "finish");
		jw_obj(w);
		count(w, "stop", s->n_stop);
		count(w, "length", s->n_length);
		count(w, "other", s->n_other);
		jw_end_obj(w);
	}
	if (s->n_examples) {
		jw_key(w, "examples");
		jw_arr(w);
		jw_raw(w, s->examples.s, s->examples.len);
		jw_end_arr(w);
	}
}

void summary_text(const struct summary *s, struct sb *out)
{
	sb_addf(out, "%zu of %zu records scored, %zu with an expected answer\n", s->n_scored, s->n_total, s->n_expected);
	sb_addf(out, "  %-18s %9s %9s   %-19s %7s\n", "metric", "mean", "median", "95 % interval", "n");
	for (int m = 0; m < N_METRICS; m++) {
		const struct metric_info *info = metric_info((enum metric)m);
		double k = info->rate ? 100 : 1;
		char ci[64];

		if (!s->col[m].n)
			continue;
		snprintf(ci, sizeof(ci), "%.*f .. %.*f", info->rate ? 1 : 2, k * s->ci[m].lo, info->rate ? 1 : 2, k * s->ci[m].hi);
		sb_addf(out, "  %-18s %8.*f%c %8.*f%c   %-19s %7zu\n", info->label, info->rate ? 1 : 2, k * s->mean[m], info->rate ? '%' : ' ',
		        info->rate ? 1 : 2, k * s->median[m], info->rate ? '%' : ' ', ci, s->col[m].n);
	}
	if (!isnan(s->ppl))
		sb_addf(out, "  %-18s %9.3f             (%llu tokens)\n", "Perplexity", s->ppl, (unsigned long long)s->nll_tokens);
	if (s->n_length)
		sb_addf(out, "  %zu answer%s cut at the token limit\n", s->n_length, s->n_length == 1 ? " was" : "s were");
}
