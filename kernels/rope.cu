#include "kernels/cuda.cuh"

#define THREADS 256

/* A thread turns eight pairs of one head. */
static __global__ void __launch_bounds__(THREADS) rope_eights(act_t *x, int64_t ldx, const int32_t *pos, const float *cos_tab, const float *sin_tab,
                                                              int n_heads, int head_dim, int half, float sign)
{
	int per_head = half / 8;
	int64_t row = blockIdx.x;
	const float *c = cos_tab + (int64_t)pos[row] * half, *s = sin_tab + (int64_t)pos[row] * half;

	for (int i = threadIdx.x; i < n_heads * per_head; i += THREADS) {
		int j = i % per_head * 8;
		act_t *p = x + row * ldx + (int64_t)(i / per_head) * head_dim + j;
		f8 a = load8(p), b = load8(p + half);

#pragma unroll
		for (int l = 0; l < 8; l++) {
			float co = c[j + l], si = s[j + l] * sign, u = a.v[l], v = b.v[l];

			a.v[l] = u * co - v * si;
			b.v[l] = v * co + u * si;
		}
		store8(p, a);
		store8(p + half, b);
	}
}

static __global__ void __launch_bounds__(THREADS) rope_any(act_t *x, int64_t ldx, const int32_t *pos, const float *cos_tab, const float *sin_tab,
                                                           int n_heads, int head_dim, int half, float sign)
{
	int64_t row = blockIdx.x;
	const float *c = cos_tab + (int64_t)pos[row] * half, *s = sin_tab + (int64_t)pos[row] * half;

	for (int i = threadIdx.x; i < n_heads * half; i += THREADS) {
		int j = i % half;
		act_t *p = x + row * ldx + (int64_t)(i / half) * head_dim + j;
		float co = c[j], si = s[j] * sign, u = act_up(p[0]), v = act_up(p[half]);

		p[0] = act_down(u * co - v * si);
		p[half] = act_down(v * co + u * si);
	}
}

void kn_rope_cuda(struct device *d, void *x, int64_t ldx, const int32_t *pos, const float *cos_tab, const float *sin_tab, int64_t t,
                  int64_t n_heads, int64_t head_dim, int64_t rot, bool inverse)
{
	cudaStream_t st = cuda_of(d)->stream;
	float sign = inverse ? -1.0f : 1.0f;
	int half = (int)rot / 2;

	if (half % 8 == 0 && head_dim % 8 == 0 && eights(x, ldx))
		rope_eights<<<(unsigned)t, THREADS, 0, st>>>((act_t *)x, ldx, pos, cos_tab, sin_tab, (int)n_heads, (int)head_dim, half, sign);
	else
		rope_any<<<(unsigned)t, THREADS, 0, st>>>((act_t *)x, ldx, pos, cos_tab, sin_tab, (int)n_heads, (int)head_dim, half, sign);
	cuda_launched(d, "rope");
}

/* --- new tokens: q and k turn, k and v go to the cache; a block a token --- */

struct turn {
	act_t *qkv;
	int64_t ld, slot_stride, width;
	const float *cos_tab, *sin_tab;
	const int32_t *slot, *pos;
	act_t *k, *v;
	int heads, kv_heads, head_dim;
};

static __global__ void __launch_bounds__(THREADS) turn_kernel(const struct turn a)
{
	int half = a.head_dim / 2, row = blockIdx.x, units = (a.heads + a.kv_heads) * half, values = a.kv_heads * a.head_dim;
	act_t *q = a.qkv + row * a.ld;
	const float *c, *s;
	int64_t at;

	let_next();
	follow_previous();
	at = a.slot[row] * a.slot_stride + a.pos[row] * a.width;
	c = a.cos_tab + (int64_t)a.pos[row] * half;
	s = a.sin_tab + (int64_t)a.pos[row] * half;
	for (int i = blockIdx.y * THREADS + threadIdx.x; i < units + values; i += gridDim.y * THREADS) {
		int h = i / half, j = i % half;
		act_t *p = q + h * a.head_dim + j, *to = h < a.heads ? p : a.k + at + (h - a.heads) * a.head_dim + j;
		float u, v;

		if (i >= units) {
			a.v[at + i - units] = q[(a.heads + a.kv_heads) * a.head_dim + i - units];
			continue;
		}
		u = act_up(p[0]);
		v = act_up(p[half]);
		to[0] = act_down(u * c[j] - v * s[j]);
		to[half] = act_down(v * c[j] + u * s[j]);
	}
}

void kn_kv_turn_cuda(struct device *d, const struct kn_attn_shape *s, const struct kn_kv_cache *c, void *qkv, const float *cos_tab,
                     const float *sin_tab, const int32_t *slot, const int32_t *pos, int64_t t)
{
	struct turn a = { (act_t *)qkv, s->ldq, c->slot_stride, c->width, cos_tab, sin_tab, slot, pos, (act_t *)c->k, (act_t *)c->v, (int)s->n_heads, (int)s->n_kv,
		(int)s->head_dim };

	if (t == 0)
		return;
	launch_after(d, turn_kernel, dim3((unsigned)t, 4), THREADS, 0, a);
	cuda_launched(d, "kv_turn");
}
