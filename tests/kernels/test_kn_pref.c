/* Losses of preferences (kernels/pref.h) against long double, their derivatives by central differences, and a reward model's score. As
 * test_kn_ops.c: LP_DEVICE names the device, and a second one gives the same bits. */
#include <check.h>
#include <math.h>

#include "arrays.h"
#include "kernels/pref_pair.h"

enum { RULES = 7, MOST = 600 };

static const struct kn_pref_rule rules[RULES] = {
	{ .method = KN_PREF_DPO, .beta = 0.3 },
	{ .method = KN_PREF_DPO, .beta = 0.1, .smoothing = 0.2 },
	{ .method = KN_PREF_IPO, .beta = 0.4 },
	{ .method = KN_PREF_ORPO, .beta = 0.5 },
	{ .method = KN_PREF_SIMPO, .beta = 2, .gamma = 1, .smoothing = 0.1 },
	{ .method = KN_PREF_REWARD },
	{ .method = KN_PREF_KTO, .beta = 0.3, .desirable = 1, .undesirable = 1.3 },
};

/* --- the formulas, once more and wider --- */

static long double log_sigmoid(long double x)
{
	return x < 0 ? x - log1pl(expl(x)) : -log1pl(expl(-x));
}

static long double smooth(long double z, long double eps)
{
	return -(1 - eps) * log_sigmoid(z) - eps * log_sigmoid(-z);
}

static long double pair_loss(const struct kn_pref_rule *r, long double w, long double l, long double rw, long double rl, long double nw, long double nl)
{
	long double b = r->beta, a = w / nw, c = l / nl;

	switch (r->method) {
	case KN_PREF_IPO:
		return powl((w - rw) / nw - (l - rl) / nl - 1 / (2 * b), 2);
	case KN_PREF_SIMPO:
		return smooth(b * (a - c) - r->gamma, r->smoothing);
	case KN_PREF_ORPO:
		return -a - b * log_sigmoid(a - c - logl(1 - expl(a)) + logl(1 - expl(c)));
	case KN_PREF_REWARD:
		return -log_sigmoid(w - l);
	default:
		return smooth(b * ((w - rw) - (l - rl)), r->smoothing);
	}
}

static long double kto_loss(const struct kn_pref_rule *r, bool good, long double x, long double ref, long double z0)
{
	long double z = (long double)r->beta * (x - ref - z0);

	return good ? r->desirable / (1 + expl(z)) : r->undesirable / (1 + expl(-z));
}

/* --- a micro-batch --- */

struct batch {
	int64_t s, t;
	int32_t tgt_start[MOST + 1], mate[MOST], good[MOST], row[8 * MOST];
	double ref[MOST], nll[8 * MOST], value[MOST];
	float of;
};

/* Chosen and rejected in either order; nearly certain answers and hopeless ones among them. */
static void make(struct batch *b, int64_t s, bool score)
{
	memset(b, 0, sizeof(*b));
	b->s = s;
	b->of = (float)s + 3;
	for (int64_t i = 0; i < s; i++) {
		int64_t n = score ? 1 : 1 + (i * 5 + i / 7) % 8;
		double sd = i % 13 == 4 ? 1e-3 : i % 11 == 5 ? 20 : 1;

		b->mate[i] = (int32_t)(i ^ 1);
		b->good[i] = (i ^ (i / 2 % 3 == 1)) % 2 == 0;
		for (int64_t j = 0; j < n; j++, b->t++) {
			b->nll[b->t] = sd * fabs(rng_normal(5, 1, (uint64_t)b->t)) + 1e-6;
			b->row[b->t] = (int32_t)(3 * b->t + 1);
			b->value[i] -= b->nll[b->t];
		}
		b->ref[i] = b->value[i] + rng_normal(5, 2, (uint64_t)i);
		b->tgt_start[i + 1] = (int32_t)b->t;
	}
}

struct there {
	struct kn_pref p;
	void *nll, *row;
};

static struct there send(struct device *d, const struct batch *b, const struct kn_pref_rule *r)
{
	static const double zero[KN_PREF_SUMS + 1];
	struct there x = { .nll = up_raw(d, b->nll, sizeof(b->nll)), .row = up_raw(d, b->row, sizeof(b->row)) };

