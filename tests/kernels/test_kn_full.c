/* What training the base's weights needs of a device, against fp64, one thread against three: sums of columns, the embedding's gradient, the loss with whole
 * rows of logits, sums of squares, products that become gradients of weights, and AdamW over weights in two halves. */
#include "arrays.h"

/* --- sums of columns: a norm's weights, a bias --- */

static const int64_t col_shapes[][2] = { { 1, 1 }, { 3, 5 }, { 127, 40 }, { 128, 256 }, { 130, 300 }, { 1000, 2048 } };

START_TEST(test_col_sums)
{
	int64_t t = col_shapes[_i / 2][0], c = col_shapes[_i / 2][1], lda = c + 8, ldb = c + 16;
	bool norm = _i % 2;
	float *a = noise(t * c, 1, 1), *b = noise(t * c, 1, 2), *s = xcalloc((size_t)t, sizeof(*s)), *start = noise(c, 1, 3), *got;
	struct device *on[2] = { &dev, &again };
	void *out[2];

	for (int64_t i = 0; i < t; i++)
		s[i] = (float)(0.5 + rng_unit(1, 2, (uint64_t)i));
	for (int k = 0; k < 2; k++) {
		void *pa = up(on[k], a, t, c, lda), *pb = up(on[k], b, t, c, ldb), *ps = up_raw(on[k], s, (uint64_t)t * 4), *scratch = room(on[k], (uint64_t)(COL_PARTS * c) * 4);

		out[k] = up_raw(on[k], start, (uint64_t)c * 4);
		on[k]->k.col_sums(on[k], out[k], pa, lda, norm ? pb : NULL, ldb, norm ? ps : NULL, t, c, scratch);
		must_sync(on[k]);
		device_free(on[k], pa), device_free(on[k], pb), device_free(on[k], ps), device_free(on[k], scratch);
	}
	same_bytes(&dev, out[0], &again, out[1], (uint64_t)c * 4);
	got = down_f32(&dev, out[0], c);
	for (int64_t j = 0; j < c; j++) {
		double want = 0, size = fabs((double)start[j]);

		for (int64_t i = 0; i < t; i++) {
			double x = (double)a[i * c + j] * (norm ? (double)b[i * c + j] * (double)s[i] : 1);

			want += x;
			size += fabs(x);
		}
		near(got[j], want + (double)start[j], ((double)t / COL_PARTS + COL_PARTS + 3) * 0x1p-24 * size, "sum", j);
	}
	device_free(&dev, out[0]), device_free(&again, out[1]);
	free(a), free(b), free(s), free(start), free(got);
}
END_TEST

/* --- the embedding's gradient --- */

static const struct {
	int64_t t, c, v;
} embed_shapes[] = { { 1, 1, 1 }, { 7, 5, 3 }, { 40, 64, 500 }, { 300, 257, 2 }, { 513, 300, 97 } };

