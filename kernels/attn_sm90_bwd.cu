/* Backward attention for Hopper, in two kernels of one shape: a warp feeds the
 * copy engine, two warpgroups own 64 rows each of the result and keep it in
 * registers, so that every sum has one owner and an order.
 *   dq      128 queries of a head; keys and values pass by; rowsum(do o) on the way
 *   dk, dv  128 keys of a key head; queries and do of every head of its group pass by
 * The second forms transposed scores, k q^T and v do^T, and walks the queries from
 * the last one back: every tile of a sequence starts there, so that blocks at work at the
 * same time read the same rows from the cache. In both, probabilities and
 * their gradients leave one product in the registers that the next one reads: scores are
 * formed twice, 7 products in place of 5, and nothing is ever added in memory. */
#include "kernels/attn_sm90.cuh"

#define THREADS 384
#define BM ATTN_TILE

struct pair_work {
	struct attn_item it;
	int h, kvh, first, n; /* head, -1: no more work; blocks of the other side */
};

struct bwd_maps {
	CUtensorMap q, k, v, g, o;
};

#ifdef SM90_CODE

/* Scores become probabilities and dP becomes dS, where visible. */
template <bool CAP>
static __device__ __forceinline__ void grad_of(float *x, float *dp, const struct attn_score &sc, float lse2, float dsum)
{
	float t = CAP ? attn_tanh(*x * sc.in) : *x, p = attn_exp2(t * sc.mul - lse2);

	*x = p;
	*dp = p * (*dp - dsum) * (CAP ? 1 - t * t : 1);
}
#endif

/* --- dq --- */

#define QK 128 /* keys at a time */
#define QSTAGES 2

template <int DP> struct dq_smem {
	char q[BM * DP * 2], g[BM * DP * 2], o[BM * DP * 2], k[QSTAGES][QK * DP * 2], v[QSTAGES][QK * DP * 2];
	struct pair_work work;
	uint64_t q_full, q_empty, o_full, o_empty, full[QSTAGES], empty[QSTAGES];
};

#ifdef SM90_CODE
static __device__ __forceinline__ bool take_dq(const struct attn_cuda &s, int item, struct pair_work *w)
{
	if (!attn_take(s, item / s.n_heads, false, &w->it))
		return false;
	w->h = item % s.n_heads;
	w->kvh = w->h / (s.n_heads / s.n_kv);
	w->first = s.window > 0 && w->it.m0 - s.window + 1 > 0 ? (w->it.m0 - s.window + 1) / QK : 0;
	w->n = (min(w->it.m0 + BM, w->it.len) - 1) / QK - w->first + 1;
	return true;
}

static __device__ __forceinline__ bool next_dq(const struct attn_cuda &s, int *round, struct pair_work *w)
{
	for (int item; (item = item_of_round((*round)++)) < s.n_tiles * s.n_heads;)
		if (take_dq(s, item, w))
			return true;
	return false;
}

template <int DP> static __device__ __forceinline__ void feed_o(struct dq_smem<DP> *m, const struct bwd_maps *maps,
	const struct pair_work &w, int phase)
{
	bar_wait(&m->o_empty, phase);
	bar_expect(&m->o_full, BM * DP * 2);
	copy_rows<DP, BM>(m->o, &maps->o, &m->o_full, w.h, w.it.t0 + w.it.m0);
}

/* o is needed once, at an item's start: the next item's is fetched as soon as its place is free. q and do are needed to the end, so
 * the next item's wait in the second-level cache. */
