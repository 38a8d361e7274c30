/* What the kernels of skinny.cu and skinny_sm90.cu share: their arguments, the way of weights and scales to shared memory, levels by
 * table, the adapters' two halves. */
#ifndef LP_KERNELS_SKINNY_CUH
#define LP_KERNELS_SKINNY_CUH

#include "kernels/cuda.cuh"

#include <string.h>

extern "C" {
#include "kernels/dynmap.h"
}

#define WARPS 16
#define THREADS (32 * WARPS)
#define LUT_BYTES (256 * 32 * 4)
#define MOST 16 /* tokens of one pass of skinny.cu */
#define SCALE_BYTES 256 /* of a stage: for each lane the word with the code of its scale, and what that is multiplied by */

static __device__ uint32_t level_pair[256]; /* bf16 levels of a byte's two codes, the first one low */
static __device__ float level[16], map[256];


/* The tables of the file that this stands in. */
static void open_tables(struct device *d)
{
	uint32_t pair[256];

	for (int i = 0; i < 256; i++) {
		__nv_bfloat162 p = __floats2bfloat162_rn(nf4_levels[i >> 4], nf4_levels[i & 15]);

		memcpy(&pair[i], &p, sizeof(pair[i]));
	}
	if (cudaMemcpyToSymbol(level_pair, pair, sizeof(pair)) != cudaSuccess || cudaMemcpyToSymbol(map, dynmap_signed, sizeof(map)) != cudaSuccess ||
	    cudaMemcpyToSymbol(level, nf4_levels, sizeof(level)) != cudaSuccess)
		cuda_note(d, cudaGetLastError(), "the tables of NF4");
}

struct skinny {
	const bf16 *x, *add, *dense;
	bf16 *y;
	const float *factor, *bias;
	int64_t ldx, ldy, ldw;
	int t, in, out, f; /* f: outputs of the gate, 0: none */
	int n, row[KN_PARTS], end[KN_PARTS];
	const uint8_t *codes[KN_PARTS], *qabsmax[KN_PARTS];
	const float *absmax2[KN_PARTS];
	float offset[KN_PARTS];
	bool plain; /* one level of scales */
	/* adapters */
	int n_ad, rank, ranks, pieces, jobs, ad_row[KN_PARTS], ad_end[KN_PARTS];
	float scale;
	const float *a, *b[KN_PARTS];
	uint32_t *count; /* jobs done, blocks done, launches of skinny_few.cu that had jobs */
	float *inner;    /* (pieces, ranks, t) */
	uint2 *told;     /* skinny_few.cu: the same, each with the number of its launch */
};

/* Bytes of shared memory: levels, rings, scales, the second level's map, sums; the adapters' inner values follow. MT: tiles of 16 rows at a time. */
template <int MT, int NT, bool NF4> struct layout_of {
	static const int blocks = NF4 && MT == 1 ? 2 : 1; /* of 64 in a stage */
	static const int row = NF4 ? 32 * blocks : 128;   /* bytes of a row in it */
	static const int stages = NF4 || MT == 1 ? 3 : 2;
	static const int lut = NF4 ? LUT_BYTES : 0, stage = MT * 16 * row, ring = WARPS * stages * stage;
	static const int scale = NF4 ? WARPS * stages * SCALE_BYTES : 0, table = NF4 ? sizeof(map) : 0, red = WARPS * MT * 16 * NT * 8 * 4, all = lut + ring + scale + table + red;
};


static __device__ __forceinline__ void copy16(uint32_t to, const void *from)
{
	asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

static __device__ __forceinline__ void mma16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
	asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
	             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ int part_of(const int row[], const int end[], int n, int i)
{
	int j = -1;

#pragma unroll
	for (int k = 0; k < KN_PARTS; k++)
		if (k < n && i >= row[k] && i < end[k])
			j = k;
	return j;
}

/* The first row of tile m of MT. */
template <int MT> static __device__ __forceinline__ int tile_row(const struct skinny &a, int tile, int m)
{
	return a.f ? m * a.f + tile * 16 : (tile * MT + m) * 16;
}

/* --- x A^T --- */

static __device__ __forceinline__ uint32_t pack2(float x, float y)
{
	__nv_bfloat162 p = __floats2bfloat162_rn(x, y);

	return *(uint32_t *)&p;
}

/* 16 elements of a row of A as bf16. */
static __device__ __forceinline__ void take_row(uint32_t w[8], const float *a, bool ok)
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		float4 v = ok ? __ldg((const float4 *)a + i) : make_float4(0, 0, 0, 0);

		w[2 * i] = pack2(v.x, v.y);
		w[2 * i + 1] = pack2(v.z, v.w);
	}
}

