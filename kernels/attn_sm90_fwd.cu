/* Forward attention for Hopper, of the activation type, head sizes that are multiples of 8 up to
 * 128. A block stays on its multiprocessor and takes item after item: 128
 * queries of a head. One thread feeds queries, keys and values through the copy engine,
 * and says what the items are; two warpgroups own 64 queries each and take turns, so that
 * one's exponentials run under the other's products. Within a warpgroup the scores of
 * the next keys are formed while the values of the last are summed. Probabilities never
 * leave registers. */
#include "kernels/attn_sm90.cuh"

#define BM ATTN_TILE
#define BN 128
#define STAGES 2
#define THREADS 384

struct fwd_work {
	int t0, len, m0, h, first, last; /* key blocks; h -1: no more work */
};

template <int DP> struct fwd_smem {
	char q[2][BM * DP * 2], k[STAGES][BN * DP * 2], v[STAGES][BN * DP * 2];
	struct fwd_work work[2];
	uint64_t q_full[2], q_empty[2], k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
};

#ifdef SM90_CODE
static __device__ __forceinline__ bool take(const struct attn_cuda &s, int item, struct fwd_work *w)
{
	struct attn_item it;

	if (!attn_take(s, item / s.n_heads, false, &it))
		return false;
	w->t0 = it.t0;
	w->len = it.len;
	w->m0 = it.m0;
	w->h = item % s.n_heads;
	w->first = s.window > 0 && it.m0 - s.window + 1 > 0 ? (it.m0 - s.window + 1) / BN : 0;
	w->last = (min(it.m0 + BM, it.len) - 1) / BN;
	return true;
}

static __device__ __forceinline__ bool next_work(const struct attn_cuda &s, int *round, struct fwd_work *w)
{
	for (int item; (item = item_of_round((*round)++)) < s.n_tiles * s.n_heads;)
		if (take(s, item, w))
			return true;
	return false;
}

template <int DP> static __device__ __forceinline__ void
feed(struct fwd_smem<DP> *m, const struct attn_cuda &s, const CUtensorMap *mq, const CUtensorMap *mk, const CUtensorMap *mv)
{
	ring<STAGES> at = { 0, 1 };
	ring<2> q = { 0, 1 };
	struct fwd_work w, after;
	int round = 0;

	for (bool more = next_work(s, &round, &after); more;) {
		int kvh;

		w = after;
		more = next_work(s, &round, &after); /* on its way while the copies wait */
		kvh = w.h / (s.n_heads / s.n_kv);
		bar_wait(&m->q_empty[q.at], q.phase);
		m->work[q.at] = w;
		bar_expect(&m->q_full[q.at], BM * DP * 2);
		copy_rows<DP, BM>(m->q[q.at], mq, &m->q_full[q.at], w.h, w.t0 + w.m0);
		q.next();
		for (int b = w.last; b >= w.first; b--) {
			bar_wait(&m->k_empty[at.at], at.phase);
			bar_expect(&m->k_full[at.at], BN * DP * 2);
			copy_rows<DP, BN>(m->k[at.at], mk, &m->k_full[at.at], kvh, w.t0 + b * BN);
			bar_wait(&m->v_empty[at.at], at.phase);
			bar_expect(&m->v_full[at.at], BN * DP * 2);
			copy_rows<DP, BN>(m->v[at.at], mv, &m->v_full[at.at], kvh, w.t0 + b * BN);
			at.next();
		}
	}
	bar_wait(&m->q_empty[q.at], q.phase);
	m->work[q.at].h = -1;
	bar_arrive(&m->q_full[q.at]);
}

/* Rows i and i + 8 of this lane against keys from j0 on. */
static __device__ __forceinline__ void mask(float (&x)[BN / 2], const struct attn_cuda &s, int i, int j0)
{
	int up = i - j0 - threadIdx.x % 4 * 2, low = s.window > 0 ? up - s.window : -BN; /* low < column <= up for row i */

#pragma unroll
	for (int n = 0; n < BN / 2; n++) {
		int c = n / 4 * 8 + n % 2 - n / 2 % 2 * 8;

		x[n] = c <= up && c > low ? x[n] : -INFINITY;
	}
}

struct rows2 {
	float max[2], sum[2];
};

/* Scores become probabilities; by: the factors that bring earlier sums to the new maxima. Sums are this lane's. */
static __device__ __forceinline__ void softmax(float (&x)[BN / 2], struct rows2 *r, float by[2], float mul)
{
#pragma unroll
	for (int half = 0; half < 2; half++) {
		float max = r->max[half], base;

#pragma unroll
		for (int n = 2 * half; n < BN / 2; n += 4)
			max = fmaxf(max, fmaxf(x[n], x[n + 1]));
		max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
		max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
		base = max == -INFINITY ? 0 : max * mul;
		by[half] = attn_exp2(r->max[half] * mul - base);
		r->max[half] = max;
		r->sum[half] *= by[half];
#pragma unroll
		for (int n = 2 * half; n < BN / 2; n += 4) {
			x[n] = attn_exp2(x[n] * mul - base);
			x[n + 1] = attn_exp2(x[n + 1] * mul - base);
			r->sum[half] += x[n] + x[n + 1];
		}
	}
}

