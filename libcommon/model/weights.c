#include "model/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "model/bnb.h"

static void init_mat(struct wmat *m, int64_t rows, int64_t cols, enum dtype dtype, bool nf4)
{
	m->rows = rows;
	m->cols = cols;
	m->dtype = dtype;
	m->nf4 = nf4;
	m->q.n = rows * cols;
}

static void init_group(struct wgroup *g, const struct model_desc *m, enum linear_group kind, int64_t pad, int64_t tail)
{
	g->first = group_first(kind);
	g->n = group_size(kind);
	g->in = group_in(m, kind);
	g->pad = pad;
	g->tail = tail;
	g->ld = g->in + pad;
	g->out = 0;
	for (int i = 0; i < g->n; i++) {
		g->row[i] = g->out;
		g->out += linear_out(m, g->first + i);
	}
}

static void init_bnb(struct layer_weights *lw, const struct model_desc *m, int64_t layer, enum linear_slot s)
{
	lw->lin[s].q.plain = m->bnb.plain;
	lw->lin[s].nf4 = bnb_quantised(&m->bnb, layer, s);
	lw->grp[group_of(s)].kept |= !lw->lin[s].nf4;
}

void weights_init(struct weights *w, const struct device *d, const struct model_desc *m, enum dtype dtype, bool nf4, const int64_t pad[GRP_N],
                  const int64_t *tail)
{
	memset(w, 0, sizeof(*w));
	w->desc = *m;
	/* a device that computes in 16 bits has no use for wider weights; the CPU reads them as they are */
	w->dtype = d->act == DT_F32 ? dtype : d->act;
	w->nf4 = nf4;
	w->fp8 = tail != NULL;
	w->dense = !nf4 && w->dtype == d->act;
	w->layers = xcalloc((size_t)m->layers, sizeof(*w->layers));
	init_mat(&w->embed, m->vocab, m->hidden, w->dtype, false);
	init_mat(&w->head, m->vocab, m->hidden, w->dtype, false);
	w->head_rows = m->vocab;
	for (int64_t l = 0; l < m->layers; l++) {
		for (int s = 0; s < LIN_N; s++)
			init_mat(&w->layers[l].lin[s], linear_out(m, s), linear_in(m, s), w->dtype, nf4);
		for (int g = 0; g < GRP_N; g++)
			init_group(&w->layers[l].grp[g], m, g, pad[g], tail ? tail[g] : 0);
		for (int s = 0; s < LIN_N && m->bnb.on; s++)
			init_bnb(&w->layers[l], m, l, s);
	}
}

void weights_release(struct weights *w)
{
	free(w->layers);
	w->layers = NULL;
}

static void place_nf4(struct nf4 *q, struct layout *l)
{
	q->codes = layout_array(l, "NF4 codes", (q->n + 1) / 2, 1);
	q->qabsmax = layout_array(l, "NF4 scales", nf4_n_qabsmax(q), 1);
	q->absmax2 = layout_array(l, "NF4 scales", nf4_n_absmax2(q), sizeof(float));
}

/* Of a quantised matrix: its arrays at p; returns what they take. */
static uint64_t point_nf4(struct nf4 *q, char *p)
{
	struct layout l = { .base = p };

	place_nf4(q, &l);
	return l.used;
}

static void place_fp8(struct fp8_mat *m, int64_t rows, int64_t ld, struct layout *l)
{
	m->ld = ld;
	m->q = layout_array(l, "projections in 8 bits", rows * ld, 1);
	m->scale = layout_array(l, "projections in 8 bits", rows, sizeof(float));
}

static void place_group(struct weights *w, const struct device *d, struct layer_weights *lw, struct wgroup *g, bool cached, struct layout *l, struct layout *cache)
{
	bool bias = false;

	g->dense = NULL;
	if (w->dense || g->kept)
		g->dense = layout_array(l, "projections", (g->out + g->pad) * g->ld, dtype_bytes(d->act));
	else if (cached)
		g->dense = layout_array(cache, "dense weights", (g->out + g->pad) * g->ld, dtype_bytes(d->act));
	for (int i = 0; i < g->n; i++) {
		struct wmat *m = &lw->lin[g->first + i];

		bias |= w->desc.bias[g->first + i];
		m->data = NULL;
		if (w->nf4 && !cached && !g->kept) /* a dense copy holds all that the codes say */
			place_nf4(&m->q, l);
		else if (!w->nf4 && !w->dense)
			m->data = layout_array(l, "projections", m->rows * m->cols, dtype_bytes(w->dtype));
	}
	g->bias = bias ? layout_array(l, "norms and biases", g->out, sizeof(float)) : NULL;
	if (!w->fp8)
		return;
	place_fp8(&g->w8, g->out, g->in + g->tail, l);
	place_fp8(&g->w8t, g->in, g->out + g->tail, l);
	if (!g->dense && g->pad) {
		g->right = layout_array(l, "adapters as they are used", g->out * g->pad, dtype_bytes(d->act));
		g->lower = layout_array(l, "adapters as they are used", g->pad * g->in, dtype_bytes(d->act));
	}
}

