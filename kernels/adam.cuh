/* What both AdamW kernels share: coefficients, the gradient's scale, the update. The order of
 * operations is the CPU's, each rounded once. */
#ifndef LP_KERNELS_ADAM_CUH
#define LP_KERNELS_ADAM_CUH

#include <math.h>

#include "kernels/cuda.cuh"

enum { ADAM_THREADS = ADAM8_BLOCK };

struct adam_coef {
	float decay, b1, b1c, b2, b2c, step, root2, eps, grad_scale;
	const double *squares;
	double max_norm;
};

static inline struct adam_coef adam_coef_of(const struct kn_adam *a)
{
	double bias1 = 1 - pow(a->beta1, (double)a->step), bias2 = 1 - pow(a->beta2, (double)a->step);
	struct adam_coef c = { (float)(1 - a->lr * a->weight_decay), (float)a->beta1, (float)(1 - a->beta1), (float)a->beta2, (float)(1 - a->beta2),
		               (float)(a->lr / bias1), (float)sqrt(bias2), (float)a->eps, a->grad_scale, a->squares, a->max_norm };

	return c;
}

/* False: the gradients are not finite, nothing is to change. */
static __device__ __forceinline__ bool adam_scale(const struct adam_coef &c, float *scale)
{
	double clip = 1;

	*scale = c.grad_scale;
	if (!c.squares)
		return true;
	if (c.max_norm > 0)
		clip = fmin(1.0, c.max_norm / (sqrt(*c.squares) + 1e-6));
	*scale *= (float)clip;
	return isfinite(*c.squares);
}

static __device__ __forceinline__ float adam_update(float p, float m, float v, const struct adam_coef &c)
{
	float u = __fdiv_rn(m, __fadd_rn(__fdiv_rn(__fsqrt_rn(v), c.root2), c.eps));

	return __fadd_rn(__fmul_rn(p, c.decay), -__fmul_rn(c.step, u));
}

#endif
