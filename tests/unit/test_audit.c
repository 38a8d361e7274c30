/* data/audit.c: each rule at its threshold, options, and the goldens of plain Python. */
#include "data/audit.h"

#include "base/hash.h"
#include "json/jsonl.h"
#include "scratch.h"

static struct arena arena;

static struct audit_opts defaults(void)
{
	struct audit_opts o = { .min_turns = 2, .min_chars = 50, .max_chars = 8000 };

	opt_split("as an ai,i am an ai,language model", &o.phrases);
	return o;
}

/* "rule role; rule role; " */
static void list(const struct audit_findings *f, struct sb *out)
{
	sb_reset(out);
	for (size_t i = 0; i < f->n; i++)
		sb_addf(out, "%s%s%s; ", audit_rule_name(f->v[i].rule), f->v[i].role ? " " : "", f->v[i].role ? f->v[i].role : "");
}

static void finds(const struct audit_opts *o, const char *record, const char *want)
{
	struct audit *a = audit_new(o);
	struct audit_findings f = { 0 };
	struct sb got = SB_INIT;
	struct json v;
	struct chat c;

	OK(json_parse_str(record, &arena, &v, &er));
	if (chat_from_json(&v, NULL, &arena, &c, &er) < 0)
		audit_malformed(a, er.msg, &f);
	else
		audit_chat(a, 1, &c, &f);
	list(&f, &got);
	ck_assert_msg(!strcmp(sb_str(&got), want), "%s: got '%s', wanted '%s'", record, sb_str(&got), want);
	ck_assert_uint_eq(audit_records(a), 1);
	ck_assert_uint_eq(audit_flagged(a), f.n > 0);
	sb_release(&got);
	audit_findings_release(&f);
	audit_free(a);
}

#define U "{\"role\":\"user\",\"content\":\"hello there\"}"
#define A50 "{\"role\":\"assistant\",\"content\":\"01234567890123456789012345678901234567890123456789\"}"

START_TEST(rules)
{
	struct audit_opts o = defaults();

	finds(&o, "{\"messages\":[" U "," A50 "]}", "");
	finds(&o, "{\"messages\":[]}", "few-turns; ");
	finds(&o, "{\"messages\":[" U "]}", "few-turns; ");
	finds(&o, "{\"messages\":[" U ",{\"role\":\"assistant\",\"content\":\"0123456789012345678901234567890123456789012345678\"}]}", "short-response assistant; ");
	/* 49 characters of three bytes each. */
	finds(&o, "{\"messages\":[" U ",{\"role\":\"assistant\",\"content\":\"\xe4\xbd\xa0\xe4\xbd\xa0\xe4\xbd\xa0\xe4\xbd\xa0\xe4\xbd\xa0\xe4\xbd\xa0\xe4\xbd\xa0\"}]}",
	      "short-response assistant; ");
	finds(&o, "{\"messages\":[" U "," U "," A50 "," A50 "]}", "consecutive-role user; consecutive-role assistant; ");
	finds(&o, "{\"messages\":[" U ",{\"role\":\"system\",\"content\":\"s\"}," U "," A50 "]}", "consecutive-role user; ");
	finds(&o, "{\"messages\":[{\"role\":\"user\",\"content\":\" \\u3000\\n\"}," A50 "]}", "empty-message user; ");
	finds(&o, "{\"messages\":[{\"role\":\"user\",\"content\":\"\"},{\"role\":\"assistant\",\"content\":\"\\u00a0\"}]}",
	      "short-response assistant; empty-message user; empty-message assistant; ");
	finds(&o, "{\"messages\":[{\"role\":\"user\",\"content\":\"As An Ai, what are you?\"}," A50 "]}", "identity-leak user; ");
	finds(&o, "{\"messages\":[{\"role\":\"user\",\"content\":null}," A50 "]}", "malformed; ");
	finds(&o, "{\"messages\":[{\"role\":\"user\"}]}", "malformed; ");
	finds(&o, "{\"nothing\":1}", "malformed; ");
}
END_TEST

