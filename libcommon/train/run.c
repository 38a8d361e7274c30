/* The run itself: steps in order, what is logged, saved and kept. */
#include "train/run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/xalloc.h"
#include "train/checkpoint.h"
#include "train/run_int.h"

/* --- the plan in words --- */

static void add_grouped(struct sb *out, int64_t v)
{
	char digits[32];
	int n = snprintf(digits, sizeof(digits), "%lld", (long long)v);

	for (int i = 0; i < n; i++) {
		if (i && (n - i) % 3 == 0)
			sb_addc(out, ',');
		sb_addc(out, digits[i]);
	}
}

static void add_bytes(struct sb *out, const char *name, uint64_t bytes)
{
	sb_addf(out, "  %-34s %16llu bytes %12.1f MiB\n", name, (unsigned long long)bytes, (double)bytes / (1 << 20));
}

static void describe(const struct run *r, struct sb *out)
{
	const struct model_desc *m = &r->desc;
	const struct engine *g = &r->g;
	int64_t total = model_params(m) + r->lora.n_params;
	char name[64];

	sb_addf(out, "model      %s, %lld layers, hidden %lld, %lld positions\n", m->family, (long long)m->layers, (long long)m->hidden, (long long)m->max_pos);
	sb_addf(out, "device     %s\n", r->dev.name);
	if (r->scaler.on)
		sb_addf(out, "loss scale from %g\n", r->scaler.scale);
	sb_addf(out, "base       %s%s%s\n", !g->w.nf4 ? dtype_hf_name(g->w.dtype) : m->bnb.plain ? "NF4" : "NF4, double quantisation",
	        m->bnb.on ? ", as the checkpoint has it" : "", g->w.fp8 ? "; products in fp8" : "");
	sb_addf(out, "adapter    LoRA r %lld, alpha %g, alpha/r %g, dropout %g\n", (long long)r->lora.rank, r->lora.alpha, (double)r->lora.scale, r->lora.dropout);
	sb_adds(out, "trainable  ");
	add_grouped(out, r->lora.n_params);
	sb_adds(out, " of ");
	add_grouped(out, total);
	sb_addf(out, " parameters (%.3f %%)\n", 100.0 * (double)r->lora.n_params / (double)total);
	if (r->train.n_rows)
		sb_addf(out, "data       %lld rows, %lld sequences, %lld tokens, %lld targets\n", (long long)r->train.n_rows, (long long)r->train.n_seqs,
		        (long long)r->train.n_tokens, (long long)r->train.n_targets);
	if (r->total_steps)
		sb_addf(out, "steps      %lld of %lld x %lld rows, warm-up %lld\n", (long long)r->total_steps, (long long)r->c->batch, (long long)r->c->accumulate,
		        (long long)r->warmup);
	sb_addf(out, "plan       micro-batch of %lld tokens; of %lld layers %lld keep activations, %lld most of them, %lld send those to host memory and back, %lld run again; %lld keep dense weights; inputs of %lld wait in host memory\n",
	        (long long)g->shape.max_tokens, (long long)m->layers, (long long)g->full, (long long)g->lean, (long long)g->travel, (long long)(m->layers - g->full - g->lean - g->travel),
	        (long long)(g->w.dense ? m->layers : g->w.cached_layers), (long long)g->away);
	for (int i = 0; i < ARENA_N; i++)
		for (int j = 0; j < g->plan[i].n_items; j++)
			add_bytes(out, g->plan[i].items[j].name, g->plan[i].items[j].bytes);
	if (r->dev.overhead)
		add_bytes(out, "context and libraries", r->dev.overhead);
	add_bytes(out, "total", engine_bytes(g) + r->dev.overhead);
	for (int j = 0; j < g->host_plan.n_items; j++) {
		snprintf(name, sizeof(name), "host: %s", g->host_plan.items[j].name);
		add_bytes(out, name, g->host_plan.items[j].bytes);
	}
	if (g->host_plan.used)
		add_bytes(out, "page-locked host memory", g->host_plan.used);
}