	x.p = (struct kn_pref){ .rule = *r, .n_seqs = b->s, .n_targets = b->t, .tgt_start = up_raw(d, b->tgt_start, sizeof(b->tgt_start)),
		                .mate = up_raw(d, b->mate, sizeof(b->mate)), .good = up_raw(d, b->good, sizeof(b->good)), .ref = up_raw(d, b->ref, sizeof(b->ref)),
		                .drift_of = up_raw(d, &b->of, sizeof(b->of)), .value = up_raw(d, b->value, sizeof(b->value)), .factor = room(d, MOST * sizeof(double)),
		                .loss = up_raw(d, zero, sizeof(double)), .sums = up_raw(d, zero, sizeof(zero)) };
	return x;
}

static void drop(struct device *d, struct there *x)
{
	const void *all[] = { x->nll, x->row, x->p.tgt_start, x->p.mate, x->p.good, x->p.ref, x->p.drift_of, x->p.value, x->p.factor, x->p.loss, x->p.sums };

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		device_free(d, (void *)(uintptr_t)all[i]);
}

static void get(struct device *d, double *to, const double *from, int64_t n)
{
	device_download(d, to, from, (uint64_t)n * sizeof(*to));
	must_sync(d);
}

static const int64_t seqs[] = { 2, 6, 34, MOST };

START_TEST(test_losses)
{
	static struct batch b;
	const struct kn_pref_rule *r = &rules[_i % RULES];
	double value[MOST], factor[MOST], loss, sums[KN_PREF_SUMS], drift = 0, z0;
	long double want = 0, right = 0, told[4] = { 0 };
	struct there x, y;
	bool kto = r->method == KN_PREF_KTO;

	make(&b, seqs[_i / RULES], false);
	x = send(&dev, &b, r);
	y = send(&again, &b, r);
	for (int k = 0; k < 2; k++) {
		struct device *d = k ? &again : &dev;
		struct there *t = k ? &y : &x;

		device_zero(d, t->p.value, MOST * sizeof(double));
		d->k.pref_values(d, &t->p, t->nll);
		if (kto)
			d->k.pref_drift(d, &t->p);
		d->k.pref_loss(d, &t->p);
	}
	same_bytes(&dev, x.p.factor, &again, y.p.factor, (uint64_t)b.s * sizeof(double));
	same_bytes(&dev, x.p.sums, &again, y.p.sums, sizeof(sums));
	get(&dev, value, x.p.value, b.s);
	get(&dev, factor, x.p.factor, b.s);
	get(&dev, &loss, x.p.loss, 1);
	get(&dev, sums, x.p.sums, KN_PREF_SUMS);
	for (int64_t i = 0; i < b.s; i++) {
		near(value[i], b.value[i], 1e-14 * fabs(b.value[i]), "value", i);
		drift += value[i] - b.ref[i];
	}
	z0 = fmax(0, drift / (double)b.of);
	if (kto)
		near(sums[KN_PREF_DRIFT], drift, 1e-12 * (double)b.s * 50, "drift", 0);
	for (int64_t i = 0; i < b.s; i++) {
		int64_t w = b.good[i] ? i : b.mate[i], l = b.good[i] ? b.mate[i] : i;
		double h = 1e-5 * (1e-3 + fabs(value[i])), nw = b.tgt_start[w + 1] - b.tgt_start[w], nl = b.tgt_start[l + 1] - b.tgt_start[l];
		long double at[3];

		for (int k = 0; k < 3; k++) {
			double by = k == 2 ? 0 : k ? -h : h, xw = value[w] + (w == i ? by : 0), xl = value[l] + (l == i ? by : 0);

			at[k] = kto ? kto_loss(r, b.good[i], value[i] + by, b.ref[i], z0) : pair_loss(r, xw, xl, b.ref[w], b.ref[l], nw, nl);
		}
		/* the difference is good to h^2 of the third derivative */
		near(factor[i], (double)((at[0] - at[1]) / (2 * (long double)h)), 1e-6 * (1 + fabs(factor[i])), "factor", i);
		if (kto || b.good[i])
			want += at[2];
		told[b.good[i] ? 2 : 3] += (long double)value[i];
		right += !kto && b.good[i];
	}
	near(loss, (double)want, 1e-12 * (1 + fabs((double)want)), "loss", 0);
	near(sums[KN_PREF_VALUE_CHOSEN], (double)told[2], 1e-12 * (1 + fabs((double)told[2])), "chosen", 0);
	near(sums[KN_PREF_VALUE_REJECTED], (double)told[3], 1e-12 * (1 + fabs((double)told[3])), "rejected", 0);
	ck_assert(sums[KN_PREF_RIGHT] <= (double)right && sums[KN_PREF_RIGHT] == floor(sums[KN_PREF_RIGHT]));
	drop(&dev, &x);
	drop(&again, &y);
}
END_TEST

