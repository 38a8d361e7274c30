/* LoRA adapters of a model: y += scale * dropout(x) A^T B^T on the chosen
 * projections. All parameters, gradients and states are flat arrays; each
 * tensor is a named slice. */
#ifndef LP_TRAIN_LORA_H
#define LP_TRAIN_LORA_H

#include "base/layout.h"
#include "fmt/peft.h"
#include "kernels/device.h"
#include "model/arch.h"

struct lora_mat { /* offsets into the flat arrays; b < 0: the projection has no adapter */
	int64_t a; /* (r, in) */
	int64_t b; /* (out, r) */
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
	int64_t rows, cols;
};
struct lora {
	int64_t rank;
	double alpha, dropout;
	bool rslora;
	bool targets[LIN_N];
	float scale;
	struct lora_mat *mats; /* (layers * LIN_N) */
	struct lora_group *groups; /* (layers * GRP_N) */
	struct lora_tensor *tensors;
	int64_t n_tensors, n_params;
	int64_t *by_matrix; /* (n_tensors): numbers of all A's tensors, then of all B's, n_tensors / 2 each */
	float *params, *grads; /* device, n_params each; grads NULL when only run */
};

/* "all" or names separated by commas; a name that no projection has is LP_USAGE. */
int lora_targets(const char *text, bool targets[LIN_N], struct err *e) LP_MUST_USE;
/* rank, alpha, dropout, rslora and targets are set by the caller before. */
void lora_init(struct lora *l, const struct model_desc *m);
void lora_release(struct lora *l);
/* What a group's adapters add to the rows of its input and output on d: a multiple of its row_pad. */
int64_t lora_pad(const struct lora *l, const struct device *d, enum linear_group g);
/* And what they add where projections have 8 bits (fp8_tail). */
int64_t lora_tail(const struct lora *l, enum linear_group g);
void lora_layout(struct lora *l, struct layout *to, bool train);
/* PEFT's start: A uniform in +-1/sqrt(in) (Kaiming, a = sqrt 5), B zero; A's
 * values depend on seed and the tensor's name alone. */
void lora_start(struct lora *l, struct device *d, uint64_t seed);
/* Shape of an adapter on disk, then its values; LP_DATA when it does not fit the model. */
int lora_from_peft(struct lora *l, const struct model_desc *m, const struct peft *p, struct err *e) LP_MUST_USE;
void lora_load(struct lora *l, struct device *d, const struct peft *p);
/* Host copies of all tensors in PEFT's naming (base_model.model.*), data into host (n_params). */
void lora_tensors(const struct lora *l, struct device *d, float *host, struct tensor *out, struct arena *names);

#endif
