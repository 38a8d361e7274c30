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

/* What works on each token by itself takes a micro-batch in pieces, so that its buffers have no more rows than one piece, however
 * long a sequence is; attention takes it whole. The cuts are the same in every plan, since the bits of a product and of a sum over
 * tokens follow from their number. */
enum { ENGINE_PIECE = 16384 };
struct piece {
	int64_t from, n; /* rows of the micro-batch */
};

/* What one layer keeps of a micro-batch for its backward pass. Activations are of the
 * device's type. The input of a group of projections has the adapters' inner
 * values x A^T behind it in each row (weights.h, kernels/adapter.h). T is the micro-batch's tokens, or those of
 * a piece: what layers share besides qkv, o and lse. */
struct acts {
	void *y1, *qkv, *o;      /* (T, C + pad), (T, (NH + 2 NKV) * D + pad) after rotary, (T, NH*D + pad) */
	void *x2, *y2;           /* (T, C), (T, C + pad): residual stream, input of gate and up */
	void *gu, *h;            /* (T, 2F + pad): backward puts the gradient there; (T, F + pad) */
	float *rstd1, *rstd2;    /* (T) */
	float *lse;              /* (T, NH) */
	void *u[GRP_N];          /* DoRA: a group's product before its factors (T, out), where it is kept (engine_dora.c); NULL: not */
	void *s[GRP_N];          /* lean layers: a copy of x A^T (T, pad) of each group whose rows do not stay; NULL: none */
	bool near_whole;         /* y1, y2, h are there for all tokens */
	bool far_whole;          /* x2, gu, and gate's, up's and down's u too */
};

/* What becomes of a layer's activations between its forward pass and its backward one: all of them stay; all that is not an
 * element-wise step away from the rest (lean); the same, and they wait in host memory; nothing, and backward runs the layer again. */
enum keep { KEEP_FULL, KEEP_LEAN, KEEP_HOST, KEEP_NONE };
struct layer_keep {
	enum keep how;
	int set; /* of those that layers share in turn; -1: memory of its own */
};

/* DoRA: of a group in a layer, for each of its outputs (kernels/dora.h). */
struct dora_group {
	double *squares;      /* (out) of the frozen weight */
	float *factor, *per;  /* (out) */
};

/* The micro-batch on the device, and what changes from step to step: a recording of the work reads it there. */
struct inputs {
	uint64_t *seed_step;       /* of dropout's masks */
	float *scale;              /* of the loss */
	int32_t *ids, *pos, *rec;  /* (T) */
	int32_t *seq_start;        /* (n_seqs + 1) */
	int32_t *tgt_row, *tgt_id; /* (n_targets) */
	int32_t *by_id, *run;      /* (T), (T + 1): trained_sort_ids, where the embedding is trained; or NULL */
	int32_t *tiles;            /* attn_tiles */
	int64_t n_tiles;
	/* preference methods, else NULL (data.h, kernels/pref.h) */
	float *drift_of;
	double *ref;
	int32_t *tgt_start, *mate, *good;
	/* GRPO, else NULL (tgt_start too; data.h, kernels/grpo.h) */
	double *adv, *weight, *tok_old, *tok_ref;
};

/* Buffers of what travels: the residual stream, segments of the head, sets of activations that layers share (at most). */
enum { RING = 3, HEAD_RING = 2, SETS = 4 };

/* Each has a copy slot (device.h), the stream's from 0 on; so have the optimiser's pieces, inputs and sums, two of each in turn, and embeddings with noise. */
enum { SLOT_HEAD = RING, SLOT_OPTIM = SLOT_HEAD + HEAD_RING, SLOT_SETS = SLOT_OPTIM + OPTIM_RING, SLOT_INPUTS = SLOT_SETS + SETS,
	SLOT_SUMS = SLOT_INPUTS + 2, SLOT_NOISE = SLOT_SUMS + 2, SLOTS = SLOT_NOISE + 1 };

/* A micro-batch's work by shape: what launches depend on, beside memory that stays where it is. */
struct work_shape {
	int64_t n_tokens, n_seqs, n_tiles, n_targets;
	int64_t longest; /* sequence, where a window makes a difference */
	bool grad, dropout, drift;
	const struct lora *lora;
};
struct work {
	struct work_shape shape;
	void *recording;    /* NULL: none yet */
	int64_t operations; /* in it */
	uint64_t last;      /* when it was wanted last; 0: never */
	bool plain;         /* the device could not record it */
};
enum { WORKS = 8 };

