/* Attention by warp-level tensor-core products (mma.sync), sm_75 and later, head
 * sizes that are multiples of 8 up to 256, in kernels of 64, 80, 96, 128 and 256
 * columns; missing columns are zeros in shared memory.
 *
 * Forward: a block owns 128 queries of a head and walks the keys from the
 * diagonal back, with the running maximum and sum of each row. The next keys
 * travel while the values are multiplied, and the values while scores are formed.
 *
 * Backward, in two kernels, so that every sum has one owner and an order:
 * dq: a block owns 64 queries and walks the keys; dk, dv: a block owns 64 keys and
 * walks the queries of every head of the group. The second forms the
 * transposed scores k q^T, so that probabilities leave one product in the very registers
 * that the next takes them from. At 256 columns dk and dv take a pass each: both
 * would not fit in registers. */
#include "kernels/attn_mma.cuh"

#include <type_traits>

/* Forward: BN keys at a time, WARPS warps of MI * 16 queries. */
template <int DP> struct fwd_cfg;
template <> struct fwd_cfg<64> { enum { BN = 64, MI = 2, WARPS = 4 }; };
template <> struct fwd_cfg<80> { enum { BN = 64, MI = 2, WARPS = 4 }; };
template <> struct fwd_cfg<96> { enum { BN = 64, MI = 2, WARPS = 4 }; };
template <> struct fwd_cfg<128> { enum { BN = 32, MI = 2, WARPS = 4 }; };
template <> struct fwd_cfg<256> { enum { BN = 32, MI = 1, WARPS = 8 }; };
/* Backward: BN rows of the other side at a time, in two stages; four warps of 16 rows. FEW where shared memory is 64 KiB. */
template <int DP> struct bwd_cfg { enum { BN = 32, FEW = DP == 128 ? 16 : 32 }; };
template <> struct bwd_cfg<256> { enum { BN = 16, FEW = 16 }; };
#define BM 64
#define BWD_THREADS 128

template <int DP> static constexpr int fwd_smem()
{
	return (ATTN_TILE + 2 * fwd_cfg<DP>::BN) * (DP + 8) * 2;
}

template <int DP, int BN> static constexpr int bwd_smem()
{
	return (2 * BM + 4 * BN) * (DP + 8) * 2;
}

/* Scores of rows i, i + 8 against keys from j0 on: capped, masked with -inf. `all`: every pair of the block is visible. */
template <int NB>
static __device__ __forceinline__ void mask_scores(float x[][4], const struct attn_cuda &s, const struct attn_score &sc, int i,
	int j0, bool all)
{
	if (sc.in != 0) {
#pragma unroll
		for (int n = 0; n < NB; n++)
			for (int e = 0; e < 4; e++)
				x[n][e] = attn_tanh(x[n][e] * sc.in);
	}
	if (all)
		return;
	j0 += threadIdx.x % 4 * 2;
#pragma unroll
	for (int n = 0; n < NB; n++)
#pragma unroll
		for (int e = 0; e < 4; e++) {
			int row = i + e / 2 * 8, j = j0 + n * 8 + e % 2;

			if (j > row || (s.window > 0 && row - j >= s.window))
				x[n][e] = -INFINITY;
		}
}

struct row_state {
	float max[2], sum[2];
};

/* x <- 2^(x mul - max mul); the accumulators follow the new maximum. Sums are of this lane's columns only, until the end. */
template <int NB, int DP>
static __device__ __forceinline__ void softmax_step(float x[][4], float o[][4], struct row_state *r, float mul)
{
#pragma unroll
	for (int half = 0; half < 2; half++) {
		float max = r->max[half], base, by;

#pragma unroll
		for (int n = 0; n < NB; n++)
			max = fmaxf(max, fmaxf(x[n][2 * half], x[n][2 * half + 1]));
		max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
		max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
		base = max == -INFINITY ? 0 : max * mul; /* nothing visible yet */
		by = attn_exp2(r->max[half] * mul - base);
		r->max[half] = max;
		r->sum[half] *= by;
#pragma unroll
		for (int n = 0; n < NB; n++)
#pragma unroll
			for (int e = 2 * half; e < 2 * half + 2; e++) {
				x[n][e] = attn_exp2(x[n][e] * mul - base);
				r->sum[half] += x[n][e];
			}
#pragma unroll
		for (int n = 0; n < DP / 8; n++) {
			o[n][2 * half] *= by;
			o[n][2 * half + 1] *= by;
		}
	}
}

