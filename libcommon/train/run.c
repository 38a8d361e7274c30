/* The run itself: steps in order, what is logged, saved and kept. */
#include "train/run.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/xalloc.h"
#include "train/checkpoint.h"
#include "train/pref.h"
#include "train/run_int.h"
#include "train/sample.h"
#include "train/stop.h"

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
	if (bytes)
		sb_addf(out, "  %-34s %16llu bytes %12.1f MiB\n", name, (unsigned long long)bytes, (double)bytes / (1 << 20));
}

uint64_t run_bytes(const struct run *r)
{
	return engine_bytes(&r->g) + r->dev.overhead + sampler_bytes(r) + run_cache_bytes(r);
}

/* What is trained, in a line. */
static void describe_update(const struct run *r, struct sb *out)
{
	const struct trained *t = &r->base;

	if (r->optim.galore)
		sb_addf(out, "galore     rank %lld, directions every %lld steps, scale %g\n", (long long)r->galore.rank, (long long)r->galore.every, r->galore.scale);
	if (!run_makes_model(r))
		sb_addf(out, "adapter    %s r %lld, alpha %g, alpha/r %g, dropout %g\n", r->lora.dora ? "DoRA" : "LoRA", (long long)r->lora.rank, r->lora.alpha, (double)r->lora.scale, r->lora.dropout);
	else
		sb_addf(out, "update     the weights themselves, %s%s%s; gradients in %s\n", r->dev.act == DT_F32 ? "in fp32" : "bf16 with the rest of fp32 beside it",
		        t->embed < 0 ? ", but for the embedding" : "", t->head < 0 ? ", but for the head" : "",
		        t->wide || r->dev.act == DT_F32 ? "fp32" : "bf16, those of tables, norms and biases in fp32");
	if (!run_makes_model(r) && t->n)
		sb_addf(out, "beside it  %s%s%s, in fp32\n", t->embed >= 0 ? "the embedding" : "", t->embed >= 0 && t->head >= 0 ? " and " : "", t->head >= 0 ? "the head" : "");
}