enum { SUM_LOSS, SUM_SQUARES, SUM_TOLD, ENGINE_SUMS = SUM_TOLD + KN_PREF_SUMS };

struct engine_shape {
	int64_t max_tokens; /* of a micro-batch */
	int64_t max_seq;    /* longest sequence */
	bool train;         /* backward too */
	bool fp8;           /* the projections' large products in 8 bits */
	int64_t decode;     /* rows that are decoded at once, 0: none */
	int64_t beside;     /* sequences that a generator continues between training steps: with the products of training */
	const struct kn_pref_rule *pref; /* a preference method's loss in the place of the targets' (engine_pref.c); NULL: none */
	const struct kn_grpo_rule *grpo; /* GRPO's loss in their place (engine_grpo.c); NULL: none */
	double noise;       /* NEFTune's alpha: noise on the embeddings (engine_set_noise); 0: none */
	struct optim *optim; /* its states are part of the plan; NULL: none */
	struct trained *base; /* weights of the base that are trained (trained_init), or NULL; with the layers among them lora has no projection */
	uint64_t budget;    /* bytes the whole plan may take; 0: no limit */
	uint64_t host_budget; /* bytes of page-locked host memory that it may take; 0: the device's host_bytes */
	int64_t piece;      /* rows of a piece; 0: ENGINE_PIECE. Changes bits: for tests */
};

struct engine {
	struct device *dev;
	struct weights w;
	struct lora *lora;       /* NULL: the base alone */
	struct engine_shape shape;
	/* So many layers keep all their activations, so many are lean, so many lean ones travel; the others run forward again in
	 * backward. The layers that do not stay share sets with as many lean ones, the top layers. */
	int64_t full, lean, travel;
	int sets;
	bool pieced;             /* there is one set, of layers that run again, and a piece's rows are enough for it */
	struct layer_keep *keep; /* (layers) */
	bool backward;           /* the forward pass is followed by a backward one */
	int64_t away;            /* layers from the bottom whose residual stream waits for its backward pass in host memory */
	int optim_away;          /* so many sixteenths of the optimiser's states are in host memory (OPTIM_PARTS) */
	struct layout plan[ARENA_N];
	void *memory[ARENA_N];
	struct layout host_plan; /* page-locked host memory */
	void *host_memory;

	struct inputs in;
	int32_t *in_host[2];     /* the same in host memory, to be sent at once: one is filled while the other may be on its way */
	int in_turn;
	int64_t in_count;        /* int32 of in */
	void **x1;               /* (layers + 1) x (T, C): the residual stream before each layer and after the last; not training: all one
	                            buffer; those that travel have RING buffers in turn, and those right above them wait there */
	void **x1_host;          /* (layers), NULL: stays */
	void *embed_way;         /* (piece, C) rows of an embedding in host memory, on their way */
	void *noise_way;         /* (piece, C) embeddings with noise in host memory, on their way; NULL where the device's memory is the host's */
	void *noise_table;       /* (V, C) the embedding there; NULL: w.embed is */
	struct acts *acts;       /* (layers): own, or parts of shared ones */
	struct acts *acts_host;  /* (layers): where those that travel wait */
	void *d_res;             /* (T, ld_res) gradient of the residual stream, room for adapters behind it */
	int64_t ld_res;
	void *d_y, *d_o, *d_h;   /* (piece, C; or ld_res where DoRA scales what comes from above), (T, NH*D + pad), (piece, F); the last two are one buffer, and a segment of logits too */
	void *d_qkv;             /* (T, (NH + 2 NKV) * D + pad); d_acc is in the same place, they are never alive at once */
	void *xd;                /* (piece, widest in) with dropout */
	struct fp8_mat in8;      /* (piece, widest) of a product in 8 bits: its input, or the gradient of its output */
	void *adapter_scratch;   /* of the widest group */
	void *dense;             /* one group in dense form; head_ring is in the same place */
	void *head_ring;         /* HEAD_RING x (segment, C) of a head in host memory, or NULL */
	void *head_rows_at;      /* (segment, C) of the head in the activation type; NULL: the head is of it */
	void *x_hid, *hid;       /* (loss_rows, C) rows that predict, before and after the last norm; generating: chunk of them if that is more */
	float *rstd_hid;         /* as many */
	void *d_hid;             /* (loss_rows, C) */
	float *d_acc;            /* (loss_rows, C) what becomes d_hid */
	struct kn_xent_row *row_sums; /* (loss_rows) */
	void *logits;            /* (loss_rows, segment), or (chunk, V), or, where the head is trained, (loss_rows, ld_logits) */
	int64_t ld_logits;
	double *nll;             /* (max_tokens) on the device */
	double *sums;            /* (ENGINE_SUMS) on the device: losses since engine_begin; squares of the gradients; what a preference method tells */
	double *value, *factor;  /* (max_tokens) of each sequence on the device, with a preference method; GRPO: factor of each target */
	double *score_squares;   /* (1) of the gradient of a reward model's score */
	double *squares;         /* (layers of them) parts of the gradients' squares, as the last micro-batch left them (kernels/adapter.h) */
	int32_t *refused;        /* on the device: a step was not finite, and those behind it are refused (optim_sums) */
	double *sums_host[2];    /* (ENGINE_SUMS) each, in turn */
	void *attn_scratch, *decode_scratch, *skinny_scratch;
	float *col_scratch;      /* of sums of columns (kernels/vec.h), or NULL */
	float *cos_tab, *sin_tab; /* (max_seq, D/2) */
	int64_t segment;         /* rows of the head that the loss takes at a time: the shape's, since sums go by them */
	int64_t loss_rows;       /* rows that predict, of a product in the loss */
	int64_t chunk;           /* rows whose logits may be there in full */

