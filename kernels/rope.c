#include "kernels/rope.h"

#include "base/compiler.h"
#include "kernels/device.h"

LP_CLONES
static void turn(float *restrict a, float *restrict b, const float *restrict c, const float *restrict s, int64_t n, float sign)
{
	for (int64_t i = 0; i < n; i++) {
		float si = s[i] * sign, u = a[i], v = b[i];

		a[i] = u * c[i] - v * si;
		b[i] = v * c[i] + u * si;
	}
}

void kn_rope_cpu(struct device *d, void *x, int64_t ldx, const int32_t *pos, const float *cos_tab, const float *sin_tab,
                 int64_t t, int64_t n_heads, int64_t head_dim, int64_t rot, bool inverse)
{
	int64_t half = rot / 2;

#pragma omp parallel for num_threads(d->threads) if (t * n_heads * head_dim > 32768)
	for (int64_t i = 0; i < t; i++)
		for (int64_t h = 0; h < n_heads; h++) {
			float *p = (float *)x + i * ldx + h * head_dim;

			turn(p, p + half, cos_tab + pos[i] * half, sin_tab + pos[i] * half, half, inverse ? -1.0f : 1.0f);
		}
}
