/* Products with the gated activation at their end, on Hopper. A cluster of two blocks has 256 tokens; each takes 128 of them by 192
 * rows of the weights, which come to both at once, and stays on its multiprocessor for tile after tile. One thread feeds a ring of
 * stages through the copy engine. Two warpgroups take tiles in turn: while one multiplies, the other ends its tile, so that no tensor
 * core waits for exponentials. Forward a tile's columns are 96 gates and the 96 ups beside them: a thread has both. What a tile's end
 * brings and leaves goes through shared memory a few columns at a time, each warp for its own rows; backward g and u
 * become their gradients where they lie there. */
#include "kernels/gated.cuh"
#include "kernels/mma.cuh"
#include "kernels/sm90.cuh"
#include "kernels/swiglu.cuh"

enum {
	BM = 128, /* a block's tokens */
	BN = 192, /* and columns */
	BK = 64,
	STAGES = 5,
	THREADS = 384,
	X_BYTES = BM * BK * 2,
	W_BYTES = BN * BK * 2,
	STAGE = X_BYTES + W_BYTES,
	DESK = 6 << 10 /* a warp's share of the room for a tile's end: 16 rows of g, u and h */
};

struct gated_room {
	char stage[STAGES][STAGE];
	char desk[4][DESK]; /* of the warpgroup that ends a tile */
	uint64_t full[STAGES], empty[STAGES], there[8];
};

struct gated_maps {
	CUtensorMap x, w[2];       /* backward: w[0] alone */
	CUtensorMap end[3];        /* g, u and h, a warp's rows by a desk's columns */
};

/* Tiles of a pair of blocks: rows of 256 tokens, columns of 96 gates and ups (backward: 192), bands of `band` rows, each down its columns. */
struct gated_order {
	int rows, cols, steps, band;
};

struct tile {
	int row, col; /* of this block's first element */
};

template <bool BACK> static __device__ __forceinline__ struct tile tile_of(const struct gated_order &o, int i, int rank)
{
	int band = i / (o.band * o.cols), in = i - band * o.band * o.cols, high = min(o.band, o.rows - band * o.band);

	return { ((band * o.band + in % high) * 2 + rank) * BM, in / high * (BACK ? BN : BN / 2) };
}

#ifdef SM90_CODE
/* 64 of the inner dimension: this block's tokens, and the half of the weights that it brings to both. */
template <bool BACK> static __device__ __forceinline__ void bring(char *stage, uint64_t *full, const struct gated_maps &m, struct tile t, int k, int rank)
{
	char *w = stage + X_BYTES;

	bar_expect(full, STAGE);
	copy_box(stage, &m.x, full, k, t.row, cache_last()); /* the next columns want it again */
	if (BACK) {
#pragma unroll
		for (int p = 0; p < BN / 64; p++)
			copy_box_to(w + p * BK * 128 + rank * BK * 64, &m.w[0], full, t.col + p * 64, k + rank * BK / 2, 3);
	} else {
		copy_box_to(w + rank * W_BYTES / 2, &m.w[rank], full, k, t.col, 3);
	}
}

template <bool BACK> static __device__ __forceinline__ void feed(struct gated_room *r, const struct gated_maps &m, const struct gated_order &o, int rank)
{
	struct ring<STAGES> at = { 0, 1 };

	for (int i = blockIdx.x / 2; i < o.rows * o.cols; i += gridDim.x / 2) {
		struct tile t = tile_of<BACK>(o, i, rank);

#pragma unroll 1
		for (int k = 0; k < o.steps; k++, at.next()) {
			bar_wait(&r->empty[at.at], at.phase);
			bring<BACK>(r->stage[at.at], &r->full[at.at], m, t, k * BK, rank);
		}
	}
}

/* A warp is done with a stage: both blocks' feeders fill it together. */
static __device__ __forceinline__ void leave(uint64_t *empty)
{
	__syncwarp();
	if (threadIdx.x % 32 < 2)
		bar_arrive_at(empty, threadIdx.x % 32);
}

