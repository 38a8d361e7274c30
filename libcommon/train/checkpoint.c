#include "train/checkpoint.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/num.h"
#include "base/xalloc.h"
#include "train/checkpoint_key.h"

enum { N_STATE = 10, N_COUNTERS = 9, N_REALS = 2, N_META = KEY_FIELDS + N_COUNTERS + N_REALS + 1, STATE_MAX_META = 64 };

/* A copy of the state, and the thread that writes it. */
struct saver {
	struct adapter_host adapter;
	void *host;                    /* room for the tensors of the state */
	struct tensor state[N_STATE];  /* in host */
	size_t n_state;
	struct checkpoint_key key;
	char text[N_COUNTERS + N_REALS][40];
	struct st_kv meta[N_META];
	const struct run *run;         /* what of it a run does not change: its source, its output's name */
	const char *out;               /* of the run */
	int64_t step, keep;
	double seconds;                /* that the write took */
	bool busy;                     /* a thread was started, and is not joined */
	atomic_bool done;
	pthread_t thread;
	int rc;
	struct err e;
};

/* --- what the state is --- */

struct counter {
	const char *name;
	int64_t *at;
};

static void counters(struct run *r, struct counter c[N_COUNTERS])
{
	const struct counter list[N_COUNTERS] = { { "step", &r->step }, { "optimiser_step", &r->optim.step }, { "skipped", &r->skipped },
		                                  { "targets", &r->targets_seen }, { "best_step", &r->best_step }, { "stale", &r->stale },
		                                  { "loss_scale_good", &r->scaler.good }, { "overflows", &r->scaler.overflows }, { "finished", &r->finished } };

	memcpy(c, list, sizeof(list));
}

struct real {
	const char *name;
	double *at;
};

static void reals(struct run *r, struct real c[N_REALS])
{
	const struct real list[N_REALS] = { { "best_loss", &r->best_loss }, { "loss_scale", &r->scaler.scale } };

	memcpy(c, list, sizeof(list));
}

static struct tensor slice(const char *name, enum dtype t, int64_t n, const void *data)
{
	return (struct tensor){ name, t, 1, { (uint64_t)n }, (uint64_t)n * dtype_bytes(t), data };
}

static const char weights_name[] = "weights", basis_name[] = "basis", best_name[] = "best";

/* The arrays of the state: the optimiser's, which optim_read gives; then, where the run has them, what is in host memory, and GaLore's directions. What is
 * trained of the base comes by run_get_params, and the best parameters may be missing; all: they are there. Returns how many. */
static size_t state_list(const struct run *r, struct tensor t[N_STATE], bool all)
{
	const struct optim *o = &r->optim;
	int64_t n32, n8, nb;
	size_t n = OPTIM_STATES;

	optim_sizes(o, &r->lora, &n32, &n8, &nb);
	t[0] = slice("m", DT_F32, n32, NULL);
	t[1] = slice("v", DT_F32, n32, NULL);
	t[2] = slice("m8", DT_U8, n8, NULL);
	t[3] = slice("v8", DT_U8, n8, NULL);
	t[4] = slice("m_max", DT_F32, nb, NULL);
	t[5] = slice("v_max", DT_F32, nb, NULL);
	t[n++] = slice("watch", DT_F64, sizeof(r->watch) / sizeof(double), &r->watch);
	if (run_makes_model(r))
		t[n++] = slice(weights_name, DT_F32, r->base.n, NULL);
	if (o->galore)
		t[n++] = slice(basis_name, r->dev.act, o->galore->n_basis, o->galore->basis);
	if (all || r->best)
		t[n++] = slice(best_name, DT_F32, run_params(r), r->best);
	return n;
}

/* Beside the optimiser's own states. */
static bool on_device(const struct tensor *t)
{
	return t->name == basis_name;
}

static uint64_t params_bytes(const struct run *r)
{
	return (uint64_t)run_params(r) * sizeof(float);
}

