/* GRPO's loss (kernels/grpo.h) against long double, its derivative by central differences. As test_kn_ops.c: LP_DEVICE names the device, and a
 * second one gives the same bits. */
#include <check.h>
#include <math.h>

#include "arrays.h"
#include "kernels/grpo_token.h"

enum { RULES = 5, MOST = 70, MOST_TARGETS = 12 * MOST };

static const struct kn_grpo_rule rules[RULES] = {
	{ .low = 0.2, .high = 0.2, .temperature = 1, .on_policy = true },
	{ .low = 0.2, .high = 0.28, .temperature = 1 },
	{ .beta = 0.1, .low = 0.1, .high = 0.2, .temperature = 0.7, .unbiased = true },
	{ .beta = 0.3, .low = 0.1, .high = 0.1, .temperature = 1 },
	{ .beta = 0.2, .low = 0.1, .high = 0.1, .temperature = 1.5, .unbiased = true, .on_policy = true },
};

/* Where the derivative is taken at x, the model's own log-probability being at `at`: an on-policy ratio is e^(x - at). */
static long double token_loss(const struct kn_grpo_rule *r, long double x, long double at, long double old, long double ref, long double adv, long double *kl)
{
	long double ratio = expl(x - (r->on_policy ? at : old)), low = 1 - (long double)r->low, high = 1 + (long double)r->high;
	long double cut = ratio < low ? low : ratio > high ? high : ratio, gain = ratio * adv < cut * adv ? ratio * adv : cut * adv;

	*kl = r->beta == 0 ? 0 : (expl(ref - x) - (ref - x) - 1) * (r->unbiased ? ratio : 1);
	return -gain + (long double)r->beta * *kl;
}

struct batch {
	int64_t s, t;
	int32_t tgt_start[MOST + 1], row[MOST_TARGETS];
	double adv[MOST], weight[MOST], nll[MOST_TARGETS], old[MOST_TARGETS], ref[MOST_TARGETS];
};

/* Completions without a token, near and far from where they were made, advantages of 0 among them. */
static void make(struct batch *b, int64_t s)
{
	memset(b, 0, sizeof(*b));
	b->s = s;
	for (int64_t i = 0; i < s; i++) {
		int64_t n = i % 9 == 5 ? 0 : 1 + (i * 5 + i / 7) % 11;
		double sd = i % 7 == 3 ? 1 : 0.15;

		b->adv[i] = i % 10 == 8 ? 0 : rng_normal(7, 1, (uint64_t)i);
		b->weight[i] = 0.1 + rng_unit(7, 2, (uint64_t)i);
		for (int64_t j = 0; j < n; j++, b->t++) {
			b->nll[b->t] = i % 13 == 4 ? 1e-7 : fabs(2 * rng_normal(7, 3, (uint64_t)b->t));
			b->old[b->t] = -b->nll[b->t] + sd * rng_normal(7, 4, (uint64_t)b->t);
			b->ref[b->t] = -b->nll[b->t] + sd * rng_normal(7, 5, (uint64_t)b->t);
			b->row[b->t] = (int32_t)(3 * b->t + 1);
		}
		b->tgt_start[i + 1] = (int32_t)b->t;
	}
}

struct there {
	struct kn_grpo p;
	void *nll, *row;
};

static struct there send(struct device *d, const struct batch *b, const struct kn_grpo_rule *r)
{
	static const double zero[KN_GRPO_SUMS];
	struct there x = { .nll = up_raw(d, b->nll, sizeof(b->nll)), .row = up_raw(d, b->row, sizeof(b->row)) };

	x.p = (struct kn_grpo){ .rule = *r, .n_seqs = b->s, .n_targets = b->t, .tgt_start = up_raw(d, b->tgt_start, sizeof(b->tgt_start)),
		                .adv = up_raw(d, b->adv, sizeof(b->adv)), .weight = up_raw(d, b->weight, sizeof(b->weight)), .old = up_raw(d, b->old, sizeof(b->old)),
		                .ref = up_raw(d, b->ref, sizeof(b->ref)), .factor = room(d, sizeof(b->nll)), .loss = up_raw(d, zero, sizeof(double)),
		                .sums = up_raw(d, zero, sizeof(zero)) };
	return x;
}

static void drop(struct device *d, struct there *x)
{
	const void *all[] = { x->nll, x->row, x->p.tgt_start, x->p.adv, x->p.weight, x->p.old, x->p.ref, x->p.factor, x->p.loss, x->p.sums };

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		device_free(d, (void *)(uintptr_t)all[i]);
}

static void get(struct device *d, double *to, const double *from, int64_t n)
{
	device_download(d, to, from, (uint64_t)n * sizeof(*to));
	must_sync(d);
}

static const int64_t seqs[] = { 1, 2, 31, MOST };

