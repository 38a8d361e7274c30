/* What the files of a run share. */
#ifndef LP_TRAIN_RUN_INT_H
#define LP_TRAIN_RUN_INT_H

#include "train/run.h"
#include "train/scaler.h"
#include "train/watch.h"

/* A held-out set. */
struct heldout {
	const char *path;
	char name[64], file[256]; /* in records; in messages */
	struct dataset d, mismatched; /* mismatched: KTO, row by row (dataset_mismatch) */
};

/* One of the token streams; their rows stand one behind the other in run.train. */
struct stream {
	char name[256], hash[33];
	char *lineage;         /* or NULL */
	int64_t first, n_rows;
	int64_t take;          /* rows of it in an epoch */
	int64_t records;       /* number of its first record in run.train */
};

struct step_result;
struct told;
struct grpo_about;

/* A step that the device was given and whose sums the host has not seen. */
struct queued {
	int64_t *rows, n;    /* of the training set */
	int64_t targets, tokens;
	int64_t units;       /* that the loss is the mean over: targets, or a preference method's rows */
	int64_t chosen, rejected;
	double lr, begin;
	int turn;            /* of its sums (engine_sums_send) */
};
enum { QUEUE = 2 };

struct run {
	const struct train_config *c;
	struct device dev;
	struct model_desc desc;
	struct model_source *source; /* NULL in a dry run */
	struct lora lora;
	struct optim optim;
	struct trained base;   /* n 0: all of the base is frozen */
	struct galore galore;  /* where config's rank says so */
	struct engine g;
	struct dataset train, mismatched; /* mismatched: KTO */
	struct heldout *evals; /* the first decides about the best adapter and the end */
	size_t n_evals;
	struct order order;
	struct microbatch mb;
	struct scaler scaler;
	struct queued queue[QUEUE]; /* steps step, step + 1, ... */
	int n_queued, turn;
	int64_t *rows_seen;    /* of the last result */
	struct scaler next;    /* what the scaler will be if every queued step is finite */
	int64_t total_steps, steps_per_epoch;
	struct schedule schedule; /* of the learning rate; may be longer than the run */
	int64_t eval_every, save_every, sample_every; /* steps, 0: not */

	int64_t step;          /* updates taken or skipped, as far as their sums were seen */
	int64_t skipped;
	int64_t targets_seen;
	double start, best_loss;
	double seen;           /* when the last step's sums were */
	int64_t saved;         /* step of the last state that was written or gone on from, 0: none */
	int64_t best_step;
	int64_t stale;         /* train_stale_evals so far */
	float *best;           /* host copy of the parameters (run_params) at the best evaluation, or NULL */
	int64_t finished;      /* 1: there is nothing left to do after this step */
	struct saver *saver;   /* checkpoint.h; NULL without an output */
	struct watch watch;
	struct tfevents *events; /* or NULL */
	int64_t first_step;    /* of this process */
	double step_seconds;   /* in steps alone */
	double flops;          /* of a token */
	double save_seconds;   /* that steps have waited for checkpoints */
	struct sampler *sampler; /* sample.h, or NULL */
	struct rollout *rollout; /* GRPO: prompts, and the completions that train is made of; or NULL */
	struct stream *streams; /* (n_streams) */
	size_t n_streams;
};

/* Sizes, adapter shape, schedule and plan; no weights read. */
int run_prepare(struct run *r, const struct train_config *c, bool need_data, struct err *e) LP_MUST_USE;
/* Memory, weights, adapter values. */
int run_load(struct run *r, struct err *e) LP_MUST_USE;
void run_release(struct run *r);
int64_t run_rows(const struct run *r); /* of an epoch: the training set's, or prompts */
uint64_t run_cache_bytes(const struct run *r); /* of GRPO's completions */
int64_t run_positions(const struct run *r); /* that a sequence may have */
uint64_t run_bytes(const struct run *r); /* of the device, all in all */

