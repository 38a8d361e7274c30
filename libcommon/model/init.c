/* Random models: shapes, configurations and values. */
#include "model/init.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "base/rng.h"
#include "base/xalloc.h"

/* Shapes as the models' published config.json files have them. */
static const struct init_shape presets[] = {
	{ "tiny", "llama", 64, 2, 4, 2, 16, 96, 512, 512, 1e4, 1e-5, 0, 1, 2, 0 },
	{ "tiny-qwen2", "qwen2", 64, 2, 4, 2, 16, 96, 512, 512, 1e6, 1e-6, 0, 1, 2, 1 },
	{ "tiny-mistral", "mistral", 64, 2, 4, 2, 16, 96, 512, 512, 1e6, 1e-5, 0, 1, 2, 0 },
	{ "llama-2-7b", "llama", 4096, 32, 32, 32, 128, 11008, 32000, 4096, 1e4, 1e-5, 0, 1, 2, 0 },
	{ "tinyllama-1.1b", "llama", 2048, 22, 32, 4, 64, 5632, 32000, 2048, 1e4, 1e-5, 0, 1, 2, 0 },
	{ "llama-3-8b", "llama", 4096, 32, 32, 8, 128, 14336, 128256, 8192, 5e5, 1e-5, 0, 128000, 128001, 0 },
	{ "llama-3.1-8b", "llama", 4096, 32, 32, 8, 128, 14336, 128256, 131072, 5e5, 1e-5, 8, 128000, 128001, 0 },
	{ "llama-3.2-1b", "llama", 2048, 16, 32, 8, 64, 8192, 128256, 131072, 5e5, 1e-5, 32, 128000, 128001, 1 },
	{ "llama-3.2-3b", "llama", 3072, 28, 24, 8, 128, 8192, 128256, 131072, 5e5, 1e-5, 32, 128000, 128001, 1 },
	{ "qwen2.5-0.5b", "qwen2", 896, 24, 14, 2, 64, 4864, 151936, 32768, 1e6, 1e-6, 0, 151643, 151643, 1 },
	{ "qwen2.5-1.5b", "qwen2", 1536, 28, 12, 2, 128, 8960, 151936, 131072, 1e6, 1e-6, 0, 151643, 151643, 1 },
	{ "qwen2.5-7b", "qwen2", 3584, 28, 28, 4, 128, 18944, 152064, 131072, 1e6, 1e-6, 0, 151643, 151643, 0 },
	{ "mistral-7b", "mistral", 4096, 32, 32, 8, 128, 14336, 32768, 32768, 1e6, 1e-5, 0, 1, 2, 0 },
};

const struct init_shape *init_preset(const char *name)
{
	for (size_t i = 0; i < sizeof(presets) / sizeof(presets[0]); i++)
		if (!strcmp(presets[i].name, name))
			return &presets[i];
	return NULL;
}

static const struct init_shape *tiny_of(const char *family)
{
	for (size_t i = 0; i < 3; i++)
		if (!strcmp(presets[i].family, family))
			return &presets[i];
	return NULL;
}

static void dflt(int64_t *v, int64_t d)
{
	if (!*v)
		*v = d;
}

/* Where the user gave one of a group that belongs together, the preset's other
 * values of the group do not fit any more and follow from it. */
static void complete_heads(struct init_shape *s, const struct init_shape *p)
{
	bool own = s->heads || s->hidden;

	dflt(&s->hidden, p->hidden);
	dflt(&s->heads, p->heads);
	dflt(&s->kv_heads, own && s->heads != p->heads ? s->heads : p->kv_heads);
	dflt(&s->head_dim, own ? s->hidden / s->heads : p->head_dim);
}