/* 16 elements of each lane's token. */
static __device__ __forceinline__ void take_x(uint32_t w[8], const bf16 *x, bool ok)
{
	uint4 u = make_uint4(0, 0, 0, 0), v = u;

	if (ok)
		u = *(const uint4 *)x, v = *((const uint4 *)x + 1);
	w[0] = u.x, w[1] = u.y, w[2] = u.z, w[3] = u.w;
	w[4] = v.x, w[5] = v.y, w[6] = v.z, w[7] = v.w;
}

/* Sixteen rows of A by one piece of columns: W warps, each with blocks of 64 of it in turn. red (W, 16, 8 NT). */
template <int NT, int W> static __device__ void inner_job(const struct skinny &a, int job, float *red)
{
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
	int row = job / a.pieces * 16, piece = job % a.pieces;
	float sum[NT][4] = { 0 };

	for (int b = warp; b < KN_SKINNY_PIECE / 64; b += W) {
		int k = piece * KN_SKINNY_PIECE + b * 64 + t * 16;
		bool any = k < a.in;
		uint32_t w0[8], w1[8], x[8];

		take_row(w0, a.a + (int64_t)(row + g) * a.in + k, any && row + g < a.ranks);
		take_row(w1, a.a + (int64_t)(row + g + 8) * a.in + k, any && row + g + 8 < a.ranks);
#pragma unroll
		for (int n = 0; n < NT; n++) {
			take_x(x, a.x + (8 * n + g) * a.ldx + k, any && 8 * n + g < a.t);
#pragma unroll
			for (int s = 0; s < 4; s++) {
				const uint32_t f[4] = { w0[2 * s], w1[2 * s], w0[2 * s + 1], w1[2 * s + 1] };

				mma16(sum[n], f, x[2 * s], x[2 * s + 1]);
			}
		}
	}
#pragma unroll
	for (int n = 0; n < NT; n++)
#pragma unroll
		for (int h = 0; h < 2; h++)
			*(float2 *)(red + (warp * 16 + g + 8 * h) * NT * 8 + 8 * n + 2 * t) = make_float2(sum[n][2 * h], sum[n][2 * h + 1]);
	__syncthreads();
	for (int i = threadIdx.x; i < 16 * NT * 8; i += 32 * W) {
		int r = row + i / (NT * 8), n = i % (NT * 8);
		float all = 0;

#pragma unroll
		for (int w = 0; w < W; w++)
			all += red[w * 16 * NT * 8 + i];
		if (r < a.ranks && n < a.t)
			a.inner[((int64_t)piece * a.ranks + r) * a.t + n] = all;
	}
	__threadfence();
	__syncthreads();
	if (threadIdx.x == 0)
		atomicAdd(&a.count[0], 1u);
}

/* A job's part of A comes nearer, while what its x depends on is still at work. */
static __device__ __forceinline__ void call_a(const struct skinny &a, int job, int threads)
{
	int row = job / a.pieces * 16, first = job % a.pieces * KN_SKINNY_PIECE;

	for (int i = threadIdx.x; i < 16 * KN_SKINNY_PIECE / 32; i += threads) {
		int r = row + i / (KN_SKINNY_PIECE / 32), k = first + i % (KN_SKINNY_PIECE / 32) * 32;

		if (r < a.ranks && k < a.in)
			call_near(a.a + (int64_t)r * a.in + k);
	}
}

/* One thread waits for all jobs; a barrier after it is the caller's. */
static __device__ __forceinline__ void await_inner(const struct skinny &a)
{
	uint32_t done;

	do
		asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(done) : "l"(a.count) : "memory");
	while (done < (uint32_t)a.jobs);
}

/* Rows [from, to) of the inner values (ranks, cols), of all pieces together, in shared memory; zero behind the last token. */
static __device__ __forceinline__ void fold_inner(const struct skinny &a, float *inner, int from, int to, int cols, int threads)
{
	enum { AT_ONCE = 4 }; /* values of a thread whose loads are under way together */

	for (int i = from * cols + (int)threadIdx.x; i < to * cols; i += AT_ONCE * threads) {
		float sum[AT_ONCE] = { 0 };

		for (int p = 0; p < a.pieces; p++)
#pragma unroll
			for (int k = 0; k < AT_ONCE; k++) {
				int at = i + k * threads, n = at % cols;

				if (at < to * cols && n < a.t)
					sum[k] += __ldcg(&a.inner[((int64_t)p * a.ranks + at / cols) * a.t + n]);
			}
#pragma unroll
		for (int k = 0; k < AT_ONCE; k++)
			if (i + k * threads < to * cols)
				inner[i + k * threads] = sum[k];
	}
}

