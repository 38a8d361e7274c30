/* The operations of a step of decoding against fp64: products for few rows, the greedy choice, rotation into the
 * cache. LP_DEVICE names the device, as test_kn_ops.c says. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "kernels/device.h"
#include "kernels/dynmap.h"
#include "arrays.h"

/* --- products for few rows, and what else a step of decoding is made of --- */

struct skinny_case {
	int64_t t, in, rows[KN_PARTS], rank; /* rank 0: no adapters; parts of no rows: none */
	bool dense, gated, plain;            /* plain: NF4 with one level of scales */
	bool turned;                         /* with DoRA's factors */
};
static const struct skinny_case skinny_cases[] = {
	{ 1, 17, { 3, 2, 5 }, 0, false, false }, { 5, 64, { 40 }, 3, false, false }, { 3, 50, { 9, 9 }, 2, true, true }, { 4, 128, { 16 }, 0, false, false },
	{ 1, 128, { 16, 32, 16 }, 4, false, false }, { 8, 4096, { 64, 16, 16 }, 16, false, false }, { 7, 256, { 4224 }, 16, false, false },
	{ 16, 256, { 4256 }, 5, false, false }, { 1, 1280, { 2112, 2112 }, 16, false, true }, { 9, 384, { 48, 48 }, 8, false, true },
	{ 40, 256, { 96, 32, 32 }, 16, false, false }, { 64, 1280, { 64, 64 }, 16, false, true }, { 64, 4096, { 512 }, 16, false, false },
	{ 33, 14336, { 256 }, 16, false, false }, { 1, 256, { 4224 }, 0, true, false }, { 12, 512, { 80 }, 16, true, false }, { 30, 256, { 64, 64 }, 8, true, true },
	{ 3, 50, { 9, 9 }, 2, false, true, true }, { 8, 4096, { 64, 16, 16 }, 16, false, false, true }, { 16, 256, { 4256 }, 5, false, false, true },
	{ 1, 1280, { 2112, 2112 }, 16, false, true, true }, { 64, 1280, { 64, 64 }, 16, false, true, true },
	{ 64, 2048, { 512, 128, 128 }, 16, false, false }, { 20, 768, { 272 }, 24, false, false }, { 64, 512, { 320, 320 }, 64, false, true },
	{ 48, 1024, { 304, 16, 48 }, 0, false, false, true }, { 64, 4096, { 576, 576 }, 12, false, true },
	{ 3, 50, { 9, 9 }, 2, true, true, false, true }, { 8, 4096, { 64, 16, 16 }, 16, false, false, false, true }, { 1, 1280, { 2112, 2112 }, 16, false, true, false, true },
	{ 64, 1280, { 64, 64 }, 16, false, true, false, true }, { 40, 256, { 96, 32, 32 }, 16, false, false, false, true }, { 12, 512, { 80 }, 16, true, false, false, true },
	{ 1, 128, { 16, 32, 16 }, 4, false, false, false, true }, { 16, 256, { 4256 }, 5, false, false, false, true }, { 9, 384, { 48, 48 }, 8, false, true, false, true },
};

struct skinny_host {
	int n;
	int64_t out, act_cols;
	float *w, *x, *a, *b[KN_PARTS], *bias, *add, *factor; /* w (out, in): what the codes stand for */
	struct nf4 q[KN_PARTS];                      /* host arrays */
};

static void quantised(struct nf4 *q, float *w, int64_t n, bool plain)
{
	float *absmax = xcalloc((size_t)nf4_blocks(n), sizeof(*absmax));

	*q = (struct nf4){ .n = n, .codes = xcalloc((size_t)(n + 1) / 2, 1), .qabsmax = xcalloc((size_t)nf4_blocks(n), 1),
		.absmax2 = xcalloc((size_t)nf4_blocks2(n), 4) };
	nf4_quantize(w, q, absmax);
	q->plain = plain;
	for (int64_t i = 0; i < n; i++)
		w[i] = nf4_levels[i % 2 ? q->codes[i / 2] & 15 : q->codes[i / 2] >> 4] *
		       (plain ? absmax[i / NF4_BLOCK] : dynmap_signed[q->qabsmax[i / NF4_BLOCK]] * q->absmax2[i / NF4_BLOCK / NF4_BLOCK2] + q->offset);
	if (!plain) {
		free(absmax);
		return;
	}
	free(q->absmax2);
	q->absmax2 = absmax;
}

