/* The short ways of the encoder against the long one: the same tokeniser written
 * so that nothing is recognised gives the same ids and offsets on random text. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/in.h"
#include "base/rng.h"
#include "base/sb.h"
#include "base/xalloc.h"
#include "text/tok.h"

#define META(scheme) "{\"type\":\"Metaspace\",\"replacement\":\"\xE2\x96\x81\",\"prepend_scheme\":\"" scheme "\",\"split\":false}"
#define HIDDEN(step) "{\"type\":\"Sequence\",\"pretokenizers\":[" step ",{\"type\":\"Split\",\"pattern\":{\"String\":\"\\u0001\\u0002\"},\"behavior\":\"Isolated\",\"invert\":false}]}"

static uint64_t draw;
static uint32_t below(uint32_t n)
{
	return (uint32_t)(rng_u64(17, 9, draw++) % n);
}

static char *load_text(const char *name)
{
	char *path = xasprintf("tests/conformance/tokens/%s.json.zst", name), *text;
	struct err e = ERR_INIT;

	text = in_slurp(path, 64u << 20, NULL, &e);
	ck_assert_msg(text != NULL, "%s", e.msg);
	free(path);
	return text;
}

/* text with the first from as to; takes text. */
static char *with(char *text, const char *from, const char *to)
{
	char *at = strstr(text, from);
	struct sb s = SB_INIT;

	ck_assert_msg(at != NULL, "no %s", from);
	sb_add(&s, text, (size_t)(at - text));
	sb_adds(&s, to);
	sb_adds(&s, at + strlen(from));
	free(text);
	return sb_detach(&s);
}

static struct tok *parse(char *text)
{
	struct err e = ERR_INIT;
	struct tok *t = tok_new(text, strlen(text), NULL, "test", &e);

	ck_assert_msg(t != NULL, "%s", e.msg);
	free(text);
	return t;
}

static void random_text(struct sb *s)
{
	static const char *const parts[] = { " ", " ", " ", "  ", "\n", "\t", "\r\n", "the", "The", "ing", "self", "(", ").", "'s", "'", "12", "7", "\xE2\x96\x81", "\xC3\xA9",
		"\xF0\x9F\x98\x80", "\xE6\x97\xA5\xE6\x9C\xAC", "e\xCC\x81", "<|end|>", "<s>", "</s>", "<|im_end|>", "<|special|>", "==", "\x01", "\xC2\xA0", "a", "b", "Zz", "_", "/*" };

	sb_reset(s);
	for (uint32_t n = below(40); n; n--) {
		const char *p = parts[below(sizeof(parts) / sizeof(*parts))];

		for (uint32_t k = below(6) ? 1 : 1 + below(30); k; k--)
			sb_adds(s, p);
	}
}

/* Twice, so that the second finds all words known. Takes both. */
static void equal(struct tok *a, struct tok *b, const char *what)
{
	struct sb s = SB_INIT;
	struct tok_out x = { 0 }, y = { 0 };
	struct err e = ERR_INIT;

	for (int round = 0; round < 6000; round++) {
		random_text(&s);
		for (int k = 0; k < 2; k++) {
			x.n = y.n = 0;
			ck_assert_int_eq(tok_encode(a, sb_str(&s), s.len, &x, &e), 0);
			ck_assert_int_eq(tok_encode(b, sb_str(&s), s.len, &y, &e), 0);
			ck_assert_msg(x.n == y.n, "%s: %zu and %zu tokens: '%s'", what, x.n, y.n, sb_str(&s));
			for (size_t i = 0; i < x.n; i++)
				ck_assert_msg(x.ids[i] == y.ids[i] && x.begin[i] == y.begin[i] && x.end[i] == y.end[i], "%s: token %zu is %d [%u,%u), not %d [%u,%u): '%s'",
				              what, i, x.ids[i], x.begin[i], x.end[i], y.ids[i], y.begin[i], y.end[i], sb_str(&s));
		}
	}
	tok_out_release(&x);
	tok_out_release(&y);
	sb_release(&s);
	tok_free(a);
	tok_free(b);
}

START_TEST(marked)
{
	equal(parse(load_text("phi-3-mini")), parse(with(load_text("phi-3-mini"), "\"String\": \" \"", "\"Regex\": \" \"")), "Prepend and Replace");
}
END_TEST

static char *metaspace(const char *step)
{
	char *pre = xasprintf("\"pre_tokenizer\": %s", step), *text;

	text = with(with(load_text("phi-3-mini"), "\"normalizer\": {", "\"normalizer\": null, \"was\": {"), "\"pre_tokenizer\": null", pre);
	free(pre);
	return text;
}

START_TEST(metaspaces)
{
	equal(parse(metaspace(META("always"))), parse(metaspace(HIDDEN(META("always")))), "Metaspace always");
	equal(parse(metaspace(META("first"))), parse(metaspace(HIDDEN(META("first")))), "Metaspace first");
	equal(parse(metaspace(META("never"))), parse(metaspace(HIDDEN(META("never")))), "Metaspace never");
}
END_TEST

/* A known pattern, and the same one in brackets. */
static void pattern(const char *name)
{
	char *a = load_text(name), *b = xstrdup(a), *re = strstr(b, "\"Regex\":"), *end;
	struct sb s = SB_INIT;

	ck_assert(re != NULL);
	re = strchr(re + 8, '"') + 1;
	for (end = re; *end != '"'; end += *end == '\\' ? 2 : 1)
		;
	sb_add(&s, b, (size_t)(re - b));
	sb_adds(&s, "(?:");
	sb_add(&s, re, (size_t)(end - re));
	sb_addc(&s, ')');
	sb_adds(&s, end);
	free(b);
	equal(parse(a), parse(sb_detach(&s)), name);
}

START_TEST(patterns)
{
	pattern("llama3");
	pattern("qwen2");
	pattern("o200k");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tok_fast");
	TCase *tc = tcase_create("tok_fast");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_set_timeout(tc, 240);
	tcase_add_test(tc, marked);
	tcase_add_test(tc, metaspaces);
	tcase_add_test(tc, patterns);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
