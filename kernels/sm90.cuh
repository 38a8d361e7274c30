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

#define SM90_D4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SM90_D8(d, i) SM90_D4(d, i), SM90_D4(d, i + 4)
#define SM90_D16(d, i) SM90_D8(d, i), SM90_D8(d, i + 8)
#define SM90_D32(d, i) SM90_D16(d, i), SM90_D16(d, i + 16)
#define SM90_D24(d, i) SM90_D16(d, i), SM90_D8(d, i + 16)
#define SM90_D40(d, i) SM90_D32(d, i), SM90_D8(d, i + 32)
#define SM90_D48(d, i) SM90_D32(d, i), SM90_D16(d, i + 32)
#define SM90_D64(d, i) SM90_D32(d, i), SM90_D32(d, i + 32)
#define SM90_D96(d, i) SM90_D64(d, i), SM90_D32(d, i + 64)
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
	             : SM90_D32(d, 0)
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
	             : SM90_D32(d, 0), SM90_D32(d, 32)
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

/* --- host (sm90.cu) --- */

/* Whether the driver can describe tensors to the copy engine. */
bool sm90_can_map(void);
/* A tensor of the activation type, `rank` sizes and box sizes from the inner one on, strides in bytes from the second on; the swizzle is as
 * wide as the box's rows, which have 16, 32 or 64 elements. */
bool sm90_map(CUtensorMap *m, const void *p, int rank, const uint64_t *size, const uint64_t *stride, const uint32_t *box);

#endif
