#include "train/advise.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "train/run_int.h"

/* Examples of a task: the least, where it pays most, and from where more adds little. */
static const struct size {
	enum task task;
	const char *name;
	int64_t least, least_to, best, best_to, little;
	int64_t rank;
} sizes[] = {
	{ TASK_STYLE, "style or tone", 50, 100, 200, 500, 1000, 8 },
	{ TASK_QA, "questions of a domain", 200, 500, 1000, 3000, 10000, 16 },
	{ TASK_CODE, "code for an interface", 500, 1000, 2000, 5000, 15000, 32 },
	{ TASK_REASONING, "chains of reasoning", 1000, 2000, 5000, 10000, 20000, 32 },
};

enum { MEMORISED = 200, SMALL = 1000, LARGE = 10000 };

static const char *verdict(const struct size *s, int64_t n)
{
	if (n < s->least)
		return "too few: the examples will be learnt by heart";
	if (n < s->best)
		return n < s->least_to ? "barely enough: more would help most" : "below the sweet spot";
	if (n <= s->best_to)
		return "in the sweet spot";
	return n <= s->little ? "above the sweet spot" : "more adds little: choose the best of them";
}

static void size_table(int64_t n, enum task task, struct sb *out)
{
	char least[32], best[32];

	sb_addf(out, "%-24s %13s %14s %13s  %s\n", "task", "at least", "sweet spot", "little beyond", "these examples");
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		const struct size *s = &sizes[i];

		if (task != TASK_ANY && task != s->task)
			continue;
		snprintf(least, sizeof(least), "%lld-%lld", (long long)s->least, (long long)s->least_to);
		snprintf(best, sizeof(best), "%lld-%lld", (long long)s->best, (long long)s->best_to);
		sb_addf(out, "%-24s %13s %14s %13lld  %s\n", s->name, least, best, (long long)s->little, verdict(s, n));
	}
	if (n < MEMORISED)
		sb_addf(out, "warning: under %d examples hardly teach anything but themselves; 500 to 5,000 good ones are usual\n", MEMORISED);
}

/* One row: asked beside advised; sound says whether they agree. */
static void row(struct sb *out, const char *option, double asked, const char *advised, bool sound, const char *why)
{
	char text[32];

	if (asked == floor(asked) && fabs(asked) < 1e9)
		snprintf(text, sizeof(text), "%.0f", asked);
	else
		fmt_f64(asked, text);
	sb_addf(out, "%-14s %10s  %-18s %-7s %s\n", option, text, advised, sound ? "" : "differs", why);
}

static int64_t rank_of(enum task task)
{
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		if (sizes[i].task == task)
			return sizes[i].rank;
	return 16;
}

static void adapter_rows(const struct run *r, int64_t n, enum task task, struct sb *out)
{
	const struct train_config *c = r->c;
	int64_t rank = rank_of(task), all = 0;
	char text[32];

	for (int s = 0; s < LIN_N; s++)
		all += r->lora.targets[s];
	snprintf(text, sizeof(text), "%lld", (long long)rank);
	row(out, "rank", (double)r->lora.rank, text, r->lora.rank == rank,
	    task == TASK_STYLE ? "8 for simple changes of style" : rank == 32 ? "32 for complex tasks; 16 when it overfits" : "the usual start; 32 when held-out loss stalls early, 8 when it overfits");
	snprintf(text, sizeof(text), "%lld or %lld", (long long)r->lora.rank, (long long)(2 * r->lora.rank));
	row(out, "alpha", r->lora.alpha, text, r->lora.alpha == (double)r->lora.rank || r->lora.alpha == 2.0 * (double)r->lora.rank, "the rank, or twice that");
	if (n < SMALL)
		row(out, "dropout", c->dropout, "0.05-0.1", c->dropout >= 0.05 && c->dropout <= 0.1, "few examples overfit; 0.1 when they do");
	else
		row(out, "dropout", c->dropout, "0-0.05", c->dropout <= 0.05, "0.1 when it overfits");
	row(out, "targets", (double)all, "7", all == LIN_N, "all projections adapt best; attention's four are the smallest");
}

static void step_rows(const struct run *r, int64_t n, struct sb *out)
{
	const struct train_config *c = r->c;
	double epochs = (double)r->total_steps / (double)r->steps_per_epoch;
	int64_t batch = c->batch * c->accumulate;

	if (n < MEMORISED)
		row(out, "lr", c->lr, "5e-05", c->lr <= 5e-5, "so few examples want a low rate");
	else
		row(out, "lr", c->lr, "1e-04-2e-04", c->lr >= 1e-4 && c->lr <= 2e-4, "2e-4 first; 1e-4 when it is unstable, 5e-5 against forgetting");
	if (n > LARGE)
		row(out, "epochs", epochs, "1-2", epochs >= 1 && epochs <= 2, "over 10,000 examples");
	else if (n >= SMALL)
		row(out, "epochs", epochs, "2-4", epochs >= 2 && epochs <= 4, "1,000 to 10,000 examples; 2 or 3 under 2,000 by another guide");
	else
		row(out, "epochs", epochs, "4-8", epochs >= 4 && epochs <= 8, "under 1,000 examples, while held-out loss falls; 2 or 3 by another guide");
	row(out, "batch x accum.", (double)batch, "8-16", batch >= 8 && batch <= 16, "rows of a step");
	row(out, "warm-up", (double)r->schedule.warmup, "10-50, or 5 %", r->schedule.warmup > 0 && r->schedule.warmup * 5 <= r->total_steps, "steps; the rate spikes without");
	row(out, "weight-decay", c->optim.weight_decay, "0-0.01", c->optim.weight_decay <= 0.01, "");
	row(out, "max-grad-norm", c->max_grad_norm, "0.3-1", c->max_grad_norm > 0 && c->max_grad_norm <= 1, "clipping keeps one bad batch from spoiling all");
}

static void eval_rows(const struct run *r, struct sb *out)
{
	const struct train_config *c = r->c;
	double part = r->n_evals ? (double)r->evals[0].d.n_seqs / (double)(r->evals[0].d.n_seqs + r->train.n_seqs) : 0;

	row(out, "held out, %", floor(1000 * part) / 10, "10-15", part >= 0.095 && part <= 0.2, "only the held-out loss shows overfitting (--eval)");
	row(out, "patience", (double)c->patience, "3", c->patience == 3, "evaluations without improvement (--eval-every, --min-delta 0.01)");
}

int train_advise(const struct train_config *c, enum task task, struct sb *text, struct err *e)
{
	struct run r;
	int rc;

	if (c->pref)
		return err_set(e, LP_USAGE, "--advise knows what guides say of examples alone (--method sft); of preferences they say a rate of 5e-6 to 5e-5, one to three epochs, and for dpo a beta of 0.1 to 0.5");
	rc = run_prepare(&r, c, false, e);

	if (rc < 0 && e->code == LP_DEVICE && r.total_steps)
		rc = 0; /* memory is --dry-run's matter */
	if (rc == 0) {
		int64_t n = r.train.n_seqs;

		sb_addf(text, "%lld examples, %lld tokens, %lld of them targets; %lld steps\n\n", (long long)n, (long long)r.train.n_tokens, (long long)r.train.n_targets,
		        (long long)r.total_steps);
		size_table(n, task, text);
		sb_addf(text, "\n%-14s %10s  %-18s %-7s %s\n", "option", "asked", "advised", "", "why");
		adapter_rows(&r, n, task, text);
		step_rows(&r, n, text);
		eval_rows(&r, text);
		sb_adds(text, "\nThese are rules of thumb; nothing has been changed.\n");
	}
	run_release(&r);
	return rc;
}