START_TEST(test_embed_bwd)
{
	int64_t t = embed_shapes[_i].t, c = embed_shapes[_i].c, v = embed_shapes[_i].v, ld = c + 8, n = 0;
	float *dx = noise(t * c, 1, 1), *start = noise(v * c, 1, 2), *got;
	int32_t *ids = xcalloc((size_t)t, 4), *by_id = xcalloc((size_t)t, 4), *run = xcalloc((size_t)t + 1, 4);
	struct device *on[2] = { &dev, &again };
	double *want = xcalloc((size_t)(v * c), 8), *size = xcalloc((size_t)(v * c), 8);
	void *grad[2];

	for (int64_t i = 0; i < t; i++)
		ids[i] = (int32_t)(rng_u64(4, 4, (uint64_t)i) % (uint64_t)v);
	for (int32_t k = 0, runs = 0; k < (int32_t)v || runs <= (int32_t)t; k++) {
		if (k >= (int32_t)v) {
			run[runs++] = (int32_t)t;
			continue;
		}
		for (int32_t i = 0, first = 1; i < (int32_t)t; i++)
			if (ids[i] == k) {
				if (first)
					run[runs++] = (int32_t)n;
				first = 0;
				by_id[n++] = i;
			}
	}
	for (int k = 0; k < 2; k++) {
		void *pdx = up(on[k], dx, t, c, ld), *pi = up_raw(on[k], ids, (uint64_t)t * 4), *pb = up_raw(on[k], by_id, (uint64_t)t * 4), *pr = up_raw(on[k], run, (uint64_t)(t + 1) * 4);

		grad[k] = up_raw(on[k], start, (uint64_t)(v * c) * 4);
		on[k]->k.embed_bwd(on[k], grad[k], pi, pb, pr, pdx, ld, t, c);
		must_sync(on[k]);
		device_free(on[k], pdx), device_free(on[k], pi), device_free(on[k], pb), device_free(on[k], pr);
	}
	same_bytes(&dev, grad[0], &again, grad[1], (uint64_t)(v * c) * 4);
	got = down_f32(&dev, grad[0], v * c);
	for (int64_t i = 0; i < v * c; i++) {
		want[i] = (double)start[i];
		size[i] = fabs(want[i]);
	}
	for (int64_t i = 0; i < t; i++)
		for (int64_t j = 0; j < c; j++) {
			want[ids[i] * c + j] += (double)dx[i * c + j];
			size[ids[i] * c + j] += fabs((double)dx[i * c + j]);
		}
	for (int64_t i = 0; i < v * c; i++)
		near(got[i], want[i], (double)(t + 1) * 0x1p-24 * size[i], "gradient", i);
	device_free(&dev, grad[0]), device_free(&again, grad[1]);
	free(dx), free(start), free(got), free(ids), free(by_id), free(run), free(want), free(size);
}
END_TEST

/* --- the loss of whole rows --- */

static const int64_t loss_shapes[][2] = { { 1, 2 }, { 3, 7 }, { 5, 512 }, { 4, 5000 }, { 9, 32003 } };

START_TEST(test_xent_whole)
{
	int64_t n = loss_shapes[_i][0], v = loss_shapes[_i][1], ld = (v + 63) / 64 * 64;
	float *z = noise(n * v, 3, 1), scale = 0.25f, *got;
	double loss[16], *pl[2];
	int32_t target[16];
	struct device *on[2] = { &dev, &again };
	void *pz[2];

	for (int64_t i = 0; i < n; i++) {
		target[i] = (int32_t)((v / 2 + i * 7919) % v);
		if (i % 2) /* well predicted: the others are all that the gradient is made of */
			z[i * v + target[i]] = 20;
	}
	for (int k = 0; k < 2; k++) {
		void *pt = up_raw(on[k], target, sizeof(target)), *ps = up_raw(on[k], &scale, sizeof(scale));

		pz[k] = up(on[k], z, n, v, ld);
		pl[k] = room(on[k], sizeof(loss));
		on[k]->k.xent_whole(on[k], pz[k], ld, n, v, pt, pl[k], ps);
		must_sync(on[k]);
		device_free(on[k], pt), device_free(on[k], ps);
	}
	same_bytes(&dev, pz[0], &again, pz[1], act_bytes(n * ld));
	same_bytes(&dev, pl[0], &again, pl[1], (uint64_t)n * sizeof(double));
	device_download(&dev, loss, pl[0], (uint64_t)n * sizeof(double));
	got = down(&dev, pz[0], n, v, ld);
	for (int64_t i = 0; i < n; i++) {
		double max = -INFINITY, sum = 0, others = 0;

		for (int64_t j = 0; j < v; j++)
			max = fmax(max, (double)z[i * v + j]);
		for (int64_t j = 0; j < v; j++) {
			double e = exp((double)z[i * v + j] - max);

			sum += e;
			others += j == target[i] ? 0 : e;
		}
		near(loss[i], log(sum) + max - (double)z[i * v + target[i]], 1e-6 * (1 + fabs(log(sum) + max)), "loss", i);
		for (int64_t j = 0; j < v; j++) {
			double want = 0.25 * (j == target[i] ? -others / sum : exp((double)z[i * v + j] - max) / sum);

			near(got[i * v + j], want, (4e-6 + ulp) * fabs(want) + tiny + 1e-30, "gradient", i * v + j);
		}
	}
	for (int k = 0; k < 2; k++)
		device_free(on[k], pz[k]), device_free(on[k], pl[k]);
	free(z), free(got);
}
END_TEST

