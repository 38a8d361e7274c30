/* An adapter's inner gradients in one pass over dy.
 * A thread block has 512 tokens and a run of columns of one projection, taken in chunks of 64 columns, each in four
 * tiles of 128 tokens that stream through shared memory. Of a tile, every warp multiplies its 16 tokens by the chunk's
 * B (16 columns' worth of inner values stay in registers over all chunks: dS), and half of the tokens of 16 columns by
 * s (dB, over the four tiles of the chunk). Partial sums go to scratch, and are folded in order. */
#include "kernels/adapter.cuh"
#include "kernels/cuda.cuh"
#include "kernels/mma.cuh"

#define THREADS 256

#define BLOCK_ROWS KN_ADAPTER_ROWS
#define TILE_ROWS 128
#define CHUNK 64
#define SUBS (BLOCK_ROWS / TILE_ROWS)
#define GRAD_THREADS 256

/* STAGES: tiles on their way, as many as shared memory has room for; they change no bits. */
template <int R, int STAGES> struct grad_shared { /* bytes */
	static const int stages = STAGES;
	static const int tile = TILE_ROWS * CHUNK * 2, s_ld = R + 8, s = BLOCK_ROWS * s_ld * 2, b_ld = R + 8, b = CHUNK * b_ld * 2;
	static const int all = stages * tile + s + 2 * b + CHUNK * R * 4;
};

/* dS of one tile: this warp's 16 tokens by the chunk's B (64, R). */
template <int R> static __device__ __forceinline__ void tile_ds(float acc[R / 8][4], uint32_t tile, uint32_t b, int warp, int lane)
{
#pragma unroll
	for (int k = 0; k < CHUNK; k += 16) {
		uint32_t a[4];

		ldsm4(a, tile_at(tile, warp * 16 + lane % 16, k + lane / 16 * 8));
#pragma unroll
		for (int n = 0; n < R; n += 16) {
			uint32_t f[4];

			ldsm4t(f, b + (uint32_t)(((k + lane % 16) * (R + 8) + n + lane / 16 * 8) * 2));
			mma(acc[n / 8], a, f[0], f[1], act_t());
			mma(acc[n / 8 + 1], a, f[2], f[3], act_t());
		}
	}
}

/* dB of one tile: 16 columns (warp % 4) of half its tokens (warp / 4) by s (tokens, R). */
template <int R> static __device__ __forceinline__ void tile_db(float acc[R / 8][4], uint32_t tile, uint32_t s, int warp, int lane)
{
#pragma unroll
	for (int k = 0; k < TILE_ROWS / 2; k += 16) {
		int row = warp / 4 * (TILE_ROWS / 2) + k;
		uint32_t a[4];

		/* A is the transpose: its rows are columns of the tile, so its four 8 x 8 parts come transposed, in the order (m, k), (m + 8, k), ... */
		ldsm4t(a, tile_at(tile, row + lane % 8 + lane / 16 * 8, warp % 4 * 16 + lane / 8 % 2 * 8));
#pragma unroll
		for (int n = 0; n < R; n += 16) {
			uint32_t f[4];

			ldsm4t(f, s + (uint32_t)(((row + lane % 16) * (R + 8) + n + lane / 16 * 8) * 2));
			mma(acc[n / 8], a, f[0], f[1], act_t());
			mma(acc[n / 8 + 1], a, f[2], f[3], act_t());
		}
	}
}

template <int R> static __device__ __forceinline__ void fetch_tile(const struct grad_args &a, uint32_t to, int64_t row, int64_t col)
{
#pragma unroll
	for (int i = 0; i < TILE_ROWS * CHUNK / 8 / GRAD_THREADS; i++) {
		int p = i * GRAD_THREADS + (int)threadIdx.x, r = p / (CHUNK / 8), c = p % (CHUNK / 8) * 8;
		bool ok = row + r < a.t;

		copy16(tile_at(to, r, c), a.dy + (ok ? (row + r) * a.ldy + col + c : 0), ok);
	}
}

