/* embed_host: the same from a table in host memory, and ids there; the rows travel through way, host memory of
 * T * C activations that nothing else uses meanwhile.
 * x (T, C) = row ids[t] of the table (V, C), widened to the activation type.
 * The table is F32, BF16 or F16 (a frozen weight, read in place). Exact. */
#ifndef LP_KERNELS_EMBED_H
#define LP_KERNELS_EMBED_H

#include <stdint.h>

#include "fmt/dtype.h"

struct device;
typedef void kn_embed_fwd_fn(struct device *d, void *x, const int32_t *ids, const void *table, enum dtype dt, int64_t t, int64_t c);
typedef void kn_embed_host_fn(struct device *d, void *x, const int32_t *ids_host, const void *table_host, enum dtype dt, int64_t t, int64_t c, void *way);
kn_embed_fwd_fn kn_embed_fwd_cpu;
kn_embed_host_fn kn_embed_host_cpu;

#endif
