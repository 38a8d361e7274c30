/* Modelfiles: for every template of the sample either one that renders as the
 * template does, or a refusal; and the little Go renderer that proves it. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/modelfile.h"

static int go(const char *src, const char *system, struct sb *out, struct err *e)
{
	struct chat_msg m[] = { { "system", system, strlen(system), NULL }, { "user", "U", 1, NULL }, { "assistant", "A", 1, NULL } };
	struct chat c = { .msgs = m + !*system, .n_msgs = 3 - !*system };

	*e = (struct err)ERR_INIT;
	sb_reset(out);
	return modelfile_render(src, strlen(src), &c, out, e);
}

START_TEST(test_go)
{
	static const char t[] = "{{ if .System }}[{{ .System }}]{{ else }}none{{ end }}{{ range .Messages }}{{ if eq .Role \"user\" }}<{{ .Content }}"
	                        "{{ else if eq .Role \"assistant\" }}{{ \"{\" }}{{ .Role }}={{ .Content }}{{ end }};{{ end }}!";
	struct sb out = SB_INIT;
	struct err e;

	ck_assert_int_eq(go(t, "S", &out, &e), 0);
	ck_assert_str_eq(sb_str(&out), "[S];<U;{assistant=A;!");
	ck_assert_int_eq(go(t, "", &out, &e), 0);
	ck_assert_str_eq(sb_str(&out), "none<U;{assistant=A;!");
	ck_assert_int_eq(go("{{ .Tools }}", "", &out, &e), -1);
	ck_assert_int_eq(go("{{ if .System }}x", "", &out, &e), -1);
	ck_assert_int_eq(go("{{ range .Messages }}x", "", &out, &e), -1);
	ck_assert_int_eq(go("{{ end }}", "", &out, &e), -1);
	ck_assert_int_eq(go("{{ if .None }}x{{ end }}", "", &out, &e), -1);
	ck_assert_int_eq(go("a {{", "", &out, &e), -1);
	sb_release(&out);
}
END_TEST

static int make(const char *src, const char *config, const struct modelfile_opts *m, struct sb *out, struct err *e)
{
	struct chat_render_opts o = { 0 };
	struct sb notes = SB_INIT;
	struct chat_tmpl *t;

	*e = (struct err)ERR_INIT;
	sb_reset(out);
	t = chat_tmpl_new(src, config, NULL, e);
	ck_assert_msg(t != NULL, "%s", e->msg);
	int rc = modelfile_write(t, m, &o, out, &notes, e);
	chat_tmpl_free(t);
	sb_release(&notes);
	return rc;
}

#define CONFIG "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}"
#define PLAIN                                                                                                   \
	"{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}" \
	"{% if add_generation_prompt %}<assistant>{% endif %}"

START_TEST(test_write)
{
	struct modelfile_opts m = { .from = "x", .temperature = -1 };
	struct sb out = SB_INIT;
	struct err e;

	ck_assert_msg(make(PLAIN, CONFIG, &m, &out, &e) == 0, "%s", e.msg);
	ck_assert_ptr_nonnull(strstr(sb_str(&out), "TEMPLATE \"\"\"{{ if .System }}<s><system>{{ .System }}{{ else }}<s>{{ end }}"));
	m.adds_bos = true;
	ck_assert_int_eq(make(PLAIN, CONFIG, &m, &out, &e), 0);
	ck_assert_ptr_null(strstr(sb_str(&out), "<s>"));
	/* braces of Go's own in the template's text */
	ck_assert_msg(make("{{ '{{' }}" PLAIN, CONFIG, &m, &out, &e) == 0, "%s", e.msg);
	ck_assert_ptr_nonnull(strstr(sb_str(&out), "{{ \"{\" }}"));
	/* what cannot be said */
	ck_assert_int_eq(make("'\"\"\"'" PLAIN, CONFIG, &m, &out, &e), -1);
	ck_assert_ptr_nonnull(strstr(e.msg, "three quotes"));
	ck_assert_int_eq(make("{{ messages | length }}" PLAIN, CONFIG, &m, &out, &e), -1);
	ck_assert_int_eq(e.code, LP_DATA);
	ck_assert_int_eq(make("{% for m in messages %}{{ m.content | upper }}{% endfor %}", CONFIG, &m, &out, &e), -1);
	ck_assert_ptr_nonnull(strstr(e.msg, "changes, moves or leaves out"));
	/* a system prompt that goes into the last turn */
	ck_assert_int_eq(make("{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}; {% endif %}"
	                      "{{ m.content }}</s>{% endif %}{% endfor %}<assistant>", CONFIG, &m, &out, &e), -1);
	ck_assert_ptr_nonnull(strstr(e.msg, "place of the system prompt"));
	sb_release(&out);
}
END_TEST

START_TEST(test_bos)
{
	struct err e = ERR_INIT;
	struct chat_tmpl *t = chat_tmpl_new(PLAIN, "{\"add_bos_token\":false}", NULL, &e), *silent = chat_tmpl_new(PLAIN, NULL, NULL, &e);
	bool adds;

	ck_assert_int_eq(modelfile_adds_bos(t, "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{}}]}}", &adds, &e), 0);
	ck_assert(adds);
	ck_assert_int_eq(modelfile_adds_bos(t, "{\"model\":{\"byte_fallback\":true}}", &adds, &e), 0);
	ck_assert(!adds);
	ck_assert_int_eq(modelfile_adds_bos(silent, "{\"model\":{\"byte_fallback\":true}}", &adds, &e), 0);
	ck_assert(adds);
	ck_assert_int_eq(modelfile_adds_bos(silent, NULL, &adds, &e), 0);
	ck_assert(!adds);
	ck_assert_int_eq(modelfile_adds_bos(silent, "{", &adds, &e), -1);
	chat_tmpl_free(t);
	chat_tmpl_free(silent);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("modelfile");
	TCase *t = tcase_create("modelfile");
	SRunner *sr;
	int failed;

	tcase_add_test(t, test_go);
	tcase_add_test(t, test_write);
	tcase_add_test(t, test_bos);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed != 0;
}
