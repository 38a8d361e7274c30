/* UTF-8: every code point there and back, and what is not valid. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "text/tok.h"
#include "text/utf8.h"

/* ck_assert for millions of cases is slow. */
static void must(bool ok, uint32_t c)
{
	if (!ok)
		ck_abort_msg("wrong for %#x", c);
}

START_TEST(every_code_point)
{
	char u[8];
	unsigned n, m;

	for (uint32_t c = 0; c < 0x110000; c++) {
		n = utf8_put(u, c);
		if (c >= 0xD800 && c < 0xE000) {
			must(utf8_valid_len(u, n) == 0, c);
			continue;
		}
		must(utf8_valid_len(u, n) == n, c);
		must(utf8_get(u, &m) == c, c);
		must(m == n, c);
		must(utf8_prev(u, n) == 0, c);
		must(utf8_complete_len(u, n) == n, c);
		for (unsigned k = 1; k < n; k++) { /* beginnings of it are unfinished, not valid */
			must(utf8_valid_len(u, k) == 0, c);
			must(utf8_complete_len(u, k) == 0, c);
		}
	}
}
END_TEST

START_TEST(every_pair_of_bytes)
{
	/* By the definition: decode, encode again, compare. */
	for (unsigned a = 0; a < 256; a++)
		for (unsigned b = 0; b < 256; b++) {
			char s[2] = { (char)a, (char)b };
			bool two = a >= 0xC2 && a <= 0xDF && b >= 0x80 && b <= 0xBF;
			size_t want = two || (a < 0x80 && b < 0x80) ? 2 : a < 0x80 ? 1 : 0;

			must(utf8_valid_len(s, 2) == want, a << 8 | b);
		}
}
END_TEST

START_TEST(not_valid)
{
	static const struct { const char *s; size_t n, ok; } bad[] = {
		{ "abcdefghij\xFF", 11, 10 }, { "\xC0\x80", 2, 0 }, { "\xE0\x9F\xBF", 3, 0 }, { "\xED\xA0\x80", 3, 0 }, { "\xF0\x8F\xBF\xBF", 4, 0 },
		{ "\xF4\x90\x80\x80", 4, 0 }, { "\xF5\x80\x80\x80", 4, 0 }, { "ok\xE2\x82", 4, 2 }, { "\xE2\x28\xA1", 3, 0 }, { "12345678\x80", 9, 8 },
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		ck_assert_uint_eq(utf8_valid_len(bad[i].s, bad[i].n), bad[i].ok);
	/* What can no longer become valid is not held back. */
	ck_assert_uint_eq(utf8_complete_len("a\xED\xA0", 3), 3);
	ck_assert_uint_eq(utf8_complete_len("a\xFF", 2), 2);
	ck_assert_uint_eq(utf8_complete_len("a\xF0\x9F\x98", 4), 1);
	ck_assert_uint_eq(utf8_complete_len("\x80\x80\x80\x80", 4), 4);
	ck_assert_uint_eq(utf8_complete_len("", 0), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("utf8");
	TCase *tc = tcase_create("utf8");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, every_code_point);
	tcase_add_test(tc, every_pair_of_bytes);
	tcase_add_test(tc, not_valid);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
