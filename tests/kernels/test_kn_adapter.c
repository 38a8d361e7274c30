/* What adapters are made of, against fp64: their place beside a dense weight, their skinny products, and the optimiser beside
 * the CPU's. LP_DEVICE names the device, as test_kn_ops.c says. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device.h"
#include "arrays.h"

/* --- adapters in a dense form --- */

START_TEST(test_adapter_place)
{
	enum { IN = 40, OUT = 70, PAD = 64, R = 8, LD = IN + PAD, N = 2 };
	static const int64_t row[N] = { 0, 30 }, rows[N] = { 30, 25 };
	float *a = noise(N * R * IN, 1, 1), *b0 = noise(rows[0] * R, 1, 2), *b1 = noise(rows[1] * R, 1, 3), *w = noise(OUT * IN, 1, 4);
	float *full = xcalloc((OUT + PAD) * LD, 4), *g;
	void *pa = up_raw(&dev, a, N * R * IN * 4), *pb0 = up_raw(&dev, b0, (uint64_t)rows[0] * R * 4), *pb1 = up_raw(&dev, b1, (uint64_t)rows[1] * R * 4), *pg;
	struct kn_adapters k = { IN, OUT, PAD, N, R, 0.5f, pa, { pb0, pb1 }, { row[0], row[1] }, { rows[0], rows[1] } };

	for (int i = 0; i < (OUT + PAD) * LD; i++)
		full[i] = i / LD < OUT && i % LD < IN ? w[i / LD * IN + i % LD] : 9;
	pg = up(&dev, full, OUT + PAD, LD, LD);
	dev.k.adapter_place(&dev, act_at(&dev, pg, IN), LD, act_at(&dev, pg, OUT * LD), LD, &k);
	g = down(&dev, pg, OUT + PAD, LD, LD);
	for (int64_t i = 0; i < OUT + PAD; i++)
		for (int64_t j = 0; j < LD; j++) {
			double want = 0;
			int64_t s = (j - IN) / R;

			if (i >= OUT && j >= IN)
				continue; /* nobody reads the corner */
			if (j < IN)
				want = i < OUT ? w[i * IN + j] : i < OUT + N * R ? a[(i - OUT) * IN + j] : 0;
			else if (s < N && i >= row[s] && i < row[s] + rows[s])
				want = 0.5 * (s ? b1 : b0)[(i - row[s]) * R + (j - IN) % R];
			near(g[i * LD + j], want, ulp * fabs(want) + tiny, "g", i * LD + j);
		}
	device_free(&dev, pa), device_free(&dev, pb0), device_free(&dev, pb1), device_free(&dev, pg);
	free(a), free(b0), free(b1), free(w), free(full), free(g);
}
END_TEST

/* Room for the parts of n gradients' squares, with something in it that must go. */
static double *squares_room(struct device *d, int64_t n)
{
	double *dirt = xcalloc((size_t)kn_adapter_squares(n), sizeof(*dirt)), *p;

	for (int64_t i = 0; i < kn_adapter_squares(n); i++)
		dirt[i] = 1e3;
	p = up_raw(d, dirt, (uint64_t)kn_adapter_squares(n) * sizeof(*dirt));
	free(dirt);
	return p;
}

/* The parts add up to `want`. */
static void near_squares(double *squares, int64_t n, double want)
{
	double *parts = xcalloc((size_t)kn_adapter_squares(n), sizeof(*parts)), sum = 0;

	device_download(&dev, parts, squares, (uint64_t)kn_adapter_squares(n) * sizeof(*parts));
	for (int64_t i = 0; i < kn_adapter_squares(n); i++)
		sum += parts[i];
	near(sum, want, 1e-12 * want, "squares", 0);
	free(parts);
}

static double squares_of(const float *x, int64_t n)
{
	double s = 0;

	for (int64_t i = 0; i < n; i++)
		s += (double)x[i] * (double)x[i];
	return s;
}

/* --- an adapter's inner gradients --- */

