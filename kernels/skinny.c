#include "kernels/skinny.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "base/xalloc.h"
#include "kernels/device.h"
#include "kernels/lanes.h"

LP_CLONES
static float dot(const float *x, const float *y, int64_t n)
{
	return lanes_dot(x, y, n);
}

static int part_of(const int64_t *row, const int64_t *rows, int n, int64_t i)
{
	for (int j = 0; j < n; j++)
		if (i >= row[j] && i < row[j] + rows[j])
			return j;
	return -1;
}

/* Row i of W in fp32; room holds in of them. */
static const float *weight_row(const struct kn_skinny *s, int64_t i, float *room)
{
	int j = s->dense ? -1 : part_of(s->row, s->rows, s->n, i);
	const struct nf4 *q;

	if (j < 0)
		return (const float *)s->dense + i * s->ldw;
	q = &s->q[j];
	for (int64_t c = 0; c < s->in; c++) {
		int64_t at = (i - s->row[j]) * s->in + c, b = at / NF4_BLOCK;

		room[c] = nf4_levels[at % 2 ? q->codes[at / 2] & 15 : q->codes[at / 2] >> 4] * nf4_scale(q, b);
	}
	return room;
}

/* v of row t and output i, before bias and add; inner (T, n * rank) = x A^T. */
static float value(const struct kn_skinny *s, const float *w, const float *inner, int64_t t, int64_t i)
{
	const struct kn_adapters *a = &s->adapters;
	int j = part_of(a->row, a->rows, a->n, i);
	float v = dot((const float *)s->x + t * s->ldx, w, s->in);

	if (j >= 0)
		v += a->scale * dot(inner + (t * a->n + j) * a->rank, a->b[j] + (i - a->row[j]) * a->rank, a->rank);
	return s->factor ? v * s->factor[i] : v;
}

static void output(const struct kn_skinny *s, const float *inner, int64_t i, float *room)
{
	const float *w = weight_row(s, i, room);
	const float *w2 = s->gated ? weight_row(s, i + s->out / 2, room + s->in) : NULL;

	for (int64_t t = 0; t < s->t; t++) {
		float *y = (float *)s->y + t * s->ldy + i, v = value(s, w, inner, t, i);

		if (s->gated)
			v = v / (1 + expf(-v)) * value(s, w2, inner, t, i + s->out / 2);
		if (s->bias)
			v += s->bias[i];
		*y = s->add ? v + ((const float *)s->add)[t * s->ldy + i] : v;
	}
}

void kn_skinny_cpu(struct device *d, const struct kn_skinny *s)
{
	const struct kn_adapters *a = &s->adapters;
	int64_t ranks = a->n * a->rank, out = s->gated ? s->out / 2 : s->out;
	float *inner = xcalloc((size_t)(s->t * ranks) + 1, sizeof(*inner));

	for (int64_t t = 0; t < s->t; t++)
		for (int64_t r = 0; r < ranks; r++)
			inner[t * ranks + r] = dot((const float *)s->x + t * s->ldx, a->a + r * s->in, s->in);
#pragma omp parallel num_threads(d->threads)
	{
		float *room = xcalloc((size_t)(2 * s->in) + 1, sizeof(*room));

#pragma omp for schedule(static)
		for (int64_t i = 0; i < out; i++)
			output(s, inner, i, room);
		free(room);
	}
	free(inner);
}

uint64_t kn_skinny_scratch_cpu(const struct device *d, int64_t t, int64_t in, int64_t ranks)
{
	(void)d;
	(void)t;
	(void)in;
	(void)ranks;
	return 0;
}

/* Counters, room for skinny_few.cu's, which nobody else writes to, then the pieces of x A^T (pieces, ranks, t). */
uint64_t kn_skinny_scratch_cuda(const struct device *d, int64_t t, int64_t in, int64_t ranks)
{
	(void)d;
	return KN_SKINNY_COUNTERS + KN_SKINNY_TOLD + (uint64_t)(kn_skinny_pieces(in) * ranks * t) * sizeof(float);
}
