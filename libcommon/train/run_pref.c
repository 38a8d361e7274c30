/* What a run by a preference method has beside any other: rows that are pairs or answers with a verdict, the reference's pass over
 * them, and what is told of rewards. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/xalloc.h"
#include "train/pref.h"
#include "train/run_int.h"

int64_t run_units(const struct dataset *d)
{
	return d->kind == DATA_PLAIN ? d->n_targets : d->n_rows;
}

/* --- data --- */

int run_pref_rows(const struct run *r, struct dataset *d, const char *name, struct err *e)
{
	const struct kn_pref_rule *p = r->c->pref;

	if (!p && d->kind != DATA_PLAIN)
		return err_set(e, LP_USAGE, "'%s' holds preferences, and --method sft learns from examples; say --method dpo (or another of its kind), or tokenise the good answers alone", name);
	if (p && d->kind == DATA_PLAIN && !(r->c->scores && p->method == KN_PREF_REWARD)) /* which needs no pair to give a score */
		return err_set(e, LP_USAGE, "'%s' holds no preferences, which --method %s learns from: records with prompt, chosen and rejected, through chat-template and tokenize", name,
		               pref_name(p->method));
	if (p && p->method != KN_PREF_KTO && d->kind == DATA_LABELS)
		return err_set(e, LP_USAGE, "'%s' holds single answers with a label, and --method %s learns from pairs; say --method kto", name, pref_name(p->method));
	if (p && p->method == KN_PREF_KTO)
		dataset_unpair(d);
	return 0;
}

int run_pref_mismatch(struct run *r, struct err *e)
{
	if (!r->c->pref || r->c->pref->method != KN_PREF_KTO)
		return 0;
	if (r->train.n_rows && dataset_mismatch(&r->train, &r->mismatched, e) < 0)
		return -1;
	for (size_t i = 0; i < r->n_evals; i++)
		if (dataset_mismatch(&r->evals[i].d, &r->evals[i].mismatched, e) < 0)
			return err_where(e, r->evals[i].file, 0);
	return 0;
}

/* --- the reference --- */

/* Rows that some step takes, where the run ends before it has seen them all; NULL: all of them. */
static bool *rows_wanted(struct run *r)
{
	int64_t n = r->total_steps * r->c->batch * r->c->accumulate;
	bool *wanted;

	if (n >= r->train.n_rows)
		return NULL;
	wanted = xcalloc((size_t)r->train.n_rows, sizeof(*wanted));
	for (int64_t i = 0; i < n; i++)
		wanted[order_row(&r->order, 0, i)] = true;
	return wanted;
}

static bool any(const bool *wanted, int64_t from, int64_t to)
{
	while (wanted && from < to && !wanted[from])
		from++;
	return from < to;
}

/* What the model gives d's sequences, in micro-batches of rows as they stand: so it does not depend on the order of steps, nor on where a
 * run was resumed. */
static int values(struct run *r, const struct dataset *d, const bool *wanted, double *value, struct err *e)
{
	for (int64_t row = 0, to; row < d->n_rows; row = to) {
		int64_t first = d->row_seq[row];

		to = row + r->c->batch < d->n_rows ? row + r->c->batch : d->n_rows;
		if (!any(wanted, row, to))
			continue;
		microbatch_clear(&r->mb);
		for (int64_t i = row; i < to; i++)
			microbatch_add(&r->mb, d, i);
		engine_run(&r->g, &r->mb, false, 1);
		if (engine_values(&r->g, value + first, d->row_seq[to] - first, e) < 0)
			return -1;
		progress("row %lld of %lld", (long long)to, (long long)d->n_rows);
	}
	return 0;
}

static int refer(struct run *r, struct dataset *d, const bool *wanted, struct err *e)
{
	d->ref = xcalloc((size_t)d->n_seqs + 1, sizeof(*d->ref));
	return values(r, d, wanted, d->ref, e);
}

static int refer_all(struct run *r, struct err *e)
{
	bool *wanted = rows_wanted(r);
	int rc = r->train.n_rows ? refer(r, &r->train, wanted, e) : 0;

	if (rc == 0 && r->mismatched.n_rows)
		rc = refer(r, &r->mismatched, wanted, e);
	free(wanted);
	for (size_t i = 0; i < r->n_evals && rc == 0; i++) {
		rc = refer(r, &r->evals[i].d, NULL, e);
		if (rc == 0 && r->evals[i].mismatched.n_rows)
			rc = refer(r, &r->evals[i].mismatched, NULL, e);
	}
	return rc;
}