template <typename T, int DP>
static __device__ __forceinline__ void finish_rows(const struct attn_cuda &s, const struct attn_item &it, int i, int h, T *o,
	float *lse, float acc[][4],
                                                   struct row_state *r, float mul)
{
	int lane = threadIdx.x % 32;

#pragma unroll
	for (int half = 0; half < 2; half++) {
		int row = i + lane / 4 + 8 * half;

		r->sum[half] += __shfl_xor_sync(0xffffffffu, r->sum[half], 1);
		r->sum[half] += __shfl_xor_sync(0xffffffffu, r->sum[half], 2);
		if (lane % 4 == 0 && row < it.len)
			lse[(int64_t)(it.t0 + row) * s.n_heads + h] = r->max[half] * mul * ATTN_LN2 + logf(r->sum[half]);
	}
	store16<T, DP>(o + (int64_t)(it.t0 + i) * s.ldo + (int64_t)h * s.head_dim, s.ldo, acc, 1.0f / r->sum[0],
		1.0f / r->sum[1], it.len - i, s.head_dim);
}

/* A block of keys is wholly visible to rows [i, i + n). */
static __device__ __forceinline__ bool all_visible(const struct attn_cuda &s, int i, int n, int j0, int bn)
{
	return j0 + bn - 1 <= i && (s.window <= 0 || i + n - 1 - j0 < s.window);
}

template <typename T, int DP>
__global__ void __launch_bounds__(32 * fwd_cfg<DP>::WARPS)
	attn_mma_fwd_kernel(const struct attn_cuda s, const T *q, const T *k, const T *v, T *o, float *lse)
{
	enum { BN = fwd_cfg<DP>::BN, MI = fwd_cfg<DP>::MI, THREADS = 32 * fwd_cfg<DP>::WARPS, LD = DP + 8 };
	extern __shared__ __align__(16) unsigned char smem[];
	T *qs = (T *)smem, *ks = qs + ATTN_TILE * LD, *vs = ks + BN * LD;
	int h = blockIdx.x % s.n_heads, kvh = h / (s.n_heads / s.n_kv), d = s.head_dim, first, i0, last;
	float acc[MI][DP / 8][4] = { 0 };
	struct row_state state[MI];
	struct attn_score sc = attn_score_of(s);
	struct attn_item it;

	if (!attn_take(s, blockIdx.x / s.n_heads, false, &it))
		return;
	q += (int64_t)(it.t0 + it.m0) * s.ldq + (int64_t)h * d;
	k += (int64_t)it.t0 * s.ldk + (int64_t)kvh * d;
	v += (int64_t)it.t0 * s.ldv + (int64_t)kvh * d;
	first = s.window > 0 && it.m0 - s.window + 1 > 0 ? (it.m0 - s.window + 1) / BN : 0;
	last = (min(it.m0 + ATTN_TILE, it.len) - 1) / BN;
	i0 = it.m0 + threadIdx.x / 32 * MI * 16; /* this warp's first row */
#pragma unroll
	for (int m = 0; m < MI; m++)
		state[m] = { { -INFINITY, -INFINITY }, { 0, 0 } };
	copy_tile<T, DP, ATTN_TILE, THREADS>(qs, q, s.ldq, it.len - it.m0, d);
	copy_tile<T, DP, BN, THREADS>(ks, k + (int64_t)last * BN * s.ldk, s.ldk, it.len - last * BN, d);
	copy_commit();
	for (int b = last; b >= first; b--) {
		float x[MI][BN / 8][4] = { 0 };

		copy_tile<T, DP, BN, THREADS>(vs, v + (int64_t)b * BN * s.ldv, s.ldv, it.len - b * BN, d);
		copy_commit();
		copy_wait<1>();
		__syncthreads();
#pragma unroll
		for (int m = 0; m < MI; m++)
			product_nt<T, DP, BN>(x[m], qs + (i0 - it.m0 + 16 * m) * LD, ks);
		__syncthreads();
		if (b > first)
			copy_tile<T, DP, BN, THREADS>(ks, k + (int64_t)(b - 1) * BN * s.ldk, s.ldk, it.len - (b - 1) * BN, d);
		copy_commit();
#pragma unroll
		for (int m = 0; m < MI; m++) {
			int i = i0 + 16 * m;

			mask_scores<BN / 8>(x[m], s, sc, i + threadIdx.x % 32 / 4, b * BN, all_visible(s, i, 16, b * BN, BN));
			softmax_step<BN / 8, DP>(x[m], acc[m], &state[m], sc.mul);
		}
		copy_wait<1>();
		__syncthreads();
#pragma unroll
		for (int m = 0; m < MI; m++)
			product_nn<T, DP, BN>(acc[m], x[m], vs);
		__syncthreads();
	}
#pragma unroll
	for (int m = 0; m < MI; m++)
		finish_rows<T, DP>(s, it, i0 + 16 * m, h, o, lse, acc[m], &state[m], sc.mul);
}

