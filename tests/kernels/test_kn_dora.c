/* DoRA's operations against fp64, as test_kn_ops.c has it: shapes of one, odd ones, non-multiples, and several runs of tokens. */
#include "arrays.h"

/* t, rows of each projection, rank */
static const struct {
	int64_t t, rank;
	int n;
	int64_t rows[3];
} shapes[] = { { 1, 1, 1, { 1 } }, { 3, 5, 2, { 7, 3 } }, { 33, 4, 3, { 17, 5, 5 } }, { 129, 16, 3, { 256, 64, 64 } }, { 300, 8, 1, { 2050 } }, { 513, 16, 2, { 264, 264 } },
	       { 1000, 32, 1, { 64 } } };
enum { SHAPES = sizeof(shapes) / sizeof(*shapes) };

struct at { /* shape i: where projections begin, and their end */
	int64_t t, out, rank, row[3];
	int n;
};

static struct at at_of(int i)
{
	struct at a = { .t = shapes[i].t, .n = shapes[i].n, .rank = shapes[i].rank };

	for (int j = 0; j < a.n; j++) {
		a.row[j] = a.out;
		a.out += shapes[i].rows[j];
	}
	return a;
}

/* fp32 numbers around mean, one of them 0 where there are some. */
static float *around(int64_t n, double mean, double sd, uint64_t stream)
{
	float *x = xcalloc((size_t)n + 1, sizeof(*x));

	for (int64_t i = 0; i < n; i++)
		x[i] = i == 5 ? 0 : (float)(mean + sd * rng_normal(12, stream, (uint64_t)i));
	return x;
}

START_TEST(test_row_squares)
{
	static const int64_t sizes[][2] = { { 1, 1 }, { 3, 257 }, { 40, 1030 } };
	int64_t out = sizes[_i][0], in = sizes[_i][1], ld = in + 8;
	float *w = noise(out * in, 0.5, 1);
	void *pw = up(&dev, w, out, in, ld), *ps = room(&dev, (uint64_t)out * 8);
	double *s = xcalloc((size_t)out, sizeof(*s));

	dev.k.row_squares(&dev, ps, pw, ld, out, in);
	device_download(&dev, s, ps, (uint64_t)out * 8);
	must_sync(&dev);
	for (int64_t i = 0; i < out; i++) {
		double want = 0;

		for (int64_t k = 0; k < in; k++)
			want += (double)w[i * in + k] * (double)w[i * in + k];
		near(s[i], want, 1e-13 * want, "squares", i);
	}
	device_free(&dev, pw), device_free(&dev, ps);
	free(w), free(s);
}
END_TEST