/* --- a tile's product --- */

typedef float sums[2][BN / 2]; /* 64 rows each */

template <bool BACK>
static __device__ __forceinline__ void multiply(struct gated_room *r, struct ring<STAGES> *at, int steps, sums &acc, int next)
{
	uint64_t a0 = operand(r->stage[0], 16), b0 = operand(r->stage[0] + X_BYTES, BK * 128);

	for (int k = 0; k < steps; k++) {
		uint64_t a = further(a0, at->at * STAGE), b = further(b0, at->at * STAGE);
		int before = at->at == 0 ? STAGES - 1 : at->at - 1;

		bar_wait(&r->full[at->at], at->phase);
		mma_fence();
#pragma unroll
		for (int j = 0; j < BK / 16; j++)
#pragma unroll
			for (int h = 0; h < 2; h++)
				mma_ss<0, BACK>(acc[h], further(a, h * 64 * 128 + j * 32), further(b, j * (BACK ? 2048 : 32)), k > 0 || j > 0);
		mma_commit();
		if (k > 0) {
			mma_wait<1>();
			leave(&r->empty[before]);
		}
		at->next();
	}
	pair_arrive(next); /* the other warpgroup's products follow */
	mma_wait<0>();
	pin(acc[0]);
	pin(acc[1]);
	leave(&r->empty[at->at == 0 ? STAGES - 1 : at->at - 1]);
}

/* --- its end --- */

static __device__ __forceinline__ uint32_t gate2(uint32_t g, uint32_t u)
{
	float2 a = num16<act_t>::unpack(g), b = num16<act_t>::unpack(u);

	return act_pack(gate(a.x, b.x), gate(a.y, b.y));
}

static __device__ __forceinline__ void back2(uint32_t *g, uint32_t *u, uint32_t dh)
{
	float2 a = num16<act_t>::unpack(*g), b = num16<act_t>::unpack(*u), d = num16<act_t>::unpack(dh);

	back(&a.x, &b.x, d.x);
	back(&a.y, &b.y, d.y);
	*g = act_pack(a.x, a.y);
	*u = act_pack(b.x, b.y);
}

/* What lies on a desk goes to the matrices, as one group of stores. */
template <int N> static __device__ __forceinline__ void send(const struct gated_maps &m, const char *desk, int bytes, struct tile t)
{
	show_stores();
	__syncwarp();
	if (threadIdx.x % 32 == 0) {
#pragma unroll
		for (int i = 0; i < N; i++)
			store_box(&m.end[i], desk + i * bytes, t.col, t.row, cache_first());
		store_commit();
	}
}

/* Forward: 32 columns at a time, on two desks in turn. t: of this warp's rows. */
static __device__ __forceinline__ void end_fwd(char *desk, const struct gated_maps &m, const sums &acc, struct tile t)
{
	int lane = threadIdx.x % 32, row = lane % 16;

#pragma unroll
	for (int i = 0; i < 6; i++) {
		char *d = desk + i % 2 * (DESK / 2), *p = d + row * 64;

		if (lane == 0)
			store_read<1>();
		__syncwarp();
#pragma unroll
		for (int j = 0; j < 2; j++) {
			char *at = p + ((2 * j ^ lane / 16 ^ row / 2 % 4) << 4);
			uint32_t g[4], u[4], h[4];

#pragma unroll
			for (int q = 0; q < 4; q++) {
				const int n = i % 3 * 16 + j * 8 + q * 2;

				g[q] = act_pack(acc[i / 3][n], acc[i / 3][n + 1]);
				u[q] = act_pack(acc[i / 3][BN / 4 + n], acc[i / 3][BN / 4 + n + 1]);
				h[q] = gate2(g[q], u[q]);
			}
			put4(at, g);
			put4(at + 1024, u);
			put4(at + 2048, h);
		}
		send<3>(m, d, 1024, { t.row + i / 3 * 64, t.col + i % 3 * 32 });
	}
}

