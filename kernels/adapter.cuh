/* What both sides of an adapter's gradients do where they are finished. */
#ifndef LP_KERNELS_ADAPTER_CUH
#define LP_KERNELS_ADAPTER_CUH

#include "kernels/cuda.cuh"

/* The thread block's part of adapter.h's squares, of a launch whose threads have four of the n gradients each; the parts that no block
 * has are 0. All threads of the block call it. */
static __device__ __forceinline__ void leave_squares(float4 g, double *squares, int64_t n)
{
	__shared__ double shared[33];
	double s;

	if (!squares)
		return;
	s = (double)g.x * (double)g.x + (double)g.y * (double)g.y + ((double)g.z * (double)g.z + (double)g.w * (double)g.w);
	s = block_sum(s, shared);
	if (threadIdx.x == 0)
		squares[blockIdx.x] = s;
	if (blockIdx.x == 0 && gridDim.x + threadIdx.x < n / 1024 + KN_PARTS)
		squares[gridDim.x + threadIdx.x] = 0;
}

#endif
