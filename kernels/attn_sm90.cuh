/* Hopper's pieces for attention: bulk tensor copies, barriers in shared memory,
 * and the warpgroup products (wgmma). PTX ISA, sections on wgmma and cp.async.bulk.tensor.
 *
 * A tile in shared memory is a row of panels, each 64 columns (128 bytes) wide and
 * swizzled over 128 bytes, as the copy engine writes it. Operand descriptors:
 * along the inner dimension a product of 16 steps 32 bytes within a panel (columns inner),
 * or 16 rows of 128 bytes (rows inner, "transposed"). */
#ifndef LP_KERNELS_ATTN_SM90_CUH
#define LP_KERNELS_ATTN_SM90_CUH

#include <cuda.h>

#include "kernels/attn_cuda.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define ATTN_SM90_CODE 1 /* other targets get empty kernels, which are never launched */
#endif

#define PANEL 64

/* --- barriers --- */

static __device__ __forceinline__ uint32_t shared_at(const void *p)
{
	return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void bar_init(uint64_t *b, int count)
{
	asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_at(b)), "r"(count) : "memory");
}

static __device__ __forceinline__ void bar_expect(uint64_t *b, int bytes)
{
	asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_at(b)), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void bar_arrive(uint64_t *b)
{
	asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_at(b)) : "memory");
}

/* A warp is done with a place: all of its lanes, of which one says so. */
static __device__ __forceinline__ void warp_arrive(uint64_t *b)
{
	__syncwarp();
	if (threadIdx.x % 32 == 0)
		bar_arrive(b);
}

/* Waits for the phase of this parity to end. */
static __device__ __forceinline__ void bar_wait(uint64_t *b, int parity)
{
	asm volatile("{\n"
	             ".reg .pred p;\n"
	             "again:\n"
	             "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
	             "@p bra done;\n"
	             "bra again;\n"
	             "done:\n"
	             "}" ::"r"(shared_at(b)),
	             "r"(parity)
	             : "memory");
}

/* Named barriers, between two warpgroups. */
static __device__ __forceinline__ void pair_wait(int id)
{
	asm volatile("bar.sync %0, 256;" ::"r"(id) : "memory");
}

static __device__ __forceinline__ void pair_arrive(int id)
{
	asm volatile("bar.arrive %0, 256;" ::"r"(id) : "memory");
}

/* A place in a ring of stages, and the parity of its present round. */
template <int N> struct ring {
	int at, phase;

	__device__ __forceinline__ void next()
	{
		if (++at == N) {
			at = 0;
			phase ^= 1;
		}
	}
};

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

/* A multiple of 16 bytes, aligned to 16 on both sides. */
static __device__ __forceinline__ void copy_line(void *dst, const void *src, int bytes, uint64_t *bar)
{
	asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_at(dst)), "l"(src), "r"(bytes),
	             "r"(shared_at(bar))
	             : "memory");
}

/* --- products --- */

template <int N> static __device__ __forceinline__ void regs_set()
{
	asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> static __device__ __forceinline__ void regs_give()
{
	asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

static __device__ __forceinline__ void mma_fence()
{
	asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void mma_commit()
{
	asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* All but the last N groups of products are done. */
template <int N> static __device__ __forceinline__ void mma_wait()
{
	asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* The compiler may not move uses of accumulators across this. */
template <int N> static __device__ __forceinline__ void pin(float (&d)[N])
{
#pragma unroll
	for (int i = 0; i < N; i++)
		asm volatile("" : "+f"(d[i])::"memory");
}

/* Descriptor of a swizzled operand: `lead` is the distance of panels, used when rows are inner; eight rows are 1024 bytes. */
static __device__ __forceinline__ uint64_t operand(const char *p, int lead)
{
	return (uint64_t)(shared_at(p) >> 4 & 0x3fff) | (uint64_t)(lead >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

#define ATTN_D4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define ATTN_D16(d, i) ATTN_D4(d, i), ATTN_D4(d, i + 4), ATTN_D4(d, i + 8), ATTN_D4(d, i + 12)
#define ATTN_D32(d, i) ATTN_D16(d, i), ATTN_D16(d, i + 16)

/* One product of 64 x N x 16: d = a b (+ d when add). a, b in shared memory, columns inner. */
static __device__ __forceinline__ void mma_ss(float (&d)[32], uint64_t a, uint64_t b, int add)
{
	asm volatile("{\n"
	             ".reg .pred p;\n"
	             "setp.ne.b32 p, %34, 0;\n"
	             "wgmma.mma_async.sync.aligned.m64n64k16.f32." ACT_PTX "." ACT_PTX " {"
	             "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
	             "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
	             "%32, %33, p, 1, 1, 0, 0;\n"
	             "}"
	             : ATTN_D32(d, 0)
	             : "l"(a), "l"(b), "r"(add));
}

static __device__ __forceinline__ void mma_ss(float (&d)[64], uint64_t a, uint64_t b, int add)
{
	asm volatile("{\n"
	             ".reg .pred p;\n"
	             "setp.ne.b32 p, %66, 0;\n"
	             "wgmma.mma_async.sync.aligned.m64n128k16.f32." ACT_PTX "." ACT_PTX " {"
	             "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
	             "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
	             "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
	             "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
	             "%64, %65, p, 1, 1, 0, 0;\n"
	             "}"
	             : ATTN_D32(d, 0), ATTN_D32(d, 32)
	             : "l"(a), "l"(b), "r"(add));
}

/* The same with a in registers, and the rows of b inner. */
static __device__ __forceinline__ void mma_rs(float (&d)[32], const uint32_t *a, uint64_t b, int add)
{
	asm volatile("{\n"
	             ".reg .pred p;\n"
	             "setp.ne.b32 p, %37, 0;\n"
	             "wgmma.mma_async.sync.aligned.m64n64k16.f32." ACT_PTX "." ACT_PTX " {"
	             "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
	             "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
	             "{%32, %33, %34, %35}, %36, p, 1, 1, 1;\n"
	             "}"
	             : ATTN_D32(d, 0)
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

static __device__ __forceinline__ void mma_rs(float (&d)[64], const uint32_t *a, uint64_t b, int add)
{
	asm volatile("{\n"
	             ".reg .pred p;\n"
	             "setp.ne.b32 p, %69, 0;\n"
	             "wgmma.mma_async.sync.aligned.m64n128k16.f32." ACT_PTX "." ACT_PTX " {"
	             "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
	             "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
	             "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
	             "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
	             "{%64, %65, %66, %67}, %68, p, 1, 1, 1;\n"
	             "}"
	             : ATTN_D32(d, 0), ATTN_D32(d, 32)
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

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
