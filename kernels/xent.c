#include "kernels/xent.h"

#include <math.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/device.h"
#include "kernels/lanes.h"

#define CHUNK 4096

/* z <- e^(z - max); returns the sum. NaN in, NaN out. */
LP_CLONES
static float exp_chunk(float *z, int64_t n, float max)
{
	float s[LANES] = { 0 };
	int64_t i = 0;

	lanes_exp_less(z, n, max);
	for (; i + LANES <= n; i += LANES)
		for (int l = 0; l < LANES; l++)
			s[l] += z[i + l];
	for (int l = 0; i + l < n; l++)
		s[l] += z[i + l];
	return lanes_fold(s);
}

LP_CLONES
static void scale_row(float *x, int64_t n, float by)
{
	for (int64_t i = 0; i < n; i++)
		x[i] *= by;
}

LP_CLONES
static float row_max(const float *z, int64_t n)
{
	return lanes_max(z, n);
}

LP_CLONES
static void end_row(float *dh, const float *acc, int64_t c, float all, float target)
{
	for (int64_t i = 0; i < c; i++)
		dh[i] = all * acc[i] - target * dh[i];
}

static void segment_row(const struct kn_xent *x, int64_t i, float *z, const float *w, int64_t first, int64_t count)
{
	struct kn_xent_row *r = &x->rows[i];
	float max = row_max(z, count), fade = 0;
	int64_t t = x->target[i] - first;

	if (first == 0)
		*r = (struct kn_xent_row){ 0 };
	if (first > 0) {
		max = max > r->max ? max : r->max;
		fade = lanes_exp(r->max - max);
	}
	if (t >= 0 && t < count) {
		r->at_target = z[t];
		z[t] = -INFINITY; /* e^z is 0 */
		if (x->acc)
			memcpy((float *)x->dh + i * x->c, w + t * x->c, (size_t)x->c * sizeof(float));
	}
	r->max = max;
	r->others *= (double)fade;
	for (int64_t j = 0; j < count; j += CHUNK)
		r->others += (double)exp_chunk(z + j, count - j < CHUNK ? count - j : CHUNK, max);
	if (x->acc && first > 0 && fade != 1)
		scale_row(x->acc + i * x->c, x->c, fade);
}

void kn_xent_segment_cpu(struct device *d, const struct kn_xent *x, void *z, int64_t ldz, const void *w, int64_t first, int64_t count)
{
#pragma omp parallel for num_threads(d->threads) if (x->n * count > 16384)
	for (int64_t i = 0; i < x->n; i++)
		segment_row(x, i, (float *)z + i * ldz, w, first, count);
}

void kn_xent_end_cpu(struct device *d, const struct kn_xent *x, double *loss, const float *scale_at)
{
	float scale = *scale_at;

#pragma omp parallel for num_threads(d->threads) if (x->n * x->c > 16384)
	for (int64_t i = 0; i < x->n; i++) {
		const struct kn_xent_row *r = &x->rows[i];
		double sum = r->others + (double)lanes_exp(r->at_target - r->max);

		loss[i] = log(sum) + ((double)r->max - (double)r->at_target);
		if (x->acc)
			end_row((float *)x->dh + i * x->c, x->acc + i * x->c, x->c, (float)((double)scale / sum), (float)((double)scale * r->others / sum));
	}
}

static double whole_row(float *z, int64_t v, int64_t target, float scale)
{
	float max = row_max(z, v), at_target = z[target];
	double others = 0, sum;

	z[target] = -INFINITY; /* e^z is 0 */
	for (int64_t j = 0; j < v; j += CHUNK)
		others += (double)exp_chunk(z + j, v - j < CHUNK ? v - j : CHUNK, max);
	sum = others + (double)lanes_exp(at_target - max);
	scale_row(z, v, (float)((double)scale / sum));
	z[target] = (float)(-(double)scale * others / sum);
	return log(sum) + ((double)max - (double)at_target);
}

void kn_xent_whole_cpu(struct device *d, void *z, int64_t ldz, int64_t n, int64_t v, const int32_t *target, double *loss, const float *scale)
{
#pragma omp parallel for num_threads(d->threads) if (n * v > 16384)
	for (int64_t i = 0; i < n; i++)
		loss[i] = whole_row((float *)z + i * ldz, v, target[i], *scale);
}