int init_shape_complete(struct init_shape *s, const struct init_shape *preset, struct err *e)
{
	const struct init_shape *p = preset ? preset : tiny_of(s->family ? s->family : "llama");

	if (!s->family)
		s->family = p->family;
	complete_heads(s, p);
	dflt(&s->layers, p->layers);
	dflt(&s->ffn, p->ffn);
	dflt(&s->vocab, p->vocab);
	dflt(&s->max_len, p->max_len);
	if (s->rope_theta <= 0)
		s->rope_theta = p->rope_theta;
	if (s->rms_eps <= 0)
		s->rms_eps = p->rms_eps;
	if (s->tied < 0)
		s->tied = p->tied;
	s->rope_factor = p->rope_factor;
	s->bos = p->bos < s->vocab ? p->bos : s->vocab > 2 ? 1 : -1;
	s->eos = p->eos < s->vocab ? p->eos : s->vocab > 2 ? 2 : -1;
	if (s->heads % s->kv_heads)
		return err_set(e, LP_USAGE, "--heads %" PRId64 " is no multiple of --kv-heads %" PRId64, s->heads, s->kv_heads);
	if (s->head_dim < 2 || s->head_dim % 2)
		return err_set(e, LP_USAGE, "a head of %" PRId64 " values: rotary positions need an even number; give --head-dim", s->head_dim);
	return 0;
}

static void add_f64(struct sb *out, double v)
{
	char buf[32];

	fmt_f64(v, buf);
	sb_adds(out, buf);
}

static void add_id(struct sb *out, const char *key, int64_t id)
{
	if (id < 0)
		sb_addf(out, "  \"%s\": null,\n", key);
	else
		sb_addf(out, "  \"%s\": %" PRId64 ",\n", key, id);
}

void init_config_json(const struct init_shape *s, enum dtype t, double init_std, struct sb *out)
{
	bool llama = !strcmp(s->family, "llama"), qwen = !strcmp(s->family, "qwen2");

	sb_addf(out, "{\n  \"architectures\": [\n    \"%s\"\n  ],\n", llama ? "LlamaForCausalLM" : qwen ? "Qwen2ForCausalLM" : "MistralForCausalLM");
	if (llama)
		sb_adds(out, "  \"attention_bias\": false,\n");
	sb_adds(out, "  \"attention_dropout\": 0.0,\n");
	add_id(out, "bos_token_id", s->bos);
	add_id(out, "eos_token_id", s->eos);
	sb_addf(out, "  \"head_dim\": %" PRId64 ",\n  \"hidden_act\": \"silu\",\n  \"hidden_size\": %" PRId64 ",\n  \"initializer_range\": ",
		s->head_dim, s->hidden);
	add_f64(out, init_std);
	sb_addf(out, ",\n  \"intermediate_size\": %" PRId64 ",\n  \"max_position_embeddings\": %" PRId64 ",\n", s->ffn, s->max_len);
	if (qwen)
		sb_addf(out, "  \"max_window_layers\": %" PRId64 ",\n", s->layers);
	if (llama)
		sb_adds(out, "  \"mlp_bias\": false,\n");
	sb_addf(out, "  \"model_type\": \"%s\",\n  \"num_attention_heads\": %" PRId64 ",\n  \"num_hidden_layers\": %" PRId64
		",\n  \"num_key_value_heads\": %" PRId64 ",\n  \"rms_norm_eps\": ", s->family, s->heads, s->layers, s->kv_heads);
	add_f64(out, s->rms_eps);
	if (s->rope_factor > 0) {
		sb_adds(out, ",\n  \"rope_scaling\": {\n    \"factor\": ");
		add_f64(out, s->rope_factor);
		sb_adds(out, ",\n    \"high_freq_factor\": 4.0,\n    \"low_freq_factor\": 1.0,\n"
			     "    \"original_max_position_embeddings\": 8192,\n    \"rope_type\": \"llama3\"\n  }");
	} else {
		sb_adds(out, ",\n  \"rope_scaling\": null");
	}
	sb_adds(out, ",\n  \"rope_theta\": ");
	add_f64(out, s->rope_theta);
	if (!llama)
		sb_adds(out, ",\n  \"sliding_window\": null");
	sb_addf(out, ",\n  \"tie_word_embeddings\": %s,\n  \"torch_dtype\": \"%s\",\n  \"use_cache\": true,\n", s->tied ? "true" : "false",
		dtype_hf_name(t));
	if (qwen)
		sb_adds(out, "  \"use_sliding_window\": false,\n");
	sb_addf(out, "  \"vocab_size\": %" PRId64 "\n}\n", s->vocab);
}

