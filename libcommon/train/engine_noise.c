/* NEFTune: noise on the embeddings while training (Jain et al. 2023): uniform in +-alpha / sqrt(T C), T tokens of the sequence. Made
 * on the host by its threads, where no device has an operation for it; a GPU gets rows with their noise, which are made while it
 * works on the micro-batch before. */
#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "base/xalloc.h"
#include "train/engine.h"

static bool on_host(const struct engine *g)
{
	return g->dev->kind == DEVICE_CPU;
}

void engine_layout_noise(struct engine *g, struct layout *host)
{
	const struct weights *w = &g->w;
	int64_t rows = g->shape.max_tokens < g->shape.piece ? g->shape.max_tokens : g->shape.piece;

	g->noise_way = g->noise_table = NULL;
	if (g->shape.noise <= 0 || on_host(g))
		return;
	g->noise_way = layout_array(host, "embeddings with noise", rows * w->desc.hidden, dtype_bytes(g->dev->act));
	if (!w->host_embed)
		g->noise_table = layout_array(host, "embeddings with noise", w->embed.rows * w->desc.hidden, dtype_bytes(w->embed.dtype));
}

void engine_set_noise(struct engine *g, bool on, uint64_t seed, int64_t step)
{
	g->noise_on = on && g->shape.noise > 0;
	g->noise_seed = rng_u64(seed, rng_stream("neftune"), (uint64_t)step);
	if (g->noise_on && g->noise_table && !g->noise_ready)
		device_download(g->dev, g->noise_table, g->w.embed.data, (uint64_t)(g->w.embed.rows * g->w.desc.hidden) * dtype_bytes(g->w.embed.dtype));
	g->noise_ready |= g->noise_on;
}

/* Of token pos of a record; most: the bound. */
static void add_noise(float *x, int64_t c, uint64_t seed, int32_t rec, int32_t pos, float most)
{
	const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };

	for (int64_t i = 0; i < c; i += 4) {
		const uint32_t ctr[4] = { (uint32_t)(i / 4), (uint32_t)pos, (uint32_t)rec, 0 };
		uint32_t u[4];

		philox4x32(ctr, key, u);
		for (int64_t k = 0; k < 4 && i + k < c; k++)
			x[i + k] += (float)(int32_t)u[k] * 0x1p-31f * most;
	}
}

static int32_t tokens_of(const struct microbatch *b, int64_t t)
{
	int64_t first = t - b->pos[t], lo = 0, hi = b->n_seqs;

	while (hi - lo > 1) {
		int64_t mid = (lo + hi) / 2;

		*(b->seq_start[mid] <= first ? &lo : &hi) = mid;
	}
	return b->seq_start[lo + 1] - b->seq_start[lo];
}

/* Row t of the micro-batch, to the host. room: (C) fp32. */
static void noisy_row(const struct engine *g, const struct microbatch *b, int64_t t, float *room, void *to)
{
	const struct wmat *w = &g->w.embed;
	const char *table = g->noise_table ? g->noise_table : w->data;
	int64_t c = g->w.desc.hidden;

	to_f32(w->dtype, table + (size_t)(b->ids[t] * c) * dtype_bytes(w->dtype), room, (size_t)c);
	add_noise(room, c, g->noise_seed, b->rec[t], b->pos[t], (float)(g->shape.noise / sqrt((double)tokens_of(b, t) * (double)c)));
	from_f32(g->dev->act, room, to, (size_t)c);
}

static void noisy_rows(const struct engine *g, const struct microbatch *b, struct piece p, void *to)
{
	int64_t c = g->w.desc.hidden;

#pragma omp parallel num_threads(g->dev->threads) if (p.n * c > 32768)
	{
		float *room = xcalloc((size_t)c, sizeof(*room));

#pragma omp for schedule(static)
		for (int64_t i = 0; i < p.n; i++)
			noisy_row(g, b, p.from + i, room, act_at(g->dev, to, i * c));
		free(room);
	}
}

void engine_embed_noisy(struct engine *g, const struct microbatch *b)
{
	struct device *d = g->dev;
	int64_t c = g->w.desc.hidden;

	for (int64_t from = 0; from < b->n_tokens; from += g->shape.piece) {
		struct piece p = engine_piece(g, from, b->n_tokens);
		void *x = act_at(d, g->x1[0], from * c);

		if (on_host(g)) {
			noisy_rows(g, b, p, x);
			continue;
		}
		d->k.settle(d, SLOT_NOISE, NULL); /* the buffer has been read */
		noisy_rows(g, b, p, g->noise_way);
		d->k.back(d, SLOT_NOISE, x, g->noise_way, (uint64_t)(p.n * c) * dtype_bytes(d->act));
		d->k.await(d, SLOT_NOISE);
	}
}