template <int R> static __device__ __forceinline__ void fetch_b(const struct grad_args &a, uint32_t to, int64_t col, int part)
{
	for (int p = threadIdx.x; p < CHUNK * R / 8; p += GRAD_THREADS) {
		int r = p / (R / 8), c = p % (R / 8) * 8;

		copy16(to + (uint32_t)((r * (R + 8) + c) * 2), a.b + (col + r) * a.ldg + part * R + c, true);
	}
}

/* Both halves of the tokens, then this block's part of dB (64, R) to scratch. */
template <int R> static __device__ __forceinline__ void finish_db(const struct grad_args &a, float acc[R / 8][4], float *shared, int64_t col, int warp, int lane)
{
	float *mine = shared + (warp % 4 * 16 + lane / 4) * R + lane % 4 * 2;
	float *out = a.db_part + ((int64_t)blockIdx.x * a.out + col + warp % 4 * 16 + lane / 4) * R + lane % 4 * 2;

	if (warp / 4)
#pragma unroll
		for (int n = 0; n < R / 8; n++)
#pragma unroll
			for (int e = 0; e < 4; e++)
				mine[e / 2 * 8 * R + n * 8 + e % 2] = acc[n][e];
	__syncthreads();
	if (!(warp / 4))
#pragma unroll
		for (int n = 0; n < R / 8; n++)
#pragma unroll
			for (int h = 0; h < 2; h++) {
				const float *other = mine + h * 8 * R + n * 8;

				*(float2 *)(out + h * 8 * R + n * 8) = make_float2(acc[n][2 * h] + other[0], acc[n][2 * h + 1] + other[1]);
			}
#pragma unroll
	for (int n = 0; n < R / 8; n++)
#pragma unroll
		for (int e = 0; e < 4; e++)
			acc[n][e] = 0;
}

template <int R, int STAGES> static __global__ void __launch_bounds__(GRAD_THREADS) grad_kernel(const __grid_constant__ struct grad_args a)
{
	extern __shared__ __align__(128) unsigned char smem[];
	typedef grad_shared<R, STAGES> L;
	uint32_t tiles = smem_at(smem), s = tiles + L::stages * L::tile, b = s + L::s;
	float *both = (float *)(smem + L::stages * L::tile + L::s + 2 * L::b);
	struct grad_piece p = a.piece[blockIdx.y];
	int64_t row0 = (int64_t)blockIdx.x * BLOCK_ROWS;
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = p.chunks * SUBS;
	float ds[SUBS][R / 8][4] = { 0 }, db[R / 8][4] = { 0 };

	for (int i = threadIdx.x; i < BLOCK_ROWS * R / 8; i += GRAD_THREADS) {
		int r = i / (R / 8), c = i % (R / 8) * 8;
		bool ok = row0 + r < a.t;

		copy16(s + (uint32_t)((r * L::s_ld + c) * 2), a.s + (ok ? (row0 + r) * a.ld_s + p.part * R + c : 0), ok);
	}
	for (int i = 0; i < n + L::stages - 1; i++) {
		if (i < n) {
			int64_t col = a.row[p.part] + (int64_t)(p.first + i / SUBS) * CHUNK;

			fetch_tile<R>(a, tiles + (uint32_t)(i % L::stages * L::tile), row0 + i % SUBS * TILE_ROWS, col);
			if (i % SUBS == 0)
				fetch_b<R>(a, b + (uint32_t)(i / SUBS % 2 * L::b), col, p.part);
		}
		copy_commit();
		if (i < L::stages - 1)
			continue;
		copy_wait<L::stages - 1>();
		__syncthreads();
		{
			int k = i - (L::stages - 1);
			uint32_t tile = tiles + (uint32_t)(k % L::stages * L::tile);

#pragma unroll
			for (int sub = 0; sub < SUBS; sub++) /* registers want a constant index */
				if (sub == k % SUBS) {
					tile_ds<R>(ds[sub], tile, b + (uint32_t)(k / SUBS % 2 * L::b), warp, lane);
					tile_db<R>(db, tile, s + (uint32_t)(sub * TILE_ROWS * L::s_ld * 2), warp, lane);
				}
			if (k % SUBS == SUBS - 1)
				finish_db<R>(a, db, both, a.row[p.part] + (int64_t)(p.first + k / SUBS) * CHUNK, warp, lane);
		}
		__syncthreads();
	}
#pragma unroll
	for (int sub = 0; sub < SUBS; sub++)
#pragma unroll
		for (int c = 0; c < R / 8; c++)
#pragma unroll
			for (int h = 0; h < 2; h++) {
				int64_t row = row0 + sub * TILE_ROWS + warp * 16 + lane / 4 + h * 8;

				*(float2 *)(a.ds_part + ((int64_t)blockIdx.y * a.rows + row) * R + c * 8 + lane % 4 * 2) =
					make_float2(ds[sub][c][2 * h], ds[sub][c][2 * h + 1]);
			}
}

