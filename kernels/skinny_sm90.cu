/* skinny.h for NF4 and up to 64 tokens, by Hopper's warpgroup products (wgmma): their A is weights, made in registers from codes, their B is x
 * in shared memory.
 *
 * A block has 256 outputs, 64 for each of four warpgroups, and all tokens. Each warp's codes stream through its own ring, as in
 * skinny_few.cu; x comes through a ring that all share and fill in turn. Sums of a block of 64 are multiplied by their rows' scales
 * in fp32. Where outputs alone do not fill the device, a cluster of blocks shares the inner dimension, and each block
 * folds the sums of some of the outputs from its neighbours' shared memory, in their order.
 *
 * Which k of a block of 64 a lane has is free, as long as weights and x agree. Lane 4 g + t has eight bytes of codes of rows g and g + 8, columns
 * 16 t to 16 t + 15. A product of 16 has of lane t the pairs at k 2 t and 2 t + 8: so pair i of columns 16 t .. lies
 * at place 4 i + t of x's pairs in shared memory.
 *
 * x A^T is the first blocks' first work, in pieces of columns. The pieces are shared out over a cluster too, as its sums are added up anyway. By B it is
 * multiplied as two bf16 numbers each, which together are nearly fp32. */
#include "kernels/skinny.cuh"
#include "kernels/sm90.cuh"

#include <limits.h>

#define TEAMS 4
#define OUTS (64 * TEAMS)
#define THREADS_MANY (128 * TEAMS)
#define ROUND 256    /* columns of a stage of codes */
#define STAGES 3
#define STAGE 2048   /* its bytes for a warp: 16 rows of 128 */
#define SCALES 256
#define SLOTS (ROUND / 64)
#define SLOT (SKINNY_MANY * 128)
#define SUM_LD (OUTS + 4) /* sums lie by tokens; eight rows of four tokens in different banks */
#define WORKERS 64
#define STEPS 16     /* products of 16 of the adapters' ranks at the end, twice as many tiles' quarters */

/* Shared memory around the table, which begins at a multiple of its size, so that one byte permutation makes an address. */
#define TABLE 65536
#define BEFORE 61440
#define AT_SCALES (BEFORE - SLOTS * SLOT)                      /* so far before the table */
#define AT_BARS (AT_SCALES - THREADS_MANY / 32 * STAGES * SCALES)
#define AT_OFFSETS (AT_BARS - 2 * SLOTS * 8)                   /* what is added to the second level's values, of each warp's halves */
#define AT_BLOCKS (AT_OFFSETS - THREADS_MANY / 32 * 8)
#define AT_SOURCES (AT_BLOCKS - THREADS_MANY * 4)
#define BYTES(kept) (TABLE - (kept) + TABLE + THREADS_MANY / 32 * STAGES * STAGE)
static_assert(AT_SOURCES >= 3 * THREADS_MANY * 8 && AT_SOURCES % 8 == 0, "sources");
static_assert(SKINNY_MANY * SUM_LD * 4 <= THREADS_MANY / 32 * STAGES * STAGE, "the sums take the codes' place");
static_assert(8 * 16 * SKINNY_MANY * 4 <= SLOTS * SLOT, "a job's sums take x's place");
static_assert(TEAMS == SLOTS, "a team a slot");
static_assert(STEPS / 2 * SLOT <= TABLE, "inner values take the table's place");

/* How the work is cut. */
struct cut {
	int tiles;  /* of 16 rows in a block: its first warps have them, the others only help with x */
	int blocks; /* of a cluster, which share the inner dimension */
};

void skinny_many_open(struct device *d)
{
	int major = 0;

	cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, d->index);
	if (major == 9)
		open_tables(d);
}

#ifdef SM90_CODE

/* --- where things are --- */

/* Half of a warp's tile: eight rows of one part. Of a gate's tile one half is the gate, the other what it gates. */
static __device__ __forceinline__ int half_row(const struct skinny &a, int tile, int half)
{
	return a.f ? half * a.f + tile * 8 : tile * 16 + half * 8;
}

/* A warp's 16 rows; behind the last ones, these again, which nobody reads. */
static __device__ __forceinline__ int tile_of(const struct skinny &a, const struct cut &c, int group, int warp)
{
	return min(group * c.tiles + warp, a.out / 16 - 1);
}

