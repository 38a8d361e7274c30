/* From the source's tensors to GGUF's: names, shapes, roles. The names of one
 * layer's parts are llama.cpp's for every family here. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_plan.h"

static const struct gguf_family families[] = {
	{ "llama", "llama", true, true },
	{ "mistral", "llama", true, true },
	{ "qwen2", "qwen2", false, false },
};

const struct gguf_family *gguf_family(const struct model_desc *m, struct err *e)
{
	for (size_t i = 0; i < sizeof(families) / sizeof(*families); i++)
		if (!strcmp(families[i].model_type, m->family)) {
			if (m->rope == ROPE_LLAMA3 && !families[i].rope_factors)
				break;
			return &families[i];
		}
	err_set(e, LP_DATA, "model_type '%s'%s has no form in GGUF that llama.cpp runs; llama, mistral and qwen2 have", m->family,
	        m->rope == ROPE_LLAMA3 ? " with rotary scaling llama3" : "");
	return NULL;
}

static const struct {
	const char *name;
	enum gguf_role role;
} parts[LIN_N] = {
	[LIN_Q] = { "attn_q", ROLE_MATRIX },      [LIN_K] = { "attn_k", ROLE_MATRIX },
	[LIN_V] = { "attn_v", ROLE_ATTN_V },      [LIN_O] = { "attn_output", ROLE_MATRIX },
	[LIN_GATE] = { "ffn_gate", ROLE_MATRIX }, [LIN_UP] = { "ffn_up", ROLE_MATRIX },
	[LIN_DOWN] = { "ffn_down", ROLE_FFN_DOWN },
};

struct finder {
	struct gguf_plan *plan;
	const struct model_source *s;
	size_t *by_name; /* positions in the source's list, sorted by name */
	bool *known;
	struct err *e;
};

static int compare(const void *a, const void *b, void *arg)
{
	const struct model_source *s = arg;

	return strcmp(model_source_at(s, *(const size_t *)a)->name, model_source_at(s, *(const size_t *)b)->name);
}

