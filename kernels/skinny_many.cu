/* skinny.h for up to 64 tokens, where x no longer fits beside every warp.
 *
 * A block has 256 outputs, 32 for each of its eight warps, and all tokens; x goes through shared memory for all of them.
 * Where outputs alone do not fill the device, a cluster of blocks shares the inner dimension, and each of them folds the
 * sums of some of the outputs from its neighbours' shared memory, in their order. */
#include "kernels/skinny.cuh"

void skinny_many_open(struct device *d)
{
	open_tables(d);
}

#define M_WARPS 8
#define M_THREADS (32 * M_WARPS)
#define M_COLS SKINNY_MANY
#define M_STAGES 4
#define M_OUT 256
#define M_WORKERS 64

struct many_layout { /* bytes of shared memory; the sums lie where the rings were */
	static const int w = M_WARPS * 1024, x = M_COLS * 128, rings = M_STAGES * (w + x), scale = M_STAGES * M_WARPS * SCALE_BYTES;
	static const int red = M_WARPS * 16 * M_COLS * 4, all = LUT_BYTES + rings + scale + (int)sizeof(map) + red;
};
static_assert(M_THREADS == 256, "a thread an entry of the map");
static_assert(many_layout::rings == M_OUT * M_COLS * 4, "the sums take the rings' place");

/* 64 columns of all tokens to a stage; zeros behind the last. */
static __device__ __forceinline__ void send_x(const struct skinny &a, uint32_t to, int k)
{
#pragma unroll
	for (int i = 0; i < M_COLS * 8 / M_THREADS; i++) {
		int n = (i * M_THREADS + (int)threadIdx.x) / 8, c = threadIdx.x % 8;
		bool ok = n < a.t;

		asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + (uint32_t)(n * 128 + (c ^ (n & 1)) * 16)), "l"(a.x + (ok ? n : 0) * a.ldx + k + c * 8),
		             "r"(ok ? 16 : 0)
		             : "memory");
	}
}

static __device__ __forceinline__ void multiply_many(float acc[2][8][4], const unsigned char *lut, const unsigned char *w, const unsigned char *x, float scale)
{
	int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
	uint32_t f[2][4][4];
	float sc[2][2];

#pragma unroll
	for (int m = 0; m < 2; m++)
#pragma unroll
		for (int h = 0; h < 2; h++) {
			uint2 c = *(const uint2 *)(w + (m * 16 + g + 8 * h) * 32 + t * 8);

			sc[m][h] = __shfl_sync(0xffffffffu, scale, m * 16 + g + 8 * h);
#pragma unroll
			for (int s = 0; s < 4; s++) {
				f[m][s][h] = pair_at(lut, s < 2 ? c.x : c.y, s % 2 * 2, (uint32_t)lane * 4);
				f[m][s][2 + h] = pair_at(lut, s < 2 ? c.x : c.y, s % 2 * 2 + 1, (uint32_t)lane * 4);
			}
		}
#pragma unroll
	for (int n = 0; n < 8; n++) {
		const unsigned char *row = x + (8 * n + g) * 128;
		uint4 u = *(const uint4 *)(row + (2 * t ^ (g & 1)) * 16), v = *(const uint4 *)(row + ((2 * t + 1) ^ (g & 1)) * 16);
		const uint32_t b[8] = { u.x, u.y, u.z, u.w, v.x, v.y, v.z, v.w };
		float part[2][4] = { 0 };

#pragma unroll
		for (int s = 0; s < 4; s++)
#pragma unroll
			for (int m = 0; m < 2; m++)
				mma16(part[m], f[m][s], b[2 * s], b[2 * s + 1]);
#pragma unroll
		for (int m = 0; m < 2; m++)
#pragma unroll
			for (int e = 0; e < 4; e++)
				acc[m][n][e] += sc[m][e / 2] * part[m][e];
	}
}

/* Where the sum of a block's row and token lies: eight rows at a column are in different banks. */
static __device__ __forceinline__ int sum_at(int row, int n)
{
	return row * M_COLS + (n ^ (row & 3) * 8);
}

/* The sums of eight rows for one token, from all blocks of the cluster. */
static __device__ __forceinline__ void gather8(float v[8], const float *red, uint32_t blocks, int row, int n)
{
#pragma unroll
	for (int r = 0; r < 8; r++)
		v[r] = 0;
	for (uint32_t c = 0; c < blocks; c++) {
		uint32_t there = (uint32_t)__cvta_generic_to_shared(red);

#if __CUDA_ARCH__ >= 900
		asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(there) : "r"(c));
#pragma unroll
		for (int r = 0; r < 8; r++) {
			float s;

			asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(s) : "r"(there + (uint32_t)sum_at(row + r, n) * 4) : "memory");
			v[r] += s;
		}
#endif
	}
}