/* --- squares --- */

START_TEST(test_add_squares)
{
	static const int64_t sizes[] = { 1, 7, 1024, 100003, 800000 };
	int64_t n = sizes[_i / 2];
	bool wide = _i % 2;
	/* fp32 beyond the range of its squares; fp16 has none so large */
	float *x = noise(n, 1, 1), big = wide ? 0x1p70f : 1;
	double want = 3, out[2] = { 3, 0 };
	struct device *on[2] = { &dev, &again };
	void *po[2];

	for (int64_t i = 0; i < n; i++) {
		x[i] *= big;
		want += (double)x[i] * (double)x[i];
	}
	for (int k = 0; k < 2; k++) {
		void *px = wide ? up_raw(on[k], x, (uint64_t)n * 4) : up(on[k], x, 1, n, n);

		po[k] = up_raw(on[k], out, sizeof(out));
		on[k]->k.add_squares(on[k], px, wide ? DT_F32 : on[k]->act, n, po[k]);
		must_sync(on[k]);
		device_free(on[k], px);
	}
	same_bytes(&dev, po[0], &again, po[1], sizeof(double));
	device_download(&dev, out, po[0], sizeof(out));
	must_sync(&dev);
	ck_assert_double_eq_tol(out[0] / want, 1, 1e-12);
	device_free(&dev, po[0]), device_free(&again, po[1]);
	free(x);
}
END_TEST

/* --- gradients of weights are products of turned rows: (out, in) = dy^T x, added or not, wide or not --- */

static const struct {
	int64_t t, out, in;
} weight_shapes[] = { { 1, 1, 1 }, { 5, 3, 7 }, { 64, 40, 45 }, { 200, 128, 72 }, { 513, 257, 130 } };

START_TEST(test_weight_grad)
{
	int64_t t = weight_shapes[_i / 3].t, out = weight_shapes[_i / 3].out, in = weight_shapes[_i / 3].in, ldy = out + 8, ldx = in + 8;
	bool wide = _i % 3 > 0, sum = _i % 3 == 2;
	float *dy = noise(t * out, 1, 1), *x = noise(t * in, 1, 2), *start = noise(out * in, 1, 3), *got;
	struct device *on[2] = { &dev, &again };
	void *c[2];

	for (int k = 0; k < 2; k++) {
		void *py = up(on[k], dy, t, out, ldy), *px = up(on[k], x, t, in, ldx);

		c[k] = wide ? up_raw(on[k], start, (uint64_t)(out * in) * 4) : up(on[k], start, out, in, in);
		on[k]->k.gemm(on[k], true, false, out, in, t, 1, py, ldy, px, ldx, sum, NULL, c[k], in, wide);
		must_sync(on[k]);
		device_free(on[k], py), device_free(on[k], px);
	}
	same_bytes(&dev, c[0], &again, c[1], wide ? (uint64_t)(out * in) * 4 : act_bytes(out * in));
	got = wide ? down_f32(&dev, c[0], out * in) : down(&dev, c[0], out, in, in);
	for (int64_t i = 0; i < out; i++)
		for (int64_t j = 0; j < in; j++) {
			double want = sum ? (double)start[i * in + j] : 0, size = fabs(want);

			for (int64_t k = 0; k < t; k++) {
				want += (double)dy[k * out + i] * (double)x[k * in + j];
				size += fabs((double)dy[k * out + i] * (double)x[k * in + j]);
			}
			near(got[i * in + j], want, (double)(t + 1) * 0x1p-24 * size + (wide ? 0 : ulp * fabs(want) + tiny), "dW", i * in + j);
		}
	device_free(&dev, c[0]), device_free(&again, c[1]);
	free(dy), free(x), free(start), free(got);
}
END_TEST

