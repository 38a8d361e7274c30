/* Hopper's pieces: bulk tensor copies, barriers in shared memory, and the warpgroup products (wgmma). PTX ISA, sections on
 * mbarrier, cp.async.bulk.tensor and wgmma.
 *
 * A tile in shared memory is a row of panels, each 64 columns (128 bytes) wide and
 * swizzled over 128 bytes, as the copy engine writes it. Operand descriptors:
 * along the inner dimension a product of 16 steps 32 bytes within a panel (columns inner),
 * or 16 rows of 128 bytes (rows inner, "transposed"). */
#ifndef LP_KERNELS_SM90_CUH
#define LP_KERNELS_SM90_CUH

#include <cuda.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "kernels/act.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SM90_CODE 1 /* other targets get empty kernels, which are never launched */
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

/* The same at a barrier that lies at this place in block `rank` of the cluster. */
static __device__ __forceinline__ void bar_arrive_at(uint64_t *b, int rank)
{
	asm volatile("{\n"
	             ".reg .b32 there;\n"
	             "mapa.shared::cluster.u32 there, %0, %1;\n"
	             "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
	             "}" ::"r"(shared_at(b)),
	             "r"(rank)
	             : "memory");
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

/* All threads of all blocks of the cluster. */
static __device__ __forceinline__ void cluster_wait(void)
{
#if __CUDA_ARCH__ >= 900
	__syncwarp();
	asm volatile("barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
#endif
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

/* A multiple of 16 bytes, aligned to 16 on both sides. */
static __device__ __forceinline__ void copy_line(void *dst, const void *src, int bytes, uint64_t *bar)
{
	asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_at(dst)), "l"(src), "r"(bytes),
	             "r"(shared_at(bar))
	             : "memory");
}

/* A box of a matrix; what lies beyond it is zeros. */
static __device__ __forceinline__ void copy_box(void *dst, const CUtensorMap *m, uint64_t *bar, int c, int r)
{
	asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_at(dst)), "l"(m),
	             "r"(shared_at(bar)), "r"(c), "r"(r)
	             : "memory");
}

/* How long the second-level cache keeps what is copied: as short, or as long, as it can. */
static __device__ __forceinline__ uint64_t cache_first()
{
	uint64_t policy;

	asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
	return policy;
}

static __device__ __forceinline__ uint64_t cache_last()
{
	uint64_t policy;

	asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
	return policy;
}

static __device__ __forceinline__ void copy_box(void *dst, const CUtensorMap *m, uint64_t *bar, int c, int r, uint64_t policy)
{
	asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(
			     shared_at(dst)),
	             "l"(m), "r"(shared_at(bar)), "r"(c), "r"(r), "l"(policy)
	             : "memory");
}

/* The same to this place of the cluster's blocks of mask, each of which has its own barrier. */
static __device__ __forceinline__ void copy_box_to(void *dst, const CUtensorMap *m, uint64_t *bar, int c, int r, int mask)
{
	asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(
			     shared_at(dst)),
	             "l"(m), "r"(shared_at(bar)), "r"(c), "r"(r), "h"((uint16_t)mask)
	             : "memory");
}

/* What this thread's stores to shared memory left there can be read by the copy engine, and by wgmma. */
static __device__ __forceinline__ void show_stores()
{
	asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* A box to a matrix, as part of the thread's present group; what lies beyond it is not written. */
static __device__ __forceinline__ void store_box(const CUtensorMap *m, const void *src, int c, int r, uint64_t policy)
{
	asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group.L2::cache_hint [%0, {%2, %3}], [%1], %4;" ::"l"(m), "r"(shared_at(src)), "r"(c),
	             "r"(r), "l"(policy)
	             : "memory");
}

