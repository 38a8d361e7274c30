/* Pre-tokenisers: the hand-written scanners against the same patterns through
 * PCRE2 on random Unicode; the behaviours of Split; bytes as characters. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/sb.h"
#include "text/pretok.h"
#include "text/tok_uni.h"
#include "text/utf8.h"

#define CL100K(num) "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" num "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define O200K                                                                                                                                   \
	"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"                  \
	"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"                  \
	"\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

#define TEKKEN                                                                                                \
	"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"       \
	"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"       \
	"\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* pretok_cl100k_pattern, whose $ is the end of the text. */
#define TIKTOKEN                                                                                              \
	"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|" \
	"\\s++\\z|\\s*[\\r\\n]|\\s+(?!\\S)|\\s"

static uint64_t draw;
static uint32_t below(uint32_t n)
{
	return (uint32_t)(rng_u64(11, 5, draw++) % n);
}

/* Characters that patterns treat apart, and any others. */
static uint32_t random_char(void)
{
	static const uint32_t special[] = { ' ', ' ', '\n', '\r', '\t', '\'', 's', 'S', 't', 'r', 'e', 'v', 'm', 'l', 'L', 'd', 'D', 0x17F, '/', '1', '2', 'A', 'b', '.',
		0x85, 0xA0, 0x3000, 0x2028, 0x180E, 0x200B, 0x301, 0x94D, 0x1C5, 0x2B0, 0x4E00, 0xBD, 0x2167, 0x660, 0x1F600, 0xE000, 0x378, 0x1C89, 0x31350, 0x212A };

	if (below(10) < 7)
		return special[below(sizeof(special) / sizeof(*special))];
	for (;;) {
		uint32_t c = below(3) ? below(0x3000) : below(0x110000);

		if (c < 0xD800 || c > 0xDFFF)
			return c;
	}
}

static uint32_t ascii_char(void)
{
	static const char some[] = "  \n\r\t''''ssttmdrevlLSDREV..,/!\"(01239abcXYZ_";

	return below(8) ? (unsigned char)some[below(sizeof(some) - 1)] : below(128);
}

/* name: what the scanner knows the pattern as. */
static void compare(const char *name, const char *pattern, const uint8_t *uni)
{
	pretok_scan_fn *scan = pretok_scan_for(name, strlen(name));
	struct err e = ERR_INIT;
	struct tok_re *re = tok_re_new(pattern, strlen(pattern), &e);
	struct tok_re_mem *m = tok_re_mem_new();
	struct sb text = SB_INIT;

	ck_assert_msg(re != NULL, "%s", e.msg);
	ck_assert(scan && m);
	for (int round = 0; round < 20000; round++) {
		char u[4];

		sb_reset(&text);
		bool plain = below(2); /* nearly all ASCII, for what looks at blocks of it */

		for (uint32_t n = 1 + below(plain ? 120 : 24); n; n--) {
			uint32_t c = plain && below(60) ? ascii_char() : random_char();

			for (uint32_t times = below(5) ? 1 : 1 + below(20); times; times--) /* runs, for what looks at many bytes at once */
				sb_add(&text, u, utf8_put(u, c < 0x80 && below(8) == 0 ? c ^ 32 : c));
		}
		for (size_t i = 0, b, end, k = 0, have = 0; i < text.len; i = end, k++) {
			static uint32_t got[200];

			if (k == have) {
				have = scan(uni, text.s, i, text.len, got, below(2) ? 1 + below(7) : 64 + below(130));
				k = 0;
			}
			ck_assert_uint_gt(have, 0);
			ck_assert_int_eq(tok_re_next(re, m, text.s, text.len, i, &b, &end), 1);
			ck_assert_uint_eq(b, i);
			ck_assert_msg(got[k] == end, "'%.*s' at %zu: scanner ends at %u, pattern at %zu (%s)", (int)text.len, text.s, i, got[k], end, pattern);
		}
	}
	sb_release(&text);
	tok_re_free(re);
	tok_re_mem_free(m);
}

START_TEST(scanners)
{
	uint8_t *uni = uni_table_new();

	compare(pretok_gpt2_pattern, pretok_gpt2_pattern, uni);
	compare(CL100K("\\p{N}{1,3}"), CL100K("\\p{N}{1,3}"), uni);
	compare(CL100K("\\p{N}"), CL100K("\\p{N}"), uni);
	compare(pretok_cl100k_pattern, TIKTOKEN, uni);
	compare(O200K, O200K, uni);
	compare(TEKKEN, TEKKEN, uni);
	free(uni);
}
END_TEST

START_TEST(bytes)
{
	bool seen[512] = { false };

	for (unsigned b = 0; b < 256; b++) {
		uint32_t c = byte_to_char((unsigned char)b);

		ck_assert_uint_lt(c, 512);
		ck_assert(!seen[c]);
		seen[c] = true;
		ck_assert_int_eq(char_to_byte(c), (int)b);
	}
	ck_assert_uint_eq(byte_to_char(' '), 0x120);
	ck_assert_uint_eq(byte_to_char('\n'), 0x10A);
	for (uint32_t c = 0; c < 0x400; c++)
		ck_assert(char_to_byte(c) < 0 || seen[c]);
}
END_TEST