/* --- backward --- */

/* Scores and dP become P and dS; rows and columns as the caller says through `lse2` and `dsum`, and `seen`. */
static __device__ __forceinline__ void grad_pair(float *x, float *dp, const struct attn_score &sc, float lse2, float dsum, bool seen)
{
	float t = sc.in != 0 ? attn_tanh(*x * sc.in) : *x, p = attn_exp2(t * sc.mul - lse2), ds = p * (*dp - dsum);

	if (sc.in != 0)
		ds *= 1 - t * t;
	*x = seen ? p : 0;
	*dp = seen ? ds : 0;
}

static __device__ __forceinline__ bool sees(const struct attn_cuda &s, const struct attn_item &it, int i, int j)
{
	return j <= i && i < it.len && (s.window <= 0 || i - j < s.window);
}

template <typename T, int DP, int BN> __global__ void __launch_bounds__(BWD_THREADS) attn_mma_dq_kernel(const struct attn_cuda s,
	const struct attn_ptrs p)
{
	enum { LD = DP + 8 };
	extern __shared__ __align__(16) unsigned char smem[];
	T *qs = (T *)smem, *gs = qs + BM * LD, *kv = gs + BM * LD;
	int h = blockIdx.x % s.n_heads, kvh = h / (s.n_heads / s.n_kv), d = s.head_dim, lane = threadIdx.x % 32, first, last, row, i0;
	const T *k = (const T *)p.k, *v = (const T *)p.v;
	float acc[DP / 8][4] = { 0 }, lse2[2], dsum[2];
	int64_t ld = attn_stat_ld(s);
	struct attn_score sc = attn_score_of(s);
	struct attn_item it;

	if (!attn_take(s, blockIdx.x / s.n_heads / (ATTN_TILE / BM), false, &it))
		return;
	it.m0 += blockIdx.x / s.n_heads % (ATTN_TILE / BM) * BM;
	if (it.m0 >= it.len)
		return;
	k += (int64_t)it.t0 * s.ldk + (int64_t)kvh * d;
	v += (int64_t)it.t0 * s.ldv + (int64_t)kvh * d;
	first = s.window > 0 && it.m0 - s.window + 1 > 0 ? (it.m0 - s.window + 1) / BN : 0;
	last = (min(it.m0 + BM, it.len) - 1) / BN;
	row = threadIdx.x / 32 * 16;
	i0 = it.m0 + row + lane / 4;
#pragma unroll
	for (int half = 0; half < 2; half++) {
		bool in = i0 + 8 * half < it.len;

		lse2[half] = in ? p.stat[h * ld + it.stat0 + i0 + 8 * half] : 0;
		dsum[half] = in ? p.stat[(s.n_heads + h) * ld + it.stat0 + i0 + 8 * half] : 0;
	}
	copy_tile<T, DP, BM, BWD_THREADS>(qs, (const T *)p.q + (int64_t)(it.t0 + it.m0) * s.ldq + (int64_t)h * d, s.ldq, it.len - it.m0, d);
	copy_tile<T, DP, BM, BWD_THREADS>(gs, (const T *)p.d_o + (int64_t)(it.t0 + it.m0) * s.ldo + (int64_t)h * d, s.ldo, it.len - it.m0, d);
	for (int b = first; b <= last + 1; b++) {
		T *ks = kv + (b & 1) * 2 * BN * LD, *was = kv + (~b & 1) * 2 * BN * LD;
		float x[BN / 8][4] = { 0 }, dp[BN / 8][4] = { 0 };

		if (b <= last) {
			copy_tile<T, DP, BN, BWD_THREADS>(ks, k + (int64_t)b * BN * s.ldk, s.ldk, it.len - b * BN, d);
			copy_tile<T, DP, BN, BWD_THREADS>(ks + BN * LD, v + (int64_t)b * BN * s.ldv, s.ldv, it.len - b * BN, d);
		}
		copy_commit();
		if (b == first)
			continue;
		copy_wait<1>(); /* the block before is there */
		__syncthreads();
		product_nt<T, DP, BN>(x, qs + row * LD, was);
		product_nt<T, DP, BN>(dp, gs + row * LD, was + BN * LD);
#pragma unroll
		for (int n = 0; n < BN / 8; n++)
#pragma unroll
			for (int e = 0; e < 4; e++)
				grad_pair(&x[n][e], &dp[n][e], sc, lse2[e / 2], dsum[e / 2],
				          sees(s, it, i0 + e / 2 * 8, (b - 1) * BN + n * 8 + lane % 4 * 2 + e % 2));
		product_nn<T, DP, BN>(acc, dp, was);
		__syncthreads();
	}
	store16<T, DP>((T *)p.dq + (int64_t)(it.t0 + it.m0 + row) * s.ldq + (int64_t)h * d, s.ldq, acc, s.scale, s.scale,
		it.len - it.m0 - row, d);
}