/* What the adapters add to eight rows, which have one part. */
static __device__ __forceinline__ void adapters8(float v[8], const struct skinny &a, int i, const float *inner, int n)
{
	int j;
	const float *b = row_of_b(a, i, &j), *s = inner + j * a.rank * M_COLS + n;

	if (!b)
		return;
	for (int r = 0; r < a.rank; r += 4) {
		float by[4];

#pragma unroll
		for (int k = 0; k < 4; k++)
			by[k] = a.scale * s[(r + k) * M_COLS];
#pragma unroll
		for (int k = 0; k < 8; k++) {
			float4 u = __ldg((const float4 *)(b + (int64_t)k * a.rank + r));

			v[k] += u.x * by[0] + u.y * by[1] + u.z * by[2] + u.w * by[3];
		}
	}
}

/* Of the inner values those that this tile's parts need. */
static __device__ __forceinline__ void fold_seen(const struct skinny &a, float *inner, int tile)
{
	int first = tile * M_OUT, end = first + M_OUT, from = a.n_ad, to = 0;

	for (int j = 0; j < a.n_ad; j++)
		if (a.f || (a.ad_row[j] < end && a.ad_end[j] > first)) {
			from = min(from, j);
			to = j + 1;
		}
	fold_inner(a, inner, from * a.rank, to * a.rank, M_COLS, M_THREADS);
}

/* This block's share of the outputs: eight of a token at a time. */
static __device__ __forceinline__ void finish_many(const struct skinny &a, const float *red, const float *inner, int tile, int tiles, uint32_t rank, uint32_t blocks)
{
	int per_warp = a.f ? 2 : 4; /* eights of outputs in a warp's rows */
	int items = M_WARPS / (int)blocks * per_warp * M_COLS;

	for (int i = threadIdx.x; i < items; i += M_THREADS) {
		int n = i % M_COLS, o = i / M_COLS, w = (int)rank * (M_WARPS / (int)blocks) + o / per_warp, at = o % per_warp * 8, mine = tile * M_WARPS + w;
		int row = a.f ? mine * 16 + at : mine * 32 + at;
		float v[8], u[8];
		f8 y;

		if (n >= a.t || mine >= tiles || row >= a.out)
			continue;
		gather8(v, red, blocks, w * 32 + at, n);
		if (a.jobs)
			adapters8(v, a, row, inner, n);
		if (a.f) {
			gather8(u, red, blocks, w * 32 + 16 + at, n);
			if (a.jobs)
				adapters8(u, a, row + a.f, inner, n);
		} else if (a.add) {
			y = load8(a.add + n * a.ldy + row);
		}
#pragma unroll
		for (int k = 0; k < 8 && a.factor; k++) {
			v[k] = scaled(a, row + k, v[k]);
			if (a.f)
				u[k] = scaled(a, row + a.f + k, u[k]);
		}
#pragma unroll
		for (int k = 0; k < 8; k++)
			y.v[k] = a.f ? gated(v[k], u[k]) : v[k] + (a.bias ? a.bias[row + k] : 0) + (a.add ? y.v[k] : 0);
		store8(a.y + n * a.ldy + row, y);
	}
}

