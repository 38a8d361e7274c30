#include "model/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

static void init_mat(struct wmat *m, int64_t rows, int64_t cols, enum dtype dtype, bool nf4)
{
	m->rows = rows;
	m->cols = cols;
	m->dtype = dtype;
	m->nf4 = nf4;
	m->q.n = rows * cols;
}

void weights_init(struct weights *w, const struct model_desc *m, enum dtype dtype, bool nf4)
{
	memset(w, 0, sizeof(*w));
	w->desc = *m;
	w->dtype = dtype;
	w->nf4 = nf4;
	w->layers = xcalloc((size_t)m->layers, sizeof(*w->layers));
	init_mat(&w->embed, m->vocab, m->hidden, dtype, false);
	init_mat(&w->head, m->vocab, m->hidden, dtype, false);
	for (int64_t l = 0; l < m->layers; l++)
		for (int s = 0; s < LIN_N; s++)
			init_mat(&w->layers[l].lin[s], linear_out(m, s), linear_in(m, s), dtype, nf4);
}

void weights_release(struct weights *w)
{
	free(w->layers);
	w->layers = NULL;
}

static void place_nf4(struct wmat *m, struct layout *l)
{
	m->q.codes = layout_array(l, "NF4 codes", (m->q.n + 1) / 2, 1);
	m->q.qabsmax = layout_array(l, "NF4 scales", nf4_blocks(m->q.n), 1);
	m->q.absmax2 = layout_array(l, "NF4 scales", nf4_blocks2(m->q.n), sizeof(float));
}

static void place_mat(struct weights *w, struct wmat *m, bool bias, struct layout *l)
{
	if (m->nf4)
		place_nf4(m, l);
	else
		m->data = layout_array(l, "projections", m->rows * m->cols, dtype_bytes(w->dtype));
	m->bias = bias ? layout_array(l, "norms and biases", m->rows, sizeof(float)) : NULL;
}

/* F32 weights are their own widened copy. */
static bool wants_cache(const struct wmat *m)
{
	return m->nf4 || m->dtype != DT_F32;
}

void weights_layout(struct weights *w, struct layout *l, struct layout *cache)
{
	const struct model_desc *m = &w->desc;

	w->embed.data = layout_array(l, "embeddings and head", m->vocab * m->hidden, dtype_bytes(w->dtype));
	w->head.data = m->tied ? w->embed.data : layout_array(l, "embeddings and head", m->vocab * m->hidden, dtype_bytes(w->dtype));
	w->norm = layout_array(l, "norms and biases", m->hidden, sizeof(float));
	for (int64_t i = 0; i < m->layers; i++) {
		struct layer_weights *lw = &w->layers[i];

		lw->norm1 = layout_array(l, "norms and biases", m->hidden, sizeof(float));
		lw->norm2 = layout_array(l, "norms and biases", m->hidden, sizeof(float));
		for (int s = 0; s < LIN_N; s++) {
			place_mat(w, &lw->lin[s], m->bias[s], l);
			lw->lin[s].cache = NULL;
			if (i < w->cached_layers && wants_cache(&lw->lin[s]))
				lw->lin[s].cache = layout_array(cache, "widened weights", lw->lin[s].q.n, sizeof(float));
		}
	}
}

int64_t weights_largest(const struct model_desc *m)
{
	int64_t max = 0;

	for (int s = 0; s < LIN_N; s++)
		if (linear_in(m, s) * linear_out(m, s) > max)
			max = linear_in(m, s) * linear_out(m, s);
	return max;
}

enum dtype weights_source_dtype(const struct model_source *s, enum dtype dflt)
{
	char name[ARCH_NAME];

	arch_linear_name(name, 0, LIN_Q, "weight");
	for (size_t i = 0; i < model_source_count(s); i++) {
		const struct tensor *t = model_source_at(s, i);

		if (strcmp(t->name, name) == 0)
			return t->dtype;
	}
	return dflt;
}

/* --- loading --- */

/* Where one named tensor goes: a matrix, or an fp32 vector. */
struct slot {
	struct wmat *mat;
	float *vec;
	int64_t rows, cols; /* cols 0: a vector */
};