static void *place_rows(const struct weights *w, struct layout *l, const char *name, int64_t rows)
{
	return layout_array(l, name, rows * w->desc.hidden, dtype_bytes(w->dtype));
}

static void place_tables(struct weights *w, struct layout *l, struct layout *host)
{
	int64_t vocab = w->desc.vocab, away = vocab - w->head_rows;
	char *table;

	w->embed.data = place_rows(w, w->host_embed ? host : l, w->host_embed ? "embeddings" : "embeddings and head", vocab);
	w->head_host = NULL;
	if (w->desc.tied && !w->host_embed) {
		w->head.data = w->embed.data;
		return;
	}
	w->head.data = place_rows(w, l, "embeddings and head", w->head_rows);
	table = w->embed.data;
	if (away > 0 && !w->desc.tied)
		w->head_host = place_rows(w, host, "head", away);
	else if (away > 0 && table)
		w->head_host = table + (size_t)(w->head_rows * w->desc.hidden) * dtype_bytes(w->dtype);
}

struct table_place weights_table(const struct weights *w, bool head)
{
	int64_t vocab = w->desc.vocab;

	if (head)
		return (struct table_place){ w->head.data, w->head_host, w->head_rows, vocab - w->head_rows };
	if (!w->host_embed)
		return (struct table_place){ .device = w->embed.data, .on_device = vocab };
	return (struct table_place){ w->head.data, w->embed.data, w->desc.tied ? w->head_rows : 0, vocab };
}

void weights_layout(struct weights *w, const struct device *d, struct layout *l, struct layout *cache, struct layout *host)
{
	const struct model_desc *m = &w->desc;

	place_tables(w, l, host);
	w->norm = layout_array(l, "norms and biases", m->hidden, sizeof(float));
	for (int64_t i = 0; i < m->layers; i++) {
		struct layer_weights *lw = &w->layers[i];

		lw->norm1 = layout_array(l, "norms and biases", m->hidden, sizeof(float));
		lw->norm2 = layout_array(l, "norms and biases", m->hidden, sizeof(float));
		for (int g = 0; g < GRP_N; g++)
			place_group(w, d, lw, &lw->grp[g], i < w->cached_layers, l, cache);
	}
}

int64_t weights_largest(const struct weights *w)
{
	int64_t max = 0;

	for (int i = 0; i < GRP_N; i++) {
		const struct wgroup *g = &w->layers[0].grp[i];

		if ((g->out + g->pad) * g->ld > max)
			max = (g->out + g->pad) * g->ld;
	}
	return max;
}

static const struct tensor *source_find(const struct model_source *s, const char *name)
{
	for (size_t i = 0; i < model_source_count(s); i++) /* a stream has no index by name */
		if (strcmp(model_source_at(s, i)->name, name) == 0)
			return model_source_at(s, i);
	return NULL;
}

enum dtype weights_source_dtype(const struct model_source *s, enum dtype dflt)
{
	char name[ARCH_NAME], map[ARCH_NAME + 16];
	const struct tensor *t;

	arch_linear_name(name, 0, LIN_Q, "weight");
	snprintf(map, sizeof(map), "%s%s", name, bnb_tail(BNB_MAP));
	t = source_find(s, source_find(s, map) ? arch_embed_name : name);
	return t ? t->dtype : dflt;
}

/* --- loading --- */

/* Where one named tensor goes: a matrix, or an fp32 vector. */
struct slot {
	struct wmat *mat;
	float *vec;
	int64_t rows, cols; /* cols 0: a vector */
	void *dense;        /* a matrix that is part of a dense form: its first element there */
	int64_t ld;
	int64_t layer;      /* of a projection */
	bool table, head;   /* the embedding or the head */
	enum linear_slot lin;
	int part;           /* of a 4-bit matrix (enum bnb_part) */
};

