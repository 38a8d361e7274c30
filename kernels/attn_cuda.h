/* Causal grouped-query attention on CUDA: the mathematics of attn.h in bf16 or
 * fp16, with fp32 accumulation. Sequences lie end to end and never see one
 * another; nothing is padded. scale is positive.
 *   S = scale q k^T, then softcap * tanh(S / softcap) when softcap > 0
 * q (T, NH * D), k, v (T, NKV * D), o (T, NH * D), each with a row stride in
 * elements; all are 16-byte aligned; dq, dk, dv have the strides of q, k, v, and d_o that of o. lse
 * (T, NH) fp32 without gaps. Results are overwritten, in every element of the
 * tokens that a sequence owns, and nowhere else.
 * Error: probabilities and their gradients are rounded to the 16-bit type before
 * the second product, results once at the end; all else is fp32, as in every flash
 * attention. In relative L2 against fp64, bf16: o 2.1e-3, dq, dk, dv 3.5e-3 (PyTorch's:
 * 2.0e-3, 3.0e-3), an eighth of that in fp16. Where few keys or columns average them, the
 * rounding of o enters dq and dk as 2^-9 |do| |o|: up to 2e-2 for sequences of a few tokens.
 * Determinism: no atomics on floats; every sum has an order fixed by its own
 * sequence, so that a sequence's results do not depend on its neighbours.
 * Rows that no sequence owns, up to n_tokens, and other sequences' must be finite
 * (a product with a masked zero may read them).
 * The launchers allocate nothing, wait for nothing, and may be captured in a
 * graph. They return 0 or a cudaError_t. */
#ifndef LP_KERNELS_ATTN_CUDA_H
#define LP_KERNELS_ATTN_CUDA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ATTN_TILE 128

enum attn_dtype { ATTN_BF16, ATTN_F16 };
/* Kernels, best first; AUTO takes the first that the device and the shape allow. The others are for tests. */
enum attn_path { ATTN_AUTO, ATTN_SM90, ATTN_MMA, ATTN_PLAIN };

struct attn_cuda {
	int n_heads, n_kv, head_dim; /* head_dim 1..256 */
	int64_t ldq, ldk, ldv, ldo;  /* row strides in elements */
	int window;                  /* 0: none */
	float scale, softcap;        /* softcap 0: none */
	int n_tokens, n_seqs, max_len; /* rows of q; no sequence is longer than max_len */
	const int32_t *seq_start;    /* (n_seqs + 1) token offsets, device memory */
	const int32_t *tiles;        /* attn_tiles of attn.h, in device memory; pairs of sequence -1 are skipped */
	int n_tiles;
	enum attn_dtype dtype;
	enum attn_path path;
	int room;                    /* bytes of shared memory that a thread block may have, 0: what the device gives */
};

struct CUstream_st; /* cudaStream_t is a pointer to it */

/* The path that a call takes on the current device. */
enum attn_path attn_path(const struct attn_cuda *s);

int attn_fwd_cuda(struct CUstream_st *stream, const struct attn_cuda *s, const void *q, const void *k, const void *v, void *o, float *lse);
int64_t attn_bwd_workspace(const struct attn_cuda *s); /* bytes; 256-byte aligned memory, need not be cleared */
int attn_bwd_cuda(struct CUstream_st *stream, const struct attn_cuda *s, const void *q, const void *k, const void *v, const void *o,
                  const float *lse, const void *d_o, void *dq, void *dk, void *dv, void *workspace);

/* One new token for each of n_seqs rows of q (n_seqs, NH * D), o likewise: row i attends to the first len[i] >= 1 entries
 * (at most max_len) of k_cache + slot[i] * slot_stride, entry j at j * ldk, and so v_cache with ldv. slot NULL: slot i is row i.
 * n_tiles is the batch that the work is planned for, or 0; seq_start, tiles, n_tokens are not read. Who shares a row's keys
 * follows from max_len and n_tiles, and results are merged in order: a row's bits depend on those two, not on the other rows
 * or on how many they are. The workspace (for the largest n_seqs) is cleared once, when it is allocated; every call leaves it
 * fit for the next. */
int64_t attn_decode_workspace(const struct attn_cuda *s); /* bytes */
int attn_decode_cuda(struct CUstream_st *stream, const struct attn_cuda *s, const void *q, const void *k_cache, const void *v_cache,
                     int64_t slot_stride, const int32_t *slot, const int32_t *len, void *o, void *workspace);

#ifdef __cplusplus
}
#endif
#endif
