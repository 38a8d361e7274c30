/* The stemmer against NLTK's answers for some ten thousand words. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/in.h"
#include "eval/porter.h"

START_TEST(as_nltk)
{
	struct err e = ERR_INIT;
	struct in *in = in_open("tests/unit/data/porter_words.txt.gz", &e);
	const char *line;
	size_t len, n_words = 0;
	int rc;

	ck_assert_msg(in != NULL, "%s", e.msg);
	while ((rc = in_line(in, &line, &len, 4096, &e)) == 1) {
		const char *sp = memchr(line, ' ', len);
		char w[64];
		size_t n;

		ck_assert(sp != NULL && (size_t)(sp - line) < sizeof(w));
		n = (size_t)(sp - line);
		memcpy(w, line, n);
		n = porter_stem(w, n);
		ck_assert_msg(n == len - (size_t)(sp - line) - 1 && memcmp(w, sp + 1, n) == 0, "%.*s: got %.*s", (int)len, line, (int)n, w);
		n_words++;
	}
	ck_assert_msg(rc == 0, "%s", e.msg);
	ck_assert_uint_gt(n_words, 10000);
	in_close(in);
}
END_TEST

/* A long run of y must not take quadratic time, nor write past the word. */
START_TEST(long_words)
{
	size_t n = 1 << 20;
	char *w = malloc(n + 1);

	memset(w, 'y', n);
	w[n] = '#';
	ck_assert_uint_le(porter_stem(w, n), n);
	ck_assert_int_eq(w[n], '#');
	free(w);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("porter");
	TCase *tc = tcase_create("porter");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_add_test(tc, as_nltk);
	tcase_add_test(tc, long_words);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
