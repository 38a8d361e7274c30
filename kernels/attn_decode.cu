/* Attention of one new token against a cache of keys and values: bound by the
 * cache's bytes. Sixteen keys at a time go to a warp, for all query heads of the
 * group; the warps that share a row are as many as max_len asks for, whatever the batch,
 * and run on their own: the next keys travel while the last are weighed. A block's
 * warps meet in shared memory, a row's blocks in global memory, where the last one
 * to finish merges them in their order.
 *
 * The products go to the tensor cores: a dot product does not care for the order
 * of its columns, so a lane's 16 bytes of a key serve as they are as the fragments of
 * two products of 16 columns, and nothing passes through shared memory. */
#include "kernels/attn_mma.cuh"

#define STEP 16   /* keys of a warp at a time */
#define WARPS 4
#define PIECES 32 /* blocks that share a row, at most: a lane of the merging warp holds one's state */

struct decode {
	const void *q, *k, *v;
	void *o;
	int64_t slot_stride;
	const int32_t *slot, *len;
	uint32_t *count; /* (B, NKV): blocks done; the last sets it back to 0 */
	float2 *state;   /* (B, NH, pieces): maximum in base 2, sum */
	float *part;     /* (B, NH, pieces, D): not yet divided */
	int pieces;      /* blocks that share a row */
};

/* What a block works on: of a row's steps of STEP keys, those that are its warps' turn. */
struct piece {
	int row, kvh, group, first, end; /* keys [first, end) are seen by the row */
	int index, n;                    /* blocks 0..n - 1 of the row have any step */
	int j0, stride;                  /* this warp's first key, and how far to its next */
	int64_t kv;                      /* offset of the row's key 0 */
};

static __device__ __forceinline__ bool take_piece(const struct attn_cuda &s, const struct decode &a, struct piece *p)
{
	int64_t slot;
	int steps;

	p->row = blockIdx.z;
	p->kvh = blockIdx.y;
	p->index = blockIdx.x;
	p->group = s.n_heads / s.n_kv;
	p->end = a.len[p->row];
	slot = a.slot ? a.slot[p->row] : p->row;
	p->first = s.window > 0 && p->end - s.window > 0 ? p->end - s.window : 0;
	steps = (p->end - 1) / STEP - p->first / STEP + 1;
	p->n = min(a.pieces, (steps + WARPS - 1) / WARPS);
	p->stride = p->n * WARPS * STEP;
	p->j0 = p->first / STEP * STEP + (p->index * WARPS + (int)threadIdx.x / 32) * STEP;
	p->kv = slot * a.slot_stride + (int64_t)p->kvh * s.head_dim;
	return p->index < p->n;
}

/* The warps' running results for GH heads. */
template <int GH, int DP> struct sums {
	float max[WARPS][GH], sum[WARPS][GH], acc[WARPS][GH][DP];
};

/* The warps' results become the row's, or the block's. */
template <typename T, int GH, int DP>
static __device__ __forceinline__ void finish_heads(const struct attn_cuda &s, const struct decode &a, const struct piece &p, const struct sums<GH, DP> &w, int g0)
{
	int d = s.head_dim;

	__syncthreads();
	for (int i = threadIdx.x; i < GH * DP; i += 32 * WARPS) {
		int g = i / DP, c = i % DP, h = p.kvh * p.group + g0 + g;
		int64_t at = ((int64_t)p.row * s.n_heads + h) * a.pieces + p.index;
		float m = -INFINITY, l = 0, o = 0;

		if (g0 + g >= p.group || c >= d)
			continue;
#pragma unroll
		for (int x = 0; x < WARPS; x++)
			m = fmaxf(m, w.max[x][g]);
#pragma unroll
		for (int x = 0; x < WARPS; x++) {
			float by = attn_exp2(w.max[x][g] - m);

			l += w.sum[x][g] * by;
			o += w.acc[x][g][c] * by;
		}
		if (p.n == 1) {
			((T *)a.o)[p.row * s.ldo + (int64_t)h * d + c] = attn_num<T>::down(o / l);
			continue;
		}
		if (c == 0)
			a.state[at] = make_float2(m, l);
		a.part[at * d + c] = o;
	}
	__syncthreads();
}

