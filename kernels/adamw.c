#include "kernels/adamw.h"

#include <math.h>

#include "base/compiler.h"
#include "kernels/device.h"

#define CHUNK 4096

struct coef {
	float decay, b1c, b2, b2c, step, root2, eps, scale;
};

LP_CLONES
static void adamw_chunk(float *restrict p, const float *restrict g, float *restrict m, float *restrict v, int64_t n, const struct coef *c)
{
	for (int64_t i = 0; i < n; i++) {
		float gi = g[i] * c->scale;

		m[i] += (gi - m[i]) * c->b1c;
		v[i] = v[i] * c->b2 + gi * gi * c->b2c;
		p[i] = p[i] * c->decay - c->step * (m[i] / (sqrtf(v[i]) / c->root2 + c->eps));
	}
}

bool kn_adam_scale(const struct kn_adam *a, float *scale)
{
	double clip = 1;
	bool good;

	*scale = a->grad_scale;
	if (!a->squares)
		return true;
	if (a->max_norm > 0)
		clip = fmin(1, a->max_norm / (sqrt(*a->squares) * (double)a->grad_scale + 1e-6));
	*scale *= (float)clip;
	good = isfinite(*a->squares) && (!a->loss || isfinite(*a->loss)) && !(a->refused && *a->refused);
	if (!good && a->refused)
		*a->refused = 1;
	return good;
}

void kn_adamw_cpu(struct device *d, float *p, const float *g, float *m, float *v, int64_t n, const struct kn_adam *a)
{
	double bias1 = 1 - pow(a->beta1, (double)a->step), bias2 = 1 - pow(a->beta2, (double)a->step);
	struct coef c = { (float)(1 - a->lr * a->weight_decay), (float)(1 - a->beta1), (float)a->beta2, (float)(1 - a->beta2),
		          (float)(a->lr / bias1), (float)sqrt(bias2), (float)a->eps, 1 };

	if (!kn_adam_scale(a, &c.scale))
		return;
#pragma omp parallel for num_threads(d->threads) if (n > CHUNK)
	for (int64_t i = 0; i < n; i += CHUNK)
		adamw_chunk(p + i, g + i, m + i, v + i, n - i < CHUNK ? n - i : CHUNK, &c);
}
