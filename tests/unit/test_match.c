/* Comparisons of answers. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "eval/match.h"
#include "json/jsonl.h"

#define S(x) x, sizeof(x) - 1

START_TEST(exact)
{
	ck_assert(match_exact(S("a b"), S(" a b\n")));
	ck_assert(!match_exact(S("a b"), S("a  b")));
	ck_assert(match_exact(S(""), S(" \n")));
	ck_assert(!match_exact(S("A"), S("a")));
}
END_TEST

START_TEST(normalised)
{
	ck_assert(match_normalised(S("The Answer, is: 42!"), S("answer is 42")));
	ck_assert(match_normalised(S("an a the"), S("")));
	ck_assert(!match_normalised(S("theory"), S("ory")));
	ck_assert(match_normalised(S("Stra\xc3\x9f" "e"), S("STRASSE")));
	ck_assert(match_normalised(S("caf\xc3\xa9"), S("CAFE\xcc\x81")));
	ck_assert(match_normalised(S("a\xc2\xa0" "b"), S("b")));
	ck_assert(!match_normalised(S("4.2"), S("4 2")));
	ck_assert(!match_normalised(S("\1"), S("")));
	ck_assert(match_normalised(S("  A\tb,  \n"), S("B")));
}
END_TEST

/* SQuAD's own function said which of the pairs match. */
START_TEST(as_squad)
{
	struct err e = ERR_INIT;
	struct in *in = in_open("tests/unit/data/rouge_pairs.jsonl.gz", &e);
	struct jsonl *j = in ? jsonl_open_take(in, "jsonl", &e) : NULL;
	struct jsonl_rec rec;
	size_t yes = 0, no = 0;

	ck_assert_msg(j != NULL, "%s", e.msg);
	while (jsonl_next(j, &rec, &e) == 1) {
		const struct json *ref = json_get(&rec.v, "ref"), *cand = json_get(&rec.v, "cand"), *em = json_get(&rec.v, "em");

		if (!em)
			continue;
		ck_assert_msg(match_normalised(ref->s, ref->n, cand->s, cand->n) == em->b, "line %d", (int)rec.line);
		yes += em->b;
		no += !em->b;
	}
	ck_assert_uint_gt(yes, 10);
	ck_assert_uint_gt(no, 500);
	jsonl_close(j);
}
END_TEST

START_TEST(format)
{
	ck_assert(match_format(S("x"), S("y")));
	ck_assert(match_format(S("```c\nx\n```"), S("so: ```y```")));
	ck_assert(!match_format(S("```"), S("``")));
	ck_assert(!match_format(S(""), S("```")));
}
END_TEST

START_TEST(lengths)
{
	ck_assert_uint_eq(match_code_points(S("a\xc3\xa9\xf0\x9f\x98\x80")), 3);
	ck_assert_uint_eq(match_prefix(S("a\xc3\xa9\xf0\x9f\x98\x80"), 2), 3);
	ck_assert_uint_eq(match_prefix(S("a\xc3\xa9"), 9), 3);
	ck_assert_uint_eq(match_prefix(S("abc"), 0), 0);
}
END_TEST

START_TEST(json)
{
	bool valid;

	ck_assert(match_json(S("{\"a\":1,\"b\":[true,null]}"), S(" {\"b\":[true,null], \"a\":1.0}"), &valid));
	ck_assert(valid);
	ck_assert(match_json(S("[1]"), S("```json\n[1]\n```"), &valid));
	ck_assert(!match_json(S("[1,2]"), S("[2,1]"), &valid));
	ck_assert(valid);
	ck_assert(!match_json(S("{\"a\":1}"), S("{\"a\":1,\"b\":2}"), &valid));
	ck_assert(!match_json(S("{}"), S("{\"a\":"), &valid));
	ck_assert(!valid);
	ck_assert(!match_json(S("9007199254740993"), S("9007199254740992"), &valid));
	ck_assert(match_json(S("\"\\u00e9\""), S("\"\xc3\xa9\""), &valid));
	ck_assert(!match_json(NULL, 0, S("1"), &valid));
	ck_assert(valid);
	ck_assert(!match_json(S("[1]"), S("[1]\0"), &valid));
}
END_TEST

static int re(const char *pattern, const char *expected, const char *response)
{
	struct err e = ERR_INIT;
	struct match_regex *m = match_regex_new(pattern, &e);
	int rc;

	ck_assert_msg(m != NULL, "%s", e.msg);
	rc = match_regex_test(m, expected, strlen(expected), response, strlen(response), &e);
	match_regex_free(m);
	return rc;
}

START_TEST(regex)
{
	ck_assert_int_eq(re("^yes", "", "well\nyes"), 0);
	ck_assert_int_eq(re("(?m)^yes", "", "well\nyes"), 1);
	ck_assert_int_eq(re("^[^a-z]+$", "", "ONE\nTWO"), 1);
	ck_assert_int_eq(re("^[^a-z]+$", "", "ONE\n\ntwo"), 0);
	ck_assert_int_eq(re("^yes", "", "no yes"), 0);
	ck_assert_int_eq(re("#### (\\S+)", "so\n#### 42", "first #### 7 then\n#### 42"), 1);
	ck_assert_int_eq(re("#### (\\S+)", "#### 42", "#### 7"), 0);
	ck_assert_int_eq(re("#### (\\S+)", "no answer", "#### 7"), 0);
	ck_assert_int_eq(re("(\\d*)", "12", "a12"), 1); /* the last match is the empty one at the end of both */
	ck_assert_int_eq(re("(\\d+)|x", "x", "x"), 1);
	ck_assert_int_eq(re("\\w+$", "", "caf\xc3\xa9"), 1);
}
END_TEST

START_TEST(regex_bad)
{
	struct err e = ERR_INIT;
	struct match_regex *m = match_regex_new("(", &e);
	char bad[64];

	ck_assert(m == NULL);
	ck_assert_int_eq(e.code, LP_USAGE);
	m = match_regex_new("(a+)+$", &e);
	ck_assert(m != NULL && match_regex_has_group(m));
	memset(bad, 'a', sizeof(bad));
	bad[63] = 'b';
	/* Either answer is right; never-ending is not. */
	ck_assert_int_le(match_regex_test(m, "", 0, bad, sizeof(bad), &e), 0);
	ck_assert_int_eq(match_regex_test(m, "", 0, "\xff", 1, &e), -1);
	ck_assert_int_eq(e.code, LP_DATA);
	match_regex_free(m);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("match");
	TCase *tc = tcase_create("match");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_add_test(tc, exact);
	tcase_add_test(tc, normalised);
	tcase_add_test(tc, as_squad);
	tcase_add_test(tc, format);
	tcase_add_test(tc, lengths);
	tcase_add_test(tc, json);
	tcase_add_test(tc, regex);
	tcase_add_test(tc, regex_bad);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
