/* Few rows by weights that are read once, on tensor cores: the 16 rows of a product are outputs, its 8 columns tokens. Dense weights, and
 * NF4 on GPUs that have not the shared memory for skinny_few.cu.
 *
 * The inner dimension is cut into one segment for each of a block's sixteen warps, and a segment's weights stream through
 * the warp's own ring in shared memory, without a barrier, over all tiles of the block. NF4's codes become pairs of bf16
 * levels by a table of all 256 bytes, kept once for each lane so that no two lanes meet in a bank; the sum of each
 * block of 64 is then multiplied by its scale. The warps' sums are folded in order.
 *
 * Which k of a block of 64 a lane has is free, as long as weights and x agree: lane 4 g + t has elements 16 t .. 16 t + 15
 * of rows g and g + 8, eight bytes of codes each, and of token g.
 *
 * x A^T of the adapters is the first blocks' first work, while their weights are on the way; the others wait for it
 * before they write. */
#include "kernels/skinny.cuh"

int skinny_open(struct device *d, struct err *e)
{
	(void)e;
	open_tables(d);
	skinny_few_open(d);
	skinny_many_open(d);
	return 0;
}

/* A stage's rows by x: one block of 64. scale: this lane's, of the row and block that first_block says. */
template <int MT, int NT, bool NF4>
static __device__ __forceinline__ void multiply(float acc[MT][NT][4], const unsigned char *lut, const unsigned char *stage, float scale, int b,
                                                const uint32_t x[NT][8])
{
	typedef layout_of<MT, NT, NF4> L;
	int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

#pragma unroll
	for (int m = 0; m < MT; m++) {
		int from = (MT == 1 ? b * 16 : m * 16) + g; /* the lane that has row g's scale; row g + 8's is eight further */
		float sc[2] = { NF4 ? __shfl_sync(0xffffffffu, scale, from) : 1, NF4 ? __shfl_sync(0xffffffffu, scale, from + 8) : 1 };
		uint32_t f[4][4];

#pragma unroll
		for (int h = 0; h < 2; h++) {
			int row = m * 16 + g + 8 * h;

			if (NF4) {
				int piece = b * 2 + t / 2;
				uint2 w = *(const uint2 *)(stage + row * L::row + (L::row == 64 ? piece ^ (row >> 1 & 1) * 2 : piece) * 16 + t % 2 * 8);

#pragma unroll
				for (int s = 0; s < 4; s++) {
					f[s][h] = pair_at(lut, s < 2 ? w.x : w.y, s % 2 * 2, (uint32_t)lane * 4);
					f[s][2 + h] = pair_at(lut, s < 2 ? w.x : w.y, s % 2 * 2 + 1, (uint32_t)lane * 4);
				}
			} else {
#pragma unroll
				for (int i = 0; i < 2; i++) {
					uint4 w = *(const uint4 *)(stage + row * 128 + ((t * 2 + i) ^ (row & 1)) * 16);

					f[2 * i][h] = w.x, f[2 * i][2 + h] = w.y;
					f[2 * i + 1][h] = w.z, f[2 * i + 1][2 + h] = w.w;
				}
			}
		}
#pragma unroll
		for (int n = 0; n < NT; n++) {
			if (NF4) {
				float part[4] = { 0 };

#pragma unroll
				for (int s = 0; s < 4; s++)
					mma16(part, f[s], x[n][2 * s], x[n][2 * s + 1]);
#pragma unroll
				for (int e = 0; e < 4; e++)
					acc[m][n][e] += sc[e / 2] * part[e];
			} else {
#pragma unroll
				for (int s = 0; s < 4; s++)
					mma16(acc[m][n], f[s], x[n][2 * s], x[n][2 * s + 1]);
			}
		}
	}
}

/* The tile's outputs from the warps' sums: neighbours first, then in order. */
template <int MT, int NT> static __device__ __forceinline__ void finish(const struct skinny &a, const float *red, const float *inner, int tile)
{
	enum { COLS = NT * 8, ALL = MT * 16 * COLS };
	int rows = a.f ? 16 : MT * 16;

	for (int i = threadIdx.x; i < rows * COLS; i += THREADS) {
		int r = i / COLS, n = i % COLS, row = a.f ? tile * 16 + r : tile * MT * 16 + r;
		float v[2] = { 0, 0 };

		if (n >= a.t || row >= a.out)
			continue;
#pragma unroll
		for (int h = 0; h < MT; h++) {
			if (h && !a.f)
				break;
#pragma unroll
			for (int w = 0; w < WARPS; w += 2)
				v[h] += red[w * ALL + h * 16 * COLS + i] + red[(w + 1) * ALL + h * 16 * COLS + i];
			if (a.jobs)
				v[h] += adapter_part(a, row + h * a.f, inner, COLS, n);
			v[h] = scaled(a, row + h * a.f, v[h]);
		}
		if (a.f)
			a.y[n * a.ldy + row] = __float2bfloat16_rn(gated(v[0], v[1]));
		else
			put(a, row, n, v[0]);
	}
}