static bool layer_slot(struct weights *w, const char *name, struct slot *s)
{
	char want[ARCH_NAME], *end;
	const char *prefix = "model.layers.";
	int64_t l;

	if (strncmp(name, prefix, strlen(prefix)) != 0)
		return false;
	l = strtoll(name + strlen(prefix), &end, 10);
	if (*end != '.' || l < 0 || l >= w->desc.layers)
		return false;
	for (int i = 0; i < LIN_N; i++) {
		struct wmat *m = &w->layers[l].lin[i];

		arch_linear_name(want, l, i, "weight");
		if (strcmp(name, want) == 0) {
			*s = (struct slot){ m, NULL, m->rows, m->cols };
			return true;
		}
		arch_linear_name(want, l, i, "bias");
		if (w->desc.bias[i] && strcmp(name, want) == 0) {
			*s = (struct slot){ NULL, m->bias, m->rows, 0 };
			return true;
		}
	}
	for (int second = 0; second < 2; second++) {
		arch_norm_name(want, l, second);
		if (strcmp(name, want) == 0) {
			*s = (struct slot){ NULL, second ? w->layers[l].norm2 : w->layers[l].norm1, w->desc.hidden, 0 };
			return true;
		}
	}
	return false;
}

static bool find_slot(struct weights *w, const char *name, struct slot *s)
{
	char want[ARCH_NAME];

	if (strcmp(name, arch_embed_name) == 0) {
		*s = (struct slot){ &w->embed, NULL, w->desc.vocab, w->desc.hidden };
		return true;
	}
	if (!w->desc.tied && strcmp(name, arch_head_name) == 0) {
		*s = (struct slot){ &w->head, NULL, w->desc.vocab, w->desc.hidden };
		return true;
	}
	arch_norm_name(want, -1, false);
	if (strcmp(name, want) == 0) {
		*s = (struct slot){ NULL, w->norm, w->desc.hidden, 0 };
		return true;
	}
	return layer_slot(w, name, s);
}

/* Buffers that some checkpoints carry and nobody needs. */
static bool is_ignorable(const struct weights *w, const char *name)
{
	const char *end = strstr(name, ".rotary_emb.inv_freq");

	return (end && end[20] == 0) || (w->desc.tied && strcmp(name, arch_head_name) == 0);
}

static int check_tensor(const struct tensor *t, const struct slot *s, struct err *e)
{
	bool shape = s->cols ? t->n_dims == 2 && t->shape[0] == (uint64_t)s->rows && t->shape[1] == (uint64_t)s->cols
	                     : t->n_dims == 1 && t->shape[0] == (uint64_t)s->rows;
	int64_t at;

	if (!shape)
		return err_set(e, LP_DATA, "tensor '%s' is not of the shape (%lld%s%lld) that config.json implies", t->name,
		               (long long)s->rows, s->cols ? ", " : " x ", (long long)(s->cols ? s->cols : 1));
	if (t->dtype != DT_F32 && t->dtype != DT_F16 && t->dtype != DT_BF16)
		return err_set(e, LP_DATA, "tensor '%s' is %s; weights must be F32, F16 or BF16 (not quantised)", t->name,
		               dtype_st_name(t->dtype));
	/* NF4 has no code for such a value: it would become a number, and nobody would know */
	at = tensor_find_nonfinite(t);
	if (at >= 0)
		return err_set(e, LP_DATA, "tensor '%s', element %lld, is infinite or not a number; the checkpoint is broken", t->name, (long long)at);
	return 0;
}

static int load_nf4(struct wmat *m, const struct tensor *t, struct device *d, struct err *e)
{
	int64_t n = m->q.n;
	struct nf4 host = m->q;
	float *x = lp_try_alloc((size_t)n, sizeof(*x), "a weight to quantise", e);
	float *absmax = x ? lp_try_alloc((size_t)nf4_blocks(n), sizeof(*absmax), "its scales", e) : NULL;
	char *buf = absmax ? lp_try_alloc(1, (size_t)((n + 1) / 2 + nf4_blocks(n) + nf4_blocks2(n) * 4 + 64), "its codes", e) : NULL;
	int rc = -1;

	if (buf) {
		host.absmax2 = (float *)(void *)buf;
		host.qabsmax = (uint8_t *)(host.absmax2 + nf4_blocks2(n));
		host.codes = host.qabsmax + nf4_blocks(n);
		to_f32(t->dtype, t->data, x, (size_t)n);
		nf4_quantize(x, &host, absmax);
		device_upload(d, m->q.codes, host.codes, (uint64_t)(n + 1) / 2);
		device_upload(d, m->q.qabsmax, host.qabsmax, (uint64_t)nf4_blocks(n));
		device_upload(d, m->q.absmax2, host.absmax2, (uint64_t)nf4_blocks2(n) * 4);
		m->q.offset = host.offset;
		rc = 0;
	}
	free(buf);
	free(absmax);
	free(x);
	return rc;
}

