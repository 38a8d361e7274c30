#include "train/trained.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/xalloc.h"

enum { GRAD_ALIGN = 64 }; /* elements: where products write */

static struct trained_tensor *add(struct trained *t, int64_t rows, int64_t cols)
{
	struct trained_tensor *x = &t->tensors[t->n_tensors++];

	x->rows = rows;
	x->cols = cols;
	x->n = cols ? rows * cols : rows;
	x->at = t->n;
	t->n += x->n;
	x->halves = cols && t->act != DT_F32;
	return x;
}

static int64_t aligned(int64_t n)
{
	return (n + GRAD_ALIGN - 1) / GRAD_ALIGN * GRAD_ALIGN;
}

static void take_grad(struct trained *t, struct trained_tensor *x, bool once, bool align)
{
	int64_t *n = once ? &t->n_once : &t->n_grads;

	x->g_once = once;
	x->g_at = align ? aligned(*n) : *n;
	*n = x->g_at + x->n;
}

static void add_layers(struct trained *t, const struct model_desc *m)
{
	for (int64_t i = 0; i < m->layers; i++)
		for (int s = 0; s < LIN_N; s++) {
			struct trained_tensor *x = add(t, linear_out(m, s), linear_in(m, s));

			arch_linear_name(x->name, i, s, "weight");
			take_grad(t, x, !t->wide, s == (int)group_first(group_of(s)));
		}
}

static int64_t add_table(struct trained *t, const struct model_desc *m, const char *name)
{
	struct trained_tensor *x = add(t, m->vocab, m->hidden);

	snprintf(x->name, sizeof(x->name), "%s", name);
	take_grad(t, x, false, true);
	return t->n_tensors - 1;
}

static void add_norm(struct trained *t, const struct model_desc *m, int64_t layer, bool second)
{
	struct trained_tensor *x = add(t, m->hidden, 0);

	arch_norm_name(x->name, layer, second);
	take_grad(t, x, false, true);
}

static void add_vectors(struct trained *t, const struct model_desc *m)
{
	for (int64_t i = 0; i < m->layers; i++) {
		t->layer_vec[i] = t->n_tensors;
		add_norm(t, m, i, false);
		add_norm(t, m, i, true);
		for (int s = 0; s < LIN_N; s++)
			if (m->bias[s]) {
				struct trained_tensor *x = add(t, linear_out(m, s), 0);

				arch_linear_name(x->name, i, s, "bias");
				take_grad(t, x, false, true);
			}
	}
	t->norm = t->n_tensors;
	add_norm(t, m, -1, false);
}

void trained_init(struct trained *t, const struct model_desc *m, const struct device *d, unsigned what, bool wide)
{
	*t = (struct trained){ .what = what, .wide = wide, .act = d->act, .embed = -1, .head = -1, .norm = -1 };
	t->tensors = xcalloc((size_t)(m->layers * (2 * LIN_N + 2) + 3), sizeof(*t->tensors));
	t->layer_vec = xcalloc((size_t)m->layers, sizeof(*t->layer_vec));
	if (what & TRAIN_LAYERS)
		add_layers(t, m);
	if (what & TRAIN_EMBED)
		t->embed = add_table(t, m, arch_embed_name);
	if ((what & TRAIN_HEAD) && !m->tied)
		t->head = add_table(t, m, arch_head_name);
	else if (what & TRAIN_HEAD)
		t->head = t->embed;
	t->vectors = t->n_tensors;
	if (what & TRAIN_LAYERS)
		add_vectors(t, m);
}

void trained_release(struct trained *t)
{
	free(t->tensors);
	free(t->layer_vec);
	t->tensors = NULL;
	t->layer_vec = NULL;
}

/* --- where they are --- */

static void find_layer(struct trained *t, const struct weights *w, const struct device *d, int64_t i)
{
	const struct layer_weights *lw = &w->layers[i];
	struct trained_tensor *v = &t->tensors[t->layer_vec[i]];

	for (int s = 0; s < LIN_N; s++) {
		const struct wgroup *g = &lw->grp[group_of(s)];

		t->tensors[i * LIN_N + s].p = g->dense ? act_at(d, g->dense, g->row[s - (int)g->first] * g->ld) : NULL;
	}
	v++->p = lw->norm1;
	v++->p = lw->norm2;
	for (int s = 0; s < LIN_N; s++)
		if (w->desc.bias[s]) {
			const struct wgroup *g = &lw->grp[group_of(s)];

			v++->p = g->bias ? g->bias + g->row[s - (int)g->first] : NULL;
		}
}

void trained_layout(struct trained *t, const struct weights *w, const struct device *d, struct layout *to)
{
	t->grads_once = layout_array(to, "gradients of weights", t->n_once, dtype_bytes(d->act));
	t->grads = layout_array(to, "gradients of weights", t->n_grads, sizeof(float));
	for (int64_t i = 0; i < w->desc.layers && t->what & TRAIN_LAYERS; i++)
		find_layer(t, w, d, i);
	if (t->embed >= 0)
		t->tensors[t->embed].p = w->embed.data;
	if (t->head >= 0)
		t->tensors[t->head].p = w->head.data;
	if (t->norm >= 0)
		t->tensors[t->norm].p = w->norm;
}

void *trained_grad(const struct trained *t, int64_t tensor)
{
	const struct trained_tensor *x = &t->tensors[tensor];

	return x->g_once ? (char *)t->grads_once + x->g_at * (int64_t)dtype_bytes(t->act) : (void *)(t->grads + x->g_at);
}

void *trained_group_grad(const struct trained *t, int64_t layer, enum linear_group g)
{
	return t->what & TRAIN_LAYERS ? trained_grad(t, layer * LIN_N + (int)group_first(g)) : NULL;
}

float *trained_norm_grad(const struct trained *t, int64_t layer, bool second)
{
	if (!(t->what & TRAIN_LAYERS))
		return NULL;
	return trained_grad(t, layer < 0 ? t->norm : t->layer_vec[layer] + second);
}

float *trained_bias_grad(const struct trained *t, const struct model_desc *m, int64_t layer, enum linear_slot s)
{
	int64_t k = 2;

	if (!(t->what & TRAIN_LAYERS) || !m->bias[s])
		return NULL;
	for (int i = 0; i < (int)s; i++)
		k += m->bias[i];
	return trained_grad(t, t->layer_vec[layer] + k);
}

float *trained_table_grad(const struct trained *t, bool head)
{
	int64_t i = head ? t->head : t->embed;

	return i < 0 ? NULL : trained_grad(t, i);
}

/* --- tokens by their ids --- */

static int by_id_and_place(const void *a, const void *b, void *ids)
{
	int32_t i = *(const int32_t *)a, j = *(const int32_t *)b, x = ((const int32_t *)ids)[i], y = ((const int32_t *)ids)[j];

	return x != y ? (x < y ? -1 : 1) : i < j ? -1 : i > j;
}

void trained_sort_ids(const int32_t *ids, int64_t n, int32_t *by_id, int32_t *run)
{
	int64_t runs = 0;

	for (int64_t i = 0; i < n; i++)
		by_id[i] = (int32_t)i;
	if (n)
		qsort_r(by_id, (size_t)n, sizeof(*by_id), by_id_and_place, (void *)(uintptr_t)ids);
	for (int64_t i = 0; i < n; i++)
		if (i == 0 || ids[by_id[i]] != ids[by_id[i - 1]])
			run[runs++] = (int32_t)i;
	while (runs <= n)
		run[runs++] = (int32_t)n;
}