/* Where each tensor lies in the room for copies; the base's weights are in params. */
static uint64_t place(const struct run *r, struct tensor t[N_STATE], char *host, float *params)
{
	size_t n = state_list(r, t, r->c->restore_best);
	uint64_t used = 0;

	for (size_t i = 0; i < n; i++) {
		bool apart = t[i].name == weights_name;

		t[i].data = !host ? NULL : apart ? (char *)(params + r->lora.n_params) : host + used;
		used += apart ? 0 : (t[i].bytes + 63) / 64 * 64;
	}
	return used;
}

uint64_t checkpoint_bytes(const struct run *r)
{
	struct tensor t[N_STATE];

	return r->c->out ? place(r, t, NULL, NULL) + params_bytes(r) : 0;
}

static void add_tensors(struct xxh *h, const struct tensor *t, size_t n)
{
	for (size_t i = 0; i < n; i++)
		xxh_add(h, t[i].data, t[i].bytes);
}

/* Over everything that a run reads from a checkpoint: metadata other than the sum itself, the adapter's tensors, the state's. */
static void checksum(const struct st_kv *meta, size_t n_meta, const struct tensor *adapter, size_t n_adapter, const struct tensor *t, size_t n, char hex[33])
{
	struct xxh *h = xxh_new();

	for (size_t i = 0; i < n_meta; i++) {
		if (strcmp(meta[i].key, "checksum") == 0)
			continue;
		xxh_add(h, meta[i].key, strlen(meta[i].key) + 1);
		xxh_add(h, meta[i].value, strlen(meta[i].value) + 1);
	}
	add_tensors(h, adapter, n_adapter);
	add_tensors(h, t, n);
	xxh_hex(h, hex);
	xxh_free(h);
}

/* --- saving --- */

int checkpoint_open(struct run *r, struct err *e)
{
	struct saver *s;

	if (!r->c->out)
		return 0;
	s = r->saver = xcalloc(1, sizeof(*s));
	s->out = r->c->out;
	s->keep = r->c->keep_checkpoints;
	s->run = r;
	s->host = lp_try_alloc(place(r, s->state, NULL, NULL) + 1, 1, "the copy of the state that checkpoints are written from", e);
	if (!s->host)
		return -1;
	if (adapter_host_init(&s->adapter, r, e) < 0)
		return -1;
	place(r, s->state, s->host, s->adapter.params);
	checkpoint_key_init(&s->key, r);
	return 0;
}

/* The state's metadata as text. */
static size_t fill_meta(struct run *r, struct saver *s)
{
	struct counter c[N_COUNTERS];
	struct real x[N_REALS];
	size_t n = 0;

	counters(r, c);
	reals(r, x);
	for (int i = 0; i < KEY_FIELDS; i++)
		s->meta[n++] = s->key.kv[i];
	for (int i = 0; i < N_COUNTERS; i++) {
		snprintf(s->text[i], sizeof(s->text[i]), "%lld", (long long)*c[i].at);
		s->meta[n++] = (struct st_kv){ c[i].name, s->text[i] };
	}
	for (int i = 0; i < N_REALS; i++) {
		snprintf(s->text[N_COUNTERS + i], sizeof(s->text[0]), "%a", *x[i].at); /* the best loss is infinite before the first evaluation */
		s->meta[n++] = (struct st_kv){ x[i].name, s->text[N_COUNTERS + i] };
	}
	return n;
}

static const char state_file[] = "state.safetensors";

static int write_state(struct saver *s, const char *path, struct err *e)
{
	char sum[33];
	struct out *o = out_open(path, e);
	size_t n = N_META - 1;

	if (!o)
		return -1;
	checksum(s->meta, n, s->adapter.tensors, s->adapter.n, s->state, s->n_state, sum);
	s->meta[n++] = (struct st_kv){ "checksum", sum };
	if (st_write(o, s->state, s->n_state, s->meta, n, e) < 0) {
		out_abort(o);
		return -1;
	}
	return out_commit(o, e);
}

static int write_adapter(struct saver *s, const char *path, struct err *e)
{
	struct outdir *d = outdir_open(path, true, e);

	if (!d)
		return -1;
	if (peft_save(d, &s->adapter.head, s->adapter.tensors, s->adapter.n, e) < 0 || write_state(s, outdir_path(d, state_file), e) < 0) {
		outdir_abort(d);
		return -1;
	}
	return outdir_commit(d, e);
}

