/* qlora-train: token stream in, PEFT adapter or trained model out. Options and wiring; the run
 * is in libcommon/train. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/num.h"
#include "base/tool.h"
#include "base/xalloc.h"
#include "train/advise.h"
#include "train/pref.h"
#include "train/run.h"
#include "train/smoke.h"
#include "train/tag.h"

static struct {
	const char *model, *adapter, *eval_every, *save_every, *sample_every, *prompts, *weights, *tensorboard, *dump_batch, *tag, *data_version, *task, *method, *reference, *scores, *update, *train_embeddings, *train_head, *quant, *targets, *layers, *schedule, *decay_shape, *optimizer, *nonfinite, *device, *compute, *loss_type, *scale_rewards, *kl, *reward_weights;
	int64_t rank, project_every, batch, accumulate, max_steps, max_len, warmup_steps, decay_steps, schedule_steps, seed, log_every, threads, patience, keep_checkpoints, sample_tokens;
	struct opt_list evals, rewards;
	int64_t group, max_new, top_k, updates, rollout_batch;
	double temperature, top_p, epsilon, epsilon_high, reward_timeout;
	bool raw, mask_truncated;
	double project_scale, beta, smoothing, margin, desirable, undesirable, alpha, dropout, neftune, epochs, lr, warmup_ratio, decay_ratio, weight_decay, lora_plus_ratio, max_grad_norm, beta1, beta2, eps, min_delta, peak_tflops;
	uint64_t memory, host_memory;
	bool rslora, dora, restore_best, extend, dry_run, eval_only, advise, smoke, allow_long;
} o = {
	.group = 8, .max_new = 256, .updates = 1, .temperature = 1, .top_p = 1, .epsilon = 0.2, .epsilon_high = -1, .loss_type = "dapo", .scale_rewards = "group", .kl = "unbiased",
	.method = "sft", .beta = -1, .smoothing = -1, .margin = -1, .desirable = -1, .undesirable = -1, .update = "lora", .train_embeddings = "auto", .train_head = "auto", .quant = "nf4", .targets = "all", .schedule = "cosine", .decay_shape = "cosine", .optimizer = "adamw", .nonfinite = "stop", .eval_every = "0", .save_every = "0", .sample_every = "0", .sample_tokens = 64, .task = "any",
	.device = "auto", .compute = "auto", .rank = 16, .project_every = 200, .project_scale = 0.25, .alpha = 16, .batch = 2, .accumulate = 4, .epochs = 3, .lr = 2e-4, .warmup_steps = -1,
	.decay_steps = -1, .warmup_ratio = 0.05, .decay_ratio = 0.1, .weight_decay = 0.01, .lora_plus_ratio = 1, .max_grad_norm = 1, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .seed = 42, .log_every = 1,
};

static struct opt options[] = {
	{ OPT_SECTION, .help = "Model and data" },
	{ OPT_STR, "model", 0, &o.model, "DIR", "Hugging Face model directory (needed)" },
	{ OPT_LIST, "eval", 0, &o.evals, "[NAME=]FILE", "held-out token stream (grpo: prompts); of several the first decides" },
	{ OPT_STR, "weights", 0, &o.weights, "LIST", "parts of an epoch that the TOKENS have, as in 3,1 (each row once)" },
	{ OPT_STR, "adapter", 0, &o.adapter, "DIR", "start from this adapter" },
	{ OPT_STR, "tag", 0, &o.tag, "[NAME@]VERSION", "name and semantic version, which the adapter carries" },
	{ OPT_STR, "data-version", 0, &o.data_version, "VERSION", "of the training data, which it carries too" },
	{ OPT_SECTION, .help = "Method" },
	{ OPT_CHOICE, "method", 0, &o.method, "NAME", "what is learnt: examples, preferences, a score, or what rewards are given for", PREF_METHODS "|grpo" },
	{ OPT_F64, "beta", 0, &o.beta, "X", "of preferences: 0.1 for dpo, ipo, kto and orpo, 2 for simpo; grpo: of the KL (0)", .min = 0, .max = 1e3 },
	{ OPT_F64, "label-smoothing", 0, &o.smoothing, "X", "dpo, simpo: the part of labels that may be wrong (0)", .min = 0, .max = 0.5 },
	{ OPT_F64, "margin", 0, &o.margin, "X", "simpo: what the rewards should differ by (1)", .min = 0, .max = 1e3 },
	{ OPT_F64, "desirable-weight", 0, &o.desirable, "X", "kto: of good answers (1)", .min = 1e-6, .max = 1e6 },
	{ OPT_F64, "undesirable-weight", 0, &o.undesirable, "X", "kto: of the others (1)", .min = 1e-6, .max = 1e6 },
	{ OPT_CHOICE, "reference", 0, &o.reference, "WHICH", "dpo, ipo, kto, grpo: the model as the run starts, or without --adapter (start)", "start|base" },
	{ OPT_LIST, "reward", 0, &o.rewards, "COMMAND", "grpo: reads completion records, writes a number a line; several are added up" },
	{ OPT_STR, "reward-weights", 0, &o.reward_weights, "LIST", "grpo: of the rewards in their sum, as in 1,0.5 (1 each)" },
	{ OPT_F64, "reward-timeout", 0, &o.reward_timeout, "SECONDS", "grpo: most that a command may take for a step's completions (0: any)", .min = 0, .max = 1e9, .unrecorded = true },
	{ OPT_INT, "group", 0, &o.group, "N", "grpo: completions of a prompt", .min = 2, .max = 4096 },
	{ OPT_INT, "max-new", 0, &o.max_new, "N", "grpo: most new tokens of a completion", .min = 1, .max = 1 << 20 },
	{ OPT_F64, "temperature", 0, &o.temperature, "X", "grpo: of the sampling, and of the log-probabilities", .min = 1e-2, .max = 100 },
	{ OPT_F64, "top-p", 0, &o.top_p, "X", "grpo: smallest set of tokens with this probability", .min = 1e-6, .max = 1 },
	{ OPT_INT, "top-k", 0, &o.top_k, "N", "grpo: the N likeliest tokens (0: all)", .min = 0, .max = 1 << 24 },
	{ OPT_FLAG, "raw", 0, &o.raw, 0, "grpo: {\"prompt\"} is the text itself: no template (BOS is put before it)" },
	{ OPT_INT, "rollout-batch", 0, &o.rollout_batch, "N", "grpo: completions that are made at once (0: a step's, at most 64)", .min = 0, .max = 4096 },
	{ OPT_INT, "updates", 0, &o.updates, "N", "grpo: steps that see the same completions", .min = 1, .max = 1000 },
	{ OPT_F64, "epsilon", 0, &o.epsilon, "X", "grpo: a token's ratio counts down to 1 - X", .min = 0, .max = 1e6 },
	{ OPT_F64, "epsilon-high", 0, &o.epsilon_high, "X", "grpo: and up to 1 + X (as --epsilon)", .min = 0, .max = 1e6 },
	{ OPT_CHOICE, "loss-type", 0, &o.loss_type, "NAME", "grpo: what the loss is divided by", "dapo|grpo|dr_grpo" },
	{ OPT_CHOICE, "scale-rewards", 0, &o.scale_rewards, "WHICH", "grpo: deviation that advantages are divided by", "group|batch|none" },
	{ OPT_CHOICE, "kl", 0, &o.kl, "NAME", "grpo: estimator of the KL", "unbiased|k3" },
	{ OPT_FLAG, "mask-truncated", 0, &o.mask_truncated, 0, "grpo: completions without an end token are not learnt from" },
	{ OPT_CHOICE, "update", 0, &o.update, "NAME", "what is trained: an adapter, or all weights, as they are (full) or by projected gradients (galore)", "lora|full|galore" },
	{ OPT_CHOICE, "train-embeddings", 0, &o.train_embeddings, "WHEN", "train the embedding too (auto: with full and galore)", "auto|yes|no" },
	{ OPT_CHOICE, "train-head", 0, &o.train_head, "WHEN", "train the head too (auto: with full and galore)", "auto|yes|no" },
	{ OPT_CHOICE, "quant", 0, &o.quant, "KIND", "the frozen base: nf4 (double quantisation), or as it is; full, galore: none", "nf4|none" },
	{ OPT_INT, "rank", 0, &o.rank, "N", "rank of the adapter; of galore's projections, 128 when not given", .min = 1, .max = 4096 },
	{ OPT_INT, "project-every", 0, &o.project_every, "N", "galore: steps between choosing directions", .min = 1, .max = 1e9 },
	{ OPT_F64, "project-scale", 0, &o.project_scale, "X", "galore: what an update is scaled by on its way back", .min = 1e-6, .max = 1e6 },
	{ OPT_F64, "alpha", 0, &o.alpha, "X", "the adapter is scaled by alpha / rank", .min = 1e-6, .max = 1e6 },
	{ OPT_FLAG, "rslora", 0, &o.rslora, 0, "scale by alpha / sqrt(rank)" },
	{ OPT_FLAG, "dora", 0, &o.dora, 0, "DoRA: a trained magnitude for each output of a projection beside its adapter" },
	{ OPT_F64, "dropout", 0, &o.dropout, "P", "dropout of the adapter's input", .min = 0, .max = 0.99 },
	{ OPT_F64, "neftune", 0, &o.neftune, "X", "NEFTune: noise of X / sqrt(tokens * width) on embeddings, 5 for one (0: none)", .min = 0, .max = 1e6 },
	{ OPT_STR, "targets", 0, &o.targets, "WHICH", "projections with an adapter: q_proj,k_proj,..., all, or a regular expression" },
	{ OPT_STR, "layers", 0, &o.layers, "LIST", "layers that have them, as in 0-3,8 (all)" },
	{ OPT_SECTION, .help = "Steps" },
	{ OPT_INT, "batch", 0, &o.batch, "N", "rows of a micro-batch", .min = 1, .max = 1 << 20 },
	{ OPT_INT, "accumulate", 0, &o.accumulate, "N", "micro-batches of a step", .min = 1, .max = 1 << 20 },
	{ OPT_F64, "epochs", 0, &o.epochs, "X", "passes over the data", .min = 1e-6, .max = 1e6 },
	{ OPT_INT, "max-steps", 0, &o.max_steps, "N", "optimiser steps; wins over --epochs (0: by epochs)", .min = 0, .max = 1e12 },
	{ OPT_INT, "max-len", 0, &o.max_len, "N", "tokens of a row, for --dry-run without data (0: 2048, or what the model allows)", .min = 0, .max = 1 << 24 },
	{ OPT_FLAG, "allow-long", 0, &o.allow_long, 0, "accept sequences beyond the model's positions" },
	{ OPT_INT, "seed", 0, &o.seed, "N", "seed of adapter, order, dropout and noise", .min = 0, .max = 9e15 },
	{ OPT_SECTION, .help = "Optimiser" },
	{ OPT_F64, "lr", 0, &o.lr, "X", "peak learning rate; 2e-5 when not given with full or galore", .min = 0, .max = 1e3 },
	{ OPT_F64, "lora-plus-ratio", 0, &o.lora_plus_ratio, "X", "LoRA+: the B of an adapter learns at X times that rate", .min = 1e-3, .max = 1e6 },
	{ OPT_CHOICE, "schedule", 0, &o.schedule, "NAME", "of the learning rate after warm-up", "cosine|linear|constant|wsd" },
	{ OPT_INT, "schedule-steps", 0, &o.schedule_steps, "N", "length of the schedule (0: the run's)", .min = 0, .max = 1e12 },
	{ OPT_INT, "warmup-steps", 0, &o.warmup_steps, "N", "warm-up steps (-1: by --warmup-ratio)", .min = -1, .max = 1e12 },
	{ OPT_F64, "warmup-ratio", 0, &o.warmup_ratio, "X", "part of all steps that warm up", .min = 0, .max = 1 },
	{ OPT_INT, "decay-steps", 0, &o.decay_steps, "N", "wsd: steps at the end in which the rate falls to 0 (-1: by --decay-ratio)", .min = -1, .max = 1e12 },
	{ OPT_F64, "decay-ratio", 0, &o.decay_ratio, "X", "part of all steps that they are", .min = 0, .max = 1 },
	{ OPT_CHOICE, "decay-shape", 0, &o.decay_shape, "NAME", "how it falls in them", "cosine|linear|1-sqrt" },
	{ OPT_CHOICE, "optimizer", 0, &o.optimizer, "NAME", "AdamW with fp32 or 8-bit states", "adamw|adamw8bit" },
	{ OPT_F64, "weight-decay", 0, &o.weight_decay, "X", "decoupled weight decay", .min = 0, .max = 1e3 },
	{ OPT_F64, "max-grad-norm", 0, &o.max_grad_norm, "X", "clip the gradient's norm to this (0: do not)", .min = 0, .max = 1e9 },
	{ OPT_F64, "beta1", 0, &o.beta1, "X", "AdamW beta1", .min = 0, .max = 0.999999 },
	{ OPT_F64, "beta2", 0, &o.beta2, "X", "AdamW beta2", .min = 0, .max = 0.9999999 },
	{ OPT_F64, "eps", 0, &o.eps, "X", "AdamW epsilon", .min = 1e-30, .max = 1 },
	{ OPT_SECTION, .help = "While it runs" },
	{ OPT_STR, "eval-every", 0, &o.eval_every, "N", "evaluate every N steps, or: epoch (0: before and after)" },
	{ OPT_FLAG, "restore-best", 0, &o.restore_best, 0, "write the adapter of the lowest held-out loss, not the last" },
	{ OPT_STR, "save-every", 0, &o.save_every, "N", "write a checkpoint OUTPUT.step-N every N steps, or: epoch (0: on signals)" },
	{ OPT_STR, "sample-every", 0, &o.sample_every, "N", "answer --prompts every N steps, or: epoch (0: before and after)", .unrecorded = true },
	{ OPT_STR, "prompts", 0, &o.prompts, "FILE", "records to answer, greedy, to --log", .unrecorded = true },
	{ OPT_INT, "sample-tokens", 0, &o.sample_tokens, "N", "most new tokens of such an answer", .min = 1, .max = 1 << 16, .unrecorded = true },
	{ OPT_INT, "keep-checkpoints", 0, &o.keep_checkpoints, "N", "keep the newest N of them (0: all)", .min = 0, .max = 1e6, .unrecorded = true },
	{ OPT_FLAG, "extend", 0, &o.extend, 0, "go on with a finished run, to more --max-steps or --epochs", .unrecorded = true },
	{ OPT_INT, "patience", 0, &o.patience, "N", "stop after N evaluations without improvement (0: never)", .min = 0, .max = 1e9 },
	{ OPT_F64, "min-delta", 0, &o.min_delta, "X", "a smaller fall of the held-out loss is no improvement", .min = 0, .max = 1e9 },
	{ OPT_INT, "log-every", 0, &o.log_every, "N", "a metric record every N steps", .min = 1, .max = 1e12, .unrecorded = true },
	{ OPT_STR, "tensorboard", 0, &o.tensorboard, "DIR", "event files for TensorBoard", .unrecorded = true },
	{ OPT_F64, "peak-tflops", 0, &o.peak_tflops, "X", "what the device can do at most, for records of its utilisation", .min = 0, .max = 1e9, .unrecorded = true },
	{ OPT_STR, "nonfinite", 0, &o.nonfinite, "WHAT", "a loss that is not finite: stop, or skip:N updates" },
	{ OPT_STR, "dump-batch", 0, &o.dump_batch, "FILE", "append the batches of such losses, readable, to FILE", .unrecorded = true },
	{ OPT_FLAG, "dry-run", 0, &o.dry_run, 0, "print parameters and memory plan, and stop", .unrecorded = true },
	{ OPT_FLAG, "advise", 0, &o.advise, 0, "print what guides advise for such data beside what was asked, and stop", .unrecorded = true },
	{ OPT_CHOICE, "task", 0, &o.task, "NAME", "for --advise: what the examples teach", "any|style|qa|code|reasoning", .unrecorded = true },
	{ OPT_FLAG, "smoke", 0, &o.smoke, 0, "prove the settings by ten steps with everything switched on, and stop", .unrecorded = true },
	{ OPT_FLAG, "eval-only", 0, &o.eval_only, 0, "print the loss of model and adapter on --eval as JSON, and stop" },
	{ OPT_STR, "scores", 0, &o.scores, "FILE", "with it and a preference method: what each answer gets, as JSONL (-: standard output)", .unrecorded = true },
	{ OPT_SECTION, .help = "Machine" },
	{ OPT_STR, "device", 0, &o.device, "NAME", "auto, cpu, cuda or cuda:N" },
	{ OPT_CHOICE, "compute", 0, &o.compute, "TYPE", "of weights and activations on a GPU (auto: bf16 where it has that)", "auto|bf16|fp16|fp8" },
	{ OPT_INT, "threads", 'j', &o.threads, "N", "CPU threads; 0: one for each processor", .min = 0, .max = 1024, .unrecorded = true },
	{ OPT_SIZE, "memory", 0, &o.memory, "SIZE", "memory that the plan may use (0: what is free)", .unrecorded = true },
	{ OPT_SIZE, "host-memory", 0, &o.host_memory, "SIZE", "host memory that may wait beside a GPU (0: half of what is available)", .unrecorded = true },
	OPT_COMMON,
};

static const struct opt_spec spec = {
	.tool = "qlora-train",
	.summary = "fine-tune a language model: token stream in, PEFT adapter or model out",
	.synopsis = "--model DIR [OPTION]... [TOKENS]...",
	.notes = "TOKENS are what tokenize writes (standard input when absent). Without -o the adapter goes to standard output as a stream for lora-merge.",
	.opts = options,
};

static int parse_nonfinite(int64_t *skips, struct err *e)
{
	if (strcmp(o.nonfinite, "stop") == 0)
		return 0;
	if (strncmp(o.nonfinite, "skip:", 5) == 0 && parse_i64(o.nonfinite + 5, skips) && *skips > 0)
		return 0;
	return err_set(e, LP_USAGE, "--nonfinite takes stop or skip:N, not '%s'", o.nonfinite);
}

/* How many of the token streams, held-out ones too, are standard input by name. */
static int from_stdin(const struct train_config *c)
{
	int n = 0;

	for (size_t i = 0; i < c->n_streams; i++)
		n += strcmp(c->streams[i], "-") == 0;
	for (size_t i = 0; i < c->n_evals; i++) {
		const char *eq = strchr(c->evals[i], '=');

		n += strcmp(eq ? eq + 1 : c->evals[i], "-") == 0;
	}
	return n;
}

