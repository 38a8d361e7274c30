/* Tables kept from run to run: the same tokens with them and without, and
 * whatever is wrong with the file only means that it is made again. */
#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/in.h"
#include "base/sb.h"
#include "base/xalloc.h"
#include "text/tok.h"

static char dir[] = "/tmp/lp-tokcache.XXXXXX";
static char model[64], kept[512];

static void unpack(const char *name)
{
	char *path = xasprintf("tests/conformance/tokens/%s.json.zst", name), *text;
	struct err e = ERR_INIT;
	size_t n;
	FILE *f;

	text = in_slurp(path, 64u << 20, &n, &e);
	ck_assert_msg(text != NULL, "%s", e.msg);
	snprintf(model, sizeof(model), "%s/tokenizer.json", dir);
	f = fopen(model, "w");
	ck_assert(f && fwrite(text, 1, n, f) == n && !fclose(f));
	free(text);
	free(path);
}

/* Tokens of one, two and three bytes, as ranks or in a tekken.json. */
static void make_ranks(bool tekken)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const unsigned n = 256 + 65536 + 40000;
	FILE *f;

	snprintf(model, sizeof(model), "%s/%s", dir, tekken ? "tekken.json" : "o200k.tiktoken");
	f = fopen(model, "w");
	ck_assert(f != NULL);
	if (tekken)
		fprintf(f, "{\"config\":{\"pattern\":\"\\\\s+|\\\\S+\",\"default_vocab_size\":%u,\"default_num_special_tokens\":20},\"vocab\":[", n + 20);
	for (unsigned i = 0; i < n; i++) {
		int bytes = i < 256 ? 1 : i < 256 + 65536 ? 2 : 3;
		unsigned x = bytes == 1 ? i << 16 : bytes == 2 ? (i - 256) << 8 : (i - 256 - 65536) * 350u + 0x202020;
		char b64[5] = { digits[x >> 18], digits[x >> 12 & 63], bytes > 1 ? digits[x >> 6 & 63] : '=', bytes > 2 ? digits[x & 63] : '=', 0 };

		if (tekken)
			fprintf(f, "%s{\"rank\":%u,\"token_bytes\":\"%s\",\"token_str\":null}", i ? "," : "", i, b64);
		else
			fprintf(f, "%s %u\n", b64, i);
	}
	if (tekken)
		fputs("]}", f);
	ck_assert_int_eq(fclose(f), 0);
}

static void find_kept(void)
{
	char *at = xasprintf("%s/cache/lorapipe", dir);
	DIR *d = opendir(at);
	const struct dirent *x;
	int n = 0;

	ck_assert(d != NULL);
	while ((x = readdir(d)) != NULL)
		if (x->d_name[0] != '.') {
			snprintf(kept, sizeof(kept), "%s/%s", at, x->d_name);
			n++;
		}
	ck_assert_int_eq(n, 1);
	closedir(d);
	free(at);
}

/* The ids of some text, from a tokeniser that was made of kept tables or not. */
static void ids(bool was_kept, struct sb *out)
{
	const char *text = "Some words, it's 1234 of them \xC3\xA9\xE6\x97\xA5\xF0\x9F\x98\x80\n\n  def f(x):\n\treturn x<|im_end|>e\xCC\x81";
	struct err e = ERR_INIT;
	struct tok_how how = { .keep = true, .threads = 1 };
	struct tok *t = tok_load_hashed(model, NULL, &how, &e);
	struct tok_out o = { 0 };

	ck_assert_msg(t != NULL, "%s", e.msg);
	ck_assert_int_eq(tok_was_kept(t), was_kept);
	ck_assert(tok_sha256(t) != NULL);
	ck_assert_int_eq(tok_encode(t, text, strlen(text), &o, &e), 0);
	sb_reset(out);
	for (size_t i = 0; i < o.n; i++)
		sb_addf(out, "%d[%u,%u) ", o.ids[i], o.begin[i], o.end[i]);
	ck_assert_int_eq(tok_decode(t, o.ids, o.n, false, out, &e), 0);
	sb_addf(out, " %lld %d %s", (long long)tok_vocab_size(t), tok_id(t, "the"), tok_sha256(t));
	tok_out_release(&o);
	tok_free(t);
}

static void change(long at, int byte)
{
	FILE *f = fopen(kept, "r+");

	ck_assert(f && !fseek(f, at, at < 0 ? SEEK_END : SEEK_SET) && fputc(byte, f) == byte && !fclose(f));
}

/* The file model. */
static void go(void)
{
	struct sb want = SB_INIT, got = SB_INIT;
	struct stat st;
	char *other;

	ids(false, &want);
	find_kept();
	for (int k = 0; k < 6; k++) {
		ids(true, &got);
		ck_assert_str_eq(sb_str(&got), sb_str(&want));
		ck_assert_int_eq(stat(kept, &st), 0);
		if (k == 0)
			unlink(kept);
		else if (k == 1)
			change(st.st_size / 2, 0x5A);
		else if (k == 2)
			change(9, 0x7F); /* the header */
		else if (k == 3)
			ck_assert_int_eq(truncate(kept, st.st_size / 3), 0);
		else
			ck_assert_int_eq(truncate(kept, 0), 0);
		ids(false, &got);
		ck_assert_str_eq(sb_str(&got), sb_str(&want));
	}
	unlink(kept);
	other = xasprintf("%s/cache/lorapipe", dir); /* a file where the folder should be */
	ck_assert_int_eq(rmdir(other), 0);
	ck_assert(fclose(fopen(other, "w")) == 0);
	ids(false, &got);
	ids(false, &got);
	ck_assert_str_eq(sb_str(&got), sb_str(&want));
	unlink(other);
	free(other);
	sb_release(&want);
	sb_release(&got);
}

START_TEST(kept_tables)
{
	static const char *const names[] = { "qwen2.5", "phi-3-mini", "gpt-2" };

	for (size_t i = 0; i < 3; i++) {
		unpack(names[i]);
		go();
	}
}
END_TEST

START_TEST(kept_ranks)
{
	for (int tekken = 0; tekken < 2; tekken++) {
		make_ranks(tekken);
		go();
		unlink(model);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tok_cache");
	TCase *tc = tcase_create("tok_cache");
	SRunner *sr = srunner_create(s);
	char *cache;
	int failed;

	if (!mkdtemp(dir))
		return EXIT_FAILURE;
	cache = xasprintf("%s/cache", dir);
	setenv("XDG_CACHE_HOME", cache, 1);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, kept_tables);
	tcase_add_test(tc, kept_ranks);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	unlink(model);
	snprintf(model, sizeof(model), "%s/tokenizer.json", dir);
	unlink(model);
	rmdir(cache);
	rmdir(dir);
	free(cache);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
