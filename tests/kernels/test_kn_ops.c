/* Every operation of the CPU backend against fp64, on shapes of one, odd ones,
 * non-multiples of any tile, and more than one tile; gradients by central
 * differences of the fp64 definition; results for one and three threads are
 * equal bit for bit. The bounds are those of each header. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/xalloc.h"
#include "kernels/device.h"

static struct device dev, dev3;

static void setup(void)
{
	struct err e = ERR_INIT;

	ck_assert_int_eq(device_open(&dev, "cpu", 1, &e), 0);
	ck_assert_int_eq(device_open(&dev3, "cpu", 3, &e), 0);
}

/* n numbers of N(0, sd); a few of them large, some zero. */
static float *noise(int64_t n, double sd, uint64_t stream)
{
	float *x = xcalloc((size_t)n + 1, sizeof(*x));

	for (int64_t i = 0; i < n; i++) {
		x[i] = (float)(sd * rng_normal(11, stream, (uint64_t)i));
		if (i % 97 == 13)
			x[i] *= 8;
		if (i % 89 == 7)
			x[i] = 0;
	}
	return x;
}

static float *zeros(int64_t n)
{
	return xcalloc((size_t)n + 1, sizeof(float));
}

static void near(double got, double want, double bound, const char *what, int64_t i)
{
	ck_assert_msg(fabs(got - want) <= bound, "%s[%lld]: %.9g, not %.9g (bound %.3g)", what, (long long)i, got, want, bound);
}

/* --- gemm --- */

static const int64_t gemm_shapes[][3] = { { 1, 1, 1 }, { 1, 257, 3 }, { 3, 5, 0 }, { 7, 1, 33 }, { 65, 63, 17 }, { 256, 768, 5 },
	                                  { 257, 769, 9 }, { 600, 300, 31 }, { 530, 1600, 4 }, { 16, 900, 70 } };

START_TEST(test_gemm)
{
	int64_t m = gemm_shapes[_i / 4][0], n = gemm_shapes[_i / 4][1], k = gemm_shapes[_i / 4][2];
	bool ta = _i & 1, tb = _i & 2;
	float *a = noise(m * k, 1, 1), *b = noise(k * n, 1, 2), *c = noise(m * n, 1, 3), *c3 = noise(m * n, 1, 3), *c0 = noise(m * n, 1, 3);
	int64_t lda = ta ? m : k, ldb = tb ? k : n;

	lda = lda ? lda : 1;
	ldb = ldb ? ldb : 1;
	dev.k.gemm(&dev, ta, tb, m, n, k, 0.5f, a, lda, b, ldb, 1, c, n);
	dev3.k.gemm(&dev3, ta, tb, m, n, k, 0.5f, a, lda, b, ldb, 1, c3, n);
	ck_assert_mem_eq(c, c3, (size_t)(m * n) * 4);
	for (int64_t i = 0; i < m; i++)
		for (int64_t j = 0; j < n; j++) {
			double s = 0, abs_sum = 0;

			for (int64_t l = 0; l < k; l++) {
				double x = (double)a[ta ? l * lda + i : i * lda + l] * (double)b[tb ? j * ldb + l : l * ldb + j];

				s += x;
				abs_sum += fabs(x);
			}
			near(c[i * n + j], (double)c0[i * n + j] + 0.5 * s, (double)(k + 2) * 0x1p-24 * (abs_sum + fabs((double)c0[i * n + j])), "c", i * n + j);
		}
	free(a);
	free(b);
	free(c);
	free(c3);
	free(c0);
}
END_TEST

/* --- rmsnorm --- */

static const int64_t row_shapes[][2] = { { 1, 1 }, { 1, 16 }, { 3, 17 }, { 5, 63 }, { 33, 1030 } };

