/* Kernels on micro-batches of hundreds of thousands of tokens, where a row begins beyond 2^31 elements. LP_BIG=1 takes that many (a GPU
 * with 40 GB, a minute); without it sizes are small, and what is tested is this file. LP_DEVICE names the device, as test_kn_ops.c
 * says. Rows repeat a pattern whose length divides no power of two, so an index that wraps finds other numbers.
 * What works on rows must give each the bits that it has in the pattern alone, which the other suites compare with fp64. Attention is
 * compared with fp64: as queries and keys repeat, all of them of one number in the pattern are one sum. */
#include <stdio.h>

#include "arrays.h"

static bool big(void)
{
	return getenv("LP_BIG") != NULL;
}

/* Rows of the pattern. */
static int64_t pattern(void)
{
	return big() ? 1000 : 60;
}

/* Rows of ld elements that end well beyond 2^31 of them. */
static int64_t rows_of(int64_t ld)
{
	return (big() ? ((int64_t)1 << 31) / ld : 0) + 2 * pattern() + 7;
}

/* t rows from the pattern's in x, which is (pattern, ld) on the device. */
static void *repeat(const void *x, int64_t ld, int64_t t)
{
	void *y = room(&dev, act_bytes(t * ld));

	for (int64_t have = 0, n; have < t; have += n) {
		n = have ? have : pattern(); /* twice as many each time: whole patterns, but for the last */
		n = n < t - have ? n : t - have;
		device_copy(&dev, act_at(&dev, y, have * ld), have ? y : x, act_bytes(n * ld));
	}
	must_sync(&dev);
	return y;
}

/* The k'th row to look at, of t: the first ones, the last ones, those around 2^31 elements, and others. */
static int64_t looked_at(int k, int64_t t, int64_t ld)
{
	int64_t edge = ((int64_t)1 << 31) / ld + k - 10;

	if (k < 4)
		return k;
	if (k < 8)
		return t - 8 + k;
	if (k < 13 && edge < t)
		return edge;
	return (int64_t)(rng_u64(3, (uint64_t)k, 0) % (uint64_t)t);
}
enum { LOOKS = 40 };

/* c elements of a row's first, as fp32. */
static void fetch(float *to, const void *p, int64_t row, int64_t ld, int64_t c)
{
	dev.k.to_host(&dev, to, act_at(&dev, p, row * ld), c);
}

/* The rows of y (t, c) are those of the pattern's, in `of` (pattern, c); bound 0: bit by bit. */
static void rows_repeat(const void *y, const void *of, int64_t t, int64_t ld, int64_t c, double bound, const char *what)
{
	float *a = xcalloc((size_t)c, sizeof(*a)), *b = xcalloc((size_t)c, sizeof(*b));

	for (int k = 0; k < LOOKS; k++) {
		int64_t row = looked_at(k, t, ld);

		fetch(a, y, row, ld, c);
		fetch(b, of, row % pattern(), ld, c);
		for (int64_t i = 0; i < c; i++)
			ck_assert_msg(fabs((double)a[i] - (double)b[i]) <= bound * (1 + fabs((double)b[i])), "%s: row %lld of %lld, column %lld: %.9g, not %.9g", what, (long long)row,
			              (long long)t, (long long)i, (double)a[i], (double)b[i]);
	}
	free(a);
	free(b);
}

static void *made(int64_t t, int64_t c, int64_t ld, uint64_t stream)
{
	float *x = noise(t * c, 1, stream);
	void *p = up(&dev, x, t, c, ld);

	free(x);
	return p;
}

START_TEST(test_norms)
{
	int64_t c = 4096, ld = c + 32, t = rows_of(c), few = pattern();
	float *w = noise(c, 1, 1);
	void *pw = up_raw(&dev, w, (uint64_t)c * 4), *x = made(few, c, c, 2), *dx = made(few, c, ld, 3), *rstd = room(&dev, (uint64_t)t * 4);
	void *xs = repeat(x, c, t), *ys = repeat(dx, ld, t), *y = room(&dev, act_bytes(few * ld)), *dxs;

	dev.k.rmsnorm_fwd(&dev, y, ld, rstd, x, pw, few, c, 1e-5f);
	dev.k.rmsnorm_fwd(&dev, ys, ld, rstd, xs, pw, t, c, 1e-5f);
	rows_repeat(ys, y, t, ld, c, 0, "norm");
	device_free(&dev, ys);
	dxs = repeat(dx, ld, t);
	dev.k.rmsnorm_bwd(&dev, dxs, ld, xs, xs, rstd, pw, t, c);
	dev.k.rmsnorm_bwd(&dev, dx, ld, x, x, rstd, pw, few, c);
	rows_repeat(dxs, dx, t, ld, c, 0, "its gradient");
	device_free(&dev, pw), device_free(&dev, x), device_free(&dev, dx), device_free(&dev, rstd), device_free(&dev, xs), device_free(&dev, y), device_free(&dev, dxs);
	free(w);
}
END_TEST