	int64_t decode_rows;     /* what a generator with fewer rows than shape.decode sets: kernels follow from it */

	struct dora_group *dora; /* (layers * GRP_N) */
	bool dora_measured;      /* their squares are there */
	bool dora_current;       /* and the factors are of the adapter as it is */

	bool dropout_on;
	uint64_t seed_step;      /* on its way with the next micro-batch, like scale */
	float scale;
	bool drift;              /* engine_set_drift */
	double drift_of;
	bool noise_on, noise_ready; /* ready: noise_table is filled */
	uint64_t noise_seed;

	struct work works[WORKS]; /* recordings, and shapes that were seen once */
	int recordings;           /* so many of them at once: one is part of every plan, others take what it leaves of the budget */
	uint64_t wanted;          /* micro-batches so far */
	int64_t replayed, avoided; /* micro-batches that were replayed, and their operations */
};

/* Lays everything out for the device's threads (dev) without allocating: fills
 * plan[].used and items, and decides within the budget what stays, what runs again
 * and what waits in host memory. LP_DEVICE when even the smallest plan does not fit. lora is initialised
 * (lora_init) or NULL. */
int engine_plan(struct engine *g, struct device *dev, const struct model_desc *m, enum dtype base, bool nf4,
                struct lora *lora, const struct engine_shape *shape, struct err *e) LP_MUST_USE;
/* Layers whose activations nothing keeps. */
static inline int64_t engine_again(const struct engine *g)
{
	return g->w.desc.layers - g->full - g->lean - g->travel;
}
uint64_t engine_bytes(const struct engine *g); /* of the device, a recording among them; host_plan.used of the host */
int engine_alloc(struct engine *g, struct err *e) LP_MUST_USE;
/* Fills the weights; what they need on their way is the room that activations will have. */
int engine_load(struct engine *g, struct model_source *s, struct err *e) LP_MUST_USE;
void engine_release(struct engine *g);

/* Mask of this optimiser step's dropout. */
void engine_set_dropout(struct engine *g, bool on, uint64_t seed, int64_t step);

/* From here on embeddings have this optimiser step's noise, or none: uniform in +-noise / sqrt(T C) for a sequence of T tokens. A function of seed,
 * step, record, position and channel. */
void engine_set_noise(struct engine *g, bool on, uint64_t seed, int64_t step);

