#include "kernels/adam8.h"

#include <math.h>

#include "kernels/device.h"
#include "kernels/dynmap.h"

struct coef {
	float b1, b1c, b2, b2c, step, eps, decay, scale;
};

/* A code of the other sign than the state's would turn the momentum around. */
static uint8_t keep_sign(uint8_t code, float v)
{
	if (signbit(dynmap_signed[code]) == signbit(v))
		return code;
	return (uint8_t)(v > 0 ? code + 1 : code - 1);
}

static void requantise(const float *m, const float *v, int64_t n, uint8_t *m8, uint8_t *v8, float *m_max, float *v_max)
{
	float mm = 0, vm = 0;

	for (int64_t i = 0; i < n; i++) {
		mm = fabsf(m[i]) > mm ? fabsf(m[i]) : mm;
		vm = v[i] > vm ? v[i] : vm;
	}
	*m_max = mm;
	*v_max = vm;
	for (int64_t i = 0; i < n; i++) {
		m8[i] = keep_sign(dynmap_nearest(dynmap_signed, mm > 0 ? m[i] / mm : 0), m[i]);
		v8[i] = dynmap_nearest(dynmap_unsigned, vm > 0 ? v[i] / vm : 0);
	}
}

static void adam8_block(float *p, const float *g, uint8_t *m8, uint8_t *v8, float *m_max, float *v_max, int64_t n, const struct coef *c)
{
	float m[ADAM8_BLOCK], v[ADAM8_BLOCK];

	for (int64_t i = 0; i < n; i++) {
		float gi = g[i] * c->scale;

		m[i] = dynmap_signed[m8[i]] * *m_max * c->b1 + c->b1c * gi;
		v[i] = dynmap_unsigned[v8[i]] * *v_max * c->b2 + c->b2c * gi * gi;
		p[i] = (p[i] + c->step * (m[i] / (sqrtf(v[i]) + c->eps))) * c->decay;
	}
	requantise(m, v, n, m8, v8, m_max, v_max);
}

void kn_adam8_cpu(struct device *d, float *p, const float *g, uint8_t *m8, uint8_t *v8, float *m_max, float *v_max,
                  int64_t n, const struct kn_adam *a)
{
	double bias1 = 1 - pow(a->beta1, (double)a->step), bias2 = sqrt(1 - pow(a->beta2, (double)a->step));
	struct coef c = { (float)a->beta1, (float)(1 - a->beta1), (float)a->beta2, (float)(1 - a->beta2), (float)(-a->lr * bias2 / bias1),
		          (float)(a->eps * bias2), (float)(1 - a->lr * a->weight_decay), a->grad_scale };

#pragma omp parallel for schedule(static) num_threads(d->threads) if (n > ADAM8_MIN)
	for (int64_t i = 0; i < n; i += ADAM8_BLOCK)
		adam8_block(p + i, g + i, m8 + i, v8 + i, m_max + i / ADAM8_BLOCK, v_max + i / ADAM8_BLOCK,
		            n - i < ADAM8_BLOCK ? n - i : ADAM8_BLOCK, &c);
}
