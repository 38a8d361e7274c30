#include "train/smoke.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/xalloc.h"
#include "train/checkpoint.h"
#include "train/run_int.h"
#include "train/sample.h"

enum { STEPS = 10, HALF = STEPS / 2, EVAL_ROWS = 32 };

/* The same run, ten steps long, beside its output, or in the folder for temporary files. */
static struct train_config shortened(const struct train_config *c, const char *out)
{
	struct train_config s = *c;

	s.out = out;
	s.force = true;
	s.extend = false;
	s.max_steps = STEPS * (c->grpo ? c->grpo->updates : 1);
	s.schedule_steps = 0;
	if (c->warmup_steps > HALF || (c->warmup_steps < 0 && c->warmup_ratio > 0))
		s.warmup_steps = HALF;
	if (c->decay_steps > HALF)
		s.decay_steps = HALF;
	s.save_every = s.max_steps / 2;
	s.eval_every = s.n_evals ? HALF : 0;
	s.sample_every = s.prompts ? HALF : 0;
	s.keep_checkpoints = 1;
	s.patience = 0;
	s.log_every = 1;
	s.tensorboard = NULL;
	return s;
}

static void cut(struct dataset *d, int64_t rows)
{
	if (d->n_rows <= rows)
		return;
	d->n_rows = rows;
	d->n_seqs = d->row_seq[rows];
	d->n_tokens = d->row_start[rows];
	d->n_targets = 0;
	for (int64_t i = 0; i < rows; i++)
		d->n_targets += dataset_row_targets(d, i);
}

/* The checkpoint that was written is read into a run that has not begun. */
static int read_back(struct run *r, const struct train_config *c, struct err *e)
{
	int64_t at = r->step;
	bool found = false;

	r->step = -1;
	if (checkpoint_load(r, &found, e) < 0)
		return -1;
	return found && r->step == at ? 0 : err_set(e, LP_IO, "the checkpoint beside '%s' is not there after it was written", c->out);
}

static void add_time(struct sb *text, double s)
{
	if (s < 120)
		sb_addf(text, "%.0f s", s);
	else if (s < 7200)
		sb_addf(text, "%.0f min", s / 60);
	else
		sb_addf(text, "%.1f h", s / 3600);
}

/* total: steps of the whole run. */
static void describe(const struct run *r, const struct train_config *whole, int64_t total, struct sb *text)
{
	double step = r->step_seconds / (double)(r->step - r->first_step);

	if (r->rollout)
		sb_addf(text, "%lld steps: mean reward %.4f at last", (long long)r->step, run_grpo_reward(r));
	else
		sb_addf(text, "%lld steps: loss %.4f at first, %.4f at last", (long long)r->step, r->watch.first[0],
		        r->watch.ring[(int64_t)(r->watch.n > 0 ? r->watch.n - 1 : 0) % WATCH_RING]);
	if (r->n_evals)
		sb_addf(text, "; held out %.4f at best", r->best_loss);
	sb_addf(text, "\na step takes %.3f s, and waits %.3f s for a checkpoint, which was read back; memory %.1f MiB\n", step, r->save_seconds / 2,
	        (double)run_bytes(r) / (1 << 20));
	sb_addf(text, "%lld steps would take ", (long long)total);
	add_time(text, step * (double)total);
	sb_addf(text, "%s\n", whole->n_evals ? ", and evaluations" : "");
}

static int run_it(struct run *r, const struct train_config *s, const struct train_config *whole, struct sb *text, struct err *e)
{
	int64_t total;
	int sig = 0;

	if (run_prepare(r, s, true, e) < 0)
		return -1;
	total = whole->max_steps > 0 ? whole->max_steps : (int64_t)ceil(whole->epochs * (double)r->steps_per_epoch);
	for (size_t i = 0; i < r->n_evals; i++)
		cut(&r->evals[i].d, EVAL_ROWS);
	if (run_load(r, e) < 0 || run_all(r, &sig, e) < 0 || read_back(r, s, e) < 0)
		return -1;
	describe(r, whole, total, text);
	return 0;
}

int train_smoke(const struct train_config *c, struct sb *text, struct err *e)
{
	const char *tmp = getenv("TMPDIR");
	char *out = c->out ? xasprintf("%s.smoke", c->out) : xasprintf("%s/qlora-train.%ld.smoke", tmp && *tmp ? tmp : "/tmp", (long)getpid());
	struct train_config s = shortened(c, out);
	struct run r;
	int rc = run_it(&r, &s, c, text, e);

	run_release(&r);
	checkpoint_prune(out, 0);
	checkpoint_remove_dir(out);
	free(out);
	return rc;
}