static struct skinny_host skinny_make(const struct skinny_case *c)
{
	struct skinny_host h = { 0 };

	for (; h.n < KN_PARTS && c->rows[h.n]; h.n++)
		h.out += c->rows[h.n];
	h.act_cols = c->gated ? h.out / 2 : h.out;
	h.w = noise(h.out * c->in, 0.05, 1);
	h.x = noise(c->t * c->in, 1, 2);
	h.a = noise(h.n * c->rank * c->in, 0.05, 3);
	h.bias = noise(h.out, 1, 4);
	h.add = noise(c->t * h.out, 1, 5);
	h.factor = noise(h.out, 1, 9);
	for (int64_t j = 0, row = 0; j < h.n; row += c->rows[j++]) {
		h.b[j] = noise(c->rows[j] * c->rank, 0.1, (uint64_t)(6 + j));
		if (!c->dense)
			quantised(&h.q[j], h.w + row * c->in, c->rows[j] * c->in, c->plain);
	}
	return h;
}

static void skinny_drop(struct skinny_host *h)
{
	for (int j = 0; j < h->n; j++)
		free(h->b[j]), free(h->q[j].codes), free(h->q[j].qabsmax), free(h->q[j].absmax2);
	free(h->w), free(h->x), free(h->a), free(h->bias), free(h->add), free(h->factor);
}

/* Rows [first, first + t) of the case on d, twice with the same scratch; y as it lies there, ld apart. */
static void *skinny_run(struct device *d, const struct skinny_case *c, const struct skinny_host *h, int64_t first, int64_t t, int64_t ld)
{
	struct kn_skinny s = { .t = t, .planned = c->t, .in = c->in, .out = h->out, .ldx = c->in + 8, .ldy = ld, .gated = c->gated, .n = h->n };
	uint64_t bytes = d->k.skinny_scratch(d, t, c->in, h->n * c->rank);
	void *mem[32];
	int n = 0;

#define KEEP(p) (mem[n++] = (p))
	s.x = KEEP(up(d, h->x + first * c->in, t, c->in, s.ldx));
	s.y = up(d, NULL, t, h->act_cols, ld);
	s.scratch = KEEP(room(d, bytes));
	if (!c->gated) {
		s.bias = KEEP(up_raw(d, h->bias, (uint64_t)h->out * 4));
		s.add = KEEP(up(d, h->add + first * h->out, t, h->out, ld));
	}
	if (c->turned)
		s.factor = KEEP(up_raw(d, h->factor, (uint64_t)h->out * 4));
	if (c->dense) {
		s.ldw = c->in + 64;
		s.dense = KEEP(up(d, h->w, h->out, c->in, s.ldw));
	}
	if (c->rank)
		s.adapters = (struct kn_adapters){ .n = h->n, .rank = c->rank, .scale = 0.5f, .a = KEEP(up_raw(d, h->a, (uint64_t)(h->n * c->rank * c->in) * 4)) };
	for (int64_t j = 0, row = 0; j < h->n; row += c->rows[j++]) {
		s.row[j] = s.adapters.row[j] = row;
		s.rows[j] = s.adapters.rows[j] = c->rows[j];
		if (c->rank)
			s.adapters.b[j] = KEEP(up_raw(d, h->b[j], (uint64_t)(c->rows[j] * c->rank) * 4));
		if (c->dense)
			continue;
		s.q[j] = h->q[j];
		s.q[j].codes = KEEP(up_raw(d, h->q[j].codes, (uint64_t)(h->q[j].n + 1) / 2));
		s.q[j].qabsmax = c->plain ? NULL : KEEP(up_raw(d, h->q[j].qabsmax, (uint64_t)nf4_blocks(h->q[j].n)));
		s.q[j].absmax2 = KEEP(up_raw(d, h->q[j].absmax2, (uint64_t)nf4_n_absmax2(&h->q[j]) * 4));
	}
#undef KEEP
	d->k.skinny(d, &s);
	d->k.skinny(d, &s);
	must_sync(d);
	while (n)
		device_free(d, mem[--n]);
	return s.y;
}

