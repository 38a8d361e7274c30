/* What the attention kernels for Hopper share (sm90.cuh). */
#ifndef LP_KERNELS_ATTN_SM90_CUH
#define LP_KERNELS_ATTN_SM90_CUH

#include "kernels/attn_cuda.cuh"
#include "kernels/sm90.cuh"

/* --- copies --- */

/* 64 columns from c of one head, rows from r on; rows and columns beyond the tensor are zeros. */
static __device__ __forceinline__ void copy_panel(void *dst, const CUtensorMap *m, uint64_t *bar, int c, int head, int r)
{
	asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_at(dst)),
	             "l"(m), "r"(shared_at(bar)), "r"(c), "r"(head), "r"(r)
	             : "memory");
}

template <int DP, int ROWS> static __device__ __forceinline__ void copy_rows(char *dst, const CUtensorMap *m, uint64_t *bar, int head, int r)
{
#pragma unroll
	for (int c = 0; c < DP; c += PANEL)
		copy_panel(dst + c * ROWS * 2, m, bar, c, head, r);
}

/* The same rows to the second-level cache only. */
template <int DP> static __device__ __forceinline__ void prefetch_rows(const CUtensorMap *m, int head, int r)
{
#pragma unroll
	for (int c = 0; c < DP; c += PANEL)
		asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global.tile [%0, {%1, %2, %3}];" ::"l"(m), "r"(c), "r"(head), "r"(r) : "memory");
}

/* --- products --- */

/* acc (64 x 2 NR) = a b^T over DP columns; a points to 64 rows of tiles of AR rows, b to a tile of 2 NR. */
template <int DP, int AR, int NR> static __device__ __forceinline__ void product_nt(float (&acc)[NR], const char *a, const char *b)
{
#pragma unroll
	for (int k = 0; k < DP / 16; k++)
		mma_ss(acc, operand(a + k / 4 * AR * 128 + k % 4 * 32, 16), operand(b + k / 4 * 2 * NR * 128 + k % 4 * 32, 16), k > 0);
}

/* acc (64 x 2 NR) += p b over ROWS rows of the tile b; p in registers, in pairs of 16 bits. */
template <int ROWS, int NR> static __device__ __forceinline__ void product_nn(float (&acc)[NR], const uint32_t (&p)[ROWS / 4],
	const char *b, bool add)
{
#pragma unroll
	for (int k = 0; k < ROWS / 16; k++)
		mma_rs(acc, p + 4 * k, operand(b + k * 2048, ROWS * 128), k > 0 || add);
}

/* --- results --- */

/* Of four lanes: lane t's r[i] becomes lane i's r[t]. */
static __device__ __forceinline__ void transpose4(uint32_t r[4])
{
	bool odd = threadIdx.x & 1, high = threadIdx.x & 2;

#pragma unroll
	for (int i = 0; i < 4; i += 2) {
		uint32_t got = __shfl_xor_sync(0xffffffffu, odd ? r[i] : r[i + 1], 1);

		r[i] = odd ? got : r[i];
		r[i + 1] = odd ? r[i + 1] : got;
	}
#pragma unroll
	for (int i = 0; i < 2; i++) {
		uint32_t got = __shfl_xor_sync(0xffffffffu, high ? r[i] : r[i + 2], 2);

		r[i] = high ? got : r[i];
		r[i + 2] = high ? r[i + 2] : got;
	}
}

/* A lane's rows (r, r + 8) of a warpgroup's 64 x 2 N result, scaled, in 16-byte pieces. valid: rows that exist, of the 64. */
template <int N> static __device__ __forceinline__ void store_rows(act_t *dst, int64_t ld, const float (&acc)[N], float by0,
	float by1, int valid, int d)
{
	int r = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4, t = threadIdx.x % 4;

#pragma unroll
	for (int i = 0; i < N; i += 16) {
		uint32_t x[4], y[4];
		int c = 2 * i + 8 * t;

#pragma unroll
		for (int n = 0; n < 4; n++) {
			x[n] = num16<act_t>::pack(acc[i + 4 * n] * by0, acc[i + 4 * n + 1] * by0);
			y[n] = num16<act_t>::pack(acc[i + 4 * n + 2] * by1, acc[i + 4 * n + 3] * by1);
		}
		transpose4(x);
		transpose4(y);
		if (c < d && r < valid)
			*(uint4 *)(dst + r * ld + c) = make_uint4(x[0], x[1], x[2], x[3]);
		if (c < d && r + 8 < valid)
			*(uint4 *)(dst + (r + 8) * ld + c) = make_uint4(y[0], y[1], y[2], y[3]);
	}
}

/* --- work --- */

/* Items in order of falling length go around the blocks back and forth, so that each gets its share of long and short. */
static __device__ __forceinline__ int item_of_round(int round)
{
	return round * gridDim.x + (round & 1 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
}

/* --- host --- */

/* (rows, heads, d) with a row stride, in boxes of `box` rows and one panel. */
bool attn_sm90_map(CUtensorMap *m, const void *p, int64_t ld, int heads, int d, int rows, int box);

#endif
