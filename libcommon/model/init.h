/* Random models: a configuration from a shape, its list of tensors, and their
 * values, which depend on seed, tensor name and element alone: the same on
 * every machine, with any number of threads, in any order and sharding. */
#ifndef LP_MODEL_INIT_H
#define LP_MODEL_INIT_H

#include "model/arch.h"
#include "model/source.h"

struct init_shape {
	const char *name;   /* of a preset */
	const char *family; /* "llama", "qwen2", "mistral" */
	int64_t hidden, layers, heads, kv_heads, head_dim, ffn, vocab, max_len; /* 0: not said */
	double rope_theta, rms_eps;
	double rope_factor; /* llama3's scaling over 8192 positions; 0: none */
	int64_t bos, eos;   /* -1: none */
	int tied;           /* 1, 0; -1: not said */
};
/* NULL when there is none of this name. */
const struct init_shape *init_preset(const char *name);
/* Fields of *s that are not said are taken from the preset (NULL: "tiny" of the
 * family), then from one another. Shapes that cannot be are LP_USAGE. */
int init_shape_complete(struct init_shape *s, const struct init_shape *preset, struct err *e) LP_MUST_USE;
/* config.json as transformers 4 and 5 read it. */
void init_config_json(const struct init_shape *s, enum dtype t, double init_std, struct sb *out);

/* Every tensor of the model in file order, described; in a. */
struct tensor *init_tensors(const struct model_desc *m, enum dtype t, struct arena *a, size_t *n);
/* Elements [first, first + n) of the tensor, in its dtype: ones for a norm,
 * else normal(0, std) rounded once. */
void init_fill(const struct tensor *t, uint64_t seed, double std, uint64_t first, size_t n, void *dst);
/* All of it into the sink, which is begun and not committed. */
int init_write(const struct tensor *t, size_t n, uint64_t seed, double std, struct model_sink *k, struct err *e) LP_MUST_USE;

#endif
