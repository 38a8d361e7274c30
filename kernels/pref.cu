/* Values: a block a sequence. Losses: one block for them all, since a micro-batch has few sequences; each thread's sequences and the order
 * of folding follow from their number. Rows: a block a target, which finds its sequence by halving. */
#include "kernels/cuda.cuh"

#define KN_PREF_FN static __device__ __forceinline__
#include "kernels/pref_pair.h"

#define THREADS 256

static __global__ void __launch_bounds__(THREADS) values_kernel(struct kn_pref p, const double *nll)
{
	__shared__ double shared[33];
	int64_t s = blockIdx.x;
	double sum = 0;

	for (int64_t i = p.tgt_start[s] + (int64_t)threadIdx.x; i < p.tgt_start[s + 1]; i += THREADS)
		sum += nll[i];
	sum = block_sum(sum, shared);
	if (threadIdx.x == 0)
		p.value[s] = -sum;
}

static __device__ __forceinline__ struct kn_pref_answer answer(const struct kn_pref &p, int64_t s)
{
	struct kn_pref_answer a = { p.value[s], p.ref[s], (double)(p.tgt_start[s + 1] - p.tgt_start[s]) };

	return a;
}

/* What a thread has of the sums; the loss is behind them. */
struct told {
	double v[KN_PREF_SUMS + 1];
};

static __device__ __forceinline__ void one_pair(const struct kn_pref &p, int64_t s, struct told &t)
{
	int64_t m = p.mate[s];
	struct kn_pref_answer w = answer(p, s), l = answer(p, m);
	struct kn_pref_out o;

	pref_pair(&p.rule, &w, &l, &o);
	p.factor[s] = o.d[0];
	p.factor[m] = o.d[1];
	t.v[KN_PREF_SUMS] += o.loss;
	t.v[KN_PREF_REWARD_CHOSEN] += o.reward[0];
	t.v[KN_PREF_REWARD_REJECTED] += o.reward[1];
	t.v[KN_PREF_VALUE_CHOSEN] += w.value;
	t.v[KN_PREF_VALUE_REJECTED] += l.value;
	t.v[KN_PREF_RIGHT] += o.reward[0] > o.reward[1] ? 1 : 0;
}

static __device__ __forceinline__ void one_answer(const struct kn_pref &p, int64_t s, double z0, struct told &t)
{
	struct kn_pref_answer a = answer(p, s);
	struct kn_pref_out o;
	bool good = p.good[s] != 0;

	pref_kto(&p.rule, &a, good, z0, &o);
	p.factor[s] = o.d[0];
	t.v[KN_PREF_SUMS] += o.loss;
	t.v[KN_PREF_REWARD_CHOSEN] += good ? o.reward[0] : 0;
	t.v[KN_PREF_REWARD_REJECTED] += good ? 0 : o.reward[0];
	t.v[KN_PREF_VALUE_CHOSEN] += good ? a.value : 0;
	t.v[KN_PREF_VALUE_REJECTED] += good ? 0 : a.value;
}

static __global__ void __launch_bounds__(THREADS) loss_kernel(struct kn_pref p)
{
	__shared__ double shared[33];
	struct told t;
	double z0 = 0;

#pragma unroll
	for (int k = 0; k <= KN_PREF_SUMS; k++)
		t.v[k] = 0;
	if (p.rule.method == KN_PREF_KTO)
		z0 = fmax(0.0, p.sums[KN_PREF_DRIFT] / (double)*p.drift_of);
	for (int64_t s = threadIdx.x; s < p.n_seqs; s += THREADS) {
		if (p.rule.method == KN_PREF_KTO)
			one_answer(p, s, z0, t);
		else if (p.good[s])
			one_pair(p, s, t);
	}
#pragma unroll
	for (int k = 0; k <= KN_PREF_SUMS; k++) {
		double sum = block_sum(t.v[k], shared);

		if (threadIdx.x == 0 && k != KN_PREF_DRIFT)
			*(k < KN_PREF_SUMS ? p.sums + k : p.loss) += sum;
	}
}