/* WANT: bit 0 dv, bit 1 dk. Steps run over the heads of the group and, in each, over the blocks of queries from the diagonal on. */
template <typename T, int DP, int BN, int WANT>
__global__ void __launch_bounds__(BWD_THREADS) attn_mma_dkv_kernel(const struct attn_cuda s, const struct attn_ptrs p)
{
	enum { LD = DP + 8, DV = WANT & 1, DK = WANT / 2 };
	extern __shared__ __align__(16) unsigned char smem[];
	T *ks = (T *)smem, *vs = ks + BM * LD, *qg = vs + BM * LD;
	int kvh = blockIdx.x % s.n_kv, group = s.n_heads / s.n_kv, d = s.head_dim, lane = threadIdx.x % 32,
		row = threadIdx.x / 32 * 16, first, n, j0;
	float dk[DK ? DP / 8 : 1][4] = { 0 }, dv[DV ? DP / 8 : 1][4] = { 0 };
	int64_t ld = attn_stat_ld(s), ko, vo;
	struct attn_score sc = attn_score_of(s);
	struct attn_item it;

	if (!attn_take(s, blockIdx.x / s.n_kv / (ATTN_TILE / BM), true, &it))
		return;
	it.m0 += blockIdx.x / s.n_kv % (ATTN_TILE / BM) * BM;
	if (it.m0 >= it.len)
		return;
	ko = (int64_t)(it.t0 + it.m0) * s.ldk + (int64_t)kvh * d;
	vo = (int64_t)(it.t0 + it.m0) * s.ldv + (int64_t)kvh * d;
	first = it.m0 / BN;
	n = (it.len - 1) / BN - first + 1;
	if (s.window > 0)
		n = min(n, (min(it.len, it.m0 + BM) - 1 + s.window - 1) / BN - first + 1);
	j0 = it.m0 + row + lane / 4;
	copy_tile<T, DP, BM, BWD_THREADS>(ks, (const T *)p.k + ko, s.ldk, it.len - it.m0, d);
	copy_tile<T, DP, BM, BWD_THREADS>(vs, (const T *)p.v + vo, s.ldv, it.len - it.m0, d);
	for (int step = 0; step <= n * group; step++) {
		T *qs = qg + (step & 1) * 2 * BN * LD, *was = qg + (~step & 1) * 2 * BN * LD;
		float x[BN / 8][4] = { 0 }, dp[BN / 8][4] = { 0 };
		int h = kvh * group + step / n, q0 = (first + step % n) * BN;

		if (step < n * group) {
			copy_tile<T, DP, BN, BWD_THREADS>(qs, (const T *)p.q + (int64_t)(it.t0 + q0) * s.ldq + (int64_t)h * d,
				s.ldq, it.len - q0, d);
			copy_tile<T, DP, BN, BWD_THREADS>(qs + BN * LD,
				(const T *)p.d_o + (int64_t)(it.t0 + q0) * s.ldo + (int64_t)h * d, s.ldo,
				it.len - q0, d);
		}
		copy_commit();
		if (step == 0)
			continue;
		h = kvh * group + (step - 1) / n;
		q0 = (first + (step - 1) % n) * BN;
		copy_wait<1>();
		__syncthreads();
		product_nt<T, DP, BN>(x, ks + row * LD, was);
		if (DK)
			product_nt<T, DP, BN>(dp, vs + row * LD, was + BN * LD);
#pragma unroll
		for (int b = 0; b < BN / 8; b++)
#pragma unroll
			for (int e = 0; e < 4; e++) {
				int i = q0 + b * 8 + lane % 4 * 2 + e % 2;

				grad_pair(&x[b][e], &dp[b][e], sc, p.stat[h * ld + it.stat0 + i], p.stat[(s.n_heads + h) * ld + it.stat0 + i],
				          sees(s, it, i, j0 + e / 2 * 8));
			}
		if (DV)
			product_nn<T, DP, BN>(dv, x, was + BN * LD);
		if (DK)
			product_nn<T, DP, BN>(dk, dp, was);
		__syncthreads();
	}
	if (DV)
		store16<T, DP>((T *)p.dv + vo + row * s.ldv, s.ldv, dv, 1, 1, it.len - it.m0 - row, d);
	if (DK)
		store16<T, DP>((T *)p.dk + ko + row * s.ldk, s.ldk, dk, s.scale, s.scale, it.len - it.m0 - row, d);
}