struct list {
	struct tensor *t;
	size_t n;
	enum dtype dtype;
	struct arena *a;
};

static void add(struct list *l, const char *name, int64_t rows, int64_t cols)
{
	struct tensor *t = &l->t[l->n++];

	t->name = arena_strndup(l->a, name, strlen(name));
	t->dtype = l->dtype;
	t->n_dims = cols ? 2 : 1;
	t->shape[0] = (uint64_t)rows;
	t->shape[1] = (uint64_t)cols;
	t->bytes = (uint64_t)rows * (uint64_t)(cols ? cols : 1) * dtype_bytes(l->dtype);
}

struct tensor *init_tensors(const struct model_desc *m, enum dtype t, struct arena *a, size_t *n)
{
	struct list l = { .dtype = t, .a = a };
	char name[ARCH_NAME];

	l.t = arena_calloc(a, (size_t)m->layers * (2 * LIN_N + 2) + 3, sizeof(*l.t));
	add(&l, arch_embed_name, m->vocab, m->hidden);
	for (int64_t i = 0; i < m->layers; i++) {
		for (int s = 0; s < LIN_N; s++) {
			arch_linear_name(name, i, s, "weight");
			add(&l, name, linear_out(m, s), linear_in(m, s));
			arch_linear_name(name, i, s, "bias");
			if (m->bias[s])
				add(&l, name, linear_out(m, s), 0);
		}
		for (int second = 0; second < 2; second++) {
			arch_norm_name(name, i, second);
			add(&l, name, m->hidden, 0);
		}
	}
	arch_norm_name(name, -1, false);
	add(&l, name, m->hidden, 0);
	if (!m->tied)
		add(&l, arch_head_name, m->vocab, m->hidden);
	*n = l.n;
	return l.t;
}

static bool is_norm(const char *name)
{
	size_t n = strlen(name);
	static const char tail[] = "norm.weight";

	return n >= sizeof(tail) - 1 && !strcmp(name + n - (sizeof(tail) - 1), tail);
}

static void put(enum dtype t, double v, uint8_t *dst)
{
	uint16_t h = t == DT_BF16 ? f64_to_bf16(v) : t == DT_F16 ? f64_to_f16(v) : 0;
	float f = (float)v;

	if (t == DT_F32)
		memcpy(dst, &f, 4);
	else
		memcpy(dst, &h, 2);
}

void init_fill(const struct tensor *t, uint64_t seed, double std, uint64_t first, size_t n, void *dst)
{
	uint64_t stream = rng_stream(t->name);
	size_t size = dtype_bytes(t->dtype);
	bool norm = is_norm(t->name);

#pragma omp parallel for schedule(static)
	for (size_t i = 0; i < n; i++)
		put(t->dtype, norm ? 1 : std * rng_normal(seed, stream, first + i), (uint8_t *)dst + i * size);
}

int init_write(const struct tensor *t, size_t n, uint64_t seed, double std, struct model_sink *k, struct err *e)
{
	enum { CHUNK = 1 << 20 }; /* elements */
	uint8_t *buf = xmalloc((size_t)CHUNK * 8);
	int rc = 0;

	for (size_t i = 0; i < n && !rc; i++) {
		uint64_t elems = tensor_elems(&t[i]);

		for (uint64_t at = 0; at < elems && !rc; at += CHUNK) {
			size_t m = elems - at < CHUNK ? (size_t)(elems - at) : CHUNK;

			init_fill(&t[i], seed, std, at, m, buf);
			rc = model_sink_bytes(k, buf, m * dtype_bytes(t[i].dtype), e);
		}
	}
	free(buf);
	return rc;
}
