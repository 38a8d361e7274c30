/* Text records: the common form read at once against the strict parser, which a
 * field that nobody knows calls in. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/sb.h"
#include "data/tok_record.h"

static uint64_t draw;
static uint32_t below(uint32_t n)
{
	return (uint32_t)(rng_u64(23, 4, draw++) % n);
}

/* Parts of a string, right and wrong. */
static void random_string(struct sb *s)
{
	static const char *const parts[] = { "a", "some words ", "\\n", "\\\"", "\\\\", "\\/", "\\t", "\\u00e9", "\\ud83d\\ude00", "\xC3\xA9", "\xE6\x97\xA5", "\xF0\x9F\x98\x80", "<s>", "12345678" };
	static const char *const wrong[] = { "\\ud83d", "\\x", "\t", "\xC3", "\xFF", "\\u12", "\\", "\\ude00", "\x1F" };

	for (uint32_t n = below(12); n; n--)
		sb_adds(s, parts[below(sizeof(parts) / sizeof(*parts))]);
	if (below(8) == 0)
		sb_adds(s, wrong[below(sizeof(wrong) / sizeof(*wrong))]);
	for (uint32_t n = below(3); n; n--)
		sb_adds(s, parts[below(sizeof(parts) / sizeof(*parts))]);
}

static void random_spans(struct sb *s)
{
	static const char *const odd[] = { "null", "[[1]]", "[1,2]", "[[0,1],]", "[[3,1]]", "[[-1,2]]", "[[0,99999999999]]", "[[0,1.0]]", "[[01,2]]", "3", "[[0,1]", "{}", "[[1e0,2]]" };
	uint32_t at = 0;

	if (below(6) == 0) {
		sb_adds(s, odd[below(sizeof(odd) / sizeof(*odd))]);
		return;
	}
	sb_addc(s, '[');
	for (uint32_t n = below(4), i = 0; i < n; i++) {
		uint32_t b = at + below(9), e = b + below(9);

		sb_addf(s, "%s[%u,%s%u]", i ? "," : "", b, below(2) ? " " : "", e);
		at = e;
	}
	sb_addc(s, ']');
}

static void parse(const struct sb *raw, struct arena *a, struct tok_rec *r, int *rc)
{
	struct json_parser *p = json_parser_new();
	struct arena tree = ARENA_INIT;
	struct err e = ERR_INIT;
	char *text = calloc(raw->len + JSON_PADDING, 1);

	memcpy(text, raw->s, raw->len);
	memset(r, 0, sizeof(*r));
	*rc = tok_record_parse(p, text, raw->len, a, &tree, r, &e);
	ck_assert(*rc == 0 || e.msg[0]);
	free(text);
	arena_release(&tree);
	json_parser_free(p);
}

START_TEST(both_ways)
{
	struct sb quick = SB_INIT, strict = SB_INIT, body = SB_INIT;
	int good = 0;

	for (int round = 0; round < 40000; round++) {
		struct arena a = ARENA_INIT;
		struct tok_rec x, y;
		int rx, ry;

		sb_reset(&body);
		sb_adds(&body, below(5) ? "\"text\":\"" : "\"text\" : \"");
		random_string(&body);
		sb_adds(&body, below(30) ? "\"" : "");
		if (below(3)) {
			sb_adds(&body, below(4) ? ",\"spans\":" : ", \"spans\": ");
			random_spans(&body);
		}
		sb_adds(&body, below(30) ? "}" : below(2) ? "" : ",}");
		sb_reset(&quick);
		sb_reset(&strict);
		sb_addf(&quick, "{%s", sb_str(&body));
		sb_addf(&strict, "{\"other\":0,%s", sb_str(&body));
		parse(&quick, &a, &x, &rx);
		parse(&strict, &a, &y, &ry);
		ck_assert_msg(rx == ry, "%d and %d: %s", rx, ry, quick.s);
		good += !rx;
		if (!rx) {
			ck_assert_msg(x.t[0].len == y.t[0].len && !memcmp(x.t[0].text, y.t[0].text, y.t[0].len) && x.t[0].all == y.t[0].all && x.t[0].n_spans == y.t[0].n_spans, "%s", quick.s);
			for (size_t i = 0; i < x.t[0].n_spans; i++)
				ck_assert(x.t[0].spans[i].begin == y.t[0].spans[i].begin && x.t[0].spans[i].end == y.t[0].spans[i].end);
		}
		arena_release(&a);
	}
	ck_assert_int_gt(good, 8000);
	sb_release(&quick);
	sb_release(&strict);
	sb_release(&body);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tok_record");
	TCase *tc = tcase_create("tok_record");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, both_ways);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
