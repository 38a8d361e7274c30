/* AdamW with decoupled weight decay, fp32 (Loshchilov & Hutter 2019), one tensor
 * of n elements, in torch.optim.AdamW's order of operations:
 *   g' = g * grad_scale;  p *= 1 - lr wd;  m += (g' - m)(1 - b1);  v = b2 v + (1 - b2) g'^2
 *   p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
 * Error: a few roundings per element; 1e-6 relative on m, v and on the update. */
#ifndef LP_KERNELS_ADAMW_H
#define LP_KERNELS_ADAMW_H

#include <stdint.h>

struct kn_adam {
	double lr, beta1, beta2, eps, weight_decay;
	int64_t step;     /* from 1 */
	float grad_scale; /* clipping and loss scale together */
};
struct device;
typedef void kn_adamw_fn(struct device *d, float *p, const float *g, float *m, float *v, int64_t n, const struct kn_adam *a);
kn_adamw_fn kn_adamw_cpu;

#endif
