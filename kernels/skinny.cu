/* Few rows by weights that are read once, on tensor cores: the 16 rows of a product are outputs, its 8 columns tokens.
 *
 * The inner dimension is cut into one segment for each of a block's sixteen warps, and a segment's weights stream through
 * the warp's own ring in shared memory, without a barrier, over all tiles of the block. NF4's codes become pairs of bf16
 * levels by a table of all 256 bytes, kept once for each lane so that no two lanes meet in a bank; the sum of each
 * block of 64 is then multiplied by its scale. The warps' sums are folded in order.
 *
 * Which k of a block of 64 a lane has is free, as long as weights and x agree: lane 4 g + t has elements 16 t .. 16 t + 15
 * of rows g and g + 8, eight bytes of codes each, and of token g.
 *
 * x A^T of the adapters is the first blocks' first work, while their weights are on the way; the others wait for it
 * before they write. */
#include "kernels/cuda.cuh"

#include <string.h>

extern "C" {
#include "kernels/dynmap.h"
}

#define WARPS 16
#define THREADS (32 * WARPS)
#define LUT_BYTES (256 * 32 * 4)
#define MOST 16 /* tokens of one pass */

static __device__ uint32_t level_pair[256]; /* bf16 levels of a byte's two codes, the first one low */
static __device__ float level[16], map[256];

int skinny_open(struct device *d, struct err *e)
{
	uint32_t pair[256];

	(void)e;
	for (int i = 0; i < 256; i++) {
		__nv_bfloat162 p = __floats2bfloat162_rn(nf4_levels[i >> 4], nf4_levels[i & 15]);

		memcpy(&pair[i], &p, sizeof(pair[i]));
	}
	if (cudaMemcpyToSymbol(level_pair, pair, sizeof(pair)) != cudaSuccess || cudaMemcpyToSymbol(map, dynmap_signed, sizeof(map)) != cudaSuccess ||
	    cudaMemcpyToSymbol(level, nf4_levels, sizeof(level)) != cudaSuccess)
		cuda_note(d, cudaGetLastError(), "the tables of NF4");
	return 0;
}

struct skinny {
	const bf16 *x, *add, *dense;
	bf16 *y;
	const float *bias;
	int64_t ldx, ldy, ldw;
	int t, in, out, f; /* f: outputs of the gate, 0: none */
	int n, row[KN_PARTS], end[KN_PARTS];
	const uint8_t *codes[KN_PARTS], *qabsmax[KN_PARTS];
	const float *absmax2[KN_PARTS];
	float offset[KN_PARTS];
	bool plain; /* one level of scales: the code is the map's 1 (255), the offset 0 */
	/* adapters */
	int n_ad, rank, ranks, pieces, jobs, ad_row[KN_PARTS], ad_end[KN_PARTS];
	float scale;
	const float *a, *b[KN_PARTS];
	uint32_t *count; /* jobs done, blocks done */
	float *inner;    /* (pieces, ranks, t) */
};

/* Bytes of shared memory: table, rings, scales, sums; the adapters' inner values follow. MT: tiles of 16 rows at a time. */
template <int MT, int NT, bool NF4> struct layout_of {
	static const int blocks = NF4 && MT == 1 ? 2 : 1; /* of 64 in a stage */
	static const int row = NF4 ? 32 * blocks : 128;   /* bytes of a row in it */
	static const int stages = NF4 || MT == 1 ? 3 : 2;
	static const int lut = NF4 ? LUT_BYTES : 0, stage = MT * 16 * row, ring = WARPS * stages * stage;
	static const int scale = NF4 ? WARPS * stages * 32 * 4 : 0, red = WARPS * MT * 16 * NT * 8 * 4, all = lut + ring + scale + red;
};


