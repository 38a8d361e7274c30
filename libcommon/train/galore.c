#include "train/galore.h"

#include <string.h>

/* What the kernels are told of a projection. */
struct shape {
	int64_t rows, cols, k, most, r;
	bool right; /* the gradient's rows are projected */
};

static struct shape shape_of(const struct galore *g, int64_t i)
{
	const struct trained_tensor *t = &g->base->tensors[i];
	struct shape s = { .rows = t->rows, .cols = t->cols, .right = t->rows >= t->cols };

	s.k = s.right ? t->cols : t->rows;
	s.most = s.right ? t->rows : t->cols;
	s.r = g->rank < s.k ? g->rank : s.k;
	return s;
}

bool galore_projects(const struct galore *g, int64_t i)
{
	return i >= 0 && i < g->base->vectors && i != g->base->embed && i != g->base->head;
}

int64_t galore_rank(const struct galore *g, int64_t i)
{
	return shape_of(g, i).r;
}

int64_t galore_small(const struct galore *g, int64_t i)
{
	struct shape s = shape_of(g, i);

	return s.r * s.most;
}

int64_t galore_rests(const struct galore *g)
{
	int64_t n = 0;

	for (int64_t i = 0; i < g->base->vectors; i++)
		n += galore_projects(g, i) && g->base->tensors[i].halves ? g->base->tensors[i].n : 0;
	return n;
}

int16_t *galore_rest(const struct galore *g, int64_t i)
{
	int64_t at = 0;

	for (int64_t j = 0; j < i; j++)
		at += galore_projects(g, j) ? g->base->tensors[j].n : 0;
	return g->base->tensors[i].halves ? g->rest + at : NULL;
}

static int64_t basis_at(const struct galore *g, int64_t i)
{
	int64_t at = 0;

	for (int64_t j = 0; j < i; j++)
		at += galore_projects(g, j) ? (shape_of(g, j).r * shape_of(g, j).k + 63) / 64 * 64 : 0;
	return at;
}

static int64_t larger(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

void galore_layout(struct galore *g, const struct device *d, struct layout *to)
{
	static const char name[] = "projections of gradients";
	int64_t small = 0, large = 0;
	uint64_t scratch = 0;

	for (int64_t i = 0; i < g->base->vectors; i++)
		if (galore_projects(g, i)) {
			struct shape s = shape_of(g, i);
			uint64_t room = d->k.basis_scratch(d, s.rows, s.cols, s.r);

			small = larger(small, s.r * s.most);
			large = larger(large, s.rows * s.cols);
			scratch = room > scratch ? room : scratch;
		}
	g->n_basis = basis_at(g, g->base->vectors);
	g->basis = layout_array(to, name, g->n_basis, dtype_bytes(d->act));
	g->rest = layout_array(to, "optimiser", galore_rests(g), sizeof(*g->rest));
	g->small = layout_array(to, name, small, sizeof(float));
	g->step = layout_array(to, name, small, sizeof(float));
	g->small_act = d->act == DT_F32 ? g->step : layout_array(to, name, small, dtype_bytes(d->act));
	g->grad_act = d->act == DT_F32 || !g->base->wide ? NULL : layout_array(to, name, large, dtype_bytes(d->act));
	g->update = layout_array(to, name, large, sizeof(float));
	g->scratch = layout_take(to, name, scratch);
}

/* The gradient as products read it. */
static const void *gradient(const struct galore *g, struct device *d, int64_t i, const struct shape *s)
{
	const void *grad = trained_grad(g->base, i);

	if (d->act == DT_F32 || !g->base->wide)
		return grad;
	d->k.convert(d, g->grad_act, s->cols, grad, DT_F32, s->rows, s->cols);
	return g->grad_act;
}

void galore_project(struct galore *g, struct device *d, int64_t i, int64_t step)
{
	struct shape s = shape_of(g, i);
	void *p = act_at(d, g->basis, basis_at(g, i));
	const void *grad = gradient(g, d, i, &s);

	if ((step - 1) % g->every == 0)
		d->k.basis(d, p, grad, s.rows, s.cols, s.r, g->seed + (uint64_t)i, g->scratch);
	if (s.right)
		d->k.gemm(d, false, true, s.rows, s.r, s.cols, 1, grad, s.cols, p, s.cols, 0, NULL, g->small, s.r, true);
	else
		d->k.gemm(d, false, false, s.r, s.cols, s.rows, 1, p, s.rows, grad, s.cols, 0, NULL, g->small, s.cols, true);
	device_zero(d, g->step, (uint64_t)(s.r * s.most) * sizeof(*g->step));
}

void galore_apply(const struct galore *g, struct device *d, int64_t i, double decay, const struct kn_adam *a)
{
	struct shape s = shape_of(g, i);
	const void *p = act_at(d, g->basis, basis_at(g, i));
	const struct trained_tensor *t = &g->base->tensors[i];

	if (d->act != DT_F32)
		d->k.convert(d, g->small_act, s.r * s.most, g->step, DT_F32, 1, s.r * s.most);
	if (s.right)
		d->k.gemm(d, false, false, s.rows, s.cols, s.r, 1, g->small_act, s.r, p, s.cols, 0, NULL, g->update, s.cols, true);
	else
		d->k.gemm(d, true, false, s.rows, s.cols, s.r, 1, p, s.rows, g->small_act, s.cols, 0, NULL, g->update, s.cols, true);
	d->k.add_update(d, t->p, galore_rest(g, i), g->update, t->n, (float)g->scale, (float)(1 - decay), a);
}
