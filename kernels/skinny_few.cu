/* skinny.h for NF4 and up to 8 tokens, where what is least is the way to shared memory, not the codes' bytes: each pair of
 * levels is a look-up, and everything else has to keep out of its way.
 *
 * A block's warps share a tile of 16 rows: each has a segment of the inner dimension, which it walks straight from global memory
 * into registers, one chunk ahead, over all tiles of the block. Codes become pairs of bf16 levels by a table whose entries
 * are 256 bytes apart, so that one byte permutation makes an address; each has a copy for each lane, and the second level of the
 * scales the same in its other half. x stays in registers. The warps' sums wait in shared memory and are folded, in their
 * order, for several tiles at once. A gate's tile is eight rows of it and the same eight of what it gates.
 *
 * Lane 4 g + t reads 16 bytes of rows g and g + 8 at a time, so that a pair of blocks of 64 is in four lanes: the first in those of t
 * 0 and 1. Which k of a block a lane has is free, as long as weights and x agree.
 *
 * One token (one_kernel): the eight columns of a product are not tokens but blocks of 64. Column n has block n of a chunk of 512,
 * and zeros where lanes have the pair's other block, so that the same x serves all of the chunk, the sums of pair j are in lanes
 * t = j alone, and a lane needs the scales of its own pair only.
 * More (few_kernel): columns are tokens, and lanes exchange half of what they read, so that a product has one block of each row. */
#include "kernels/skinny.cuh"

#define F_TABLE (256 * 256)
/* Shared addresses: the table begins at one that is known when this is compiled, behind what the system keeps for itself, so
 * that it is part of an instruction. Launched without a cluster, a block's addresses begin at 0. */
#define F_AT 2048
#define F_ROUND 8 /* tiles whose sums wait to be folded together, at most */
#define ONE_WARPS 8
#define FEW_WARPS 16
#define GROUP 4   /* tiles that few_kernel walks together where a warp has several chunks, each with the same x */

void skinny_few_open(struct device *d)
{
	open_tables(d);
}

/* --- where codes and scales are --- */

/* Half of a tile: eight rows of one part. */
struct __align__(16) half_tile {
	const uint8_t *codes; /* of its first row */
	const uint8_t *q;     /* of the whole part */
	const float *by;
	int block;            /* number of the first row's first scale in the part */
	float offset;
};

static __device__ __forceinline__ int half_row(const struct skinny &a, int tile, int half)
{
	return a.f ? half * a.f + tile * 8 : tile * 16 + half * 8;
}

static __device__ __forceinline__ struct half_tile half_of(const struct skinny &a, int tile, int half)
{
	int row = half_row(a, tile, half), j = part_of(a.row, a.end, a.n, row);
	struct half_tile h;

	row -= a.row[j];
	h.codes = a.codes[j] + (int64_t)row * (a.in / 2);
	h.q = a.qabsmax[j];
	h.by = a.absmax2[j];
	h.block = row * (a.in / 64);
	h.offset = a.offset[j];
	return h;
}

/* The halves of this block's tiles [from, from + F_ROUND), in a ring that holds twice as many. */
static __device__ __forceinline__ void describe(const struct skinny &a, struct half_tile *ring, int from, int tiles)
{
	int i = from + (int)threadIdx.x / 2, tile = (int)blockIdx.x + i * (int)gridDim.x, half = threadIdx.x % 2;

	if (threadIdx.x < 2 * F_ROUND && tile < tiles)
		ring[i % (2 * F_ROUND) * 2 + half] = half_of(a, tile, half);
}

/* A warp's segment: pairs of blocks. */
struct segment {
	int first_k, pairs, chunks;
};

template <int WARPS_, int PAIRS> static __device__ __forceinline__ struct segment segment_of(const struct skinny &a)
{
	int all = a.in / 128, warp = threadIdx.x / 32, from = all * warp / WARPS_;
	struct segment s = { from * 128, all * (warp + 1) / WARPS_ - from, 0 };

	s.chunks = (s.pairs + PAIRS - 1) / PAIRS;
	return s;
}

