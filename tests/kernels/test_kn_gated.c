/* Products with the gated activation at their end (gated.h) against fp64, on shapes of one, odd ones, and such as Hopper's own kernels
 * take: tokens and columns that fill no tile, and more tiles than there are blocks. Of large ones some rows are checked, the last
 * among them. What a layer may form twice must have the same bits both times: h with and without the product, g's and u's
 * gradients with and without h. LP_DEVICE names the device (cpu). */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "arrays.h"
#include "kernels/device.h"

enum { BELOW = 3 }; /* rows below the last token, which stay as they are */

/* The large ones are for GPUs. */
static const int64_t shapes[][3] = { { 1, 1, 1 }, { 1, 8, 3 }, { 3, 17, 33 }, { 5, 40, 70 }, { 130, 72, 64 }, { 1030, 104, 1544 }, { 8200, 2056, 2051 }, { 8192, 2112, 2048 }, { 2050, 8200, 2120 } };
enum { SMALL = 6, SHAPES = sizeof(shapes) / sizeof(*shapes) };

struct gated {
	int64_t t, f, k, ldx, ldw, ldg, ldh;
};

static struct gated shape_of(int i, bool back)
{
	struct gated s = { .t = shapes[i][0], .f = shapes[i][1], .k = shapes[i][2] };

	s.ldx = (s.k + 15) / 8 * 8;
	s.ldw = back ? (s.f + 23) / 8 * 8 : s.ldx;
	s.ldg = 2 * s.f + 8;
	s.ldh = s.f + 16;
	return s;
}

static struct kn_gated call_of(const struct gated *s, const void *x, const void *w, void *gu, void *h, void *dh)
{
	return (struct kn_gated){ .t = s->t, .f = s->f, .k = s->k, .x = x, .ldx = s->ldx, .w = w, .ldw = s->ldw, .gu = gu, .ldg = s->ldg, .h = h, .ldh = s->ldh, .dh = dh };
}

static bool checked(const struct gated *s, int64_t row)
{
	return s->t <= 16 || row % 197 == 0 || row >= s->t - 2;
}

/* (t, c) of what has BELOW rows more, which must be as they were. */
static float *down_above(const void *p, int64_t t, int64_t c, int64_t ld)
{
	float *x = down(&dev, p, t + BELOW, c, ld);

	for (int64_t i = t * c; i < (t + BELOW) * c; i++)
		ck_assert_msg(x[i] == GAP, "row %lld was written", (long long)(i / c));
	return x;
}

static double sig(double z)
{
	return 1 / (1 + exp(-z));
}

/* h of g and u as they are stored. */
static void check_h(const struct gated *s, const float *gu, const float *h)
{
	for (int64_t i = 0; i < s->t; i++)
		for (int64_t j = 0; checked(s, i) && j < s->f; j++) {
			double g = gu[i * 2 * s->f + j], u = gu[i * 2 * s->f + s->f + j], want = g * sig(g) * u;

			near(h[i * s->f + j], want, (1e-6 + ulp) * fmax(fabs(want), fabs(g * u) * 1e-3) + 1e-37 + tiny, "h", i * s->f + j);
		}
}

/* A sum of k products, and what it may be off by before it is rounded. */
struct sum {
	double value, off;
};

static struct sum product(const float *a, const float *b, int64_t step, int64_t k)
{
	double v = 0, size = 0;

	for (int64_t l = 0; l < k; l++) {
		v += (double)a[l] * (double)b[l * step];
		size += fabs((double)a[l] * (double)b[l * step]);
	}
	return (struct sum){ v, (double)(k + 2) * 0x1p-24 * size + ulp * fabs(v) + tiny };
}

START_TEST(test_forward)
{
	struct gated s = shape_of(_i, false);
	float *x = noise(s.t * s.k, 1, 1), *w = noise(2 * s.f * s.k, 1 / sqrt((double)s.k), 2), *gu, *h;
	void *px = up(&dev, x, s.t, s.k, s.ldx), *pw = up(&dev, w, 2 * s.f, s.k, s.ldw), *px2 = up(&again, x, s.t, s.k, s.ldx), *pw2 = up(&again, w, 2 * s.f, s.k, s.ldw);
	void *pg = up(&dev, NULL, s.t + BELOW, 2 * s.f, s.ldg), *ph = up(&dev, NULL, s.t + BELOW, s.f, s.ldh), *alone = up(&dev, NULL, s.t + BELOW, s.f, s.ldh);
	void *pg2 = up(&again, NULL, s.t + BELOW, 2 * s.f, s.ldg), *ph2 = up(&again, NULL, s.t + BELOW, s.f, s.ldh);
	struct kn_gated a = call_of(&s, px, pw, pg, ph, NULL), b = call_of(&s, px2, pw2, pg2, ph2, NULL);

	dev.k.gated_fwd(&dev, &a);
	again.k.gated_fwd(&again, &b);
	same_bytes(&dev, pg, &again, pg2, act_bytes((s.t + BELOW) * s.ldg));
	same_bytes(&dev, ph, &again, ph2, act_bytes((s.t + BELOW) * s.ldh));
	dev.k.swiglu_fwd(&dev, alone, s.ldh, pg, s.ldg, s.t, s.f);
	same_bytes(&dev, ph, &dev, alone, act_bytes((s.t + BELOW) * s.ldh));
	gu = down_above(pg, s.t, 2 * s.f, s.ldg);
	h = down_above(ph, s.t, s.f, s.ldh);
	for (int64_t i = 0; i < s.t; i++)
		for (int64_t j = 0; checked(&s, i) && j < 2 * s.f; j++) {
			struct sum want = product(x + i * s.k, w + j * s.k, 1, s.k);

			near(gu[i * 2 * s.f + j], want.value, want.off, "gu", i * 2 * s.f + j);
		}
	check_h(&s, gu, h);
	device_free(&dev, px), device_free(&dev, pw), device_free(&dev, pg), device_free(&dev, ph), device_free(&dev, alone);
	device_free(&again, px2), device_free(&again, pw2), device_free(&again, pg2), device_free(&again, ph2);
	free(x), free(w), free(gu), free(h);
}
END_TEST