/* Rows of targets alone are multiplied, each by its own sequence's factor. */
START_TEST(test_rows)
{
	static struct batch b;
	int64_t c = _i ? 1030 : 17, ld = c + 8, t;
	double factor[MOST];
	float *x, *y;
	void *px;
	struct there a;

	make(&b, _i ? 34 : 6, false);
	t = 3 * b.t + 1;
	x = noise(t * c, 1, 1);
	px = up(&dev, x, t, c, ld);
	a = send(&dev, &b, &rules[0]);
	dev.k.pref_values(&dev, &a.p, a.nll);
	dev.k.pref_loss(&dev, &a.p);
	dev.k.pref_rows(&dev, &a.p, px, ld, a.row, c);
	get(&dev, factor, a.p.factor, b.s);
	y = down(&dev, px, t, c, ld);
	for (int64_t s = 0; s < b.s; s++)
		for (int64_t i = b.tgt_start[s]; i < b.tgt_start[s + 1]; i++)
			for (int64_t j = 0; j < c; j++) {
				double want = -factor[s] * (double)x[b.row[i] * c + j];

				near(y[b.row[i] * c + j], want, (ulp + 1.2e-7) * fabs(want) + tiny, "x", j);
				x[b.row[i] * c + j] = y[b.row[i] * c + j];
			}
	ck_assert_mem_eq(x, y, (size_t)(t * c) * sizeof(*x));
	device_free(&dev, px);
	drop(&dev, &a);
	free(x), free(y);
}
END_TEST

static const int64_t score_shapes[][2] = { { 1, 1 }, { 2, 64 }, { 5, 63 }, { 34, 1030 }, { 7, 4096 } };

START_TEST(test_score)
{
	int64_t n = score_shapes[_i][0], c = score_shapes[_i][1];
	float *h = noise(n * c, 1, 1), *w = noise(c, 0.1, 2), *dw0 = noise(c, 1, 3), *dh, *dw, scale = 0.5F;
	double value[64], factor[64];
	void *ph = up(&dev, h, n, c, c), *pw = up_raw(&dev, w, (uint64_t)c * 4), *pdw = up_raw(&dev, dw0, (uint64_t)c * 4), *pdh = up(&dev, NULL, n, c, c);
	void *pv = room(&dev, sizeof(value)), *pf, *ps = up_raw(&dev, &scale, sizeof(scale));

	for (int64_t i = 0; i < n; i++)
		factor[i] = rng_normal(3, 3, (uint64_t)i);
	pf = up_raw(&dev, factor, sizeof(factor));
	dev.k.score_fwd(&dev, pv, ph, pw, n, c);
	dev.k.score_bwd(&dev, pdh, pdw, pf, ph, pw, ps, n, c);
	get(&dev, value, pv, n);
	dw = down_f32(&dev, pdw, c);
	dh = down(&dev, pdh, n, c, c);
	for (int64_t i = 0; i < n; i++) {
		double sum = 0, size = 0;

		for (int64_t j = 0; j < c; j++) {
			double want = 0.5 * factor[i] * (double)w[j];

			sum += (double)h[i * c + j] * (double)w[j];
			size += fabs((double)h[i * c + j] * (double)w[j]);
			near(dh[i * c + j], want, (ulp + 1.2e-7) * fabs(want) + tiny, "dh", j);
		}
		near(value[i], sum, 1e-13 * size, "value", i);
	}
	for (int64_t j = 0; j < c; j++) {
		double want = 0;

		for (int64_t i = 0; i < n; i++)
			want += 0.5 * factor[i] * (double)h[i * c + j];
		near(dw[j], (double)dw0[j] + want, 2e-7 * (fabs(want) + fabs((double)dw0[j])), "dw", j);
	}
	device_free(&dev, ph), device_free(&dev, pw), device_free(&dev, pdw), device_free(&dev, pdh), device_free(&dev, pv), device_free(&dev, pf), device_free(&dev, ps);
	free(h), free(w), free(dw0), free(dh), free(dw);
}
END_TEST

static void add(TCase *t)
{
	tcase_add_loop_test(t, test_losses, 0, RULES * (int)(sizeof(seqs) / sizeof(*seqs)));
	tcase_add_loop_test(t, test_rows, 0, 2);
	tcase_add_loop_test(t, test_score, 0, (int)(sizeof(score_shapes) / sizeof(*score_shapes)));
}

int main(void)
{
	return run_suite("kn_pref", add);
}
