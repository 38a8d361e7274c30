#include "kernels/pick.h"

#include <math.h>

#include "kernels/device.h"

static void pick_row(const struct kn_pick *p, int64_t i)
{
	const float *z = (const float *)p->z + i * p->v;
	int64_t best = 0, at = i * p->most + p->count[i];
	double sum = 0;

	for (int64_t j = 1; j < p->v; j++)
		if (z[j] > z[best] || (z[best] != z[best] && z[j] == z[j]))
			best = j;
	for (int64_t j = 0; j < p->v; j++)
		sum += exp((double)z[j] - (double)z[best]);
	if (p->count[i] < p->most) {
		p->out[at] = (int32_t)best;
		p->logprob[at] = -log(sum);
		p->count[i]++;
	}
	p->ids[i] = (int32_t)best;
	p->pos[i]++;
	p->len[i]++;
}

void kn_pick_cpu(struct device *d, const struct kn_pick *p)
{
#pragma omp parallel for schedule(static) num_threads(d->threads) if (p->n * p->v > 32768)
	for (int64_t i = 0; i < p->n; i++)
		pick_row(p, i);
}
