/* Rows and weights to e4m3, and adapters into their tails; the product is gemm.cu's. */
#include "kernels/cuda.cuh"

#include <cuda_fp8.h>

extern "C" {
#include "kernels/fp8.h"
}

#define THREADS 256

static __device__ __forceinline__ uint8_t code_of(float v)
{
	return (uint8_t)__nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
}

static __device__ __forceinline__ float value_of(uint8_t c)
{
	return __half2float(__half(__nv_cvt_fp8_to_halfraw(c, __NV_E4M3)));
}

/* 8 codes, the first one low. */
static __device__ __forceinline__ uint2 codes8(const f8 &x, float by)
{
	uint32_t w[4];

#pragma unroll
	for (int i = 0; i < 4; i++)
		w[i] = __nv_cvt_float2_to_fp8x2(make_float2(x.v[2 * i] * by, x.v[2 * i + 1] * by), __NV_SATFINITE, __NV_E4M3);
	return make_uint2(w[0] | w[1] << 16, w[2] | w[3] << 16);
}

static __device__ __forceinline__ float most8(const f8 &x, float most)
{
#pragma unroll
	for (int i = 0; i < 8; i++)
		most = fmaxf(most, fabsf(x.v[i]));
	return most;
}

static __device__ __forceinline__ void put_pair(uint8_t *tail, int r, int i, float v, bool weight)
{
	uint8_t hi = code_of(v), lo = code_of(v - value_of(hi));

	tail[i] = hi;
	tail[r + i] = weight ? lo : hi;
	tail[2 * r + i] = weight ? hi : lo;
}

/* What a row's numbers are multiplied by; leaves its scale. */
static __device__ __forceinline__ float leave_scale(float *scale, float most, float top)
{
	if (threadIdx.x == 0)
		*scale = most > 0 ? most / top : 1;
	return most > 0 ? top / most : 1;
}

static __device__ __forceinline__ void tail_of(uint8_t *to, const act_t *s, int r, int tail, float by)
{
	for (int i = threadIdx.x; i < r; i += THREADS)
		put_pair(to, r, i, act_up(s[i]) * by, false);
	for (int i = 3 * r + threadIdx.x; i < tail; i += THREADS)
		to[i] = 0;
}

/* --- rows: a block a row --- */

/* EIGHTS: pieces of eight that a thread holds, as they lie in memory. */
template <int EIGHTS>
static __global__ void __launch_bounds__(THREADS) rows_eights(const struct fp8_mat q, const act_t *x, int64_t ldx, int cols, int r, int tail, float top)
{
	__shared__ float shared[33];
	int64_t row = blockIdx.x;
	uint8_t *to = q.q + row * q.ld;
	uint4 held[EIGHTS];
	float most = 0, by;

	x += row * ldx;
#pragma unroll
	for (int i = 0; i < EIGHTS; i++) {
		int j = (i * THREADS + (int)threadIdx.x) * 8;

		held[i] = j < cols ? *(const uint4 *)(x + j) : make_uint4(0, 0, 0, 0);
	}
#pragma unroll
	for (int i = 0; i < EIGHTS; i++)
		most = most8(unpack8(held[i]), most);
	most = block_max(most, shared);
	by = leave_scale(q.scale + row, most, top);
#pragma unroll
	for (int i = 0; i < EIGHTS; i++) {
		int j = (i * THREADS + (int)threadIdx.x) * 8;

		if (j < cols)
			*(uint2 *)(to + j) = codes8(unpack8(held[i]), by);
	}
	tail_of(to + cols, x + cols, r, tail, by);
}

static __global__ void __launch_bounds__(THREADS) rows_any(const struct fp8_mat q, const act_t *x, int64_t ldx, int cols, int r, int tail, float top)
{
	__shared__ float shared[33];
	int64_t row = blockIdx.x;
	uint8_t *to = q.q + row * q.ld;
	float most = 0, by;

	x += row * ldx;
	for (int j = threadIdx.x; j < cols; j += THREADS)
		most = fmaxf(most, fabsf(act_up(x[j])));
	most = block_max(most, shared);
	by = leave_scale(q.scale + row, most, top);
	for (int j = threadIdx.x; j < cols; j += THREADS)
		to[j] = code_of(act_up(x[j]) * by);
	tail_of(to + cols, x + cols, r, tail, by);
}

void kn_fp8_rows_cuda(struct device *d, const struct fp8_mat *q, const void *x, int64_t ldx, int64_t t, int64_t cols, int64_t r, int64_t tail, float top)
{
	cudaStream_t st = cuda_of(d)->stream;
	int pieces = (int)((cols + 8 * THREADS - 1) / (8 * THREADS));
	bool fast = cols % 8 == 0 && eights(x, ldx) && ((uintptr_t)q->q & 7) == 0 && q->ld % 8 == 0;

#define ROWS(N) rows_eights<N><<<(unsigned)t, THREADS, 0, st>>>(*q, (const act_t *)x, ldx, (int)cols, (int)r, (int)tail, top)
	if (t == 0)
		return;
	if (!fast || pieces > 16)
		rows_any<<<(unsigned)t, THREADS, 0, st>>>(*q, (const act_t *)x, ldx, (int)cols, (int)r, (int)tail, top);
	else if (pieces <= 2)
		ROWS(2);
	else if (pieces <= 4)
		ROWS(4);
	else if (pieces <= 7)
		ROWS(7);
	else
		ROWS(16);
#undef ROWS
	cuda_launched(d, "fp8_rows");
}