/* Columns c0 + lane of one head from its pieces, by one warp: lane i has the weight of piece i. */
template <typename T> static __device__ __forceinline__ void merge_columns(const struct attn_cuda &s, const struct decode &a, const struct piece &p, int h, int c0)
{
	int lane = threadIdx.x % 32, c = c0 + lane;
	int64_t at = ((int64_t)p.row * s.n_heads + h) * a.pieces;
	float2 st = lane < p.n ? __ldcg(&a.state[at + lane]) : make_float2(-INFINITY, 0);
	float max = st.x, by, sum, o = 0;

#pragma unroll
	for (int x = 16; x > 0; x /= 2)
		max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, x));
	by = attn_exp2(st.x - max);
	sum = st.y * by;
#pragma unroll
	for (int x = 16; x > 0; x /= 2)
		sum += __shfl_xor_sync(0xffffffffu, sum, x);
#pragma unroll 4
	for (int i = 0; i < p.n; i++)
		o += (c < s.head_dim ? __ldcg(&a.part[(at + i) * s.head_dim + c]) : 0) * __shfl_sync(0xffffffffu, by, i);
	if (c < s.head_dim)
		((T *)a.o)[p.row * s.ldo + (int64_t)h * s.head_dim + c] = attn_num<T>::down(o / sum);
}

/* The last block of a row and key head merges its pieces. */
template <typename T> static __device__ void finish_row(const struct attn_cuda &s, const struct decode &a, const struct piece &p)
{
	__shared__ bool last;

	if (p.n == 1)
		return;
	__threadfence();
	__syncthreads();
	if (threadIdx.x == 0)
		last = atomicInc(&a.count[p.row * s.n_kv + p.kvh], (unsigned)p.n - 1) == (unsigned)p.n - 1;
	__syncthreads();
	if (!last)
		return;
	__threadfence();
	for (int u = threadIdx.x / 32, strips = (s.head_dim + 31) / 32; u < p.group * strips; u += WARPS)
		merge_columns<T>(s, a, p, p.kvh * p.group + u / strips, u % strips * 32);
}

/* --- by tensor cores: head sizes that are multiples of 8, everything 16-byte aligned --- */

static __device__ __forceinline__ uint4 load16(const void *p, bool ok)
{
	return ok ? __ldg((const uint4 *)p) : make_uint4(0, 0, 0, 0);
}

