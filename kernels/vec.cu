#include "kernels/cuda.cuh"

#include <stdlib.h>
#include <string.h>

#define THREADS 256

/* --- rows: idx of source and of destination rows, NULL: the same number --- */

template <typename V>
static __global__ void __launch_bounds__(THREADS) rows_kernel(V *y, int64_t ldy, const V *x, int64_t ldx, const int32_t *from, const int32_t *to, int64_t c)
{
	int64_t row = blockIdx.x, f = from ? from[row] : row, t = to ? to[row] : row;

	for (int64_t j = threadIdx.x; j < c; j += THREADS)
		y[t * ldy + j] = x[f * ldx + j];
}

static void rows(struct device *d, void *y, int64_t ldy, const void *x, int64_t ldx, const int32_t *from, const int32_t *to, int64_t n, int64_t c)
{
	cudaStream_t st = cuda_of(d)->stream;

	if (n == 0 || c == 0)
		return;
	if (c % 8 == 0 && eights(y, ldy) && eights(x, ldx))
		rows_kernel<<<(unsigned)n, THREADS, 0, st>>>((uint4 *)y, ldy / 8, (const uint4 *)x, ldx / 8, from, to, c / 8);
	else
		rows_kernel<<<(unsigned)n, THREADS, 0, st>>>((act_t *)y, ldy, (const act_t *)x, ldx, from, to, c);
	cuda_launched(d, "rows");
}

void kn_gather_rows_cuda(struct device *d, void *y, const void *x, const int32_t *idx, int64_t n, int64_t c)
{
	rows(d, y, c, x, c, idx, NULL, n, c);
}

void kn_scatter_rows_cuda(struct device *d, void *y, int64_t ldy, const void *x, const int32_t *idx, int64_t n, int64_t c)
{
	rows(d, y, ldy, x, c, NULL, idx, n, c);
}

void kn_copy_rows_cuda(struct device *d, void *y, int64_t ldy, const void *x, int64_t ldx, int64_t t, int64_t c)
{
	rows(d, y, ldy, x, ldx, NULL, NULL, t, c);
}

static __global__ void __launch_bounds__(THREADS) bias_kernel(act_t *x, int64_t ldx, const float *b, int64_t c)
{
	for (int64_t j = threadIdx.x; j < c; j += THREADS) {
		act_t *p = x + (int64_t)blockIdx.x * ldx + j;

		*p = act_down(act_up(*p) + b[j]);
	}
}

void kn_bias_add_cuda(struct device *d, void *x, int64_t ldx, const float *b, int64_t t, int64_t c)
{
	bias_kernel<<<(unsigned)t, THREADS, 0, cuda_of(d)->stream>>>((act_t *)x, ldx, b, c);
	cuda_launched(d, "bias_add");
}

void kn_to_host_cuda(struct device *d, float *host, const void *x, int64_t n)
{
	act_t *half = (act_t *)malloc((size_t)n * sizeof(*half) + 1);

	if (!half) {
		cuda_note(d, cudaErrorMemoryAllocation, "a copy for the host");
		return;
	}
	d->k.download(d, half, x, (uint64_t)n * sizeof(*half));
	for (int64_t i = 0; i < n; i++)
		host[i] = act_up(half[i]);
	free(half);
}

/* --- conversion and embedding --- */

static __device__ __forceinline__ float as_float(const float *p)
{
	return *p;
}
template <typename T> static __device__ __forceinline__ float as_float(const T *p)
{
	return num16<T>::up(*p);
}

template <typename S>
static __global__ void __launch_bounds__(THREADS) convert_kernel(act_t *y, int64_t ldy, const S *x, const int32_t *from, int64_t c)
{
	const S *row = x + (from ? (int64_t)from[blockIdx.x] : (int64_t)blockIdx.x) * c;

	for (int64_t j = threadIdx.x; j < c; j += THREADS)
		y[(int64_t)blockIdx.x * ldy + j] = act_down(as_float(row + j));
}

static void convert(struct device *d, void *y, int64_t ldy, const void *x, enum dtype dt, const int32_t *from, int64_t n, int64_t c)
{
	cudaStream_t st = cuda_of(d)->stream;

	if (n == 0)
		return;
	if (dt == ACT_DTYPE)
		rows(d, y, ldy, x, c, from, NULL, n, c);
	else if (dt == DT_F32)
		convert_kernel<<<(unsigned)n, THREADS, 0, st>>>((act_t *)y, ldy, (const float *)x, from, c);
	else if (dt == DT_F16)
		convert_kernel<<<(unsigned)n, THREADS, 0, st>>>((act_t *)y, ldy, (const __half *)x, from, c);
	else
		convert_kernel<<<(unsigned)n, THREADS, 0, st>>>((act_t *)y, ldy, (const bf16 *)x, from, c);
	cuda_launched(d, "convert");
}