int run_reference(struct run *r, struct err *e)
{
	struct lora *lora = r->g.lora;
	double begin = now_seconds();
	int rc;

	if (!r->c->pref || !pref_has_reference(r->c->pref->method))
		return 0;
	/* one that the run starts from is part of the reference, unless the base is asked for; a new one changes nothing yet, and with it the
	 * products are those of steps */
	if (r->c->adapter && (r->c->base_reference || r->c->eval_only))
		r->g.lora = NULL;
	engine_set_dropout(&r->g, false, 0, 0);
	engine_set_drift(&r->g, false, 1);
	engine_begin(&r->g);
	rc = refer_all(r, e);
	r->g.lora = lora;
	progress_done();
	return rc < 0 ? -1 : log_metric("reference", e, "\"rows\":%lld,\"seconds\":%.3f", (long long)r->train.n_rows, now_seconds() - begin);
}

/* --- what each answer gets --- */

static void score_line(const struct run *r, const struct heldout *h, int64_t s, double value, struct sb *out)
{
	const struct dataset *d = &h->d;
	struct jw w = jw_to(out);

	jw_obj(&w);
	jw_key(&w, "set");
	jw_str(&w, h->name);
	jw_key(&w, "record");
	jw_i64(&w, d->seq_record[s] + 1);
	if (d->kind != DATA_PLAIN) {
		jw_key(&w, "side");
		jw_str(&w, d->good[s] ? "chosen" : "rejected");
	}
	jw_key(&w, r->c->pref->method == KN_PREF_REWARD ? "score" : "logp");
	jw_f64(&w, value);
	if (d->ref) {
		jw_key(&w, "reference");
		jw_f64(&w, d->ref[s]);
	}
	jw_end_obj(&w);
	sb_addc(out, '\n');
}

int run_scores(struct run *r, const struct heldout *h, struct sb *out, struct err *e)
{
	const struct dataset *d = &h->d;
	double *value = xcalloc((size_t)d->n_seqs + 1, sizeof(*value));
	int rc = values(r, d, NULL, value, e);

	for (int64_t s = 0; s < d->n_seqs && rc == 0; s++)
		score_line(r, h, s, value[s], out);
	free(value);
	return rc;
}

/* --- what is told --- */

static double mean(double sum, int64_t n)
{
	return n ? sum / (double)n : (double)NAN;
}

int run_told_means(const struct run *r, const struct told *t, const char *names[TOLD_MEANS], double means[TOLD_MEANS])
{
	const struct kn_pref_rule *p = r->c->pref;
	double chosen = mean(t->sums[KN_PREF_REWARD_CHOSEN], t->chosen), rejected = mean(t->sums[KN_PREF_REWARD_REJECTED], t->rejected);
	const struct {
		const char *name;
		double mean;
		bool on;
	} all[] = { { "rewards/chosen", chosen, true },
		    { "rewards/rejected", rejected, true },
		    { "rewards/margins", chosen - rejected, true },
		    { "rewards/accuracies", mean(t->sums[KN_PREF_RIGHT], t->chosen), p && p->method != KN_PREF_KTO },
		    { "logps/chosen", mean(t->sums[KN_PREF_VALUE_CHOSEN], t->chosen), p && p->method != KN_PREF_REWARD },
		    { "logps/rejected", mean(t->sums[KN_PREF_VALUE_REJECTED], t->rejected), p && p->method != KN_PREF_REWARD },
		    { "kl", fmax(0, mean(t->sums[KN_PREF_DRIFT], t->chosen + t->rejected)), p && p->method == KN_PREF_KTO } };
	int n = 0;

	if (r->rollout)
		return run_grpo_means(r, t, names, means);
	for (size_t i = 0; p && i < sizeof(all) / sizeof(*all); i++)
		if (all[i].on) {
			names[n] = all[i].name;
			means[n++] = all[i].mean;
		}
	return n;
}

const char *run_told_fields(const struct run *r, const struct told *t, char text[TOLD_TEXT])
{
	const char *names[TOLD_MEANS];
	double means[TOLD_MEANS];
	int n = run_told_means(r, t, names, means), used = 0;

	text[0] = 0;
	for (int i = 0; i < n; i++)
		used += snprintf(text + used, (size_t)(TOLD_TEXT - used), ",\"%s\":%s", names[i], log_num(means[i]));
	return text;
}
