/* Every operation of a backend against fp64, on shapes of one, odd ones,
 * non-multiples of any tile, and more than one tile; gradients by central
 * differences of the fp64 definition; rows with strides, whose gaps stay as they
 * were. LP_DEVICE names the device (cpu). A second device must give the same
 * bits: on the CPU another number of threads, on CUDA another run. The bounds are
 * those of each header, and one rounding to the activation type. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device.h"
#include "arrays.h"

/* --- gemm --- */

static const int64_t gemm_shapes[][3] = { { 1, 1, 1 }, { 1, 257, 3 }, { 3, 5, 0 }, { 7, 1, 33 }, { 65, 63, 17 }, { 256, 768, 5 },
	                                  { 257, 769, 9 }, { 600, 300, 31 }, { 530, 1600, 4 }, { 16, 900, 70 }, { 128, 512, 1088 } };

START_TEST(test_gemm)
{
	int64_t m = gemm_shapes[_i / 8][0], n = gemm_shapes[_i / 8][1], k = gemm_shapes[_i / 8][2];
	bool ta = _i & 1, tb = _i & 2, wide = _i & 4;
	float *a = noise(m * k, 1, 1), *b = noise(k * n, 1, 2), *c0 = noise(m * n, 1, 3), *c;
	int64_t ra = ta ? k : m, ca = ta ? m : k, rb = tb ? n : k, cb = tb ? k : n, lda = ca + 3, ldb = cb + 8, ldc = n + 5;
	void *pa = up(&dev, a, ra, ca, lda), *pb = up(&dev, b, rb, cb, ldb), *pa2 = up(&again, a, ra, ca, lda), *pb2 = up(&again, b, rb, cb, ldb);
	void *pc = wide ? up_raw(&dev, c0, (uint64_t)(m * n) * 4) : up(&dev, NULL, m, n, ldc);
	void *pc0, *pc2 = wide ? up_raw(&again, c0, (uint64_t)(m * n) * 4) : up(&again, c0, m, n, ldc);

	ldc = wide ? n : ldc;
	/* what is added lies in C, or in a matrix of its own */
	pc0 = wide ? NULL : up(&dev, c0, m, n, ldc);
	dev.k.gemm(&dev, ta, tb, m, n, k, 0.5f, pa, lda, pb, ldb, 1, pc0, pc, ldc, wide);
	again.k.gemm(&again, ta, tb, m, n, k, 0.5f, pa2, lda, pb2, ldb, 1, NULL, pc2, ldc, wide);
	same_bytes(&dev, pc, &again, pc2, wide ? (uint64_t)(m * n) * 4 : act_bytes(m * ldc));
	c = wide ? down_f32(&dev, pc, m * n) : down(&dev, pc, m, n, ldc);
	for (int64_t i = 0; i < m; i++)
		for (int64_t j = 0; j < n; j++) {
			double s = 0, abs_sum = 0, was = c0[i * n + j];

			for (int64_t l = 0; l < k; l++) {
				double x = (double)a[ta ? l * m + i : i * k + l] * (double)b[tb ? j * k + l : l * n + j];

				s += x;
				abs_sum += fabs(x);
			}
			near(c[i * n + j], was + 0.5 * s, (double)(k + 2) * 0x1p-24 * (abs_sum + fabs(was)) + (wide ? 0 : ulp * fabs(was + 0.5 * s) + tiny), "c", i * n + j);
		}
	if (pc0)
		device_free(&dev, pc0);
	device_free(&dev, pa), device_free(&dev, pb), device_free(&dev, pc), device_free(&again, pa2), device_free(&again, pb2), device_free(&again, pc2);
	free(a), free(b), free(c), free(c0);
}
END_TEST

/* --- rmsnorm --- */

static const int64_t row_shapes[][2] = { { 1, 1 }, { 1, 16 }, { 3, 17 }, { 5, 63 }, { 33, 1030 }, { 7, 4096 } };

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
	int64_t t = row_shapes[_i][0], c = row_shapes[_i][1], n = t * c, ld = c + 8;
	float *x = noise(n, 1, 1), *w = noise(c, 1, 3), *dy = noise(n, 1, 4), *dx0 = noise(n, 1, 5), *y, *dx;
	void *px = up(&dev, x, t, c, c), *pw = up_raw(&dev, w, (uint64_t)c * 4);
	void *py = up(&dev, NULL, t, c, ld), *pr = room(&dev, (uint64_t)t * 4), *pdy = up(&dev, dy, t, c, c), *pdx = up(&dev, dx0, t, c, ld);
	void *py2 = up(&again, NULL, t, c, ld), *px2 = up(&again, x, t, c, c), *pw2 = up_raw(&again, w, (uint64_t)c * 4);
	float eps = 1e-5f;

	dev.k.rmsnorm_fwd(&dev, py, ld, pr, px, pw, t, c, eps);
	again.k.rmsnorm_fwd(&again, py2, ld, NULL, px2, pw2, t, c, eps);
	same_bytes(&dev, py, &again, py2, act_bytes(t * ld));
	dev.k.rmsnorm_bwd(&dev, pdx, ld, pdy, px, pr, pw, t, c);
	y = down(&dev, py, t, c, ld);
	dx = down(&dev, pdx, t, c, ld);
	for (int64_t r = 0; r < t; r++) {
		double ss = 0;

		for (int64_t i = 0; i < c; i++)
			ss += (double)x[r * c + i] * (double)x[r * c + i];
		for (int64_t i = 0; i < c; i++) {
			int64_t k = r * c + i;
			double want = (double)x[k] / sqrt(ss / (double)c + (double)eps) * (double)w[i], h = 1e-5;

			near(y[k], want, (ulp + 1e-6) * (1e-3 + fabs(want)) + 1e-6, "y", k);
			if (c > 100 && i % 37)
				continue;
			want = (norm_loss(x + r * c, dy + r * c, w, c, (double)eps, i, h) - norm_loss(x + r * c, dy + r * c, w, c, (double)eps, i, -h)) / (2 * h);
			/* the difference itself is good to h^2 and to rounding / h */
			near(dx[k], (double)dx0[k] + want, 2e-5 * (1 + fabs(want) + fabs((double)dx0[k])) + ulp * fabs((double)dx0[k] + want), "dx", k);
		}
	}
	free(x), free(w), free(dy), free(dx), free(dx0), free(y);
	device_free(&dev, px), device_free(&dev, pw), device_free(&dev, py), device_free(&dev, pr);
	device_free(&dev, pdy), device_free(&dev, pdx), device_free(&again, py2), device_free(&again, px2), device_free(&again, pw2);
}
END_TEST

