/* Attention of one new token against a cache of keys and values: bound by the
 * cache's bytes. Sixteen keys at a time go to a warp, for all query heads of the
 * group; the warps that share a row are as many as max_len asks for, whatever the batch,
 * and run on their own, each with its ring of keys and values on their way to shared
 * memory. A block's warps meet in shared memory, a row's blocks in global memory, where
 * the last one to finish merges them in their order.
 *
 * The products go to the tensor cores: a dot product does not care for the order
 * of its columns, nor a sum for that of its keys, so 16 bytes of a key or a value serve as
 * they are as the fragments of two products. */
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
	int stages;      /* of a warp's ring */
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

/* A stage of a warp's ring. Rows are padded so that the eight lanes that read together do so from different banks. */
template <typename T, int DP> struct stage {
	T k[STEP][DP + 8], v[STEP][DP + 16];
};

/* Keys and values from j on start to travel; zeros where there are none. */
template <typename T, int DP>
static __device__ __forceinline__ void fill(struct stage<T, DP> *m, const struct attn_cuda &s, const struct decode &a, const struct piece &p, int j)
{
	enum { PER_ROW = DP / 8 };
	int lane = threadIdx.x % 32;

	if (j < p.end)
#pragma unroll
		for (int i = 0; i < STEP * PER_ROW / 32; i++) {
			int r = (lane + 32 * i) / PER_ROW, c = (lane + 32 * i) % PER_ROW * 8;
			bool ok = j + r >= p.first && j + r < p.end && c < s.head_dim;
			const T *k = (const T *)a.k + p.kv, *v = (const T *)a.v + p.kv;

			copy16(&m->k[r][c], ok ? k + (int64_t)(j + r) * s.ldk + c : k, ok);
			copy16(&m->v[r][c], ok ? v + (int64_t)(j + r) * s.ldv + c : v, ok);
		}
	copy_commit();
}

/* The oldest stage is there. */
static __device__ __forceinline__ void arrived(int stages)
{
	if (stages == 3)
		copy_wait<2>();
	else if (stages == 2)
		copy_wait<1>();
	else
		copy_wait<0>();
	__syncwarp();
}

