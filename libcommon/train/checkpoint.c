#include "train/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/num.h"
#include "base/xalloc.h"

#define N_STATE 8

static char *state_path(const struct run *r)
{
	return xasprintf("%s.state", r->c->out);
}

/* What must be equal for a state to belong to this command: options, base, data. */
static void run_key(const struct run *r, char hex[65])
{
	struct sb b = SB_INIT;

	if (r->c->spec)
		opt_json(r->c->spec, &b);
	/* another kind of device computes in another type: its steps would be others */
	sb_addf(&b, " %s %s %s %s", r->g.w.identity, r->train.hash, r->eval.hash, dtype_st_name(r->dev.act));
	sha_once(b.s, b.len, hex);
	sb_release(&b);
}

static struct tensor slice(const char *name, enum dtype t, int64_t n, const void *data)
{
	return (struct tensor){ name, t, 1, { (uint64_t)n }, (uint64_t)n * dtype_bytes(t), data };
}

/* The device arrays that make up the state; the same list is saved and loaded. */
static size_t state_list(const struct run *r, struct tensor t[N_STATE])
{
	const struct optim *o = &r->optim;
	int64_t n32, n8, nb;

	optim_sizes(o, &r->lora, &n32, &n8, &nb);
	t[0] = slice("params", DT_F32, r->lora.n_params, r->lora.params);
	t[1] = slice("m", DT_F32, n32, o->m);
	t[2] = slice("v", DT_F32, n32, o->v);
	t[3] = slice("m8", DT_U8, n8, o->m8);
	t[4] = slice("v8", DT_U8, n8, o->v8);
	t[5] = slice("m_max", DT_F32, nb, o->m_max);
	t[6] = slice("v_max", DT_F32, nb, o->v_max);
	t[7] = slice("best", DT_F32, r->lora.n_params, r->best);
	return r->best ? N_STATE : N_STATE - 1;
}

static int write_state(struct run *r, struct out *o, struct err *e)
{
	struct tensor t[N_STATE];
	size_t n = state_list(r, t);
	char key[65], text[11][40];
	const struct st_kv meta[] = { { "run", key }, { "step", text[0] }, { "optimiser_step", text[1] }, { "skipped", text[2] },
		                      { "targets", text[3] }, { "best_step", text[4] }, { "best_loss", text[5] }, { "has_best", text[6] }, { "stale", text[7] },
		                      { "loss_scale", text[8] }, { "loss_scale_good", text[9] }, { "overflows", text[10] } };
	int rc;

	run_key(r, key);
	snprintf(text[0], sizeof(text[0]), "%lld", (long long)r->step);
	snprintf(text[1], sizeof(text[1]), "%lld", (long long)r->optim.step);
	snprintf(text[2], sizeof(text[2]), "%lld", (long long)r->skipped);
	snprintf(text[3], sizeof(text[3]), "%lld", (long long)r->targets_seen);
	snprintf(text[4], sizeof(text[4]), "%lld", (long long)r->best_step);
	snprintf(text[5], sizeof(text[5]), "%a", r->best_loss); /* infinite before the first evaluation */
	snprintf(text[6], sizeof(text[6]), "%d", r->best != NULL);
	snprintf(text[7], sizeof(text[7]), "%lld", (long long)r->stale);
	snprintf(text[8], sizeof(text[8]), "%a", r->scaler.scale);
	snprintf(text[9], sizeof(text[9]), "%lld", (long long)r->scaler.good);
	snprintf(text[10], sizeof(text[10]), "%lld", (long long)r->scaler.overflows);
	for (size_t i = 0; i < n; i++) {
		void *host = xmalloc(t[i].bytes + 1);

		if (t[i].data == r->best)
			memcpy(host, t[i].data, t[i].bytes);
		else
			device_download(&r->dev, host, t[i].data, t[i].bytes);
		t[i].data = host;
	}
	/* what a lost device gave is not to be written */
	rc = device_sync(&r->dev, e) < 0 ? -1 : st_write(o, t, n, meta, sizeof(meta) / sizeof(*meta), e);
	for (size_t i = 0; i < n; i++)
		free((void *)(uintptr_t)t[i].data);
	return rc;
}

