/* The shared part of reading config.json, and the names of tensors. */
#include "model/arch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "model/bnb.h"

static const struct arch *const archs[] = { &arch_llama, &arch_qwen2, &arch_mistral };

const char arch_embed_name[] = "model.embed_tokens.weight", arch_head_name[] = "lm_head.weight";

static const struct {
	const char *name, *path;
} slots[LIN_N] = {
	[LIN_Q] = { "q_proj", "self_attn.q_proj" },   [LIN_K] = { "k_proj", "self_attn.k_proj" },
	[LIN_V] = { "v_proj", "self_attn.v_proj" },   [LIN_O] = { "o_proj", "self_attn.o_proj" },
	[LIN_GATE] = { "gate_proj", "mlp.gate_proj" }, [LIN_UP] = { "up_proj", "mlp.up_proj" },
	[LIN_DOWN] = { "down_proj", "mlp.down_proj" },
};

const char *linear_name(enum linear_slot s)
{
	return slots[s].name;
}

const char *linear_path(enum linear_slot s)
{
	return slots[s].path;
}

int64_t linear_in(const struct model_desc *m, enum linear_slot s)
{
	return s == LIN_O ? m->heads * m->head_dim : s == LIN_DOWN ? m->ffn : m->hidden;
}

int64_t linear_out(const struct model_desc *m, enum linear_slot s)
{
	switch (s) {
	case LIN_Q:
		return m->heads * m->head_dim;
	case LIN_K:
	case LIN_V:
		return m->kv_heads * m->head_dim;
	case LIN_GATE:
	case LIN_UP:
		return m->ffn;
	default:
		return m->hidden;
	}
}

int64_t group_in(const struct model_desc *m, enum linear_group g)
{
	return linear_in(m, group_first(g));
}

int64_t group_out(const struct model_desc *m, enum linear_group g)
{
	int64_t n = 0;

	for (int i = 0; i < group_size(g); i++)
		n += linear_out(m, group_first(g) + i);
	return n;
}

void arch_linear_name(char *buf, int64_t layer, enum linear_slot s, const char *kind)
{
	snprintf(buf, ARCH_NAME, "model.layers.%lld.%s.%s", (long long)layer, slots[s].path, kind);
}

void arch_norm_name(char *buf, int64_t layer, bool second)
{
	if (layer < 0)
		snprintf(buf, ARCH_NAME, "model.norm.weight");
	else
		snprintf(buf, ARCH_NAME, "model.layers.%lld.%s.weight", (long long)layer,
		         second ? "post_attention_layernorm" : "input_layernorm");
}

int64_t model_params(const struct model_desc *m)
{
	int64_t layer = 2 * m->hidden;

	for (int s = 0; s < LIN_N; s++)
		layer += linear_out(m, s) * (linear_in(m, s) + m->bias[s]);
	return m->layers * layer + m->hidden + m->vocab * m->hidden * (m->tied ? 1 : 2);
}

int64_t model_window(const struct model_desc *m, int64_t layer)
{
	return layer >= m->window_first ? m->window : 0;
}

int arch_int(const struct json *config, const char *key, int64_t dflt, int64_t min, int64_t max, int64_t *out, struct err *e)
{
	const struct json *v = json_get(config, key);

	if (!v && dflt < min)
		return err_set(e, LP_DATA, "no '%s' in it; is this the model's own config.json?", key);
	if (!json_get_i64(config, key, dflt, out) || *out < min || *out > max)
		return err_set(e, LP_DATA, "'%s' must be a whole number from %lld to %lld", key, (long long)min, (long long)max);
	return 0;
}

int arch_bool(const struct json *config, const char *key, bool dflt, bool *out, struct err *e)
{
	if (!json_get_bool(config, key, dflt, out))
		return err_set(e, LP_DATA, "'%s' must be true or false", key);
	return 0;
}

/* Keys that say nothing about the computation, or are read below. */
static const char *const shared_keys[] = {
	"architectures", "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
	"head_dim", "intermediate_size", "vocab_size", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
	"hidden_act", "rope_theta", "rope_scaling", "rope_parameters", "torch_dtype", "dtype", "attention_dropout",
	"bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "decoder_start_token_id",
	"initializer_range", "use_cache", "pretraining_tp", "transformers_version", "name_or_path", "return_dict",
	"output_attentions", "output_hidden_states", "use_return_dict", "is_encoder_decoder", "chunk_size_feed_forward",
	"id2label", "label2id", "num_labels", "problem_type", "task_specific_params", "quantization_config",
	"attn_implementation", "use_bfloat16", "tokenizer_class", "prefix", "finetuning_task", "pruned_heads",
	"unsloth_fixed", "unsloth_version", "model_name", "layer_types", "auto_map", "return_dict_in_generate",
	"temperature", "top_k", "top_p", "do_sample", "max_length", "repetition_penalty", "output_scores",
};

