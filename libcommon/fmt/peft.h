/* PEFT LoRA adapters: adapter_config.json and adapter_model.safetensors
 * (base_model.model.PATH.lora_A.weight (r, in), lora_B.weight (out, r), of DoRA
 * lora_magnitude_vector (out)). */
#ifndef LP_FMT_PEFT_H
#define LP_FMT_PEFT_H

#include "fmt/st.h"

struct peft_module {
	const char *path;       /* "model.layers.0.self_attn.q_proj" */
	const struct tensor *a; /* (r, in) */
	const struct tensor *b; /* (out, r) */
	double scale;           /* alpha / r, or alpha / sqrt(r) */
	int64_t r;
	const struct tensor *m; /* magnitudes (out) with use_dora, else NULL */
};
struct peft {
	struct st_file file;
	struct json config;      /* adapter_config.json */
	struct arena arena;
	struct peft_module *modules; /* sorted by path */
	size_t n_modules;
	const struct tensor **copies; /* PATH.base_layer.weight: the base's own head, which PEFT saves along */
	size_t n_copies;
	const struct tensor *score; /* (1, hidden): a reward model's head (task_type SEQ_CLS, modules_to_save score), or NULL */
	int64_t r;
	double alpha;
	bool rslora, dora;
	const char *base_name;   /* base_model_name_or_path, may be "" */
	const char *base_id;     /* our base identity ("sha256:..."), NULL in a foreign adapter */
	const char *lineage;     /* JSON, NULL in a foreign adapter */
	const char *codes;       /* of a base in 4 bits: JSON, the digest of each projection's codes (model/codes.h); or NULL */
	const char *hash;        /* "sha256:..." of adapter_model.safetensors, or "xxh3:..." of a stream */
	struct tensor *owned;    /* of a stream: its tensors, data from malloc */
	size_t n_owned;
};
int peft_load(struct peft *p, const char *dir, struct err *e) LP_MUST_USE;
/* The same from an adapter stream; closes in. */
int peft_load_stream_take(struct peft *p, struct in *in, struct err *e) LP_MUST_USE;
/* "-" or a file: a stream; a directory. */
int peft_open(struct peft *p, const char *path, struct err *e) LP_MUST_USE;
const struct peft_module *peft_find(const struct peft *p, const char *path);
/* The adapter's copy of the base's tensor "PATH.weight", or NULL. */
const struct tensor *peft_base_copy(const struct peft *p, const char *weight_name);
void peft_release(struct peft *p);

/* What the trainer writes; every key that PEFT 0.21 reads is there. */
struct peft_write {
	const char *base_name, *base_id; /* base_id may be NULL */
	int64_t r;
	double alpha, dropout;
	bool rslora, dora;
	bool score;                 /* a reward model: one of the tensors is its head, base_model.model.score.weight */
	const char *const *targets; /* "q_proj", ..., or whole paths */
	size_t n_targets;
	const int64_t *layers;      /* that have them; NULL: all */
	size_t n_layers;
	const char *lineage;        /* JSON */
	const char *about;          /* JSON: tag, version, base and data by name and hash; or NULL */
	const char *codes;          /* JSON: a 4-bit base's digests, or NULL */
};
void peft_config_json(const struct peft_write *w, struct sb *out);
/* tensors are named as in the file. dir is an open output directory. */
int peft_save(struct outdir *d, const struct peft_write *w, const struct tensor *t, size_t n, struct err *e) LP_MUST_USE;
/* The same as a stream: an index frame, one frame a tensor, the end. o is not committed. */
int peft_save_stream(struct out *o, const struct peft_write *w, const struct tensor *t, size_t n, struct err *e) LP_MUST_USE;

#endif
