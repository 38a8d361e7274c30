/* What the CUDA kernels share: the device's private part, launches whose errors
 * wait for the next sync, activations in eights, reductions of fixed order. Internal to
 * kernels/(*).cu; the whole shared object exports device_open_cuda alone. */
#ifndef LP_KERNELS_CUDA_CUH
#define LP_KERNELS_CUDA_CUH

#include <cuda_runtime.h>

extern "C" {
#include "kernels/device.h"
}
#include "kernels/act.cuh"
#include "kernels/chain.cuh"

struct gemm_state; /* gemm.cu */

/* Where copies meet the stream. A recording has events of its own: outside of it nothing can wait for them. */
struct cuda_copies {
	cudaEvent_t now, slot[COPY_SLOTS]; /* the stream so far; a slot's last copy */
	bool used[COPY_SLOTS];             /* in a recording: since it began */
	bool joined[2];                    /* out and in are part of the recording */
};

struct cuda_impl {
	cudaStream_t stream;
	cudaStream_t out, in;            /* copies to and from the host */
	cudaEvent_t sent;                /* the last rows of a table that stays with the host */
	struct cuda_copies live, taped;  /* outside of recordings, and in them */
	bool recording, spoiled;         /* spoiled: an operation of this recording failed */
	struct gemm_state *gemm;
	double *partials;  /* (SUM_BLOCKS) of sums */
	int sms;
	int shared;        /* bytes of shared memory that a thread block may have */
	bool chains;       /* kernels may start before the last one has ended (chain.cuh) */
	char failed[256];  /* the first failure since the last sync, "" when none */
};
enum { SUM_BLOCKS = 1024 };

static inline struct cuda_impl *cuda_of(struct device *d)
{
	return (struct cuda_impl *)d->impl;
}

/* Remembers the first failure and where it was; clears CUDA's own memory of it. What fails in a recording fails the recording alone. */
void cuda_note(struct device *d, cudaError_t e, const char *what);
/* After a launch. */
static inline void cuda_launched(struct device *d, const char *what)
{
	cudaError_t e = cudaGetLastError();

	if (e != cudaSuccess)
		cuda_note(d, e, what);
}

/* chain.cuh's launch on d's stream; what is wrong with it cuda_launched finds. */
template <typename... P, typename... A>
static inline void launch_after(struct device *d, void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared, A... args)
{
	launch_chained(cuda_of(d)->stream, cuda_of(d)->chains, kernel, grid, threads, shared, args...);
}

/* gemm.cu */
int gemm_open(struct device *d, struct err *e);
void gemm_close(struct device *d);
/* quantities that the host keeps as constants go to the device once */
int nf4_open(struct device *d, struct err *e);
int skinny_open(struct device *d, struct err *e);
int adam_open(struct device *d, struct err *e);

extern "C" {
kn_gemm_fn kn_gemm_cuda;
kn_embed_fwd_fn kn_embed_fwd_cuda;
kn_embed_host_fn kn_embed_host_cuda;
kn_embed_bwd_fn kn_embed_bwd_cuda;
kn_rmsnorm_fwd_fn kn_rmsnorm_fwd_cuda;
kn_rmsnorm_bwd_fn kn_rmsnorm_bwd_cuda;
kn_rope_fn kn_rope_cuda;
kn_attn_fwd_fn kn_attn_fwd_cuda;
kn_attn_bwd_fn kn_attn_bwd_cuda;
kn_kv_append_fn kn_kv_append_cuda;
kn_attn_decode_fn kn_attn_decode_cuda;
kn_swiglu_fwd_fn kn_swiglu_fwd_cuda;
kn_swiglu_bwd_fn kn_swiglu_bwd_cuda;
kn_gated_fn kn_gated_fwd_cuda, kn_gated_bwd_cuda;
kn_xent_segment_fn kn_xent_segment_cuda;
kn_xent_end_fn kn_xent_end_cuda;
kn_xent_whole_fn kn_xent_whole_cuda;
kn_pref_values_fn kn_pref_values_cuda;
kn_pref_loss_fn kn_pref_loss_cuda;
kn_pref_rows_fn kn_pref_rows_cuda;
kn_pref_drift_fn kn_pref_drift_cuda;
kn_grpo_loss_fn kn_grpo_loss_cuda;
kn_grpo_rows_fn kn_grpo_rows_cuda;
kn_score_fwd_fn kn_score_fwd_cuda;
kn_score_bwd_fn kn_score_bwd_cuda;
kn_dropout_fn kn_dropout_cuda;
kn_bias_add_fn kn_bias_add_cuda;
kn_gather_rows_fn kn_gather_rows_cuda;
kn_scatter_rows_fn kn_scatter_rows_cuda;
kn_copy_rows_fn kn_copy_rows_cuda;
kn_to_host_fn kn_to_host_cuda;
kn_sum_squares_fn kn_sum_squares_cuda;
kn_sum_fn kn_sum_cuda;
kn_add_squares_fn kn_add_squares_cuda;
kn_col_sums_fn kn_col_sums_cuda;
kn_convert_fn kn_convert_cuda;
kn_adam_fn kn_adam_cuda;
kn_basis_fn kn_basis_cuda;
kn_add_update_fn kn_add_update_cuda;
kn_nf4_quant_fn kn_nf4_quant_cuda;
kn_nf4_dequant_fn kn_nf4_dequant_cuda;
kn_adapter_place_fn kn_adapter_place_cuda;
kn_adapter_outer_fn kn_adapter_down_cuda, kn_adapter_outer_cuda, kn_adapter_through_cuda;
kn_adapter_grad_fn kn_adapter_grad_cuda;
kn_row_squares_fn kn_row_squares_cuda;
kn_dora_factors_fn kn_dora_factors_cuda;
kn_dora_out_fn kn_dora_out_cuda;
kn_dora_back_fn kn_dora_back_cuda;
kn_dora_gate_fn kn_dora_gate_fwd_cuda, kn_dora_gate_bwd_cuda;
kn_dora_rest_fn kn_dora_rest_cuda;
kn_skinny_fn kn_skinny_cuda;
kn_pick_fn kn_pick_cuda;
kn_kv_turn_fn kn_kv_turn_cuda;
kn_fp8_rows_fn kn_fp8_rows_cuda;
kn_fp8_cols_fn kn_fp8_cols_cuda;
kn_fp8_place_fn kn_fp8_place_cuda;
kn_fp8_gemm_fn kn_fp8_gemm_cuda;
}

