#include "train/optim.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

int optim_parse(const char *name, enum optim_kind *k, struct err *e)
{
	if (strcmp(name, "adamw") == 0)
		*k = OPTIM_ADAMW;
	else if (strcmp(name, "adamw8bit") == 0)
		*k = OPTIM_ADAMW8;
	else
		return err_set(e, LP_USAGE, "unknown optimiser '%s'; use adamw or adamw8bit", name);
	return 0;
}

static bool is_8bit(const struct optim *o, const struct lora_tensor *t)
{
	return o->kind == OPTIM_ADAMW8 && t->n >= ADAM8_MIN;
}

static int64_t blocks(int64_t n)
{
	return (n + ADAM8_BLOCK - 1) / ADAM8_BLOCK;
}

void optim_sizes(const struct optim *o, const struct lora *l, int64_t *n32, int64_t *n8, int64_t *n_blocks)
{
	*n32 = *n8 = *n_blocks = 0;
	for (int64_t i = 0; i < l->n_tensors; i++) {
		const struct lora_tensor *t = &l->tensors[i];

		if (is_8bit(o, t)) {
			*n8 += t->n;
			*n_blocks += blocks(t->n);
		} else {
			*n32 += t->n;
		}
	}
}

void optim_layout(struct optim *o, const struct lora *l, struct layout *to)
{
	int64_t n32, n8, nb;

	optim_sizes(o, l, &n32, &n8, &nb);
	o->m = layout_array(to, "optimiser", n32, sizeof(float));
	o->v = layout_array(to, "optimiser", n32, sizeof(float));
	o->m8 = layout_array(to, "optimiser", n8, 1);
	o->v8 = layout_array(to, "optimiser", n8, 1);
	o->m_max = layout_array(to, "optimiser", nb, sizeof(float));
	o->v_max = layout_array(to, "optimiser", nb, sizeof(float));
	o->segs_dev = layout_array(to, "optimiser", l->n_tensors, sizeof(*o->segs_dev));
}

void optim_start(struct optim *o, const struct lora *l, struct device *d)
{
	int64_t n32 = 0, n8 = 0, nb = 0;

	o->segs = xcalloc((size_t)l->n_tensors, sizeof(*o->segs));
	o->n_segs = l->n_tensors;
	o->n_blocks = 0;
	for (int64_t i = 0; i < l->n_tensors; i++) {
		const struct lora_tensor *t = &l->tensors[i];
		bool eight = is_8bit(o, t);

		o->segs[i] = (struct kn_adam_seg){ t->offset, t->n, eight ? n8 : n32, nb, o->n_blocks, eight };
		o->n_blocks += blocks(t->n);
		n32 += eight ? 0 : t->n;
		n8 += eight ? t->n : 0;
		nb += eight ? blocks(t->n) : 0;
	}
	device_upload(d, o->segs_dev, o->segs, (uint64_t)o->n_segs * sizeof(*o->segs));
}

void optim_release(struct optim *o)
{
	free(o->segs);
	o->segs = NULL;
}

void optim_step(struct optim *o, struct lora *l, struct device *d, double lr, double loss_scale, const struct optim_sums *sums, double max_norm)
{
	struct kn_adam a = { lr, o->beta1, o->beta2, o->eps, o->weight_decay, ++o->step, (float)(1 / loss_scale), NULL, max_norm, NULL, NULL };
	struct kn_adam_arrays x = { l->params, l->grads, o->m, o->v, o->m8, o->v8, o->m_max, o->v_max };

	if (sums) {
		a.squares = sums->squares;
		a.loss = sums->loss;
		a.refused = sums->refused;
	}
	d->k.adam(d, o->segs, o->segs_dev, o->n_segs, o->n_blocks, &x, &a);
}