int train_dry_run(const struct train_config *c, struct sb *text, struct err *e)
{
	struct run r;
	int rc = run_prepare(&r, c, false, e);
	bool short_of_memory = rc < 0 && e->code == LP_DEVICE && r.g.w.layers;

	if (rc == 0 || short_of_memory) {
		describe(&r, text);
		sb_addf(text, "%s %.1f MiB%s\n", short_of_memory ? "does not fit in" : "fits in", (double)(c->memory ? c->memory : r.g.shape.budget) / (1 << 20),
		        c->memory ? " (--memory)" : ", nine tenths of what is free here");
	}
	/* somebody else's machine is meant when no limit is given: the plan is the answer */
	if (short_of_memory && !c->memory)
		rc = 0;
	run_release(&r);
	return rc;
}

/* --- logging --- */

static int log_plan(struct run *r, struct err *e)
{
	const struct engine *g = &r->g;
	int64_t total = model_params(&r->desc) + r->lora.n_params;
	struct sb name = SB_INIT;
	struct jw w = jw_to(&name);
	int rc;

	jw_str(&w, r->c->model);
	rc = log_metric("plan", e,
	                "\"model\":%s,\"trainable\":%lld,\"total\":%lld,\"percent\":%.4f,\"steps\":%lld,\"warmup\":%lld,\"rows\":%lld,\"tokens\":%lld,"
	                "\"weights_bytes\":%llu,\"adapter_bytes\":%llu,\"activation_bytes\":%llu,\"scratch_bytes\":%llu,\"cache_bytes\":%llu,"
	                "\"total_bytes\":%llu,\"kept_layers\":%lld,\"base_id\":\"%s\"",
	                sb_str(&name), (long long)r->lora.n_params, (long long)total, 100.0 * (double)r->lora.n_params / (double)total, (long long)r->total_steps,
	                (long long)r->warmup, (long long)r->train.n_rows, (long long)r->train.n_tokens, (unsigned long long)g->plan[ARENA_WEIGHTS].used,
	                (unsigned long long)g->plan[ARENA_ADAPTER].used, (unsigned long long)g->plan[ARENA_ACTIVATIONS].used,
	                (unsigned long long)g->plan[ARENA_SCRATCH].used, (unsigned long long)g->plan[ARENA_CACHE].used,
	                (unsigned long long)(engine_bytes(g) + r->dev.overhead), (long long)(g->full + g->lean), g->w.identity);
	sb_release(&name);
	return rc;
}

static double epoch_of(const struct run *r)
{
	return (double)r->step / (double)r->steps_per_epoch;
}

/* The field of records that loss scaling has. */
static const char *scaling(const struct run *r, char field[80])
{
	field[0] = 0;
	if (r->scaler.on)
		snprintf(field, 80, ",\"loss_scale\":%.12g,\"overflows\":%lld", r->scaler.scale, (long long)r->scaler.overflows);
	return field;
}

static int log_step(struct run *r, const struct step_result *s, double tok_s, struct err *e)
{
	char field[80];

	progress("step %lld/%lld  loss %.4f  lr %.3g  %.0f tokens/s", (long long)r->step, (long long)r->total_steps, s->loss, s->lr, tok_s);
	if (r->step % r->c->log_every && r->step != r->total_steps && r->step != 1)
		return 0;
	return log_metric("train", e, "\"step\":%lld,\"epoch\":%.6f,\"loss\":%s,\"lr\":%.12g,\"grad_norm\":%s,\"tokens\":%lld,\"tok_s\":%.1f,"
	                  "\"peak_bytes\":%llu,\"seconds\":%.3f%s", (long long)r->step, epoch_of(r), log_num(s->loss), s->lr, log_num(s->grad_norm),
	                  (long long)r->targets_seen, tok_s, (unsigned long long)(engine_bytes(&r->g) + r->dev.overhead), now_seconds() - r->start,
	                  scaling(r, field));
}

/* --- evaluation and keeping --- */

static void keep_best(struct run *r)
{
	uint64_t bytes = (uint64_t)r->lora.n_params * sizeof(float);

	if (!r->best)
		r->best = xmalloc(bytes);
	device_download(&r->dev, r->best, r->lora.params, bytes);
}

int64_t train_stale_evals(int64_t before, double loss, double best, double min_delta)
{
	/* a loss that is not a number betters nothing */
	return loss < best && (isinf(best) || best - loss > min_delta) ? 0 : before + 1;
}

