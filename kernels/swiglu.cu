/* Eight elements a thread; a grid row for each row, so that nothing is divided. */
#include "kernels/cuda.cuh"
#include "kernels/swiglu.cuh"

#define THREADS 256

static __global__ void __launch_bounds__(THREADS) fwd_eights(act_t *h, int64_t ldh, const act_t *gu, int64_t ldg, int64_t f)
{
	int64_t row = blockIdx.x, j = ((int64_t)blockIdx.y * THREADS + threadIdx.x) * 8;
	f8 g, u;

	if (j >= f)
		return;
	g = load8(gu + row * ldg + j);
	u = load8(gu + row * ldg + f + j);
#pragma unroll
	for (int l = 0; l < 8; l++)
		g.v[l] = gate(g.v[l], u.v[l]);
	store8(h + row * ldh + j, g);
}

static __global__ void __launch_bounds__(THREADS) fwd_any(act_t *h, int64_t ldh, const act_t *gu, int64_t ldg, int64_t f)
{
	int64_t row = blockIdx.x, j = (int64_t)blockIdx.y * THREADS + threadIdx.x;

	if (j < f)
		h[row * ldh + j] = act_down(gate(act_up(gu[row * ldg + j]), act_up(gu[row * ldg + f + j])));
}

static __global__ void __launch_bounds__(THREADS) bwd_eights(act_t *gu, int64_t ldg, const act_t *dh, act_t *h, int64_t ldh, int64_t f)
{
	int64_t row = blockIdx.x, j = ((int64_t)blockIdx.y * THREADS + threadIdx.x) * 8;
	act_t *gp = gu + row * ldg + j;
	f8 g, u, d, o;

	if (j >= f)
		return;
	g = load8(gp);
	u = load8(gp + f);
	d = load8(dh + row * f + j);
#pragma unroll
	for (int l = 0; l < 8; l++) {
		o.v[l] = gate(g.v[l], u.v[l]);
		back(&g.v[l], &u.v[l], d.v[l]);
	}
	store8(gp, g);
	store8(gp + f, u);
	if (h)
		store8(h + row * ldh + j, o);
}

static __global__ void __launch_bounds__(THREADS) bwd_any(act_t *gu, int64_t ldg, const act_t *dh, act_t *h, int64_t ldh, int64_t f)
{
	int64_t row = blockIdx.x, j = (int64_t)blockIdx.y * THREADS + threadIdx.x;
	act_t *gp = gu + row * ldg + j;
	float g, u;

	if (j >= f)
		return;
	g = act_up(gp[0]);
	u = act_up(gp[f]);
	if (h)
		h[row * ldh + j] = act_down(gate(g, u));
	back(&g, &u, act_up(dh[row * f + j]));
	gp[0] = act_down(g);
	gp[f] = act_down(u);
}

static dim3 grid(int64_t t, int64_t f, int each)
{
	return dim3((unsigned)t, (unsigned)((f + (int64_t)THREADS * each - 1) / ((int64_t)THREADS * each)));
}

void kn_swiglu_fwd_cuda(struct device *d, void *h, int64_t ldh, const void *gu, int64_t ldg, int64_t t, int64_t f)
{
	cudaStream_t st = cuda_of(d)->stream;

	if (f % 8 == 0 && eights(h, ldh) && eights(gu, ldg))
		fwd_eights<<<grid(t, f, 8), THREADS, 0, st>>>((act_t *)h, ldh, (const act_t *)gu, ldg, f);
	else
		fwd_any<<<grid(t, f, 1), THREADS, 0, st>>>((act_t *)h, ldh, (const act_t *)gu, ldg, f);
	cuda_launched(d, "swiglu_fwd");
}

void kn_swiglu_bwd_cuda(struct device *d, void *gu, int64_t ldg, const void *dh, void *h, int64_t ldh, int64_t t, int64_t f)
{
	cudaStream_t st = cuda_of(d)->stream;

	if (f % 8 == 0 && eights(h, ldh) && eights(gu, ldg) && eights(dh, f))
		bwd_eights<<<grid(t, f, 8), THREADS, 0, st>>>((act_t *)gu, ldg, (const act_t *)dh, (act_t *)h, ldh, f);
	else
		bwd_any<<<grid(t, f, 1), THREADS, 0, st>>>((act_t *)gu, ldg, (const act_t *)dh, (act_t *)h, ldh, f);
	cuda_launched(d, "swiglu_bwd");
}
