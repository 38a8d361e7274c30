/* What the attention kernels share: types, scores, work items, and the
 * launchers that attn.cu chooses from. Internal to kernels/attn*.cu. */
#ifndef LP_KERNELS_ATTN_CUDA_CUH
#define LP_KERNELS_ATTN_CUDA_CUH

#include <cuda_runtime.h>
#include <stdint.h>

#include "kernels/act.cuh"
#include "kernels/attn_cuda.h"

#define ATTN_LOG2E 1.4426950408889634f
#define ATTN_LN2 0.6931471805599453f

#ifdef LP_F16
#define ATTN_ACT ATTN_F16
/* fn<the type of s>(...): an fp16 library has no use for bf16 */
#define ATTN_BY_TYPE(s, fn, ...) fn<__half>(__VA_ARGS__)
#else
#define ATTN_ACT ATTN_BF16
#define ATTN_BY_TYPE(s, fn, ...) ((s)->dtype == ATTN_BF16 ? fn<bf16>(__VA_ARGS__) : fn<__half>(__VA_ARGS__))
#endif

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

/* Bytes of shared memory that a block may have. */
static inline int attn_room(const struct attn_cuda *s)
{
	int dev = 0, room = 0;

	cudaGetDevice(&dev);
	cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, dev);
	return s->room > 0 && s->room < room ? s->room : room;
}

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
