/* The optimiser's states over an adapter's flat parameters, and behind them those of weights of the
 * base that are trained: AdamW in fp32, or with 8-bit states where bitsandbytes keeps them so
 * (kernels/adam8.h). What fp32 has beyond 16 bits of a weight is a state too (kernels/adam.h). */
#ifndef LP_TRAIN_OPTIM_H
#define LP_TRAIN_OPTIM_H

#include "base/layout.h"
#include "kernels/device.h"
#include "train/galore.h"
#include "train/lora.h"
#include "train/trained.h"

enum optim_kind { OPTIM_ADAMW, OPTIM_ADAMW8 };

enum { OPTIM_RING = 2 };

/* How tensors are updated: with A's rate; with B's (b_rate); with A's and without decay, the base's norms and biases, as transformers has it;
 * through GaLore's projections. */
enum optim_rule { RULE_A, RULE_B, RULE_VECTOR, RULE_GALORE };

/* Segments whose states are updated at once: all tensors of one rule, or, where states are away, as much of them as a buffer on the device has
 * room for; a tensor may be cut then. */
struct optim_piece {
	int64_t first, n;                  /* segments, in the states' order */
	enum optim_rule rule;
	bool stays;                        /* on the device */
	int64_t tensor, from;              /* where it begins: the tensor, of all, and its element */
	int64_t at32, n32, at8, n8;        /* elements of m and v, of m8 and v8 */
	int64_t at_max, n_max;             /* of m_max and v_max */
	int64_t at_rest, n_rest;
	int64_t blocks;
	int64_t next, next_from;           /* the tensor behind it, and its element */
};
struct optim {
	enum optim_kind kind;
	double beta1, beta2, eps, weight_decay;
	double b_rate;       /* LoRA+: B learns at so many times A's rate, and has its states behind A's; 0: all is of one rate */
	int64_t step;        /* taken so far */
	/* The states, flat: fp32 ones of the tensors that have them, 8-bit codes of the others and their blocks' scales, the rest of weights in 16 bits. The first
	 * segments' are here, on the device; those from split on are there, in page-locked host memory, and come to the device in pieces. */
	struct kn_adam_arrays here, there;
	struct optim_piece split; /* what is in front of it, as one piece */
	int away;            /* so many sixteenths are there, about */
	struct trained *base; /* weights of the base that are trained, or NULL */
	struct galore *galore; /* how their gradients are projected, or NULL */
	struct kn_adam_seg *segs, *segs_dev; /* (n_segs), host and device: tensors or parts of them, their states counted from their piece's begin */
	int64_t n_segs, n_adapter; /* tensors of the adapter: those of the base come behind them */
	uint64_t piece;      /* bytes of a piece where they are, unless one segment has more; 0: what pays */
	void *ring;          /* OPTIM_RING x ring_bytes of device memory, free to use in optim_step; NULL: not away */
	uint64_t ring_bytes;
	int slot;            /* the first of OPTIM_RING copy slots (device.h) */
	struct optim_piece *pieces;
	int64_t n_pieces;
};

int optim_parse(const char *name, enum optim_kind *k, struct err *e) LP_MUST_USE;
/* Elements of m and v, of m8 and v8, of m_max and v_max. */
void optim_sizes(const struct optim *o, const struct lora *l, int64_t *n32, int64_t *n8, int64_t *n_blocks);
int64_t optim_rests(const struct optim *o); /* elements of rest */
/* The base's trained weights, as fp32 has them: base->n values, in the order of its tensors, from the device or to it. */
void optim_get_base(const struct optim *o, struct device *d, float *host);
void optim_put_base(const struct optim *o, struct device *d, const float *host);
/* Of one tensor. */
void optim_put_tensor(const struct optim *o, struct device *d, int64_t tensor, const float *host);
enum { OPTIM_PARTS = 16 };
/* away: sixteenths of the states that lie in host. */
void optim_layout(struct optim *o, const struct lora *l, struct layout *to, struct layout *host, int away);
/* Bytes of all states. */
uint64_t optim_bytes(const struct optim *o, const struct lora *l);
/* The states as flat arrays, wherever their parts are: m, v, m8, v8, m_max, v_max, by number. */
enum { OPTIM_STATES = 6 };
void optim_read(const struct optim *o, const struct lora *l, struct device *d, int state, void *host);
void optim_write(const struct optim *o, const struct lora *l, struct device *d, int state, const void *host);
/* ring_bytes for states that are away. */
uint64_t optim_ring_bytes(const struct optim *o, const struct lora *l);
/* After the memory is there: tells the device which tensor is where. */
void optim_start(struct optim *o, const struct lora *l, struct device *d);
void optim_release(struct optim *o);
/* What a step looks at, in device memory: the sum of losses, that of the gradients' squares as they are, and whether a step before it
 * was refused (kernels/adamw.h). */
struct optim_sums {
	const double *loss, *squares;
	int32_t *refused;
};
/* Whether the next step chooses GaLore's directions anew: nothing is to be queued ahead of it whose end is not known. */
bool optim_turns(const struct optim *o);
/* One step with gradients that are loss_scale times too large (1: not). Divided by it they are scaled down to a norm of max_norm
 * (0: never), and when a sum is not finite nothing changes but the step's number. sums NULL: no clipping, and no such look. */
void optim_step(struct optim *o, struct device *d, double lr, double loss_scale, const struct optim_sums *sums, double max_norm);

#endif