static __device__ __forceinline__ void copy16(uint32_t to, const void *from)
{
	asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

static __device__ __forceinline__ void mma16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
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

#pragma unroll
	for (int b = 0; b < KN_SKINNY_PIECE / 64 / W; b++) {
		int k = piece * KN_SKINNY_PIECE + (b * W + warp) * 64 + t * 16;
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

/* One thread waits for all jobs; a barrier after it is the caller's. */
static __device__ __forceinline__ void await_inner(const struct skinny &a)
{
	uint32_t done;

	do
		asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(done) : "l"(a.count) : "memory");
	while (done < (uint32_t)a.jobs);
}

/* The inner values (ranks, cols) of all pieces together, in shared memory; zero behind the last token. */
static __device__ __forceinline__ void fold_inner(const struct skinny &a, float *inner, int cols, int threads)
{
	for (int i = threadIdx.x; i < a.ranks * cols; i += threads) {
		int r = i / cols, n = i % cols;
		float sum = 0;

#pragma unroll 8
		for (int p = 0; p < a.pieces; p++)
			sum += n < a.t ? __ldcg(&a.inner[((int64_t)p * a.ranks + r) * a.t + n]) : 0;
		inner[i] = sum;
	}
}

/* Row i of the adapters' B, and which of them it is; NULL: none. */
static __device__ __forceinline__ const float *row_of_b(const struct skinny &a, int i, int *j)
{
	const float *b = a.b[0] + (int64_t)(i - a.ad_row[0]) * a.rank;

	*j = part_of(a.ad_row, a.ad_end, a.n_ad, i);
#pragma unroll
	for (int k = 1; k < KN_PARTS; k++) /* registers and parameters want a constant index */
		if (*j == k)
			b = a.b[k] + (int64_t)(i - a.ad_row[k]) * a.rank;
	return *j < 0 ? NULL : b;
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

/* Row i of B comes nearer. */
static __device__ __forceinline__ void call_b(const struct skinny &a, int i)
{
	int j;
	const float *b = i < a.out ? row_of_b(a, i, &j) : NULL;

	for (int r = 0; b && r < a.rank; r += 32)
		asm volatile("prefetch.global.L2 [%0];" ::"l"(b + r));
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
template <int MT, bool NF4> struct source {
	int tile, stage;
	const char *w[MT];         /* first of the tile's rows that this lane copies, at the segment's begin */
	const uint8_t *qabsmax;    /* of this lane's row, at the segment's begin */
	const float *absmax2;
	int block;                 /* its number there */
	float offset;
};

template <int MT, bool NF4> static __device__ __forceinline__ void at_tile(struct source<MT, NF4> *s, const struct skinny &a, int first_k)
{
	enum { PER_ROW = NF4 ? (MT == 1 ? 4 : 2) : 8 };
	int lane = threadIdx.x % 32;

#pragma unroll
	for (int m = 0; m < MT; m++) {
		int row = min(tile_row<MT>(a, s->tile, m), a.out - 16), j = part_of(a.row, a.end, a.n, row);

		if (!NF4) {
			s->w[m] = (const char *)(a.dense + (row + lane / PER_ROW) * a.ldw + first_k + lane % PER_ROW * 8);
			continue;
		}
		s->w[m] = (const char *)a.codes[0] + ((int64_t)(row - a.row[0] + lane / PER_ROW) * a.in + first_k) / 2 + lane % PER_ROW * 16;
#pragma unroll
		for (int k = 1; k < KN_PARTS; k++)
			if (j == k)
				s->w[m] = (const char *)a.codes[k] + ((int64_t)(row - a.row[k] + lane / PER_ROW) * a.in + first_k) / 2 + lane % PER_ROW * 16;
		/* one tile: lanes are 16 rows of two blocks; two tiles: 32 rows of one */
		if (MT == 2 && m != lane / 16)
			continue;
		s->qabsmax = a.qabsmax[0], s->absmax2 = a.absmax2[0], s->offset = a.offset[0];
		s->block = (row - a.row[0] + lane % 16) * (a.in / 64) + first_k / 64 + (MT == 1 ? lane / 16 : 0);
#pragma unroll
		for (int k = 1; k < KN_PARTS; k++)
			if (j == k) {
				s->qabsmax = a.qabsmax[k], s->absmax2 = a.absmax2[k], s->offset = a.offset[k];
				s->block = (row - a.row[k] + lane % 16) * (a.in / 64) + first_k / 64 + (MT == 1 ? lane / 16 : 0);
			}
	}
}

/* A scale on its way: its code and what it is multiplied by. */
struct pending {
	uint32_t code;
	float by, offset;
};

static __device__ __forceinline__ float scale_of(const struct pending &p)
{
	return __fadd_rn(__fmul_rn(map[p.code], p.by), p.offset);
}

/* The next stage starts to travel to ring slot `to`; commits a group, an empty one behind the last tile. */
template <int MT, int NT, bool NF4>
static __device__ __forceinline__ void send(struct source<MT, NF4> *s, const struct skinny &a, uint32_t to, int tiles, int per, int first_k, struct pending *p)
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

			p->code = a.plain ? 255u : (uint32_t)__ldg(s->qabsmax + b);
			p->by = __ldg(s->absmax2 + (a.plain ? b : b / NF4_BLOCK2));
			p->offset = s->offset;
		}
		if (++s->stage == per) {
			s->stage = 0;
			s->tile += gridDim.x;
			if (s->tile < tiles)
				at_tile(s, a, first_k);
		}
	}
	asm volatile("cp.async.commit_group;" ::: "memory");
}