static bool layer_slot(struct weights *w, const char *name, struct slot *s)
{
	char want[ARCH_NAME], *end;
	const char *prefix = "model.layers.";
	int64_t l;
	int part;

	if (strncmp(name, prefix, strlen(prefix)) != 0)
		return false;
	l = strtoll(name + strlen(prefix), &end, 10);
	if (*end != '.' || l < 0 || l >= w->desc.layers)
		return false;
	for (int i = 0; i < LIN_N; i++) {
		struct wmat *m = &w->layers[l].lin[i];
		const struct wgroup *g = &w->layers[l].grp[group_of(i)];
		int64_t row = g->row[i - (int)g->first];

		arch_linear_name(want, l, i, "weight");
		part = strncmp(name, want, strlen(want)) == 0 ? bnb_part(name + strlen(want)) : -1;
		if (part >= 0) {
			*s = (struct slot){ .mat = m, .rows = m->rows, .cols = m->cols, .dense = w->dense ? (char *)g->dense + row * g->ld * (int64_t)dtype_bytes(w->dtype) : NULL,
				.ld = g->ld, .layer = l, .lin = i, .part = part };
			return true;
		}
		arch_linear_name(want, l, i, "bias");
		if (w->desc.bias[i] && strcmp(name, want) == 0) {
			*s = (struct slot){ .vec = g->bias + row, .rows = m->rows };
			return true;
		}
	}
	for (int second = 0; second < 2; second++) {
		arch_norm_name(want, l, second);
		if (strcmp(name, want) == 0) {
			*s = (struct slot){ .vec = second ? w->layers[l].norm2 : w->layers[l].norm1, .rows = w->desc.hidden };
			return true;
		}
	}
	return false;
}

