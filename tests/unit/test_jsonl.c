/* json/jsonl.c: the three forms of record streams, whole, cut and wrong. */
#include "scratch.h"

#include "json/jsonl.h"
#include "pack.h"

static struct jsonl *open_text(const char *name, const void *text, size_t n, const char *format, struct err *e)
{
	struct in *in;

	put_file(at(name), text, n);
	in = in_open(at(name), e);
	return in ? jsonl_open_take(in, format, e) : NULL;
}

/* All records, as "LINE:RAW\n" each; -1 on error. */
static int all_n(const char *name, const char *text, size_t n, const char *format, struct sb *out, struct err *e)
{
	struct jsonl *j = open_text(name, text, n, format, e);
	struct jsonl_rec r;
	int rc;

	sb_reset(out);
	if (!j)
		return -1;
	while ((rc = jsonl_next(j, &r, e)) > 0) {
		struct sb b = SB_INIT;
		struct jw w = jw_to(&b);

		jw_value(&w, &r.v); /* raw and v are the same */
		ck_assert_ptr_null(memchr(r.raw, '\n', r.raw_len));
		sb_addf(out, "%d:", (int)r.line);
		sb_add(out, r.raw, r.raw_len);
		sb_addc(out, '\n');
		{
			struct arena a = ARENA_INIT;
			struct json again;
			char *raw = strndup(r.raw, r.raw_len);

			OK(json_parse_str(raw, &a, &again, &er));
			ck_assert(json_equal(&again, &r.v));
			free(raw);
			arena_release(&a);
		}
		sb_release(&b);
	}
	jsonl_close(j);
	return rc;
}

static int all(const char *name, const char *text, struct sb *out, struct err *e)
{
	return all_n(name, text, strlen(text), NULL, out, e);
}

START_TEST(lines)
{
	struct sb b = SB_INIT;

	scratch_open();
	OK(all("x", "{\"a\":1}\n\n  \r\n{\"b\":1.50} \r\n{\"c\":\"\xc3\xa9\"}", &b, &er));
	ck_assert_str_eq(b.s, "1:{\"a\":1}\n4:{\"b\":1.50}\n5:{\"c\":\"\xc3\xa9\"}\n");
	OK(all("x", "\xef\xbb\xbf{\"a\":1}\n", &b, &er));
	ck_assert_str_eq(b.s, "1:{\"a\":1}\n");
	OK(all("x", "", &b, &er));
	ck_assert_str_eq(sb_str(&b), "");
	OK(all("x", "\n\n \n", &b, &er));
	ck_assert_str_eq(sb_str(&b), "");
	OK(all("x", "\xef\xbb\xbf", &b, &er));
	BAD(all_n("x", "{}", 2, "xml", &b, &er), LP_USAGE, "unknown record format 'xml'");
	sb_release(&b);
	scratch_close();
}
END_TEST

START_TEST(a_bad_line_can_be_passed_over)
{
	static const char text[] = "{\"a\":1}\n{\"a\":}\n[1,2\n{\"a\":\"\xff\"}\n{\"b\":2}\n";
	struct jsonl *j = NULL;
	struct jsonl_rec r;
	const char *raw;
	size_t len;
	int good = 0, bad = 0, rc;

	scratch_open();
	OK((j = open_text("x", text, sizeof(text) - 1, NULL, &er)) ? 0 : -1);
	for (;;) {
		struct err e = ERR_INIT;

		rc = jsonl_next(j, &r, &e);
		if (!rc)
			break;
		if (rc > 0) {
			good++;
			continue;
		}
		bad++;
		ck_assert_int_eq(e.code, LP_DATA);
		ck_assert_str_eq(e.path, at("x"));
		ck_assert_uint_eq(e.line, bad + 1);
		ck_assert(jsonl_can_continue(j));
		jsonl_bad_raw(j, &raw, &len);
		if (bad == 1)
			ck_assert(len == 6 && !memcmp(raw, "{\"a\":}", 6) && e.off == 5);
	}
	ck_assert(good == 2 && bad == 3);
	jsonl_close(j);
	scratch_close();
}
END_TEST

