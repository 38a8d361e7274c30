#include "kernels/attn_cuda.cuh"
bool attn_sm90_fits(const struct attn_cuda *s, int major, int minor) { return false; }
cudaError_t attn_sm90_fwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p, void *o, float *lse) { return cudaErrorNotSupported; }
