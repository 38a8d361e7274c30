/* What a run by GRPO has beside any other: prompts in the place of rows; completions of them, with the adapter as it is, before every
 * so many steps; what commands think of these; and run.train, which is made of them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/xalloc.h"
#include "train/completion.h"
#include "train/grpo.h"
#include "train/reward.h"
#include "train/run_int.h"

enum { AT_ONCE = 64 };

/* Of the completions that run.train is made of. */
struct about {
	struct grpo_stats reward, each[GRPO_REWARDS];
	double flat;                          /* part of groups */
	double mean, min, max, ended, clipped; /* tokens, of all and of those that came to an end; part that did not */
	double make_seconds, reward_seconds;
};

struct rollout {
	struct prompt_texts texts;
	struct prompt *prompts; /* (n_prompts) */
	char **more;            /* (n_prompts) members of the records for completion_write */
	int64_t n_prompts;
	size_t cap, cap_more;
	int64_t longest;        /* prompt */
	struct gen_options opts;
	struct gen_seq *seqs;   /* (most) of a step */
	int64_t *prompt_of;     /* (most) */
	int32_t *ids;           /* (most, max_new + 1): room for the end token */
	double *reward;         /* (n_rewards + 1, most): of each command, of all */
	struct generator gen;
	bool started;
	float *start;           /* parameters that the run started from, where they are the reference's; NULL: it has none */
	float *now;             /* room for the run's meanwhile */
	double *nll;            /* (max_tokens of a micro-batch) */
	struct about about;
	char names[2 * GRPO_REWARDS][32];
};

/* --- prompts --- */

static int64_t most(const struct run *r)
{
	return r->c->batch * r->c->accumulate;
}

static int add_prompt(struct run *r, const struct jsonl_rec *rec, struct arena *a, struct err *e)
{
	struct rollout *o = r->rollout;
	struct sb more = SB_INIT;
	struct prompt *p;

	o->prompts = xgrow(o->prompts, &o->cap, (size_t)o->n_prompts + 1, sizeof(*o->prompts));
	o->more = xgrow(o->more, &o->cap_more, (size_t)o->n_prompts + 1, sizeof(*o->more));
	p = &o->prompts[o->n_prompts];
	o->more[o->n_prompts++] = NULL; /* also when it fails: it is released with the others */
	if (prompt_make(&o->texts.prompter, rec, a, p, e) < 0)
		return -1;
	if (p->n_ids + r->c->grpo->max_new > run_positions(r))
		return err_set(e, LP_DATA, "a prompt of %lld tokens, and with %lld new ones (--max-new) it is longer than the model's %lld positions; shorten it, lower --max-new, or "
		               "go past them with --allow-long", (long long)p->n_ids, (long long)r->c->grpo->max_new, (long long)run_positions(r));
	for (int64_t i = 0; i < p->n_ids; i++)
		if (p->ids[i] >= r->desc.vocab)
			return err_set(e, LP_DATA, "the prompt holds token id %d, and the model has %lld; its tokenizer is another model's", p->ids[i], (long long)r->desc.vocab);
	o->longest = p->n_ids > o->longest ? p->n_ids : o->longest;
	completion_more(&rec->v, &more);
	o->more[o->n_prompts - 1] = sb_detach(&more);
	return 0;
}

static int read_file(struct run *r, const char *path, struct err *e)
{
	struct in *in = in_open(path, e);
	struct jsonl *j = in ? jsonl_open_take(in, "auto", e) : NULL;
	struct stream *s = &r->streams[r->n_streams];
	struct jsonl_rec rec;
	int got = -1;

	if (!j)
		return -1;
	snprintf(s->name, sizeof(s->name), "%s", in_name(jsonl_in(j)));
	s->first = s->records = r->rollout->n_prompts;
	while ((got = jsonl_next(j, &rec, e)) == 1)
		if (add_prompt(r, &rec, jsonl_arena(j), e) < 0) {
			got = err_where(e, s->name, rec.line);
			break;
		}
	s->n_rows = s->take = r->rollout->n_prompts - s->first;
	in_hash(jsonl_in(j), s->hash);
	r->n_streams++;
	jsonl_close(j);
	if (got == 0 && s->n_rows == 0)
		return err_line(e, LP_DATA, s->name, 0, "no prompts in it");
	return got;
}

