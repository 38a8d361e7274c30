/* The adapter as it leaves the run: its tensors, and what it says of itself. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "model/codes.h"
#include "train/run_int.h"
#include "train/tag.h"

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && slash[1] ? slash + 1 : path;
}

static void fill_lineage(const struct run *r, struct sb *text)
{
	struct lineage l;
	char hash[48];

	lineage_init(&l, r->c->spec);
	lineage_input(&l, r->c->model, r->g.w.identity, NULL);
	for (size_t i = 0; i < r->n_streams; i++) {
		snprintf(hash, sizeof(hash), "xxh3:%s", r->streams[i].hash);
		lineage_input(&l, r->streams[i].name, hash, r->streams[i].lineage);
	}
	for (size_t i = 0; i < r->n_evals; i++) {
		snprintf(hash, sizeof(hash), "xxh3:%s", r->evals[i].d.hash);
		lineage_input(&l, r->evals[i].file, hash, r->evals[i].d.lineage);
	}
	lineage_json(&l, text);
	lineage_release(&l);
}

static void add_named(struct jw *w, const char *key, const char *name, const char *hash, const char *version)
{
	jw_key(w, key);
	jw_obj(w);
	jw_key(w, "name");
	jw_str(w, name);
	jw_key(w, "hash");
	jw_str(w, hash);
	if (version) {
		jw_key(w, "version");
		jw_str(w, version);
	}
	jw_end_obj(w);
}

/* What the adapter is, and what it was made of, in one place; the hyperparameters are the lineage's options. */
static void fill_about(const struct run *r, struct sb *text)
{
	struct jw w = jw_to(text);
	struct sb names = SB_INIT;
	const char *version;
	char hash[48];

	jw_obj(&w);
	if (r->c->tag && tag_parse(r->c->tag, &version)) {
		jw_key(&w, "tag");
		jw_str(&w, r->c->tag);
		jw_key(&w, "version");
		jw_str(&w, version);
	}
	add_named(&w, "base", base_name(r->c->model), r->g.w.identity, NULL);
	snprintf(hash, sizeof(hash), "xxh3:%s", r->train.hash);
	for (size_t i = 0; i < r->n_streams; i++)
		sb_addf(&names, "%s%s", i ? ", " : "", base_name(r->streams[i].name));
	add_named(&w, "data", sb_str(&names), hash, r->c->data_version);
	sb_release(&names);
	jw_end_obj(&w);
}

void adapter_host_init(struct adapter_host *a, struct run *r)
{
	memset(a, 0, sizeof(*a));
	a->n_params = r->lora.n_params;
	a->params = xcalloc((size_t)a->n_params + 1, sizeof(*a->params));
	a->tensors = xcalloc((size_t)r->lora.n_tensors + 1, sizeof(*a->tensors));
	a->head = (struct peft_write){ .base_name = base_name(r->c->model), .base_id = r->g.w.identity, .r = r->lora.rank, .alpha = r->lora.alpha,
		                       .dropout = r->lora.dropout, .rslora = r->lora.rslora, .dora = r->lora.dora, .score = r->lora.has_score };
	lora_where(&r->lora, &r->desc, &a->names, &a->where);
	a->head.targets = a->where.targets;
	a->head.n_targets = a->where.n_targets;
	a->head.layers = a->where.layers;
	a->head.n_layers = a->where.n_layers;
	fill_lineage(r, &a->lineage);
	a->head.lineage = sb_str(&a->lineage);
	fill_about(r, &a->about);
	a->head.about = sb_str(&a->about);
	if (r->desc.bnb.on && r->source) {
		codes_json(r->source, &r->desc, &a->codes);
		a->head.codes = sb_str(&a->codes);
	}
	a->n = lora_tensors(&r->lora, &r->dev, a->params, a->tensors, &a->names);
}

void adapter_host_release(struct adapter_host *a)
{
	arena_release(&a->names);
	sb_release(&a->lineage);
	sb_release(&a->about);
	sb_release(&a->codes);
	free(a->params);
	free(a->tensors);
}

static int save_dir(const char *path, bool force, const struct adapter_host *a, struct err *e)
{
	struct outdir *d = outdir_open(path, force, e);

	if (!d)
		return -1;
	if (peft_save(d, &a->head, a->tensors, a->n, e) < 0) {
		outdir_abort(d);
		return -1;
	}
	return outdir_commit(d, e);
}

static int save_stdout(const struct adapter_host *a, struct err *e)
{
	struct out *o = out_open(NULL, e);

	if (!o)
		return -1;
	if (peft_save_stream(o, &a->head, a->tensors, a->n, e) < 0) {
		out_abort(o);
		return -1;
	}
	return out_commit(o, e);
}

int run_save(struct run *r, const char *path, bool force, const float *params, struct err *e)
{
	struct adapter_host a;
	int rc;

	adapter_host_init(&a, r);
	if (params)
		memcpy(a.params, params, (size_t)r->lora.n_params * sizeof(*params));
	rc = device_sync(&r->dev, e);
	if (rc == 0)
		rc = path ? save_dir(path, force, &a, e) : save_stdout(&a, e);
	adapter_host_release(&a);
	return rc;
}
