/* fmt/quant*.c: the blocks and what they decode to, against llama.cpp's hashes
 * (data/quant_golden.tsv), and the small promises of quant.h. */
#include "gguf_gen.h"
#include "scratch.h"

#include "base/hash.h"
#include "fmt/quant.h"

static const enum quant_type all_types[] = { QT_F32,  QT_F16,  QT_BF16, QT_Q4_0, QT_Q4_1, QT_Q5_0,
	                                     QT_Q5_1, QT_Q8_0, QT_Q4_K, QT_Q5_K, QT_Q6_K };
#define N_TYPES (sizeof(all_types) / sizeof(*all_types))

static int type_of(const char *name)
{
	for (size_t i = 0; i < N_TYPES; i++)
		if (!strcmp(quant_info(all_types[i])->name, name))
			return all_types[i];
	ck_abort_msg("no type %s", name);
	return -1;
}

static float *rows_of(int kind)
{
	float *x = malloc(GEN_ROWS * GEN_COLS * sizeof(*x));

	gen_rows(kind, x);
	return x;
}

static void check_golden(int type, int kind, int valid, const char *blocks, const char *values)
{
	uint64_t row = quant_row_bytes((uint32_t)type, GEN_COLS);
	float *x = rows_of(kind), *y = malloc(GEN_ROWS * GEN_COLS * sizeof(*y));
	uint8_t *q = malloc(GEN_ROWS * row);
	int good = 0;
	char hex[65];

	for (int r = 0; r < GEN_ROWS; r++)
		good += quant_encode((enum quant_type)type, x + r * GEN_COLS, q + (uint64_t)r * row, GEN_COLS) < 0;
	sha_once(q, GEN_ROWS * row, hex);
	ck_assert_msg(!strcmp(hex, blocks), "%s blocks of kind %d differ", quant_info((uint32_t)type)->name, kind);
	/* We refuse a few rows of huge values more: where llama.cpp writes zeros for them. */
	ck_assert_msg(kind < 15 ? good == valid : good <= valid, "%s, kind %d: %d rows hold, not %d", quant_info((uint32_t)type)->name,
	              kind, good, valid);
	quant_decode((enum quant_type)type, q, y, GEN_ROWS * GEN_COLS);
	for (int i = 0; i < GEN_ROWS * GEN_COLS; i++)
		if (y[i] != y[i])
			y[i] = gen_bits(0x7fc00000);
	sha_once(y, GEN_ROWS * GEN_COLS * sizeof(*y), hex);
	ck_assert_msg(!strcmp(hex, values), "%s values of kind %d differ", quant_info((uint32_t)type)->name, kind);
	free(x);
	free(y);
	free(q);
}

START_TEST(golden)
{
	char type[16], blocks[65], values[65], line[512];
	FILE *f = fopen("tests/unit/data/quant_golden.tsv", "r");
	int kind, valid, n = 0;

	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f)) {
		if (line[0] == '#')
			continue;
		ck_assert_int_eq(sscanf(line, "%15s %d %d %64s %64s", type, &kind, &valid, blocks, values), 5);
		check_golden(type_of(type), kind, valid, blocks, values);
		n++;
	}
	fclose(f);
	ck_assert_int_eq(n, (int)(N_TYPES - 1) * GEN_KINDS);
}
END_TEST

/* Blocks do not depend on their neighbours: any cut of the rows gives the same bytes. */
START_TEST(cuts)
{
	float *x = rows_of(0);

	for (size_t i = 0; i < N_TYPES; i++) {
		enum quant_type t = all_types[i];
		uint64_t n = 8 * GEN_COLS, bytes = quant_row_bytes(t, n), step = quant_info(t)->block_elems, at = 0;
		uint8_t *whole = malloc(bytes), *parts = malloc(bytes);

		ck_assert_int_eq(quant_encode(t, x, whole, n), -1);
		for (uint64_t k = 0; k < n; k += step, at += quant_info(t)->block_bytes)
			ck_assert_int_eq(quant_encode(t, x + k, parts + at, step), -1);
		ck_assert_mem_eq(whole, parts, bytes);
		free(whole);
		free(parts);
	}
	free(x);
}
END_TEST