/* Backward: 64 columns at a time. there: where the warp waits for g and u. */
template <bool H> static __device__ __forceinline__ void end_bwd(char *desk, uint64_t *there, int *phase, const struct gated_maps &m, const sums &acc, struct tile t)
{
	int lane = threadIdx.x % 32, row = lane % 16;
	char *p = desk + row * 128;

#pragma unroll
	for (int i = 0; i < 6; i++) {
		struct tile part = { t.row + i / 3 * 64, t.col + i % 3 * 64 };

		if (lane == 0) {
			store_read<0>();
			bar_expect(there, 4096);
			copy_box(desk, &m.end[0], there, part.col, part.row);
			copy_box(desk + 2048, &m.end[1], there, part.col, part.row);
		}
		__syncwarp();
		bar_wait(there, *phase);
		*phase ^= 1;
#pragma unroll
		for (int j = 0; j < 4; j++) {
			char *at = p + ((2 * j ^ lane / 16 ^ row % 8) << 4);
			uint32_t g[4], u[4], h[4];

			ldsm4(g, at);
			ldsm4(u, at + 2048);
#pragma unroll
			for (int q = 0; q < 4; q++) {
				const int n = i % 3 * 32 + j * 8 + q * 2;

				h[q] = H ? gate2(g[q], u[q]) : 0;
				back2(&g[q], &u[q], act_pack(acc[i / 3][n], acc[i / 3][n + 1]));
			}
			put4(at, g);
			put4(at + 2048, u);
			if (H)
				put4(at + 4096, h);
		}
		send<H ? 3 : 2>(m, desk, 2048, part);
	}
}

enum { MAY_MULTIPLY = 1, MAY_END = 3 }; /* named barriers, one of each for each warpgroup */

template <bool BACK, bool H>
static __device__ __forceinline__ void consume(struct gated_room *r, const struct gated_maps &m, const struct gated_order &o, int rank, int wg)
{
	int warp = threadIdx.x % 128 / 32, phase = 0, hop = gridDim.x / 2;
	struct ring<STAGES> at = { wg * o.steps % STAGES, wg * o.steps / STAGES % 2 };
	sums acc;

	if (wg == 1) {
		pair_arrive(MAY_MULTIPLY);
		pair_arrive(MAY_END);
	}
	for (int i = blockIdx.x / 2 + wg * hop; i < o.rows * o.cols; i += 2 * hop) {
		struct tile t = tile_of<BACK>(o, i, rank);

		pair_wait(MAY_MULTIPLY + wg);
		multiply<BACK>(r, &at, o.steps, acc, MAY_MULTIPLY + (wg ^ 1));
		at.phase ^= (at.at + o.steps) / STAGES % 2; /* the other warpgroup's tile */
		at.at = (at.at + o.steps) % STAGES;
		t.row += warp * 16;
		pair_wait(MAY_END + wg);
		if (BACK)
			end_bwd<H>(r->desk[warp], &r->there[wg * 4 + warp], &phase, m, acc, t);
		else
			end_fwd(r->desk[warp], m, acc, t);
		store_read<0>();
		pair_arrive(MAY_END + (wg ^ 1));
	}
}
#endif

template <bool BACK, bool H>
static __global__ void __launch_bounds__(THREADS, 1) gated_kernel(const __grid_constant__ struct gated_maps m, const __grid_constant__ struct gated_order o)
{
#ifdef SM90_CODE
	extern __shared__ unsigned char raw[];
	struct gated_room *r = (struct gated_room *)aligned_room(raw);
	int rank = blockIdx.x % 2, group = threadIdx.x / 128;

	if (threadIdx.x == 0) {
		for (int i = 0; i < STAGES; i++) {
			bar_init(&r->full[i], 1);
			bar_init(&r->empty[i], 8); /* a warpgroup's warps in both blocks */
		}
		for (int i = 0; i < 8; i++)
			bar_init(&r->there[i], 1);
		asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
	}
	cluster_wait();
	if (group == 0) {
		regs_give<24>(); /* what is given and taken is all that there is at the launch: 168 for each thread */
		if (threadIdx.x == 0)
			feed<BACK>(r, m, o, rank);
	} else {
		regs_set<240>();
		consume<BACK, H>(r, m, o, rank, group - 1);
	}
	cluster_wait(); /* a neighbour may still bring something here, or say that it is done */
#endif
}