/* Lane 4 g + t: scores x[n][e] are of head g and key t + 4 (2 n + e); o^T tiles of 16 columns x 8 heads. */
template <typename T, int DP> struct heads8 {
	uint4 q[DP / 32]; /* head g, columns 32 i + 8 t .. + 7 */
	float max, sum;   /* of head g; the sum is this lane's keys' only */
	float o[DP / 16][4];

	__device__ __forceinline__ void begin(const struct attn_cuda &s, const struct decode &a, const struct piece &p, int g0)
	{
		int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
		const T *qr = (const T *)a.q + p.row * s.ldq + (int64_t)(p.kvh * p.group + g0 + g) * s.head_dim;

#pragma unroll
		for (int i = 0; i < DP / 32; i++)
			q[i] = g0 + g < p.group && 32 * i + 8 * t < s.head_dim ? __ldg((const uint4 *)(qr + 32 * i + 8 * t)) : make_uint4(0, 0, 0, 0);
		max = -INFINITY;
		sum = 0;
#pragma unroll
		for (int i = 0; i < DP / 16; i++)
			o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
	}

	__device__ __forceinline__ void scores(float x[2][4], const struct stage<T, DP> *m) const
	{
		int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

#pragma unroll
		for (int i = 0; i < DP / 32; i++)
#pragma unroll
			for (int n = 0; n < 2; n++) {
				const uint32_t a0[4] = { q[i].x, 0, q[i].y, 0 }, a1[4] = { q[i].z, 0, q[i].w, 0 };
				uint4 k = *(const uint4 *)&m->k[g / 2 + 4 * (2 * n + g % 2)][32 * i + 8 * t];

				mma(x[n], a0, k.x, k.y, T());
				mma(x[n], a1, k.z, k.w, T());
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
				int at = j + t + 4 * (2 * n + e);

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

	__device__ __forceinline__ void weigh(const uint32_t w[2], const struct stage<T, DP> *m)
	{
		int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

#pragma unroll
		for (int i = 0; i < DP / 64; i++) {
			uint4 v[4];

#pragma unroll
			for (int l = 0; l < 4; l++)
				v[l] = *(const uint4 *)&m->v[t + 4 * l][64 * i + 8 * g];
#pragma unroll
			for (int e = 0; e < 4; e++) {
				uint32_t x[4], a[4];

#pragma unroll
				for (int l = 0; l < 4; l++)
					x[l] = e == 0 ? v[l].x : e == 1 ? v[l].y : e == 2 ? v[l].z : v[l].w;
				a[0] = __byte_perm(x[0], x[1], 0x5410);
				a[1] = __byte_perm(x[0], x[1], 0x7632);
				a[2] = __byte_perm(x[2], x[3], 0x5410);
				a[3] = __byte_perm(x[2], x[3], 0x7632);
				mma(o[4 * i + e], a, w[0], w[1], T());
			}
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

template <typename T, int DP> __global__ void __launch_bounds__(32 * WARPS) attn_decode_kernel(const struct attn_cuda s, const struct decode a)
{
	extern __shared__ __align__(16) unsigned char room[]; /* the warps' rings, then their results in the same place */
	struct stage<T, DP> *ring = (struct stage<T, DP> *)room + threadIdx.x / 32 * a.stages;
	struct sums<8, DP> *w = (struct sums<8, DP> *)room;
	struct attn_score sc = attn_score_of(s);
	struct piece p;

	if (!take_piece(s, a, &p))
		return;
	for (int g0 = 0; g0 < p.group; g0 += 8) {
		heads8<T, DP> h;
		int at = 0;

		for (int i = 0; i < a.stages; i++)
			fill(&ring[i], s, a, p, p.j0 + i * p.stride);
		h.begin(s, a, p, g0);
		for (int j = p.j0; j < p.end; j += p.stride) {
			float x[2][4] = { 0 };
			uint32_t y[2];

			arrived(a.stages);
			h.scores(x, &ring[at]);
			h.weights(y, x, sc, p, j);
			h.weigh(y, &ring[at]);
			__syncwarp();
			fill(&ring[at], s, a, p, j + a.stages * p.stride);
			at = at + 1 == a.stages ? 0 : at + 1;
		}
		__syncthreads();
		h.leave(w);
		finish_heads<T, 8, DP>(s, a, p, *w, g0);
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

/* Stages that leave room for two blocks, or at least fit; 0: none does. */
static int n_stages(int stage_bytes, int block_room, int room)
{
	int n = room / 2 / (WARPS * stage_bytes + 512);

	n = n < 1 && WARPS * stage_bytes <= block_room ? 1 : n;
	return n > 3 ? 3 : n;
}

template <typename T, int DP> static cudaError_t launch(cudaStream_t st, const struct attn_cuda *s, struct decode *a, bool vec)
{
	dim3 grid((unsigned)a->pieces, (unsigned)s->n_kv, (unsigned)s->n_seqs);
	int dev = 0, block_room = 0, room = 0, smem;
	cudaError_t e;

	cudaGetDevice(&dev);
	cudaDeviceGetAttribute(&block_room, cudaDevAttrMaxSharedMemoryPerBlockOptin, dev);
	cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerMultiprocessor, dev);
	a->stages = n_stages(sizeof(struct stage<T, DP>), block_room, room);
	if (!vec || !a->stages) {
		attn_decode_plain_kernel<T><<<grid, 32 * WARPS, 0, st>>>(*s, *a);
		return cudaGetLastError();
	}
	smem = WARPS * a->stages * (int)sizeof(struct stage<T, DP>);
	smem = smem > (int)sizeof(struct sums<8, DP>) ? smem : (int)sizeof(struct sums<8, DP>);
	e = cudaFuncSetAttribute(attn_decode_kernel<T, DP>, cudaFuncAttributeMaxDynamicSharedMemorySize, smem);
	if (e != cudaSuccess)
		return e;
	attn_decode_kernel<T, DP><<<grid, 32 * WARPS, (size_t)smem, st>>>(*s, *a);
	return cudaGetLastError();
}

template <typename T> static cudaError_t launch_any(cudaStream_t st, const struct attn_cuda *s, struct decode *a, bool vec)
{
	if (s->head_dim <= 64)
		return launch<T, 64>(st, s, a, vec);
	return s->head_dim <= 128 ? launch<T, 128>(st, s, a, vec) : launch<T, 256>(st, s, a, vec);
}

/* Tensor cores for the type, and rows of whole 16-byte pieces. */
static bool fast(const struct attn_cuda *s, const void *q, const void *k, const void *v, int64_t slot_stride)
{
	int dev = 0, major = 0;

	cudaGetDevice(&dev);
	cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, dev);
	return (major >= 8 || s->dtype == ATTN_F16) && s->head_dim % 8 == 0 && ((s->ldq | s->ldk | s->ldv | slot_stride) & 7) == 0 &&
	       (((uintptr_t)q | (uintptr_t)k | (uintptr_t)v) & 15) == 0 && s->path <= ATTN_MMA;
}

int attn_decode_cuda(cudaStream_t st, const struct attn_cuda *s, const void *q, const void *k_cache, const void *v_cache, int64_t slot_stride,
                     const int32_t *slot, const int32_t *len, void *o, void *workspace)
{
	int pieces = n_pieces(s);
	int64_t rows = (int64_t)s->n_seqs * s->n_heads * pieces;
	char *w = (char *)workspace;
	struct decode a = { q, k_cache, v_cache, o, slot_stride, slot, len, (uint32_t *)w, (float2 *)(w + count_bytes(s)),
		(float *)(w + count_bytes(s) + 8 * rows), pieces };
	bool vec = fast(s, q, k_cache, v_cache, slot_stride);

	if (s->n_seqs == 0)
		return 0;
	return s->dtype == ATTN_BF16 ? launch_any<bf16>(st, s, &a, vec) : launch_any<__half>(st, s, &a, vec);
}
