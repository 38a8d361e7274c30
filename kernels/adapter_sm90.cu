/* An adapter's skinny products on Hopper: the copy engine brings tiles of what is read once (x, or dy) through a ring, and two
 * warpgroups multiply them where they lie. What a tile's rows share is small, so that all three run at the memory's speed.
 * One thread feeds the ring, between its own products: a warp of its own would cost the others a third of their registers. */
#include "kernels/adapter.cuh"
#include "kernels/sm90.cuh"

#define GROUP 128                       /* threads of a warpgroup */
#define THREADS (2 * GROUP)
#define HALF (64 * 128)                 /* bytes of 64 rows of a panel */
#define ROOM ((227 << 10) - 1024)

template <int N> struct bars {
	uint64_t full[N], empty[N];
};

/* By one thread; a barrier of the block follows. A stage is full when its bytes are there, empty when all eight warps say so. */
template <int N> static __device__ __forceinline__ void open_bars(struct bars<N> *b)
{
	for (int i = 0; i < N; i++) {
		bar_init(&b->full[i], 1);
		bar_init(&b->empty[i], 2 * GROUP / 32);
	}
	asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* Products of tile i of n are under way, and those of the one before are done: its stage is given back and, by one thread, filled again. */
template <int N, typename F> static __device__ __forceinline__ void turn(struct bars<N> *b, struct ring<N> *r, int i, int n, const F &fill)
{
	int prev = (r->at + N - 1) % N;

	mma_wait<1>();
	if (i > 0) {
		warp_arrive(&b->empty[prev]);
		if (threadIdx.x == 0 && i - 1 + N < n) {
			bar_wait(&b->empty[prev], r->at == 0 ? r->phase ^ 1 : r->phase);
			fill(prev, i - 1 + N);
		}
		__syncwarp();
	}
	r->next();
}

/* The ring's first stages, by one thread. */
template <int N, typename F> static __device__ __forceinline__ void begin(int n, const F &fill)
{
	for (int i = 0; i < N && i < n; i++)
		fill(i, i);
}

/* An operand whose rows, W elements each, are inner, swizzled over their width. */
template <int W> static __device__ __forceinline__ uint64_t narrow_operand(const char *p)
{
	const uint64_t mode = W == 64 ? 1 : W == 32 ? 2 : 3;

	return (uint64_t)(shared_at(p) >> 4 & 0x3fff) | (uint64_t)1 << 16 | (uint64_t)(W * 2 * 8 >> 4) << 32 | mode << 62;
}

/* --- s = x A^T --- */

/* 128 tokens by 64 columns of x, and those columns of A; at the end the sums lie there. */
template <int NR> struct down_room {
	static const int x = 2 * HALF, stage = x + NR * 128, most = ROOM / stage, stages = most < 8 ? most : 8, ld = NR + 8;
	char tile[stages][stage];
	struct bars<stages> bars;
};

/* Eight values of a row from all blocks of the cluster, in their order. */
static __device__ __forceinline__ f8 gather8(const float *at, int parts)
{
	f8 v;

#pragma unroll
	for (int k = 0; k < 8; k++)
		v.v[k] = 0;
#ifdef SM90_CODE
	for (int p = 0; p < parts; p++) {
		uint32_t there;

		asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_at(at)), "r"(p));
#pragma unroll
		for (int k = 0; k < 8; k += 4) {
			float4 u;

			asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(u.x), "=f"(u.y), "=f"(u.z), "=f"(u.w) : "r"(there + k * 4) : "memory");
			v.v[k] += u.x, v.v[k + 1] += u.y, v.v[k + 2] += u.z, v.v[k + 3] += u.w;
		}
	}
#endif
	return v;
}

