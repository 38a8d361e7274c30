/* A group's adapters beside its frozen weights. Projections that read the same
 * input are rows of one dense matrix G (out + pad, ldg); with n adapters of rank r
 *   G[row_j .. row_j + rows_j)[in + j r .. in + (j + 1) r) = scale * B_j
 *   G[out + j r .. out + (j + 1) r)[0 .. in)               = A_j
 * and zero in the rest of columns in .. in + pad and of rows out .. out + pad. So
 *   [x | x A^T] G^T is the projection with its adapters, and
 *   [dy | dy scale B] G its gradient, in one product each.
 * a (n * r, in) and b (rows_j, r) fp32, rounded once to the activation type. Its two edges may also be matrices of their own. */
#ifndef LP_KERNELS_ADAPTER_H
#define LP_KERNELS_ADAPTER_H

#include <stdint.h>

#include "kernels/dropout.h"

enum { KN_PARTS = 3 }; /* projections in a group, at most */
/* How adapter.cu cuts its one pass: tokens in a block, and pieces of columns at the most. */
enum { KN_ADAPTER_ROWS = 512, KN_ADAPTER_PIECES = 64 };
/* And the outer side: runs of tokens at the most. */
enum { KN_ADAPTER_RUNS = 8 };

/* Where gradients are added to, their squares are summed up too, so that their norm needs no pass of its own: parts whose sum is that of
 * the squares as they are afterwards. So many parts for n gradients: */
static inline int64_t kn_adapter_squares(int64_t n)
{
	return n / 1024 + KN_PARTS;
}

struct kn_adapters {
	int64_t in, out, pad; /* pad >= n * rank */
	int n;
	int64_t rank;
	float scale;
	const float *a;
	const float *b[KN_PARTS];
	int64_t row[KN_PARTS], rows[KN_PARTS];
};
/* Backward of the inner side. dy (T, out + pad), row stride ldy; b the right edge of G (out, n * r), row stride
 * ldg, scale in it; s (T, n * r), row stride ld_s, the inner values x A^T:
 *   dy[.., out + j r ..) = dy_j scale B_j          (T, r) each
 *   db_j += scale * dy_j^T s_j                     (rows_j, r) fp32
 * One pass over dy. Error: that of the two products. */
struct kn_adapter_grad {
	int64_t t, out;
	int n;
	int64_t rank;
	float scale;
	int64_t row[KN_PARTS], rows[KN_PARTS];
	void *dy;
	int64_t ldy;
	const void *b;
	int64_t ldg;
	const void *s;
	int64_t ld_s;
	float *db[KN_PARTS];
	double *squares; /* (kn_adapter_squares(out * rank)), or NULL */
	void *scratch; /* kn_adapter_scratch bytes */
};
/* Dropout on what the adapters see: a mask m_j for each of them (dropout.h), rank inner values apart. */
struct kn_adapter_masks {
	int64_t rank;
	const int32_t *rec, *pos; /* (T) */
	struct kn_dropout_key key[KN_PARTS];
	void *room;               /* (T, in) of the activation type, for what is not masked on its way */
};
/* The skinny products of the outer side; x (T, in), row stride ldx, nr = n * rank. Without masks m_j is 1.
 * down:    s_j (T, rank) = (m_j x) A_j^T, put behind the rows of x; a (nr, in) of the activation type, row stride lda.
 * outer:   da_j (rank, in) fp32 += ds_j^T (m_j x); ds (T, nr), row stride ld_ds.
 * through: x += sum over j of m_j (ds_j A_j), x a gradient; only with masks. */
struct kn_adapter_outer {
	int64_t t, in, nr;
	void *x;
	int64_t ldx;
	const void *a;  /* down */
	int64_t lda;
	const void *ds; /* outer */
	int64_t ld_ds;
	float *da;
	void *scratch;  /* kn_adapter_scratch bytes */
	const struct kn_adapter_masks *masks; /* NULL: none */
	double *squares; /* outer: (kn_adapter_squares(nr * in)), or NULL */
};
struct device;
typedef void kn_adapter_outer_fn(struct device *d, const struct kn_adapter_outer *a);
typedef void kn_adapter_grad_fn(struct device *d, const struct kn_adapter_grad *a);
/* Bytes for a group of `in` columns, `out` rows, n adapters, t tokens. */
typedef uint64_t kn_adapter_scratch_fn(const struct device *d, int64_t t, int64_t in, int64_t out, int n, int64_t rank);
/* Fills the right edge (out, pad), row stride ld_right, and the lower one (pad, in), row stride ld_lower. */
typedef void kn_adapter_place_fn(struct device *d, void *right, int64_t ld_right, void *lower, int64_t ld_lower, const struct kn_adapters *a);
kn_adapter_place_fn kn_adapter_place_cpu;
kn_adapter_outer_fn kn_adapter_down_cpu, kn_adapter_outer_cpu, kn_adapter_through_cpu;
kn_adapter_grad_fn kn_adapter_grad_cpu;
kn_adapter_scratch_fn kn_adapter_scratch_cpu, kn_adapter_scratch_cuda; /* the latter is arithmetic, and needs no GPU */

#endif