template <int DP>
static __device__ __forceinline__ void feed_dq(struct dq_smem<DP> *m, const struct attn_cuda &s, const struct bwd_maps *maps)
{
	ring<QSTAGES> at = { 0, 1 };
	struct pair_work w, next;
	int q_phase = 1, round = 0;
	bool more = next_dq(s, &round, &next);

	if (more)
		feed_o(m, maps, next, 1);
	while (more) {
		w = next;
		more = next_dq(s, &round, &next);
		if (more) {
			prefetch_rows<DP>(&maps->q, next.h, next.it.t0 + next.it.m0);
			prefetch_rows<DP>(&maps->g, next.h, next.it.t0 + next.it.m0);
		}
		for (int b = 0; b < w.n; b++) {
			int row = w.it.t0 + (w.first + b) * QK;

			bar_wait(&m->empty[at.at], at.phase);
			bar_expect(&m->full[at.at], 2 * QK * DP * 2);
			copy_rows<DP, QK>(m->k[at.at], &maps->k, &m->full[at.at], w.kvh, row);
			copy_rows<DP, QK>(m->v[at.at], &maps->v, &m->full[at.at], w.kvh, row);
			at.next();
			if (b == 0) {
				bar_wait(&m->q_empty, q_phase);
				m->work = w;
				bar_expect(&m->q_full, 2 * BM * DP * 2);
				copy_rows<DP, BM>(m->q, &maps->q, &m->q_full, w.h, w.it.t0 + w.it.m0);
				copy_rows<DP, BM>(m->g, &maps->g, &m->q_full, w.h, w.it.t0 + w.it.m0);
				q_phase ^= 1;
			}
			if (b == min(1, w.n - 1) && more)
				feed_o(m, maps, next, q_phase); /* o's rounds are q's */
		}
	}
	bar_wait(&m->q_empty, q_phase);
	m->work.h = -1;
	bar_arrive(&m->q_full);
}

/* Columns are keys from j0 on, rows are queries i and i + 8. */
template <bool CAP>
static __device__ __forceinline__ void grad_dq(uint32_t (&out)[QK / 4], float (&x)[QK / 2], float (&dp)[QK / 2], const struct attn_cuda &s,
                                               const struct attn_score &sc, const float lse2[2], const float dsum[2], int i, int j0, bool all)
{
	int up = i - j0 - threadIdx.x % 4 * 2, low = s.window > 0 ? up - s.window : -QK;

#pragma unroll
	for (int n = 0; n < QK / 2; n++)
		grad_of<CAP>(&x[n], &dp[n], sc, lse2[n / 2 % 2], dsum[n / 2 % 2]);
	if (!all) {
#pragma unroll
		for (int n = 0; n < QK / 2; n++) {
			int c = n / 4 * 8 + n % 2 - n / 2 % 2 * 8;

			dp[n] = c <= up && c > low ? dp[n] : 0;
		}
	}
#pragma unroll
	for (int n = 0; n < QK / 4; n++)
		out[n] = num16<act_t>::pack(dp[2 * n], dp[2 * n + 1]);
}

/* rowsum(do o) of rows `row` and `row` + 8, from the swizzled tiles: a row's 16-byte piece c lies at c ^ (row & 7). */
template <int DP> static __device__ __forceinline__ void row_dots(float dsum[2], const char *o, const char *g, int row)
{
#pragma unroll
	for (int half = 0; half < 2; half++) {
		int r = row + 8 * half;
		float sum = 0;

#pragma unroll
		for (int i = 0; i < DP / 32; i++) {
			int at = i / 2 * BM * 128 + r * 128 + ((i % 2 * 4 + threadIdx.x % 4) ^ (r & 7)) * 16;
			uint4 a = *(const uint4 *)(o + at), b = *(const uint4 *)(g + at);
			const uint32_t x[4] = { a.x, a.y, a.z, a.w }, y[4] = { b.x, b.y, b.z, b.w };

#pragma unroll
			for (int l = 0; l < 4; l++) {
				float2 u = num16<act_t>::unpack(x[l]), v = num16<act_t>::unpack(y[l]);

				sum += u.x * v.x + u.y * v.y;
			}
		}
		sum += __shfl_xor_sync(0xffffffffu, sum, 1);
		dsum[half] = sum + __shfl_xor_sync(0xffffffffu, sum, 2);
	}
}

