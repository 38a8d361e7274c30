/* skinny.h for NF4 and up to 8 tokens, where what is least is the way to shared memory, not the codes' bytes: each pair of
 * levels is a look-up, and everything else has to keep out of its way.
 *
 * Eight or sixteen warps, a team, share a tile of 16 rows: each has a segment of the inner dimension, which comes in steps of 256
 * columns into its own ring in shared memory, two steps ahead, over all tiles of the team. Codes become pairs of bf16 levels by a
 * table whose entries are 256 bytes apart, so that one byte permutation makes an address; each has a copy for each lane, and the second
 * level of the scales the same in its other half. x stays in registers. (Loads into registers for later steps share a scoreboard
 * with those that are waited for, and a warp waits for both.) The warps' sums wait in shared memory and are folded, in their
 * order, for several tiles at once. A gate's tile is eight rows of it and the same eight of what it gates.
 *
 * Which k of a block of 64 a lane has is free, as long as weights and x agree.
 *
 * One token (one_kernel): lane 4 g + t reads 16 bytes of rows g and g + 8 at a time, so that a pair of blocks is in four lanes, the
 * first in those of t 0 and 1. The eight columns of a product are not tokens but blocks of 64. Column n has block n of a chunk of 512,
 * and zeros where lanes have the pair's other block, so that the same x serves all of the chunk, the sums of pair j are in lanes
 * t = j alone, and a lane needs the scales of its own pair only.
 * More (few_kernel): columns are tokens, lanes read eight bytes at a time, and a product has one block of each row. */
#include "kernels/skinny.cuh"

#define F_TABLE (256 * 256)
/* Shared addresses: the table begins at one that is known when this is compiled, behind what the system keeps for itself, so
 * that it is part of an instruction. Launched without a cluster, a block's addresses begin at 0. */
#define F_AT 2048
#define F_ROUND 4 /* a team's tiles whose sums wait to be folded together, at most */
#define RING (4 * F_ROUND) /* tiles that are described: this round's, the next two's, and the last one's, whose readers may be late */
#define ONE_TEAM 8
#define ONE_JOB 2 /* blocks of columns of a warp's part of x A^T */
#define FEW_JOB 4
#define FEW_TEAM 16
#define GROUP 4   /* tiles that few_kernel walks together where a warp has several steps, each with the same x */
#define STAGES 3
#define STAGE 2048 /* bytes of a step: 16 rows of 128 */

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

/* Where a warp is: in which team of the block, and which pairs of blocks of 64 it has of a tile. */
struct segment {
	int team, first_k, pairs, steps;
	int mine; /* tiles of the team: i-th of the block's, each with a tile for each team */
};

template <int TEAM> static __device__ __forceinline__ int tile_of(int i, int team)
{
	return ((int)blockIdx.x + i * (int)gridDim.x) * (WARPS / TEAM) + team;
}

template <int TEAM> static __device__ __forceinline__ struct segment segment_of(const struct skinny &a, int tiles)
{
	int all = a.in / 128, warp = threadIdx.x / 32, at = warp % TEAM, from = all * at / TEAM, pairs = all * (at + 1) / TEAM - from;
	int stride = (int)gridDim.x * (WARPS / TEAM), first = tile_of<TEAM>(0, warp / TEAM);
	struct segment s = { warp / TEAM, from * 128, pairs, (pairs + 1) / 2, pairs && first < tiles ? (tiles - 1 - first) / stride + 1 : 0 };

	return s;
}

/* The halves of the teams' tiles [from, from + n), n at most RING. */
template <int TEAM> static __device__ __forceinline__ void describe(const struct skinny &a, struct half_tile *ring, int from, int n, int tiles)
{
	enum { TEAMS = WARPS / TEAM };
	int i = from + (int)threadIdx.x / (2 * TEAMS), team = threadIdx.x / 2 % TEAMS, tile = tile_of<TEAM>(i, team);

	if (i < from + n && tile < tiles)
		ring[(i % RING * TEAMS + team) * 2 + threadIdx.x % 2] = half_of(a, tile, threadIdx.x % 2);
}

