/* What leaves a run that trains the base itself: the whole model, each tensor in the type that it came in. Its values are fp32's, or, in
 * 16 bits, those that the run computed with. */
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "train/run_int.h"

enum { BLOCK = 1 << 20 }; /* elements that are converted at once */

int64_t run_params(const struct run *r)
{
	return r->lora.n_params + r->base.n;
}

void run_get_params(struct run *r, float *host)
{
	device_download(&r->dev, host, r->lora.params, (uint64_t)r->lora.n_params * sizeof(*host));
	if (r->base.n)
		optim_get_base(&r->optim, &r->dev, host + r->lora.n_params);
}

void run_put_params(struct run *r, const float *host)
{
	device_upload(&r->dev, r->lora.params, host, (uint64_t)r->lora.n_params * sizeof(*host));
	if (r->base.n)
		optim_put_base(&r->optim, &r->dev, host + r->lora.n_params);
}

/* The trained tensor of this name; a tied head that is written out is the embedding. NULL: it is frozen. */
static const struct trained_tensor *find(const struct run *r, const char *name)
{
	if (r->desc.tied && strcmp(name, arch_head_name) == 0)
		name = arch_embed_name;
	for (int64_t i = 0; i < r->base.n_tensors; i++)
		if (strcmp(r->base.tensors[i].name, name) == 0)
			return &r->base.tensors[i];
	return NULL;
}

/* Tensor i takes t's values: what the weights' own type cannot hold of them goes beside it. */
static int put_wide(struct run *r, int64_t i, const struct tensor *t, struct err *e)
{
	float *wide;

	if (!r->base.tensors[i].halves || t->dtype == r->dev.act)
		return 0;
	wide = lp_try_alloc((size_t)r->base.tensors[i].n, sizeof(*wide), "a weight", e);
	if (!wide)
		return -1;
	to_f32(t->dtype, t->data, wide, (size_t)r->base.tensors[i].n);
	optim_put_tensor(&r->optim, &r->dev, i, wide);
	free(wide);
	return 0;
}

int run_load_base(struct run *r, struct err *e)
{
	for (size_t i = 0; i < model_source_count(r->source); i++) {
		const struct tensor *t = model_source_at(r->source, i);
		const struct trained_tensor *x = find(r, t->name);

		if (x && strcmp(x->name, t->name) == 0 && put_wide(r, x - r->base.tensors, t, e) < 0)
			return -1;
	}
	return 0;
}

int run_load_saved(struct run *r, const struct peft *p, struct err *e)
{
	for (int64_t i = 0; i < r->base.n_tensors; i++) {
		const struct tensor *t = peft_saved(p, r->base.tensors[i].name);

		if (t && put_wide(r, i, t, e) < 0)
			return -1;
	}
	return 0;
}

static void narrow(enum dtype to, const float *x, void *y, size_t n)
{
	int16_t rest;

	if (to != DT_BF16) {
		from_f32(to, x, y, n);
		return;
	}
	for (size_t i = 0; i < n; i++)
		((uint16_t *)y)[i] = kn_halve(x[i], &rest);
}

static int put_trained(struct model_sink *k, const struct tensor *t, const float *x, struct err *e)
{
	uint64_t n = tensor_elems(t);
	void *room = xmalloc(BLOCK * sizeof(float));
	int rc = 0;

	for (uint64_t i = 0; i < n && rc == 0; i += BLOCK) {
		size_t some = n - i < BLOCK ? (size_t)(n - i) : BLOCK;

		narrow(t->dtype, x + i, room, some);
		rc = model_sink_bytes(k, room, some * dtype_bytes(t->dtype), e);
	}
	free(room);
	return rc;
}

int run_write_model(const struct run *r, struct model_sink *k, const struct adapter_host *a, struct err *e)
{
	const struct st_kv meta[] = { { "lineage", a->head.lineage } };
	size_t n = model_source_count(r->source);
	struct tensor *list = xcalloc(n + 1, sizeof(*list));
	struct sb text = SB_INIT;
	int rc;

	for (size_t i = 0; i < n; i++) {
		list[i] = *model_source_at(r->source, i);
		list[i].data = NULL;
	}
	rc = model_sink_begin(k, model_source_texts(r->source), list, n, meta, 1, e);
	free(list);
	for (size_t i = 0; i < n && rc == 0; i++) {
		const struct tensor *t = model_source_at(r->source, i);
		const struct trained_tensor *x = find(r, t->name);

		rc = x ? put_trained(k, t, a->params + r->lora.n_params + x->at, e) : model_sink_bytes(k, t->data, t->bytes, e);
	}
	sb_addf(&text, "{\"about\":%s,\"lineage\":%s}\n", a->head.about, a->head.lineage);
	if (rc == 0)
		rc = model_sink_file(k, "lorapipe.json", text.s, text.len, e);
	sb_release(&text);
	return rc;
}
