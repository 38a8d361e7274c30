/* Forward and backward of a decoder, written out by hand: no graph, no
 * allocation in a step. One engine holds a model's weights, its adapter and the
 * buffers of a micro-batch, all laid out by engine_plan before memory is touched. */
#ifndef LP_TRAIN_ENGINE_H
#define LP_TRAIN_ENGINE_H

#include "base/layout.h"
#include "kernels/device.h"
#include "model/weights.h"
#include "train/data.h"
#include "train/lora.h"
#include "train/optim.h"

enum { ARENA_WEIGHTS, ARENA_ADAPTER, ARENA_ACTIVATIONS, ARENA_SCRATCH, ARENA_CACHE, ARENA_N };

/* What one layer keeps of a micro-batch for its backward pass; all (T, ...) fp32. */
struct acts {
	float *y1, *rstd1;      /* (T, C), (T): input of q, k, v */
	float *q, *k, *v;       /* (T, NH*D), (T, NKV*D) after rotary */
	float *o, *lse;         /* (T, NH*D), (T, NH) */
	float *x2, *y2, *rstd2; /* (T, C), (T, C), (T): residual stream, input of gate and up */
	float *g, *u, *h;       /* (T, F) */
	float *s[LIN_N];        /* (T, r): x A^T of each adapter */
};

struct engine_shape {
	int64_t max_tokens; /* of a micro-batch */
	int64_t max_seq;    /* longest sequence */
	bool train;         /* backward too */
	struct optim *optim; /* its states are part of the plan; NULL: none */
	uint64_t budget;    /* bytes the whole plan may take; 0: no limit */
};

struct engine {
	struct device *dev;
	struct weights w;
	struct lora *lora;       /* NULL: the base alone */
	struct engine_shape shape;
	int64_t kept;            /* layers that keep their activations; the others run forward again in backward */
	struct layout plan[ARENA_N];
	void *memory[ARENA_N];

	float **x1;              /* (layers) x (T, C): the residual stream at each layer; not training: all one buffer */
	struct acts *acts;       /* (layers): own, or the shared one */
	float *x_final, *rstd_final, *y_final; /* (T, C), (T), (T, C) */
	float *delta;            /* (T, C) what a sub-layer adds */
	float *d_res, *d_y;      /* (T, C) gradients */
	float *d_q, *d_k, *d_v, *d_o, *d_h; /* (T, ...) */
	float *d_s, *xd;         /* (T, r), (T, widest in) for adapters */
	float *wide;             /* one projection, widened */
	float *wide_head;        /* rows of the head, widened */
	float *hid, *d_hid;      /* (chunk, C) rows that predict */
	float *logits;           /* (chunk, V) */
	double *nll;             /* (max_tokens) */
	float *attn_scratch;
	float *cos_tab, *sin_tab; /* (max_seq, D/2) */
	int64_t chunk;           /* rows of logits at a time */
	int64_t head_rows;       /* vocabulary rows widened at a time */

	bool dropout_on;
	struct kn_dropout_key dropout;
};

/* Lays everything out for the device's threads (dev) without allocating: fills
 * plan[].used and items, and decides kept and cached layers within the
 * budget. LP_DEVICE when even the smallest plan does not fit. lora is initialised
 * (lora_init) or NULL. */
int engine_plan(struct engine *g, struct device *dev, const struct model_desc *m, enum dtype base, bool nf4,
                struct lora *lora, const struct engine_shape *shape, struct err *e) LP_MUST_USE;
uint64_t engine_bytes(const struct engine *g);
int engine_alloc(struct engine *g, struct err *e) LP_MUST_USE;
void engine_release(struct engine *g);

/* Mask of this optimiser step's dropout. */
void engine_set_dropout(struct engine *g, bool on, uint64_t seed, int64_t step);

/* Forward over b: the negative log-likelihood of each target in g->nll (b->n_targets). With grad the
 * gradient of scale * sum(nll) is added to the adapter's gradients. */
int engine_run(struct engine *g, const struct microbatch *b, bool grad, double scale, struct err *e) LP_MUST_USE;
/* Forward, then logits (n, V) of the given rows of the micro-batch, n at most g->chunk. */
int engine_logits(struct engine *g, const struct microbatch *b, const int32_t *rows, int64_t n, struct err *e) LP_MUST_USE;

/* --- pieces shared by the engine's files and by generation --- */

/* What runs between q, k, v and o: attention over the micro-batch, or against a cache. */
typedef void engine_attn_fn(void *ctx, struct engine *g, int64_t layer, struct acts *a, const struct microbatch *b);
engine_attn_fn engine_attn_self;
void engine_attn_shape(const struct engine *g, int64_t layer, const struct microbatch *b, struct kn_attn_shape *s);
/* The whole forward up to y_final. */
void engine_forward(struct engine *g, const struct microbatch *b, engine_attn_fn *attn, void *ctx);
/* One layer. again: its activations once more from x1, for backward: the same
 * kernels on the same input, so the same bits. */
void engine_layer(struct engine *g, int64_t i, const struct microbatch *b, engine_attn_fn *attn, void *ctx, bool again);
/* From d_y, the gradient of y_final, to the adapter's gradients. */
void engine_backward(struct engine *g, const struct microbatch *b);
/* logits (n, V) = hid (n, C) head^T. */
void engine_head(struct engine *g, const float *hid, float *logits, int64_t n);
/* Rows [first, first + *rows) of the head in fp32, as many as are there at once. */
const float *engine_head_rows(struct engine *g, int64_t first, int64_t *rows);

#endif
