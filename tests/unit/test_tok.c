/* The tokeniser as a whole: refusals by name, offsets, decoding in steps, many
 * threads on one tokeniser. What ids are right: test_tok_conformance.c. */
#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/in.h"
#include "base/xalloc.h"
#include "text/tok.h"

#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"c\":3,\"<unk>\":4,\"abc\":5,\"\\u0120\":6}"
#define BPE(more, merges) "{\"added_tokens\":[]," more "\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":" merges "}}"

static struct tok *parse(const char *json, struct err *e)
{
	return tok_new(json, strlen(json), NULL, "test.json", e);
}

static void refused(const char *json, enum lp_status code, const char *says)
{
	struct err e = ERR_INIT;
	struct tok *t = parse(json, &e);

	ck_assert_msg(t == NULL, "accepted: %s", json);
	ck_assert_msg(strstr(e.msg, says) != NULL, "'%s' does not say '%s'", e.msg, says);
	ck_assert_int_eq(e.code, code);
	ck_assert_str_eq(e.path, "test.json");
}

START_TEST(refusals)
{
	refused("{}", LP_DATA, "no model");
	refused("[]", LP_DATA, "not an object");
	refused("{\"model\":", LP_DATA, "");
	refused("{\"model\":{\"type\":\"Magic\",\"vocab\":{}}}", LP_USAGE, "model 'Magic' is not supported");
	refused(BPE("\"normalizer\":{\"type\":\"Rot13\"},", "[]"), LP_USAGE, "normalizer 'Rot13'");
	refused(BPE("\"pre_tokenizer\":{\"type\":\"Knife\"},", "[]"), LP_USAGE, "pre-tokenizer 'Knife'");
	refused(BPE("\"decoder\":{\"type\":\"Enigma\"},", "[]"), LP_USAGE, "decoder 'Enigma'");
	refused(BPE("\"post_processor\":{\"type\":\"Blender\"},", "[]"), LP_USAGE, "post-processor 'Blender'");
	/* Merges that the reference refuses. */
	refused(BPE("", "[\"a b\",\"a x\"]"), LP_DATA, "merge 1: 'x' is not in the vocabulary");
	refused(BPE("", "[\"b a\"]"), LP_DATA, "merge 0 makes 'ba'");
	refused(BPE("", "[\"ab\"]"), LP_DATA, "merge 0 is not two tokens");
	refused(BPE("", "[\"a b c\"]"), LP_DATA, "merge 0 is not two tokens");
	refused(BPE("", "[[\"a\"]]"), LP_DATA, "merge 0 is not two tokens");
	refused("{\"model\":{\"type\":\"BPE\",\"dropout\":0.1," VOCAB ",\"merges\":[]}}", LP_USAGE, "dropout");
	refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", LP_DATA, "token id -1");
	refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":999999999999},\"merges\":[]}}", LP_DATA, "token id 999999999999");
	refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", LP_DATA, "two strings");
}
END_TEST

static void expect(struct tok *t, const char *text, const char *want)
{
	struct tok_out o = { 0 };
	struct err e = ERR_INIT;
	struct sb got = SB_INIT;

	ck_assert_msg(tok_encode(t, text, strlen(text), &o, &e) == 0, "%s", e.msg);
	for (size_t i = 0; i < o.n; i++)
		sb_addf(&got, "%s%d[%u,%u]", i ? " " : "", o.ids[i], o.begin[i], o.end[i]);
	ck_assert_str_eq(sb_str(&got), want);
	sb_release(&got);
	tok_out_release(&o);
}

START_TEST(merging)
{
	struct err e = ERR_INIT;
	struct tok *t = parse(BPE("", "[[\"a\",\"b\"],\"ab c\"]"), &e);

	ck_assert_msg(t != NULL, "%s", e.msg);
	expect(t, "", "");
	expect(t, "abcab", "5[0,3] 2[3,5]");
	expect(t, "axb", "2[0,3]"); /* no unknown token: x is left out, and its neighbours meet */
	tok_free(t);
	t = parse("{\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true," VOCAB ",\"merges\":[\"a b\"]}}", &e);
	expect(t, "xyab\xC3\xA9", "4[0,2] 2[2,4] 4[4,6]");
	tok_free(t);
	t = parse("{\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\"," VOCAB ",\"merges\":[\"a b\"]}}", &e);
	expect(t, "xyab", "4[0,1] 4[1,2] 2[2,4]");
	tok_free(t);
}
END_TEST

START_TEST(long_words) /* the heap gives what the short loop gives */
{
	struct err e = ERR_INIT;
	struct tok *t = parse(BPE("", "[\"a b\",\"ab c\"]"), &e);
	char text[3001];
	struct tok_out o = { 0 };

	for (int i = 0; i < 3000; i++)
		text[i] = "abc"[i % 3];
	text[3000] = 0;
	ck_assert_int_eq(tok_encode(t, text, 3000, &o, &e), 0);
	ck_assert_uint_eq(o.n, 1000);
	for (size_t i = 0; i < o.n; i++) {
		ck_assert_int_eq(o.ids[i], 5);
		ck_assert_uint_eq(o.begin[i], 3 * i);
		ck_assert_uint_eq(o.end[i], 3 * i + 3);
	}
	tok_out_release(&o);
	tok_free(t);
}
END_TEST