static __device__ __forceinline__ void pack(uint32_t (&p)[BN / 4], const float (&x)[BN / 2])
{
#pragma unroll
	for (int n = 0; n < BN / 4; n++)
		p[n] = num16<act_t>::pack(x[2 * n], x[2 * n + 1]);
}

/* Capped and masked as block b of the keys asks. */
template <bool CAP>
static __device__ __forceinline__ void prepare(float (&x)[BN / 2], const struct attn_cuda &s, const struct attn_score &sc,
	int i0, int i, int b)
{
	if (CAP) {
#pragma unroll
		for (int n = 0; n < BN / 2; n++)
			x[n] = attn_tanh(x[n] * sc.in);
	}
	if (b * BN + BN - 1 > i0 || (s.window > 0 && i0 + 63 - b * BN >= s.window))
		mask(x, s, i, b * BN);
}

/* An item's rows: divided, and their lse. */
template <int DP>
static __device__ __forceinline__ void finish(const struct attn_cuda &s, const struct fwd_work &w, float (&acc)[DP / 2],
	struct rows2 r, float mul, act_t *o, float *lse)
{
	int wg = threadIdx.x / 128 - 1, lane = threadIdx.x % 32, i = w.m0 + wg * 64 + threadIdx.x % 128 / 32 * 16 + lane / 4,
		i0 = w.m0 + wg * 64;

#pragma unroll
	for (int half = 0; half < 2; half++) {
		r.sum[half] += __shfl_xor_sync(0xffffffffu, r.sum[half], 1);
		r.sum[half] += __shfl_xor_sync(0xffffffffu, r.sum[half], 2);
		if (lane % 4 == 0 && i + 8 * half < w.len)
			lse[(int64_t)(w.t0 + i + 8 * half) * s.n_heads + w.h] = r.max[half] * mul * ATTN_LN2 + logf(r.sum[half]);
	}
	store_rows(o + (int64_t)(w.t0 + i0) * s.ldo + (int64_t)w.h * s.head_dim, s.ldo, acc, 1.0f / r.sum[0], 1.0f / r.sum[1],
		w.len - i0, s.head_dim);
}

template <int DP, bool CAP> static __device__ __forceinline__ void consume(struct fwd_smem<DP> *m, const struct attn_cuda &s,
	act_t *o, float *lse)
{
	int wg = threadIdx.x / 128 - 1, lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + lane / 4;
	ring<STAGES> kat = { 0, 0 }, vat = { 0, 0 };
	ring<2> qat = { 0, 0 };
	struct attn_score sc = attn_score_of(s);

	if (wg == 1)
		pair_arrive(1);
	for (;; qat.next()) {
		float acc[DP / 2], x[BN / 2], by[2];
		uint32_t p[BN / 4];
		struct rows2 r = { { -INFINITY, -INFINITY }, { 0, 0 } };
		struct fwd_work w;

		bar_wait(&m->q_full[qat.at], qat.phase);
		w = m->work[qat.at];
		if (w.h < 0)
			break;
		const int i0 = w.m0 + wg * 64, i = i0 + row;

		bar_wait(&m->k_full[kat.at], kat.phase);
		mma_fence();
		product_nt<DP, BM>(x, m->q[qat.at] + wg * 64 * 128, m->k[kat.at]);
		mma_commit();
		mma_wait<0>();
		pin(x);
		warp_arrive(&m->k_empty[kat.at]);
		if (w.first == w.last)
			warp_arrive(&m->q_empty[qat.at]);
		kat.next();
		prepare<CAP>(x, s, sc, i0, i, w.last);
		softmax(x, &r, by, sc.mul);
		pack(p, x);
		for (int b = w.last - 1; b >= w.first; b--) {
			bar_wait(&m->k_full[kat.at], kat.phase);
			pair_wait(1 + wg);
			pin(x);
			pin(acc);
			mma_fence();
			product_nt<DP, BM>(x, m->q[qat.at] + wg * 64 * 128, m->k[kat.at]);
			mma_commit();
			bar_wait(&m->v_full[vat.at], vat.phase);
			mma_fence();
			product_nn<BN>(acc, p, m->v[vat.at], b < w.last - 1);
			mma_commit();
			pair_arrive(2 - wg);
			mma_wait<1>();
			pin(x);
			warp_arrive(&m->k_empty[kat.at]);
			if (b == w.first)
				warp_arrive(&m->q_empty[qat.at]);
			kat.next();
			prepare<CAP>(x, s, sc, i0, i, b);
			softmax(x, &r, by, sc.mul);
			mma_wait<0>();
			pin(acc);
			warp_arrive(&m->v_empty[vat.at]);
			vat.next();
			pack(p, x);
#pragma unroll
			for (int n = 0; n < DP / 2; n++)
				acc[n] *= by[n / 2 % 2];
		}
		bar_wait(&m->v_full[vat.at], vat.phase);
		pin(acc);
		mma_fence();
		product_nn<BN>(acc, p, m->v[vat.at], w.first < w.last);
		mma_commit();
		mma_wait<0>();
		pin(acc);
		warp_arrive(&m->v_empty[vat.at]);
		vat.next();
		finish<DP>(s, w, acc, r, sc.mul, o, lse);
	}
}
#endif

