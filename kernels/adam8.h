/* AdamW with 8-bit states in blocks of 256, as bitsandbytes' blockwise AdamW does
 * it on the CPU: m in the signed, v in the unsigned dynamic map, each block scaled
 * by its absolute maximum, codes by dynmap_code. Tensors under 4,096 elements keep
 * fp32 states (kn_adamw).
 *   m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p *= 1 - lr wd
 *   p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
 * p is updated from the exact m and v, which are stored afterwards. A block whose
 * maximum is 0 has codes 0. The order of the fp32 operations decides a code at
 * a tie: one apart, in under 0.1 % of them. */
#ifndef LP_KERNELS_ADAM8_H
#define LP_KERNELS_ADAM8_H

#include <stdint.h>

#include "kernels/adamw.h"

#define ADAM8_BLOCK 256
#define ADAM8_MIN 4096

struct device;
/* m8, v8 (n) codes; m_max, v_max (ceil(n / 256)). All zero bytes stand for a fresh state. */
void kn_adam8_cpu(struct device *d, float *p, const float *g, uint8_t *m8, uint8_t *v8, float *m_max, float *v_max, int64_t n,
                  const struct kn_adam *a);

#endif
