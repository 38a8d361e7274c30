/* Warp-level tensor-core products for attention from sm_75 on (mma.cuh). Tiles in shared memory have rows of DP + 8 elements: an odd
 * number of 16-byte pieces, so eight rows at one column lie in eight different bank groups. */
#ifndef LP_KERNELS_ATTN_MMA_CUH
#define LP_KERNELS_ATTN_MMA_CUH

#include "kernels/attn_cuda.cuh"
#include "kernels/mma.cuh"

/* ROWS rows of src, of which `valid` exist, d columns wide, zeros elsewhere. */
template <typename T, int DP, int ROWS, int THREADS>
static __device__ __forceinline__ void copy_tile(T *dst, const T *src, int64_t ld, int valid, int d)
{
#pragma unroll
	for (int i = threadIdx.x; i < ROWS * (DP / 8); i += THREADS) {
		int r = i / (DP / 8), c = i % (DP / 8) * 8;
		bool ok = r < valid && c < d;

		copy16(dst + r * (DP + 8) + c, ok ? src + r * ld + c : src, ok);
	}
}

/* acc (16 x N) += a b^T: a has 16 rows, b N rows, both DP columns, in shared memory. */
template <typename T, int DP, int N> static __device__ __forceinline__ void product_nt(float acc[][4], const T *a, const T *b)
{
	int lane = threadIdx.x % 32;

	a += lane % 16 * (DP + 8) + lane / 16 * 8;
	b += (lane % 8 + lane / 16 * 8) * (DP + 8) + lane / 8 % 2 * 8;
#pragma unroll
	for (int k = 0; k < DP; k += 16) {
		uint32_t af[4], bf[4];

		ldsm4(af, a + k);
#pragma unroll
		for (int n = 0; n < N; n += 16) {
			ldsm4(bf, b + n * (DP + 8) + k);
			mma(acc[n / 8], af, bf[0], bf[1], T());
			mma(acc[n / 8 + 1], af, bf[2], bf[3], T());
		}
	}
}

/* acc (16 x DP) += p b: p (16 x K) in registers as accumulators hold it, b K rows of DP columns in shared memory. */
template <typename T, int DP, int K> static __device__ __forceinline__ void product_nn(float acc[][4], const float p[][4], const T *b)
{
	int lane = threadIdx.x % 32;

	b += lane % 16 * (DP + 8) + lane / 16 * 8;
#pragma unroll
	for (int k = 0; k < K; k += 16) {
		const float *x = p[k / 8], *y = p[k / 8 + 1];
		uint32_t bf[4], af[4] = { num16<T>::pack(x[0], x[1]), num16<T>::pack(x[2], x[3]), num16<T>::pack(y[0], y[1]),
			num16<T>::pack(y[2], y[3]) };

#pragma unroll
		for (int n = 0; n < DP; n += 16) {
			ldsm4t(bf, b + k * (DP + 8) + n);
			mma(acc[n / 8], af, bf[0], bf[1], T());
			mma(acc[n / 8 + 1], af, bf[2], bf[3], T());
		}
	}
}

/* A lane's two rows (r, r + 8) of a 16 x DP result, scaled, to global memory. */
template <typename T, int DP>
static __device__ __forceinline__ void store16(T *dst, int64_t ld, const float acc[][4], float by0, float by1, int valid, int d)
{
	int lane = threadIdx.x % 32, r = lane / 4;

#pragma unroll
	for (int n = 0; n < DP / 8; n++) {
		int c = n * 8 + lane % 4 * 2;

		if (c >= d)
			continue;
		if (r < valid)
			*(uint32_t *)(dst + r * ld + c) = num16<T>::pack(acc[n][0] * by0, acc[n][1] * by0);
		if (r + 8 < valid)
			*(uint32_t *)(dst + (r + 8) * ld + c) = num16<T>::pack(acc[n][2] * by1, acc[n][3] * by1);
	}
}

#endif