/* --- rotary --- */

START_TEST(test_rope)
{
	static const int sizes[][2] = { { 3, 10 }, { 5, 64 }, { 2, 128 } };
	enum { T = 7, P = 20 };
	int h_n = sizes[_i][0], d_n = sizes[_i][1], half = d_n / 2, w = h_n * d_n, ld = w + 8;
	float *x = noise(T * w, 1, 1), *c = xcalloc((size_t)(P * half), 4), *s = xcalloc((size_t)(P * half), 4), *y;
	int32_t pos[T] = { 0, 1, 2, 0, 5, 19, 3 };
	void *px = up(&dev, x, T, w, ld), *pc, *ps, *pp = up_raw(&dev, pos, sizeof(pos));

	for (int i = 0; i < P * half; i++) {
		c[i] = (float)cos(0.37 * i);
		s[i] = (float)sin(0.37 * i);
	}
	pc = up_raw(&dev, c, (uint64_t)(P * half) * 4);
	ps = up_raw(&dev, s, (uint64_t)(P * half) * 4);
	dev.k.rope(&dev, px, ld, pp, pc, ps, T, h_n, d_n, d_n, false);
	y = down(&dev, px, T, w, ld);
	for (int t = 0; t < T; t++)
		for (int h = 0; h < h_n; h++)
			for (int i = 0; i < half; i++) {
				const float *u = x + (t * h_n + h) * d_n, *v = y + (t * h_n + h) * d_n;
				double co = c[pos[t] * half + i], si = s[pos[t] * half + i], a = u[i], b = u[i + half], e = (3e-7 + ulp) * (fabs(a) + fabs(b)) + tiny;

				near(v[i], a * co - b * si, e, "lo", i);
				near(v[i + half], b * co + a * si, e, "hi", i);
			}
	free(y);
	dev.k.rope(&dev, px, ld, pp, pc, ps, T, h_n, d_n, d_n, true);
	y = down(&dev, px, T, w, ld);
	for (int i = 0; i < T * w; i++) {
		int other = i % d_n < half ? i + half : i - half; /* its pair, whose rounding turns back into it */

		near(y[i], x[i], (1e-6 + 3 * ulp) * (fabs((double)x[i]) + fabs((double)x[other])) + tiny, "there and back", i);
	}
	device_free(&dev, px), device_free(&dev, pc), device_free(&dev, ps), device_free(&dev, pp);
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
	static const int64_t sizes[][2] = { { 1, 1 }, { 3, 15 }, { 2, 4097 }, { 33, 640 } };
	int64_t t = sizes[_i][0], f = sizes[_i][1], ldg = 2 * f + 8, ldh = f + 16;
	float *gu = noise(t * 2 * f, 3, 1), *dh = noise(t * f, 1, 3), *h, *h2, *d;
	void *pg = up(&dev, NULL, 1, 1, 1), *ph = up(&dev, NULL, t, f, ldh), *ph2 = up(&dev, NULL, t, f, ldh), *pd = up(&dev, dh, t, f, f);

	gu[0] = -120; /* e^120 is no float */
	if (f > 4)
		gu[1] = 120, gu[2] = -87.5f, gu[3] = 88.5f;
	device_free(&dev, pg);
	pg = up(&dev, gu, t, 2 * f, ldg);
	dev.k.swiglu_fwd(&dev, ph, ldh, pg, ldg, t, f);
	dev.k.swiglu_bwd(&dev, pg, ldg, pd, ph2, ldh, t, f);
	same_bytes(&dev, ph, &dev, ph2, act_bytes(t * ldh));
	h = down(&dev, ph, t, f, ldh);
	h2 = down(&dev, ph2, t, f, ldh);
	d = down(&dev, pg, t, 2 * f, ldg);
	for (int64_t i = 0; i < t * f; i++) {
		int64_t at = i / f * 2 * f + i % f;
		double z = gu[at], v = gu[at + f], sig = 1 / (1 + exp(-z)), y = dh[i], want = swiglu(z, v);

		near(h[i], want, (1e-6 + ulp) * fmax(fabs(want), fabs(z * v) * 1e-3) + 1e-37 + tiny, "h", i);
		near(d[at + f], y * z * sig, (1e-6 + ulp) * (fabs(y * z * sig) + 1e-6) + tiny, "du", i);
		want = y * v * sig * (1 + z * (1 - sig));
		near(d[at], want, 2e-6 * (fabs(y * v) + 1e-6) + ulp * fabs(want) + tiny, "dg", i);
	}
	device_free(&dev, pg), device_free(&dev, ph), device_free(&dev, ph2), device_free(&dev, pd);
	free(gu), free(dh), free(h), free(h2), free(d);
}
END_TEST

/* --- cross-entropy --- */

struct loss_shape {
	int64_t n, v, segment, c;
};
static const struct loss_shape loss_shapes[] = { { 1, 1, 8, 8 }, { 3, 2, 8, 5 }, { 5, 37, 16, 24 }, { 2, 5000, 1024, 64 }, { 9, 4096, 4096, 40 }, { 3, 33001, 14336, 72 }, { 4, 301, 96, 1030 } };

struct loss_run { /* device memory */
	struct kn_xent x;
	void *z, *w, *loss, *scale;
};