/* Row i of the adapters' B, and which of them it is; NULL: none. */
static __device__ __forceinline__ const float *row_of_b(const struct skinny &a, int i, int *j)
{
	*j = part_of(a.ad_row, a.ad_end, a.n_ad, i);
	return *j < 0 ? NULL : a.b[*j] + (int64_t)(i - a.ad_row[*j]) * a.rank;
}

/* What the adapters add to output row i for column n of the inner values. */
static __device__ __forceinline__ float adapter_part(const struct skinny &a, int i, const float *inner, int cols, int n)
{
	int j;
	const float *b = row_of_b(a, i, &j), *s = inner + j * a.rank * cols + n;
	float sum = 0;

	if (!b)
		return 0;
	if (((uintptr_t)b & 15) == 0 && a.rank % 4 == 0) {
#pragma unroll 4
		for (int r = 0; r < a.rank; r += 4) {
			float4 v = __ldg((const float4 *)(b + r));

			sum += v.x * s[r * cols];
			sum += v.y * s[(r + 1) * cols];
			sum += v.z * s[(r + 2) * cols];
			sum += v.w * s[(r + 3) * cols];
		}
	} else {
		for (int r = 0; r < a.rank; r++)
			sum += __ldg(b + r) * s[r * cols];
	}
	return a.scale * sum;
}

/* With the adapters' part, if any: output row i. */
static __device__ __forceinline__ float scaled(const struct skinny &a, int i, float v)
{
	return a.factor ? v * __ldg(a.factor + i) : v;
}

/* Row i of B comes nearer. */
static __device__ __forceinline__ void call_b(const struct skinny &a, int i)
{
	int j;
	const float *b = i < a.out ? row_of_b(a, i, &j) : NULL;

	for (int r = 0; b && r < a.rank; r += 32)
		call_near(b + r);
}

static __device__ __forceinline__ float gated(float g, float u)
{
	return g * __fdividef(1.0f, 1.0f + __expf(-g)) * u;
}

/* The value of output row i for token n becomes y. */
static __device__ __forceinline__ void put(const struct skinny &a, int i, int n, float v)
{
	int64_t at = n * a.ldy + i;

	if (a.bias)
		v += a.bias[i];
	if (a.add)
		v += __bfloat162float(a.add[at]);
	a.y[at] = __float2bfloat16_rn(v);
}

/* --- the weights' way --- */

/* Where a warp's next stage comes from: a lane's first piece of each tile's rows, and its row's scales. */
template <int MT> struct source {
	int tile, stage;
	const char *w[MT];      /* first of the tile's rows that this lane copies, at the segment's begin */
	const uint8_t *qabsmax; /* of the part that this lane's scales are of */
	const float *absmax2;
	int block;              /* their first one's number there */
};

/* Of a lane's scales in a tile: one tile, 16 rows of two blocks; two tiles, 32 rows of one. */
template <int MT> static __device__ __forceinline__ int first_block(const struct skinny &a, int tile, int first_k, int *part)
{
	int lane = threadIdx.x % 32, row = min(tile_row<MT>(a, tile, MT == 2 ? lane / 16 : 0), a.out - 16);

	*part = part_of(a.row, a.end, a.n, row);
	return (row - a.row[*part] + lane % 16) * (a.in / 64) + first_k / 64 + (MT == 1 ? lane / 16 : 0);
}

template <int MT, bool NF4> static __device__ __forceinline__ void at_tile(struct source<MT> *s, const struct skinny &a, int first_k)
{
	enum { PER_ROW = NF4 ? (MT == 1 ? 4 : 2) : 8 };
	int lane = threadIdx.x % 32, j;

#pragma unroll
	for (int m = 0; m < MT; m++) {
		int row = min(tile_row<MT>(a, s->tile, m), a.out - 16);

		if (NF4) {
			j = part_of(a.row, a.end, a.n, row);
			s->w[m] = (const char *)a.codes[j] + ((int64_t)(row - a.row[j] + lane / PER_ROW) * a.in + first_k) / 2 + lane % PER_ROW * 16;
		} else {
			s->w[m] = (const char *)(a.dense + (row + lane / PER_ROW) * a.ldw + first_k + lane % PER_ROW * 8);
		}
	}
	if (NF4) {
		s->block = first_block<MT>(a, s->tile, first_k, &j);
		s->qabsmax = a.qabsmax[j];
		s->absmax2 = a.absmax2[j];
	}
}

