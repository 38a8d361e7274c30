#include "kernels/embed.h"

#include "kernels/device.h"

void kn_embed_fwd_cpu(struct device *d, void *x, const int32_t *ids, const void *table, enum dtype dt, int64_t t, int64_t c)
{
	size_t row = (size_t)c * dtype_bytes(dt);

	(void)d;
	for (int64_t i = 0; i < t; i++)
		to_f32(dt, (const char *)table + (size_t)ids[i] * row, (float *)x + i * c, (size_t)c);
}

void kn_embed_host_cpu(struct device *d, void *x, const int32_t *ids, const void *table, enum dtype dt, int64_t t, int64_t c, void *way)
{
	(void)way;
	kn_embed_fwd_cpu(d, x, ids, table, dt, t, c);
}

static void run_bwd(float *grad, const int32_t *by_id, int64_t n, const float *dx, int64_t ld, int64_t c)
{
	for (int64_t j = 0; j < c; j++) {
		float sum = 0;

		for (int64_t i = 0; i < n; i++)
			sum += dx[by_id[i] * ld + j];
		grad[j] += sum;
	}
}

void kn_embed_bwd_cpu(struct device *d, float *grad, const int32_t *ids, const int32_t *by_id, const int32_t *run, const void *dx, int64_t ld, int64_t t, int64_t c)
{
#pragma omp parallel for num_threads(d->threads) if (t * c > 32768)
	for (int64_t k = 0; k < t; k++)
		if (run[k] < run[k + 1])
			run_bwd(grad + ids[by_id[run[k]]] * c, by_id + run[k], run[k + 1] - run[k], dx, ld, c);
}
