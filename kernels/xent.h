/* Softmax cross-entropy of the rows h (N, C) of a head W (V, C), and the gradient of h, a segment of the vocabulary at a
 * time: neither a row's logits nor the head need be there as a whole, and each row of W is read once.
 *   loss[n] = log sum_v e^z[n][v] - z[n][target[n]],  z = h W^T     (nats, fp64)
 *   dh[n]   = scale * sum_v (softmax(z[n])[v] - [v == target[n]]) W[v]
 * For each segment in order, `first` its first row of W and `count` its rows: z = h W^T by gemm; xent_segment takes z into the rows' sums
 * and, with acc, turns it in place into
 *   p[n][v] = u e^(z[n][v] - max[n]), 0 where v is the target;
 * gemm adds p W to acc (the first one overwrites it). max is the greatest logit so far, and acc is brought to a new one before
 * p W comes; u is a power of two of the device's. Of a target in the segment, W's row goes to dh. After the last:
 *   xent_end: loss, and dh[n] <- scale / sum[n] * (acc[n] / u - others[n] * dh[n]), others the sum without the target's.
 * The target is kept apart because where it is predicted well the others are all that the gradient is made of, and 1 less would
 * round them away.
 * Sums within a segment are taken in fp32 (lanes over chunks of 4096) and folded in fp64, so the loss agrees with fp64 to 1e-6
 * relative for V up to 2^20. What is not finite in z makes the row's loss and gradient not finite. */
#ifndef LP_KERNELS_XENT_H
#define LP_KERNELS_XENT_H

#include <stdint.h>

struct device;
struct kn_xent_row {
	double others;   /* sum of e^(z - max) over what was seen, without the target */
	float max, at_target;
};
struct kn_xent { /* device memory */
	int64_t n, c;
	const int32_t *target;    /* (N) */
	struct kn_xent_row *rows; /* (N) */
	float *acc;               /* (N, C), or NULL: the loss alone */
	void *dh;                 /* (N, C) activations */
};
/* z (N, count), row stride ldz; w (count, C) activations, not read without acc. scale lies in device memory: a recording (device.h)
 * serves every step. */
typedef void kn_xent_segment_fn(struct device *d, const struct kn_xent *x, void *z, int64_t ldz, const void *w, int64_t first, int64_t count);
typedef void kn_xent_end_fn(struct device *d, const struct kn_xent *x, double *loss, const float *scale);
/* Where the head is trained too its rows' gradients want every logit of a row with the row's whole sum: z (N, V), row stride ldz, gives
 * the losses and becomes its own gradient,
 *   z[n][v] <- scale * (softmax(z[n])[v] - [v == target[n]]),
 * the target's from the sum of the others. Sums and errors as above, and one rounding to the activation type. */
typedef void kn_xent_whole_fn(struct device *d, void *z, int64_t ldz, int64_t n, int64_t v, const int32_t *target, double *loss, const float *scale);
kn_xent_whole_fn kn_xent_whole_cpu;
kn_xent_segment_fn kn_xent_segment_cpu;
kn_xent_end_fn kn_xent_end_cpu;

#endif
