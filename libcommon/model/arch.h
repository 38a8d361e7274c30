/* A model is a table: an architecture maps config.json onto this description,
 * and forward, backward and the plan read nothing else. Adding a family: write
 * arch_NAME.c with one struct arch, list it in arch.c, add its oracle. */
#ifndef LP_MODEL_ARCH_H
#define LP_MODEL_ARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "fmt/dtype.h"
#include "json/json.h"

/* The seven projections of a decoder layer, in the order of their use. */
enum linear_slot { LIN_Q, LIN_K, LIN_V, LIN_O, LIN_GATE, LIN_UP, LIN_DOWN, LIN_N };

/* Projections that read the same input, and are computed as one. */
enum linear_group { GRP_QKV, GRP_O, GRP_GU, GRP_DOWN, GRP_N };
static inline enum linear_group group_of(enum linear_slot s)
{
	return s <= LIN_V ? GRP_QKV : s == LIN_O ? GRP_O : s <= LIN_UP ? GRP_GU : GRP_DOWN;
}
static inline enum linear_slot group_first(enum linear_group g)
{
	return g == GRP_QKV ? LIN_Q : g == GRP_O ? LIN_O : g == GRP_GU ? LIN_GATE : LIN_DOWN;
}
static inline int group_size(enum linear_group g)
{
	return g == GRP_QKV ? 3 : g == GRP_GU ? 2 : 1;
}

enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 };

/* A checkpoint that is in bitsandbytes' 4-bit form already (bnb.h). */
#define BNB_LAYERS 1024
struct model_bnb {
	bool on;
	bool plain;               /* its scales are in fp32, not quantised themselves */
	uint8_t kept[BNB_LAYERS]; /* of each layer: a bit for each projection that was left in 16 or 32 bits */
};
static inline bool bnb_quantised(const struct model_bnb *b, int64_t layer, enum linear_slot s)
{
	return b->on && !(b->kept[layer] >> s & 1);
}

struct model_desc {
	const char *family;   /* "llama" */
	int64_t layers, hidden, heads, kv_heads, head_dim, ffn, vocab, max_pos;
	double rms_eps;
	bool bias[LIN_N];     /* which projections have one */
	bool tied;            /* the head is the embedding table */
	int64_t window;       /* sliding window in tokens, 0: none */
	int64_t window_first; /* first layer that has it */
	enum rope_kind rope;
	double rope_theta, rope_factor, rope_low, rope_high;
	int64_t rope_original; /* llama3: original_max_position_embeddings */
	enum dtype dtype;     /* config's torch_dtype */
	int32_t bos, eos[8];  /* config's; -1 none */
	int n_eos;
	struct model_bnb bnb;
};

struct arch {
	const char *model_type;   /* config.json's */
	const char *architecture; /* "LlamaForCausalLM" */
	/* Fills what is particular to the family; keys that it knows beside the
	 * shared ones are in keys. */
	const char *const *keys;
	int (*read)(const struct json *config, struct model_desc *m, struct err *e);
};
extern const struct arch arch_llama, arch_qwen2, arch_mistral;

/* config.json to a description; path names it in errors. An architecture,
 * feature or key that we do not know is LP_DATA and named, never ignored. A 4-bit
 * checkpoint is read; who needs the full weights asks m->bnb.on. */
int model_desc_read(const struct json *config, const char *path, struct model_desc *m, struct err *e) LP_MUST_USE;
int model_desc_load(const char *dir, struct model_desc *m, struct err *e) LP_MUST_USE;

/* "q_proj"; its place in PEFT and HF names: "self_attn.q_proj". */
const char *linear_name(enum linear_slot s);
const char *linear_path(enum linear_slot s);
int64_t linear_in(const struct model_desc *m, enum linear_slot s);
int64_t linear_out(const struct model_desc *m, enum linear_slot s);
int64_t group_in(const struct model_desc *m, enum linear_group g);
int64_t group_out(const struct model_desc *m, enum linear_group g);
/* HF tensor names; buf of ARCH_NAME bytes. kind: "weight" or "bias". */
#define ARCH_NAME 96
void arch_linear_name(char *buf, int64_t layer, enum linear_slot s, const char *kind);
void arch_norm_name(char *buf, int64_t layer, bool second); /* layer -1: the final norm */
extern const char arch_embed_name[], arch_head_name[];

/* Parameters of the whole model (tied weights once). */
int64_t model_params(const struct model_desc *m);
int64_t model_window(const struct model_desc *m, int64_t layer);
/* Inverse frequencies (head_dim / 2), as transformers computes them in fp32. */
void model_inv_freq(const struct model_desc *m, float *inv_freq);

/* Helpers for arch_*.c: positive integers with LP_DATA errors that name the key. */
int arch_int(const struct json *config, const char *key, int64_t dflt, int64_t min, int64_t max, int64_t *out, struct err *e) LP_MUST_USE;
int arch_bool(const struct json *config, const char *key, bool dflt, bool *out, struct err *e) LP_MUST_USE;

#endif