/* The pieces of a text, joined by '|'. */
static void expect(const char *json, const char *text, const char *want)
{
	struct arena arena = ARENA_INIT;
	struct json v;
	struct err e = ERR_INIT;
	uint8_t *uni = uni_table_new();
	struct pretok *p;
	struct pretok_mem m;
	struct astr a = { 0 };
	struct pieces l = { 0 };
	struct sb got = SB_INIT;

	ck_assert_msg(json_parse_str(json, &arena, &v, &e) == 0, "%s", e.msg);
	ck_assert_msg(pretok_new(&v, uni, &p, &e) == 0, "%s", e.msg);
	pretok_mem_init(&m);
	m.re = tok_re_mem_new();
	astr_borrow(&a, text, strlen(text), 0);
	pieces_add(&l, 0, a.len, -1);
	ck_assert_msg(pretok_apply(p, &m, &a, &l, false, &e) == 0, "%s", e.msg);
	for (size_t i = 0; i < l.n; i++) {
		if (i)
			sb_addc(&got, '|');
		sb_add(&got, a.s + l.p[i].off, l.p[i].len);
	}
	ck_assert_str_eq(sb_str(&got), want);
	sb_release(&got);
	tok_re_mem_free(m.re);
	pretok_mem_release(&m);
	astr_release(&a);
	free(l.p);
	pretok_free(p);
	free(uni);
	arena_release(&arena);
}

#define SPLIT(how, inv) "{\"type\":\"Split\",\"pattern\":{\"String\":\"-\"},\"behavior\":\"" how "\",\"invert\":" inv "}"

START_TEST(behaviours) /* the examples of the reference's documentation */
{
	const char *s = "the-final--countdown";

	expect(SPLIT("Removed", "false"), s, "the|final|countdown");
	expect(SPLIT("Isolated", "false"), s, "the|-|final|-|-|countdown");
	expect(SPLIT("MergedWithPrevious", "false"), s, "the-|final-|-|countdown");
	expect(SPLIT("MergedWithNext", "false"), s, "the|-final|-|-countdown");
	expect(SPLIT("Contiguous", "false"), s, "the|-|final|--|countdown");
	expect(SPLIT("Removed", "true"), s, "-|-|-");
}
END_TEST

START_TEST(kinds)
{
	expect("{\"type\":\"Whitespace\"}", "Hey man! 1,2", "Hey|man|!|1|,|2");
	expect("{\"type\":\"WhitespaceSplit\"}", " a  b\xC2\xA0" "c ", "a|b|c");
	expect("{\"type\":\"Digits\",\"individual_digits\":true}", "a12 3", "a|1|2| |3");
	expect("{\"type\":\"Digits\",\"individual_digits\":false}", "a12 3", "a|12| |3");
	expect("{\"type\":\"Punctuation\"}", "a,,b", "a|,|,|b");
	expect("{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"x\"}", "axbxxc", "a|b|c");
	expect("{\"type\":\"FixedLength\",\"length\":2}", "a\xC3\xA9" "bcd", "a\xC3\xA9|bc|d");
	expect("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"always\"}", "a b", "_a|_b");
	expect("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"never\",\"split\":false}", "a b", "a_b");
	expect("{\"type\":\"BertPreTokenizer\"}", "Hey, you", "Hey|,|you");
	expect("{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", "Hi there", " Hi| there");
}
END_TEST

static void refused(const char *json, const char *says)
{
	struct arena arena = ARENA_INIT;
	struct json v;
	struct err e = ERR_INIT;
	struct pretok *p;

	ck_assert_int_eq(json_parse_str(json, &arena, &v, &e), 0);
	ck_assert_int_eq(pretok_new(&v, NULL, &p, &e), -1);
	ck_assert(p == NULL);
	ck_assert_msg(strstr(e.msg, says) != NULL, "'%s' does not say '%s'", e.msg, says);
	arena_release(&arena);
}

START_TEST(refusals)
{
	refused("{\"type\":\"UnicodeScripts\"}", "'UnicodeScripts' is not supported");
	refused("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"},\"behavior\":\"Isolated\"}", "(&&)");
	refused("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"},\"behavior\":\"Isolated\"}", "pattern '(a'");
	refused("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\q\"},\"behavior\":\"Isolated\"}", "escape");
	refused("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Sideways\"}", "behavior");
	refused("{\"type\":\"Metaspace\",\"add_prefix_space\":false,\"prepend_scheme\":\"first\"}", "does not match");
	refused("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Nope\"}]}", "'Nope'");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("pretok");
	TCase *tc = tcase_create("pretok");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, scanners);
	tcase_add_test(tc, bytes);
	tcase_add_test(tc, behaviours);
	tcase_add_test(tc, kinds);
	tcase_add_test(tc, refusals);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