/* --- products --- */

/* Eight bytes of codes to four pairs of registers: byte 2 s and 2 s + 1 of the row. */
static __device__ __forceinline__ uint32_t pair_at(const unsigned char *lut, uint32_t w, int byte, uint32_t lane4)
{
	uint32_t at = byte == 0 ? w << 7 : w >> (8 * byte - 7);

	return *(const uint32_t *)(lut + ((at & 0x7f80u) | lane4));
}

/* A stage's rows by x: one block of 64. */
template <int MT, int NT, bool NF4>
static __device__ __forceinline__ void multiply(float acc[MT][NT][4], const unsigned char *lut, const unsigned char *stage, const float *scale, int b,
                                                const uint32_t x[NT][8])
{
	typedef layout_of<MT, NT, NF4> L;
	int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

#pragma unroll
	for (int m = 0; m < MT; m++) {
		uint32_t f[4][4];

#pragma unroll
		for (int h = 0; h < 2; h++) {
			int row = m * 16 + g + 8 * h;

			if (NF4) {
				int piece = b * 2 + t / 2;
				uint2 w = *(const uint2 *)(stage + row * L::row + (L::row == 64 ? piece ^ (row >> 1 & 1) * 2 : piece) * 16 + t % 2 * 8);

#pragma unroll
				for (int s = 0; s < 4; s++) {
					f[s][h] = pair_at(lut, s < 2 ? w.x : w.y, s % 2 * 2, (uint32_t)lane * 4);
					f[s][2 + h] = pair_at(lut, s < 2 ? w.x : w.y, s % 2 * 2 + 1, (uint32_t)lane * 4);
				}
			} else {
#pragma unroll
				for (int i = 0; i < 2; i++) {
					uint4 w = *(const uint4 *)(stage + row * 128 + ((t * 2 + i) ^ (row & 1)) * 16);

					f[2 * i][h] = w.x, f[2 * i][2 + h] = w.y;
					f[2 * i + 1][h] = w.z, f[2 * i + 1][2 + h] = w.w;
				}
			}
		}
#pragma unroll
		for (int n = 0; n < NT; n++) {
			if (NF4) {
				float part[4] = { 0 };
				const float *sc = scale + (MT == 1 ? b * 16 : m * 16) + g;

#pragma unroll
				for (int s = 0; s < 4; s++)
					mma16(part, f[s], x[n][2 * s], x[n][2 * s + 1]);
#pragma unroll
				for (int e = 0; e < 4; e++)
					acc[m][n][e] += sc[e / 2 * 8] * part[e];
			} else {
#pragma unroll
				for (int s = 0; s < 4; s++)
					mma16(acc[m][n], f[s], x[n][2 * s], x[n][2 * s + 1]);
			}
		}
	}
}

/* The tile's outputs from the warps' sums: neighbours first, then in order. */
template <int MT, int NT> static __device__ __forceinline__ void finish(const struct skinny &a, const float *red, const float *inner, int tile)
{
	enum { COLS = NT * 8, ALL = MT * 16 * COLS };
	int rows = a.f ? 16 : MT * 16;

	for (int i = threadIdx.x; i < rows * COLS; i += THREADS) {
		int r = i / COLS, n = i % COLS, row = a.f ? tile * 16 + r : tile * MT * 16 + r;
		float v[2] = { 0, 0 };

		if (n >= a.t || row >= a.out)
			continue;
#pragma unroll
		for (int h = 0; h < MT; h++) {
			if (h && !a.f)
				break;
#pragma unroll
			for (int w = 0; w < WARPS; w += 2)
				v[h] += red[w * ALL + h * 16 * COLS + i] + red[(w + 1) * ALL + h * 16 * COLS + i];
			if (a.jobs)
				v[h] += adapter_part(a, row + h * a.f, inner, COLS, n);
		}
		if (a.f)
			a.y[n * a.ldy + row] = __float2bfloat16_rn(gated(v[0], v[1]));
		else
			put(a, row, n, v[0]);
	}
}

