/* What both sides of an adapter's gradients do where they are finished. */
#ifndef LP_KERNELS_ADAPTER_CUH
#define LP_KERNELS_ADAPTER_CUH

#include "kernels/cuda.cuh"

/* The thread block's part of adapter.h's squares, of a launch whose threads have four of the n gradients each; the parts that no block
 * has are 0. All threads of the block call it. */
static __device__ __forceinline__ void leave_squares(float4 g, double *squares, int64_t n)
{
	__shared__ double shared[33];
	double s;

	if (!squares)
		return;
	s = (double)g.x * (double)g.x + (double)g.y * (double)g.y + ((double)g.z * (double)g.z + (double)g.w * (double)g.w);
	s = block_sum(s, shared);
	if (threadIdx.x == 0)
		squares[blockIdx.x] = s;
	if (blockIdx.x == 0 && gridDim.x + threadIdx.x < n / 1024 + KN_PARTS)
		squares[gridDim.x + threadIdx.x] = 0;
}

/* The one pass over dy: its partial sums (adapter_inner.cu). */
struct grad_piece { /* of the grid's second dimension */
	int part, first, chunks; /* columns from row[part] + first * the kernel's chunk */
};
struct grad_args {
	int64_t t, ldy, ldg, ld_s, out;
	int64_t blocks, rows; /* of tokens: partial sums of dB; rows of each piece's of dS */
	const act_t *dy, *b, *s;
	float *db_part, *ds_part; /* (blocks, out, rank); (pieces, rows, rank) behind it */
	int n_pieces;
	int row[KN_PARTS];
	struct grad_piece piece[KN_ADAPTER_PIECES];
};

/* Columns in pieces of `each` chunks, none of which goes beyond its part; false when they are too many. */
static inline bool cut_pieces(struct grad_args *g, const struct kn_adapter_grad *a, int64_t chunk, int64_t each)
{
	g->n_pieces = 0;
	for (int j = 0; j < a->n; j++)
		for (int64_t c = 0; c < a->rows[j] / chunk; c += each) {
			int64_t left = a->rows[j] / chunk - c;

			if (g->n_pieces == KN_ADAPTER_PIECES)
				return false;
			g->piece[g->n_pieces++] = { j, (int)c, (int)(left < each ? left : each) };
		}
	return true;
}

/* adapter_sm90.cu: false where the device or the shapes are not for it. The partial sums of outer are `runs` of (nr, in) in scratch; grad
 * fills in what follows from its own cut. */
bool adapter_down_sm90(struct device *d, const struct kn_adapter_outer *a);
bool adapter_outer_sm90(struct device *d, const struct kn_adapter_outer *a, int *runs);
bool adapter_grad_sm90(struct device *d, const struct kn_adapter_grad *a, struct grad_args *g);

#endif
