#include "kernels/adam.h"

#include "kernels/device.h"

void kn_adam_cpu(struct device *d, const struct kn_adam_seg *segs, const struct kn_adam_seg *segs_dev, int64_t n_segs, int64_t blocks,
                 const struct kn_adam_arrays *x, const struct kn_adam *a)
{
	(void)segs_dev;
	(void)blocks;
	for (const struct kn_adam_seg *s = segs; s < segs + n_segs; s++)
		if (s->eight)
			kn_adam8_cpu(d, x->p + s->at, x->g + s->at, x->m8 + s->state, x->v8 + s->state, x->m_max + s->scale, x->v_max + s->scale, s->n, a);
		else
			kn_adamw_cpu(d, x->p + s->at, x->g + s->at, x->m + s->state, x->v + s->state, s->n, a);
}