START_TEST(test_rotary)
{
	int64_t heads = 40, half = 64, c = heads * 2 * half, ld = c + 1120, t = rows_of(ld), few = pattern();
	float *angles = noise(few * half, 1, 1);
	int32_t *pos = xcalloc((size_t)t, sizeof(*pos));
	void *x = made(few, c, ld, 2), *xs = repeat(x, ld, t), *tab = up_raw(&dev, angles, (uint64_t)(few * half) * 4), *pp;

	for (int64_t i = 0; i < t; i++)
		pos[i] = (int32_t)(i % few);
	pp = up_raw(&dev, pos, (uint64_t)t * 4);
	for (int inverse = 0; inverse < 2; inverse++) {
		dev.k.rope(&dev, x, ld, pp, tab, tab, few, heads, 2 * half, 2 * half, inverse);
		dev.k.rope(&dev, xs, ld, pp, tab, tab, t, heads, 2 * half, 2 * half, inverse);
		rows_repeat(xs, x, t, ld, c, 0, "rotary");
	}
	device_free(&dev, x), device_free(&dev, xs), device_free(&dev, tab), device_free(&dev, pp);
	free(angles), free(pos);
}
END_TEST

START_TEST(test_gate)
{
	int64_t f = big() ? 14336 : 256, ld = 2 * f + 64, ldh = f + 32, t = rows_of(ld), few = pattern();
	void *gu = made(few, 2 * f, ld, 1), *h = made(few, f, ldh, 2), *dh = made(few, f, f, 3), *gus = repeat(gu, ld, t), *hs = repeat(h, ldh, t), *dhs = repeat(dh, f, t);

	dev.k.swiglu_fwd(&dev, h, ldh, gu, ld, few, f);
	dev.k.swiglu_fwd(&dev, hs, ldh, gus, ld, t, f);
	rows_repeat(hs, h, t, ldh, f, 0, "gate");
	dev.k.swiglu_bwd(&dev, gu, ld, dh, h, ldh, few, f);
	dev.k.swiglu_bwd(&dev, gus, ld, dhs, hs, ldh, t, f);
	rows_repeat(gus, gu, t, ld, 2 * f, 0, "its gradient");
	rows_repeat(hs, h, t, ldh, f, 0, "gate once more");
	device_free(&dev, gu), device_free(&dev, h), device_free(&dev, dh), device_free(&dev, gus), device_free(&dev, hs), device_free(&dev, dhs);
}
END_TEST

START_TEST(test_rows)
{
	enum { N = LOOKS };
	int64_t c = 4096, ld = c + 32, t = rows_of(c), few = pattern();
	int32_t idx[N];
	void *x = made(few, c, c, 1), *xs = repeat(x, c, t), *wide = made(few, c, ld, 2), *wides = repeat(wide, ld, t), *some = room(&dev, act_bytes(N * c)), *pi;
	float *a = xcalloc((size_t)c, sizeof(*a)), *b = xcalloc((size_t)c, sizeof(*b));

	for (int k = 0; k < N; k++)
		idx[k] = (int32_t)looked_at(k, t, c);
	pi = up_raw(&dev, idx, sizeof(idx));
	dev.k.gather_rows(&dev, some, xs, pi, N, c);
	dev.k.scatter_rows(&dev, wides, ld, some, pi, N, c);
	for (int k = 0; k < N; k++) {
		fetch(a, x, idx[k] % few, c, c);
		fetch(b, some, k, c, c);
		ck_assert_mem_eq(a, b, (size_t)c * 4);
		fetch(b, wides, idx[k], ld, c);
		ck_assert_mem_eq(a, b, (size_t)c * 4);
	}
	dev.k.copy_rows(&dev, wides, ld, xs, c, t, c);
	dev.k.copy_rows(&dev, wide, ld, x, c, few, c);
	rows_repeat(wides, wide, t, ld, c, 0, "copied rows");
	device_free(&dev, x), device_free(&dev, xs), device_free(&dev, wide), device_free(&dev, wides), device_free(&dev, some), device_free(&dev, pi);
	free(a), free(b);
}
END_TEST