static double norm_loss(const float *x, const float *dy, const float *w, int64_t c, double eps, int64_t at, double by)
{
	double ss = 0, l = 0;

	for (int64_t i = 0; i < c; i++)
		ss += ((double)x[i] + (i == at ? by : 0)) * ((double)x[i] + (i == at ? by : 0));
	for (int64_t i = 0; i < c; i++)
		l += ((double)x[i] + (i == at ? by : 0)) / sqrt(ss / (double)c + eps) * (double)w[i] * (double)dy[i];
	return l;
}

START_TEST(test_rmsnorm)
{
	int64_t t = row_shapes[_i][0], c = row_shapes[_i][1], n = t * c;
	float *x = noise(n, 1, 1), *delta = noise(n, 1, 2), *w = noise(c, 1, 3), *dy = noise(n, 1, 4), *dx = noise(n, 1, 5), *dx0 = noise(n, 1, 5);
	float *xo = zeros(n), *y = zeros(n), *rstd = zeros(t), *y3 = zeros(n);
	float eps = 1e-5f;

	dev.k.rmsnorm_fwd(&dev, xo, y, rstd, x, delta, w, t, c, eps);
	dev3.k.rmsnorm_fwd(&dev3, NULL, y3, NULL, xo, NULL, w, t, c, eps);
	ck_assert_mem_eq(y, y3, (size_t)n * 4);
	dev.k.rmsnorm_bwd(&dev, dx, dy, xo, rstd, w, t, c);
	for (int64_t r = 0; r < t; r++) {
		double ss = 0;

		for (int64_t i = 0; i < c; i++)
			ss += (double)xo[r * c + i] * (double)xo[r * c + i];
		for (int64_t i = 0; i < c; i++) {
			int64_t k = r * c + i;
			double want = (double)xo[k] / sqrt(ss / (double)c + (double)eps) * (double)w[i], h = 1e-5;

			ck_assert(xo[k] == x[k] + delta[k]);
			near(y[k], want, 1e-6 * (1 + fabs(want)), "y", k);
			if (c > 100 && i % 37)
				continue;
			want = (norm_loss(xo + r * c, dy + r * c, w, c, (double)eps, i, h) - norm_loss(xo + r * c, dy + r * c, w, c, (double)eps, i, -h)) / (2 * h);
			/* the difference itself is good to h^2 and to rounding / h */
			near((double)dx[k] - (double)dx0[k], want, 2e-5 * (1 + fabs(want) + fabs((double)dx0[k])), "dx", k);
		}
	}
	free(x), free(delta), free(w), free(dy), free(dx), free(dx0), free(xo), free(y), free(rstd), free(y3);
}
END_TEST

/* --- rotary --- */

START_TEST(test_rope)
{
	enum { T = 7, H = 3, D = 10, P = 20 };
	float *x = noise(T * H * D, 1, 1), *y = noise(T * H * D, 1, 1), *c = zeros(P * D / 2), *s = zeros(P * D / 2);
	int32_t pos[T] = { 0, 1, 2, 0, 5, 19, 3 };

	for (int i = 0; i < P * D / 2; i++) {
		c[i] = (float)cos(0.37 * i);
		s[i] = (float)sin(0.37 * i);
	}
	dev.k.rope(&dev, y, H * D, pos, c, s, T, H, D, D, false);
	for (int t = 0; t < T; t++)
		for (int h = 0; h < H; h++)
			for (int i = 0; i < D / 2; i++) {
				const float *u = x + (t * H + h) * D;
				double co = c[pos[t] * D / 2 + i], si = s[pos[t] * D / 2 + i];

				near(y[(t * H + h) * D + i], u[i] * co - u[i + D / 2] * si, 3e-7 * (fabs((double)u[i]) + fabs((double)u[i + D / 2])), "lo", i);
				near(y[(t * H + h) * D + i + D / 2], u[i + D / 2] * co + u[i] * si, 3e-7 * (fabs((double)u[i]) + fabs((double)u[i + D / 2])), "hi", i);
			}
	dev.k.rope(&dev, y, H * D, pos, c, s, T, H, D, D, true);
	for (int i = 0; i < T * H * D; i++)
		near(y[i], x[i], 1e-5 * (1 + fabs((double)x[i])), "there and back", i);
	free(x), free(y), free(c), free(s);
}
END_TEST

