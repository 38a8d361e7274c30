#include "kernels/cuda.cuh"

#define THREADS 256

/* The right edge: a block a row. */
static __global__ void right_kernel(act_t *right, int64_t ld, const struct kn_adapters a)
{
	int64_t row = blockIdx.x, r = a.rank;

	for (int64_t c = threadIdx.x; c < a.pad; c += blockDim.x) {
		int j = (int)(c / r);
		float v = 0;

		if (j < a.n && row >= a.row[j] && row < a.row[j] + a.rows[j])
			v = a.scale * a.b[j][(row - a.row[j]) * r + c % r];
		right[row * ld + c] = act_down(v);
	}
}

/* The lower edge. */
static __global__ void __launch_bounds__(THREADS) lower_kernel(act_t *lower, int64_t ld, const struct kn_adapters a)
{
	int64_t row = blockIdx.x, c = (int64_t)blockIdx.y * THREADS + threadIdx.x;

	if (c < a.in)
		lower[row * ld + c] = act_down(row < a.n * a.rank ? a.a[row * a.in + c] : 0);
}

void kn_adapter_place_cuda(struct device *d, void *right, int64_t ld_right, void *lower, int64_t ld_lower, const struct kn_adapters *a)
{
	cudaStream_t st = cuda_of(d)->stream;

	if (a->pad == 0)
		return;
	right_kernel<<<(unsigned)a->out, 64, 0, st>>>((act_t *)right, ld_right, *a);
	lower_kernel<<<dim3((unsigned)a->pad, (unsigned)((a->in + THREADS - 1) / THREADS)), THREADS, 0, st>>>((act_t *)lower, ld_lower, *a);
	cuda_launched(d, "adapter_place");
}
