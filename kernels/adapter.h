/* A group's adapters beside its frozen weights. Projections that read the same
 * input are rows of one dense matrix G (out + pad, ldg); with n adapters of rank r
 *   G[row_j .. row_j + rows_j)[in + j r .. in + (j + 1) r) = scale * B_j
 *   G[out + j r .. out + (j + 1) r)[0 .. in)               = A_j
 * and zero in the rest of columns in .. in + pad and of rows out .. out + pad. So
 *   [x | x A^T] G^T is the projection with its adapters, and
 *   [dy | dy scale B] G its gradient, in one product each.
 * a (n * r, in) and b (rows_j, r) fp32, rounded once to the activation type. */
#ifndef LP_KERNELS_ADAPTER_H
#define LP_KERNELS_ADAPTER_H

#include <stdint.h>

enum { KN_PARTS = 3 }; /* projections in a group, at most */

struct kn_adapters {
	int64_t in, out, pad; /* pad >= n * rank */
	int n;
	int64_t rank;
	float scale;
	const float *a;
	const float *b[KN_PARTS];
	int64_t row[KN_PARTS], rows[KN_PARTS];
};
struct device;
typedef void kn_adapter_place_fn(struct device *d, void *g, int64_t ldg, const struct kn_adapters *a);
kn_adapter_place_fn kn_adapter_place_cpu;

#endif
