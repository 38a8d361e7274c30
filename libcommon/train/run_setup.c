/* From options to a plan: everything that can be refused is refused here. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/xalloc.h"
#include "model/codes.h"
#include "train/checkpoint.h"
#include "train/pref.h"
#include "train/run_int.h"
#include "train/sample.h"

/* The rotary tables go on beyond what the model was trained for. */
int64_t run_positions(const struct run *r)
{
	return r->c->allow_long ? INT32_MAX : r->desc.max_pos;
}

static int load_data(struct run *r, bool need_train, struct err *e)
{
	if (r->c->grpo)
		return run_grpo_open(r, need_train, e) < 0 ? -1 : run_load_evals(r, e);
	if ((r->c->n_streams || need_train) && run_load_streams(r, e) < 0)
		return -1;
	return run_load_evals(r, e) < 0 ? -1 : run_pref_mismatch(r, e);
}

/* What a base that is trained, or tables of it, cannot be. */
static int check_base(const struct run *r, struct err *e)
{
	const struct train_config *c = r->c;

	if (c->pref || c->grpo)
		return err_set(e, LP_USAGE, "--method %s learns an adapter alone; leave out --update full or galore, --train-embeddings and --train-head",
		               c->grpo ? "grpo" : pref_name(c->pref->method));
	if (!(c->trained & TRAIN_LAYERS) && r->desc.tied)
		return err_set(e, LP_USAGE, "the model's head is its embedding, which PEFT has no single place for beside an adapter; train all weights with --update full");
	if (r->desc.bnb.on && c->trained & TRAIN_LAYERS)
		return err_set(e, LP_USAGE, "the base is a checkpoint in 4 bits, whose weights cannot be trained; give the 16-bit model that it was made from, or train an adapter");
	if (c->nf4 && c->trained & TRAIN_LAYERS)
		return err_set(e, LP_USAGE, "weights in NF4 cannot be trained; leave --quant nf4 out, or train an adapter");
	if (c->adapter && c->trained & TRAIN_LAYERS)
		return err_set(e, LP_USAGE, "--adapter is of a frozen base; fold it in with lora-merge, and train the result");
	if (c->compute && strcmp(c->compute, "fp8") == 0)
		return err_set(e, LP_USAGE, "--compute fp8 is for a frozen base; compute in bf16");
	if (c->neftune > 0 && c->trained & TRAIN_EMBED)
		return err_set(e, LP_USAGE, "--neftune needs embeddings that are not trained; leave it out, or give --train-embeddings no");
	if (r->desc.tied && !(c->trained & TRAIN_EMBED) != !(c->trained & TRAIN_HEAD))
		return err_set(e, LP_USAGE, "the model's head is its embedding: train both, or neither");
	return 0;
}

static int prepare_adapter(struct run *r, struct err *e)
{
	const struct train_config *c = r->c;
	bool score = c->pref && c->pref->method == KN_PREF_REWARD, scored;
	struct peft p;

	if (c->trained && check_base(r, e) < 0)
		return -1;
	if (c->trained & TRAIN_LAYERS) { /* an adapter of no projection */
		r->lora = (struct lora){ .rank = 1, .alpha = 1 };
		lora_init(&r->lora, &r->desc);
		return 0;
	}
	if (!c->adapter && c->eval_only && score)
		return err_set(e, LP_USAGE, "a reward model is an adapter and its score; name it with --adapter");
	if (!c->adapter) {
		r->lora = (struct lora){ .rank = c->rank, .alpha = c->alpha, .dropout = c->dropout, .rslora = c->rslora, .dora = c->dora };
		if (lora_choose(&r->lora, &r->desc, c->targets, c->layers, e) < 0)
			return -1;
		lora_init(&r->lora, &r->desc);
		if (score)
			lora_add_score(&r->lora, &r->desc);
		return 0;
	}
	if (peft_open(&p, c->adapter, e) < 0)
		return -1;
	if (lora_from_peft(&r->lora, &r->desc, &p, e) < 0) {
		peft_release(&p);
		return err_where(e, c->adapter, 0);
	}
	r->lora.dropout = c->dropout;
	if (!c->eval_only && ((peft_saved(&p, arch_embed_name) && !(c->trained & TRAIN_EMBED)) || (peft_saved(&p, arch_head_name) && !(c->trained & TRAIN_HEAD)))) {
		peft_release(&p);
		return err_set(e, LP_USAGE, "'%s' has an embedding or head of its own; it goes on with --train-embeddings yes or --train-head yes, as it was made", c->adapter);
	}
	scored = p.score != NULL;
	peft_release(&p);
	if (c->dora && !r->lora.dora)
		return err_set(e, LP_USAGE, "'%s' is a LoRA adapter without magnitudes; leave --dora out, or start anew", c->adapter);
	if (scored && !score)
		return err_off(e, LP_USAGE, c->adapter, -1, "the adapter is a reward model; use it with --method reward");
	if (!scored && score && c->eval_only)
		return err_off(e, LP_USAGE, c->adapter, -1, "the adapter is no reward model: it has no score.weight");
	if (score)
		lora_add_score(&r->lora, &r->desc);
	return 0;
}

