#include "train/lora.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <math.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/xalloc.h"

#define PEFT_PREFIX "base_model.model."
#define MAGNITUDE "lora_magnitude_vector"

static bool set_target(const char *name, size_t n, bool targets[LIN_N])
{
	for (int s = 0; s < LIN_N; s++)
		if (strlen(linear_name(s)) == n && memcmp(linear_name(s), name, n) == 0) {
			targets[s] = true;
			return true;
		}
	return false;
}

int lora_targets(const char *text, bool targets[LIN_N], struct err *e)
{
	bool all = strcmp(text, "all") == 0;

	for (int s = 0; s < LIN_N; s++)
		targets[s] = all;
	while (!all && *text) {
		size_t n = strcspn(text, ",");

		if (!set_target(text, n, targets))
			return err_set(e, LP_USAGE, "the model has no projection '%.*s'; it has q_proj, k_proj, v_proj, o_proj, "
			               "gate_proj, up_proj and down_proj (or say all)", (int)n, text);
		text += n + (text[n] == ',');
	}
	for (int s = 0; s < LIN_N; s++)
		all |= targets[s];
	return all ? 0 : err_set(e, LP_USAGE, "no target projections; name some in --targets");
}

/* --- which projections --- */

static void module_path(char path[ARCH_NAME], int64_t layer, int slot)
{
	snprintf(path, ARCH_NAME, "model.layers.%lld.%s", (long long)layer, linear_path(slot));
}

static void choose(struct lora *l, int64_t layer, int slot)
{
	l->on[layer * LIN_N + slot] = l->targets[slot] = true;
}

/* "0-3,8" of so many layers. */
static int parse_layers(const char *text, int64_t n, bool *in, struct err *e)
{
	const char *p = text;

	do {
		char *end;
		int64_t from, to;

		if (*p < '0' || *p > '9')
			return err_set(e, LP_USAGE, "--layers takes numbers and ranges as in 0-3,8, not '%s'", text);
		from = to = strtoll(p, &end, 10);
		if (*end == '-' && end[1] >= '0' && end[1] <= '9')
			to = strtoll(end + 1, &end, 10);
		if ((*end && *end != ',') || to < from)
			return err_set(e, LP_USAGE, "--layers takes numbers and ranges as in 0-3,8, not '%s'", text);
		if (to >= n)
			return err_set(e, LP_USAGE, "the model has no layer %lld; it has 0 to %lld", (long long)to, (long long)n - 1);
		while (from <= to)
			in[from++] = true;
		p = *end ? end + 1 : end;
	} while (p[-1] == ',' || *p);
	return 0;
}

static int choose_names(struct lora *l, const struct model_desc *m, const char *names, const char *layers, struct err *e)
{
	bool *in = xcalloc((size_t)m->layers, sizeof(*in)), targets[LIN_N];
	int rc = lora_targets(names, targets, e);

	if (rc == 0 && layers)
		rc = parse_layers(layers, m->layers, in, e);
	for (int64_t i = 0; rc == 0 && i < m->layers; i++)
		for (int s = 0; s < LIN_N; s++)
			if (targets[s] && (in[i] || !layers))
				choose(l, i, s);
	free(in);
	return rc;
}

static pcre2_code *compile(const char *text, struct err *e)
{
	int code;
	PCRE2_SIZE at;
	PCRE2_UCHAR why[128];
	/* Python's fullmatch: all of the path, however the alternatives stand */
	pcre2_code *re = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_UTF, &code, &at, NULL);

	if (re)
		return re;
	pcre2_get_error_message(code, why, sizeof(why));
	err_set(e, LP_USAGE, "--targets: no regular expression, at character %zu of '%s': %s", (size_t)at + 1, text, (const char *)why);
	return NULL;
}

