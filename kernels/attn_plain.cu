/* Attention without tensor cores: any head size up to 256, any alignment,
 * any device. A warp owns one row of the result; lanes are keys (or queries)
 * while scores are formed, and columns while rows are summed. */
#include "kernels/attn_cuda.cuh"

#define WARPS 4
#define COLS 8 /* columns of a lane: 256 / 32 */

/* The row as fp32 in shared memory. */
template <typename T> static __device__ void load_row(float *dst, const T *src, int d, int lane)
{
	for (int c = lane; c < d; c += 32)
		dst[c] = num16<T>::up(src[c]);
}

template <typename T> static __device__ float dot_row(const float *a, const T *b, int d)
{
	float sum = 0;

	for (int c = 0; c < d; c++)
		sum += a[c] * num16<T>::up(b[c]);
	return sum;
}

/* acc += w * row, lanes over columns; w differs by row, the same in all lanes. */
template <typename T> static __device__ void axpy_row(float *acc, float w, const T *row, int d, int lane)
{
#pragma unroll
	for (int l = 0; l < COLS; l++)
		if (lane + 32 * l < d)
			acc[l] += w * num16<T>::up(row[lane + 32 * l]);
}

template <typename T> static __device__ void store_row(T *dst, const float *acc, float by, int d, int lane)
{
#pragma unroll
	for (int l = 0; l < COLS; l++)
		if (lane + 32 * l < d)
			dst[lane + 32 * l] = num16<T>::down(acc[l] * by);
}

static __device__ float warp_max(float x)
{
	for (int w = 16; w > 0; w /= 2)
		x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, w));
	return x;
}

static __device__ float warp_sum(float x)
{
	for (int w = 16; w > 0; w /= 2)
		x += __shfl_xor_sync(0xffffffffu, x, w);
	return x;
}

static __device__ int first_key(const struct attn_cuda &s, int i)
{
	return s.window > 0 && i - s.window + 1 > 0 ? i - s.window + 1 : 0;
}

/* The rows of a tile are dealt to the warps of a block; a block is (pair, head). */
template <typename T>
__global__ void __launch_bounds__(32 * WARPS) attn_plain_fwd_kernel(const struct attn_cuda s, const T *q, const T *k,
	const T *v, T *o, float *lse)
{
	__shared__ float row[WARPS][256];
	int h = blockIdx.x % s.n_heads, kvh = h / (s.n_heads / s.n_kv), d = s.head_dim, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	struct attn_score sc = attn_score_of(s);
	struct attn_item it;

	if (!attn_take(s, blockIdx.x / s.n_heads, false, &it))
		return;
	for (int i = it.m0 + warp; i < it.len && i < it.m0 + ATTN_TILE; i += WARPS) {
		float acc[COLS] = { 0 }, max = -INFINITY, sum = 0;

		__syncwarp();
		load_row(row[warp], q + (int64_t)(it.t0 + i) * s.ldq + (int64_t)h * d, d, lane);
		__syncwarp();
		for (int j0 = first_key(s, i); j0 <= i; j0 += 32) {
			const T *kr = k + (int64_t)(it.t0 + j0) * s.ldk + (int64_t)kvh * d,
				*vr = v + (int64_t)(it.t0 + j0) * s.ldv + (int64_t)kvh * d;
			float x = -INFINITY, was = max, p, by;

			if (j0 + lane <= i) {
				x = dot_row(row[warp], kr + lane * s.ldk, d);
				x = (sc.in != 0 ? attn_tanh(x * sc.in) : x) * sc.mul;
			}
			max = fmaxf(max, warp_max(x));
			p = attn_exp2(x - max);
			by = attn_exp2(was - max);
			sum = sum * by + warp_sum(p);
			for (int l = 0; l < COLS; l++)
				acc[l] *= by;
			for (int j = 0; j < 32 && j0 + j <= i; j++)
				axpy_row(acc, __shfl_sync(0xffffffffu, p, j), vr + j * s.ldv, d, lane);
		}
		store_row(o + (int64_t)(it.t0 + i) * s.ldo + (int64_t)h * d, acc, 1.0f / sum, d, lane);
		if (lane == 0)
			lse[(int64_t)(it.t0 + i) * s.n_heads + h] = max * ATTN_LN2 + logf(sum);
	}
}

/* p and ds of one pair from its products. */
static __device__ float2 grad_of(const struct attn_score &sc, float x, float dp, float lse2, float dsum)
{
	float t = sc.in != 0 ? attn_tanh(x * sc.in) : x, p = attn_exp2(t * sc.mul - lse2);

	return make_float2(p, p * (dp - dsum) * (sc.in != 0 ? 1 - t * t : 1));
}