static __global__ void __launch_bounds__(THREADS) drift_kernel(struct kn_pref p)
{
	__shared__ double shared[33];
	double sum = 0;

	for (int64_t s = threadIdx.x; s < p.n_seqs; s += THREADS)
		sum += p.value[s] - p.ref[s];
	sum = block_sum(sum, shared);
	if (threadIdx.x == 0)
		p.sums[KN_PREF_DRIFT] += sum;
}

static __global__ void __launch_bounds__(THREADS) rows_kernel(struct kn_pref p, act_t *x, int64_t ldx, const int32_t *row, int64_t c)
{
	scale_row(x + (int64_t)row[blockIdx.x] * ldx, (float)-p.factor[run_of(p.tgt_start, p.n_seqs, blockIdx.x)], c);
}

static __global__ void __launch_bounds__(THREADS) score_kernel(double *value, const act_t *h, const float *w, int64_t c)
{
	__shared__ double shared[33];
	const act_t *x = h + (int64_t)blockIdx.x * c;
	double sum = 0;

	for (int64_t j = threadIdx.x; j < c; j += THREADS)
		sum += (double)act_up(x[j]) * (double)w[j];
	sum = block_sum(sum, shared);
	if (threadIdx.x == 0)
		value[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(THREADS) score_bwd_kernel(act_t *dh, float *dw, const double *factor, const act_t *h, const float *w, const float *scale, int64_t n, int64_t c)
{
	int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	double sum = 0;

	if (j >= c)
		return;
	for (int64_t i = 0; i < n; i++) {
		double f = (double)*scale * factor[i];

		sum += f * (double)act_up(h[i * c + j]);
		dh[i * c + j] = act_down((float)(f * (double)w[j]));
	}
	dw[j] += (float)sum;
}

void kn_pref_values_cuda(struct device *d, const struct kn_pref *p, const double *nll)
{
	if (p->n_seqs == 0)
		return;
	values_kernel<<<(unsigned)p->n_seqs, THREADS, 0, cuda_of(d)->stream>>>(*p, nll);
	cuda_launched(d, "pref_values");
}

void kn_pref_loss_cuda(struct device *d, const struct kn_pref *p)
{
	if (p->n_seqs == 0)
		return;
	loss_kernel<<<1, THREADS, 0, cuda_of(d)->stream>>>(*p);
	cuda_launched(d, "pref_loss");
}

void kn_pref_rows_cuda(struct device *d, const struct kn_pref *p, void *x, int64_t ldx, const int32_t *row, int64_t c)
{
	if (p->n_targets == 0)
		return;
	rows_kernel<<<(unsigned)p->n_targets, THREADS, 0, cuda_of(d)->stream>>>(*p, (act_t *)x, ldx, row, c);
	cuda_launched(d, "pref_rows");
}

void kn_pref_drift_cuda(struct device *d, const struct kn_pref *p)
{
	if (p->n_seqs == 0)
		return;
	drift_kernel<<<1, THREADS, 0, cuda_of(d)->stream>>>(*p);
	cuda_launched(d, "pref_drift");
}

void kn_score_fwd_cuda(struct device *d, double *value, const void *h, const float *w, int64_t n, int64_t c)
{
	if (n == 0)
		return;
	score_kernel<<<(unsigned)n, THREADS, 0, cuda_of(d)->stream>>>(value, (const act_t *)h, w, c);
	cuda_launched(d, "score");
}

void kn_score_bwd_cuda(struct device *d, void *dh, float *dw, const double *factor, const void *h, const float *w, const float *scale, int64_t n, int64_t c)
{
	if (n == 0)
		return;
	score_bwd_kernel<<<(unsigned)((c + THREADS - 1) / THREADS), THREADS, 0, cuda_of(d)->stream>>>((act_t *)dh, dw, factor, (const act_t *)h, w, scale, n, c);
	cuda_launched(d, "score");
}
