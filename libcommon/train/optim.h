/* The optimiser's states over an adapter's flat parameters: AdamW in fp32, or
 * with 8-bit states where bitsandbytes keeps them so (kernels/adam8.h). */
#ifndef LP_TRAIN_OPTIM_H
#define LP_TRAIN_OPTIM_H

#include "base/layout.h"
#include "kernels/device.h"
#include "train/lora.h"

enum optim_kind { OPTIM_ADAMW, OPTIM_ADAMW8 };

struct optim {
	enum optim_kind kind;
	double beta1, beta2, eps, weight_decay;
	int64_t step;        /* taken so far */
	float *m, *v;        /* fp32 states of the tensors that have them */
	uint8_t *m8, *v8;    /* 8-bit codes of the others */
	float *m_max, *v_max; /* their blocks' scales */
	struct kn_adam_seg *segs, *segs_dev; /* (n_segs), host and device: the adapter's tensors */
	int64_t n_segs, n_blocks;
};

int optim_parse(const char *name, enum optim_kind *k, struct err *e) LP_MUST_USE;
/* Elements of m and v, of m8 and v8, of m_max and v_max. */
void optim_sizes(const struct optim *o, const struct lora *l, int64_t *n32, int64_t *n8, int64_t *n_blocks);
void optim_layout(struct optim *o, const struct lora *l, struct layout *to);
/* After the memory is there: tells the device which tensor is where. */
void optim_start(struct optim *o, const struct lora *l, struct device *d);
void optim_release(struct optim *o);
/* What a step looks at, in device memory: the sum of losses, that of the gradients' squares as they are, and whether a step before it
 * was refused (kernels/adamw.h). */
struct optim_sums {
	const double *loss, *squares;
	int32_t *refused;
};
/* One step with gradients that are loss_scale times too large (1: not). Divided by it they are scaled down to a norm of max_norm
 * (0: never), and when a sum is not finite nothing changes but the step's number. sums NULL: no clipping, and no such look. */
void optim_step(struct optim *o, struct lora *l, struct device *d, double lr, double loss_scale, const struct optim_sums *sums, double max_norm);

#endif
