/* The template engine: bounds that hold against hostile templates, errors of
 * compilation, spans of generation blocks, followed strings. What templates
 * print is test_tmpl_conformance's business. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/tmpl.h"

static struct tmpl_render out;
static struct err e;

static int render(const char *src, const char *vars, const struct tmpl_limits *l)
{
	struct arena a = ARENA_INIT;
	struct json v;

	e = (struct err)ERR_INIT;
	struct tmpl *t = tmpl_compile(src, strlen(src), "t", &e);
	ck_assert_msg(t != NULL, "%s", e.msg);
	ck_assert_int_eq(json_parse_str(vars, &a, &v, &e), 0);
	int rc = tmpl_render(t, &v, 0, l, &out, &e);
	tmpl_free(t);
	arena_release(&a);
	return rc;
}

static void ck_text(const char *src, const char *want)
{
	ck_assert_msg(render(src, "{}", NULL) == 0, "%s: %s", src, e.msg);
	ck_assert_str_eq(sb_str(&out.text), want);
}

static void ck_limit(const char *src, const struct tmpl_limits *l)
{
	ck_assert_msg(render(src, "{}", l) == -1, "%s renders", src);
	ck_assert_msg(out.why == TMPL_LIMIT, "%s: %s", src, e.msg);
	ck_assert_int_eq(e.code, LP_DATA);
}

/* Whatever looks at a long string, or at a value that is far larger than its memory, pays for it: time is bounded as steps are. */
START_TEST(test_long_work)
{
	static const char *const on_s[] = { "'b' in s", "s == t", "s < t", "s.count('b')", "s | length", "(' ' * 100000) | trim", "s.find('ab')", "s[-1]", "s[-1:]", "s[::-1] is string", "s.isalpha()",
		"s.isupper()", "s.startswith(t)", "s is lower", "s | wordcount", "s | truncate(5)", "s.splitlines() | length", "s | int", "{s: 1}[s]", "(s, 1) == (t, 1)", "t in [s]", "[s, t] | max == s",
		"s | tojson is string", "s | urlencode is string", "s | wordwrap(1) is string", "s.translate({}) is string", "s | upper is string", "s.replace('b', 'c') is string", "s | striptags is string",
		"'a' | center(100000) is string", "s | e is string", "s.partition('b')[1]", "[s] | map('upper') | list | length", "[s, t] | sort | length", "[s, t] | unique | list | length" };
	static const char *const big[] = { "ns.x == ns.y", "{ns.t: 1} is mapping", "ns.x in [ns.y]", "ns.x | string is string", "ns.x | tojson is string" };
	struct tmpl_limits small = { .max_steps = 300000 };
	char src[1024];

	for (size_t i = 0; i < sizeof(on_s) / sizeof(on_s[0]); i++) {
		snprintf(src, sizeof(src), "{%% set s = 'a' * 100000 %%}{%% set t = 'a' * 99999 + 'a' %%}{%% for i in range(99999) %%}{%% if %s %%}{%% endif %%}{%% endfor %%}", on_s[i]);
		ck_limit(src, &small);
	}
	for (size_t i = 0; i < sizeof(big) / sizeof(big[0]); i++) {
		snprintf(src, sizeof(src), "{%% set ns = namespace(x=[1], y=[1], t=(1,)) %%}{%% for i in range(60) %%}{%% set ns.x = [ns.x, ns.x] %%}{%% set ns.y = [ns.y, ns.y] %%}"
			 "{%% set ns.t = (ns.t, ns.t) %%}{%% endfor %%}{%% if %s %%}{%% endif %%}", big[i]);
		ck_limit(src, &small);
	}
}
END_TEST

START_TEST(test_bounds)
{
	struct tmpl_limits small = { .max_steps = 100000, .max_output = 1 << 16, .max_depth = 50 };

	ck_limit("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", &small);
	ck_limit("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", &small);
	ck_limit("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", NULL);
	ck_limit("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", NULL);
	ck_limit("{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", &small);
	ck_limit("{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}", &small);
	ck_limit("{% set ns = namespace(s='ab') %}{% for i in range(64) %}{% set ns.s = ns.s.replace('a', ns.s) %}{% endfor %}", &small);
	ck_limit("{% set ns = namespace(s=['ab']) %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", &small);
	ck_limit("{{ 'x' * 99999999 }}", &small);
	ck_limit("{{ [0] * 99999999 }}", &small);
	ck_limit("{{ 'x'.center(99999999) }}", &small);
	ck_limit("{{ range(100001) }}", NULL);
	ck_limit("{{ 9223372036854775807 + 1 }}", NULL);
	ck_limit("{{ 10 ** 30 }}", NULL);
	ck_limit("{% for i in range(99999) %}xxxxxxxxxxxxxxxx{% endfor %}", &(struct tmpl_limits){ .max_output = 1000 });
	/* a value that holds itself, many times over */
	ck_limit("{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}", NULL);
	ck_limit("{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}", NULL);
	ck_limit("{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|string|length }}", &small);
	/* comparing such values ends as well */
	ck_text("{% set ns = namespace(x=[], y=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}{{ ns.x == [1] }}", "False");
}
END_TEST