/* --- columns: weights, once --- */

#define SIDE 32

static __global__ void __launch_bounds__(THREADS) columns_most(const struct fp8_mat q, const act_t *x, int64_t ldx, int64_t rows, int64_t cols)
{
	__shared__ float most[THREADS / SIDE][SIDE];
	int64_t c = (int64_t)blockIdx.x * SIDE + threadIdx.x % SIDE;
	int part = threadIdx.x / SIDE;
	float m = 0;

	for (int64_t i = part; c < cols && i < rows; i += THREADS / SIDE)
		m = fmaxf(m, fabsf(act_up(x[i * ldx + c])));
	most[part][threadIdx.x % SIDE] = m;
	__syncthreads();
	if (part || c >= cols)
		return;
	for (int p = 1; p < THREADS / SIDE; p++)
		m = fmaxf(m, most[p][threadIdx.x]);
	q.scale[c] = m;
}

/* A tile of 32 x 32 turns in shared memory, by the largest magnitudes that stand where the scales will; rows past the last are the tail. */
static __global__ void __launch_bounds__(THREADS) columns_turn(const struct fp8_mat q, const act_t *x, int64_t ldx, int64_t rows, int64_t cols, int64_t tail, float top)
{
	__shared__ uint8_t tile[SIDE][SIDE + 4];
	int64_t r0 = (int64_t)blockIdx.x * SIDE, c0 = (int64_t)blockIdx.y * SIDE;
	int lane = threadIdx.x % SIDE, part = threadIdx.x / SIDE;

	for (int i = part; i < SIDE; i += THREADS / SIDE) {
		int64_t r = r0 + i, c = c0 + lane;
		bool in = r < rows && c < cols;
		float most = in ? q.scale[c] : 0, by = most > 0 ? top / most : 1;

		tile[i][lane] = in ? code_of(act_up(x[r * ldx + c]) * by) : 0;
	}
	__syncthreads();
	for (int i = part; i < SIDE; i += THREADS / SIDE) {
		int64_t c = c0 + i, r = r0 + lane;

		if (c < cols && r < rows + tail)
			q.q[c * q.ld + r] = tile[lane][i];
	}
}

static __global__ void __launch_bounds__(THREADS) columns_scale(float *scale, int64_t cols, float top)
{
	int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x;

	if (c < cols)
		scale[c] = scale[c] > 0 ? scale[c] / top : 1;
}

void kn_fp8_cols_cuda(struct device *d, const struct fp8_mat *q, const void *x, int64_t ldx, int64_t rows, int64_t cols, int64_t tail, float top)
{
	cudaStream_t st = cuda_of(d)->stream;
	unsigned across = (unsigned)((cols + SIDE - 1) / SIDE);

	columns_most<<<across, THREADS, 0, st>>>(*q, (const act_t *)x, ldx, rows, cols);
	columns_turn<<<dim3((unsigned)((rows + tail + SIDE - 1) / SIDE), across), THREADS, 0, st>>>(*q, (const act_t *)x, ldx, rows, cols, tail, top);
	columns_scale<<<(unsigned)((cols + THREADS - 1) / THREADS), THREADS, 0, st>>>(q->scale, cols, top);
	cuda_launched(d, "fp8_cols");
}

/* --- adapters --- */

/* A thread an element of (rows, all): rows of W, then those of W^T. */
static __global__ void __launch_bounds__(THREADS) place_kernel(const struct fp8_mat w, const struct fp8_mat wt, const struct kn_adapters a)
{
	int all = a.n * (int)a.rank, r = (int)a.rank;
	int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, edge = a.out * all;

	if (i < edge) {
		int64_t row = i / all;
		int k = (int)(i % all), j = k / r;
		bool mine = row >= a.row[j] && row < a.row[j] + a.rows[j];

		put_pair(w.q + row * w.ld + a.in, all, k, mine ? a.scale * a.b[j][(row - a.row[j]) * r + k % r] / w.scale[row] : 0, true);
	} else if (i - edge < a.in * all) {
		int64_t c = (i - edge) % a.in;
		int k = (int)((i - edge) / a.in);

		put_pair(wt.q + c * wt.ld + a.out, all, k, a.a[k * a.in + c] / wt.scale[c], true);
	}
}

void kn_fp8_place_cuda(struct device *d, const struct fp8_mat *w, const struct fp8_mat *wt, const struct kn_adapters *a)
{
	int64_t n = (a->in + a->out) * a->n * a->rank;

	if (n == 0)
		return;
	place_kernel<<<(unsigned)((n + THREADS - 1) / THREADS), THREADS, 0, cuda_of(d)->stream>>>(*w, *wt, *a);
	cuda_launched(d, "fp8_place");
}
