/* Attention of one new token against a cache of keys and values: bound by the
 * cache's bytes. A block reads a piece of the keys once for all query heads of
 * the group, every byte in flight before the first is used; the block that
 * finishes last of a row merges the pieces, in their order.
 *
 * The products go to the tensor cores: a dot product does not care for the order
 * of its columns, so a lane's 16 bytes of a key serve as they are as the fragments of
 * two products of 16 columns, and nothing passes through shared memory. */
#include "kernels/attn_mma.cuh"

#define BLOCK 64  /* keys that a block reads at a time, 16 to a warp */
#define WARPS 4
#define ROOM 32768 /* bytes of a block's shared memory for its pieces' results */
#define PIECES 32 /* of a row at most: a lane of the merging warp holds one's state */

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

/* What a block works on. */
struct piece {
	int row, kvh, group, first, end; /* keys [first, end) are seen by the row */
	int j0, j1, index, base, n;      /* keys [j0, j1) of the piece; pieces base..base + n - 1 see any */
	int64_t k, v;                    /* offsets of the row's key 0 */
};

static __device__ __forceinline__ bool take_piece(const struct attn_cuda &s, const struct decode &a, struct piece *p)
{
	int span = BLOCK * a.blocks;
	int64_t slot;

	p->row = blockIdx.z;
	p->kvh = blockIdx.y;
	p->index = blockIdx.x;
	p->group = s.n_heads / s.n_kv;
	p->end = a.len[p->row];
	slot = a.slot ? a.slot[p->row] : p->row;
	p->first = s.window > 0 && p->end - s.window > 0 ? p->end - s.window : 0;
	p->base = p->first / span;
	p->n = (p->end - 1) / span - p->base + 1;
	p->j0 = p->index * span;
	p->j1 = min(p->j0 + span, p->end);
	p->k = p->v = slot * a.slot_stride + (int64_t)p->kvh * s.head_dim;
	return p->index >= p->base && p->index < p->base + p->n;
}

/* The warps' running results for GH heads. */
template <int GH, int DP> struct sums {
	float max[WARPS][GH], sum[WARPS][GH], acc[WARPS][GH][DP];
};

/* The warps' results become the row's, or the piece's: head g0 + g goes to state[g step] and the row of d columns from part[g step d] on. */
template <typename T, int GH, int DP>
static __device__ __forceinline__ void finish_heads(const struct attn_cuda &s, const struct decode &a, const struct piece &p, const struct sums<GH, DP> &w, int g0,
                                                    float2 *state, float *part, int step)
{
	int d = s.head_dim;

	__syncthreads();
	for (int i = threadIdx.x; i < GH * DP; i += 32 * WARPS) {
		int g = i / DP, c = i % DP, h = p.kvh * p.group + g0 + g;
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
			state[g * step] = make_float2(m, l);
		part[g * step * d + c] = o;
	}
	__syncthreads();
}

/* Columns c0 + lane of one head from its pieces, by one warp: lane i has the weight of piece i. `get` finds a piece's state and column. */
template <typename T, typename GET>
static __device__ __forceinline__ void merge_columns(const struct attn_cuda &s, const struct decode &a, const struct piece &p, int h, int c0, GET get)
{
	int lane = threadIdx.x % 32, c = c0 + lane;
	float2 st = lane < p.n ? get.state(lane) : make_float2(-INFINITY, 0);
	float max = st.x, by, sum, o = 0;

#pragma unroll
	for (int x = 16; x > 0; x /= 2)
		max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, x));
	by = attn_exp2(st.x - max);
	sum = st.y * by;
#pragma unroll
	for (int x = 16; x > 0; x /= 2)
		sum += __shfl_xor_sync(0xffffffffu, sum, x);
#pragma unroll 8
	for (int i = 0; i < p.n; i++)
		o += (c < s.head_dim ? get.part(i, c) : 0) * __shfl_sync(0xffffffffu, by, i);
	if (c < s.head_dim)
		((T *)a.o)[p.row * s.ldo + (int64_t)h * s.head_dim + c] = attn_num<T>::down(o / sum);
}

/* Pieces of a head in global memory. */
struct in_global {
	const float2 *s;
	const float *p;
	int d;

