/* The device table's attention over the launchers of attn_cuda.h, and caches' rows. */
#include "kernels/attn_cuda.cuh"
#include "kernels/cuda.cuh"

static struct attn_cuda shape_of(struct device *d, const struct kn_attn_shape *s, int64_t max_len)
{
	struct attn_cuda a;

	memset(&a, 0, sizeof(a));
	a.n_heads = (int)s->n_heads;
	a.n_kv = (int)s->n_kv;
	a.head_dim = (int)s->head_dim;
	a.ldq = s->ldq;
	a.ldk = s->ldk;
	a.ldv = s->ldv;
	a.ldo = s->ldo;
	a.window = (int)s->window;
	a.scale = s->scale;
	a.softcap = s->softcap;
	a.n_tokens = (int)s->n_tokens;
	a.n_seqs = (int)s->n_seqs;
	a.max_len = (int)max_len;
	a.seq_start = s->seq_start_dev;
	a.tiles = s->tiles;
	a.n_tiles = (int)s->n_tiles;
	a.dtype = ATTN_ACT;
	a.path = ATTN_AUTO;
	a.room = cuda_of(d)->shared;
	return a;
}

static void check(struct device *d, int e, const char *what)
{
	if (e)
		cuda_note(d, (cudaError_t)e, what);
}

static int64_t longest(const struct kn_attn_shape *s)
{
	int64_t n = 1;

	for (int64_t i = 0; i < s->n_seqs; i++)
		if (s->seq_start[i + 1] - s->seq_start[i] > n)
			n = s->seq_start[i + 1] - s->seq_start[i];
	return n;
}

void kn_attn_fwd_cuda(struct device *d, const struct kn_attn_shape *s, const void *q, const void *k, const void *v, void *o, float *lse)
{
	struct attn_cuda a = shape_of(d, s, longest(s));

	check(d, attn_fwd_cuda(cuda_of(d)->stream, &a, q, k, v, o, lse), "attn_fwd");
}

void kn_attn_bwd_cuda(struct device *d, const struct kn_attn_shape *s, const void *q, const void *k, const void *v, const void *o,
                      const float *lse, const void *d_o, void *dq, void *dk, void *dv)
{
	struct attn_cuda a = shape_of(d, s, longest(s));

	check(d, attn_bwd_cuda(cuda_of(d)->stream, &a, q, k, v, o, lse, d_o, dq, dk, dv, s->scratch), "attn_bwd");
}

void kn_attn_decode_cuda(struct device *d, const struct kn_attn_shape *s, const void *q, const struct kn_kv_cache *c, const int32_t *slot,
                         const int32_t *len, int64_t most, void *o)
{
	struct attn_cuda a = shape_of(d, s, most);

	a.n_seqs = a.n_tokens;
	a.n_tiles = 0; /* who shares a row's keys does not follow from the batch */
	a.ldk = a.ldv = c->width;
	check(d, attn_decode_cuda(cuda_of(d)->stream, &a, q, c->k, c->v, c->slot_stride, slot, len, o, s->decode_scratch), "attn_decode");
}

static __global__ void append_kernel(act_t *kc, act_t *vc, int64_t slot_stride, int64_t width, const act_t *k, const act_t *v, int64_t ldk, int64_t ldv,
                                     const int32_t *slot, const int32_t *pos)
{
	int64_t t = blockIdx.x, at = slot[t] * slot_stride + pos[t] * width;

	for (int64_t j = threadIdx.x; j < width; j += blockDim.x) {
		kc[at + j] = k[t * ldk + j];
		vc[at + j] = v[t * ldv + j];
	}
}

void kn_kv_append_cuda(struct device *d, const struct kn_attn_shape *s, const struct kn_kv_cache *c, const void *k, const void *v,
                       const int32_t *slot, const int32_t *pos, int64_t t)
{
	append_kernel<<<(unsigned)t, 256, 0, cuda_of(d)->stream>>>((act_t *)c->k, (act_t *)c->v, c->slot_stride, c->width, (const act_t *)k, (const act_t *)v,
	                                                           s->ldk, s->ldv, slot, pos);
	cuda_launched(d, "kv_append");
}