/* --- launches --- */

static bool runs_here(struct device *d)
{
	static const bool built = sm90_built((const void *)gated_kernel<false, true>);

	return built && sm90_is(d->index) && cuda_of(d)->shared >= 227 << 10;
}

/* Lines of 128 bytes: with wider ones a fifth more came from memory. */
static bool map(CUtensorMap *m, const void *p, int64_t ld, int64_t cols, int64_t rows, int width, int box)
{
	return sm90_map_rows(m, p, ld, cols, rows, width, box, 128);
}

static bool map_end(struct gated_maps *m, const struct kn_gated *a, int width)
{
	act_t *g = (act_t *)a->gu;

	return map(&m->end[0], g, a->ldg, a->f, a->t, width, 16) && map(&m->end[1], g + a->f, a->ldg, a->f, a->t, width, 16) &&
	       (!a->h || map(&m->end[2], a->h, a->ldh, a->f, a->t, width, 16));
}

/* Few tiles do not keep all blocks busy, and under a short inner dimension a tile's end takes longer than its product: where these
 * were measured to be faster than the library's product and a pass over its result. The shape alone decides. */
static bool pays(const struct kn_gated *a)
{
	return a->t >= 2048 && a->k >= 2048 && a->t * a->f >= 1 << 24;
}

static bool fits(struct device *d, const struct kn_gated *a)
{
	return pays(a) && a->f % 8 == 0 && eights(a->x, a->ldx) && eights(a->w, a->ldw) && eights(a->gu, a->ldg) && (!a->h || eights(a->h, a->ldh)) && runs_here(d);
}

/* Rows of tiles that are gone through together. All blocks at once take whole columns of these, about as wide as they are high,
 * where that can be. */
static int band(int rows, int pairs)
{
	int most = pairs % 11 == 0 ? 11 : 8, bands = (rows + most - 1) / most;

	return (rows + bands - 1) / bands;
}

template <bool BACK, bool H> static void launch(struct device *d, const struct kn_gated *a, const struct gated_maps &m)
{
	int wide = BACK ? BN : BN / 2, rows = (int)((a->t + 2 * BM - 1) / (2 * BM)), cols = (int)((a->f + wide - 1) / wide), pairs = cuda_of(d)->sms / 2;
	struct gated_order o = { rows, cols, (int)((a->k + BK - 1) / BK), band(rows, pairs) };

	sm90_launch(cuda_of(d)->stream, gated_kernel<BACK, H>, dim3((unsigned)(2 * (rows * cols < pairs ? rows * cols : pairs))), THREADS, 2, sizeof(struct gated_room) + 1024, m, o);
	cuda_launched(d, BACK ? "gated_bwd" : "gated_fwd");
}

bool gated_fwd_sm90(struct device *d, const struct kn_gated *a)
{
	struct gated_maps m;

	if (!fits(d, a) || !map_end(&m, a, 32) || !map(&m.x, a->x, a->ldx, a->k, a->t, BK, BM) || !map(&m.w[0], a->w, a->ldw, a->k, a->f, BK, BN / 2) ||
	    !map(&m.w[1], (const act_t *)a->w + a->f * a->ldw, a->ldw, a->k, a->f, BK, BN / 2))
		return false;
	launch<false, true>(d, a, m);
	return true;
}

bool gated_bwd_sm90(struct device *d, const struct kn_gated *a)
{
	struct gated_maps m;

	if (!fits(d, a) || !map_end(&m, a, 64) || !map(&m.x, a->x, a->ldx, a->k, a->t, BK, BM) || !map(&m.w[0], a->w, a->ldw, a->f, a->k, 64, BK / 2))
		return false;
	if (a->h)
		launch<true, true>(d, a, m);
	else
		launch<true, false>(d, a, m);
	return true;
}
