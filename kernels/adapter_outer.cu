/* An adapter's skinny products over x, which is read once, and what they see of it through dropout's masks. */
#include "kernels/adapter.cuh"
#include "kernels/dropout.cuh"
#include "kernels/mma.cuh"

#define THREADS 256

#define OUTER_THREADS 128
/* Tiles on their way, as many as shared memory has room for; they change no bits. */
#define MANY_STAGES 6
#define FEW_STAGES 3 /* in 64 KiB */

/* A (rows, 64) tile of activations, rows of 128 bytes exchanged like tile_at's; rows beyond the end are zero. */
template <int ROWS> static __device__ __forceinline__ void fetch_rows(uint32_t to, const act_t *from, int64_t ld, int64_t left)
{
#pragma unroll
	for (int i = 0; i < (ROWS * 8 + OUTER_THREADS - 1) / OUTER_THREADS; i++) {
		int p = i * OUTER_THREADS + (int)threadIdx.x, r = p / 8, c = p % 8 * 8;

		if (p < ROWS * 8)
			copy16(tile_at(to, r, c), from + (r < left ? r * ld + c : 0), r < left);
	}
}

/* --- masks where fragments lie: one call of the generator serves four columns, so lanes that share them share its work --- */

struct masks {
	const int32_t *rec, *pos; /* NULL: no dropout */
	const uint64_t *seed_step;
	struct drop_key key[KN_PARTS];
	uint32_t starts; /* a bit for each eight of inner values with which an adapter begins */
};
/* Of the kernels below: none, or where adapters may begin. */
enum { NO_MASKS, OF_SIXTEENS, OF_EIGHTS };

/* Two values, the lower half first, of which keep's bits 0 and 1 remain. */
static __device__ __forceinline__ uint32_t kept2(uint32_t x, uint32_t keep, float up)
{
	float2 v = num16<act_t>::unpack(x);

	return act_pack(keep & 1 ? v.x * up : 0, keep & 2 ? v.y * up : 0);
}

/* A lane that has two columns from 2 (lane % 4) on of an eight, in the rows r and r + 8 of its token: bits 0 and 1 for r, 2 and 3 for
 * r + 8. rec, pos: of r for even lanes, of r + 8 for odd ones. */
static __device__ __forceinline__ uint32_t keep_pairs(const struct drop_key &k, uint2 seed, int32_t rec, int32_t pos, uint32_t eight)
{
	int lane = threadIdx.x % 32, odd = lane & 1;
	uint32_t mine = keep4(k, seed, rec, pos, eight * 2 + lane % 4 / 2), other = __shfl_xor_sync(0xffffffffu, mine, 1);

	return odd ? other >> 2 | (mine >> 2) << 2 : (mine & 3) | (other & 3) << 2;
}

/* A fragment of x (16 tokens, 16 columns from 8 eight on) through a mask. */
static __device__ __forceinline__ void mask_rows(uint32_t to[4], const uint32_t f[4], const struct drop_key &k, uint2 seed, int32_t rec, int32_t pos, uint32_t eight)
{
#pragma unroll
	for (int h = 0; h < 2; h++) {
		uint32_t keep = keep_pairs(k, seed, rec, pos, eight + h);

		to[2 * h] = kept2(f[2 * h], keep, k.up);
		to[2 * h + 1] = kept2(f[2 * h + 1], keep >> 2, k.up);
	}
}

/* The same where a lane has one column, lane / 4 of an eight, and the tokens 2 (lane % 4) + {0, 1, 8, 9}, of which rec and pos are
 * those of number lane / 4 % 4. */
static __device__ __forceinline__ void mask_columns(uint32_t to[4], const uint32_t b[4], const struct drop_key &k, uint2 seed, int32_t rec, int32_t pos, uint32_t eight)
{
	int lane = threadIdx.x % 32, mine = lane / 4 % 4;

#pragma unroll
	for (int h = 0; h < 2; h++) {
		uint32_t keep = keep4(k, seed, rec, pos, (eight + h) * 2 + lane / 16) << (4 * mine);

		keep |= __shfl_xor_sync(0xffffffffu, keep, 4);
		keep |= __shfl_xor_sync(0xffffffffu, keep, 8);
		keep >>= mine; /* my column's bits are 0, 4, 8, 12 */
		to[2 * h] = kept2(b[2 * h], (keep & 1) | (keep >> 3 & 2), k.up);
		to[2 * h + 1] = kept2(b[2 * h + 1], (keep >> 8 & 1) | (keep >> 11 & 2), k.up);
	}
}

