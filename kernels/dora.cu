/* Columns' factors and the sums over tokens that their magnitudes want. A thread block has 32 lanes of V columns and KN_DORA_ROWS tokens,
 * of which each of its eight warps takes every eighth; warps are added up in order, then runs of tokens are. */
#include "kernels/adapter.cuh"
#include "kernels/dora.h"

#define THREADS 256
#define WARPS 8

template <int V> struct vals {
	float v[V];
};
static __device__ __forceinline__ vals<8> load(const act_t *p, vals<8>)
{
	f8 x = load8(p);
	vals<8> r;

#pragma unroll
	for (int i = 0; i < 8; i++)
		r.v[i] = x.v[i];
	return r;
}
static __device__ __forceinline__ vals<1> load(const act_t *p, vals<1>)
{
	vals<1> r = { { act_up(*p) } };

	return r;
}
static __device__ __forceinline__ void store(act_t *p, const vals<8> &x)
{
	f8 y;

#pragma unroll
	for (int i = 0; i < 8; i++)
		y.v[i] = x.v[i];
	store8(p, y);
}
static __device__ __forceinline__ void store(act_t *p, const vals<1> &x)
{
	*p = act_down(x.v[0]);
}
template <int V> static __device__ __forceinline__ vals<V> get(const act_t *p)
{
	return load(p, vals<V>());
}
/* V floats from column c on; NULL: zeros. */
template <int V> static __device__ __forceinline__ vals<V> floats(const float *p, int64_t c)
{
	vals<V> r;

#pragma unroll
	for (int i = 0; i < V; i++)
		r.v[i] = p ? p[c + i] : 0;
	return r;
}

/* --- lengths --- */

static __global__ void __launch_bounds__(THREADS) row_squares_kernel(double *squares, const act_t *w, int64_t ldw, int64_t in)
{
	__shared__ double shared[33];
	const act_t *row = w + (int64_t)blockIdx.x * ldw;
	double s = 0;

	for (int64_t k = threadIdx.x; k < in; k += THREADS)
		s += (double)act_up(row[k]) * (double)act_up(row[k]);
	s = block_sum(s, shared);
	if (threadIdx.x == 0)
		squares[blockIdx.x] = s;
}

void kn_row_squares_cuda(struct device *d, double *squares, const void *w, int64_t ldw, int64_t out, int64_t in)
{
	row_squares_kernel<<<(unsigned)out, THREADS, 0, cuda_of(d)->stream>>>(squares, (const act_t *)w, ldw, in);
	cuda_launched(d, "row_squares");
}

/* A warp a row. */
static __global__ void __launch_bounds__(THREADS) factors_kernel(const __grid_constant__ struct kn_dora_factors a)
{
	int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, nr = a.n * a.rank;
	int lane = threadIdx.x % 32;
	float f = 1, per = 0;

	if (i >= a.out)
		return;
	for (int j = 0; j < a.n; j++) {
		int64_t at = j * a.rank;
		const act_t *b = (const act_t *)a.b + i * a.ldb + at;
		double s = 0, n;

		if (!a.m[j] || i < a.row[j] || i >= a.row[j] + a.rows[j])
			continue;
		for (int64_t k = lane; k < a.rank; k += 32) {
			double inner = 0;

			for (int64_t l = 0; l < a.rank; l++)
				inner += (double)a.aa[(at + k) * nr + at + l] * (double)act_up(b[l]);
			s += (double)act_up(b[k]) * (2 * (double)a.wa[i * nr + at + k] + inner);
		}
		s = warp_sum(s) + a.squares[i];
		n = s > 0 ? 1 / sqrt(s) : 0;
		f = (float)((double)a.m[j][i - a.row[j]] * n);
		per = (float)n;
	}
	if (lane == 0) {
		a.factor[i] = f;
		a.per[i] = per;
	}
}

void kn_dora_factors_cuda(struct device *d, const struct kn_dora_factors *a)
{
	factors_kernel<<<(unsigned)((a->out + WARPS - 1) / WARPS), THREADS, 0, cuda_of(d)->stream>>>(*a);
	cuda_launched(d, "dora_factors");
}

/* --- outputs: a thread V columns of eight rows in turn --- */

/* A block of threads takes so many rows, and the columns of its second dimension. */
#define OUT_ROWS 8

