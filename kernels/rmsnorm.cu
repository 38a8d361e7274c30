/* A block a row. Rows of up to 8,192 elements in whole eights stay in registers. */
#include "kernels/cuda.cuh"

#define THREADS 256

/* EIGHTS: pieces of eight a thread holds. */
template <int EIGHTS>
static __global__ void __launch_bounds__(THREADS) fwd_eights(act_t *y, int64_t ldy, float *rstd, const act_t *x, const float *w, int c, float eps)
{
	__shared__ float shared[33];
	int64_t row = blockIdx.x;
	f8 v[EIGHTS];
	float4 u[EIGHTS][2];
	float sum = 0, r;

	let_next();
#pragma unroll
	for (int i = 0; i < EIGHTS; i++) {
		int j = (i * THREADS + (int)threadIdx.x) * 8;

		if (j < c && threadIdx.x % 4 == 0)
			call_near(w + j);
	}
	follow_previous();
	x += row * c;
#pragma unroll
	for (int i = 0; i < EIGHTS; i++) {
		int j = (i * THREADS + (int)threadIdx.x) * 8;

		if (j >= c)
			continue;
		v[i] = load8(x + j);
		u[i][0] = *(const float4 *)(w + j);
		u[i][1] = *(const float4 *)(w + j + 4);
#pragma unroll
		for (int l = 0; l < 8; l++)
			sum += v[i].v[l] * v[i].v[l];
	}
	r = rsqrtf(block_sum(sum, shared) / (float)c + eps);
	if (rstd && threadIdx.x == 0)
		rstd[row] = r;
#pragma unroll
	for (int i = 0; i < EIGHTS; i++) {
		int j = (i * THREADS + (int)threadIdx.x) * 8;

		if (j >= c)
			continue;
#pragma unroll
		for (int l = 0; l < 8; l += 4) {
			float4 by = u[i][l / 4];

			v[i].v[l] *= r * by.x;
			v[i].v[l + 1] *= r * by.y;
			v[i].v[l + 2] *= r * by.z;
			v[i].v[l + 3] *= r * by.w;
		}
		store8(y + row * ldy + j, v[i]);
	}
}

/* Any width. */
static __global__ void __launch_bounds__(THREADS) fwd_any(act_t *y, int64_t ldy, float *rstd, const act_t *x, const float *w, int64_t c, float eps)
{
	__shared__ float shared[33];
	int64_t row = blockIdx.x;
	float sum = 0, r;

	for (int64_t j = threadIdx.x; j < c; j += THREADS) {
		float v = act_up(x[row * c + j]);

		sum += v * v;
	}
	r = rsqrtf(block_sum(sum, shared) / (float)c + eps);
	if (rstd && threadIdx.x == 0)
		rstd[row] = r;
	for (int64_t j = threadIdx.x; j < c; j += THREADS)
		y[row * ldy + j] = act_down(act_up(x[row * c + j]) * (r * w[j]));
}

void kn_rmsnorm_fwd_cuda(struct device *d, void *y, int64_t ldy, float *rstd, const void *x, const float *w, int64_t t, int64_t c, float eps)
{
	cudaStream_t st = cuda_of(d)->stream;
	bool fast = c % 8 == 0 && c <= 8192 && eights(y, ldy) && eights(x, c) && ((uintptr_t)w & 15) == 0;
	int pieces = (int)((c + 8 * THREADS - 1) / (8 * THREADS));

	/* a step of decoding is a chain of short kernels; where one row more or less is nothing, launches are plain */
#define FWD(N) launch_chained(st, cuda_of(d)->chains && t <= 64, fwd_eights<N>, dim3((unsigned)t), THREADS, 0, (act_t *)y, ldy, rstd, (const act_t *)x, w, (int)c, eps)
	if (!fast)
		fwd_any<<<(unsigned)t, THREADS, 0, st>>>((act_t *)y, ldy, rstd, (const act_t *)x, w, c, eps);
	else if (pieces == 1)
		FWD(1);
	else if (pieces == 2)
		FWD(2);
	else
		FWD(4);
#undef FWD
	cuda_launched(d, "rmsnorm_fwd");
}

template <int EIGHTS>
static __global__ void __launch_bounds__(THREADS) bwd_eights(act_t *dx, int64_t ld_dx, const act_t *dy, const act_t *xo, const float *rstd,
                                                             const float *w, int c)
{
	__shared__ float shared[33];
	int64_t row = blockIdx.x;
	f8 x[EIGHTS], g[EIGHTS]; /* g: w dy */
	float sum = 0, r = rstd[row], m;

#pragma unroll
	for (int i = 0; i < EIGHTS; i++) {
		int j = (i * THREADS + (int)threadIdx.x) * 8;

		if (j >= c)
			continue;
		x[i] = load8(xo + row * c + j);
		g[i] = load8(dy + row * c + j);
#pragma unroll
		for (int l = 0; l < 8; l++) {
			g[i].v[l] *= w[j + l];
			sum += g[i].v[l] * x[i].v[l];
		}
	}
	m = block_sum(sum, shared) * r * r / (float)c;
#pragma unroll
	for (int i = 0; i < EIGHTS; i++) {
		int j = (i * THREADS + (int)threadIdx.x) * 8;
		f8 v;

		if (j >= c)
			continue;
		v = load8(dx + row * ld_dx + j);
#pragma unroll
		for (int l = 0; l < 8; l++)
			v.v[l] += r * (g[i].v[l] - x[i].v[l] * m);
		store8(dx + row * ld_dx + j, v);
	}
}

static __global__ void __launch_bounds__(THREADS) bwd_any(act_t *dx, int64_t ld_dx, const act_t *dy, const act_t *xo, const float *rstd,
                                                          const float *w, int64_t c)
{
	__shared__ float shared[33];
	int64_t row = blockIdx.x;
	float sum = 0, r = rstd[row], m;

	for (int64_t j = threadIdx.x; j < c; j += THREADS)
		sum += act_up(dy[row * c + j]) * w[j] * act_up(xo[row * c + j]);
	m = block_sum(sum, shared) * r * r / (float)c;
	for (int64_t j = threadIdx.x; j < c; j += THREADS) {
		float v = act_up(dx[row * ld_dx + j]), g = act_up(dy[row * c + j]) * w[j];

		dx[row * ld_dx + j] = act_down(v + r * (g - act_up(xo[row * c + j]) * m));
	}
}

void kn_rmsnorm_bwd_cuda(struct device *d, void *dx, int64_t ld_dx, const void *dy, const void *xo, const float *rstd, const float *w,
                         int64_t t, int64_t c)
{
	cudaStream_t st = cuda_of(d)->stream;
	bool fast = c % 8 == 0 && c <= 8192 && eights(dx, ld_dx) && eights(dy, c) && eights(xo, c);
	int pieces = (int)((c + 8 * THREADS - 1) / (8 * THREADS));

#define BWD(N) bwd_eights<N><<<(unsigned)t, THREADS, 0, st>>>((act_t *)dx, ld_dx, (const act_t *)dy, (const act_t *)xo, rstd, w, (int)c)
	if (!fast)
		bwd_any<<<(unsigned)t, THREADS, 0, st>>>((act_t *)dx, ld_dx, (const act_t *)dy, (const act_t *)xo, rstd, w, c);
	else if (pieces == 1)
		BWD(1);
	else if (pieces == 2)
		BWD(2);
	else
		BWD(4);
#undef BWD
	cuda_launched(d, "rmsnorm_bwd");
}
