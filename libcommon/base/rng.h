/* Counter-based randomness: Philox4x32-10 (Salmon et al., SC 2011). A value
 * depends on its key and counter alone, never on order, threads or resume. */
#ifndef LP_BASE_RNG_H
#define LP_BASE_RNG_H

#include <stdint.h>

void philox4x32(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4]);

/* 64 bits for (seed; a, b): the two counters are up to the caller. */
uint64_t rng_u64(uint64_t seed, uint64_t a, uint64_t b);
double rng_unit(uint64_t seed, uint64_t a, uint64_t b);   /* [0, 1), 53 bits */
double rng_normal(uint64_t seed, uint64_t a, uint64_t b); /* Box-Muller, mean 0, sd 1 */
/* Unbiased integer in [0, n), n > 0. */
uint64_t rng_below(uint64_t seed, uint64_t a, uint64_t b, uint64_t n);
/* Fisher-Yates over 0..n-1 into idx: the same on every machine. */
void rng_permutation(uint64_t seed, uint64_t stream, uint32_t n, uint32_t *idx);
/* A stream number for a name, so that two uses of one seed never meet. */
uint64_t rng_stream(const char *name);

#endif