/* "epoch", or a number of steps. */
static int parse_every(const char *option, const char *text, int64_t *every, struct err *e)
{
	*every = TRAIN_EPOCH;
	if (strcmp(text, "epoch") == 0 || (parse_i64(text, every) && *every >= 0))
		return 0;
	return err_set(e, LP_USAGE, "--%s takes a number of steps, or epoch, not '%s'", option, text);
}

static bool trains_base(void)
{
	return strcmp(o.update, "lora") != 0;
}

/* Weights of the base that are trained, and options that go with something else. */
static int configure_update(struct train_config *c, struct err *e)
{
	static const char *const adapters[] = { "alpha", "rslora", "dora", "dropout", "targets", "layers", "lora-plus-ratio" };
	bool galore = strcmp(o.update, "galore") == 0;

	if (!galore && (opt_given(&spec, "project-every") || opt_given(&spec, "project-scale")))
		return err_set(e, LP_USAGE, "--project-every and --project-scale go with --update galore");
	if (!trains_base()) {
		c->trained |= strcmp(o.train_embeddings, "yes") ? 0 : TRAIN_EMBED;
		c->trained |= strcmp(o.train_head, "yes") ? 0 : TRAIN_HEAD;
		return 0;
	}
	for (size_t i = 0; i < sizeof(adapters) / sizeof(*adapters); i++)
		if (opt_given(&spec, adapters[i]))
			return err_set(e, LP_USAGE, "--%s is an adapter's, and --update %s trains the weights themselves; leave one of them out", adapters[i], o.update);
	if (!galore && opt_given(&spec, "rank"))
		return err_set(e, LP_USAGE, "--rank is an adapter's, or galore's, and --update full trains the weights as they are; leave one of them out");
	c->trained = TRAIN_LAYERS;
	c->trained |= strcmp(o.train_embeddings, "no") ? TRAIN_EMBED : 0;
	c->trained |= strcmp(o.train_head, "no") ? TRAIN_HEAD : 0;
	c->galore_rank = !galore ? 0 : opt_given(&spec, "rank") ? o.rank : 128;
	c->galore_every = o.project_every;
	c->galore_scale = o.project_scale;
	c->nf4 = c->nf4 && opt_given(&spec, "quant");
	return 0;
}

