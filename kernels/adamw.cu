#include "kernels/adam.cuh"

static __global__ void __launch_bounds__(ADAM_THREADS) adamw_kernel(float *p, const float *g, float *m, float *v, int64_t n, const struct adam_coef c)
{
	int64_t i = (int64_t)blockIdx.x * ADAM_THREADS + threadIdx.x;
	float scale, gi, mi, vi;

	if (i >= n || !adam_scale(c, &scale))
		return;
	gi = __fmul_rn(g[i], scale);
	mi = __fadd_rn(m[i], __fmul_rn(gi - m[i], c.b1c));
	vi = __fadd_rn(__fmul_rn(v[i], c.b2), __fmul_rn(__fmul_rn(gi, gi), c.b2c));
	m[i] = mi;
	v[i] = vi;
	p[i] = adam_update(p[i], mi, vi, c);
}

void kn_adamw_cuda(struct device *d, float *p, const float *g, float *m, float *v, int64_t n, const struct kn_adam *a)
{
	adamw_kernel<<<(unsigned)((n + ADAM_THREADS - 1) / ADAM_THREADS), ADAM_THREADS, 0, cuda_of(d)->stream>>>(p, g, m, v, n, adam_coef_of(a));
	cuda_launched(d, "adamw");
}