int checkpoint_save(struct run *r, struct err *e)
{
	char *path;
	struct out *o;
	int rc = -1;

	if (!r->c->out)
		return 0;
	path = state_path(r);
	o = out_open(path, e);
	if (o && write_state(r, o, e) == 0)
		rc = out_commit(o, e);
	else
		out_abort(o);
	free(path);
	return rc;
}

static bool meta_i64(const struct st_blob *b, const char *key, int64_t *v)
{
	const char *s = st_meta(b, key);

	return s && parse_i64(s, v);
}

static int read_meta(struct run *r, const struct st_blob *b, struct err *e)
{
	char key[65], *end;
	const char *run = st_meta(b, "run"), *best = st_meta(b, "best_loss"), *scale = st_meta(b, "loss_scale");

	run_key(r, key);
	if (!run || !best || !meta_i64(b, "step", &r->step) || !meta_i64(b, "optimiser_step", &r->optim.step) ||
	    !meta_i64(b, "skipped", &r->skipped) || !meta_i64(b, "targets", &r->targets_seen) || !meta_i64(b, "best_step", &r->best_step) ||
	    !meta_i64(b, "stale", &r->stale) || !scale || !meta_i64(b, "loss_scale_good", &r->scaler.good) ||
	    !meta_i64(b, "overflows", &r->scaler.overflows))
		return err_set(e, LP_DATA, "not the state of a run; remove it to start anew");
	if (strcmp(run, key) != 0)
		return err_set(e, LP_USAGE, "the state of a run with other options, model, data or device; finish that one with its command, or remove the file to start anew");
	r->best_loss = strtod(best, &end);
	if (*end || r->step < 0 || r->step > r->total_steps)
		return err_set(e, LP_DATA, "damaged: step or best loss cannot be; remove it to start anew");
	r->scaler.scale = strtod(scale, &end);
	if (*end || !(r->scaler.scale >= 1 && r->scaler.scale <= 0x1p127) || r->scaler.overflows < 0 || r->scaler.overflows > r->step)
		return err_set(e, LP_DATA, "damaged: its loss scale cannot be; remove it to start anew");
	return 0;
}

static int read_tensors(struct run *r, const struct st_blob *b, struct err *e)
{
	struct tensor want[N_STATE];
	const char *has_best = st_meta(b, "has_best");
	size_t n;

	if (has_best && strcmp(has_best, "1") == 0 && !r->best)
		r->best = xmalloc((size_t)r->lora.n_params * sizeof(float));
	n = state_list(r, want);
	for (size_t i = 0; i < n; i++) {
		const struct tensor *t = st_find(b, want[i].name);

		if (!t || t->dtype != want[i].dtype || t->bytes != want[i].bytes)
			return err_set(e, LP_DATA, "damaged: no '%s' of the right size; remove it to start anew", want[i].name);
		if (want[i].data == r->best)
			memcpy(r->best, t->data, t->bytes);
		else
			device_upload(&r->dev, (void *)(uintptr_t)want[i].data, t->data, t->bytes);
	}
	return 0;
}

int checkpoint_load(struct run *r, bool *found, struct err *e)
{
	char *path;
	struct st_file f;
	int rc;

	*found = false;
	if (!r->c->out)
		return 0;
	path = state_path(r);
	if (access(path, F_OK) != 0) {
		free(path);
		return 0;
	}
	rc = st_file_open(&f, path, e);
	if (rc == 0) {
		rc = read_meta(r, &f.blob, e);
		if (rc == 0)
			rc = read_tensors(r, &f.blob, e);
		st_file_close(&f);
		*found = rc == 0;
	}
	if (rc < 0)
		err_where(e, path, 0);
	free(path);
	return rc;
}

void checkpoint_prune(const struct run *r, int64_t step)
{
	static const char *const files[] = { "adapter_config.json", "adapter_model.safetensors", "lorapipe.json" };

	if (!r->c->out || step <= 0)
		return;
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		char *path = xasprintf("%s.step-%lld/%s", r->c->out, (long long)step, files[i]);

		unlink(path);
		free(path);
	}
	char *dir = xasprintf("%s.step-%lld", r->c->out, (long long)step);

	rmdir(dir);
	free(dir);
}

void checkpoint_remove(const struct run *r)
{
	char *path;

	if (!r->c->out)
		return;
	path = state_path(r);
	unlink(path);
	free(path);
}