template <int MT, int NT, bool NF4>
static __global__ void __launch_bounds__(THREADS, NT == 1 ? 2 : 1) skinny_kernel(const __grid_constant__ struct skinny a, int tiles)
{
	extern __shared__ __align__(128) unsigned char smem[];
	typedef layout_of<MT, NT, NF4> L;
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
	unsigned char *ring = smem + L::lut + warp * L::stages * L::stage;
	float *scale = (float *)(smem + L::lut + L::ring) + warp * L::stages * 32, *red = (float *)(smem + L::lut + L::ring + L::scale);
	float *inner = (float *)(smem + L::all);
	uint32_t ring_at = (uint32_t)__cvta_generic_to_shared(ring);
	/* segments in whole units of 128 (64 for dense weights); stages of L::blocks blocks */
	int units = a.in / (NF4 ? 128 : 64), from = units * warp / WARPS, per = units * (warp + 1) / WARPS - from;
	int first_k = from * (NF4 ? 128 : 64), slot = 0;
	struct source<MT, NF4> src;
	struct pending next = { 0, 0, 0 };
	bool waited = a.jobs == 0;

	let_next();
	per = NF4 && MT == 2 ? 2 * per : per;
	src.tile = per ? (int)blockIdx.x : tiles;
	src.stage = 0;
	if (src.tile < tiles)
		at_tile(&src, a, first_k);
#pragma unroll
	for (int i = 0; i < L::stages - 1; i++) {
		send<MT, NT, NF4>(&src, a, ring_at + i * L::stage, tiles, per, first_k, &next);
		if (NF4 && i < L::stages - 2)
			scale[i * 32 + lane] = scale_of(next);
	}
	if (NF4)
		for (int e = warp; e < 256; e += WARPS)
			*(uint32_t *)(smem + e * 128 + lane * 4) = level_pair[e];
	__syncthreads();
	follow_previous();
	for (int job = blockIdx.x; job < a.jobs; job += gridDim.x)
		inner_job<NT, WARPS>(a, job, red);
	for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
		float acc[MT][NT][4] = { 0 };

		if (a.jobs && threadIdx.x < MT * 16)
			call_b(a, tile_row<MT>(a, tile, threadIdx.x / 16) + threadIdx.x % 16);
		for (int st = 0; st < per; st++) {
			uint32_t x[L::blocks][NT][8];
			int after = slot + 1 == L::stages ? 0 : slot + 1, ahead = slot ? slot - 1 : L::stages - 1;
			struct pending old = next; /* of the stage after this one: two steps under way, by now it is here */

#pragma unroll
			for (int b = 0; b < L::blocks; b++)
#pragma unroll
				for (int n = 0; n < NT; n++)
					take_x(x[b][n], a.x + (8 * n + g) * a.ldx + first_k + (st * L::blocks + b) * 64 + t * 16, 8 * n + g < a.t);
			asm volatile("cp.async.wait_group %0;" ::"n"(L::stages - 2) : "memory");
			__syncwarp();
			send<MT, NT, NF4>(&src, a, ring_at + ahead * L::stage, tiles, per, first_k, &next);
#pragma unroll
			for (int b = 0; b < L::blocks; b++)
				multiply<MT, NT, NF4>(acc, smem, ring + slot * L::stage, scale + slot * 32, b, x[b]);
			if (NF4)
				scale[after * 32 + lane] = scale_of(old);
			slot = after;
		}
		__syncthreads(); /* the last tile's sums have been read */
#pragma unroll
		for (int m = 0; m < MT; m++)
#pragma unroll
			for (int n = 0; n < NT; n++)
#pragma unroll
				for (int h = 0; h < 2; h++)
					*(float2 *)(red + ((warp * MT + m) * 16 + g + 8 * h) * NT * 8 + 8 * n + 2 * t) = make_float2(acc[m][n][2 * h], acc[m][n][2 * h + 1]);
		if (!waited && threadIdx.x == 0)
			await_inner(a);
		__syncthreads();
		if (!waited) {
			fold_inner(a, inner, NT * 8, THREADS);
			__syncthreads();
		}
		waited = true;
		finish<MT, NT>(a, red, inner, tile);
	}
	/* the last block to have waited sets the counters back */
	if (a.jobs && threadIdx.x == 0 && atomicInc(&a.count[1], gridDim.x - 1) == gridDim.x - 1)
		atomicExch(&a.count[0], 0u);
}