static bool is_grpo(void)
{
	return strcmp(o.method, "grpo") == 0;
}

/* Options that GRPO alone has, and those that it has not. */
static int check_grpo(struct err *e)
{
	static const char *const own[] = { "reward", "reward-weights", "reward-timeout", "group", "max-new", "temperature", "top-p", "top-k", "raw", "rollout-batch", "updates",
		"epsilon", "epsilon-high", "loss-type", "scale-rewards", "kl", "mask-truncated" };
	static const char *const none[] = { "label-smoothing", "margin", "desirable-weight", "undesirable-weight", "weights", "advise", "scores", "max-len" };

	for (size_t i = 0; !is_grpo() && i < sizeof(own) / sizeof(*own); i++)
		if (opt_given(&spec, own[i]))
			return err_set(e, LP_USAGE, "--%s is no option of --method %s; leave it out, or say --method grpo", own[i], o.method);
	for (size_t i = 0; is_grpo() && i < sizeof(none) / sizeof(*none); i++)
		if (opt_given(&spec, none[i]) && !(strcmp(none[i], "max-len") == 0 && o.dry_run))
			return err_set(e, LP_USAGE, "--%s is no option of --method grpo; leave it out", none[i]);
	return 0;
}

static int configure_grpo(struct train_config *c, struct err *e)
{
	static struct grpo_config g;
	const struct grpo_options given = { o.loss_type, o.scale_rewards, o.kl, o.reward_weights, o.epsilon_high };

	g = (struct grpo_config){ .rewards = o.rewards.items, .n_rewards = o.rewards.n, .timeout = o.reward_timeout, .group = o.group, .max_new = o.max_new, .top_k = o.top_k,
		                  .top_p = o.top_p, .at_once = o.rollout_batch, .updates = o.updates, .raw = o.raw, .mask_truncated = o.mask_truncated,
		                  .rule = { .beta = o.beta < 0 ? 0 : o.beta, .low = o.epsilon, .temperature = o.temperature } };
	c->grpo = &g;
	if (o.reference && g.rule.beta == 0)
		return err_set(e, LP_USAGE, "--reference is looked at with a --beta above 0 alone; leave it out, or give one");
	return grpo_parse(&g, &given, o.batch * o.accumulate, e);
}