	__device__ __forceinline__ float2 state(int i) const { return __ldcg(s + i); }
	__device__ __forceinline__ float part(int i, int c) const { return __ldcg(p + (int64_t)i * d + c); }
};

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
	for (int u = threadIdx.x / 32, strips = (s.head_dim + 31) / 32; u < p.group * strips; u += WARPS) {
		int h = p.kvh * p.group + u / strips;
		int64_t at = ((int64_t)p.row * s.n_heads + h) * a.pieces + p.base;
		struct in_global get = { a.state + at, a.part + at * s.head_dim, s.head_dim };

		merge_columns<T>(s, a, p, h, u % strips * 32, get);
	}
}

/* --- by tensor cores: head sizes that are multiples of 8, everything 16-byte aligned --- */

static __device__ __forceinline__ uint4 load16(const void *p, bool ok)
{
	return ok ? __ldg((const uint4 *)p) : make_uint4(0, 0, 0, 0);
}

/* Lane 4 g + t: scores are (head g) x (keys 2 t, 2 t + 1, and those + 8); o^T tiles of 16 columns x 8 heads. */
template <typename T, int DP> struct heads8 {
	uint4 q[DP / 32]; /* head g, columns 32 i + 8 t .. + 7 */
	float max, sum;   /* of head g; the sum is this lane's keys' only */
	float o[DP / 16][4];

	__device__ __forceinline__ void scores(float x[2][4], const uint4 k[2][DP / 32]) const
	{
#pragma unroll
		for (int n = 0; n < 2; n++)
#pragma unroll
			for (int i = 0; i < DP / 32; i++) {
				const uint32_t a0[4] = { q[i].x, 0, q[i].y, 0 }, a1[4] = { q[i].z, 0, q[i].w, 0 };

				mma(x[n], a0, k[n][i].x, k[n][i].y, T());
				mma(x[n], a1, k[n][i].z, k[n][i].w, T());
			}
	}

	/* v[l]: key 2 t + (l & 1) + 8 (l >> 1), columns 64 i + 8 g .. + 7 */
	__device__ __forceinline__ void values(const uint32_t p[2], const uint4 v[4][DP / 64])
	{
#pragma unroll
		for (int i = 0; i < DP / 64; i++)
#pragma unroll
			for (int e = 0; e < 4; e++) {
				uint32_t w[4], a[4];

#pragma unroll
				for (int l = 0; l < 4; l++)
					w[l] = e == 0 ? v[l][i].x : e == 1 ? v[l][i].y : e == 2 ? v[l][i].z : v[l][i].w;
				a[0] = __byte_perm(w[0], w[1], 0x5410);
				a[1] = __byte_perm(w[0], w[1], 0x7632);
				a[2] = __byte_perm(w[2], w[3], 0x5410);
				a[3] = __byte_perm(w[2], w[3], 0x7632);
				mma(o[4 * i + e], a, p[0], p[1], T());
			}
	}

	/* Sixteen keys from j0 on join. */
	__device__ __forceinline__ void step(const struct attn_score &sc, const struct piece &p, int j0, const uint4 k[2][DP / 32], const uint4 v[4][DP / 64])
	{
		float x[2][4] = { 0 }, m = max, base, by;
		uint32_t w[2];
		int t = threadIdx.x % 4;

		scores(x, k);
#pragma unroll
		for (int n = 0; n < 2; n++)
#pragma unroll
			for (int e = 0; e < 2; e++) {
				int j = j0 + 8 * n + 2 * t + e;

				x[n][e] = (sc.in != 0 ? attn_tanh(x[n][e] * sc.in) : x[n][e]) * sc.mul;
				x[n][e] = j >= p.first && j < p.end ? x[n][e] : -INFINITY;
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
		m = __shfl_sync(0xffffffffu, by, 8 * t);
		by = __shfl_sync(0xffffffffu, by, 8 * t + 4);
#pragma unroll
		for (int i = 0; i < DP / 16; i++) {
			o[i][0] *= m;
			o[i][1] *= by;
			o[i][2] *= m;
			o[i][3] *= by;
		}
		values(w, v);
	}
};

/* Sixteen keys and values of this warp, in the order that heads8 wants. */
template <typename T, int DP> struct keys16 {
	uint4 k[2][DP / 32], v[4][DP / 64];

	__device__ __forceinline__ void load(const struct attn_cuda &s, const struct decode &a, const struct piece &p, int j0)
	{
		int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

#pragma unroll
		for (int n = 0; n < 2; n++)
#pragma unroll
			for (int i = 0; i < DP / 32; i++) {
				int j = j0 + 8 * n + g, c = 32 * i + 8 * t;

				k[n][i] = load16((const T *)a.k + p.k + j * s.ldk + c, j >= p.first && j < p.j1 && c < s.head_dim);
			}
#pragma unroll
		for (int l = 0; l < 4; l++)
#pragma unroll
			for (int i = 0; i < DP / 64; i++) {
				int j = j0 + 2 * t + l % 2 + l / 2 * 8, c = 64 * i + 8 * g;

				v[l][i] = load16((const T *)a.v + p.v + j * s.ldv + c, j >= p.first && j < p.j1 && c < s.head_dim);
			}
	}
};

template <typename T, int DP>
static __device__ __forceinline__ void begin(heads8<T, DP> *h, const struct attn_cuda &s, const struct decode &a, const struct piece &p, int g0)
{
	int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
	const T *qr = (const T *)a.q + p.row * s.ldq + (int64_t)(p.kvh * p.group + g0 + g) * s.head_dim;

#pragma unroll
	for (int i = 0; i < DP / 32; i++)
		h->q[i] = load16(qr + 32 * i + 8 * t, g0 + g < p.group && 32 * i + 8 * t < s.head_dim);
}

template <typename T, int DP> static __device__ __forceinline__ void clear(heads8<T, DP> *h)
{
	h->max = -INFINITY;
	h->sum = 0;
#pragma unroll
	for (int i = 0; i < DP / 16; i++)
		h->o[i][0] = h->o[i][1] = h->o[i][2] = h->o[i][3] = 0;
}

/* This warp's results, for the others of the block. */
template <typename T, int DP> static __device__ __forceinline__ void leave(heads8<T, DP> *h, struct sums<8, DP> *w)
{
	int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

	h->sum += __shfl_xor_sync(0xffffffffu, h->sum, 1);
	h->sum += __shfl_xor_sync(0xffffffffu, h->sum, 2);
	if (t == 0) {
		w->max[warp][g] = h->max;
		w->sum[warp][g] = h->sum;
	}
#pragma unroll
	for (int i = 0; i < DP / 16; i++)
#pragma unroll
		for (int e = 0; e < 4; e++) /* tile i: columns 64 (i / 4) + 8 g + 2 (i % 4), and the next */
			w->acc[warp][2 * t + e % 2][i / 4 * 64 + 8 * g + i % 4 * 2 + e / 2] = h->o[i][e];
}

/* A block to a piece; pieces meet in global memory. */
template <typename T, int DP> __global__ void __launch_bounds__(32 * WARPS) attn_decode_kernel(const struct attn_cuda s, const struct decode a)
{
	__shared__ struct sums<8, DP> w;
	struct attn_score sc = attn_score_of(s);
	struct piece p;

	if (!take_piece(s, a, &p))
		return;
	for (int g0 = 0; g0 < p.group; g0 += 8) {
		int64_t at = ((int64_t)p.row * s.n_heads + p.kvh * p.group + g0) * a.pieces + p.index;
		heads8<T, DP> h;
		keys16<T, DP> x;

		begin(&h, s, a, p, g0);
		clear(&h);
		for (int j0 = p.j0 + 16 * (threadIdx.x / 32); j0 < p.j1; j0 += BLOCK) {
			x.load(s, a, p, j0);
			h.step(sc, p, j0, x.k, x.v);
		}
		leave(&h, &w);
		finish_heads<T, 8, DP>(s, a, p, w, g0, a.state + at, a.part + at * s.head_dim, a.pieces);
	}
	finish_row<T>(s, a, p);
}

/* --- Hopper: the blocks of a cluster share a row and key head; pieces meet in their shared memory --- */

static __device__ __forceinline__ void cluster_sync()
{
#if __CUDA_ARCH__ >= 900
	asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

/* Another block's shared memory at this block's address p. */
static __device__ __forceinline__ float cluster_load(const float *p, int block)
{
	float x = 0;

#if __CUDA_ARCH__ >= 900
	uint32_t at;

	asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(smem_at(p)), "r"(block));
	asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(x) : "r"(at) : "memory");
#endif
	return x;
}

