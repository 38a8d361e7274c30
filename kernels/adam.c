#include "kernels/adam.h"

#include "kernels/device.h"

static void update(struct device *d, const struct kn_adam_seg *s, const struct kn_adam_arrays *x, const struct kn_adam *a, float *p, const float *g, int64_t from, int64_t n)
{
	int64_t at = s->state + from, block = s->scale + from / ADAM8_BLOCK;

	if (s->eight)
		kn_adam8_cpu(d, p, g, x->m8 + at, x->v8 + at, x->m_max + block, x->v_max + block, n, a);
	else
		kn_adamw_cpu(d, p, g, x->m + at, x->v + at, n, a);
}

/* Halves, a block at a time. This device's weights and gradients are fp32 themselves: it is the definition. */
static void update_halves(struct device *d, const struct kn_adam_seg *s, const struct kn_adam_arrays *x, const struct kn_adam *a)
{
	for (int64_t i = 0; i < s->n; i += ADAM8_BLOCK) {
		int64_t n = s->n - i < ADAM8_BLOCK ? s->n - i : ADAM8_BLOCK;
		uint16_t *w = (uint16_t *)s->p + i;
		int16_t *rest = x->rest + s->rest + i;
		float p[ADAM8_BLOCK];

		for (int64_t j = 0; j < n; j++)
			p[j] = kn_join(w[j], rest[j]);
		update(d, s, x, a, p, (const float *)s->g + i, i, n);
		for (int64_t j = 0; j < n; j++)
			w[j] = kn_halve(p[j], &rest[j]);
	}
}

void kn_adam_cpu(struct device *d, const struct kn_adam_seg *segs, const struct kn_adam_seg *segs_dev, int64_t n_segs, int64_t blocks,
                 const struct kn_adam_arrays *x, const struct kn_adam *a)
{
	(void)segs_dev;
	(void)blocks;
	for (const struct kn_adam_seg *s = segs; s < segs + n_segs; s++)
		if (s->rest >= 0)
			update_halves(d, s, x, a);
		else
			update(d, s, x, a, s->p, s->g, 0, s->n);
}