/* --- swiglu --- */

static double swiglu(double g, double u)
{
	return g / (1 + exp(-g)) * u;
}

START_TEST(test_swiglu)
{
	static const int64_t sizes[] = { 1, 15, 4097, 20000 };
	int64_t n = sizes[_i];
	float *g = noise(n, 3, 1), *u = noise(n, 1, 2), *h = zeros(n), *dh = noise(n, 1, 3), *g0 = noise(n, 3, 1), *u0 = noise(n, 1, 2);

	g[0] = g0[0] = -120; /* e^120 is no float */
	if (n > 4)
		g[1] = g0[1] = 120, g[2] = g0[2] = -87.4f, g[3] = g0[3] = 88.5f;
	dev.k.swiglu_fwd(&dev, h, g, u, n);
	dev.k.swiglu_bwd(&dev, g, u, dh, n);
	for (int64_t i = 0; i < n; i++) {
		double z = g0[i], v = u0[i], sig = 1 / (1 + exp(-z)), d = dh[i];

		near(h[i], swiglu(z, v), 1e-6 * fmax(fabs(swiglu(z, v)), fabs(z * v) * 1e-3) + 1e-37, "h", i);
		near(u[i], d * z * sig, 1e-6 * (fabs(d * z * sig) + 1e-6), "du", i);
		near(g[i], d * v * sig * (1 + z * (1 - sig)), 2e-6 * (fabs(d * v) + 1e-6), "dg", i);
	}
	free(g), free(u), free(h), free(dh), free(g0), free(u0);
}
END_TEST

/* --- cross-entropy --- */

START_TEST(test_xent)
{
	static const int64_t shapes[][2] = { { 1, 1 }, { 3, 2 }, { 5, 37 }, { 2, 5000 }, { 9, 4096 } };
	int64_t n = shapes[_i][0], v = shapes[_i][1];
	float *z = noise(n * v, 4, 1), *z0 = noise(n * v, 4, 1);
	int32_t target[16];
	double loss[16], again[16];

	for (int64_t i = 0; i < n; i++)
		target[i] = (int32_t)(i * 7919 % v);
	dev.k.xent(&dev, z, target, loss, n, v, 0.25f, true);
	for (int64_t i = 0; i < n; i++) {
		double max = -INFINITY, sum = 0;

		for (int64_t j = 0; j < v; j++)
			max = fmax(max, (double)z0[i * v + j]);
		for (int64_t j = 0; j < v; j++)
			sum += exp((double)z0[i * v + j] - max);
		near(loss[i], log(sum) + max - (double)z0[i * v + target[i]], 1e-6 * (1 + fabs(loss[i])), "loss", i);
		for (int64_t j = 0; j < v; j++) {
			double p = exp((double)z0[i * v + j] - max) / sum;

			near(z[i * v + j], 0.25 * (p - (j == target[i])), 1e-6 * 0.25 * (p + (j == target[i])) + 1e-12, "dz", i * v + j);
		}
	}
	dev3.k.xent(&dev3, z0, target, again, n, v, 0.25f, true);
	ck_assert_mem_eq(z, z0, (size_t)(n * v) * 4);
	ck_assert_mem_eq(loss, again, (size_t)n * sizeof(double));
	free(z), free(z0);
}
END_TEST

START_TEST(test_xent_not_finite)
{
	float z[2][3] = { { 0, NAN, 1 }, { 0, 1, 2 } };
	int32_t target[2] = { 0, 1 };
	double loss[2];

	dev.k.xent(&dev, &z[0][0], target, loss, 2, 3, 1, true);
	ck_assert(isnan(loss[0]));
	ck_assert(isfinite(loss[1]));
}
END_TEST

/* --- attention --- */