static int choose_matches(struct lora *l, const struct model_desc *m, const char *text, struct err *e)
{
	pcre2_code *re = compile(text, e);
	pcre2_match_data *found;
	int64_t n = 0;
	int rc = 0;

	if (!re)
		return -1;
	found = pcre2_match_data_create(1, NULL);
	for (int64_t i = 0; i < m->layers; i++)
		for (int s = 0; s < LIN_N; s++) {
			char path[ARCH_NAME];

			module_path(path, i, s);
			rc = pcre2_match(re, (PCRE2_SPTR)path, strlen(path), 0, 0, found, NULL);
			if (rc < PCRE2_ERROR_NOMATCH)
				goto out;
			if (rc >= 0) {
				choose(l, i, s);
				n++;
			}
		}
out:
	pcre2_match_data_free(found);
	pcre2_code_free(re);
	if (rc < PCRE2_ERROR_NOMATCH)
		return err_set(e, LP_USAGE, "--targets: '%s' takes too long to match", text);
	return n ? 0 : err_set(e, LP_USAGE, "'%s' matches no projection; it is compared with whole paths such as model.layers.0.self_attn.q_proj", text);
}

int lora_choose(struct lora *l, const struct model_desc *m, const char *text, const char *layers, struct err *e)
{
	bool regex = text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_,")] != 0;

	if (regex && layers)
		return err_set(e, LP_USAGE, "--layers goes with names in --targets; a regular expression has the layers in it");
	l->on = xcalloc((size_t)(m->layers * LIN_N), sizeof(*l->on));
	return regex ? choose_matches(l, m, text, e) : choose_names(l, m, text, layers, e);
}

/* Whether layer i has every target. */
static bool has_all(const struct lora *l, int64_t i)
{
	return memcmp(l->on + i * LIN_N, l->targets, LIN_N * sizeof(*l->on)) == 0;
}

static bool has_none(const struct lora *l, int64_t i)
{
	static const bool none[LIN_N];

	return memcmp(l->on + i * LIN_N, none, sizeof(none)) == 0;
}

static void add_paths(const struct lora *l, const struct model_desc *m, struct arena *a, struct lora_where *w)
{
	for (int64_t i = 0; i < m->layers; i++)
		for (int s = 0; s < LIN_N; s++)
			if (l->on[i * LIN_N + s]) {
				char *path = arena_alloc(a, ARCH_NAME);

				module_path(path, i, s);
				w->targets[w->n_targets++] = path;
			}
}

void lora_where(const struct lora *l, const struct model_desc *m, struct arena *a, struct lora_where *w)
{
	size_t n = (size_t)m->layers;
	bool differ = false;

	*w = (struct lora_where){ .targets = arena_alloc(a, n * LIN_N * sizeof(*w->targets)), .layers = arena_alloc(a, n * sizeof(*w->layers)) };
	for (int64_t i = 0; i < m->layers; i++) {
		if (has_all(l, i))
			w->layers[w->n_layers++] = i;
		differ |= !has_all(l, i) && !has_none(l, i);
	}
	for (int s = 0; !differ && s < LIN_N; s++)
		if (l->targets[s])
			w->targets[w->n_targets++] = linear_name(s);
	if (differ)
		add_paths(l, m, a, w);
	if (differ || w->n_layers == n) {
		w->layers = NULL;
		w->n_layers = 0;
	}
}

/* --- layout --- */

static int64_t add_tensor(struct lora *l, int64_t layer, int slot, const char *which, int64_t rows, int64_t cols)
{
	struct lora_tensor *t = &l->tensors[l->n_tensors++];

	arch_linear_name(t->name, layer, slot, which);
	t->offset = l->n_params;
	t->rows = rows;
	t->cols = cols;
	t->n = rows * cols;
	t->on = l->on[layer * LIN_N + slot];
	l->n_params += t->n;
	l->n_trained += t->on ? t->n : 0;
	return t->offset;
}

static void init_group(struct lora *l, const struct model_desc *m, int64_t layer, enum linear_group kind)
{
	struct lora_group *g = &l->groups[layer * GRP_N + kind];
	int first = (int)group_first(kind);

	g->a = l->n_params;
	for (int s = first; s < first + group_size(kind); s++) {
		struct lora_mat *x = &l->mats[layer * LIN_N + s];

		x->a = x->b = x->m = -1;
		x->id = (uint32_t)(layer * LIN_N + s);
		if (!l->targets[s])
			continue;
		g->slot[g->n++] = s;
		x->a = add_tensor(l, layer, s, "lora_A.weight", l->rank, linear_in(m, s));
	}
	for (int j = 0; j < g->n; j++)
		l->mats[layer * LIN_N + (int)g->slot[j]].b = add_tensor(l, layer, (int)g->slot[j], "lora_B.weight", linear_out(m, g->slot[j]), l->rank);
	for (int j = 0; l->dora && j < g->n; j++)
		l->mats[layer * LIN_N + (int)g->slot[j]].m = add_tensor(l, layer, (int)g->slot[j], MAGNITUDE, linear_out(m, g->slot[j]), 1);
}