/* For the pass over keys. */
static __device__ __forceinline__ void leave_stats(const struct attn_cuda &s, const struct attn_ptrs &p, const struct pair_work &w, int i,
                                                   const float lse2[2], const float dsum[2])
{
	int64_t ld = attn_stat_ld(s);
	float *stat = p.stat + w.h * ld + w.it.stat0 + i;

#pragma unroll
	for (int half = 0; half < 2; half++)
		if (threadIdx.x % 4 == 0 && i + 8 * half < w.it.len) {
			stat[8 * half] = lse2[half];
			stat[8 * half + s.n_heads * ld] = dsum[half];
		}
}

template <int DP, bool CAP> static __device__ __forceinline__ void consume_dq(struct dq_smem<DP> *m, const struct attn_cuda &s,
	const struct attn_ptrs &p)
{
	int wg = threadIdx.x / 128 - 1, lane = threadIdx.x % 32, row = wg * 64 + threadIdx.x % 128 / 32 * 16 + lane / 4, q_phase = 0;
	struct attn_score sc = attn_score_of(s);
	ring<QSTAGES> at = { 0, 0 };
	struct pair_work w;

	if (wg == 1)
		pair_arrive(1);
	for (;;) {
		float acc[DP / 2], lse2[2], dsum[2];

		bar_wait(&m->q_full, q_phase);
		q_phase ^= 1;
		w = m->work;
		if (w.h < 0)
			break;
		const int i0 = w.it.m0 + wg * 64, i = w.it.m0 + row;

#pragma unroll
		for (int half = 0; half < 2; half++)
			lse2[half] = i + 8 * half < w.it.len ? p.lse[(int64_t)(w.it.t0 + i + 8 * half) * s.n_heads + w.h] : 0;
		for (int b = 0; b < w.n; b++) {
			float x[QK / 2], dp[QK / 2];
			uint32_t ds[QK / 4];
			int j0 = (w.first + b) * QK;

			bar_wait(&m->full[at.at], at.phase);
			pair_wait(1 + wg);
			mma_fence();
			product_nt<DP, BM>(x, m->q + wg * 64 * 128, m->k[at.at]);
			product_nt<DP, BM>(dp, m->g + wg * 64 * 128, m->v[at.at]);
			mma_commit();
			pair_arrive(2 - wg);
			if (b == 0) {
				/* under the first products */
				lse2[0] *= ATTN_LOG2E;
				lse2[1] *= ATTN_LOG2E;
				bar_wait(&m->o_full, q_phase ^ 1);
				row_dots<DP>(dsum, m->o, m->g, row);
				warp_arrive(&m->o_empty);
				leave_stats(s, p, w, i, lse2, dsum);
			}
			mma_wait<0>();
			pin(x);
			pin(dp);
			if (b == w.n - 1)
				warp_arrive(&m->q_empty);
			grad_dq<CAP>(ds, x, dp, s, sc, lse2, dsum, i, j0, j0 + QK - 1 <= i0 && (s.window <= 0 || i0 + 63 - j0 < s.window));
			pin(acc);
			mma_fence();
			product_nn<QK>(acc, ds, m->k[at.at], b > 0);
			mma_commit();
			mma_wait<0>();
			pin(acc);
			warp_arrive(&m->empty[at.at]);
			at.next();
		}
		store_rows((act_t *)p.dq + (int64_t)(w.it.t0 + i0) * s.ldq + (int64_t)w.h * s.head_dim, s.ldq, acc, s.scale,
			s.scale, w.it.len - i0, s.head_dim);
	}
}
#endif

template <int DP, bool CAP>
__global__ void __launch_bounds__(THREADS, 1) attn_sm90_dq_kernel(const __grid_constant__ struct bwd_maps maps,
	const struct attn_cuda s, const struct attn_ptrs p)
{
#ifdef SM90_CODE
	extern __shared__ char raw[];
	struct dq_smem<DP> *m = (struct dq_smem<DP> *)(raw + (-shared_at(raw) & 1023));

	if (threadIdx.x == 0) {
		bar_init(&m->q_full, 1);
		bar_init(&m->q_empty, 8);
		bar_init(&m->o_full, 1);
		bar_init(&m->o_empty, 8);
		for (int i = 0; i < QSTAGES; i++) {
			bar_init(&m->full[i], 1);
			bar_init(&m->empty[i], 8);
		}
		asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
	}
	__syncthreads();
	if (threadIdx.x < 128) {
		regs_give<24>();
		if (threadIdx.x == 0)
			feed_dq<DP>(m, s, &maps);
	} else {
		regs_set<240>();
		consume_dq<DP, CAP>(m, s, p);
	}
#endif
}