static __device__ __forceinline__ void copy4(uint32_t to, const void *from)
{
	asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}

/* The next stage starts to travel: weights to `to`, its scales' raw form to scale_to; commits a group, an empty one behind the last tile. */
template <int MT, int NT, bool NF4>
static __device__ __forceinline__ void send(struct source<MT> *s, const struct skinny &a, uint32_t to, uint32_t scale_to, int tiles, int per, int first_k)
{
	typedef layout_of<MT, NT, NF4> L;
	enum { PER_ROW = L::row / 16, ROWS = 32 / PER_ROW };
	int lane = threadIdx.x % 32, r = lane / PER_ROW, c = lane % PER_ROW;

	if (s->tile < tiles) {
		int64_t step = (int64_t)ROWS * (NF4 ? a.in / 2 : a.ldw * 2);

#pragma unroll
		for (int m = 0; m < MT; m++)
#pragma unroll
			for (int i = 0; i < 16 / ROWS; i++) {
				int row = r + i * ROWS;
				/* eight lanes that read at once must not meet in a bank */
				int at = L::row == 64 ? c ^ (row >> 1 & 1) * 2 : L::row == 128 ? c ^ (row & 1) : c;

				copy16(to + (uint32_t)((m * 16 + row) * L::row + at * 16), s->w[m] + s->stage * L::row + i * step);
			}
		if (NF4) {
			int b = s->block + s->stage * L::blocks;

			if (!a.plain)
				copy4(scale_to + lane * 4, s->qabsmax + (b & ~3)); /* whole words: a matrix has a multiple of 32 blocks */
			copy4(scale_to + 128 + lane * 4, s->absmax2 + (a.plain ? b : b / NF4_BLOCK2));
		}
		if (++s->stage == per) {
			s->stage = 0;
			s->tile += gridDim.x;
			if (s->tile < tiles)
				at_tile<MT, NF4>(s, a, first_k);
		}
	}
	asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Each operation rounded once, as nf4.cu does it. */
static __device__ __forceinline__ float scale_of(float mapped, float by, float offset)
{
	return __fadd_rn(__fmul_rn(mapped, by), offset);
}

/* This lane's scale from its raw form; b: its block's number. */
static __device__ __forceinline__ float scale_here(const unsigned char *raw, const float *table, int b, float offset, bool plain)
{
	int lane = threadIdx.x % 32;
	uint32_t word = ((const uint32_t *)raw)[lane];

	return scale_of(plain ? 1.0f : table[word >> (b & 3) * 8 & 255], ((const float *)(raw + 128))[lane], plain ? 0.0f : offset);
}

/* --- products --- */

/* The levels' table, by all W warps: one load each, then lanes hand their entries round. */
template <int W> static __device__ __forceinline__ void fill_levels(unsigned char *lut)
{
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	uint32_t mine = level_pair[min(warp + W * lane, 255)];

#pragma unroll
	for (int i = 0; i < 256 / W; i++)
		*(uint32_t *)(lut + (warp + W * i) * 128 + lane * 4) = __shfl_sync(0xffffffffu, mine, i);
}

/* Eight bytes of codes to four pairs of registers: byte 2 s and 2 s + 1 of the row. */
static __device__ __forceinline__ uint32_t pair_at(const unsigned char *lut, uint32_t w, int byte, uint32_t lane4)
{
	uint32_t at = byte == 0 ? w << 7 : w >> (8 * byte - 7);

	return *(const uint32_t *)(lut + ((at & 0x7f80u) | lane4));
}

/* skinny_few.cu: whether its kernels take these shapes of NF4, and a pass of at most SKINNY_FEW tokens; one: there never are more than one. */
#define SKINNY_FEW 8
void skinny_few_open(struct device *d);
bool skinny_few_fits(const struct device *d, const struct skinny *a);
void skinny_few(struct device *d, const struct skinny *a, bool one);
/* skinny_sm90.cu: whether its kernel takes these shapes, and a pass of at most SKINNY_MANY tokens. */
#define SKINNY_MANY 64
void skinny_many_open(struct device *d);
bool skinny_many_fits(const struct device *d, const struct skinny *a);
void skinny_many(struct device *d, const struct skinny *a);

static inline bool aligned16(const void *p)
{
	return ((uintptr_t)p & 15) == 0;
}

#endif
