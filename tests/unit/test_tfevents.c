/* Event files, byte for byte as the tensorboard package writes them (tests/oracle/make_tfevents.py). */
#include "scratch.h"

#include <math.h>

#include "fmt/tfevents.h"

START_TEST(crc)
{
	static const char zeros[32];

	/* RFC 3720, B.4 */
	ck_assert_uint_eq(crc32c("123456789", 9), 0xe3069283u);
	ck_assert_uint_eq(crc32c(zeros, sizeof(zeros)), 0x8a9136aau);
}
END_TEST

START_TEST(golden)
{
	char tag[256] = "eval/";
	struct sb out = SB_INIT;
	size_t n;
	char *want = get_file("tests/unit/data/tfevents", &n);

	memset(tag + 5, 'x', 200);
	tag[205] = 0;
	tfevents_version(&out, 1763784000.0);
	tfevents_start(&out, 1763784000.125, 300);
	tfevents_scalar(&out, 1763784001.5, 0, "train/loss", 2.25);
	tfevents_scalar(&out, 1763784002.5, 1, "train/loss", (double)NAN);
	tfevents_scalar(&out, 1763784003.5, 128, "train/lr", 1e-4);
	tfevents_scalar(&out, 1763784004.5, (int64_t)1 << 40, tag, -INFINITY);
	ck_assert_uint_eq(out.len, n);
	ck_assert_mem_eq(out.s, want, n);
	free(want);
	sb_release(&out);
}
END_TEST

START_TEST(files)
{
	struct tfevents *t;
	struct sb r = SB_INIT;

	scratch_open();
	t = tfevents_open(at("tb"), &er);
	ck_assert_ptr_nonnull(t);
	tfevents_scalar(&r, 1, 2, "a", 3);
	OK(tfevents_put(t, &r, &er));
	OK(tfevents_close(t, &er));
	sb_release(&r);
	ck_assert_ptr_null(tfevents_open(at("none/tb"), &er));
	ck_assert_int_eq(er.code, LP_IO);
	scratch_close();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tfevents");
	TCase *t = tcase_create("tfevents");
	SRunner *r;
	int failed;

	tcase_add_test(t, crc);
	tcase_add_test(t, golden);
	tcase_add_test(t, files);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