/* s = x A^T. A thread block has 64 tokens; NT sixteens of inner values, of which nr are there, in eights. */
template <int NT, int STAGES, int DROP>
static __global__ void __launch_bounds__(OUTER_THREADS) down_kernel(act_t *x, int64_t ldx, const act_t *a, int64_t lda, int64_t t, int64_t in, int nr,
                                                                    const __grid_constant__ struct masks m)
{
	extern __shared__ __align__(128) unsigned char smem[];
	const int stage = 64 * 128 + NT * 16 * 128;
	uint32_t base = smem_at(smem);
	int64_t row0 = (int64_t)blockIdx.x * 64;
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = (int)(in / 64);
	int64_t mine = row0 + warp * 16 + lane / 4 + lane % 2 * 8; /* the token whose masks this lane makes */
	int32_t rec = DROP && mine < t ? m.rec[mine] : 0, pos = DROP && mine < t ? m.pos[mine] : 0;
	uint2 seed = DROP ? seed_of(m.seed_step) : make_uint2(0, 0);
	float acc[2 * NT][4] = { 0 };

	for (int i = 0; i < n + STAGES - 1; i++) {
		if (i < n) {
			uint32_t to = base + (uint32_t)(i % STAGES * stage);

			fetch_rows<64>(to, x + row0 * ldx + i * 64, ldx, t - row0);
			fetch_rows<NT * 16>(to + 64 * 128, a + i * 64, lda, nr);
		}
		copy_commit();
		if (i < STAGES - 1)
			continue;
		copy_wait<STAGES - 1>();
		__syncthreads();
		{
			uint32_t tile = base + (uint32_t)((i - (STAGES - 1)) % STAGES * stage), am = tile + 64 * 128;

#pragma unroll
			for (int k = 0; k < 64; k += 16) {
				uint32_t f[4], seen[4];
				int j = 0;

				ldsm4(f, tile_at(tile, warp * 16 + lane % 16, k + lane / 16 * 8));
#pragma unroll
				for (int c = 0; c < NT; c++) {
					uint32_t b[4];

					/* rows of A are columns of the product: its parts come in the order (n, k), (n, k + 8), (n + 8, k), ... */
					ldsm4(b, tile_at(am, c * 16 + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8));
#pragma unroll
					for (int e = 0; e < 2; e++) {
						if (DROP && (e == 0 || DROP == OF_EIGHTS) && m.starts >> (2 * c + e) & 1)
							mask_rows(seen, f, m.key[j++], seed, rec, pos, (uint32_t)((i - (STAGES - 1)) * 8 + k / 8));
						mma(acc[2 * c + e], DROP ? seen : f, b[2 * e], b[2 * e + 1], act_t());
					}
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
				if (c * 8 < nr)
					*(uint32_t *)(x + row * ldx + in + c * 8 + lane % 4 * 2) = act_pack(acc[c][2 * h], acc[c][2 * h + 1]);
	}
}

/* One of the two adapters that a fragment of ds has, the other's rows zero: the lower eight, or the upper ones. */
static __device__ __forceinline__ void rows_of(uint32_t to[4], const uint32_t f[4], int upper)
{
#pragma unroll
	for (int i = 0; i < 4; i++)
		to[i] = i % 2 == upper ? f[i] : 0;
}

/* Partial sums of ds^T x over a run of tokens: a thread block has 64 columns of x; inner values as in down_kernel. */
template <int NT, int STAGES, int DROP>
static __global__ void __launch_bounds__(OUTER_THREADS) outer_kernel(float *out, const act_t *ds, int64_t ld_ds, const act_t *x, int64_t ldx, int64_t t, int64_t in, int nr,
                                                                     int64_t run, const __grid_constant__ struct masks mk)
{
	extern __shared__ __align__(128) unsigned char smem[];
	const int ds_ld = NT * 16 + 8, stage = 64 * 128 + 64 * ds_ld * 2;
	uint32_t base = smem_at(smem);
	int64_t col0 = (int64_t)blockIdx.x * 64, from = run * blockIdx.y, to = from + run < t ? from + run : t;
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = (int)((to - from + 63) / 64);
	uint2 seed = DROP ? seed_of(mk.seed_step) : make_uint2(0, 0);
	float acc[NT][2][4] = { 0 };

	for (int i = 0; i < n + STAGES - 1; i++) {
		if (i < n) {
			uint32_t at = base + (uint32_t)(i % STAGES * stage);
			int64_t row = from + i * 64, left = to - row;

			fetch_rows<64>(at, x + row * ldx + col0, ldx, left);
			for (int p = threadIdx.x; p < 64 * NT * 2; p += OUTER_THREADS) {
				int r = p / (NT * 2), c = p % (NT * 2) * 8;
				bool there = r < left && c < nr;

				copy16(at + 64 * 128 + (uint32_t)((r * ds_ld + c) * 2), ds + (there ? (row + r) * ld_ds + c : 0), there);
			}
		}
		copy_commit();
		if (i < STAGES - 1)
			continue;
		copy_wait<STAGES - 1>();
		__syncthreads();
		{
			uint32_t tile = base + (uint32_t)((i - (STAGES - 1)) % STAGES * stage), dt = tile + 64 * 128;

#pragma unroll
			for (int k = 0; k < 64; k += 16) {
				/* the token whose masks this lane makes */
				int64_t mine = from + (i - (STAGES - 1)) * 64 + k + lane % 4 * 2 + lane / 4 % 2 + lane / 8 % 2 * 8;
				int32_t rec = DROP && mine < to ? mk.rec[mine] : 0, pos = DROP && mine < to ? mk.pos[mine] : 0;
				uint32_t b[4], seen[4];
				int j = 0;

				ldsm4t(b, tile_at(tile, k + lane % 16, warp * 16 + lane / 16 * 8));
#pragma unroll
				for (int m = 0; m < NT; m++) {
					uint32_t f[4], half[4];
					bool two = DROP == OF_EIGHTS && mk.starts >> (2 * m + 1) & 1;

					if (DROP && mk.starts >> (2 * m) & 1)
						mask_columns(seen, b, mk.key[j++], seed, rec, pos, (uint32_t)(col0 / 8 + warp * 2));
					ldsm4t(f, dt + (uint32_t)(((k + lane % 8 + lane / 16 * 8) * ds_ld + m * 16 + lane / 8 % 2 * 8) * 2));
					if (two) {
						rows_of(half, f, 0);
						mma(acc[m][0], half, seen[0], seen[1], act_t());
						mma(acc[m][1], half, seen[2], seen[3], act_t());
						mask_columns(seen, b, mk.key[j++], seed, rec, pos, (uint32_t)(col0 / 8 + warp * 2));
						rows_of(f, f, 1);
					}
					mma(acc[m][0], f, DROP ? seen[0] : b[0], DROP ? seen[1] : b[1], act_t());
					mma(acc[m][1], f, DROP ? seen[2] : b[2], DROP ? seen[3] : b[3], act_t());
				}
			}
		}
		__syncthreads();
	}
	out += (int64_t)blockIdx.y * nr * in + col0 + warp * 16 + lane % 4 * 2;
#pragma unroll
	for (int m = 0; m < NT; m++)
#pragma unroll
		for (int c = 0; c < 2; c++)
#pragma unroll
			for (int h = 0; h < 2; h++)
				if (m * 16 + h * 8 < nr)
					*(float2 *)(out + (m * 16 + lane / 4 + h * 8) * in + c * 8) = make_float2(acc[m][c][2 * h], acc[m][c][2 * h + 1]);
}

static __global__ void __launch_bounds__(THREADS) fold_outer(float *da, const float *parts, int64_t n, int runs, double *squares)
{
	int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 4;
	float4 is = make_float4(0, 0, 0, 0);

	if (i < n) {
		float4 sum = *(const float4 *)(parts + i);

		for (int r = 1; r < runs; r++) {
			float4 v = *(const float4 *)(parts + r * n + i);

			sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
		}
		is = make_float4(da[i] + sum.x, da[i + 1] + sum.y, da[i + 2] + sum.z, da[i + 3] + sum.w);
		da[i] = is.x, da[i + 1] = is.y, da[i + 2] = is.z, da[i + 3] = is.w;
	}
	leave_squares(is, squares, n);
}

/* sum += what one adapter gave, through its mask; acc is empty then. */
static __device__ __forceinline__ void through_mask(float sum[8][4], float acc[8][4], const struct drop_key &key, uint2 seed, int32_t rec, int32_t pos, uint32_t eight)
{
#pragma unroll
	for (int c = 0; c < 8; c++) {
		uint32_t keep = keep_pairs(key, seed, rec, pos, eight + c);

#pragma unroll
		for (int e = 0; e < 4; e++) {
			sum[c][e] += keep >> e & 1 ? acc[c][e] * key.up : 0;
			acc[c][e] = 0;
		}
	}
}

/* acc += 16 tokens' f by sixteen rows of A at am, 64 columns of them. */
static __device__ __forceinline__ void by_sixteen(float acc[8][4], const uint32_t f[4], uint32_t am, int row, int lane)
{
#pragma unroll
	for (int c = 0; c < 4; c++) {
		uint32_t b[4];

		ldsm4t(b, tile_at(am, row + lane % 16, c * 16 + lane / 16 * 8));
		mma(acc[2 * c], f, b[0], b[1], act_t());
		mma(acc[2 * c + 1], f, b[2], b[3], act_t());
	}
}

/* x += sum of m_j (ds_j A_j). A thread block has 64 tokens and 64 columns, a warp 16 of the tokens; inner values as in down_kernel. */
template <int NT, int DROP>
static __global__ void __launch_bounds__(OUTER_THREADS) through_kernel(act_t *x, int64_t ldx, const act_t *ds, int64_t ld_ds, const act_t *a, int64_t lda, int64_t t, int nr,
                                                                       const __grid_constant__ struct masks m)
{
	__shared__ __align__(128) unsigned char smem[NT * 16 * 128];
	uint32_t am = smem_at(smem);
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32, odd = lane % 2, j = 0;
	int64_t col0 = (int64_t)blockIdx.x * 64, row = (int64_t)blockIdx.y * 64 + warp * 16 + lane / 4, mine = row + odd * 8;
	int32_t rec = mine < t ? m.rec[mine] : 0, pos = mine < t ? m.pos[mine] : 0;
	uint2 seed = seed_of(m.seed_step);
	float sum[8][4] = { 0 }, acc[8][4] = { 0 };

	fetch_rows<NT * 16>(am, a + col0, lda, nr);
	copy_commit();
	copy_wait<0>();
	__syncthreads();
#pragma unroll
	for (int k = 0; k < NT; k++) {
		const act_t *from = ds + row * ld_ds + k * 16 + lane % 4 * 2;
		uint32_t f[4];

#pragma unroll
		for (int e = 0; e < 4; e++)
			f[e] = row + e % 2 * 8 < t && k * 16 + e / 2 * 8 < nr ? *(const uint32_t *)(from + e % 2 * 8 * ld_ds + e / 2 * 8) : 0;
		if (DROP == OF_EIGHTS && m.starts >> (2 * k + 1) & 1) { /* another adapter's begin in the upper eight */
			const uint32_t lower[4] = { f[0], f[1], 0, 0 };

			by_sixteen(acc, lower, am, k * 16, lane);
			through_mask(sum, acc, m.key[j++], seed, rec, pos, (uint32_t)(col0 / 8));
			f[0] = f[1] = 0;
		}
		by_sixteen(acc, f, am, k * 16, lane);
		if (k + 1 == NT || m.starts >> (2 * k + 2) & 1)
			through_mask(sum, acc, m.key[j++], seed, rec, pos, (uint32_t)(col0 / 8));
	}
#pragma unroll
	for (int h = 0; h < 2; h++)
#pragma unroll
		for (int c = 0; c < 8; c++)
			if (row + 8 * h < t) {
				uint32_t *at = (uint32_t *)(x + (row + 8 * h) * ldx + col0 + c * 8 + lane % 4 * 2);
				float2 v = num16<act_t>::unpack(*at);

				*at = act_pack(v.x + sum[c][2 * h], v.y + sum[c][2 * h + 1]);
			}
}

/* Bytes of shared memory for nr inner values. */
static int down_bytes(int64_t nr, int stages)
{
	return stages * (64 * 128 + (int)nr * 128);
}

static int outer_bytes(int64_t nr, int stages)
{
	return stages * (64 * 128 + 64 * ((int)nr + 8) * 2);
}

/* Whether the kernels take these shapes: whole eights of inner values, those of each adapter too where masks tell them apart. */
static bool outer_fits(const struct kn_adapter_outer *a)
{
	return a->nr % 8 == 0 && a->nr > 0 && a->nr <= 96 && a->in % 64 == 0 && eights(a->x, a->ldx) && (!a->masks || a->masks->rank % 8 == 0);
}

static struct masks masks_of(const struct kn_adapter_outer *a)
{
	struct masks m = {};

	if (!a->masks)
		return m;
	m.rec = a->masks->rec;
	m.pos = a->masks->pos;
	m.seed_step = a->masks->key[0].seed_step;
	for (int j = 0; j * a->masks->rank < a->nr; j++) {
		m.key[j] = drop_key_of(&a->masks->key[j]);
		m.starts |= 1u << (j * a->masks->rank / 8);
	}
	return m;
}

/* --- any shape: by the library, masked in passes of their own --- */

/* What adapter j sees of x. */
static const act_t *seen_by(struct device *d, const struct kn_adapter_outer *a, int64_t j, int64_t *ld)
{
	const struct kn_adapter_masks *m = a->masks;

	*ld = m ? a->in : a->ldx;
	if (!m)
		return (const act_t *)a->x;
	kn_dropout_cuda(d, m->room, a->in, a->x, a->ldx, m->rec, m->pos, a->t, a->in, m->key[j], false);
	return (const act_t *)m->room;
}

static void any_down(struct device *d, const struct kn_adapter_outer *a)
{
	int64_t r = a->masks ? a->masks->rank : a->nr, ld;

	for (int64_t j = 0; j * r < a->nr; j++) {
		const act_t *x = seen_by(d, a, j, &ld);

		kn_gemm_cuda(d, false, true, a->t, r, a->in, 1, x, ld, (const act_t *)a->a + j * r * a->lda, a->lda, 0, NULL, (act_t *)a->x + a->in + j * r, a->ldx, false);
	}
}

static void any_outer(struct device *d, const struct kn_adapter_outer *a)
{
	int64_t r = a->masks ? a->masks->rank : a->nr, ld;

	for (int64_t j = 0; j * r < a->nr; j++) {
		const act_t *x = seen_by(d, a, j, &ld);

		kn_gemm_cuda(d, true, false, r, a->in, a->t, 1, (const act_t *)a->ds + j * r, a->ld_ds, x, ld, 1, NULL, a->da + j * r * a->in, a->in, true);
	}
	if (!a->squares)
		return;
	d->k.zero(d, a->squares, (uint64_t)kn_adapter_squares(a->nr * a->in) * sizeof(*a->squares));
	kn_sum_squares_cuda(d, a->da, a->nr * a->in, a->squares);
}

static void any_through(struct device *d, const struct kn_adapter_outer *a)
{
	const struct kn_adapter_masks *m = a->masks;

	for (int64_t j = 0; j * m->rank < a->nr; j++) {
		kn_gemm_cuda(d, false, false, a->t, a->in, m->rank, 1, (const act_t *)a->ds + j * m->rank, a->ld_ds, (const act_t *)a->a + j * m->rank * a->lda, a->lda, 0, NULL,
		             m->room, a->in, false);
		kn_dropout_cuda(d, a->x, a->ldx, m->room, a->in, m->rec, m->pos, a->t, a->in, m->key[j], true);
	}
}

/* --- launches --- */

template <int NT, int STAGES, int DROP> static void down_by(struct device *d, const struct kn_adapter_outer *a)
{
	int bytes = down_bytes(NT * 16, STAGES);

	cudaFuncSetAttribute(down_kernel<NT, STAGES, DROP>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
	down_kernel<NT, STAGES, DROP><<<(unsigned)((a->t + 63) / 64), OUTER_THREADS, bytes, cuda_of(d)->stream>>>((act_t *)a->x, a->ldx, (const act_t *)a->a, a->lda, a->t,
	                                                                                                         a->in, (int)a->nr, masks_of(a));
	cuda_launched(d, "adapter_down");
}

template <int NT, int DROP> static void down(struct device *d, const struct kn_adapter_outer *a)
{
	down_bytes(NT * 16, MANY_STAGES) <= cuda_of(d)->shared ? down_by<NT, MANY_STAGES, DROP>(d, a) : down_by<NT, FEW_STAGES, DROP>(d, a);
}

/* da += the partial sums of all runs, in order. */
static void fold_runs(struct device *d, const struct kn_adapter_outer *a, int runs)
{
	fold_outer<<<(unsigned)((a->nr * a->in / 4 + THREADS - 1) / THREADS), THREADS, 0, cuda_of(d)->stream>>>(a->da, (const float *)a->scratch, a->nr * a->in, runs, a->squares);
	cuda_launched(d, "adapter_outer");
}

template <int NT, int STAGES, int DROP> static void outer_by(struct device *d, const struct kn_adapter_outer *a)
{
	cudaStream_t st = cuda_of(d)->stream;
	int bytes = outer_bytes(NT * 16, STAGES);
	int64_t blocks = a->in / 64, runs = (4 * cuda_of(d)->sms + blocks - 1) / blocks, run;

	/* how many runs follows from the shape and the processor alone */
	runs = runs > KN_ADAPTER_RUNS ? KN_ADAPTER_RUNS : runs;
	run = ((a->t + runs - 1) / runs + 63) / 64 * 64;
	runs = (a->t + run - 1) / run;
	cudaFuncSetAttribute(outer_kernel<NT, STAGES, DROP>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
	outer_kernel<NT, STAGES, DROP><<<dim3((unsigned)blocks, (unsigned)runs), OUTER_THREADS, bytes, st>>>(
		(float *)a->scratch, (const act_t *)a->ds, a->ld_ds, (const act_t *)a->x, a->ldx, a->t, a->in, (int)a->nr, run, masks_of(a));
	fold_runs(d, a, (int)runs);
}

template <int NT, int DROP> static void outer(struct device *d, const struct kn_adapter_outer *a)
{
	outer_bytes(NT * 16, MANY_STAGES) <= cuda_of(d)->shared ? outer_by<NT, MANY_STAGES, DROP>(d, a) : outer_by<NT, FEW_STAGES, DROP>(d, a);
}

template <int NT, int DROP> static void through(struct device *d, const struct kn_adapter_outer *a)
{
	through_kernel<NT, DROP><<<dim3((unsigned)(a->in / 64), (unsigned)((a->t + 63) / 64)), OUTER_THREADS, 0, cuda_of(d)->stream>>>(
		(act_t *)a->x, a->ldx, (const act_t *)a->ds, a->ld_ds, (const act_t *)a->a, a->lda, a->t, (int)a->nr, masks_of(a));
	cuda_launched(d, "adapter_through");
}

/* what<sixteens, the last one whole or half; masks> */
#define BY_SIZE(what, DROP)                           \
	switch ((a->nr + 15) / 16) {                  \
	case 1: what<1, DROP>(d, a); break;           \
	case 2: what<2, DROP>(d, a); break;           \
	case 3: what<3, DROP>(d, a); break;           \
	case 4: what<4, DROP>(d, a); break;           \
	case 5: what<5, DROP>(d, a); break;           \
	default: what<6, DROP>(d, a); break;          \
	}

#define BY_MASKS(what)                                \
	if (!a->masks)                                \
		BY_SIZE(what, NO_MASKS)               \
	else if (a->masks->rank % 16)                 \
		BY_SIZE(what, OF_EIGHTS)              \
	else                                          \
		BY_SIZE(what, OF_SIXTEENS)

void kn_adapter_down_cuda(struct device *d, const struct kn_adapter_outer *a)
{
	if (adapter_down_sm90(d, a))
		return;
	if (!outer_fits(a) || !eights(a->a, a->lda))
		any_down(d, a);
	else
		BY_MASKS(down)
}

void kn_adapter_outer_cuda(struct device *d, const struct kn_adapter_outer *a)
{
	int runs;

	if (adapter_outer_sm90(d, a, &runs))
		fold_runs(d, a, runs);
	else if (!outer_fits(a) || !eights(a->ds, a->ld_ds))
		any_outer(d, a);
	else
		BY_MASKS(outer)
}

void kn_adapter_through_cuda(struct device *d, const struct kn_adapter_outer *a)
{
	if (!outer_fits(a) || !eights(a->a, a->lda) || !eights(a->ds, a->ld_ds))
		any_through(d, a);
	else if (a->masks->rank % 16)
		BY_SIZE(through, OF_EIGHTS)
	else
		BY_SIZE(through, OF_SIXTEENS)
}