/* Starts an optimiser step: gradients and the sum of losses are zero. */
void engine_begin(struct engine *g);
/* Updates that a refused one keeps back are made again. */
void engine_resume(struct engine *g);
/* Forward over b: the negative log-likelihood of each target in g->nll (b->n_targets), added to the
 * sum of losses. With grad the gradient of scale * sum(nll) is added to the adapter's gradients. Does
 * not wait. Where the device records, the second micro-batch of a shape is recorded if there is room, and the next are replayed: the
 * same launches, so the same bits. */
void engine_run(struct engine *g, const struct microbatch *b, bool grad, double scale);
/* The sum of the gradients' squares, into sums, as the step's last micro-batch left them. */
void engine_squares(struct engine *g);
/* Whether a table is trained; the head is when the embedding that it is tied to is. */
bool engine_trains(const struct engine *g, unsigned what);
/* Where the parts of a group's A, and of its B, begin in squares; with GRP_N the number of a layer's. */
int64_t engine_squares_a(const struct engine *g, int64_t layer, enum linear_group grp);
int64_t engine_squares_b(const struct engine *g, int64_t layer, enum linear_group grp);
int64_t engine_squares_m(const struct engine *g, int64_t layer, enum linear_group grp); /* DoRA's magnitudes */
/* The sums as they are now travel to the host, as the turn's (0 or 1); engine_sums_wait waits for them, and for nothing behind them: the
 * sum of losses since engine_begin, and, with squares, that of the gradients' squares. */
void engine_sums_send(struct engine *g, int turn);
int engine_sums_wait(struct engine *g, int turn, double *loss, double *squares, struct err *e) LP_MUST_USE;
/* What a preference method told up to the turn's sums, after engine_sums_wait: (KN_PREF_SUMS) of kernels/pref.h. */
static inline const double *engine_told(const struct engine *g, int turn)
{
	return g->sums_host[turn] + SUM_TOLD;
}
/* KTO: while on, engine_run takes answers that are not their prompts', without gradient, and its losses are none: it adds up how far the model
 * has gone from the reference on them. The step's (or set's) real answers follow, and look at the mean over n. */
void engine_set_drift(struct engine *g, bool on, int64_t n);
/* The values of the last engine_run's sequences (kernels/pref.h) in host memory; waits. */
int engine_values(struct engine *g, double *host, int64_t n_seqs, struct err *e) LP_MUST_USE;
/* GRPO: the negative log-likelihoods of the last engine_run's targets in host memory; waits. */
int engine_nll(struct engine *g, double *host, int64_t n_targets, struct err *e) LP_MUST_USE;
/* Both at once. */
int engine_sums(struct engine *g, double *loss, double *squares, struct err *e) LP_MUST_USE;
/* Forward, then logits (n, V) of the given rows of the micro-batch, n at most g->chunk. */
int engine_logits(struct engine *g, const struct microbatch *b, const int32_t *rows, int64_t n, struct err *e) LP_MUST_USE;

/* --- decoding where the device has a product for few rows (device.h, few) --- */

/* Rows that engine_decode takes at most: shape.decode, or 0 where the device has nothing for so many. */
int64_t engine_decode_rows(const struct engine *g);
/* One new token for each of t rows: g->in has its id, its position, its cache slot (rec) and how many keys that holds
 * with the new one (tgt_id), all on the device. Leaves logits (t, V) in g->logits. Nothing of it depends on the host,
 * so it may be recorded. */
void engine_decode(struct engine *g, int64_t t, const struct kn_kv_cache *c, int64_t context);
/* One layer's part of every slot: it begins layer * context * width elements into each. */
struct kn_kv_cache engine_layer_cache(const struct engine *g, const struct kn_kv_cache *c, int64_t layer, int64_t context);

/* --- shared by the engine's files and by generation --- */

