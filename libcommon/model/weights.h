/* A model's frozen weights on a device, laid out by the plan and filled from a
 * model source tensor by tensor: 16- or 32-bit as they come, or quantised to
 * NF4 on the way, or in NF4 already: bitsandbytes' codes and scales, kept as they
 * are (peak host memory: under two tensors).
 *
 * Projections that read the same input are one group, whose dense form is one
 * matrix (out + pad, in + pad) of the device's activation type, with room for the
 * group's adapters at its right and lower edges (kernels/adapter.h). A base of that
 * type lives in this form; any other is brought into it when it is used, or once
 * and for all where the plan has room (cached_layers). */
#ifndef LP_MODEL_WEIGHTS_H
#define LP_MODEL_WEIGHTS_H

#include "base/layout.h"
#include "fmt/peft.h"
#include "kernels/device.h"
#include "model/arch.h"
#include "model/source.h"

struct wmat {
	int64_t rows, cols; /* (out, in); the embedding: (vocab, hidden) */
	bool nf4;
	enum dtype dtype;   /* of data */
	void *data;         /* (rows, cols), NULL with nf4 and for parts of a dense group */
	struct nf4 q;
	unsigned have;      /* of a 4-bit checkpoint: the parts that have come, a bit each (bnb.h) */
};
struct wgroup {
	int64_t in, out, pad, ld; /* ld = in + pad */
	int n;                    /* projections: slots first .. first + n */
	enum linear_slot first;
	int64_t row[KN_PARTS];    /* where each one's rows begin */
	bool kept;                /* of a 4-bit checkpoint: not all of it is in 4 bits, so it lives in dense form */
	void *dense;              /* (out + pad, ld), or NULL: made when used */
	struct fp8_mat w8, w8t;   /* fp8: (out, in + tail), and turned (in, out + tail); q NULL: none */
	int64_t tail;
	void *right, *lower;      /* edges without a dense form between them (kernels/adapter.h), or NULL */
	float *bias;              /* (out) fp32, or NULL */
};
struct layer_weights {
	struct wmat lin[LIN_N];
	struct wgroup grp[GRP_N];
	float *norm1, *norm2; /* (hidden) */
};
struct weights {
	struct model_desc desc;
	bool nf4;
	enum dtype dtype;     /* of the matrices on the device */
	bool dense;           /* they live in dense form */
	bool fp8;             /* projections have forms of 8 bits beside their own (kernels/fp8.h) */
	int64_t cached_layers; /* the first of them keep a dense copy */
	bool host_embed;      /* the embedding stays in host memory */
	int64_t head_rows;    /* the first of the head that are on the device; the others stay in host memory, tied ones with host_embed alone */
	struct wmat embed, head; /* head.data is embed.data when tied, unless that is in host memory */
	void *head_host;      /* rows head_rows .. of the head, or NULL */
	float *norm;          /* (hidden), the final norm */
	struct layer_weights *layers;
	char identity[72];    /* model_source_identity, "" before the load */
};

/* Describes (no memory yet). dtype: what the source's matrices are; pad: what each group's adapters add; tail: what they add to
 * the forms of 8 bits, NULL: there are none. */
void weights_init(struct weights *w, const struct device *d, const struct model_desc *m, enum dtype dtype, bool nf4, const int64_t pad[GRP_N],
                  const int64_t *tail);
/* Where the embedding, or the head, is loaded to: its first on_device rows, and its last on_host ones. With tied weights the
 * embedding is the head's too. */
struct table_place {
	void *device, *host;
	int64_t on_device, on_host;
};
struct table_place weights_table(const struct weights *w, bool head);
void weights_release(struct weights *w); /* the description; memory is the layout's */
/* Takes room for the weights, for the dense copies of cached_layers, and in host memory for what stays there. */
void weights_layout(struct weights *w, const struct device *d, struct layout *l, struct layout *cache, struct layout *host);
/* Fills them, with weights_room bytes of device memory for a time: those lent, if they are enough. Every tensor must be there, of
 * its shape, 16/32-bit float, or the parts of a 4-bit matrix (bnb.h) in any order. */
int weights_load(struct weights *w, struct model_source *s, struct device *d, void *lent, uint64_t lent_bytes, struct err *e) LP_MUST_USE;
/* Behind it: tables that an adapter brings take the place of the base's (peft_saved). LP_DATA when they do not fit, LP_USAGE where embedding and head are one. */
int weights_take_saved(struct weights *w, struct device *d, const struct peft *p, struct err *e) LP_MUST_USE;
/* Device memory that loading needs beside the layout's, for a time. */
uint64_t weights_room(const struct weights *w);
/* Where a quantised matrix's codes go (room: weights_room bytes), and, when they are there, what follows from them. */
void weights_codes(struct weights *w, int64_t layer, enum linear_slot s, void *room, struct nf4 *q);
void weights_put(struct weights *w, struct device *d, int64_t layer, enum linear_slot s, const struct nf4 *q);
/* The group's dense form without its adapters: its own, or made in scratch. */
void *weights_dense(struct device *d, const struct layer_weights *lw, enum linear_group g, void *scratch);
/* With fp8: makes the forms of 8 bits of weights that are there; scratch has room for the largest group, or is NULL with dense ones. */
void weights_to_fp8(struct weights *w, struct device *d, void *scratch);
/* The dtype of the source's matrices, or of those that are not in 4 bits. */
enum dtype weights_source_dtype(const struct model_source *s, enum dtype dflt);
/* Elements of the largest group's dense form. */
int64_t weights_largest(const struct weights *w);

#endif
