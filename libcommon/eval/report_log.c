#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "eval/report.h"
#include "eval/stats.h"
#include "json/jsonl.h"

/* Where reading stands in a log. */
struct state {
	struct run_log *r;
	double first_time, last_time;
	bool fresh; /* a plan came since the last point: a run starts, or goes on */
};

static void clear_points(struct run_log *r)
{
	for (size_t i = 0; i < r->n_facts; i++)
		free(r->facts[i].name);
	free(r->model);
	free(r->method);
	r->model = r->method = NULL;
	r->n_facts = r->n_train = r->n_evals = r->n_nonfinite = 0;
	r->trainable = r->total = r->percent = r->first_nonfinite = r->seconds = NAN;
	r->done = false;
}

void run_log_release(struct run_log *r)
{
	clear_points(r);
	free(r->facts);
	free(r->train);
	free(r->evals);
	free(r->name);
	memset(r, 0, sizeof(*r));
}

/* NAN for null and absent; false for another type. */
static bool number(const struct json *rec, const char *key, double *out)
{
	return json_get_f64(rec, key, NAN, out);
}

static void add_bytes(struct run_log *r, const struct json_member *m)
{
	double v;
	size_t n = m->key_len;

	if (n <= 6 || memcmp(m->key + n - 6, "_bytes", 6) != 0 || !json_as_f64(&m->val, &v))
		return;
	r->facts = xgrow(r->facts, &r->cap_facts, r->n_facts + 1, sizeof(*r->facts));
	r->facts[r->n_facts++] = (struct run_fact){ xmemdup0(m->key, n - 6), v };
}

/* Memory is given as NAME_bytes fields, of the plan or of an object in it. */
static void read_memory(struct run_log *r, const struct json *obj)
{
	for (uint32_t i = 0; obj->type == JSON_OBJ && i < obj->n; i++) {
		add_bytes(r, &obj->members[i]);
		if (obj->members[i].val.type == JSON_OBJ && strcmp(obj->members[i].key, "memory") == 0)
			read_memory(r, &obj->members[i].val);
	}
}

static int read_plan(struct state *s, const struct json *rec, struct err *e)
{
	struct run_log *r = s->r;
	const char *model, *method;

	if (!json_get_str(rec, "model", NULL, &model) || !json_get_str(rec, "method", NULL, &method))
		return err_set(e, LP_DATA, "model or method of the plan is not a string");
	s->fresh = true;
	for (size_t i = 0; i < r->n_facts; i++)
		free(r->facts[i].name);
	r->n_facts = 0;
	free(r->model);
	free(r->method);
	r->model = model ? xstrdup(model) : NULL;
	r->method = method ? xstrdup(method) : NULL;
	if (!number(rec, "trainable", &r->trainable) || !number(rec, "total", &r->total) || !number(rec, "percent", &r->percent))
		return err_set(e, LP_DATA, "trainable, total or percent of the plan is not a number");
	read_memory(r, rec);
	return 0;
}

/* A record whose step is not beyond what there is: a resumed run writes some
 * steps again, and a new run starts at or before the first. An evaluation
 * belongs behind the training step of its number. */
static void go_back(struct state *s, double step, bool is_eval)
{
	struct run_log *r = s->r;
	double first = fmin(r->n_train ? r->train[0].step : INFINITY, r->n_evals ? r->evals[0].step : INFINITY);

	if (step <= first && (r->n_train || (s->fresh && r->n_evals))) {
		r->n_train = r->n_evals = 0;
		r->n_older++;
		s->first_time = NAN;
	}
	while (r->n_train && (is_eval ? r->train[r->n_train - 1].step > step : r->train[r->n_train - 1].step >= step))
		r->n_train--;
	while (r->n_evals && r->evals[r->n_evals - 1].step >= step)
		r->n_evals--;
	if (r->first_nonfinite >= step)
		r->n_nonfinite = 0;
	r->done = false;
	s->fresh = false;
}

static int read_train(struct state *s, const struct json *rec, struct err *e)
{
	struct run_log *r = s->r;
	struct train_point p;

	if (!number(rec, "step", &p.step) || !number(rec, "loss", &p.loss) || !number(rec, "lr", &p.lr) ||
	    !number(rec, "grad_norm", &p.grad_norm) || !number(rec, "tokens", &p.tokens) || !number(rec, "tok_s", &p.tok_s) || !number(rec, "rewards/margins", &p.margin) || !number(rec, "reward", &p.reward) ||
	    !number(rec, "epoch", &p.epoch) || !number(rec, "peak_bytes", &p.peak_bytes) || !number(rec, "time", &p.time) || isnan(p.step))
		return err_set(e, LP_DATA, "a train record without a step, or with a field that is not a number");
	if (s->fresh || (r->n_train && p.step <= r->train[r->n_train - 1].step))
		go_back(s, p.step, false);
	r->train = xgrow(r->train, &r->cap_train, r->n_train + 1, sizeof(*r->train));
	r->train[r->n_train++] = p;
	if (isnan(p.loss) && r->n_nonfinite++ == 0)
		r->first_nonfinite = p.step;
	return 0;
}