/* Read once: nothing of it is kept near, and the rest of the line comes along. */
static __device__ __forceinline__ uint4 read_once(const uint8_t *p)
{
	uint4 v;

	asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
	return v;
}

/* The scales of two blocks side by side, as they lie in memory. */
struct raw_scales {
	uint32_t q;
	float by, second, offset; /* one level of scales: by and second they themselves */
};

template <bool PLAIN> static __device__ __forceinline__ void read_scales(struct raw_scales *s, const struct half_tile &h, int block)
{
	s->offset = h.offset;
	if (PLAIN) {
		float2 v = __ldg((const float2 *)(h.by + block));

		s->by = v.x, s->second = v.y;
	} else {
		s->q = __ldg((const uint16_t *)(h.q + block));
		s->by = __ldg(h.by + (uint32_t)block / NF4_BLOCK2);
	}
}

/* --- the table --- */

/* Entry i: a byte's two levels for each lane, then the second level's value of the same byte. */
static __device__ __forceinline__ void fill_table(unsigned char *table)
{
	for (int i = threadIdx.x; i < 256; i += blockDim.x) {
		uint32_t pair = level_pair[i], mapped = __float_as_uint(map[i]);

#pragma unroll
		for (int k = 0; k < 16; k++) {
			int c = (k + i) % 16; /* threads side by side write to different banks */
			uint32_t v = c < 8 ? pair : mapped;

			*(uint4 *)(table + i * 256 + c * 16) = make_uint4(v, v, v, v);
		}
	}
}

/* Where byte b of w has its entry, for this lane: lane4 is four times its number. */
static __device__ __forceinline__ uint32_t entry(uint32_t w, int b, uint32_t lane4)
{
	return __byte_perm(w, lane4, 0x5504 + b * 16);
}

static __device__ __forceinline__ uint32_t levels_at(uint32_t w, int b, uint32_t lane4)
{
	uint32_t v;

	asm volatile("ld.shared.u32 %0, [%1+%2];" : "=r"(v) : "r"(entry(w, b, lane4)), "n"(F_AT));
	return v;
}

static __device__ __forceinline__ float mapped_at(uint32_t w, int b, uint32_t lane4)
{
	float v;

	asm volatile("ld.shared.f32 %0, [%1+%2];" : "=f"(v) : "r"(entry(w, b, lane4)), "n"(F_AT + 128));
	return v;
}

template <bool PLAIN> static __device__ __forceinline__ float2 scales(const struct raw_scales &s, uint32_t lane4)
{
	if (PLAIN)
		return make_float2(s.by, s.second);
	return make_float2(scale_of(mapped_at(s.q, 0, lane4), s.by, s.offset), scale_of(mapped_at(s.q, 1, lane4), s.by, s.offset));
}

/* part += two words of rows g and g + 8 by 16 of x. */
static __device__ __forceinline__ void product8(float part[4], uint32_t top, uint32_t bottom, const uint32_t x[4], uint32_t lane4)
{
#pragma unroll
	for (int s = 0; s < 2; s++) {
		const uint32_t f[4] = { levels_at(top, 2 * s, lane4), levels_at(bottom, 2 * s, lane4), levels_at(top, 2 * s + 1, lane4), levels_at(bottom, 2 * s + 1, lane4) };

		mma16(part, f, x[2 * s], x[2 * s + 1]);
	}
}

