/* Tokeniser files other than tokenizer.json: damage is an error and never a
 * crash, special tokens, patterns. What ids are right: test_tok_conformance.c. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/in.h"
#include "base/xalloc.h"
#include "text/spm.h"
#include "text/tok.h"
#include "text/tok_b64.h"

#define DIR "tests/conformance/tokens/"

static void expect(const struct tok *t, const char *text, const char *want)
{
	struct tok_out o = { 0 };
	struct err e = ERR_INIT;
	struct sb got = SB_INIT;

	ck_assert_msg(tok_encode(t, text, strlen(text), &o, &e) == 0, "%s", e.msg);
	for (size_t i = 0; i < o.n; i++)
		sb_addf(&got, "%s%d[%u,%u)", i ? " " : "", o.ids[i], o.begin[i], o.end[i]);
	ck_assert_str_eq(sb_str(&got), want);
	sb_release(&got);
	tok_out_release(&o);
}

static void decodes(const struct tok *t, const char *text, bool skip, const char *want)
{
	struct tok_out o = { 0 };
	struct err e = ERR_INIT;
	struct sb got = SB_INIT;

	ck_assert_int_eq(tok_encode(t, text, strlen(text), &o, &e), 0);
	ck_assert_int_eq(tok_decode(t, o.ids, o.n, skip, &got, &e), 0);
	ck_assert_str_eq(sb_str(&got), want);
	sb_release(&got);
	tok_out_release(&o);
}

static void refused(const char *bytes, size_t n, const char *says)
{
	struct err e = ERR_INIT;
	struct tok *t = tok_new(bytes, n, NULL, "file", &e);

	ck_assert_msg(t == NULL, "accepted, should say '%s'", says);
	ck_assert_msg(strstr(e.msg, says) != NULL, "'%s' does not say '%s'", e.msg, says);
	ck_assert_str_eq(e.path, "file");
}

/* A model of pieces <unk>, <s>, and what is given, as type:text:score. */
static void put_piece(struct sb *m, const char *s, float score, int type)
{
	char head[2] = { 0x0A, (char)(2 + strlen(s) + 5 + 2) };

	sb_add(m, head, 2);
	sb_addc(m, 0x0A);
	sb_addc(m, (char)strlen(s));
	sb_adds(m, s);
	sb_addc(m, 0x15);
	sb_add(m, (const char *)&score, 4);
	sb_addc(m, 0x18);
	sb_addc(m, (char)type);
}

static void put_heads(struct sb *m)
{
	put_piece(m, "<unk>", 0, SPM_UNKNOWN);
	put_piece(m, "<s>", 0, SPM_CONTROL);
}

/* Of two ways that score the same the one counts whose sums are rounded lower: all of
 * them are single precision, as SentencePiece has them. */
START_TEST(spm_rounding)
{
	struct err e = ERR_INIT;
	struct tok *t = tok_load_file(DIR "spm-unigram.model.zst", &e);
	struct tok_out o = { 0 };

	ck_assert_msg(t != NULL, "%s", e.msg);
	ck_assert_int_eq(tok_encode(t, "['s0111111111111111111111111111111111111111}", 44, &o, &e), 0);
	ck_assert_uint_eq(o.n, 26);
	for (size_t i = 0; i < o.n; i++) {
		static const int32_t head[] = { 4, 137, 145, 19, 5, 9 };

		ck_assert_int_eq(o.ids[i], i < 6 ? head[i] : i < 25 ? 53 : 584);
	}
	tok_out_release(&o);
	tok_free(t);
}
END_TEST