/* The length of W + b A itself, and what m is then; the last projection of several has no adapter here. */
START_TEST(test_factors)
{
	enum { IN = 70 };
	struct at s = at_of(_i);
	int64_t nr = s.n * s.rank, ldb = nr + 8;
	float *w = noise(s.out * IN, 0.2, 1), *a = noise(nr * IN, 0.1, 2), *b = noise(s.out * nr, 0.3, 3), *m = around(s.out, 1, 0.1, 4), *wa = xcalloc((size_t)(s.out * nr), 4),
	      *aa = xcalloc((size_t)(nr * nr), 4), *f, *per;
	double *squares = xcalloc((size_t)s.out, sizeof(*squares)), *size = xcalloc((size_t)s.out, sizeof(*size));
	struct kn_dora_factors k = { .out = s.out, .n = s.n, .rank = s.rank, .ldb = ldb };
	void *pm;

	for (int64_t k2 = 0; s.out > 2 && k2 < IN; k2++)
		w[2 * IN + k2] = 0; /* a row of zeros, its b too */
	for (int64_t k2 = 0; s.out > 2 && k2 < nr; k2++)
		b[2 * nr + k2] = 0;
	for (int64_t i = 0; i < s.out; i++) {
		for (int64_t c = 0; c < IN; c++)
			squares[i] += (double)w[i * IN + c] * (double)w[i * IN + c];
		for (int64_t r = 0; r < nr; r++) {
			double v = 0;

			for (int64_t c = 0; c < IN; c++)
				v += (double)w[i * IN + c] * (double)a[r * IN + c];
			wa[i * nr + r] = (float)v;
		}
	}
	for (int64_t r = 0; r < nr * nr; r++) {
		double v = 0;

		for (int64_t c = 0; c < IN; c++)
			v += (double)a[r / nr * IN + c] * (double)a[r % nr * IN + c];
		aa[r] = (float)v;
	}
	pm = up_raw(&dev, m, (uint64_t)s.out * 4);
	for (int j = 0; j < s.n; j++) {
		k.row[j] = s.row[j];
		k.rows[j] = shapes[_i].rows[j];
		k.m[j] = j && j == s.n - 1 ? NULL : (float *)pm + s.row[j];
	}
	k.squares = up_raw(&dev, squares, (uint64_t)s.out * 8);
	k.b = up(&dev, b, s.out, nr, ldb);
	k.wa = up_raw(&dev, wa, (uint64_t)(s.out * nr) * 4);
	k.aa = up_raw(&dev, aa, (uint64_t)(nr * nr) * 4);
	k.factor = room(&dev, (uint64_t)s.out * 4);
	k.per = room(&dev, (uint64_t)s.out * 4);
	dev.k.dora_factors(&dev, &k);
	f = down_f32(&dev, k.factor, s.out);
	per = down_f32(&dev, k.per, s.out);
	for (int j = 0; j < s.n; j++)
		for (int64_t i = s.row[j]; i < s.row[j] + shapes[_i].rows[j]; i++) {
			double n2 = 0, n;

			for (int64_t c = 0; c < IN; c++) {
				double v = w[i * IN + c];

				for (int64_t r = j * s.rank; r < (j + 1) * s.rank; r++)
					v += (double)b[i * nr + r] * (double)a[r * IN + c];
				n2 += v * v;
			}
			n = sqrt(n2);
			/* the products are rounded to fp32 here, once */
			near(per[i], k.m[j] && n > 0 ? 1 / n : 0, 4e-6 / (n > 0 ? n : 1), "per", i);
			near(f[i], !k.m[j] ? 1 : n > 0 ? (double)m[i] / n : 0, 4e-6 * fabs((double)m[i]) / (n > 0 ? n : 1), "factor", i);
		}
	{
		void *all[] = { pm, (void *)(uintptr_t)k.squares, (void *)(uintptr_t)k.b, (void *)(uintptr_t)k.wa, (void *)(uintptr_t)k.aa, k.factor, k.per };

		for (size_t j = 0; j < sizeof(all) / sizeof(*all); j++)
			device_free(&dev, all[j]);
	}
	free(w), free(a), free(b), free(m), free(wa), free(aa), free(f), free(per), free(squares), free(size);
}
END_TEST

/* With and without each of add, less and bias; in place, and apart. */
START_TEST(test_out)
{
	struct at s = at_of(_i / 4);
	bool add = _i & 1, rest = _i & 2;
	int64_t ldu = s.out + 8, ldy = s.out + 16, lda = s.out + 24, n = s.t * s.out;
	float *u = noise(n, 1, 1), *x = noise(n, 3, 2), *less = noise(n, 1, 3), *f = around(s.out, 1, 0.2, 4), *bias = around(s.out, 0, 2, 5), *y;
	struct kn_dora_out k = { .t = s.t, .out = s.out, .ldu = ldu, .ldy = ldy, .ld_add = lda, .ld_less = lda };
	void *px = up(&dev, x, s.t, s.out, lda), *pl = up(&dev, less, s.t, s.out, lda), *pf = up_raw(&dev, f, (uint64_t)s.out * 4), *pb = up_raw(&dev, bias, (uint64_t)s.out * 4);

	k.u = up(&dev, u, s.t, s.out, ldu);
	k.factor = pf;
	k.y = up(&dev, NULL, s.t, s.out, ldy);
	k.add = add ? px : NULL;
	k.less = rest ? pl : NULL;
	k.bias = rest ? NULL : pb;
	dev.k.dora_out(&dev, &k);
	y = down(&dev, k.y, s.t, s.out, ldy);
	for (int64_t i = 0; i < n; i++) {
		double p = (double)u[i] * (double)f[i % s.out], b = rest ? -(double)less[i] : (double)bias[i % s.out], a = add ? (double)x[i] : 0;

		near(y[i], p + b + a, 4 * 0x1p-24 * (fabs(p) + fabs(b) + fabs(a)) + ulp * fabs(p + b + a) + tiny, "y", i);
	}
	device_free(&dev, (void *)(uintptr_t)k.y);
	k.y = (void *)(uintptr_t)k.u; /* in place: the same */
	k.ldy = ldu;
	dev.k.dora_out(&dev, &k);
	free(u);
	u = down(&dev, k.u, s.t, s.out, ldu);
	ck_assert_mem_eq(u, y, (size_t)n * sizeof(*u));
	device_free(&dev, px), device_free(&dev, pl), device_free(&dev, pf), device_free(&dev, pb), device_free(&dev, k.y);
	free(u), free(x), free(less), free(f), free(bias), free(y);
}
END_TEST

