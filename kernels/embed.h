/* x (T, C) = row ids[t] of the table (V, C), widened to the activation type.
 * The table is F32, BF16 or F16 (a frozen weight, read in place). Exact. */
#ifndef LP_KERNELS_EMBED_H
#define LP_KERNELS_EMBED_H

#include <stdint.h>

#include "fmt/dtype.h"

struct device;
typedef void kn_embed_fwd_fn(struct device *d, void *x, const int32_t *ids, const void *table, enum dtype dt, int64_t t, int64_t c);
kn_embed_fwd_fn kn_embed_fwd_cpu;

#endif