/* What a run says (run_tell.c). At its start; after a step; after an evaluation; at its end. */
int run_tell_begin(struct run *r, struct err *e) LP_MUST_USE;
int run_tell_step(struct run *r, const struct step_result *s, struct err *e) LP_MUST_USE;
int run_tell_eval(struct run *r, const struct heldout *h, double loss, const struct told *told, struct err *e) LP_MUST_USE;
int run_tell_end(struct run *r, struct err *e) LP_MUST_USE;
/* The field of records that loss scaling has. */
const char *run_scaling(const struct run *r, char field[80]);
/* Appends the sequences of n rows to config.dump_batch (run_dump.c). */
int run_dump_batch(const struct run *r, const int64_t *rows, int64_t n, const char *reason, struct err *e) LP_MUST_USE;

/* What a method tells of a step or a set beside its loss (kernels/pref.h); without preferences chosen and rejected are 0. */
struct told {
	double sums[KN_PREF_SUMS]; /* GRPO: (KN_GRPO_SUMS) of kernels/grpo.h */
	int64_t chosen, rejected; /* answers */
	int64_t targets;          /* GRPO: that the sums are of */
	const struct grpo_about *grpo; /* of the completions; NULL: not GRPO's */
};
/* Mean loss over a set, with the adapter and without dropout; mismatched: its answers row by row (KTO), or NULL. */
int run_evaluate(struct run *r, const struct dataset *d, const struct dataset *mismatched, double *loss, struct told *told, struct err *e) LP_MUST_USE;
/* Preference methods (run_pref.c). After a set is read: its rows as the method wants them; LP_USAGE when they are of another kind. */
int run_pref_rows(const struct run *r, struct dataset *d, const char *name, struct err *e) LP_MUST_USE;
/* When all is read: KTO's mismatched answers. */
int run_pref_mismatch(struct run *r, struct err *e) LP_MUST_USE;
/* What the loss is the mean over. */
int64_t run_units(const struct dataset *d);
/* Appends a line of JSON for each sequence of the set: its value, and what the reference gives it. */
int run_scores(struct run *r, const struct heldout *h, struct sb *out, struct err *e) LP_MUST_USE;
/* Before the first step: what the reference gives every answer that the run looks at. */
int run_reference(struct run *r, struct err *e) LP_MUST_USE;
/* The means that are told, in the order of their names; returns how many. */
enum { TOLD_MEANS = 32, TOLD_TEXT = 2048 };
int run_told_means(const struct run *r, const struct told *t, const char *names[TOLD_MEANS], double means[TOLD_MEANS]);
/* The same as fields of a record, each behind a comma. */
const char *run_told_fields(const struct run *r, const struct told *t, char text[TOLD_TEXT]);
/* GRPO (run_grpo.c); without it all of them do nothing. Reads the prompts, if there are any to read. Before the plan. */
int run_grpo_open(struct run *r, bool need_data, struct err *e) LP_MUST_USE;
int64_t run_prompts(const struct run *r); /* 0: none were read */
int64_t run_grpo_longest(const struct run *r); /* tokens of the longest prompt with its completion; 0: not known */
int64_t run_grpo_batch(const struct run *r);   /* completions that are made at once */
/* Device memory of their key-value cache. */
uint64_t run_grpo_bytes(const struct run *r, int64_t context);
/* Takes that memory; the engine is loaded, the adapter is what the run starts from. */
int run_grpo_start(struct run *r, struct err *e) LP_MUST_USE;
void run_grpo_close(struct run *r);
/* Whether new completions are made behind so many steps; no step is queued there before. A state is one between two such batches. */
bool run_grpo_due(const struct run *r, int64_t step);
/* Completions of the next prompts with the adapter as it is, their rewards, and run.train from both; none queued. */
int run_grpo_rollout(struct run *r, struct err *e) LP_MUST_USE;
/* Its last part, of n completions that were put into run_grpo_seqs by hand, each with its prompt's number and (n_rewards, most of a step)
 * rewards: tests. */