void kn_convert_cuda(struct device *d, void *y, int64_t ldy, const void *x, enum dtype dt, int64_t n, int64_t c)
{
	convert(d, y, ldy, x, dt, NULL, n, c);
}

void kn_embed_fwd_cuda(struct device *d, void *x, const int32_t *ids, const void *table, enum dtype dt, int64_t t, int64_t c)
{
	convert(d, x, c, table, dt, ids, t, c);
}

/* The table is of the activation type: rows are gathered by the host's threads, and sent. */
void kn_embed_host_cuda(struct device *d, void *x, const int32_t *ids, const void *table, enum dtype dt, int64_t t, int64_t c, void *way)
{
	struct cuda_impl *m = cuda_of(d);
	size_t row = (size_t)c * sizeof(act_t);

	(void)dt;
	cudaEventSynchronize(m->sent); /* way is free again */
	for (int64_t i = 0; i < t; i++)
		memcpy((char *)way + (size_t)i * row, (const char *)table + (size_t)ids[i] * row, row);
	if (cudaMemcpyAsync(x, way, (size_t)t * row, cudaMemcpyHostToDevice, m->stream) != cudaSuccess || cudaEventRecord(m->sent, m->stream) != cudaSuccess)
		cuda_launched(d, "embed_host");
}

/* --- sums in fp64: each block its contiguous part, then one block the parts --- */

template <typename S, bool SQUARE>
static __global__ void __launch_bounds__(THREADS) part_kernel(const S *x, int64_t n, double *parts)
{
	__shared__ double shared[33];
	int64_t per = (n + gridDim.x - 1) / gridDim.x, from = per * blockIdx.x, to = from + per < n ? from + per : n;
	double s = 0;

	for (int64_t i = from + threadIdx.x; i < to; i += THREADS)
		s += SQUARE ? (double)x[i] * (double)x[i] : (double)x[i];
	s = block_sum(s, shared);
	if (threadIdx.x == 0)
		parts[blockIdx.x] = s;
}

static __global__ void __launch_bounds__(SUM_BLOCKS) fold_kernel(const double *parts, double *out, bool add)
{
	__shared__ double shared[33];
	double s = block_sum(parts[threadIdx.x], shared);

	if (threadIdx.x == 0)
		*out = add ? *out + s : s;
}

void kn_sum_squares_cuda(struct device *d, const float *x, int64_t n, double *out)
{
	struct cuda_impl *c = cuda_of(d);

	part_kernel<float, true><<<SUM_BLOCKS, THREADS, 0, c->stream>>>(x, n, c->partials);
	fold_kernel<<<1, SUM_BLOCKS, 0, c->stream>>>(c->partials, out, false);
	cuda_launched(d, "sum_squares");
}

void kn_sum_cuda(struct device *d, const double *x, int64_t n, double *out)
{
	struct cuda_impl *c = cuda_of(d);

	part_kernel<double, false><<<SUM_BLOCKS, THREADS, 0, c->stream>>>(x, n, c->partials);
	fold_kernel<<<1, SUM_BLOCKS, 0, c->stream>>>(c->partials, out, true);
	cuda_launched(d, "sum");
}

/* --- squares of what is 16 bits or 32, and sums of columns --- */

template <typename S>
static __global__ void __launch_bounds__(THREADS) squares_kernel(const S *x, int64_t n, double *parts)
{
	__shared__ double shared[33];
	int64_t per = (n + gridDim.x - 1) / gridDim.x, from = per * blockIdx.x, to = from + per < n ? from + per : n;
	double s = 0;

	for (int64_t i = from + threadIdx.x; i < to; i += THREADS) {
		double v = (double)as_float(x + i);

		s += v * v;
	}
	s = block_sum(s, shared);
	if (threadIdx.x == 0)
		parts[blockIdx.x] = s;
}