static bool in_list(const char *key, const char *const *list, size_t n)
{
	for (size_t i = 0; i < n && list[i]; i++)
		if (strcmp(key, list[i]) == 0)
			return true;
	return false;
}

static bool is_off(const struct json *v)
{
	double f;

	return v->type == JSON_NULL || (v->type == JSON_BOOL && !v->b) ||
	       (v->type == JSON_NUM && json_as_f64(v, &f) && f == 0) ||
	       ((v->type == JSON_ARR || v->type == JSON_OBJ) && v->n == 0);
}

static int check_keys(const struct json *config, const struct arch *a, struct err *e)
{
	for (uint32_t i = 0; i < config->n; i++) {
		const char *key = config->members[i].key;

		if (key[0] == '_' || is_off(&config->members[i].val) || in_list(key, a->keys, SIZE_MAX) ||
		    in_list(key, shared_keys, sizeof(shared_keys) / sizeof(*shared_keys)))
			continue;
		return err_set(e, LP_DATA, "'%s' is set, and %s models are not known to have it; "
		               "if it changes nothing in the computation, remove it", key, a->model_type);
	}
	return 0;
}

static int positive(const struct json *o, const char *key, double dflt, double *out, struct err *e)
{
	if (!json_get_f64(o, key, dflt, out) || !(*out > 0) || !isfinite(*out))
		return err_set(e, LP_DATA, "'%s' must be a positive number", key);
	return 0;
}

/* transformers 4: rope_theta and rope_scaling; 5: rope_parameters with both. */
static int read_rope(const struct json *config, struct model_desc *m, struct err *e)
{
	const struct json *r = json_get(config, "rope_parameters");
	const char *type = "default";

	if (!json_is(r, JSON_OBJ))
		r = json_get(config, "rope_scaling");
	if (!json_is(r, JSON_OBJ))
		r = NULL;
	if (positive(config, "rope_theta", 10000.0, &m->rope_theta, e) < 0 ||
	    (r && positive(r, "rope_theta", m->rope_theta, &m->rope_theta, e) < 0))
		return -1;
	if (r && (!json_get_str(r, "type", "default", &type) || !json_get_str(r, "rope_type", type, &type)))
		return err_set(e, LP_DATA, "'rope_type' must be a string");
	if (strcmp(type, "default") == 0)
		return 0;
	if (strcmp(type, "linear") != 0 && strcmp(type, "llama3") != 0)
		return err_set(e, LP_DATA, "rotary scaling '%s' is not known; known are default, linear and llama3", type);
	m->rope = strcmp(type, "linear") == 0 ? ROPE_LINEAR : ROPE_LLAMA3;
	if (positive(r, "factor", 0, &m->rope_factor, e) < 0)
		return -1;
	if (m->rope == ROPE_LINEAR)
		return 0;
	if (positive(r, "low_freq_factor", 0, &m->rope_low, e) < 0 || positive(r, "high_freq_factor", 0, &m->rope_high, e) < 0)
		return -1;
	if (m->rope_high <= m->rope_low)
		return err_set(e, LP_DATA, "'high_freq_factor' must be above 'low_freq_factor'");
	return arch_int(r, "original_max_position_embeddings", m->max_pos, 1, INT32_MAX, &m->rope_original, e);
}

static int read_ids(const struct json *config, struct model_desc *m, struct err *e)
{
	const struct json *v = json_get(config, "eos_token_id");
	int64_t id;

	if (!json_get_i64(config, "bos_token_id", -1, &id))
		return err_set(e, LP_DATA, "'bos_token_id' must be a whole number");
	m->bos = (int32_t)id;
	for (uint32_t i = 0; v && v->type != JSON_NULL && i < (v->type == JSON_ARR ? v->n : 1); i++) {
		if (!json_as_i64(v->type == JSON_ARR ? &v->items[i] : v, &id) || id < 0 || id >= m->vocab)
			return err_set(e, LP_DATA, "'eos_token_id' must name tokens of the vocabulary");
		if (m->n_eos < (int)(sizeof(m->eos) / sizeof(*m->eos)))
			m->eos[m->n_eos++] = (int32_t)id;
	}
	return 0;
}

