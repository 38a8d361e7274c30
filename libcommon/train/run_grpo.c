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

/* Of one batch of completions: those that run.train is made of, or a held-out set's. */
struct grpo_about {
	bool learnt;                          /* by steps, which have ratios and a KL */
	struct grpo_stats reward, each[GRPO_REWARDS];
	double flat;                          /* part of groups */
	double mean, min, max, ended, clipped; /* tokens, of all and of those that came to an end; part that did not */
	double make_seconds, reward_seconds;
};

struct prompt_set {
	struct prompt *prompts; /* (n) */
	char **more;            /* (n) members of the records for completion_write */
	int64_t n;
	size_t cap, cap_more;
};

struct rollout {
	struct prompt_texts texts;
	struct prompt_set train, *held; /* held: (n_evals of the configuration) */
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
	struct grpo_about about, held_about;
	char names[2 * GRPO_REWARDS][32];
};

/* --- prompts --- */

static int64_t most(const struct run *r)
{
	return r->c->batch * r->c->accumulate;
}

static int add_prompt(struct run *r, struct prompt_set *to, const struct jsonl_rec *rec, struct arena *a, struct err *e)
{
	struct rollout *o = r->rollout;
	struct sb more = SB_INIT;
	struct prompt *p;

	to->prompts = xgrow(to->prompts, &to->cap, (size_t)to->n + 1, sizeof(*to->prompts));
	to->more = xgrow(to->more, &to->cap_more, (size_t)to->n + 1, sizeof(*to->more));
	p = &to->prompts[to->n];
	to->more[to->n++] = NULL; /* also when it fails: it is released with the others */
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
	to->more[to->n - 1] = sb_detach(&more);
	return 0;
}

/* Of one file, to the set; its name and hash. */
static int read_prompts(struct run *r, const char *path, struct prompt_set *to, char *name, size_t size, char hash[33], struct err *e)
{
	struct in *in = in_open(path, e);
	struct jsonl *j = in ? jsonl_open_take(in, "auto", e) : NULL;
	struct jsonl_rec rec;
	int64_t before = to->n;
	int got = -1;

	if (!j)
		return -1;
	snprintf(name, size, "%s", in_name(jsonl_in(j)));
	while ((got = jsonl_next(j, &rec, e)) == 1)
		if (add_prompt(r, to, &rec, jsonl_arena(j), e) < 0) {
			got = err_where(e, name, rec.line);
			break;
		}
	in_hash(jsonl_in(j), hash);
	jsonl_close(j);
	return got == 0 && to->n == before ? err_line(e, LP_DATA, name, 0, "no prompts in it") : got;
}

static int read_file(struct run *r, const char *path, struct err *e)
{
	struct prompt_set *to = &r->rollout->train;
	struct stream *s = &r->streams[r->n_streams];

	s->first = s->records = to->n;
	if (read_prompts(r, path, to, s->name, sizeof(s->name), s->hash, e) < 0)
		return -1;
	s->n_rows = s->take = to->n - s->first;
	r->n_streams++;
	return 0;
}

int run_grpo_load_eval(struct run *r, struct heldout *h, struct err *e)
{
	return read_prompts(r, h->path, &r->rollout->held[h - r->evals], h->file, sizeof(h->file), h->d.hash, e);
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
	o->held = xcalloc(r->c->n_evals + 1, sizeof(*o->held));
	if (!need_data && !r->c->n_streams && !r->c->n_evals)
		return 0;
	if (prompt_texts_load(&o->texts, r->c->model, r->desc.eos, r->desc.n_eos, e) < 0)
		return -1;
	o->texts.prompter.raw |= c->raw;
	o->texts.prompter.max_tokens = INT64_MAX;
	o->opts = (struct gen_options){ .max_new = c->max_new, .temperature = c->rule.temperature, .top_p = c->top_p, .top_k = c->top_k, .seed = r->c->seed,
		                        .stop = o->texts.stop, .n_stop = o->texts.n_stop };
	return need_data || r->c->n_streams ? read_files(r, e) : 0;
}