struct gen_seq *run_grpo_seqs(struct run *r, int64_t **prompt_of, double **reward);
int run_grpo_take(struct run *r, int64_t n, struct err *e) LP_MUST_USE;
/* Held-out prompts: read; a completion of each and its reward, whose mean is -loss. */
int run_grpo_load_eval(struct run *r, struct heldout *h, struct err *e) LP_MUST_USE;
int64_t run_grpo_held(const struct run *r, const struct heldout *h); /* how many */
int run_grpo_evaluate(struct run *r, const struct heldout *h, double *loss, struct told *told, struct err *e) LP_MUST_USE;
const struct grpo_about *run_grpo_about(const struct run *r); /* of the last completions that steps saw */
double run_grpo_reward(const struct run *r); /* mean of the last completions' */
double run_grpo_flat(const struct run *r);   /* part of their groups whose rewards do not differ */
int run_grpo_means(const struct run *r, const struct told *t, const char *names[TOLD_MEANS], double means[TOLD_MEANS]);
/* From the state that run_load left, or a checkpoint's, to the saved adapter. *sig as train_run's. */
int run_all(struct run *r, int *sig, struct err *e) LP_MUST_USE;
double run_epoch(const struct run *r); /* how many have passed */
/* Training data (run_data.c): config's streams and their weights; whether an epoch may have a row twice; the order of rows; number
 * (from 1) and stream (NULL where there is one alone) of a sequence's record. */
int run_load_streams(struct run *r, struct err *e) LP_MUST_USE;
void run_release_streams(struct run *r);
bool run_repeats_rows(const struct run *r);
void run_start_order(struct run *r);
int64_t run_record(const struct run *r, int64_t seq, const char **stream);
int run_load_evals(struct run *r, struct err *e) LP_MUST_USE;
void run_release_evals(struct run *r);
/* All sets: records, the best adapter, and how long there was no better one. */
int run_eval_sets(struct run *r, struct err *e) LP_MUST_USE;
/* Gives the device one optimiser step more (at most QUEUE), behind those that are queued, of the n rows and the learning rate lr. Does not
 * wait. It expects that the queued ones are finite. */
void run_queue(struct run *r, const int64_t *rows, int64_t n, double lr);
/* Waits for the oldest queued step, and for none behind it. LP_DIVERGED names the batch when loss or gradient is not finite (no
 * update was made). A gradient that the loss's scale made overflow is no such error while the scale can fall: no update was
 * made, and overflow says so. In both cases the queue is empty afterwards: what stood behind changed nothing either, and is to
 * be given again. */
struct step_result {
	double loss, grad_norm, lr;
	double seconds;        /* since the sums of the step before were seen, or since this one was queued */
	int64_t targets, tokens;
	struct told told;
	const int64_t *rows;   /* (n_rows) that it saw, until the next result */
	int64_t n_rows;
	bool overflow;
};
int run_result(struct run *r, struct step_result *res, struct err *e) LP_MUST_USE;
/* Whether a model leaves the run, not an adapter. */
static inline bool run_makes_model(const struct run *r)
{
	return (r->base.what & TRAIN_LAYERS) != 0;
}
/* All that is trained, as fp32 has it, from the device or to it: the adapter's parameters, then the base's weights (optim_get_base). */
int64_t run_params(const struct run *r);
void run_get_params(struct run *r, float *host);
void run_put_params(struct run *r, const float *host);
/* After the weights are loaded: what 16 bits could not hold of them. */
int run_load_base(struct run *r, struct err *e) LP_MUST_USE;
/* The same of tables that an adapter brought. */
int run_load_saved(struct run *r, const struct peft *p, struct err *e) LP_MUST_USE;
/* Writes adapter or model (params: host, or NULL for the device's) under path, or to stdout when path is NULL. */
int run_save(struct run *r, const char *path, bool force, const float *params, struct err *e) LP_MUST_USE;
/* An adapter, or a trained model, in host memory, ready to be written. The run outlives it. */
struct adapter_host {
	struct peft_write head;
	struct lora_where where;
	const char *saved[2];
	struct sb lineage, about, codes;
	float *params;          /* (n_params) run_params */
	int64_t n_params;
	struct tensor *tensors; /* (n), inside params */
	size_t n;
	struct arena names;
};
int adapter_host_init(struct adapter_host *a, struct run *r, struct err *e) LP_MUST_USE; /* released in any case */
void adapter_host_release(struct adapter_host *a);
/* All of a model into a sink that has just been opened; what is frozen comes from the run's source. */
struct model_sink;
int run_write_model(const struct run *r, struct model_sink *k, const struct adapter_host *a, struct err *e) LP_MUST_USE;
enum { RUN_SHARD_GIB = 5 }; /* largest file of one */

#endif
