#include "kernels/nf4.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "base/xalloc.h"
#include "kernels/device.h"

/* Counts the midpoints below v: a tie with a midpoint stays below. */
static inline uint8_t level_of(float v)
{
	int i = 0;

	for (int j = 0; j < 15; j++)
		i += v > (nf4_levels[j] + nf4_levels[j + 1]) / 2.0f;
	return (uint8_t)i;
}

static float block_absmax(const float *x, int64_t n)
{
	float m = 0;

	for (int64_t i = 0; i < n; i++)
		m = fabsf(x[i]) > m ? fabsf(x[i]) : m;
	return m;
}

/* A whole block multiplies by the reciprocal; the short one at the end divides,
 * and its absmax is at least 1e-38: so does bitsandbytes. */
LP_CLONES
static void quantize_block(const float *x, int64_t n, uint8_t *codes, float *absmax)
{
	uint8_t c[NF4_BLOCK];
	float m = block_absmax(x, n), floor = m < 1e-38f ? 1e-38f : m, inv = 1.0f / floor;

	*absmax = n == NF4_BLOCK ? m : floor;
	memset(c, level_of(0.0f), sizeof(c)); /* an odd end is padded with the zero */
	for (int64_t i = 0; i < n; i++) {
		float v = n == NF4_BLOCK ? x[i] * inv : x[i] / floor;

		c[i] = level_of(v);
	}
	for (int64_t i = 0; i < n; i += 2)
		codes[i / 2] = (uint8_t)(c[i] << 4 | c[i + 1]);
}

void nf4_quantize_absmax(const float *absmax, int64_t n_blocks, float offset, uint8_t *qabsmax, float *absmax2)
{
	for (int64_t b = 0; b < n_blocks; b += NF4_BLOCK2) {
		int64_t end = b + NF4_BLOCK2 < n_blocks ? b + NF4_BLOCK2 : n_blocks;
		float m = 0, inv;

		for (int64_t i = b; i < end; i++)
			m = fabsf(absmax[i] - offset) > m ? fabsf(absmax[i] - offset) : m;
		absmax2[b / NF4_BLOCK2] = m;
		if (m == 0) {
			memset(qabsmax + b, 0, (size_t)(end - b));
			continue;
		}
		inv = 1.0f / m;
		for (int64_t i = b; i < end; i++)
			qabsmax[i] = dynmap_code(dynmap_signed, (absmax[i] - offset) * inv);
	}
}

void nf4_quantize(const float *x, struct nf4 *q, float *absmax)
{
	int64_t n_blocks = nf4_blocks(q->n);
	double sum = 0;

#pragma omp parallel for schedule(static) if (n_blocks > 64)
	for (int64_t b = 0; b < n_blocks; b++) {
		int64_t i = b * NF4_BLOCK, n = q->n - i < NF4_BLOCK ? q->n - i : NF4_BLOCK;

		quantize_block(x + i, n, q->codes + i / 2, absmax + b);
	}
	for (int64_t b = 0; b < n_blocks; b++)
		sum += (double)absmax[b];
	q->offset = n_blocks ? (float)(sum / (double)n_blocks) : 0;
	nf4_quantize_absmax(absmax, n_blocks, q->offset, q->qabsmax, q->absmax2);
}

int kn_nf4_quant_cpu(struct device *d, struct nf4 *q, const void *x, enum dtype dt, void *room, struct err *e)
{
	float *wide = lp_try_alloc((size_t)q->n, sizeof(*wide), "a weight to quantise", e);
	float *absmax = wide ? lp_try_alloc((size_t)nf4_blocks(q->n), sizeof(*absmax), "its scales", e) : NULL;

	(void)d;
	(void)room;
	if (absmax) {
		to_f32(dt, x, wide, (size_t)q->n);
		nf4_quantize(wide, q, absmax);
	}
	free(wide);
	free(absmax);
	return absmax ? 0 : -1;
}

LP_CLONES
static void dequant_block(float *restrict y, const uint8_t *restrict codes, float absmax, int64_t n)
{
	for (int64_t i = 0; i + 1 < n; i += 2) {
		y[i] = nf4_levels[codes[i / 2] >> 4] * absmax;
		y[i + 1] = nf4_levels[codes[i / 2] & 15] * absmax;
	}
	if (n % 2)
		y[n - 1] = nf4_levels[codes[n / 2] >> 4] * absmax;
}

/* Blocks run over the ends of rows: one that does is taken apart. */
static void dequant_split(float *y, int64_t ldy, const struct nf4 *q, int64_t b, int64_t cols)
{
	float block[NF4_BLOCK];
	int64_t i = b * NF4_BLOCK, n = q->n - i < NF4_BLOCK ? q->n - i : NF4_BLOCK;

	dequant_block(block, q->codes + i / 2, nf4_scale(q, b), n);
	for (int64_t j = 0; j < n; j++)
		y[(i + j) / cols * ldy + (i + j) % cols] = block[j];
}

void kn_nf4_dequant_cpu(struct device *d, void *y, int64_t ldy, const struct nf4 *q, int64_t rows, int64_t cols)
{
	int64_t n_blocks = nf4_blocks(q->n);

	(void)rows;
#pragma omp parallel for schedule(static) num_threads(d->threads) if (n_blocks > 64)
	for (int64_t b = 0; b < n_blocks; b++) {
		int64_t i = b * NF4_BLOCK;

		if (cols % NF4_BLOCK == 0)
			dequant_block((float *)y + i / cols * ldy + i % cols, q->codes + i / 2, nf4_scale(q, b), NF4_BLOCK);
		else
			dequant_split(y, ldy, q, b, cols);
	}
}
