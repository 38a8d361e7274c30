/* Attention of one new token against a cache of keys and values: bound by the
 * cache's bytes. A block reads a piece of the keys once for all query heads of
 * the group, every byte in flight before the first is used; the block that
 * finishes last of a row merges the pieces, in their order. */
#include "kernels/attn_cuda.cuh"

#define BLOCK 64   /* keys that a block reads at a time, 16 to a warp */
#define WARPS 4
#define PIECES 32  /* of a row at most */

struct decode {
	const void *q, *k, *v;
	void *o;
	int64_t slot_stride;
	const int32_t *slot, *len;
	uint32_t *count; /* (B, NKV): pieces done; the last sets it back to 0 */
	float2 *state;   /* (B, NH, pieces): maximum in base 2, sum */
	float *part;     /* (B, NH, pieces, D): not yet divided */
	int pieces, blocks; /* blocks of BLOCK keys in a piece */
};

/* Eight columns, zeros where there is nothing. */
template <typename T, bool VEC> static __device__ __forceinline__ uint4 load8(const T *p, int n)
{
	if constexpr (VEC) {
		return n > 0 ? __ldg((const uint4 *)p) : make_uint4(0, 0, 0, 0);
	} else {
		__align__(16) T x[8];

#pragma unroll
		for (int i = 0; i < 8; i++)
			x[i] = i < n ? p[i] : attn_num<T>::down(0);
		return *(uint4 *)x;
	}
}

template <typename T> static __device__ __forceinline__ void widen8(float f[8], uint4 x)
{
	const uint32_t w[4] = { x.x, x.y, x.z, x.w };

#pragma unroll
	for (int i = 0; i < 4; i++) {
		float2 u = attn_num<T>::unpack(w[i]);

		f[2 * i] = u.x;
		f[2 * i + 1] = u.y;
	}
}

/* Lanes of a warp: LPK to a key, eight columns each; 32 / LPK keys at a time. GH heads are done together. */
template <typename T, int LPK, int GH, bool VEC> struct pass {
	enum { SUBS = 32 / LPK, STEPS = BLOCK / WARPS / SUBS };

	/* A warp's share of keys [j0, j0 + BLOCK), those of [first, end), joins the running sums of GH heads. */
	static __device__ __forceinline__ void keys(const struct attn_cuda &s, const struct attn_score &sc, const T *k, const T *v, int j0, int first,
	                                            int end, const float q[GH][8], float max[GH], float sum[GH], float acc[GH][8])
	{
		int lane = threadIdx.x % 32, c = lane % LPK * 8;
		uint4 kr[STEPS], vr[STEPS];
		float x[STEPS][GH], f[8];

		j0 += threadIdx.x / 32 * (BLOCK / WARPS) + lane / LPK;
#pragma unroll
		for (int t = 0; t < STEPS; t++) {
			int j = j0 + t * SUBS, n = j >= first && j < end ? s.head_dim - c : 0;

			kr[t] = load8<T, VEC>(k + j * s.ldk + c, n);
		}
#pragma unroll
		for (int t = 0; t < STEPS; t++) {
			int j = j0 + t * SUBS, n = j >= first && j < end ? s.head_dim - c : 0;

			vr[t] = load8<T, VEC>(v + j * s.ldv + c, n);
		}
#pragma unroll
		for (int t = 0; t < STEPS; t++) {
			bool seen = j0 + t * SUBS >= first && j0 + t * SUBS < end;

			widen8<T>(f, kr[t]);
#pragma unroll
			for (int g = 0; g < GH; g++) {
				float d = 0;

#pragma unroll
				for (int e = 0; e < 8; e++)
					d += q[g][e] * f[e];
#pragma unroll
				for (int w = LPK / 2; w > 0; w /= 2)
					d += __shfl_xor_sync(0xffffffffu, d, w);
				d = (sc.in != 0 ? attn_tanh(d * sc.in) : d) * sc.mul;
				x[t][g] = seen ? d : -INFINITY;
			}
		}
#pragma unroll
		for (int g = 0; g < GH; g++) {
			float m = max[g], base, by;

#pragma unroll
			for (int t = 0; t < STEPS; t++)
				m = fmaxf(m, x[t][g]);
#pragma unroll
			for (int w = LPK; w < 32; w *= 2)
				m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, w));
			base = m == -INFINITY ? 0 : m;
			by = attn_exp2(max[g] - base);
			max[g] = m;
			sum[g] *= by;
#pragma unroll
			for (int e = 0; e < 8; e++)
				acc[g][e] *= by;
#pragma unroll
			for (int t = 0; t < STEPS; t++) {
				x[t][g] = attn_exp2(x[t][g] - base);
				sum[g] += x[t][g];
			}
		}
