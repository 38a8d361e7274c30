#include "kernels/dropout.cuh"

#define THREADS 256

/* A thread has four columns: one call of the generator. */
static __global__ void __launch_bounds__(THREADS) dropout_kernel(act_t *y, int64_t ldy, const act_t *x, int64_t ldx, const int32_t *rec, const int32_t *pos,
                                                                 int64_t c, const struct drop_key key, const uint64_t *seed_step, bool add)
{
	int64_t row = blockIdx.x, four = (int64_t)blockIdx.y * THREADS + threadIdx.x;
	uint2 seed = seed_of(seed_step);
	uint32_t keep;

	if (four * 4 >= c)
		return;
	keep = keep4(key, seed, rec[row], pos[row], (uint32_t)four);
	for (int l = 0; l < 4 && four * 4 + l < c; l++) {
		float v = keep >> l & 1 ? act_up(x[row * ldx + four * 4 + l]) * key.up : 0;
		act_t *to = y + row * ldy + four * 4 + l;

		*to = act_down(add ? act_up(*to) + v : v);
	}
}

void kn_dropout_cuda(struct device *d, void *y, int64_t ldy, const void *x, int64_t ldx, const int32_t *rec, const int32_t *pos, int64_t t,
                     int64_t c, struct kn_dropout_key key, bool add)
{
	dim3 grid((unsigned)t, (unsigned)((c + 4 * THREADS - 1) / (4 * THREADS)));

	dropout_kernel<<<grid, THREADS, 0, cuda_of(d)->stream>>>((act_t *)y, ldy, (const act_t *)x, ldx, rec, pos, c, drop_key_of(&key), key.seed_step, add);
	cuda_launched(d, "dropout");
}
