/* Causal grouped-query attention over sequences laid end to end, which never
 * see one another. q (T, NH * D), k, v (T, NKV * D), each with a row stride; query
 * head h reads key head h / (NH / NKV).
 *   S = scale q k^T over keys j <= i, and i - j < window when window > 0
 *   S = softcap tanh(S / softcap) when softcap > 0
 *   o = softmax(S) v,  lse[t][h] = log sum_j e^S      (T, NH)
 * Backward recomputes the probabilities from lse in blocks of queries; no T x T
 * matrix is kept:
 *   D = rowsum(do o);  P = e^(S - lse);  dS = P (do v^T - D) (1 - (S / softcap)^2 with a cap)
 *   dq = scale dS k;  dk += scale dS^T q;  dv += P^T do
 * dq, dk, dv are overwritten, with the strides of q, k, v; d_o has that of o.
 * Error: fp32 products. An error in a score is a relative error of its
 * probability, and a score carries 2^-24 of its own size a few times over: against
 * fp64 each result is within (2e-6 + 2^-23 max|S|) of the largest absolute value
 * of its tensor, for sequences up to 300.
 * Determinism: a work item is one sequence and key head; its order is fixed. */
#ifndef LP_KERNELS_ATTN_H
#define LP_KERNELS_ATTN_H

#include <stdbool.h>
#include <stdint.h>

struct kn_attn_shape {
	int64_t n_heads, n_kv, head_dim;
	int64_t ldq, ldk, ldv, ldo; /* row strides in elements */
	int64_t window;             /* 0: none */
	float scale, softcap;       /* softcap 0: none */
	int64_t n_seqs, n_tokens;
	const int32_t *seq_start;   /* (n_seqs + 1) token offsets, host memory */
	const int32_t *seq_start_dev; /* the same, device memory */
	const int32_t *tiles;       /* (n_tiles, 2) sequence and tile in it, device memory; see attn_tiles */
	int64_t n_tiles;
	void *scratch;              /* kn_attn_scratch bytes */
	void *decode_scratch;       /* kn_decode_scratch bytes */
};

/* Sequences cut into tiles of ATTN_TILE tokens, those with most keys before them
 * first, so that the longest work starts first: pairs (sequence, tile in it). The
 * most there can be: n_tokens / ATTN_TILE + n_seqs. Returns their number. */
#define ATTN_TILE 128
int64_t attn_tiles(const int32_t *seq_start, int64_t n_seqs, int32_t *tiles);

struct device;
/* Bytes of scratch for micro-batches of at most max_tokens, sequences of at most max_seq; train: backward too. */
typedef uint64_t kn_attn_scratch_fn(const struct device *d, int64_t max_tokens, int64_t max_seq, int64_t n_heads, int64_t head_dim, bool train);
/* Bytes for decoding at most rows at once; cleared memory that nothing else uses. */
typedef uint64_t kn_decode_scratch_fn(const struct device *d, int64_t rows, int64_t max_seq, int64_t n_heads, int64_t head_dim);
typedef void kn_attn_fwd_fn(struct device *d, const struct kn_attn_shape *s, const void *q, const void *k, const void *v, void *o, float *lse);
typedef void kn_attn_bwd_fn(struct device *d, const struct kn_attn_shape *s, const void *q, const void *k, const void *v, const void *o,
                            const float *lse, const void *d_o, void *dq, void *dk, void *dv);

/* Key-value caches: slots of slot_stride elements, each (context, NKV * D). */
struct kn_kv_cache {
	void *k, *v;
	int64_t slot_stride, width; /* width: NKV * D, the row stride too */
};
/* Row t of k, v (row strides ldk, ldv of s) becomes row pos[t] of slot[t]. */
typedef void kn_kv_append_fn(struct device *d, const struct kn_attn_shape *s, const struct kn_kv_cache *c, const void *k, const void *v,
                             const int32_t *slot, const int32_t *pos, int64_t t);
/* Both at once for new tokens: rope.h's rotation of the q heads of qkv in place (all of a head turns; row stride ldq of s;
 * q, k and v of a row lie side by side), and k, rotated, and v to the cache. k in qkv is not read afterwards: it may
 * stay as it was. Error: rope.h's. */
typedef void kn_kv_turn_fn(struct device *d, const struct kn_attn_shape *s, const struct kn_kv_cache *c, void *qkv, const float *cos_tab,
                           const float *sin_tab, const int32_t *slot, const int32_t *pos, int64_t t);
/* One new token for each of n_tokens rows against its cache: row i attends to the first
 * len[i] entries of slot[i]; longest: the most of these. */
typedef void kn_attn_decode_fn(struct device *d, const struct kn_attn_shape *s, const void *q, const struct kn_kv_cache *c,
                               const int32_t *slot, const int32_t *len, int64_t longest, void *o);
/* those of CUDA are arithmetic, and need no GPU */
kn_attn_scratch_fn kn_attn_scratch_cpu, kn_attn_scratch_cuda;
kn_decode_scratch_fn kn_decode_scratch_cpu, kn_decode_scratch_cuda;
kn_attn_fwd_fn kn_attn_fwd_cpu;
kn_attn_bwd_fn kn_attn_bwd_cpu;
kn_kv_append_fn kn_kv_append_cpu;
kn_kv_turn_fn kn_kv_turn_cpu;
kn_attn_decode_fn kn_attn_decode_cpu;

#endif
