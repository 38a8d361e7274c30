/* NF4 to activations: 8 bytes of codes, a quarter of a block, a thread. */
#include "kernels/cuda.cuh"

#include "kernels/dynmap.cuh"

#define THREADS 256

static __device__ float level[16], map[256];
static void open_boundaries(void);

int nf4_open(struct device *d, struct err *e)
{
	(void)e;
	if (cudaMemcpyToSymbol(level, nf4_levels, sizeof(level)) != cudaSuccess || cudaMemcpyToSymbol(map, dynmap_signed, sizeof(map)) != cudaSuccess)
		cuda_note(d, cudaGetLastError(), "the tables of NF4");
	open_boundaries();
	return 0;
}

/* Each operation rounded once, as the CPU does it: no fused multiply-add. */
static __device__ __forceinline__ float scale_of(const struct nf4 &q, int64_t block)
{
	if (q.plain)
		return q.absmax2[block];
	return __fadd_rn(__fmul_rn(map[q.qabsmax[block]], q.absmax2[block / NF4_BLOCK2]), q.offset);
}

/* A grid row for each row; cols in whole sixteens, so a piece lies in one block. */
static __global__ void __launch_bounds__(THREADS) dequant_sixteens(act_t *y, int64_t ldy, const struct nf4 q, int64_t cols)
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

static __global__ void __launch_bounds__(THREADS) dequant_any(act_t *y, int64_t ldy, const struct nf4 q, int64_t cols)
{
	int64_t row = blockIdx.x;

	for (int64_t j = threadIdx.x; j < cols; j += THREADS) {
		int64_t at = row * cols + j;
		uint8_t pair = q.codes[at / 2];

		y[row * ldy + j] = act_down(level[at % 2 ? pair & 15 : pair >> 4] * scale_of(q, at / NF4_BLOCK));
	}
}

void kn_nf4_dequant_cuda(struct device *d, void *y, int64_t ldy, const struct nf4 *q, int64_t rows, int64_t cols)
{
	cudaStream_t st = cuda_of(d)->stream;

	if (cols % 16 == 0 && eights(y, ldy) && ((uintptr_t)q->codes & 7) == 0)
		dequant_sixteens<<<dim3((unsigned)rows, (unsigned)((cols + 16 * THREADS - 1) / (16 * THREADS))), THREADS, 0, st>>>((act_t *)y, ldy, *q, cols);
	else
		dequant_any<<<(unsigned)rows, THREADS, 0, st>>>((act_t *)y, ldy, *q, cols);
	cuda_launched(d, "nf4_dequant");
}

/* --- quantisation, as nf4.c does it; only the order in which the mean of the scales is summed differs --- */

static __device__ float boundary[15]; /* fp32 midpoints of the levels */

static void open_boundaries(void)
{
	float b[15];

	for (int i = 0; i < 15; i++)
		b[i] = (nf4_levels[i] + nf4_levels[i + 1]) / 2.0f;
	cudaMemcpyToSymbol(boundary, b, sizeof(b));
}

static __device__ __forceinline__ float as_float(const float *p)
{
	return *p;
}
static __device__ __forceinline__ float as_float(const bf16 *p)
{
	return __bfloat162float(*p);
}
static __device__ __forceinline__ float as_float(const __half *p)
{
	return __half2float(*p);
}

static __device__ __forceinline__ uint32_t level_of(float v)
{
	uint32_t i = 0;

#pragma unroll
	for (int j = 0; j < 15; j++)
		i += v > boundary[j];
	return i;
}

/* A warp a block of 64, two elements a lane: one byte of codes. */
template <typename S>
static __global__ void __launch_bounds__(THREADS) quant_kernel(uint8_t *codes, float *absmax, const S *x, int64_t n, int64_t n_blocks)
{
	int64_t block = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32, at = block * NF4_BLOCK + threadIdx.x % 32 * 2;
	bool whole = (block + 1) * NF4_BLOCK <= n;
	float v[2], m, floor_m;

	if (block >= n_blocks)
		return;
	for (int i = 0; i < 2; i++)
		v[i] = at + i < n ? as_float(x + at + i) : 0;
	m = warp_max(fmaxf(fabsf(v[0]), fabsf(v[1])));
	floor_m = m < 1e-38f ? 1e-38f : m;
	/* a whole block multiplies by the reciprocal; the short one at the end divides */
	for (int i = 0; i < 2; i++)
		v[i] = whole ? __fmul_rn(v[i], __fdiv_rn(1.0f, floor_m)) : __fdiv_rn(v[i], floor_m);
	if (at < n)
		codes[at / 2] = (uint8_t)(level_of(v[0]) << 4 | (at + 1 < n ? level_of(v[1]) : level_of(0)));
	if (threadIdx.x % 32 == 0)
		absmax[block] = whole ? m : floor_m;
}

/* A thread block a second-level block. */
static __global__ void __launch_bounds__(NF4_BLOCK2) quant_absmax_kernel(uint8_t *qabsmax, float *absmax2, const float *absmax, float offset, int64_t n_blocks)
{
	__shared__ float shared[33];
	int64_t b = (int64_t)blockIdx.x * NF4_BLOCK2 + threadIdx.x;
	float v = b < n_blocks ? __fadd_rn(absmax[b], -offset) : 0, m = block_max(fabsf(v), shared);

	if (threadIdx.x == 0)
		absmax2[blockIdx.x] = m;
	if (b < n_blocks)
		qabsmax[b] = m == 0 ? 0 : dynmap_code_of(map, __fmul_rn(v, __fdiv_rn(1.0f, m)));
}

static __global__ void __launch_bounds__(SUM_BLOCKS) mean_kernel(const float *x, int64_t n, double *out)
{
	__shared__ double shared[33];
	double s = 0;

	for (int64_t i = threadIdx.x; i < n; i += SUM_BLOCKS)
		s += (double)x[i];
	s = block_sum(s, shared);
	if (threadIdx.x == 0)
		*out = n ? s / (double)n : 0;
}

int kn_nf4_quant_cuda(struct device *d, struct nf4 *q, const void *x, enum dtype dt, void *room, struct err *e)
{
	struct cuda_impl *c = cuda_of(d);
	int64_t n_blocks = nf4_blocks(q->n);
	int size = dt == DT_F32 ? 4 : 2;
	float *absmax = (float *)((char *)room + (q->n * 4 + 255) / 256 * 256);
	unsigned grid = (unsigned)((n_blocks * 32 + THREADS - 1) / THREADS);
	double mean;

	d->k.upload(d, room, x, (uint64_t)q->n * (uint64_t)size);
	if (dt == DT_F32)
		quant_kernel<<<grid, THREADS, 0, c->stream>>>(q->codes, absmax, (const float *)room, q->n, n_blocks);
	else if (dt == DT_BF16)
		quant_kernel<<<grid, THREADS, 0, c->stream>>>(q->codes, absmax, (const bf16 *)room, q->n, n_blocks);
	else
		quant_kernel<<<grid, THREADS, 0, c->stream>>>(q->codes, absmax, (const __half *)room, q->n, n_blocks);
	mean_kernel<<<1, SUM_BLOCKS, 0, c->stream>>>(absmax, n_blocks, c->partials);
	d->k.download(d, &mean, c->partials, sizeof(mean));
	q->offset = (float)mean;
	quant_absmax_kernel<<<(unsigned)nf4_blocks2(q->n), NF4_BLOCK2, 0, c->stream>>>(q->qabsmax, q->absmax2, absmax, q->offset, n_blocks);
	cuda_launched(d, "nf4_quant");
	return d->k.sync(d, e);
}