/* Logits of some height in each segment, and a target far above them in the first row. */
static float *loss_logits(const struct loss_shape *s, const int32_t *target)
{
	float *z = noise(s->n * s->v, 4, 1);

	for (int64_t i = 1; i < s->n; i += 2)
		z[i * s->v + s->v - 1] = 40;
	z[target[0]] = 30;
	return z;
}

/* All segments, as the engine goes through them; z's rows are `segment` apart. */
static void loss_on(struct device *d, struct loss_run *r, const struct loss_shape *s, const float *z0, const float *w0, const int32_t *target, float scale, bool grad)
{
	float *part = xcalloc((size_t)(s->n * s->segment), sizeof(*part));

	r->x = (struct kn_xent){ .n = s->n, .c = s->c, .target = up_raw(d, target, (uint64_t)s->n * sizeof(*target)), .rows = room(d, (uint64_t)s->n * sizeof(*r->x.rows)),
		.acc = grad ? room(d, (uint64_t)(s->n * s->c) * sizeof(float)) : NULL, .dh = room(d, act_bytes(s->n * s->c)) };
	r->loss = room(d, (uint64_t)s->n * sizeof(double));
	r->w = up(d, w0, s->v, s->c, s->c);
	for (int64_t v = 0; v < s->v; v += s->segment) {
		int64_t rows = s->v - v < s->segment ? s->v - v : s->segment;
		const void *w = act_at(d, r->w, v * s->c);

		for (int64_t i = 0; i < s->n; i++)
			memcpy(part + i * rows, z0 + i * s->v + v, (size_t)rows * sizeof(*part));
		r->z = up(d, part, s->n, rows, s->segment);
		d->k.xent_segment(d, &r->x, r->z, s->segment, w, v, rows);
		if (grad)
			d->k.gemm(d, false, false, s->n, s->c, rows, 1, r->z, s->segment, w, s->c, v ? 1 : 0, NULL, r->x.acc, s->c, true);
		device_free(d, r->z);
	}
	r->scale = up_raw(d, &scale, sizeof(scale));
	d->k.xent_end(d, &r->x, r->loss, r->scale);
	free(part);
}

static void loss_free(struct device *d, struct loss_run *r)
{
	device_free(d, (void *)(uintptr_t)r->x.target), device_free(d, r->x.rows), device_free(d, r->x.dh), device_free(d, r->w), device_free(d, r->loss), device_free(d, r->scale);
	if (r->x.acc)
		device_free(d, r->x.acc);
}

/* One row's loss and gradient in fp64. p is within an activation's rounding, and the sum over it within fp32's; 1 - p of the
 * target has the others' relative error, however small it is. */
static void check_loss_row(const struct loss_shape *s, const float *z, const float *w, int32_t t, double loss, const float *dh, double scale)
{
	double max = -INFINITY, others = 0, all;

	for (int64_t v = 0; v < s->v; v++)
		max = fmax(max, (double)z[v]);
	for (int64_t v = 0; v < s->v; v++)
		others += v == t ? 0 : exp((double)z[v] - max);
	all = others + exp((double)z[t] - max);
	near(loss, log(all) + max - (double)z[t], 1e-6 * (1 + fabs(loss)), "loss", t);
	for (int64_t j = 0; j < s->c; j++) {
		double sum = 0, size = 0, own = others / all * (double)w[t * s->c + j], want;

		for (int64_t v = 0; v < s->v; v++) {
			double x = v == t ? 0 : exp((double)z[v] - max) / all * (double)w[v * s->c + j];

			sum += x;
			size += fabs(x);
		}
		want = scale * (sum - own);
		near(dh[j], want, scale * (size + fabs(own)) * (ulp + 2e-6 + (double)s->v * 0x1p-24) + ulp * fabs(want) + tiny + 1e-12, "dh", j);
	}
}

START_TEST(test_xent)
{
	const struct loss_shape *s = &loss_shapes[_i / 2];
	bool grad = _i % 2;
	float *z0, *w0 = noise(s->v * s->c, 1, 2), *dh;
	int32_t target[16];
	double loss[16];
	struct loss_run a, b;

	for (int64_t i = 0; i < s->n; i++)
		target[i] = (int32_t)((s->v / 2 + i * 7919) % s->v);
	z0 = loss_logits(s, target);
	loss_on(&dev, &a, s, z0, w0, target, 0.25f, grad);
	loss_on(&again, &b, s, z0, w0, target, 0.25f, grad);
	same_bytes(&dev, a.loss, &again, b.loss, (uint64_t)s->n * sizeof(double));
	same_bytes(&dev, a.x.dh, &again, b.x.dh, act_bytes(s->n * s->c));
	device_download(&dev, loss, a.loss, (uint64_t)s->n * sizeof(double));
	dh = down(&dev, a.x.dh, s->n, s->c, s->c);
	for (int64_t i = 0; grad && i < s->n; i++)
		check_loss_row(s, z0 + i * s->v, w0, target[i], loss[i], dh + i * s->c, 0.25);
	loss_free(&dev, &a), loss_free(&again, &b);
	free(dh), free(z0), free(w0);
}
END_TEST

/* With and without the gradient the loss has the same bits; what is not finite, target or not, in any segment, spoils its row alone. */
START_TEST(test_xent_not_finite)
{
	static const struct loss_shape s = { 4, 20, 8, 8 };
	static const int32_t target[4] = { 0, 19, 9, 3 };
	static const float bad[4] = { NAN, INFINITY, 0, NAN };
	static const int64_t at[4] = { 17, 19, 0, 1 };
	float *z = noise(s.n * s.v, 1, 1), *w = noise(s.v * s.c, 1, 2), *dh;
	double loss[4], alone[4];
	struct loss_run a, b;

	for (int64_t i = 0; i < s.n; i++)
		z[i * s.v + at[i]] = bad[i];
	loss_on(&dev, &a, &s, z, w, target, 1, true);
	loss_on(&dev, &b, &s, z, w, target, 1, false);
	device_download(&dev, loss, a.loss, sizeof(loss));
	device_download(&dev, alone, b.loss, sizeof(alone));
	dh = down(&dev, a.x.dh, s.n, s.c, s.c);
	for (int64_t i = 0; i < s.n; i++) {
		ck_assert_int_eq(isfinite(loss[i]) != 0, i == 2);
		ck_assert_int_eq(isfinite(dh[i * s.c]) != 0, i == 2);
	}
	ck_assert(loss[2] == alone[2]);
	loss_free(&dev, &a), loss_free(&dev, &b);
	free(dh), free(z), free(w);
}
END_TEST