static int load_mat(struct wmat *m, const struct tensor *t, struct device *d, struct err *e)
{
	float *x;
	void *y;

	if (m->nf4)
		return load_nf4(m, t, d, e);
	if (t->dtype == m->dtype) {
		device_upload(d, m->data, t->data, t->bytes);
		return 0;
	}
	/* a tensor of another type than its fellows: to theirs, once rounded */
	x = lp_try_alloc((size_t)m->q.n, sizeof(*x), "a weight to convert", e);
	y = x ? lp_try_alloc((size_t)m->q.n, dtype_bytes(m->dtype), "a weight to convert", e) : NULL;
	if (y) {
		to_f32(t->dtype, t->data, x, (size_t)m->q.n);
		from_f32(m->dtype, x, y, (size_t)m->q.n);
		device_upload(d, m->data, y, (uint64_t)m->q.n * dtype_bytes(m->dtype));
	}
	free(x);
	free(y);
	return y ? 0 : -1;
}

static int load_vec(float *v, const struct tensor *t, int64_t n, struct device *d, struct err *e)
{
	float *x = lp_try_alloc((size_t)n, sizeof(*x), "a norm", e);

	if (!x)
		return -1;
	to_f32(t->dtype, t->data, x, (size_t)n);
	device_upload(d, v, x, (uint64_t)n * sizeof(*x));
	free(x);
	return 0;
}

static int load_tensor(struct weights *w, const struct tensor *t, struct device *d, bool *used, struct err *e)
{
	struct slot s;

	*used = find_slot(w, t->name, &s);
	if (!*used)
		return is_ignorable(w, t->name) ? 0 : err_set(e, LP_DATA, "tensor '%s' does not belong to a %s model of this configuration",
		                                              t->name, w->desc.family);
	if (check_tensor(t, &s, e) < 0)
		return -1;
	return s.mat ? load_mat(s.mat, t, d, e) : load_vec(s.vec, t, s.rows, d, e);
}

/* How many tensors a whole model has. */
static int64_t expected(const struct model_desc *m)
{
	int64_t layer = LIN_N + 2;

	for (int s = 0; s < LIN_N; s++)
		layer += m->bias[s];
	return m->layers * layer + 2 + !m->tied;
}

static bool source_has(const struct model_source *s, const char *name)
{
	for (size_t i = 0; i < model_source_count(s); i++)
		if (strcmp(model_source_at(s, i)->name, name) == 0)
			return true;
	return false;
}

/* Names one tensor that is missing: only called when one is. */
static int missing(const struct weights *w, const struct model_source *s, struct err *e)
{
	char name[ARCH_NAME];

	for (int64_t l = 0; l < w->desc.layers; l++)
		for (int i = 0; i < LIN_N + 2; i++) {
			if (i < LIN_N)
				arch_linear_name(name, l, i, "weight");
			else
				arch_norm_name(name, l, i - LIN_N);
			if (!source_has(s, name))
				return err_set(e, LP_DATA, "tensor '%s' is missing from the model", name);
		}
	return err_set(e, LP_DATA, "the model lacks a bias, an embedding, a norm or the head");
}

int weights_load(struct weights *w, struct model_source *s, struct device *d, struct err *e)
{
	int64_t seen = 0;
	struct tensor t;
	int rc;

	while ((rc = model_source_next(s, &t, e)) == 1) {
		bool used;

		if (load_tensor(w, &t, d, &used, e) < 0)
			return err_where(e, model_source_name(s), 0);
		seen += used;
		model_source_dropped(s, &t);
	}
	if (rc < 0)
		return -1;
	if (seen != expected(&w->desc))
		return missing(w, s, e), err_where(e, model_source_name(s), 0);
	for (int64_t l = 0; l < w->cached_layers; l++)
		for (int i = 0; i < LIN_N; i++) {
			struct wmat *m = &w->layers[l].lin[i];
			float *cache = m->cache;

			m->cache = NULL;
			if (cache)
				weights_f32(d, m, cache);
			m->cache = cache;
		}
	return model_source_identity(s, w->identity, e);
}

const float *weights_f32(struct device *d, const struct wmat *m, float *scratch)
{
	if (m->cache)
		return m->cache;
	if (m->nf4) {
		d->k.nf4_dequant(d, scratch, &m->q);
		return scratch;
	}
	if (m->dtype == DT_F32)
		return m->data;
	d->k.widen(d, scratch, m->data, m->dtype, m->q.n);
	return scratch;
}
