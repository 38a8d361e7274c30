/* A block a row: the segment's maximum in one pass, its sum and what goes into the next product in a second one, which
 * finds the row still in the cache. Each thread's part and the order of folding are fixed by the width alone. */
#include "kernels/cuda.cuh"

#define THREADS 512
#define UP 0x1p15f /* what fp16 has room for above 1, that small terms stay normal numbers; nothing to other types */

static __device__ __forceinline__ float max8(const f8 &z, float m)
{
#pragma unroll
	for (int l = 0; l < 8; l++)
		m = fmaxf(m, z.v[l]);
	return m;
}

template <bool EIGHTS> static __device__ __forceinline__ float row_max(const act_t *p, int64_t count)
{
	int64_t wide = EIGHTS ? count / 8 : 0;
	float m = -INFINITY;

	/* NaN: fmaxf passes over it, the sum does not */
	for (int64_t j = threadIdx.x; j < wide; j += THREADS)
		m = max8(load8(p + 8 * j), m);
	for (int64_t j = 8 * wide + threadIdx.x; j < count; j += THREADS)
		m = fmaxf(m, act_up(p[j]));
	return m;
}

/* This thread's part of the sum of e^(z - max) without element t; with keep it takes the place of z. */
template <bool EIGHTS> static __device__ __forceinline__ float row_exp(act_t *p, int64_t count, int64_t t, float max, bool keep)
{
	int64_t wide = EIGHTS ? count / 8 : 0;
	float sum = 0;

	for (int64_t j = threadIdx.x; j < wide; j += THREADS) {
		f8 x = load8(p + 8 * j);

#pragma unroll
		for (int l = 0; l < 8; l++) {
			float e = t == 8 * j + l ? 0 : __expf(x.v[l] - max);

			sum += e;
			x.v[l] = e * UP;
		}
		if (keep)
			store8(p + 8 * j, x);
	}
	for (int64_t j = 8 * wide + threadIdx.x; j < count; j += THREADS) {
		float e = t == j ? 0 : __expf(act_up(p[j]) - max);

		sum += e;
		if (keep)
			p[j] = act_down(e * UP);
	}
	return sum;
}

template <bool EIGHTS>
static __global__ void __launch_bounds__(THREADS) segment_kernel(struct kn_xent x, act_t *z, int64_t ldz, const act_t *w, int64_t first, int64_t count)
{
	__shared__ float shared[33];
	int64_t i = blockIdx.x, t = x.target[i] - first;
	bool here = t >= 0 && t < count;
	act_t *p = z + i * ldz, *dh = (act_t *)x.dh + i * x.c;
	struct kn_xent_row was = { 0, -INFINITY, 0 };
	float max, sum, fade = 0;

	if (first > 0)
		was = x.rows[i];
	if (here)
		was.at_target = act_up(p[t]);
	max = fmaxf(was.max, block_max(row_max<EIGHTS>(p, count), shared));
	if (first > 0)
		fade = expf(was.max - max);
	/* from here on every thread has read the target's logit and the row's sums */
	sum = block_sum(row_exp<EIGHTS>(p, count, t, max, x.acc != NULL), shared);
	if (threadIdx.x == 0) {
		struct kn_xent_row r = { was.others * (double)fade + (double)sum, max, was.at_target };

		x.rows[i] = r;
	}
	if (!x.acc)
		return;
	for (int64_t j = threadIdx.x; here && j < x.c; j += THREADS)
		dh[j] = w[t * x.c + j];
	for (int64_t j = threadIdx.x; first > 0 && fade != 1 && j < x.c; j += THREADS)
		x.acc[i * x.c + j] *= fade;
}

static __global__ void __launch_bounds__(THREADS) end_kernel(struct kn_xent x, double *loss, const float *scale_at)
{
	int64_t i = blockIdx.x;
	struct kn_xent_row r = x.rows[i];
	double sum = r.others + (double)expf(r.at_target - r.max), scale = (double)*scale_at;
	float all = (float)(scale / sum / (double)UP), target = (float)(scale * r.others / sum);
	act_t *dh = (act_t *)x.dh + i * x.c;

	if (threadIdx.x == 0)
		loss[i] = log(sum) + ((double)r.max - (double)r.at_target);
	for (int64_t j = threadIdx.x; x.acc && j < x.c; j += THREADS)
		dh[j] = act_down(all * x.acc[i * x.c + j] - target * act_up(dh[j]));
}

void kn_xent_segment_cuda(struct device *d, const struct kn_xent *x, void *z, int64_t ldz, const void *w, int64_t first, int64_t count)
{
	cudaStream_t st = cuda_of(d)->stream;

	if (x->n == 0)
		return;
	if (eights(z, ldz))
		segment_kernel<true><<<(unsigned)x->n, THREADS, 0, st>>>(*x, (act_t *)z, ldz, (const act_t *)w, first, count);
	else
		segment_kernel<false><<<(unsigned)x->n, THREADS, 0, st>>>(*x, (act_t *)z, ldz, (const act_t *)w, first, count);
	cuda_launched(d, "xent");
}

void kn_xent_end_cuda(struct device *d, const struct kn_xent *x, double *loss, const float *scale)
{
	if (x->n == 0)
		return;
	end_kernel<<<(unsigned)x->n, THREADS, 0, cuda_of(d)->stream>>>(*x, loss, scale);
	cuda_launched(d, "xent");
}

template <bool EIGHTS>
static __global__ void __launch_bounds__(THREADS) whole_kernel(act_t *z, int64_t ldz, int64_t v, const int32_t *target, double *loss, const float *scale_at)
{
	__shared__ float shared[33];
	int64_t i = blockIdx.x, t = target[i], wide = EIGHTS ? v / 8 : 0;
	act_t *p = z + i * ldz;
	float at_target = act_up(p[t]), max = block_max(row_max<EIGHTS>(p, v), shared);
	double others = (double)block_sum(row_exp<EIGHTS>(p, v, t, max, false), shared), sum = others + (double)expf(at_target - max), scale = (double)*scale_at;
	float all = (float)(scale / sum), target_at = (float)(-scale * others / sum);

	/* block_sum has waited for all threads: every one has read the target's logit */
	if (threadIdx.x == 0)
		loss[i] = log(sum) + ((double)max - (double)at_target);
	for (int64_t j = threadIdx.x; j < wide; j += THREADS) {
		f8 x = load8(p + 8 * j);

#pragma unroll
		for (int l = 0; l < 8; l++)
			x.v[l] = t == 8 * j + l ? target_at : all * __expf(x.v[l] - max);
		store8(p + 8 * j, x);
	}
	for (int64_t j = 8 * wide + threadIdx.x; j < v; j += THREADS)
		p[j] = act_down(t == j ? target_at : all * __expf(act_up(p[j]) - max));
}

void kn_xent_whole_cuda(struct device *d, void *z, int64_t ldz, int64_t n, int64_t v, const int32_t *target, double *loss, const float *scale)
{
	cudaStream_t st = cuda_of(d)->stream;

	if (n == 0)
		return;
	if (eights(z, ldz))
		whole_kernel<true><<<(unsigned)n, THREADS, 0, st>>>((act_t *)z, ldz, v, target, loss, scale);
	else
		whole_kernel<false><<<(unsigned)n, THREADS, 0, st>>>((act_t *)z, ldz, v, target, loss, scale);
	cuda_launched(d, "xent");
}