static int write_model(struct saver *s, const char *path, struct err *e)
{
	struct model_sink *k = model_sink_dir(path, true, (uint64_t)RUN_SHARD_GIB << 30, e);

	if (!k)
		return -1;
	if (run_write_model(s->run, k, &s->adapter, e) < 0 || write_state(s, model_sink_path(k, state_file), e) < 0) {
		model_sink_abort(k);
		return -1;
	}
	return model_sink_commit(k, e);
}

static int write_checkpoint(struct saver *s, struct err *e)
{
	char *path = checkpoint_path(s->out, s->step);
	int rc = (run_makes_model(s->run) ? write_model : write_adapter)(s, path, e);

	free(path);
	if (rc == 0 && s->keep > 0)
		checkpoint_prune(s->out, s->keep);
	return rc;
}

static void *writer(void *arg)
{
	struct saver *s = arg;
	double begin = now_seconds();

	s->rc = write_checkpoint(s, &s->e);
	s->seconds = now_seconds() - begin;
	atomic_store(&s->done, true);
	return NULL;
}

/* The thread takes no signals: those are the run's. */
static int start_writer(struct saver *s, struct err *e)
{
	sigset_t all, old;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&s->thread, NULL, writer, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc) {
		errno = rc;
		return err_sys(e, s->out, "start a thread that writes checkpoints of");
	}
	s->busy = true;
	return 0;
}

/* Joins the writer. What it wrote is told by the log; that it failed by a warning too, unless e takes it. */
static int settle(struct run *r, struct err *e)
{
	struct saver *s = r->saver;
	struct err logging = ERR_INIT;

	if (!s->busy)
		return 0;
	pthread_join(s->thread, NULL);
	s->busy = false;
	if (log_metric("checkpoint", &logging, "\"step\":%lld,\"written\":%s,\"seconds\":%.3f", (long long)s->step, s->rc == 0 ? "true" : "false", s->seconds) < 0)
		warn("cannot log: %s", logging.msg);
	if (s->rc == 0)
		r->saved = s->step;
	if (s->rc == 0)
		return 0;
	if (e)
		*e = s->e;
	else
		warn("%s: %s: there is no checkpoint of step %lld, and the older ones stay; make room for the next one", s->e.path, s->e.msg, (long long)s->step);
	return -1;
}

void checkpoint_poll(struct run *r)
{
	if (r->saver && r->saver->busy && atomic_load(&r->saver->done))
		settle(r, NULL);
}

int checkpoint_wait(struct run *r, struct err *e)
{
	return r->saver ? settle(r, e) : 0;
}

int checkpoint_save(struct run *r, bool finished, struct err *e)
{
	struct saver *s = r->saver;
	struct tensor from[N_STATE];
	double begin = now_seconds();

	if (!s)
		return 0;
	settle(r, NULL);
	r->finished = finished;
	s->step = r->step;
	s->e = (struct err)ERR_INIT;
	atomic_store(&s->done, false);
	/* copies to host memory that are under way come first */
	if (device_sync(&r->dev, e) < 0)
		return -1;
	s->n_state = state_list(r, from, false);
	run_get_params(r, s->adapter.params);
	for (size_t i = 0; i < s->n_state; i++) {
		void *to = (void *)(uintptr_t)s->state[i].data;

		if (i < OPTIM_STATES)
			optim_read(&r->optim, &r->lora, &r->dev, (int)i, to);
		else if (on_device(&from[i]))
			device_download(&r->dev, to, from[i].data, from[i].bytes);
		else if (from[i].data)
			memcpy(to, from[i].data, from[i].bytes);
	}
	fill_meta(r, s);
	/* what a lost device gave is not to be written */
	if (device_sync(&r->dev, e) < 0)
		return -1;
	r->save_seconds += now_seconds() - begin;
	return start_writer(s, e);
}