/* y is k times x, to rounding of sums. */
static void is_times(const void *y, const void *x, int64_t n, double k, const char *what)
{
	float *a = down_f32(&dev, y, n), *b = down_f32(&dev, x, n);
	double off = 0, size = 0;

	for (int64_t i = 0; i < n; i++) {
		off += ((double)a[i] - k * (double)b[i]) * ((double)a[i] - k * (double)b[i]);
		size += k * (double)b[i] * k * (double)b[i];
	}
	ck_assert_msg(sqrt(off) <= 1e-3 * sqrt(size), "%s: off by %.3g", what, sqrt(off / size));
	free(a);
	free(b);
}

/* One adapter of rank 32 on gate and up, and one on what comes out of the gate: the widest rows that there are. Sums over tokens are
 * so many times those of the pattern. */
START_TEST(test_adapters)
{
	int64_t r = 32, in = big() ? 14336 : 192, ld = in + 64, few = pattern(), times = rows_of(ld) / few + 1, t = times * few;
	void *x = made(few, in, ld, 1), *xs = repeat(x, ld, t), *a = made(r, in, in, 2), *b = made(in, r, r, 3);
	void *sum = room(&dev, (uint64_t)(r * in) * 4), *sums = room(&dev, (uint64_t)(r * in) * 4), *db = room(&dev, (uint64_t)(in * r) * 4), *dbs = room(&dev, (uint64_t)(in * r) * 4);
	void *scratch = room(&dev, dev.k.adapter_scratch(&dev, t, in, in, 1, r)), *ds = made(few, r, r, 4), *dss = repeat(ds, r, t);
	struct kn_adapter_outer o = { .t = few, .in = in, .nr = r, .x = x, .ldx = ld, .a = a, .lda = in, .ds = ds, .ld_ds = r, .da = sum, .scratch = scratch };
	struct kn_adapter_grad g = { .t = few, .out = in, .n = 1, .rank = r, .scale = 0.5f, .rows = { in }, .dy = x, .ldy = ld, .b = b, .ldg = r, .s = ds, .ld_s = r, .db = { db },
		                     .scratch = scratch };

	dev.k.adapter_down(&dev, &o);
	dev.k.adapter_outer(&dev, &o);
	o.t = t, o.x = xs, o.ds = dss, o.da = sums;
	dev.k.adapter_down(&dev, &o);
	dev.k.adapter_outer(&dev, &o);
	rows_repeat(act_at(&dev, xs, in), act_at(&dev, x, in), t, ld, r, dev.act == DT_F32 ? 1e-4 : 0, "inner values");
	is_times(sums, sum, r * in, (double)times, "dA");
	dev.k.adapter_grad(&dev, &g);
	g.t = t, g.dy = xs, g.s = dss, g.db[0] = dbs;
	dev.k.adapter_grad(&dev, &g);
	/* pieces of columns follow from the number of tokens, and so the order of a row's sum */
	rows_repeat(act_at(&dev, xs, in), act_at(&dev, x, in), t, ld, r, 2 * ulp + 1e-3, "inner gradients");
	is_times(dbs, db, in * r, (double)times, "dB");
	device_free(&dev, x), device_free(&dev, xs), device_free(&dev, a), device_free(&dev, b), device_free(&dev, sum), device_free(&dev, sums);
	device_free(&dev, db), device_free(&dev, dbs), device_free(&dev, scratch), device_free(&dev, ds), device_free(&dev, dss);
}
END_TEST

/* --- attention --- */

enum { HEADS = 2, D = 128 };

/* Of one head, in numbers of the pattern: query c and key p. T of them in all, of which number c has those at m pattern + c. */
struct truth {
	int64_t n, t;
	double scale;
	const float *q[HEADS], *g[HEADS], *k, *v; /* (n, D); g: d_o */
	double *e[HEADS], *gv[HEADS];             /* (n, n) e^S, d_o v */
};

static double dot(const float *a, const float *b)
{
	double s = 0;

	for (int i = 0; i < D; i++)
		s += (double)a[i] * (double)b[i];
	return s;
}