struct places {
	unsigned char *table; /* generic, then shared addresses */
	uint64_t *full, *empty; /* barriers of x's ring */
	uint32_t at, x, codes, scales, offsets, blocks, sources;
};

static __device__ __forceinline__ struct places places_of(unsigned char *smem)
{
	struct places p;
	uint32_t from = shared_at(smem);
	int warp = threadIdx.x / 32;

	p.at = (from + TABLE - 1) & ~(TABLE - 1u);
	p.table = smem + (p.at - from);
	p.x = p.at - BEFORE;
	p.codes = p.at + TABLE + warp * STAGES * STAGE;
	p.scales = p.at - AT_SCALES + warp * STAGES * SCALES;
	p.full = (uint64_t *)(p.table - AT_BARS);
	p.empty = p.full + SLOTS;
	p.offsets = p.at - AT_OFFSETS + warp * 8;
	p.blocks = p.at - AT_BLOCKS + threadIdx.x * 4;
	p.sources = p.at - AT_SOURCES + threadIdx.x * 8;
	return p;
}

/* --- shared memory by its addresses --- */

static __device__ __forceinline__ void put32(uint32_t to, uint32_t v)
{
	asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(v) : "memory");
}

static __device__ __forceinline__ void put64(uint32_t to, uint64_t v)
{
	asm volatile("st.shared.u64 [%0], %1;" ::"r"(to), "l"(v) : "memory");
}

static __device__ __forceinline__ void put128(uint32_t to, uint4 v)
{
	asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

static __device__ __forceinline__ uint32_t get8(uint32_t from)
{
	uint32_t v;

	asm volatile("ld.shared.u8 %0, [%1];" : "=r"(v) : "r"(from));
	return v;
}

static __device__ __forceinline__ uint32_t get32(uint32_t from)
{
	uint32_t v;

	asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(from));
	return v;
}

static __device__ __forceinline__ uint64_t get64(uint32_t from)
{
	uint64_t v;

	asm volatile("ld.shared.u64 %0, [%1];" : "=l"(v) : "r"(from));
	return v;
}

/* From block c of the cluster, what lies where `from` does here. */
static __device__ __forceinline__ float4 get128_of(int c, uint32_t from)
{
	uint32_t there;
	float4 v;

	asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(from), "r"(c));
	asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(there) : "memory");
	return v;
}

/* --- what orders them --- */

