/* Every token case: {"tokenizer","engine","kind","text","ids"} against the
 * tokeniser file of that name. The sample in tests/conformance/tokens always
 * runs; LP_CONFORMANCE=DIR (token_cases.jsonl and tokenizers/) runs the full set. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/in.h"
#include "base/sb.h"
#include "base/xalloc.h"
#include "json/jsonl.h"
#include "text/tok.h"

#define SAMPLE "tests/conformance/tokens"

struct run {
	const char *dir;   /* where the tokeniser files are */
	char name[256];    /* of the one that is loaded */
	struct tok *tok;
	struct tok_out out;
	size_t passed, failed, skipped;
};

static char *slurp_any(const char *dir, const char *name, size_t *n, struct err *e)
{
	char *text = NULL;

	for (size_t i = 0; i < 4 && !text; i++) {
		char path[1024];

		snprintf(path, sizeof(path), i == 0 ? "%s/tokenizers/%s" : i == 1 ? "%s/%s" : i == 2 ? "%s/%s.zst" : "%s/%s.gz", dir, name);
		text = in_slurp(path, 512u << 20, n, e);
	}
	return text;
}

static void use(struct run *r, const char *name)
{
	struct err e = ERR_INIT;
	size_t n;
	char *text;

	if (!strcmp(r->name, name))
		return;
	tok_free(r->tok);
	snprintf(r->name, sizeof(r->name), "%s", name);
	text = slurp_any(r->dir, name, &n, &e);
	ck_assert_msg(text != NULL, "%s: %s", name, e.msg);
	r->tok = tok_new(text, n, NULL, name, &e);
	free(text);
	if (!r->tok)
		printf("%s: %s\n", name, e.msg);
}

/* Offsets are ordered and inside the text. */
static bool offsets_ok(const struct run *r, size_t len)
{
	for (size_t i = 0; i < r->out.n; i++)
		if (r->out.begin[i] > r->out.end[i] || r->out.end[i] > len || (i && r->out.begin[i] < r->out.begin[i - 1]))
			return false;
	return true;
}

/* The reference counts whole characters: a token that starts inside one begins with it. */
static bool begins_equal(const struct run *r, const char *text, const struct json *begin)
{
	int64_t want;

	for (uint32_t i = 0; json_is(begin, JSON_ARR) && i < begin->n && i < r->out.n; i++) {
		uint32_t b = r->out.begin[i];

		while (b && ((unsigned char)text[b] & 0xC0) == 0x80)
			b--;
		if (!json_as_i64(&begin->items[i], &want) || want != b) {
			printf("%s: token %u begins at %u, not %s\n", r->name, i, b, begin->items[i].s);
			return false;
		}
	}
	return true;
}

static bool ids_equal(const struct run *r, const struct json *ids)
{
	int64_t id;

	if (r->out.n != ids->n)
		return false;
	for (uint32_t i = 0; i < ids->n; i++)
		if (!json_as_i64(&ids->items[i], &id) || id != r->out.ids[i])
			return false;
	return true;
}

static void show(const struct run *r, const struct json *text, const struct json *ids, const struct err *e)
{
	printf("%s: '%.80s'\n  got ", r->name, text->s);
	for (size_t i = 0; i < r->out.n && i < 24; i++)
		printf(" %d", r->out.ids[i]);
	printf("\n  want");
	for (uint32_t i = 0; i < ids->n && i < 24; i++)
		printf(" %s", ids->items[i].s);
	printf("  %s\n", e->msg);
}

static bool decodes(const struct run *r, const struct json *want)
{
	struct sb text = SB_INIT;
	struct err e = ERR_INIT;
	bool ok;

	if (!json_is(want, JSON_STR))
		return true;
	ok = !tok_decode(r->tok, r->out.ids, r->out.n, false, &text, &e) && text.len == want->n && !memcmp(sb_str(&text), want->s, want->n);
	if (!ok)
		printf("%s: decoded '%.200s', wanted '%.200s'\n", r->name, sb_str(&text), want->s);
	sb_release(&text);
	return ok;
}

static void one(struct run *r, const struct json *v)
{
	const struct json *text = json_get(v, "text"), *ids = json_get(v, "ids");
	const char *name, *engine;
	struct err e = ERR_INIT;
	int rc;

	ck_assert(json_get_str(v, "tokenizer", NULL, &name) && json_get_str(v, "engine", "tokenizers", &engine) && name);
	if (strcmp(engine, "tokenizers") != 0) {
		r->skipped++;
		return;
	}
	use(r, name);
	r->out.n = 0;
	rc = r->tok ? tok_encode(r->tok, text->s, text->n, &r->out, &e) : -1;
	if (!rc && !ids_equal(r, ids))
		show(r, text, ids, &e);
	else if (!rc && offsets_ok(r, text->n) && begins_equal(r, text->s, json_get(v, "begin")) && decodes(r, json_get(v, "decoded"))) {
		r->passed++;
		return;
	}
	else if (!rc && !offsets_ok(r, text->n))
		printf("%s: offsets out of order in '%.80s'\n", r->name, text->s);
	r->failed++;
	if (rc)
		show(r, text, ids, &e);
}

static void run_cases(const char *dir, const char *cases)
{
	struct run r = { .dir = dir };
	struct err e = ERR_INIT;
	struct jsonl_rec rec;
	struct in *in;
	struct jsonl *j;
	char path[1024];
	int rc;

	snprintf(path, sizeof(path), "%s/%s", dir, cases);
	in = in_open(path, &e);
	ck_assert_msg(in != NULL, "%s", e.msg);
	j = jsonl_open_take(in, NULL, &e);
	ck_assert_msg(j != NULL, "%s", e.msg);
	while ((rc = jsonl_next(j, &rec, &e)) == 1)
		one(&r, &rec.v);
	ck_assert_msg(rc == 0, "%s", e.msg);
	jsonl_close(j);
	tok_free(r.tok);
	tok_out_release(&r.out);
	if (r.skipped)
		printf("# %zu cases of other engines left out\n", r.skipped);
	printf("%zu passed, %zu failed\n", r.passed, r.failed);
	fflush(stdout); /* a failed assertion ends the process as it is */
	ck_assert_uint_eq(r.failed, 0);
	ck_assert_uint_gt(r.passed, 0);
}

START_TEST(sample)
{
	run_cases(SAMPLE, "cases.jsonl.zst");
}
END_TEST

START_TEST(full)
{
	run_cases(getenv("LP_CONFORMANCE"), "token_cases.jsonl");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tok_conformance");
	TCase *tc = tcase_create("cases");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_set_timeout(tc, 0);
	suite_add_tcase(s, tc);
	if (getenv("LP_CONFORMANCE"))
		tcase_add_test(tc, full);
	else
		tcase_add_test(tc, sample);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