/* n copies of open, middle, n copies of close */
static char *nested(const char *open, const char *middle, const char *close, size_t n)
{
	struct sb b = SB_INIT;

	for (size_t i = 0; i < n; i++)
		sb_adds(&b, open);
	sb_adds(&b, middle);
	for (size_t i = 0; i < n; i++)
		sb_adds(&b, close);
	return sb_detach(&b);
}

static void ck_refused(char *src)
{
	e = (struct err)ERR_INIT;
	struct tmpl *t = tmpl_compile(src, strlen(src), "t", &e);

	ck_assert_msg(t == NULL, "compiles: %.60s", src);
	ck_assert_int_eq(e.code, LP_USAGE);
	free(src);
}

START_TEST(test_deep_source)
{
	static const char *const cases[][3] = { { "{{ ", "", "" }, { "(", "1", ")" }, { "[", "1", "]" }, { "-", "1", "" }, { "not ", "1", "" },
		{ "{'a':", "1", "}" }, { "1 if 1 else ", "1", "" }, { "x[", "1", "]" }, { "f(", "1", ")" } };

	for (size_t i = 1; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *x = nested(cases[i][0], cases[i][1], cases[i][2], 20000), *src = malloc(strlen(x) + 16);

		snprintf(src, strlen(x) + 16, "{{ %s }}", x);
		free(x);
		ck_refused(src);
	}
	ck_refused(nested("{% if x %}", "", "{% endif %}", 2000));
	ck_refused(nested("{% for x in y %}", "", "{% endfor %}", 2000));
	char *x = nested("{% elif x %}", "", "", 20000), *src = malloc(strlen(x) + 64);
	snprintf(src, strlen(x) + 64, "{%% if x %%}%s{%% endif %%}", x);
	free(x);
	ck_refused(src);
	/* a long chain of one operator is a deep tree too */
	x = nested("1+", "1", "", 20000);
	src = malloc(strlen(x) + 16);
	snprintf(src, strlen(x) + 16, "{{ %s }}", x);
	free(x);
	ck_refused(src);
}
END_TEST

START_TEST(test_compile_errors)
{
	static const char *const bad[] = { "{{", "{%", "{% %}", "{{ }}", "{{ a b }}", "{% for %}", "{% for x y %}", "{% set %}", "{% macro %}",
		"{% call x %}{% endcall %}", "{{ 'a }}", "{{ a.1b }}", "{{ a|}}", "{{ a is }}", "{% endif %}", "{{ {1} }}", "{{ [1 }}", "{{ a[1:2, 3] }}",
		"{{ '\\x4' }}", "{{ '\\ud800' }}", "{% raw %}", "{#", "{{ a\xc3 }}", "{% if x %}{% else %}{% else %}{% endif %}" };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (!strcmp(bad[i], "{#") || !strcmp(bad[i], "{% raw %}"))
			continue; /* nothing behind them: Jinja lets these pass */
		e = (struct err)ERR_INIT;
		struct tmpl *t = tmpl_compile(bad[i], strlen(bad[i]), "t", &e);
		ck_assert_msg(t == NULL, "compiles: %s", bad[i]);
		ck_assert_msg(e.code == LP_USAGE && strstr(e.msg, "bad template"), "%s: %s", bad[i], e.msg);
	}
	e = (struct err)ERR_INIT;
	ck_assert_ptr_null(tmpl_compile("a\nb\n{% zork %}", 14, "file.jinja", &e));
	ck_assert_uint_eq(e.line, 3);
	ck_assert_str_eq(e.path, "file.jinja");
}
END_TEST

START_TEST(test_errors_say_where)
{
	ck_assert_int_eq(render("a\n{{ x.y.z }}", "{\"x\":{}}", NULL), -1);
	ck_assert_int_eq(out.why, TMPL_UNDEFINED);
	ck_assert_msg(strstr(e.msg, "line 2") && strstr(e.msg, "'y'"), "%s", e.msg);
	ck_assert_int_eq(render("{{ raise_exception('my reason') }}", "{}", NULL), -1);
	ck_assert_int_eq(out.why, TMPL_RAISED);
	ck_assert_msg(strstr(e.msg, "my reason") != NULL, "%s", e.msg);
}
END_TEST

