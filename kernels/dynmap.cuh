/* The CUDA side of dynmap.h. */
#ifndef LP_KERNELS_DYNMAP_CUH
#define LP_KERNELS_DYNMAP_CUH

extern "C" {
#include "kernels/dynmap.h"
}

/* dynmap_code: snapped to the grid of 65,536 points, then the nearest entry. */
static __device__ __forceinline__ uint8_t dynmap_code_of(const float *map, float v)
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

#endif
