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
