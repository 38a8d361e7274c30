#include "kernels/cuda.cuh"

#define THREADS 256

/* Philox4x32-10, as base/rng.c has it. */
static __device__ __forceinline__ uint4 philox(uint4 c, uint2 k)
{
#pragma unroll
	for (int i = 0; i < 10; i++) {
		uint32_t h0 = __umulhi(0xD2511F53u, c.x), l0 = 0xD2511F53u * c.x, h1 = __umulhi(0xCD9E8D57u, c.z), l1 = 0xCD9E8D57u * c.z;

		c = make_uint4(h1 ^ c.y ^ k.x, l1, h0 ^ c.w ^ k.y, l0);
		k.x += 0x9E3779B9u;
		k.y += 0xBB67AE85u;
	}
	return c;
}

/* A thread has four columns: one call of the generator. */
static __global__ void __launch_bounds__(THREADS) dropout_kernel(act_t *y, int64_t ldy, const act_t *x, int64_t ldx, const int32_t *rec, const int32_t *pos,
                                                                 int64_t c, uint2 key, uint32_t tensor, uint32_t limit, float up, bool add)
{
	int64_t row = blockIdx.x, four = (int64_t)blockIdx.y * THREADS + threadIdx.x;
	uint4 w;

	if (four * 4 >= c)
		return;
	w = philox(make_uint4((uint32_t)pos[row], (uint32_t)rec[row], (uint32_t)four, tensor), key);
	for (int l = 0; l < 4 && four * 4 + l < c; l++) {
		uint32_t word = l == 0 ? w.x : l == 1 ? w.y : l == 2 ? w.z : w.w;
		float v = word < limit ? 0 : act_up(x[row * ldx + four * 4 + l]) * up;
		act_t *to = y + row * ldy + four * 4 + l;

		*to = act_down(add ? act_up(*to) + v : v);
	}
}

void kn_dropout_cuda(struct device *d, void *y, int64_t ldy, const void *x, int64_t ldx, const int32_t *rec, const int32_t *pos, int64_t t,
                     int64_t c, struct kn_dropout_key key, bool add)
{
	uint2 k = make_uint2((uint32_t)key.seed_step, (uint32_t)(key.seed_step >> 32));
	uint32_t limit = (uint32_t)((double)key.p * 4294967296.0);
	dim3 grid((unsigned)t, (unsigned)((c + 4 * THREADS - 1) / (4 * THREADS)));

	dropout_kernel<<<grid, THREADS, 0, cuda_of(d)->stream>>>((act_t *)y, ldy, (const act_t *)x, ldx, rec, pos, c, k, key.tensor, limit,
	                                                         1.0f / (1.0f - key.p), add);
	cuda_launched(d, "dropout");
}
