/* fmt/lineage.c: the object, its nesting, and the sidecar. */
#include "fmt/lineage.h"
#include "json/json.h"
#include "scratch.h"

static double lr = 0.5;
static struct opt opts[] = { { OPT_F64, "lr", 0, &lr, "X", "rate" }, OPT_COMMON };
static const struct opt_spec spec = { .tool = "test-tool", .summary = "x", .synopsis = "x", .opts = opts };

START_TEST(object)
{
	struct lineage l;
	struct sb s = SB_INIT;
	struct arena a = ARENA_INIT;
	struct json v;
	const struct json *in;
	double got;

	lineage_init(&l, &spec);
	lineage_json(&l, &s);
	OK(json_parse_str(s.s, &a, &v, &er));
	ck_assert_uint_eq(json_get(&v, "inputs")->n, 0);
	sb_reset(&s);
	lineage_input(&l, "/some/where/data.jsonl", "xxh3:00", NULL);
	lineage_input(&l, "model", "sha256:11", "{\"tool\":\"model-init\"}");
	lineage_json(&l, &s);
	OK(json_parse_str(s.s, &a, &v, &er));
	ck_assert(json_str_is(json_get(&v, "tool"), "test-tool"));
	ck_assert(json_get_f64(json_get(&v, "options"), "lr", 0, &got) && got == 0.5);
	in = json_get(&v, "inputs");
	ck_assert_uint_eq(in->n, 2);
	ck_assert(json_str_is(json_get(&in->items[0], "name"), "data.jsonl"));
	ck_assert(json_str_is(json_get(json_get(&in->items[1], "lineage"), "tool"), "model-init"));
	ck_assert_ptr_null(strstr(s.s, "/some/where"));
	OK(lineage_sidecar(&l, at("out.jsonl"), "xxh3:22", &er));
	OK(json_load(at("out.jsonl.lineage.json"), &a, &v, &er));
	ck_assert(json_str_is(json_get(json_get(&v, "output"), "hash"), "xxh3:22"));
	OK(lineage_sidecar(&l, NULL, "xxh3:22", &er));
	OK(lineage_sidecar(&l, "/dev/null", "xxh3:22", &er));
	ck_assert_int_ne(access("/dev/null.lineage.json", F_OK), 0);
	lineage_release(&l);
	arena_release(&a);
	sb_release(&s);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("lineage");
	TCase *c = tcase_create("all");
	int rc;

	scratch_open();
	tcase_set_timeout(c, 120);
	tcase_add_test(c, object);
	suite_add_tcase(s, c);
	rc = run_tests(s);
	scratch_close();
	return rc;
}
