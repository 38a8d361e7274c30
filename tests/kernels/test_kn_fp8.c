/* Products in eight bits: the codes against e4m3's own definition, rows, columns and tails bit for bit against the CPU's, the
 * product against fp64. LP_DEVICE names the device, as test_kn_ops.c says. */
#include "arrays.h"

/* --- the codes --- */

START_TEST(test_codes)
{
	for (int c = 0; c < 256; c++) {
		float v = fp8_value((uint8_t)c);

		if ((c & 0x7f) == 0x7f)
			ck_assert(isnan(v) && (fp8_code(v) & 0x7f) == 0x7f);
		else
			ck_assert_uint_eq(fp8_code(v), (unsigned)c);
	}
	ck_assert(fp8_value(0x7e) == 448 && fp8_value(0x08) == 0x1p-6f && fp8_value(0x01) == 0x1p-9f && fp8_value(0xb8) == -1);
	ck_assert_uint_eq(fp8_code(INFINITY), 0x7e);
	ck_assert_uint_eq(fp8_code(-1e9f), 0xfe);
}
END_TEST

/* Between neighbours: to the nearer, and half way to the even one. */
START_TEST(test_rounding)
{
	for (int c = 0; c < 0x7e; c++) {
		float low = fp8_value((uint8_t)c), high = fp8_value((uint8_t)(c + 1)), half = (low + high) / 2;

		ck_assert_uint_eq(fp8_code(half), (unsigned)(c % 2 ? c + 1 : c));
		ck_assert_uint_eq(fp8_code(nextafterf(half, low)), (unsigned)c);
		ck_assert_uint_eq(fp8_code(nextafterf(half, high)), (unsigned)(c + 1));
	}
}
END_TEST

/* --- rows, columns, tails --- */

static bool has_fp8(void)
{
	return dev.fp8;
}

struct pair {
	struct fp8_mat here, want; /* the device's; the CPU's */
	int64_t rows;
};

static struct device cpu;

static struct pair pair_of(int64_t rows, int64_t ld)
{
	struct err e = ERR_INIT;
	struct pair p = { .rows = rows };

	if (!cpu.k.alloc)
		ck_assert_msg(device_open(&cpu, "cpu", NULL, 2, &e) == 0, "%s", e.msg);
	p.here = (struct fp8_mat){ room(&dev, (uint64_t)(rows * ld)), ld, room(&dev, (uint64_t)rows * sizeof(float)) };
	p.want = (struct fp8_mat){ room(&cpu, (uint64_t)(rows * ld)), ld, room(&cpu, (uint64_t)rows * sizeof(float)) };
	return p;
}

static void same_pair(const struct pair *p)
{
	same_raw(&dev, p->here.scale, p->want.scale, (uint64_t)p->rows * sizeof(float));
	same_raw(&dev, p->here.q, p->want.q, (uint64_t)(p->rows * p->here.ld));
}

static void free_pair(struct pair *p)
{
	device_free(&dev, p->here.q), device_free(&dev, p->here.scale);
	device_free(&cpu, p->want.q), device_free(&cpu, p->want.scale);
}

static const int64_t shapes[][4] = { /* rows, cols, inner values, row stride */
	{ 1, 1, 0, 1 }, { 3, 48, 5, 64 }, { 70, 64, 16, 80 }, { 5, 2064, 48, 2112 }, { 4, 4096, 16, 4160 }, { 3, 6144, 48, 6208 }, { 2, 14336, 0, 14336 },
	{ 3, 28672, 32, 28736 }, { 2, 33000, 8, 33008 }, { 2, 37, 3, 41 },
};