template <int DP, bool CAP>
__global__ void __launch_bounds__(THREADS, 1) attn_sm90_fwd_kernel(const __grid_constant__ CUtensorMap mq,
	const __grid_constant__ CUtensorMap mk,
	const __grid_constant__ CUtensorMap mv, const struct attn_cuda s, act_t *o, float *lse)
{
#ifdef SM90_CODE
	extern __shared__ char raw[];
	struct fwd_smem<DP> *m = (struct fwd_smem<DP> *)(raw + (-shared_at(raw) & 1023));

	if (threadIdx.x == 0) {
		for (int i = 0; i < 2; i++) {
			bar_init(&m->q_full[i], 1);
			bar_init(&m->q_empty[i], 8);
		}
		for (int i = 0; i < STAGES; i++) {
			bar_init(&m->k_full[i], 1);
			bar_init(&m->k_empty[i], 8);
			bar_init(&m->v_full[i], 1);
			bar_init(&m->v_empty[i], 8);
		}
		asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
	}
	__syncthreads();
	if (threadIdx.x < 128) {
		regs_give<24>();
		if (threadIdx.x == 0)
			feed<DP>(m, s, &mq, &mk, &mv);
	} else {
		regs_set<240>();
		consume<DP, CAP>(m, s, o, lse);
	}
#endif
}

/* --- host --- */

bool attn_sm90_map(CUtensorMap *m, const void *p, int64_t ld, int heads, int d, int rows, int box)
{
	const uint64_t size[3] = { (uint64_t)d, (uint64_t)heads, (uint64_t)rows }, stride[2] = { (uint64_t)d * 2, (uint64_t)ld * 2 };
	const uint32_t boxes[3] = { PANEL, 1, (uint32_t)box };

	return sm90_map(m, p, 3, size, stride, boxes);
}

/* Code for sm_90a is in the binary: kernels of other targets are empty. */
static bool built(void)
{
	struct cudaFuncAttributes a;

	return cudaFuncGetAttributes(&a, attn_sm90_fwd_kernel<128, false>) == cudaSuccess && a.numRegs > 64;
}

bool attn_sm90_fits(const struct attn_cuda *s, int major, int minor)
{
	/* nearly all of its shared memory is used */
	return major == 9 && minor == 0 && attn_room(s) >= 227 << 10 && s->dtype == ATTN_ACT && s->head_dim % 8 == 0 && s->head_dim <= 128 && s->ldq % 8 == 0 &&
	       s->ldk % 8 == 0 && s->ldv % 8 == 0 && s->ldo % 8 == 0 && sm90_can_map() && built();
}

template <int DP, bool CAP> static cudaError_t fwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p, act_t *o, float *lse)
{
	int dev = 0, blocks = 0, smem = sizeof(struct fwd_smem<DP>) + 1024, items = s->n_tiles * s->n_heads;
	CUtensorMap mq, mk, mv;
	cudaError_t e = cudaFuncSetAttribute(attn_sm90_fwd_kernel<DP, CAP>, cudaFuncAttributeMaxDynamicSharedMemorySize, smem);

	if (e != cudaSuccess)
		return e;
	if (!attn_sm90_map(&mq, p->q, s->ldq, s->n_heads, s->head_dim, s->n_tokens, BM) ||
	    !attn_sm90_map(&mk, p->k, s->ldk, s->n_kv, s->head_dim, s->n_tokens, BN) ||
	    !attn_sm90_map(&mv, p->v, s->ldv, s->n_kv, s->head_dim, s->n_tokens, BN))
		return cudaErrorInvalidValue;
	cudaGetDevice(&dev);
	cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, dev);
	attn_sm90_fwd_kernel<DP, CAP><<<(unsigned)(items < blocks ? items : blocks), THREADS, smem, st>>>(mq, mk, mv, *s, o, lse);
	return cudaGetLastError();
}

cudaError_t attn_sm90_fwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p, void *o, float *lse)
{
	if (s->head_dim <= 64)
		return s->softcap > 0 ? fwd<64, true>(st, s, p, (act_t *)o, lse) : fwd<64, false>(st, s, p, (act_t *)o, lse);
	return s->softcap > 0 ? fwd<128, true>(st, s, p, (act_t *)o, lse) : fwd<128, false>(st, s, p, (act_t *)o, lse);
}
