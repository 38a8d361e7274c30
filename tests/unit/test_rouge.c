/* ROUGE against the Python package over some thousand pairs. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/rouge.h"
#include "json/jsonl.h"

static void same(const struct json *want, const struct rouge_prf *got, const char *what, uint64_t line)
{
	double v[3];

	ck_assert(json_is(want, JSON_ARR) && want->n == 3);
	for (int i = 0; i < 3; i++)
		ck_assert(json_as_f64(&want->items[i], &v[i]));
	ck_assert_msg(fabs(v[0] - got->p) <= 1e-9 && fabs(v[1] - got->r) <= 1e-9 && fabs(v[2] - got->f) <= 1e-9,
	              "line %d, %s: %.17g %.17g %.17g, wanted %.17g %.17g %.17g", (int)line, what, got->p, got->r, got->f, v[0], v[1], v[2]);
}

START_TEST(as_rouge_score)
{
	struct err e = ERR_INIT;
	struct in *in = in_open("tests/unit/data/rouge_pairs.jsonl.gz", &e);
	struct jsonl *j = in ? jsonl_open_take(in, "jsonl", &e) : NULL;
	struct rouge *r = rouge_new(true);
	struct jsonl_rec rec;
	size_t n = 0;
	int rc;

	ck_assert_msg(j != NULL, "%s", e.msg);
	while ((rc = jsonl_next(j, &rec, &e)) == 1) {
		const struct json *ref = json_get(&rec.v, "ref"), *cand = json_get(&rec.v, "cand");
		struct rouge_scores s;

		if (!ref)
			continue;
		ck_assert(json_is(ref, JSON_STR) && json_is(cand, JSON_STR));
		ck_assert_int_eq(rouge_score(r, ref->s, ref->n, cand->s, cand->n, &s, &e), 0);
		same(json_get(&rec.v, "rouge1"), &s.r1, "rouge1", rec.line);
		same(json_get(&rec.v, "rouge2"), &s.r2, "rouge2", rec.line);
		same(json_get(&rec.v, "rougeL"), &s.rl, "rougeL", rec.line);
		n++;
	}
	ck_assert_msg(rc == 0, "%s", e.msg);
	ck_assert_uint_ge(n, 1000);
	rouge_free(r);
	jsonl_close(j);
}
END_TEST

/* The textbook table, for the bit-parallel length. */
static size_t lcs_slow(const char *a, size_t n, const char *b, size_t m)
{
	size_t *t = calloc(m + 1, sizeof(*t)), diag, keep, best;

	for (size_t i = 0; i < n; i++) {
		diag = 0;
		for (size_t j = 0; j < m; j++) {
			keep = t[j + 1];
			if (a[2 * i] == b[2 * j])
				t[j + 1] = diag + 1;
			else if (t[j] > t[j + 1])
				t[j + 1] = t[j];
			diag = keep;
		}
	}
	best = t[m];
	free(t);
	return best;
}

START_TEST(lcs_by_table)
{
	struct rouge *r = rouge_new(true);
	struct err e = ERR_INIT;
	struct rouge_scores s;
	char a[1024], b[1024];
	uint32_t x = 1;

	for (int round = 0; round < 400; round++) {
		size_t n = 1 + (size_t)round % 300, m = 1 + (size_t)(round * 7) % 301;
		unsigned letters = 1 + (unsigned)round % 6;

		for (size_t i = 0; i < 512; i++) {
			x = x * 1664525u + 1013904223u;
			a[2 * i] = (char)('a' + (x >> 16) % letters);
			b[2 * i] = (char)('a' + (x >> 24) % letters);
			a[2 * i + 1] = b[2 * i + 1] = ' ';
		}
		ck_assert_int_eq(rouge_score(r, a, 2 * n - 1, b, 2 * m - 1, &s, &e), 0);
		ck_assert_double_eq_tol(s.rl.r * (double)n, (double)lcs_slow(a, n, b, m), 1e-6);
	}
	rouge_free(r);
}
END_TEST

/* More different words than the vocabulary keeps: scores stay right. */
START_TEST(vocabulary_turns_over)
{
	struct rouge *r = rouge_new(true);
	struct err e = ERR_INIT;
	struct rouge_scores s;
	size_t cap = 1 << 20, len;
	char *t = malloc(cap);

	for (int round = 0; round < 40; round++) {
		len = 0;
		for (int i = 0; i < 20000; i++)
			len += (size_t)snprintf(t + len, cap - len, "w%dq%d ", round, i);
		ck_assert_int_eq(rouge_score(r, t, len, t, len / 2, &s, &e), 0);
		ck_assert_double_ge(s.rl.p, 0.9999);
		ck_assert_double_eq(s.r1.p, s.rl.p);
		ck_assert_uint_eq(s.n_ref, 20000);
	}
	free(t);
	rouge_free(r);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("rouge");
	TCase *tc = tcase_create("rouge");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, as_rouge_score);
	tcase_add_test(tc, lcs_by_table);
	tcase_add_test(tc, vocabulary_turns_over);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
