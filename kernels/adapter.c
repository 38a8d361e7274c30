#include "kernels/adapter.h"

#include <string.h>

#include "kernels/device.h"

void kn_adapter_place_cpu(struct device *d, void *pg, int64_t ldg, const struct kn_adapters *a)
{
	float *g = pg;
	int64_t r = a->rank;

	(void)d;
	for (int64_t i = 0; i < a->out; i++)
		memset(g + i * ldg + a->in, 0, (size_t)a->pad * sizeof(*g));
	for (int j = 0; j < a->n; j++)
		for (int64_t i = 0; i < a->rows[j]; i++) {
			float *to = g + (a->row[j] + i) * ldg + a->in + j * r;

			for (int64_t k = 0; k < r; k++)
				to[k] = a->scale * a->b[j][i * r + k];
		}
	for (int64_t i = 0; i < a->pad; i++) {
		if (i < a->n * r)
			memcpy(g + (a->out + i) * ldg, a->a + i * a->in, (size_t)a->in * sizeof(*g));
		else
			memset(g + (a->out + i) * ldg, 0, (size_t)a->in * sizeof(*g));
	}
}