#include "kernels/skinny_many.cuh" /* stands on what is above */

/* --- any shape: a block a row of outputs --- */

#define PLAIN 128

static __device__ float weight_at(const struct skinny &a, int row, int k)
{
	int j = a.dense ? -1 : part_of(a.row, a.end, a.n, row);
	int64_t at;
	struct pending p;
	uint8_t c;

	if (j < 0)
		return __bfloat162float(a.dense[(int64_t)row * a.ldw + k]);
	at = (int64_t)(row - a.row[j]) * a.in + k;
	c = at % 2 ? a.codes[j][at / 2] & 15 : a.codes[j][at / 2] >> 4;
	at /= NF4_BLOCK;
	p = { a.plain ? 255u : (uint32_t)a.qabsmax[j][at], a.absmax2[j][a.plain ? at : at / NF4_BLOCK2], a.offset[j] };
	return level[c] * scale_of(p);
}

static __global__ void __launch_bounds__(PLAIN) plain_inner(const __grid_constant__ struct skinny a)
{
	__shared__ float shared[33];
	int r = blockIdx.x, n = blockIdx.y;
	float sum = 0;

	for (int k = threadIdx.x; k < a.in; k += PLAIN)
		sum += a.a[(int64_t)r * a.in + k] * __bfloat162float(a.x[n * a.ldx + k]);
	sum = block_sum(sum, shared);
	if (threadIdx.x == 0)
		a.inner[(int64_t)r * a.t + n] = sum;
}

static __global__ void __launch_bounds__(PLAIN) plain_kernel(const __grid_constant__ struct skinny a)
{
	__shared__ float shared[33];
	int row = blockIdx.x;

	for (int n = 0; n < a.t; n++) {
		float v[2] = { 0, 0 };

		for (int k = threadIdx.x; k < a.in; k += PLAIN) {
			float x = __bfloat162float(a.x[n * a.ldx + k]);

			v[0] += weight_at(a, row, k) * x;
			if (a.f)
				v[1] += weight_at(a, row + a.f, k) * x;
		}
		v[0] = block_sum(v[0], shared);
		v[1] = a.f ? block_sum(v[1], shared) : 0;
		if (threadIdx.x)
			continue;
		v[0] += a.n_ad ? adapter_part(a, row, a.inner, a.t, n) : 0;
		if (a.f)
			a.y[n * a.ldy + row] = __float2bfloat16_rn(gated(v[0], v[1] + (a.n_ad ? adapter_part(a, row + a.f, a.inner, a.t, n) : 0)));
		else
			put(a, row, n, v[0]);
	}
}

static void plain(struct device *d, struct skinny *a)
{
	cudaStream_t st = cuda_of(d)->stream;

	a->pieces = 1; /* whole rows at once */
	if (a->n_ad)
		plain_inner<<<dim3((unsigned)a->ranks, (unsigned)a->t), PLAIN, 0, st>>>(*a);
	plain_kernel<<<(unsigned)(a->f ? a->f : a->out), PLAIN, 0, st>>>(*a);
}

/* --- host --- */

