/* DoRA: each output row of a projection has a magnitude of its own, and the adapter turns its direction:
 *   y = f (W x + scale B A x) + bias,  f = m / n,  n = |W + scale B A|, the length of that row
 * The length is a constant in the gradient, as the method has it. What is multiplied are the columns of the product
 *   u = [x | x A^T] [W | scale B]^T                                            (kernels/adapter.h)
 * so the frozen weights stay as they are while f changes from step to step:
 *   du = f dy            the gradient that [W; A], and the adapter's own gradients, want
 *   dm = sum over tokens of dy u / n
 * Lengths follow from the edges as products see them, rounded to the activation type, without the sum W + scale B A being formed:
 *   n^2 = |W|^2 + 2 <W A^T, b> + <b A A^T, b>,  b = scale B
 * in fp64 from products in fp32. Error of n: half of that of the products, relative to n^2; tests allow
 * (in + 2) 2^-24 (2 sum |w a| |b| + sum |b| |a a| |b|) in n^2, and an ulp of fp32.
 *
 * A row of zeros has the length 0 and the factor 0: it stays zero. */
#ifndef LP_KERNELS_DORA_H
#define LP_KERNELS_DORA_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/adapter.h"

/* How the CUDA side sums over tokens: in runs of so many. */
enum { KN_DORA_ROWS = 128 };

/* What a group's columns are multiplied by; where it has no adapter the factor is 1 and per is 0. */
struct kn_dora_factors {
	int64_t out;
	int n;
	int64_t rank;
	int64_t row[KN_PARTS], rows[KN_PARTS];
	const float *m[KN_PARTS];   /* (rows_j) magnitudes, or NULL: the projection has no adapter in this layer */
	const double *squares;      /* (out) |W|^2 of each row */
	const void *b;              /* (out, n * rank) scale B, row stride ldb: the right edge */
	int64_t ldb;
	const float *wa, *aa;       /* (out, n * rank) W A^T, (n * rank, n * rank) A A^T */
	float *factor, *per;        /* (out) f, and 1 / n */
};
/* y (T, out), row stride ldy, = add + f u - less + bias; add and less (T, out) with row strides, or NULL. y may be u or add. With
 * less u's error is a rounding of its type, else all is one rounding of y. */
struct kn_dora_out {
	int64_t t, out;
	const void *u, *add, *less;
	int64_t ldu, ld_add, ld_less;
	const float *factor, *bias; /* (out); bias may be NULL */
	void *y;
	int64_t ldy;
};
/* dm_j += sums of dy u per (u NULL: not wanted), du = f dy, and zeros in the pad columns behind. du may be dy. of_output: u is what kn_dora_out
 * made of it, f u + bias. A column's sum of T products is in fp32 within KN_DORA_ROWS tokens, or wider: |err| <= (KN_DORA_ROWS + 4) 2^-24
 * sum |dy u| per, and the rounding of u where it is of the output. */
struct kn_dora_back {
	int64_t t, out, pad;
	int n;
	int64_t row[KN_PARTS], rows[KN_PARTS];
	float *dm[KN_PARTS];        /* (rows_j) fp32, or NULL */
	const float *factor, *per, *bias;
	bool of_output;
	const void *dy, *u;
	int64_t ldy, ldu;
	void *du;
	int64_t ld_du;
	double *squares;            /* (kn_adapter_squares(out)) of dm afterwards, or NULL */
	void *scratch;              /* kn_dora_scratch bytes */
};
/* Gate and up, whose u stay as they are: h = silu(g) v with g = f u + bias of the first F columns, v of the next (swiglu.h). Backward
 * puts f dg and f dv where the u are, adds to dm, and with h forms that once more. back: its t, out (2 F), parts, factors, bias, u and ldu;
 * du is not read. dh (T, F). */
struct kn_dora_gate {
	struct kn_dora_back back;
	const void *dh;
	void *h;
	int64_t ldh;
};

struct device;
/* squares (out) = the sum of squares of each row of w (out, in), row stride ldw, in fp64. */
typedef void kn_row_squares_fn(struct device *d, double *squares, const void *w, int64_t ldw, int64_t out, int64_t in);
typedef void kn_dora_factors_fn(struct device *d, const struct kn_dora_factors *a);
typedef void kn_dora_out_fn(struct device *d, const struct kn_dora_out *a);
typedef void kn_dora_back_fn(struct device *d, const struct kn_dora_back *a);
typedef void kn_dora_gate_fn(struct device *d, const struct kn_dora_gate *a);
/* x (T, n), row stride ldx, from du to (f - 1) dy: x *= (f - 1) / f, 0 where f is. */
typedef void kn_dora_rest_fn(struct device *d, void *x, int64_t ldx, const float *factor, int64_t t, int64_t n);
kn_row_squares_fn kn_row_squares_cpu;
kn_dora_factors_fn kn_dora_factors_cpu;
kn_dora_out_fn kn_dora_out_cpu;
kn_dora_back_fn kn_dora_back_cpu;
kn_dora_gate_fn kn_dora_gate_fwd_cpu, kn_dora_gate_bwd_cpu;
kn_dora_rest_fn kn_dora_rest_cpu;

/* Bytes for a group of `out` rows and t tokens, and for n adapters' W A^T and A A^T, which are never there at once. */
static inline uint64_t kn_dora_scratch(int64_t t, int64_t out, int64_t inner)
{
	int64_t runs = (t + KN_DORA_ROWS - 1) / KN_DORA_ROWS, sums = runs * out, products = (out + inner) * inner;

	return (uint64_t)(sums > products ? sums : products) * sizeof(float);
}

#endif