static __device__ __forceinline__ void cluster_meets(void)
{
	asm volatile("barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
}

/* Shared memory that this thread wrote is to be read by products. */
static __device__ __forceinline__ void show_products(void)
{
	asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* --- x's way --- */

/* Each warpgroup fills the ring with every fourth block of 64 columns, of which a thread has every other eight of a token. */
static __device__ __forceinline__ const bf16 *my_x(const struct skinny &a, int first_k)
{
	int n = threadIdx.x % 128 / 2;

	return n < a.t ? a.x + n * a.ldx + first_k + threadIdx.x / 128 * 64 + threadIdx.x % 2 * 8 : NULL;
}

static __device__ __forceinline__ void read_x(uint4 v[4], const bf16 *x)
{
#pragma unroll
	for (int i = 0; i < 4; i++)
		v[i] = x ? __ldcg((const uint4 *)(x + 16 * i)) : make_uint4(0, 0, 0, 0);
}

static __device__ __forceinline__ void write_x(const struct places &p, const uint4 v[4])
{
	int slot = threadIdx.x / 128, n = threadIdx.x % 128 / 2, q = threadIdx.x % 2;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		uint32_t w[4];

#pragma unroll
		for (int t = 0; t < 4; t++)
			w[t] = i == 0 ? v[t].x : i == 1 ? v[t].y : i == 2 ? v[t].z : v[t].w;
		put128(p.x + slot * SLOT + n * 128 + ((4 * q + i) ^ (n & 7)) * 16, make_uint4(w[0], w[1], w[2], w[3]));
	}
	show_products();
	__syncwarp();
	if (threadIdx.x % 32 == 0)
		bar_arrive(p.full + slot);
}

/* --- the codes' way --- */

/* Where a lane's part of a stage comes from; between stages it is kept in shared memory, as registers are what there is least of. */
struct codes_from {
	uint64_t codes[2]; /* the halves' rows that this lane copies first */
	uint64_t scales;   /* lanes to 15: a row's first level, or its one level; the others: the second */
	uint32_t block;    /* the latter's first scale, of those that share one */
};

static __device__ __forceinline__ void keep_source(const struct places &p, const struct codes_from &s)
{
	put64(p.sources, s.codes[0]);
	put64(p.sources + THREADS_MANY * 8, s.codes[1]);
	put64(p.sources + 2 * THREADS_MANY * 8, s.scales);
	put32(p.blocks, s.block);
}

static __device__ __forceinline__ struct codes_from kept_source(const struct places &p)
{
	struct codes_from s = { { get64(p.sources), get64(p.sources + THREADS_MANY * 8) }, get64(p.sources + 2 * THREADS_MANY * 8), get32(p.blocks) };

	return s;
}

static __device__ __forceinline__ struct codes_from source_of(const struct skinny &a, const struct places &p, int tile, int first_k)
{
	int lane = threadIdx.x % 32;
	struct codes_from s;

#pragma unroll
	for (int h = 0; h < 2; h++) {
		int row = half_row(a, tile, h), j = part_of(a.row, a.end, a.n, row), block;

		row -= a.row[j];
		s.codes[h] = (uint64_t)(a.codes[j] + ((int64_t)(row + lane / 8) * a.in + first_k) / 2 + lane % 8 * 16);
		if (lane == 0)
			put32(p.offsets + h * 4, __float_as_uint(a.offset[j]));
		if (lane % 16 / 8 != h)
			continue;
		block = (row + lane % 8) * (a.in / 64) + first_k / 64;
		s.scales = a.plain ? (uint64_t)(a.absmax2[j] + block) : lane < 16 ? (uint64_t)(a.qabsmax[j] + block) : (uint64_t)(a.absmax2[j] + block / NF4_BLOCK2);
		s.block = lane < 16 ? NF4_BLOCK2 : block % NF4_BLOCK2;
	}
	return s;
}

static __device__ __forceinline__ void commit(void)
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}

