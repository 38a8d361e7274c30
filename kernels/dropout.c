#include "kernels/dropout.h"

#include "base/rng.h"
#include "kernels/device.h"

static void dropout_row(float *y, const float *x, uint32_t rec, uint32_t pos, int64_t c, struct kn_dropout_key key, bool add)
{
	uint32_t k[2] = { (uint32_t)*key.seed_step, (uint32_t)(*key.seed_step >> 32) }, w[4];
	uint32_t limit = (uint32_t)((double)key.p * 4294967296.0);
	float up = 1.0f / (1.0f - key.p);

	for (int64_t i = 0; i < c; i++) {
		if (i % 4 == 0) {
			uint32_t ctr[4] = { pos, rec, (uint32_t)(i / 4), key.tensor };

			philox4x32(ctr, k, w);
		}
		float v = w[i % 4] < limit ? 0.0f : x[i] * up;

		y[i] = add ? y[i] + v : v;
	}
}

void kn_dropout_cpu(struct device *d, void *y, int64_t ldy, const void *x, int64_t ldx, const int32_t *rec, const int32_t *pos,
                    int64_t t, int64_t c, struct kn_dropout_key key, bool add)
{
#pragma omp parallel for num_threads(d->threads) if (t * c > 4096)
	for (int64_t i = 0; i < t; i++)
		dropout_row((float *)y + i * ldy, (const float *)x + i * ldx, (uint32_t)rec[i], (uint32_t)pos[i], c, key, add);
}