/* --- attention --- */

struct shape {
	int64_t nh, nkv, d, window;
	int32_t start[6];
	int64_t n_seqs;
	double cap; /* 0: none */
};
static const struct shape attn_shapes[] = {
	{ 1, 1, 2, 0, { 0, 1 }, 1 },
	{ 4, 2, 8, 0, { 0, 3, 4, 21 }, 3 },
	{ 6, 2, 10, 0, { 0, 64, 129 }, 2 },
	{ 3, 1, 16, 5, { 0, 70, 75 }, 2 },
	{ 2, 2, 64, 0, { 0, 200 }, 1 },
	{ 2, 1, 6, 64, { 0, 131, 300 }, 2 },
	{ 4, 1, 128, 0, { 0, 1, 130, 386 }, 3 },
	{ 8, 2, 64, 100, { 0, 257, 259, 300 }, 3 },
	{ 2, 1, 80, 0, { 0, 129 }, 1 },
	{ 3, 3, 96, 0, { 0, 65, 190 }, 2 },
	{ 2, 1, 256, 0, { 0, 150 }, 1 },
	{ 4, 2, 64, 0, { 0, 200, 263 }, 2, 0.7 },
	{ 4, 1, 128, 100, { 0, 300 }, 1, 1.5 },
	{ 2, 1, 80, 0, { 0, 129 }, 1, 1 },
	{ 3, 1, 10, 0, { 0, 70 }, 1, 2 },
};

struct ref { /* fp64 */
	double *o, *lse, *dq, *dk, *dv;
	double *e_o, *e_dq, *e_dk, *e_dv; /* sums of the terms' sizes: what one unit of rounding in each term can do */
	double score;                     /* largest absolute score */
};

static double *cleared(int64_t n)
{
	return xcalloc((size_t)n + 1, sizeof(double));
}

static void ref_init(struct ref *r, int64_t nq, int64_t nk, int64_t n_lse)
{
	*r = (struct ref){ cleared(nq), cleared(n_lse), cleared(nq), cleared(nk), cleared(nk), cleared(nq), cleared(nq), cleared(nk), cleared(nk), 0 };
}

static void ref_drop(struct ref *r)
{
	double *all[] = { r->o, r->lse, r->dq, r->dk, r->dv, r->e_o, r->e_dq, r->e_dk, r->e_dv };

	for (int i = 0; i < 9; i++)
		free(all[i]);
}

/* One query of one head: rows of q, o, d_o at qi; keys j0..i at kj. */
struct row_ref {
	const struct shape *s;
	const float *q, *k, *v, *d_o;
	struct ref *r;
	double *p, *slope; /* slope: what a score's cap leaves of its gradient */
};

static void row_fwd(const struct row_ref *x, int64_t qi, int64_t i, int64_t j0, int64_t kh, int64_t h)
{
	const struct shape *s = x->s;
	int64_t wk = s->nkv * s->d;
	double max = -INFINITY, sum = 0, *p = x->p;

	for (int64_t j = j0; j <= i; j++) {
		p[j] = 0;
		for (int64_t c = 0; c < s->d; c++)
			p[j] += (double)x->q[qi + c] * (double)x->k[j * wk + kh * s->d + c];
		p[j] /= sqrt((double)s->d);
		x->slope[j] = 1;
		if (s->cap > 0) {
			p[j] = s->cap * tanh(p[j] / s->cap);
			x->slope[j] = 1 - p[j] * p[j] / (s->cap * s->cap);
		}
		max = fmax(max, p[j]);
		x->r->score = fmax(x->r->score, fabs(p[j]));
	}
	for (int64_t j = j0; j <= i; j++)
		sum += exp(p[j] - max);
	x->r->lse[i * s->nh + h] = max + log(sum);
	for (int64_t j = j0; j <= i; j++) {
		p[j] = exp(p[j] - max) / sum;
		for (int64_t c = 0; c < s->d; c++) {
			double t = p[j] * (double)x->v[j * wk + kh * s->d + c];

			x->r->o[qi + c] += t;
			x->r->e_o[qi + c] += fabs(t);
		}
	}
}

static void row_bwd(const struct row_ref *x, int64_t qi, int64_t i, int64_t j0, int64_t kh)
{
	const struct shape *s = x->s;
	int64_t wk = s->nkv * s->d;
	double dd = 0, e_dd = 0, *p = x->p, scale = 1 / sqrt((double)s->d);

	for (int64_t c = 0; c < s->d; c++) {
		dd += x->r->o[qi + c] * (double)x->d_o[qi + c];
		e_dd += fabs(x->r->o[qi + c] * (double)x->d_o[qi + c]);
	}
	for (int64_t j = j0; j <= i; j++) {
		double dp = 0, ds, e_ds;

		for (int64_t c = 0; c < s->d; c++)
			dp += (double)x->d_o[qi + c] * (double)x->v[j * wk + kh * s->d + c];
		ds = p[j] * (dp - dd) * scale * x->slope[j];
		/* dS is rounded itself, P before it, and o before its sum with d_o */
		e_ds = p[j] * (fabs(dp - dd) + e_dd) * scale * x->slope[j];
		for (int64_t c = 0; c < s->d; c++) {
			int64_t kj = j * wk + kh * s->d + c;

			x->r->dv[kj] += p[j] * (double)x->d_o[qi + c];
			x->r->dq[qi + c] += ds * (double)x->k[kj];
			x->r->dk[kj] += ds * (double)x->q[qi + c];
			x->r->e_dv[kj] += fabs(p[j] * (double)x->d_o[qi + c]);
			x->r->e_dq[qi + c] += e_ds * fabs((double)x->k[kj]);
			x->r->e_dk[kj] += e_ds * fabs((double)x->q[qi + c]);
		}
	}
}

