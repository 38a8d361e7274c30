/* json/json_parse.cc and json/json.c. */
#include "scratch.h"

#include <math.h>

#include "json/json.h"

/* Parses text[0..len) with nothing readable behind the padding. */
static int parse_n(const char *text, size_t len, struct arena *a, struct json *v, struct err *e)
{
	struct json_parser *p = json_parser_new();
	char *padded = malloc(len + JSON_PADDING);
	int rc;

	memcpy(padded, text, len);
	memset(padded + len, 'x', JSON_PADDING); /* must not matter */
	rc = json_parse(p, padded, len, a, v, e);
	memset(padded, '#', len); /* the tree must not point here */
	free(padded);
	json_parser_free(p);
	return rc;
}

/* Parsed and written again. */
static const char *again(const char *text)
{
	static struct sb b;
	struct arena a = ARENA_INIT;
	struct json v;
	struct jw w = jw_to(&b);

	sb_reset(&b);
	OK(parse_n(text, strlen(text), &a, &v, &er));
	jw_value(&w, &v);
	arena_release(&a);
	return sb_str(&b);
}

START_TEST(everything_comes_back)
{
	static const char *const same[] = {
		"null", "true", "false", "0", "-0", "12345678901234567890123", "1.50", "-1.5e+10", "1E5", "0.1e-2", "\"\"", "\"a\"", "[]", "{}",
		"[[],{},[{}]]", "{\"a\":1,\"b\":[1,2,3],\"a\":2}", "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"", "\"\\\"\\\\\\n\\t\\r\\b\\f\\u0001\"",
		"{\"\":\"\"}", "[1,\"x\",null,true,false,{\"k\":[]}]", "\"\x7f\"",
	};
	static const char *const other[][2] = {
		{ " \t\r\n1 \t\r\n", "1" }, { "[ 1 , 2 ]", "[1,2]" }, { "{ \"a\" : 1 }", "{\"a\":1}" },
		{ "\"\\/\\u0041\\u00e9\\u20AC\\ud83d\\uDE00\"", "\"/A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"" },
		{ "\"\\u0000\"", "\"\\u0000\"" }, { "\"x\\u0000y\"", "\"x\\u0000y\"" }, { "{\"\\n\":1}", "{\"\\n\":1}" },
	};

	for (size_t i = 0; i < sizeof(same) / sizeof(*same); i++)
		ck_assert_str_eq(again(same[i]), same[i]);
	for (size_t i = 0; i < sizeof(other) / sizeof(*other); i++)
		ck_assert_str_eq(again(other[i][0]), other[i][1]);
}
END_TEST

START_TEST(strictness)
{
	static const struct {
		const char *text;
		int off; /* -2: not pinned */
	} bad[] = {
		{ "", -2 }, { " ", -2 }, { "tru", 0 }, { "trueX", 0 }, { "nul", 0 }, { "True", 0 }, { "NaN", 0 }, { "Infinity", 0 }, { "+1", 0 },
		{ "01", 1 }, { "-", 0 }, { "1.", 0 }, { ".5", 0 }, { "1e", 0 }, { "1e+", 0 }, { "0x10", 1 }, { "1_0", 1 }, { "--1", 0 },
		{ "[", 1 }, { "[1", 2 }, { "[1,", 3 }, { "[1,]", 3 }, { "[,1]", 1 }, { "[1 2]", 3 }, { "[1}", 2 }, { "]", 0 },
		{ "{", 1 }, { "{\"a\"", 4 }, { "{\"a\":", 5 }, { "{\"a\":1", 6 }, { "{\"a\":1,", 7 }, { "{\"a\":1,}", 7 }, { "{a:1}", 1 },
		{ "{\"a\" 1}", 5 }, { "{\"a\":1 \"b\":2}", 7 }, { "{1:2}", 1 }, { "{\"a\":1]", 6 }, { "{'a':1}", 1 },
		{ "1 2", 2 }, { "{} {}", 3 }, { "[]]", 2 }, { "\"a\" \"b\"", 4 }, { "\"a\"b", 3 }, { "1,", 1 }, { "[1]//x", 3 },
		{ "\"", 0 }, { "\"abc", 0 }, { "\"abc\\\"", 0 }, { "[1,\"a]", 3 }, { "\"\\x\"", 1 }, { "\"ab\\u12\"", 3 }, { "\"\\u12G4\"", 1 },
		{ "\"\\ud800\"", 1 }, { "\"a\\udc00\"", 2 }, { "\"\\ud800\\ud800\"", 1 }, { "\"\\ud800x\"", 1 }, { "\"\\ud800\\n\"", 1 },
		{ "\"a\nb\"", 2 }, { "\"\t\"", 1 }, { "\"\x01\"", 1 }, { "\f1", 0 }, { "\v1", -2 }, { "[1,\f2]", -2 }, { "\xef\xbb\xbf{}", -2 },
		{ "\"\xff\"", 1 }, { "\"\xc3\"", 1 }, { "\"\xc0\xaf\"", 1 }, { "\"\xed\xa0\x80\"", 1 }, { "\"\xf5\x80\x80\x80\"", 1 },
		{ "\"\xe2\x82\"", 1 }, { "[1,\"\xf4\x90\x80\x80\"]", 4 }, { "\"ok\" \x80", 5 },
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct arena a = ARENA_INIT;
		struct err e = ERR_INIT;
		struct json v;

		ck_assert_msg(parse_n(bad[i].text, strlen(bad[i].text), &a, &v, &e) < 0, "accepted: %s", bad[i].text);
		ck_assert_int_eq(e.code, LP_DATA);
		ck_assert_msg(bad[i].off == -2 || e.off == bad[i].off, "%s: offset %d, not %d", bad[i].text, (int)e.off, bad[i].off);
		arena_release(&a);
	}
	{ /* a NUL is no white space */
		struct arena a = ARENA_INIT;
		struct json v;

		BAD(parse_n("1\0", 2, &a, &v, &er), LP_DATA, "bad JSON");
		BAD(parse_n("\"a\0b\"", 5, &a, &v, &er), LP_DATA, "control character");
		arena_release(&a);
	}
}
END_TEST

START_TEST(depth)
{
	char text[1100];
	struct arena a = ARENA_INIT;
	struct json v;

	for (size_t n = 510; n <= 514; n++) {
		memset(text, '[', n);
		memset(text + n, ']', n);
		if (n <= 512)
			OK(parse_n(text, 2 * n, &a, &v, &er));
		else
			BAD(parse_n(text, 2 * n, &a, &v, &er), LP_DATA, "deeper than 512");
	}
	{ /* a hostile megabyte of them */
		size_t n = 1 << 20;
		char *deep = malloc(n);

		memset(deep, '[', n);
		BAD(parse_n(deep, n, &a, &v, &er), LP_DATA, "deeper than 512");
		free(deep);
	}
	arena_release(&a);
}
END_TEST

/* Every length around simdjson's blocks of 64, with a string of escapes in each place. */
START_TEST(block_borders)
{
	struct arena a = ARENA_INIT;
	char text[400], want[400];

	for (size_t pad = 0; pad < 200; pad++) {
		struct json v;
		size_t n = 0;

		memset(text, ' ', pad);
		n = pad;
		n += (size_t)snprintf(text + n, sizeof(text) - n, "[\"\\\\\\\"%0*d\\n\",\"\\u20ac\",%zu]", (int)(pad % 70), 7, pad);
		OK(parse_n(text, n, &a, &v, &er));
		ck_assert_uint_eq(v.n, 3);
		snprintf(want, sizeof(want), "\\\"%0*d\n", (int)(pad % 70), 7);
		ck_assert_str_eq(v.items[0].s, want);
		ck_assert_str_eq(v.items[1].s, "\xe2\x82\xac");
		snprintf(want, sizeof(want), "%zu", pad);
		ck_assert_str_eq(v.items[2].s, want);
		for (size_t cut = pad; cut < n; cut++) { /* no prefix is a value */
			struct err e = ERR_INIT;

			ck_assert_msg(parse_n(text, cut, &a, &v, &e) < 0, "cut at %zu of %.*s", cut, (int)n, text);
		}
		arena_reset(&a);
	}
	arena_release(&a);
}
END_TEST

START_TEST(a_parser_is_reused)
{
	struct json_parser *p = json_parser_new();
	struct arena a = ARENA_INIT;
	char *text = calloc((2u << 20) + 100 + JSON_PADDING, 1);
	struct json v;

	for (int round = 0; round < 40; round++) {
		size_t n = round % 3 == 2 ? 2u << 20 : (size_t)round * 100, len;

		text[0] = '"';
		memset(text + 1, 'a' + round % 26, n);
		len = n + 2;
		text[n + 1] = round % 5 == 4 ? 'a' : '"'; /* failures leave it usable */
		if (round % 5 == 4) {
			BAD(json_parse(p, text, len, &a, &v, &er), LP_DATA, "closing quote");
		} else {
			OK(json_parse(p, text, len, &a, &v, &er));
			ck_assert_uint_eq(v.n, n);
			ck_assert_uint_eq(strlen(v.s), n);
		}
		arena_reset(&a);
	}
	free(text);
	arena_release(&a);
	json_parser_free(p);
	json_parser_free(NULL);
}
END_TEST

START_TEST(reading_the_tree)
{
	struct arena a = ARENA_INIT;
	struct json v;
	int64_t i;
	double f;
	bool b;
	const char *s;

	OK(json_parse_str("{\"i\":-5,\"w\":5.0,\"h\":5.5,\"e\":1e3,\"big\":9223372036854775808,\"f\":0.25,\"inf\":1e999,\"b\":true,\"s\":\"x\","
			  "\"z\":null,\"dup\":1,\"dup\":2,\"a\":[1]}", &a, &v, &er));
	ck_assert(json_get_i64(&v, "i", 9, &i) && i == -5);
	ck_assert(json_get_i64(&v, "w", 9, &i) && i == 5);
	ck_assert(json_get_i64(&v, "e", 9, &i) && i == 1000);
	ck_assert(!json_get_i64(&v, "h", 9, &i));
	ck_assert(!json_get_i64(&v, "big", 9, &i));
	ck_assert(!json_get_i64(&v, "s", 9, &i));
	ck_assert(json_get_i64(&v, "none", 9, &i) && i == 9);
	ck_assert(json_get_i64(&v, "z", 9, &i) && i == 9);
	ck_assert(json_get_i64(&v, "dup", 9, &i) && i == 2);
	ck_assert(json_get_f64(&v, "f", 9, &f) && f == 0.25);
	ck_assert(json_get_f64(&v, "i", 9, &f) && f == -5);
	ck_assert(!json_get_f64(&v, "inf", 9, &f));
	ck_assert(json_get_bool(&v, "b", false, &b) && b);
	ck_assert(!json_get_bool(&v, "i", false, &b));
	ck_assert(json_get_str(&v, "s", NULL, &s) && !strcmp(s, "x"));
	ck_assert(json_get_str(&v, "z", NULL, &s) && !s);
	ck_assert(!json_get_str(&v, "a", NULL, &s));
	ck_assert(json_str_is(json_get(&v, "s"), "x") && !json_str_is(json_get(&v, "s"), "xy") && !json_str_is(NULL, "x"));
	ck_assert(json_is(json_get(&v, "a"), JSON_ARR) && !json_is(NULL, JSON_NULL));
	ck_assert_ptr_null(json_get(json_get(&v, "a"), "s"));
	ck_assert_ptr_null(json_get(NULL, "s"));
	arena_release(&a);
}
END_TEST

static bool equal(const char *x, const char *y)
{
	struct arena a = ARENA_INIT;
	struct json v, w;
	bool same;

	OK(json_parse_str(x, &a, &v, &er));
	OK(json_parse_str(y, &a, &w, &er));
	same = json_equal(&v, &w);
	ck_assert(same == json_equal(&w, &v));
	arena_release(&a);
	return same;
}

START_TEST(equality)
{
	ck_assert(equal("{\"a\":1,\"b\":[true,null]}", " {\"b\":[true,null], \"a\":1}"));
	ck_assert(equal("\"\\u0041\"", "\"A\""));
	ck_assert(!equal("1", "1.0"));
	ck_assert(!equal("[1,2]", "[2,1]"));
	ck_assert(!equal("{\"a\":1}", "{\"a\":1,\"b\":1}"));
	ck_assert(!equal("{\"a\":1,\"b\":2}", "{\"a\":1,\"c\":2}"));
	ck_assert(!equal("{\"a\":1,\"a\":2}", "{\"a\":2,\"a\":1}"));
	ck_assert(!equal("true", "false") && !equal("null", "0") && !equal("\"a\"", "\"ab\""));
	ck_assert(equal("{}", "{}") && !equal("{}", "[]"));
}
END_TEST

START_TEST(writer)
{
	struct sb b = SB_INIT;
	struct jw w = jw_to(&b);

	jw_obj(&w);
	jw_key(&w, "a\"");
	jw_arr(&w);
	jw_i64(&w, INT64_MIN);
	jw_f64(&w, 0.1);
	jw_f64(&w, INFINITY);
	jw_f64(&w, (double)NAN);
	jw_f64(&w, 3);
	jw_str(&w, NULL);
	jw_str(&w, "\x1f/\xc3\xa9");
	jw_strn(&w, "a\0b", 3);
	jw_arr(&w);
	jw_end_arr(&w);
	jw_obj(&w);
	jw_end_obj(&w);
	jw_end_arr(&w);
	jw_keyn(&w, "bc", 1);
	jw_bool(&w, true);
	jw_key(&w, "r");
	jw_raw(&w, "[1]", 3);
	jw_key(&w, "n");
	jw_null(&w);
	jw_end_obj(&w);
	ck_assert_str_eq(b.s, "{\"a\\\"\":[-9223372036854775808,0.1,null,null,3.0,null,\"\\u001f/\xc3\xa9\",\"a\\u0000b\",[],{}],"
			      "\"b\":true,\"r\":[1],\"n\":null}");
	sb_release(&b);
}
END_TEST

/* Each byte at each place of a text: escaped when it must be, and only then. */
START_TEST(every_byte_everywhere)
{
	struct sb b = SB_INIT;
	char s[24], want[64];

	for (int c = 0; c < 256; c++)
		for (size_t at_ = 0; at_ < sizeof(s); at_++) {
			struct jw w = jw_to(&b);
			const char *two = "\bb\ff\nn\rr\tt\"\"\\\\";
			char mid[8] = { (char)c, 0 };

			memset(s, 0xe9, sizeof(s));
			s[at_] = (char)c;
			if (c < 0x20)
				snprintf(mid, sizeof(mid), "\\u%04x", c);
			for (; *two; two += 2)
				if (c == *two)
					snprintf(mid, sizeof(mid), "\\%c", two[1]);
			snprintf(want, sizeof(want), "\"%.*s%s%.*s\"", (int)at_, s, mid, (int)(sizeof(s) - at_ - 1), s + at_ + 1);
			sb_reset(&b);
			jw_strn(&w, s, sizeof(s));
			ck_assert_str_eq(b.s, want);
		}
	sb_release(&b);
}
END_TEST

START_TEST(files)
{
	struct arena a = ARENA_INIT;
	struct json v;

	scratch_open();
	put_text(at("good.json"), "{\"a\":1}\n");
	put_text(at("mark.json"), "\xef\xbb\xbf{\"a\":1}\n");
	put_text(at("bad.json"), "{\"a\":1,}\n");
	OK(json_load(at("good.json"), &a, &v, &er));
	OK(json_load(at("mark.json"), &a, &v, &er));
	BAD(json_load(at("none.json"), &a, &v, &er), LP_IO, "cannot open");
	{
		struct err e = ERR_INIT;

		ck_assert_int_eq(json_load(at("bad.json"), &a, &v, &e), -1);
		ck_assert_int_eq(e.code, LP_DATA);
		ck_assert_int_eq(e.off, 7);
		ck_assert_str_eq(e.path, at("bad.json"));
	}
	arena_release(&a);
	scratch_close();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("json");
	TCase *c = tcase_create("all");

	tcase_set_timeout(c, 60);
	tcase_add_test(c, everything_comes_back);
	tcase_add_test(c, strictness);
	tcase_add_test(c, depth);
	tcase_add_test(c, block_borders);
	tcase_add_test(c, a_parser_is_reused);
	tcase_add_test(c, reading_the_tree);
	tcase_add_test(c, equality);
	tcase_add_test(c, writer);
	tcase_add_test(c, every_byte_everywhere);
	tcase_add_test(c, files);
	suite_add_tcase(s, c);
	return run_tests(s);
}