START_TEST(test_losses)
{
	static struct batch b;
	const struct kn_grpo_rule *r = &rules[_i % RULES];
	static double factor[MOST_TARGETS];
	double loss, sums[KN_GRPO_SUMS];
	long double want = 0, kls = 0, cut = 0;
	struct there x, y;

	make(&b, seqs[_i / RULES]);
	x = send(&dev, &b, r);
	y = send(&again, &b, r);
	dev.k.grpo_loss(&dev, &x.p, x.nll);
	again.k.grpo_loss(&again, &y.p, y.nll);
	same_bytes(&dev, x.p.factor, &again, y.p.factor, (uint64_t)b.t * sizeof(double));
	same_bytes(&dev, x.p.sums, &again, y.p.sums, sizeof(sums));
	same_bytes(&dev, x.p.loss, &again, y.p.loss, sizeof(loss));
	get(&dev, factor, x.p.factor, b.t);
	get(&dev, &loss, x.p.loss, 1);
	get(&dev, sums, x.p.sums, KN_GRPO_SUMS);
	for (int64_t s = 0; s < b.s; s++)
		for (int64_t i = b.tgt_start[s]; i < b.tgt_start[s + 1]; i++) {
			long double lp = -(long double)b.nll[i], h = 1e-6L, kl, none, ratio = expl(lp - (r->on_policy ? lp : (long double)b.old[i])), at[3];

			for (int k = 0; k < 3; k++)
				at[k] = token_loss(r, lp + (k == 2 ? 0 : k ? -h : h), lp, b.old[i], b.ref[i], b.adv[s], k == 2 ? &kl : &none);
			/* the difference is good to h^2 of the third derivative, where no limit is between */
			near(factor[i], (double)((at[0] - at[1]) / (2 * h) * (long double)b.weight[s] / (long double)r->temperature), 1e-9 * (1 + (double)ratio * 10), "factor", i);
			want += (long double)b.weight[s] * at[2];
			kls += kl;
			cut += (ratio < 1 - (long double)r->low && b.adv[s] < 0) || (ratio > 1 + (long double)r->high && b.adv[s] > 0);
		}
	near(loss, (double)want, 1e-12 * (1 + (double)b.t), "loss", 0);
	near(sums[KN_GRPO_KL], (double)kls, 1e-12 * (1 + (double)b.t), "kl", 0);
	near(sums[KN_GRPO_LOW] + sums[KN_GRPO_HIGH], (double)cut, 0, "cut", 0);
	drop(&dev, &x);
	drop(&again, &y);
}
END_TEST

/* What is no number does not become one. */
START_TEST(test_nan)
{
	static struct batch b;
	struct there x;
	double loss;

	make(&b, 3);
	b.nll[0] = (double)NAN;
	x = send(&dev, &b, &rules[_i]);
	dev.k.grpo_loss(&dev, &x.p, x.nll);
	get(&dev, &loss, x.p.loss, 1);
	ck_assert(isnan(loss));
	drop(&dev, &x);
}
END_TEST

/* Rows of targets alone are multiplied, each by its own factor. */
START_TEST(test_rows)
{
	static struct batch b;
	static double factor[MOST_TARGETS];
	int64_t c = _i ? 1030 : 17, ld = c + 8, t;
	float *x, *y;
	void *px;
	struct there a;

	make(&b, _i ? 31 : 6);
	t = 3 * b.t + 1;
	x = noise(t * c, 1, 1);
	px = up(&dev, x, t, c, ld);
	a = send(&dev, &b, &rules[2]);
	dev.k.grpo_loss(&dev, &a.p, a.nll);
	dev.k.grpo_rows(&dev, &a.p, px, ld, a.row, c);
	get(&dev, factor, a.p.factor, b.t);
	y = down(&dev, px, t, c, ld);
	for (int64_t i = 0; i < b.t; i++)
		for (int64_t j = 0; j < c; j++) {
			double want = -factor[i] * (double)x[b.row[i] * c + j];

			near(y[b.row[i] * c + j], want, (ulp + 1.2e-7) * fabs(want) + tiny, "x", j);
			x[b.row[i] * c + j] = y[b.row[i] * c + j];
		}
	ck_assert_mem_eq(x, y, (size_t)(t * c) * sizeof(*x));
	device_free(&dev, px);
	drop(&dev, &a);
	free(x), free(y);
}
END_TEST

static void add(TCase *t)
{
	tcase_add_loop_test(t, test_losses, 0, RULES * (int)(sizeof(seqs) / sizeof(*seqs)));
	tcase_add_loop_test(t, test_nan, 0, RULES);
	tcase_add_loop_test(t, test_rows, 0, 2);
}

int main(void)
{
	return run_suite("kn_grpo", add);
}