static const struct {
	int64_t t, rank;
	int n;
	int64_t rows[3];
} grad_shapes[] = { { 1, 16, 1, { 64 } }, { 700, 16, 3, { 256, 64, 64 } }, { 513, 32, 2, { 192, 192 } }, { 130, 8, 2, { 40, 24 } },
	            { 1100, 16, 1, { 4096 } }, { 300, 16, 2, { 100, 60 } },
	            { 1, 16, 2, { 128, 256 } }, { 2500, 16, 3, { 512, 128, 128 } }, { 1023, 32, 2, { 384, 640 } }, { 515, 64, 3, { 256, 128, 128 } },
	            { 2049, 64, 1, { 2176 } } };

START_TEST(test_adapter_grad)
{
	int64_t t = grad_shapes[_i].t, r = grad_shapes[_i].rank, out = 0, pad = 208, ld, ldg = 24, inner;
	int n = grad_shapes[_i].n;
	struct kn_adapter_grad a = { .t = t, .n = n, .rank = r, .scale = 0.5f }, b;
	float *dy, *g, *s, *full, *db0, *db;
	double squares = 0;

	for (int j = 0; j < n; j++) {
		a.row[j] = out;
		a.rows[j] = grad_shapes[_i].rows[j];
		out += a.rows[j];
	}
	inner = n * r;
	ld = out + pad;
	ldg += inner;
	a.out = out, a.ldy = ld, a.ldg = ldg, a.ld_s = inner + 8;
	dy = noise(t * out, 1, 1), s = noise(t * inner, 1, 2), g = noise(out * inner, 0.1, 3), db0 = noise(out * r, 1, 4);
	for (int64_t i = 0; i < out; i++) /* off its own projection's columns G is zero */
		for (int64_t k = 0; k < inner; k++)
			if (i < a.row[k / r] || i >= a.row[k / r] + a.rows[k / r])
				g[i * inner + k] = 0;
	for (int again_too = 0; again_too < 2; again_too++) {
		struct device *d = again_too ? &again : &dev;
		struct kn_adapter_grad *x = again_too ? &b : &a;

		if (again_too)
			b = a;
		x->dy = up(d, dy, t, out, ld);
		x->b = up(d, g, out, inner, ldg);
		x->s = up(d, s, t, inner, a.ld_s);
		for (int j = 0; j < n; j++)
			x->db[j] = up_raw(d, db0 + a.row[j] * r, (uint64_t)(a.rows[j] * r) * 4);
		x->scratch = room(d, d->k.adapter_scratch(d, t, 64, out, n, r));
		x->squares = squares_room(d, out * r);
		d->k.adapter_grad(d, x);
	}
	same_bytes(&dev, a.dy, &again, b.dy, act_bytes(t * ld));
	full = down(&dev, a.dy, t, out + inner, ld);
	for (int64_t i = 0; i < t; i++)
		for (int64_t k = 0; k < inner; k++) {
			double want = 0, size = 0;
			int j = (int)(k / r);

			for (int64_t c = a.row[j]; c < a.row[j] + a.rows[j]; c++) {
				want += (double)dy[i * out + c] * (double)g[c * inner + k];
				size += fabs((double)dy[i * out + c] * (double)g[c * inner + k]);
			}
			near(full[i * (out + inner) + out + k], want, (double)(a.rows[j] + 2) * 0x1p-24 * size + ulp * fabs(want) + tiny, "ds", i * inner + k);
		}
	for (int j = 0; j < n; j++) {
		same_bytes(&dev, a.db[j], &again, b.db[j], (uint64_t)(a.rows[j] * r) * 4);
		db = down_f32(&dev, a.db[j], a.rows[j] * r);
		for (int64_t c = 0; c < a.rows[j]; c += c < 100 ? 1 : 97)
			for (int64_t k = 0; k < r; k++) {
				double want = db0[(a.row[j] + c) * r + k], size = fabs(want);

				for (int64_t i = 0; i < t; i++) {
					want += 0.5 * (double)dy[i * out + a.row[j] + c] * (double)s[i * inner + j * r + k];
					size += fabs((double)dy[i * out + a.row[j] + c] * (double)s[i * inner + j * r + k]);
				}
				near(db[c * r + k], want, (double)(t + 2) * 0x1p-24 * size, "db", c * r + k);
			}
		squares += squares_of(db, a.rows[j] * r);
		free(db);
		device_free(&dev, a.db[j]), device_free(&again, b.db[j]);
	}
	near_squares(a.squares, out * r, squares);
	same_bytes(&dev, a.squares, &again, b.squares, (uint64_t)kn_adapter_squares(out * r) * sizeof(double));
	device_free(&dev, a.squares), device_free(&again, b.squares);
	device_free(&dev, a.dy), device_free(&dev, (void *)(uintptr_t)a.b), device_free(&dev, (void *)(uintptr_t)a.s), device_free(&dev, a.scratch);
	device_free(&again, b.dy), device_free(&again, (void *)(uintptr_t)b.b), device_free(&again, (void *)(uintptr_t)b.s), device_free(&again, b.scratch);
	free(dy), free(g), free(s), free(full), free(db0);
}
END_TEST