/* --- AdamW: weights in two halves, beside the CPU's definition, in two segments of which the first ends within a block --- */

enum { N = 5000, FIRST = 700, STEPS = 4, BLOCKS = 3 + (N - FIRST + ADAM8_BLOCK - 1) / ADAM8_BLOCK };

struct halves { /* of one device */
	struct device *d;
	void *w, *rest, *m, *v, *mm, *vm, *segs;
};

static void halves_on(struct halves *h, struct device *d, const float *p)
{
	uint16_t w[N];
	int16_t rest[N];

	for (int i = 0; i < N; i++)
		w[i] = kn_halve(p[i], &rest[i]);
	*h = (struct halves){ d, up_raw(d, w, sizeof(w)), up_raw(d, rest, sizeof(rest)), room(d, N * 4), room(d, N * 4), room(d, BLOCKS * 4), room(d, BLOCKS * 4), room(d, 2 * sizeof(struct kn_adam_seg)) };
}

/* g: fp32, or with g_act activations. */
static void halves_step(struct halves *h, const void *g, bool g_act, bool eight, const struct kn_adam *a)
{
	struct kn_adam_arrays x = { h->m, h->v, h->m, h->v, h->mm, h->vm, h->rest };
	struct kn_adam_seg segs[2];

	for (int k = 0; k < 2; k++) {
		int64_t at = k ? FIRST : 0;

		segs[k] = (struct kn_adam_seg){ .p = (uint16_t *)h->w + at, .g = g_act ? act_at(h->d, g, at) : (const float *)g + at, .n = k ? N - FIRST : FIRST,
			.state = at, .scale = 3 * k, .rest = at, .block = 3 * k, .eight = eight, .g_act = g_act };
	}
	device_upload(h->d, h->segs, segs, sizeof(segs));
	h->d->k.adam(h->d, segs, h->segs, 2, BLOCKS, &x, a);
	must_sync(h->d);
}

static void halves_free(struct halves *h)
{
	void *all[] = { h->w, h->rest, h->m, h->v, h->mm, h->vm, h->segs };

	for (int i = 0; i < 7; i++)
		device_free(h->d, all[i]);
}

START_TEST(test_adam_halves)
{
	bool eight = _i & 1, g_act = _i & 2;
	struct err e = ERR_INIT;
	struct device cpu;
	struct halves a, b;
	float *p = noise(N, 1, 1), *plain = xcalloc(N, 4);
	uint16_t w[2][N];
	int16_t rest[2][N];

	ck_assert(device_open(&cpu, "cpu", NULL, 1, &e) == 0);
	for (int i = 0; i < N; i++)
		p[i] += (float)i * 0x1p-20f; /* something beyond 16 bits */
	halves_on(&a, &dev, p);
	halves_on(&b, &cpu, p);
	for (int t = 1; t <= STEPS; t++) {
		struct kn_adam o = { 1e-3, 0.9, 0.999, 1e-8, 0.01, t, 1, NULL, 0, NULL, NULL };
		float *g = noise(N, 0.01, (uint64_t)(10 + t));
		void *ga = g_act ? up(&dev, g, 1, N, N) : up_raw(&dev, g, N * 4);

		halves_step(&a, ga, g_act && dev.act != DT_F32, eight, &o);
		halves_step(&b, g, false, eight, &o);
		device_free(&dev, ga);
		free(g);
	}
	for (int k = 0; k < 2; k++) {
		struct halves *h = k ? &b : &a;

		device_download(h->d, w[k], h->w, sizeof(w[k]));
		device_download(h->d, rest[k], h->rest, sizeof(rest[k]));
		must_sync(h->d);
	}
	for (int i = 0; i < N; i++)
		near(kn_join(w[0][i], rest[0][i]), kn_join(w[1][i], rest[1][i]), 1e-6 * (1e-3 + fabs((double)p[i])), "p", i);
	/* halves are one number: the same steps on it as a whole end in the same bits */
	memcpy(plain, p, N * 4);
	halves_free(&b);
	halves_on(&b, &cpu, p);
	for (int t = 1; t <= STEPS; t++) {
		struct kn_adam o = { 1e-3, 0.9, 0.999, 1e-8, 0.01, t, 1, NULL, 0, NULL, NULL };
		struct kn_adam_seg s = { .p = plain, .n = N, .rest = -1, .eight = eight };
		struct kn_adam_arrays x = { b.m, b.v, b.m, b.v, b.mm, b.vm, NULL };
		float *g = noise(N, 0.01, (uint64_t)(10 + t));

		s.g = g;
		if (!eight) /* blocks of the whole begin elsewhere than those of two segments */
			kn_adam_cpu(&cpu, &s, NULL, 1, 0, &x, &o);
		free(g);
	}
	for (int i = 0; i < N && !eight; i++)
		ck_assert_float_eq(plain[i], kn_join(w[1][i], rest[1][i]));
	halves_free(&a);
	halves_free(&b);
	device_close(&cpu);
	free(p);
	free(plain);
}
END_TEST

