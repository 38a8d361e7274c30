/* A block a row: maximum and sum in one pass, the gradient in a second one, which
 * finds the row still in the cache. Each thread's part and the order of folding are
 * fixed by the width alone. */
#include "kernels/cuda.cuh"

#define THREADS 1024

struct part { /* sum of e^(z - max) over what was seen */
	float max, sum;
};

static __device__ __forceinline__ void take(struct part *p, float z)
{
	float m = fmaxf(p->max, z);

	/* NaN: fmaxf passes over it, the sum does not */
	p->sum = p->sum * __expf(p->max - m) + __expf(z - m);
	p->max = m;
}

static __device__ __forceinline__ void take8(struct part *p, const f8 &z)
{
	float m = p->max, s = 0;

#pragma unroll
	for (int l = 0; l < 8; l++)
		m = fmaxf(m, z.v[l]);
#pragma unroll
	for (int l = 0; l < 8; l++)
		s += __expf(z.v[l] - m);
	p->sum = p->sum * __expf(p->max - m) + s;
	p->max = m;
}

template <bool EIGHTS>
static __global__ void __launch_bounds__(THREADS) xent_kernel(act_t *z, const int32_t *target, double *loss, int64_t v, const float *scale_at, bool grad)
{
	__shared__ float shared[33];
	int64_t row = blockIdx.x, wide = EIGHTS ? v / 8 : 0;
	act_t *p = z + row * v;
	struct part mine = { -1e30f, 0 };
	float max, sum, at_target, scale, inv;

	at_target = act_up(p[target[row]]);
	for (int64_t i = threadIdx.x; i < wide; i += THREADS)
		take8(&mine, load8(p + 8 * i));
	for (int64_t i = 8 * wide + threadIdx.x; i < v; i += THREADS)
		take(&mine, act_up(p[i]));
	max = block_max(mine.max, shared);
	sum = block_sum(mine.sum * __expf(mine.max - max), shared);
	if (threadIdx.x == 0)
		loss[row] = log((double)sum) + ((double)max - (double)at_target);
	if (!grad)
		return;
	scale = *scale_at;
	inv = scale / sum;
	for (int64_t i = threadIdx.x; i < wide; i += THREADS) {
		f8 x = load8(p + 8 * i);
		int64_t t = target[row] - 8 * i;

#pragma unroll
		for (int l = 0; l < 8; l++)
			x.v[l] = __expf(x.v[l] - max) * inv - (t == l ? scale : 0);
		store8(p + 8 * i, x);
	}
	for (int64_t i = 8 * wide + threadIdx.x; i < v; i += THREADS)
		p[i] = act_down(__expf(act_up(p[i]) - max) * inv - (i == target[row] ? scale : 0));
}

void kn_xent_cuda(struct device *d, void *z, const int32_t *target, double *loss, int64_t n, int64_t v, const float *scale, bool grad)
{
	cudaStream_t st = cuda_of(d)->stream;

	if (n == 0)
		return;
	if (eights(z, v))
		xent_kernel<true><<<(unsigned)n, THREADS, 0, st>>>((act_t *)z, target, loss, v, scale, grad);
	else
		xent_kernel<false><<<(unsigned)n, THREADS, 0, st>>>((act_t *)z, target, loss, v, scale, grad);
	cuda_launched(d, "xent");
}
