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

struct product {
	struct kn_adapters a;
	int64_t nr, tail;
	float *w, *lower, *b[KN_PARTS]; /* W (out, in), A (nr, in), B of each part, on the host */
	struct pair fw, bw;             /* W and W^T in 8 bits, with the adapters */
};

static void product_make(struct product *p, int i)
{
	int64_t in = products[i].in, r = products[i].rank;
	void *w;

	*p = (struct product){ .nr = products[i].n * r, .a = { .in = in, .n = r ? products[i].n : 0, .rank = r, .scale = 2 } };
	p->tail = fp8_tail(p->nr);
	for (int j = 0; j < products[i].n; j++) {
		p->a.row[j] = p->a.out;
		p->a.rows[j] = products[i].rows[j];
		p->a.out += p->a.rows[j];
		p->b[j] = noise(p->a.rows[j] * r, 0.02, 4 + (uint64_t)j);
		p->a.b[j] = up_raw(&dev, p->b[j], (uint64_t)(p->a.rows[j] * r) * 4);
	}
	p->lower = noise(p->nr * in, 0.05, 3);
	p->a.a = up_raw(&dev, p->lower, (uint64_t)(p->nr * in) * 4);
	p->w = noise(p->a.out * in, 0.02, 1);
	p->fw = pair_of(p->a.out, in + p->tail);
	p->bw = pair_of(in, p->a.out + p->tail);
	w = up(&dev, p->w, p->a.out, in, in);
	dev.k.fp8_rows(&dev, &p->fw.here, w, in, p->a.out, in, 0, p->tail, FP8_TOP_WEIGHT);
	dev.k.fp8_cols(&dev, &p->bw.here, w, in, p->a.out, in, p->tail, FP8_TOP_WEIGHT);
	dev.k.fp8_place(&dev, &p->fw.here, &p->bw.here, &p->a);
	device_free(&dev, w);
}

static void product_drop(struct product *p)
{
	for (int j = 0; j < KN_PARTS; j++) {
		if (p->a.b[j])
			device_free(&dev, (void *)(uintptr_t)p->a.b[j]);
		free(p->b[j]);
	}
	device_free(&dev, (void *)(uintptr_t)p->a.a);
	free_pair(&p->fw), free_pair(&p->bw);
	free(p->w), free(p->lower);
}

/* Element (l, n) of what x's columns are multiplied by: W^T or W, then the adapters' rows. */
static double weight_at(const struct product *p, bool back, int64_t k, int64_t l, int64_t n)
{
	int64_t in = p->a.in, r = p->a.rank, j = l < k ? 0 : (l - k) / r;

	if (l < k)
		return back ? p->w[l * in + n] : p->w[n * in + l];
	if (back)
		return p->lower[(l - k) * in + n];
	return n >= p->a.row[j] && n < p->a.row[j] + p->a.rows[j] ? 2 * p->b[j][(n - p->a.row[j]) * r + (l - k) % r] : 0;
}

/* A product's value, and how far the header lets ours be from it: x (k + nr) one row. */
static double expected(const struct product *p, bool back, int64_t k, const float *x, int64_t n, double add, double *bound)
{
	double want = add, most = 0, top = 0;

	for (int64_t l = 0; l < k; l++) {
		most = fmax(most, fabs((double)x[l]));
		top = fmax(top, fabs(weight_at(p, back, k, l, n)));
	}
	*bound = fabs(add) * ulp;
	for (int64_t l = 0; l < k + p->nr; l++) {
		double u = x[l], v = weight_at(p, back, k, l, n), part = l < k ? 16 : 256;
		double du = fmax(fabs(u) / part, most / (double)FP8_TOP_ACT / 1024), dv = fmax(fabs(v) / part, top / (double)FP8_TOP_WEIGHT / 1024);

		want += u * v;
		*bound += fabs(u) * dv + fabs(v) * du + du * dv + (l < k ? 0 : fabs(u * v) / 256); /* and lo lo */
	}
	*bound += fabs(want) * (ulp + 1e-6);
	return want;
}

static void one_way(const struct product *p, bool back, int64_t t)
{
	int64_t k = back ? p->a.out : p->a.in, n = back ? p->a.in : p->a.out, width = k + p->nr;
	float *x = noise(t * width, 1, 20 + back), *add = noise(t * n, 1, 9), *got;
	void *px, *padd = back ? NULL : up(&dev, add, t, n, n + 8), *y = up(&dev, NULL, t, n, n + 8);
	struct pair q = pair_of(t, k + p->tail);
	double bound;

	for (int64_t i = 0; i < t * width; i++)
		x[i] *= i % width < k ? 1 : 0.125f; /* inner values that no row's scale is too small for */
	px = up(&dev, x, t, width, width);
	dev.k.fp8_rows(&dev, &q.here, px, width, t, k, p->nr, p->tail, FP8_TOP_ACT);
	dev.k.fp8_gemm(&dev, t, n, k + p->tail, &q.here, back ? &p->bw.here : &p->fw.here, padd, y, n + 8);
	got = down(&dev, y, t, n, n + 8);
	for (int64_t i = 0; i < t * n; i++) {
		double want = expected(p, back, k, x + i / n * width, i % n, back ? 0 : add[i], &bound);

		near(got[i], want, bound, back ? "dx" : "y", i);
	}
	device_free(&dev, px), device_free(&dev, y);
	if (padd)
		device_free(&dev, padd);
	free_pair(&q);
	free(x), free(add), free(got);
}

/* y = x W^T + s (scale B)^T + add, and dx = dy W + ds A, whose s and ds are given: nothing here asks that they are x A^T and dy scale B. */
START_TEST(test_product)
{
	struct product p;

	if (!has_fp8())
		return;
	product_make(&p, _i);
	one_way(&p, false, products[_i].t);
	one_way(&p, true, products[_i].t);
	product_drop(&p);
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