static int read_dtype(const struct json *config, struct model_desc *m, struct err *e)
{
	const char *name, *dflt;

	if (!json_get_str(config, "torch_dtype", "float32", &dflt) || !json_get_str(config, "dtype", dflt, &name) ||
	    !dtype_from_hf(name, &m->dtype) || (m->dtype != DT_F32 && m->dtype != DT_F16 && m->dtype != DT_BF16))
		return err_set(e, LP_DATA, "'torch_dtype' must be float32, float16 or bfloat16");
	return 0;
}

static int read_shapes(const struct json *config, struct model_desc *m, struct err *e)
{
	double dropout;
	const char *act;

	if (arch_int(config, "hidden_size", 0, 1, 1 << 20, &m->hidden, e) < 0 ||
	    arch_int(config, "num_hidden_layers", 0, 1, 10000, &m->layers, e) < 0 ||
	    arch_int(config, "num_attention_heads", 0, 1, 1 << 16, &m->heads, e) < 0 ||
	    arch_int(config, "num_key_value_heads", m->heads, 1, m->heads, &m->kv_heads, e) < 0 ||
	    arch_int(config, "head_dim", m->hidden / m->heads, 2, 1 << 14, &m->head_dim, e) < 0 ||
	    arch_int(config, "intermediate_size", 0, 1, 1 << 22, &m->ffn, e) < 0 ||
	    arch_int(config, "vocab_size", 0, 1, 1 << 24, &m->vocab, e) < 0 ||
	    arch_int(config, "max_position_embeddings", 2048, 1, INT32_MAX, &m->max_pos, e) < 0 ||
	    arch_bool(config, "tie_word_embeddings", false, &m->tied, e) < 0 || positive(config, "rms_norm_eps", 1e-6, &m->rms_eps, e) < 0)
		return -1;
	if (m->heads % m->kv_heads)
		return err_set(e, LP_DATA, "num_attention_heads (%lld) is not a multiple of num_key_value_heads (%lld)",
		               (long long)m->heads, (long long)m->kv_heads);
	if (m->head_dim % 2)
		return err_set(e, LP_DATA, "head_dim %lld is odd: rotary embedding turns pairs", (long long)m->head_dim);
	if (!json_get_str(config, "hidden_act", "silu", &act) || strcmp(act, "silu") != 0)
		return err_set(e, LP_DATA, "'hidden_act' other than silu is not known");
	if (!json_get_f64(config, "attention_dropout", 0, &dropout) || dropout != 0)
		return err_set(e, LP_DATA, "'attention_dropout' is not 0: not known; set it to 0 to train without it");
	return 0;
}

static const struct arch *find_arch(const struct json *config, struct err *e)
{
	const struct json *list = json_get(config, "architectures");
	const char *type;

	if (!json_get_str(config, "model_type", "", &type))
		type = "";
	for (size_t i = 0; i < sizeof(archs) / sizeof(*archs); i++) {
		if (strcmp(type, archs[i]->model_type) != 0)
			continue;
		if (json_is(list, JSON_ARR) && list->n && !json_str_is(&list->items[0], archs[i]->architecture)) {
			err_set(e, LP_DATA, "architecture '%s' is not known; of %s models only %s",
			        list->items[0].type == JSON_STR ? list->items[0].s : "?", type, archs[i]->architecture);
			return NULL;
		}
		return archs[i];
	}
	err_set(e, LP_DATA, "model_type '%s' is not known; known are llama, qwen2 and mistral", type);
	return NULL;
}

static int read_config(const struct json *config, struct model_desc *m, struct err *e)
{
	const struct arch *a;

	memset(m, 0, sizeof(*m));
	if (config->type != JSON_OBJ)
		return err_set(e, LP_DATA, "not a JSON object");
	a = find_arch(config, e);
	if (!a)
		return -1;
	m->family = a->model_type;
	if (check_keys(config, a, e) < 0 || read_shapes(config, m, e) < 0 || read_rope(config, m, e) < 0 ||
	    read_ids(config, m, e) < 0 || read_dtype(config, m, e) < 0 || bnb_read(json_get(config, "quantization_config"), m, e) < 0)
		return -1;
	return a->read(config, m, e);
}

int model_desc_read(const struct json *config, const char *path, struct model_desc *m, struct err *e)
{
	return read_config(config, m, e) < 0 ? err_where(e, path, 0) : 0;
}

int model_desc_load(const char *dir, struct model_desc *m, struct err *e)
{
	struct arena a = ARENA_INIT;
	struct json config;
	char path[4096];
	int rc;

	snprintf(path, sizeof(path), "%s/config.json", dir);
	rc = json_load(path, &a, &config, e);
	if (rc == 0)
		rc = model_desc_read(&config, path, m, e);
	arena_release(&a);
	return rc;
}
