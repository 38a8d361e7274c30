/* Causal grouped-query attention over sequences laid end to end, which never
 * see one another. q (T, NH * D), k, v (T, NKV * D), each with a row stride; query
 * head h reads key head h / (NH / NKV).
 *   S = scale q k^T over keys j <= i, and i - j < window when window > 0
 *   o = softmax(S) v,  lse[t][h] = log sum_j e^S      (T, NH)
 * Backward recomputes the probabilities from lse in blocks of queries; no T x T
 * matrix is kept:
 *   D = rowsum(do o);  P = e^(S - lse);  dS = P (do v^T - D)
 *   dq = scale dS k;  dk += scale dS^T q;  dv += P^T do
 * dq, dk, dv are overwritten, with the strides of q, k, v.
 * Error: fp32 products. An error in a score is a relative error of its
 * probability, and a score carries 2^-24 of its own size a few times over: against
 * fp64 each result is within (2e-6 + 2^-23 max|S|) of the largest absolute value
 * of its tensor, for sequences up to 300.
 * Determinism: a work item is one sequence and key head; its order is fixed. */
#ifndef LP_KERNELS_ATTN_H
#define LP_KERNELS_ATTN_H

#include <stdint.h>

struct kn_attn_shape {
	int64_t n_heads, n_kv, head_dim;
	int64_t ldq, ldk, ldv, ldo; /* row strides in elements */
	int64_t window;             /* 0: none */
	float scale;
	int64_t n_seqs;
	const int32_t *seq_start;   /* (n_seqs + 1) token offsets, host memory */
	float *scratch;             /* kn_attn_scratch floats */
};
struct device;
/* Floats of scratch for sequences of at most max_len tokens. */
int64_t kn_attn_scratch(const struct device *d, int64_t max_len, int64_t head_dim);

typedef void kn_attn_fwd_fn(struct device *d, const struct kn_attn_shape *s, const float *q, const float *k, const float *v, float *o, float *lse);
typedef void kn_attn_bwd_fn(struct device *d, const struct kn_attn_shape *s, const float *q, const float *k, const float *v, const float *o,
                            const float *lse, const float *d_o, float *dq, float *dk, float *dv);
/* One new token for each of n_seqs rows against caches: row i attends to the
 * first len[i] entries of k_cache[i], v_cache[i] (capacity, NKV * D). */
typedef void kn_attn_decode_fn(struct device *d, const struct kn_attn_shape *s, const float *q, const float *const *k_cache,
                               const float *const *v_cache, const int32_t *len, float *o);
kn_attn_fwd_fn kn_attn_fwd_cpu;
kn_attn_bwd_fn kn_attn_bwd_cpu;
kn_attn_decode_fn kn_attn_decode_cpu;

#endif