static int evaluate(struct run *r, struct err *e)
{
	double loss, begin = now_seconds();
	bool best;

	if (!r->c->eval)
		return 0;
	if (run_evaluate(r, &r->eval, &loss, e) < 0)
		return -1;
	r->stale = train_stale_evals(r->stale, loss, r->best_loss, r->c->min_delta);
	best = loss < r->best_loss;
	if (best) {
		r->best_loss = loss;
		r->best_step = r->step;
		if (r->c->keep_best)
			keep_best(r);
	}
	progress("step %lld  held-out loss %.4f", (long long)r->step, loss);
	return log_metric("eval", e, "\"step\":%lld,\"epoch\":%.6f,\"loss\":%s,\"tokens\":%lld,\"seconds\":%.3f,\"best\":%s", (long long)r->step,
	                  epoch_of(r), log_num(loss), (long long)r->eval.n_targets, now_seconds() - begin, best ? "true" : "false");
}

static int save_checkpoint(struct run *r, const char *name, struct err *e)
{
	char *path;
	int rc;

	if (!r->c->out)
		return 0;
	path = xasprintf("%s.%s", r->c->out, name);
	rc = run_save(r, path, true, NULL, e);
	free(path);
	return rc;
}

static int periodic(struct run *r, struct err *e)
{
	char name[32];
	bool last = r->step == r->total_steps;

	if (r->c->eval && (last || (r->c->eval_every > 0 && r->step % r->c->eval_every == 0)) && evaluate(r, e) < 0)
		return -1;
	if (r->c->save_every <= 0 || r->step % r->c->save_every || last)
		return 0;
	snprintf(name, sizeof(name), "step-%lld", (long long)r->step);
	if (save_checkpoint(r, name, e) < 0 || checkpoint_save(r, e) < 0)
		return -1;
	r->saved = r->step;
	if (r->c->keep_checkpoints > 0)
		checkpoint_prune(r, r->step - r->c->keep_checkpoints * r->c->save_every);
	return 0;
}

/* A loss that is not finite: counted and skipped while --nonfinite allows it. Otherwise, or when no loss
 * scale is small enough, the state before the step, which is good, is saved beside the output. */
static int not_finite(struct run *r, bool overflow, struct err *e)
{
	struct err saving = ERR_INIT;

	if (!overflow && log_metric("nonfinite", &saving, "\"step\":%lld,\"skipped\":%lld", (long long)r->step + 1, (long long)r->skipped) < 0)
		warn("cannot log: %s", saving.msg);
	if (!overflow && r->skipped < r->c->nonfinite_skips) {
		r->skipped++;
		warn("%s; skipped (%lld of %lld)", e->msg, (long long)r->skipped, (long long)r->c->nonfinite_skips);
		*e = (struct err)ERR_INIT;
		return 0;
	}
	if (r->step > 0 && save_checkpoint(r, "last-good", &saving) < 0)
		warn("the last good adapter could not be saved: %s", saving.msg);
	else if (r->step > 0 && r->c->out)
		warn("the adapter after step %lld is in '%s.last-good'", (long long)r->step, r->c->out);
	return -1;
}

/* Whether somebody looks at the state after so many steps: none is queued behind them before that. */
static bool looked_at(const struct run *r, int64_t step)
{
	const struct train_config *c = r->c;

	return (c->eval && c->eval_every > 0 && step % c->eval_every == 0) || (c->save_every > 0 && step % c->save_every == 0);
}

/* The step behind those that are queued. */
static void queue_step(struct run *r)
{
	const struct train_config *c = r->c;
	int64_t step = r->step + r->n_queued, per_step = c->batch * c->accumulate, epoch = step / r->steps_per_epoch, at = step % r->steps_per_epoch * per_step;
	int64_t n = r->train.n_rows - at < per_step ? r->train.n_rows - at : per_step;
	int64_t *rows = xcalloc((size_t)n, sizeof(*rows));

	for (int64_t i = 0; i < n; i++)
		rows[i] = order_row(&r->order, epoch, at + i);
	run_queue(r, rows, n, c->lr * schedule_factor(c->schedule, step - r->scaler.overflows, r->warmup, r->total_steps));
	free(rows);
}

static void fill_queue(struct run *r)
{
	while (r->n_queued == 0 || (r->n_queued <= r->dev.ahead && r->step + r->n_queued < r->total_steps && !looked_at(r, r->step + r->n_queued)))
		queue_step(r);
}

