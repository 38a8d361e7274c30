/* One optimiser step, and evaluation. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
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

/* "records 3, 17, 4", or "a.lps:3, b.lps:17": which data the step saw. */
static void name_records(const struct run *r, const struct queued *q, char *buf, size_t size)
{
	size_t used = 0;

	buf[0] = 0;
	for (int64_t i = 0; i < q->n && used + 96 < size; i++)
		for (int64_t s = r->train.row_seq[q->rows[i]]; s < r->train.row_seq[q->rows[i] + 1] && used + 96 < size; s++) {
			const char *stream;
			int64_t record = run_record(r, s, &stream);

			used += (size_t)snprintf(buf + used, size - used, "%s%.60s%s%lld", used ? ", " : "", stream ? stream : "", stream ? ":" : "", (long long)record);
		}
}

/* --- a step: queued, then seen --- */

/* KTO: how far the model has gone from its reference, before the answers that look at it. */
static void give_drift(struct run *r, const struct dataset *mismatched, const int64_t *rows, int64_t n)
{
	if (!mismatched || !mismatched->n_rows)
		return;
	engine_set_dropout(&r->g, false, 0, 0);
	engine_set_drift(&r->g, true, n);
	for (int64_t i = 0; i < n;) {
		i += fill(r, mismatched, rows + i, n - i);
		engine_run(&r->g, &r->mb, false, 1);
	}
	engine_set_drift(&r->g, false, n);
}

/* Forward, backward and update of what was counted in q. */
static void give(struct run *r, const struct queued *q)
{
	struct engine *g = &r->g;
	double scale = r->next.scale;

	engine_begin(g);
	give_drift(r, &r->mismatched, q->rows, q->n);
	engine_set_dropout(g, true, r->c->seed, r->step + r->n_queued);
	engine_set_noise(g, true, r->c->seed, r->step + r->n_queued);
	for (int64_t i = 0; i < q->n;) {
		i += fill(r, &r->train, q->rows + i, q->n - i);
		engine_run(g, &r->mb, true, scale / (double)q->units);
	}
	engine_set_noise(g, false, 0, 0); /* nothing but a step sees it */
	/* the update looks at the sums itself, and leaves everything as it is when they are not finite */
	engine_squares(g);
	engine_sums_send(g, q->turn);
	optim_step(&r->optim, &r->dev, q->lr, scale, &(struct optim_sums){ g->sums, g->sums + 1, g->refused }, r->c->max_grad_norm);
	scaler_update(&r->next, true);
}

static void count_answers(const struct dataset *d, int64_t row, int64_t *chosen, int64_t *rejected)
{
	for (int64_t s = d->row_seq[row]; s < d->row_seq[row + 1] && d->kind != DATA_PLAIN; s++)
		++*(d->good[s] ? chosen : rejected);
}

void run_queue(struct run *r, const int64_t *rows, int64_t n, double lr)
{
	struct queued *q = &r->queue[r->n_queued];

	*q = (struct queued){ .rows = xcalloc((size_t)n, sizeof(*rows)), .n = n, .lr = lr, .begin = now_seconds(), .turn = r->turn ^= 1 };
	for (int64_t i = 0; i < n; i++) {
		q->rows[i] = rows[i];
		q->targets += dataset_row_targets(&r->train, rows[i]);
		q->tokens += r->train.row_start[rows[i] + 1] - r->train.row_start[rows[i]];
		count_answers(&r->train, rows[i], &q->chosen, &q->rejected);
	}
	q->units = r->c->pref || (r->c->grpo && r->c->grpo->loss != GRPO_DAPO) ? n : q->targets;
	if (r->n_queued == 0)
		r->next = r->scaler;
	if (q->targets)
		give(r, q);
	r->n_queued++;
}

/* A step was refused, and with it what stands behind it. */
static void drop_queue(struct run *r)
{
	for (int i = 0; i < r->n_queued; i++) {
		r->optim.step -= r->queue[i].targets > 0;
		free(r->queue[i].rows);
	}
	r->n_queued = 0;
	r->optim.step--;
	engine_resume(&r->g);
}

static int diverged(const struct run *r, const struct queued *q, const struct step_result *res, struct err *e)
{
	char records[400];

	name_records(r, q, records, sizeof(records));
	if (res->overflow)
		return err_set(e, LP_DIVERGED, "step %lld: the gradient overflows fp16 at a loss scale of %g already, on records %s; lower --lr, "
		               "or compute in bf16 where the GPU can", (long long)r->step + 1, r->scaler.scale, records);
	return err_set(e, LP_DIVERGED, "step %lld: the %s is not finite (%g) on records %s; lower --lr, or look at these records",
	               (long long)r->step + 1, isfinite(res->loss) ? "gradient" : "loss",
	               fabs(isfinite(res->loss) ? res->grad_norm : res->loss), records);
}

static int look(struct run *r, const struct queued *q, struct step_result *res, struct err *e)
{
	double sum, squares;

	if (engine_sums_wait(&r->g, q->turn, &sum, &squares, e) < 0)
		return -1;
	res->loss = sum / (double)q->units;
	res->told = (struct told){ .chosen = q->chosen, .rejected = q->rejected, .targets = q->targets, .grpo = run_grpo_about(r) };
	memcpy(res->told.sums, engine_told(&r->g, q->turn), sizeof(res->told.sums));
	res->grad_norm = sqrt(squares) / r->scaler.scale;
	if (!isfinite(sum) || !isfinite(squares))
		drop_queue(r);
	res->overflow = r->scaler.on && isfinite(sum) && !isfinite(squares);
	if (isfinite(sum) && scaler_update(&r->scaler, isfinite(squares)))
		return 0;
	return diverged(r, q, res, e);
}

int run_result(struct run *r, struct step_result *res, struct err *e)
{
	struct queued q = r->queue[0];
	double now;
	int rc;

	r->queue[0] = r->queue[1];
	r->n_queued--;
	free(r->rows_seen);
	r->rows_seen = q.rows;
	*res = (struct step_result){ .targets = q.targets, .tokens = q.tokens, .lr = q.lr, .rows = q.rows, .n_rows = q.n };
	rc = q.targets ? look(r, &q, res, e) : 0;
	now = now_seconds();
	res->seconds = now - (q.begin > r->seen ? q.begin : r->seen);
	r->seen = now;
	return rc;
}

int run_evaluate(struct run *r, const struct dataset *d, const struct dataset *mismatched, double *loss, struct told *told, struct err *e)
{
	int64_t *rows = xcalloc((size_t)d->n_rows, sizeof(*rows));

	*told = (struct told){ 0 };
	for (int64_t i = 0; i < d->n_rows; i++) {
		rows[i] = i;
		count_answers(d, i, &told->chosen, &told->rejected);
	}
	engine_begin(&r->g);
	give_drift(r, mismatched, rows, d->n_rows);
	engine_set_dropout(&r->g, false, 0, 0);
	for (int64_t i = 0; i < d->n_rows;) {
		i += fill(r, d, rows + i, d->n_rows - i);
		engine_run(&r->g, &r->mb, false, 1);
	}
	free(rows);
	if (engine_sums(&r->g, loss, NULL, e) < 0)
		return -1;
	*loss /= (double)run_units(d);
	memcpy(told->sums, engine_told(&r->g, 0), sizeof(told->sums));
	return 0;
}
