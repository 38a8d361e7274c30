/* A model's frozen weights on a device, laid out by the plan and filled from a
 * model source tensor by tensor: 16- or 32-bit as they come, or quantised to
 * NF4 on the way (peak host memory: under two tensors). */
#ifndef LP_MODEL_WEIGHTS_H
#define LP_MODEL_WEIGHTS_H

#include "base/layout.h"
#include "kernels/device.h"
#include "model/arch.h"
#include "model/source.h"

struct wmat {
	int64_t rows, cols; /* (out, in); the embedding: (vocab, hidden) */
	bool nf4;
	enum dtype dtype;   /* of data */
	void *data;         /* (rows, cols), NULL with nf4 */
	struct nf4 q;
	float *bias;        /* (rows) fp32, or NULL */
	float *cache;       /* (rows, cols) fp32: the widened weight, or NULL */
};
struct layer_weights {
	struct wmat lin[LIN_N];
	float *norm1, *norm2; /* (hidden) */
};
struct weights {
	struct model_desc desc;
	bool nf4;
	enum dtype dtype;     /* of the matrices in the source */
	int64_t cached_layers; /* the first of them keep a widened copy */
	struct wmat embed, head; /* head.data is embed.data when tied */
	float *norm;          /* (hidden), the final norm */
	struct layer_weights *layers;
	char identity[72];    /* model_source_identity, "" before the load */
};

/* Describes (no memory yet). dtype: what the matrices will be read as. */
void weights_init(struct weights *w, const struct model_desc *m, enum dtype dtype, bool nf4);
void weights_release(struct weights *w); /* the description; memory is the layout's */
/* Takes room for the weights, and for the widened copies of cached_layers. */
void weights_layout(struct weights *w, struct layout *l, struct layout *cache);
/* Fills them. Every tensor must be there, of its shape, 16/32-bit float. */
int weights_load(struct weights *w, struct model_source *s, struct device *d, struct err *e) LP_MUST_USE;
/* The matrix as fp32 (rows, cols): its cache, its data, or widened into scratch (rows * cols floats). */
const float *weights_f32(struct device *d, const struct wmat *m, float *scratch);
/* The dtype of the source's projections. */
enum dtype weights_source_dtype(const struct model_source *s, enum dtype dflt);
/* Floats of the largest projection. */
int64_t weights_largest(const struct model_desc *m);

#endif