/* Lane 4 g + t: scores are (head g) x (keys 2 t, 2 t + 1, and those + 8); o^T tiles of 16 columns x 8 heads. */
template <typename T, int DP> struct heads8 {
	uint4 q[DP / 32];                    /* head g, columns 32 i + 8 t .. + 7 */
	uint4 k[2][DP / 32], v[4][DP / 64]; /* sixteen keys */
	float max, sum;                      /* of head g; the sum is this lane's keys' only */
	float o[DP / 16][4];

	__device__ __forceinline__ void begin(const struct attn_cuda &s, const struct decode &a, const struct piece &p, int g0)
	{
		int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
		const T *qr = (const T *)a.q + p.row * s.ldq + (int64_t)(p.kvh * p.group + g0 + g) * s.head_dim;

#pragma unroll
		for (int i = 0; i < DP / 32; i++)
			q[i] = load16(qr + 32 * i + 8 * t, g0 + g < p.group && 32 * i + 8 * t < s.head_dim);
		max = -INFINITY;
		sum = 0;
#pragma unroll
		for (int i = 0; i < DP / 16; i++)
			o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
	}

	/* Key g and g + 8 from j on, columns 32 i + 8 t .. + 7. */
	__device__ __forceinline__ void load_k(const struct attn_cuda &s, const struct decode &a, const struct piece &p, int j)
	{
		int c = threadIdx.x % 4 * 8;
		const T *at = (const T *)a.k + p.kv + (j += threadIdx.x % 32 / 4) * s.ldk + c;

#pragma unroll
		for (int n = 0; n < 2; n++)
#pragma unroll
			for (int i = 0; i < DP / 32; i++)
				k[n][i] = load16(at + 8 * n * s.ldk + 32 * i, j + 8 * n >= p.first && j + 8 * n < p.end && c + 32 * i < s.head_dim);
	}

	/* v[l]: key 2 t + (l & 1) + 8 (l >> 1) from j on, columns 64 i + 8 g .. + 7 */
	__device__ __forceinline__ void load_v(const struct attn_cuda &s, const struct decode &a, const struct piece &p, int j)
	{
		int c = threadIdx.x % 32 / 4 * 8;
		const T *at = (const T *)a.v + p.kv + (j += threadIdx.x % 4 * 2) * s.ldv + c;

#pragma unroll
		for (int l = 0; l < 4; l++) {
			int u = l % 2 + l / 2 * 8;

#pragma unroll
			for (int i = 0; i < DP / 64; i++)
				v[l][i] = load16(at + u * s.ldv + 64 * i, j + u >= p.first && j + u < p.end && c + 64 * i < s.head_dim);
		}
	}

	__device__ __forceinline__ void scores(float x[2][4]) const
	{
#pragma unroll
		for (int i = 0; i < DP / 32; i++)
#pragma unroll
			for (int n = 0; n < 2; n++) {
				const uint32_t a0[4] = { q[i].x, 0, q[i].y, 0 }, a1[4] = { q[i].z, 0, q[i].w, 0 };

				mma(x[n], a0, k[n][i].x, k[n][i].y, T());
				mma(x[n], a1, k[n][i].z, k[n][i].w, T());
			}
	}

	/* Scores of the keys from j on become weights, in 16 bits; the running sums follow the maximum. */
	__device__ __forceinline__ void weights(uint32_t w[2], float x[2][4], const struct attn_score &sc, const struct piece &p, int j)
	{
		float m = max, base, by, other;
		int t = threadIdx.x % 4;

#pragma unroll
		for (int n = 0; n < 2; n++)
#pragma unroll
			for (int e = 0; e < 2; e++) {
				int at = j + 8 * n + 2 * t + e;

				x[n][e] = (sc.in != 0 ? attn_tanh(x[n][e] * sc.in) : x[n][e]) * sc.mul;
				x[n][e] = at >= p.first && at < p.end ? x[n][e] : -INFINITY;
				m = fmaxf(m, x[n][e]);
			}
		m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
		m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
		base = m == -INFINITY ? 0 : m;
		by = attn_exp2(max - base);
		max = m;
		sum *= by;
#pragma unroll
		for (int n = 0; n < 2; n++) {
			x[n][0] = attn_exp2(x[n][0] - base);
			x[n][1] = attn_exp2(x[n][1] - base);
			sum += x[n][0] + x[n][1];
			w[n] = attn_num<T>::pack(x[n][0], x[n][1]);
		}
		/* the tiles' columns are heads 2 t, 2 t + 1: their factors are with lanes of other g */
		other = __shfl_sync(0xffffffffu, by, 8 * t + 4);
		by = __shfl_sync(0xffffffffu, by, 8 * t);
#pragma unroll
		for (int i = 0; i < DP / 16; i++) {
			o[i][0] *= by;
			o[i][1] *= other;
			o[i][2] *= by;
			o[i][3] *= other;
		}
	}

	__device__ __forceinline__ void weigh(const uint32_t w[2])
	{
#pragma unroll
		for (int i = 0; i < DP / 64; i++)
#pragma unroll
			for (int e = 0; e < 4; e++) {
				uint32_t x[4], a[4];

#pragma unroll
				for (int l = 0; l < 4; l++)
					x[l] = e == 0 ? v[l][i].x : e == 1 ? v[l][i].y : e == 2 ? v[l][i].z : v[l][i].w;
				a[0] = __byte_perm(x[0], x[1], 0x5410);
				a[1] = __byte_perm(x[0], x[1], 0x7632);
				a[2] = __byte_perm(x[2], x[3], 0x5410);
				a[3] = __byte_perm(x[2], x[3], 0x7632);
				mma(o[4 * i + e], a, w[0], w[1], T());
			}
	}

	/* This warp's results, for the others of the block. */
	__device__ __forceinline__ void leave(struct sums<8, DP> *w)
	{
		int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

		sum += __shfl_xor_sync(0xffffffffu, sum, 1);
		sum += __shfl_xor_sync(0xffffffffu, sum, 2);
		if (t == 0) {
			w->max[warp][g] = max;
			w->sum[warp][g] = sum;
		}
#pragma unroll
		for (int i = 0; i < DP / 16; i++)
#pragma unroll
			for (int e = 0; e < 4; e++) /* tile i: columns 64 (i / 4) + 8 g + 2 (i % 4), and the next */
				w->acc[warp][2 * t + e % 2][i / 4 * 64 + 8 * g + i % 4 * 2 + e / 2] = o[i][e];
	}
};