/* The micro-batch goes to the device; rows of targets are b's. */
void engine_send(struct engine *g, const struct microbatch *b);
/* The adapters of a group of projections; NULL: it has none. Held by the engine. */
const struct lora_group *engine_lora_group(const struct engine *g, int64_t layer, enum linear_group grp);
/* The same with their places in the stacked weights, as kernels want them; n 0: none. */
struct kn_adapters engine_adapters(const struct engine *g, int64_t layer, enum linear_group grp);
/* Adapters as they are now go beside the dense weights, and wherever else products read them. */
void engine_place_adapters(struct engine *g);
/* A group's adapters in the activation type: A (pad, in) and scale * B (out, pad). */
struct edges {
	void *lower, *right;
	int64_t ld_lower, ld_right;
};
/* The masks of a group's adapters in this step for the rows from `from` on, in *m; NULL: no dropout. */
const struct kn_adapter_masks *engine_masks(const struct engine *g, int64_t layer, enum linear_group grp, int64_t from, struct kn_adapter_masks *m);
/* s = dropout(x) A^T behind the rows of x, and where a lean layer keeps it. */
void engine_lora_down(struct engine *g, int64_t layer, enum linear_group grp, void *x, const struct edges *at, struct piece p);
/* Placed now, in the scratch of one dense group, unless they have a place of their own. */
struct edges engine_edges(struct engine *g, int64_t layer, enum linear_group grp);
/* C (T, n), row stride ldc, = x8 w8^T [+ c0], x8 the rows of x (T, cols) with `inner` values behind them in 8 bits. */
void engine_product8(struct engine *g, const void *x, int64_t ldx, int64_t t, int64_t cols, int64_t inner, const struct fp8_mat *w8, int64_t n, const void *c0,
                     void *c, int64_t ldc);
/* --- DoRA (engine_dora.c) --- */

/* The weights' own lengths as magnitudes, where PEFT starts; after the weights are there. */
void engine_start_magnitudes(struct engine *g);
/* Factors of the adapter as it is, unless they are there: wherever products begin that may see another one. */
void engine_dora_refresh(struct engine *g);
/* Whether the group's outputs have magnitudes. */
bool engine_is_dora(const struct engine *g, int64_t layer, enum linear_group grp);
/* Whether a layer's u of such a group has a place of its own, and those of all layers. */
bool engine_dora_keeps(const struct engine *g, enum linear_group grp);
void engine_layout_dora(struct engine *g, struct layout *l);
/* y as engine_fwd.c's product, but that gate and up give u without dropout; y NULL: only what backward wants. */
void engine_dora_linear(struct engine *g, int64_t layer, enum linear_group grp, void *x, const void *add, void *y, int64_t ldy, struct piece p);
/* *dy becomes du, in place or elsewhere, and dm is added to. */
void engine_dora_scale(struct engine *g, int64_t layer, enum linear_group grp, void **dy, int64_t *ldy, struct piece p);
/* With dropout: dx, dy W so far, += what comes through the masks; du, with d_s behind its rows, is used up but for these. */
void engine_dora_through(struct engine *g, int64_t layer, enum linear_group grp, void *du, int64_t ld_du, const void *dense, const struct edges *at, void *dx, int64_t ld_dx,
                         struct piece p);
/* Whether the activation reads u, and then takes swiglu's place; again: h is formed once more. */
bool engine_dora_gates(const struct engine *g, int64_t layer);
void engine_dora_gate(struct engine *g, int64_t layer, struct piece p);
void engine_dora_gate_bwd(struct engine *g, int64_t layer, struct piece p, bool again);

/* What runs between q, k, v and o: attention over the micro-batch, or against a cache. */
typedef void engine_attn_fn(void *ctx, struct engine *g, int64_t layer, struct acts *a, const struct microbatch *b);
engine_attn_fn engine_attn_self;
void engine_attn_shape(const struct engine *g, int64_t layer, const struct microbatch *b, struct kn_attn_shape *s);
/* q, k, v of a layer inside qkv. */
static inline void *engine_k(const struct engine *g, void *qkv)
{
	return act_at(g->dev, qkv, g->w.desc.heads * g->w.desc.head_dim);
}
static inline void *engine_v(const struct engine *g, void *qkv)
{
	return act_at(g->dev, qkv, (g->w.desc.heads + g->w.desc.kv_heads) * g->w.desc.head_dim);
}

/* --- what the plan chooses (engine_choose.c, engine_cost.c), and activations that travel (engine_travel.c) --- */