template <int TEAM> static __device__ __forceinline__ const struct half_tile *halves(const struct half_tile *ring, int i, int team)
{
	return ring + (i % RING * (WARPS / TEAM) + team) * 2;
}

/* The next step that is to travel, and where its first half's and second half's rows begin. */
struct ahead {
	int i, step;
	const uint8_t *codes[2];
};

static __device__ __forceinline__ void look(struct ahead *s, const struct half_tile *h)
{
	s->codes[0] = h[0].codes;
	s->codes[1] = h[1].codes;
}

/* It starts to travel into stage to, eight lanes to a row. Within a row pieces of 16 bytes change places, by MIX bits of the row's
 * number from bit AT on, so that lanes that read at once do not meet in a bank. Commits a group, an empty one behind the last step. */
template <int MIX, int AT> static __device__ __forceinline__ void send_step(const struct ahead &s, const struct segment &g, int in, uint32_t to)
{
	int lane = threadIdx.x % 32, r = lane / 8, u = lane % 8, off = (r * in + g.first_k) / 2 + s.step * 128 + u * 16;

	if (s.i < g.mine && u < 4 * (g.pairs - 2 * s.step)) {
		uint32_t at = to + (uint32_t)(r * 128 + (u ^ (r & ((1 << MIX) - 1)) << AT) * 16);

#pragma unroll
		for (int k = 0; k < 4; k++)
			copy16(at + k * 512, s.codes[k / 2] + off + k % 2 * 2 * in);
	}
	asm volatile("cp.async.commit_group;" ::: "memory");
}

/* This lane's 16 bytes of pair p of a step, of rows g and g + 8. */
static __device__ __forceinline__ void take_codes(uint4 codes[2], uint32_t stage, int p)
{
	int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

#pragma unroll
	for (int h = 0; h < 2; h++)
		asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
		             : "=r"(codes[h].x), "=r"(codes[h].y), "=r"(codes[h].z), "=r"(codes[h].w)
		             : "r"(stage + (uint32_t)((g + 8 * h) * 128 + ((4 * p + t) ^ (g & 1) << 2) * 16)));
}

