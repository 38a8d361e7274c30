/* Held-out data: the sets, their losses, and what follows from the first of them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/xalloc.h"
#include "train/run_int.h"

#define NAME_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

/* "NAME=FILE", or a file whose name without its folder and .lps is the set's. */
static int name_set(struct heldout *h, const char *arg, struct err *e)
{
	const char *eq = strchr(arg, '='), *slash, *dot;
	size_t n;

	h->path = arg;
	if (eq && !memchr(arg, '/', (size_t)(eq - arg))) {
		h->path = eq + 1;
		n = (size_t)(eq - arg);
		if (n == 0 || n >= sizeof(h->name) || strspn(arg, NAME_CHARS) < n)
			return err_set(e, LP_USAGE, "--eval %s: a set's name has 1 to %zu letters, digits, or one of . _ -; write ./%s if it is a file's", arg,
			               sizeof(h->name) - 1, arg);
		memcpy(h->name, arg, n);
		return 0;
	}
	if (strcmp(arg, "-") == 0) {
		snprintf(h->name, sizeof(h->name), "stdin");
		return 0;
	}
	slash = strrchr(arg, '/');
	slash = slash ? slash + 1 : arg;
	dot = strrchr(slash, '.');
	n = dot && strcmp(dot, ".lps") == 0 && dot > slash ? (size_t)(dot - slash) : strlen(slash);
	snprintf(h->name, sizeof(h->name), "%.*s", n < sizeof(h->name) ? (int)n : (int)sizeof(h->name) - 1, slash);
	for (char *c = h->name; *c; c++)
		if (!strchr(NAME_CHARS, *c))
			*c = '_';
	return 0;
}

static int load_tokens(const struct run *r, struct heldout *h, struct err *e)
{
	struct in *in;

	in = in_open(h->path, e);
	if (!in)
		return -1;
	snprintf(h->file, sizeof(h->file), "%s", in_name(in));
	if (dataset_load_take(&h->d, in, r->desc.vocab, run_positions(r), e) < 0)
		return -1;
	if (r->train.tokenizer_hash && h->d.tokenizer_hash && strcmp(r->train.tokenizer_hash, h->d.tokenizer_hash) != 0)
		return err_set(e, LP_USAGE, "'%s' was made by another tokenizer than the training tokens", h->file);
	return run_pref_rows(r, &h->d, h->file, e);
}

static int load_set(struct run *r, struct heldout *h, const char *arg, struct err *e)
{
	if (name_set(h, arg, e) < 0 || (r->rollout ? run_grpo_load_eval(r, h, e) : load_tokens(r, h, e)) < 0)
		return -1;
	for (const struct heldout *o = r->evals; o < h; o++)
		if (strcmp(o->name, h->name) == 0)
			return err_set(e, LP_USAGE, "two held-out sets are called '%s'; give --eval NAME=FILE", h->name);
	return 0;
}

int run_load_evals(struct run *r, struct err *e)
{
	r->evals = xcalloc(r->c->n_evals + 1, sizeof(*r->evals));
	for (size_t i = 0; i < r->c->n_evals; i++) {
		r->n_evals++; /* also when it fails: it is released with the others */
		if (load_set(r, &r->evals[i], r->c->evals[i], e) < 0)
			return -1;
	}
	return 0;
}

void run_release_evals(struct run *r)
{
	for (size_t i = 0; i < r->n_evals; i++) {
		dataset_release(&r->evals[i].d);
		dataset_release(&r->evals[i].mismatched);
	}
	free(r->evals);
}

static void keep_best(struct run *r)
{
	if (!r->best)
		r->best = xcalloc((size_t)run_params(r), sizeof(*r->best));
	run_get_params(r, r->best);
}

int64_t train_stale_evals(int64_t before, double loss, double best, double min_delta)
{
	/* a loss that is not a number betters nothing */
	return loss < best && (isinf(best) || best - loss > min_delta) ? 0 : before + 1;
}

/* The first set's loss decides about the best adapter and the end. */
static bool decide(struct run *r, double loss)
{
	r->stale = train_stale_evals(r->stale, loss, r->best_loss, r->c->min_delta);
	if (!(loss < r->best_loss))
		return false;
	r->best_loss = loss;
	r->best_step = r->step;
	if (r->c->restore_best)
		keep_best(r);
	return true;
}