/* Columns are cut into pieces so that some two thread blocks a multiprocessor have work. */
static bool cut(struct grad_args *g, const struct kn_adapter_grad *a, int64_t blocks, int sms)
{
	int64_t chunks = 0, each;

	for (int j = 0; j < a->n; j++) {
		if (a->rows[j] % CHUNK)
			return false;
		chunks += a->rows[j] / CHUNK;
	}
	each = (chunks * blocks + 2 * sms - 1) / (2 * sms);
	each = each < 1 ? 1 : each;
	if ((chunks + each - 1) / each > KN_ADAPTER_PIECES)
		each = (chunks + KN_ADAPTER_PIECES - 1) / KN_ADAPTER_PIECES;
	return cut_pieces(g, a, CHUNK, each);
}

/* ds: a thread an inner value. db: a thread four of them. */
template <int R>
static __global__ void __launch_bounds__(THREADS) fold_ds(const __grid_constant__ struct grad_args g, act_t *ds, int64_t ldy, int n)
{
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, t = i / (n * R);
	int c = (int)(i % (n * R)), part = c / R;
	float sum = 0;

	if (t >= g.t)
		return;
	for (int p = 0; p < g.n_pieces; p++)
		if (g.piece[p].part == part)
			sum += g.ds_part[((int64_t)p * g.rows + t) * R + c % R];
	ds[t * ldy + c] = act_down(sum);
}

struct db_out {
	float *db[KN_PARTS];
	int row[KN_PARTS], rows[KN_PARTS];
	int n;
	float scale;
};

template <int R>
static __global__ void __launch_bounds__(THREADS) fold_db(const float *parts, int64_t blocks, int64_t out, const struct db_out o, double *squares)
{
	int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 4, row = i / R;
	float4 sum = make_float4(0, 0, 0, 0), is = sum;

	for (int j = 0; j < o.n; j++) {
		float4 *to;

		if (row >= out || row < o.row[j] || row >= o.row[j] + o.rows[j])
			continue;
		for (int64_t b = 0; b < blocks; b++) {
			float4 v = *(const float4 *)(parts + (b * out) * R + i);

			sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
		}
		to = (float4 *)(o.db[j] + (row - o.row[j]) * R + i % R);
		is = *to;
		is.x += o.scale * sum.x, is.y += o.scale * sum.y, is.z += o.scale * sum.z, is.w += o.scale * sum.w;
		*to = is;
	}
	leave_squares(is, squares, out * R);
}

/* The partial sums, in order. */
template <int R> static void fold(struct device *d, const struct kn_adapter_grad *a, const struct grad_args *g)
{
	cudaStream_t st = cuda_of(d)->stream;
	struct db_out o;

	memset(&o, 0, sizeof(o));
	o.n = a->n;
	o.scale = a->scale;
	for (int j = 0; j < a->n; j++) {
		o.db[j] = a->db[j];
		o.row[j] = (int)a->row[j];
		o.rows[j] = (int)a->rows[j];
	}
	fold_ds<R><<<(unsigned)((a->t * a->n * R + THREADS - 1) / THREADS), THREADS, 0, st>>>(*g, (act_t *)a->dy + a->out, a->ldy, a->n);
	fold_db<R><<<(unsigned)((a->out * R / 4 + THREADS - 1) / THREADS), THREADS, 0, st>>>(g->db_part, g->blocks, a->out, o, a->squares);
	cuda_launched(d, "adapter_grad");
}

