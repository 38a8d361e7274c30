/* One optimiser step, and evaluation. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "train/run_int.h"

/* Fills the micro-batch with the next rows, at most batch of them. */
static int64_t fill(struct run *r, const struct dataset *d, const int64_t *rows, int64_t n)
{
	int64_t i = 0;

	microbatch_clear(&r->mb);
	for (; i < n && i < r->c->batch; i++)
		microbatch_add(&r->mb, d, rows ? rows[i] : 0);
	return i;
}

/* "records 3, 17, 4": which data the step saw. */
static void name_records(const struct run *r, const int64_t *rows, int64_t n, char *buf, size_t size)
{
	size_t used = 0;

	buf[0] = 0;
	for (int64_t i = 0; i < n && used + 32 < size; i++)
		for (int64_t s = r->train.row_seq[rows[i]]; s < r->train.row_seq[rows[i] + 1] && used + 32 < size; s++)
			used += (size_t)snprintf(buf + used, size - used, "%s%lld", used ? ", " : "", (long long)r->train.seq_record[s] + 1);
}

int run_step(struct run *r, const int64_t *rows, int64_t n, double lr, struct step_result *res, struct err *e)
{
	double sum, squares;
	char records[400];

	*res = (struct step_result){ 0 };
	for (int64_t i = 0; i < n; i++)
		res->targets += dataset_row_targets(&r->train, rows[i]);
	if (res->targets == 0)
		return 0;
	engine_set_dropout(&r->g, true, r->c->seed, r->step);
	engine_begin(&r->g);
	for (int64_t i = 0; i < n;) {
		i += fill(r, &r->train, rows + i, n - i);
		engine_run(&r->g, &r->mb, true, r->scaler.scale / (double)res->targets);
	}
	/* the update looks at the norm itself, and leaves everything as it is when that is not finite */
	r->dev.k.sum_squares(&r->dev, r->lora.grads, r->lora.n_params, r->g.sums + 1);
	optim_step(&r->optim, &r->lora, &r->dev, lr, r->scaler.scale, r->g.sums + 1, r->c->max_grad_norm);
	if (engine_sums(&r->g, &sum, &squares, e) < 0)
		return -1;
	res->loss = sum / (double)res->targets;
	res->grad_norm = sqrt(squares) / r->scaler.scale;
	r->optim.step -= !isfinite(squares);
	res->overflow = r->scaler.on && isfinite(res->loss) && !isfinite(squares);
	if (isfinite(res->loss) && scaler_update(&r->scaler, isfinite(squares)))
		return 0;
	name_records(r, rows, n, records, sizeof(records));
	if (res->overflow)
		return err_set(e, LP_DIVERGED, "step %lld: the gradient overflows fp16 at a loss scale of %g already, on records %s; lower --lr, "
		               "or compute in bf16 where the GPU can", (long long)r->step + 1, r->scaler.scale, records);
	return err_set(e, LP_DIVERGED, "step %lld: the %s is not finite (%g) on records %s; lower --lr, or look at these records",
	               (long long)r->step + 1, isfinite(res->loss) ? "gradient" : "loss",
	               fabs(isfinite(res->loss) ? res->grad_norm : res->loss), records);
}

int run_evaluate(struct run *r, const struct dataset *d, double *loss, struct err *e)
{
	int64_t *rows = xcalloc((size_t)d->n_rows, sizeof(*rows));

	for (int64_t i = 0; i < d->n_rows; i++)
		rows[i] = i;
	engine_set_dropout(&r->g, false, 0, 0);
	engine_begin(&r->g);
	for (int64_t i = 0; i < d->n_rows;) {
		i += fill(r, d, rows + i, d->n_rows - i);
		engine_run(&r->g, &r->mb, false, 1);
	}
	free(rows);
	if (engine_sums(&r->g, loss, NULL, e) < 0)
		return -1;
	*loss /= (double)d->n_targets;
	return 0;
}