struct shape {
	int64_t nh, nkv, d, window;
	int32_t start[6];
	int64_t n_seqs;
};
static const struct shape attn_shapes[] = {
	{ 1, 1, 2, 0, { 0, 1 }, 1 },
	{ 4, 2, 8, 0, { 0, 3, 4, 21 }, 3 },
	{ 6, 2, 10, 0, { 0, 64, 129 }, 2 },
	{ 3, 1, 16, 5, { 0, 70, 75 }, 2 },
	{ 2, 2, 64, 0, { 0, 200 }, 1 },
	{ 2, 1, 6, 64, { 0, 131, 300 }, 2 },
};

struct ref { /* fp64 */
	double *o, *lse, *dq, *dk, *dv;
	double score; /* largest absolute score */
};

static void attn_reference(const struct shape *s, const float *q, const float *k, const float *v, const float *d_o, struct ref *r)
{
	int64_t nt = s->start[s->n_seqs], wq = s->nh * s->d, wk = s->nkv * s->d;
	double scale = 1 / sqrt((double)s->d), *p = calloc((size_t)nt + 1, 8);

	r->o = calloc((size_t)(nt * wq), 8), r->lse = calloc((size_t)(nt * s->nh), 8), r->dq = calloc((size_t)(nt * wq), 8);
	r->dk = calloc((size_t)(nt * wk), 8), r->dv = calloc((size_t)(nt * wk), 8), r->score = 0;
	for (int64_t b = 0; b < s->n_seqs; b++)
		for (int64_t h = 0; h < s->nh; h++)
			for (int64_t i = s->start[b]; i < s->start[b + 1]; i++) {
				int64_t kh = h / (s->nh / s->nkv), j0 = s->window && i - s->window + 1 > s->start[b] ? i - s->window + 1 : s->start[b];
				double max = -INFINITY, sum = 0, dd = 0;

				for (int64_t j = j0; j <= i; j++) {
					p[j] = 0;
					for (int64_t c = 0; c < s->d; c++)
						p[j] += scale * (double)q[i * wq + h * s->d + c] * (double)k[j * wk + kh * s->d + c];
					max = fmax(max, p[j]);
					r->score = fmax(r->score, fabs(p[j]));
				}
				for (int64_t j = j0; j <= i; j++)
					sum += exp(p[j] - max);
				r->lse[i * s->nh + h] = max + log(sum);
				for (int64_t j = j0; j <= i; j++) {
					p[j] = exp(p[j] - max) / sum;
					for (int64_t c = 0; c < s->d; c++)
						r->o[i * wq + h * s->d + c] += p[j] * (double)v[j * wk + kh * s->d + c];
				}
				for (int64_t c = 0; c < s->d; c++)
					dd += r->o[i * wq + h * s->d + c] * (double)d_o[i * wq + h * s->d + c];
				for (int64_t j = j0; j <= i; j++) {
					double dp = 0, ds;

					for (int64_t c = 0; c < s->d; c++)
						dp += (double)d_o[i * wq + h * s->d + c] * (double)v[j * wk + kh * s->d + c];
					ds = p[j] * (dp - dd) * scale;
					for (int64_t c = 0; c < s->d; c++) {
						r->dv[j * wk + kh * s->d + c] += p[j] * (double)d_o[i * wq + h * s->d + c];
						r->dq[i * wq + h * s->d + c] += ds * (double)k[j * wk + kh * s->d + c];
						r->dk[j * wk + kh * s->d + c] += ds * (double)q[i * wq + h * s->d + c];
					}
				}
			}
	free(p);
}

static void all_near(const float *x, const double *want, int64_t n, double score, const char *what)
{
	double max = 0;

	for (int64_t i = 0; i < n; i++)
		max = fmax(max, fabs(want[i]));
	for (int64_t i = 0; i < n; i++)
		near(x[i], want[i], (2e-6 + score * 0x1p-23) * max + 1e-30, what, i);
}