/* --- GaLore's directions: orthonormal, and of the squares of G they hold what the best do --- */

static const struct {
	int64_t rows, cols, r;
} basis_shapes[] = { { 1, 1, 1 }, { 9, 5, 2 }, { 5, 9, 5 }, { 64, 40, 8 }, { 40, 130, 16 }, { 300, 72, 72 } };

/* Singular values that fall by a tenth each, in directions of no axis. */
static float *graded(int64_t rows, int64_t cols)
{
	int64_t k = rows < cols ? rows : cols;
	float *g = xcalloc((size_t)(rows * cols), sizeof(*g)), *u = noise(rows * k, 1, 21), *v = noise(k * cols, 1, 22);

	for (int64_t l = 0; l < k; l++)
		for (int64_t i = 0; i < rows; i++)
			for (int64_t j = 0; j < cols; j++)
				g[i * cols + j] += (float)pow(0.9, (double)l) * u[i * k + l] * v[l * cols + j];
	free(u);
	free(v);
	return g;
}

/* The squares of G's projection on the r rows of p. */
static double held(const float *g, const float *p, int64_t rows, int64_t cols, int64_t r)
{
	bool right = rows >= cols;
	int64_t k = right ? cols : rows, others = right ? rows : cols;
	double sum = 0;

	for (int64_t l = 0; l < r; l++)
		for (int64_t o = 0; o < others; o++) {
			double x = 0;

			for (int64_t j = 0; j < k; j++)
				x += (double)p[l * k + j] * (double)(right ? g[o * cols + j] : g[j * cols + o]);
			sum += x * x;
		}
	return sum;
}

START_TEST(test_basis)
{
	int64_t rows = basis_shapes[_i].rows, cols = basis_shapes[_i].cols, r = basis_shapes[_i].r, k = rows < cols ? rows : cols;
	float *g = graded(rows, cols), *p, *best;
	struct device *on[2] = { &dev, &again }, cpu;
	void *pp[3], *scratch;
	struct err e = ERR_INIT;
	double ulps = ulp > 0 ? 3 * ulp : 1e-6;

	for (int i = 0; i < 2; i++) {
		void *pg = up(on[i], g, rows, cols, cols);

		scratch = room(on[i], on[i]->k.basis_scratch(on[i], rows, cols, r));
		pp[i] = up(on[i], NULL, r, k, k);
		on[i]->k.basis(on[i], pp[i], pg, rows, cols, r, 7, scratch);
		must_sync(on[i]);
		device_free(on[i], pg), device_free(on[i], scratch);
	}
	same_bytes(&dev, pp[0], &again, pp[1], act_bytes(r * k));
	p = down(&dev, pp[0], r, k, k);
	ck_assert(device_open(&cpu, "cpu", NULL, 1, &e) == 0);
	scratch = room(&cpu, kn_basis_scratch_cpu(&cpu, rows, cols, r));
	pp[2] = room(&cpu, (uint64_t)(r * k) * 4);
	kn_basis_cpu(&cpu, pp[2], g, rows, cols, r, 7, scratch);
	best = pp[2];
	for (int64_t i = 0; i < r; i++)
		for (int64_t j = 0; j <= i; j++) {
			double dot = 0;

			for (int64_t c = 0; c < k; c++)
				dot += (double)p[i * k + c] * (double)p[j * k + c];
			near(dot, i == j, ulps, "product of directions", i * r + j);
		}
	ck_assert_msg(held(g, p, rows, cols, r) >= (dev.kind == DEVICE_CPU ? 1 - 1e-6 : 0.99) * held(g, best, rows, cols, r), "%g of %g", held(g, p, rows, cols, r),
	              held(g, best, rows, cols, r));
	device_free(&cpu, scratch), device_free(&cpu, pp[2]);
	device_free(&dev, pp[0]), device_free(&again, pp[1]);
	device_close(&cpu);
	free(g), free(p);
}
END_TEST

