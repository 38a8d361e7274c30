/* AdamW with decoupled weight decay, fp32 (Loshchilov & Hutter 2019), one tensor
 * of n elements, in torch.optim.AdamW's order of operations:
 *   g' = g * grad_scale * clip;  p *= 1 - lr wd;  m += (g' - m)(1 - b1);  v = b2 v + (1 - b2) g'^2
 *   p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
 * clip = min(1, max_norm / (grad_scale sqrt(*squares) + 1e-6)) with max_norm > 0, as torch's
 * clip_grad_norm_ has it; nothing changes when *squares or *loss is not finite. squares NULL: clip 1. Such a step
 * sets *refused, and while that is set nothing changes: steps that were queued behind it change nothing either.
 * Error: a few roundings per element; 1e-6 relative on m, v and on the update. */
#ifndef LP_KERNELS_ADAMW_H
#define LP_KERNELS_ADAMW_H

#include <stdbool.h>
#include <stdint.h>

struct kn_adam {
	double lr, beta1, beta2, eps, weight_decay;
	int64_t step;     /* from 1 */
	float grad_scale; /* gradients come multiplied by its inverse (train/scaler.h) */
	const double *squares; /* device memory: sum of all gradients squared, as they come, or NULL */
	double max_norm;       /* 0: no clipping */
	const double *loss;    /* device memory, or NULL */
	int32_t *refused;      /* device memory, or NULL */
};
struct device;
void kn_adamw_cpu(struct device *d, float *p, const float *g, float *m, float *v, int64_t n, const struct kn_adam *a);

/* The scale of the gradients; false: no update, they are not finite. CPU kernels only. */
bool kn_adam_scale(const struct kn_adam *a, float *scale);

#endif