template <typename T> __global__ void __launch_bounds__(32 * WARPS) attn_plain_dq_kernel(const struct attn_cuda s, const struct attn_ptrs p)
{
	__shared__ float qrow[WARPS][256], grow[WARPS][256];
	int h = blockIdx.x % s.n_heads, kvh = h / (s.n_heads / s.n_kv), d = s.head_dim, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	int64_t ld = attn_stat_ld(s);
	struct attn_score sc = attn_score_of(s);
	struct attn_item it;

	if (!attn_take(s, blockIdx.x / s.n_heads, false, &it))
		return;
	for (int i = it.m0 + warp; i < it.len && i < it.m0 + ATTN_TILE; i += WARPS) {
		float acc[COLS] = { 0 }, lse2 = p.stat[h * ld + it.stat0 + i], dsum = p.stat[(s.n_heads + h) * ld + it.stat0 + i];

		__syncwarp();
		load_row(qrow[warp], (const T *)p.q + (int64_t)(it.t0 + i) * s.ldq + (int64_t)h * d, d, lane);
		load_row(grow[warp], (const T *)p.d_o + (int64_t)(it.t0 + i) * s.ldo + (int64_t)h * d, d, lane);
		__syncwarp();
		for (int j0 = first_key(s, i); j0 <= i; j0 += 32) {
			const T *kr = (const T *)p.k + (int64_t)(it.t0 + j0) * s.ldk + (int64_t)kvh * d;
			const T *vr = (const T *)p.v + (int64_t)(it.t0 + j0) * s.ldv + (int64_t)kvh * d;
			float ds = 0;

			if (j0 + lane <= i)
				ds = grad_of(sc, dot_row(qrow[warp], kr + lane * s.ldk, d), dot_row(grow[warp],
					vr + lane * s.ldv, d), lse2, dsum).y;
			for (int j = 0; j < 32 && j0 + j <= i; j++)
				axpy_row(acc, __shfl_sync(0xffffffffu, ds, j), kr + j * s.ldk, d, lane);
		}
		store_row((T *)p.dq + (int64_t)(it.t0 + i) * s.ldq + (int64_t)h * d, acc, s.scale, d, lane);
	}
}

template <typename T> __global__ void __launch_bounds__(32 * WARPS) attn_plain_dkv_kernel(const struct attn_cuda s, const struct attn_ptrs p)
{
	__shared__ float krow[WARPS][256], vrow[WARPS][256];
	int kvh = blockIdx.x % s.n_kv, group = s.n_heads / s.n_kv, d = s.head_dim, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	int64_t ld = attn_stat_ld(s);
	struct attn_score sc = attn_score_of(s);
	struct attn_item it;

	if (!attn_take(s, blockIdx.x / s.n_kv, true, &it))
		return;
	for (int j = it.m0 + warp; j < it.len && j < it.m0 + ATTN_TILE; j += WARPS) {
		float dk[COLS] = { 0 }, dv[COLS] = { 0 };
		int end = s.window > 0 && j + s.window < it.len ? j + s.window : it.len;

		__syncwarp();
		load_row(krow[warp], (const T *)p.k + (int64_t)(it.t0 + j) * s.ldk + (int64_t)kvh * d, d, lane);
		load_row(vrow[warp], (const T *)p.v + (int64_t)(it.t0 + j) * s.ldv + (int64_t)kvh * d, d, lane);
		__syncwarp();
		for (int h = kvh * group; h < (kvh + 1) * group; h++)
			for (int i0 = j; i0 < end; i0 += 32) {
				const T *qr = (const T *)p.q + (int64_t)(it.t0 + i0) * s.ldq + (int64_t)h * d;
				const T *gr = (const T *)p.d_o + (int64_t)(it.t0 + i0) * s.ldo + (int64_t)h * d;
				float2 g = make_float2(0, 0);

				if (i0 + lane < end)
					g = grad_of(sc, dot_row(krow[warp], qr + lane * s.ldq, d), dot_row(vrow[warp], gr + lane * s.ldo, d),
					            p.stat[h * ld + it.stat0 + i0 + lane],
						p.stat[(s.n_heads + h) * ld + it.stat0 + i0 + lane]);
				for (int i = 0; i < 32 && i0 + i < end; i++) {
					axpy_row(dv, __shfl_sync(0xffffffffu, g.x, i), gr + i * s.ldo, d, lane);
					axpy_row(dk, __shfl_sync(0xffffffffu, g.y, i), qr + i * s.ldq, d, lane);
				}
			}
		store_row((T *)p.dk + (int64_t)(it.t0 + j) * s.ldk + (int64_t)kvh * d, dk, s.scale, d, lane);
		store_row((T *)p.dv + (int64_t)(it.t0 + j) * s.ldv + (int64_t)kvh * d, dv, 1, d, lane);
	}
}

template <typename T> static cudaError_t fwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p, void *o, float *lse)
{
	attn_plain_fwd_kernel<T><<<(unsigned)(s->n_tiles * s->n_heads), 32 * WARPS, 0, st>>>(*s, (const T *)p->q,
		(const T *)p->k, (const T *)p->v, (T *)o, lse);
	return cudaGetLastError();
}

template <typename T> static cudaError_t bwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p)
{
	attn_plain_dq_kernel<T><<<(unsigned)(s->n_tiles * s->n_heads), 32 * WARPS, 0, st>>>(*s, *p);
	attn_plain_dkv_kernel<T><<<(unsigned)(s->n_tiles * s->n_kv), 32 * WARPS, 0, st>>>(*s, *p);
	return cudaGetLastError();
}

cudaError_t attn_plain_fwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p, void *o, float *lse)
{
	return ATTN_BY_TYPE(s, fwd, st, s, p, o, lse);
}

cudaError_t attn_plain_bwd(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p)
{
	return ATTN_BY_TYPE(s, bwd, st, s, p);
}
