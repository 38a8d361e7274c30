/* base/err.c. */
#include "scratch.h"

#include <errno.h>

START_TEST(keeps_where_it_happened)
{
	struct err e = ERR_INIT;

	ck_assert_int_eq(err_where(&e, "a.jsonl", 7), -1);
	ck_assert_int_eq(err_set(&e, LP_DATA, "field '%s' is missing", "role"), -1);
	ck_assert_str_eq(e.path, "a.jsonl");
	ck_assert_uint_eq(e.line, 7);
	ck_assert_str_eq(e.msg, "field 'role' is missing");
	ck_assert_int_eq(e.code, LP_DATA);
	err_where(&e, "b.jsonl", 9); /* has both already */
	ck_assert_str_eq(e.path, "a.jsonl");
	ck_assert_uint_eq(e.line, 7);
	err_sys(&e, "out", "write"); /* the record that was being written is a line of another file */
	err_where(&e, "a.jsonl", 7);
	ck_assert_str_eq(e.path, "out");
	ck_assert_uint_eq(e.line, 0);
	err_line(&e, LP_DATA, "c.jsonl", 1, "x");
	ck_assert_str_eq(e.path, "c.jsonl");
	ck_assert_uint_eq(e.line, 1);
}
END_TEST

START_TEST(message_may_quote_itself)
{
	struct err e = ERR_INIT;

	err_set(&e, LP_DATA, "inner");
	err_off(&e, LP_IO, NULL, 12, "outer: %s", e.msg);
	ck_assert_str_eq(e.msg, "outer: inner");
	ck_assert_str_eq(e.path, "");
	ck_assert_int_eq(e.off, 12);
	ck_assert_int_eq(e.code, LP_IO);
}
END_TEST

START_TEST(long_texts_are_cut)
{
	struct err e = ERR_INIT;
	char big[4096];

	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	err_line(&e, LP_DATA, big, 1, "%s", big);
	ck_assert_uint_eq(strlen(e.path), sizeof(e.path) - 1);
	ck_assert_uint_eq(strlen(e.msg), sizeof(e.msg) - 1);
}
END_TEST

START_TEST(system_errors)
{
	struct err e = ERR_INIT;

	errno = ENOSPC;
	ck_assert_int_eq(err_sys(&e, "/full", "write"), -1);
	ck_assert_str_eq(e.msg, "cannot write: No space left on device");
	ck_assert_str_eq(e.path, "/full");
	ck_assert_int_eq(e.code, LP_IO);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("err");
	TCase *c = tcase_create("all");

	tcase_add_test(c, keeps_where_it_happened);
	tcase_add_test(c, message_may_quote_itself);
	tcase_add_test(c, long_texts_are_cut);
	tcase_add_test(c, system_errors);
	suite_add_tcase(s, c);
	return run_tests(s);
}
