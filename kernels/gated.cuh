/* Internal to kernels/gated*.cu. */
#ifndef LP_KERNELS_GATED_CUH
#define LP_KERNELS_GATED_CUH

#include "kernels/cuda.cuh"

/* Hopper's kernels (gated_sm90.cu). false: they do not take these shapes, or run here. */
bool gated_fwd_sm90(struct device *d, const struct kn_gated *a);
bool gated_bwd_sm90(struct device *d, const struct kn_gated *a);

#endif