template <typename T, int DP> __global__ void __launch_bounds__(32 * WARPS, DP <= 128 ? 3 : 2) attn_decode_kernel(const struct attn_cuda s, const struct decode a)
{
	__shared__ struct sums<8, DP> w;
	struct attn_score sc = attn_score_of(s);
	struct piece p;

	if (!take_piece(s, a, &p))
		return;
	for (int g0 = 0; g0 < p.group; g0 += 8) {
		heads8<T, DP> h;

		h.begin(s, a, p, g0);
		h.load_k(s, a, p, p.j0);
		h.load_v(s, a, p, p.j0);
		for (int j = p.j0; j < p.end; j += p.stride) {
			float x[2][4] = { 0 };
			uint32_t y[2];

			h.scores(x);
			h.load_k(s, a, p, j + p.stride);
			h.weights(y, x, sc, p, j);
			h.weigh(y);
			h.load_v(s, a, p, j + p.stride);
		}
		h.leave(&w);
		finish_heads<T, 8, DP>(s, a, p, w, g0);
	}
	finish_row<T>(s, a, p);
}

/* --- any head size and alignment: a warp takes a key at a time, its lanes the columns --- */

template <typename T> __global__ void __launch_bounds__(32 * WARPS) attn_decode_plain_kernel(const struct attn_cuda s, const struct decode a)
{
	enum { DP = 256, COLS = DP / 32 };
	__shared__ struct sums<1, DP> w;
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = s.head_dim;
	struct attn_score sc = attn_score_of(s);
	struct piece p;

	if (!take_piece(s, a, &p))
		return;
	for (int g = 0; g < p.group; g++) {
		const T *qr = (const T *)a.q + p.row * s.ldq + (int64_t)(p.kvh * p.group + g) * d;
		float q[COLS], o[COLS] = { 0 }, max = -INFINITY, sum = 0;

#pragma unroll
		for (int l = 0; l < COLS; l++)
			q[l] = lane + 32 * l < d ? attn_num<T>::up(qr[lane + 32 * l]) : 0;
		for (int j = p.j0, e = 0; j + e < p.end; e + 1 < STEP ? e++ : (e = 0, j += p.stride)) {
			const T *k = (const T *)a.k + p.kv + (j + e) * s.ldk, *v = (const T *)a.v + p.kv + (j + e) * s.ldv;
			float x = 0, m, by;

			if (j + e < p.first)
				continue;
#pragma unroll
			for (int l = 0; l < COLS; l++)
				if (lane + 32 * l < d)
					x += q[l] * attn_num<T>::up(k[lane + 32 * l]);
#pragma unroll
			for (int i = 16; i > 0; i /= 2)
				x += __shfl_xor_sync(0xffffffffu, x, i);
			x = (sc.in != 0 ? attn_tanh(x * sc.in) : x) * sc.mul;
			m = fmaxf(max, x);
			by = attn_exp2(max - m);
			x = attn_exp2(x - m);
			max = m;
			sum = sum * by + x;
#pragma unroll
			for (int l = 0; l < COLS; l++)
				o[l] = o[l] * by + (lane + 32 * l < d ? x * attn_num<T>::up(v[lane + 32 * l]) : 0);
		}
		w.max[warp][0] = max;
		w.sum[warp][0] = sum;
#pragma unroll
		for (int l = 0; l < COLS; l++)
			w.acc[warp][0][lane + 32 * l] = o[l];
		finish_heads<T, 1, DP>(s, a, p, w, g);
	}
	finish_row<T>(s, a, p);
}