static void describe(const struct run *r, struct sb *out)
{
	const struct model_desc *m = &r->desc;
	const struct engine *g = &r->g;
	int64_t trained = r->lora.n_trained + r->base.n, total = model_params(m) + r->lora.n_trained;
	char name[64];

	sb_addf(out, "model      %s, %lld layers, hidden %lld, %lld positions\n", m->family, (long long)m->layers, (long long)m->hidden, (long long)m->max_pos);
	sb_addf(out, "device     %s\n", r->dev.name);
	if (r->scaler.on)
		sb_addf(out, "loss scale from %g\n", r->scaler.scale);
	sb_addf(out, "base       %s%s%s\n", !g->w.nf4 ? dtype_hf_name(g->w.dtype) : m->bnb.plain ? "NF4" : "NF4, double quantisation",
	        m->bnb.on ? ", as the checkpoint has it" : "", g->w.fp8 ? "; products in fp8" : "");
	describe_update(r, out);
	if (r->c->pref)
		pref_describe(r->c->pref, r->c->adapter && !r->c->base_reference, out);
	if (r->c->grpo)
		grpo_describe(r->c->grpo, r->c->adapter && !r->c->base_reference, out);
	sb_adds(out, "trainable  ");
	add_grouped(out, trained);
	sb_adds(out, " of ");
	add_grouped(out, total);
	sb_addf(out, " parameters (%.3f %%)\n", 100.0 * (double)trained / (double)total);
	if (r->train.n_rows)
		sb_addf(out, "data       %lld rows, %lld sequences, %lld tokens, %lld targets\n", (long long)r->train.n_rows, (long long)r->train.n_seqs,
		        (long long)r->train.n_tokens, (long long)r->train.n_targets);
	if (run_prompts(r))
		sb_addf(out, "data       %lld prompts, the longest with its completion %lld tokens\n", (long long)run_prompts(r), (long long)run_grpo_longest(r));
	for (size_t i = 0; r->n_streams > 1 && i < r->n_streams; i++)
		sb_addf(out, "stream     %s, %lld rows, %lld in an epoch\n", r->streams[i].name, (long long)r->streams[i].n_rows, (long long)r->streams[i].take);
	if (r->total_steps)
		sb_addf(out, "steps      %lld of %lld x %lld rows, warm-up %lld\n", (long long)r->total_steps, (long long)r->c->batch, (long long)r->c->accumulate,
		        (long long)r->schedule.warmup);
	sb_addf(out, "plan       micro-batch of %lld tokens; of %lld layers %lld keep activations, %lld most of them, %lld send those to host memory and back, %lld run again; %lld keep dense weights; inputs of %lld wait in host memory\n",
	        (long long)g->shape.max_tokens, (long long)m->layers, (long long)g->full, (long long)g->lean, (long long)g->travel, (long long)engine_again(g),
	        (long long)(g->w.dense ? m->layers : g->w.cached_layers), (long long)g->away);
	for (int i = 0; i < ARENA_N; i++)
		for (int j = 0; j < g->plan[i].n_items; j++)
			add_bytes(out, g->plan[i].items[j].name, g->plan[i].items[j].bytes);
	if (engine_recording_bytes(g))
		add_bytes(out, "recorded launches", engine_recording_bytes(g));
	if (r->dev.overhead)
		add_bytes(out, "context and libraries", r->dev.overhead);
	if (sampler_bytes(r))
		add_bytes(out, "key-value cache of samples", sampler_bytes(r));
	if (run_cache_bytes(r))
		add_bytes(out, "key-value cache of completions", run_cache_bytes(r));
	add_bytes(out, "total", run_bytes(r));
	for (int j = 0; j < g->host_plan.n_items; j++) {
		snprintf(name, sizeof(name), "host: %s", g->host_plan.items[j].name);
		add_bytes(out, name, g->host_plan.items[j].bytes);
	}
	if (g->host_plan.used)
		add_bytes(out, "page-locked host memory", g->host_plan.used);
	if (checkpoint_bytes(r))
		add_bytes(out, "host memory for checkpoints", checkpoint_bytes(r));
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
	int64_t trained = r->lora.n_trained + r->base.n, total = model_params(&r->desc) + r->lora.n_trained;
	struct sb name = SB_INIT;
	struct jw w = jw_to(&name);
	int rc;

	jw_str(&w, r->c->model);
	rc = log_metric("plan", e,
	                "\"model\":%s,\"method\":\"%s\",\"trainable\":%lld,\"total\":%lld,\"percent\":%.4f,\"steps\":%lld,\"warmup\":%lld,\"rows\":%lld,\"tokens\":%lld,"
	                "\"weights_bytes\":%llu,\"adapter_bytes\":%llu,\"activation_bytes\":%llu,\"scratch_bytes\":%llu,\"cache_bytes\":%llu,"
	                "\"total_bytes\":%llu,\"kept_layers\":%lld,\"base_id\":\"%s\"",
	                sb_str(&name), r->c->grpo ? "grpo" : r->c->pref ? pref_name(r->c->pref->method) : "sft", (long long)trained, (long long)total, 100.0 * (double)trained / (double)total, (long long)r->total_steps,
	                (long long)r->schedule.warmup, (long long)run_rows(r), (long long)r->train.n_tokens, (unsigned long long)g->plan[ARENA_WEIGHTS].used,
	                (unsigned long long)g->plan[ARENA_ADAPTER].used, (unsigned long long)g->plan[ARENA_ACTIVATIONS].used,
	                (unsigned long long)g->plan[ARENA_SCRATCH].used, (unsigned long long)g->plan[ARENA_CACHE].used,
	                (unsigned long long)run_bytes(r), (long long)(g->full + g->lean), g->w.identity);
	sb_release(&name);
	return rc;
}

double run_epoch(const struct run *r)
{
	return (double)r->step / (double)r->steps_per_epoch;
}

/* --- between steps --- */

/* Nobody's patience ends a run amid a batch of completions, whose rest no state has. */
static bool done(const struct run *r)
{
	return r->step >= r->total_steps || (r->c->patience > 0 && r->stale >= r->c->patience && (!r->rollout || run_grpo_due(r, r->step)));
}

static bool due(int64_t every, int64_t step)
{
	return every > 0 && step % every == 0;
}

/* Whether the state is one that a run can go on from: no step is queued, and all that saw these completions are done. */
static bool between(const struct run *r)
{
	return r->n_queued == 0 && (!r->rollout || run_grpo_due(r, r->step));
}

/* After a step: evaluation, samples, then the state, all of that included, when it is due or asked for. */
static int periodic(struct run *r, struct err *e)
{
	bool last = r->step == r->total_steps, asked = between(r) && stop_wants_checkpoint();

	if ((last || due(r->eval_every, r->step)) && run_eval_sets(r, e) < 0)
		return -1;
	if (r->sampler && (last || due(r->sample_every, r->step)) && sampler_run(r, e) < 0)
		return -1;
	if (asked && !r->saver)
		warn("there is no checkpoint without -o");
	checkpoint_poll(r);
	if (!asked && !(r->save_every > 0 && (done(r) || due(r->save_every, r->step))))
		return 0;
	return checkpoint_save(r, done(r), e);
}

static void save_last_good(struct run *r)
{
	struct err saving = ERR_INIT;
	char *path;

	if (r->step == 0 || !r->c->out)
		return;
	path = xasprintf("%s.last-good", r->c->out);
	if (run_save(r, path, true, NULL, &saving) < 0)
		warn("the last good %s could not be saved: %s", run_makes_model(r) ? "model" : "adapter", saving.msg);
	else
		warn("the %s after step %lld is in '%s'", run_makes_model(r) ? "model" : "adapter", (long long)r->step, path);
	free(path);
}