/* All stages but the last N that were sent are there, for this thread. */
template <int N> static __device__ __forceinline__ void await_codes(void)
{
	asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* The next stage starts to travel. Within a row the blocks' codes change places by the row's number, so that lanes that read at once
 * do not meet in a bank. */
template <bool PLAIN> static __device__ __forceinline__ void send_codes(struct codes_from *s, int in, uint32_t codes, uint32_t scales)
{
	int lane = threadIdx.x % 32, r = lane / 8, u = lane % 8;
	uint32_t to = codes + (uint32_t)(r * 128 + (u ^ r << 1) * 16);

#pragma unroll
	for (int h = 0; h < 2; h++) {
		copy16(to + h * 1024, (const void *)s->codes[h]);
		copy16(to + h * 1024 + 512, (const char *)s->codes[h] + 2 * (int64_t)in);
		s->codes[h] += ROUND / 2;
	}
	if (PLAIN) {
		if (lane < 16)
			copy16(scales + lane * 16, (const void *)s->scales);
		s->scales += ROUND / 64 * 4;
	} else {
		copy4(scales + lane * 4, (const void *)s->scales);
		s->block += ROUND / 64;
		if (s->block >= NF4_BLOCK2) {
			s->scales += 4;
			s->block = lane < 16 ? NF4_BLOCK2 : 0;
		}
	}
	commit();
}

/* Entry i: a byte's two levels for each lane, then the second level's value of the same byte. Two threads to an entry, of which each has read one. */
static __device__ __forceinline__ uint32_t read_entry(void)
{
	int i = threadIdx.x / 2;

	return threadIdx.x % 2 ? __float_as_uint(map[i]) : level_pair[i];
}

static __device__ __forceinline__ void fill_table(unsigned char *table, uint32_t v)
{
	int i = threadIdx.x / 2, half = threadIdx.x % 2;

#pragma unroll
	for (int k = 0; k < 8; k++) /* threads side by side write to different banks */
		*(uint4 *)(table + i * 256 + half * 128 + (k + threadIdx.x) % 8 * 16) = make_uint4(v, v, v, v);
}

/* mine: this lane's column of the table. */
static __device__ __forceinline__ uint32_t levels_at(uint32_t w, int b, uint32_t mine)
{
	return get32(__byte_perm(w, mine, 0x7604 + b * 16));
}

static __device__ __forceinline__ float mapped_at(uint32_t byte, uint32_t mine)
{
	return __uint_as_float(get32(__byte_perm(byte, mine, 0x7604) + 128));
}

/* The scales of block t of a stage, of lane 4 g + t's rows. */
template <bool PLAIN> static __device__ __forceinline__ void scales_here(float sc[2], const struct places &p, uint32_t from, uint32_t mine)
{
	uint32_t lane = threadIdx.x % 32;

#pragma unroll
	for (int h = 0; h < 2; h++) {
		uint32_t row = lane / 4 + 8 * h;

		if (PLAIN)
			sc[h] = __uint_as_float(get32(from + row * 16 + lane % 4 * 4));
		else
			sc[h] = scale_of(mapped_at(get8(from + row * 4 + lane % 4), mine), __uint_as_float(get32(from + 64 + row * 4)), __uint_as_float(get32(p.offsets + h * 4)));
	}
}

/* --- products --- */

/* Four products' worth of levels: block b of a stage. */
static __device__ __forceinline__ void levels_of(uint32_t f[4][4], uint32_t stage, int b, uint32_t mine)
{
	int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
	uint32_t from = stage + (uint32_t)(g * 128 + (g & 3) * 32 + t * 8);

#pragma unroll
	for (int h = 0; h < 2; h++) {
		uint64_t c = get64((from ^ b * 32) + h * 1024);

#pragma unroll
		for (int s = 0; s < 4; s++) {
			f[s][h] = levels_at((uint32_t)(c >> s / 2 * 32), s % 2 * 2, mine);
			f[s][2 + h] = levels_at((uint32_t)(c >> s / 2 * 32), s % 2 * 2 + 1, mine);
		}
	}
}

/* v: this thread's first block of x; x: where that came from. */
template <bool PLAIN> static __device__ __forceinline__ void multiply(float (&acc)[32], const struct skinny &a, const struct places &p, const bf16 *x, uint4 v[4], int per, int send)
{
	uint32_t mine = p.at + threadIdx.x % 32 * 4;
	int slot = 0, team = threadIdx.x / 128;

	if (team < SLOTS - 1) {
		write_x(p, v);
		if (per > 1)
			read_x(v, x ? x + ROUND : NULL);
	}
	for (int st = 0; st < per; st++) {
		float sc[2];

		await_codes<STAGES - 2>();
		__syncwarp();
		if (st + STAGES - 1 < send) {
			struct codes_from s = kept_source(p);
			int ahead = slot ? slot - 1 : STAGES - 1;

			send_codes<PLAIN>(&s, a.in, p.codes + ahead * STAGE, p.scales + ahead * SCALES);
			keep_source(p, s);
		} else {
			commit();
		}
		scales_here<PLAIN>(sc, p, p.scales + slot * SCALES, mine);
#pragma unroll 1
		for (int b = 0; b < SLOTS; b++) {
			uint32_t f[4][4];
			float part[32], by[2];

			levels_of(f, p.codes + slot * STAGE, b, mine);
			bar_wait(p.full + b, st & 1);
			mma_fence();
#pragma unroll
			for (int s = 0; s < 4; s++)
				mma_rs<0>(part, f[s], operand((const char *)p.table - BEFORE + b * SLOT + s * 32, 16), s > 0);
			mma_commit();
#pragma unroll
			for (int h = 0; h < 2; h++)
				by[h] = __shfl_sync(0xffffffffu, sc[h], b, 4);
			mma_wait<0>();
			pin(part);
			if (threadIdx.x % 32 == 0)
				bar_arrive(p.empty + b);
#pragma unroll
			for (int i = 0; i < 32; i++)
				acc[i] += by[i / 2 % 2] * part[i];
			/* three blocks ahead, in the place of the one before this, which the others have had time to read */
			if (team == (b + SLOTS - 1) % SLOTS) {
				int next = st + (b > 0); /* the stage of what this team holds */

				if (next < per) {
					if (next > 0)
						bar_wait(p.empty + team, (next & 1) ^ 1);
					write_x(p, v);
					if (next + 1 < per)
						read_x(v, x ? x + (next + 1) * ROUND : NULL);
				}
			}
		}
		slot = slot + 1 == STAGES ? 0 : slot + 1;
	}
}

/* --- adapters --- */

/* Sixteen rows of A by a piece of columns: eight warps have a block of it each for half of the tokens, eight for the other half. red (8, 16, 64). */
static __device__ __forceinline__ void inner_of(const struct skinny &a, int job, float *red)
{
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4, first = warp / 8 * 32;
	int row = job / a.pieces * 16, piece = job % a.pieces, k = piece * KN_SKINNY_PIECE + warp % 8 * 64 + t * 16;
	uint32_t w0[8], w1[8], x[4][8];
	float sum[4][4] = { 0 };

	take_row(w0, a.a + (int64_t)(row + g) * a.in + k, k < a.in && row + g < a.ranks);
	take_row(w1, a.a + (int64_t)(row + g + 8) * a.in + k, k < a.in && row + g + 8 < a.ranks);
#pragma unroll
	for (int n = 0; n < 4; n++)
		take_x(x[n], a.x + (first + 8 * n + g) * a.ldx + k, k < a.in && first + 8 * n + g < a.t);
#pragma unroll
	for (int n = 0; n < 4; n++) {
#pragma unroll
		for (int s = 0; s < 4; s++) {
			const uint32_t f[4] = { w0[2 * s], w1[2 * s], w0[2 * s + 1], w1[2 * s + 1] };

			mma16(sum[n], f, x[n][2 * s], x[n][2 * s + 1]);
		}
#pragma unroll
		for (int h = 0; h < 2; h++)
			*(float2 *)(red + (warp % 8 * 16 + g + 8 * h) * SKINNY_MANY + first + 8 * n + 2 * t) = make_float2(sum[n][2 * h], sum[n][2 * h + 1]);
	}
	__syncthreads();
	for (int i = threadIdx.x; i < 16 * SKINNY_MANY; i += THREADS_MANY) {
		int r = row + i / SKINNY_MANY, n = i % SKINNY_MANY;
		float all = 0;

#pragma unroll
		for (int w = 0; w < 8; w++)
			all += red[w * 16 * SKINNY_MANY + i];
		if (r < a.ranks && n < a.t)
			a.inner[((int64_t)piece * a.ranks + r) * a.t + n] = all;
	}
	__threadfence();
	__syncthreads();
	if (threadIdx.x == 0)
		atomicAdd(&a.count[0], 1u);
}

/* What this block's rows need of the inner values: of parts [from, to), pieces [first, end) of the columns. */
struct inner {
	int from, to, steps, first, end; /* steps: of 16 ranks in a part */
};

static __device__ __forceinline__ struct inner inner_seen(const struct skinny &a, const struct cut &c, int group, int rank)
{
	struct inner s = { a.n_ad, 0, (a.rank + 15) / 16, a.pieces * rank / c.blocks, a.pieces * (rank + 1) / c.blocks };
	int first = group * c.tiles * 16, end = first + c.tiles * 16;

	for (int j = 0; j < a.n_ad; j++)
		if (a.f || (a.ad_row[j] < end && a.ad_end[j] > first)) {
			s.from = min(s.from, j);
			s.to = j + 1;
		}
	return s;
}

/* x = hi + lo, to 2^-17 of it. */
static __device__ __forceinline__ void split2(uint32_t *hi, uint32_t *lo, float x, float y)
{
	float x0 = __bfloat162float(__float2bfloat16_rn(x)), y0 = __bfloat162float(__float2bfloat16_rn(y));

	*hi = pack2(x0, y0);
	*lo = pack2(x - x0, y - y0);
}

/* Quarter u of the tiles is one product's: 16 ranks, high parts in the even ones, low in the odd. */
static __device__ __forceinline__ uint32_t quarter_at(int u)
{
	return u / 4 * SLOT + u % 4 * 32;
}

/* The pieces' sum times the adapters' factor becomes operands. */
static __device__ __forceinline__ void inner_operands(const struct skinny &a, const struct inner &s, unsigned char *to)
{
	for (int i = threadIdx.x; i < (s.to - s.from) * s.steps * 8 * SKINNY_MANY; i += THREADS_MANY) {
		int n = i % SKINNY_MANY, pair = i / SKINNY_MANY, step = pair / 8, r = step % s.steps * 16 + pair % 8 * 2;
		const float *v = a.inner + ((int64_t)s.first * a.ranks + (s.from + step / s.steps) * a.rank + r) * a.t + n;
		unsigned char *row = to + n * 128 + pair % 4 * 4;
		float x = 0, y = 0;
		uint32_t hi, lo;

		if (n < a.t && r < a.rank)
#pragma unroll 8
			for (int p = s.first; p < s.end; p++, v += (int64_t)a.ranks * a.t) {
				x += __ldcg(v);
				y += __ldcg(v + a.t);
			}
		split2(&hi, &lo, a.scale * x, a.scale * y);
		*(uint32_t *)(row + step / 2 * SLOT + ((step % 2 * 4 + pair % 8 / 4) ^ (n & 7)) * 16) = hi;
		*(uint32_t *)(row + step / 2 * SLOT + ((step % 2 * 4 + 2 + pair % 8 / 4) ^ (n & 7)) * 16) = lo;
	}
	show_products();
}

/* This lane's rows of B. */
struct rows_of_b {
	const float *b[2]; /* NULL: no adapter */
	int part[2];
};

static __device__ __forceinline__ struct rows_of_b rows_of_b(const struct skinny &a, int tile)
{
	struct rows_of_b r;

#pragma unroll
	for (int h = 0; h < 2; h++)
		r.b[h] = row_of_b(a, half_row(a, tile, h) + threadIdx.x % 32 / 4, &r.part[h]);
	return r;
}

/* Elements of 16 ranks from step on: (2 t, 2 t + 1) and eight further, of both rows. */
static __device__ __forceinline__ void read_b(float2 v[4], const struct skinny &a, const struct rows_of_b &b, int step)
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		int r = step * 16 + i / 2 * 8 + threadIdx.x % 4 * 2;

		v[i] = b.b[i % 2] && r < a.rank ? __ldg((const float2 *)(b.b[i % 2] + r)) : make_float2(0, 0);
	}
}