template <int MT, int NT, bool NF4> static void launch(struct device *d, const struct skinny *a)
{
	int tiles = a->f ? a->f / 16 : (a->out + 16 * MT - 1) / (16 * MT), sms = cuda_of(d)->sms;
	int shared = layout_of<MT, NT, NF4>::all + a->ranks * NT * 8 * (int)sizeof(float);

	cudaFuncSetAttribute(skinny_kernel<MT, NT, NF4>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
	launch_after(d, skinny_kernel<MT, NT, NF4>, dim3((unsigned)(tiles < sms ? tiles : sms)), THREADS, (size_t)shared, *a, tiles);
}

/* Two tiles at a time read x half as often, where that leaves no multiprocessor longer at work. */
static bool two_tiles(const struct skinny *a, int sms)
{
	int one = (a->out / 16 + sms - 1) / sms, two = 2 * ((a->out / 32 + sms - 1) / sms);

	return a->f || (a->t > 2 && two <= one);
}

static void fast(struct device *d, const struct skinny *a)
{
	bool two = two_tiles(a, cuda_of(d)->sms), many = a->t > 8;

	if (a->dense) {
		if (two)
			many ? launch<2, 2, false>(d, a) : launch<2, 1, false>(d, a);
		else
			many ? launch<1, 2, false>(d, a) : launch<1, 1, false>(d, a);
	} else {
		if (two)
			many ? launch<2, 2, true>(d, a) : launch<2, 1, true>(d, a);
		else
			many ? launch<1, 2, true>(d, a) : launch<1, 1, true>(d, a);
	}
}

/* Shapes of the tensor cores' kernel: whole tiles of rows in each part, whole units of columns, pieces of 16 bytes. */
static bool fits(const struct device *d, const struct skinny *a)
{
	bool ok = a->in % 128 == 0 && eights(a->x, a->ldx) && a->out % 16 == 0 && a->f % 16 == 0 && aligned(a->a);
	int room = 0;

	cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, d->index);
	room -= a->ranks * MOST * (int)sizeof(float);
	if (a->dense)
		return ok && eights(a->dense, a->ldw) && room >= layout_of<2, 2, false>::all;
	for (int j = 0; j < a->n; j++)
		ok = ok && a->row[j] % 16 == 0 && (a->end[j] - a->row[j]) % 16 == 0 && aligned(a->codes[j]);
	return ok && room >= layout_of<2, 2, true>::all;
}

static struct skinny args_of(const struct device *d, const struct kn_skinny *s)
{
	const struct kn_adapters *ad = &s->adapters;
	struct skinny a;

	(void)d;
	memset(&a, 0, sizeof(a));
	a.x = (const bf16 *)s->x, a.ldx = s->ldx;
	a.y = (bf16 *)s->y, a.ldy = s->ldy;
	a.add = (const bf16 *)s->add;
	a.bias = s->bias;
	a.dense = (const bf16 *)s->dense, a.ldw = s->ldw;
	a.in = (int)s->in, a.out = (int)s->out, a.f = s->gated ? (int)s->out / 2 : 0;
	a.n = s->dense ? 0 : s->n;
	a.plain = a.n && s->q[0].plain;
	for (int j = 0; j < a.n; j++) {
		a.row[j] = (int)s->row[j], a.end[j] = (int)(s->row[j] + s->rows[j]);
		a.codes[j] = s->q[j].codes, a.qabsmax[j] = s->q[j].qabsmax, a.absmax2[j] = s->q[j].absmax2, a.offset[j] = a.plain ? 0 : s->q[j].offset;
	}
	a.n_ad = ad->n, a.rank = (int)ad->rank, a.ranks = (int)(ad->n * ad->rank), a.scale = ad->scale, a.a = ad->a;
	for (int j = 0; j < ad->n; j++)
		a.b[j] = ad->b[j], a.ad_row[j] = (int)ad->row[j], a.ad_end[j] = (int)(ad->row[j] + ad->rows[j]);
	a.pieces = (int)kn_skinny_pieces(s->in);
	a.jobs = (a.ranks + 15) / 16 * a.pieces;
	a.count = (uint32_t *)s->scratch;
	a.inner = (float *)((char *)s->scratch + KN_SKINNY_COUNTERS);
	return a;
}

/* How many tokens a pass takes, and by which kernel, follows from the planned number of them, so that bits do. */
void kn_skinny_cuda(struct device *d, const struct kn_skinny *s)
{
	struct skinny a = args_of(d, s);
	bool whole = fits(d, &a), wide = whole && s->planned > MOST && fits_many(d, &a);
	int64_t most = wide ? M_COLS : MOST;

	for (int64_t i = 0; i < s->t; i += most) {
		a.t = (int)(s->t - i < most ? s->t - i : most);
		if (wide)
			many(d, &a);
		else if (whole)
			fast(d, &a);
		else
			plain(d, &a);
		a.x += most * a.ldx;
		a.y += most * a.ldy;
		a.add = a.add ? a.add + most * a.ldy : NULL;
	}
	cuda_launched(d, "skinny");
}
