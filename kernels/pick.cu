/* A block a row; the greatest value carries its index, and of equal ones the lower index wins. */
#include "kernels/cuda.cuh"

#define THREADS 1024

struct best {
	float z;
	int at;
	float sum; /* of e^(z - the greatest so far) */
};

static __device__ __forceinline__ bool before(float z, int at, const struct best &b)
{
	return z > b.z || (z == b.z && at < b.at);
}

static __device__ __forceinline__ struct best joined(struct best a, struct best b)
{
	struct best r = before(b.z, b.at, a) ? b : a;

	r.sum = a.sum * __expf(a.z - r.z) + b.sum * __expf(b.z - r.z);
	return r;
}

static __device__ __forceinline__ void take(struct best *b, float z, int at)
{
	if (z > b->z) {
		b->sum = b->sum * __expf(b->z - z) + 1;
		b->z = z;
		b->at = at;
	} else {
		b->sum += __expf(z - b->z); /* NaN: the sum shows it */
	}
}

static __device__ __forceinline__ struct best warp_best(struct best b)
{
#pragma unroll
	for (int o = 16; o > 0; o /= 2) {
		struct best x = { __shfl_xor_sync(0xffffffffu, b.z, o), __shfl_xor_sync(0xffffffffu, b.at, o), __shfl_xor_sync(0xffffffffu, b.sum, o) };

		/* one order for both lanes */
		b = threadIdx.x & o ? joined(x, b) : joined(b, x);
	}
	return b;
}

static __global__ void __launch_bounds__(THREADS) pick_kernel(const struct kn_pick p)
{
	__shared__ struct best shared[THREADS / 32];
	int64_t row = blockIdx.x, v = p.v;
	const act_t *z = (const act_t *)p.z + row * v;
	int wide = ((uintptr_t)z & 15) == 0 ? (int)(v / 8) : 0;
	struct best b = { -INFINITY, 0x7fffffff, 0 };

	follow_previous();
	b.z = -1e30f; /* finite: differences stay numbers; below any 16-bit number that a model means */
	for (int i = threadIdx.x; i < wide; i += THREADS) {
		f8 x = load8(z + 8 * i);

#pragma unroll
		for (int l = 0; l < 8; l++)
			take(&b, x.v[l], 8 * i + l);
	}
	for (int i = 8 * wide + threadIdx.x; i < v; i += THREADS)
		take(&b, act_up(z[i]), i);
	b = warp_best(b);
	if (threadIdx.x % 32 == 0)
		shared[threadIdx.x / 32] = b;
	__syncthreads();
	if (threadIdx.x >= 32)
		return;
	b = warp_best(shared[threadIdx.x]);
	if (threadIdx.x == 0) {
		int32_t id = b.at == 0x7fffffff ? 0 : b.at, n = p.count[row];

		if (n < p.most) {
			p.out[row * p.most + n] = id;
			p.logprob[row * p.most + n] = -log((double)b.sum);
			p.count[row] = n + 1;
		}
		p.ids[row] = id;
		p.pos[row]++;
		p.len[row]++;
	}
}

void kn_pick_cuda(struct device *d, const struct kn_pick *p)
{
	if (p->n == 0)
		return;
	launch_after(d, pick_kernel, dim3((unsigned)p->n), THREADS, 0, *p);
	cuda_launched(d, "pick");
}