/* What --method names, and the options that only some methods have. */
static int configure_method(struct train_config *c, struct err *e)
{
	static struct kn_pref_rule rule;
	const struct pref_options given = { o.beta, o.smoothing, o.margin, o.desirable, o.undesirable, o.reference };
	bool on;

	if (check_grpo(e) < 0)
		return -1;
	c->base_reference = o.reference && strcmp(o.reference, "base") == 0;
	if (is_grpo())
		return configure_grpo(c, e);
	if (o.beta == 0)
		return err_set(e, LP_USAGE, "--beta 0 is for --method grpo alone; give one above 0");
	if (pref_parse(o.method, &given, &rule, &on, e) < 0)
		return -1;
	c->pref = on ? &rule : NULL;
	c->scores = o.scores;
	if (o.scores && !(on && o.eval_only))
		return err_set(e, LP_USAGE, "--scores goes with --eval-only and a preference method, as in --eval-only --method reward");
	return 0;
}

static int configure(struct train_config *c, int argc, char **argv, struct err *e)
{
	const char *version;

	*c = (struct train_config){ .model = o.model, .streams = (const char *const *)argv + 1, .n_streams = (size_t)argc - 1, .weights = o.weights, .evals = o.evals.items, .n_evals = o.evals.n, .adapter = o.adapter,
		.out = opt_common.output, .device = o.device, .compute = o.compute, .threads = o.threads, .memory = o.memory, .host_memory = o.host_memory, .nf4 = strcmp(o.quant, "nf4") == 0,
		.force = opt_common.force, .extend = o.extend, .restore_best = o.restore_best, .eval_only = o.eval_only, .allow_long = o.allow_long, .rank = o.rank, .alpha = o.alpha, .targets = o.targets, .layers = o.layers, .dropout = o.dropout, .neftune = o.neftune,
		.rslora = o.rslora, .dora = o.dora, .batch = o.batch, .accumulate = o.accumulate, .max_steps = o.max_steps, .max_len = o.max_len, .epochs = o.epochs,
		.lr = o.lr, .warmup_ratio = o.warmup_ratio, .decay_steps = o.decay_steps, .decay_ratio = o.decay_ratio, .max_grad_norm = o.max_grad_norm, .warmup_steps = o.warmup_steps,
		.optim = { .beta1 = o.beta1, .beta2 = o.beta2, .eps = o.eps, .weight_decay = o.weight_decay, .b_rate = o.lora_plus_ratio == 1 ? 0 : o.lora_plus_ratio }, .seed = (uint64_t)o.seed,
		.prompts = o.prompts, .tag = o.tag, .data_version = o.data_version, .tensorboard = o.tensorboard, .dump_batch = o.dump_batch, .peak_tflops = o.peak_tflops, .sample_tokens = o.sample_tokens, .log_every = o.log_every, .schedule_steps = o.schedule_steps,
		.patience = o.patience, .min_delta = o.min_delta, .keep_checkpoints = o.keep_checkpoints, .spec = &spec };
	if (configure_method(c, e) < 0)
		return -1;
	if (!o.model)
		return err_set(e, LP_USAGE, "which model? give --model DIR");
	if (configure_update(c, e) < 0)
		return -1;
	if (o.tag && !tag_parse(o.tag, &version))
		return err_set(e, LP_USAGE, "--tag takes [NAME@]MAJOR.MINOR.PATCH as in support@1.2.0, not '%s'", o.tag);
	if (o.data_version && !tag_is_version(o.data_version))
		return err_set(e, LP_USAGE, "--data-version takes MAJOR.MINOR.PATCH as in 1.2.0, not '%s'", o.data_version);
	if (parse_every("eval-every", o.eval_every, &c->eval_every, e) < 0 || parse_every("save-every", o.save_every, &c->save_every, e) < 0 ||
	    parse_every("sample-every", o.sample_every, &c->sample_every, e) < 0)
		return -1;
	if (!o.evals.n && (c->eval_every || o.restore_best || o.eval_only || o.patience > 0))
		return err_set(e, LP_USAGE, "%s needs held-out data; give --eval FILE",
		               o.eval_only ? "--eval-only" : o.restore_best ? "--restore-best" : c->eval_every ? "--eval-every" : "--patience");
	if (c->sample_every && !o.prompts)
		return err_set(e, LP_USAGE, "--sample-every needs prompts; give --prompts FILE");
	if (o.patience > 0 && c->eval_every == 0)
		return err_set(e, LP_USAGE, "--patience counts evaluations; give --eval-every N");
	if ((c->save_every || o.extend) && !c->out && !o.dry_run)
		return err_set(e, LP_USAGE, "--save-every and --extend need -o: checkpoints are written beside the output");
	if (from_stdin(c) + (!c->n_streams && !o.eval_only) > 1)
		return err_set(e, LP_USAGE, "only one token stream can come from standard input");
	if (schedule_parse(o.schedule, &c->schedule, e) < 0 ||
	    schedule_parse_shape(o.decay_shape, &c->decay_shape, e) < 0 ||
	    optim_parse(o.optimizer, &c->optim.kind, e) < 0)
		return -1;
	return parse_nonfinite(&c->nonfinite_skips, e);
}