/* --- eights: 16 bytes of activations --- */

struct f8 {
	float v[8];
};

static __device__ __forceinline__ f8 unpack8(uint4 u)
{
	const uint32_t w[4] = { u.x, u.y, u.z, u.w };
	f8 r;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		float2 p = num16<act_t>::unpack(w[i]);

		r.v[2 * i] = p.x;
		r.v[2 * i + 1] = p.y;
	}
	return r;
}

static __device__ __forceinline__ uint4 pack8(const f8 &x)
{
	uint32_t w[4];

#pragma unroll
	for (int i = 0; i < 4; i++)
		w[i] = act_pack(x.v[2 * i], x.v[2 * i + 1]);
	return make_uint4(w[0], w[1], w[2], w[3]);
}

static __device__ __forceinline__ f8 load8(const act_t *p)
{
	return unpack8(*(const uint4 *)p);
}

static __device__ __forceinline__ void store8(act_t *p, const f8 &x)
{
	*(uint4 *)p = pack8(x);
}

/* Which of n runs, that begin at start (n), has element i. */
static __device__ __forceinline__ int64_t run_of(const int32_t *start, int64_t n, int64_t i)
{
	int64_t lo = 0, hi = n;

	while (hi - lo > 1) {
		int64_t mid = (lo + hi) / 2;

		if (start[mid] <= i)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

/* A row times by, by all threads of the block. */
static __device__ __forceinline__ void scale_row(act_t *y, float by, int64_t c)
{
	for (int64_t j = threadIdx.x; j < c; j += blockDim.x)
		y[j] = act_down(act_up(y[j]) * by);
}

/* Whether rows of p, ld elements apart, may be read in eights. */
static inline bool eights(const void *p, int64_t ld)
{
	return ((uintptr_t)p & 15) == 0 && ld % 8 == 0;
}

/* --- sums over a block, in an order that the block's size fixes --- */

template <typename T> static __device__ __forceinline__ T warp_sum(T x)
{
#pragma unroll
	for (int o = 16; o > 0; o /= 2)
		x += __shfl_xor_sync(0xffffffffu, x, o);
	return x;
}

static __device__ __forceinline__ float warp_max(float x)
{
#pragma unroll
	for (int o = 16; o > 0; o /= 2)
		x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, o));
	return x;
}

/* Of all threads; every thread gets the result. shared: 33 values, not in use by others. */
template <typename T> static __device__ __forceinline__ T block_sum(T x, T *shared)
{
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;

	x = warp_sum(x);
	__syncthreads();
	if (lane == 0)
		shared[warp] = x;
	__syncthreads();
	if (warp == 0) {
		x = warp_sum(lane < warps ? shared[lane] : T(0));
		if (lane == 0)
			shared[32] = x;
	}
	__syncthreads();
	return shared[32];
}

static __device__ __forceinline__ float block_max(float x, float *shared)
{
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;

	x = warp_max(x);
	__syncthreads();
	if (lane == 0)
		shared[warp] = x;
	__syncthreads();
	if (warp == 0) {
		x = warp_max(lane < warps ? shared[lane] : -INFINITY);
		if (lane == 0)
			shared[32] = x;
	}
	__syncthreads();
	return shared[32];
}

#endif
