/* text/pystr.c and text/pyfind.c against Python: every code point, and random strings of difficult ones. */
#include "text/pystr.h"

#include <utf8proc.h>

#include "base/hash.h"
#include "base/num.h"
#include "json/jsonl.h"
#include "scratch.h"
#include "text/pyfind.h"

static void is_field(const struct jsonl_rec *rec, const char *field, const char *got, size_t n)
{
	const struct json *want = json_get(&rec->v, field);

	ck_assert_msg(want->n == n && !memcmp(want->s, got, n), "line %d, %s: '%.*s', not '%s'", (int)rec->line, field, (int)n, got, want->s);
}

START_TEST(strings)
{
	struct jsonl *j = jsonl_open_take(in_open("tests/unit/data/pystr_cases.jsonl.gz", &er), NULL, &er);
	struct jsonl_rec rec;
	struct sb b = SB_INIT;
	int n = 0, rc;

	ck_assert_msg(j != NULL, "%s", er.msg);
	while ((rc = jsonl_next(j, &rec, &er)) == 1) {
		const struct json *s = json_get(&rec.v, "s");
		const char *begin;
		size_t len;
		int64_t want;

		ck_assert(json_get_i64(&rec.v, "len", -1, &want));
		ck_assert_int_eq((int64_t)py_len(s->s, s->n), want);
		py_lower(s->s, s->n, &b);
		is_field(&rec, "lower", sb_str(&b), b.len);
		py_strip(s->s, s->n, &begin, &len);
		is_field(&rec, "strip", begin, len);
		py_collapse(s->s, s->n, &b);
		is_field(&rec, "collapse", sb_str(&b), b.len);
		n++;
	}
	ck_assert_msg(rc == 0, "%s", er.msg);
	ck_assert_int_eq(n, 1500);
	jsonl_close(j);
	sb_release(&b);
}
END_TEST

static size_t put(int32_t c, char *s)
{
	return (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)s);
}

static void add_lower(struct sha *h, const char *s, size_t n, struct sb *b)
{
	py_lower(s, n, b);
	sha_add(h, sb_str(b), b->len);
}

static void add_code_point(struct sha *h, int32_t c, struct sb *b)
{
	char s[8] = "A";
	size_t n = put(c, s + 1);

	add_lower(h, s + 1, n, b);
	memcpy(s + 1 + n, "\xce\xa3", 2);
	add_lower(h, s, n + 3, b);
	add_lower(h, s + 1, n + 2, b);
	sha_add(h, py_is_space(c) ? "1" : "0", 1);
}

START_TEST(every_code_point)
{
	size_t n;
	char *text = get_file("tests/unit/data/pystr_planes.tsv", &n), *rest = text, *line;
	struct sb b = SB_INIT;
	int blocks = 0;

	while ((line = strsep(&rest, "\n"))) {
		const char *first = strsep(&line, "\t"), *hash;
		char hex[65], *span;

		strsep(&line, "\t");
		hash = strsep(&line, "\t");
		if (*first == '#' || !line)
			continue;
		struct sha *h = sha_new();

		blocks++;
		while ((span = strsep(&line, ","))) {
			char *end;
			long from = strtol(span, &end, 16), to = strtol(end + 1, NULL, 16);

			for (long c = from; c <= to; c++)
				add_code_point(h, (int32_t)c, &b);
		}
		sha_hex(h, hex);
		ck_assert_msg(!strcmp(hex, hash), "the code points from U+%s differ", first);
		sha_free(h);
	}
	ck_assert_int_gt(blocks, 20);
	free(text);
	sb_release(&b);
}
END_TEST

/* No invalid byte sequence may be read past or loop. */
START_TEST(stray_bytes)
{
	const char *const bad[] = { "\x80", "\xe2\x80", "\xf0\x9f", ("a\xff" "b"), "\xce\xa3\xce", "\xc2", "\xed\xa0\x80" };
	struct sb b = SB_INIT;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		size_t n = strlen(bad[i]), len;
		char *copy = malloc(n); /* so that a sanitiser sees a read past the end */
		const char *begin;

		memcpy(copy, bad[i], n);
		py_lower(copy, n, &b);
		ck_assert_uint_eq(b.len, n);
		py_strip(copy, n, &begin, &len);
		py_collapse(copy, n, &b);
		ck_assert_uint_le(py_len(copy, n), n);
		free(copy);
	}
	sb_release(&b);
}
END_TEST

static int slow_find(const char *const *phrases, size_t n_phrases, const char *s, size_t n)
{
	struct sb low = SB_INIT, p = SB_INIT;
	int found = -1;

	py_lower(s, n, &low);
	for (size_t i = 0; i < n_phrases && found < 0; i++) {
		py_lower(phrases[i], strlen(phrases[i]), &p);
		if (memmem(sb_str(&low), low.len, sb_str(&p), p.len))
			found = (int)i;
	}
	sb_release(&low);
	sb_release(&p);
	return found;
}

/* Small alphabets, so that the phrases are met often and at every offset. */
START_TEST(find_equals_slow)
{
	static const char *const sets[][3] = { { "as an ai", "i am an ai", "language model" }, { "abab", "aaab", "baaa" }, { "AbC", "b a", "cc" },
		                                { "aaaaaaaa", "bbbbb", "abcdabc" }, { "\xc3\xa4hnlich", "kk k", "aaa" }, { "", "a", "b" } };
	static const char *const bits[] = { "a", "b", "A", "B", "c", " ", "k", "\xe2\x84\xaa", "\xc4\xb0", "i", "as an ai", "I AM AN AI", "language Model", "\xc3\x84hnlich", "n", "ab" };
	uint64_t x = 88172645463325252ull;

	for (size_t k = 0; k < sizeof(sets) / sizeof(sets[0]); k++) {
		struct pyfind *f = pyfind_new(sets[k], 3);

		for (int t = 0; t < 4000; t++) {
			char text[512];
			size_t n = 0;

			for (x ^= x << 13, x ^= x >> 7, x ^= x << 17; n < 20 + x % 40;) {
				uint64_t y = (x = x * 6364136223846793005ull + 1442695040888963407ull) >> 33;
				const char *bit = bits[y % (sizeof(bits) / sizeof(bits[0]))];

				memcpy(text + n, bit, strlen(bit));
				n += strlen(bit);
			}
			ck_assert_int_eq(pyfind_any(f, text, n), slow_find(sets[k], 3, text, n));
		}
		pyfind_free(f);
	}
}
END_TEST

START_TEST(find_nothing)
{
	struct pyfind *f = pyfind_new(NULL, 0);

	ck_assert_int_eq(pyfind_any(f, "anything", 8), -1);
	pyfind_free(f);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("pystr");
	TCase *c = tcase_create("all");

	tcase_set_timeout(c, 60);
	tcase_add_test(c, strings);
	tcase_add_test(c, every_code_point);
	tcase_add_test(c, stray_bytes);
	tcase_add_test(c, find_equals_slow);
	tcase_add_test(c, find_nothing);
	suite_add_tcase(s, c);
	return run_tests(s);
}