/* -o DIR is refused before hours of work, not after. */
static int check_output(const struct train_config *c, struct err *e)
{
	struct outdir *d;

	if (!c->out)
		return 0;
	d = outdir_open(c->out, c->force || c->extend, e);
	if (!d)
		return -1;
	outdir_abort(d);
	return 0;
}

static int print(const char *path, const struct sb *text, struct err *e)
{
	struct out *out = out_open(path, e);

	if (!out)
		return -1;
	if (out_write(out, sb_str(text), text->len, e) < 0) {
		out_abort(out);
		return -1;
	}
	return out_commit(out, e);
}

/* To path, or standard output: -o names an adapter, unless an evaluation is all that there is. */
static int say(const struct train_config *c, const char *path, int (*what)(const struct train_config *, struct sb *, struct err *), struct err *e)
{
	struct sb text = SB_INIT;
	int rc = what(c, &text, e);

	/* a plan that does not fit is still printed */
	if (text.len) {
		struct err writing = ERR_INIT;

		if (print(path, &text, &writing) < 0 && rc == 0) {
			*e = writing;
			rc = -1;
		}
	}
	sb_release(&text);
	return rc;
}

static int advise(const struct train_config *c, struct sb *text, struct err *e)
{
	static const char *const tasks[] = { "any", "style", "qa", "code", "reasoning" };
	int task = TASK_ANY;

	while (strcmp(tasks[task], o.task) != 0)
		task++;
	if (!c->n_streams)
		return err_set(e, LP_USAGE, "--advise looks at the training data; give the token stream");
	return train_advise(c, (enum task)task, text, e);
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	struct train_config c;
	int rc, signal = 0;

	tool_init(&spec, &argc, &argv);
	if (!opt_given(&spec, "alpha"))
		o.alpha = (double)o.rank;
	if (!opt_given(&spec, "lr") && trains_base())
		o.lr = 2e-5;
	rc = configure(&c, argc, argv, &e);
	if (rc == 0 && o.advise)
		rc = say(&c, NULL, advise, &e);
	else if (rc == 0 && o.dry_run)
		rc = say(&c, NULL, train_dry_run, &e);
	else if (rc == 0 && o.eval_only)
		rc = say(&c, opt_common.output, train_eval_only, &e);
	else if (rc == 0 && o.smoke)
		rc = say(&c, NULL, train_smoke, &e);
	else if (rc == 0 && (rc = check_output(&c, &e)) == 0)
		rc = train_run(&c, &signal, &e);
	progress_done();
	if (rc == 0 && signal && tool_done(LP_OK) == LP_OK)
		raise(signal); /* whoever sent it sees that it was heard */
	return rc < 0 ? tool_fail(&e) : tool_done(LP_OK);
}
