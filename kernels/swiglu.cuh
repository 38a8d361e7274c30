/* The gated activation of one element, which a layer's forward pass and its backward may form in different kernels: written so
 * that no compiler contracts it in two ways. Internal to kernels/(*).cu. */
#ifndef LP_KERNELS_SWIGLU_CUH
#define LP_KERNELS_SWIGLU_CUH

/* e^-z is infinite from -88.7 on, and 1 / (1 + e^-z) no normal number from -87.3 on: 0 is the limit. What is flushed of e^-z is
 * nothing beside 1. */
static __device__ __forceinline__ float sigmoid(float z)
{
	float e, s;

	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(__fmul_rn(z, -1.4426950408889634f)));
	asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(s) : "f"(__fadd_rn(1.0f, e)));
	return s;
}

static __device__ __forceinline__ float gate(float g, float u)
{
	return __fmul_rn(__fmul_rn(g, sigmoid(g)), u);
}

/* g and u become their gradients. */
static __device__ __forceinline__ void back(float *g, float *u, float dh)
{
	float z = *g, s = sigmoid(z), du = __fmul_rn(__fmul_rn(dh, z), s);

	*g = __fmul_rn(__fmul_rn(__fmul_rn(dh, *u), s), __fmaf_rn(z, __fsub_rn(1.0f, s), 1.0f));
	*u = du;
}

#endif