#pragma unroll
		for (int t = 0; t < STEPS; t++) {
			widen8<T>(f, vr[t]);
#pragma unroll
			for (int g = 0; g < GH; g++)
#pragma unroll
				for (int e = 0; e < 8; e++)
					acc[g][e] += x[t][g] * f[e];
		}
	}
};

/* Pieces of one head in order: what `part` holds, relative to the largest maximum. Columns are dealt to the threads. */
template <typename T> static __device__ void merge(const struct attn_cuda &s, const struct decode &a, int row, int h, int first, int n)
{
	int64_t at = ((int64_t)row * s.n_heads + h) * a.pieces + first;
	float max = -INFINITY, sum = 0;

	for (int i = 0; i < n; i++)
		max = fmaxf(max, __ldcg(&a.state[at + i]).x);
	for (int i = 0; i < n; i++) {
		float2 m = __ldcg(&a.state[at + i]);

		sum += m.y * attn_exp2(m.x - max);
	}
	for (int c = threadIdx.x; c < s.head_dim; c += 32 * WARPS) {
		float o = 0;

#pragma unroll 4
		for (int i = 0; i < n; i++)
			o += __ldcg(&a.part[(at + i) * s.head_dim + c]) * attn_exp2(__ldcg(&a.state[at + i]).x - max);
		((T *)a.o)[row * s.ldo + (int64_t)h * s.head_dim + c] = attn_num<T>::down(o / sum);
	}
}

template <typename T, int LPK, int GH, bool VEC>
__global__ void __launch_bounds__(32 * WARPS) attn_decode_kernel(const struct attn_cuda s, const struct decode a)
{
	enum { DP = 8 * LPK };
	__shared__ float wmax[WARPS][GH], wsum[WARPS][GH], wacc[WARPS][GH][DP];
	__shared__ bool last;
	int row = blockIdx.z, kvh = blockIdx.y, piece = blockIdx.x, group = s.n_heads / s.n_kv, d = s.head_dim, end = a.len[row];
	int first = s.window > 0 && end - s.window > 0 ? end - s.window : 0, span = BLOCK * a.blocks, n;
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = lane % LPK * 8, piece0 = first / span;
	int64_t slot = a.slot ? a.slot[row] : row;
	const T *k = (const T *)a.k + slot * a.slot_stride + (int64_t)kvh * d, *v = (const T *)a.v + slot * a.slot_stride + (int64_t)kvh * d;
	struct attn_score sc = attn_score_of(s);

	n = (end - 1) / span - piece0 + 1;
	if (piece < piece0 || piece >= piece0 + n)
		return;
	for (int g0 = 0; g0 < group; g0 += GH) {
		float q[GH][8], max[GH], sum[GH] = { 0 }, acc[GH][8] = { 0 };

#pragma unroll
		for (int g = 0; g < GH; g++) {
			const T *qr = (const T *)a.q + row * s.ldq + (int64_t)(kvh * group + g0 + g) * d + c;

			max[g] = -INFINITY;
			widen8<T>(q[g], load8<T, VEC>(qr, g0 + g < group ? d - c : 0));
		}
		for (int b = 0; b < a.blocks && piece * span + b * BLOCK < end; b++)
			pass<T, LPK, GH, VEC>::keys(s, sc, k, v, piece * span + b * BLOCK, first, end, q, max, sum, acc);
#pragma unroll
		for (int g = 0; g < GH; g++)
#pragma unroll
			for (int w = LPK; w < 32; w *= 2) {
				sum[g] += __shfl_xor_sync(0xffffffffu, sum[g], w);
#pragma unroll
				for (int e = 0; e < 8; e++)
					acc[g][e] += __shfl_xor_sync(0xffffffffu, acc[g][e], w);
			}
		__syncthreads(); /* the heads before are read */
#pragma unroll
		for (int g = 0; g < GH; g++) {
			if (lane == 0) {
				wmax[warp][g] = max[g];
				wsum[warp][g] = sum[g];
			}
			if (lane < LPK)
#pragma unroll
				for (int e = 0; e < 8; e++)
					wacc[warp][g][c + e] = acc[g][e];
		}
		__syncthreads();
		for (int i = threadIdx.x; i < GH * d; i += 32 * WARPS) {
			int g = i / d, col = i % d, h = kvh * group + g0 + g;
			int64_t at = ((int64_t)row * s.n_heads + h) * a.pieces + piece;
			float m = -INFINITY, l = 0, o = 0;

			if (g0 + g >= group)
				break;
			for (int w = 0; w < WARPS; w++)
				m = fmaxf(m, wmax[w][g]);
			for (int w = 0; w < WARPS; w++) {
				float by = attn_exp2(wmax[w][g] - m);

				l += wsum[w][g] * by;
				o += wacc[w][g][col] * by;
			}
			if (n == 1) {
				((T *)a.o)[row * s.ldo + (int64_t)h * d + col] = attn_num<T>::down(o / l);
				continue;
			}
			if (col == 0)
				a.state[at] = make_float2(m, l);
			a.part[at * d + col] = o;
		}
	}
	if (n == 1)
		return;
	__threadfence();
	__syncthreads();
	if (threadIdx.x == 0)
		last = atomicInc(&a.count[row * s.n_kv + kvh], (unsigned)n - 1) == (unsigned)n - 1;
	__syncthreads();
	if (!last)
		return;
	__threadfence();
	for (int h = kvh * group; h < (kvh + 1) * group; h++)
		merge<T>(s, a, row, h, piece0, n);
}

