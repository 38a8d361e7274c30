#include "kernels/cuda.cuh"

#define THREADS 256

/* The right edge: a block a row of G. */
static __global__ void right_kernel(bf16 *g, int64_t ldg, const struct kn_adapters a)
{
	int64_t row = blockIdx.x, r = a.rank;

	for (int64_t c = threadIdx.x; c < a.pad; c += blockDim.x) {
		int j = (int)(c / r);
		float v = 0;

		if (j < a.n && row >= a.row[j] && row < a.row[j] + a.rows[j])
			v = a.scale * a.b[j][(row - a.row[j]) * r + c % r];
		g[row * ldg + a.in + c] = __float2bfloat16_rn(v);
	}
}

/* The lower edge. */
static __global__ void __launch_bounds__(THREADS) lower_kernel(bf16 *g, int64_t ldg, const struct kn_adapters a)
{
	int64_t row = blockIdx.x, c = (int64_t)blockIdx.y * THREADS + threadIdx.x;

	if (c < a.in)
		g[(a.out + row) * ldg + c] = __float2bfloat16_rn(row < a.n * a.rank ? a.a[row * a.in + c] : 0);
}

void kn_adapter_place_cuda(struct device *d, void *g, int64_t ldg, const struct kn_adapters *a)
{
	cudaStream_t st = cuda_of(d)->stream;

	if (a->pad == 0)
		return;
	right_kernel<<<(unsigned)a->out, 64, 0, st>>>((bf16 *)g, ldg, *a);
	lower_kernel<<<dim3((unsigned)a->pad, (unsigned)((a->in + THREADS - 1) / THREADS)), THREADS, 0, st>>>((bf16 *)g, ldg, *a);
	cuda_launched(d, "adapter_place");
}

/* --- backward in one pass over dy ---
 *
 * A thread block has 512 tokens and a run of columns of one projection, taken in chunks of 64 columns, each in four
 * tiles of 128 tokens that stream through shared memory. Of a tile, every warp multiplies its 16 tokens by the chunk's
 * B (16 columns' worth of inner values stay in registers over all chunks: dS), and half of the tokens of 16 columns by
 * s (dB, over the four tiles of the chunk). Partial sums go to scratch, and are folded in order. */

#define BLOCK_ROWS KN_ADAPTER_ROWS
#define TILE_ROWS 128
#define CHUNK 64
#define SUBS (BLOCK_ROWS / TILE_ROWS)
#define GRAD_THREADS 256

struct grad_piece { /* of the grid's second dimension */
	int part, first, chunks; /* columns from row[part] + first * 64 */
};
struct grad_args {
	int64_t t, ldy, ldg, ld_s, out;
	const bf16 *dy, *b, *s;
	float *db_part, *ds_part;
	int n_pieces;
	int row[KN_PARTS];
	struct grad_piece piece[KN_ADAPTER_PIECES];
};

static __device__ __forceinline__ uint32_t shared_at(const void *p)
{
	return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void copy16_or_zero(uint32_t dst, const void *src, bool ok)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(ok ? 16 : 0) : "memory");
}

static __device__ __forceinline__ void load4(uint32_t r[4], uint32_t at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

static __device__ __forceinline__ void load4t(uint32_t r[4], uint32_t at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
	             : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
	             : "r"(at)
	             : "memory");
}

static __device__ __forceinline__ void mma16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
	             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Tiles of 64 columns have rows of 128 bytes; the 16-byte pieces of a row are exchanged by its number, so that eight
 * rows at one column lie in eight different banks. */
static __device__ __forceinline__ uint32_t tile_at(uint32_t base, int row, int col)
{
	return base + (uint32_t)(row * 128 + ((col / 8 ^ row % 8) * 16));
}

template <int R> struct grad_shared { /* bytes */
	/* tiles on their way; with R 16 two thread blocks share a multiprocessor */
	static const int stages = 4;
	static const int tile = TILE_ROWS * CHUNK * 2, s_ld = R + 8, s = BLOCK_ROWS * s_ld * 2, b_ld = R + 8, b = CHUNK * b_ld * 2;
	static const int all = stages * tile + s + 2 * b + CHUNK * R * 4;
};

