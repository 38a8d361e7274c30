/* GaLore (Zhao et al. 2024): projections' gradients are projected on the leading singular directions of one of them, AdamW's states are
 * those of the small matrices, and its update comes back to the weight's shape, scaled. As galore-torch has it, type std, with
 * weights in place: rows x cols is projected to rows x rank, or rank x cols where there are more columns. */
#ifndef LP_TRAIN_GALORE_H
#define LP_TRAIN_GALORE_H

#include "train/trained.h"

struct galore {
	int64_t rank, every;  /* directions; steps between choosing them */
	double scale;         /* of the update on its way back */
	uint64_t seed;        /* of an iteration's start (kernels/basis.h) */
	const struct trained *base;
	int64_t n_basis;      /* elements of basis */
	void *basis;          /* device: of each projection (rank, shorter side) activations */
	int16_t *rest;        /* of projections in 16 bits: they stay here, states may be away */
	float *small, *step;  /* the widest: a projected gradient, its update */
	void *small_act;      /* that in the activation type */
	void *grad_act;       /* a gradient in the activation type where it is fp32, or NULL */
	float *update;        /* of the largest weight's shape */
	void *scratch;
};

/* Whether tensor i of base is projected; its rank, no more than its shorter side; elements of the small matrix. */
bool galore_projects(const struct galore *g, int64_t i);
int64_t galore_rank(const struct galore *g, int64_t i);
int64_t galore_small(const struct galore *g, int64_t i);
int64_t galore_rests(const struct galore *g);
/* Where tensor i's rest begins, NULL: it has none. */
int16_t *galore_rest(const struct galore *g, int64_t i);
void galore_layout(struct galore *g, const struct device *d, struct layout *to);
/* Before AdamW's step of tensor i (step counts from 1): its gradient, projected, is in g->small, and g->step is 0. */
void galore_project(struct galore *g, struct device *d, int64_t i, int64_t step);
/* Behind it, from g->step: w = (w + scale * update) (1 - decay). */
void galore_apply(const struct galore *g, struct device *d, int64_t i, double decay, const struct kn_adam *a);

#endif