START_TEST(long_response)
{
	struct audit_opts o = defaults();
	struct sb s = SB_INIT;

	for (int n = 8000; n <= 8001; n++) {
		sb_reset(&s);
		sb_adds(&s, "{\"prompt\":\"p\",\"completion\":\"");
		for (int i = 0; i < n; i++)
			sb_adds(&s, "\xc3\xa9");
		sb_adds(&s, "\"}");
		finds(&o, s.s, n > 8000 ? "long-response assistant; " : "");
	}
	sb_release(&s);
}
END_TEST

START_TEST(options)
{
	struct audit_opts o = { .min_turns = 3, .min_chars = 0, .max_chars = 4 };

	finds(&o, "{\"prompt\":\"as an ai\",\"completion\":\"12345\"}", "few-turns; long-response assistant; ");
	opt_split("12", &o.phrases);
	opt_split("assistant", &o.leak_roles);
	finds(&o, "{\"prompt\":\"12\",\"completion\":\"012\"}", "few-turns; identity-leak assistant; ");
}
END_TEST

START_TEST(duplicates)
{
	static const char *const records[] = {
		"{\"prompt\":\"a b\",\"completion\":\"c\"}", "{\"messages\":[{\"role\":\"user\",\"content\":\"a  b \"},{\"role\":\"assistant\",\"content\":\"c\"}]}",
		"{\"prompt\":\"a\",\"completion\":\"b c\"}", "{\"prompt\":\"ab\",\"completion\":\"c\"}",
	};
	static const bool want[] = { false, true, false, false };
	struct audit_opts o = { .duplicates = true, .max_chars = 100 };
	struct audit *a = audit_new(&o);
	struct audit_findings f = { 0 };
	struct json v;
	struct chat c;

	for (uint64_t i = 0; i < 4; i++) {
		OK(json_parse_str(records[i], &arena, &v, &er));
		OK(chat_from_json(&v, NULL, &arena, &c, &er));
		audit_chat(a, i + 1, &c, &f);
		ck_assert_int_eq(f.n == 1 && f.v[0].rule == AUDIT_DUPLICATE, want[i]);
	}
	/* More than one growth of the table, each record again. */
	for (uint64_t i = 0; i < 10000; i++) {
		char text[80];

		snprintf(text, sizeof(text), "{\"prompt\":\"q %llu\",\"completion\":\"x\"}", (unsigned long long)(i % 5000));
		OK(json_parse_str(text, &arena, &v, &er));
		OK(chat_from_json(&v, NULL, &arena, &c, &er));
		audit_chat(a, 100 + i, &c, &f);
		ck_assert_uint_eq(f.n, i >= 5000);
	}
	ck_assert_uint_eq(audit_count(a, AUDIT_DUPLICATE), 5001);
	audit_findings_release(&f);
	audit_free(a);
}
END_TEST

START_TEST(rule_sets)
{
	uint32_t r;

	OK(audit_parse_rules("few-turns,size", "drop", &r, &er));
	ck_assert_uint_eq(r, 1u << AUDIT_FEW_TURNS | 1u << AUDIT_SIZE);
	OK(audit_parse_rules("error", "drop", &r, &er));
	ck_assert_uint_eq(r, 1u << AUDIT_EMPTY_MESSAGE | 1u << AUDIT_CONSECUTIVE_ROLE | 1u << AUDIT_MALFORMED);
	OK(audit_parse_rules("info", "drop", &r, &er));
	ck_assert_uint_eq(r, (1u << AUDIT_N_RULES) - 1);
	BAD(audit_parse_rules("few-turns,nope", "fail-on", &r, &er), LP_USAGE, "--fail-on: 'nope' is neither a rule nor a severity");
}
END_TEST