/* v of one output in fp64, and what its error may be. */
static double skinny_value(const struct skinny_case *c, const struct skinny_host *h, int64_t t, int64_t i, double *bound)
{
	double v = 0, sum = 0, inner, abs_inner;
	int64_t j = 0, row = 0;

	for (int64_t k = 0; k < c->in; k++) {
		double p = (double)h->x[t * c->in + k] * (double)h->w[i * c->in + k];

		v += p, sum += fabs(p);
	}
	while (i >= row + c->rows[j])
		row += c->rows[j++];
	for (int64_t r = 0; r < c->rank; r++) {
		double b = 0.5 * (double)h->b[j][(i - row) * c->rank + r];

		inner = abs_inner = 0;
		for (int64_t k = 0; k < c->in; k++) {
			double p = (double)h->x[t * c->in + k] * (double)h->a[(j * c->rank + r) * c->in + k];

			inner += p, abs_inner += fabs(p);
		}
		v += b * inner, sum += fabs(b) * abs_inner;
	}
	*bound = ((ulp ? 0x1p-9 + 0x1p-16 : 0) + (double)(c->in + c->rank + 4) * 0x1p-24) * sum;
	if (c->turned) {
		*bound = (*bound + 0x1p-24 * fabs(v)) * fabs((double)h->factor[i]);
		v *= (double)h->factor[i];
	}
	return v;
}

START_TEST(test_skinny)
{
	const struct skinny_case *c = &skinny_cases[_i];
	struct skinny_host h;
	int64_t ld, step;
	void *py, *py2;
	float *y;

	if (!dev.k.skinny) /* this device decodes by dense products (device.h, few) */
		return;
	h = skinny_make(c);
	ld = h.act_cols + 8;
	step = c->t * h.act_cols * c->in > 20000000 ? 37 : 1; /* outputs that are looked at */
	py = skinny_run(&dev, c, &h, 0, c->t, ld);
	py2 = skinny_run(&again, c, &h, 0, c->t, ld);
	y = down(&dev, py, c->t, h.act_cols, ld);
	same_bytes(&dev, py, &again, py2, act_bytes(c->t * ld));
	for (int64_t e = 0; e < c->t * h.act_cols; e += step) {
		int64_t t = e / h.act_cols, i = e % h.act_cols;
		double b, b2, v = skinny_value(c, &h, t, i, &b), u;

		if (c->gated) {
			u = skinny_value(c, &h, t, i + h.act_cols, &b2);
			b = 1.1 * b * (fabs(u) + b2) + fabs(v / (1 + exp(-v))) * b2 + 4e-6 * (fabs(v) + 1) * (fabs(u) + 1);
			v = v / (1 + exp(-v)) * u;
		} else {
			u = (double)h.bias[i] + (double)h.add[t * h.out + i];
			b += 0x1p-22 * (fabs(v) + fabs((double)h.bias[i]) + fabs((double)h.add[t * h.out + i]));
			v += u;
		}
		near(y[e], v, b + ulp * fabs(v), "y", e);
	}
	/* a row alone has the same bits */
	for (int64_t t = 0; t < c->t; t += c->t > 1 ? c->t - 1 : 1) {
		void *alone = skinny_run(&dev, c, &h, t, 1, ld);

		same_bytes(&dev, act_at(&dev, py, t * ld), &dev, alone, act_bytes(ld));
		device_free(&dev, alone);
	}
	device_free(&dev, py), device_free(&again, py2);
	free(y);
	skinny_drop(&h);
}
END_TEST

START_TEST(test_pick)
{
	enum { N = 5, MOST = 2 };
	static const int64_t widths[] = { 1, 7, 333, 128256 };
	int64_t v = widths[_i];
	float *z = noise(N * v, 3, 1);
	int32_t start[4][N] = { { 9, 9, 9, 9, 9 }, { 5, 6, 7, 8, 9 }, { 6, 7, 8, 9, 10 }, { 0, 0, 1, 2, 0 } }, got[4][N], out[N * MOST];
	double logprob[N * MOST];
	void *pz, *pi = up_raw(&dev, start, sizeof(start)), *po = room(&dev, sizeof(out)), *pl = room(&dev, sizeof(logprob));
	struct kn_pick p = { .n = N, .v = v, .most = MOST, .ids = pi, .pos = (int32_t *)pi + N, .len = (int32_t *)pi + 2 * N, .count = (int32_t *)pi + 3 * N,
		.out = po, .logprob = pl };

	/* equal ones: the first wins */
	if (v > 300)
		z[v + 300] = z[v + 17] = z[v + 140] = 64;
	p.z = pz = up(&dev, z, N, v, v);
	dev.k.pick(&dev, &p);
	device_download(&dev, got, pi, sizeof(got));
	device_download(&dev, out, po, sizeof(out));
	device_download(&dev, logprob, pl, sizeof(logprob));
	must_sync(&dev);
	for (int64_t i = 0; i < N; i++) {
		int64_t best = 0;
		double sum = 0;

		for (int64_t j = 1; j < v; j++)
			best = z[i * v + j] > z[i * v + best] ? j : best;
		for (int64_t j = 0; j < v; j++)
			sum += exp((double)z[i * v + j] - (double)z[i * v + best]);
		ck_assert_int_eq(got[0][i], best);
		ck_assert_int_eq(got[1][i], start[1][i] + 1);
		ck_assert_int_eq(got[2][i], start[2][i] + 1);
		ck_assert_int_eq(got[3][i], start[3][i] < MOST ? start[3][i] + 1 : MOST);
		if (start[3][i] == MOST)
			continue;
		ck_assert_int_eq(out[i * MOST + start[3][i]], best);
		near(logprob[i * MOST + start[3][i]], -log(sum), 2e-6 * (1 + log(sum)), "logprob", i);
	}
	device_free(&dev, pz), device_free(&dev, pi), device_free(&dev, po), device_free(&dev, pl);
	free(z);
}
END_TEST