static __device__ __forceinline__ void add_adapters(float (&acc)[32], const struct skinny &a, const struct inner &s, const struct rows_of_b &b, float2 v[4], const char *at)
{
	for (int step = 0; step < s.steps; step++) {
		uint32_t hi[4], lo[4];

		if (step)
			read_b(v, a, b, step);
#pragma unroll
		for (int i = 0; i < 4; i++)
			split2(&hi[i], &lo[i], v[i].x, v[i].y);
		for (int j = s.from; j < s.to; j++) {
			uint32_t h[4], l[4];
			int u = 2 * ((j - s.from) * s.steps + step);

#pragma unroll
			for (int i = 0; i < 4; i++) {
				h[i] = b.part[i % 2] == j ? hi[i] : 0;
				l[i] = b.part[i % 2] == j ? lo[i] : 0;
			}
			pin(acc);
			mma_fence();
			mma_rs<0>(acc, h, operand(at + quarter_at(u), 16), 1);
			mma_rs<0>(acc, h, operand(at + quarter_at(u + 1), 16), 1);
			mma_rs<0>(acc, l, operand(at + quarter_at(u), 16), 1);
			mma_commit();
			mma_wait<0>();
			pin(acc);
		}
	}
}

/* --- results --- */

static __device__ __forceinline__ void leave_sums(float *red, const float acc[32])
{
	int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

	red += threadIdx.x / 32 * 16 + g;
#pragma unroll
	for (int i = 0; i < 32; i++)
		red[(i / 4 * 8 + 2 * t + i % 2) * SUM_LD + i / 2 % 2 * 8] = acc[i];
}