/* Piece i lies in place i / blocks of block i % blocks. */
struct in_cluster {
	const float2 *s;
	const float *p;
	int d, group, blocks;

	__device__ __forceinline__ float2 state(int i) const
	{
		const float *at = &s[i / blocks * group].x;

		return make_float2(cluster_load(at, i % blocks), cluster_load(at + 1, i % blocks));
	}
	__device__ __forceinline__ float part(int i, int c) const { return cluster_load(p + i / blocks * group * d + c, i % blocks); }
};

template <typename T, int DP> __global__ void __launch_bounds__(32 * WARPS) attn_decode_cluster_kernel(const struct attn_cuda s, const struct decode a)
{
	extern __shared__ float room[]; /* of this block's pieces: states (places, group), then parts (places, group, d) */
	__shared__ struct sums<8, DP> w;
	int rank = blockIdx.x, blocks = gridDim.x, span = BLOCK * a.blocks, warp = threadIdx.x / 32, d = s.head_dim;
	int places = (a.pieces + blocks - 1) / blocks;
	struct attn_score sc = attn_score_of(s);
	struct piece p;
	float2 *state = (float2 *)room;
	float *part;

	take_piece(s, a, &p);
	part = room + 2 * places * p.group;
	for (int g0 = 0; g0 < p.group; g0 += 8) {
		heads8<T, DP> h;
		keys16<T, DP> x;
		int i = rank, j0 = (p.base + i) * span;

		begin(&h, s, a, p, g0);
		clear(&h);
		p.j1 = i < p.n ? min(j0 + span, p.end) : 0;
		x.load(s, a, p, j0 + 16 * warp);
		while (i < p.n) {
			int now = i;

			h.step(sc, p, j0 + 16 * warp, x.k, x.v);
			j0 += BLOCK;
			if (j0 >= p.j1) {
				i += blocks;
				j0 = (p.base + i) * span;
				p.j1 = i < p.n ? min(j0 + span, p.end) : 0;
			}
			/* the next keys are on their way while this piece is finished */
			x.load(s, a, p, j0 + 16 * warp);
			if (i == now)
				continue;
			leave(&h, &w);
			clear(&h);
			finish_heads<T, 8, DP>(s, a, p, w, g0, state + now / blocks * p.group + g0, part + (now / blocks * p.group + g0) * d, 1);
		}
	}
	cluster_sync();
	for (int u = rank + blocks * warp, strips = (d + 31) / 32; p.n > 1 && u < p.group * strips; u += blocks * WARPS) {
		struct in_cluster get = { state + u / strips, part + u / strips * d, d, p.group, blocks };

		merge_columns<T>(s, a, p, p.kvh * p.group + u / strips, u % strips * 32, get);
	}
	cluster_sync(); /* nobody leaves while others read from here */
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
		int64_t at;

#pragma unroll
		for (int l = 0; l < COLS; l++)
			q[l] = lane + 32 * l < d ? attn_num<T>::up(qr[lane + 32 * l]) : 0;
		for (int j = p.j0 + warp; j < p.j1; j += WARPS) {
			const T *k = (const T *)a.k + p.k + j * s.ldk, *v = (const T *)a.v + p.v + j * s.ldv;
			float x = 0, m, by;

			if (j < p.first)
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
		at = ((int64_t)p.row * s.n_heads + p.kvh * p.group + g) * a.pieces + p.index;
		finish_heads<T, 1, DP>(s, a, p, w, g, a.state + at, a.part + at * d, a.pieces);
	}
	finish_row<T>(s, a, p);
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
static bool fast(const struct attn_cuda *s, int major, const void *q, const void *k, const void *v, int64_t slot_stride)
{
	return (major >= 8 || s->dtype == ATTN_F16) && s->head_dim % 8 == 0 && ((s->ldq | s->ldk | s->ldv | slot_stride) & 7) == 0 &&
	       (((uintptr_t)q | (uintptr_t)k | (uintptr_t)v) & 15) == 0;
}

static int room_bytes(const struct attn_cuda *s, const struct decode *a, int blocks)
{
	return (a->pieces + blocks - 1) / blocks * (s->n_heads / s->n_kv) * (8 + 4 * s->head_dim);
}

/* Blocks in a cluster: enough to fill the device a few times over, or 0 for the way through global memory. */
static int cluster_blocks(const struct attn_cuda *s, const struct decode *a, int major, int sms)
{
	int64_t rows = (int64_t)s->n_seqs * s->n_kv;
	int n = 8;

	if (major < 9 || room_bytes(s, a, 8) > ROOM || (rows * 8 < sms && a->pieces > 16))
		return 0;
	while (n > 1 && (rows * n > 8 * sms || n / 2 >= a->pieces) && room_bytes(s, a, n / 2) <= ROOM)
		n /= 2;
	return n;
}

template <typename T, int DP> static cudaError_t launch_fast(cudaStream_t st, const struct attn_cuda *s, const struct decode *a, int cluster)
{
	cudaLaunchConfig_t c = {};
	cudaLaunchAttribute dim;
	cudaError_t e;

	if (!cluster) {
		attn_decode_kernel<T, DP><<<dim3((unsigned)a->pieces, (unsigned)s->n_kv, (unsigned)s->n_seqs), 32 * WARPS, 0, st>>>(*s, *a);
		return cudaGetLastError();
	}
	dim.id = cudaLaunchAttributeClusterDimension;
	dim.val.clusterDim.x = (unsigned)cluster;
	dim.val.clusterDim.y = dim.val.clusterDim.z = 1;
	c.gridDim = dim3((unsigned)cluster, (unsigned)s->n_kv, (unsigned)s->n_seqs);
	c.blockDim = dim3(32 * WARPS);
	c.dynamicSmemBytes = (size_t)room_bytes(s, a, cluster);
	c.stream = st;
	c.attrs = &dim;
	c.numAttrs = 1;
	e = cudaFuncSetAttribute(attn_decode_cluster_kernel<T, DP>, cudaFuncAttributeMaxDynamicSharedMemorySize, ROOM);
	if (e != cudaSuccess)
		return e;
	return cudaLaunchKernelEx(&c, attn_decode_cluster_kernel<T, DP>, *s, *a);
}

template <typename T> static cudaError_t launch(cudaStream_t st, const struct attn_cuda *s, const struct decode *a, bool vec, int cluster)
{
	if (!vec) {
		attn_decode_plain_kernel<T><<<dim3((unsigned)a->pieces, (unsigned)s->n_kv, (unsigned)s->n_seqs), 32 * WARPS, 0, st>>>(*s, *a);
		return cudaGetLastError();
	}
	if (s->head_dim <= 64)
		return launch_fast<T, 64>(st, s, a, cluster);
	return s->head_dim <= 128 ? launch_fast<T, 128>(st, s, a, cluster) : launch_fast<T, 256>(st, s, a, cluster);
}

int attn_decode_cuda(cudaStream_t st, const struct attn_cuda *s, const void *q, const void *k_cache, const void *v_cache, int64_t slot_stride,
                     const int32_t *slot, const int32_t *len, void *o, void *workspace)
{
	int64_t pieces = n_pieces(s), rows = (int64_t)s->n_seqs * s->n_heads * pieces;
	char *w = (char *)workspace;
	struct decode a = { q, k_cache, v_cache, o, slot_stride, slot, len, (uint32_t *)w, (float2 *)(w + count_bytes(s)),
		(float *)(w + count_bytes(s) + 8 * rows), (int)pieces, piece_blocks(s) };

	int dev = 0, major = 0, sms = 0, cluster;
	bool vec;

	if (s->n_seqs == 0)
		return 0;
	cudaGetDevice(&dev);
	cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, dev);
	cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, dev);
	vec = fast(s, major, q, k_cache, v_cache, slot_stride);
	cluster = s->path <= ATTN_SM90 ? cluster_blocks(s, &a, major, sms) : 0;
	return s->dtype == ATTN_BF16 ? launch<bf16>(st, s, &a, vec, cluster) : launch<__half>(st, s, &a, vec, cluster);
}
