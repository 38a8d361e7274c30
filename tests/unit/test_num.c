/* base/num.c. The texts of fmt_f64 are those that Python 3's repr prints. */
#include "scratch.h"

#include <float.h>
#include <math.h>

#include "base/num.h"
#include "base/rng.h"

START_TEST(whole_numbers)
{
	static const char *const junk[] = { "", " 1", "1 ", "1x", "0x1", "--1", "+", "-", "1.0", "1e3" };
	int64_t i = 5;
	uint64_t u = 5;

	for (size_t k = 0; k < sizeof(junk) / sizeof(*junk); k++) {
		ck_assert_msg(!parse_i64(junk[k], &i), "'%s'", junk[k]);
		ck_assert_msg(!parse_u64(junk[k], &u), "'%s'", junk[k]);
	}
	ck_assert(parse_i64("-9223372036854775808", &i) && i == INT64_MIN);
	ck_assert(parse_i64("9223372036854775807", &i) && i == INT64_MAX);
	ck_assert(!parse_i64("9223372036854775808", &i));
	ck_assert(!parse_i64("-9223372036854775809", &i));
	ck_assert(parse_u64("18446744073709551615", &u) && u == UINT64_MAX);
	ck_assert(!parse_u64("18446744073709551616", &u));
	ck_assert(!parse_u64("99999999999999999999999", &u));
	ck_assert(!parse_u64("-1", &u));
	ck_assert(parse_i64("+7", &i) && i == 7);
	ck_assert(parse_u64("007", &u) && u == 7);
}
END_TEST

START_TEST(decimal_numbers)
{
	static const char *const junk[] = { "", ".", "e5", "1e", "1e+", "0x1p3", "inf", "nan", " 1", "1 ", "1,5", "1e999", "-1e999", "1.5f" };
	double v;

	for (size_t k = 0; k < sizeof(junk) / sizeof(*junk); k++)
		ck_assert_msg(!parse_f64(junk[k], &v), "'%s'", junk[k]);
	ck_assert(parse_f64("1e-4", &v) && v == 1e-4);
	ck_assert(parse_f64("-.5", &v) && v == -0.5);
	ck_assert(parse_f64("5.", &v) && v == 5);
	ck_assert(parse_f64("+2E2", &v) && v == 200);
	ck_assert(parse_f64("1e-999", &v) && v == 0);
	ck_assert(parse_f64("1.7976931348623157e308", &v) && v == DBL_MAX);
}
END_TEST

START_TEST(sizes)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "0", 0 }, { "512", 512 }, { "64K", 65536 }, { "64k", 65536 }, { "24G", 24ull << 30 },
		{ "1.5GiB", 3ull << 29 }, { "8GB", 8ull << 30 }, { "8gb", 8ull << 30 }, { "2T", 2ull << 40 },
		{ "100B", 100 }, { "1MiB", 1 << 20 }, { "16777215T", 16777215ull << 40 }, { "0.5K", 512 },
	};
	static const char *const junk[] = { "", "G", "-1", "1X", "1KiBs", "1Ki", "1 K", "1.5", "16777216T", "1e3", "1..5G",
					    "18446744073709551616", "99999999999999999999999999999999999999999999999999K" };
	uint64_t v;

	for (size_t k = 0; k < sizeof(good) / sizeof(*good); k++) {
		ck_assert_msg(parse_size(good[k].text, &v), "'%s'", good[k].text);
		ck_assert_msg(v == good[k].bytes, "'%s' is %llu", good[k].text, (unsigned long long)v);
	}
	for (size_t k = 0; k < sizeof(junk) / sizeof(*junk); k++)
		ck_assert_msg(!parse_size(junk[k], &v), "'%s'", junk[k]);
}
END_TEST

START_TEST(like_python_repr)
{
	static const struct {
		double v;
		const char *text;
	} good[] = {
		{ 0, "0.0" }, { -0.0, "-0.0" }, { 1, "1.0" }, { 3, "3.0" }, { 0.1, "0.1" }, { -0.5, "-0.5" }, { 1e-5, "1e-05" },
		{ 0.0001, "0.0001" }, { 0.00012345, "0.00012345" }, { 1.5e-7, "1.5e-07" }, { 1e15, "1000000000000000.0" },
		{ 1e16, "1e+16" }, { 123456789012345680.0, "1.2345678901234568e+17" }, { 1e22, "1e+22" }, { 1e100, "1e+100" },
		{ 5e-324, "5e-324" }, { 2.2250738585072014e-308, "2.2250738585072014e-308" }, { 1.7976931348623157e308, "1.7976931348623157e+308" },
		{ 2.5e-310, "2.5e-310" }, { 0.30000000000000004, "0.30000000000000004" }, { 1.0 / 3, "0.3333333333333333" },
		{ 9007199254740993.0, "9007199254740992.0" }, { 1234567.125, "1234567.125" }, { 100, "100.0" }, { 2e-4, "0.0002" },
		{ 9.5367431640625e-07, "9.5367431640625e-07" }, { 4.35, "4.35" }, { 0.000244140625, "0.000244140625" },
	};
	char buf[32];

	for (size_t k = 0; k < sizeof(good) / sizeof(*good); k++) {
		size_t n = fmt_f64(good[k].v, buf);

		ck_assert_str_eq(buf, good[k].text);
		ck_assert_uint_eq(n, strlen(buf));
	}
}
END_TEST

/* Every double comes back, and no shorter text would have done. */
START_TEST(shortest_round_trip)
{
	for (uint64_t i = 0; i < 200000; i++) {
		uint64_t bits = rng_u64(1, i, 0);
		char buf[32], shorter[40];
		double v, back;
		int digits = 0;

		memcpy(&v, &bits, 8);
		if (!isfinite(v))
			continue;
		ck_assert_uint_lt(fmt_f64(v, buf), sizeof(buf));
		ck_assert(parse_f64(buf, &back) && back == v);
		for (const char *p = buf; *p && *p != 'e'; p++)
			digits += *p >= '0' && *p <= '9' && (digits || *p != '0');
		if (digits > 1 && strchr(buf, 'e')) { /* digits are all significant in this form */
			snprintf(shorter, sizeof(shorter), "%.*e", digits - 2, v);
			ck_assert_msg(strtod(shorter, NULL) != v, "%s could be %s", buf, shorter);
		}
	}
}
END_TEST

START_TEST(bytes)
{
	unsigned char b[9] = { 0 };

	put_u64(b + 1, 0x1122334455667788u);
	ck_assert_uint_eq(b[1], 0x88);
	ck_assert_uint_eq(b[8], 0x11);
	ck_assert(get_u64(b + 1) == 0x1122334455667788u);
	ck_assert_uint_eq(get_u32(b + 1), 0x55667788u);
	ck_assert_uint_eq(get_u16(b + 1), 0x7788);
	put_u32(b + 1, 0xfffefdfc);
	ck_assert_uint_eq(get_u32(b + 1), 0xfffefdfc);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("num");
	TCase *c = tcase_create("all");

	tcase_set_timeout(c, 60);
	tcase_add_test(c, whole_numbers);
	tcase_add_test(c, decimal_numbers);
	tcase_add_test(c, sizes);
	tcase_add_test(c, like_python_repr);
	tcase_add_test(c, shortest_round_trip);
	tcase_add_test(c, bytes);
	suite_add_tcase(s, c);
	return run_tests(s);
}
