#include "kernels/gated.cuh"

void kn_gated_fwd_cuda(struct device *d, const struct kn_gated *a)
{
	if (gated_fwd_sm90(d, a))
		return;
	kn_gemm_cuda(d, false, true, a->t, 2 * a->f, a->k, 1, a->x, a->ldx, a->w, a->ldw, 0, NULL, a->gu, a->ldg, false);
	kn_swiglu_fwd_cuda(d, a->h, a->ldh, a->gu, a->ldg, a->t, a->f);
}

void kn_gated_bwd_cuda(struct device *d, const struct kn_gated *a)
{
	if (gated_bwd_sm90(d, a))
		return;
	kn_gemm_cuda(d, false, false, a->t, a->f, a->k, 1, a->x, a->ldx, a->w, a->ldw, 0, NULL, a->dh, a->f, false);
	kn_swiglu_bwd_cuda(d, a->gu, a->ldg, a->dh, a->h, a->ldh, a->t, a->f);
}
