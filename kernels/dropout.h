/* Dropout whose mask is a pure function of (seed, step, tensor, source record,
 * position in the sequence, column): Philox4x32-10 with key (low, high) of
 * the 64-bit hash of seed and step, counter (position, record, column / 4,
 * tensor), word column % 4; an element is dropped when word < p * 2^32. Nothing
 * depends on batch, packing, threads or resume. The hash lies in device memory: a recording (device.h) serves every step.
 *   y = x * keep / (1 - p)       add: y += x * keep / (1 - p)
 * x, y (T, C) with row strides; rec, pos (T). Backward is the same call on the gradient. Exact up
 * to one rounding. */
#ifndef LP_KERNELS_DROPOUT_H
#define LP_KERNELS_DROPOUT_H

#include <stdbool.h>
#include <stdint.h>

struct kn_dropout_key {
	const uint64_t *seed_step; /* device memory: hash of seed and step */
	uint32_t tensor;
	float p;
};
struct device;
typedef void kn_dropout_fn(struct device *d, void *y, int64_t ldy, const void *x, int64_t ldx, const int32_t *rec, const int32_t *pos, int64_t t,
                           int64_t c, struct kn_dropout_key key, bool add);
kn_dropout_fn kn_dropout_cpu;

#endif
