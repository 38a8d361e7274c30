/* Rotary position embedding, in place, on the first rot elements of each head:
 * pairs are (i, i + rot/2), as Hugging Face lays them out.
 *   x'[i] = x[i] c - x[i + rot/2] s;  x'[i + rot/2] = x[i + rot/2] c + x[i] s
 * with c, s = cos, sin tables (positions, rot/2) at row pos[t]. inverse turns the
 * other way: the gradient. x is (T, n_heads * head_dim) with row stride ldx.
 * Error: one rounding for each product and sum. */
#ifndef LP_KERNELS_ROPE_H
#define LP_KERNELS_ROPE_H

#include <stdbool.h>
#include <stdint.h>

struct device;
typedef void kn_rope_fn(struct device *d, void *x, int64_t ldx, const int32_t *pos, const float *cos_tab,
                        const float *sin_tab, int64_t t, int64_t n_heads, int64_t head_dim, int64_t rot, bool inverse);
kn_rope_fn kn_rope_cpu;

#endif