/* The sums of four rows for one token, from all blocks of the cluster. */
static __device__ __forceinline__ void gather4(float v[4], const float *red, int blocks)
{
	enum { MOST_BLOCKS = 8 };
	float4 u[MOST_BLOCKS], sum = make_float4(0, 0, 0, 0);

#pragma unroll
	for (int c = 0; c < MOST_BLOCKS; c++)
		u[c] = c < blocks ? get128_of(c, shared_at(red)) : make_float4(0, 0, 0, 0);
#pragma unroll
	for (int c = 0; c < MOST_BLOCKS; c++)
		sum.x += u[c].x, sum.y += u[c].y, sum.z += u[c].z, sum.w += u[c].w;
	v[0] = sum.x, v[1] = sum.y, v[2] = sum.z, v[3] = sum.w;
}

/* This block's share of the outputs: four of a token at a time. */
static __device__ __forceinline__ void finish(const struct skinny &a, const struct cut &s, const float *red, int group, int rank)
{
	int outs = s.tiles * (a.f ? 8 : 16), all = a.f ? a.f : a.out;

	for (int i = rank * THREADS_MANY + (int)threadIdx.x; i < outs / 4 * a.t; i += s.blocks * THREADS_MANY) {
		int n = i / (outs / 4), c = i % (outs / 4) * 4, col = group * outs + c;
		const float *from = red + n * SUM_LD + (a.f ? c / 8 * 16 + c % 8 : c);
		int64_t at = n * a.ldy + col;
		float v[4], u[4];

		if (col >= all)
			continue;
		gather4(v, from, s.blocks);
#pragma unroll
		for (int k = 0; k < 4; k++)
			v[k] = scaled(a, col + k, v[k]);
		if (a.f) {
			gather4(u, from + 8, s.blocks);
#pragma unroll
			for (int k = 0; k < 4; k++)
				v[k] = gated(v[k], scaled(a, col + a.f + k, u[k]));
		}
		if (a.bias)
#pragma unroll
			for (int k = 0; k < 4; k++)
				v[k] += a.bias[col + k];
		if (a.add) {
			uint2 w = *(const uint2 *)(a.add + at);
			float2 lo = num16<bf16>::unpack(w.x), hi = num16<bf16>::unpack(w.y);

			v[0] += lo.x, v[1] += lo.y, v[2] += hi.x, v[3] += hi.y;
		}
		*(uint2 *)(a.y + at) = make_uint2(pack2(v[0], v[1]), pack2(v[2], v[3]));
	}
}