/* --- host --- */

/* Four blocks do for 2048 keys: more would finish no sooner, and each costs a merge. */
static int n_pieces(const struct attn_cuda *s)
{
	int n = (s->max_len + 511) / 512, fewest = (s->max_len + WARPS * STEP - 1) / (WARPS * STEP);

	n = n < 4 ? 4 : n > PIECES ? PIECES : n;
	return n < fewest ? n : fewest;
}

/* At least 64 KiB, so that the counters lie in one place whatever the batch: one workspace serves batches that shrink and grow. */
static int64_t count_bytes(const struct attn_cuda *s)
{
	int64_t n = (int64_t)s->n_seqs * s->n_kv * 4;

	return n <= 65536 ? 65536 : (n + 255) & ~(int64_t)255;
}

int64_t attn_decode_workspace(const struct attn_cuda *s)
{
	return count_bytes(s) + (int64_t)s->n_seqs * s->n_heads * n_pieces(s) * (8 + 4 * (int64_t)s->head_dim);
}

/* Tensor cores for the type, and rows of whole 16-byte pieces. */
static bool fast(const struct attn_cuda *s, const void *q, const void *k, const void *v, int64_t slot_stride)
{
	int dev = 0, major = 0;

	cudaGetDevice(&dev);
	cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, dev);
	return (major >= 8 || s->dtype == ATTN_F16) && s->head_dim % 8 == 0 && ((s->ldq | s->ldk | s->ldv | slot_stride) & 7) == 0 &&
	       (((uintptr_t)q | (uintptr_t)k | (uintptr_t)v) & 15) == 0;
}

template <typename T> static void launch(cudaStream_t st, const struct attn_cuda *s, const struct decode *a, bool vec)
{
	dim3 grid((unsigned)a->pieces, (unsigned)s->n_kv, (unsigned)s->n_seqs);

	if (!vec)
		attn_decode_plain_kernel<T><<<grid, 32 * WARPS, 0, st>>>(*s, *a);
	else if (s->head_dim <= 64)
		attn_decode_kernel<T, 64><<<grid, 32 * WARPS, 0, st>>>(*s, *a);
	else if (s->head_dim <= 128)
		attn_decode_kernel<T, 128><<<grid, 32 * WARPS, 0, st>>>(*s, *a);
	else
		attn_decode_kernel<T, 256><<<grid, 32 * WARPS, 0, st>>>(*s, *a);
}

int attn_decode_cuda(cudaStream_t st, const struct attn_cuda *s, const void *q, const void *k_cache, const void *v_cache, int64_t slot_stride,
                     const int32_t *slot, const int32_t *len, void *o, void *workspace)
{
	int pieces = n_pieces(s);
	int64_t rows = (int64_t)s->n_seqs * s->n_heads * pieces;
	char *w = (char *)workspace;
	struct decode a = { q, k_cache, v_cache, o, slot_stride, slot, len, (uint32_t *)w, (float2 *)(w + count_bytes(s)),
		(float *)(w + count_bytes(s) + 8 * rows), pieces };

	if (s->n_seqs == 0)
		return 0;
	if (s->dtype == ATTN_BF16)
		launch<bf16>(st, s, &a, fast(s, q, k_cache, v_cache, slot_stride));
	else
		launch<__half>(st, s, &a, fast(s, q, k_cache, v_cache, slot_stride));
	return cudaGetLastError();
}