template <int MT, int NT, bool NF4>
static __global__ void __launch_bounds__(THREADS, NT == 1 ? 2 : 1) skinny_kernel(const __grid_constant__ struct skinny a, int tiles)
{
	extern __shared__ __align__(128) unsigned char smem[];
	typedef layout_of<MT, NT, NF4> L;
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
	unsigned char *ring = smem + L::lut + warp * L::stages * L::stage, *scales = smem + L::lut + L::ring + warp * L::stages * SCALE_BYTES;
	float *table = (float *)(smem + L::lut + L::ring + L::scale), *red = (float *)(smem + L::lut + L::ring + L::scale + L::table);
	float *inner = (float *)(smem + L::all);
	uint32_t ring_at = (uint32_t)__cvta_generic_to_shared(ring), scales_at = (uint32_t)__cvta_generic_to_shared(scales);
	/* segments in whole units of 128 (64 for dense weights); stages of L::blocks blocks */
	int units = a.in / (NF4 ? 128 : 64), from = units * warp / WARPS, per = units * (warp + 1) / WARPS - from;
	int first_k = from * (NF4 ? 128 : 64), slot = 0;
	struct source<MT> src;
	bool waited = a.jobs == 0;

	let_next();
	per = NF4 && MT == 2 ? 2 * per : per;
	src.tile = per ? (int)blockIdx.x : tiles;
	src.stage = 0;
	if (src.tile < tiles)
		at_tile<MT, NF4>(&src, a, first_k);
#pragma unroll
	for (int i = 0; i < L::stages - 1; i++)
		send<MT, NT, NF4>(&src, a, ring_at + i * L::stage, scales_at + i * SCALE_BYTES, tiles, per, first_k);
	if (NF4) {
		fill_levels<WARPS>(smem);
		if (threadIdx.x < 256)
			table[threadIdx.x] = map[threadIdx.x];
	}
	if ((int)blockIdx.x < a.jobs)
		call_a(a, blockIdx.x, THREADS);
	if (a.jobs && (int)blockIdx.x < tiles && threadIdx.x < MT * 16)
		call_b(a, tile_row<MT>(a, blockIdx.x, threadIdx.x / 16) + threadIdx.x % 16);
	__syncthreads();
	follow_previous();
	for (int job = blockIdx.x; job < a.jobs; job += gridDim.x)
		inner_job<NT, WARPS>(a, job, red);
	for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
		float acc[MT][NT][4] = { 0 }, offset;
		int part = 0, block = NF4 ? first_block<MT>(a, tile, first_k, &part) : 0;

		offset = NF4 ? a.offset[part] : 0;
		if (a.jobs && tile + (int)gridDim.x < tiles && threadIdx.x < MT * 16)
			call_b(a, tile_row<MT>(a, tile + gridDim.x, threadIdx.x / 16) + threadIdx.x % 16);
		for (int st = 0; st < per; st++) {
			uint32_t x[L::blocks][NT][8];
			int after = slot + 1 == L::stages ? 0 : slot + 1, ahead = slot ? slot - 1 : L::stages - 1;
			float scale;

#pragma unroll
			for (int b = 0; b < L::blocks; b++)
#pragma unroll
				for (int n = 0; n < NT; n++)
					take_x(x[b][n], a.x + (8 * n + g) * a.ldx + first_k + (st * L::blocks + b) * 64 + t * 16, 8 * n + g < a.t);
			asm volatile("cp.async.wait_group %0;" ::"n"(L::stages - 2) : "memory");
			__syncwarp();
			scale = NF4 ? scale_here(scales + slot * SCALE_BYTES, table, block + st * L::blocks, offset, a.plain) : 0;
			send<MT, NT, NF4>(&src, a, ring_at + ahead * L::stage, scales_at + ahead * SCALE_BYTES, tiles, per, first_k);
#pragma unroll
			for (int b = 0; b < L::blocks; b++)
				multiply<MT, NT, NF4>(acc, smem, ring + slot * L::stage, scale, b, x[b]);
			slot = after;
		}
		__syncthreads(); /* the last tile's sums have been read */
#pragma unroll
		for (int m = 0; m < MT; m++)
#pragma unroll
			for (int n = 0; n < NT; n++)
#pragma unroll
				for (int h = 0; h < 2; h++)
					*(float2 *)(red + ((warp * MT + m) * 16 + g + 8 * h) * NT * 8 + 8 * n + 2 * t) = make_float2(acc[m][n][2 * h], acc[m][n][2 * h + 1]);
		if (!waited && threadIdx.x == 0)
			await_inner(a);
		__syncthreads();
		if (!waited) {
			fold_inner(a, inner, 0, a.ranks, NT * 8, THREADS);
			__syncthreads();
		}
		waited = true;
		finish<MT, NT>(a, red, inner, tile);
	}
	/* the last block to have waited sets the counters back */
	if (a.jobs && threadIdx.x == 0 && atomicInc(&a.count[1], gridDim.x - 1) == gridDim.x - 1)
		atomicExch(&a.count[0], 0u);
}