/* --- the whole --- */

/* What does not depend on the kernels ahead. */
template <bool PLAIN> static __device__ __forceinline__ void begin(const struct skinny &a, const struct cut &c, const struct places &p, int group, int first_k, int send)
{
	uint32_t entry = read_entry();
	struct codes_from s = source_of(a, p, tile_of(a, c, group, threadIdx.x / 32), first_k);

#pragma unroll
	for (int i = 0; i < STAGES - 1; i++)
		if (i < send)
			send_codes<PLAIN>(&s, a.in, p.codes + i * STAGE, p.scales + i * SCALES);
		else
			commit();
	keep_source(p, s);
	fill_table(p.table, entry);
	if (threadIdx.x < SLOTS) {
		bar_init(p.full + threadIdx.x, 4);
		bar_init(p.empty + threadIdx.x, THREADS_MANY / 32);
	}
	if (a.jobs && threadIdx.x < c.tiles * 16)
		call_b(a, half_row(a, tile_of(a, c, group, threadIdx.x / 16), threadIdx.x / 8 % 2) + threadIdx.x % 8);
	if ((int)blockIdx.x < min(a.jobs, WORKERS))
		call_a(a, blockIdx.x, THREADS_MANY);
}


template <bool PLAIN> static __global__ void __launch_bounds__(THREADS_MANY, 1) many_kernel(const __grid_constant__ struct skinny a, struct cut c)
{
	extern __shared__ __align__(128) unsigned char smem[];
	int rank = blockIdx.x % c.blocks, group = blockIdx.x / c.blocks, units = a.in / ROUND, from = units * rank / c.blocks, per = units * (rank + 1) / c.blocks - from;
	int send = threadIdx.x / 32 < c.tiles ? per : 0; /* stages of codes */
	struct places p = places_of(smem);
	float acc[32] = { 0 }, *red = (float *)(p.table + TABLE);
	const bf16 *x = my_x(a, from * ROUND);
	uint4 v[4];

	let_next();
	begin<PLAIN>(a, c, p, group, from * ROUND, send);
	__syncthreads();
	follow_previous();
	read_x(v, x);
	/* done by blocks that are at work from the start: a block that waits for one that is not would wait for ever */
	if (blockIdx.x < WORKERS)
		for (int i = blockIdx.x; i < a.jobs; i += min((int)gridDim.x, WORKERS))
			inner_of(a, i, (float *)(p.table - BEFORE));
	multiply<PLAIN>(acc, a, p, x, v, per, send);
	if (a.jobs) {
		struct rows_of_b b = rows_of_b(a, tile_of(a, c, group, threadIdx.x / 32));
		struct inner in = inner_seen(a, c, group, rank);
		float2 u[4];

		read_b(u, a, b, 0);
		if (threadIdx.x == 0)
			await_inner(a);
		__syncthreads();
		inner_operands(a, in, p.table);
		__syncthreads();
		add_adapters(acc, a, in, b, u, (const char *)p.table);
	} else {
		__syncthreads(); /* all codes have been read */
	}
	leave_sums(red, acc);
	cluster_meets();
	finish(a, c, red, group, rank);
	cluster_meets(); /* a neighbour may still read here */
	if (a.jobs && threadIdx.x == 0 && atomicInc(&a.count[1], gridDim.x - 1) == gridDim.x - 1)
		atomicExch(&a.count[0], 0u);
}

