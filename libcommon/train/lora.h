/* LoRA adapters of a model: y += scale * dropout(x) A^T B^T on the chosen
 * projections, or, as DoRA, with a magnitude for each of their outputs (kernels/dora.h). All parameters, gradients and states are flat arrays; each
 * tensor is a named slice. Layers are of one shape: where a projection has an adapter in
 * others alone, its A and B are 0. Then so are their gradients, and they stay 0; they are not
 * written. */
#ifndef LP_TRAIN_LORA_H
#define LP_TRAIN_LORA_H

#include "base/layout.h"
#include "fmt/peft.h"
#include "kernels/device.h"
#include "model/arch.h"

struct lora_mat { /* offsets into the flat arrays; b < 0: the projection has no adapter */
	int64_t a; /* (r, in) */
	int64_t b; /* (out, r) */
	int64_t m; /* (out) magnitudes, of DoRA alone */
	uint32_t id; /* number of the projection: layer * LIN_N + slot, for the dropout key */
};
struct lora_group { /* the adapters of projections that read the same input */
	int n;
	enum linear_slot slot[KN_PARTS];
	int64_t a; /* (n * r, in): the A of all, end to end */
};
struct lora_tensor {
	char name[ARCH_NAME]; /* "model.layers.0.self_attn.q_proj.lora_A.weight" */
	int64_t offset, n;
	bool on; /* else: zeros */
	int64_t rows, cols;
};
struct lora {
	int64_t rank;
	double alpha, dropout;
	bool rslora, dora;
	bool has_score;      /* a reward model's head is one of the tensors, the last (lora_add_score) */
	int64_t score;       /* its offset: (hidden) */
	bool targets[LIN_N]; /* projections that have an adapter in some layer */
	bool *on;            /* (layers * LIN_N): those that have one; NULL before lora_init: in all layers */
	float scale;
	struct lora_mat *mats; /* (layers * LIN_N) */
	struct lora_group *groups; /* (layers * GRP_N) */
	struct lora_tensor *tensors;
	int64_t n_tensors, n_params; /* with those of zeros */
	int64_t n_trained;           /* parameters that are not */
	int64_t n_a;                 /* tensors that are an A, or the score, which learns at A's rate as in PEFT */
	int64_t *by_matrix; /* (n_tensors): numbers of all A's tensors, then of all others, which LoRA+ has learn at B's rate */
	float *params, *grads; /* device, n_params each; grads NULL when only run */
};

/* "all" or names separated by commas; a name that no projection has is LP_USAGE. */
int lora_targets(const char *text, bool targets[LIN_N], struct err *e) LP_MUST_USE;
/* The same for a model's layers, into l->targets and l->on, as PEFT reads target_modules and layers_to_transform. text: as above, or a regular
 * expression over whole paths ("model.layers.0.self_attn.q_proj"): it has characters that names have not. layers: "0-3,8", with names
 * alone; or NULL, all. LP_USAGE when nothing is chosen, or a layer is not there. */
int lora_choose(struct lora *l, const struct model_desc *m, const char *text, const char *layers, struct err *e) LP_MUST_USE;
/* rank, alpha, dropout, rslora, dora and targets (and on) are set by the caller before. */
void lora_init(struct lora *l, const struct model_desc *m);
/* After lora_init or lora_from_peft. */
void lora_add_score(struct lora *l, const struct model_desc *m);
void lora_release(struct lora *l);
/* How PEFT finds the projections again: names, and the layers that have them, or NULL when all do. Where they differ from layer to layer:
 * whole paths. Into a, as long as that. */
struct lora_where {
	const char **targets;
	size_t n_targets;
	int64_t *layers;
	size_t n_layers;
};
void lora_where(const struct lora *l, const struct model_desc *m, struct arena *a, struct lora_where *w);
/* What a group's adapters add to the rows of its input and output on d: a multiple of its row_pad. */
int64_t lora_pad(const struct lora *l, const struct device *d, enum linear_group g);
/* And what they add where projections have 8 bits (fp8_tail). */
int64_t lora_tail(const struct lora *l, enum linear_group g);
void lora_layout(struct lora *l, struct layout *to, bool train);
/* PEFT's start: A uniform in +-1/sqrt(in) (Kaiming, a = sqrt 5), B zero; A's
 * values depend on seed and the tensor's name alone. Magnitudes are the weights' own (engine_start_magnitudes). */
void lora_start(struct lora *l, struct device *d, uint64_t seed);
/* The score alone, as A. */
void lora_start_score(struct lora *l, struct device *d, uint64_t seed);
/* Shape of an adapter on disk, then its values; LP_DATA when it does not fit the model. */
int lora_from_peft(struct lora *l, const struct model_desc *m, const struct peft *p, struct err *e) LP_MUST_USE;
void lora_load(struct lora *l, struct device *d, const struct peft *p);
/* Host copies of all tensors but zeros in PEFT's naming (base_model.model.*), data into host (n_params). Returns how many. */
size_t lora_tensors(const struct lora *l, struct device *d, float *host, struct tensor *out, struct arena *names);

#endif