START_TEST(test_json_values)
{
	/* the last of two equal keys counts, at the place of the first; numbers keep their kind */
	ck_assert_int_eq(render("{{ d }}{{ d.a }}{{ d|length }}{% for k in d %}{{ k }}{% endfor %}", "{\"d\":{\"a\":1,\"b\":2,\"a\":3}}", NULL), 0);
	ck_assert_str_eq(sb_str(&out.text), "{'a': 3, 'b': 2}32ab");
	ck_assert_int_eq(render("{{ x }} {{ x|tojson }}", "{\"x\":[1, 1.0, -0, 1e2, 12345678901234567890, 0.10]}", NULL), 0);
	ck_assert_str_eq(sb_str(&out.text), "[1, 1.0, 0, 100.0, 12345678901234567890, 0.1] [1, 1.0, 0, 100.0, 12345678901234567890, 0.1]");
	ck_assert_int_eq(render("{{ s|length }}{{ s|tojson }}", "{\"s\":\"a\\u0000b\"}", NULL), 0);
	ck_assert_str_eq(sb_str(&out.text), "3\"a\\u0000b\"");
}
END_TEST

START_TEST(test_big_dict)
{
	struct sb vars = SB_INIT;

	sb_adds(&vars, "{\"d\":{");
	for (int i = 0; i < 3000; i++)
		sb_addf(&vars, "%s\"k%d\":%d", i ? "," : "", i, i);
	sb_adds(&vars, "}}");
	ck_assert_int_eq(render("{% set c = dict(d, k5='x') %}{{ c.k2999 }}{{ c.k5 }}{{ c|length }}{{ 'k77' in c }}{{ 'zz' in c }}", vars.s, NULL), 0);
	ck_assert_str_eq(sb_str(&out.text), "2999x3000TrueFalse");
	sb_release(&vars);
}
END_TEST

START_TEST(test_generation_spans)
{
	ck_text("\xc3\xa9{% generation %}ab{% endgeneration %}-{% set s %}{% generation %}c{% endgeneration %}{% endset %}{{ s }}", "\xc3\xa9"
	                                                                                                                         "ab-c");
	ck_assert_uint_eq(out.n_gen, 2);
	ck_assert_uint_eq(out.gen[0].begin, 2);
	ck_assert_uint_eq(out.gen[0].end, 4);
	ck_assert(!out.gen[0].nested && out.gen[1].nested);
}
END_TEST

/* A string is followed through slices, sums, macros and captures. */
static void ck_watch(const char *src, const char *text, size_t begin, size_t end)
{
	struct arena a = ARENA_INIT;
	struct json v;
	struct tmpl_watch w;

	e = (struct err)ERR_INIT;
	struct tmpl *t = tmpl_compile(src, strlen(src), "t", &e);
	ck_assert_int_eq(json_parse_str("{\"c\":\" abc \"}", &a, &v, &e), 0);
	w = (struct tmpl_watch){ .s = json_get(&v, "c")->s, .n = 5 };
	out.watch = &w;
	out.n_watch = 1;
	ck_assert_int_eq(tmpl_render(t, &v, 0, NULL, &out, &e), 0);
	out.watch = NULL;
	ck_assert_str_eq(sb_str(&out.text), text);
	ck_assert_uint_eq(w.begin, begin);
	ck_assert_uint_eq(w.end, end);
	tmpl_free(t);
	arena_release(&a);
}

START_TEST(test_watch)
{
	ck_watch("<{{ c }}>", "< abc >", 1, 6);
	ck_watch("<{{ c.strip() }}>", "<abc>", 1, 4);
	ck_watch("<{{ 'x' + c|trim + 'y' }}>", "<xabcy>", 2, 5);
	ck_watch("{% set d = 'x' + c %}<{{ d + 'y' }}>", "<x abc y>", 2, 7);
	ck_watch("{% macro m(x) %}[{{ x }}]{% endmacro %}<{{ m(c) }}>", "<[ abc ]>", 2, 7);
	ck_watch("{% set s %}[{{ c }}]{% endset %}<{{ s|trim }}>", "<[ abc ]>", 2, 7);
	ck_watch("<{{ c[::-1] }}>", "< cba >", SIZE_MAX, SIZE_MAX);
	ck_watch("<{{ c }}{{ c }}>", "< abc  abc >", 1, 11);
}
END_TEST

static void release(void)
{
	tmpl_render_release(&out);
}

int main(void)
{
	Suite *s = suite_create("tmpl");
	TCase *t = tcase_create("tmpl");
	SRunner *sr;
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, NULL, release);
	tcase_add_test(t, test_long_work);
	tcase_add_test(t, test_bounds);
	tcase_add_test(t, test_deep_source);
	tcase_add_test(t, test_compile_errors);
	tcase_add_test(t, test_errors_say_where);
	tcase_add_test(t, test_json_values);
	tcase_add_test(t, test_big_dict);
	tcase_add_test(t, test_generation_spans);
	tcase_add_test(t, test_watch);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed != 0;
}