static void attn_reference(const struct shape *s, const float *q, const float *k, const float *v, const float *d_o, struct ref *r)
{
	int64_t nt = s->start[s->n_seqs], wq = s->nh * s->d;
	struct row_ref x = { s, q, k, v, d_o, r, cleared(nt), cleared(nt) };

	ref_init(r, nt * wq, nt * s->nkv * s->d, nt * s->nh);
	for (int64_t b = 0; b < s->n_seqs; b++)
		for (int64_t h = 0; h < s->nh; h++)
			for (int64_t i = s->start[b]; i < s->start[b + 1]; i++) {
				int64_t kh = h / (s->nh / s->nkv), j0 = s->window && i - s->window + 1 > s->start[b] ? i - s->window + 1 : s->start[b];

				row_fwd(&x, i * wq + h * s->d, i, j0, kh, h);
				row_bwd(&x, i * wq + h * s->d, i, j0, kh);
			}
	free(x.p);
	free(x.slope);
}

/* fp32: the header's bound. 16 bits: P, dS and o are rounded before their products, each term of a sum by
 * half a unit; sizes NULL: none of that. And the result itself is rounded. */
static void all_near(const float *x, const double *want, const double *sizes, int64_t n, double score, const char *what)
{
	double max = 0;

	for (int64_t i = 0; i < n; i++)
		max = fmax(max, fabs(want[i]));
	for (int64_t i = 0; i < n; i++)
		near(x[i], want[i], (2e-6 + score * 0x1p-23) * max + (sizes ? ulp * (sizes[i] + fabs(want[i])) + tiny : 0) + 1e-30, what, i);
}

/* Everything of one shape on one device: q, k, v are slices of one array, as the engine has them. */
struct on_device {
	struct device *d;
	struct kn_attn_shape s;
	void *qkv, *o, *lse, *d_o, *d_qkv, *start, *tiles;
	int64_t nt, wq, wk, w, ld, ldo;
};

static void attn_put(struct on_device *x, struct device *d, const struct shape *s, const float *q, const float *k, const float *v, const float *d_o)
{
	int64_t max = 1, nt = s->start[s->n_seqs], wq = s->nh * s->d, wk = s->nkv * s->d;
	float *all = xcalloc((size_t)(nt * (wq + 2 * wk)), sizeof(*all));
	int32_t tiles[64];

	x->d = d;
	x->nt = nt, x->wq = wq, x->wk = wk;
	x->w = wq + 2 * wk, x->ld = x->w + 16, x->ldo = wq + 16;
	for (int64_t t = 0; t < nt; t++) {
		memcpy(all + t * x->w, q + t * wq, (size_t)wq * 4);
		memcpy(all + t * x->w + wq, k + t * wk, (size_t)wk * 4);
		memcpy(all + t * x->w + wq + wk, v + t * wk, (size_t)wk * 4);
	}
	for (int64_t i = 0; i < s->n_seqs; i++)
		max = s->start[i + 1] - s->start[i] > max ? s->start[i + 1] - s->start[i] : max;
	x->qkv = up(d, all, nt, x->w, x->ld);
	x->o = up(d, NULL, nt, wq, x->ldo);
	x->lse = room(d, (uint64_t)(nt * s->nh) * 4);
	x->d_o = up(d, d_o, nt, wq, x->ldo);
	x->d_qkv = up(d, NULL, nt, x->w, x->ld);
	x->start = up_raw(d, s->start, sizeof(s->start));
	x->s = (struct kn_attn_shape){ .n_heads = s->nh, .n_kv = s->nkv, .head_dim = s->d, .ldq = x->ld, .ldk = x->ld, .ldv = x->ld, .ldo = x->ldo,
		.window = s->window, .scale = (float)(1 / sqrt((double)s->d)), .softcap = (float)s->cap, .n_seqs = s->n_seqs,
		.n_tokens = nt, .seq_start = s->start, .seq_start_dev = x->start };
	x->s.n_tiles = attn_tiles(s->start, s->n_seqs, tiles);
	x->tiles = up_raw(d, tiles, sizeof(tiles));
	x->s.tiles = x->tiles;
	x->s.scratch = room(d, d->k.attn_scratch(d, nt, max, s->nh, s->d, true));
	x->s.decode_scratch = room(d, d->k.decode_scratch(d, s->n_seqs, max + 3, s->nh, s->d));
	free(all);
}

static void attn_run(struct on_device *x)
{
	void *k = act_at(x->d, x->qkv, x->wq), *v = act_at(x->d, k, x->wk), *dk = act_at(x->d, x->d_qkv, x->wq), *dv = act_at(x->d, dk, x->wk);

	x->d->k.attn_fwd(x->d, &x->s, x->qkv, k, v, x->o, x->lse);
	x->d->k.attn_bwd(x->d, &x->s, x->qkv, k, v, x->o, x->lse, x->d_o, x->d_qkv, dk, dv);
}

static void attn_drop(struct on_device *x)
{
	void *all[] = { x->qkv, x->o, x->lse, x->d_o, x->d_qkv, x->start, x->tiles, x->s.scratch, x->s.decode_scratch };

	for (int i = 0; i < 9; i++)
		device_free(x->d, all[i]);
}

static void slice_near(const float *all, int64_t ld, int64_t at, int64_t w, int64_t t, const double *want, const double *sizes, double score,
                       const char *what)
{
	float *x = xcalloc((size_t)(t * w), sizeof(*x));

	for (int64_t i = 0; i < t; i++)
		memcpy(x + i * w, all + i * ld + at, (size_t)w * 4);
	all_near(x, want, sizes, t * w, score, what);
	free(x);
}