/* A cluster of `parts` blocks has 128 tokens, each block a part of the columns. */
template <int NR>
static __global__ void __launch_bounds__(THREADS, 1)
	down_kernel(const __grid_constant__ CUtensorMap mx, const __grid_constant__ CUtensorMap ma, act_t *x, int64_t ldx, int t, int in, int parts)
{
#ifdef SM90_CODE
	typedef struct down_room<NR> L;
	extern __shared__ unsigned char raw[];
	L *m = (L *)aligned_room(raw);
	int warp = threadIdx.x / 32, group = warp / 4, lane = threadIdx.x % 32, rank = blockIdx.x % parts, row0 = blockIdx.x / parts * 128;
	int from = in / 64 * rank / parts, n = in / 64 * (rank + 1) / parts - from, row = warp * 16 + lane / 4;
	struct ring<L::stages> r = { 0, 0 };
	float *sum = (float *)m->tile, acc[NR / 2];
	auto fill = [&](int at, int i) {
		bar_expect(&m->bars.full[at], L::stage);
		copy_box(m->tile[at], &mx, &m->bars.full[at], (from + i) * 64, row0);
		copy_box(m->tile[at] + L::x, &ma, &m->bars.full[at], (from + i) * 64, 0);
	};

	if (threadIdx.x == 0) {
		open_bars(&m->bars);
		begin<L::stages>(n, fill);
	}
	__syncthreads();
	for (int i = 0; i < n; i++) {
		uint64_t x_op = operand(m->tile[r.at] + group * HALF, 16), a_op = operand(m->tile[r.at] + L::x, 16);

		bar_wait(&m->bars.full[r.at], r.phase);
		mma_fence();
#pragma unroll
		for (int k = 0; k < 4; k++)
			mma_ss(acc, further(x_op, k * 32), further(a_op, k * 32), i > 0 || k > 0);
		mma_commit();
		turn(&m->bars, &r, i, n, fill);
	}
	mma_wait<0>();
	pin(acc);
	__syncthreads(); /* nobody reads the tiles any more */
#pragma unroll
	for (int i = 0; i < NR / 2; i += 2)
		*(float2 *)(sum + (row + i / 2 % 2 * 8) * L::ld + i / 4 * 8 + lane % 4 * 2) = make_float2(acc[i], acc[i + 1]);
	cluster_wait();
	for (int i = 128 * rank / parts * (NR / 8) + threadIdx.x; i < 128 * (rank + 1) / parts * (NR / 8); i += THREADS) {
		int row = i / (NR / 8), c = i % (NR / 8) * 8;
		f8 v = gather8(sum + row * L::ld + c, parts);

		if (row0 + row < t)
			store8(x + (row0 + row) * ldx + in + c, v);
	}
	cluster_wait(); /* a neighbour may still read here */
#endif
}

/* --- dA = ds^T x --- */

template <int NR> struct outer_room {
	static const int ds = (NR + 63) / 64 * HALF, stage = 2 * HALF + ds, most = ROOM / stage, stages = most < 8 ? most : 8;
	char tile[stages][stage];
	struct bars<stages> bars;
};

/* Partial sums over a run of tokens: a block has 128 columns of x, a warpgroup 64 of them. */
template <int NR>
static __global__ void __launch_bounds__(THREADS, 1)
	outer_kernel(const __grid_constant__ CUtensorMap mx, const __grid_constant__ CUtensorMap mds, float *out, int t, int in, int run)
{
#ifdef SM90_CODE
	typedef struct outer_room<NR> L;
	extern __shared__ unsigned char raw[];
	L *m = (L *)aligned_room(raw);
	int warp = threadIdx.x / 32, group = warp / 4, lane = threadIdx.x % 32, col0 = blockIdx.x * 128, from = run * blockIdx.y, n = (min(from + run, t) - from + 63) / 64;
	bool both = col0 + 64 < in;
	struct ring<L::stages> r = { 0, 0 };
	float acc[NR / 2];

	auto fill = [&](int at, int i) {
		char *tile = m->tile[at];
		uint64_t *full = &m->bars.full[at];

		bar_expect(full, L::stage - (both ? 0 : HALF));
		copy_box(tile, &mx, full, col0, from + i * 64, cache_first());
		if (both)
			copy_box(tile + HALF, &mx, full, col0 + 64, from + i * 64, cache_first());
#pragma unroll
		for (int p = 0; p < NR; p += 64)
			copy_box(tile + 2 * HALF + p / 64 * HALF, &mds, full, p, from + i * 64);
	};

	if (threadIdx.x == 0) {
		open_bars(&m->bars);
		begin<L::stages>(n, fill);
	}
	__syncthreads();
	for (int i = 0; i < n; i++) {
		uint64_t x_op = operand(m->tile[r.at] + group * HALF, 16), ds_op = operand(m->tile[r.at] + 2 * HALF, HALF);

		bar_wait(&m->bars.full[r.at], r.phase);
		mma_fence();
#pragma unroll
		for (int k = 0; k < 4; k++)
			mma_ss<1, 1>(acc, further(x_op, k * 2048), further(ds_op, k * 2048), i > 0 || k > 0);
		mma_commit();
		turn(&m->bars, &r, i, n, fill);
	}
	mma_wait<0>();
	pin(acc);
	if (group == 1 && !both)
		return;
	out += (int64_t)blockIdx.y * NR * in + col0 + warp * 16 + lane / 4;
#pragma unroll
	for (int i = 0; i < NR / 2; i++)
		out[(int64_t)(i / 4 * 8 + lane % 4 * 2 + i % 2) * in + i / 2 % 2 * 8] = acc[i];
#endif
}