static void truth_make(struct truth *x)
{
	for (int h = 0; h < HEADS; h++) {
		x->e[h] = xcalloc((size_t)(x->n * x->n), sizeof(double));
		x->gv[h] = xcalloc((size_t)(x->n * x->n), sizeof(double));
		for (int64_t c = 0; c < x->n; c++)
			for (int64_t p = 0; p < x->n; p++) {
				x->e[h][c * x->n + p] = exp(x->scale * dot(x->q[h] + c * D, x->k + p * D));
				x->gv[h][c * x->n + p] = dot(x->g[h] + c * D, x->v + p * D);
			}
	}
}

/* Query i against every key up to i: the sum of e^S, o, rowsum(do o) and dq. The keys of number p up to i are m, or m + 1. */
static double query(const struct truth *x, int h, int64_t i, double o[D], double *dsum, double dq[D])
{
	int64_t m = i / x->n, c = i % x->n;
	const double *e = x->e[h] + c * x->n, *gv = x->gv[h] + c * x->n;
	double z = 0;

	*dsum = 0;
	for (int64_t p = 0; p < x->n; p++) {
		double w = e[p] * (double)(m + (p <= c));

		z += w;
		*dsum += w * gv[p];
	}
	*dsum /= z;
	if (!o)
		return z;
	memset(o, 0, D * sizeof(*o));
	memset(dq, 0, D * sizeof(*dq));
	for (int64_t p = 0; p < x->n; p++) {
		double w = e[p] * (double)(m + (p <= c)) / z, ds = w * (gv[p] - *dsum) * x->scale;

		for (int d = 0; d < D; d++) {
			o[d] += w * (double)x->v[p * D + d];
			dq[d] += ds * (double)x->k[p * D + d];
		}
	}
	return z;
}

/* Key j against every query from j on, of all heads. */
static void key(const struct truth *x, int64_t j, double *const z[HEADS], double *const dsum[HEADS], double dk[D], double dv[D])
{
	int64_t p = j % x->n;

	memset(dk, 0, D * sizeof(*dk));
	memset(dv, 0, D * sizeof(*dv));
	for (int h = 0; h < HEADS; h++)
		for (int64_t c = 0; c < x->n; c++) {
			double w = 0, ds = 0, e = x->e[h][c * x->n + p];

			for (int64_t i = j / x->n * x->n + c; i < x->t; i += x->n)
				if (i >= j) {
					w += e / z[h][i];
					ds += e / z[h][i] * (x->gv[h][c * x->n + p] - dsum[h][i]);
				}
			for (int d = 0; d < D; d++) {
				dv[d] += w * (double)x->g[h][c * D + d];
				dk[d] += ds * x->scale * (double)x->q[h][c * D + d];
			}
		}
}

struct distance {
	double off, size;
};

static void compare(struct distance *d, const void *p, int64_t row, int64_t ld, const double want[D])
{
	float got[D];

	fetch(got, p, row, ld, D);
	for (int i = 0; i < D; i++) {
		d->off += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
		d->size += want[i] * want[i];
	}
}

/* Columns [at, at + D) of an array of the pattern as fp32. */
static float *column(const void *p, int64_t ld, int64_t at)
{
	float *x = xcalloc((size_t)(pattern() * D), sizeof(*x));

	for (int64_t r = 0; r < pattern(); r++)
		fetch(x + r * D, act_at(&dev, p, at), r, ld, D);
	return x;
}

/* One sequence. Two heads of a row as wide as an 8B model's, so that rows end beyond 2^31. Bounds: relative L2 of attn_cuda.h,
 * three times over for sums as long as these; the CPU's fp32 like test_kn_ops'. */