int64_t run_prompts(const struct run *r)
{
	return r->rollout ? r->rollout->train.n : 0;
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

static void release_set(struct prompt_set *s)
{
	for (int64_t i = 0; i < s->n; i++) {
		prompt_release(&s->prompts[i]);
		free(s->more[i]);
	}
	free(s->prompts);
	free(s->more);
}

void run_grpo_close(struct run *r)
{
	struct rollout *o = r->rollout;

	if (!o)
		return;
	if (o->started)
		generator_release(&o->gen);
	release_set(&o->train);
	for (size_t i = 0; i < r->c->n_evals; i++)
		release_set(&o->held[i]);
	free(o->held);
	prompt_texts_release(&o->texts);
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

/* Completion i of those under way is of this prompt. */
static void put(struct run *r, int64_t i, const struct prompt_set *from, int64_t p, uint64_t stream)
{
	struct rollout *o = r->rollout;

	o->prompt_of[i] = p;
	o->seqs[i] = (struct gen_seq){ .prompt = from->prompts[p].ids, .n_prompt = from->prompts[p].n_ids, .out = o->ids + i * (r->c->grpo->max_new + 1), .stream = stream };
}

/* Which prompts the step's completions are of, and the draws' streams: functions of seed and step. */
static int64_t choose(struct run *r)
{
	const struct prompt_set *t = &r->rollout->train;
	int64_t group = r->c->grpo->group, batch = r->step / r->c->grpo->updates, per = most(r) / group, each = (t->n + per - 1) / per;
	int64_t at = batch % each * per, n = t->n - at < per ? t->n - at : per;

	for (int64_t i = 0; i < n * group; i++) {
		int64_t p = order_row(&r->order, batch / each, at + i / group);

		put(r, i, t, p, rng_u64(rng_stream("completion"), (uint64_t)batch, (uint64_t)(p * group + i % group)));
	}
	return n * group;
}

static int make(struct run *r, const struct prompt_set *from, int64_t n, struct err *e)
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
			return err_set(e, LP_DIVERGED, "step %lld: the logits for prompt %s are not finite; lower --lr", (long long)r->step + 1, from->prompts[o->prompt_of[i]].id);
	return 0;
}

static int tell_completions(struct run *r, const struct prompt_set *from, int64_t n, struct sb *text, struct err *e)
{
	const struct rollout *o = r->rollout;

	for (int64_t i = 0; i < n; i++)
		if (completion_write(&o->texts.prompter, &from->prompts[o->prompt_of[i]], &o->seqs[i], from->more[o->prompt_of[i]], text, e) < 0)
			return -1;
	return 0;
}

/* To reward, (n_rewards, stride). */
static int ask(const struct grpo_config *c, const struct sb *text, int64_t n, int64_t stride, double *reward, struct err *e)
{
	for (size_t k = 0; k < c->n_rewards; k++)
		if (reward_run(c->rewards[k], text, n, c->timeout, reward + (int64_t)k * stride, e) < 0)
			return -1;
	return 0;
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

/* The sum by weight of n completions' rewards, (n_rewards + 1, stride), to the last row. */
static void add_up(const struct grpo_config *c, double *reward, int64_t stride, int64_t n)
{
	double *all = reward + (int64_t)c->n_rewards * stride;

	for (int64_t i = 0; i < n; i++) {
		all[i] = 0;
		for (size_t k = 0; k < c->n_rewards; k++)
			all[i] += c->weights[k] * reward[(int64_t)k * stride + i];
	}
}

static void about_rewards(struct grpo_about *a, const struct grpo_config *c, const double *reward, int64_t stride, int64_t n)
{
	a->reward = grpo_stats(reward + (int64_t)c->n_rewards * stride, n);
	for (size_t k = 0; k < c->n_rewards; k++)
		a->each[k] = grpo_stats(reward + (int64_t)k * stride, n);
}

/* Lengths of n completions more; of all that were added up they are means when about_end has had its say. */
static void about_begin(struct grpo_about *a, bool learnt)
{
	*a = (struct grpo_about){ .learnt = learnt, .min = INFINITY };
}

static void about_lengths(struct grpo_about *a, const struct gen_seq *q, int64_t n)
{
	for (int64_t i = 0; i < n; i++) {
		bool end = q[i].finish == GEN_STOP;
		double len = (double)(q[i].n_new + end);

		a->mean += len;
		a->min = fmin(a->min, len);
		a->max = fmax(a->max, len);
		a->ended += end ? len : 0;
		a->clipped += !end;
	}
}

static void about_end(struct grpo_about *a, int64_t n)
{
	a->mean /= (double)n;
	a->ended = a->clipped < (double)n ? a->ended / ((double)n - a->clipped) : 0;
	a->clipped /= (double)n;
}

int run_grpo_take(struct run *r, int64_t n, struct err *e)
{
	const struct grpo_config *c = r->c->grpo;
	struct rollout *o = r->rollout;
	struct dataset *d = &r->train;
	double *all = o->reward + (int64_t)c->n_rewards * most(r);
	int64_t flat;
	char hash[33];

	memcpy(hash, d->hash, sizeof(hash));
	dataset_release(d);
	memcpy(d->hash, hash, sizeof(hash));
	d->adv = xcalloc((size_t)n, sizeof(*d->adv));
	d->weight = xcalloc((size_t)n, sizeof(*d->weight));
	for (int64_t i = 0; i < n; i++)
		add_row(r, i);
	add_up(c, o->reward, most(r), n);
	flat = grpo_advantages(all, n, c->group, c->scale, d->adv);
	about_begin(&o->about, true);
	about_rewards(&o->about, c, o->reward, most(r), n);
	about_lengths(&o->about, o->seqs, n);
	about_end(&o->about, n);
	o->about.flat = (double)flat * (double)c->group / (double)n;
	d->tok_old = xcalloc((size_t)d->n_tokens, sizeof(*d->tok_old));
	d->tok_ref = xcalloc((size_t)d->n_tokens, sizeof(*d->tok_ref));
	if (!c->rule.on_policy && logps(r, d->tok_old, e) < 0)
		return -1;
	return c->rule.beta > 0 ? reference_logps(r, d->tok_ref, e) : 0;
}

int run_grpo_rollout(struct run *r, struct err *e)
{
	struct rollout *o = r->rollout;
	int64_t n = choose(r);
	double begin = now_seconds(), made, asked;
	struct sb text = SB_INIT;
	int rc = make(r, &o->train, n, e);

	made = now_seconds();
	if (rc == 0)
		rc = tell_completions(r, &o->train, n, &text, e) < 0 ? -1 : ask(r->c->grpo, &text, n, most(r), o->reward, e);
	asked = now_seconds();
	sb_release(&text);
	if (rc == 0)
		rc = run_grpo_take(r, n, e);
	o->about.make_seconds = made - begin;
	o->about.reward_seconds = asked - made;
	return rc;
}

/* A completion of each prompt of the set, drawn by the same numbers every time. */
static int make_held(struct run *r, const struct prompt_set *h, struct sb *text, struct grpo_about *a, struct err *e)
{
	struct rollout *o = r->rollout;

	for (int64_t i = 0; i < h->n; i += most(r)) {
		int64_t n = h->n - i < most(r) ? h->n - i : most(r);

		for (int64_t k = 0; k < n; k++)
			put(r, k, h, i + k, rng_u64(rng_stream("held-out"), (uint64_t)(h - o->held), (uint64_t)(i + k)));
		if (make(r, h, n, e) < 0 || tell_completions(r, h, n, text, e) < 0)
			return -1;
		about_lengths(a, o->seqs, n);
	}
	return 0;
}

int64_t run_grpo_held(const struct run *r, const struct heldout *h)
{
	return r->rollout->held[h - r->evals].n;
}

int run_grpo_evaluate(struct run *r, const struct heldout *h, double *loss, struct told *told, struct err *e)
{
	const struct grpo_config *c = r->c->grpo;
	const struct prompt_set *set = &r->rollout->held[h - r->evals];
	struct grpo_about *a = &r->rollout->held_about;
	double *reward = xcalloc((size_t)set->n * (c->n_rewards + 1), sizeof(*reward)), begin = now_seconds();
	struct sb text = SB_INIT;
	int rc;

	about_begin(a, false);
	rc = make_held(r, set, &text, a, e);
	a->make_seconds = now_seconds() - begin;
	if (rc == 0)
		rc = ask(c, &text, set->n, set->n, reward, e);
	a->reward_seconds = now_seconds() - begin - a->make_seconds;
	*told = (struct told){ .targets = (int64_t)a->mean, .grpo = a };
	add_up(c, reward, set->n, set->n);
	about_rewards(a, c, reward, set->n, set->n);
	about_end(a, set->n);
	*loss = 0 - a->reward.mean;
	sb_release(&text);
	free(reward);
	return rc;
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

const struct grpo_about *run_grpo_about(const struct run *r)
{
	return r->rollout ? &r->rollout->about : NULL;
}

double run_grpo_reward(const struct run *r)
{
	return r->rollout->about.reward.mean;
}

double run_grpo_flat(const struct run *r)
{
	return r->rollout->about.flat;
}

int run_grpo_means(const struct run *r, const struct told *t, const char *names[TOLD_MEANS], double means[TOLD_MEANS])
{
	const struct grpo_config *c = r->c->grpo;
	struct rollout *o = r->rollout;
	const struct grpo_about *a = t->grpo;
	double tokens = t->targets ? (double)t->targets : 1, low = t->sums[KN_GRPO_LOW] / tokens, high = t->sums[KN_GRPO_HIGH] / tokens;
	const struct {
		const char *name;
		double mean;
		bool on;
	} all[] = { { "reward", a->reward.mean, true },
		    { "reward_std", a->reward.std, true },
		    { "frac_reward_zero_std", a->flat, a->learnt },
		    { "kl", t->sums[KN_GRPO_KL] / tokens, a->learnt && c->rule.beta > 0 },
		    { "clip_ratio/low_mean", low, a->learnt },
		    { "clip_ratio/high_mean", high, a->learnt },
		    { "clip_ratio/region_mean", low + high, a->learnt },
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
		snprintf(o->names[k], sizeof(o->names[k]), "rewards/%d/%s", (int)(k / 2 + 1), k % 2 ? "std" : "mean");
		names[n] = o->names[k];
		means[n++] = k % 2 ? a->each[k / 2].std : a->each[k / 2].mean;
	}
	return n;
}