/* --- dS = dy B and dB = dy^T s --- */

enum { CHUNK = 128, TILE = 128 }; /* columns of dy, and tokens, in a stage */

/* SUBS tiles of tokens to a block; of them, s stays, and of the columns, two chunks of B are there at a time. */
template <int R> struct grad_room {
	static const int subs = R == 64 ? 4 : 8, stage = 4 * HALF, stages = R == 64 ? 3 : 4, s_bytes = subs * TILE * R * 2, b_bytes = CHUNK * R * 2;
	char tile[stages][stage];
	char s[s_bytes];
	char b[2][b_bytes];
	struct bars<stages> bars;
	uint64_t s_full;
};
static_assert(grad_room<64>::stages <= grad_room<64>::subs && grad_room<32>::stages <= grad_room<32>::subs, "who waits for a stage of a chunk is done with the one before the last");

/* Of a tile: this warpgroup's 64 tokens by the chunk's B, and its 64 columns by s. */
template <int R> static __device__ __forceinline__ void grad_tile(float (&ds)[R / 2], float (&db)[R / 2], uint64_t rows, uint64_t cols, uint64_t b, uint64_t s, bool ds_add, bool db_add)
{
	mma_fence();
#pragma unroll
	for (int k = 0; k < CHUNK / 16; k++)
		mma_ss<0, 1>(ds, further(rows, k / 4 * 2 * HALF + k % 4 * 32), further(b, k * 16 * R * 2), k > 0 || ds_add);
#pragma unroll
	for (int k = 0; k < TILE / 16; k++)
		mma_ss<1, 1>(db, further(cols, k * 2048), further(s, k * 16 * R * 2), k > 0 || db_add);
	mma_commit();
}