START_TEST(arrays)
{
	static const char *const empty[] = { "[]", " [ ] ", "\xef\xbb\xbf[\n]\n" };
	struct sb b = SB_INIT;

	scratch_open();
	OK(all("x", " \n[{\"a\":\"],[\\\"\"}, {\"b\":[1,[2]]}\n ,\n{\n\"c\": {\"d\"\n: 1.0}}, 5 ]\n\n", &b, &er));
	ck_assert_str_eq(b.s, "1:{\"a\":\"],[\\\"\"}\n2:{\"b\":[1,[2]]}\n3:{\"c\":{\"d\":1.0}}\n4:5\n");
	{ /* as many arrays as anybody likes, one behind the other */
		char *many = malloc(2000001);

		for (int i = 0; i < 1000000; i++)
			memcpy(many + 2 * i, "[]", 3);
		OK(all("x", many, &b, &er));
		ck_assert_str_eq(sb_str(&b), "");
		free(many);
		OK(all("x", "[1][]\n[2,3]", &b, &er));
		ck_assert_str_eq(b.s, "1:1\n2:2\n3:3\n");
	}
	for (size_t i = 0; i < 3; i++) {
		OK(all("x", empty[i], &b, &er));
		ck_assert_str_eq(sb_str(&b), "");
	}
	OK(all_n("x", "", 0, "array", &b, &er));
	BAD(all("x", "[{\"a\":1},]", &b, &er), LP_DATA, "array element");
	BAD(all("x", "[,{\"a\":1}]", &b, &er), LP_DATA, "array element");
	BAD(all("x", "[{\"a\":1} {\"a\":2}]", &b, &er), LP_DATA, "text behind the value");
	BAD(all("x", "[{\"a\":1}] x", &b, &er), LP_DATA, "text behind the array's ']'");
	BAD(all("x", "[{\"a\":1]", &b, &er), LP_DATA, "array");
	BAD(all("x", "[}]", &b, &er), LP_DATA, "array element");
	BAD(all_n("x", "{\"a\":1}", 7, "array", &b, &er), LP_DATA, "expected '['");
	sb_release(&b);
	scratch_close();
}
END_TEST

/* Cut anywhere, an array is never taken for a shorter one. */
START_TEST(array_cuts)
{
	static const char text[] = "[{\"a\":\"x\\\"y]\"}, {\"b\":[1,2,{\"c\":null}]},\n3, \"z\" , {}]";
	struct sb b = SB_INIT;

	scratch_open();
	for (size_t n = 1; n < sizeof(text) - 1; n++)
		BAD(all_n("x", text, n, NULL, &b, &er), LP_DATA, "truncated");
	OK(all_n("x", text, sizeof(text) - 1, NULL, &b, &er));
	sb_release(&b);
	scratch_close();
}
END_TEST

/* Elements over the borders of the sliding buffer, and a bad one between good ones. */
START_TEST(long_arrays)
{
	struct sb b = SB_INIT;
	struct jsonl *j = NULL;
	struct jsonl_rec r;
	size_t n = 0;
	int64_t v;

	scratch_open();
	sb_addc(&b, '[');
	for (int i = 0; i < 400; i++)
		sb_addf(&b, "%s{\"n\":%d,\"pad\":\"%0*d\"}", i ? ", " : "", i, 1 + i * 37 % 5000, 0);
	sb_addf(&b, ",{\"n\":400,\"pad\":\"%01000000d\"},{\"n\":},{\"n\":402}]", 0);
	OK((j = open_text("x", b.s, b.len, NULL, &er)) ? 0 : -1);
	for (;; n++) {
		struct err e = ERR_INIT;
		int rc = jsonl_next(j, &r, &e);

		if (!rc)
			break;
		if (rc < 0) {
			ck_assert_uint_eq(n, 401);
			ck_assert_uint_eq(e.line, 402);
			ck_assert(jsonl_can_continue(j));
			continue;
		}
		ck_assert(json_get_i64(&r.v, "n", -1, &v));
		ck_assert_int_eq(v, n);
		ck_assert_uint_eq(r.line, n + 1);
	}
	ck_assert_uint_eq(n, 403);
	jsonl_close(j);
	sb_release(&b);
	scratch_close();
}
END_TEST