/* Decoding the last token of each sequence against a cache gives the same row. */
static void decode_near(struct on_device *x, const struct shape *s, const struct ref *r)
{
	int64_t cap = x->nt + 3;
	struct kn_kv_cache c = { NULL, NULL, cap * x->wk, x->wk };
	struct kn_attn_shape one = x->s;
	int32_t slot[512], pos[512], last_slot[6], last_len[6];
	int64_t longest = 0;
	void *ps, *pp, *q, *o;
	float *got;

	c.k = up(x->d, NULL, s->n_seqs * cap, x->wk, x->wk);
	c.v = up(x->d, NULL, s->n_seqs * cap, x->wk, x->wk);
	for (int64_t b = 0; b < s->n_seqs; b++)
		for (int64_t t = s->start[b]; t < s->start[b + 1]; t++) {
			last_slot[b] = slot[t] = (int32_t)(s->n_seqs - 1 - b);
			pos[t] = (int32_t)(t - s->start[b]);
			last_len[b] = pos[t] + 1;
			longest = pos[t] + 1 > longest ? pos[t] + 1 : longest;
		}
	ps = up_raw(x->d, slot, sizeof(slot));
	pp = up_raw(x->d, pos, sizeof(pos));
	x->d->k.kv_append(x->d, &x->s, &c, act_at(x->d, x->qkv, x->wq), act_at(x->d, x->qkv, x->wq + x->wk), ps, pp, x->nt);
	q = up(x->d, NULL, s->n_seqs, x->ld, x->ld);
	for (int64_t b = 0; b < s->n_seqs; b++)
		device_copy(x->d, act_at(x->d, q, b * x->ld), act_at(x->d, x->qkv, (s->start[b + 1] - 1) * x->ld), act_bytes(x->ld));
	device_upload(x->d, ps, last_slot, sizeof(last_slot));
	device_upload(x->d, pp, last_len, sizeof(last_len));
	o = up(x->d, NULL, s->n_seqs, x->wq, x->ldo);
	one.n_tokens = one.n_seqs = s->n_seqs;
	x->d->k.attn_decode(x->d, &one, q, &c, ps, pp, longest, o);
	got = down(x->d, o, s->n_seqs, x->wq, x->ldo);
	for (int64_t b = 0; b < s->n_seqs; b++)
		all_near(got + b * x->wq, r->o + (s->start[b + 1] - 1) * x->wq, r->e_o + (s->start[b + 1] - 1) * x->wq, x->wq, r->score, "decoded");
	device_free(x->d, c.k), device_free(x->d, c.v), device_free(x->d, ps), device_free(x->d, pp), device_free(x->d, q), device_free(x->d, o);
	free(got);
}

START_TEST(test_attention)
{
	const struct shape *s = &attn_shapes[_i];
	int64_t nt = s->start[s->n_seqs], nq = nt * s->nh * s->d, nk = nt * s->nkv * s->d;
	float *q = noise(nq, 1, 1), *k = noise(nk, 1, 2), *v = noise(nk, 1, 3), *d_o = noise(nq, 1, 4), *o, *lse, *d_qkv;
	struct on_device x, x2;
	struct ref r;

	attn_reference(s, q, k, v, d_o, &r);
	attn_put(&x, &dev, s, q, k, v, d_o);
	attn_put(&x2, &again, s, q, k, v, d_o);
	attn_run(&x);
	attn_run(&x2);
	same_bytes(&dev, x.o, &again, x2.o, act_bytes(nt * x.ldo));
	same_bytes(&dev, x.d_qkv, &again, x2.d_qkv, act_bytes(nt * x.ld));
	o = down(&dev, x.o, nt, x.wq, x.ldo);
	lse = down_f32(&dev, x.lse, nt * s->nh);
	d_qkv = down(&dev, x.d_qkv, nt, x.w, x.ld);
	all_near(o, r.o, r.e_o, nq, r.score, "o");
	all_near(lse, r.lse, NULL, nt * s->nh, r.score, "lse");
	slice_near(d_qkv, x.w, 0, x.wq, nt, r.dq, r.e_dq, r.score, "dq");
	slice_near(d_qkv, x.w, x.wq, x.wk, nt, r.dk, r.e_dk, r.score, "dk");
	slice_near(d_qkv, x.w, x.wq + x.wk, x.wk, nt, r.dv, r.e_dv, r.score, "dv");
	decode_near(&x, s, &r);
	attn_drop(&x);
	attn_drop(&x2);
	free(q), free(k), free(v), free(d_o), free(o), free(lse), free(d_qkv);
	ref_drop(&r);
}
END_TEST

/* --- dropout --- */