static int read_files(struct run *r, struct err *e)
{
	const struct train_config *c = r->c;
	struct xxh *h;

	r->streams = xcalloc(c->n_streams + 1, sizeof(*r->streams));
	for (size_t i = 0; i < (c->n_streams ? c->n_streams : 1); i++)
		if (read_file(r, c->n_streams ? c->streams[i] : NULL, e) < 0)
			return -1;
	h = xxh_new();
	for (size_t i = 0; i < r->n_streams; i++)
		xxh_add(h, r->streams[i].hash, sizeof(r->streams[i].hash));
	xxh_hex(h, r->train.hash);
	xxh_free(h);
	return 0;
}

int run_grpo_open(struct run *r, bool need_data, struct err *e)
{
	const struct grpo_config *c = r->c->grpo;
	struct rollout *o;

	if (!c)
		return 0;
	o = r->rollout = xcalloc(1, sizeof(*o));
	o->seqs = xcalloc((size_t)most(r), sizeof(*o->seqs));
	o->prompt_of = xcalloc((size_t)most(r), sizeof(*o->prompt_of));
	o->ids = xcalloc((size_t)(most(r) * (c->max_new + 1)), sizeof(*o->ids));
	o->reward = xcalloc((size_t)most(r) * (c->n_rewards + 1), sizeof(*o->reward));
	if (!need_data && !r->c->n_streams)
		return 0;
	if (prompt_texts_load(&o->texts, r->c->model, r->desc.eos, r->desc.n_eos, e) < 0)
		return -1;
	o->texts.prompter.raw |= c->raw;
	o->texts.prompter.max_tokens = INT64_MAX;
	o->opts = (struct gen_options){ .max_new = c->max_new, .temperature = c->rule.temperature, .top_p = c->top_p, .top_k = c->top_k, .seed = r->c->seed,
		                        .stop = o->texts.stop, .n_stop = o->texts.n_stop };
	return read_files(r, e);
}

int64_t run_prompts(const struct run *r)
{
	return r->rollout ? r->rollout->n_prompts : 0;
}

int64_t run_grpo_longest(const struct run *r)
{
	return r->rollout && r->rollout->longest ? r->rollout->longest + r->c->grpo->max_new : 0;
}

/* --- what it takes --- */

int64_t run_grpo_batch(const struct run *r)
{
	int64_t n = most(r);

	if (!r->rollout)
		return 0;
	return r->c->grpo->at_once ? r->c->grpo->at_once < n ? r->c->grpo->at_once : n : n < AT_ONCE ? n : AT_ONCE;
}

uint64_t run_grpo_bytes(const struct run *r, int64_t context)
{
	return r->rollout ? generator_bytes(&r->dev, &r->desc, run_grpo_batch(r), context) : 0;
}

/* The reference is the model without adapter, or with the one that the run starts from. */
static bool starts_from(const struct run *r)
{
	return r->c->grpo->rule.beta > 0 && r->c->adapter && !r->c->base_reference;
}

int run_grpo_start(struct run *r, struct err *e)
{
	struct rollout *o = r->rollout;
	uint64_t bytes = (uint64_t)r->lora.n_params * sizeof(float);

	if (!o)
		return 0;
	o->nll = xcalloc((size_t)r->g.shape.max_tokens + 1, sizeof(*o->nll));
	if (starts_from(r)) {
		o->start = xmalloc(bytes);
		o->now = xmalloc(bytes);
		device_download(&r->dev, o->start, r->lora.params, bytes);
		if (device_sync(&r->dev, e) < 0)
			return -1;
	}
	if (generator_init(&o->gen, &r->g, run_grpo_batch(r), o->longest + r->c->grpo->max_new, e) < 0)
		return -1;
	o->started = true;
	return 0;
}