/* Every buffer's place for the choice that g holds: without memory its bytes are counted. */
void engine_layout(struct engine *g);
/* Chooses, and lays that out; refused, the smallest plan is laid out. */
int engine_choose(struct engine *g, struct err *e) LP_MUST_USE;
/* keep[] from full, lean, travel and sets. */
void engine_spread(struct engine *g);
/* An estimate of a micro-batch's seconds, forward and backward, as the plan stands: only comparisons count. */
double engine_seconds(const struct engine *g);
/* What the device takes for a training micro-batch that is recorded, beside the arenas; 0: it records none. */
uint64_t engine_recording_bytes(const struct engine *g);
/* What a lean layer keeps: bytes of a token's row of each array, 0: none, in the order qkv, o, x2, gu, lse, s, u. */
enum { LEAN_PARTS = 5 + 2 * GRP_N };
void engine_lean_rows(const struct engine *g, uint64_t row[LEAN_PARTS]);
/* The layer is about to write its set: what was there has left. */
void engine_set_await(struct engine *g, int64_t layer);
/* After the layer's forward pass: its activations start to travel. */
void engine_set_away(struct engine *g, int64_t layer, int64_t t);
/* The next layer below whose activations come back into this one's set; -1: none. */
int64_t engine_set_next(const struct engine *g, int64_t layer);
/* After the layer's backward pass: they start to. */
void engine_set_back(struct engine *g, int64_t layer, int64_t t);

/* The residual stream's first layer, from the ids. */
void engine_embed(struct engine *g, const struct microbatch *b);
/* engine_noise.c: what engine_embed does while noise is on, and its host memory. */
void engine_embed_noisy(struct engine *g, const struct microbatch *b);
void engine_layout_noise(struct engine *g, struct layout *host);
/* All layers, from there up to the last one's output. */
void engine_layers(struct engine *g, const struct microbatch *b, engine_attn_fn *attn, void *ctx);
/* Both. */
void engine_forward(struct engine *g, const struct microbatch *b, engine_attn_fn *attn, void *ctx);
/* The piece of t rows that begins at row from. */
static inline struct piece engine_piece(const struct engine *g, int64_t from, int64_t t)
{
	return (struct piece){ from, t - from < g->shape.piece ? t - from : g->shape.piece };
}
/* A layer's activations from row from on. */
struct acts engine_acts(const struct engine *g, int64_t layer, int64_t from);
/* The two parts of a layer: up to attention's output; what follows, a piece at a time. again: a part's activations once more, from x1
 * or from attention's output, for backward: the same kernels on the same input, so the same bits. */
void engine_attend(struct engine *g, int64_t i, const struct microbatch *b, engine_attn_fn *attn, void *ctx);
void engine_feed(struct engine *g, int64_t i, struct piece p, bool again);
/* y1 of a piece once more, the adapters' inner values behind it. */
void engine_input_again(struct engine *g, int64_t i, struct piece p);
/* The last norm of n rows, whose numbers are on the device: their streams in x_hid, the result in hid. */
void engine_hidden(struct engine *g, const int32_t *rows, int64_t n);
/* From d_res, the gradient of the last layer's output, to the adapter's gradients. */
void engine_backward(struct engine *g, const struct microbatch *b);
/* logits (n, V) = hid (n, C) head^T. */
void engine_head(struct engine *g, const void *hid, void *logits, int64_t n);
/* engine_pref.c: a preference method's, once the losses of targets are there and d_res has their gradients. */
void engine_pref_loss(struct engine *g, const struct microbatch *b, bool grad);
/* engine_grpo.c: the same of GRPO. */
void engine_grpo_loss(struct engine *g, const struct microbatch *b);
/* In engine_loss's place where the method looks at scores. */
void engine_score_loss(struct engine *g, const struct microbatch *b, bool grad);
/* From d_hid, of n rows that engine_hidden made, to the rows of d_res; hid is done with, and lends its room. */
void engine_hidden_bwd(struct engine *g, const int32_t *rows, int64_t n);
/* Losses of the targets, added up, and with grad the gradient of the last layer's output in d_res: times in.scale. */
void engine_loss(struct engine *g, const struct microbatch *b, bool grad);
/* The group's dense form with its adapters in place, which are at *at. */
void *engine_dense(struct engine *g, int64_t layer, enum linear_group grp, struct edges *at);
/* The inputs of qkv and of gate/up from the residual stream. */
void engine_norm1(struct engine *g, int64_t layer, struct piece p);
void engine_norm2(struct engine *g, int64_t layer, struct piece p);
/* Rotary positions of q and k inside qkv (T, row stride ld), whose rows begin at the micro-batch's first. */
void engine_rotate(struct engine *g, void *qkv, int64_t ld, int64_t t, bool inverse);

#endif
