/* embed_host: the same from a table in host memory, and ids there; the rows travel through way, host memory of
 * T * C activations that nothing else uses meanwhile.
 * x (T, C) = row ids[t] of the table (V, C), widened to the activation type.
 * The table is F32, BF16 or F16 (read in place). Exact.
 * embed_bwd: the table's gradient (V, C, fp32), row ids[t] += dx[t], dx (T, C) activations with row stride ld. by_id (T): the tokens, those of
 * one id side by side, in order; run (T + 1): where each id's begin in by_id, then T as often as there are fewer ids than tokens. Each
 * row is summed in that order in fp32: |err| <= n * 2^-24 * sum |dx| for an id that comes n times. */
#ifndef LP_KERNELS_EMBED_H
#define LP_KERNELS_EMBED_H

#include <stdint.h>

#include "fmt/dtype.h"

struct device;
typedef void kn_embed_fwd_fn(struct device *d, void *x, const int32_t *ids, const void *table, enum dtype dt, int64_t t, int64_t c);
typedef void kn_embed_host_fn(struct device *d, void *x, const int32_t *ids_host, const void *table_host, enum dtype dt, int64_t t, int64_t c, void *way);
typedef void kn_embed_bwd_fn(struct device *d, float *grad, const int32_t *ids, const int32_t *by_id, const int32_t *run, const void *dx, int64_t ld, int64_t t, int64_t c);
kn_embed_bwd_fn kn_embed_bwd_cpu;
kn_embed_fwd_fn kn_embed_fwd_cpu;
kn_embed_host_fn kn_embed_host_cpu;

#endif