void run_grpo_close(struct run *r)
{
	struct rollout *o = r->rollout;

	if (!o)
		return;
	if (o->started)
		generator_release(&o->gen);
	for (int64_t i = 0; i < o->n_prompts; i++) {
		prompt_release(&o->prompts[i]);
		free(o->more[i]);
	}
	prompt_texts_release(&o->texts);
	free(o->prompts);
	free(o->more);
	free(o->seqs);
	free(o->prompt_of);
	free(o->ids);
	free(o->reward);
	free(o->start);
	free(o->now);
	free(o->nll);
	free(o);
	r->rollout = NULL;
}

/* --- completions --- */

/* Which prompts the step's completions are of, and the draws' streams: functions of seed and step. */
static int64_t choose(struct run *r)
{
	struct rollout *o = r->rollout;
	int64_t group = r->c->grpo->group, batch = r->step / r->c->grpo->updates, per = most(r) / group, each = (o->n_prompts + per - 1) / per;
	int64_t at = batch % each * per, n = o->n_prompts - at < per ? o->n_prompts - at : per;

	for (int64_t i = 0; i < n * group; i++) {
		int64_t p = o->prompt_of[i] = order_row(&r->order, batch / each, at + i / group);

		o->seqs[i] = (struct gen_seq){ .prompt = o->prompts[p].ids, .n_prompt = o->prompts[p].n_ids, .out = o->ids + i * (r->c->grpo->max_new + 1),
			                       .stream = rng_u64(rng_stream("completion"), (uint64_t)batch, (uint64_t)(p * group + i % group)) };
	}
	return n * group;
}

static int make(struct run *r, int64_t n, struct err *e)
{
	struct rollout *o = r->rollout;
	int64_t at_once = run_grpo_batch(r);

	engine_set_dropout(&r->g, false, 0, 0);
	for (int64_t i = 0; i < n; i += at_once) {
		progress("step %lld/%lld  completion %lld of %lld", (long long)r->step, (long long)r->total_steps, (long long)i, (long long)n);
		if (generator_run(&o->gen, o->seqs + i, n - i < at_once ? n - i : at_once, &o->opts, e) < 0)
			return -1;
	}
	for (int64_t i = 0; i < n; i++)
		if (!isfinite(o->seqs[i].logprob))
			return err_set(e, LP_DIVERGED, "step %lld: the logits for prompt %s are not finite; lower --lr", (long long)r->step + 1, o->prompts[o->prompt_of[i]].id);
	return 0;
}

static int ask(struct run *r, int64_t n, struct err *e)
{
	const struct grpo_config *c = r->c->grpo;
	struct rollout *o = r->rollout;
	struct sb text = SB_INIT;
	int rc = 0;

	for (int64_t i = 0; i < n && rc == 0; i++)
		rc = completion_write(&o->texts.prompter, &o->prompts[o->prompt_of[i]], &o->seqs[i], o->more[o->prompt_of[i]], &text, e);
	for (size_t k = 0; k < c->n_rewards && rc == 0; k++)
		rc = reward_run(c->rewards[k], &text, n, c->timeout, o->reward + (int64_t)k * most(r), e);
	sb_release(&text);
	return rc;
}

/* --- what steps see --- */