START_TEST(spm_by_hand)
{
	struct sb m = SB_INIT;
	struct err e = ERR_INIT;
	struct tok *t;

	put_heads(&m);
	put_piece(&m, "\xE2\x96\x81", -3, SPM_NORMAL);
	put_piece(&m, "a", -4, SPM_NORMAL);
	put_piece(&m, "ab", -1, SPM_NORMAL); /* b alone is no piece, and merges all the same */
	put_piece(&m, "\xE2\x96\x81" "a", -2, SPM_NORMAL);
	sb_add(&m, "\x12\x02\x18\x02", 4); /* trainer: BPE */
	t = tok_new(m.s, m.len, NULL, "m", &e);
	ck_assert_msg(t != NULL, "%s", e.msg);
	expect(t, "ab", "2[0,0) 4[0,2)");
	expect(t, "  a  b ", "5[2,3) 2[3,4) 0[5,6)");
	expect(t, "bbb", "2[0,0) 0[0,3)"); /* unknown characters are one */
	expect(t, "<s>", "2[0,0) 0[0,3)"); /* control symbols are no text */
	expect(t, "", "");
	expect(t, "   ", "");
	decodes(t, "ab a", false, "ab a");
	decodes(t, "b", false, " \xE2\x81\x87 ");
	ck_assert(tok_is_special(t, 1) && !tok_is_special(t, 0));
	ck_assert_int_eq(tok_bos(t), 1);
	ck_assert_int_eq(tok_vocab_size(t), 6);
	tok_free(t);
	put_piece(&m, "ab", -9, SPM_NORMAL);
	refused(m.s, m.len, "piece 6 is there twice");
	sb_reset(&m);
	put_piece(&m, "a", 0, SPM_NORMAL);
	refused(m.s, m.len, "no unknown piece");
	sb_reset(&m);
	put_heads(&m);
	put_piece(&m, "<0x0A>", 0, SPM_BYTE);
	refused(m.s, m.len, "does not fall back");
	sb_add(&m, "\x12\x03\x98\x02\x01", 5); /* trainer: byte fallback */
	refused(m.s, m.len, "no piece <0x00>");
	sb_reset(&m);
	put_heads(&m);
	sb_add(&m, "\x12\x02\x18\x03", 4);
	refused(m.s, m.len, "whole words");
	sb_reset(&m);
	put_heads(&m);
	sb_add(&m, "\x1A\x07\x12\x05\x04\0\0\0\0", 9); /* a character map cut short */
	refused(m.s, m.len, "character map");
	sb_release(&m);
}
END_TEST

/* Every model of the sample, cut and bent: an error or a tokeniser that works. */
START_TEST(damage)
{
	static const char *const files[] = { "spm-bpe-bytes.model", "spm-unigram.model", "spm-bpe-user.model", "cl100k-tiny.tiktoken", "tekken-tiny.json" };
	const char *text = "The quick\tf\xC3\xBCr \xEF\xBC\xA1 <sep> \xF0\x9F\x8E\x89  12";
	char path[128];
	size_t n;

	snprintf(path, sizeof(path), DIR "%s.zst", files[_i]);
	for (unsigned k = 0; k < 300; k++) {
		struct err e = ERR_INIT;
		char *bytes = in_slurp(path, 1 << 24, &n, &e);
		struct tok_out o = { 0 };
		size_t len = n;
		struct tok *t;

		ck_assert_msg(bytes != NULL, "%s", e.msg);
		if (k % 2)
			len = n * k / 300;
		else
			for (unsigned j = 0; j < 1 + k / 30; j++)
				bytes[(k * 7919u + j * 104729u) % n] ^= (char)(1 + (k * 31 + j) % 255);
		t = tok_new(bytes, len, NULL, files[_i], &e);
		if (t && !tok_encode(t, text, strlen(text), &o, &e))
			for (size_t i = 0; i < o.n; i++)
				ck_assert(o.begin[i] <= o.end[i] && o.end[i] <= strlen(text) && o.ids[i] >= 0);
		if (!t)
			ck_assert(e.code == LP_DATA || e.code == LP_USAGE);
		tok_out_release(&o);
		tok_free(t);
		free(bytes);
	}
}
END_TEST

