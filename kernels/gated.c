#include "kernels/gated.h"

#include "kernels/device.h"

void kn_gated_fwd_cpu(struct device *d, const struct kn_gated *a)
{
	kn_gemm_cpu(d, false, true, a->t, 2 * a->f, a->k, 1, a->x, a->ldx, a->w, a->ldw, 0, NULL, a->gu, a->ldg, false);
	kn_swiglu_fwd_cpu(d, a->h, a->ldh, a->gu, a->ldg, a->t, a->f);
}

void kn_gated_bwd_cpu(struct device *d, const struct kn_gated *a)
{
	kn_gemm_cpu(d, false, false, a->t, a->f, a->k, 1, a->x, a->ldx, a->w, a->ldw, 0, NULL, a->dh, a->f, false);
	kn_swiglu_bwd_cpu(d, a->gu, a->ldg, a->dh, a->h, a->ldh, a->t, a->f);
}
