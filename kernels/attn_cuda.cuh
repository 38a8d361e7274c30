/* What the attention kernels share: types, scores, work items, and the
 * launchers that attn.cu chooses from. Internal to kernels/attn*.cu. */
#ifndef LP_KERNELS_ATTN_CUDA_CUH
#define LP_KERNELS_ATTN_CUDA_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "kernels/attn_cuda.h"

#define ATTN_LOG2E 1.4426950408889634f
#define ATTN_LN2 0.6931471805599453f

typedef __nv_bfloat16 bf16;

struct attn_ptrs {
	const void *q, *k, *v, *o, *d_o;
	const float *lse;
	void *dq, *dk, *dv;
	float *stat; /* attn_stat: lse in base 2, then rowsum(do o) */
};

/* A work item: tokens [t0 + m0, t0 + len) of a sequence, at most a tile of them. */
struct attn_item {
	int t0, len, m0, stat0;
};

/* Row statistics of the backward pass, (2, NH, attn_stat_ld) fp32. A sequence
 * starts at a multiple of four, so that a tile of them can be copied in 16-byte
 * pieces; a tile may be read past the end of its sequence. */
__host__ __device__ inline int attn_stat_start(int t0, int seq)
{
	return ((t0 + 3) & ~3) + 4 * seq;
}

__host__ __device__ inline int64_t attn_stat_ld(const struct attn_cuda &s)
{
	return (s.n_tokens + 4 * (int64_t)s.n_seqs + 2 * ATTN_TILE + 3) & ~(int64_t)3;
}

/* False for a pair that pads the list. `mirror` takes the tiles of a sequence from the other end: in the pass over key tiles
 * the first are the longest, and the list is in the order of the last. */
__device__ inline bool attn_take(const struct attn_cuda &s, int pair, bool mirror, struct attn_item *it)
{
	int seq = s.tiles[2 * pair], tile = s.tiles[2 * pair + 1];

	if (seq < 0)
		return false;
	it->t0 = s.seq_start[seq];
	it->len = s.seq_start[seq + 1] - it->t0;
	if (mirror)
		tile = (it->len + ATTN_TILE - 1) / ATTN_TILE - 1 - tile;
	it->m0 = tile * ATTN_TILE;
	it->stat0 = attn_stat_start(it->t0, seq);
	return true;
}

__device__ inline float attn_exp2(float x)
{
	float y;

	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

/* tanh with an absolute error of 2e-7: a capped score needs no more, and tanh.approx (5e-4 of a cap of 50) is too coarse. */
__device__ inline float attn_tanh(float x)
{
	return 1.0f - __fdividef(2.0f, 1.0f + attn_exp2(x * (2.0f * ATTN_LOG2E)));
}

/* A raw product x becomes the logarithm in base 2 of its weight: pre(x) * mul. */
struct attn_score {
	float mul, in; /* in: 0 without a cap */
};

__host__ __device__ inline struct attn_score attn_score_of(const struct attn_cuda &s)
{
	struct attn_score c;

	c.in = s.softcap > 0 ? s.scale / s.softcap : 0;
	c.mul = (s.softcap > 0 ? s.softcap : s.scale) * ATTN_LOG2E;
	return c;
}

template <typename T> struct attn_num;
template <> struct attn_num<bf16> {
	static __device__ float up(bf16 x) { return __bfloat162float(x); }
	static __device__ bf16 down(float x) { return __float2bfloat16_rn(x); }
	static __device__ uint32_t pack(float lo, float hi)
	{
		__nv_bfloat162 p = __floats2bfloat162_rn(lo, hi);

		return *(uint32_t *)&p;
	}
	static __device__ float2 unpack(uint32_t x) { return make_float2(__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u)); }
};
template <> struct attn_num<__half> {
	static __device__ float up(__half x) { return __half2float(x); }
	static __device__ __half down(float x) { return __float2half_rn(x); }
	static __device__ uint32_t pack(float lo, float hi)
	{
		__half2 p = __floats2half2_rn(lo, hi);

		return *(uint32_t *)&p;
	}
	static __device__ float2 unpack(uint32_t x) { return __half22float2(*(__half2 *)&x); }
};

/* What each path can do, and its launchers. */
bool attn_mma_fits(const struct attn_cuda *s, int major, int smem);
bool attn_sm90_fits(const struct attn_cuda *s, int major, int minor);
cudaError_t attn_mma_fwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p, void *o, float *lse);
cudaError_t attn_mma_bwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p);
cudaError_t attn_sm90_fwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p, void *o, float *lse);
cudaError_t attn_sm90_bwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p);
cudaError_t attn_plain_fwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p, void *o, float *lse);
cudaError_t attn_plain_bwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p);

#endif