static bool find_slot(struct weights *w, const char *name, struct slot *s)
{
	char want[ARCH_NAME];

	if (strcmp(name, arch_embed_name) == 0) {
		*s = (struct slot){ .mat = &w->embed, .rows = w->desc.vocab, .cols = w->desc.hidden, .table = true };
		return true;
	}
	if (!w->desc.tied && strcmp(name, arch_head_name) == 0) {
		*s = (struct slot){ .mat = &w->head, .rows = w->desc.vocab, .cols = w->desc.hidden, .table = true, .head = true };
		return true;
	}
	arch_norm_name(want, -1, false);
	if (strcmp(name, want) == 0) {
		*s = (struct slot){ .vec = w->norm, .rows = w->desc.hidden };
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

static int check_tensor(const struct weights *w, const struct tensor *t, const struct slot *s, const struct device *d, struct err *e)
{
	bool shape = s->cols ? t->n_dims == 2 && t->shape[0] == (uint64_t)s->rows && t->shape[1] == (uint64_t)s->cols
	                     : t->n_dims == 1 && t->shape[0] == (uint64_t)s->rows;
	int64_t at;

	if (s->part || (!shape && t->dtype == DT_U8))
		return err_set(e, LP_DATA, "tensor '%s' is of a matrix in bitsandbytes' 4 bits, and by config.json (%s) this one is not: "
		               "take the config.json that belongs to the checkpoint", t->name, w->desc.bnb.on ? "llm_int8_skip_modules" : "no quantization_config");
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
	/* matrices are multiplied in the activation type, NF4 ones too once they are dequantised; vectors stay fp32 */
	at = s->mat && d->act == DT_F16 ? tensor_find_beyond_f16(t) : -1;
	if (at >= 0)
		return err_set(e, LP_DATA, "tensor '%s', element %lld, is beyond 65504, and fp16 has no such number; this model needs a GPU with bf16, or "
		               "--device cpu", t->name, (long long)at);
	return 0;
}

uint64_t weights_room(const struct weights *w)
{
	uint64_t most = 0;

	for (int i = 0; w->nf4 && i < LIN_N; i++) {
		struct nf4 q = w->layers[0].lin[i].q;
		uint64_t n = nf4_quant_room(q.n) + point_nf4(&q, NULL);

		most = n > most ? n : most;
	}
	return most;
}

/* Where a matrix begins in its group's dense form. */
static void *dense_rows(const struct device *d, const struct wgroup *g, enum linear_slot s)
{
	return act_at(d, g->dense, g->row[s - g->first] * g->ld);
}

void weights_put(struct weights *w, struct device *d, int64_t layer, enum linear_slot s, const struct nf4 *q)
{
	struct wgroup *g = &w->layers[layer].grp[group_of(s)];
	struct wmat *m = &w->layers[layer].lin[s];

	m->q.offset = q->offset;
	if (g->dense)
		d->k.nf4_dequant(d, dense_rows(d, g, s), g->ld, q, m->rows, m->cols);
}

/* Where the codes of a matrix go: to their place, or, for one that stays dense only, to the room for loading. */
void weights_codes(struct weights *w, int64_t layer, enum linear_slot s, void *room, struct nf4 *q)
{
	const struct wmat *m = &w->layers[layer].lin[s];

	*q = m->q;
	if (w->layers[layer].grp[group_of(s)].dense)
		point_nf4(q, (char *)room + nf4_quant_room(m->q.n));
}

/* Matrices that lie in a dense form are uploaded row by row. */
static void upload_mat(const struct weights *w, const struct slot *s, const char *src, struct device *d)
{
	uint64_t row = (uint64_t)s->cols * dtype_bytes(s->mat->dtype);
	struct table_place t = { .device = s->mat->data, .on_device = s->rows };

	if (s->dense) {
		d->k.upload_rows(d, s->dense, (uint64_t)s->ld * dtype_bytes(s->mat->dtype), src, row, s->rows);
		return;
	}
	if (s->table)
		t = weights_table(w, s->head);
	if (t.on_device)
		device_upload(d, t.device, src, (uint64_t)t.on_device * row);
	if (t.on_host)
		memcpy(t.host, src + (uint64_t)(s->rows - t.on_host) * row, (size_t)((uint64_t)t.on_host * row));
}

static int load_nf4(struct weights *w, const struct slot *s, const struct tensor *t, struct device *d, void *room, struct err *e)
{
	struct nf4 q;

	weights_codes(w, s->layer, s->lin, room, &q);
	if (d->k.nf4_quant(d, &q, t->data, t->dtype, room, e) < 0)
		return -1;
	weights_put(w, d, s->layer, s->lin, &q);
	return 0;
}

/* A part of a 4-bit matrix goes to its place at once, in whatever order they come. One that will be dense only lies,
 * until all have come, where its dense form will be: that is of 2 bytes an element or more. */
static void bnb_places(const struct device *d, const struct wgroup *g, const struct wmat *m, enum linear_slot s, struct nf4 *q)
{
	uintptr_t at;

	*q = m->q;
	if (!g->dense)
		return;
	at = ((uintptr_t)dense_rows(d, g, s) + 3) & ~(uintptr_t)3;
	q->absmax2 = (float *)at;
	q->qabsmax = (uint8_t *)(q->absmax2 + nf4_n_absmax2(q));
	q->codes = q->qabsmax + nf4_n_qabsmax(q);
}

static void bnb_whole(struct weights *w, const struct slot *s, const struct nf4 *from, struct device *d, void *room)
{
	const struct wgroup *g = &w->layers[s->layer].grp[group_of(s->lin)];
	struct nf4 q;

	if (!g->dense)
		return;
	weights_codes(w, s->layer, s->lin, room, &q);
	device_copy(d, q.codes, from->codes, (uint64_t)(q.n + 1) / 2);
	if (nf4_n_qabsmax(&q))
		device_copy(d, q.qabsmax, from->qabsmax, (uint64_t)nf4_n_qabsmax(&q));
	device_copy(d, q.absmax2, from->absmax2, (uint64_t)nf4_n_absmax2(&q) * sizeof(float));
	device_zero(d, dense_rows(d, g, s->lin), (uint64_t)(s->rows * g->ld) * dtype_bytes(d->act));
	weights_put(w, d, s->layer, s->lin, &q);
}

/* *used: it was the last. */
static int load_part(struct weights *w, const struct slot *s, const struct tensor *t, struct device *d, void *room, bool *used, struct err *e)
{
	struct wmat *m = s->mat;
	struct nf4 q;

	*used = false;
	if (bnb_check(t, s->part, s->rows, s->cols, m->q.plain, &m->q.offset, e) < 0)
		return -1;
	bnb_places(d, &w->layers[s->layer].grp[group_of(s->lin)], m, s->lin, &q);
	if (s->part == BNB_CODES)
		device_upload(d, q.codes, t->data, t->bytes);
	else if (s->part == BNB_ABSMAX && !q.plain)
		device_upload(d, q.qabsmax, t->data, t->bytes);
	else if (s->part == BNB_ABSMAX || s->part == BNB_NESTED_ABSMAX)
		device_upload(d, q.absmax2, t->data, t->bytes);
	m->have |= 1u << s->part;
	*used = m->have == bnb_parts(q.plain);
	if (*used)
		bnb_whole(w, s, &q, d, room);
	return 0;
}

/* What a 4-bit checkpoint leaves in 16 or 32 bits. */
static void load_kept(struct weights *w, const struct slot *s, const struct tensor *t, struct device *d, void *room)
{
	const struct wgroup *g = &w->layers[s->layer].grp[group_of(s->lin)];

	device_upload(d, room, t->data, t->bytes);
	d->k.convert(d, dense_rows(d, g, s->lin), g->ld, room, t->dtype, s->rows, s->cols);
}

static int load_mat(const struct weights *w, const struct slot *s, const struct tensor *t, struct device *d, struct err *e)
{
	struct wmat *m = s->mat;
	float *x;
	void *y;

	if (t->dtype == m->dtype) {
		upload_mat(w, s, t->data, d);
		return 0;
	}
	/* a tensor of another type than its fellows, or than the device's: once rounded */
	x = lp_try_alloc((size_t)m->q.n, sizeof(*x), "a weight to convert", e);
	y = x ? lp_try_alloc((size_t)m->q.n, dtype_bytes(m->dtype), "a weight to convert", e) : NULL;
	if (y) {
		to_f32(t->dtype, t->data, x, (size_t)m->q.n);
		from_f32(m->dtype, x, y, (size_t)m->q.n);
		upload_mat(w, s, y, d);
	}
	free(x);
	free(y);
	return y ? 0 : -1;
}

int weights_take_saved(struct weights *w, struct device *d, const struct peft *p, struct err *e)
{
	for (int head = 0; head < 2; head++) {
		const struct tensor *t = peft_saved(p, head ? arch_head_name : arch_embed_name);
		struct slot s = { .mat = head ? &w->head : &w->embed, .rows = w->desc.vocab, .cols = w->desc.hidden, .table = true, .head = head };

		if (!t)
			continue;
		if (w->desc.tied)
			return err_set(e, LP_USAGE, "the adapter has a table of its own ('%s'), and the model's head is its embedding; merge it with PEFT", t->name);
		if (check_tensor(w, t, &s, d, e) < 0 || load_mat(w, &s, t, d, e) < 0)
			return -1;
	}
	return 0;
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

static bool is_4bit_head(const char *name)
{
	size_t embed = strlen(arch_embed_name), head = strlen(arch_head_name);

	return (strncmp(name, arch_embed_name, embed) == 0 && bnb_part(name + embed) > 0) || (strncmp(name, arch_head_name, head) == 0 && bnb_part(name + head) > 0);
}

static int load_tensor(struct weights *w, const struct tensor *t, struct device *d, void *room, bool *used, struct err *e)
{
	struct slot s;

	*used = find_slot(w, t->name, &s);
	if (!*used && is_4bit_head(t->name))
		return err_set(e, LP_DATA, "tensor '%s': an embedding or head in 4 bits is not read; quantise with lm_head in llm_int8_skip_modules", t->name);
	if (!*used)
		return is_ignorable(w, t->name) ? 0 : err_set(e, LP_DATA, "tensor '%s' does not belong to a %s model of this configuration",
		                                              t->name, w->desc.family);
	if (w->desc.bnb.on && s.mat && s.mat->nf4)
		return load_part(w, &s, t, d, room, used, e);
	if (check_tensor(w, t, &s, d, e) < 0)
		return -1;
	if (s.mat && s.mat->nf4)
		return load_nf4(w, &s, t, d, room, e);
	if (w->desc.bnb.on && s.mat && s.mat != &w->embed && s.mat != &w->head) {
		load_kept(w, &s, t, d, room);
		return 0;
	}
	return s.mat ? load_mat(w, &s, t, d, e) : load_vec(s.vec, t, s.rows, d, e);
}

/* How many tensors a whole model has. */
static int64_t expected(const struct model_desc *m)
{
	int64_t layer = LIN_N + 2;

	for (int s = 0; s < LIN_N; s++)
		layer += m->bias[s];
	return m->layers * layer + 2 + !m->tied;
}

static int named_missing(const char *name, struct err *e)
{
	return err_set(e, LP_DATA, "tensor '%s' is missing from the model", name);
}

/* Names a part of a 4-bit matrix that is missing; false: all are there. */
static bool part_missing(const struct weights *w, char *name, size_t size)
{
	for (int64_t l = 0; l < w->desc.layers && w->desc.bnb.on; l++)
		for (int s = 0; s < LIN_N; s++) {
			const struct wmat *m = &w->layers[l].lin[s];
			unsigned gone = m->nf4 ? bnb_parts(m->q.plain) & ~m->have : 0;

			for (int p = 0; p < BNB_PARTS; p++)
				if (gone >> p & 1) {
					arch_linear_name(name, l, s, "weight");
					snprintf(name + strlen(name), size - strlen(name), "%s", bnb_tail(p));
					return true;
				}
		}
	return false;
}

/* Names one tensor that is missing: only called when one is. */
static int missing(const struct weights *w, const struct model_source *s, struct err *e)
{
	char name[ARCH_NAME], part[2 * ARCH_NAME];

	if (!source_find(s, arch_embed_name))
		return named_missing(arch_embed_name, e);
	if (part_missing(w, part, sizeof(part)))
		return named_missing(part, e);
	for (int64_t l = 0; l < w->desc.layers; l++)
		for (int i = 0; i < 2 * LIN_N + 2; i++) {
			if (i < LIN_N)
				arch_linear_name(name, l, i, "weight");
			else if (i >= LIN_N + 2 && !w->desc.bias[i - LIN_N - 2])
				continue;
			else if (i >= LIN_N + 2)
				arch_linear_name(name, l, i - LIN_N - 2, "bias");
			else
				arch_norm_name(name, l, i - LIN_N);
			if (!source_find(s, name))
				return named_missing(name, e);
		}
	arch_norm_name(name, -1, false);
	return named_missing(source_find(s, name) ? arch_head_name : name, e);
}

static void fill_dense(struct device *d, const struct layer_weights *lw, enum linear_group kind, void *to)
{
	const struct wgroup *g = &lw->grp[kind];

	for (int i = 0; i < g->n; i++) {
		const struct wmat *m = &lw->lin[g->first + i];
		void *y = act_at(d, to, g->row[i] * g->ld);

		if (m->nf4)
			d->k.nf4_dequant(d, y, g->ld, &m->q, m->rows, m->cols);
		else
			d->k.convert(d, y, g->ld, m->data, m->dtype, m->rows, m->cols);
	}
}

static int load_all(struct weights *w, struct model_source *s, struct device *d, void *room, struct err *e)
{
	int64_t seen = 0;
	struct tensor t;
	int rc;

	model_source_hash(s);
	while ((rc = model_source_next(s, &t, e)) == 1) {
		bool used;

		if (load_tensor(w, &t, d, room, &used, e) < 0)
			return err_where(e, model_source_name(s), 0);
		seen += used;
		model_source_dropped(s, &t);
	}
	if (rc < 0)
		return -1;
	if (seen != expected(&w->desc))
		return missing(w, s, e), err_where(e, model_source_name(s), 0);
	/* what is not quantised, and not of the device's type, is made dense now where there is room for it */
	for (int64_t l = 0; l < w->cached_layers && !w->dense && !w->nf4; l++)
		for (int g = 0; g < GRP_N; g++)
			fill_dense(d, &w->layers[l], g, w->layers[l].grp[g].dense);
	return model_source_identity(s, w->identity, e);
}

int weights_load(struct weights *w, struct model_source *s, struct device *d, void *lent, uint64_t lent_bytes, struct err *e)
{
	void *own = weights_room(w) > lent_bytes ? device_alloc(d, weights_room(w), "weights on their way", e) : NULL;
	int rc = -1;

	if (own || weights_room(w) <= lent_bytes)
		rc = load_all(w, s, d, own ? own : lent, e);
	if (own)
		device_free(d, own);
	return rc;
}

void weights_to_fp8(struct weights *w, struct device *d, void *scratch)
{
	for (int64_t i = 0; w->fp8 && i < w->desc.layers; i++)
		for (int k = 0; k < GRP_N; k++) {
			const struct wgroup *g = &w->layers[i].grp[k];
			const void *dense = weights_dense(d, &w->layers[i], k, scratch);

			d->k.fp8_rows(d, &g->w8, dense, g->ld, g->out, g->in, 0, g->tail, FP8_TOP_WEIGHT);
			d->k.fp8_cols(d, &g->w8t, dense, g->ld, g->out, g->in, g->tail, FP8_TOP_WEIGHT);
		}
}

void *weights_dense(struct device *d, const struct layer_weights *lw, enum linear_group g, void *scratch)
{
	if (lw->grp[g].dense)
		return lw->grp[g].dense;
	fill_dense(d, lw, g, scratch);
	return scratch;
}
