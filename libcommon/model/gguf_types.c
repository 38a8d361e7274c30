/* Which block type each tensor gets: the rules of llama.cpp's quantiser without
 * an importance matrix (src/llama-quant.cpp). */
#include <string.h>

#include "model/gguf_plan.h"

static const struct gguf_file_type file_types[] = {
	{ "f32", 0, QT_F32, false, false },     { "f16", 1, QT_F16, false, false },
	{ "q4_0", 2, QT_Q4_0, false, false },   { "q4_1", 3, QT_Q4_1, false, false },
	{ "q8_0", 7, QT_Q8_0, false, false },   { "q5_0", 8, QT_Q5_0, false, false },
	{ "q5_1", 9, QT_Q5_1, false, false },   { "q4_k_s", 14, QT_Q4_K, false, true },
	{ "q4_k_m", 15, QT_Q4_K, true, false }, { "q5_k_s", 16, QT_Q5_K, false, true },
	{ "q5_k_m", 17, QT_Q5_K, true, false }, { "q6_k", 18, QT_Q6_K, false, false },
	{ "bf16", 32, QT_BF16, false, false },
};

const struct gguf_file_type *gguf_file_type(const char *name)
{
	for (size_t i = 0; i < sizeof(file_types) / sizeof(*file_types); i++)
		if (!strcmp(file_types[i].name, name))
			return &file_types[i];
	return NULL;
}

/* The first and last eighth of the layers, and every third between. */
static bool more_bits(int64_t layer, int64_t n)
{
	return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
}

/* 80 layers: eight heads share one v, so it is small and worth more bits. */
static bool is_70b(const struct model_desc *m)
{
	return m->layers == 80 && (!strcmp(m->family, "qwen2") || m->heads != m->kv_heads);
}

static enum quant_type wanted(const struct gguf_plan *p, const struct gguf_item *it)
{
	const struct gguf_file_type *f = p->file_type;
	const struct model_desc *m = &p->desc;
	enum quant_type t = f->base;

	if (it->role == ROLE_OUTPUT || (it->role == ROLE_EMBED && m->tied)) {
		if (it->dims[0] % quant_info(t)->block_elems)
			return QT_Q8_0;
		return t == QT_Q8_0 ? t : QT_Q6_K;
	}
	if (it->role == ROLE_ATTN_V) {
		if (f->mixed && more_bits(it->layer, m->layers))
			t = QT_Q6_K;
		else if (f->small && t == QT_Q4_K && it->layer < 4)
			t = QT_Q5_K;
		if (is_70b(m) && t == QT_Q4_K)
			t = QT_Q5_K;
	} else if (it->role == ROLE_FFN_DOWN) {
		if (f->mixed && more_bits(it->layer, m->layers))
			t = QT_Q6_K;
		else if (f->small && t == QT_Q4_K && it->layer < m->layers / 8)
			t = QT_Q5_K;
	}
	return t;
}

/* Rows that are no whole number of blocks get the next larger type of 32
 * elements, or half floats. */
static enum quant_type fitting(enum quant_type t, uint64_t cols)
{
	if (cols % quant_info(t)->block_elems == 0)
		return t;
	t = t == QT_Q4_K ? QT_Q5_0 : t == QT_Q5_K ? QT_Q5_1 : t == QT_Q6_K ? QT_Q8_0 : t;
	return cols % quant_info(t)->block_elems ? QT_F16 : t;
}

void gguf_plan_types(struct gguf_plan *p)
{
	enum quant_type base = p->file_type->base, t;

	for (size_t i = 0; i < p->n_items; i++) {
		struct gguf_item *it = &p->items[i];

		it->type = QT_F32;
		if (it->skip || it->role == ROLE_VECTOR)
			continue;
		it->type = base;
		if (base == QT_F32 || base == QT_F16 || base == QT_BF16)
			continue;
		t = wanted(p, it);
		it->type = fitting(t, it->dims[0]);
		p->fallbacks += it->type != t;
	}
}