START_TEST(csv)
{
	struct sb b = SB_INIT;

	scratch_open();
	OK(all("x.csv", "q,\"a \"\"b\"\"\"\r\n1,\"two, three\"\r\n\r\n\"line\nbreak\",\r\n\"\"\"\",\"\"\n5\" disk,x\"y\nlast,row", &b, &er));
	ck_assert_str_eq(b.s, "2:{\"q\":\"1\",\"a \\\"b\\\"\":\"two, three\"}\n4:{\"q\":\"line\\nbreak\",\"a \\\"b\\\"\":\"\"}\n"
			      "6:{\"q\":\"\\\"\",\"a \\\"b\\\"\":\"\"}\n7:{\"q\":\"5\\\" disk\",\"a \\\"b\\\"\":\"x\\\"y\"}\n"
			      "8:{\"q\":\"last\",\"a \\\"b\\\"\":\"row\"}\n");
	OK(all("x.csv", "\xef\xbb\xbfone\n\xc3\xa9\n", &b, &er));
	ck_assert_str_eq(b.s, "2:{\"one\":\"\xc3\xa9\"}\n");
	OK(all("x.csv", "a,b\n", &b, &er));
	ck_assert_str_eq(sb_str(&b), "");
	OK(all("x.csv", "", &b, &er));
	OK(all_n("y", "a\n1\n", 4, "csv", &b, &er));
	ck_assert_str_eq(b.s, "2:{\"a\":\"1\"}\n");
	BAD(all("x.csv", "a,b\n1\n", &b, &er), LP_DATA, "1 fields where the header has 2");
	ck_assert_uint_eq(er.line, 2);
	BAD(all("x.csv", "a,b\n\"1\n2\",3\n1,2,3\n", &b, &er), LP_DATA, "3 fields where the header has 2");
	ck_assert_uint_eq(er.line, 4);
	BAD(all("x.csv", "a,b\n\"1\"x,2\n", &b, &er), LP_DATA, "text behind a quoted field");
	BAD(all("x.csv", "a,b\n1,\"2\n3,4\n", &b, &er), LP_DATA, "truncated: the input ends inside a quoted field");
	BAD(all("x.csv", "a,a\n1,2\n", &b, &er), LP_DATA, "same name");
	BAD(all("x.csv", "a,\n1,2\n", &b, &er), LP_DATA, "has no name");
	BAD(all("x.csv", "a\n\xff\n", &b, &er), LP_DATA, "not UTF-8");
	sb_release(&b);
	scratch_close();
}
END_TEST

START_TEST(csv_goes_on_after_a_ragged_row)
{
	static const char text[] = "a,b\n1,2\n3\n4,5\n";
	struct jsonl *j = NULL;
	struct jsonl_rec r;
	const char *raw;
	size_t len;

	scratch_open();
	OK((j = open_text("x.csv", text, sizeof(text) - 1, NULL, &er)) ? 0 : -1);
	OK(jsonl_next(j, &r, &er) == 1 ? 0 : -1);
	BAD(jsonl_next(j, &r, &er), LP_DATA, "1 fields");
	ck_assert(jsonl_can_continue(j));
	jsonl_bad_raw(j, &raw, &len);
	ck_assert(len == 1 && *raw == '3');
	OK(jsonl_next(j, &r, &er) == 1 ? 0 : -1);
	ck_assert_uint_eq(r.line, 4);
	OK(jsonl_next(j, &r, &er) == 0 ? 0 : -1);
	jsonl_close(j);
	scratch_close();
}
END_TEST

START_TEST(members_of_archives)
{
	static const struct packed_file line_files[] = { { "a.jsonl", "{\"a\":1}", 7 }, { "b.jsonl", "{\"b\":2}\n", 8 } };
	static const struct packed_file array_files[] = { { "a.json", "[{\"a\":1}]", 9 }, { "b.json", "[]", 2 }, { "c.json", "[2]", 3 } };
	static const struct packed_file tables[] = { { "a.csv", "x,y\n1,2\n", 8 }, { "b.csv", "\nz\n3", 4 } };
	char *buf = malloc(1 << 20);
	struct sb b = SB_INIT;

	scratch_open();
	OK(all_n("x", buf, pack(buf, 1 << 20, NULL, "ustar", line_files, 2), NULL, &b, &er));
	ck_assert_str_eq(b.s, "1:{\"a\":1}\n1:{\"b\":2}\n");
	OK(all_n("x", buf, pack(buf, 1 << 20, NULL, "zip", array_files, 3), NULL, &b, &er));
	ck_assert_str_eq(b.s, "1:{\"a\":1}\n2:2\n");
	OK(all_n("x", buf, pack(buf, 1 << 20, "gzip", "ustar", tables, 2), NULL, &b, &er));
	ck_assert_str_eq(b.s, "2:{\"x\":\"1\",\"y\":\"2\"}\n3:{\"z\":\"3\"}\n");
	OK(all_n("x.csv.gz", buf, pack(buf, 1 << 20, "gzip", "raw", tables, 1), NULL, &b, &er));
	ck_assert_str_eq(b.s, "2:{\"x\":\"1\",\"y\":\"2\"}\n");
	sb_release(&b);
	free(buf);
	scratch_close();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("jsonl");
	TCase *c = tcase_create("all");

	tcase_set_timeout(c, 60);
	tcase_add_test(c, lines);
	tcase_add_test(c, a_bad_line_can_be_passed_over);
	tcase_add_test(c, arrays);
	tcase_add_test(c, array_cuts);
	tcase_add_test(c, long_arrays);
	tcase_add_test(c, csv);
	tcase_add_test(c, csv_goes_on_after_a_ragged_row);
	tcase_add_test(c, members_of_archives);
	suite_add_tcase(s, c);
	return run_tests(s);
}