static __device__ __forceinline__ void await_step(void)
{
	asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
	__syncwarp();
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

/* Entry i: a byte's two levels for each lane, then the second level's value of the same byte. Two threads to an entry. */
static __device__ __forceinline__ void fill_table(unsigned char *table)
{
	int i = threadIdx.x / 2, half = threadIdx.x % 2;
	uint32_t v = half ? __float_as_uint(map[i]) : level_pair[i];

#pragma unroll
	for (int k = 0; k < 8; k++) /* threads side by side write to different banks */
		*(uint4 *)(table + i * 256 + half * 128 + (k + threadIdx.x) % 8 * 16) = make_uint4(v, v, v, v);
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

/* --- x A^T --- */

/* Sixteen rows of A by B blocks of columns, a job, is a warp's work. Its sums go to global memory each with the launch's number,
 * and whoever needs one reads until the number is there: neither fence nor counter. */
template <int B> struct job_rows {
	uint32_t top[B][8], bottom[B][8];
};

template <int B> static __device__ __forceinline__ int job_pieces(const struct skinny &a)
{
	return (a.in / 64 + B - 1) / B;
}

template <int B> static __device__ __forceinline__ int n_jobs(const struct skinny &a)
{
	return (a.ranks + 15) / 16 * job_pieces<B>(a);
}

template <int B> static __device__ __forceinline__ void job_read(struct job_rows<B> *w, const struct skinny &a, int job)
{
	int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, row = job / job_pieces<B>(a) * 16 + g, k = job % job_pieces<B>(a) * B * 64 + t * 16;

#pragma unroll
	for (int b = 0; b < B; b++, k += 64) {
		take_row(w->top[b], a.a + (int64_t)row * a.in + k, k < a.in && row < a.ranks);
		take_row(w->bottom[b], a.a + (int64_t)(row + 8) * a.in + k, k < a.in && row + 8 < a.ranks);
	}
}

static __device__ __forceinline__ void tell(const struct skinny &a, int64_t at, float v, uint32_t launch)
{
	asm volatile("st.volatile.global.v2.u32 [%0], {%1, %2};" ::"l"(a.told + at), "r"(__float_as_uint(v)), "r"(launch + 1) : "memory");
}

/* COLS: tokens that there are room for. */
template <int B, int COLS> static __device__ __forceinline__ void job_do(const struct job_rows<B> &w, const struct skinny &a, int job, uint32_t launch)
{
	int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, piece = job % job_pieces<B>(a), row = job / job_pieces<B>(a) * 16 + g, k = piece * B * 64 + t * 16;
	float sum[4] = { 0 };

#pragma unroll
	for (int b = 0; b < B; b++, k += 64) {
		uint32_t x[8];

		take_x(x, a.x + min(g, a.t - 1) * a.ldx + k, k < a.in);
#pragma unroll
		for (int s = 0; s < 4; s++) {
			const uint32_t f[4] = { w.top[b][2 * s], w.bottom[b][2 * s], w.top[b][2 * s + 1], w.bottom[b][2 * s + 1] };

			mma16(sum, f, x[2 * s], x[2 * s + 1]);
		}
	}
#pragma unroll
	for (int e = 0; e < 4; e++) {
		int r = row + e / 2 * 8, n = 2 * t + e % 2;

		if (r < a.ranks && n < a.t)
			tell(a, ((int64_t)piece * a.ranks + r) * COLS + n, sum[e], launch);
	}
}

static __device__ __forceinline__ uint2 heard(const struct skinny &a, int64_t at)
{
	uint2 v;

	asm volatile("ld.volatile.global.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(a.told + at) : "memory");
	return v;
}

/* The inner values (ranks, COLS) of all pieces together: SUBS lanes have a share of the pieces each, whose sums meet in order. Zero
 * behind the last token. */
template <int B, int COLS, int SUBS> static __device__ __forceinline__ void gather_inner(const struct skinny &a, float *inner, uint32_t launch)
{
	enum { AT_ONCE = 8 };
	int pieces = job_pieces<B>(a), items = a.ranks * COLS, each = (pieces + SUBS - 1) / SUBS, sub = threadIdx.x % SUBS;

	for (int i = threadIdx.x / SUBS; i - (int)threadIdx.x % 32 / SUBS < items; i += THREADS / SUBS) {
		bool there = i < items && i % COLS < a.t;
		int end = there ? min(pieces, (sub + 1) * each) : 0;
		float sum = 0;

		for (int p = sub * each; p < end; p += AT_ONCE) {
			uint2 v[AT_ONCE];

#pragma unroll
			for (int k = 0; k < AT_ONCE; k++)
				if (p + k < end)
					v[k] = heard(a, (int64_t)(p + k) * items + i);
#pragma unroll
			for (int k = 0; k < AT_ONCE; k++)
				if (p + k < end) {
					while (v[k].y != launch + 1)
						v[k] = heard(a, (int64_t)(p + k) * items + i);
					sum += __uint_as_float(v[k].x);
				}
		}
#pragma unroll
		for (int x = 1; x < SUBS; x *= 2)
			sum += __shfl_xor_sync(0xffffffffu, sum, x);
		if (sub == 0 && i < items)
			inner[i] = sum;
	}
}

/* --- tiles' ends --- */

/* Outputs of the teams' tiles [from, from + n), from sums (i, warp, 16 rows, cols). Few outputs are another half of the warps' every turn. */
template <int TEAM>
static __device__ __forceinline__ void finish_round(const struct skinny &a, const float *red, const float *inner, int from, int n, int cols, int tiles, int turn)
{
	enum { TEAMS = WARPS / TEAM };
	int rows = a.f ? 8 : 16, all = n * TEAMS * rows * a.t;

	for (int e = ((int)threadIdx.x + turn * (THREADS / 2)) % THREADS; e < all; e += THREADS) {
		int token = e % a.t, r = e / a.t % rows, k = e / a.t / rows, team = k % TEAMS, tile = tile_of<TEAM>(from + k / TEAMS, team), row;
		const float *sums = red + (k * TEAM * 16 + r) * cols + token;
		float v = 0, u = 0;

		if (tile >= tiles)
			continue;
		row = half_row(a, tile, 0) + r;
#pragma unroll
		for (int w = 0; w < TEAM; w++)
			v += sums[w * 16 * cols];
		if (a.jobs)
			v += adapter_part(a, row, inner, cols, token);
		v = scaled(a, row, v);
		if (!a.f) {
			put(a, row, token, v);
			continue;
		}
#pragma unroll
		for (int w = 0; w < TEAM; w++)
			u += sums[(w * 16 + 8) * cols];
		if (a.jobs)
			u += adapter_part(a, row + a.f, inner, cols, token);
		u = scaled(a, row + a.f, u);
		a.y[token * a.ldy + row] = __float2bfloat16_rn(gated(v, u));
	}
}

/* The adapters' rows for a round come nearer. */
template <int TEAM> static __device__ __forceinline__ void call_round(const struct skinny &a, int from, int n, int tiles)
{
	for (int e = threadIdx.x; a.jobs && e < n * (WARPS / TEAM) * 16; e += THREADS) {
		int k = e / 16, tile = tile_of<TEAM>(from + k / (WARPS / TEAM), k % (WARPS / TEAM));

		if (tile < tiles)
			call_b(a, half_row(a, tile, e % 16 / 8) + e % 8);
	}
}

/* What a block is beside its products: tables, the adapters' jobs, and the ends of rounds. */
struct frame {
	unsigned char *table;
	struct half_tile *halves;
	float *red, *inner;  /* red: two rounds' */
	uint32_t ring;       /* this warp's, in shared memory */
	uint32_t launch;     /* number of the one before; first looked at when it has come */
	int tiles, mine, round, in_round, parity; /* mine: of every team, the last ones may not be there */
	bool waited;
};

template <int TEAM, int COLS> static __device__ __forceinline__ struct frame frame_of(const struct skinny &a, unsigned char *smem, int tiles, int round)
{
	struct frame f;
	uint32_t from = (uint32_t)__cvta_generic_to_shared(smem);

	f.table = smem + (F_AT - (from & 0xffffff));
	f.ring = F_AT + F_TABLE + threadIdx.x / 32 * (STAGES * STAGE);
	f.halves = (struct half_tile *)(f.table + F_TABLE + WARPS * STAGES * STAGE);
	f.red = (float *)(f.halves + 2 * RING * (WARPS / TEAM));
	f.inner = f.red + 2 * round * WARPS * 16 * COLS;
	f.tiles = tiles, f.round = round, f.in_round = 0, f.parity = 0;
	f.mine = (tiles - 1 - tile_of<TEAM>(0, 0)) / ((int)gridDim.x * (WARPS / TEAM)) + 1;
	f.waited = a.jobs == 0;
	f.launch = 0;
	return f;
}

/* Where this warp's sums of the next tile go. */
template <int COLS> static __device__ __forceinline__ float *sums_of(const struct frame &f)
{
	return f.red + ((f.parity * f.round + f.in_round) * WARPS + (int)threadIdx.x / 32) * 16 * COLS;
}

/* From the table to the first product; some codes are on their way. */
template <int TEAM, int B, int COLS> static __device__ __forceinline__ void begin(const struct skinny &a, struct frame *f)
{
	int job = (int)blockIdx.x + (int)gridDim.x * ((int)threadIdx.x / 32), jobs = n_jobs<B>(a);
	struct job_rows<B> w;

	if (job < jobs)
		job_read<B>(&w, a, job);
	call_round<TEAM>(a, 0, 2 * f->round, f->tiles);
	__syncthreads();
	follow_previous();
	if (a.jobs)
		asm volatile("ld.volatile.global.u32 %0, [%1];" : "=r"(f->launch) : "l"(a.count + 2) : "memory");
	for (; job < jobs; job += (int)gridDim.x * WARPS) {
		job_do<B, COLS>(w, a, job, f->launch);
		if (job + (int)gridDim.x * WARPS < jobs)
			job_read<B>(&w, a, job + (int)gridDim.x * WARPS);
	}
}

/* The warps' sums of the block's i-th tiles are kept; a round is folded when it is full. One barrier a round: what the threads read
 * after it is written again in the round after the next, behind another. */
template <int TEAM, int B, int COLS, int SUBS> static __device__ __forceinline__ void tile_done(const struct skinny &a, struct frame *f, int i)
{
	if (++f->in_round < f->round && i + 1 < f->mine)
		return;
	if (!f->waited)
		gather_inner<B, COLS, SUBS>(a, f->inner, f->launch);
	f->waited = true;
	__syncthreads();
	finish_round<TEAM>(a, f->red + f->parity * f->round * WARPS * 16 * COLS, f->inner, i + 1 - f->in_round, f->in_round, COLS, f->tiles, f->parity);
	if (i + 1 < f->mine) {
		if ((i + 1) % F_ROUND == 0)
			describe<TEAM>(a, f->halves, i + 1 + 2 * F_ROUND, F_ROUND, f->tiles);
		call_round<TEAM>(a, i + 1 + f->round, f->round, f->tiles);
	}
	f->in_round = 0;
	f->parity ^= 1;
}

/* The last block counts the launch. */
static __device__ __forceinline__ void end(const struct skinny &a, const struct frame &f)
{
	if (a.jobs && threadIdx.x == 0 && atomicInc(&a.count[1], gridDim.x - 1) == gridDim.x - 1)
		asm volatile("st.volatile.global.u32 [%0], %1;" ::"l"(a.count + 2), "r"(f.launch + 1) : "memory");
}

/* --- one token --- */

/* Scales of rows g and g + 8 of the pair whose sums this lane has, in chunk k of 512 columns of tile i. */
template <bool PLAIN>
static __device__ __forceinline__ void one_scales(struct raw_scales raw[2], const struct segment &g, const struct half_tile *h, int k, int in)
{
	int lane = threadIdx.x % 32, at = lane / 4 * (in / 64) + g.first_k / 64 + k * 8 + min(lane % 4, g.pairs - 4 * k - 1) * 2;

#pragma unroll
	for (int i = 0; i < 2; i++)
		read_scales<PLAIN>(&raw[i], h[i], h[i].block + at);
}

/* Column g's block of a chunk, where this lane has that block of its pair. */
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

static __device__ __forceinline__ void one_on(struct ahead *s, const struct segment &g)
{
	if (++s->step == g.steps)
		s->step = 0, s->i++;
}

/* MANY: a warp has more than one chunk, and x changes. */
template <bool MANY, bool PLAIN>
static __global__ void __launch_bounds__(THREADS, 1) one_kernel(const __grid_constant__ struct skinny a, int tiles, int round)
{
	extern __shared__ __align__(128) unsigned char smem[];
	struct frame f = frame_of<ONE_TEAM, 1>(a, smem, tiles, round);
	const struct segment seg = segment_of<ONE_TEAM>(a, tiles);
	int lane = threadIdx.x % 32, t = lane % 4, slot = 0, chunks = (seg.pairs + 3) / 4;
	uint32_t lane4 = (uint32_t)lane * 4, x[16];
	const bf16 *from = a.x + seg.first_k;
	struct ahead next = { 0, 0, {} };
	struct raw_scales raw[2];

	let_next();
	describe<ONE_TEAM>(a, f.halves, 0, 3 * F_ROUND, tiles);
	__syncthreads();
	look(&next, halves<ONE_TEAM>(f.halves, 0, seg.team));
	send_step<1, 2>(next, seg, a.in, f.ring);
	one_on(&next, seg);
	fill_table(f.table);
	look(&next, halves<ONE_TEAM>(f.halves, next.i, seg.team));
	send_step<1, 2>(next, seg, a.in, f.ring + STAGE);
	one_on(&next, seg);
	look(&next, halves<ONE_TEAM>(f.halves, next.i, seg.team));
	if (seg.mine)
		one_scales<PLAIN>(raw, seg, halves<ONE_TEAM>(f.halves, 0, seg.team), 0, a.in);
	begin<ONE_TEAM, ONE_JOB, 1>(a, &f);
	if (seg.mine)
		one_x(x, from, seg.pairs);
	for (int i = 0; i < f.mine; i++) {
		float acc[2] = { 0, 0 };

		for (int k = 0; i < seg.mine && k < chunks; k++) {
			float2 sc[2] = { scales<PLAIN>(raw[0], lane4), scales<PLAIN>(raw[1], lane4) };
			int after = k + 1 == chunks ? 0 : k + 1, then = after ? i : i + 1;
			uint32_t y[16];

			if (then < seg.mine)
				one_scales<PLAIN>(raw, seg, halves<ONE_TEAM>(f.halves, then, seg.team), after, a.in);
			if (MANY)
				one_x(y, from + after * 512, seg.pairs - 4 * after);
#pragma unroll
			for (int s = 0; s < 2; s++) {
				if (2 * k + s >= seg.steps)
					break;
				await_step();
				send_step<1, 2>(next, seg, a.in, f.ring + (slot ? slot - 1 : STAGES - 1) * STAGE);
				one_on(&next, seg);
				look(&next, halves<ONE_TEAM>(f.halves, next.i, seg.team));
#pragma unroll
				for (int p = 0; p < 2; p++) {
					uint4 codes[2];
					float part[4] = { 0 };

					if (2 * s + p >= seg.pairs - 4 * k)
						break;
					take_codes(codes, f.ring + slot * STAGE, p);
					one_pair(part, codes, x, lane4);
					if (t == 2 * s + p) {
						acc[0] += sc[0].x * part[0];
						acc[0] += sc[0].y * part[1];
						acc[1] += sc[1].x * part[2];
						acc[1] += sc[1].y * part[3];
					}
				}
				slot = slot + 1 == STAGES ? 0 : slot + 1;
			}
			if (MANY)
#pragma unroll
				for (int e = 0; e < 16; e++)
					x[e] = y[e];
		}
#pragma unroll
		for (int h = 0; h < 2; h++) {
			acc[h] += __shfl_xor_sync(0xffffffffu, acc[h], 1);
			acc[h] += __shfl_xor_sync(0xffffffffu, acc[h], 2);
			if (t == 0)
				sums_of<1>(f)[lane / 4 + 8 * h] = acc[h];
		}
		tile_done<ONE_TEAM, ONE_JOB, 1, 8>(a, &f, i);
	}
	end(a, f);
}

/* --- up to eight --- */

/* Scales of row lane % 16 and pair lane / 16 in a step of a tile. */
template <bool PLAIN>
static __device__ __forceinline__ void few_scales(struct raw_scales *raw, const struct segment &g, const struct half_tile *h, int step, int in)
{
	int lane = threadIdx.x % 32, half = lane % 16 / 8;

	read_scales<PLAIN>(raw, h[half], h[half].block + lane % 8 * (in / 64) + g.first_k / 64 + step * 4 + min(lane / 16, g.pairs - 2 * step - 1) * 2);
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

/* This lane's eight bytes of block b of a step, of rows g and g + 8. */
static __device__ __forceinline__ void take_block(uint2 codes[2], uint32_t stage, int b)
{
	int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

#pragma unroll
	for (int h = 0; h < 2; h++)
		asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];"
		             : "=r"(codes[h].x), "=r"(codes[h].y)
		             : "r"(stage + (uint32_t)((g + 8 * h) * 128 + ((b * 2 + t / 2) ^ (g & 3) << 1) * 16 + t % 2 * 8)));
}

/* Where a lane's x begins. A token that is not there has another's x, and nobody reads its sums. */
static __device__ __forceinline__ const bf16 *few_from(const struct skinny &a, int k)
{
	int lane = threadIdx.x % 32;

	return a.x + (int64_t)min(lane / 4, a.t - 1) * a.ldx + k + lane % 4 * 16;
}

static __device__ __forceinline__ void few_x(uint32_t x[8], const bf16 *from)
{
	take8(x, from);
	take8(x + 4, from + 8);
}

/* Tiles go in groups of G, step by step. */
template <int G> static __device__ __forceinline__ void few_on(struct ahead *s, const struct segment &g)
{
	int begin = s->i / G * G;

	if (++s->i < min(begin + G, g.mine))
		return;
	if (++s->step < g.steps)
		s->i = begin;
	else
		s->i = begin + G, s->step = 0;
}

template <int G, bool PLAIN>
static __global__ void __launch_bounds__(THREADS, 1) few_kernel(const __grid_constant__ struct skinny a, int tiles, int round)
{
	extern __shared__ __align__(128) unsigned char smem[];
	struct frame f = frame_of<FEW_TEAM, 8>(a, smem, tiles, round);
	const struct segment seg = segment_of<FEW_TEAM>(a, tiles);
	int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, slot = 0;
	uint32_t lane4 = (uint32_t)lane * 4, x[4][8];
	const bf16 *from = few_from(a, seg.first_k);
	struct ahead next = { 0, 0, {} }, scaled = next;
	struct raw_scales raw;

	let_next();
	describe<FEW_TEAM>(a, f.halves, 0, 3 * F_ROUND, tiles);
	__syncthreads();
	look(&next, halves<FEW_TEAM>(f.halves, 0, 0));
	send_step<2, 1>(next, seg, a.in, f.ring);
	few_on<G>(&next, seg);
	fill_table(f.table);
	look(&next, halves<FEW_TEAM>(f.halves, next.i, 0));
	send_step<2, 1>(next, seg, a.in, f.ring + STAGE);
	few_on<G>(&next, seg);
	look(&next, halves<FEW_TEAM>(f.halves, next.i, 0));
	if (seg.mine)
		few_scales<PLAIN>(&raw, seg, halves<FEW_TEAM>(f.halves, 0, 0), 0, a.in);
	begin<FEW_TEAM, FEW_JOB, 8>(a, &f);
#pragma unroll
	for (int b = 0; b < 4; b++)
		if (seg.mine && b < 2 * seg.pairs)
			few_x(x[b], from + b * 64);
	for (int i = 0; i < f.mine; i += G) {
		float acc[G][4] = { 0 };

		for (int k = 0; seg.mine && k < seg.steps; k++) {
			int after = k + 1 == seg.steps ? 0 : k + 1;

#pragma unroll
			for (int m = 0; m < G; m++) {
				bool again = G > 1 && (m == G - 1 || i + m + 1 == f.mine); /* x is for another step after this one */
				float2 sc;

				if (i + m >= f.mine)
					break;
				sc = scales<PLAIN>(raw, lane4);
				few_on<G>(&scaled, seg);
				if (scaled.i < seg.mine)
					few_scales<PLAIN>(&raw, seg, halves<FEW_TEAM>(f.halves, scaled.i, 0), scaled.step, a.in);
				await_step();
				send_step<2, 1>(next, seg, a.in, f.ring + (slot ? slot - 1 : STAGES - 1) * STAGE);
				few_on<G>(&next, seg);
				look(&next, halves<FEW_TEAM>(f.halves, next.i, 0));
#pragma unroll
				for (int p = 0; p < 2; p++) {
					if (p < seg.pairs - 2 * k) {
						uint2 codes[2];

						take_block(codes, f.ring + slot * STAGE, 2 * p);
						few_block(acc[m], codes, sc.x, p * 16 + g, x[2 * p], lane4);
						take_block(codes, f.ring + slot * STAGE, 2 * p + 1);
						few_block(acc[m], codes, sc.y, p * 16 + g, x[2 * p + 1], lane4);
					}
					if (again && p < seg.pairs - 2 * after) {
						few_x(x[2 * p], from + after * 256 + p * 128);
						few_x(x[2 * p + 1], from + after * 256 + p * 128 + 64);
					}
				}
				slot = slot + 1 == STAGES ? 0 : slot + 1;
			}
		}
#pragma unroll
		for (int m = 0; m < G; m++) {
			if (i + m >= f.mine)
				break;
#pragma unroll
			for (int h = 0; h < 2; h++)
				*(float2 *)(sums_of<8>(f) + (g + 8 * h) * 8 + 2 * t) = make_float2(acc[m][2 * h], acc[m][2 * h + 1]);
			tile_done<FEW_TEAM, FEW_JOB, 8, 1>(a, &f, i + m);
		}
	}
	end(a, f);
}

/* --- host --- */

typedef void few_fn(struct skinny a, int tiles, int round);

/* Which of the kernels follows from the planned number of rows, and so do a row's bits. */
struct few {
	few_fn *kernel;
	int teams, cols;
};

static struct few few_of(const struct skinny *a, bool one)
{
	int pairs = a->in / 128;

	if (one && pairs > 4 * ONE_TEAM)
		return (struct few){ a->plain ? one_kernel<true, true> : one_kernel<true, false>, WARPS / ONE_TEAM, 1 };
	if (one)
		return (struct few){ a->plain ? one_kernel<false, true> : one_kernel<false, false>, WARPS / ONE_TEAM, 1 };
	if (pairs > 2 * FEW_TEAM)
		return (struct few){ a->plain ? few_kernel<GROUP, true> : few_kernel<GROUP, false>, WARPS / FEW_TEAM, 8 };
	return (struct few){ a->plain ? few_kernel<1, true> : few_kernel<1, false>, WARPS / FEW_TEAM, 8 };
}

/* Bytes with room for twice the sums of so many tiles. */
static int shared_bytes(const struct skinny *a, const struct few *f, int round)
{
	return F_AT + F_TABLE + WARPS * STAGES * STAGE + 2 * RING * f->teams * (int)sizeof(struct half_tile) +
	       (2 * round * WARPS * 16 + a->ranks) * f->cols * (int)sizeof(float);
}

bool skinny_few_fits(const struct device *d, const struct skinny *a)
{
	struct few f = few_of(a, false);
	bool ok = !a->dense && a->f % 8 == 0;
	int kept = 0; /* by the system, at the beginning of a block's shared memory */

	cudaDeviceGetAttribute(&kept, cudaDevAttrReservedSharedMemoryPerBlock, d->index);
	for (int j = 0; j < a->n; j++)
		ok = ok && aligned16(a->absmax2[j]);
	ok = ok && kept <= F_AT;
	ok = ok && (uint64_t)((a->in + 64 * FEW_JOB - 1) / (64 * FEW_JOB) * a->ranks) * f.cols * sizeof(*a->told) <= KN_SKINNY_TOLD;
	return ok && shared_bytes(a, &f, 1) <= cuda_of((struct device *)(uintptr_t)d)->shared;
}

void skinny_few(struct device *d, const struct skinny *a, bool one)
{
	struct few f = few_of(a, one);
	int tiles = a->f ? a->f / 8 : a->out / 16, blocks = (tiles + f.teams - 1) / f.teams, round = F_ROUND, bytes;

	while (round > 1 && shared_bytes(a, &f, round) > cuda_of(d)->shared)
		round /= 2;
	bytes = shared_bytes(a, &f, round);
	cudaFuncSetAttribute(f.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
	/* all blocks must be there at once, or they wait in vain for a job */
	launch_after(d, f.kernel, dim3((unsigned)(blocks < cuda_of(d)->sms ? blocks : cuda_of(d)->sms)), THREADS, (size_t)bytes, *a, tiles, round);
}
