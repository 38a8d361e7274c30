#include "eval/ab.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "eval/join.h"

struct row {
	double base[N_METRICS], tuned[N_METRICS];
	double base_nll, tuned_nll;
	uint64_t base_tokens, tuned_tokens;
	char prompt_hash[33];
	bool matched;
};

struct ab {
	struct join *ids;
	struct row *rows;
	size_t cap_rows, n_base, n_tuned, keep;
	struct ab_sample *samples;
	size_t n_samples, cap_samples; /* sample i is row i */
};

struct ab *ab_new(size_t keep_samples)
{
	struct ab *a = xcalloc(1, sizeof(*a));

	a->ids = join_new();
	a->keep = keep_samples;
	return a;
}

static void sample_release(struct ab_sample *s)
{
	free(s->id);
	free(s->prompt);
	free(s->expected);
	free(s->base);
	free(s->tuned);
}

void ab_free(struct ab *a)
{
	if (!a)
		return;
	for (size_t i = 0; i < a->n_samples; i++)
		sample_release(&a->samples[i]);
	free(a->samples);
	free(a->rows);
	join_free(a->ids);
	free(a);
}

void ab_result_release(struct ab_result *r)
{
	for (size_t i = 0; i < r->n_samples; i++)
		sample_release(&r->samples[i]);
	free(r->samples);
	memset(r, 0, sizeof(*r));
}

static char *cut(const char *s, size_t len, size_t chars)
{
	return s ? xmemdup0(s, match_prefix(s, len, chars)) : NULL;
}

/* Row and, for the first few, texts of a new id. -1: the id is there already. */
static int64_t new_row(struct ab *a, const struct verdict *v)
{
	int64_t i = join_add(a->ids, v->id, v->id_len);

	if (i < 0)
		return -1;
	a->rows = xgrow(a->rows, &a->cap_rows, (size_t)i + 1, sizeof(*a->rows));
	memset(&a->rows[i], 0, sizeof(*a->rows));
	for (int m = 0; m < N_METRICS; m++)
		a->rows[i].base[m] = a->rows[i].tuned[m] = NAN;
	memcpy(a->rows[i].prompt_hash, v->prompt_hash, sizeof(v->prompt_hash));
	if ((size_t)i < a->keep) {
		a->samples = xgrow(a->samples, &a->cap_samples, a->n_samples + 1, sizeof(*a->samples));
		a->samples[a->n_samples++] = (struct ab_sample){
			.id = xstrdup(join_id(a->ids, (size_t)i)),
			.prompt = cut(v->prompt, v->n_prompt, VERDICT_PROMPT_CHARS),
			.expected = cut(v->expected, v->n_expected, VERDICT_ANSWER_CHARS),
			.rouge = { NAN, NAN },
		};
	}
	return i;
}

static void fill_base(struct ab *a, size_t i, const struct verdict *v)
{
	struct row *r = &a->rows[i];

	memcpy(r->base, v->m, sizeof(r->base));
	r->base_nll = isnan(v->nll) ? 0 : v->nll;
	r->base_tokens = v->n_tokens;
	if (i < a->n_samples) {
		a->samples[i].base = cut(v->response, v->n_response, VERDICT_ANSWER_CHARS);
		a->samples[i].rouge[0] = v->m[METRIC_ROUGEL];
	}
}

static void fill_tuned(struct ab *a, size_t i, const struct verdict *v)
{
	struct row *r = &a->rows[i];

	memcpy(r->tuned, v->m, sizeof(r->tuned));
	r->tuned_nll = isnan(v->nll) ? 0 : v->nll;
	r->tuned_tokens = v->n_tokens;
	r->matched = true;
	a->n_tuned++;
	if (i < a->n_samples) {
		a->samples[i].tuned = cut(v->response, v->n_response, VERDICT_ANSWER_CHARS);
		a->samples[i].rouge[1] = v->m[METRIC_ROUGEL];
	}
}

int ab_add_base(struct ab *a, const struct verdict *v, struct err *e)
{
	int64_t i = new_row(a, v);

	if (i < 0)
		return err_set(e, LP_DATA, "duplicate id %.200s: each record needs an id of its own", v->id);
	fill_base(a, (size_t)i, v);
	a->n_base++;
	return 0;
}

int ab_add_tuned(struct ab *a, const struct verdict *v, struct err *e)
{
	int64_t i = join_find(a->ids, v->id, v->id_len);
	struct row *r;

	if (i < 0 && a->n_base)
		return err_set(e, LP_DATA, "id %.200s has no partner in the base run: run both models on the same prompts", v->id);
	if (i < 0)
		i = new_row(a, v);
	r = &a->rows[i];
	if (r->matched)
		return err_set(e, LP_DATA, "duplicate id %.200s: each record needs an id of its own", v->id);
	if (*r->prompt_hash && *v->prompt_hash && strcmp(r->prompt_hash, v->prompt_hash) != 0)
		return err_set(e, LP_DATA, "id %.200s has another prompt than in the base run: run both models on the same prompts", v->id);
	fill_tuned(a, (size_t)i, v);
	return 0;
}