static __device__ __forceinline__ void cluster_barrier(void)
{
#if __CUDA_ARCH__ >= 900
	asm volatile("barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
#endif
}

static __global__ void __launch_bounds__(M_THREADS, 1) many_kernel(const __grid_constant__ struct skinny a, int tiles, uint32_t blocks)
{
	extern __shared__ __align__(128) unsigned char smem[];
	typedef many_layout L;
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
	uint32_t rank = blockIdx.x % blocks;
	int tile = blockIdx.x / blocks, units = a.in / 64, from = units * (int)rank / (int)blocks, per = units * ((int)rank + 1) / (int)blocks - from;
	unsigned char *rings = smem + LUT_BYTES;
	unsigned char *scales = rings + L::rings + warp * M_STAGES * SCALE_BYTES;
	float *table = (float *)(rings + L::rings + L::scale), *job_red = table + 256, *inner = (float *)(smem + L::all);
	float *red = (float *)rings;
	uint32_t w_at = (uint32_t)__cvta_generic_to_shared(rings) + warp * 1024, x_at = (uint32_t)__cvta_generic_to_shared(rings) + M_STAGES * L::w;
	uint32_t scales_at = (uint32_t)__cvta_generic_to_shared(scales);
	struct source<2> src;
	float acc[2][8][4] = { 0 }, offset;
	int part, block;
	int last = min(tile * M_WARPS + warp + 1, tiles); /* one tile is all that this warp has */

	let_next();
	src.tile = tile * M_WARPS + warp;
	src.stage = 0;
	if (src.tile < last)
		at_tile<2, true>(&src, a, from * 64);
	block = first_block<2>(a, min(src.tile, tiles - 1), from * 64, &part);
	offset = a.offset[part];
	if (a.jobs)
		for (int i = threadIdx.x; i < M_OUT; i += M_THREADS)
			call_b(a, tile_row<2>(a, tile * M_WARPS + i / 32, i / 16 % 2) + i % 16);
	if ((int)blockIdx.x < min(a.jobs, M_WORKERS))
		call_a(a, blockIdx.x, M_THREADS);
	fill_levels<M_WARPS>(smem);
	table[threadIdx.x] = map[threadIdx.x];
	follow_previous();
#pragma unroll
	for (int i = 0; i < M_STAGES - 1; i++) {
		if (i < per)
			send_x(a, x_at + i * L::x, (from + i) * 64);
		send<2, 1, true>(&src, a, w_at + i * L::w, scales_at + i * SCALE_BYTES, last, per, from * 64);
	}
	/* done by blocks that are at work from the start: a block that waits for one that is not would wait for ever */
	if (blockIdx.x < M_WORKERS)
		for (int job = blockIdx.x; job < a.jobs; job += min((int)gridDim.x, M_WORKERS))
			inner_job<M_COLS / 8, M_WARPS>(a, job, job_red);
	for (int st = 0; st < per; st++) {
		int slot = st % M_STAGES, ahead = (st + M_STAGES - 1) % M_STAGES;
		float scale;

		asm volatile("cp.async.wait_group %0;" ::"n"(M_STAGES - 2) : "memory");
		__syncthreads();
		scale = scale_here(scales + slot * SCALE_BYTES, table, block + st, offset, a.plain);
		if (st + M_STAGES - 1 < per)
			send_x(a, x_at + ahead * L::x, (from + st + M_STAGES - 1) * 64);
		send<2, 1, true>(&src, a, w_at + ahead * L::w, scales_at + ahead * SCALE_BYTES, last, per, from * 64);
		multiply_many(acc, smem, rings + warp * 1024 + slot * L::w, rings + M_STAGES * L::w + slot * L::x, scale);
	}
	asm volatile("cp.async.wait_group 0;" ::: "memory");
	__syncthreads();
#pragma unroll
	for (int m = 0; m < 2; m++)
#pragma unroll
		for (int n = 0; n < 8; n++)
#pragma unroll
			for (int h = 0; h < 2; h++)
				*(float2 *)(red + sum_at(warp * 32 + m * 16 + g + 8 * h, 8 * n + 2 * t)) = make_float2(acc[m][n][2 * h], acc[m][n][2 * h + 1]);
	if (a.jobs && threadIdx.x == 0)
		await_inner(a);
	__syncthreads();
	if (a.jobs)
		fold_seen(a, inner, tile);
	__syncthreads();
	cluster_barrier();
	finish_many(a, red, inner, tile, tiles, rank, blocks);
	cluster_barrier(); /* a neighbour may still read here */
	if (a.jobs && threadIdx.x == 0 && atomicInc(&a.count[1], gridDim.x - 1) == gridDim.x - 1)
		atomicExch(&a.count[0], 0u);
}

bool skinny_many_fits(const struct device *d, const struct skinny *a)
{
	int major = 0;

	cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, d->index);
	return major >= 9 && !a->dense && a->rank % 4 == 0 && a->ranks <= 256 && eights(a->y, a->ldy) && eights(a->add, 8) && aligned16(a->b[0]) && aligned16(a->b[1]) &&
	       aligned16(a->b[2]);
}

/* Blocks that share the inner dimension: as many as leave every block a multiprocessor. */
static int cluster_of(const struct skinny *a, int groups, int sms)
{
	int n = 1;

	while (n < 8 && groups * n * 2 <= sms && a->in / 64 >= n * 2)
		n *= 2;
	return n;
}

void skinny_many(struct device *d, const struct skinny *a)
{
	int tiles = a->f ? a->f / 16 : (a->out + 31) / 32, groups = (tiles + M_WARPS - 1) / M_WARPS, blocks = cluster_of(a, groups, cuda_of(d)->sms);
	int shared = many_layout::all + a->ranks * M_COLS * (int)sizeof(float);
	cudaLaunchConfig_t c = {};
	cudaLaunchAttribute at[2] = {};

	c.gridDim = dim3((unsigned)(groups * blocks));
	c.blockDim = dim3(M_THREADS);
	c.dynamicSmemBytes = (size_t)shared;
	c.stream = cuda_of(d)->stream;
	at[0].id = cudaLaunchAttributeClusterDimension;
	at[0].val.clusterDim = { (unsigned)blocks, 1, 1 };
	at[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
	at[1].val.programmaticStreamSerializationAllowed = 1;
	c.attrs = at;
	c.numAttrs = 2;
	cudaFuncSetAttribute(many_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
	cudaLaunchKernelEx(&c, many_kernel, *a, tiles, (uint32_t)blocks);
}