void checkpoint_close(struct run *r)
{
	struct saver *s = r->saver;

	if (!s)
		return;
	settle(r, NULL);
	adapter_host_release(&s->adapter);
	checkpoint_key_release(&s->key);
	free(s->host);
	free(s);
	r->saver = NULL;
}

/* --- loading --- */

/* One checkpoint as it is read: nothing of it reaches the run before all of it has been checked. */
struct loaded {
	struct st_file state, adapter;
	float *params;
	struct st_kv meta[STATE_MAX_META];
	size_t n_meta;
};

/* A trained model's weights are in the state, as fp32 has them: the model beside it is for others. */
static int open_both(const struct run *r, struct loaded *l, const char *dir, struct err *e)
{
	char *state = xasprintf("%s/%s", dir, state_file), *adapter = xasprintf("%s/adapter_model.safetensors", dir);
	int rc = st_file_open(&l->state, state, e) < 0 || (!run_makes_model(r) && st_file_open(&l->adapter, adapter, e) < 0) ? -1 : 0;

	free(state);
	free(adapter);
	return rc;
}

static int gather_params(const struct run *r, struct loaded *l, struct err *e)
{
	const struct adapter_host *a = &r->saver->adapter;
	const struct tensor *weights = run_makes_model(r) ? st_find(&l->state.blob, weights_name) : NULL;

	l->params = lp_try_alloc((size_t)a->n_params + 1, sizeof(float), "what was trained", e);
	if (!l->params)
		return -1;
	memset(l->params, 0, (size_t)a->n_params * sizeof(float)); /* adapters that are not there */
	for (size_t i = 0; i < a->n; i++) {
		const struct tensor *t = st_find(&l->adapter.blob, a->tensors[i].name);

		if (!t || t->dtype != DT_F32 || t->bytes != a->tensors[i].bytes)
			return err_set(e, LP_DATA, "damaged: no '%s' of the right size", a->tensors[i].name);
		memcpy(l->params + ((const float *)a->tensors[i].data - a->params), t->data, t->bytes);
	}
	if (weights)
		memcpy(l->params + r->lora.n_params, weights->data, weights->bytes);
	return 0;
}

static int check_sum(struct loaded *l, struct err *e)
{
	const struct json *m = &l->state.blob.meta;
	const char *want = st_meta(&l->state.blob, "checksum");
	char sum[33];

	if (!want || m->n > STATE_MAX_META)
		return err_set(e, LP_DATA, "not the state of a run");
	for (uint32_t i = 0; i < m->n; i++)
		l->meta[l->n_meta++] = (struct st_kv){ m->members[i].key, m->members[i].val.s };
	checksum(l->meta, l->n_meta, l->adapter.blob.tensors, l->adapter.blob.n_tensors, l->state.blob.tensors, l->state.blob.n_tensors, sum);
	return strcmp(sum, want) == 0 ? 0 : err_set(e, LP_DATA, "damaged: its check sum is another");
}

/* The arrays that a run of this command has; the best adapter only when it was there. */
static int check_tensors(const struct run *r, const struct loaded *l, struct err *e)
{
	struct tensor want[N_STATE];
	size_t n = state_list(r, want, true);

	for (size_t i = 0; i < n; i++) {
		const struct tensor *t = st_find(&l->state.blob, want[i].name);

		if (!t && want[i].name == best_name)
			continue;
		if (!t || t->dtype != want[i].dtype || t->bytes != want[i].bytes)
			return err_set(e, LP_DATA, "damaged: no '%s' of the right size", want[i].name);
	}
	return 0;
}

static int read_counters(struct run *r, const struct st_blob *b, struct err *e)
{
	struct counter c[N_COUNTERS];
	struct real x[N_REALS];

	counters(r, c);
	reals(r, x);
	for (int i = 0; i < N_COUNTERS; i++) {
		const char *s = st_meta(b, c[i].name);

		if (!s || !parse_i64(s, c[i].at))
			return err_set(e, LP_DATA, "damaged: no '%s'", c[i].name);
	}
	for (int i = 0; i < N_REALS; i++) {
		const char *s = st_meta(b, x[i].name);
		char *end = NULL;

		if (s)
			*x[i].at = strtod(s, &end);
		if (!s || end == s || *end)
			return err_set(e, LP_DATA, "damaged: no '%s'", x[i].name);
	}
	if (r->step < 0 || r->scaler.overflows < 0 || r->scaler.overflows > r->step || !(r->scaler.scale >= 1 && r->scaler.scale <= 0x1p127))
		return err_set(e, LP_DATA, "damaged: its step or loss scale cannot be");
	return 0;
}