START_TEST(test_dropout)
{
	enum { T = 200, C = 103, LD = 112 };
	float *x = xcalloc(T * C, 4), *y, *z;
	int32_t rec[T], pos[T], back_rec[T], back_pos[T];
	static const uint64_t seed = 0x123456789abcdefULL;
	struct kn_dropout_key key = { up_raw(&dev, &seed, sizeof(seed)), 5, 0.3f }, host = { &seed, 5, 0.3f };
	double up_by = (double)(1.0f / (1.0f - 0.3f));
	void *px, *py = up(&dev, NULL, T, C, LD), *pz, *pr, *pp, *pbr, *pbp;
	int64_t kept = 0;

	for (int t = 0; t < T; t++) {
		rec[t] = t / 20, pos[t] = t % 20;
		back_rec[T - 1 - t] = rec[t], back_pos[T - 1 - t] = pos[t];
		for (int c = 0; c < C; c++)
			x[t * C + c] = 2;
	}
	px = up(&dev, x, T, C, LD);
	pz = up(&dev, NULL, T, C, C);
	pr = up_raw(&dev, rec, sizeof(rec)), pp = up_raw(&dev, pos, sizeof(pos));
	pbr = up_raw(&dev, back_rec, sizeof(rec)), pbp = up_raw(&dev, back_pos, sizeof(pos));
	dev.k.dropout(&dev, py, LD, px, LD, pr, pp, T, C, key, false);
	y = down(&dev, py, T, C, LD);
	for (int i = 0; i < T * C; i++) {
		ck_assert(y[i] == 0 || fabs((double)y[i] - 2 * up_by) <= 2 * ulp * up_by);
		kept += y[i] != 0;
	}
	/* binomial: five standard deviations */
	ck_assert_int_le(llabs(kept - (int64_t)(0.7 * T * C)), (int64_t)(5 * sqrt(0.21 * T * C)));
	/* the CPU's mask, element by element */
	if (dev.kind != DEVICE_CPU) {
		kn_dropout_cpu(&(struct device){ .threads = 1 }, x, C, x, C, rec, pos, T, C, host, false);
		for (int i = 0; i < T * C; i++)
			ck_assert((x[i] == 0) == (y[i] == 0));
	}
	/* the order of tokens is nothing to it */
	dev.k.dropout(&dev, pz, C, px, LD, pbr, pbp, T, C, key, false);
	z = down(&dev, pz, T, C, C);
	for (int t = 0; t < T; t++)
		ck_assert_mem_eq(y + t * C, z + (T - 1 - t) * C, C * sizeof(float));
	free(z);
	dev.k.dropout(&dev, pz, C, px, LD, pbr, pbp, T, C, key, true);
	z = down(&dev, pz, T, C, C);
	for (int t = 0; t < T * C; t++)
		ck_assert(z[t] == 0 || fabs((double)z[t] - 2 * 2 / 0.7) < 1e-5 + 8 * ulp);
	free(z);
	key.tensor++;
	dev.k.dropout(&dev, pz, C, px, LD, pr, pp, T, C, key, false);
	z = down(&dev, pz, T, C, C);
	ck_assert(memcmp(y, z, T * C * sizeof(float)) != 0);
	device_free(&dev, px), device_free(&dev, py), device_free(&dev, pz), device_free(&dev, pr), device_free(&dev, pp), device_free(&dev, pbr);
	device_free(&dev, pbp), device_free(&dev, (void *)(uintptr_t)key.seed_step);
	free(x), free(y), free(z);
}
END_TEST

/* --- NF4 to dense rows --- */

START_TEST(test_nf4_rows)
{
	static const int64_t shapes[][2] = { { 1, 1 }, { 3, 40 }, { 5, 33 }, { 64, 64 }, { 20, 1024 }, { 7, 4096 } };
	int64_t rows = shapes[_i][0], cols = shapes[_i][1], n = rows * cols, ld = cols + 8;
	float *x = noise(n, 1, 1), *absmax = xcalloc((size_t)nf4_blocks(n), 4), *want = xcalloc((size_t)n, 4), *got;
	struct nf4 q = { n, xcalloc((size_t)n / 2 + 1, 1), xcalloc((size_t)nf4_blocks(n), 1), xcalloc((size_t)nf4_blocks2(n), 4), 0, false }, on, one;
	void *py = up(&dev, NULL, rows, cols, ld), *way;
	struct err e = ERR_INIT;

	nf4_quantize(x, &q, absmax);
	on = q;
	on.codes = room(&dev, (uint64_t)(n + 1) / 2);
	on.qabsmax = room(&dev, (uint64_t)nf4_blocks(n));
	on.absmax2 = room(&dev, (uint64_t)nf4_blocks2(n) * 4);
	way = room(&dev, nf4_quant_room(n));
	ck_assert_int_eq(dev.k.nf4_quant(&dev, &on, x, DT_F32, way, &e), 0);
	/* the mean's order is the device's own: one unit in the last place; then all else is the CPU's to the bit */
	near(on.offset, q.offset, 1.2e-7 * fabs((double)q.offset), "offset", 0);
	q.offset = on.offset;
	nf4_quantize_absmax(absmax, nf4_blocks(n), q.offset, q.qabsmax, q.absmax2);
	same_raw(&dev, on.codes, q.codes, (uint64_t)(n + 1) / 2);
	same_raw(&dev, on.qabsmax, q.qabsmax, (uint64_t)nf4_blocks(n));
	same_raw(&dev, on.absmax2, q.absmax2, (uint64_t)nf4_blocks2(n) * 4);
	/* then with one level of scales, each for itself */
	one = on;
	one.plain = true;
	one.qabsmax = NULL;
	one.absmax2 = up_raw(&dev, absmax, (uint64_t)nf4_blocks(n) * 4);
	for (int plain = 0; plain < 2; plain++) {
		if (!plain)
			kn_nf4_dequant_cpu(&(struct device){ .threads = 1 }, want, cols, &q, rows, cols);
		for (int64_t i = 0; i < n && plain; i++)
			want[i] = nf4_levels[i % 2 ? q.codes[i / 2] & 15 : q.codes[i / 2] >> 4] * absmax[i / NF4_BLOCK];
		dev.k.nf4_dequant(&dev, py, ld, plain ? &one : &on, rows, cols);
		got = down(&dev, py, rows, cols, ld);
		if (dev.act != DT_F32) {
			uint16_t *h = xcalloc((size_t)n, 2);

			from_f32(dev.act, want, h, (size_t)n);
			to_f32(dev.act, h, want, (size_t)n);
			free(h);
		}
		for (int64_t i = 0; i < n; i++)
			ck_assert_msg(got[i] == want[i], "element %lld: %g, not %g", (long long)i, (double)got[i], (double)want[i]);
		free(got);
	}
	device_free(&dev, one.absmax2);
	device_free(&dev, py), device_free(&dev, on.codes), device_free(&dev, on.qabsmax), device_free(&dev, on.absmax2), device_free(&dev, way);
	free(x), free(absmax), free(want), free(q.codes), free(q.qabsmax), free(q.absmax2);
}
END_TEST

/* --- rows, bias, conversion, sums --- */