static int read_eval(struct state *s, const struct json *rec, struct err *e)
{
	struct run_log *r = s->r;
	struct eval_point p;

	if (!number(rec, "step", &p.step) || !number(rec, "loss", &p.loss) || !json_get_bool(rec, "best", false, &p.best))
		return err_set(e, LP_DATA, "an eval record with a field of the wrong type: step, loss or best");
	if (isnan(p.step)) /* an evaluation outside training */
		p.step = 0;
	if (s->fresh || (r->n_evals && p.step <= r->evals[r->n_evals - 1].step) || (r->n_train && p.step < r->train[r->n_train - 1].step))
		go_back(s, p.step, true);
	r->evals = xgrow(r->evals, &r->cap_evals, r->n_evals + 1, sizeof(*r->evals));
	r->evals[r->n_evals++] = p;
	return 0;
}

static int read_record(struct state *s, const struct json *rec, struct err *e)
{
	const struct json *tool = json_get(rec, "tool"), *event = json_get(rec, "event");
	struct run_log *r = s->r;
	double time, step;

	if (!json_is(rec, JSON_OBJ))
		return err_set(e, LP_DATA, "not a metric record: an object with \"event\" is expected");
	if (tool && !json_str_is(tool, "qlora-train"))
		return 0;
	if (!number(rec, "time", &time))
		return err_set(e, LP_DATA, "time is not a number");
	if (json_str_is(event, "plan"))
		return read_plan(s, rec, e);
	if (json_str_is(event, "train") ? read_train(s, rec, e) : json_str_is(event, "eval") ? read_eval(s, rec, e) : 0)
		return -1;
	if (json_str_is(event, "nonfinite")) {
		if (!number(rec, "step", &step))
			return err_set(e, LP_DATA, "step is not a number");
		if (r->n_nonfinite++ == 0)
			r->first_nonfinite = step;
	}
	if (isnan(s->first_time))
		s->first_time = time;
	s->last_time = time;
	if (!json_str_is(event, "done"))
		return 0;
	r->done = true;
	if (!number(rec, "seconds", &r->seconds))
		return err_set(e, LP_DATA, "seconds is not a number");
	return 0;
}

int run_log_read(const char *path, struct run_log *r, struct err *e)
{
	struct state s = { r, NAN, NAN, false };
	struct in *in = in_open(path, e);
	struct jsonl *j = in ? jsonl_open_take(in, "jsonl", e) : NULL;
	struct jsonl_rec rec;
	const char *slash;
	int rc;

	memset(r, 0, sizeof(*r));
	clear_points(r);
	if (!j)
		return -1;
	slash = strrchr(in_name(jsonl_in(j)), '/');
	r->name = xstrdup(slash ? slash + 1 : in_name(jsonl_in(j)));
	while ((rc = jsonl_next(j, &rec, e)) == 1)
		if (read_record(&s, &rec.v, e)) {
			rc = err_where(e, in_name(jsonl_in(j)), rec.line);
			break;
		}
	if (!rc && !r->n_train && !r->n_evals)
		rc = err_line(e, LP_DATA, in_name(jsonl_in(j)), 0, "holds no train or eval record: give the log of qlora-train --log");
	if (!rc && isnan(r->seconds))
		r->seconds = s.last_time - s.first_time;
	jsonl_close(j);
	if (rc)
		run_log_release(r);
	return rc;
}

double median_of(const double *x, size_t n)
{
	double *copy, m;

	if (!n)
		return NAN;
	copy = xmalloc(n * sizeof(*copy));
	memcpy(copy, x, n * sizeof(*copy));
	m = stats_median(copy, n);
	free(copy);
	return m;
}

void run_figures(const struct run_log *r, struct run_figures *f)
{
	double *x = xmalloc((r->n_train + 1) * sizeof(*x));
	size_t n = 0, rates = 0;

	*f = (struct run_figures){ NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, r->seconds };
	for (size_t i = 0; i < r->n_train; i++)
		if (!isnan(r->train[i].loss))
			x[n++] = r->train[i].loss;
	f->first_loss = median_of(x, n < 3 ? n : 3);
	f->last_loss = median_of(x + n - (n + 4) / 5, (n + 4) / 5);
	for (size_t i = 0; i < r->n_train; i++) {
		const struct train_point *p = &r->train[i];

		f->steps = p->step;
		if (!isnan(p->tokens))
			f->tokens = p->tokens;
		if (!isnan(p->tok_s))
			x[rates++] = p->tok_s;
		if (!isnan(p->peak_bytes) && !(f->peak_bytes >= p->peak_bytes))
			f->peak_bytes = p->peak_bytes;
	}
	f->tok_s = median_of(x, rates);
	free(x);
	for (size_t i = 0; i < r->n_evals; i++) {
		const struct eval_point *p = &r->evals[i];

		if (isnan(f->first_eval))
			f->first_eval = p->loss;
		f->last_eval = p->loss;
		if (!(f->best_eval <= p->loss) && !isnan(p->loss)) {
			f->best_eval = p->loss;
			f->best_step = p->step;
		}
	}
}