/* --- backward --- */

static void *squares_room(struct device *d, int64_t n)
{
	double *dirt = xcalloc((size_t)kn_adapter_squares(n), sizeof(*dirt));
	void *p;

	for (int64_t i = 0; i < kn_adapter_squares(n); i++)
		dirt[i] = 1e3;
	p = up_raw(d, dirt, (uint64_t)kn_adapter_squares(n) * sizeof(*dirt));
	free(dirt);
	return p;
}

/* The magnitudes' gradients on the device, and what they are against; *k's dm, factor, per, bias, squares and scratch are made. */
static void back_make(struct device *d, struct kn_dora_back *k, int i, const float *f, const float *per, const float *bias, const float *dm)
{
	struct at s = at_of(i);
	float *pd = up_raw(d, dm, (uint64_t)s.out * 4);

	k->t = s.t;
	k->out = s.out;
	k->n = s.n;
	for (int j = 0; j < s.n; j++) {
		k->row[j] = s.row[j];
		k->rows[j] = shapes[i].rows[j];
		k->dm[j] = j && j == s.n - 1 ? NULL : pd + s.row[j];
	}
	k->factor = up_raw(d, f, (uint64_t)s.out * 4);
	k->per = up_raw(d, per, (uint64_t)s.out * 4);
	k->bias = bias ? up_raw(d, bias, (uint64_t)s.out * 4) : NULL;
	k->squares = squares_room(d, s.out);
	k->scratch = room(d, kn_dora_scratch(s.t, s.out, 0));
}

static void back_free(struct device *d, struct kn_dora_back *k)
{
	void *all[] = { k->dm[0], (void *)(uintptr_t)k->factor, (void *)(uintptr_t)k->per, (void *)(uintptr_t)k->bias, k->squares, k->scratch };

	for (size_t j = 0; j < sizeof(all) / sizeof(*all); j++)
		if (all[j])
			device_free(d, all[j]);
}

/* dm of column c is now its former value and `sum`, whose terms' sizes add up to size; their squares are left. */
static void near_dm(const struct kn_dora_back *k, const float *was, const double *sum, const double *size, int parts)
{
	float *dm = down_f32(&dev, k->dm[0], k->out);
	double *left = xcalloc((size_t)kn_adapter_squares(k->out), sizeof(*left)), all = 0, want = 0;

	for (int j = 0; j < k->n; j++)
		for (int64_t c = k->row[j]; c < k->row[j] + k->rows[j]; c++) {
			near(dm[c], (double)was[c] + (k->dm[j] ? sum[c] : 0), k->dm[j] ? ((KN_DORA_ROWS + 4 + parts) * 0x1p-24) * size[c] + 0x1p-23 * fabs((double)was[c]) : 0, "dm", c);
			want += k->dm[j] ? (double)dm[c] * (double)dm[c] : 0;
		}
	device_download(&dev, left, k->squares, (uint64_t)kn_adapter_squares(k->out) * sizeof(*left));
	must_sync(&dev);
	for (int64_t i = 0; i < kn_adapter_squares(k->out); i++)
		all += left[i];
	near(all, want, 1e-12 * want, "squares", 0);
	free(dm);
	free(left);
}