static __global__ void __launch_bounds__(THREADS) squares_eights(const act_t *x, int64_t n8, double *parts)
{
	__shared__ double shared[33];
	int64_t per = (n8 + gridDim.x - 1) / gridDim.x, from = per * blockIdx.x, to = from + per < n8 ? from + per : n8;
	double s = 0;

	for (int64_t i = from + threadIdx.x; i < to; i += THREADS) {
		f8 v = load8(x + 8 * i);

#pragma unroll
		for (int l = 0; l < 8; l++)
			s += (double)v.v[l] * (double)v.v[l];
	}
	s = block_sum(s, shared);
	if (threadIdx.x == 0)
		parts[blockIdx.x] = s;
}

void kn_add_squares_cuda(struct device *d, const void *x, enum dtype dt, int64_t n, double *out)
{
	struct cuda_impl *c = cuda_of(d);

	if (n == 0)
		return;
	if (dt == DT_F32)
		squares_kernel<<<SUM_BLOCKS, THREADS, 0, c->stream>>>((const float *)x, n, c->partials);
	else if (eights(x, n))
		squares_eights<<<SUM_BLOCKS, THREADS, 0, c->stream>>>((const act_t *)x, n / 8, c->partials);
	else
		squares_kernel<<<SUM_BLOCKS, THREADS, 0, c->stream>>>((const act_t *)x, n, c->partials);
	fold_kernel<<<1, SUM_BLOCKS, 0, c->stream>>>(c->partials, out, true);
	cuda_launched(d, "add_squares");
}

/* A thread a column, a block row of the grid a part of the rows. */
static __global__ void __launch_bounds__(THREADS) col_part_kernel(const act_t *a, int64_t lda, const act_t *b, int64_t ldb, const float *s, int64_t t, int64_t c, float *parts)
{
	int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x, per = (t + COL_PARTS - 1) / COL_PARTS, from = per * blockIdx.y, to = from + per < t ? from + per : t;
	float sum = 0;

	if (j >= c)
		return;
	for (int64_t i = from; i < to; i++)
		sum += b ? act_up(a[i * lda + j]) * (act_up(b[i * ldb + j]) * s[i]) : act_up(a[i * lda + j]);
	parts[(int64_t)blockIdx.y * c + j] = sum;
}

static __global__ void __launch_bounds__(THREADS) col_fold_kernel(float *out, const float *parts, int64_t c)
{
	int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x;
	float sum = 0;

	if (j >= c)
		return;
	for (int k = 0; k < COL_PARTS; k++)
		sum += parts[(int64_t)k * c + j];
	out[j] += sum;
}

void kn_col_sums_cuda(struct device *d, float *out, const void *a, int64_t lda, const void *b, int64_t ldb, const float *s, int64_t t, int64_t c, float *scratch)
{
	cudaStream_t st = cuda_of(d)->stream;
	unsigned blocks = (unsigned)((c + THREADS - 1) / THREADS);

	if (t == 0 || c == 0)
		return;
	col_part_kernel<<<dim3(blocks, COL_PARTS), THREADS, 0, st>>>((const act_t *)a, lda, (const act_t *)b, ldb, s, t, c, scratch);
	col_fold_kernel<<<blocks, THREADS, 0, st>>>(out, scratch, c);
	cuda_launched(d, "col_sums");
}

/* --- the embedding's gradient: a block a run of tokens of one id, and a part of the columns --- */

static __global__ void __launch_bounds__(THREADS) embed_bwd_kernel(float *grad, const int32_t *ids, const int32_t *by_id, const int32_t *run, const act_t *dx, int64_t ld, int64_t c)
{
	int from = run[blockIdx.x], to = run[blockIdx.x + 1];
	int64_t j = (int64_t)blockIdx.y * THREADS + threadIdx.x;
	float sum = 0;

	if (from >= to || j >= c)
		return;
	for (int i = from; i < to; i++)
		sum += act_up(dx[(int64_t)by_id[i] * ld + j]);
	grad[(int64_t)ids[by_id[from]] * c + j] += sum;
}

void kn_embed_bwd_cuda(struct device *d, float *grad, const int32_t *ids, const int32_t *by_id, const int32_t *run, const void *dx, int64_t ld, int64_t t, int64_t c)
{
	if (t == 0)
		return;
	embed_bwd_kernel<<<dim3((unsigned)t, (unsigned)((c + THREADS - 1) / THREADS)), THREADS, 0, cuda_of(d)->stream>>>(grad, ids, by_id, run, (const act_t *)dx, ld, c);
	cuda_launched(d, "embed_bwd");
}