template <int R, int STAGES> static bool grad(struct device *d, const struct kn_adapter_grad *a, struct grad_args *g)
{
	g->blocks = (a->t + BLOCK_ROWS - 1) / BLOCK_ROWS;
	g->rows = g->blocks * BLOCK_ROWS;
	if (!cut(g, a, g->blocks, cuda_of(d)->sms))
		return false;
	g->ds_part = g->db_part + g->blocks * a->out * R;
	cudaFuncSetAttribute(grad_kernel<R, STAGES>, cudaFuncAttributeMaxDynamicSharedMemorySize, grad_shared<R, STAGES>::all);
	grad_kernel<R, STAGES><<<dim3((unsigned)g->blocks, (unsigned)g->n_pieces), GRAD_THREADS, grad_shared<R, STAGES>::all, cuda_of(d)->stream>>>(*g);
	cuda_launched(d, "adapter_grad");
	return true;
}

/* For any GPU whose multiprocessors have room for it. With four stages of rank 16 two thread blocks share one of the larger GPUs'. */
static bool grad_plain(struct device *d, const struct kn_adapter_grad *a, struct grad_args *g)
{
	int room = cuda_of(d)->shared;

	if (a->rank == 16 && grad_shared<16, 1>::all <= room)
		return grad_shared<16, 4>::all <= room ? grad<16, 4>(d, a, g) : grad<16, 1>(d, a, g);
	if (a->rank == 32 && grad_shared<32, 2>::all <= room)
		return grad_shared<32, 4>::all <= room ? grad<32, 4>(d, a, g) : grad<32, 2>(d, a, g);
	return false;
}

static void grad_by_products(struct device *d, const struct kn_adapter_grad *a)
{
	int64_t r = a->rank;

	kn_gemm_cuda(d, false, false, a->t, a->n * r, a->out, 1, a->dy, a->ldy, a->b, a->ldg, 0, NULL, (act_t *)a->dy + a->out, a->ldy, false);
	if (a->squares)
		d->k.zero(d, a->squares, (uint64_t)kn_adapter_squares(a->out * r) * sizeof(*a->squares));
	for (int j = 0; j < a->n; j++) {
		kn_gemm_cuda(d, true, false, a->rows[j], r, a->t, a->scale, (act_t *)a->dy + a->row[j], a->ldy, (const act_t *)a->s + j * r, a->ld_s, 1, NULL,
		             a->db[j], r, true);
		if (a->squares)
			kn_sum_squares_cuda(d, a->db[j], a->rows[j] * r, a->squares + j);
	}
}

void kn_adapter_grad_cuda(struct device *d, const struct kn_adapter_grad *a)
{
	struct grad_args g;
	bool fits = (a->rank == 16 || a->rank == 32 || a->rank == 64) && eights(a->dy, a->ldy) && eights(a->b, a->ldg) && eights(a->s, a->ld_s);

	memset(&g, 0, sizeof(g));
	for (int j = 0; j < a->n; j++)
		g.row[j] = (int)a->row[j], fits = fits && a->row[j] % 8 == 0 && ((uintptr_t)a->db[j] & 15) == 0;
	g.t = a->t, g.ldy = a->ldy, g.ldg = a->ldg, g.ld_s = a->ld_s, g.out = a->out;
	g.dy = (const act_t *)a->dy, g.b = (const act_t *)a->b, g.s = (const act_t *)a->s;
	g.db_part = (float *)a->scratch;
	if (!fits || !(adapter_grad_sm90(d, a, &g) || grad_plain(d, a, &g)))
		grad_by_products(d, a);
	else if (a->rank == 16)
		fold<16>(d, a, &g);
	else if (a->rank == 32)
		fold<32>(d, a, &g);
	else
		fold<64>(d, a, &g);
}