static int evaluate(struct run *r, const struct heldout *h, double *loss, struct told *told, struct err *e)
{
	return r->rollout ? run_grpo_evaluate(r, h, loss, told, e) : run_evaluate(r, &h->d, &h->mismatched, loss, told, e);
}

int run_eval_sets(struct run *r, struct err *e)
{
	for (size_t i = 0; i < r->n_evals; i++) {
		const struct heldout *h = &r->evals[i];
		double loss, begin = now_seconds();
		char best[24] = "", fields[TOLD_TEXT];
		struct told told;

		if (evaluate(r, h, &loss, &told, e) < 0)
			return -1;
		if (i == 0)
			snprintf(best, sizeof(best), ",\"best\":%s", decide(r, loss) ? "true" : "false");
		if (log_metric(i == 0 ? "eval" : "eval_set", e, "\"step\":%lld,\"epoch\":%.6f,\"set\":\"%s\",\"loss\":%s,\"tokens\":%lld,\"seconds\":%.3f%s%s",
		               (long long)r->step, run_epoch(r), h->name, log_num(loss), (long long)(r->rollout ? told.targets : h->d.n_targets), now_seconds() - begin, best,
		               run_told_fields(r, &told, fields)) < 0)
			return -1;
		if (run_tell_eval(r, h, loss, &told, e) < 0)
			return -1;
	}
	return 0;
}

static void describe_told(const struct run *r, const struct told *told, struct jw *w)
{
	const char *names[TOLD_MEANS];
	double means[TOLD_MEANS];
	int n = run_told_means(r, told, names, means);

	for (int i = 0; i < n; i++) {
		jw_key(w, names[i]);
		jw_f64(w, means[i]);
	}
}

static void describe_loss(const struct run *r, const struct heldout *h, double loss, const struct told *told, struct sb *json)
{
	struct jw w = jw_to(json);

	jw_obj(&w);
	jw_key(&w, "id");
	jw_str(&w, h->path == r->c->evals[h - r->evals] ? h->file : h->name);
	jw_key(&w, "loss");
	jw_f64(&w, loss);
	if (r->c->pref || r->rollout) {
		describe_told(r, told, &w);
		jw_key(&w, "rows");
		jw_i64(&w, r->rollout ? run_grpo_held(r, h) : h->d.n_rows);
	} else {
		jw_key(&w, "nll");
		jw_f64(&w, loss * (double)h->d.n_targets);
		jw_key(&w, "perplexity");
		jw_f64(&w, exp(loss));
	}
	jw_key(&w, "tokens");
	jw_i64(&w, r->rollout ? told->targets : h->d.n_targets);
	if (!r->rollout) {
		jw_key(&w, "sequences");
		jw_i64(&w, h->d.n_seqs);
	}
	jw_key(&w, "base_id");
	jw_str(&w, r->g.w.identity);
	jw_end_obj(&w);
	sb_addc(json, '\n');
}

static int write_scores(struct run *r, struct err *e)
{
	struct sb text = SB_INIT;
	struct out *o;
	int rc = 0;

	for (size_t i = 0; i < r->n_evals && rc == 0; i++)
		rc = run_scores(r, &r->evals[i], &text, e);
	o = rc == 0 ? out_open(strcmp(r->c->scores, "-") ? r->c->scores : NULL, e) : NULL;
	if (o)
		rc = out_write(o, sb_str(&text), text.len, e) < 0 ? -1 : out_commit(o, e);
	sb_release(&text);
	return o ? rc : -1;
}

int train_eval_only(const struct train_config *c, struct sb *json, struct err *e)
{
	struct run r;
	double loss;
	struct told told;
	int rc = run_prepare(&r, c, true, e);

	if (rc == 0)
		rc = run_load(&r, e);
	if (rc == 0 && !c->adapter)
		r.g.lora = NULL;
	if (rc == 0 && c->scores)
		rc = write_scores(&r, e);
	for (size_t i = 0; i < r.n_evals && rc == 0; i++) {
		if (c->pref && r.evals[i].d.kind == DATA_PLAIN)
			continue; /* scored alone */
		rc = evaluate(&r, &r.evals[i], &loss, &told, e);
		if (rc == 0)
			describe_loss(&r, &r.evals[i], loss, &told, json);
	}
	run_release(&r);
	return rc;
}
