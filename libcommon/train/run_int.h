/* What the files of a run share. */
#ifndef LP_TRAIN_RUN_INT_H
#define LP_TRAIN_RUN_INT_H

#include "train/run.h"
#include "train/scaler.h"

/* A step that the device was given and whose sums the host has not seen. */
struct queued {
	int64_t *rows, n;    /* of the training set */
	int64_t targets, tokens;
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
	struct engine g;
	struct dataset train, eval;
	struct order order;
	struct microbatch mb;
	struct scaler scaler;
	struct queued queue[QUEUE]; /* steps step, step + 1, ... */
	int n_queued, turn;
	int64_t *rows_seen;    /* of the last result */
	struct scaler next;    /* what the scaler will be if every queued step is finite */
	int64_t total_steps, steps_per_epoch, warmup;

	int64_t step;          /* updates taken or skipped, as far as their sums were seen */
	int64_t skipped;
	int64_t targets_seen;
	double start, best_loss;
	double seen;           /* when the last step's sums were */
	int64_t saved;         /* step of the last state that was written or gone on from, 0: none */
	int64_t best_step;
	int64_t stale;         /* train_stale_evals so far */
	float *best;           /* host copy of the parameters at the best evaluation, or NULL */
	char tokens_name[256], eval_name[256];
};

/* Sizes, adapter shape, schedule and plan; no weights read. */
int run_prepare(struct run *r, const struct train_config *c, bool need_data, struct err *e) LP_MUST_USE;
/* Memory, weights, adapter values. */
int run_load(struct run *r, struct err *e) LP_MUST_USE;
void run_release(struct run *r);
/* From the start, or where its state was saved, to the adapter. */
int run_all(struct run *r, struct err *e) LP_MUST_USE;
/* Mean loss over a set, with the adapter and without dropout. */
int run_evaluate(struct run *r, const struct dataset *d, double *loss, struct err *e) LP_MUST_USE;
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
	const int64_t *rows;   /* (n_rows) that it saw, until the next result */
	int64_t n_rows;
	bool overflow;
};
int run_result(struct run *r, struct step_result *res, struct err *e) LP_MUST_USE;
/* Writes the adapter (params: host, or NULL for the device's) under path, or to stdout when path is NULL. */
int run_save(struct run *r, const char *path, bool force, float *params, struct err *e) LP_MUST_USE;

#endif