/* A loss that is not finite: counted and skipped while --nonfinite allows it. Otherwise, or when no loss
 * scale is small enough, the state before the step, which is good, is saved beside the output. */
static int not_finite(struct run *r, const struct step_result *res, struct err *e)
{
	struct err saving = ERR_INIT;

	if (r->c->dump_batch && run_dump_batch(r, res->rows, res->n_rows, e->msg, &saving) < 0)
		warn("%s: %s: the batch is not dumped", saving.path, saving.msg);

	if (!res->overflow && log_metric("nonfinite", &saving, "\"step\":%lld,\"skipped\":%lld", (long long)r->step + 1, (long long)r->skipped) < 0)
		warn("cannot log: %s", saving.msg);
	if (!res->overflow && r->skipped < r->c->nonfinite_skips) {
		r->skipped++;
		warn("%s; skipped (%lld of %lld)", e->msg, (long long)r->skipped, (long long)r->c->nonfinite_skips);
		*e = (struct err)ERR_INIT;
		return 0;
	}
	save_last_good(r);
	return -1;
}

/* Whether somebody looks at the state after so many steps, or a signal asks for it, or the next one builds on what no refused one may have changed: none
 * is queued behind them before that. */
static bool looked_at(const struct run *r, int64_t step)
{
	return stop_asks() || optim_turns(&r->optim) || run_grpo_due(r, step) || (r->n_evals && due(r->eval_every, step)) || (r->sampler && due(r->sample_every, step)) || due(r->save_every, step);
}

/* Rows of the training set that the step sees, at most a step's: GRPO's are all that there are. */
static int64_t rows_of(struct run *r, int64_t step, int64_t *rows)
{
	int64_t per_step = r->c->batch * r->c->accumulate, epoch = step / r->steps_per_epoch, at = r->rollout ? 0 : step % r->steps_per_epoch * per_step;
	int64_t n = r->train.n_rows - at < per_step ? r->train.n_rows - at : per_step;

	for (int64_t i = 0; i < n; i++)
		rows[i] = r->rollout ? i : order_row(&r->order, epoch, at + i);
	return n;
}

/* The step behind those that are queued. */
static int queue_step(struct run *r, struct err *e)
{
	const struct train_config *c = r->c;
	int64_t step = r->step + r->n_queued, *rows;

	if (run_grpo_due(r, step) && run_grpo_rollout(r, e) < 0)
		return -1;
	rows = xcalloc((size_t)(c->batch * c->accumulate), sizeof(*rows));
	run_queue(r, rows, rows_of(r, step, rows), c->lr * schedule_factor(&r->schedule, step - r->scaler.overflows));
	free(rows);
	return 0;
}

static int fill_queue(struct run *r, struct err *e)
{
	while (r->n_queued == 0 || (r->n_queued <= r->dev.ahead && r->step + r->n_queued < r->total_steps && !looked_at(r, r->step + r->n_queued)))
		if (queue_step(r, e) < 0)
			return -1;
	return 0;
}

/* No completions, or no rewards: what was learnt until then is not lost. */
static int stuck(struct run *r, struct err *e)
{
	struct err saving = ERR_INIT, why = *e;
	char *path;

	if (!r->saver || r->step == 0 || e->code == LP_DEVICE)
		return -1;
	if ((r->saved != r->step && checkpoint_save(r, false, &saving) < 0) || checkpoint_wait(r, &saving) < 0) {
		warn("%s: %s: the state is not saved", saving.path, saving.msg);
		return -1;
	}
	path = checkpoint_path(r->c->out, r->step);
	err_set(e, why.code, "%.600s; the same command goes on after step %lld, from '%.300s'", why.msg, (long long)r->step, path);
	free(path);
	return -1;
}

static int one_step(struct run *r, struct err *e)
{
	struct step_result s;
	char field[80];
	int rc;

	if (fill_queue(r, e) < 0)
		return stuck(r, e);
	rc = run_result(r, &s, e);
	if (s.overflow && log_metric("overflow", e, "\"step\":%lld%s", (long long)r->step + 1, run_scaling(r, field)) < 0)
		return -1;
	if (rc < 0 && (e->code != LP_DIVERGED || not_finite(r, &s, e) < 0))
		return -1;
	r->step++;
	r->targets_seen += s.targets;
	if (run_tell_step(r, &s, e) < 0)
		return -1;
	return periodic(r, e);
}

