/* Every template case: {"template","case","input","output"|"error","generation"?}
 * rendered and compared byte for byte. The sample in tests/conformance/templates
 * always runs; LP_CONFORMANCE=DIR (template_cases.jsonl and templates/) runs the
 * full set. LP_VERBOSE=1 shows the first difference of every failed case. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/in.h"
#include "base/sb.h"
#include "json/jsonl.h"
#include "text/tmpl.h"

#define SAMPLE "tests/conformance/templates"

struct run {
	const char *dir;
	char name[256]; /* of the template that is loaded */
	struct tmpl *t;
	struct tmpl_render out;
	struct err compile_err;
	size_t passed, failed;
	bool verbose;
};

static void use(struct run *r, const char *name)
{
	struct err e = ERR_INIT;
	char path[1024];
	size_t n;

	if (!strcmp(r->name, name))
		return;
	tmpl_free(r->t);
	snprintf(r->name, sizeof(r->name), "%s", name);
	snprintf(path, sizeof(path), "%s/templates/%s", r->dir, name);
	char *text = in_slurp(path, 64u << 20, &n, &e);
	ck_assert_msg(text != NULL, "%s: %s", path, e.msg);
	r->compile_err = (struct err)ERR_INIT;
	r->t = tmpl_compile(text, n, name, &r->compile_err);
	free(text);
}