static struct kn_attn_shape attn_shape(const struct shape *s, struct device *d)
{
	int64_t max = 1;

	for (int64_t i = 0; i < s->n_seqs; i++)
		max = s->start[i + 1] - s->start[i] > max ? s->start[i + 1] - s->start[i] : max;
	return (struct kn_attn_shape){ s->nh, s->nkv, s->d, s->nh * s->d, s->nkv * s->d, s->nkv * s->d, s->nh * s->d, s->window,
		(float)(1 / sqrt((double)s->d)), s->n_seqs, s->start, zeros(kn_attn_scratch(d, max, s->d)) };
}

START_TEST(test_attention)
{
	const struct shape *s = &attn_shapes[_i];
	int64_t nt = s->start[s->n_seqs], nq = nt * s->nh * s->d, nk = nt * s->nkv * s->d;
	float *q = noise(nq, 1, 1), *k = noise(nk, 1, 2), *v = noise(nk, 1, 3), *d_o = noise(nq, 1, 4);
	float *o = zeros(nq), *lse = zeros(nt * s->nh), *dq = noise(nq, 1, 5), *dk = noise(nk, 1, 6), *dv = noise(nk, 1, 7);
	float *o3 = zeros(nq), *dq3 = zeros(nq), *dk3 = zeros(nk), *dv3 = zeros(nk);
	struct kn_attn_shape a = attn_shape(s, &dev), a3 = attn_shape(s, &dev3);
	struct ref r;

	attn_reference(s, q, k, v, d_o, &r);
	dev.k.attn_fwd(&dev, &a, q, k, v, o, lse);
	dev.k.attn_bwd(&dev, &a, q, k, v, o, lse, d_o, dq, dk, dv);
	all_near(o, r.o, nq, r.score, "o");
	all_near(lse, r.lse, nt * s->nh, r.score, "lse");
	all_near(dq, r.dq, nq, r.score, "dq");
	all_near(dk, r.dk, nk, r.score, "dk");
	all_near(dv, r.dv, nk, r.score, "dv");
	dev3.k.attn_fwd(&dev3, &a3, q, k, v, o3, lse);
	dev3.k.attn_bwd(&dev3, &a3, q, k, v, o3, lse, d_o, dq3, dk3, dv3);
	ck_assert_mem_eq(o, o3, (size_t)nq * 4);
	ck_assert_mem_eq(dq, dq3, (size_t)nq * 4);
	ck_assert_mem_eq(dk, dk3, (size_t)nk * 4);
	ck_assert_mem_eq(dv, dv3, (size_t)nk * 4);
	/* decoding the last token of each sequence gives the same row */
	for (int64_t b = 0; b < s->n_seqs; b++) {
		const float *kp = k + s->start[b] * s->nkv * s->d, *vp = v + s->start[b] * s->nkv * s->d;
		int64_t last = (s->start[b + 1] - 1) * s->nh * s->d;
		int32_t len = s->start[b + 1] - s->start[b];
		struct kn_attn_shape one = a;

		one.n_seqs = 1;
		dev.k.attn_decode(&dev, &one, q + last, &kp, &vp, &len, o3);
		all_near(o3, r.o + last, s->nh * s->d, r.score, "decoded");
	}
	free(q), free(k), free(v), free(d_o), free(o), free(lse), free(dq), free(dk), free(dv), free(o3), free(dq3), free(dk3), free(dv3);
	free(a.scratch), free(a3.scratch), free(r.o), free(r.lse), free(r.dq), free(r.dk), free(r.dv);
}
END_TEST

/* --- dropout --- */

