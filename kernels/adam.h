/* One AdamW step over many tensors at once: segments of flat arrays, each with
 * fp32 states (adamw.h) or 8-bit ones (adam8.h). A block of 256 elements never
 * crosses a segment's end. */
#ifndef LP_KERNELS_ADAM_H
#define LP_KERNELS_ADAM_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/adam8.h"

struct kn_adam_seg {
	int64_t at, n;  /* elements of p and g */
	int64_t state;  /* first element in m, v, or in m8, v8 */
	int64_t scale;  /* first block in m_max, v_max */
	int64_t block;  /* blocks of all segments before it */
	bool eight;
};
struct kn_adam_arrays { /* device memory */
	float *p;
	const float *g;
	float *m, *v;
	uint8_t *m8, *v8;
	float *m_max, *v_max;
};
struct device;
/* segs in host memory, segs_dev the same in device memory; blocks: of all segments. */
typedef void kn_adam_fn(struct device *d, const struct kn_adam_seg *segs, const struct kn_adam_seg *segs_dev, int64_t n_segs, int64_t blocks,
                        const struct kn_adam_arrays *x, const struct kn_adam *a);
kn_adam_fn kn_adam_cpu;

#endif