/* --- host --- */

static int columns(int d)
{
	return d <= 64 ? 64 : d <= 80 ? 80 : d <= 96 ? 96 : d <= 128 ? 128 : 256;
}

bool attn_mma_fits(const struct attn_cuda *s, int cc, int smem)
{
	int dp = columns(s->head_dim), need = (ATTN_TILE + 128) * (dp + 8) * 2;

	if (dp == 128)
		need = s->dtype == ATTN_F16 ? fwd_smem<128>() : bwd_smem<128, 32>(); /* bwd_smem of FEW is no more than the former */
	if (dp == 256)
		need = bwd_smem<256, 16>();
	return cc >= (s->dtype == ATTN_F16 ? 75 : 80) && need <= smem && s->head_dim % 8 == 0 && s->head_dim <= 256 &&
	       s->ldq % 8 == 0 && s->ldk % 8 == 0 && s->ldv % 8 == 0 && s->ldo % 8 == 0;
}

template <typename K> static cudaError_t room(K *kernel, int smem)
{
	return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem);
}

template <typename T, int DP> static cudaError_t fwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p,
	void *o, float *lse)
{
	cudaError_t e = room(attn_mma_fwd_kernel<T, DP>, fwd_smem<DP>());

	if (e != cudaSuccess)
		return e;
	attn_mma_fwd_kernel<T, DP><<<(unsigned)(s->n_tiles * s->n_heads), 32 * fwd_cfg<DP>::WARPS, fwd_smem<DP>(), st>>>(
		*s, (const T *)p->q, (const T *)p->k, (const T *)p->v, (T *)o, lse);
	return cudaGetLastError();
}

