#include "kernels/adam8.h"

#include <math.h>

#include "kernels/device.h"
#include "kernels/dynmap.h"

struct coef {
	float b1, b1c, b2, b2c, step, root2, eps, decay, scale;
};

static void store(const float *x, int64_t n, const float map[256], uint8_t *codes, float *max)
{
	float m = 0, inv;

	for (int64_t i = 0; i < n; i++)
		m = fabsf(x[i]) > m ? fabsf(x[i]) : m;
	*max = m;
	inv = m > 0 ? 1.0f / m : 0;
	for (int64_t i = 0; i < n; i++)
		codes[i] = m > 0 ? dynmap_code(map, x[i] * inv) : 0;
}

static void adam8_block(float *p, const float *g, uint8_t *m8, uint8_t *v8, float *m_max, float *v_max, int64_t n, const struct coef *c)
{
	float m[ADAM8_BLOCK], v[ADAM8_BLOCK];

	for (int64_t i = 0; i < n; i++) {
		float gi = g[i] * c->scale;

		m[i] = dynmap_signed[m8[i]] * *m_max * c->b1 + c->b1c * gi;
		v[i] = dynmap_unsigned[v8[i]] * *v_max * c->b2 + c->b2c * gi * gi;
		p[i] = p[i] * c->decay - c->step * (m[i] / (sqrtf(v[i]) / c->root2 + c->eps));
	}
	store(m, n, dynmap_signed, m8, m_max);
	store(v, n, dynmap_unsigned, v8, v_max);
}

void kn_adam8_cpu(struct device *d, float *p, const float *g, uint8_t *m8, uint8_t *v8, float *m_max, float *v_max,
                  int64_t n, const struct kn_adam *a)
{
	double bias1 = 1 - pow(a->beta1, (double)a->step), bias2 = 1 - pow(a->beta2, (double)a->step);
	struct coef c = { (float)a->beta1, (float)(1 - a->beta1), (float)a->beta2, (float)(1 - a->beta2), (float)(a->lr / bias1),
		          (float)sqrt(bias2), (float)a->eps, (float)(1 - a->lr * a->weight_decay), 1 };

	if (!kn_adam_scale(a, &c.scale))
		return;
#pragma omp parallel for schedule(static) num_threads(d->threads) if (n > ADAM8_MIN)
	for (int64_t i = 0; i < n; i += ADAM8_BLOCK)
		adam8_block(p + i, g + i, m8 + i, v8 + i, m_max + i / ADAM8_BLOCK, v_max + i / ADAM8_BLOCK,
		            n - i < ADAM8_BLOCK ? n - i : ADAM8_BLOCK, &c);
}
