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

/* What of a key does not depend on the element; the hash of seed and step is one for all keys of a launch. */
struct drop_key {
	uint32_t tensor, limit;
	float up;
};

static inline struct drop_key drop_key_of(const struct kn_dropout_key *k)
{
	struct drop_key r;

	r.tensor = k->tensor;
	r.limit = (uint32_t)((double)k->p * 4294967296.0);
	r.up = 1.0f / (1.0f - k->p);
	return r;
}

/* The hash, by all lanes of a warp: that they have the same one is said, so that its ten rounds of keys are made once for all. */
static __device__ __forceinline__ uint2 seed_of(const uint64_t *seed_step)
{
	uint64_t s = *seed_step;

	return make_uint2(__shfl_sync(0xffffffffu, (uint32_t)s, 0), __shfl_sync(0xffffffffu, (uint32_t)(s >> 32), 0));
}

/* Of columns 4 four .. 4 four + 3: bit l says that the l-th is kept. */
static __device__ __forceinline__ uint32_t keep4(const struct drop_key &k, uint2 seed, int32_t rec, int32_t pos, uint32_t four)
{
	uint4 w = philox(make_uint4((uint32_t)pos, (uint32_t)rec, four, k.tensor), seed);

	return (w.x >= k.limit) | (w.y >= k.limit) << 1 | (w.z >= k.limit) << 2 | (w.w >= k.limit) << 3;
}

#endif