/* Goes on from a checkpoint, or begins with an evaluation of what there is. */
static int begin(struct run *r, struct err *e)
{
	bool resumed;

	if (checkpoint_open(r, e) < 0 || checkpoint_load(r, &resumed, e) < 0)
		return -1;
	r->saved = resumed ? r->step : 0;
	if (r->c->extend && !resumed)
		return err_set(e, LP_USAGE, "--extend goes on from a checkpoint, and there is no '%s.step-N'; train with --save-every", r->c->out);
	if (r->step > r->total_steps)
		return err_set(e, LP_USAGE, "the run is at step %lld already, and its end would be %lld; give --max-steps or --epochs more", (long long)r->step,
		               (long long)r->total_steps);
	if (r->c->extend)
		r->stale = 0;
	if (log_plan(r, e) < 0 || run_tell_begin(r, e) < 0)
		return -1;
	if (!resumed)
		return run_eval_sets(r, e) < 0 || (r->sampler && sampler_run(r, e) < 0) ? -1 : 0;
	note("goes on after step %lld of %lld", (long long)r->step, (long long)r->total_steps);
	return log_metric("resume", e, "\"step\":%lld", (long long)r->step);
}

/* The signal asked for an end: the state is what matters now. */
static int stopped(struct run *r, int sig, struct err *e)
{
	char *path = checkpoint_path(r->c->out, r->step);
	int rc = checkpoint_save(r, false, e) < 0 || checkpoint_wait(r, e) < 0 ? -1 : 0;

	if (rc == 0)
		warn("stopped by %s after step %lld of %lld; the same command goes on from '%s'", sig == SIGINT ? "SIGINT" : "SIGTERM", (long long)r->step,
		     (long long)r->total_steps, path);
	free(path);
	return rc < 0 ? -1 : log_metric("stopped", e, "\"step\":%lld,\"signal\":%d", (long long)r->step, sig);
}

static int finish(struct run *r, struct err *e)
{
	const struct train_config *c = r->c;
	struct err unsaved = ERR_INIT;
	char field[80];

	if (r->step < r->total_steps)
		note("stopped after step %lld: the held-out %s for %lld evaluations", (long long)r->step, r->rollout ? "reward has not risen" : "loss has not fallen", (long long)r->stale);
	if (checkpoint_wait(r, &unsaved) < 0)
		warn("%s: %s: the last checkpoint is not there", unsaved.path, unsaved.msg);
	if (run_save(r, c->out, c->force || c->extend, c->restore_best ? r->best : NULL, e) < 0)
		return -1;
	/* those that signals asked for have served */
	if (c->out && r->save_every <= 0)
		checkpoint_prune(c->out, 0);
	if (run_tell_end(r, e) < 0)
		return -1;
	return log_metric("done", e, "\"step\":%lld,\"best_loss\":%s,\"best_step\":%lld,\"skipped\":%lld,\"seconds\":%.3f,\"save_seconds\":%.3f%s",
	                  (long long)r->step, log_num(r->best_loss), (long long)r->best_step, (long long)r->skipped, now_seconds() - r->start, r->save_seconds,
	                  run_scaling(r, field));
}

static int all_steps(struct run *r, int *sig, struct err *e)
{
	r->start = now_seconds();
	if (begin(r, e) < 0)
		return -1;
	while (!done(r)) {
		if (one_step(r, e) < 0)
			return -1;
		*sig = r->saver && between(r) && !done(r) ? stop_signal() : 0;
		if (*sig)
			return stopped(r, *sig, e);
	}
	progress_done();
	return finish(r, e);
}

/* The device failed: what was written before is whole, and nothing was written since. */
static int lost(const struct run *r, struct err *e)
{
	struct err why = *e;

	if (r->saved > 0 && r->c->out)
		return err_set(e, LP_DEVICE, "after step %lld: %.700s; the state after step %lld is in '%.200s.step-%lld', and the same command goes on from there",
		               (long long)r->step, why.msg, (long long)r->saved, r->c->out, (long long)r->saved);
	return err_set(e, LP_DEVICE, "after step %lld: %.700s; no state was written yet (--save-every), so the same command begins anew", (long long)r->step, why.msg);
}

int run_all(struct run *r, int *sig, struct err *e)
{
	struct err unsaved = ERR_INIT;

	*sig = 0;
	if (all_steps(r, sig, e) == 0)
		return 0;
	progress_done();
	if (checkpoint_wait(r, &unsaved) < 0)
		warn("%s: %s: the last checkpoint is not there", unsaved.path, unsaved.msg);
	return e->code == LP_DEVICE ? lost(r, e) : -1;
}

int train_run(const struct train_config *c, int *signal, struct err *e)
{
	struct run r;
	int rc;

	*signal = 0;
	stop_listen();
	rc = run_prepare(&r, c, true, e);
	if (rc == 0)
		rc = run_load(&r, e);
	if (rc == 0 && c->out)
		stop_listen_ends();
	if (rc == 0)
		rc = run_all(&r, signal, e);
	stop_unlisten();
	run_release(&r);
	return rc;
}
