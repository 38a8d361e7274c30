/* One AdamW step over many tensors at once: segments of what is trained, each with
 * fp32 states (adamw.h) or 8-bit ones (adam8.h). A block of 256 elements never
 * crosses a segment's end.
 *
 * Parameters are fp32, or lie in two halves: the weight that products read, in bf16, and what
 * fp32 has beyond it. As integers, p = w 2^16 + rest, rest in [-2^15, 2^15): w is p rounded to bf16, ties
 * away from zero, and the pair takes the room of p and loses nothing of it. Gradients are
 * fp32 or of the activation type. */
#ifndef LP_KERNELS_ADAM_H
#define LP_KERNELS_ADAM_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "kernels/adam8.h"

struct kn_adam_seg {
	void *p;        /* device memory: fp32, or bf16 where there is a rest */
	const void *g;  /* fp32, or with g_act the activation type */
	int64_t n;
	int64_t state;  /* first element in m, v, or in m8, v8 */
	int64_t scale;  /* first block in m_max, v_max */
	int64_t rest;   /* first element in rest; -1: none */
	int64_t block;  /* blocks of all segments before it */
	bool eight, g_act;
};
struct kn_adam_arrays { /* device memory */
	float *m, *v;
	uint8_t *m8, *v8;
	float *m_max, *v_max;
	int16_t *rest;
};
struct device;
/* segs in host memory, segs_dev the same in device memory; blocks: of all segments. */
typedef void kn_adam_fn(struct device *d, const struct kn_adam_seg *segs, const struct kn_adam_seg *segs_dev, int64_t n_segs, int64_t blocks,
                        const struct kn_adam_arrays *x, const struct kn_adam *a);
kn_adam_fn kn_adam_cpu;

/* The halves of a parameter, and back. */
static inline uint16_t kn_halve(float p, int16_t *rest)
{
	uint32_t u;

	memcpy(&u, &p, sizeof(u));
	*rest = (int16_t)(uint16_t)u;
	return (uint16_t)((u + 0x8000u) >> 16);
}
static inline float kn_join(uint16_t w, int16_t rest)
{
	uint32_t u = ((uint32_t)w << 16) + (uint32_t)(int32_t)rest;
	float p;

	memcpy(&p, &u, sizeof(p));
	return p;
}

#endif
