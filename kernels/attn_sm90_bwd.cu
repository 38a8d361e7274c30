#include "kernels/attn_cuda.cuh"
cudaError_t attn_sm90_bwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p) { return cudaErrorNotSupported; }