static void take_tensors(struct run *r, const struct loaded *l)
{
	struct tensor to[N_STATE];
	size_t n;
	const struct tensor *best = st_find(&l->state.blob, best_name);

	run_put_params(r, l->params);
	if (best && !r->best)
		r->best = xmalloc(params_bytes(r));
	if (best)
		memcpy(r->best, best->data, best->bytes);
	n = state_list(r, to, false);
	for (size_t i = 0; i < n; i++) {
		const struct tensor *t = st_find(&l->state.blob, to[i].name);

		if (i < OPTIM_STATES)
			optim_write(&r->optim, &r->lora, &r->dev, (int)i, t->data);
		else if (on_device(&to[i]))
			device_upload(&r->dev, (void *)(uintptr_t)to[i].data, t->data, t->bytes);
	}
	memcpy(&r->watch, st_find(&l->state.blob, "watch")->data, sizeof(r->watch));
}

static bool was_finished(const struct loaded *l)
{
	const char *s = l->state.blob.n_tensors ? st_meta(&l->state.blob, "finished") : NULL;

	return s && strcmp(s, "1") == 0;
}

static int load_one(struct run *r, int64_t step, bool *finished, struct err *e)
{
	struct loaded l = { 0 };
	char *dir = checkpoint_path(r->c->out, step);
	int rc = open_both(r, &l, dir, e);

	if (rc == 0 && (rc = check_sum(&l, e)) == 0) {
		*finished = was_finished(&l);
		rc = checkpoint_key_check(&r->saver->key, r, &l.state.blob, e) < 0 || check_tensors(r, &l, e) < 0 || gather_params(r, &l, e) < 0 ? -1 : 0;
	}
	if (rc == 0 && (rc = read_counters(r, &l.state.blob, e)) == 0)
		take_tensors(r, &l);
	st_file_close(&l.state);
	st_file_close(&l.adapter);
	free(l.params);
	if (rc < 0)
		err_where(e, dir, 0);
	free(dir);
	return rc;
}

/* The newest that is whole. */
static int load_newest(struct run *r, const int64_t *steps, size_t n, bool *finished, struct err *e)
{
	struct err first = ERR_INIT;

	for (size_t i = 0; i < n; i++) {
		*e = (struct err)ERR_INIT;
		*finished = false;
		if (load_one(r, steps[i], finished, e) == 0)
			return 0;
		if (e->code != LP_DATA && e->code != LP_IO)
			return -1;
		if (i == 0)
			first = *e;
		if (i + 1 < n)
			warn("%s: %s; the checkpoint before it is tried", e->path, e->msg);
	}
	*e = first;
	if (strlen(e->msg) + 64 < sizeof(e->msg))
		snprintf(e->msg + strlen(e->msg), sizeof(e->msg) - strlen(e->msg), "%s; remove %s to start anew", n > 1 ? ", and no older checkpoint is whole" : "",
		         n > 1 ? "them" : "it");
	return -1;
}

int checkpoint_load(struct run *r, bool *found, struct err *e)
{
	size_t n = 0;
	int64_t *steps;
	bool finished = false;
	int rc = 0;

	*found = false;
	if (!r->saver)
		return 0;
	checkpoint_sweep(r->c->out);
	steps = checkpoint_list(r->c->out, &n);
	if (n)
		rc = load_newest(r, steps, n, &finished, e);
	if (rc < 0 && e->code == LP_USAGE && finished && r->c->force) {
		/* another run's, which came to its end, and whose output goes too */
		*e = (struct err)ERR_INIT;
		checkpoint_prune(r->c->out, 0);
		n = 0;
		rc = 0;
	}
	free(steps);
	*found = rc == 0 && n > 0;
	return rc;
}
