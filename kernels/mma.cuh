/* Tensor-core pieces of a warp, from sm_75 on: fragments of 16 x 16 by ldmatrix, products of
 * 16 x 8 x 16, copies of 16 bytes to shared memory that fill with zero. Internal to kernels/(*).cu. */
#ifndef LP_KERNELS_MMA_CUH
#define LP_KERNELS_MMA_CUH

#include "kernels/act.cuh"

static __device__ __forceinline__ uint32_t smem_at(const void *p)
{
	return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes from global to shared memory, or zeros. Before sm_80 they are there when the call returns, for this thread: a
 * barrier after copy_wait shows them to the others, as it does from sm_80 on. */
static __device__ __forceinline__ void copy16(uint32_t dst, const void *src, bool ok)
{
#if __CUDA_ARCH__ >= 800
	int n = ok ? 16 : 0;

	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(n) : "memory");
#else
	uint4 v = ok ? *(const uint4 *)src : make_uint4(0, 0, 0, 0);

	asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(dst), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
#endif
}

static __device__ __forceinline__ void copy16(void *dst, const void *src, bool ok)
{
	copy16(smem_at(dst), src, ok);
}

static __device__ __forceinline__ void copy_commit()
{
#if __CUDA_ARCH__ >= 800
	asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* All copies but the last n groups are there. */
template <int N> static __device__ __forceinline__ void copy_wait()
{
#if __CUDA_ARCH__ >= 800
	asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

static __device__ __forceinline__ void ldsm4(uint32_t r[4], uint32_t at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
	             : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
	             : "r"(at)
	             : "memory");
}

static __device__ __forceinline__ void ldsm4t(uint32_t r[4], uint32_t at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
	             : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
	             : "r"(at)
	             : "memory");
}

static __device__ __forceinline__ void ldsm4(uint32_t r[4], const void *p)
{
	ldsm4(r, smem_at(p));
}

static __device__ __forceinline__ void ldsm4t(uint32_t r[4], const void *p)
{
	ldsm4t(r, smem_at(p));
}

/* d (16 x 8) += a (16 x 16) b (16 x 8) */
static __device__ __forceinline__ void mma(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, bf16)
{
#if __CUDA_ARCH__ >= 800
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
	             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

static __device__ __forceinline__ void mma(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, __half)
{
#if __CUDA_ARCH__ >= 800
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
	             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
	asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
	             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
	             : "r"(a[0]), "r"(a[1]), "r"(b0));
	asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
	             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
	             : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

/* Tiles of 64 columns of 16 bits have rows of 128 bytes; the 16-byte pieces of a row are exchanged by its number, so that
 * eight rows at one column lie in eight different banks. */
static __device__ __forceinline__ uint32_t tile_at(uint32_t base, int row, int col)
{
	return base + (uint32_t)(row * 128 + ((col / 8 ^ row % 8) * 16));
}

#endif