START_TEST(test_rows)
{
	int64_t t = shapes[_i][0], cols = shapes[_i][1], r = shapes[_i][2], ld = shapes[_i][3], tail = fp8_tail(r);
	float *x = noise(t * (cols + r), 0.02, 1);
	void *at, *there;
	struct pair p;

	if (!has_fp8())
		return;
	p = pair_of(t, (cols + tail + 15) / 16 * 16);
	for (int64_t j = 0; j < cols + r && t > 2; j++)
		x[2 * (cols + r) + j] = 0; /* a row without a scale of its own */
	at = up(&dev, x, t, cols + r, ld);
	there = up(&cpu, x, t, cols + r, ld);
	dev.k.fp8_rows(&dev, &p.here, at, ld, t, cols, r, tail, FP8_TOP_ACT);
	cpu.k.fp8_rows(&cpu, &p.want, there, ld, t, cols, r, tail, FP8_TOP_ACT);
	same_pair(&p);
	ck_assert(t <= 2 || p.want.scale[2] == 1);
	device_free(&dev, at), device_free(&cpu, there);
	free_pair(&p);
	free(x);
}
END_TEST

START_TEST(test_cols)
{
	int64_t rows = shapes[_i][0] * 16 + 3, cols = shapes[_i][1] % 1000 + 1, ld = cols + 3, tail = 32;
	float *x = noise(rows * cols, 0.02, 1);
	void *at, *there;
	struct pair p;

	if (!has_fp8())
		return;
	p = pair_of(cols, (rows + tail + 15) / 16 * 16);
	at = up(&dev, x, rows, cols, ld);
	there = up(&cpu, x, rows, cols, ld);
	dev.k.fp8_cols(&dev, &p.here, at, ld, rows, cols, tail, FP8_TOP_WEIGHT);
	cpu.k.fp8_cols(&cpu, &p.want, there, ld, rows, cols, tail, FP8_TOP_WEIGHT);
	same_pair(&p);
	device_free(&dev, at), device_free(&cpu, there);
	free_pair(&p);
	free(x);
}
END_TEST

/* --- a projection with its adapters --- */

static const struct {
	int64_t t, in, rank;
	int n;
	int64_t rows[KN_PARTS];
} products[] = { { 1, 16, 4, 1, { 16 } }, { 33, 64, 8, 2, { 32, 48 } }, { 130, 256, 16, 3, { 128, 64, 64 } }, { 70, 1008, 5, 1, { 80 } }, { 257, 512, 0, 1, { 512 } } };

