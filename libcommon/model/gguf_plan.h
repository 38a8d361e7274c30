/* Between gguf_*.c only: what is written, decided before a weight is read. */
#ifndef LP_MODEL_GGUF_PLAN_H
#define LP_MODEL_GGUF_PLAN_H

#include "base/arena.h"
#include "fmt/gguf.h"
#include "fmt/quant.h"
#include "model/arch.h"
#include "model/source.h"

/* How llama.cpp names a family, and what it does to its weights. */
struct gguf_family {
	const char *model_type; /* config.json's */
	const char *arch;       /* general.architecture */
	bool permute;           /* rows of q and k are paired, not split in halves */
	bool rope_factors;      /* takes a tensor of rotary factors (llama3 scaling) */
};
const struct gguf_family *gguf_family(const struct model_desc *m, struct err *e) LP_MUST_USE;

/* What a tensor is to the choice of types. */
enum gguf_role { ROLE_EMBED, ROLE_OUTPUT, ROLE_ATTN_V, ROLE_FFN_DOWN, ROLE_MATRIX, ROLE_VECTOR };

struct gguf_item {
	const char *name;        /* in the GGUF */
	enum gguf_role role;
	int64_t layer;           /* -1: of the whole model */
	int64_t heads;           /* rows are to be permuted within this many heads; 0: not */
	int n_dims;
	uint64_t dims[2];        /* fastest first */
	enum quant_type type;
	bool skip;               /* read and dropped */
};

struct gguf_plan {
	struct model_desc desc;
	const struct gguf_family *family;
	const struct gguf_file_type *file_type;
	struct gguf_item *items; /* one for each tensor of the source, in its order */
	size_t n_items;
	float *rope_factors;     /* head_dim / 2 of them; NULL when there is no such tensor */
	uint64_t fallbacks;
	struct arena arena;
};

/* items from the source's list; every tensor of the model must be there, with
 * its shape, and no other. */
int gguf_plan_tensors(struct gguf_plan *p, const struct model_source *s, struct err *e) LP_MUST_USE;

struct gguf_file_type {
	const char *name;
	uint32_t number;        /* general.file_type */
	enum quant_type base;   /* of most tensors */
	bool mixed;             /* more bits for v and down in some layers ("_m") */
	bool small;             /* "_s": more bits for them in the first layers */
};
const struct gguf_file_type *gguf_file_type(const char *name); /* NULL: unknown */
/* Sets type of every item and fallbacks. */
void gguf_plan_types(struct gguf_plan *p);

void gguf_put_model(struct gguf_writer *w, const struct gguf_plan *p, const char *name);
void gguf_rope_factors(const struct model_desc *m, float *factors);
int gguf_put_tokenizer(struct gguf_writer *w, const struct model_texts *t, const struct model_desc *m, const char *pre, struct err *e) LP_MUST_USE;

/* --- the tokenizer's parts --- */
/* As SentencePiece numbers them (enum spm_type). */
enum gguf_token_type { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER, TOKEN_UNUSED, TOKEN_BYTE };
struct gguf_token {
	const char *s; /* NULL: no such token yet */
	size_t len;
	float score;
	enum gguf_token_type type;
};

/* llama.cpp's name of a byte-level pre-tokeniser. */
/* The steps of a name (gguf_pre.c says how they are written); NULL: not known. */
const char *gguf_pre_steps(const char *name, size_t n, bool *ignore_merges);
const char *gguf_pre_name(const struct json *tokenizer, struct err *e) LP_MUST_USE;

#endif