/* One element's gradients; d_h is rounded before it is used. */
static void check_back(struct sum dh, double z, double v, double dg, double du, int64_t i)
{
	double by_u = z * sig(z), by_g = v * sig(z) * (1 + z * (1 - sig(z)));

	near(du, dh.value * by_u, dh.off * fabs(by_u) + (2e-6 + ulp) * (fabs(dh.value * by_u) + 1e-6) + tiny, "du", i);
	near(dg, dh.value * by_g, dh.off * fabs(by_g) + 2e-6 * (fabs(dh.value * v) + 1e-6) + ulp * fabs(dh.value * by_g) + tiny, "dg", i);
}

START_TEST(test_backward)
{
	struct gated s = shape_of(_i, true);
	float *x = noise(s.t * s.k, 1, 1), *w = noise(s.k * s.f, 1 / sqrt((double)s.k), 2), *gu0 = noise((s.t + BELOW) * 2 * s.f, 2, 3), *gu, *h;
	void *px = up(&dev, x, s.t, s.k, s.ldx), *pw = up(&dev, w, s.k, s.f, s.ldw), *px2 = up(&again, x, s.t, s.k, s.ldx), *pw2 = up(&again, w, s.k, s.f, s.ldw);
	void *pg, *pg2, *plain, *ph = up(&dev, NULL, s.t + BELOW, s.f, s.ldh), *alone = up(&dev, NULL, s.t + BELOW, s.f, s.ldh);
	void *dh = room(&dev, act_bytes(s.t * s.f)), *dh2 = room(&again, act_bytes(s.t * s.f));
	struct kn_gated a, b, c;

	for (int64_t i = s.t * 2 * s.f; i < (s.t + BELOW) * 2 * s.f; i++)
		gu0[i] = GAP;
	pg = up(&dev, gu0, s.t + BELOW, 2 * s.f, s.ldg), pg2 = up(&again, gu0, s.t + BELOW, 2 * s.f, s.ldg), plain = up(&dev, gu0, s.t + BELOW, 2 * s.f, s.ldg);
	dev.k.swiglu_fwd(&dev, alone, s.ldh, pg, s.ldg, s.t, s.f);
	a = call_of(&s, px, pw, pg, ph, dh), b = call_of(&s, px2, pw2, pg2, NULL, dh2), c = call_of(&s, px, pw, plain, NULL, dh);
	dev.k.gated_bwd(&dev, &a);
	again.k.gated_bwd(&again, &b);
	dev.k.gated_bwd(&dev, &c);
	same_bytes(&dev, pg, &again, pg2, act_bytes((s.t + BELOW) * s.ldg));
	same_bytes(&dev, pg, &dev, plain, act_bytes((s.t + BELOW) * s.ldg));
	same_bytes(&dev, ph, &dev, alone, act_bytes((s.t + BELOW) * s.ldh));
	gu = down_above(pg, s.t, 2 * s.f, s.ldg);
	h = down_above(ph, s.t, s.f, s.ldh);
	check_h(&s, gu0, h);
	for (int64_t i = 0; i < s.t; i++)
		for (int64_t j = 0; checked(&s, i) && j < s.f; j++) {
			const float *was = gu0 + i * 2 * s.f + j, *is = gu + i * 2 * s.f + j;

			check_back(product(x + i * s.k, w + j, s.f, s.k), was[0], was[s.f], is[0], is[s.f], i * s.f + j);
		}
	device_free(&dev, px), device_free(&dev, pw), device_free(&dev, pg), device_free(&dev, plain), device_free(&dev, ph), device_free(&dev, alone), device_free(&dev, dh);
	device_free(&again, px2), device_free(&again, pw2), device_free(&again, pg2), device_free(&again, dh2);
	free(x), free(w), free(gu0), free(gu), free(h);
}
END_TEST

static void add(TCase *t)
{
	const char *spec = getenv("LP_DEVICE");
	int n = spec && strncmp(spec, "cuda", 4) == 0 ? SHAPES : SMALL;

	tcase_add_loop_test(t, test_forward, 0, n);
	tcase_add_loop_test(t, test_backward, 0, n);
}

int main(void)
{
	return run_suite("kn_gated", add);
}