START_TEST(test_adapter_outer)
{
	static const int64_t shapes[][3] = { { 1, 64, 16 }, { 130, 128, 48 }, { 700, 320, 32 }, { 1000, 64, 96 }, { 77, 60, 8 }, { 77, 128, 8 }, { 300, 192, 24 }, { 2100, 192, 80 }, { 129, 576, 128 }, { 1500, 4096, 192 } };
	int64_t t = shapes[_i][0], in = shapes[_i][1], nr = shapes[_i][2], ldx = in + 208, lda = in + 8, ld_ds = nr + 8;
	float *x = noise(t * in, 1, 1), *m = noise(nr * in, 0.1, 2), *ds = noise(t * nr, 1, 3), *da0 = noise(nr * in, 1, 4), *s, *da;
	struct kn_adapter_outer k[2];

	for (int i = 0; i < 2; i++) {
		struct device *d = i ? &again : &dev;

		k[i] = (struct kn_adapter_outer){ t, in, nr, up(d, x, t, in, ldx), ldx, up(d, m, nr, in, lda), lda, up(d, ds, t, nr, ld_ds), ld_ds,
			up_raw(d, da0, (uint64_t)(nr * in) * 4), room(d, d->k.adapter_scratch(d, t, in, 64, (int)(nr / 8), 8)), NULL, squares_room(d, nr * in) };
		d->k.adapter_down(d, &k[i]);
		d->k.adapter_outer(d, &k[i]);
	}
	same_bytes(&dev, k[0].x, &again, k[1].x, act_bytes(t * ldx));
	same_bytes(&dev, k[0].da, &again, k[1].da, (uint64_t)(nr * in) * 4);
	same_bytes(&dev, k[0].squares, &again, k[1].squares, (uint64_t)kn_adapter_squares(nr * in) * sizeof(double));
	s = down(&dev, k[0].x, t, in + nr, ldx);
	da = down_f32(&dev, k[0].da, nr * in);
	near_squares(k[0].squares, nr * in, squares_of(da, nr * in));
	for (int64_t i = 0; i < t; i++)
		for (int64_t j = 0; j < nr; j++) {
			double want = 0, size = 0;

			for (int64_t c = 0; c < in; c++) {
				want += (double)x[i * in + c] * (double)m[j * in + c];
				size += fabs((double)x[i * in + c] * (double)m[j * in + c]);
			}
			near(s[i * (in + nr) + in + j], want, (double)(in + 2) * 0x1p-24 * size + ulp * fabs(want) + tiny, "s", i * nr + j);
		}
	for (int64_t j = 0; j < nr; j++)
		for (int64_t c = 0; c < in; c += 7) {
			double want = da0[j * in + c], size = fabs(want);

			for (int64_t i = 0; i < t; i++) {
				want += (double)ds[i * nr + j] * (double)x[i * in + c];
				size += fabs((double)ds[i * nr + j] * (double)x[i * in + c]);
			}
			near(da[j * in + c], want, (double)(t + 2) * 0x1p-24 * size, "da", j * in + c);
		}
	for (int i = 0; i < 2; i++) {
		void *all[] = { k[i].x, (void *)(uintptr_t)k[i].a, (void *)(uintptr_t)k[i].ds, k[i].da, k[i].scratch, k[i].squares };

		for (int j = 0; j < 6; j++)
			device_free(i ? &again : &dev, all[j]);
	}
	free(x), free(m), free(ds), free(da0), free(s), free(da);
}
END_TEST