static int one_step(struct run *r, struct err *e)
{
	struct step_result s;
	char field[80];
	int rc;

	fill_queue(r);
	rc = run_result(r, &s, e);
	if (s.overflow && log_metric("overflow", e, "\"step\":%lld%s", (long long)r->step + 1, scaling(r, field)) < 0)
		return -1;
	if (rc < 0 && (e->code != LP_DIVERGED || not_finite(r, s.overflow, e) < 0))
		return -1;
	r->step++;
	r->targets_seen += s.targets;
	if (log_step(r, &s, (double)s.tokens / s.seconds, e) < 0)
		return -1;
	return periodic(r, e);
}

static int all_steps(struct run *r, struct err *e)
{
	const struct train_config *c = r->c;
	float *final;
	bool resumed;
	char field[80];

	r->start = now_seconds();
	if (checkpoint_load(r, &resumed, e) < 0 || log_plan(r, e) < 0)
		return -1;
	r->saved = resumed ? r->step : 0;
	if (resumed)
		note("goes on after step %lld of %lld", (long long)r->step, (long long)r->total_steps);
	else if (evaluate(r, e) < 0)
		return -1;
	while (r->step < r->total_steps && !(c->patience > 0 && r->stale >= c->patience))
		if (one_step(r, e) < 0)
			return -1;
	progress_done();
	if (r->step < r->total_steps)
		note("stopped after step %lld: the held-out loss has not fallen for %lld evaluations", (long long)r->step, (long long)r->stale);
	final = c->keep_best && r->best ? r->best : NULL;
	if (run_save(r, c->out, c->force, final, e) < 0)
		return -1;
	checkpoint_remove(r);
	return log_metric("done", e, "\"step\":%lld,\"best_loss\":%s,\"best_step\":%lld,\"skipped\":%lld,\"seconds\":%.3f%s", (long long)r->step,
	                  log_num(r->best_loss), (long long)r->best_step, (long long)r->skipped, now_seconds() - r->start, scaling(r, field));
}

/* The device failed: what was written before is whole, and nothing was written since. */
static int lost(const struct run *r, struct err *e)
{
	struct err why = *e;

	if (r->saved > 0 && r->c->out)
		return err_set(e, LP_DEVICE, "after step %lld: %.700s; the state after step %lld is in '%.200s.state', and the same command goes on from there",
		               (long long)r->step, why.msg, (long long)r->saved, r->c->out);
	return err_set(e, LP_DEVICE, "after step %lld: %.700s; no state was written yet (--save-every), so the same command begins anew", (long long)r->step, why.msg);
}

int run_all(struct run *r, struct err *e)
{
	if (all_steps(r, e) == 0)
		return 0;
	progress_done();
	return e->code == LP_DEVICE ? lost(r, e) : -1;
}

int train_run(const struct train_config *c, struct err *e)
{
	struct run r;
	int rc = run_prepare(&r, c, true, e);

	if (rc == 0)
		rc = run_load(&r, e);
	if (rc == 0)
		rc = run_all(&r, e);
	run_release(&r);
	return rc;
}

int train_eval_only(const struct train_config *c, struct sb *json, struct err *e)
{
	struct run r;
	double loss;
	int rc = run_prepare(&r, c, true, e);

	if (rc == 0)
		rc = run_load(&r, e);
	if (rc == 0 && !c->adapter)
		r.g.lora = NULL;
	if (rc == 0)
		rc = run_evaluate(&r, &r.eval, &loss, e);
	if (rc == 0) {
		struct jw w = jw_to(json);

		jw_obj(&w);
		jw_key(&w, "id");
		jw_str(&w, r.eval_name);
		jw_key(&w, "loss");
		jw_f64(&w, loss);
		jw_key(&w, "nll");
		jw_f64(&w, loss * (double)r.eval.n_targets);
		jw_key(&w, "perplexity");
		jw_f64(&w, exp(loss));
		jw_key(&w, "tokens");
		jw_i64(&w, r.eval.n_targets);
		jw_key(&w, "sequences");
		jw_i64(&w, r.eval.n_seqs);
		jw_key(&w, "base_id");
		jw_str(&w, r.g.w.identity);
		jw_end_obj(&w);
		sb_addc(json, '\n');
	}
	run_release(&r);
	return rc;
}
