/* AdamW over all segments in one launch: a thread block is a block of 256 elements. The order of
 * operations is the CPU's, each rounded once. */
#include "kernels/cuda.cuh"

#include <math.h>

#include "kernels/dynmap.cuh"

#define THREADS ADAM8_BLOCK

static __device__ float map_signed[256], map_unsigned[256];

int adam_open(struct device *d, struct err *e)
{
	(void)e;
	if (cudaMemcpyToSymbol(map_signed, dynmap_signed, sizeof(map_signed)) != cudaSuccess ||
	    cudaMemcpyToSymbol(map_unsigned, dynmap_unsigned, sizeof(map_unsigned)) != cudaSuccess)
		cuda_note(d, cudaGetLastError(), "the tables of 8-bit states");
	return 0;
}

struct coef {
	float decay, b1, b1c, b2, b2c, step, root2, eps, grad_scale;
	const double *squares;
	double max_norm;
	const double *loss;
	int32_t *refused;
};

static struct coef coef_of(const struct kn_adam *a)
{
	double bias1 = 1 - pow(a->beta1, (double)a->step), bias2 = 1 - pow(a->beta2, (double)a->step);
	struct coef c = { (float)(1 - a->lr * a->weight_decay), (float)a->beta1, (float)(1 - a->beta1), (float)a->beta2, (float)(1 - a->beta2),
		          (float)(a->lr / bias1), (float)sqrt(bias2), (float)a->eps, a->grad_scale, a->squares, a->max_norm, a->loss, a->refused };

	return c;
}

/* False: loss or gradients are not finite, or those of a step before were not; nothing is to change. Where one thread says so to the
 * steps behind, all threads of this launch have found it, and none needs to be told. */
static __device__ __forceinline__ bool grad_scale(const struct coef &c, float *scale)
{
	double clip = 1;
	bool good;

	*scale = c.grad_scale;
	if (!c.squares)
		return true;
	if (c.max_norm > 0)
		clip = fmin(1.0, c.max_norm / (sqrt(*c.squares) * (double)c.grad_scale + 1e-6));
	*scale *= (float)clip;
	good = isfinite(*c.squares) && (!c.loss || isfinite(*c.loss));
	if (!good && c.refused && blockIdx.x == 0 && threadIdx.x == 0)
		*c.refused = 1;
	return good && !(c.refused && *(volatile int32_t *)c.refused);
}

static __device__ __forceinline__ float update(float p, float m, float v, const struct coef &c)
{
	float u = __fdiv_rn(m, __fadd_rn(__fdiv_rn(__fsqrt_rn(v), c.root2), c.eps));

	return __fadd_rn(__fmul_rn(p, c.decay), -__fmul_rn(c.step, u));
}

static __device__ __forceinline__ void store(float x, bool in, const float *map, uint8_t *code, float *max, float *shared)
{
	float m = block_max(in ? fabsf(x) : 0, shared);

	if (threadIdx.x == 0)
		*max = m;
	if (in)
		*code = m > 0 ? dynmap_code_of(map, __fmul_rn(x, __fdiv_rn(1.0f, m))) : 0;
}

/* The segment that a block of elements belongs to. */
static __device__ __forceinline__ struct kn_adam_seg find(const struct kn_adam_seg *segs, int n, int64_t block)
{
	int lo = 0, hi = n;

	while (hi - lo > 1) {
		int mid = (lo + hi) / 2;

		if (segs[mid].block <= block)
			lo = mid;
		else
			hi = mid;
	}
	return segs[lo];
}

/* A parameter, fp32 or of two halves. */
static __device__ __forceinline__ float get(const struct kn_adam_seg &s, const struct kn_adam_arrays &x, int64_t i)
{
	if (s.rest < 0)
		return ((const float *)s.p)[i];
	return __uint_as_float(((uint32_t)((const uint16_t *)s.p)[i] << 16) + (uint32_t)(int32_t)x.rest[s.rest + i]);
}

static __device__ __forceinline__ void put(const struct kn_adam_seg &s, const struct kn_adam_arrays &x, int64_t i, float p)
{
	uint32_t u = __float_as_uint(p);

	if (s.rest < 0) {
		((float *)s.p)[i] = p;
		return;
	}
	((uint16_t *)s.p)[i] = (uint16_t)((u + 0x8000u) >> 16);
	x.rest[s.rest + i] = (int16_t)(uint16_t)u;
}

static __global__ void __launch_bounds__(THREADS) adam_kernel(const struct kn_adam_seg *segs, int n_segs, const struct kn_adam_arrays x, const struct coef c)
{
	__shared__ float ms[256], vs[256], shared[33];
	struct kn_adam_seg s = find(segs, n_segs, blockIdx.x);
	int64_t b = blockIdx.x - s.block, i = b * THREADS + threadIdx.x;
	bool in = i < s.n;
	float scale, g = 0, m = 0, v = 0, p = 0;

	if (!grad_scale(c, &scale)) /* the same for all threads */
		return;
	if (in) {
		g = __fmul_rn(s.g_act ? act_up(((const act_t *)s.g)[i]) : ((const float *)s.g)[i], scale);
		p = get(s, x, i);
	}
	if (!s.eight) {
		if (!in)
			return;
		m = x.m[s.state + i];
		m = __fadd_rn(m, __fmul_rn(__fadd_rn(g, -m), c.b1c));
		v = __fadd_rn(__fmul_rn(x.v[s.state + i], c.b2), __fmul_rn(__fmul_rn(g, g), c.b2c));
		x.m[s.state + i] = m;
		x.v[s.state + i] = v;
		put(s, x, i, update(p, m, v, c));
		return;
	}
	ms[threadIdx.x] = map_signed[threadIdx.x];
	vs[threadIdx.x] = map_unsigned[threadIdx.x];
	__syncthreads();
	if (in) {
		m = __fadd_rn(__fmul_rn(__fmul_rn(ms[x.m8[s.state + i]], x.m_max[s.scale + b]), c.b1), __fmul_rn(c.b1c, g));
		v = __fadd_rn(__fmul_rn(__fmul_rn(vs[x.v8[s.state + i]], x.v_max[s.scale + b]), c.b2), __fmul_rn(__fmul_rn(c.b2c, g), g));
		put(s, x, i, update(p, m, v, c));
	}
	store(m, in, ms, x.m8 + s.state + i, &x.m_max[s.scale + b], shared);
	store(v, in, vs, x.v8 + s.state + i, &x.v_max[s.scale + b], shared);
}

void kn_adam_cuda(struct device *d, const struct kn_adam_seg *segs, const struct kn_adam_seg *segs_dev, int64_t n_segs, int64_t blocks,
                  const struct kn_adam_arrays *x, const struct kn_adam *a)
{
	(void)segs;
	if (blocks)
		adam_kernel<<<(unsigned)blocks, THREADS, 0, cuda_of(d)->stream>>>(segs_dev, (int)n_segs, *x, coef_of(a));
	cuda_launched(d, "adam");
}