static __device__ __forceinline__ void take8(uint32_t to[4], const bf16 *x)
{
	uint4 v = *(const uint4 *)x;

	to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

/* --- tiles' ends --- */

/* Outputs of n tiles, first of which is the given one, from sums (tile, warp, 16 rows, cols). */
template <int WARPS_>
static __device__ __forceinline__ void finish_round(const struct skinny &a, const float *red, const float *inner, int first, int n, int cols)
{
	int rows = a.f ? 8 : 16, all = n * rows * a.t;

	for (int i = threadIdx.x; i < all; i += 32 * WARPS_) {
		int token = i % a.t, r = i / a.t % rows, k = i / a.t / rows, tile = first + k * (int)gridDim.x, row = half_row(a, tile, 0) + r;
		const float *sums = red + (k * WARPS_ * 16 + r) * cols + token;
		float v = 0, u = 0;

#pragma unroll
		for (int w = 0; w < WARPS_; w++)
			v += sums[w * 16 * cols];
		if (a.jobs)
			v += adapter_part(a, row, inner, cols, token);
		if (!a.f) {
			put(a, row, token, v);
			continue;
		}
#pragma unroll
		for (int w = 0; w < WARPS_; w++)
			u += sums[(w * 16 + 8) * cols];
		if (a.jobs)
			u += adapter_part(a, row + a.f, inner, cols, token);
		a.y[token * a.ldy + row] = __float2bfloat16_rn(gated(v, u));
	}
}

/* The adapters' rows for a round come nearer. */
static __device__ __forceinline__ void call_round(const struct skinny &a, int first, int tiles, int round)
{
	for (int i = threadIdx.x; a.jobs && i < round * 16; i += blockDim.x) {
		int tile = first + i / 16 * (int)gridDim.x;

		if (tile < tiles)
			call_b(a, half_row(a, tile, i % 16 / 8) + i % 8);
	}
}

/* What a block is beside its products: tables, the adapters' jobs, and the ends of rounds. */
struct frame {
	unsigned char *table;
	struct half_tile *ring;
	float *red, *inner;
	int tiles, mine, round, cols, in_round; /* mine: tiles of this block, every gridDim.x-th */
	bool waited;
};

static __device__ __forceinline__ struct frame frame_of(const struct skinny &a, unsigned char *smem, int tiles, int round, int cols, int warps)
{
	struct frame f;

	f.table = smem + (F_AT - ((uint32_t)__cvta_generic_to_shared(smem) & 0xffffff));
	f.ring = (struct half_tile *)(f.table + F_TABLE);
	f.red = (float *)(f.ring + 4 * F_ROUND);
	f.inner = f.red + round * warps * 16 * cols;
	f.tiles = tiles, f.round = round, f.cols = cols, f.in_round = 0;
	f.mine = (tiles - 1 - (int)blockIdx.x) / (int)gridDim.x + 1;
	f.waited = a.jobs == 0;
	return f;
}

/* Everything before the first product; the warps' first codes are on their way. */
template <int WARPS_> static __device__ __forceinline__ void begin(const struct skinny &a, const struct frame &f)
{
	fill_table(f.table);
	describe(a, f.ring, 0, f.tiles);
	describe(a, f.ring, F_ROUND, f.tiles);
	if ((int)blockIdx.x < a.jobs)
		call_a(a, blockIdx.x, 32 * WARPS_);
	call_round(a, blockIdx.x, f.tiles, f.round);
	__syncthreads();
	follow_previous();
	for (int job = blockIdx.x; job < a.jobs; job += gridDim.x)
		inner_job<1, WARPS_>(a, job, f.red);
}

/* The warp's sums of tile i of the block are kept; a round is folded when it is full. */
template <int WARPS_> static __device__ __forceinline__ void tile_done(const struct skinny &a, struct frame *f, int i)
{
	int tile = (int)blockIdx.x + i * (int)gridDim.x;
	bool last = i + 1 == f->mine;

	if (++f->in_round < f->round && !last)
		return;
	if (!f->waited && threadIdx.x == 0)
		await_inner(a);
	__syncthreads();
	if (!f->waited) {
		fold_inner(a, f->inner, 0, a.ranks, f->cols, 32 * WARPS_);
		__syncthreads();
	}
	f->waited = true;
	finish_round<WARPS_>(a, f->red, f->inner, tile - (f->in_round - 1) * (int)gridDim.x, f->in_round, f->cols);
	f->in_round = 0;
	if (last)
		return;
	if ((i + 1) % F_ROUND == 0)
		describe(a, f->ring, i + 1 + F_ROUND, f->tiles);
	call_round(a, tile + gridDim.x, f->tiles, f->round);
	__syncthreads(); /* the sums have been read, the ring has been filled */
}

/* The last block to have waited sets the counters back. */
static __device__ __forceinline__ void end(const struct skinny &a)
{
	if (a.jobs && threadIdx.x == 0 && atomicInc(&a.count[1], gridDim.x - 1) == gridDim.x - 1)
		atomicExch(&a.count[0], 0u);
}

/* --- one token --- */

struct one_chunk {
	uint4 codes[4][2];        /* pair, half of the tile */
	struct raw_scales raw[2]; /* of rows g and g + 8, the pair that this lane has the sums of */
};

/* A chunk of 512 columns of a tile. */
struct one_step {
	int tile, chunk, pairs; /* pairs 0: none */
	const uint8_t *codes[2];
};

static __device__ __forceinline__ void one_find(struct one_step *s, const struct segment &g, const struct half_tile *h, int in)
{
	int lane = threadIdx.x % 32;

	s->pairs = min(4, g.pairs - 4 * s->chunk);
#pragma unroll
	for (int i = 0; i < 2; i++)
		s->codes[i] = h[i].codes + ((lane / 4 * in + g.first_k) / 2 + s->chunk * 256 + lane % 4 * 16);
}

static __device__ __forceinline__ void one_codes(struct one_chunk *c, const struct one_step &s, int j)
{
	c->codes[j][0] = read_once(s.codes[0] + 64 * j);
	c->codes[j][1] = read_once(s.codes[1] + 64 * j);
}

template <bool PLAIN>
static __device__ __forceinline__ void one_scales(struct one_chunk *c, const struct one_step &s, const struct segment &g, const struct half_tile *h, int in)
{
	int lane = threadIdx.x % 32, at = lane / 4 * (in / 64) + g.first_k / 64 + s.chunk * 8 + min(lane % 4, s.pairs - 1) * 2;

#pragma unroll
	for (int i = 0; i < 2; i++)
		read_scales<PLAIN>(&c->raw[i], h[i], h[i].block + at);
}

/* Column g's block of the chunk, where this lane has that block of its pair. */
static __device__ __forceinline__ void one_x(uint32_t x[16], const bf16 *from, int pairs)
{
	int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

#pragma unroll
	for (int i = 0; i < 16; i++)
		x[i] = 0;
	if (t / 2 != g % 2 || g / 2 >= pairs)
		return;
#pragma unroll
	for (int i = 0; i < 4; i++)
		take8(x + 4 * i, from + g * 64 + t % 2 * 32 + 8 * i);
}

static __device__ __forceinline__ void one_pair(float part[4], const uint4 codes[2], const uint32_t x[16], uint32_t lane4)
{
	product8(part, codes[0].x, codes[1].x, x, lane4);
	product8(part, codes[0].y, codes[1].y, x + 4, lane4);
	product8(part, codes[0].z, codes[1].z, x + 8, lane4);
	product8(part, codes[0].w, codes[1].w, x + 12, lane4);
}

template <bool PLAIN>
static __global__ void __launch_bounds__(32 * ONE_WARPS, 2) one_kernel(const __grid_constant__ struct skinny a, int tiles, int round, int cols)
{
	extern __shared__ __align__(128) unsigned char smem[];
	struct frame f = frame_of(a, smem, tiles, round, 1, ONE_WARPS);
	const struct segment seg = segment_of<ONE_WARPS, 4>(a);
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;
	uint32_t lane4 = (uint32_t)lane * 4, x[16];
	struct one_step next = { 0, 0, 0, {} };
	struct one_chunk c;

	(void)cols;
	let_next();
	if (seg.pairs) {
		struct half_tile h[2] = { half_of(a, blockIdx.x, 0), half_of(a, blockIdx.x, 1) };

		one_find(&next, seg, h, a.in);
#pragma unroll
		for (int j = 0; j < 4; j++)
			if (j < next.pairs)
				one_codes(&c, next, j);
		one_scales<PLAIN>(&c, next, seg, h, a.in);
	}
	begin<ONE_WARPS>(a, f);
	if (seg.chunks == 1)
		one_x(x, a.x + seg.first_k, seg.pairs);
	for (int i = 0; i < f.mine; i++) {
		float acc[2] = { 0, 0 };

		for (int k = 0; k < seg.chunks; k++) {
			int pairs = min(4, seg.pairs - 4 * k);
			float2 sc[2] = { scales<PLAIN>(c.raw[0], lane4), scales<PLAIN>(c.raw[1], lane4) };

			next.pairs = 0;
			if (++next.chunk == seg.chunks)
				next.chunk = 0, next.tile++;
			if (next.tile < f.mine) {
				const struct half_tile *h = f.ring + next.tile % (2 * F_ROUND) * 2;

				one_find(&next, seg, h, a.in);
				one_scales<PLAIN>(&c, next, seg, h, a.in);
			}
			if (seg.chunks > 1)
				one_x(x, a.x + seg.first_k + k * 512, pairs);
#pragma unroll
			for (int j = 0; j < 4; j++) {
				if (j < pairs) {
					float part[4] = { 0 };

					one_pair(part, c.codes[j], x, lane4);
					if (t == j) {
						acc[0] += sc[0].x * part[0];
						acc[0] += sc[0].y * part[1];
						acc[1] += sc[1].x * part[2];
						acc[1] += sc[1].y * part[3];
					}
				}
				if (j < next.pairs)
					one_codes(&c, next, j);
			}
		}
#pragma unroll
		for (int h = 0; h < 2; h++) {
			acc[h] += __shfl_xor_sync(0xffffffffu, acc[h], 1);
			acc[h] += __shfl_xor_sync(0xffffffffu, acc[h], 2);
			if (t == 0)
				f.red[(f.in_round * ONE_WARPS + warp) * 16 + lane / 4 + 8 * h] = acc[h];
		}
		tile_done<ONE_WARPS>(a, &f, i);
	}
	end(a);
}

/* --- up to eight --- */

struct few_chunk {
	uint4 codes[2][2];     /* pair, half of the tile */
	struct raw_scales raw; /* of row lane % 16 and pair lane / 16 */
};

/* A chunk of 256 columns of a tile. */
struct few_step {
	int tile, chunk, pairs; /* pairs 0: none */
	const uint8_t *codes[2];
};

static __device__ __forceinline__ void few_find(struct few_step *s, const struct segment &g, const struct half_tile *h, int in)
{
	int lane = threadIdx.x % 32;

	s->pairs = min(2, g.pairs - 2 * s->chunk);
#pragma unroll
	for (int i = 0; i < 2; i++)
		s->codes[i] = h[i].codes + ((lane / 4 * in + g.first_k) / 2 + s->chunk * 128 + lane % 4 * 16);
}

static __device__ __forceinline__ void few_codes(struct few_chunk *c, const struct few_step &s, int p)
{
	c->codes[p][0] = read_once(s.codes[0] + 64 * p);
	c->codes[p][1] = read_once(s.codes[1] + 64 * p);
}

template <bool PLAIN>
static __device__ __forceinline__ void few_scales(struct few_chunk *c, const struct few_step &s, const struct segment &g, const struct half_tile *h, int in)
{
	int lane = threadIdx.x % 32, half = lane % 16 / 8;

	read_scales<PLAIN>(&c->raw, h[half], h[half].block + lane % 8 * (in / 64) + g.first_k / 64 + s.chunk * 4 + min(lane / 16, s.pairs - 1) * 2);
}

/* One block of 64 by the tokens. from: the lane that has row g's scale. */
static __device__ __forceinline__ void few_block(float acc[4], const uint2 codes[2], float scale, int from, const uint32_t x[8], uint32_t lane4)
{
	float sc[2] = { __shfl_sync(0xffffffffu, scale, from), __shfl_sync(0xffffffffu, scale, from + 8) }, part[4] = { 0 };

	product8(part, codes[0].x, codes[1].x, x, lane4);
	product8(part, codes[0].y, codes[1].y, x + 4, lane4);
#pragma unroll
	for (int e = 0; e < 4; e++)
		acc[e] += sc[e / 2] * part[e];
}

/* Lanes of t 0 and 1 have the first block's 32 codes each, those of 2 and 3 the second's: after this all have 16 of both. */
static __device__ __forceinline__ void exchange(uint2 first[2], uint2 second[2], const uint4 codes[2])
{
	bool low = threadIdx.x % 4 < 2;

#pragma unroll
	for (int h = 0; h < 2; h++) {
		uint2 mine = low ? make_uint2(codes[h].x, codes[h].y) : make_uint2(codes[h].z, codes[h].w);
		uint2 yours = low ? make_uint2(codes[h].z, codes[h].w) : make_uint2(codes[h].x, codes[h].y);

		yours.x = __shfl_xor_sync(0xffffffffu, yours.x, 2);
		yours.y = __shfl_xor_sync(0xffffffffu, yours.y, 2);
		first[h] = low ? mine : yours;
		second[h] = low ? yours : mine;
	}
}

/* Of the chunk's blocks what a lane has after the exchange; a token that is not there has another's x, and nobody reads its sums. */
static __device__ __forceinline__ void few_x(uint32_t x[4][8], const struct skinny &a, int k, int pairs)
{
	int lane = threadIdx.x % 32, t = lane % 4;
	const bf16 *from = a.x + (int64_t)min(lane / 4, a.t - 1) * a.ldx + k + t % 2 * 32 + t / 2 * 16;

#pragma unroll
	for (int b = 0; b < 4; b++)
		if (b < 2 * pairs) {
			take8(x[b], from + b * 64);
			take8(x[b] + 4, from + b * 64 + 8);
		}
}

/* Tiles go in groups of G, chunk by chunk. */
template <int G> static __device__ __forceinline__ void few_on(struct few_step *s, const struct segment &g, int mine)
{
	int begin = s->tile / G * G;

	s->pairs = 0;
	if (++s->tile < min(begin + G, mine))
		return;
	if (++s->chunk < g.chunks)
		s->tile = begin;
	else
		s->tile = begin + G, s->chunk = 0;
}

template <int G, bool PLAIN>
static __global__ void __launch_bounds__(32 * FEW_WARPS, 1) few_kernel(const __grid_constant__ struct skinny a, int tiles, int round, int cols)
{
	extern __shared__ __align__(128) unsigned char smem[];
	struct frame f = frame_of(a, smem, tiles, round, 8, FEW_WARPS);
	const struct segment seg = segment_of<FEW_WARPS, 2>(a);
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
	uint32_t lane4 = (uint32_t)lane * 4, x[4][8];
	struct few_step next = { 0, 0, 0, {} };
	struct few_chunk c;

	(void)cols;
	let_next();
	if (seg.pairs) {
		struct half_tile h[2] = { half_of(a, blockIdx.x, 0), half_of(a, blockIdx.x, 1) };

		few_find(&next, seg, h, a.in);
		few_codes(&c, next, 0);
		if (next.pairs == 2)
			few_codes(&c, next, 1);
		few_scales<PLAIN>(&c, next, seg, h, a.in);
	}
	begin<FEW_WARPS>(a, f);
	if (G == 1)
		few_x(x, a, seg.first_k, seg.pairs);
	for (int i = 0; i < f.mine; i += G) {
		float acc[G][4] = { 0 };

		for (int k = 0; k < seg.chunks; k++) {
			int pairs = min(2, seg.pairs - 2 * k);

			if (G > 1)
				few_x(x, a, seg.first_k + k * 256, pairs);
#pragma unroll
			for (int m = 0; m < G; m++) {
				float2 sc;

				if (i + m >= f.mine)
					break;
				sc = scales<PLAIN>(c.raw, lane4);
				few_on<G>(&next, seg, f.mine);
				if (next.tile < f.mine) {
					const struct half_tile *h = f.ring + next.tile % (2 * F_ROUND) * 2;

					few_find(&next, seg, h, a.in);
					few_scales<PLAIN>(&c, next, seg, h, a.in);
				}
#pragma unroll
				for (int p = 0; p < 2; p++) {
					if (p < pairs) {
						uint2 first[2], second[2];

						exchange(first, second, c.codes[p]);
						few_block(acc[m], first, sc.x, p * 16 + g, x[2 * p], lane4);
						few_block(acc[m], second, sc.y, p * 16 + g, x[2 * p + 1], lane4);
					}
					if (p < next.pairs)
						few_codes(&c, next, p);
				}
			}
		}
#pragma unroll
		for (int m = 0; m < G; m++) {
			if (i + m >= f.mine)
				break;
#pragma unroll
			for (int h = 0; h < 2; h++)
				*(float2 *)(f.red + ((f.in_round * FEW_WARPS + warp) * 16 + g + 8 * h) * 8 + 2 * t) = make_float2(acc[m][2 * h], acc[m][2 * h + 1]);
			tile_done<FEW_WARPS>(a, &f, i + m);
		}
	}
	end(a);
}

/* --- host --- */

typedef void few_fn(struct skinny a, int tiles, int round, int cols);

/* Which of the kernels follows from the planned number of rows, and so do a row's bits. */
struct few {
	few_fn *kernel;
	int warps, cols, blocks; /* blocks of a multiprocessor, where there is room */
};

static struct few few_of(const struct skinny *a, bool one)
{
	bool chunks = a->in / 128 > 2 * FEW_WARPS;

	if (one)
		return (struct few){ a->plain ? one_kernel<true> : one_kernel<false>, ONE_WARPS, 1, 2 };
	if (chunks)
		return (struct few){ a->plain ? few_kernel<GROUP, true> : few_kernel<GROUP, false>, FEW_WARPS, 8, 1 };
	return (struct few){ a->plain ? few_kernel<1, true> : few_kernel<1, false>, FEW_WARPS, 8, 1 };
}

/* Bytes with room for the sums of so many tiles; the adapters' inner products pass through the same place first. */
static int shared_bytes(const struct skinny *a, const struct few *f, int round)
{
	int sums = round * f->warps * 16 * f->cols, job = f->warps * 16 * 8;

	return F_AT + F_TABLE + 4 * F_ROUND * (int)sizeof(struct half_tile) + ((sums > job ? sums : job) + a->ranks * 8) * (int)sizeof(float);
}

bool skinny_few_fits(const struct device *d, const struct skinny *a)
{
	struct few f = few_of(a, false);
	bool ok = !a->dense && a->f % 8 == 0;

	for (int j = 0; j < a->n; j++)
		ok = ok && aligned16(a->absmax2[j]);
	return ok && shared_bytes(a, &f, 1) <= cuda_of((struct device *)(uintptr_t)d)->shared;
}

void skinny_few(struct device *d, const struct skinny *a, bool one)
{
	struct few f = few_of(a, one);
	int tiles = a->f ? a->f / 8 : a->out / 16, room = 0, round = F_ROUND, most = cuda_of(d)->sms, bytes;

	cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerMultiprocessor, d->index);
	while (round > 1 && shared_bytes(a, &f, round) > cuda_of(d)->shared)
		round /= 2;
	bytes = shared_bytes(a, &f, round);
	/* 1024: what a block costs besides; all must be there at once, or they wait in vain for a job */
	if (f.blocks * (bytes + 1024) <= room)
		most *= f.blocks;
	cudaFuncSetAttribute(f.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
	launch_after(d, f.kernel, dim3((unsigned)(tiles < most ? tiles : most)), (unsigned)(32 * f.warps), (size_t)bytes, *a, tiles, round, f.cols);
}