START_TEST(test_attention)
{
	int64_t n = pattern(), ld = big() ? 6240 : 640, at_k = ld - 2 * D - 96, at_v = at_k + D, ldo = HEADS * D + 64, t = rows_of(ld) + (big() ? 50000 : 500);
	int32_t start[2] = { 0, (int32_t)t }, *tiles = xcalloc((size_t)(2 * (t / ATTN_TILE + 1)), sizeof(*tiles));
	void *row = made(n, ld - 32, ld, 1), *rows = repeat(row, ld, t), *d_row = made(n, HEADS * D, ldo, 2), *d_o = repeat(d_row, ldo, t), *o = room(&dev, act_bytes(t * ldo));
	void *dqkv = room(&dev, act_bytes(t * ld)), *lse = room(&dev, (uint64_t)(t * HEADS) * 4), *ps = up_raw(&dev, start, sizeof(start));
	int64_t n_tiles = attn_tiles(start, 1, tiles);
	void *pt = up_raw(&dev, tiles, (uint64_t)n_tiles * 8);
	struct kn_attn_shape s = { .n_heads = HEADS, .n_kv = 1, .head_dim = D, .ldq = ld, .ldk = ld, .ldv = ld, .ldo = ldo, .scale = (float)(0.5 / sqrt(D)), .n_seqs = 1, .n_tokens = t,
		                   .seq_start = start, .seq_start_dev = ps, .tiles = pt, .n_tiles = n_tiles,
		                   .scratch = room(&dev, dev.k.attn_scratch(&dev, t, t, HEADS, D, true)) };
	float *k = column(row, ld, at_k), *v = column(row, ld, at_v), *q[HEADS], *g[HEADS];
	double *z[HEADS], *dsum[HEADS], most = dev.act == DT_F32 ? 2e-5 : 1e-2;
	struct truth x = { .n = n, .t = t, .scale = (double)s.scale, .k = k, .v = v };
	struct distance off[4] = { { 0 } };
	static const char *const names[4] = { "o", "dq", "dk", "dv" };

	dev.k.attn_fwd(&dev, &s, rows, act_at(&dev, rows, at_k), act_at(&dev, rows, at_v), o, lse);
	dev.k.attn_bwd(&dev, &s, rows, act_at(&dev, rows, at_k), act_at(&dev, rows, at_v), o, lse, d_o, dqkv, act_at(&dev, dqkv, at_k), act_at(&dev, dqkv, at_v));
	must_sync(&dev);
	for (int h = 0; h < HEADS; h++) {
		x.q[h] = q[h] = column(row, ld, h * D);
		x.g[h] = g[h] = column(d_row, ldo, h * D);
		z[h] = xcalloc((size_t)t, sizeof(double));
		dsum[h] = xcalloc((size_t)t, sizeof(double));
	}
	truth_make(&x);
	for (int h = 0; h < HEADS; h++)
		for (int64_t i = 0; i < t; i++)
			z[h][i] = query(&x, h, i, NULL, &dsum[h][i], NULL);
	for (int look = 0; look < LOOKS; look++) {
		int64_t i = looked_at(look, t, ld);
		double want[D], grad[D], one;
		float got;

		for (int h = 0; h < HEADS; h++) {
			query(&x, h, i, want, &one, grad);
			compare(&off[0], act_at(&dev, o, h * D), i, ldo, want);
			compare(&off[1], act_at(&dev, dqkv, h * D), i, ld, grad);
			device_download(&dev, &got, (const float *)lse + i * HEADS + h, sizeof(got));
			near((double)got, log(z[h][i]), 1e-4 * (1 + log((double)(i + 1))), "lse", i);
		}
		key(&x, i, z, dsum, grad, want);
		compare(&off[2], act_at(&dev, dqkv, at_k), i, ld, grad);
		compare(&off[3], act_at(&dev, dqkv, at_v), i, ld, want);
	}
	printf("attention over %lld tokens:", (long long)t);
	for (int i = 0; i < 4; i++)
		printf(" %s off by %.2e", names[i], sqrt(off[i].off / off[i].size));
	printf("\n");
	for (int i = 0; i < 4; i++)
		ck_assert_msg(off[i].off <= most * most * off[i].size, "%s is off by %.3g", names[i], sqrt(off[i].off / off[i].size));
	for (int h = 0; h < HEADS; h++)
		free(q[h]), free(g[h]), free(z[h]), free(dsum[h]), free(x.e[h]), free(x.gv[h]);
	device_free(&dev, row), device_free(&dev, rows), device_free(&dev, d_row), device_free(&dev, d_o), device_free(&dev, o), device_free(&dev, dqkv), device_free(&dev, lse);
	device_free(&dev, ps), device_free(&dev, pt), device_free(&dev, s.scratch);
	free(tiles), free(k), free(v);
}
END_TEST

static void add(TCase *t)
{
	tcase_add_test(t, test_norms);
	tcase_add_test(t, test_rotary);
	tcase_add_test(t, test_gate);
	tcase_add_test(t, test_rows);
	tcase_add_test(t, test_adapters);
	tcase_add_test(t, test_attention);
}

int main(void)
{
	return run_suite("kn_long", add);
}
