/* The sample of token cases in the tree, against the library; the full sets
 * are build/tests/conformance's. */
#include <check.h>
#include <stdio.h>

#include "tests/conformance/cases.h"

static void run(const char *cases, const char *dir)
{
	struct cases_result n;
	struct err e = ERR_INIT;
	int rc = cases_tokens(cases, dir, false, &n, &e);

	printf("%s: %zu passed, %zu failed\n", cases, n.passed, n.failed);
	fflush(stdout); /* a failed assertion ends the process as it is */
	ck_assert_msg(rc == 0, "%s: %s", e.path, e.msg);
	ck_assert_uint_gt(n.passed, 0);
	ck_assert_uint_eq(n.failed, 0);
}

START_TEST(test_sample)
{
	run("tests/conformance/tokens/cases.jsonl.zst", "tests/conformance/tokens");
}
END_TEST

/* SentencePiece, tekken, tiktoken, a precompiled character map. */
START_TEST(test_kinds)
{
	run("tests/conformance/tokens/kinds.jsonl.zst", "tests/conformance/tokens");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tok_conformance");
	TCase *t = tcase_create("cases");
	SRunner *sr;
	int failed;

	tcase_set_timeout(t, 300);
	tcase_add_test(t, test_sample);
	tcase_add_test(t, test_kinds);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed != 0;
}