/* --- dk, dv --- */

#define KQ 64 /* queries at a time */
#define KSTAGES 3

template <int DP> struct dkv_smem {
	char k[BM * DP * 2], v[BM * DP * 2], q[KSTAGES][KQ * DP * 2], g[KSTAGES][KQ * DP * 2];
	float lse2[KSTAGES][KQ], dsum[KSTAGES][KQ];
	struct pair_work work;
	uint64_t k_full, k_empty, full[KSTAGES], empty[KSTAGES];
};

#ifdef SM90_CODE
static __device__ __forceinline__ bool take_dkv(const struct attn_cuda &s, int item, struct pair_work *w)
{
	int most;

	if (!attn_take(s, item / s.n_kv, true, &w->it))
		return false;
	w->kvh = item % s.n_kv;
	w->h = w->kvh * (s.n_heads / s.n_kv);
	w->first = w->it.m0 / KQ;
	w->n = (w->it.len - 1) / KQ - w->first + 1;
	if (s.window > 0) {
		most = (min(w->it.len, w->it.m0 + BM) - 1 + s.window - 1) / KQ - w->first + 1;
		w->n = min(w->n, most);
	}
	return true;
}

static __device__ __forceinline__ bool next_dkv(const struct attn_cuda &s, int *round, struct pair_work *w)
{
	for (int item; (item = item_of_round((*round)++)) < s.n_tiles * s.n_kv;)
		if (take_dkv(s, item, w))
			return true;
	return false;
}

template <int DP>
static __device__ __forceinline__ void feed_dkv(struct dkv_smem<DP> *m, const struct attn_cuda &s, const struct attn_ptrs &p,
	const struct bwd_maps *maps)
{
	ring<KSTAGES> at = { 0, 1 };
	struct pair_work w;
	int k_phase = 1, group = s.n_heads / s.n_kv, round = 0;
	int64_t ld = attn_stat_ld(s);

	while (next_dkv(s, &round, &w)) {
		for (int h = w.h; h < w.h + group; h++)
			for (int b = w.n - 1; b >= 0; b--) {
				int q0 = (w.first + b) * KQ;
				const float *stat = p.stat + h * ld + w.it.stat0 + q0;

				bar_wait(&m->empty[at.at], at.phase);
				bar_expect(&m->full[at.at], 2 * KQ * DP * 2 + 2 * KQ * 4);
				copy_rows<DP, KQ>(m->q[at.at], &maps->q, &m->full[at.at], h, w.it.t0 + q0);
				copy_rows<DP, KQ>(m->g[at.at], &maps->g, &m->full[at.at], h, w.it.t0 + q0);
				copy_line(m->lse2[at.at], stat, KQ * 4, &m->full[at.at]);
				copy_line(m->dsum[at.at], stat + s.n_heads * ld, KQ * 4, &m->full[at.at]);
				at.next();
				if (h > w.h || b < w.n - 1)
					continue;
				bar_wait(&m->k_empty, k_phase);
				m->work = w;
				bar_expect(&m->k_full, 2 * BM * DP * 2);
				copy_rows<DP, BM>(m->k, &maps->k, &m->k_full, w.kvh, w.it.t0 + w.it.m0);
				copy_rows<DP, BM>(m->v, &maps->v, &m->k_full, w.kvh, w.it.t0 + w.it.m0);
				k_phase ^= 1;
			}
	}
	bar_wait(&m->k_empty, k_phase);
	m->work.h = -1;
	bar_arrive(&m->k_full);
}