/* --- any shape: a block a row of outputs --- */

#define PLAIN 128

static __device__ float weight_at(const struct skinny &a, int row, int k)
{
	int j = a.dense ? -1 : part_of(a.row, a.end, a.n, row);
	int64_t at;
	uint8_t c;
	float scale;

	if (j < 0)
		return __bfloat162float(a.dense[(int64_t)row * a.ldw + k]);
	at = (int64_t)(row - a.row[j]) * a.in + k;
	c = a.codes[j][at / 2];
	scale = a.plain ? a.absmax2[j][at / NF4_BLOCK] : scale_of(map[a.qabsmax[j][at / NF4_BLOCK]], a.absmax2[j][at / NF4_BLOCK / NF4_BLOCK2], a.offset[j]);
	return level[at % 2 ? c & 15 : c >> 4] * scale;
}

static __global__ void __launch_bounds__(PLAIN) plain_inner(const __grid_constant__ struct skinny a)
{
	__shared__ float shared[33];
	int r = blockIdx.x, n = blockIdx.y;
	float sum = 0;

	for (int k = threadIdx.x; k < a.in; k += PLAIN)
		sum += a.a[(int64_t)r * a.in + k] * __bfloat162float(a.x[n * a.ldx + k]);
	sum = block_sum(sum, shared);
	if (threadIdx.x == 0)
		a.inner[(int64_t)r * a.t + n] = sum;
}

static __global__ void __launch_bounds__(PLAIN) plain_kernel(const __grid_constant__ struct skinny a)
{
	__shared__ float shared[33];
	int row = blockIdx.x;

	for (int n = 0; n < a.t; n++) {
		float v[2] = { 0, 0 };

		for (int k = threadIdx.x; k < a.in; k += PLAIN) {
			float x = __bfloat162float(a.x[n * a.ldx + k]);

			v[0] += weight_at(a, row, k) * x;
			if (a.f)
				v[1] += weight_at(a, row + a.f, k) * x;
		}
		v[0] = block_sum(v[0], shared);
		v[1] = a.f ? block_sum(v[1], shared) : 0;
		if (threadIdx.x)
			continue;
		for (int h = 0; h < (a.f ? 2 : 1); h++)
			v[h] = scaled(a, row + h * a.f, v[h] + (a.n_ad ? adapter_part(a, row + h * a.f, a.inner, a.t, n) : 0));
		if (a.f)
			a.y[n * a.ldy + row] = __float2bfloat16_rn(gated(v[0], v[1]));
		else
			put(a, row, n, v[0]);
	}
}

static void plain(struct device *d, struct skinny *a)
{
	cudaStream_t st = cuda_of(d)->stream;

	a->pieces = 1; /* whole rows at once */
	if (a->n_ad)
		plain_inner<<<dim3((unsigned)a->ranks, (unsigned)a->t), PLAIN, 0, st>>>(*a);
	plain_kernel<<<(unsigned)(a->f ? a->f : a->out), PLAIN, 0, st>>>(*a);
}

/* --- host --- */

/* As many blocks as a multiprocessor holds, so that none gets two while another has none: the last kernel's may be there still. */
template <int MT, int NT, bool NF4> static void launch(struct device *d, const struct skinny *a)
{
	int tiles = a->f ? a->f / 16 : (a->out + 16 * MT - 1) / (16 * MT), shared = layout_of<MT, NT, NF4>::all + a->ranks * NT * 8 * (int)sizeof(float);
	int room = 0, most = cuda_of(d)->sms;

	cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerMultiprocessor, d->index);
	if (NT == 1 && NF4 && 2 * (shared + 1024) <= room) /* 1024: what a block costs besides; all must be there at once, or they wait in vain for a job */
		most *= 2;
	cudaFuncSetAttribute(skinny_kernel<MT, NT, NF4>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
	launch_after(d, skinny_kernel<MT, NT, NF4>, dim3((unsigned)(tiles < most ? tiles : most)), THREADS, (size_t)shared, *a, tiles);
}

