/* A small run of six rows on the CPU, step by step. Included once, by the tests of a run. */
#ifndef LP_TESTS_RUN_FIX_H
#define LP_TESTS_RUN_FIX_H

#include <check.h>
#include <stdlib.h>

#include "base/xalloc.h"
#include "scratch.h"
#include "stream_fix.h"
#include "train/run_int.h"

#define MODEL "data/stories260K"

static inline void must(bool ok, const struct err *e)
{
	if (!ok)
		ck_abort_msg("%s: %s", e->path, e->msg);
}

enum { ROWS = 6, LEN = 10 };

static struct opt options[] = { OPT_COMMON };
static const struct opt_spec spec = { .tool = "test", .opts = options };

/* Rows of one target each: the gradient of its loss is as large as the scale. */
static inline void write_tokens(const char *path)
{
	int32_t ids[ROWS * LEN];
	uint8_t mask[ROWS * LEN] = { 0 };
	int64_t start[ROWS + 1], rec[ROWS];
	struct token_frame t = { .n_rows = ROWS, .n_seqs = ROWS, .n_tokens = ROWS * LEN, .input_ids = ids, .loss_mask = mask, .row_start = start,
		                 .seq_start = start, .seq_record = rec };

	for (int i = 0; i < ROWS * LEN; i++)
		ids[i] = (i * 37 + 11) % 500;
	for (int i = 0; i <= ROWS; i++)
		start[i] = i * LEN;
	for (int i = 0; i < ROWS; i++) {
		rec[i] = i;
		mask[i * LEN + LEN - 1] = 1;
	}
	write_frame(path, &t);
}

static inline struct train_config config(double loss_scale)
{
	static char path[256];
	static const char *const tokens[] = { path };
	struct train_config c = { .targets = "all", .model = MODEL, .streams = tokens, .n_streams = 1, .device = "cpu", .threads = 1, .loss_scale = loss_scale, .rank = 4, .alpha = 8,
		                  .dropout = 0.1, .batch = 1, .accumulate = 1, .max_steps = 12, .lr = 0.25, .max_grad_norm = 1e3, .log_every = 1, .spec = &spec,
		                  .schedule = SCHEDULE_LINEAR, .optim = { .kind = OPTIM_ADAMW8, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8 } };

	snprintf(path, sizeof(path), "%s", at("t.lps"));
	write_tokens(path);
	return c;
}

static inline void start(struct run *r, const struct train_config *c)
{
	struct err e = ERR_INIT;

	must(run_prepare(r, c, true, &e) == 0, &e);
	must(run_load(r, &e) == 0, &e);
}

static inline int step(struct run *r, int64_t row, struct step_result *res, struct err *e)
{
	run_queue(r, &row, 1, 1e-3);
	return run_result(r, res, e);
}

static inline float *params(struct run *r)
{
	float *p = xmalloc((size_t)r->lora.n_params * sizeof(*p));

	device_download(&r->dev, p, r->lora.params, (uint64_t)r->lora.n_params * sizeof(*p));
	return p;
}

#endif
