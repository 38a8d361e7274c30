/* What a run says while it goes on: metric records, TensorBoard's events, the
 * progress line, and the watch's words. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "fmt/tfevents.h"
#include "train/run_int.h"

const char *run_scaling(const struct run *r, char field[80])
{
	field[0] = 0;
	if (r->scaler.on)
		snprintf(field, 80, ",\"loss_scale\":%.12g,\"overflows\":%lld", r->scaler.scale, (long long)r->scaler.overflows);
	return field;
}

/* --- TensorBoard --- */

static double wall_time(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int put_release(struct run *r, struct sb *records, struct err *e)
{
	int rc = tfevents_put(r->events, records, e);

	sb_release(records);
	return rc;
}

/* --- how fast --- */

/* Operations of the model for one token, forward and backward: frozen projections are passed through twice, what is trained three
 * times; attention to half of the rows before, on the average. What is run again to save memory does not count. */
static double flops_per_token(const struct run *r)
{
	const struct model_desc *m = &r->desc;
	double linears = 0, squares = 0;

	for (int s = 0; s < LIN_N; s++)
		linears += (double)linear_in(m, s) * (double)linear_out(m, s);
	for (int64_t s = 0; s < r->train.n_seqs; s++) {
		double n = (double)(r->train.seq_start[s + 1] - r->train.seq_start[s]);

		squares += n * n;
	}
	return (double)m->layers * ((r->base.what & TRAIN_LAYERS ? 6 : 4) * linears + 6 * (double)(m->heads * m->head_dim) * (r->train.n_tokens ? squares / (double)r->train.n_tokens : 0)) + 6 * (double)r->lora.n_params;
}

int run_tell_begin(struct run *r, struct err *e)
{
	struct sb first = SB_INIT;

	r->first_step = r->step;
	r->flops = flops_per_token(r);
	if (!r->c->tensorboard)
		return 0;
	r->events = tfevents_open(r->c->tensorboard, e);
	if (!r->events)
		return -1;
	tfevents_start(&first, wall_time(), r->step + 1);
	return put_release(r, &first, e);
}

int run_tell_end(struct run *r, struct err *e)
{
	struct tfevents *t = r->events;

	r->events = NULL;
	return tfevents_close(t, e);
}

/* "3 h 20 min", of what is left. */
static const char *left_text(double seconds, char text[32])
{
	if (seconds < 100)
		snprintf(text, 32, "%.0f s", seconds);
	else if (seconds < 6000)
		snprintf(text, 32, "%.0f min", seconds / 60);
	else
		snprintf(text, 32, "%.0f h %.0f min", floor(seconds / 3600), fmod(seconds / 60, 60));
	return text;
}

/* --- the watch --- */

static int tell_words(const struct run *r, const struct watch_word *words, int n, struct err *e)
{
	for (int i = 0; i < n; i++) {
		warn("step %lld, %s: %s; %s", (long long)r->step, words[i].name, words[i].what, words[i].advice);
		if (log_metric("watch", e, "\"step\":%lld,\"name\":\"%s\",\"what\":\"%s\",\"advice\":\"%s\"", (long long)r->step, words[i].name, words[i].what,
		               words[i].advice) < 0)
			return -1;
	}
	return 0;
}

static void told_events(const struct run *r, struct sb *b, double now, const char *folder, const struct told *told)
{
	const char *names[TOLD_MEANS];
	double means[TOLD_MEANS];
	int n = run_told_means(r, told, names, means);
	char tag[128];

	for (int i = 0; i < n; i++) {
		snprintf(tag, sizeof(tag), "%s/%s", folder, names[i]);
		tfevents_scalar(b, now, r->step, tag, means[i]);
	}
}

static int step_events(struct run *r, const struct step_result *s, struct err *e)
{
	struct sb b = SB_INIT;
	double now = wall_time();

	if (!r->events)
		return 0;
	tfevents_scalar(&b, now, r->step, "train/loss", s->loss);
	tfevents_scalar(&b, now, r->step, "train/grad_norm", s->grad_norm);
	tfevents_scalar(&b, now, r->step, "train/lr", s->lr);
	tfevents_scalar(&b, now, r->step, "train/tokens_per_second", (double)s->tokens / s->seconds);
	tfevents_scalar(&b, now, r->step, "train/epoch", run_epoch(r));
	told_events(r, &b, now, "train", &s->told);
	return put_release(r, &b, e);
}

static int log_step(struct run *r, const struct step_result *s, double left, struct err *e)
{
	double flops = ((double)s->tokens * r->flops + (r->base.what & TRAIN_HEAD ? 6 : 4) * (double)s->targets * (double)r->desc.vocab * (double)r->desc.hidden) / s->seconds;
	char field[80], mfu[40] = "", told[TOLD_TEXT];

	if (r->c->peak_tflops > 0)
		snprintf(mfu, sizeof(mfu), ",\"mfu\":%.4f", flops / (r->c->peak_tflops * 1e12));
	return log_metric("train", e, "\"step\":%lld,\"epoch\":%.6f,\"loss\":%s,\"lr\":%.12g,\"grad_norm\":%s,\"tokens\":%lld,\"tok_s\":%.1f,\"tflops\":%.6g%s,"
	                  "\"peak_bytes\":%llu,\"seconds\":%.3f,\"busy\":%.4f,\"left_seconds\":%.1f%s%s", (long long)r->step, run_epoch(r), log_num(s->loss), s->lr,
	                  log_num(s->grad_norm), (long long)r->targets_seen, (double)s->tokens / s->seconds, flops / 1e12, mfu, (unsigned long long)run_bytes(r),
	                  now_seconds() - r->start, r->step_seconds / (now_seconds() - r->start), left, run_scaling(r, field),
	                  run_told_fields(r, &s->told, told));
}

int run_tell_step(struct run *r, const struct step_result *s, struct err *e)
{
	double left = (now_seconds() - r->start) / (double)(r->step - r->first_step) * (double)(r->total_steps - r->step);
	struct watch_word words[WATCH_N];
	char text[32];
	int n;

	r->step_seconds += s->seconds;
	progress("step %lld/%lld  %s %.4f  lr %.3g  %.0f tokens/s  %s left", (long long)r->step, (long long)r->total_steps, r->rollout ? "reward" : "loss",
	         r->rollout ? run_grpo_reward(r) : s->loss, s->lr, (double)s->tokens / s->seconds,	         left_text(left, text));
	n = r->rollout ? watch_rewards(&r->watch, r->step, run_grpo_flat(r), run_grpo_reward(r), words)
	               : watch_loss(&r->watch, r->step, r->schedule.warmup, r->total_steps, s->loss, words);
	if (tell_words(r, words, n, e) < 0)
		return -1;
	if (r->step % r->c->log_every && r->step != r->total_steps && r->step != 1)
		return 0;
	return log_step(r, s, left, e) < 0 ? -1 : step_events(r, s, e);
}

int run_tell_eval(struct run *r, const struct heldout *h, double loss, const struct told *told, struct err *e)
{
	struct watch_word words[WATCH_N];
	struct sb b = SB_INIT;
	double now = wall_time();
	char tag[96];

	progress("step %lld  held-out %s of %s %.4f", (long long)r->step, r->rollout ? "reward" : "loss", h->name, r->rollout ? -loss : loss);
	if (h == r->evals && !r->rollout && tell_words(r, words, watch_eval(&r->watch, r->step, loss, words), e) < 0)
		return -1;
	if (!r->events)
		return 0;
	snprintf(tag, sizeof(tag), "eval/%s/loss", h->name);
	tfevents_scalar(&b, now, r->step, tag, loss);
	snprintf(tag, sizeof(tag), "eval/%s", h->name);
	told_events(r, &b, now, tag, told);
	return put_release(r, &b, e);
}
