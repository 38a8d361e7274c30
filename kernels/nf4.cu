/* NF4 to bf16: 8 bytes of codes, a quarter of a block, a thread. */
#include "kernels/cuda.cuh"

extern "C" {
#include "kernels/dynmap.h"
}

#define THREADS 256

static __device__ float level[16], map[256];

int nf4_open(struct device *d, struct err *e)
{
	(void)e;
	if (cudaMemcpyToSymbol(level, nf4_levels, sizeof(level)) != cudaSuccess || cudaMemcpyToSymbol(map, dynmap_signed, sizeof(map)) != cudaSuccess)
		cuda_note(d, cudaGetLastError(), "the tables of NF4");
	return 0;
}

/* Each operation rounded once, as the CPU does it: no fused multiply-add. */
static __device__ __forceinline__ float scale_of(const struct nf4 &q, int64_t block)
{
	return __fadd_rn(__fmul_rn(map[q.qabsmax[block]], q.absmax2[block / NF4_BLOCK2]), q.offset);
}

/* A grid row for each row; cols in whole sixteens, so a piece lies in one block. */
static __global__ void __launch_bounds__(THREADS) dequant_sixteens(bf16 *y, int64_t ldy, const struct nf4 q, int64_t cols)
{
	__shared__ float lut[16];
	int64_t row = blockIdx.x, j = ((int64_t)blockIdx.y * THREADS + threadIdx.x) * 16, at = row * cols + j;
	uint2 codes;
	float scale;
	f8 v[2];

	if (threadIdx.x < 16)
		lut[threadIdx.x] = level[threadIdx.x];
	__syncthreads();
	if (j >= cols)
		return;
	codes = *(const uint2 *)(q.codes + at / 2);
	scale = scale_of(q, at / NF4_BLOCK);
#pragma unroll
	for (int h = 0; h < 2; h++) {
		uint32_t w = h ? codes.y : codes.x;

#pragma unroll
		for (int b = 0; b < 4; b++) {
			v[h].v[2 * b] = lut[w >> (8 * b + 4) & 15] * scale;
			v[h].v[2 * b + 1] = lut[w >> (8 * b) & 15] * scale;
		}
	}
	store8(y + row * ldy + j, v[0]);
	store8(y + row * ldy + j + 8, v[1]);
}

static __global__ void __launch_bounds__(THREADS) dequant_any(bf16 *y, int64_t ldy, const struct nf4 q, int64_t cols)
{
	int64_t row = blockIdx.x;

	for (int64_t j = threadIdx.x; j < cols; j += THREADS) {
		int64_t at = row * cols + j;
		uint8_t pair = q.codes[at / 2];

		y[row * ldy + j] = __float2bfloat16_rn(level[at % 2 ? pair & 15 : pair >> 4] * scale_of(q, at / NF4_BLOCK));
	}
}

void kn_nf4_dequant_cuda(struct device *d, void *y, int64_t ldy, const struct nf4 *q, int64_t rows, int64_t cols)
{
	cudaStream_t st = cuda_of(d)->stream;

	if (cols % 16 == 0 && eights(y, ldy) && ((uintptr_t)q->codes & 7) == 0)
		dequant_sixteens<<<dim3((unsigned)rows, (unsigned)((cols + 16 * THREADS - 1) / (16 * THREADS))), THREADS, 0, st>>>((bf16 *)y, ldy, *q, cols);
	else
		dequant_any<<<(unsigned)rows, THREADS, 0, st>>>((bf16 *)y, ldy, *q, cols);
	cuda_launched(d, "nf4_dequant");
}
