#include "kernels/cuda.cuh"

#define THREADS 256

/* Elements [c, c + 8) of row `row` of the right edge. */
static __device__ __forceinline__ f8 right8(const struct kn_adapters &a, int row, int c)
{
	f8 v;

#pragma unroll
	for (int i = 0; i < 8; i++) {
		int j = (c + i) / (int)a.rank;

		v.v[i] = j < a.n && row >= a.row[j] && row < a.row[j] + a.rows[j] ? a.scale * a.b[j][(row - a.row[j]) * a.rank + (c + i) % (int)a.rank] : 0;
	}
	return v;
}

/* The same of the lower one. */
static __device__ __forceinline__ f8 lower8(const struct kn_adapters &a, int row, int64_t c)
{
	f8 v;

#pragma unroll
	for (int i = 0; i < 8; i++)
		v.v[i] = row < a.n * a.rank ? a.a[row * a.in + c + i] : 0;
	return v;
}

/* Both edges, eight elements a thread: first all of the right one, in blocks of its own. */
static __global__ void __launch_bounds__(THREADS) place_eights(act_t *right, int64_t ld_right, act_t *lower, int64_t ld_lower, const __grid_constant__ struct kn_adapters a,
                                                              int right_blocks)
{
	int64_t i = ((int64_t)blockIdx.x - ((int)blockIdx.x < right_blocks ? 0 : right_blocks)) * THREADS + threadIdx.x;
	int64_t width = ((int)blockIdx.x < right_blocks ? a.pad : a.in) / 8, row = i / width, c = i % width * 8;

	if ((int)blockIdx.x < right_blocks) {
		if (row < a.out)
			store8(right + row * ld_right + c, right8(a, (int)row, (int)c));
	} else if (row < a.pad) {
		store8(lower + row * ld_lower + c, lower8(a, (int)row, c));
	}
}

/* The right edge, any shape: a block a row. */
static __global__ void right_any(act_t *right, int64_t ld, const struct kn_adapters a)
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

static __global__ void __launch_bounds__(THREADS) lower_any(act_t *lower, int64_t ld, const struct kn_adapters a)
{
	int64_t row = blockIdx.x, c = (int64_t)blockIdx.y * THREADS + threadIdx.x;

	if (c < a.in)
		lower[row * ld + c] = act_down(row < a.n * a.rank ? a.a[row * a.in + c] : 0);
}

static unsigned blocks_of(int64_t eights)
{
	return (unsigned)((eights + THREADS - 1) / THREADS);
}

void kn_adapter_place_cuda(struct device *d, void *right, int64_t ld_right, void *lower, int64_t ld_lower, const struct kn_adapters *a)
{
	cudaStream_t st = cuda_of(d)->stream;

	if (a->pad == 0)
		return;
	if (a->pad % 8 == 0 && a->in % 8 == 0 && eights(right, ld_right) && eights(lower, ld_lower)) {
		unsigned first = blocks_of(a->out * a->pad / 8), rest = blocks_of(a->pad * a->in / 8);

		place_eights<<<first + rest, THREADS, 0, st>>>((act_t *)right, ld_right, (act_t *)lower, ld_lower, *a, (int)first);
	} else {
		right_any<<<(unsigned)a->out, 64, 0, st>>>((act_t *)right, ld_right, *a);
		lower_any<<<dim3((unsigned)a->pad, (unsigned)((a->in + THREADS - 1) / THREADS)), THREADS, 0, st>>>((act_t *)lower, ld_lower, *a);
	}
	cuda_launched(d, "adapter_place");
}