static int64_t parse_now(const char *s)
{
	struct tm tm = { 0 };

	if (!s || sscanf(s, "%d-%d-%dT%d:%d:%d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &tm.tm_sec) < 3)
		return 0;
	tm.tm_year -= 1900;
	tm.tm_mon--;
	return (int64_t)timegm(&tm);
}

/* Is our kind of error the reference's class? */
static bool same_class(const char *type, const struct tmpl_render *o)
{
	static const struct {
		const char *type;
		enum tmpl_why why;
	} map[] = { { "TemplateError", TMPL_RAISED }, { "UndefinedError", TMPL_UNDEFINED }, { "TypeError", TMPL_TYPE },
		{ "SecurityError", TMPL_SECURITY }, { "TemplateRuntimeError", TMPL_RUNTIME }, { "ValueError", TMPL_VALUE },
		{ "ZeroDivisionError", TMPL_VALUE }, { "KeyError", TMPL_VALUE }, { "OverflowError", TMPL_LIMIT },
		{ "FilterArgumentError", TMPL_RUNTIME }, { "RecursionError", TMPL_LIMIT } };

	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++)
		if (!strcmp(map[i].type, type))
			return map[i].why == o->why || (map[i].why == TMPL_VALUE && o->why == TMPL_LIMIT);
	return true;
}

static size_t code_points(const char *s, size_t n)
{
	size_t k = 0;

	for (size_t i = 0; i < n; i++)
		k += ((unsigned char)s[i] & 0xc0) != 0x80;
	return k;
}

/* The reference counts code points up to where the outermost output began. */
static bool same_spans(const struct json *want, const struct tmpl_render *o)
{
	if (want->n != o->n_gen)
		return false;
	for (size_t i = 0; i < o->n_gen; i++) {
		int64_t b, e;
		size_t cb = code_points(o->text.s, o->gen[i].begin), ce;

		if (!json_as_i64(&want->items[i].items[0], &b) || !json_as_i64(&want->items[i].items[1], &e))
			return false;
		if (o->gen[i].nested) { /* its end is begin plus a length in bytes, not a place in the text */
			if ((size_t)b != cb)
				return false;
			continue;
		}
		ce = code_points(o->text.s, o->gen[i].end);
		if ((size_t)b != cb || (size_t)e != ce)
			return false;
	}
	return true;
}

static void complain(struct run *r, const struct json *v, const char *what, const char *got, size_t n, const struct json *want)
{
	const char *kase;
	size_t i = 0;

	r->failed++;
	if (!r->verbose && r->failed > 20)
		return;
	if (!json_get_str(v, "case", "", &kase))
		kase = "";
	printf("%s %s: %s", r->name, kase, what);
	if (want && got) {
		while (i < n && i < want->n && got[i] == want->s[i])
			i++;
		size_t from = i > 30 ? i - 30 : 0;
		printf(" at byte %zu of %zu (%u)\n  got  %.*s\n  want %.*s", i, n, want->n, (int)(n - from > 90 ? 90 : n - from), got + from,
		       (int)(want->n - from > 90 ? 90 : want->n - from), want->s + from);
	}
	printf("\n");
}

static void one_case(struct run *r, const struct json *v)
{
	const struct json *input = json_get(v, "input"), *output = json_get(v, "output"), *error = json_get(v, "error"), *gen = json_get(v, "generation");
	const char *name, *now, *type, *msg, *kase;
	struct err e = ERR_INIT;

	ck_assert(json_get_str(v, "template", NULL, &name) && name && json_get_str(v, "case", "", &kase));
	use(r, name);
	if (!r->t || !strcmp(kase, "__compile__")) {
		if (r->t || !error)
			complain(r, v, r->t ? "compiles, and must not" : r->compile_err.msg, NULL, 0, NULL);
		else
			r->passed++;
		return;
	}
	ck_assert(json_get_str(input, "now", NULL, &now));
	int rc = tmpl_render(r->t, input, parse_now(now), NULL, &r->out, &e);
	if (error) {
		ck_assert(json_get_str(error, "type", "", &type) && json_get_str(error, "message", "", &msg));
		if (!rc)
			complain(r, v, "renders, and must not", NULL, 0, NULL);
		else if (!same_class(type, &r->out) || (r->out.why == TMPL_RAISED && !strstr(e.msg, msg)))
			complain(r, v, e.msg, NULL, 0, NULL);
		else
			r->passed++;
		return;
	}
	if (rc)
		complain(r, v, e.msg, NULL, 0, NULL);
	else if (r->out.text.len != output->n || memcmp(sb_str(&r->out.text), output->s, output->n))
		complain(r, v, "differs", sb_str(&r->out.text), r->out.text.len, output);
	else if (gen && !same_spans(gen, &r->out))
		complain(r, v, "generation spans differ", NULL, 0, NULL);
	else
		r->passed++;
}

static void run_dir(const char *dir)
{
	struct run r = { .dir = dir, .verbose = getenv("LP_VERBOSE") != NULL };
	struct err e = ERR_INIT;
	struct jsonl_rec rec;
	char path[1024];
	int rc;

	snprintf(path, sizeof(path), "%s/template_cases.jsonl", dir);
	struct in *in = in_open(path, &e);
	if (!in) { /* the sample is kept compressed */
		snprintf(path, sizeof(path), "%s/template_cases.jsonl.gz", dir);
		in = in_open(path, &e);
	}
	ck_assert_msg(in != NULL, "%s: %s", path, e.msg);
	struct jsonl *j = jsonl_open_take(in, "jsonl", &e);
	ck_assert_msg(j != NULL, "%s", e.msg);
	while ((rc = jsonl_next(j, &rec, &e)) == 1)
		one_case(&r, &rec.v);
	ck_assert_msg(rc == 0, "%s", e.msg);
	jsonl_close(j);
	tmpl_free(r.t);
	tmpl_render_release(&r.out);
	printf("%s: %zu passed, %zu failed\n", path, r.passed, r.failed);
	fflush(stdout);
	ck_assert_uint_gt(r.passed, 0);
	ck_assert_uint_eq(r.failed, 0);
}

START_TEST(test_sample)
{
	run_dir(SAMPLE);
	run_dir(SAMPLE "/corners");
}
END_TEST

START_TEST(test_full)
{
	if (getenv("LP_CONFORMANCE"))
		run_dir(getenv("LP_CONFORMANCE"));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tmpl_conformance");
	TCase *t = tcase_create("cases");
	SRunner *sr;
	int failed;

	tcase_set_timeout(t, 300);
	if (!getenv("LP_CONFORMANCE"))
		tcase_add_test(t, test_sample);
	tcase_add_test(t, test_full);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed != 0;
}