static int plan_steps(struct run *r, struct err *e)
{
	const struct train_config *c = r->c;
	int64_t updates = c->grpo ? c->grpo->updates : 1, per_step = c->batch * c->accumulate / (c->grpo ? c->grpo->group : 1);

	r->steps_per_epoch = (run_rows(r) + per_step - 1) / per_step * updates;
	r->total_steps = c->max_steps > 0 ? c->max_steps : (int64_t)ceil(c->epochs * (double)(r->steps_per_epoch / updates)) * updates;
	r->schedule = (struct schedule){ .kind = c->schedule, .shape = c->decay_shape, .total = c->schedule_steps > 0 ? c->schedule_steps : r->total_steps };
	if (r->total_steps % updates)
		return err_set(e, LP_USAGE, "--max-steps %lld is not a multiple of --updates %lld: the last completions would be seen less often", (long long)r->total_steps, (long long)updates);
	if (c->save_every > 0 && c->save_every % updates)
		return err_set(e, LP_USAGE, "--save-every %lld is not a multiple of --updates %lld: a checkpoint is one between two batches of completions", (long long)c->save_every,
		               (long long)updates);
	if (r->schedule.total < r->total_steps)
		return err_set(e, LP_USAGE, "--schedule-steps %lld is less than the run's %lld steps", (long long)r->schedule.total, (long long)r->total_steps);
	r->schedule.warmup = c->warmup_steps >= 0 ? c->warmup_steps : schedule_part(c->warmup_ratio, r->schedule.total);
	r->schedule.decay = c->decay_steps >= 0 ? c->decay_steps : schedule_part(c->decay_ratio, r->schedule.total);
	r->eval_every = c->eval_every == TRAIN_EPOCH ? r->steps_per_epoch : c->eval_every;
	r->sample_every = c->sample_every == TRAIN_EPOCH ? r->steps_per_epoch : c->sample_every;
	r->save_every = c->save_every == TRAIN_EPOCH ? r->steps_per_epoch : c->save_every;
	return 0;
}

/* Tokens of a row when there is no data to ask. */
static int64_t assumed_len(const struct run *r)
{
	if (r->c->max_len)
		return r->c->max_len;
	return r->desc.max_pos < 2048 ? r->desc.max_pos : 2048;
}