template <int R>
static __global__ void __launch_bounds__(THREADS, 1)
	grad_kernel(const __grid_constant__ struct grad_args a, const __grid_constant__ CUtensorMap mdy, const __grid_constant__ CUtensorMap mb, const __grid_constant__ CUtensorMap ms)
{
#ifdef SM90_CODE
	typedef struct grad_room<R> L;
	extern __shared__ unsigned char raw[];
	L *m = (L *)aligned_room(raw);
	struct grad_piece p = a.piece[blockIdx.y];
	int warp = threadIdx.x / 32, group = warp / 4, lane = threadIdx.x % 32, row0 = blockIdx.x * L::subs * TILE, col0 = a.row[p.part] + p.first * CHUNK, n = p.chunks * L::subs;
	uint64_t tile = operand(m->tile[0], 16), s = narrow_operand<R>(m->s), b = narrow_operand<R>(m->b[0]);
	struct ring<L::stages> r = { 0, 0 };
	float ds[L::subs][R / 2], db[R / 2];
	auto fill = [&](int at, int i) {
		uint64_t *full = &m->bars.full[at];
		int c = i / L::subs, sub = i % L::subs;

		bar_expect(full, L::stage + (sub == 0 ? L::b_bytes : 0));
		if (sub == 0)
			copy_box(m->b[c % 2], &mb, full, p.part * R, col0 + c * CHUNK);
		copy_box(m->tile[at], &mdy, full, col0 + c * CHUNK, row0 + sub * TILE, cache_first());
		copy_box(m->tile[at] + 2 * HALF, &mdy, full, col0 + c * CHUNK + 64, row0 + sub * TILE, cache_first());
	};

	if (threadIdx.x == 0) {
		bar_init(&m->s_full, 1);
		open_bars(&m->bars);
		begin<L::stages>(n, fill);
		bar_expect(&m->s_full, L::s_bytes);
		for (int i = 0; i < L::subs; i++)
			copy_box(m->s + i * TILE * R * 2, &ms, &m->s_full, p.part * R, row0 + i * TILE);
	}
	__syncthreads();
	bar_wait(&m->s_full, 0);
	for (int c = 0; c < p.chunks; c++) {
		float *out = a.db_part + ((int64_t)blockIdx.x * a.out + col0 + c * CHUNK + warp * 16 + lane / 4) * R + lane % 4 * 2;

#pragma unroll
		for (int sub = 0; sub < L::subs; sub++) { /* registers want a constant index: tiles behind the last token are zeros */
			uint64_t here = further(tile, r.at * L::stage);

			bar_wait(&m->bars.full[r.at], r.phase);
			grad_tile<R>(ds[sub], db, further(here, group * HALF), further(here, group * 2 * HALF), further(b, c % 2 * L::b_bytes), further(s, sub * TILE * R * 2), c > 0, sub > 0);
			turn(&m->bars, &r, c * L::subs + sub, n, fill);
		}
		mma_wait<0>();
		pin(db);
#pragma unroll
		for (int i = 0; i < R / 2; i += 2)
			*(float2 *)(out + i / 2 % 2 * 8 * R + i / 4 * 8) = make_float2(db[i], db[i + 1]);
	}
#pragma unroll
	for (int sub = 0; sub < L::subs; sub++)
		if (row0 + sub * TILE < a.t) {
			float *out = a.ds_part + ((int64_t)blockIdx.y * a.rows + row0 + sub * TILE + warp * 16 + lane / 4) * R + lane % 4 * 2;

			pin(ds[sub]);
#pragma unroll
			for (int i = 0; i < R / 2; i += 2)
				*(float2 *)(out + i / 2 % 2 * 8 * R + i / 4 * 8) = make_float2(ds[sub][i], ds[sub][i + 1]);
		}
#endif
}

/* --- launches --- */

static bool runs_here(struct device *d)
{
	static const bool built = sm90_built((const void *)grad_kernel<32>);

	return built && sm90_is(d->index) && cuda_of(d)->shared >= 227 << 10;
}

template <typename K, typename... A> static void launch(struct device *d, K *kernel, dim3 grid, int cluster, size_t room, A... args)
{
	sm90_launch(cuda_of(d)->stream, kernel, grid, THREADS, cluster, room + 1024, args...);
}

/* Whether the outer side's kernels take these shapes. */
static bool outer_fits(struct device *d, const struct kn_adapter_outer *a)
{
	bool size = a->nr > 0 && a->nr % 16 == 0 && (a->nr <= 96 || a->nr == 128 || a->nr == 192);

	return size && !a->masks && a->in % 64 == 0 && eights(a->x, a->ldx) && runs_here(d);
}

/* Enough blocks to draw all that the memory gives. */
static int64_t enough(const struct device *d)
{
	return cuda_of((struct device *)d)->sms * 3 / 4;
}

template <int NR> static bool down(struct device *d, const struct kn_adapter_outer *a)
{
	CUtensorMap mx, ma;
	int64_t blocks = (a->t + 127) / 128, parts = 1;

	if (!sm90_map_rows(&mx, a->x, a->ldx, a->in, a->t, 64, 128) || !sm90_map_rows(&ma, a->a, a->lda, a->in, NR, 64, NR))
		return false;
	while (parts < 8 && blocks * parts < enough(d) && a->in / 64 >= parts * 2)
		parts *= 2;
	launch(d, down_kernel<NR>, dim3((unsigned)(blocks * parts)), (int)parts, sizeof(struct down_room<NR>), mx, ma, (act_t *)a->x, a->ldx, (int)a->t, (int)a->in, (int)parts);
	cuda_launched(d, "adapter_down");
	return true;
}