/* Decoding comes as near as the type's step allows: half of one, and the
 * rounding of the scale to a half float (2^-11); a whole step where the outermost
 * code is clipped, and for K-types, whose fit may give up the extremes, a few. */
START_TEST(nearness)
{
	static const struct {
		enum quant_type type;
		double bound; /* of the error, relative to the block's largest magnitude */
	} of[] = { { QT_Q4_0, 1.0 / 8 }, { QT_Q4_1, 1.0 / 15 }, { QT_Q5_0, 1.0 / 16 }, { QT_Q5_1, 1.0 / 31 },
		   { QT_Q8_0, 0.5 / 127 + 1.0 / 2048 }, { QT_Q6_K, 1.0 / 24 }, { QT_Q5_K, 1.0 / 16 }, { QT_Q4_K, 1.0 / 8 } };
	float *x = rows_of(0), y[GEN_COLS];
	uint8_t q[1024];

	for (size_t i = 0; i < sizeof(of) / sizeof(*of); i++)
		for (int r = 0; r < GEN_ROWS; r++) {
			double most = 0, worst = 0;

			ck_assert_int_eq(quant_encode(of[i].type, x + r * GEN_COLS, q, GEN_COLS), -1);
			quant_decode(of[i].type, q, y, GEN_COLS);
			for (int c = 0; c < GEN_COLS; c++) {
				most = fmax(most, fabs((double)x[r * GEN_COLS + c]));
				worst = fmax(worst, fabs((double)x[r * GEN_COLS + c] - (double)y[c]));
			}
			ck_assert_msg(worst <= of[i].bound * most, "%s: error %g of %g", quant_info(of[i].type)->name, worst, most);
		}
	free(x);
}
END_TEST

START_TEST(beyond_range)
{
	float x[512];
	uint8_t q[4096];

	for (int i = 0; i < 512; i++)
		x[i] = (float)(i % 17) - 8.0f;
	x[300] = 3e38f;
	for (size_t i = 0; i < N_TYPES; i++) {
		enum quant_type t = all_types[i];
		uint64_t block = quant_info(t)->block_elems;

		if (t != QT_F32 && t != QT_BF16)
			ck_assert_int_eq(quant_encode(t, x, q, 512), (int64_t)(300 / block * block));
		else
			ck_assert_int_eq(quant_encode(t, x, q, 512), -1);
	}
	x[300] = 3.4e38f; /* rounds to infinity in bf16 */
	ck_assert_int_eq(quant_encode(QT_BF16, x, q, 512), 300);
}
END_TEST

START_TEST(nonfinite)
{
	float x[100];

	for (int i = 0; i < 100; i++)
		x[i] = (float)i * 1e36f;
	ck_assert_int_eq(quant_find_nonfinite(x, 100), -1);
	ck_assert_int_eq(quant_find_nonfinite(x, 0), -1);
	for (int i = 0; i < 100; i++) {
		float keep = x[i];

		x[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
		ck_assert_int_eq(quant_find_nonfinite(x, 100), i);
		ck_assert_int_eq(quant_find_nonfinite(x, (uint64_t)i), -1);
		x[i] = keep;
	}
}
END_TEST

START_TEST(sizes)
{
	ck_assert_ptr_null(quant_info(4));
	ck_assert_ptr_null(quant_info(29));
	ck_assert_ptr_null(quant_info(31));
	ck_assert_ptr_null(quant_info(UINT32_MAX));
	ck_assert_uint_eq(quant_row_bytes(QT_Q4_K, 512), 288);
	ck_assert_uint_eq(quant_row_bytes(QT_Q4_K, 500), 0);
	ck_assert_uint_eq(quant_row_bytes(QT_Q8_0, 96), 102);
	ck_assert_uint_eq(quant_row_bytes(QT_F32, UINT64_MAX), 0);
	ck_assert_uint_eq(quant_row_bytes(99, 32), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("quant");
	TCase *c = tcase_create("quant");

	tcase_set_timeout(c, 120);
	tcase_add_test(c, golden);
	tcase_add_test(c, cuts);
	tcase_add_test(c, nearness);
	tcase_add_test(c, beyond_range);
	tcase_add_test(c, nonfinite);
	tcase_add_test(c, sizes);
	suite_add_tcase(s, c);
	return run_tests(s);
}