START_TEST(bad_text)
{
	struct err e = ERR_INIT;
	struct tok *t = parse(BPE("", "[]"), &e);
	struct tok_out o = { 0 };

	ck_assert_int_eq(tok_encode(t, "ab\xFF", 3, &o, &e), -1);
	ck_assert_int_eq(e.code, LP_DATA);
	ck_assert(strstr(e.msg, "byte 2") != NULL);
	ck_assert_int_eq(tok_encode(t, "a\0b", 3, &o, &e), 0);
	ck_assert_uint_eq(o.n, 2);
	ck_assert_str_eq(tok_piece(t, 2), "ab");
	ck_assert_int_eq(tok_id(t, "ab"), 2);
	ck_assert_int_eq(tok_id(t, "zz"), -1);
	ck_assert(tok_piece(t, 7) == NULL && tok_piece(t, -1) == NULL);
	ck_assert_int_eq(tok_vocab_size(t), 7);
	tok_out_release(&o);
	tok_free(t);
}
END_TEST

static struct tok *load_sample(const char *name, const char *config)
{
	char *path = xasprintf("tests/conformance/tokens/%s.json.zst", name), *text;
	struct err e = ERR_INIT;
	struct tok *t;
	size_t n;

	text = in_slurp(path, 64u << 20, &n, &e);
	ck_assert_msg(text != NULL, "%s", e.msg);
	t = tok_new(text, n, config, name, &e);
	ck_assert_msg(t != NULL, "%s", e.msg);
	free(text);
	free(path);
	return t;
}

START_TEST(special_tokens)
{
	struct tok *t = load_sample("llama3", "{\"bos_token\":{\"content\":\"<|special|>\"},\"eos_token\":\"[L]\"}");
	struct err e = ERR_INIT;
	struct sb s = SB_INIT;
	int32_t ids[2];

	ids[0] = tok_bos(t);
	ids[1] = tok_id(t, "a");
	ck_assert_int_eq(ids[0], tok_id(t, "<|special|>"));
	ck_assert_int_eq(tok_eos(t), tok_id(t, "[L]"));
	ck_assert(tok_is_special(t, ids[0]) && !tok_is_special(t, ids[1]));
	ck_assert_int_eq(tok_decode(t, ids, 2, false, &s, &e), 0);
	ck_assert_str_eq(sb_str(&s), "<|special|>a");
	sb_reset(&s);
	ck_assert_int_eq(tok_decode(t, ids, 2, true, &s, &e), 0);
	ck_assert_str_eq(sb_str(&s), "a");
	sb_release(&s);
	tok_free(t);
}
END_TEST

/* A generation decodes what it has so far: the complete part never changes. */
START_TEST(decoding_in_steps)
{
	static const char *const names[] = { "llama3", "spm" };
	const char *text = "The caf\xC3\xA9 \xF0\x9F\x98\x80 \xE6\x97\xA5\xE6\x9C\xAC.";

	for (int k = 0; k < 2; k++) {
		struct tok *t = load_sample(names[k], NULL);
		struct tok_out o = { 0 };
		struct err e = ERR_INIT;
		struct sb so_far = SB_INIT;
		size_t stable = 0;

		ck_assert_int_eq(tok_encode(t, text, strlen(text), &o, &e), 0);
		for (size_t i = 1; i <= o.n; i++) {
			size_t now;

			sb_reset(&so_far);
			ck_assert_int_eq(tok_decode(t, o.ids, i, false, &so_far, &e), 0);
			now = utf8_complete_len(sb_str(&so_far), so_far.len);
			ck_assert_uint_ge(now, stable);
			ck_assert(memcmp(sb_str(&so_far), text, now) == 0);
			stable = now;
		}
		ck_assert_uint_eq(stable, strlen(text));
		sb_release(&so_far);
		tok_out_release(&o);
		tok_free(t);
	}
}
END_TEST

struct job {
	const struct tok *t;
	struct tok_out o;
	unsigned seed;
};

/* The reference takes out the marks that it knows. */
START_TEST(accents)
{
	struct err e = ERR_INIT;
	struct tok *t = parse("{\"normalizer\":{\"type\":\"StripAccents\"},\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"?\",\"vocab\":{\"a\":0,\"?\":1}}}", &e);

	ck_assert_msg(t != NULL, "%s", e.msg);
	expect(t, "a\xCC\x81", "0[0,1]");
	expect(t, "a\xDF\xBD", "1[0,3]");     /* U+07FD: newer than its table */
	expect(t, "a\xE1\xB3\xB2", "0[0,1]"); /* U+1CF2: a mark then, a letter now */
	tok_free(t);
}
END_TEST

static void *encode_many(void *arg)
{
	struct job *j = arg;
	struct err e = ERR_INIT;

	for (unsigned i = 0; i < 300; i++) {
		char *text = xasprintf("Line %u of many: it's %u words, don't split wrongly; caf\xC3\xA9 e\xCC\x81.\n\n", i * 7919 % 300, i);

		if (tok_encode(j->t, text, strlen(text), &j->o, &e))
			return arg;
		free(text);
	}
	return NULL;
}

START_TEST(threads)
{
	struct tok *t = load_sample("qwen2", NULL);
	struct job j[4] = { 0 };
	pthread_t th[4];
	void *bad;

	for (int i = 0; i < 4; i++) {
		j[i].t = t;
		ck_assert_int_eq(pthread_create(&th[i], NULL, encode_many, &j[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		ck_assert_int_eq(pthread_join(th[i], &bad), 0);
		ck_assert(bad == NULL);
		ck_assert_uint_eq(j[i].o.n, j[0].o.n);
		ck_assert(memcmp(j[i].o.ids, j[0].o.ids, j[0].o.n * sizeof(int32_t)) == 0);
	}
	for (int i = 0; i < 4; i++)
		tok_out_release(&j[i].o);
	tok_free(t);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tok");
	TCase *tc = tcase_create("tok");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, refusals);
	tcase_add_test(tc, merging);
	tcase_add_test(tc, long_words);
	tcase_add_test(tc, bad_text);
	tcase_add_test(tc, special_tokens);
	tcase_add_test(tc, decoding_in_steps);
	tcase_add_test(tc, accents);
	tcase_add_test(tc, threads);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