/* Inner values of a group: the ranks of its adapters together. */
static int64_t inner_values(const struct lora *l, enum linear_group g)
{
	int64_t n = 0;

	for (int s = (int)group_first(g); s < (int)group_first(g) + group_size(g); s++)
		n += l && l->targets[s] ? l->rank : 0;
	return n;
}

int64_t lora_pad(const struct lora *l, const struct device *d, enum linear_group g)
{
	return (inner_values(l, g) + d->row_pad - 1) / d->row_pad * d->row_pad;
}

int64_t lora_tail(const struct lora *l, enum linear_group g)
{
	return fp8_tail(inner_values(l, g));
}

#define SCORE "score.weight"

static bool is_score(const struct lora_tensor *t)
{
	return strcmp(t->name, SCORE) == 0;
}

static bool is_a(const struct lora_tensor *t)
{
	return strstr(t->name, ".lora_A.") != NULL || is_score(t);
}

static bool is_magnitude(const struct lora_tensor *t)
{
	return strstr(t->name, "." MAGNITUDE) != NULL;
}

static void sort_tensors(struct lora *l)
{
	int64_t a = 0, b;

	l->n_a = 0;
	for (int64_t i = 0; i < l->n_tensors; i++)
		l->n_a += is_a(&l->tensors[i]);
	b = l->n_a;
	free(l->by_matrix);
	l->by_matrix = xcalloc((size_t)l->n_tensors + 1, sizeof(*l->by_matrix));
	for (int64_t i = 0; i < l->n_tensors; i++)
		l->by_matrix[is_a(&l->tensors[i]) ? a++ : b++] = i;
}

void lora_init(struct lora *l, const struct model_desc *m)
{
	size_t n = (size_t)(m->layers * LIN_N);

	l->scale = (float)(l->alpha / (l->rslora ? sqrt((double)l->rank) : (double)l->rank));
	l->mats = xcalloc(n, sizeof(*l->mats));
	l->tensors = xcalloc(3 * n, sizeof(*l->tensors));
	l->n_tensors = l->n_params = l->n_trained = 0;
	if (!l->on) {
		l->on = xcalloc(n, sizeof(*l->on));
		for (size_t i = 0; i < n; i++)
			l->on[i] = l->targets[i % LIN_N];
	}
	l->groups = xcalloc((size_t)(m->layers * GRP_N), sizeof(*l->groups));
	for (int64_t i = 0; i < m->layers; i++)
		for (int g = 0; g < GRP_N; g++)
			init_group(l, m, i, g);
	sort_tensors(l);
}

void lora_add_score(struct lora *l, const struct model_desc *m)
{
	struct lora_tensor *t;

	l->tensors = xrealloc(l->tensors, (size_t)(l->n_tensors + 1) * sizeof(*l->tensors));
	t = &l->tensors[l->n_tensors++];
	*t = (struct lora_tensor){ .name = SCORE, .offset = l->n_params, .n = m->hidden, .on = true, .rows = 1, .cols = m->hidden };
	l->has_score = true;
	l->score = t->offset;
	l->n_params += t->n;
	l->n_trained += t->n;
	sort_tensors(l);
}

void lora_release(struct lora *l)
{
	free(l->mats);
	free(l->tensors);
	free(l->groups);
	free(l->by_matrix);
	free(l->on);
	l->mats = NULL;
	l->groups = NULL;
	l->tensors = NULL;
	l->by_matrix = NULL;
	l->on = NULL;
}

void lora_layout(struct lora *l, struct layout *to, bool train)
{
	l->params = layout_array(to, "adapter", l->n_params, sizeof(float));
	l->grads = train ? layout_array(to, "gradients", l->n_params, sizeof(float)) : NULL;
}

static void start_tensor(struct lora *l, const struct lora_tensor *t, struct device *d, uint64_t seed)
{
	uint64_t stream = rng_stream(t->name);
	double bound = 1 / sqrt((double)t->cols);
	float *x = xcalloc((size_t)t->n, sizeof(*x));

	for (int64_t j = 0; t->on && is_a(t) && j < t->n; j++)
		x[j] = (float)((2 * rng_unit(seed, stream, (uint64_t)j) - 1) * bound);
	device_upload(d, l->params + t->offset, x, (uint64_t)t->n * sizeof(*x));
	free(x);
}