/* Columns are queries from q0 on, rows are keys j and j + 8. */
static __device__ __forceinline__ void mask_dkv(float (&x)[KQ / 2], const struct attn_cuda &s, int len, int j, int q0)
{
	int base = q0 + threadIdx.x % 4 * 2, end = len - base, low = j - base, high = s.window > 0 ? low + s.window : KQ + 8;

#pragma unroll
	for (int n = 0; n < KQ / 2; n++) {
		int c = n / 4 * 8 + n % 2, r = c - n / 2 % 2 * 8;

		x[n] = r >= low && r < high && c < end ? x[n] : 0;
	}
}

static __device__ __forceinline__ void pack(uint32_t (&p)[KQ / 4], const float (&x)[KQ / 2])
{
#pragma unroll
	for (int n = 0; n < KQ / 4; n++)
		p[n] = num16<act_t>::pack(x[2 * n], x[2 * n + 1]);
}

template <int DP, bool CAP> static __device__ __forceinline__ void consume_dkv(struct dkv_smem<DP> *m,
	const struct attn_cuda &s, const struct attn_ptrs &p)
{
	int wg = threadIdx.x / 128 - 1, lane = threadIdx.x % 32, row = wg * 64 + threadIdx.x % 128 / 32 * 16 + lane / 4, k_phase = 0;
	struct attn_score sc = attn_score_of(s);
	ring<KSTAGES> at = { 0, 0 };
	struct pair_work w;

	if (wg == 1)
		pair_arrive(1);
	for (;;) {
		float dk[DP / 2], dv[DP / 2];
		int steps;

		bar_wait(&m->k_full, k_phase);
		k_phase ^= 1;
		w = m->work;
		if (w.h < 0)
			break;
		const int j0 = w.it.m0 + wg * 64, j = w.it.m0 + row;

		steps = w.n * (s.n_heads / s.n_kv);
		for (int step = 0, b = w.n - 1; step < steps; step++) {
			float x[KQ / 2], dp[KQ / 2];
			uint32_t pr[KQ / 4], ds[KQ / 4];
			int q0 = (w.first + b) * KQ;
			const float *lse2 = m->lse2[at.at] + lane % 4 * 2, *dsum = m->dsum[at.at] + lane % 4 * 2;
			bool all = q0 >= j0 + 63 && q0 + KQ <= w.it.len && (s.window <= 0 || q0 + KQ - 1 - j0 < s.window);

			b = b == 0 ? w.n - 1 : b - 1;
			bar_wait(&m->full[at.at], at.phase);
			pair_wait(1 + wg);
			mma_fence();
			product_nt<DP, BM>(x, m->k + wg * 64 * 128, m->q[at.at]);
			mma_commit();
			product_nt<DP, BM>(dp, m->v + wg * 64 * 128, m->g[at.at]);
			mma_commit();
			pair_arrive(2 - wg);
			mma_wait<1>();
			pin(x);
			if (CAP) {
				/* tanh is needed again for dS: dP waits */
				mma_wait<0>();
				pin(dp);
#pragma unroll
				for (int n = 0; n < KQ / 2; n++)
					grad_of<true>(&x[n], &dp[n], sc, lse2[n / 4 * 8 + n % 2], dsum[n / 4 * 8 + n % 2]);
			} else {
#pragma unroll
				for (int n = 0; n < KQ / 2; n++)
					x[n] = attn_exp2(x[n] * sc.mul - lse2[n / 4 * 8 + n % 2]);
			}
			if (!all)
				mask_dkv(x, s, w.it.len, j, q0);
			pack(pr, x);
			pin(dv);
			mma_fence();
			product_nn<KQ>(dv, pr, m->g[at.at], step > 0);
			mma_commit();
			if (!CAP) {
				mma_wait<1>();
				pin(dp);
#pragma unroll
				for (int n = 0; n < KQ / 2; n++)
					dp[n] = x[n] * (dp[n] - dsum[n / 4 * 8 + n % 2]);
			}
			if (!all)
				mask_dkv(dp, s, w.it.len, j, q0);
			pack(ds, dp);
			if (step == steps - 1)
				warp_arrive(&m->k_empty);
			pin(dk);
			mma_fence();
			product_nn<KQ>(dk, ds, m->q[at.at], step > 0);
			mma_commit();
			mma_wait<0>();
			pin(dv);
			pin(dk);
			warp_arrive(&m->empty[at.at]);
			at.next();
		}
		store_rows((act_t *)p.dv + (int64_t)(w.it.t0 + j0) * s.ldv + (int64_t)w.kvh * s.head_dim, s.ldv, dv, 1, 1,
			w.it.len - j0, s.head_dim);
		store_rows((act_t *)p.dk + (int64_t)(w.it.t0 + j0) * s.ldk + (int64_t)w.kvh * s.head_dim, s.ldk, dk, s.scale,
			s.scale, w.it.len - j0, s.head_dim);
	}
}
#endif