template <typename T, int DP, int BN, int WANT> static cudaError_t dkv(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p)
{
	cudaError_t e = room(attn_mma_dkv_kernel<T, DP, BN, WANT>, bwd_smem<DP, BN>());

	if (e != cudaSuccess)
		return e;
	attn_mma_dkv_kernel<T, DP, BN, WANT><<<(unsigned)(s->n_tiles * s->n_kv * (ATTN_TILE / BM)), BWD_THREADS, bwd_smem<DP, BN>(), st>>>(*s, *p);
	return cudaGetLastError();
}

template <typename T, int DP, int BN> static cudaError_t bwd_by(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p)
{
	cudaError_t e = room(attn_mma_dq_kernel<T, DP, BN>, bwd_smem<DP, BN>());

	if (e != cudaSuccess)
		return e;
	attn_mma_dq_kernel<T, DP, BN><<<(unsigned)(s->n_tiles * s->n_heads * (ATTN_TILE / BM)), BWD_THREADS, bwd_smem<DP, BN>(), st>>>(*s, *p);
	e = cudaGetLastError();
	if (e != cudaSuccess)
		return e;
	if constexpr (DP <= 128) {
		return dkv<T, DP, BN, 3>(st, s, p);
	} else {
		e = dkv<T, DP, BN, 1>(st, s, p);
		return e != cudaSuccess ? e : dkv<T, DP, BN, 2>(st, s, p);
	}
}

/* FEW is for devices that have fp16 alone. */
template <typename T, int DP> static cudaError_t bwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p)
{
	enum { BN = bwd_cfg<DP>::BN, FEW = bwd_cfg<DP>::FEW };

	if constexpr (FEW < BN && std::is_same<T, __half>::value)
		if (attn_room(s) < bwd_smem<DP, BN>())
			return bwd_by<T, DP, FEW>(st, s, p);
	return bwd_by<T, DP, BN>(st, s, p);
}

template <typename T> static cudaError_t fwd_any(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p, void *o, float *lse)
{
	switch (columns(s->head_dim)) {
	case 64: return fwd<T, 64>(st, s, p, o, lse);
	case 80: return fwd<T, 80>(st, s, p, o, lse);
	case 96: return fwd<T, 96>(st, s, p, o, lse);
	case 128: return fwd<T, 128>(st, s, p, o, lse);
	default: return fwd<T, 256>(st, s, p, o, lse);
	}
}

template <typename T> static cudaError_t bwd_any(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p)
{
	switch (columns(s->head_dim)) {
	case 64: return bwd<T, 64>(st, s, p);
	case 80: return bwd<T, 80>(st, s, p);
	case 96: return bwd<T, 96>(st, s, p);
	case 128: return bwd<T, 128>(st, s, p);
	default: return bwd<T, 256>(st, s, p);
	}
}

cudaError_t attn_mma_fwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p, void *o, float *lse)
{
	return ATTN_BY_TYPE(s, fwd_any, st, s, p, o, lse);
}

cudaError_t attn_mma_bwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p)
{
	return ATTN_BY_TYPE(s, bwd_any, st, s, p);
}