/* --- host --- */

static int piece_blocks(const struct attn_cuda *s)
{
	int most = BLOCK * PIECES;

	return s->max_len <= most ? 1 : (s->max_len + most - 1) / most;
}

static int64_t n_pieces(const struct attn_cuda *s)
{
	int span = BLOCK * piece_blocks(s);

	return (s->max_len + span - 1) / span;
}

static int64_t count_bytes(const struct attn_cuda *s)
{
	return ((int64_t)s->n_seqs * s->n_kv * 4 + 255) & ~(int64_t)255;
}

int64_t attn_decode_workspace(const struct attn_cuda *s)
{
	return count_bytes(s) + (int64_t)s->n_seqs * s->n_heads * n_pieces(s) * (8 + 4 * (int64_t)s->head_dim);
}

template <typename T, int LPK, int GH> static void launch(cudaStream_t st, const struct attn_cuda *s, const struct decode *a, bool vec)
{
	dim3 grid((unsigned)a->pieces, (unsigned)s->n_kv, (unsigned)s->n_seqs);

	if (vec)
		attn_decode_kernel<T, LPK, GH, true><<<grid, 32 * WARPS, 0, st>>>(*s, *a);
	else
		attn_decode_kernel<T, LPK, GH, false><<<grid, 32 * WARPS, 0, st>>>(*s, *a);
}

template <typename T> static void launch_any(cudaStream_t st, const struct attn_cuda *s, const struct decode *a, bool vec)
{
	if (s->head_dim <= 64)
		launch<T, 8, 4>(st, s, a, vec);
	else if (s->head_dim <= 128)
		launch<T, 16, 4>(st, s, a, vec);
	else
		launch<T, 32, 2>(st, s, a, vec);
}

int attn_decode_cuda(cudaStream_t st, const struct attn_cuda *s, const void *q, const void *k_cache, const void *v_cache, int64_t slot_stride,
                     const int32_t *slot, const int32_t *len, void *o, void *workspace)
{
	int64_t pieces = n_pieces(s), rows = (int64_t)s->n_seqs * s->n_heads * pieces;
	char *w = (char *)workspace;
	struct decode a = { q, k_cache, v_cache, o, slot_stride, slot, len, (uint32_t *)w, (float2 *)(w + count_bytes(s)),
		(float *)(w + count_bytes(s) + 8 * rows), (int)pieces, piece_blocks(s) };
	bool vec = s->head_dim % 8 == 0 && ((s->ldq | s->ldk | s->ldv | slot_stride) & 7) == 0 &&
	           (((uintptr_t)q | (uintptr_t)k_cache | (uintptr_t)v_cache) & 15) == 0;

	if (s->n_seqs == 0)
		return 0;
	if (s->dtype == ATTN_BF16)
		launch_any<bf16>(st, s, &a, vec);
	else
		launch_any<__half>(st, s, &a, vec);
	return cudaGetLastError();
}