template <int DP, bool CAP>
__global__ void __launch_bounds__(THREADS, 1) attn_sm90_dkv_kernel(const __grid_constant__ struct bwd_maps maps,
	const struct attn_cuda s, const struct attn_ptrs p)
{
#ifdef SM90_CODE
	extern __shared__ char raw[];
	struct dkv_smem<DP> *m = (struct dkv_smem<DP> *)(raw + (-shared_at(raw) & 1023));

	if (threadIdx.x == 0) {
		bar_init(&m->k_full, 1);
		bar_init(&m->k_empty, 8);
		for (int i = 0; i < KSTAGES; i++) {
			bar_init(&m->full[i], 1);
			bar_init(&m->empty[i], 8);
		}
		asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
	}
	__syncthreads();
	if (threadIdx.x < 128) {
		regs_give<DP == 128 ? 24 : 40>();
		if (threadIdx.x == 0)
			feed_dkv<DP>(m, s, p, &maps);
	} else {
		regs_set<DP == 128 ? 240 : 232>();
		consume_dkv<DP, CAP>(m, s, p);
	}
#endif
}

/* --- host --- */

typedef void pass_kernel(const struct bwd_maps, const struct attn_cuda, const struct attn_ptrs);

/* q_box, k_box: rows that the kernel copies at a time. */
static cudaError_t launch(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p, pass_kernel *kernel, int smem,
	int heads, int q_box, int k_box)
{
	int dev = 0, blocks = 0, items = s->n_tiles * heads, d = s->head_dim, n = s->n_tokens;
	struct bwd_maps maps;
	cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem);

	if (e != cudaSuccess)
		return e;
	if (!attn_sm90_map(&maps.q, p->q, s->ldq, s->n_heads, d, n, q_box) || !attn_sm90_map(&maps.k, p->k, s->ldk, s->n_kv, d, n, k_box) ||
	    !attn_sm90_map(&maps.v, p->v, s->ldv, s->n_kv, d, n, k_box) || !attn_sm90_map(&maps.g, p->d_o, s->ldo, s->n_heads, d, n, q_box) ||
	    !attn_sm90_map(&maps.o, p->o, s->ldo, s->n_heads, d, n, q_box))
		return cudaErrorInvalidValue;
	cudaGetDevice(&dev);
	cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, dev);
	kernel<<<(unsigned)(items < blocks ? items : blocks), THREADS, smem, st>>>(maps, *s, *p);
	return cudaGetLastError();
}

/* dq first: it leaves the row statistics for the other. */
template <int DP, bool CAP> static cudaError_t bwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p)
{
	cudaError_t e = launch(st, s, p, attn_sm90_dq_kernel<DP, CAP>, sizeof(struct dq_smem<DP>) + 1024, s->n_heads, BM, QK);

	return e != cudaSuccess ? e : launch(st, s, p, attn_sm90_dkv_kernel<DP, CAP>, sizeof(struct dkv_smem<DP>) + 1024, s->n_kv, KQ, BM);
}

cudaError_t attn_sm90_bwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p)
{
	if (s->head_dim <= 64)
		return s->softcap > 0 ? bwd<64, true>(st, s, p) : bwd<64, false>(st, s, p);
	return s->softcap > 0 ? bwd<128, true>(st, s, p) : bwd<128, false>(st, s, p);
}