static int64_t greater(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

/* Tokens of any micro-batch of so many rows at most; repeats: one row may be in it twice. */
static int64_t batch_tokens(const struct dataset *d, int64_t batch, bool repeats)
{
	return repeats ? batch * d->longest_row : dataset_max_batch_tokens(d, batch);
}

static int64_t max_seq(const struct run *r)
{
	int64_t n = greater(r->train.longest_seq, run_grpo_longest(r));

	for (size_t i = 0; i < r->n_evals; i++)
		n = r->evals[i].d.longest_seq > n ? r->evals[i].d.longest_seq : n;
	return n ? n : assumed_len(r);
}

/* Rows of the largest micro-batch: true ones when the data is there, else as
 * many tokens as the options allow. */
static int64_t max_batch_tokens(const struct run *r)
{
	const struct train_config *c = r->c;
	bool repeats = run_repeats_rows(r);
	int64_t n = c->grpo ? c->batch * max_seq(r) : greater(batch_tokens(&r->train, c->batch, repeats), batch_tokens(&r->mismatched, c->batch, repeats));

	for (size_t i = 0; i < r->n_evals; i++) {
		n = greater(n, batch_tokens(&r->evals[i].d, c->batch, false));
		n = greater(n, batch_tokens(&r->evals[i].mismatched, c->batch, false));
	}
	return n ? n : c->batch * assumed_len(r) * (c->pref && c->pref->method != KN_PREF_KTO ? 2 : 1);
}

uint64_t run_cache_bytes(const struct run *r)
{
	return run_grpo_bytes(r, max_seq(r));
}

static int make_plan(struct run *r, struct err *e)
{
	struct engine_shape s = { .max_tokens = max_batch_tokens(r), .max_seq = max_seq(r), .train = true, .optim = &r->optim, .pref = r->c->pref, .grpo = r->c->grpo ? &r->c->grpo->rule : NULL, .noise = r->c->neftune, .host_budget = r->c->host_memory,
		.fp8 = r->c->compute && strcmp(r->c->compute, "fp8") == 0 };
	enum dtype base = r->source ? weights_source_dtype(r->source, r->desc.dtype) : r->desc.dtype;

	/* chunks of logits, and so bits, follow from the micro-batches alone */
	s.max_tokens = greater(s.max_tokens, greater(sampler_context(r), run_grpo_batch(r)));
	s.beside = greater(sampler_batch(r), run_grpo_batch(r));
	s.max_seq = greater(s.max_seq, sampler_context(r));
	/* a tenth is left to everything else on the machine */
	if (r->c->trained && !r->c->eval_only) {
		trained_init(&r->base, &r->desc, &r->dev, r->c->trained, r->c->accumulate > 1 || s.max_tokens > ENGINE_PIECE);
		s.base = r->optim.base = &r->base;
		r->galore = (struct galore){ .rank = r->c->galore_rank, .every = r->c->galore_every, .scale = r->c->galore_scale, .seed = r->c->seed, .base = &r->base };
		r->optim.galore = r->c->galore_rank > 0 ? &r->galore : NULL;
	}
	s.budget = r->c->memory ? r->c->memory - (r->c->memory > r->dev.overhead ? r->dev.overhead : 0) : r->dev.free_bytes / 10 * 9;
	if (sampler_bytes(r) >= s.budget)
		return err_set(e, LP_DEVICE, "the key-value cache of samples does not fit; give fewer --prompts or --sample-tokens");
	s.budget -= sampler_bytes(r);
	if (run_cache_bytes(r) >= s.budget)
		return err_set(e, LP_DEVICE, "the key-value cache of completions does not fit; make fewer at once (--rollout-batch), or shorter ones (--max-new)");
	s.budget -= run_cache_bytes(r);
	return engine_plan(&r->g, &r->dev, &r->desc, base, r->c->nf4, &r->lora, &s, e);
}

int run_prepare(struct run *r, const struct train_config *c, bool need_data, struct err *e)
{
	memset(r, 0, sizeof(*r));
	r->c = c;
	r->optim = c->optim;
	r->best_loss = INFINITY;
	if (model_desc_load(c->model, &r->desc, e) < 0)
		return -1;
	if (c->max_len > run_positions(r))
		return err_set(e, LP_USAGE, "--max-len %lld is more than the model's %lld positions; --allow-long goes past them", (long long)c->max_len, (long long)r->desc.max_pos);
	if (prepare_adapter(r, e) < 0 || (need_data ? device_open : device_open_plan)(&r->dev, c->device, c->compute, (int)c->threads, e) < 0)
		return -1;
	if (c->trained && r->dev.act == DT_F16)
		return err_set(e, LP_USAGE, "weights are trained in bf16 or fp32, and this GPU computes in fp16; it takes one of compute capability 8.0 or later, or --device cpu");
	scaler_init(&r->scaler, c->loss_scale > 0 ? c->loss_scale : r->dev.act == DT_F16 ? SCALER_START : 0);
	if (need_data) {
		r->source = model_source_open(c->model, e);
		if (!r->source)
			return -1;
	}
	if (load_data(r, need_data && !c->eval_only, e) < 0 || sampler_open(r, e) < 0)
		return -1;
	return plan_steps(r, e) < 0 ? -1 : make_plan(r, e);
}

/* An adapter given to start from must be of this base, as far as it says. */
static int load_adapter(struct run *r, struct err *e)
{
	struct peft p;
	int rc;

	if (!r->c->adapter) {
		lora_start(&r->lora, &r->dev, r->c->seed);
		if (r->lora.dora)
			engine_start_magnitudes(&r->g);
		return 0;
	}
	if (peft_open(&p, r->c->adapter, e) < 0)
		return -1;
	rc = codes_check_base(&p, r->c->adapter, r->source, r->g.w.identity, e);
	if (rc == 0) {
		lora_load(&r->lora, &r->dev, &p);
		rc = weights_take_saved(&r->g.w, &r->dev, &p, e) < 0 ? err_where(e, r->c->adapter, 0) : run_load_saved(r, &p, e);
	}
	if (rc == 0 && r->lora.has_score && !p.score)
		lora_start_score(&r->lora, &r->dev, r->c->seed);
	peft_release(&p);
	return rc;
}

int run_load(struct run *r, struct err *e)
{
	if (engine_alloc(&r->g, e) < 0 || engine_load(&r->g, r->source, e) < 0 || run_load_base(r, e) < 0 || load_adapter(r, e) < 0 || sampler_start(r, e) < 0)
		return -1;
	microbatch_init(&r->mb, r->g.shape.max_tokens);
	r->mb.ends = r->c->pref && r->c->pref->method == KN_PREF_REWARD;
	run_start_order(r);
	return run_grpo_start(r, e) < 0 ? -1 : run_reference(r, e);
}

void run_release(struct run *r)
{
	struct err ending = ERR_INIT;

	if (run_tell_end(r, &ending) < 0)
		warn("%s: %s", ending.path, ending.msg);
	checkpoint_close(r);
	sampler_close(r);
	run_grpo_close(r);
	microbatch_release(&r->mb);
	order_release(&r->order);
	engine_release(&r->g);
	lora_release(&r->lora);
	trained_release(&r->base);
	dataset_release(&r->train);
	dataset_release(&r->mismatched);
	run_release_streams(r);
	run_release_evals(r);
	model_source_close(r->source);
	for (int i = 0; i < r->n_queued; i++)
		free(r->queue[i].rows);
	free(r->rows_seen);
	free(r->best);
	device_close(&r->dev);
}