START_TEST(test_dropout)
{
	enum { T = 200, C = 103 };
	float *x = zeros(T * C), *y = zeros(T * C), *z = zeros(T * C);
	int32_t rec[T], pos[T], back_rec[T], back_pos[T];
	struct kn_dropout_key key = { 0x123456789abcdefULL, 5, 0.3f };
	int64_t kept = 0;

	for (int t = 0; t < T; t++) {
		rec[t] = t / 20, pos[t] = t % 20;
		back_rec[T - 1 - t] = rec[t], back_pos[T - 1 - t] = pos[t];
		for (int c = 0; c < C; c++)
			x[t * C + c] = 2;
	}
	dev.k.dropout(&dev, y, x, rec, pos, T, C, key, false);
	for (int i = 0; i < T * C; i++) {
		ck_assert(y[i] == 0 || y[i] == 2 * (1.0f / (1.0f - 0.3f)));
		kept += y[i] != 0;
	}
	/* binomial: five standard deviations */
	ck_assert_int_le(llabs(kept - (int64_t)(0.7 * T * C)), (int64_t)(5 * sqrt(0.21 * T * C)));
	/* the order of tokens is nothing to it */
	dev3.k.dropout(&dev3, z, x, back_rec, back_pos, T, C, key, false);
	for (int t = 0; t < T; t++)
		ck_assert_mem_eq(y + t * C, z + (T - 1 - t) * C, C * sizeof(float));
	dev.k.dropout(&dev, z, x, back_rec, back_pos, T, C, key, true);
	for (int t = 0; t < T * C; t++)
		ck_assert(z[t] == 0 || fabs((double)z[t] - 2 * 2 / 0.7) < 1e-5);
	key.tensor++;
	dev.k.dropout(&dev, z, x, rec, pos, T, C, key, false);
	ck_assert(memcmp(y, z, T * C * sizeof(float)) != 0);
	free(x), free(y), free(z);
}
END_TEST

/* --- rows, bias, widening, norms --- */

START_TEST(test_small_ones)
{
	float x[12] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 }, y[12] = { 0 }, bias[3] = { 1, -1, 0.5f }, emb[6];
	const float big[2] = { 3e19f, 4e19f };
	int32_t idx[2] = { 3, 1 };
	uint16_t h[2] = { 0x3c00, 0xc100 }, b[2] = { 0x3f80, 0xc0a0 };
	double s;

	dev.k.gather_rows(&dev, y, x, idx, 2, 3);
	ck_assert(y[0] == 9 && y[2] == 11 && y[3] == 3 && y[5] == 5);
	memset(x, 0, sizeof(x));
	dev.k.scatter_rows(&dev, x, y, idx, 2, 3);
	ck_assert(x[9] == 9 && x[3] == 3 && x[0] == 0 && x[6] == 0);
	dev.k.bias_add(&dev, y, bias, 2, 3);
	ck_assert(y[0] == 10 && y[1] == 9 && y[2] == 11.5f && y[3] == 4);
	dev.k.sum_squares(&dev, big, 2, &s); /* beyond fp32's range */
	ck_assert_double_eq_tol(s / 25e38, 1, 1e-6);
	dev.k.widen(&dev, y, h, DT_F16, 2);
	ck_assert(y[0] == 1 && y[1] == -2.5f);
	dev.k.widen(&dev, y, b, DT_BF16, 2);
	ck_assert(y[0] == 1 && y[1] == -5);
	idx[0] = 1, idx[1] = 0;
	dev.k.embed_fwd(&dev, emb, idx, b, DT_BF16, 2, 1);
	ck_assert(emb[0] == -5 && emb[1] == 1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("kn_ops");
	TCase *t = tcase_create("kn_ops");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, NULL);
	tcase_add_loop_test(t, test_gemm, 0, 4 * (int)(sizeof(gemm_shapes) / sizeof(*gemm_shapes)));
	tcase_add_loop_test(t, test_rmsnorm, 0, 5);
	tcase_add_test(t, test_rope);
	tcase_add_loop_test(t, test_swiglu, 0, 4);
	tcase_add_loop_test(t, test_xent, 0, 5);
	tcase_add_test(t, test_xent_not_finite);
	tcase_add_loop_test(t, test_attention, 0, 6);
	tcase_add_test(t, test_dropout);
	tcase_add_test(t, test_small_ones);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
