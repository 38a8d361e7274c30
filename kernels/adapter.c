#include "kernels/adapter.h"

#include <string.h>

#include "kernels/device.h"

void kn_adapter_place_cpu(struct device *d, void *pright, int64_t ld_right, void *plower, int64_t ld_lower, const struct kn_adapters *a)
{
	float *right = pright, *lower = plower;
	int64_t r = a->rank;

	(void)d;
	for (int64_t i = 0; i < a->out; i++)
		memset(right + i * ld_right, 0, (size_t)a->pad * sizeof(*right));
	for (int j = 0; j < a->n; j++)
		for (int64_t i = 0; i < a->rows[j]; i++) {
			float *to = right + (a->row[j] + i) * ld_right + j * r;

			for (int64_t k = 0; k < r; k++)
				to[k] = a->scale * a->b[j][i * r + k];
		}
	for (int64_t i = 0; i < a->pad; i++) {
		if (i < a->n * r)
			memcpy(lower + i * ld_lower, a->a + i * a->in, (size_t)a->in * sizeof(*lower));
		else
			memset(lower + i * ld_lower, 0, (size_t)a->in * sizeof(*lower));
	}
}

/* Part j of the squares; the last ones are 0. */
static void part(struct device *d, double *squares, int j, const float *x, int64_t n, int64_t all)
{
	if (!squares)
		return;
	if (j == 0)
		memset(squares, 0, (size_t)kn_adapter_squares(all) * sizeof(*squares));
	kn_sum_squares_cpu(d, x, n, squares + j);
}

void kn_adapter_grad_cpu(struct device *d, const struct kn_adapter_grad *a)
{
	const float *dy = a->dy;
	int64_t r = a->rank;

	kn_gemm_cpu(d, false, false, a->t, a->n * r, a->out, 1, dy, a->ldy, a->b, a->ldg, 0, NULL, (float *)a->dy + a->out, a->ldy, false);
	for (int j = 0; j < a->n; j++) {
		kn_gemm_cpu(d, true, false, a->rows[j], r, a->t, a->scale, dy + a->row[j], a->ldy, (const float *)a->s + j * r, a->ld_s, 1, NULL,
		            a->db[j], r, true);
		part(d, a->squares, j, a->db[j], a->rows[j] * r, a->out * r);
	}
}

uint64_t kn_adapter_scratch_cpu(const struct device *d, int64_t t, int64_t in, int64_t out, int n, int64_t rank)
{
	(void)d;
	(void)t;
	(void)in;
	(void)out;
	(void)n;
	(void)rank;
	return 0;
}

/* Partial sums of adapter.cu: db of each block of 512 tokens, dS of each piece of columns. */
uint64_t kn_adapter_scratch_cuda(const struct device *d, int64_t t, int64_t in, int64_t out, int n, int64_t rank)
{
	int64_t blocks = (t + KN_ADAPTER_ROWS - 1) / KN_ADAPTER_ROWS;
	int64_t inner = (blocks * out + blocks * KN_ADAPTER_ROWS * (KN_ADAPTER_PIECES + KN_PARTS)) * rank, outer = KN_ADAPTER_RUNS * n * rank * in;

	(void)d;
	if (rank != 16 && rank != 32 && rank != 64)
		inner = 0;
	return (uint64_t)(inner > outer ? inner : outer) * sizeof(float);
}

/* The masked x of adapter j, in the room for it. */
static const float *masked(struct device *d, const struct kn_adapter_outer *a, int64_t j)
{
	const struct kn_adapter_masks *m = a->masks;

	kn_dropout_cpu(d, m->room, a->in, a->x, a->ldx, m->rec, m->pos, a->t, a->in, m->key[j], false);
	return m->room;
}

void kn_adapter_down_cpu(struct device *d, const struct kn_adapter_outer *a)
{
	int64_t r = a->masks ? a->masks->rank : a->nr;

	for (int64_t j = 0; j * r < a->nr; j++)
		kn_gemm_cpu(d, false, true, a->t, r, a->in, 1, a->masks ? masked(d, a, j) : a->x, a->masks ? a->in : a->ldx, (const float *)a->a + j * r * a->lda,
		            a->lda, 0, NULL, (float *)a->x + a->in + j * r, a->ldx, false);
}

void kn_adapter_outer_cpu(struct device *d, const struct kn_adapter_outer *a)
{
	int64_t r = a->masks ? a->masks->rank : a->nr;

	for (int64_t j = 0; j * r < a->nr; j++)
		kn_gemm_cpu(d, true, false, r, a->in, a->t, 1, (const float *)a->ds + j * r, a->ld_ds, a->masks ? masked(d, a, j) : a->x,
		            a->masks ? a->in : a->ldx, 1, NULL, a->da + j * r * a->in, a->in, true);
	part(d, a->squares, 0, a->da, a->nr * a->in, a->nr * a->in);
}

void kn_adapter_through_cpu(struct device *d, const struct kn_adapter_outer *a)
{
	const struct kn_adapter_masks *m = a->masks;

	for (int64_t j = 0; j * m->rank < a->nr; j++) {
		kn_gemm_cpu(d, false, false, a->t, a->in, m->rank, 1, (const float *)a->ds + j * m->rank, a->ld_ds, (const float *)a->a + j * m->rank * a->lda, a->lda, 0, NULL,
		            m->room, a->in, false);
		kn_dropout_cpu(d, a->x, a->ldx, m->room, a->in, m->rec, m->pos, a->t, a->in, m->key[j], true);
	}
}