void lora_start(struct lora *l, struct device *d, uint64_t seed)
{
	for (int64_t i = 0; i < l->n_tensors; i++)
		start_tensor(l, &l->tensors[i], d, seed);
}

void lora_start_score(struct lora *l, struct device *d, uint64_t seed)
{
	start_tensor(l, &l->tensors[l->n_tensors - 1], d, seed);
}

/* --- an adapter on disk --- */

int lora_from_peft(struct lora *l, const struct model_desc *m, const struct peft *p, struct err *e)
{
	char path[ARCH_NAME];
	size_t seen = 0;

	memset(l, 0, sizeof(*l));
	l->rank = p->r;
	l->alpha = p->alpha;
	l->rslora = p->rslora;
	l->dora = p->dora;
	l->on = xcalloc((size_t)(m->layers * LIN_N), sizeof(*l->on));
	for (int64_t i = 0; i < m->layers; i++)
		for (int s = 0; s < LIN_N; s++) {
			module_path(path, i, s);
			if (peft_find(p, path))
				choose(l, i, s);
		}
	lora_init(l, m);
	for (int64_t i = 0; i < m->layers; i++)
		for (int s = 0; s < LIN_N; s++) {
			const struct peft_module *pm;

			module_path(path, i, s);
			pm = peft_find(p, path);
			if (!pm)
				continue;
			seen++;
			if (pm->r != l->rank || (float)pm->scale != l->scale)
				return err_set(e, LP_DATA, "adapter module '%s' has a rank or scale of its own; merge it with lora-merge instead", path);
			if (pm->a->shape[1] != (uint64_t)linear_in(m, s) || pm->b->shape[0] != (uint64_t)linear_out(m, s))
				return err_set(e, LP_DATA, "adapter module '%s' does not fit the model's projection of %lld by %lld", path,
				               (long long)linear_out(m, s), (long long)linear_in(m, s));
		}
	if (p->score && p->score->shape[1] != (uint64_t)m->hidden)
		return err_set(e, LP_DATA, "the reward model's score is %llu wide, and the model %lld", (unsigned long long)p->score->shape[1], (long long)m->hidden);
	if (seen != p->n_modules)
		return err_set(e, LP_DATA, "the adapter has modules that the model lacks; it was made for another model");
	return 0;
}

void lora_load(struct lora *l, struct device *d, const struct peft *p)
{
	for (int64_t i = 0; i < l->n_tensors; i++) {
		struct lora_tensor *t = &l->tensors[i];
		const char *end = strstr(t->name, ".lora_");
		char path[ARCH_NAME];
		const struct peft_module *pm;
		const struct tensor *src;
		float *x = xcalloc((size_t)t->n, sizeof(*x));

		snprintf(path, sizeof(path), "%.*s", end ? (int)(end - t->name) : 0, t->name);
		pm = end ? peft_find(p, path) : NULL;
		src = is_score(t) ? p->score : !pm ? NULL : is_a(t) ? pm->a : is_magnitude(t) ? pm->m : pm->b;
		if (src)
			to_f32(src->dtype, src->data, x, (size_t)t->n);
		device_upload(d, l->params + t->offset, x, (uint64_t)t->n * sizeof(*x));
		free(x);
	}
}

size_t lora_tensors(const struct lora *l, struct device *d, float *host, struct tensor *out, struct arena *names)
{
	size_t n = 0;

	device_download(d, host, l->params, (uint64_t)l->n_params * sizeof(*host));
	for (int64_t i = 0; i < l->n_tensors; i++) {
		const struct lora_tensor *t = &l->tensors[i];
		size_t bytes = strlen(PEFT_PREFIX) + strlen(t->name) + 1;
		char *name;

		if (!t->on)
			continue;
		name = arena_alloc(names, bytes);
		snprintf(name, bytes, PEFT_PREFIX "%s", t->name);
		out[n++] = (struct tensor){ name, DT_F32, is_magnitude(t) ? 1 : 2, { (uint64_t)t->rows, (uint64_t)t->cols }, (uint64_t)t->n * 4, host + t->offset };
	}
	return n;
}