/* Position of name in the source; -1 when absent. */
static int64_t find(const struct finder *f, const char *name)
{
	size_t lo = 0, hi = f->plan->n_items;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int d = strcmp(name, model_source_at(f->s, f->by_name[mid])->name);

		if (!d)
			return (int64_t)f->by_name[mid];
		if (d < 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	return -1;
}

/* The tensor called hf must be there and be (rows, cols), or (cols) when rows is 0. */
static struct gguf_item *expect(struct finder *f, const char *hf, int64_t rows, int64_t cols)
{
	int64_t i = find(f, hf);
	const struct tensor *t;
	struct gguf_item *it;

	if (i < 0) {
		err_set(f->e, LP_DATA, "tensor '%s' is missing; is the model complete?", hf);
		return NULL;
	}
	t = model_source_at(f->s, (size_t)i);
	if (t->n_dims != (rows ? 2 : 1) || t->shape[0] != (uint64_t)(rows ? rows : cols) || (rows && t->shape[1] != (uint64_t)cols)) {
		err_set(f->e, LP_DATA, "tensor '%s' has not the shape that config.json asks for (%" PRId64 " x %" PRId64 ")", hf,
		        rows ? rows : 1, cols);
		return NULL;
	}
	if (t->dtype != DT_F32 && t->dtype != DT_F16 && t->dtype != DT_BF16 && t->dtype != DT_F64) {
		err_set(f->e, LP_DATA, "tensor '%s' is %s: quantised or integer weights are not exported; give the original model", hf,
		        dtype_st_name(t->dtype));
		return NULL;
	}
	it = &f->plan->items[i];
	f->known[i] = true;
	it->layer = -1;
	it->n_dims = t->n_dims;
	it->dims[0] = (uint64_t)cols;
	it->dims[1] = rows ? (uint64_t)rows : 1;
	it->role = rows ? ROLE_MATRIX : ROLE_VECTOR;
	return it;
}

static int expect_whole(struct finder *f, const char *hf, const char *name, enum gguf_role role, int64_t rows)
{
	struct gguf_item *it = expect(f, hf, rows, f->plan->desc.hidden);

	if (!it)
		return -1;
	it->name = name;
	it->role = role;
	return 0;
}

static int expect_norm(struct finder *f, int64_t layer, bool second)
{
	char hf[ARCH_NAME], name[64];
	struct gguf_item *it;

	arch_norm_name(hf, layer, second);
	it = expect(f, hf, 0, f->plan->desc.hidden);
	if (!it)
		return -1;
	snprintf(name, sizeof(name), "blk.%" PRId64 ".%s.weight", layer, second ? "ffn_norm" : "attn_norm");
	it->name = arena_strndup(&f->plan->arena, name, strlen(name));
	it->layer = layer;
	return 0;
}

static int expect_linear(struct finder *f, int64_t layer, enum linear_slot s, bool bias)
{
	const struct model_desc *m = &f->plan->desc;
	const char *kind = bias ? "bias" : "weight";
	char hf[ARCH_NAME], name[64];
	struct gguf_item *it;

	arch_linear_name(hf, layer, s, kind);
	it = expect(f, hf, bias ? 0 : linear_out(m, s), bias ? linear_out(m, s) : linear_in(m, s));
	if (!it)
		return -1;
	snprintf(name, sizeof(name), "blk.%" PRId64 ".%s.%s", layer, parts[s].name, kind);
	it->name = arena_strndup(&f->plan->arena, name, strlen(name));
	it->layer = layer;
	it->role = bias ? ROLE_VECTOR : parts[s].role;
	if (f->plan->family->permute && (s == LIN_Q || s == LIN_K))
		it->heads = s == LIN_Q ? m->heads : m->kv_heads;
	return 0;
}

static int expect_all(struct finder *f)
{
	const struct model_desc *m = &f->plan->desc;
	char norm[ARCH_NAME];

	arch_norm_name(norm, -1, false);
	if (expect_whole(f, arch_embed_name, "token_embd.weight", ROLE_EMBED, m->vocab) ||
	    expect_whole(f, norm, "output_norm.weight", ROLE_VECTOR, 0) ||
	    (!m->tied && expect_whole(f, arch_head_name, "output.weight", ROLE_OUTPUT, m->vocab)))
		return -1;
	for (int64_t l = 0; l < m->layers; l++) {
		if (expect_norm(f, l, false) || expect_norm(f, l, true))
			return -1;
		for (enum linear_slot s = LIN_Q; s < LIN_N; s++)
			if (expect_linear(f, l, s, false) || (m->bias[s] && expect_linear(f, l, s, true)))
				return -1;
	}
	return 0;
}

/* Tensors that old checkpoints carry and no computation reads; and the head of a
 * model whose head is its embedding, which transformers ignores too. */
static bool is_ignored(const struct model_desc *m, const char *name)
{
	static const char inv[] = ".rotary_emb.inv_freq";
	size_t n = strlen(name);

	return (n > sizeof(inv) && !strcmp(name + n - (sizeof(inv) - 1), inv)) || (m->tied && !strcmp(name, arch_head_name));
}

int gguf_plan_tensors(struct gguf_plan *p, const struct model_source *s, struct err *e)
{
	struct finder f = { p, s, NULL, NULL, e };

	p->n_items = model_source_count(s);
	p->items = arena_calloc(&p->arena, p->n_items + 1, sizeof(*p->items));
	f.by_name = arena_calloc(&p->arena, p->n_items + 1, sizeof(*f.by_name));
	f.known = arena_calloc(&p->arena, p->n_items + 1, sizeof(*f.known));
	for (size_t i = 0; i < p->n_items; i++)
		f.by_name[i] = i;
	qsort_r(f.by_name, p->n_items, sizeof(*f.by_name), compare, (void *)(uintptr_t)s);
	if (expect_all(&f))
		return -1;
	for (size_t i = 0; i < p->n_items; i++) {
		const char *name = model_source_at(s, i)->name;

		if (f.known[i])
			continue;
		if (!is_ignored(&p->desc, name))
			return err_set(e, LP_DATA, "tensor '%s' is not part of a %s model as its config.json describes it", name, p->desc.family);
		p->items[i].skip = true;
	}
	return 0;
}