/* Log-probabilities of the completions' tokens as the model is now, in the micro-batches that steps have. to: (n_tokens). */
static int logps(struct run *r, double *to, struct err *e)
{
	const struct dataset *d = &r->train;

	engine_set_dropout(&r->g, false, 0, 0);
	engine_begin(&r->g);
	for (int64_t row = 0; row < d->n_rows;) {
		int64_t first = d->row_start[row], k = 0;

		microbatch_clear(&r->mb);
		for (int64_t i = 0; i < r->c->batch && row < d->n_rows; i++, row++)
			microbatch_add(&r->mb, d, row);
		engine_run(&r->g, &r->mb, false, 1);
		if (engine_nll(&r->g, r->rollout->nll, r->mb.n_targets, e) < 0)
			return -1;
		for (int64_t t = first; t < d->row_start[row]; t++)
			to[t] = d->mask[t] ? -r->rollout->nll[k++] : 0;
	}
	return 0;
}

static int reference_logps(struct run *r, double *to, struct err *e)
{
	struct rollout *o = r->rollout;
	struct lora *lora = r->g.lora;
	uint64_t bytes = (uint64_t)r->lora.n_params * sizeof(float);
	int rc;

	if (o->start) {
		device_download(&r->dev, o->now, r->lora.params, bytes);
		if (device_sync(&r->dev, e) < 0)
			return -1;
		device_upload(&r->dev, r->lora.params, o->start, bytes);
	} else {
		r->g.lora = NULL;
	}
	rc = logps(r, to, e);
	if (o->start)
		device_upload(&r->dev, r->lora.params, o->now, bytes);
	r->g.lora = lora;
	return rc;
}

static void add_row(struct run *r, int64_t i)
{
	const struct grpo_config *c = r->c->grpo;
	struct dataset *d = &r->train;
	struct rollout *o = r->rollout;
	struct gen_seq *q = &o->seqs[i];
	int64_t n = q->n_new + (q->finish == GEN_STOP), start[2] = { 0, q->n_prompt + n };
	int32_t *ids = xcalloc((size_t)start[1], sizeof(*ids));
	uint8_t *mask = xcalloc((size_t)start[1], 1);

	if (q->finish == GEN_STOP)
		q->out[q->n_new] = q->end;
	memcpy(ids, q->prompt, (size_t)q->n_prompt * sizeof(*ids));
	memcpy(ids + q->n_prompt, q->out, (size_t)n * sizeof(*ids));
	memset(mask + q->n_prompt, q->finish == GEN_STOP || !c->mask_truncated, (size_t)n);
	dataset_add_row(d, ids, mask, start, &o->prompt_of[i], 1);
	d->weight[i] = c->loss == GRPO_GRPO ? 1 / (double)n : c->loss == GRPO_DR_GRPO ? 1 / (double)c->max_new : 1;
	free(ids);
	free(mask);
}

static void describe(struct run *r, int64_t n, int64_t flat)
{
	const struct grpo_config *c = r->c->grpo;
	struct rollout *o = r->rollout;
	struct about *a = &o->about;
	int64_t ends = 0;

	a->reward = grpo_stats(o->reward + (int64_t)c->n_rewards * most(r), n);
	for (size_t k = 0; k < c->n_rewards; k++)
		a->each[k] = grpo_stats(o->reward + (int64_t)k * most(r), n);
	a->flat = (double)flat * (double)c->group / (double)n;
	a->mean = a->max = a->ended = 0;
	a->min = INFINITY;
	for (int64_t i = 0; i < n; i++) {
		double len = (double)(o->seqs[i].n_new + (o->seqs[i].finish == GEN_STOP));

		a->mean += len / (double)n;
		a->min = fmin(a->min, len);
		a->max = fmax(a->max, len);
		ends += o->seqs[i].finish == GEN_STOP;
		a->ended += o->seqs[i].finish == GEN_STOP ? len : 0;
	}
	a->ended = ends ? a->ended / (double)ends : 0;
	a->clipped = 1 - (double)ends / (double)n;
}

