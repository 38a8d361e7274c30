/* Attention of one new token against a cache of keys and values: bound by the
 * cache's bytes. Sixteen keys at a time go to a warp, for all query heads of the
 * group; the warps that share a row are as many as max_len and the planned batch ask for, and
 * run on their own, each with its ring of keys and values on their way to shared
 * memory. A block's warps meet in shared memory, a row's blocks in global memory, where
 * the last one to finish merges them in their order.
 *
 * The products go to the tensor cores transposed, so that the 16 rows of a product are
 * keys (k q^T, for eight heads) and columns (v^T p^T), not heads, which are few. */
#include "kernels/attn_mma.cuh"
#include "kernels/chain.cuh"

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
	int stages;      /* of a warp's ring; changes no bits */
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
static __device__ __forceinline__ void finish_heads(const struct attn_cuda &s, const struct decode &a, const struct piece &p,
	const struct sums<GH, DP> &w, int g0)
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
			((T *)a.o)[p.row * s.ldo + (int64_t)h * d + c] = num16<T>::down(o / l);
			continue;
		}
		if (c == 0)
			a.state[at] = make_float2(m, l);
		a.part[at * d + c] = o;
	}
	__syncthreads();
}

/* Columns c0 + lane of one head from its pieces, by one warp: lane i has the weight of piece i. */
template <typename T> static __device__ __forceinline__ void merge_columns(const struct attn_cuda &s, const struct decode &a,
	const struct piece &p, int h, int c0)
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
		((T *)a.o)[p.row * s.ldo + (int64_t)h * s.head_dim + c] = num16<T>::down(o / sum);
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

/* A stage of a warp's ring, padded as attn_mma.cuh says. */
template <typename T, int DP> struct stage {
	T k[STEP][DP + 8], v[STEP][DP + 8];
};