template <int V> static __global__ void __launch_bounds__(THREADS) out_kernel(const __grid_constant__ struct kn_dora_out a)
{
	int64_t c = ((int64_t)blockIdx.y * THREADS + threadIdx.x) * V, from = (int64_t)blockIdx.x * OUT_ROWS, to = from + OUT_ROWS < a.t ? from + OUT_ROWS : a.t;
	vals<V> f, b;

	if (c >= a.out)
		return;
	f = floats<V>(a.factor, c);
	b = floats<V>(a.bias, c);
	for (int64_t i = from; i < to; i++) {
		vals<V> y = get<V>((const act_t *)a.u + i * a.ldu + c), add, less;

		if (a.add)
			add = get<V>((const act_t *)a.add + i * a.ld_add + c);
		if (a.less)
			less = get<V>((const act_t *)a.less + i * a.ld_less + c);
#pragma unroll
		for (int k = 0; k < V; k++) {
			y.v[k] = y.v[k] * f.v[k];
			if (a.less)
				y.v[k] -= less.v[k];
			y.v[k] += b.v[k];
			if (a.add)
				y.v[k] += add.v[k];
		}
		store((act_t *)a.y + i * a.ldy + c, y);
	}
}

template <int V> static dim3 out_grid(int64_t t, int64_t out)
{
	return dim3((unsigned)((t + OUT_ROWS - 1) / OUT_ROWS), (unsigned)((out + THREADS * V - 1) / (THREADS * V)));
}

void kn_dora_out_cuda(struct device *d, const struct kn_dora_out *a)
{
	cudaStream_t st = cuda_of(d)->stream;

	if (a->t == 0)
		return;
	if (a->out % 8 == 0 && eights(a->u, a->ldu) && eights(a->y, a->ldy) && eights(a->add, a->add ? a->ld_add : 8) && eights(a->less, a->less ? a->ld_less : 8))
		out_kernel<8><<<out_grid<8>(a->t, a->out), THREADS, 0, st>>>(*a);
	else
		out_kernel<1><<<out_grid<1>(a->t, a->out), THREADS, 0, st>>>(*a);
	cuda_launched(d, "dora_out");
}

template <int V> static __global__ void __launch_bounds__(THREADS) rest_kernel(act_t *x, int64_t ldx, const float *factor, int64_t t, int64_t n)
{
	int64_t c = ((int64_t)blockIdx.y * THREADS + threadIdx.x) * V, from = (int64_t)blockIdx.x * OUT_ROWS, to = from + OUT_ROWS < t ? from + OUT_ROWS : t;
	vals<V> f;

	if (c >= n)
		return;
	f = floats<V>(factor, c);
#pragma unroll
	for (int k = 0; k < V; k++)
		f.v[k] = f.v[k] == 0 ? 0 : (f.v[k] - 1) / f.v[k];
	for (int64_t i = from; i < to; i++) {
		vals<V> y = get<V>(x + i * ldx + c);

#pragma unroll
		for (int k = 0; k < V; k++)
			y.v[k] *= f.v[k];
		store(x + i * ldx + c, y);
	}
}

void kn_dora_rest_cuda(struct device *d, void *x, int64_t ldx, const float *factor, int64_t t, int64_t n)
{
	cudaStream_t st = cuda_of(d)->stream;

	if (t == 0)
		return;
	if (n % 8 == 0 && eights(x, ldx))
		rest_kernel<8><<<out_grid<8>(t, n), THREADS, 0, st>>>((act_t *)x, ldx, factor, t, n);
	else
		rest_kernel<1><<<out_grid<1>(t, n), THREADS, 0, st>>>((act_t *)x, ldx, factor, t, n);
	cuda_launched(d, "dora_rest");
}

/* --- sums over tokens --- */

/* The warps' sums of V columns a lane, added up in order, to the run's part. All threads of the block call it; in: the columns are there. */
template <int V> static __device__ __forceinline__ void leave_part(const vals<V> &sum, float *part, int64_t c, bool in)
{
	__shared__ float shared[WARPS][32 * V];
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

	__syncthreads(); /* a former call's */
#pragma unroll
	for (int k = 0; k < V; k++)
		shared[warp][k * 32 + lane] = sum.v[k];
	__syncthreads();
	for (int k = warp; in && k < V; k += WARPS) {
		float s = shared[0][k * 32 + lane];

#pragma unroll
		for (int w = 1; w < WARPS; w++)
			s += shared[w][k * 32 + lane];
		part[c + k] = s;
	}
}