/* --- the same through dropout's masks --- */

static const int64_t masked_shapes[][4] = { /* t, in, adapters, rank */
	{ 1, 64, 1, 16 }, { 70, 192, 3, 16 }, { 130, 256, 2, 32 }, { 333, 128, 2, 48 }, { 40, 60, 2, 8 }, { 65, 64, 1, 80 },
	{ 1, 64, 1, 8 }, { 130, 192, 3, 8 }, { 333, 128, 2, 24 }, { 70, 64, 3, 24 }, { 65, 128, 1, 40 }, { 90, 64, 2, 12 },
};

struct masked {
	int64_t t, in, nr;
	float *x, *a, *ds, *da0, *g; /* g: a gradient that through adds to */
	float *keep[KN_PARTS];       /* (t, in) of each adapter: 0 or 1 / (1 - p), as the CPU has it */
	int32_t *rec, *pos;
	struct kn_adapter_masks m;
};

static struct masked masked_make(const int64_t s[4])
{
	static const uint64_t seed = 0x123456789abcdefull;
	struct masked h = { .t = s[0], .in = s[1], .nr = s[2] * s[3], .m = { .rank = s[3] } };
	struct device cpu = { .threads = 1 };
	float *ones = xcalloc((size_t)(h.t * h.in), 4);

	h.x = noise(h.t * h.in, 1, 1), h.a = noise(h.nr * h.in, 0.1, 2), h.ds = noise(h.t * h.nr, 1, 3), h.da0 = noise(h.nr * h.in, 1, 4), h.g = noise(h.t * h.in, 1, 5);
	h.rec = xcalloc((size_t)h.t, 4), h.pos = xcalloc((size_t)h.t, 4);
	for (int64_t i = 0; i < h.t; i++) {
		h.rec[i] = (int32_t)(i / 50 * 7);
		h.pos[i] = (int32_t)(i % 50);
	}
	for (int64_t i = 0; i < h.t * h.in; i++)
		ones[i] = 1;
	for (int64_t j = 0; j * s[3] < h.nr; j++) {
		h.m.key[j] = (struct kn_dropout_key){ &seed, (uint32_t)(3 + 5 * j), 0.3f };
		h.keep[j] = xcalloc((size_t)(h.t * h.in), 4);
		kn_dropout_cpu(&cpu, h.keep[j], h.in, ones, h.in, h.rec, h.pos, h.t, h.in, h.m.key[j], false);
	}
	free(ones);
	return h;
}

