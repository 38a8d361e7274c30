/* Public shapes with weights made at random on the machine, and arguments of the form name=value, for the benchmarks that run
 * a model. Included once, by a program that has defined BENCH, its name. */
#ifndef LP_BENCH_RANDOM_MODEL_H
#define LP_BENCH_RANDOM_MODEL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "base/rng.h"
#include "base/xalloc.h"
#include "train/engine.h"

static struct err e = ERR_INIT;

static void must(bool ok)
{
	if (ok)
		return;
	fprintf(stderr, BENCH ": %s\n", e.msg);
	exit(e.code ? (int)e.code : 5);
}

/* One argument name=value; of i, f and s the one that is not NULL takes the value. */
struct arg {
	const char *name;
	int64_t *i;
	double *f;
	const char **s;
};

static bool take_arg(const struct arg *a, const char *value)
{
	if (a->s)
		*a->s = value;
	return a->s || (a->i ? parse_i64(value, a->i) : parse_f64(value, a->f));
}

/* The list of arguments ends with a NULL name; exits when something is not of it. */
static void take_args(const struct arg *list, int argc, char **argv)
{
	for (int k = 1; k < argc; k++) {
		const struct arg *a = list;
		size_t n = strcspn(argv[k], "=");

		while (a->name && (strlen(a->name) != n || strncmp(a->name, argv[k], n) != 0))
			a++;
		if (!a->name || argv[k][n] != '=' || !take_arg(a, argv[k] + n + 1)) {
			fprintf(stderr, BENCH ": '%s' is not name=value of what the head of its source lists\n", argv[k]);
			exit(2);
		}
	}
}

/* Exits where there is no shape of that name. */
static void describe(struct model_desc *m, const char *shape)
{
	static const struct {
		const char *name;
		int64_t layers, hidden, heads, kv, ffn, vocab;
		bool tied;
	} shapes[] = {
		{ "tiny", 4, 512, 8, 2, 1536, 32000, false },
		{ "1b", 16, 2048, 32, 8, 8192, 128256, true },
		{ "3b", 28, 3072, 24, 8, 8192, 128256, true },
		{ "8b", 32, 4096, 32, 8, 14336, 128256, false },
		{ "70b", 80, 8192, 64, 8, 28672, 128256, false },
	};

	memset(m, 0, sizeof(*m));
	for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
		if (strcmp(shapes[i].name, shape) == 0)
			*m = (struct model_desc){ .family = "llama", .layers = shapes[i].layers, .hidden = shapes[i].hidden, .heads = shapes[i].heads,
				.kv_heads = shapes[i].kv, .head_dim = shapes[i].hidden / shapes[i].heads, .ffn = shapes[i].ffn, .vocab = shapes[i].vocab,
				.max_pos = 1 << 20, .rms_eps = 1e-5, .tied = shapes[i].tied, .rope_theta = 500000, .dtype = DT_BF16 };
	if (m->layers == 0) {
		fprintf(stderr, BENCH ": no shape '%s'\n", shape);
		exit(2);
	}
}

/* --- weights at random, made here and sent in pieces --- */

#define PIECE (1 << 24)

static uint16_t normal_bf16[PIECE]; /* N(0, 0.02) */
static uint8_t bytes[PIECE];

static void make_noise(void)
{
	for (int64_t i = 0; i < PIECE; i += 2) {
		uint64_t r = rng_u64(1, 2, (uint64_t)i / 2);

		memcpy(bytes + i, &r, 2);
		/* a sum of four uniform numbers is near enough to a normal one for a benchmark */
		for (int k = 0; k < 2; k++) {
			uint64_t q = k ? rng_u64(1, 3, (uint64_t)i) : r;
			double s = (double)(q & 0xffff) + (double)(q >> 16 & 0xffff) + (double)(q >> 32 & 0xffff) + (double)(q >> 48);

			normal_bf16[i + k] = f32_to_bf16((float)((s / 65536 - 2) * 1.732 * 0.02));
		}
	}
}

static void send(struct device *d, void *to, const void *noise, uint64_t n)
{
	for (uint64_t at = 0; at < n; at += PIECE)
		device_upload(d, (char *)to + at, noise, n - at < PIECE ? n - at : PIECE);
}

static void send_const(struct device *d, float *to, int64_t n, float v, float spread)
{
	float *x = xcalloc((size_t)n, sizeof(*x));

	for (int64_t i = 0; i < n; i++)
		x[i] = v + spread * (float)(bytes[i % PIECE] - 128) / 128;
	device_upload(d, to, x, (uint64_t)n * sizeof(*x));
	free(x);
}

/* NF4: random codes; scales about 0.045, the largest of 64 of N(0, 0.02). */
static void fill_nf4(struct engine *g, int64_t layer, int slot, void *room)
{
	struct device *d = g->dev;
	struct nf4 q;

	weights_codes(&g->w, layer, slot, room, &q);
	send(d, q.codes, bytes, (uint64_t)(q.n + 1) / 2);
	send(d, q.qabsmax, bytes, (uint64_t)nf4_blocks(q.n));
	send_const(d, q.absmax2, nf4_blocks2(q.n), 0.01f, 0.001f);
	q.offset = 0.045f;
	weights_put(&g->w, d, layer, slot, &q);
}

/* The same numbers wherever its rows are. */
static void fill_table(struct engine *g, bool head)
{
	struct table_place t = weights_table(&g->w, head);
	uint64_t row = (uint64_t)g->w.desc.hidden * 2, all = (uint64_t)g->w.desc.vocab * row, at = all - (uint64_t)t.on_host * row;

	send(g->dev, t.device, normal_bf16, (uint64_t)t.on_device * row);
	for (char *to = t.host; at < all;) {
		uint64_t n = PIECE - at % PIECE < all - at ? PIECE - at % PIECE : all - at;

		memcpy(to, (const char *)normal_bf16 + at % PIECE, n);
		to += n;
		at += n;
	}
}

static void fill(struct engine *g)
{
	struct device *d = g->dev;
	const struct model_desc *m = &g->w.desc;
	void *room = device_alloc(d, weights_room(&g->w), "weights on their way", &e);

	must(room != NULL);

	make_noise();
	fill_table(g, false);
	if (!m->tied)
		fill_table(g, true);
	send_const(d, g->w.norm, m->hidden, 1, 0.1f);
	for (int64_t i = 0; i < m->layers; i++) {
		struct layer_weights *lw = &g->w.layers[i];

		send_const(d, lw->norm1, m->hidden, 1, 0.1f);
		send_const(d, lw->norm2, m->hidden, 1, 0.1f);
		for (int s = 0; s < LIN_N; s++)
			if (g->w.nf4)
				fill_nf4(g, i, s, room);
		for (int k = 0; k < GRP_N; k++) {
			struct wgroup *w = &lw->grp[k];

			if (g->w.dense)
				send(d, w->dense, normal_bf16, (uint64_t)(w->out * w->ld) * 2);
		}
	}
	weights_to_fp8(&g->w, d, g->dense);
	must(device_sync(d, &e) == 0);
	device_free(d, room);
}

#endif