static __device__ __forceinline__ void store_commit()
{
	asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* Of all but the last N groups of this thread's stores the sources have been read. */
template <int N> static __device__ __forceinline__ void store_read()
{
	asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

/* Four matrices of 8 x 8, as a product's accumulators hold them; a lane names one of their 32 rows. */
static __device__ __forceinline__ void put4(const void *p, const uint32_t (&r)[4])
{
	asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_at(p)), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
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

/* A descriptor of what lies some bytes further. */
static __device__ __forceinline__ uint64_t further(uint64_t operand, int bytes)
{
	return operand + (uint64_t)(bytes >> 4);
}

#define SM90_D4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SM90_D8(d, i) SM90_D4(d, i), SM90_D4(d, i + 4)
#define SM90_D16(d, i) SM90_D8(d, i), SM90_D8(d, i + 8)
#define SM90_D32(d, i) SM90_D16(d, i), SM90_D16(d, i + 16)
#define SM90_D24(d, i) SM90_D16(d, i), SM90_D8(d, i + 16)
#define SM90_D40(d, i) SM90_D32(d, i), SM90_D8(d, i + 32)
#define SM90_D48(d, i) SM90_D32(d, i), SM90_D16(d, i + 32)
#define SM90_D64(d, i) SM90_D32(d, i), SM90_D32(d, i + 32)
#define SM90_D96(d, i) SM90_D64(d, i), SM90_D32(d, i + 64)
#define SM90_D128(d, i) SM90_D64(d, i), SM90_D64(d, i + 64)
#define SM90_R0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define SM90_R1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define SM90_R2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define SM90_R3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define SM90_R4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define SM90_R5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define SM90_R6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define SM90_R7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define SM90_R8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define SM90_R9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define SM90_R10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define SM90_R11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define SM90_R12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define SM90_R13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define SM90_R14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define SM90_R15 "%120, %121, %122, %123, %124, %125, %126, %127"

/* One product of 64 x N x 16: d = a b (+ d when add). a, b in shared memory, columns inner, or rows with TA, TB. A lane's values of d: those
 * of an accumulator of 16 x 8 products, its warp's sixteen rows by eights of columns. */
#define SM90_MMA_SS(N, REGS, D, A, B, P, A_T, B_T)                                                                                       \
	template <int TA = 0, int TB = 0> static __device__ __forceinline__ void mma_ss(float (&d)[N / 2], uint64_t a, uint64_t b, int add) \
	{                                                                                                                               \
		asm volatile("{\n"                                                                                                      \
		             ".reg .pred p;\n"                                                                                          \
		             "setp.ne.b32 p, %" P ", 0;\n"                                                                              \
		             "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." ACT_PTX "." ACT_PTX " {" REGS "}, "                      \
		             "%" A ", %" B ", p, 1, 1, %" A_T ", %" B_T ";\n"                                                           \
		             "}"                                                                                                        \
		             : D(d, 0)                                                                                                    \
		             : "l"(a), "l"(b), "r"(add), "n"(TA), "n"(TB));                                                             \
	}
SM90_MMA_SS(16, SM90_R0, SM90_D8, "8", "9", "10", "11", "12")
SM90_MMA_SS(32, SM90_R0 ", " SM90_R1, SM90_D16, "16", "17", "18", "19", "20")
SM90_MMA_SS(48, SM90_R0 ", " SM90_R1 ", " SM90_R2, SM90_D24, "24", "25", "26", "27", "28")
SM90_MMA_SS(64, SM90_R0 ", " SM90_R1 ", " SM90_R2 ", " SM90_R3, SM90_D32, "32", "33", "34", "35", "36")
SM90_MMA_SS(80, SM90_R0 ", " SM90_R1 ", " SM90_R2 ", " SM90_R3 ", " SM90_R4, SM90_D40, "40", "41", "42", "43", "44")
SM90_MMA_SS(96, SM90_R0 ", " SM90_R1 ", " SM90_R2 ", " SM90_R3 ", " SM90_R4 ", " SM90_R5, SM90_D48, "48", "49", "50", "51", "52")
SM90_MMA_SS(128, SM90_R0 ", " SM90_R1 ", " SM90_R2 ", " SM90_R3 ", " SM90_R4 ", " SM90_R5 ", " SM90_R6 ", " SM90_R7, SM90_D64, "64", "65", "66", "67", "68")
SM90_MMA_SS(192, SM90_R0 ", " SM90_R1 ", " SM90_R2 ", " SM90_R3 ", " SM90_R4 ", " SM90_R5 ", " SM90_R6 ", " SM90_R7 ", " SM90_R8 ", " SM90_R9 ", " SM90_R10 ", " SM90_R11, SM90_D96, "96", "97", "98", "99", "100")
SM90_MMA_SS(256, SM90_R0 ", " SM90_R1 ", " SM90_R2 ", " SM90_R3 ", " SM90_R4 ", " SM90_R5 ", " SM90_R6 ", " SM90_R7 ", " SM90_R8 ", " SM90_R9 ", " SM90_R10 ", " SM90_R11 ", " SM90_R12 ", " SM90_R13 ", " SM90_R14 ", " SM90_R15, SM90_D128, "128", "129", "130", "131", "132")

/* The same with a in registers, and the rows of b inner, or its columns with TB 0. */
template <int TB = 1> static __device__ __forceinline__ void mma_rs(float (&d)[32], const uint32_t *a, uint64_t b, int add)
{
	asm volatile("{\n"
	             ".reg .pred p;\n"
	             "setp.ne.b32 p, %37, 0;\n"
	             "wgmma.mma_async.sync.aligned.m64n64k16.f32." ACT_PTX "." ACT_PTX " {"
	             "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
	             "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
	             "{%32, %33, %34, %35}, %36, p, 1, 1, %38;\n"
	             "}"
	             : SM90_D32(d, 0)
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(TB));
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
	             : SM90_D32(d, 0), SM90_D32(d, 32)
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

/* Shared memory from the first place on that a swizzled tile may have. */
static __device__ __forceinline__ char *aligned_room(unsigned char *raw)
{
	return (char *)(((uintptr_t)raw + 1023) & ~(uintptr_t)1023);
}

/* --- host (sm90.cu) --- */

/* Whether the driver can describe tensors to the copy engine. */
bool sm90_can_map(void);
/* A tensor of the activation type, `rank` sizes and box sizes from the inner one on, strides in bytes from the second on; the swizzle is as
 * wide as the box's rows, which have 16, 32 or 64 elements. line: bytes that the second-level cache brings at once, 128 or 256. */
bool sm90_map(CUtensorMap *m, const void *p, int rank, const uint64_t *size, const uint64_t *stride, const uint32_t *box, int line = 256);
/* (rows, cols) of a matrix, in boxes of `box` rows and `width` columns. */
bool sm90_map_rows(CUtensorMap *m, const void *p, int64_t ld, int64_t cols, int64_t rows, int width, int box, int line = 256);
/* Whether GPU `index` is Hopper. */
bool sm90_is(int index);
/* Whether code for it is in the binary: kernels of other targets are empty, and take few registers. */
bool sm90_built(const void *kernel);
/* A launch of clusters of `cluster` blocks with `shared` bytes of shared memory. */
template <typename K, typename... A>
static void sm90_launch(cudaStream_t stream, K *kernel, dim3 grid, int threads, int cluster, size_t shared, A... args)
{
	cudaLaunchConfig_t c = {};
	cudaLaunchAttribute at = {};

	c.gridDim = grid;
	c.blockDim = dim3((unsigned)threads);
	c.dynamicSmemBytes = shared;
	c.stream = stream;
	at.id = cudaLaunchAttributeClusterDimension;
	at.val.clusterDim = { (unsigned)cluster, 1, 1 };
	c.attrs = &at;
	c.numAttrs = 1;
	cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
	cudaLaunchKernelEx(&c, kernel, args...);
}

#endif