/* dS of one tile: this warp's 16 tokens by the chunk's B (64, R). */
template <int R> static __device__ __forceinline__ void tile_ds(float acc[R / 8][4], uint32_t tile, uint32_t b, int warp, int lane)
{
#pragma unroll
	for (int k = 0; k < CHUNK; k += 16) {
		uint32_t a[4];

		load4(a, tile_at(tile, warp * 16 + lane % 16, k + lane / 16 * 8));
#pragma unroll
		for (int n = 0; n < R; n += 16) {
			uint32_t f[4];

			load4t(f, b + (uint32_t)(((k + lane % 16) * (R + 8) + n + lane / 16 * 8) * 2));
			mma16(acc[n / 8], a, f[0], f[1]);
			mma16(acc[n / 8 + 1], a, f[2], f[3]);
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
		load4t(a, tile_at(tile, row + lane % 8 + lane / 16 * 8, warp % 4 * 16 + lane / 8 % 2 * 8));
#pragma unroll
		for (int n = 0; n < R; n += 16) {
			uint32_t f[4];

			load4t(f, s + (uint32_t)(((row + lane % 16) * (R + 8) + n + lane / 16 * 8) * 2));
			mma16(acc[n / 8], a, f[0], f[1]);
			mma16(acc[n / 8 + 1], a, f[2], f[3]);
		}
	}
}

template <int R> static __device__ __forceinline__ void fetch_tile(const struct grad_args &a, uint32_t to, int64_t row, int64_t col)
{
#pragma unroll
	for (int i = 0; i < TILE_ROWS * CHUNK / 8 / GRAD_THREADS; i++) {
		int p = i * GRAD_THREADS + (int)threadIdx.x, r = p / (CHUNK / 8), c = p % (CHUNK / 8) * 8;
		bool ok = row + r < a.t;

		copy16_or_zero(tile_at(to, r, c), a.dy + (ok ? (row + r) * a.ldy + col + c : 0), ok);
	}
}

template <int R> static __device__ __forceinline__ void fetch_b(const struct grad_args &a, uint32_t to, int64_t col, int part)
{
	for (int p = threadIdx.x; p < CHUNK * R / 8; p += GRAD_THREADS) {
		int r = p / (R / 8), c = p % (R / 8) * 8;

		copy16_or_zero(to + (uint32_t)((r * (R + 8) + c) * 2), a.b + (col + r) * a.ldg + part * R + c, true);
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

template <int R> static __global__ void __launch_bounds__(GRAD_THREADS) grad_kernel(const __grid_constant__ struct grad_args a)
{
	extern __shared__ __align__(128) unsigned char smem[];
	typedef grad_shared<R> L;
	uint32_t tiles = shared_at(smem), s = tiles + L::stages * L::tile, b = s + L::s;
	float *both = (float *)(smem + L::stages * L::tile + L::s + 2 * L::b);
	struct grad_piece p = a.piece[blockIdx.y];
	int64_t row0 = (int64_t)blockIdx.x * BLOCK_ROWS;
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = p.chunks * SUBS;
	float ds[SUBS][R / 8][4] = { 0 }, db[R / 8][4] = { 0 };

	for (int i = threadIdx.x; i < BLOCK_ROWS * R / 8; i += GRAD_THREADS) {
		int r = i / (R / 8), c = i % (R / 8) * 8;
		bool ok = row0 + r < a.t;

		copy16_or_zero(s + (uint32_t)((r * L::s_ld + c) * 2), a.s + (ok ? (row0 + r) * a.ld_s + p.part * R + c : 0), ok);
	}
	for (int i = 0; i < n + L::stages - 1; i++) {
		if (i < n) {
			int64_t col = a.row[p.part] + (int64_t)(p.first + i / SUBS) * CHUNK;

			fetch_tile<R>(a, tiles + (uint32_t)(i % L::stages * L::tile), row0 + i % SUBS * TILE_ROWS, col);
			if (i % SUBS == 0)
				fetch_b<R>(a, b + (uint32_t)(i / SUBS % 2 * L::b), col, p.part);
		}
		asm volatile("cp.async.commit_group;" ::: "memory");
		if (i < L::stages - 1)
			continue;
		asm volatile("cp.async.wait_group %0;" ::"n"(L::stages - 1) : "memory");
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

				*(float2 *)(a.ds_part + ((int64_t)blockIdx.y * gridDim.x * BLOCK_ROWS + row) * R + c * 8 + lane % 4 * 2) =
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
	g->n_pieces = 0;
	for (int j = 0; j < a->n; j++)
		for (int64_t c = 0; c < a->rows[j] / CHUNK; c += each) {
			int64_t left = a->rows[j] / CHUNK - c;

			if (g->n_pieces == KN_ADAPTER_PIECES)
				return false;
			g->piece[g->n_pieces++] = { j, (int)c, (int)(left < each ? left : each) };
		}
	return true;
}

/* ds: a thread an inner value. db: a thread four of them. */
template <int R>
static __global__ void __launch_bounds__(THREADS) fold_ds(const __grid_constant__ struct grad_args g, bf16 *ds, int64_t ldy, int n, int64_t rows)
{
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, t = i / (n * R);
	int c = (int)(i % (n * R)), part = c / R;
	float sum = 0;

	if (t >= g.t)
		return;
	for (int p = 0; p < g.n_pieces; p++)
		if (g.piece[p].part == part)
			sum += g.ds_part[((int64_t)p * rows + t) * R + c % R];
	ds[t * ldy + c] = __float2bfloat16_rn(sum);
}

struct db_out {
	float *db[KN_PARTS];
	int row[KN_PARTS], rows[KN_PARTS];
	int n;
	float scale;
};

template <int R> static __global__ void __launch_bounds__(THREADS) fold_db(const float *parts, int64_t blocks, int64_t out, const struct db_out o)
{
	int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 4, row = i / R;
	float4 sum = make_float4(0, 0, 0, 0);

	if (row >= out)
		return;
	for (int j = 0; j < o.n; j++) {
		float4 *to;

		if (row < o.row[j] || row >= o.row[j] + o.rows[j])
			continue;
		for (int64_t b = 0; b < blocks; b++) {
			float4 v = *(const float4 *)(parts + (b * out) * R + i);

			sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
		}
		to = (float4 *)(o.db[j] + (row - o.row[j]) * R + i % R);
		to->x += o.scale * sum.x, to->y += o.scale * sum.y, to->z += o.scale * sum.z, to->w += o.scale * sum.w;
	}
}

template <int R> static void grad(struct device *d, const struct kn_adapter_grad *a, struct grad_args *g)
{
	cudaStream_t st = cuda_of(d)->stream;
	int64_t blocks = (a->t + BLOCK_ROWS - 1) / BLOCK_ROWS, rows = blocks * BLOCK_ROWS;
	struct db_out o;

	memset(&o, 0, sizeof(o));
	o.n = a->n;
	o.scale = a->scale;
	for (int j = 0; j < a->n; j++) {
		o.db[j] = a->db[j];
		o.row[j] = (int)a->row[j];
		o.rows[j] = (int)a->rows[j];
	}
	cudaFuncSetAttribute(grad_kernel<R>, cudaFuncAttributeMaxDynamicSharedMemorySize, grad_shared<R>::all);
	grad_kernel<R><<<dim3((unsigned)blocks, (unsigned)g->n_pieces), GRAD_THREADS, grad_shared<R>::all, st>>>(*g);
	fold_ds<R><<<(unsigned)((a->t * a->n * R + THREADS - 1) / THREADS), THREADS, 0, st>>>(*g, (bf16 *)a->dy + a->out, a->ldy, a->n, rows);
	fold_db<R><<<(unsigned)((a->out * R / 4 + THREADS - 1) / THREADS), THREADS, 0, st>>>(g->db_part, blocks, a->out, o);
	cuda_launched(d, "adapter_grad");
}

static void grad_by_products(struct device *d, const struct kn_adapter_grad *a)
{
	int64_t r = a->rank;

	kn_gemm_cuda(d, false, false, a->t, a->n * r, a->out, 1, a->dy, a->ldy, a->b, a->ldg, 0, NULL, (bf16 *)a->dy + a->out, a->ldy, false);
	for (int j = 0; j < a->n; j++)
		kn_gemm_cuda(d, true, false, a->rows[j], r, a->t, a->scale, (bf16 *)a->dy + a->row[j], a->ldy, (const bf16 *)a->s + j * r, a->ld_s, 1, NULL,
		             a->db[j], r, true);
}

void kn_adapter_grad_cuda(struct device *d, const struct kn_adapter_grad *a)
{
	int64_t blocks = (a->t + BLOCK_ROWS - 1) / BLOCK_ROWS;
	struct grad_args g;
	bool fits = (a->rank == 16 || a->rank == 32) && eights(a->dy, a->ldy) && eights(a->b, a->ldg) && eights(a->s, a->ld_s);

	memset(&g, 0, sizeof(g));
	for (int j = 0; j < a->n; j++)
		g.row[j] = (int)a->row[j], fits = fits && a->row[j] % 8 == 0 && ((uintptr_t)a->db[j] & 15) == 0;
	if (!fits || !cut(&g, a, blocks, cuda_of(d)->sms)) {
		grad_by_products(d, a);
		return;
	}
	g.t = a->t, g.ldy = a->ldy, g.ldg = a->ldg, g.ld_s = a->ld_s, g.out = a->out;
	g.dy = (const bf16 *)a->dy, g.b = (const bf16 *)a->b, g.s = (const bf16 *)a->s;
	g.db_part = (float *)a->scratch;
	g.ds_part = g.db_part + blocks * a->out * a->rank;
	if (a->rank == 16)
		grad<16>(d, a, &g);
	else
		grad<32>(d, a, &g);
}

/* --- the outer side: skinny products over x, which is read once --- */

#define OUTER_THREADS 128
#define OUTER_STAGES 6

/* A (rows, 64) tile of bf16, rows of 128 bytes exchanged like tile_at's; rows beyond the end are zero. */
template <int ROWS> static __device__ __forceinline__ void fetch_rows(uint32_t to, const bf16 *from, int64_t ld, int64_t left)
{
#pragma unroll
	for (int i = 0; i < (ROWS * 8 + OUTER_THREADS - 1) / OUTER_THREADS; i++) {
		int p = i * OUTER_THREADS + (int)threadIdx.x, r = p / 8, c = p % 8 * 8;

		if (p < ROWS * 8)
			copy16_or_zero(tile_at(to, r, c), from + (r < left ? r * ld + c : 0), r < left);
	}
}

/* s = x A^T. A thread block has 64 tokens; NT sixteens of inner values. */
template <int NT>
static __global__ void __launch_bounds__(OUTER_THREADS) down_kernel(bf16 *x, int64_t ldx, const bf16 *a, int64_t lda, int64_t t, int64_t in)
{
	extern __shared__ __align__(128) unsigned char smem[];
	const int stage = 64 * 128 + NT * 16 * 128;
	uint32_t base = shared_at(smem);
	int64_t row0 = (int64_t)blockIdx.x * 64;
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = (int)(in / 64);
	float acc[2 * NT][4] = { 0 };

	for (int i = 0; i < n + OUTER_STAGES - 1; i++) {
		if (i < n) {
			uint32_t to = base + (uint32_t)(i % OUTER_STAGES * stage);

			fetch_rows<64>(to, x + row0 * ldx + i * 64, ldx, t - row0);
			fetch_rows<NT * 16>(to + 64 * 128, a + i * 64, lda, NT * 16);
		}
		asm volatile("cp.async.commit_group;" ::: "memory");
		if (i < OUTER_STAGES - 1)
			continue;
		asm volatile("cp.async.wait_group %0;" ::"n"(OUTER_STAGES - 1) : "memory");
		__syncthreads();
		{
			uint32_t tile = base + (uint32_t)((i - (OUTER_STAGES - 1)) % OUTER_STAGES * stage), am = tile + 64 * 128;

#pragma unroll
			for (int k = 0; k < 64; k += 16) {
				uint32_t f[4];

				load4(f, tile_at(tile, warp * 16 + lane % 16, k + lane / 16 * 8));
#pragma unroll
				for (int c = 0; c < NT; c++) {
					uint32_t b[4];

					/* rows of A are columns of the product: its parts come in the order (n, k), (n, k + 8), (n + 8, k), ... */
					load4(b, tile_at(am, c * 16 + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8));
					mma16(acc[2 * c], f, b[0], b[1]);
					mma16(acc[2 * c + 1], f, b[2], b[3]);
				}
			}
		}
		__syncthreads();
	}
#pragma unroll
	for (int h = 0; h < 2; h++) {
		int64_t row = row0 + warp * 16 + lane / 4 + h * 8;

		if (row < t)
#pragma unroll
			for (int c = 0; c < 2 * NT; c++)
				*(__nv_bfloat162 *)(x + row * ldx + in + c * 8 + lane % 4 * 2) = __floats2bfloat162_rn(acc[c][2 * h], acc[c][2 * h + 1]);
	}
}

/* Partial sums of ds^T x over a run of tokens: a thread block has 64 columns of x. */
template <int NT>
static __global__ void __launch_bounds__(OUTER_THREADS) outer_kernel(float *out, const bf16 *ds, int64_t ld_ds, const bf16 *x, int64_t ldx, int64_t t, int64_t in,
                                                                     int64_t run)
{
	extern __shared__ __align__(128) unsigned char smem[];
	const int ds_ld = NT * 16 + 8, stage = 64 * 128 + 64 * ds_ld * 2;
	uint32_t base = shared_at(smem);
	int64_t col0 = (int64_t)blockIdx.x * 64, from = run * blockIdx.y, to = from + run < t ? from + run : t;
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = (int)((to - from + 63) / 64);
	float acc[NT][2][4] = { 0 };

	for (int i = 0; i < n + OUTER_STAGES - 1; i++) {
		if (i < n) {
			uint32_t at = base + (uint32_t)(i % OUTER_STAGES * stage);
			int64_t row = from + i * 64, left = to - row;

			fetch_rows<64>(at, x + row * ldx + col0, ldx, left);
			for (int p = threadIdx.x; p < 64 * NT * 2; p += OUTER_THREADS) {
				int r = p / (NT * 2), c = p % (NT * 2) * 8;

				copy16_or_zero(at + 64 * 128 + (uint32_t)((r * ds_ld + c) * 2), ds + (r < left ? (row + r) * ld_ds + c : 0), r < left);
			}
		}
		asm volatile("cp.async.commit_group;" ::: "memory");
		if (i < OUTER_STAGES - 1)
			continue;
		asm volatile("cp.async.wait_group %0;" ::"n"(OUTER_STAGES - 1) : "memory");
		__syncthreads();
		{
			uint32_t tile = base + (uint32_t)((i - (OUTER_STAGES - 1)) % OUTER_STAGES * stage), dt = tile + 64 * 128;

#pragma unroll
			for (int k = 0; k < 64; k += 16) {
				uint32_t b[4];

				load4t(b, tile_at(tile, k + lane % 16, warp * 16 + lane / 16 * 8));
#pragma unroll
				for (int m = 0; m < NT; m++) {
					uint32_t f[4];

					load4t(f, dt + (uint32_t)(((k + lane % 8 + lane / 16 * 8) * ds_ld + m * 16 + lane / 8 % 2 * 8) * 2));
					mma16(acc[m][0], f, b[0], b[1]);
					mma16(acc[m][1], f, b[2], b[3]);
				}
			}
		}
		__syncthreads();
	}
	out += (int64_t)blockIdx.y * NT * 16 * in + col0 + warp * 16 + lane % 4 * 2;
#pragma unroll
	for (int m = 0; m < NT; m++)
#pragma unroll
		for (int c = 0; c < 2; c++)
#pragma unroll
			for (int h = 0; h < 2; h++)
				*(float2 *)(out + (m * 16 + lane / 4 + h * 8) * in + c * 8) = make_float2(acc[m][c][2 * h], acc[m][c][2 * h + 1]);
}

static __global__ void __launch_bounds__(THREADS) fold_outer(float *da, const float *parts, int64_t n, int runs)
{
	int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 4;
	float4 sum;

	if (i >= n)
		return;
	sum = *(const float4 *)(parts + i);
	for (int r = 1; r < runs; r++) {
		float4 v = *(const float4 *)(parts + r * n + i);

		sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
	}
	da[i] += sum.x, da[i + 1] += sum.y, da[i + 2] += sum.z, da[i + 3] += sum.w;
}

static bool outer_fits(const struct kn_adapter_outer *a)
{
	return a->nr % 16 == 0 && a->nr > 0 && a->nr <= 96 && a->in % 64 == 0 && eights(a->x, a->ldx);
}

template <int NT> static void down(struct device *d, const struct kn_adapter_outer *a)
{
	int bytes = OUTER_STAGES * (64 * 128 + NT * 16 * 128);

	cudaFuncSetAttribute(down_kernel<NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
	down_kernel<NT><<<(unsigned)((a->t + 63) / 64), OUTER_THREADS, bytes, cuda_of(d)->stream>>>((bf16 *)a->x, a->ldx, (const bf16 *)a->a, a->lda, a->t, a->in);
	cuda_launched(d, "adapter_down");
}

void kn_adapter_down_cuda(struct device *d, const struct kn_adapter_outer *a)
{
	if (!outer_fits(a) || !eights(a->a, a->lda)) {
		kn_gemm_cuda(d, false, true, a->t, a->nr, a->in, 1, a->x, a->ldx, a->a, a->lda, 0, NULL, (bf16 *)a->x + a->in, a->ldx, false);
		return;
	}
	switch (a->nr / 16) {
	case 1: down<1>(d, a); break;
	case 2: down<2>(d, a); break;
	case 3: down<3>(d, a); break;
	case 4: down<4>(d, a); break;
	case 5: down<5>(d, a); break;
	default: down<6>(d, a); break;
	}
}

template <int NT> static void outer(struct device *d, const struct kn_adapter_outer *a)
{
	cudaStream_t st = cuda_of(d)->stream;
	int bytes = OUTER_STAGES * (64 * 128 + 64 * (NT * 16 + 8) * 2);
	int64_t blocks = a->in / 64, runs = (4 * cuda_of(d)->sms + blocks - 1) / blocks, run;

	/* how many runs follows from the shape and the processor alone */
	runs = runs > KN_ADAPTER_RUNS ? KN_ADAPTER_RUNS : runs;
	run = ((a->t + runs - 1) / runs + 63) / 64 * 64;
	runs = (a->t + run - 1) / run;
	cudaFuncSetAttribute(outer_kernel<NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
	outer_kernel<NT><<<dim3((unsigned)blocks, (unsigned)runs), OUTER_THREADS, bytes, st>>>((float *)a->scratch, (const bf16 *)a->ds, a->ld_ds, (const bf16 *)a->x,
	                                                                                     a->ldx, a->t, a->in, run);
	fold_outer<<<(unsigned)((a->nr * a->in / 4 + THREADS - 1) / THREADS), THREADS, 0, st>>>(a->da, (const float *)a->scratch, a->nr * a->in, (int)runs);
	cuda_launched(d, "adapter_outer");
}

void kn_adapter_outer_cuda(struct device *d, const struct kn_adapter_outer *a)
{
	if (!outer_fits(a) || !eights(a->ds, a->ld_ds)) {
		kn_gemm_cuda(d, true, false, a->nr, a->in, a->t, 1, a->ds, a->ld_ds, a->x, a->ldx, 1, NULL, a->da, a->in, true);
		return;
	}
	switch (a->nr / 16) {
	case 1: outer<1>(d, a); break;
	case 2: outer<2>(d, a); break;
	case 3: outer<3>(d, a); break;
	case 4: outer<4>(d, a); break;
	case 5: outer<5>(d, a); break;
	default: outer<6>(d, a); break;
	}
}
