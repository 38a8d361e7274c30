/* Losses: one block for all tokens, so that the order of the sums follows from their number alone; a step's tokens are few beside its
 * work. Rows: a block a target. */
#include "kernels/cuda.cuh"

#define KN_GRPO_FN static __device__ __forceinline__
#include "kernels/grpo_token.h"

#define THREADS 256

static __global__ void __launch_bounds__(THREADS) loss_kernel(struct kn_grpo p, const double *nll)
{
	__shared__ double shared[33];
	double told[KN_GRPO_SUMS + 1] = { 0 }; /* the loss is behind them */

	for (int64_t i = threadIdx.x; i < p.n_targets; i += THREADS) {
		int64_t s = run_of(p.tgt_start, p.n_seqs, i);
		struct kn_grpo_out o;

		grpo_token(&p.rule, -nll[i], p.old[i], p.ref[i], p.adv[s], &o);
		p.factor[i] = p.weight[s] * o.d / p.rule.temperature;
		told[KN_GRPO_SUMS] += p.weight[s] * o.loss;
		told[KN_GRPO_KL] += o.kl;
		told[KN_GRPO_LOW] += o.low;
		told[KN_GRPO_HIGH] += o.high;
	}
#pragma unroll
	for (int k = 0; k <= KN_GRPO_SUMS; k++) {
		double sum = block_sum(told[k], shared);

		if (threadIdx.x == 0)
			*(k < KN_GRPO_SUMS ? p.sums + k : p.loss) += sum;
	}
}

static __global__ void __launch_bounds__(THREADS) rows_kernel(struct kn_grpo p, act_t *x, int64_t ldx, const int32_t *row, int64_t c)
{
	scale_row(x + (int64_t)row[blockIdx.x] * ldx, (float)-p.factor[blockIdx.x], c);
}

void kn_grpo_loss_cuda(struct device *d, const struct kn_grpo *p, const double *nll)
{
	if (p->n_targets == 0)
		return;
	loss_kernel<<<1, THREADS, 0, cuda_of(d)->stream>>>(*p, nll);
	cuda_launched(d, "grpo_loss");
}

void kn_grpo_rows_cuda(struct device *d, const struct kn_grpo *p, void *x, int64_t ldx, const int32_t *row, int64_t c)
{
	if (p->n_targets == 0)
		return;
	rows_kernel<<<(unsigned)p->n_targets, THREADS, 0, cuda_of(d)->stream>>>(*p, (act_t *)x, ldx, row, c);
	cuda_launched(d, "grpo_rows");
}