/* Two tiles at a time read x half as often, where that leaves no multiprocessor longer at work. */
static bool two_tiles(const struct skinny *a, int sms)
{
	int one = (a->out / 16 + sms - 1) / sms, two = 2 * ((a->out / 32 + sms - 1) / sms);

	return a->f || (a->t > 2 && two <= one);
}

static void segments(struct device *d, const struct skinny *a)
{
	bool two = two_tiles(a, cuda_of(d)->sms), many = a->t > 8;

	if (a->dense) {
		if (two)
			many ? launch<2, 2, false>(d, a) : launch<2, 1, false>(d, a);
		else
			many ? launch<1, 2, false>(d, a) : launch<1, 1, false>(d, a);
	} else {
		if (two)
			many ? launch<2, 2, true>(d, a) : launch<2, 1, true>(d, a);
		else
			many ? launch<1, 2, true>(d, a) : launch<1, 1, true>(d, a);
	}
}

/* Shapes of the tensor cores' kernel: whole tiles of rows in each part, whole units of columns, pieces of 16 bytes. */
static bool fits(const struct device *d, const struct skinny *a)
{
	bool ok = a->in % 128 == 0 && eights(a->x, a->ldx) && a->out % 16 == 0 && a->f % 16 == 0 && aligned16(a->a);
	int room = 0;

	cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, d->index);
	room -= a->ranks * MOST * (int)sizeof(float);
	if (a->dense)
		return ok && eights(a->dense, a->ldw) && room >= layout_of<2, 2, false>::all;
	for (int j = 0; j < a->n; j++)
		ok = ok && a->row[j] % 16 == 0 && (a->end[j] - a->row[j]) % 16 == 0 && aligned16(a->codes[j]) && aligned16(a->qabsmax[j]);
	return ok && room >= layout_of<2, 2, true>::all;
}

static struct skinny args_of(const struct device *d, const struct kn_skinny *s)
{
	const struct kn_adapters *ad = &s->adapters;
	struct skinny a;

	(void)d;
	memset(&a, 0, sizeof(a));
	a.x = (const bf16 *)s->x, a.ldx = s->ldx;
	a.y = (bf16 *)s->y, a.ldy = s->ldy;
	a.add = (const bf16 *)s->add;
	a.factor = s->factor;
	a.bias = s->bias;
	a.dense = (const bf16 *)s->dense, a.ldw = s->ldw;
	a.in = (int)s->in, a.out = (int)s->out, a.f = s->gated ? (int)s->out / 2 : 0;
	a.n = s->dense ? 0 : s->n;
	a.plain = a.n && s->q[0].plain;
	for (int j = 0; j < a.n; j++) {
		a.row[j] = (int)s->row[j], a.end[j] = (int)(s->row[j] + s->rows[j]);
		a.codes[j] = s->q[j].codes, a.qabsmax[j] = s->q[j].qabsmax, a.absmax2[j] = s->q[j].absmax2, a.offset[j] = s->q[j].offset;
	}
	a.n_ad = ad->n, a.rank = (int)ad->rank, a.ranks = (int)(ad->n * ad->rank), a.scale = ad->scale, a.a = ad->a;
	for (int j = 0; j < ad->n; j++)
		a.b[j] = ad->b[j], a.ad_row[j] = (int)ad->row[j], a.ad_end[j] = (int)(ad->row[j] + ad->rows[j]);
	a.pieces = (int)kn_skinny_pieces(s->in);
	a.jobs = (a.ranks + 15) / 16 * a.pieces;
	a.count = (uint32_t *)s->scratch;
	a.told = (uint2 *)((char *)s->scratch + KN_SKINNY_COUNTERS);
	a.inner = (float *)((char *)s->scratch + KN_SKINNY_COUNTERS + KN_SKINNY_TOLD);
	return a;
}

/* How many tokens a pass takes, and by which kernel, follows from the planned number of them, so that bits do. */
void kn_skinny_cuda(struct device *d, const struct kn_skinny *s)
{
	struct skinny a = args_of(d, s);
	bool whole = fits(d, &a), wide = whole && s->planned > MOST && skinny_many_fits(d, &a), few = whole && !wide && skinny_few_fits(d, &a);
	int64_t most = wide ? SKINNY_MANY : few ? SKINNY_FEW : MOST;

	for (int64_t i = 0; i < s->t; i += most) {
		a.t = (int)(s->t - i < most ? s->t - i : most);
		if (wide)
			skinny_many(d, &a);
		else if (few)
			skinny_few(d, &a, s->planned == 1);
		else if (whole)
			segments(d, &a);
		else
			plain(d, &a);
		a.x += most * a.ldx;
		a.y += most * a.ldy;
		a.add = a.add ? a.add + most * a.ldy : NULL;
	}
	cuda_launched(d, "skinny");
}
