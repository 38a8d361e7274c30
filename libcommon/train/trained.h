/* Weights of the base that are trained themselves: all of them, or some of its tables.
 * Each tensor is a named slice of memory that the engine's weights have anyway; this adds its
 * gradient. A weight that products read in 16 bits has what fp32 has beyond it among the
 * optimiser's states (kernels/adam.h), so that nothing is kept twice.
 *
 * Gradients of projections are of the activation type where a step is one product for each (its rounding is that of the weights'
 * own type, once), and fp32 where several are added up; those of tables, norms and biases, which are sums in every step, are fp32. */
#ifndef LP_TRAIN_TRAINED_H
#define LP_TRAIN_TRAINED_H

#include "base/layout.h"
#include "model/weights.h"

enum { TRAIN_LAYERS = 1, TRAIN_EMBED = 2, TRAIN_HEAD = 4 }; /* the last norm goes with the layers */

struct trained_tensor {
	char name[ARCH_NAME];
	int64_t rows, cols, n; /* cols 0: a vector, n is rows */
	int64_t at;            /* its first value among all of them */
	bool halves;           /* 16 bits on the device, the rest is the optimiser's; else fp32 */
	bool g_once;           /* its gradient is in grads_once, else in grads */
	int64_t g_at;          /* first element there */
	void *p;               /* the weight */
};
struct trained {
	unsigned what;
	bool wide;             /* gradients of projections are added up too */
	enum dtype act;
	struct trained_tensor *tensors; /* matrices, which decay; from vectors on norms and biases, which do not */
	int64_t n_tensors, vectors;
	int64_t n;             /* parameters */
	int64_t n_once, n_grads;
	void *grads_once;      /* (n_once) of the activation type, device: each is written once in a step */
	float *grads;          /* (n_grads): what is added up, from 0 */
	int64_t embed, head, norm; /* their tensors, -1: not trained; a tied head is the embedding */
	int64_t *layer_vec;    /* (layers): the first of a layer's vectors */
};

/* wide: a step adds up several products for each projection. */
void trained_init(struct trained *t, const struct model_desc *m, const struct device *d, unsigned what, bool wide);
void trained_release(struct trained *t);
/* Takes room for the gradients, and finds the weights, which are laid out. */
void trained_layout(struct trained *t, const struct weights *w, const struct device *d, struct layout *to);
/* Where a tensor's gradient is. */
void *trained_grad(const struct trained *t, int64_t tensor);
/* Of a group of projections end to end, NULL: not trained. */
void *trained_group_grad(const struct trained *t, int64_t layer, enum linear_group g);
/* Of a layer's norms (layer -1: the last one), of a projection's bias: NULL: not trained, or not there. */
float *trained_norm_grad(const struct trained *t, int64_t layer, bool second);
float *trained_bias_grad(const struct trained *t, const struct model_desc *m, int64_t layer, enum linear_slot s);
/* Of a table; the head's is the embedding's where they are tied. */
float *trained_table_grad(const struct trained *t, bool head);
/* A micro-batch's tokens in the order of their ids, and where each id's begin (kernels/embed.h): by_id (n), run (n + 1). */
void trained_sort_ids(const int32_t *ids, int64_t n, int32_t *by_id, int32_t *run);

#endif
