/* A training run from options to adapter, or to a model where that is trained itself: plan, load, steps, evaluation, the
 * best and the last good state, and the numbers that are logged. */
#ifndef LP_TRAIN_RUN_H
#define LP_TRAIN_RUN_H

#include "base/opt.h"
#include "fmt/lineage.h"
#include "train/engine.h"
#include "train/grpo.h"
#include "train/schedule.h"

enum { TRAIN_EPOCH = -1 }; /* every so many steps: those of an epoch */

struct train_config {
	const char *model;                 /* directory */
	const char *const *streams;        /* token streams ("-" stdin); none: stdin */
	size_t n_streams;
	const char *weights;               /* of the streams in an epoch, "3,1"; NULL: each row once */
	const char *const *evals;          /* held-out token streams, each FILE or NAME=FILE */
	size_t n_evals;
	const char *prompts;               /* records that are answered every sample_every steps, or NULL */
	const char *adapter;               /* start from this one, or NULL */
	const char *out;                   /* directory, or NULL: an adapter stream on stdout */
	const char *device, *compute;      /* device_open */
	double loss_scale;                 /* where loss scaling starts; 0: as the device needs it (scaler.h) */
	int64_t threads;
	uint64_t memory;                   /* bytes, 0: what is free */
	uint64_t host_memory;              /* bytes that may be page-locked beside a GPU, 0: half of what is available */
	bool nf4, force, extend, restore_best, eval_only;
	bool allow_long;                   /* sequences beyond the model's positions */
	int64_t rank;
	double alpha, dropout;
	const struct kn_pref_rule *pref;   /* a preference method; NULL: the targets' likelihood */
	const char *scores;                /* eval_only: file for what each answer gets in JSONL, or NULL */
	const struct grpo_config *grpo;    /* GRPO: streams are records with prompts; or NULL */
	bool base_reference;               /* its reference is the model without adapter, even where the run starts from one */
	double neftune;                    /* alpha of the noise on embeddings, 0: none */
	bool rslora, dora;
	unsigned trained;                  /* weights of the base that are trained (TRAIN_*); with the layers there is no adapter */
	int64_t galore_rank, galore_every; /* directions that gradients of trained layers are projected on, 0: they are not; steps between choosing them */
	double galore_scale;
	const char *targets, *layers;      /* lora_choose */
	int64_t batch, accumulate, max_steps, max_len;
	double epochs, lr, warmup_ratio, decay_ratio, max_grad_norm;
	int64_t warmup_steps, decay_steps; /* -1: by ratio */
	enum schedule_kind schedule;
	enum schedule_shape decay_shape;   /* of SCHEDULE_WSD's end */
	struct optim optim;
	uint64_t seed;
	int64_t eval_every, save_every;    /* steps, 0: not, or TRAIN_EPOCH */
	int64_t log_every;
	int64_t sample_every, sample_tokens; /* as eval_every; new tokens of a sample at most */
	int64_t schedule_steps;            /* length of the schedule, 0: the run's */
	int64_t patience;                  /* evaluations without improvement before the run stops, 0: never */
	double min_delta;                  /* what counts as improvement of the held-out loss */
	int64_t keep_checkpoints;          /* newest OUTPUT.step-N (checkpoint.h) that stay, 0: all */
	int64_t nonfinite_skips;           /* updates that may be skipped for a loss that is not finite */
	const char *tag, *data_version;    /* of the adapter ([NAME@]VERSION) and of the training data, or NULL */
	const char *tensorboard;           /* folder of event files, or NULL */
	const char *dump_batch;            /* file that batches without a finite loss are appended to, or NULL */
	double peak_tflops;                /* of the device, for its utilisation; 0: not known */
	const struct opt_spec *spec;       /* for the lineage */
};

/* The memory plan and the parameter counts as text for people; needs config.json
 * alone (and the tokens, when given, for the true sizes). */
int train_dry_run(const struct train_config *c, struct sb *text, struct err *e) LP_MUST_USE;
/* *signal: 0, or the SIGINT or SIGTERM that ended the run after a step, whose checkpoint is written. */
int train_run(const struct train_config *c, int *signal, struct err *e) LP_MUST_USE;
/* Evaluations in a row, this one included, that did not better the best loss before it by more than
 * min_delta: what --patience is compared with (as transformers' EarlyStoppingCallback counts). */
int64_t train_stale_evals(int64_t before, double loss, double best, double min_delta);
/* {"id","loss","nll","perplexity","tokens",...} of model (and adapter), a line for each
 * of c->evals: also records that judge-eval ppl reads. */
int train_eval_only(const struct train_config *c, struct sb *json, struct err *e) LP_MUST_USE;

#endif