/* Of the product itself, of the output with a bias, and in place. */
START_TEST(test_back)
{
	struct at s = at_of(_i / 2);
	bool of_output = _i & 1;
	int64_t ldy = s.out + 8, ldu = s.out + 16, pad = 8, n = s.t * s.out;
	float *dy = noise(n, 1, 1), *u = noise(n, 2, 2), *f = around(s.out, 1, 0.2, 3), *per = around(s.out, 0.5, 0.1, 4), *bias = around(s.out, 0, 1, 5), *dm = around(s.out, 0, 1, 6), *du;
	double *sum = xcalloc((size_t)s.out, sizeof(*sum)), *size = xcalloc((size_t)s.out, sizeof(*size));
	struct kn_dora_back k[2] = { { .of_output = of_output, .pad = pad, .ldy = ldy, .ldu = ldu, .ld_du = ldy } };

	k[1] = k[0];
	for (int i = 0; i < 2; i++) {
		struct device *d = i ? &again : &dev;

		back_make(d, &k[i], _i / 2, f, per, of_output ? bias : NULL, dm);
		k[i].dy = up(d, dy, s.t, s.out, ldy);
		k[i].u = up(d, u, s.t, s.out, ldu);
		k[i].du = up(d, NULL, s.t, 0, ldy);
		d->k.dora_back(d, &k[i]);
	}
	same_bytes(&dev, k[0].du, &again, k[1].du, act_bytes(s.t * ldy));
	same_bytes(&dev, k[0].dm[0], &again, k[1].dm[0], (uint64_t)s.out * 4);
	du = down(&dev, k[0].du, s.t, ldy, ldy);
	for (int64_t i = 0; i < n; i++) {
		int64_t c = i % s.out;
		double by = of_output ? (f[c] == 0 ? 0 : (double)per[c] / (double)f[c]) : (double)per[c], v = of_output ? (double)u[i] - (double)bias[c] : (double)u[i], p = (double)dy[i] * (double)f[c];

		sum[c] += (double)dy[i] * v * by;
		size[c] += fabs((double)dy[i] * by) * (fabs((double)u[i]) + (of_output ? fabs((double)bias[c]) : 0));
		near(du[i / s.out * ldy + c], p, (0x1p-24 + ulp) * fabs(p) + tiny, "du", i);
	}
	for (int64_t i = 0; i < s.t * pad; i++)
		ck_assert(du[i / pad * ldy + s.out + i % pad] == 0);
	near_dm(&k[0], dm, sum, size, (int)(s.t / KN_DORA_ROWS));
	/* in place, and without a sum */
	k[0].u = NULL;
	k[0].du = (void *)(uintptr_t)k[0].dy;
	dev.k.dora_back(&dev, &k[0]);
	same_bytes(&dev, k[0].du, &again, k[1].du, act_bytes(s.t * ldy));
	for (int i = 0; i < 2; i++) {
		struct device *d = i ? &again : &dev;

		device_free(d, (void *)(uintptr_t)k[i].dy);
		if (i) {
			device_free(d, k[i].du);
			device_free(d, (void *)(uintptr_t)k[i].u);
		}
		back_free(d, &k[i]);
	}
	free(dy), free(u), free(f), free(per), free(bias), free(dm), free(du), free(sum), free(size);
}
END_TEST

/* --- gate and up --- */

static const int64_t gate_shapes[][2] = { { 1, 1 }, { 3, 15 }, { 2, 1031 }, { 129, 64 }, { 700, 72 }, { 33, 640 } };