/* s and da of adapter r / rank, and what the gradient becomes, against fp64 with x rounded once behind its mask. */
static void masked_near(const struct masked *h, const float *s, const float *da, const float *g)
{
	for (int64_t r = 0; r < h->nr; r++) {
		const float *keep = h->keep[r / h->m.rank];

		for (int64_t i = 0; i < h->t; i++) {
			double want = 0, size = 0;

			for (int64_t c = 0; c < h->in; c++) {
				double v = (double)h->x[i * h->in + c] * (double)keep[i * h->in + c] * (double)h->a[r * h->in + c];

				want += v;
				size += fabs(v);
			}
			near(s[i * (h->in + h->nr) + h->in + r], want, ((double)(h->in + 2) * 0x1p-24 + ulp) * size + ulp * fabs(want) + tiny, "s", i * h->nr + r);
		}
		for (int64_t c = 0; c < h->in; c += 5) {
			double want = h->da0[r * h->in + c], size = fabs(want);

			for (int64_t i = 0; i < h->t; i++) {
				double v = (double)h->ds[i * h->nr + r] * (double)h->x[i * h->in + c] * (double)keep[i * h->in + c];

				want += v;
				size += fabs(v);
			}
			near(da[r * h->in + c], want, ((double)(h->t + 2) * 0x1p-24 + ulp) * size, "da", r * h->in + c);
		}
	}
	for (int64_t i = 0; i < h->t * h->in; i++) {
		double want = h->g[i], size = fabs(want);

		for (int64_t r = 0; r < h->nr; r++) {
			double v = (double)h->ds[i / h->in * h->nr + r] * (double)h->a[r * h->in + i % h->in] * (double)h->keep[r / h->m.rank][i];

			want += v;
			size += fabs(v);
		}
		/* one rounding for each adapter's part and sum where they are made one by one */
		near(g[i], want, ((double)(h->nr + 4) * 0x1p-24 + 2 * KN_PARTS * ulp) * size + tiny, "gradient", i);
	}
}

START_TEST(test_adapter_masks)
{
	struct masked h = masked_make(masked_shapes[_i]);
	int64_t ldx = h.in + h.nr + 16, ldg = h.in + 8, lda = h.in + 8, ld_ds = h.nr + 8;
	struct kn_adapter_outer k = { h.t, h.in, h.nr, up(&dev, h.x, h.t, h.in, ldx), ldx, up(&dev, h.a, h.nr, h.in, lda), lda, up(&dev, h.ds, h.t, h.nr, ld_ds), ld_ds,
		up_raw(&dev, h.da0, (uint64_t)(h.nr * h.in) * 4), room(&dev, dev.k.adapter_scratch(&dev, h.t, h.in, 64, (int)(h.nr / h.m.rank), h.m.rank)), &h.m, squares_room(&dev, h.nr * h.in) };
	struct kn_adapter_outer back = k;
	float *s, *da, *g;
	uint64_t *seed;

	h.m.rec = up_raw(&dev, h.rec, (uint64_t)h.t * 4);
	h.m.pos = up_raw(&dev, h.pos, (uint64_t)h.t * 4);
	h.m.room = room(&dev, act_bytes(h.t * h.in));
	seed = up_raw(&dev, h.m.key[0].seed_step, sizeof(*seed));
	for (int64_t j = 0; j * h.m.rank < h.nr; j++)
		h.m.key[j].seed_step = seed;
	back.x = up(&dev, h.g, h.t, h.in, ldg);
	back.ldx = ldg;
	dev.k.adapter_down(&dev, &k);
	dev.k.adapter_outer(&dev, &k);
	dev.k.adapter_through(&dev, &back);
	s = down(&dev, k.x, h.t, h.in + h.nr, ldx);
	da = down_f32(&dev, k.da, h.nr * h.in);
	g = down(&dev, back.x, h.t, h.in, ldg);
	masked_near(&h, s, da, g);
	near_squares(k.squares, h.nr * h.in, squares_of(da, h.nr * h.in));
	{
		void *all[] = { k.x, (void *)(uintptr_t)k.a, (void *)(uintptr_t)k.ds, k.da, k.scratch, back.x, (void *)(uintptr_t)h.m.rec, (void *)(uintptr_t)h.m.pos, h.m.room, seed, k.squares };
		void *host[] = { h.x, h.a, h.ds, h.da0, h.g, h.rec, h.pos, h.keep[0], h.keep[1], h.keep[2], s, da, g };

		for (size_t j = 0; j < sizeof(all) / sizeof(*all); j++)
			device_free(&dev, all[j]);
		for (size_t j = 0; j < sizeof(host) / sizeof(*host); j++)
			free(host[j]);
	}
}
END_TEST

/* --- optimisers: a few steps beside the CPU's, with clipping, the later ones with gradients that come scaled; then
 * gradients that are not finite --- */