/* Statistics of one metric; x is room for 3 n values. */
static void stat_of(const struct ab *a, int m, uint64_t seed, unsigned resamples, double *x, struct ab_stat *s)
{
	size_t n = join_rows(a->ids);
	double *base = x, *tuned = x + n;
	const double *delta = x + 2 * n;
	int better = metric_info((enum metric)m)->better;

	memset(s, 0, sizeof(*s));
	for (size_t i = 0; i < n; i++) {
		const struct row *r = &a->rows[i];
		double d = r->tuned[m] - r->base[m];

		if (isnan(r->tuned[m]) || (a->n_base && isnan(r->base[m])))
			continue;
		base[s->n] = r->base[m];
		tuned[s->n] = r->tuned[m];
		x[2 * n + s->n++] = d;
		if (!better || !a->n_base)
			continue;
		/* Rounding is no win. */
		s->tie += fabs(d) <= 1e-12;
		s->win += d * better > 1e-12;
		s->loss += d * better < -1e-12;
	}
	s->base = stats_mean(base, s->n);
	s->tuned = stats_mean(tuned, s->n);
	s->delta = stats_mean(delta, s->n);
	s->p = stats_sign_test(s->win, s->loss);
	s->win_ci = stats_wilson(s->win, s->n);
	s->ci = stats_mean_ci(delta, a->n_base ? s->n : 0, seed, resamples);
}

static void perplexities(const struct ab *a, struct ab_result *r)
{
	double base = 0, tuned = 0;
	uint64_t n_base = 0, n_tuned = 0;

	for (size_t i = 0; i < join_rows(a->ids); i++) {
		base += a->rows[i].base_nll;
		tuned += a->rows[i].tuned_nll;
		n_base += a->rows[i].base_tokens;
		n_tuned += a->rows[i].tuned_tokens;
	}
	r->base_ppl = n_base ? exp(base / (double)n_base) : NAN;
	r->tuned_ppl = n_tuned ? exp(tuned / (double)n_tuned) : NAN;
}

int ab_take_samples(struct ab *a, struct ab_result *r, struct err *e)
{
	memset(r, 0, sizeof(*r));
	if (!a->n_tuned)
		return err_set(e, LP_DATA, "the tuned run holds no records");
	for (size_t i = 0; i < join_rows(a->ids); i++)
		if (!a->rows[i].matched)
			return err_set(e, LP_DATA, "id %.200s of the base run has no partner in the tuned run: run both models on the same prompts",
			               join_id(a->ids, i));
	r->n_pairs = join_rows(a->ids);
	r->has_base = a->n_base > 0;
	r->base_ppl = r->tuned_ppl = NAN;
	r->samples = a->samples;
	r->n_samples = a->n_samples;
	r->cap_samples = a->cap_samples;
	a->samples = NULL;
	a->n_samples = a->cap_samples = 0;
	return 0;
}

int ab_finish(struct ab *a, bool no_base, uint64_t seed, unsigned resamples, struct ab_result *r, struct err *e)
{
	size_t n = join_rows(a->ids);
	bool answers = false;
	double *x;

	memset(r, 0, sizeof(*r));
	if (!a->n_base && !no_base)
		return err_set(e, LP_DATA, "the base run holds no records: there is nothing to compare with");
	if (ab_take_samples(a, r, e))
		return -1;
	x = lp_try_alloc(n, 3 * sizeof(*x), "the comparison", e);
	if (!x)
		return -1;
	for (int m = 0; m < N_METRICS; m++) {
		stat_of(a, m, seed, resamples, x, &r->stat[m]);
		answers |= r->stat[m].n && metric_info((enum metric)m)->needs_text;
	}
	free(x);
	perplexities(a, r);
	if (!answers)
		return err_set(e, LP_USAGE, "nothing but likelihood or length can be compared, which does not say whether answers are better: "
		               "give completions with expected answers, or --regex or --json");
	return 0;
}

int ab_verdict(const struct ab_result *r, enum metric m)
{
	const struct ab_stat *s = &r->stat[m];
	int better = metric_info(m)->better;

	if (!s->n || !better || !r->has_base || isnan(s->ci.lo))
		return 0;
	if (s->n < AB_FEW && s->p >= 0.05)
		return 0;
	return s->ci.lo > 0 ? better : s->ci.hi < 0 ? -better : 0;
}

double ab_value(const struct ab_result *r, const struct gate *g)
{
	const struct ab_stat *s = g->metric < N_METRICS ? &r->stat[g->metric] : NULL;

	if (s && !s->n)
		return NAN;
	switch (g->of) {
	case GATE_TUNED:
		return s ? s->tuned : r->tuned_ppl;
	case GATE_BASE:
		return s ? s->base : r->base_ppl;
	case GATE_DELTA:
		return s ? s->delta : r->tuned_ppl - r->base_ppl;
	case GATE_WIN:
		return s && r->has_base ? (double)s->win / (double)s->n : NAN;
	}
	return NAN;
}
