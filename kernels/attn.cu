/* Attention on CUDA: the list of work, the choice of kernels, and the row
 * statistics that a backward pass starts from. The kernels: attn_sm90_*.cu
 * (Hopper), attn_mma.cu (tensor cores from sm_75 on), attn_plain.cu (the rest). */
#include "kernels/attn_cuda.cuh"

static enum attn_path choose(const struct attn_cuda *s)
{
	int dev = 0, major = 0, minor = 0;

	cudaGetDevice(&dev);
	cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, dev);
	cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, dev);
	if (s->path <= ATTN_SM90 && attn_sm90_fits(s, major, minor))
		return ATTN_SM90;
	if (s->path <= ATTN_MMA && attn_mma_fits(s, 10 * major + minor, attn_room(s)))
		return ATTN_MMA;
	return ATTN_PLAIN;
}

enum attn_path attn_path(const struct attn_cuda *s)
{
	return choose(s);
}

/* A window that hides nothing is none. */
static struct attn_cuda tidy(const struct attn_cuda *s)
{
	struct attn_cuda t = *s;

	if (t.window >= t.max_len)
		t.window = 0;
	return t;
}

int attn_fwd_cuda(cudaStream_t st, const struct attn_cuda *shape, const void *q, const void *k, const void *v, void *o, float *lse)
{
	struct attn_ptrs p = { q, k, v, o };
	struct attn_cuda t = tidy(shape), *s = &t;

	if (s->n_tiles == 0)
		return 0;
	switch (choose(s)) {
	case ATTN_SM90: return attn_sm90_fwd(st, s, &p, o, lse);
	case ATTN_MMA: return attn_mma_fwd(st, s, &p, o, lse);
	default: return attn_plain_fwd(st, s, &p, o, lse);
	}
}

int64_t attn_bwd_workspace(const struct attn_cuda *s)
{
	return 2 * s->n_heads * attn_stat_ld(*s) * (int64_t)sizeof(float);
}

/* stat[0] = lse in base 2, stat[1] = rowsum(do o); 16 lanes to a row. VEC: rows are 16-byte aligned and whole 16-byte pieces. */
template <typename T, bool VEC>
__global__ void __launch_bounds__(256) attn_stats(const struct attn_cuda s, const T *o, const T *d_o, const float *lse, float *stat)
{
	int h = blockIdx.x % s.n_heads, lane = threadIdx.x % 16;
	int64_t ld = attn_stat_ld(s);
	struct attn_item it;

	if (!attn_take(s, blockIdx.x / s.n_heads, false, &it))
		return;
	for (int r = threadIdx.x / 16; r < ATTN_TILE; r += 16) {
		int i = it.m0 + r;
		bool in = i < it.len;
		const T *x = o + (int64_t)(it.t0 + i) * s.ldo + (int64_t)h * s.head_dim, *y = d_o + (x - o);
		float sum = 0;

		if (VEC) {
			for (int c = lane * 8; in && c < s.head_dim; c += 128) {
				uint4 a = *(const uint4 *)(x + c), b = *(const uint4 *)(y + c);
				const uint32_t *ap = (const uint32_t *)&a, *bp = (const uint32_t *)&b;

#pragma unroll
				for (int l = 0; l < 4; l++) {
					float2 u = num16<T>::unpack(ap[l]), w = num16<T>::unpack(bp[l]);

					sum += u.x * w.x + u.y * w.y;
				}
			}
		} else {
			for (int c = lane; in && c < s.head_dim; c += 16)
				sum += num16<T>::up(x[c]) * num16<T>::up(y[c]);
		}
#pragma unroll
		for (int w = 8; w > 0; w /= 2)
			sum += __shfl_xor_sync(0xffffffffu, sum, w);
		if (in && lane == 0) {
			stat[h * ld + it.stat0 + i] = lse[(int64_t)(it.t0 + i) * s.n_heads + h] * ATTN_LOG2E;
			stat[(s.n_heads + h) * ld + it.stat0 + i] = sum;
		}
	}
}

template <typename T> static void launch_stats(cudaStream_t st, const struct attn_cuda *s, const struct attn_ptrs *p)
{
	unsigned blocks = (unsigned)(s->n_tiles * s->n_heads);
	bool vec = s->head_dim % 8 == 0 && s->ldo % 8 == 0 && (((uintptr_t)p->o | (uintptr_t)p->d_o) & 15) == 0;

	if (vec)
		attn_stats<T, true><<<blocks, 256, 0, st>>>(*s, (const T *)p->o, (const T *)p->d_o, p->lse, p->stat);
	else
		attn_stats<T, false><<<blocks, 256, 0, st>>>(*s, (const T *)p->o, (const T *)p->d_o, p->lse, p->stat);
}

int attn_bwd_cuda(cudaStream_t st, const struct attn_cuda *shape, const void *q, const void *k, const void *v, const void *o, const float *lse,
                  const void *d_o, void *dq, void *dk, void *dv, void *workspace)
{
	struct attn_ptrs p = { q, k, v, o, d_o, lse, dq, dk, dv, (float *)workspace };
	struct attn_cuda t = tidy(shape), *s = &t;
	enum attn_path path;
	cudaError_t e;

	if (s->n_tiles == 0)
		return 0;
	path = choose(s);
	if (path == ATTN_SM90)
		return attn_sm90_bwd(st, s, &p); /* forms the statistics on its way */
	ATTN_BY_TYPE(s, launch_stats, st, s, &p);
	e = cudaGetLastError();
	if (e != cudaSuccess)
		return e;
	return path == ATTN_MMA ? attn_mma_bwd(st, s, &p) : attn_plain_bwd(st, s, &p);
}