template <int V> static __global__ void __launch_bounds__(THREADS) back_kernel(const __grid_constant__ struct kn_dora_back a)
{
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	int64_t c = ((int64_t)blockIdx.x * 32 + lane) * V, from = (int64_t)blockIdx.y * KN_DORA_ROWS, to = from + KN_DORA_ROWS < a.t ? from + KN_DORA_ROWS : a.t;
	bool in = c < a.out;
	vals<V> sum, f, b;

#pragma unroll
	for (int k = 0; k < V; k++)
		sum.v[k] = 0;
	if (in) {
		f = floats<V>(a.factor, c);
		b = floats<V>(a.of_output ? a.bias : NULL, c);
#pragma unroll 4
		for (int64_t i = from + warp; i < to; i += WARPS) {
			vals<V> dy = get<V>((const act_t *)a.dy + i * a.ldy + c), u;

			if (a.u)
				u = get<V>((const act_t *)a.u + i * a.ldu + c);
#pragma unroll
			for (int k = 0; k < V; k++) {
				if (a.u)
					sum.v[k] += dy.v[k] * (u.v[k] - b.v[k]);
				dy.v[k] *= f.v[k];
			}
			store((act_t *)a.du + i * a.ld_du + c, dy);
		}
	}
	if (a.u)
		leave_part<V>(sum, (float *)a.scratch + (int64_t)blockIdx.y * a.out, c, in);
	if (blockIdx.x == 0)
		for (int64_t i = from + warp; i < to; i += WARPS)
			for (int64_t k = lane; k < a.pad; k += 32)
				((act_t *)a.du)[i * a.ld_du + a.out + k] = act_down(0);
}

/* A thread four columns: runs in order, then what they add. */
static __global__ void __launch_bounds__(THREADS) fold_kernel(const __grid_constant__ struct kn_dora_back a, int runs)
{
	int64_t c = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 4;
	float is[4] = { 0, 0, 0, 0 };

#pragma unroll
	for (int k = 0; k < 4; k++) {
		int64_t i = c + k;
		double s = 0;

		if (i >= a.out)
			continue;
		for (int r = 0; r < runs; r++)
			s += (double)((const float *)a.scratch)[r * a.out + i];
		for (int j = 0; j < a.n; j++)
			if (a.dm[j] && i >= a.row[j] && i < a.row[j] + a.rows[j]) {
				float f = a.of_output ? a.factor[i] : 1, *dm = a.dm[j] + (i - a.row[j]);

				is[k] = *dm + (f == 0 ? 0 : (float)(s * (double)a.per[i] / (double)f));
				*dm = is[k];
			}
	}
	leave_squares(make_float4(is[0], is[1], is[2], is[3]), a.squares, a.out);
}

static int runs_of(int64_t t)
{
	return (int)((t + KN_DORA_ROWS - 1) / KN_DORA_ROWS);
}

/* n columns in lanes of V. */
template <int V> static dim3 sum_grid(int64_t t, int64_t n)
{
	return dim3((unsigned)((n + 32 * V - 1) / (32 * V)), (unsigned)runs_of(t));
}

static void fold(struct device *d, const struct kn_dora_back *a)
{
	fold_kernel<<<(unsigned)((a->out + THREADS * 4 - 1) / (THREADS * 4)), THREADS, 0, cuda_of(d)->stream>>>(*a, runs_of(a->t));
}

void kn_dora_back_cuda(struct device *d, const struct kn_dora_back *a)
{
	cudaStream_t st = cuda_of(d)->stream;

	if (a->t == 0)
		return;
	if (a->out % 8 == 0 && eights(a->dy, a->ldy) && eights(a->du, a->ld_du) && eights(a->u, a->u ? a->ldu : 8))
		back_kernel<8><<<sum_grid<8>(a->t, a->out), THREADS, 0, st>>>(*a);
	else
		back_kernel<1><<<sum_grid<1>(a->t, a->out), THREADS, 0, st>>>(*a);
	if (a->u)
		fold(d, a);
	cuda_launched(d, "dora_back");
}

/* --- gate and up --- */

static __device__ __forceinline__ float sigmoid(float z)
{
	return __fdividef(1.0f, 1.0f + __expf(-z));
}

/* The same in both passes: what a lean layer forms once more has the same bits. */
template <int V> static __device__ __forceinline__ void outputs(vals<V> &g, vals<V> &v, const vals<V> f[2], const vals<V> b[2])
{
#pragma unroll
	for (int k = 0; k < V; k++) {
		g.v[k] = fmaf(g.v[k], f[0].v[k], b[0].v[k]);
		v.v[k] = fmaf(v.v[k], f[1].v[k], b[1].v[k]);
	}
}

template <int V> static __device__ __forceinline__ vals<V> gated(const vals<V> &g, const vals<V> &v)
{
	vals<V> h;

#pragma unroll
	for (int k = 0; k < V; k++)
		h.v[k] = g.v[k] * sigmoid(g.v[k]) * v.v[k];
	return h;
}

template <int V> static __device__ __forceinline__ void of_both(vals<V> to[2], const float *p, int64_t c, int64_t half)
{
	to[0] = floats<V>(p, c);
	to[1] = floats<V>(p, half + c);
}