#else

template <bool PLAIN> static __global__ void many_kernel(const __grid_constant__ struct skinny a, struct cut c)
{
}

#endif

/* --- host --- */

/* Code for sm_90a is in the binary: kernels of other targets are empty. */
static bool built(void)
{
	struct cudaFuncAttributes a;

	return cudaFuncGetAttributes(&a, many_kernel<false>) == cudaSuccess && a.numRegs > 64;
}

bool skinny_many_fits(const struct device *d, const struct skinny *a)
{
	int major = 0, minor = 0, kept = 0;
	bool ok = !a->dense && a->in % ROUND == 0 && a->rank % 4 == 0 && a->n_ad * ((a->rank + 15) / 16) <= STEPS && eights(a->y, a->ldy) && eights(a->add, 8);

	cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, d->index);
	cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, d->index);
	cudaDeviceGetAttribute(&kept, cudaDevAttrReservedSharedMemoryPerBlock, d->index);
	for (int j = 0; j < a->n; j++)
		ok = ok && aligned16(a->absmax2[j]);
	for (int j = 0; j < a->n_ad; j++)
		ok = ok && aligned16(a->b[j]);
	return ok && major == 9 && minor == 0 && kept + BEFORE <= TABLE && BYTES(kept) <= cuda_of((struct device *)(uintptr_t)d)->shared && built();
}

/* The cut that should be done first. All in hundreds of cycles or so: for each stage four warpgroups read x, whatever they have of rows, and each
 * tile's codes are looked up; a block begins and ends. */
static struct cut cut_of(const struct skinny *a, int sms)
{
	enum { X = 10, TILE = 1, ENDS = 64 };
	int units = a->in / ROUND, all = a->out / 16, least = INT_MAX;
	struct cut best = { OUTS / 16, 1 };

	for (int tiles = OUTS / 16; tiles > 0; tiles--)
		for (int blocks = 1; blocks <= 8 && blocks <= units; blocks *= 2) {
			int n = (all + tiles - 1) / tiles * blocks, rounds = (n + sms - 1) / sms, cost = rounds * ((units + blocks - 1) / blocks * (X + TILE * tiles) + ENDS);

			if (cost < least) {
				least = cost;
				best = (struct cut){ tiles, blocks };
			}
		}
	return best;
}

void skinny_many(struct device *d, const struct skinny *a)
{
	struct cut cut = cut_of(a, cuda_of(d)->sms);
	int groups = (a->out / 16 + cut.tiles - 1) / cut.tiles, kept = 0;
	void (*kernel)(struct skinny, struct cut) = a->plain ? many_kernel<true> : many_kernel<false>;
	cudaLaunchConfig_t c = {};
	cudaLaunchAttribute at[2] = {};

	cudaDeviceGetAttribute(&kept, cudaDevAttrReservedSharedMemoryPerBlock, d->index);
	c.gridDim = dim3((unsigned)(groups * cut.blocks));
	c.blockDim = dim3(THREADS_MANY);
	c.dynamicSmemBytes = (size_t)BYTES(kept);
	c.stream = cuda_of(d)->stream;
	at[0].id = cudaLaunchAttributeClusterDimension;
	at[0].val.clusterDim = { (unsigned)cut.blocks, 1, 1 };
	at[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
	at[1].val.programmaticStreamSerializationAllowed = 1;
	c.attrs = at;
	c.numAttrs = 2;
	cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)c.dynamicSmemBytes);
	cudaLaunchKernelEx(&c, kernel, *a, cut);
}