/* Keys and values from j on start to travel; zeros where there are none. */
template <typename T, int DP>
static __device__ __forceinline__ void fill(struct stage<T, DP> *m, const struct attn_cuda &s, const struct decode &a,
	const struct piece &p, int j)
{
	enum { PER_ROW = DP / 8, ROWS = 32 / PER_ROW }; /* pieces of 16 bytes; rows at a time */
	int r = threadIdx.x % 32 / PER_ROW, c = threadIdx.x % PER_ROW * 8;

	if (j < p.end) {
		const T *k = (const T *)a.k + p.kv + (int64_t)(j + r) * s.ldk + c, *v = (const T *)a.v + p.kv + (int64_t)(j + r) * s.ldv + c;

#pragma unroll
		for (int i = 0; i < STEP; i += ROWS) {
			bool ok = j + r + i >= p.first && j + r + i < p.end && c < s.head_dim;

			copy16(&m->k[r + i][c], k, ok);
			copy16(&m->v[r + i][c], v, ok);
			k += ROWS * s.ldk;
			v += ROWS * s.ldv;
		}
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

/* The transpose of an 8 x 8 matrix of 16-bit numbers held by the warp: lane 4 g + t had (g, 2 t), (g, 2 t + 1). */
static __device__ __forceinline__ uint32_t transposed(uint32_t x)
{
	uint32_t y;

	asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
	return y;
}

/* Lane 4 g + t: x[e] is the score of key g + 8 (e / 2) and head 2 t + e % 2; o[i][e] column 16 i + g + 8 (e / 2) of head 2 t + e % 2. */
template <typename T, int DP> struct heads8 {
	uint32_t q[DP / 16][2];
	float max[2], sum[2]; /* the sums are of this lane's keys only */
	float o[DP / 16][4];

	__device__ __forceinline__ void begin(const struct attn_cuda &s, const struct decode &a, const struct piece &p, int g0)
	{
		int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
		const T *qr = (const T *)a.q + p.row * s.ldq + (int64_t)(p.kvh * p.group + g0 + g) * s.head_dim;

#pragma unroll
		for (int i = 0; i < DP / 8; i++) {
			int c = 8 * i + 2 * t;

			q[i / 2][i % 2] = g0 + g < p.group && c < s.head_dim ? __ldg((const uint32_t *)(qr + c)) : 0;
		}
		max[0] = max[1] = -INFINITY;
		sum[0] = sum[1] = 0;
#pragma unroll
		for (int i = 0; i < DP / 16; i++)
			o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
	}

	__device__ __forceinline__ void scores(float x[4], const struct stage<T, DP> *m) const
	{
		const T *k = &m->k[threadIdx.x % 16][threadIdx.x % 32 / 16 * 8];
		float y[4] = { 0 }; /* two chains are half as long */

#pragma unroll
		for (int i = 0; i < DP / 16; i++) {
			uint32_t f[4];

			ldsm4(f, k + 16 * i);
			mma(i % 2 ? y : x, f, q[i][0], q[i][1], T());
		}
#pragma unroll
		for (int e = 0; e < 4; e++)
			x[e] += y[e];
	}

	/* Scores of the keys from j on become weights, in 16 bits, keys in pairs; the running sums follow the maxima. */
	__device__ __forceinline__ void weights(uint32_t w[2], float x[4], const struct attn_score &sc, const struct piece &p, int j)
	{
		float by[2];

		j += threadIdx.x % 32 / 4;
#pragma unroll
		for (int e = 0; e < 4; e++) {
			int at = j + e / 2 * 8;

			x[e] = (sc.in != 0 ? attn_tanh(x[e] * sc.in) : x[e]) * sc.mul;
			x[e] = at >= p.first && at < p.end ? x[e] : -INFINITY;
		}
#pragma unroll
		for (int h = 0; h < 2; h++) {
			float m = fmaxf(max[h], fmaxf(x[h], x[h + 2])), base;

#pragma unroll
			for (int l = 4; l < 32; l *= 2)
				m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, l));
			base = m == -INFINITY ? 0 : m;
			by[h] = attn_exp2(max[h] - base);
			max[h] = m;
			x[h] = attn_exp2(x[h] - base);
			x[h + 2] = attn_exp2(x[h + 2] - base);
			sum[h] = sum[h] * by[h] + x[h] + x[h + 2];
		}
		w[0] = transposed(num16<T>::pack(x[0], x[1]));
		w[1] = transposed(num16<T>::pack(x[2], x[3]));
#pragma unroll
		for (int i = 0; i < DP / 16; i++)
#pragma unroll
			for (int e = 0; e < 4; e++)
				o[i][e] *= by[e % 2];
	}

	__device__ __forceinline__ void weigh(const uint32_t w[2], const struct stage<T, DP> *m)
	{
		const T *v = &m->v[threadIdx.x % 8 + threadIdx.x % 32 / 16 * 8][threadIdx.x % 16 / 8 * 8];

#pragma unroll
		for (int i = 0; i < DP / 16; i++) {
			uint32_t f[4];

			ldsm4t(f, v + 16 * i);
			mma(o[i], f, w[0], w[1], T());
		}
	}

	/* This warp's results, for the others of the block. */
	__device__ __forceinline__ void leave(struct sums<8, DP> *w)
	{
		int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

#pragma unroll
		for (int h = 0; h < 2; h++) {
#pragma unroll
			for (int l = 4; l < 32; l *= 2)
				sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], l);
			if (g == 0) {
				w->max[warp][2 * t + h] = max[h];
				w->sum[warp][2 * t + h] = sum[h];
			}
		}
#pragma unroll
		for (int i = 0; i < DP / 16; i++)
#pragma unroll
			for (int e = 0; e < 4; e++)
				w->acc[warp][2 * t + e % 2][16 * i + g + e / 2 * 8] = o[i][e];
	}
};

