/* Masks of dropout.h, made where they are used. */
#ifndef LP_KERNELS_DROPOUT_CUH
#define LP_KERNELS_DROPOUT_CUH

#include "kernels/cuda.cuh"

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

/* What of a key does not depend on the element. */
struct drop_key {
	uint2 key;
	uint32_t tensor, limit;
	float up;
};

static inline struct drop_key drop_key_of(const struct kn_dropout_key *k)
{
	struct drop_key r;

	r.key = make_uint2((uint32_t)k->seed_step, (uint32_t)(k->seed_step >> 32));
	r.tensor = k->tensor;
	r.limit = (uint32_t)((double)k->p * 4294967296.0);
	r.up = 1.0f / (1.0f - k->p);
	return r;
}

/* Of columns 4 four .. 4 four + 3: bit l says that the l-th is kept. */
static __device__ __forceinline__ uint32_t keep4(const struct drop_key &k, int32_t rec, int32_t pos, uint32_t four)
{
	uint4 w = philox(make_uint4((uint32_t)pos, (uint32_t)rec, four, k.tensor), k.key);

	return (w.x >= k.limit) | (w.y >= k.limit) << 1 | (w.z >= k.limit) << 2 | (w.w >= k.limit) << 3;
}

#endif
