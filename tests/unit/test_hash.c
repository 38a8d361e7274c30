/* base/hash.c: known answers of the two functions, and streaming in pieces. */
#include "scratch.h"

#include "base/hash.h"

START_TEST(sha256_known)
{
	char hex[65];
	char *million = malloc(1000000);

	sha_once("", 0, hex);
	ck_assert_str_eq(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	sha_once("abc", 3, hex);
	ck_assert_str_eq(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	memset(million, 'a', 1000000);
	sha_once(million, 1000000, hex);
	ck_assert_str_eq(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
	free(million);
}
END_TEST

START_TEST(xxh3_known)
{
	char hex[33];

	xxh_once("", 0, hex);
	ck_assert_str_eq(hex, "99aa06d3014798d86001c324468d497f");
	ck_assert(xxh_u64("", 0, 0) == 0x2d06800538d394c2u);
}
END_TEST

START_TEST(pieces_are_the_whole)
{
	unsigned char buf[5000];
	char whole[33], parts[33], sha_whole[65], sha_parts[65];

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (unsigned char)(i * 31 + i / 256);
	xxh_once(buf, sizeof(buf), whole);
	sha_once(buf, sizeof(buf), sha_whole);
	for (size_t step = 1; step < 700; step += 37) {
		struct xxh *h = xxh_new(), *copy;
		struct sha *s = sha_new();

		for (size_t i = 0; i < sizeof(buf); i += step) {
			size_t n = sizeof(buf) - i < step ? sizeof(buf) - i : step;

			xxh_add(h, buf + i, n);
			xxh_hex(h, parts); /* looking does not disturb */
			sha_add(s, buf + i, n);
		}
		copy = xxh_copy(h);
		xxh_add(h, "x", 1);
		xxh_hex(copy, parts);
		ck_assert_str_eq(parts, whole);
		sha_hex(s, sha_parts);
		ck_assert_str_eq(sha_parts, sha_whole);
		xxh_free(h);
		xxh_free(copy);
		sha_free(s);
	}
	xxh_free(NULL);
	sha_free(NULL);
}
END_TEST

START_TEST(files)
{
	char hex[65], want[65];

	scratch_open();
	put_text(at("a"), "abc");
	put_text(at("empty"), "");
	OK(sha_file(at("a"), hex, &er));
	sha_once("abc", 3, want);
	ck_assert_str_eq(hex, want);
	OK(sha_file(at("empty"), hex, &er));
	sha_once("", 0, want);
	ck_assert_str_eq(hex, want);
	BAD(sha_file(at("none"), hex, &er), LP_IO, "cannot open");
	BAD(sha_file(scratch, hex, &er), LP_IO, "cannot read");
	scratch_close();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("hash");
	TCase *c = tcase_create("all");

	tcase_add_test(c, sha256_known);
	tcase_add_test(c, xxh3_known);
	tcase_add_test(c, pieces_are_the_whole);
	tcase_add_test(c, files);
	suite_add_tcase(s, c);
	return run_tests(s);
}
