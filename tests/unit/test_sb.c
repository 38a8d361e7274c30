/* base/sb.c. */
#include "scratch.h"

#include "base/sb.h"

START_TEST(empty_is_a_string)
{
	struct sb b = SB_INIT;
	char *s;

	ck_assert_str_eq(sb_str(&b), "");
	sb_reset(&b);
	s = sb_detach(&b);
	ck_assert_str_eq(s, "");
	free(s);
	sb_add(&b, NULL, 0);
	ck_assert_str_eq(b.s, "");
	sb_release(&b);
	sb_release(&b);
}
END_TEST

START_TEST(all_ways_of_adding)
{
	struct sb b = SB_INIT;

	sb_adds(&b, "a");
	sb_addc(&b, 'b');
	sb_add(&b, "c\0d", 3);
	sb_addf(&b, "-%d-%s", 42, "x");
	ck_assert_uint_eq(b.len, 10);
	ck_assert_int_eq(memcmp(b.s, "abc\0d-42-x", 11), 0);
	sb_reset(&b);
	ck_assert_uint_eq(b.len, 0);
	ck_assert_str_eq(b.s, "");
	sb_release(&b);
}
END_TEST

START_TEST(grows_at_every_length)
{
	struct sb b = SB_INIT;
	char *big = malloc(100001);

	memset(big, 'y', 100000);
	big[100000] = 0;
	for (size_t i = 0; i < 5000; i++) {
		sb_addc(&b, (char)('a' + i % 26));
		ck_assert_int_eq(b.s[b.len], 0);
	}
	for (size_t i = 0; i < 5000; i++)
		ck_assert_int_eq(b.s[i], (char)('a' + i % 26));
	sb_addf(&b, "<%s>", big);
	ck_assert_uint_eq(b.len, 5000 + 100002);
	ck_assert_int_eq(b.s[b.len - 1], '>');
	sb_release(&b);
	for (size_t n = 0; n < 300; n++) { /* the formatted text meets the capacity exactly */
		struct sb f = SB_INIT;

		sb_addf(&f, "%.*s", (int)n, big);
		ck_assert_uint_eq(f.len, n);
		ck_assert_uint_eq(strlen(f.s), n);
		sb_release(&f);
	}
	free(big);
}
END_TEST

START_TEST(detach_leaves_it_empty)
{
	struct sb b = SB_INIT;
	char *s;

	sb_adds(&b, "gone");
	s = sb_detach(&b);
	ck_assert_str_eq(s, "gone");
	ck_assert_ptr_null(b.s);
	ck_assert_uint_eq(b.len, 0);
	free(s);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("sb");
	TCase *c = tcase_create("all");

	tcase_add_test(c, empty_is_a_string);
	tcase_add_test(c, all_ways_of_adding);
	tcase_add_test(c, grows_at_every_length);
	tcase_add_test(c, detach_leaves_it_empty);
	suite_add_tcase(s, c);
	return run_tests(s);
}