template <typename T, int DP> __global__ void __launch_bounds__(32 * WARPS) attn_decode_kernel(const struct attn_cuda s,
	const struct decode a)
{
	extern __shared__ __align__(16) unsigned char room[]; /* the warps' rings, then their results in the same place */
	struct stage<T, DP> *ring = (struct stage<T, DP> *)room + threadIdx.x / 32 * a.stages;
	struct sums<8, DP> *w = (struct sums<8, DP> *)room;
	struct attn_score sc = attn_score_of(s);
	struct piece p;

	let_next();
	follow_previous();
	if (!take_piece(s, a, &p))
		return;
	for (int g0 = 0; g0 < p.group; g0 += 8) {
		heads8<T, DP> h;
		int at = 0;

		for (int i = 0; i < a.stages; i++)
			fill(&ring[i], s, a, p, p.j0 + i * p.stride);
		h.begin(s, a, p, g0);
		for (int j = p.j0; j < p.end; j += p.stride) {
			float x[4] = { 0 };
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

	let_next();
	follow_previous();
	if (!take_piece(s, a, &p))
		return;
	for (int g = 0; g < p.group; g++) {
		const T *qr = (const T *)a.q + p.row * s.ldq + (int64_t)(p.kvh * p.group + g) * d;
		float q[COLS], o[COLS] = { 0 }, max = -INFINITY, sum = 0;

#pragma unroll
		for (int l = 0; l < COLS; l++)
			q[l] = lane + 32 * l < d ? num16<T>::up(qr[lane + 32 * l]) : 0;
		for (int j = p.j0, e = 0; j + e < p.end; e + 1 < STEP ? e++ : (e = 0, j += p.stride)) {
			const T *k = (const T *)a.k + p.kv + (j + e) * s.ldk, *v = (const T *)a.v + p.kv + (j + e) * s.ldv;
			float x = 0, m, by;

			if (j + e < p.first)
				continue;
#pragma unroll
			for (int l = 0; l < COLS; l++)
				if (lane + 32 * l < d)
					x += q[l] * num16<T>::up(k[lane + 32 * l]);
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
				o[l] = o[l] * by + (lane + 32 * l < d ? x * num16<T>::up(v[lane + 32 * l]) : 0);
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

/* Blocks that share a row: four for 2048 keys, since more finish no sooner and each costs a merge; fewer when the rows of the planned
 * batch alone make the 512 blocks or so that fill a large device. */
static int n_pieces(const struct attn_cuda *s)
{
	int most = (s->max_len + WARPS * STEP - 1) / (WARPS * STEP), n = (s->max_len + 511) / 512, planned = s->n_tiles * s->n_kv;

	n = n < 4 ? 4 : n > PIECES ? PIECES : n;
	if (planned > 0 && n > 512 / planned)
		n = 512 / planned > 0 ? 512 / planned : 1;
	return n < most ? n : most;
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

/* Stages of a ring: many when blocks are few, else few, so that many blocks are at work; 0: none fits. */
static int n_stages(int stage_bytes, int64_t blocks, int room)
{
	int dev = 0, sms = 0, n;

	cudaGetDevice(&dev);
	cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, dev);
	n = blocks <= 2 * sms ? 3 : blocks <= 6 * sms ? 2 : 1;
	while (n > 1 && 2 * n * WARPS * stage_bytes > room)
		n--;
	return WARPS * stage_bytes <= room ? n : 0;
}

static bool chains(void)
{
	int dev = 0, major = 0;

	cudaGetDevice(&dev);
	cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, dev);
	return major >= 9;
}

template <typename T, int DP> static cudaError_t launch(cudaStream_t st, const struct attn_cuda *s, struct decode *a, bool vec)
{
	dim3 grid((unsigned)a->pieces, (unsigned)s->n_kv, (unsigned)s->n_seqs);
	cudaError_t e;
	int smem;

	a->stages = n_stages(sizeof(struct stage<T, DP>), (int64_t)grid.x * grid.y * grid.z, attn_room(s));
	if (!vec || !a->stages) {
		return launch_chained(st, chains(), attn_decode_plain_kernel<T>, grid, 32 * WARPS, 0, *s, *a);
	}
	smem = WARPS * a->stages * (int)sizeof(struct stage<T, DP>);
	smem = smem > (int)sizeof(struct sums<8, DP>) ? smem : (int)sizeof(struct sums<8, DP>);
	e = cudaFuncSetAttribute(attn_decode_kernel<T, DP>, cudaFuncAttributeMaxDynamicSharedMemorySize, smem);
	if (e != cudaSuccess)
		return e;
	return launch_chained(st, chains(), attn_decode_kernel<T, DP>, grid, 32 * WARPS, (size_t)smem, *s, *a);
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

int attn_decode_cuda(cudaStream_t st, const struct attn_cuda *shape, const void *q, const void *k_cache, const void *v_cache,
	int64_t slot_stride,
                     const int32_t *slot, const int32_t *len, void *o, void *workspace)
{
	struct attn_cuda t = *shape, *s = &t;
	int pieces = n_pieces(s);
	int64_t rows = (int64_t)s->n_seqs * s->n_heads * pieces;
	char *w = (char *)workspace;
	struct decode a = { q, k_cache, v_cache, o, slot_stride, slot, len, (uint32_t *)w, (float2 *)(w + count_bytes(s)),
		(float *)(w + count_bytes(s) + 8 * rows), pieces };
	bool vec = fast(s, q, k_cache, v_cache, slot_stride);

	if (s->n_seqs == 0)
		return 0;
	if (s->window >= s->max_len) /* it hides nothing */
		s->window = 0;
	return ATTN_BY_TYPE(s, launch_any, st, s, &a, vec);
}