template <int NR> static bool outer(struct device *d, const struct kn_adapter_outer *a, int *runs)
{
	CUtensorMap mx, mds;
	int64_t blocks = (a->in + 127) / 128, n = (enough(d) + blocks - 1) / blocks, run;

	if (!sm90_map_rows(&mx, a->x, a->ldx, a->in, a->t, 64, 64) || !sm90_map_rows(&mds, a->ds, a->ld_ds, NR, a->t, 64, 64))
		return false;
	n = n > KN_ADAPTER_RUNS ? KN_ADAPTER_RUNS : n;
	run = ((a->t + n - 1) / n + 63) / 64 * 64;
	*runs = (int)((a->t + run - 1) / run);
	launch(d, outer_kernel<NR>, dim3((unsigned)blocks, (unsigned)*runs), 1, sizeof(struct outer_room<NR>), mx, mds, (float *)a->scratch, (int)a->t, (int)a->in, (int)run);
	cuda_launched(d, "adapter_outer");
	return true;
}

/* what<inner values>(...) */
#define BY_SIZE(nr, what, ...)                             \
	((nr) == 16    ? what<16>(__VA_ARGS__)             \
	 : (nr) == 32  ? what<32>(__VA_ARGS__)             \
	 : (nr) == 48  ? what<48>(__VA_ARGS__)             \
	 : (nr) == 64  ? what<64>(__VA_ARGS__)             \
	 : (nr) == 80  ? what<80>(__VA_ARGS__)             \
	 : (nr) == 96  ? what<96>(__VA_ARGS__)             \
	 : (nr) == 128 ? what<128>(__VA_ARGS__)            \
	               : what<192>(__VA_ARGS__))

bool adapter_down_sm90(struct device *d, const struct kn_adapter_outer *a)
{
	return outer_fits(d, a) && eights(a->a, a->lda) && BY_SIZE(a->nr, down, d, a);
}

bool adapter_outer_sm90(struct device *d, const struct kn_adapter_outer *a, int *runs)
{
	return outer_fits(d, a) && eights(a->ds, a->ld_ds) && BY_SIZE(a->nr, outer, d, a, runs);
}

/* Columns are cut into pieces so that all blocks run at once, and no more of them than need be. */
static bool cut(struct grad_args *g, const struct kn_adapter_grad *a, int64_t blocks, int sms)
{
	int64_t each = 0, most = 0, pieces;

	for (int j = 0; j < a->n; j++) {
		if (a->rows[j] % CHUNK)
			return false;
		most = a->rows[j] / CHUNK > most ? a->rows[j] / CHUNK : most;
	}
	do {
		each++;
		pieces = 0;
		for (int j = 0; j < a->n; j++)
			pieces += (a->rows[j] / CHUNK + each - 1) / each;
	} while (each < most && (pieces > KN_ADAPTER_PIECES || pieces * blocks > sms));
	return cut_pieces(g, a, CHUNK, each);
}

template <int R> static bool grad(struct device *d, const struct kn_adapter_grad *a, struct grad_args *g)
{
	typedef struct grad_room<R> L;
	CUtensorMap mdy, mb, ms;

	g->blocks = (a->t + L::subs * TILE - 1) / (L::subs * TILE);
	g->rows = (a->t + TILE - 1) / TILE * TILE;
	if (!cut(g, a, g->blocks, cuda_of(d)->sms) || !sm90_map_rows(&mdy, a->dy, a->ldy, a->out, a->t, 64, TILE) || !sm90_map_rows(&mb, a->b, a->ldg, a->n * R, a->out, R, CHUNK) ||
	    !sm90_map_rows(&ms, a->s, a->ld_s, a->n * R, a->t, R, TILE))
		return false;
	g->ds_part = g->db_part + g->blocks * a->out * R;
	launch(d, grad_kernel<R>, dim3((unsigned)g->blocks, (unsigned)g->n_pieces), 1, sizeof(L), *g, mdy, mb, ms);
	cuda_launched(d, "adapter_grad");
	return true;
}

bool adapter_grad_sm90(struct device *d, const struct kn_adapter_grad *a, struct grad_args *g)
{
	if (!runs_here(d))
		return false;
	return a->rank == 16 ? grad<16>(d, a, g) : a->rank == 32 ? grad<32>(d, a, g) : a->rank == 64 && grad<64>(d, a, g);
}
