/* A group of projections for few rows, straight from the weights as they lie in memory: decoding, where every weight
 * is read once for a handful of tokens.
 *   v = x W^T + scale * (x A^T) B^T        W: the group's parts end to end (out, in), A and B as in adapter.h
 *   v = factor v                           DoRA's (dora.h): factor (out) fp32, or NULL
 *   y = v + bias + add                     (T, out); bias (out) fp32 and add (T, out) with y's row stride, or NULL
 *   y = silu(v[.., 0 .. F)) * v[.., F .. 2F)   gated: (T, F), two parts of F rows each; neither bias nor add
 * x (T, in), y and add are of the activation type with row strides. W is NF4 (q), or dense (out, in) of the
 * activation type with row stride ldw. y may be add.
 *
 * Error: sums of fp32. The CPU takes W's elements as nf4.h dequantises them. CUDA rounds NF4's sixteen levels to bf16
 * once, multiplies the scale of a block of 64 in fp32 to the block's sum; A is rounded to bf16, B is not, or it and x A^T are pairs of
 * bf16 whose products lack 3 2^-18 of themselves. So against
 * fp64 |err| <= (2^-9 + 2^-16 + (in + rank + 4) 2^-24) (sum |x w| + scale sum |x a| |b|), and one rounding to y's type (a factor multiplies it, a gate
 * passes on at most 1.1 of its input's error, and its factors are not rounded before it).
 * A row's bits follow from its own x, from the shapes (in, out, parts, rank) and from the planned number of rows: neither
 * from T nor from the other rows. No atomics on floats. */
#ifndef LP_KERNELS_SKINNY_H
#define LP_KERNELS_SKINNY_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/adapter.h"
#include "kernels/nf4.h"

struct kn_skinny {
	int64_t t, in, out;
	int64_t planned;              /* the most rows that the caller will ever have, t of this call or more */
	const void *x;
	int64_t ldx;
	void *y;
	int64_t ldy;
	const void *add;
	const float *factor, *bias;
	bool gated;
	int n;                        /* parts; q of each, or dense */
	int64_t row[KN_PARTS], rows[KN_PARTS];
	struct nf4 q[KN_PARTS];       /* all plain, or none */
	const void *dense;            /* NULL: NF4 */
	int64_t ldw;
	struct kn_adapters adapters;  /* n 0: none; its in, out, pad are not read */
	void *scratch;                /* kn_skinny_scratch bytes, cleared once; every call leaves it fit for the next */
};

struct device;
typedef void kn_skinny_fn(struct device *d, const struct kn_skinny *s);
/* Bytes for at most t rows, inputs of at most in, and n adapters of a rank together. */
typedef uint64_t kn_skinny_scratch_fn(const struct device *d, int64_t t, int64_t in, int64_t ranks);
kn_skinny_fn kn_skinny_cpu;
kn_skinny_scratch_fn kn_skinny_scratch_cpu, kn_skinny_scratch_cuda; /* the latter is arithmetic, and needs no GPU */

/* How skinny.cu cuts x A^T: pieces of so many columns, whose sums are folded in order. */
enum { KN_SKINNY_PIECE = 512, KN_SKINNY_COUNTERS = 256, KN_SKINNY_TOLD = 2 << 20 };
static inline int64_t kn_skinny_pieces(int64_t in)
{
	return (in + KN_SKINNY_PIECE - 1) / KN_SKINNY_PIECE;
}

#endif
