/* The keys that describe the model, and the tensor of rotary factors. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/gguf_plan.h"

static void put_count(struct gguf_writer *w, const char *arch, const char *key, int64_t v)
{
	char name[96];

	snprintf(name, sizeof(name), "%s.%s", arch, key);
	gguf_put_u32(w, name, (uint32_t)v);
}

static void put_number(struct gguf_writer *w, const char *arch, const char *key, double v)
{
	char name[96];

	snprintf(name, sizeof(name), "%s.%s", arch, key);
	gguf_put_f32(w, name, (float)v);
}

void gguf_put_model(struct gguf_writer *w, const struct gguf_plan *p, const char *name)
{
	const struct model_desc *m = &p->desc;
	const char *a = p->family->arch;
	char key[96];

	gguf_put_str(w, "general.architecture", a, strlen(a));
	gguf_put_str(w, "general.type", "model", 5);
	gguf_put_str(w, "general.name", name, strlen(name));
	gguf_put_u32(w, "general.file_type", p->file_type->number);
	gguf_put_u32(w, "general.quantization_version", 2);
	put_count(w, a, "block_count", m->layers);
	put_count(w, a, "context_length", m->max_pos);
	put_count(w, a, "embedding_length", m->hidden);
	put_count(w, a, "feed_forward_length", m->ffn);
	put_count(w, a, "attention.head_count", m->heads);
	put_count(w, a, "attention.head_count_kv", m->kv_heads);
	put_count(w, a, "attention.key_length", m->head_dim);
	put_count(w, a, "attention.value_length", m->head_dim);
	put_number(w, a, "attention.layer_norm_rms_epsilon", m->rms_eps);
	put_count(w, a, "rope.dimension_count", m->head_dim);
	put_number(w, a, "rope.freq_base", m->rope_theta);
	if (m->rope == ROPE_LINEAR) {
		snprintf(key, sizeof(key), "%s.rope.scaling.type", a);
		gguf_put_str(w, key, "linear", 6);
		put_number(w, a, "rope.scaling.factor", m->rope_factor);
	}
	put_count(w, a, "vocab_size", m->vocab);
}

/* What divides each frequency under llama3 scaling, in fp32 and in the order of
 * the converter, whose division by a tensor is a product with its reciprocal. */
void gguf_rope_factors(const struct model_desc *m, float *factors)
{
	float low_wave = (float)((double)m->rope_original / m->rope_low), high_wave = (float)((double)m->rope_original / m->rope_high);
	float factor = (float)m->rope_factor, low = (float)m->rope_low, span = (float)(m->rope_high - m->rope_low);

	for (int64_t i = 0; i < m->head_dim / 2; i++) {
		float freq = 1.0f / powf((float)m->rope_theta, (float)(2 * i) / (float)m->head_dim);
		float wave = 1.0f / freq * (float)(2 * M_PI), smooth;

		if (wave < high_wave) {
			factors[i] = 1.0f;
		} else if (wave > low_wave) {
			factors[i] = factor;
		} else {
			smooth = (1.0f / wave * (float)m->rope_original - low) / span;
			factors[i] = 1.0f / ((1.0f - smooth) / factor + smooth);
		}
	}
}