START_TEST(test_adam)
{
	enum { N = 5000, FIRST = 700, STEPS = 4 };
	struct device cpu = { .threads = 1 };
	int64_t blocks = N / ADAM8_BLOCK + 2, apart = 0;
	float *p = noise(N, 1, 1), *g, *m = xcalloc(N, 4), *v = xcalloc(N, 4), *mm = xcalloc((size_t)blocks, 4), *vm = xcalloc((size_t)blocks, 4), *got;
	uint8_t *m8 = xcalloc(N, 1), *v8 = xcalloc(N, 1), codes[N];
	void *pp = up_raw(&dev, p, N * 4), *pm = room(&dev, N * 4), *pv = room(&dev, N * 4), *pmm = room(&dev, N * 4), *pvm = room(&dev, N * 4), *ps = room(&dev, 8), *pg;
	/* two tensors, the first ends within a block */
	struct kn_adam_seg last = { FIRST, N - FIRST, FIRST, 3, 3, _i }, segs[2] = { { 0, FIRST, 0, 0, 0, _i }, last };
	void *psegs = up_raw(&dev, segs, sizeof(segs));
	struct kn_adam_arrays x = { pp, NULL, pm, pv, pm, pv, pmm, pvm }, x2 = { p, NULL, m, v, m8, v8, mm, vm };
	double squares = 30, scaled, nan = NAN;

	for (int t = 1; t <= STEPS; t++) {
		struct kn_adam a = { 1e-3, 0.9, 0.999, 1e-8, 0.01, t, 1, &squares, 0.3 }, on = a;

		g = noise(N, 0.01, (uint64_t)(10 + t));
		on.grad_scale = t > 2 ? 0x1p-10f : 1; /* a power of two: no bit changes */
		scaled = squares / (double)on.grad_scale / (double)on.grad_scale;
		for (int i = 0; i < N; i++)
			g[i] /= on.grad_scale;
		pg = up_raw(&dev, g, N * 4);
		for (int i = 0; i < N; i++)
			g[i] *= on.grad_scale;
		x.g = pg;
		on.squares = ps;
		for (int bad = 1; bad >= 0; bad--) {
			device_upload(&dev, ps, bad ? &nan : &scaled, sizeof(scaled));
			dev.k.adam(&dev, segs, psegs, 2, last.block + (last.n + ADAM8_BLOCK - 1) / ADAM8_BLOCK, &x, &on);
		}
		x2.g = g;
		kn_adam_cpu(&cpu, segs, NULL, 2, 0, &x2, &a);
		device_free(&dev, pg);
		free(g);
	}
	got = down_f32(&dev, pp, N);
	for (int i = 0; i < N; i++)
		near(got[i], p[i], 1e-6 * (1e-3 + fabs((double)p[i])), "p", i);
	free(got);
	if (_i) {
		device_download(&dev, codes, pm, N);
		for (int i = 0; i < N; i++) {
			ck_assert_int_le(abs(codes[i] - m8[i]), 1);
			apart += codes[i] != m8[i];
		}
		ck_assert_int_le(apart, N / 1000);
	} else {
		got = down_f32(&dev, pv, N);
		for (int i = 0; i < N; i++)
			near(got[i], v[i], 1e-6 * fabs((double)v[i]), "v", i);
		free(got);
	}
	device_free(&dev, pp), device_free(&dev, pm), device_free(&dev, pv), device_free(&dev, pmm), device_free(&dev, pvm), device_free(&dev, ps), device_free(&dev, psegs);
	free(p), free(m), free(v), free(mm), free(vm), free(m8), free(v8);
}
END_TEST

static void add(TCase *t)
{
	tcase_add_test(t, test_adapter_place);
	tcase_add_loop_test(t, test_adapter_grad, 0, (int)(sizeof(grad_shapes) / sizeof(*grad_shapes)));
	tcase_add_loop_test(t, test_adapter_masks, 0, sizeof(masked_shapes) / sizeof(*masked_shapes));
	tcase_add_loop_test(t, test_adapter_outer, 0, 10);
	tcase_add_loop_test(t, test_adam, 0, 2);
}

int main(void)
{
	return run_suite("kn_adapter", add);
}