template <int V> static __global__ void __launch_bounds__(THREADS) gate_fwd_kernel(const __grid_constant__ struct kn_dora_gate a)
{
	int64_t half = a.back.out / 2, c = ((int64_t)blockIdx.y * THREADS + threadIdx.x) * V;
	int64_t from = (int64_t)blockIdx.x * OUT_ROWS, to = from + OUT_ROWS < a.back.t ? from + OUT_ROWS : a.back.t;
	vals<V> f[2], b[2];

	if (c >= half)
		return;
	of_both<V>(f, a.back.factor, c, half);
	of_both<V>(b, a.back.bias, c, half);
	for (int64_t i = from; i < to; i++) {
		const act_t *u = (const act_t *)a.back.u + i * a.back.ldu + c;
		vals<V> g = get<V>(u), v = get<V>(u + half);

		outputs<V>(g, v, f, b);
		store((act_t *)a.h + i * a.ldh + c, gated<V>(g, v));
	}
}

/* BIAS: there is one; without it its registers are not there either. */
template <int V, bool BIAS> static __global__ void __launch_bounds__(THREADS) gate_bwd_kernel(const __grid_constant__ struct kn_dora_gate a)
{
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	int64_t half = a.back.out / 2, c = ((int64_t)blockIdx.x * 32 + lane) * V;
	int64_t from = (int64_t)blockIdx.y * KN_DORA_ROWS, to = from + KN_DORA_ROWS < a.back.t ? from + KN_DORA_ROWS : a.back.t;
	float *part = (float *)a.back.scratch + (int64_t)blockIdx.y * a.back.out;
	bool in = c < half;
	vals<V> f[2], b[2], sum[2];

#pragma unroll
	for (int k = 0; k < V; k++)
		sum[0].v[k] = sum[1].v[k] = 0;
	if (in) {
		of_both<V>(f, a.back.factor, c, half);
		of_both<V>(b, BIAS ? a.back.bias : NULL, c, half);
#pragma unroll 2
		for (int64_t i = from + warp; i < to; i += WARPS) {
			act_t *up = (act_t *)(uintptr_t)a.back.u + i * a.back.ldu + c;
			vals<V> ug = get<V>(up), uv = get<V>(up + half), dh = get<V>((const act_t *)a.dh + i * half + c), g = ug, v = uv;

			outputs<V>(g, v, f, b);
			if (a.h)
				store((act_t *)a.h + i * a.ldh + c, gated<V>(g, v));
#pragma unroll
			for (int k = 0; k < V; k++) {
				float z = g.v[k], s = sigmoid(z), dv = dh.v[k] * z * s, dg = dh.v[k] * v.v[k] * s * (1.0f + z * (1.0f - s));

				sum[0].v[k] += dg * ug.v[k];
				sum[1].v[k] += dv * uv.v[k];
				g.v[k] = dg * f[0].v[k];
				v.v[k] = dv * f[1].v[k];
			}
			store(up, g);
			store(up + half, v);
		}
	}
	leave_part<V>(sum[0], part, c, in);
	leave_part<V>(sum[1], part + half, c, in);
}

static bool gate_eights(const struct kn_dora_gate *a)
{
	int64_t half = a->back.out / 2;

	return half % 8 == 0 && eights(a->back.u, a->back.ldu) && eights(a->h, a->h ? a->ldh : 8) && eights(a->dh, half);
}

void kn_dora_gate_fwd_cuda(struct device *d, const struct kn_dora_gate *a)
{
	cudaStream_t st = cuda_of(d)->stream;
	int64_t half = a->back.out / 2;

	if (a->back.t == 0)
		return;
	if (gate_eights(a))
		gate_fwd_kernel<8><<<out_grid<8>(a->back.t, half), THREADS, 0, st>>>(*a);
	else
		gate_fwd_kernel<1><<<out_grid<1>(a->back.t, half), THREADS, 0, st>>>(*a);
	cuda_launched(d, "dora_gate_fwd");
}

void kn_dora_gate_bwd_cuda(struct device *d, const struct kn_dora_gate *a)
{
	cudaStream_t st = cuda_of(d)->stream;
	int64_t half = a->back.out / 2;

	if (a->back.t == 0)
		return;
	if (gate_eights(a) && !a->back.bias)
		gate_bwd_kernel<8, false><<<sum_grid<8>(a->back.t, half), THREADS, 0, st>>>(*a);
	else if (gate_eights(a))
		gate_bwd_kernel<8, true><<<sum_grid<8>(a->back.t, half), THREADS, 0, st>>>(*a);
	else
		gate_bwd_kernel<1, true><<<sum_grid<1>(a->back.t, half), THREADS, 0, st>>>(*a);
	fold(d, &a->back);
	cuda_launched(d, "dora_gate_bwd");
}