START_TEST(test_rows)
{
	enum { N = 9, C = 40, LD = 48 };
	float *x = noise(N * C, 1, 1), *y, bias[C];
	int32_t idx[3] = { 7, 1, 4 };
	void *px = up(&dev, x, N, C, C), *py = up(&dev, NULL, 3, C, C), *pi = up_raw(&dev, idx, sizeof(idx)), *pb, *pc = up(&dev, NULL, N, C, LD);

	for (int i = 0; i < C; i++)
		bias[i] = (float)i / 4;
	pb = up_raw(&dev, bias, sizeof(bias));
	dev.k.gather_rows(&dev, py, px, pi, 3, C);
	y = down(&dev, py, 3, C, C);
	for (int i = 0; i < 3; i++)
		ck_assert_mem_eq(y + i * C, x + idx[i] * C, C * 4);
	free(y);
	dev.k.copy_rows(&dev, pc, LD, px, C, N, C);
	y = down(&dev, pc, N, C, LD);
	ck_assert_mem_eq(y, x, N * C * 4);
	free(y);
	dev.k.bias_add(&dev, pc, LD, pb, N, C);
	y = down(&dev, pc, N, C, LD);
	for (int i = 0; i < N * C; i++)
		near(y[i], (double)x[i] + (double)bias[i % C], (ulp + 1e-7) * fabs((double)x[i] + (double)bias[i % C]) + tiny, "biased", i);
	free(y);
	device_zero(&dev, px, act_bytes(N * C));
	dev.k.scatter_rows(&dev, px, C, py, pi, 3, C);
	y = down(&dev, px, N, C, C);
	for (int r = 0; r < N; r++)
		for (int j = 0; j < C; j++)
			ck_assert(y[r * C + j] == (r == 7 || r == 1 || r == 4 ? x[r * C + j] : 0));
	device_free(&dev, px), device_free(&dev, py), device_free(&dev, pi), device_free(&dev, pb), device_free(&dev, pc);
	free(x), free(y);
}
END_TEST

START_TEST(test_convert)
{
	enum { ROWS = 5, COLS = 33, LD = 40, N = ROWS * COLS };
	static const enum dtype types[] = { DT_F32, DT_BF16, DT_F16 };
	float *x = noise(N, 1, 1), *want = xcalloc(N, 4), *y, *z;
	char raw[N * 4];
	uint16_t h[N];
	int32_t ids[3] = { 4, 0, 4 };
	void *pr, *py = up(&dev, NULL, ROWS, COLS, LD), *pi = up_raw(&dev, ids, sizeof(ids)), *pe = up(&dev, NULL, 3, COLS, COLS);

	from_f32(types[_i], x, raw, N);
	to_f32(types[_i], raw, want, N);
	if (dev.act != DT_F32) {
		from_f32(dev.act, want, h, N);
		to_f32(dev.act, h, want, N);
	}
	pr = up_raw(&dev, raw, N * dtype_bytes(types[_i]));
	dev.k.convert(&dev, py, LD, pr, types[_i], ROWS, COLS);
	y = down(&dev, py, ROWS, COLS, LD);
	ck_assert_mem_eq(y, want, N * 4);
	dev.k.embed_fwd(&dev, pe, pi, pr, types[_i], 3, COLS);
	z = down(&dev, pe, 3, COLS, COLS);
	for (int i = 0; i < 3; i++)
		ck_assert_mem_eq(z + i * COLS, want + ids[i] * COLS, COLS * 4);
	device_free(&dev, pr), device_free(&dev, py), device_free(&dev, pi), device_free(&dev, pe);
	free(x), free(want), free(y), free(z);
}
END_TEST

START_TEST(test_sums)
{
	static const int64_t sizes[] = { 1, 4096, 100003, 2000000 };
	int64_t n = sizes[_i];
	float *x = xcalloc((size_t)n, 4);
	double *y = xcalloc((size_t)n, 8), squares = 0, sum = 3, got[2] = { -1, 3 };
	void *px, *py, *pg = up_raw(&dev, got, sizeof(got));

	for (int64_t i = 0; i < n; i++) {
		x[i] = (float)rng_normal(3, 1, (uint64_t)i) * 1e19f; /* beyond fp32's range */
		y[i] = rng_normal(3, 2, (uint64_t)i);
		squares += (double)x[i] * (double)x[i];
		sum += y[i];
	}
	px = up_raw(&dev, x, (uint64_t)n * 4);
	py = up_raw(&dev, y, (uint64_t)n * 8);
	dev.k.sum_squares(&dev, px, n, pg);
	dev.k.sum(&dev, py, n, (double *)pg + 1);
	device_download(&dev, got, pg, sizeof(got));
	must_sync(&dev);
	ck_assert_double_eq_tol(got[0] / squares, 1, 1e-12);
	ck_assert_double_eq_tol(got[1], sum, 1e-9 * (double)n);
	device_free(&dev, px), device_free(&dev, py), device_free(&dev, pg);
	free(x), free(y);
}
END_TEST

static void add(TCase *t)
{
	tcase_add_loop_test(t, test_gemm, 0, 8 * (int)(sizeof(gemm_shapes) / sizeof(*gemm_shapes)));
	tcase_add_loop_test(t, test_rmsnorm, 0, 6);
	tcase_add_loop_test(t, test_rope, 0, 3);
	tcase_add_loop_test(t, test_swiglu, 0, 4);
	tcase_add_loop_test(t, test_xent, 0, 2 * (int)(sizeof(loss_shapes) / sizeof(*loss_shapes)));
	tcase_add_test(t, test_xent_not_finite);
	tcase_add_loop_test(t, test_attention, 0, (int)(sizeof(attn_shapes) / sizeof(*attn_shapes)));
	tcase_add_test(t, test_dropout);
	tcase_add_loop_test(t, test_nf4_rows, 0, 6);
	tcase_add_test(t, test_rows);
	tcase_add_loop_test(t, test_convert, 0, 3);
	tcase_add_loop_test(t, test_sums, 0, 4);
}

int main(void)
{
	return run_suite("kn_ops", add);
}
