#include "base/rng.h"

#include <math.h>
#include <string.h>

#include "base/hash.h"

/* Constants of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3". */
#define MUL_0 0xD2511F53u
#define MUL_1 0xCD9E8D57u
#define WEYL_0 0x9E3779B9u
#define WEYL_1 0xBB67AE85u

void philox4x32(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4])
{
	uint32_t c0 = ctr[0], c1 = ctr[1], c2 = ctr[2], c3 = ctr[3];
	uint32_t k0 = key[0], k1 = key[1];

	for (int round = 0; round < 10; round++) {
		uint64_t p0 = (uint64_t)MUL_0 * c0, p1 = (uint64_t)MUL_1 * c2;

		c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
		c1 = (uint32_t)p1;
		c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
		c3 = (uint32_t)p0;
		k0 += WEYL_0;
		k1 += WEYL_1;
	}
	out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* Two 64-bit values for (seed; a, b): the counter is a, b, the key is seed. */
static void draw(uint64_t seed, uint64_t a, uint64_t b, uint64_t v[2])
{
	const uint32_t ctr[4] = { (uint32_t)a, (uint32_t)(a >> 32), (uint32_t)b, (uint32_t)(b >> 32) };
	const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
	uint32_t w[4];

	philox4x32(ctr, key, w);
	v[0] = w[0] | (uint64_t)w[1] << 32;
	v[1] = w[2] | (uint64_t)w[3] << 32;
}

static double unit(uint64_t v)
{
	return (double)(v >> 11) * 0x1p-53;
}

uint64_t rng_u64(uint64_t seed, uint64_t a, uint64_t b)
{
	uint64_t v[2];

	draw(seed, a, b, v);
	return v[0];
}

double rng_unit(uint64_t seed, uint64_t a, uint64_t b)
{
	return unit(rng_u64(seed, a, b));
}

double rng_normal(uint64_t seed, uint64_t a, uint64_t b)
{
	uint64_t v[2];

	draw(seed, a, b, v);
	/* 1 - u is in (0, 1]: the logarithm is finite */
	return sqrt(-2 * log(1 - unit(v[0]))) * cos(6.283185307179586477 * unit(v[1]));
}

/* Lemire's multiply-and-reject; a rejected draw moves on to the second value
 * of its block, then to the next key of a Weyl sequence. */
uint64_t rng_below(uint64_t seed, uint64_t a, uint64_t b, uint64_t n)
{
	const uint64_t reject = (0 - n) % n;

	for (;; seed += 0x9E3779B97F4A7C15u) {
		uint64_t v[2];

		draw(seed, a, b, v);
		for (int i = 0; i < 2; i++) {
			__extension__ unsigned __int128 m = (unsigned __int128)v[i] * n;

			if ((uint64_t)m >= reject)
				return (uint64_t)(m >> 64);
		}
	}
}

void rng_permutation(uint64_t seed, uint64_t stream, uint32_t n, uint32_t *idx)
{
	for (uint32_t i = 0; i < n; i++)
		idx[i] = i;
	for (uint32_t i = n; i-- > 1;) {
		uint32_t j = (uint32_t)rng_below(seed, stream, i, (uint64_t)i + 1), t = idx[i];

		idx[i] = idx[j];
		idx[j] = t;
	}
}

uint64_t rng_stream(const char *name)
{
	return xxh_u64(name, strlen(name), 0);
}
