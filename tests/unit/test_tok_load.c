/* Reading a large tokenizer.json: by one thread and by two, indented or not, the
 * same tokens; and what only looks like the place between two merges is none. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "base/sb.h"
#include "text/tok.h"
#include "text/tok_vocab.h"

static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789],["; /* the last ones part merges, too */
#define N (sizeof(letters) - 1)

struct form {
	const char *open, *comma, *close; /* of a merge, between its halves, behind it */
};
static const struct form compact = { "[\"", "\",\"", "\"]," }, indented = { "\n      [\n        \"", "\",\n        \"", "\"\n      ]," }, words = { "\"", " ", "\"," };

static void put(struct sb *s, const struct form *f, const char *a, int na, const char *b, int nb)
{
	sb_addf(s, "%s%.*s%s%.*s%s", f->open, na, a, f->comma, nb, b, f->close);
}

/* Every three letters are a token, and so are they with "],[" behind them: as a half,
 * that looks like the end of a merge and the beginning of the next. odd_first: these merges
 * stand before the others, up to the middle of the text and beyond, or there are few of them. */
static void write_file(const char *path, const struct form *f, bool odd_first)
{
	struct sb vocab = SB_INIT, merges[2] = { SB_INIT, SB_INIT }, pairs = SB_INIT;
	int id = 0;

	for (size_t i = 0; i < N; i++)
		sb_addf(&vocab, "\"%c\":%d,", letters[i], id++);
	for (size_t i = 0; i < N * N; i++) {
		char w[2] = { letters[i / N], letters[i % N] };

		sb_addf(&vocab, "\"%.2s\":%d,", w, id++);
		put(&pairs, f, w, 1, w + 1, 1);
	}
	for (size_t i = 0; i < N * N * N; i++) {
		char w[3] = { letters[i / N / N], letters[i / N % N], letters[i % N] };

		sb_addf(&vocab, "\"%.3s\":%d,\"%.3s],[\":%d,", w, id, w, id + 1);
		id += 2;
		put(&merges[0], f, w, 2, w + 2, 1);
		if (odd_first || i % 2)
			put(&merges[1], f, w, 3, "],[", 3);
	}
	FILE *out = fopen(path, "w");
	ck_assert(out != NULL);
	merges[!odd_first].s[--merges[!odd_first].len] = 0; /* no comma behind the last */
	fprintf(out, "{\"model\":{\"type\":\"BPE\",\"unk_token\":null,\"vocab\":{%s\"~\":%d},\"merges\":[%s%s%s]},\"added_tokens\":[]}", vocab.s, id, pairs.s, merges[odd_first].s,
	        merges[!odd_first].s);
	ck_assert_int_eq(fclose(out), 0);
	sb_release(&vocab);
	sb_release(&pairs);
	sb_release(&merges[0]);
	sb_release(&merges[1]);
}

static void encode(const char *path, int threads, struct sb *ids)
{
	struct tok_how how = { .threads = threads, .will_hash = threads > 1 };
	struct err e = ERR_INIT;
	struct tok *t = tok_load_hashed(path, NULL, &how, &e);
	struct tok_out o = { 0 };
	char text[400];

	ck_assert_msg(t != NULL, "%s", e.msg);
	sb_reset(ids);
	for (uint64_t k = 0; k < 50; k++) {
		for (size_t i = 0; i < sizeof(text); i++) {
			uint64_t r = rng_u64(3, k, i);

			text[i] = r % 3 ? letters[r / 3 % N] : "],["[i % 3];
		}
		o.n = 0;
		ck_assert_int_eq(tok_encode(t, text, sizeof(text), &o, &e), 0);
		for (size_t i = 0; i < o.n; i++)
			sb_addf(ids, "%d ", o.ids[i]);
	}
	sb_addf(ids, "%s", tok_sha256(t));
	tok_out_release(&o);
	tok_free(t);
}

START_TEST(test_threads)
{
	static const struct form *const forms[] = { &compact, &indented, &words };
	char dir[] = "/tmp/lp-tokload.XXXXXX", path[64];
	struct sb want = SB_INIT, got = SB_INIT, first[2] = { SB_INIT, SB_INIT };

	ck_assert(mkdtemp(dir) != NULL);
	snprintf(path, sizeof(path), "%s/tokenizer.json", dir);
	for (int k = 0; k < 6; k++) {
		bool odd_first = k % 2;

		write_file(path, forms[k / 2], odd_first);
		encode(path, 1, &want);
		encode(path, 2, &got);
		ck_assert_str_eq(sb_str(&got), sb_str(&want));
		want.s[want.len -= 64] = 0; /* without the file's hash: all forms say the same */
		if (k < 2)
			sb_adds(&first[odd_first], sb_str(&want));
		ck_assert_str_eq(sb_str(&want), sb_str(&first[odd_first]));
	}
	unlink(path);
	rmdir(dir);
	sb_release(&want);
	sb_release(&got);
	sb_release(&first[0]);
	sb_release(&first[1]);
}
END_TEST

/* Strings of all lengths, more than were announced. */
START_TEST(test_vocab_grows)
{
	struct vocab v = { 0 };
	struct err e = ERR_INIT;
	char s[64];

	ck_assert_int_eq(vocab_find(&v, "", 0), -1);
	for (int64_t id = 0; id < 30000; id++) {
		int n = snprintf(s, sizeof(s), "%0*lld", (int)(id % 40), (long long)id);

		ck_assert_int_eq(vocab_add(&v, s, (size_t)n, id, &e), 0);
	}
	ck_assert_int_eq(vocab_add(&v, "", 0, 30000, &e), 0);
	ck_assert(vocab_table_ok(&v, v.n_ids));
	for (int64_t id = 0; id < 30000; id++) {
		int n = snprintf(s, sizeof(s), "%0*lld", (int)(id % 40), (long long)id);

		ck_assert_int_eq(vocab_find(&v, s, (size_t)n), id);
		s[n - 1] = 'x';
		ck_assert_int_eq(vocab_find(&v, s, (size_t)n), -1);
	}
	ck_assert_int_eq(vocab_find(&v, "", 0), 30000);
	ck_assert_int_eq(vocab_add(&v, "new", 3, 17, &e), -1); /* an id with a string */
	vocab_release(&v);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tok_load");
	TCase *t = tcase_create("tok_load");
	SRunner *sr;
	int failed;

	tcase_set_timeout(t, 120);
	tcase_add_test(t, test_threads);
	tcase_add_test(t, test_vocab_grows);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed != 0;
}
