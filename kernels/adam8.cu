/* A thread block is a block of states. */
#include "kernels/adam.cuh"

extern "C" {
#include "kernels/dynmap.h"
}

static __device__ float map_signed[256], map_unsigned[256];

int adam8_open(struct device *d, struct err *e)
{
	(void)e;
	if (cudaMemcpyToSymbol(map_signed, dynmap_signed, sizeof(map_signed)) != cudaSuccess ||
	    cudaMemcpyToSymbol(map_unsigned, dynmap_unsigned, sizeof(map_unsigned)) != cudaSuccess)
		cuda_note(d, cudaGetLastError(), "the tables of 8-bit states");
	return 0;
}

/* dynmap_code: snapped to the grid of 65,536 points, then the nearest entry. */
static __device__ __forceinline__ uint8_t code_of(const float *map, float v)
{
	int step, lo = 0, hi = 255;
	float left, right;

	v = v < -1.0f ? -1.0f : v > 1.0f ? 1.0f : v;
	step = (int)__fmaf_rn(__fmul_rn(__fadd_rn(v, 1.0f), 0.5f), 65535.0f, 0.5f);
	v = (float)(step / 65535.0 * 2.0 - 1.0);
	while (hi - lo > 1) {
		int mid = (lo + hi) / 2;

		if (map[mid] <= v)
			lo = mid;
		else
			hi = mid;
	}
	left = fabsf(v - map[lo]);
	right = fabsf(map[lo + 1] - v);
	return (uint8_t)(right < left ? lo + 1 : lo);
}

static __device__ __forceinline__ void store(float x, bool in, const float *map, uint8_t *codes, float *max, float *shared)
{
	float m = block_max(in ? fabsf(x) : 0, shared);

	if (threadIdx.x == 0)
		*max = m;
	if (in)
		codes[threadIdx.x] = m > 0 ? code_of(map, __fmul_rn(x, __fdiv_rn(1.0f, m))) : 0;
}

static __global__ void __launch_bounds__(ADAM_THREADS) adam8_kernel(float *p, const float *g, uint8_t *m8, uint8_t *v8, float *m_max, float *v_max,
                                                                    int64_t n, const struct adam_coef c)
{
	__shared__ float ms[256], vs[256], shared[33];
	int64_t first = (int64_t)blockIdx.x * ADAM_THREADS, i = first + threadIdx.x;
	bool in = i < n;
	float scale, gi, m = 0, v = 0;

	ms[threadIdx.x] = map_signed[threadIdx.x];
	vs[threadIdx.x] = map_unsigned[threadIdx.x];
	__syncthreads();
	if (!adam_scale(c, &scale)) /* the same for all threads */
		return;
	if (in) {
		gi = __fmul_rn(g[i], scale);
		m = __fadd_rn(__fmul_rn(__fmul_rn(ms[m8[i]], m_max[blockIdx.x]), c.b1), __fmul_rn(c.b1c, gi));
		v = __fadd_rn(__fmul_rn(__fmul_rn(vs[v8[i]], v_max[blockIdx.x]), c.b2), __fmul_rn(__fmul_rn(c.b2c, gi), gi));
		p[i] = adam_update(p[i], m, v, c);
	}
	store(m, in, ms, m8 + first, &m_max[blockIdx.x], shared);
	store(v, in, vs, v8 + first, &v_max[blockIdx.x], shared);
}

void kn_adam8_cuda(struct device *d, float *p, const float *g, uint8_t *m8, uint8_t *v8, float *m_max, float *v_max, int64_t n,
                   const struct kn_adam *a)
{
	adam8_kernel<<<(unsigned)((n + ADAM_THREADS - 1) / ADAM_THREADS), ADAM_THREADS, 0, cuda_of(d)->stream>>>(p, g, m8, v8, m_max, v_max, n, adam_coef_of(a));
	cuda_launched(d, "adam8");
}