START_TEST(test_gate)
{
	int64_t t = gate_shapes[_i / 2][0], half = gate_shapes[_i / 2][1], out = 2 * half, ldu = out + 8, ldh = half + 16;
	bool with_bias = _i & 1;
	float *u = noise(t * out, 2, 1), *dh = noise(t * half, 1, 2), *f = around(out, 1, 0.2, 3), *per = around(out, 0.5, 0.1, 4), *bias = around(out, 0, 1, 5), *dm = around(out, 0, 1, 6), *h, *du;
	double *sum = xcalloc((size_t)out, sizeof(*sum)), *size = xcalloc((size_t)out, sizeof(*size));
	struct kn_dora_gate k[2] = { { .ldh = ldh, .back = { .t = t, .out = out, .n = 2, .row = { 0, half }, .rows = { half, half }, .ldu = ldu } } };
	void *ph = NULL;

	k[1] = k[0];
	for (int i = 0; i < 2; i++) {
		struct device *d = i ? &again : &dev;
		float *pd = up_raw(d, dm, (uint64_t)out * 4);

		k[i].back.dm[0] = pd;
		k[i].back.dm[1] = pd + half;
		k[i].back.factor = up_raw(d, f, (uint64_t)out * 4);
		k[i].back.per = up_raw(d, per, (uint64_t)out * 4);
		k[i].back.bias = with_bias ? up_raw(d, bias, (uint64_t)out * 4) : NULL;
		k[i].back.squares = squares_room(d, out);
		k[i].back.scratch = room(d, kn_dora_scratch(t, out, 0));
		k[i].back.u = up(d, u, t, out, ldu);
		k[i].dh = up(d, dh, t, half, half);
		k[i].h = up(d, NULL, t, half, ldh);
		d->k.dora_gate_fwd(d, &k[i]);
		if (i == 0) {
			ph = k[i].h;
			k[i].h = up(d, NULL, t, half, ldh);
		}
		d->k.dora_gate_bwd(d, &k[i]);
	}
	same_bytes(&dev, k[0].h, &dev, ph, act_bytes(t * ldh)); /* formed once more */
	same_bytes(&dev, k[0].h, &again, k[1].h, act_bytes(t * ldh));
	same_bytes(&dev, k[0].back.u, &again, k[1].back.u, act_bytes(t * ldu));
	same_bytes(&dev, k[0].back.dm[0], &again, k[1].back.dm[0], (uint64_t)out * 4);
	h = down(&dev, ph, t, half, ldh);
	du = down(&dev, k[0].back.u, t, out, ldu);
	for (int64_t i = 0; i < t * half; i++) {
		int64_t c = i % half, at = i / half * out + c;
		double b0 = with_bias ? (double)bias[c] : 0, b1 = with_bias ? (double)bias[half + c] : 0, z = (double)u[at] * (double)f[c] + b0, v = (double)u[at + half] * (double)f[half + c] + b1;
		double sig = 1 / (1 + exp(-z)), y = dh[i], dv = y * z * sig, dg = y * v * sig * (1 + z * (1 - sig)), zs = fabs((double)u[at] * (double)f[c]) + fabs(b0), vs = fabs((double)u[at + half] * (double)f[half + c]) + fabs(b1);

		near(h[i], z * sig * v, 2e-6 * zs * vs + 1e-6 + ulp * fabs(z * sig * v) + tiny, "h", i);
		near(du[at], dg * (double)f[c], 3e-6 * (fabs(y) * vs * (1 + zs) + 1e-6) + ulp * fabs(dg * (double)f[c]) + tiny, "dg", i);
		near(du[at + half], dv * (double)f[half + c], 3e-6 * (fabs(y) * (zs + 1) + 1e-6) + ulp * fabs(dv * (double)f[half + c]) + tiny, "dv", i);
		sum[c] += dg * (double)u[at] * (double)per[c];
		sum[half + c] += dv * (double)u[at + half] * (double)per[half + c];
		/* the activation's own error beside that of the sum: 3e-6 is 50 units of it */
		size[c] += 2 * fabs(y * (double)u[at] * (double)per[c]) * vs * (1 + zs);
		size[half + c] += 2 * fabs(y * (double)u[at + half] * (double)per[half + c]) * (zs + 1);
	}
	near_dm(&k[0].back, dm, sum, size, (int)(t / KN_DORA_ROWS));
	for (int i = 0; i < 2; i++) {
		struct device *d = i ? &again : &dev;

		device_free(d, (void *)(uintptr_t)k[i].back.u), device_free(d, (void *)(uintptr_t)k[i].dh), device_free(d, k[i].h);
		back_free(d, &k[i].back);
	}
	device_free(&dev, ph);
	free(u), free(dh), free(f), free(per), free(bias), free(dm), free(h), free(du), free(sum), free(size);
}
END_TEST

START_TEST(test_rest)
{
	struct at s = at_of(_i);
	int64_t ld = s.out + 8;
	float *x = noise(s.t * s.out, 1, 1), *f = around(s.out, 1, 0.2, 2), *y;
	void *px = up(&dev, x, s.t, s.out, ld), *pf = up_raw(&dev, f, (uint64_t)s.out * 4);

	dev.k.dora_rest(&dev, px, ld, pf, s.t, s.out);
	y = down(&dev, px, s.t, s.out, ld);
	for (int64_t i = 0; i < s.t * s.out; i++) {
		double v = f[i % s.out], want = v == 0 ? 0 : (double)x[i] * (v - 1) / v;

		near(y[i], want, (3 * 0x1p-24 + ulp) * fabs(want) + tiny, "rest", i);
	}
	device_free(&dev, px), device_free(&dev, pf);
	free(x), free(f), free(y);
}
END_TEST

static void add(TCase *t)
{
	tcase_add_loop_test(t, test_row_squares, 0, 3);
	tcase_add_loop_test(t, test_factors, 0, SHAPES);
	tcase_add_loop_test(t, test_out, 0, 4 * SHAPES);
	tcase_add_loop_test(t, test_back, 0, 2 * SHAPES);
	tcase_add_loop_test(t, test_gate, 0, 2 * (int)(sizeof(gate_shapes) / sizeof(*gate_shapes)));
	tcase_add_loop_test(t, test_rest, 0, SHAPES);
}

int main(void)
{
	return run_suite("kn_dora", add);
}