/* The guides' table at each of its borders. */
START_TEST(sizes)
{
	static const struct {
		const char *task;
		uint64_t n;
		const char *says;
		bool ok;
	} t[] = {
		{ "style", 49, "too few", false },      { "style", 99, "at the minimum", false },   { "style", 150, "above the minimum, below the sweet spot of 200 to 500", false },
		{ "style", 200, "in the sweet", true }, { "style", 1000, "more than the sweet", true }, { "style", 1001, "beyond 1000", true },
		{ "qa", 150, "too few", false },        { "qa", 3000, "in the sweet", true },       { "code", 150, "too few", false },
		{ "code", 1200, "below the sweet spot of 2000 to 5000", false }, { "reasoning", 150, "a model memorises", false }, { "reasoning", 20001, "beyond", true },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct sb s = SB_INIT;
		bool ok;

		audit_size_verdict(t[i].task, t[i].n, &s, &ok);
		ck_assert_msg(strstr(s.s, t[i].says) && ok == t[i].ok, "%s %d: %s", t[i].task, (int)t[i].n, s.s);
		sb_release(&s);
	}
}
END_TEST

/* --- goldens --- */

static void audit_file(const char *path, struct sb *listing)
{
	struct audit_opts o = defaults();
	struct audit *a = audit_new(&o);
	struct audit_findings f = { 0 };
	struct jsonl *j = jsonl_open_take(in_open(path, &er), NULL, &er);
	struct jsonl_rec rec;
	struct chat c;
	int rc;

	ck_assert_msg(j != NULL, "%s: %s", path, er.msg);
	sb_reset(listing);
	while ((rc = jsonl_next(j, &rec, &er)) == 1) {
		if (chat_from_json(&rec.v, NULL, jsonl_arena(j), &c, &er) < 0)
			audit_malformed(a, er.msg, &f);
		else
			audit_chat(a, rec.line, &c, &f);
		for (size_t i = 0; i < f.n; i++)
			sb_addf(listing, "%llu\t%s\t%s\n", (unsigned long long)rec.line, audit_rule_name(f.v[i].rule), f.v[i].role ? f.v[i].role : "");
	}
	ck_assert_msg(rc == 0, "%s: %s", path, er.msg);
	jsonl_close(j);
	audit_findings_release(&f);
	audit_free(a);
}

static bool check_file(const char *dir, const char *name, const char *end, const char *want)
{
	char path[512], hex[65];
	struct sb listing = SB_INIT;

	snprintf(path, sizeof(path), "%s/%s%s", dir, name, end);
	if (access(path, R_OK))
		return false;
	audit_file(path, &listing);
	sha_once(sb_str(&listing), listing.len, hex);
	ck_assert_msg(!strcmp(hex, want), "%s: the findings differ from the golden's", path);
	sb_release(&listing);
	return true;
}

/* The fuzz, data/sets, and the folder named by LP_DATA_DIR if it is set. */
START_TEST(goldens)
{
	size_t n;
	char *text = get_file("tests/unit/data/audit_goldens.tsv", &n), *rest = text, *line;
	const char *more = getenv("LP_DATA_DIR");
	int n_files = 0;

	while ((line = strsep(&rest, "\n"))) {
		const char *name = strsep(&line, "\t");

		strsep(&line, "\t");
		strsep(&line, "\t");
		if (!line || *name == '#')
			continue;
		const char *hash = strsep(&line, "\t");

		n_files += check_file("data/sets", name, "", hash) + check_file("tests/unit/data", name, ".xz", hash);
		if (more)
			n_files += check_file(more, name, "", hash);
	}
	ck_assert_int_ge(n_files, 8);
	free(text);
}
END_TEST

/* The head of the fuzz in full, so that a difference can be seen and not only hashed. */
START_TEST(golden_head)
{
	size_t n;
	char *want = get_file("tests/unit/data/audit_head.tsv", &n);
	struct sb got = SB_INIT;

	audit_file("tests/unit/data/audit_fuzz.jsonl.xz", &got);
	ck_assert_uint_ge(got.len, n);
	got.s[n] = '\0';
	ck_assert_str_eq(got.s, want);
	free(want);
	sb_release(&got);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("audit");
	TCase *c = tcase_create("all");

	tcase_set_timeout(c, 60);
	tcase_add_test(c, rules);
	tcase_add_test(c, long_response);
	tcase_add_test(c, options);
	tcase_add_test(c, duplicates);
	tcase_add_test(c, rule_sets);
	tcase_add_test(c, sizes);
	tcase_add_test(c, golden_head);
	tcase_add_test(c, goldens);
	suite_add_tcase(s, c);
	return run_tests(s);
}