START_TEST(test_add_update)
{
	enum { M = 1003 };
	bool halves = _i & 1, refused = _i & 2;
	float *p = noise(M, 1, 1), *u = noise(M, 1e-3, 2), *got = xcalloc(M, 4);
	double squares = refused ? NAN : 1;
	int32_t none = 0;
	uint16_t w[M];
	int16_t rest[M];
	void *pw, *pr, *pu = up_raw(&dev, u, M * 4), *ps = up_raw(&dev, &squares, sizeof(squares)), *pn = up_raw(&dev, &none, sizeof(none));
	struct kn_adam a = { .grad_scale = 1, .squares = ps, .refused = pn };

	for (int i = 0; i < M; i++)
		w[i] = kn_halve(p[i], &rest[i]);
	pw = halves ? up_raw(&dev, w, sizeof(w)) : up_raw(&dev, p, M * 4);
	pr = up_raw(&dev, rest, sizeof(rest));
	dev.k.add_update(&dev, pw, halves ? pr : NULL, pu, M, 0.25f, 0.999f, &a);
	if (halves) {
		device_download(&dev, w, pw, sizeof(w));
		device_download(&dev, rest, pr, sizeof(rest));
	} else {
		device_download(&dev, got, pw, M * 4);
	}
	must_sync(&dev);
	for (int i = 0; i < M; i++) {
		float x = halves ? kn_join(w[i], rest[i]) : got[i];

		if (refused)
			ck_assert_float_eq(x, p[i]);
		else
			near(x, ((double)p[i] + 0.25 * (double)u[i]) * (double)0.999f, 3 * 0x1p-24 * fabs((double)p[i]) + 1e-10, "p", i);
	}
	device_free(&dev, pw), device_free(&dev, pr), device_free(&dev, pu), device_free(&dev, ps), device_free(&dev, pn);
	free(p), free(u), free(got);
}
END_TEST

static void add(TCase *t)
{
	tcase_add_loop_test(t, test_basis, 0, (int)(sizeof(basis_shapes) / sizeof(*basis_shapes)));
	tcase_add_loop_test(t, test_add_update, 0, 4);
	tcase_add_loop_test(t, test_col_sums, 0, 2 * (int)(sizeof(col_shapes) / sizeof(*col_shapes)));
	tcase_add_loop_test(t, test_embed_bwd, 0, (int)(sizeof(embed_shapes) / sizeof(*embed_shapes)));
	tcase_add_loop_test(t, test_xent_whole, 0, (int)(sizeof(loss_shapes) / sizeof(*loss_shapes)));
	tcase_add_loop_test(t, test_add_squares, 0, 10);
	tcase_add_loop_test(t, test_weight_grad, 0, 3 * (int)(sizeof(weight_shapes) / sizeof(*weight_shapes)));
	tcase_add_loop_test(t, test_adam_halves, 0, 4);
}

int main(void)
{
	return run_suite("kn_full", add);
}
