#include "train/optim.h"

#include <string.h>

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
}

void optim_step(struct optim *o, struct lora *l, struct device *d, double lr, const double *squares, double max_norm)
{
	struct kn_adam a = { lr, o->beta1, o->beta2, o->eps, o->weight_decay, ++o->step, 1, squares, max_norm };
	int64_t n32 = 0, n8 = 0, nb = 0;

	for (int64_t i = 0; i < l->n_tensors; i++) {
		const struct lora_tensor *t = &l->tensors[i];
		float *p = l->params + t->offset;
		const float *g = l->grads + t->offset;

		if (is_8bit(o, t)) {
			d->k.adam8(d, p, g, o->m8 + n8, o->v8 + n8, o->m_max + nb, o->v_max + nb, t->n, &a);
			n8 += t->n;
			nb += blocks(t->n);
		} else {
			d->k.adamw(d, p, g, o->m + n32, o->v + n32, t->n, &a);
			n32 += t->n;
		}
	}
}
