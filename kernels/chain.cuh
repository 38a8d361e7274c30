/* Kernels of a decoding step start before the one ahead of them has ended: what does not depend on it (weights on their
 * way, tables) is under way while it drains. A kernel launched by launch_after must call follow_previous in all its
 * threads before it reads or writes what others of the stream touch. Before compute capability 9.0, plain launches. */
#ifndef LP_KERNELS_CHAIN_CUH
#define LP_KERNELS_CHAIN_CUH

#include <cuda_runtime.h>

/* Everything ahead in the stream has ended, and its writes are seen. Free where the launch was a plain one. */
static __device__ __forceinline__ void follow_previous(void)
{
#if __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The next kernel may start, once every block has said so. */
static __device__ __forceinline__ void let_next(void)
{
#if __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* What will be read comes nearer, into the second-level cache: allowed before follow_previous, since it reads nothing. */
static __device__ __forceinline__ void call_near(const void *p)
{
	asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

template <typename... P, typename... A>
static inline cudaError_t launch_chained(cudaStream_t st, bool chain, void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared, A... args)
{
	cudaLaunchConfig_t c = {};
	cudaLaunchAttribute a = {};

	c.gridDim = grid;
	c.blockDim = dim3(threads);
	c.dynamicSmemBytes = shared;
	c.stream = st;
	a.id = cudaLaunchAttributeProgrammaticStreamSerialization;
	a.val.programmaticStreamSerializationAllowed = 1;
	c.attrs = &a;
	c.numAttrs = chain ? 1 : 0;
	return cudaLaunchKernelEx(&c, kernel, P(args)...);
}

#endif