int run_grpo_take(struct run *r, int64_t n, struct err *e)
{
	const struct grpo_config *c = r->c->grpo;
	struct rollout *o = r->rollout;
	struct dataset *d = &r->train;
	double *all = o->reward + (int64_t)c->n_rewards * most(r);
	char hash[33];

	memcpy(hash, d->hash, sizeof(hash));
	dataset_release(d);
	memcpy(d->hash, hash, sizeof(hash));
	d->adv = xcalloc((size_t)n, sizeof(*d->adv));
	d->weight = xcalloc((size_t)n, sizeof(*d->weight));
	for (int64_t i = 0; i < n; i++) {
		all[i] = 0;
		for (size_t k = 0; k < c->n_rewards; k++)
			all[i] += c->weights[k] * o->reward[(int64_t)k * most(r) + i];
		add_row(r, i);
	}
	describe(r, n, grpo_advantages(all, n, c->group, c->scale, d->adv));
	d->tok_old = xcalloc((size_t)d->n_tokens, sizeof(*d->tok_old));
	d->tok_ref = xcalloc((size_t)d->n_tokens, sizeof(*d->tok_ref));
	if (!c->rule.on_policy && logps(r, d->tok_old, e) < 0)
		return -1;
	return c->rule.beta > 0 ? reference_logps(r, d->tok_ref, e) : 0;
}

int run_grpo_rollout(struct run *r, struct err *e)
{
	struct about *a = &r->rollout->about;
	int64_t n = choose(r);
	double begin = now_seconds(), made;

	if (make(r, n, e) < 0)
		return -1;
	made = now_seconds();
	if (ask(r, n, e) < 0)
		return -1;
	a->make_seconds = made - begin;
	a->reward_seconds = now_seconds() - made;
	return run_grpo_take(r, n, e);
}

struct gen_seq *run_grpo_seqs(struct run *r, int64_t **prompt_of, double **reward)
{
	*prompt_of = r->rollout->prompt_of;
	*reward = r->rollout->reward;
	return r->rollout->seqs;
}

bool run_grpo_due(const struct run *r, int64_t step)
{
	return r->rollout && step % r->c->grpo->updates == 0;
}

/* --- what is told --- */

double run_grpo_reward(const struct run *r)
{
	return r->rollout->about.reward.mean;
}

int run_grpo_means(const struct run *r, const struct told *t, const char *names[TOLD_MEANS], double means[TOLD_MEANS])
{
	const struct grpo_config *c = r->c->grpo;
	struct rollout *o = r->rollout;
	const struct about *a = &o->about;
	double tokens = t->targets ? (double)t->targets : 1, low = t->sums[KN_GRPO_LOW] / tokens, high = t->sums[KN_GRPO_HIGH] / tokens;
	const struct {
		const char *name;
		double mean;
		bool on;
	} all[] = { { "reward", a->reward.mean, true },
		    { "reward_std", a->reward.std, true },
		    { "frac_reward_zero_std", a->flat, true },
		    { "kl", t->sums[KN_GRPO_KL] / tokens, c->rule.beta > 0 },
		    { "clip_ratio/low_mean", low, true },
		    { "clip_ratio/high_mean", high, true },
		    { "clip_ratio/region_mean", low + high, true },
		    { "completions/mean_length", a->mean, true },
		    { "completions/min_length", a->min, true },
		    { "completions/max_length", a->max, true },
		    { "completions/mean_terminated_length", a->ended, true },
		    { "completions/clipped_ratio", a->clipped, true },
		    { "completion_seconds", a->make_seconds, true },
		    { "reward_seconds", a->reward_seconds, true } };
	int n = 0;

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		if (all[i].on) {
			names[n] = all[i].name;
			means[n++] = all[i].mean;
		}
	for (size_t k = 0; k < 2 * c->n_rewards; k++) {
		snprintf(o->names[k], sizeof(o->names[k]), "rewards/%zu/%s", k / 2 + 1, k % 2 ? "std" : "mean");
		names[n] = o->names[k];
		means[n++] = k % 2 ? a->each[k / 2].std : a->each[k / 2].mean;
	}
	return n;
}