START_TEST(ranks)
{
	struct err e = ERR_INIT;
	struct tok *t = tok_load_model(DIR "cl100k-tiny.tiktoken.zst", "[a-z]+|$", &e);
	struct sb s = SB_INIT;

	ck_assert_msg(t != NULL, "%s", e.msg);
	expect(t, "AA", ""); /* what the pattern does not match is dropped */
	ck_assert(tok_show_piece(t, 32, &s));
	ck_assert_str_eq(sb_str(&s), "\xC4\xA0"); /* as byte-level vocabularies write a space */
	sb_release(&s);
	tok_free(t);
	t = tok_load_model(DIR "cl100k-tiny.tiktoken.zst", "qwen", &e);
	ck_assert_msg(t != NULL, "%s", e.msg);
	decodes(t, "12 \xC3\xBC", false, "12 \xC3\xBC");
	tok_free(t);
	ck_assert(tok_load_model(DIR "cl100k-tiny.tiktoken.zst", "a{2}+", &e) == NULL);
	ck_assert(strstr(e.msg, "possessive") != NULL);
	ck_assert(tok_load_model(DIR "spm-bpe.model.zst", "qwen", &e) == NULL);
	ck_assert(strstr(e.msg, "goes with tiktoken") != NULL);
	refused("QQ== 0\nQg== 1\n", 14, "give --pattern");
	refused("QQ== 0\nQg== x\n", 14, "the rank is not a number");
	refused("QQ== 0\nQ!== 1\n", 14, "not base64");
	refused("QQ== 0\nQQ== 1\n", 14, "is there twice");
	ck_assert(tok_load_file("tests/conformance/tokens/none", &e) == NULL);
}
END_TEST

/* In a model's directory, or a file of it, special tokens in a text are found. */
START_TEST(specials)
{
	struct err e = ERR_INIT;
	struct tok *plain = tok_load_file(DIR "tekken-tiny.json.zst", &e), *t = tok_load_model(DIR "tekken-tiny.json.zst", NULL, &e);
	struct tok *s = tok_load_model(DIR "spm-bpe-user.model.zst", NULL, &e);

	ck_assert(plain && t && s);
	ck_assert_int_eq(tok_id(t, "[INST]"), 3);
	ck_assert_int_eq(tok_id(t, "<SPECIAL_49>"), 49);
	ck_assert_int_eq(tok_bos(t), 1);
	expect(t, "<s>[INST]", "1[0,3) 3[3,9)");
	decodes(plain, "<s>[INST] hi", true, "<s>[INST] hi");
	decodes(t, "<s>[INST] hi", true, " hi");
	decodes(t, "<s>[INST] hi", false, "<s>[INST] hi");
	decodes(s, "<c>foo<c>fo x", false, "<c>foo<c>fo x");
	decodes(s, "<c>foo", true, "foo");
	tok_free(plain);
	tok_free(t);
	tok_free(s);
}
END_TEST

START_TEST(base64)
{
	static const struct { const char *in, *out; } good[] = { { "", "" }, { "QQ==", "A" }, { "QUI=", "AB" }, { "QUJD", "ABC" }, { "+/+/", "\xFB\xFF\xBF" } };
	static const char *const bad[] = { "Q", "QQ", "QQ=", "====", "Q===", "Q=Q=", "QQ==QQ==", "QUJ\n", "QU*D" };
	unsigned char out[16];
	size_t n;

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		ck_assert(b64_decode(good[i].in, strlen(good[i].in), out, &n));
		ck_assert_uint_eq(n, strlen(good[i].out));
		ck_assert_mem_eq(out, good[i].out, n);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		ck_assert_msg(!b64_decode(bad[i], strlen(bad[i]), out, &n), "%s", bad[i]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tok_kinds");
	TCase *t = tcase_create("all");
	SRunner *sr;
	int failed;

	tcase_set_timeout(t, 300);
	tcase_add_test(t, spm_rounding);
	tcase_add_test(t, spm_by_hand);
	tcase_add_loop_test(t, damage, 0, 5);
	tcase_add_test(t, ranks);
	tcase_add_test(t, specials);
	tcase_add_test(t, base64);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed != 0;
}