START_TEST(test_kv_turn)
{
	enum { T = 3, HEADS = 4, KV = 2, CONTEXT = 6, SLOTS = 3 };
	static const int64_t dims[] = { 6, 64, 128 };
	int64_t hd = dims[_i], width = KV * hd, cols = (HEADS + 2 * KV) * hd, ld = cols + 8, size = SLOTS * CONTEXT * width;
	float *x = noise(T * cols, 1, 1), *tab = noise(CONTEXT * hd, 0.5, 2), *q, *k, *v;
	int32_t pos[T] = { 5, 0, 3 }, slot[T] = { 2, 0, 1 };
	void *px = up(&dev, x, T, cols, ld), *pt = up_raw(&dev, tab, (uint64_t)(CONTEXT * hd) * 4), *pp = up_raw(&dev, pos, sizeof(pos)), *ps = up_raw(&dev, slot, sizeof(slot));
	struct kn_kv_cache c = { up(&dev, NULL, 1, size, size), up(&dev, NULL, 1, size, size), CONTEXT * width, width };
	struct kn_attn_shape s = { .n_heads = HEADS, .n_kv = KV, .head_dim = hd, .ldq = ld, .ldk = ld, .ldv = ld };
	const float *co = tab, *si = tab + CONTEXT * hd / 2;

	dev.k.kv_turn(&dev, &s, &c, px, pt, (float *)pt + CONTEXT * hd / 2, ps, pp, T);
	q = down(&dev, px, T, cols, ld);
	k = down(&dev, c.k, 1, size, size);
	v = down(&dev, c.v, 1, size, size);
	for (int64_t t = 0; t < T; t++)
		for (int64_t h = 0; h < HEADS + KV; h++)
			for (int64_t j = 0; j < hd; j++) {
				const float *p = x + t * cols + h * hd;
				int64_t i = j % (hd / 2), at = slot[t] * CONTEXT * width + pos[t] * width + (h - HEADS) * hd + j;
				double a = p[i], b = p[i + hd / 2], cs = co[pos[t] * hd / 2 + i], sn = si[pos[t] * hd / 2 + i];
				double want = j < hd / 2 ? a * cs - b * sn : b * cs + a * sn;

				near(h < HEADS ? q[t * cols + h * hd + j] : k[at], want, 0x1p-22 * (fabs(a) + fabs(b)) + ulp * fabs(want) + tiny, "turned", t * cols + h * hd + j);
				if (h >= HEADS)
					ck_assert(v[at] == x[t * cols + (h + KV) * hd + j]);
			}
	/* a row that nobody has */
	for (int64_t j = 0; j < width; j++)
		ck_assert(k[CONTEXT * width + j] == GAP && v[CONTEXT * width + j] == GAP);
	device_free(&dev, px), device_free(&dev, pt), device_free(&dev, pp), device_free(&dev, ps), device_free(&dev, c.k), device_free(&dev, c.v);
	free(x), free(tab), free(q), free(k), free(v);
}
END_TEST

static void add(TCase *t)
{
	tcase_add_loop_test(t, test_skinny, 0, (int)(sizeof(skinny_cases) / sizeof(*skinny_cases)));
	tcase_add_loop_test(t, test_pick, 0, 4);
	tcase_add_loop_test(t, test_kv_turn, 0, 3);
}

int main(void)
{
	return run_suite("kn_decode", add);
}