/* y = x W^T + s (scale B)^T, and dx = dy W + ds A, whose s and ds are given: nothing here asks that they are x A^T and dy scale B. */
START_TEST(test_product)
{
	int64_t t = products[_i].t, in = products[_i].in, r = products[_i].rank, out = 0, nr = products[_i].n * r, tail = fp8_tail(nr);
	struct kn_adapters a = { .in = in, .n = nr ? products[_i].n : 0, .rank = r, .scale = 2 };
	float *w, *x, *add, *lower = noise(nr * in, 0.05, 3), *b[KN_PARTS] = { 0 };
	struct pair fw, bw, px;
	void *pw, *pxs, *padd, *y, *pa = up_raw(&dev, lower, (uint64_t)(nr * in) * 4);

	if (!has_fp8())
		return;
	for (int j = 0; j < products[_i].n; j++) {
		a.row[j] = out;
		a.rows[j] = products[_i].rows[j];
		out += a.rows[j];
		b[j] = noise(a.rows[j] * r, 0.02, 4 + (uint64_t)j);
		a.b[j] = up_raw(&dev, b[j], (uint64_t)(a.rows[j] * r) * 4);
	}
	a.out = out;
	a.a = pa;
	w = noise(out * in, 0.02, 1);
	add = noise(t * out, 1, 9);
	pw = up(&dev, w, out, in, in);
	fw = pair_of(out, in + tail);
	bw = pair_of(in, out + tail);
	dev.k.fp8_rows(&dev, &fw.here, pw, in, out, in, 0, tail, FP8_TOP_WEIGHT);
	dev.k.fp8_cols(&dev, &bw.here, pw, in, out, in, tail, FP8_TOP_WEIGHT);
	dev.k.fp8_place(&dev, &fw.here, &bw.here, &a);
	for (int back = 0; back < 2; back++) {
		int64_t k = back ? out : in, n = back ? in : out;
		float *got;

		x = noise(t * (k + nr), 1, 20 + (uint64_t)back);
		for (int64_t i = 0; i < t * (k + nr); i++)
			x[i] *= i % (k + nr) < k ? 1 : 0.125f; /* what no row's scale is too small for */
		pxs = up(&dev, x, t, k + nr, k + nr);
		px = pair_of(t, k + tail);
		padd = back ? NULL : up(&dev, add, t, n, n + 8);
		y = up(&dev, NULL, t, n, n + 8);
		dev.k.fp8_rows(&dev, &px.here, pxs, k + nr, t, k, nr, tail, FP8_TOP_ACT);
		dev.k.fp8_gemm(&dev, t, n, k + tail, &px.here, back ? &bw.here : &fw.here, padd, y, n + 8);
		got = down(&dev, y, t, n, n + 8);
		for (int64_t i = 0; i < t; i++)
			for (int64_t j = 0; j < n; j++) {
				double want = back ? 0 : add[i * n + j], bound = fabs(want) * ulp, most = 0, tops = 0;

				for (int64_t l = 0; l < k; l++) {
					most = fmax(most, fabs(x[i * (k + nr) + l]));
					tops = fmax(tops, fabs(back ? w[l * in + j] : w[j * in + l]));
				}
				for (int64_t l = 0; l < k; l++) {
					double u = x[i * (k + nr) + l], v = back ? w[l * in + j] : w[j * in + l], du = fmax(fabs(u) / 16, most / FP8_TOP_ACT / 1024),
					       dv = fmax(fabs(v) / 16, tops / FP8_TOP_WEIGHT / 1024);

					want += u * v;
					bound += fabs(u) * dv + fabs(v) * du + du * dv;
				}
				for (int64_t l = 0; l < nr; l++) {
					double u = x[i * (k + nr) + k + l], v = 0, du, dv;
					int p = (int)(l / r);

					if (back)
						v = lower[l * in + j];
					else if (j >= a.row[p] && j < a.row[p] + a.rows[p])
						v = 2 * b[p][(j - a.row[p]) * r + l % r];
					du = fmax(fabs(u) / 256, most / FP8_TOP_ACT / 1024);
					dv = fmax(fabs(v) / 256, tops / FP8_TOP_WEIGHT / 1024);
					want += u * v;
					/* and lo lo, a 256th of the product */
					bound += fabs(u) * dv + fabs(v) * du + du * dv + fabs(u * v) / 256;
				}
				near(got[i * n + j], want, bound + fabs(want) * (ulp + 1e-6), back ? "dx" : "y", i * n + j);
			}
		device_free(&dev, pxs), device_free(&dev, y);
		if (padd)
			device_free(&dev, padd);
		free_pair(&px);
		free(got);
		free(x);
	}
	free_pair(&fw), free_pair(&bw);
	for (int j = 0; j < KN_PARTS; j++) {
		if (a.b[j])
			device_free(&dev, (void *)(uintptr_t)a.b[j]);
		free(b[j]);
	}
	device_free(&dev, pw), device_free(&dev, pa);
	free(w), free(add), free(lower);
}
END_TEST

static void add(TCase *t)
{
	tcase_add_test(t, test_codes);
	tcase_add_test(t, test_rounding);
	tcase_add_loop_test(t, test_rows, 0, sizeof(shapes) / sizeof(*shapes));
	tcase_add_loop_test(t, test_cols, 0, sizeof(shapes) / sizeof(*shapes));
	tcase_add_loop_test(t, test_product, 0, sizeof(products) / sizeof(*products));
}

int main(void)
{
	return run_suite("kn_fp8", add);
}
