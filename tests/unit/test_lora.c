/* Which projections have an adapter: as PEFT reads target_modules and layers_to_transform (make_targets.py), and
 * what is said of them in the file. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json/json.h"
#include "train/lora.h"

static const struct model_desc model = { .layers = 4, .hidden = 16, .heads = 2, .kv_heads = 1, .head_dim = 8, .ffn = 24, .vocab = 64 };

static bool listed(const struct json *modules, const char *path)
{
	for (uint32_t i = 0; i < modules->n; i++)
		if (strcmp(modules->items[i].s, path) == 0)
			return true;
	return false;
}

static void check_chosen(const struct lora *l, const struct json *modules, const char *text)
{
	int64_t n = 0;

	for (int64_t i = 0; i < model.layers; i++)
		for (int s = 0; s < LIN_N; s++) {
			char path[ARCH_NAME];

			snprintf(path, sizeof(path), "model.layers.%d.%s", (int)i, linear_path(s));
			ck_assert_msg(l->on[i * LIN_N + s] == listed(modules, path), "%s: %s", text, path);
			n += l->on[i * LIN_N + s] ? linear_in(&model, s) + linear_out(&model, s) : 0;
		}
	ck_assert_int_eq(l->n_trained, 2 * n);
}

/* What is written is a way to say the same. */
static void check_where(const struct lora *l)
{
	struct arena a = ARENA_INIT;
	struct lora_where w;

	lora_where(l, &model, &a, &w);
	for (int64_t i = 0; i < model.layers; i++)
		for (int s = 0; s < LIN_N; s++) {
			char path[ARCH_NAME];
			bool named = false, in = !w.layers;

			snprintf(path, sizeof(path), "model.layers.%d.%s", (int)i, linear_path(s));
			for (size_t k = 0; k < w.n_targets; k++)
				named |= strcmp(w.targets[k], path) == 0 || strcmp(w.targets[k], linear_name(s)) == 0;
			for (size_t k = 0; k < w.n_layers; k++)
				in |= w.layers[k] == i;
			ck_assert_msg(l->on[i * LIN_N + s] == (named && in), "%s", path);
		}
	arena_release(&a);
}

START_TEST(test_peft)
{
	struct arena a = ARENA_INIT;
	struct json v;
	const struct json *cases;
	struct err e = ERR_INIT;

	ck_assert_msg(json_load("tests/conformance/model/targets.json", &a, &v, &e) == 0, "%s", e.msg);
	cases = json_get(&v, "cases");
	ck_assert(json_is(cases, JSON_ARR) && cases->n >= 10);
	for (uint32_t i = 0; i < cases->n; i++) {
		struct lora l = { .rank = 2, .alpha = 2 };
		const char *text, *layers;

		ck_assert(json_get_str(&cases->items[i], "targets", NULL, &text) && json_get_str(&cases->items[i], "layers", NULL, &layers));
		ck_assert_msg(lora_choose(&l, &model, text, layers, &e) == 0, "%s: %s", text, e.msg);
		lora_init(&l, &model);
		check_chosen(&l, json_get(&cases->items[i], "modules"), text);
		check_where(&l);
		lora_release(&l);
	}
	arena_release(&a);
}
END_TEST

START_TEST(test_refused)
{
	static const char *const bad[][3] = {
		{ "q_proj,w1", NULL, "no projection 'w1'" }, { "", NULL, "no target projections" }, { "all", "4", "no layer 4; it has 0 to 3" },
		{ "all", "", "--layers takes" }, { "all", "1,", "--layers takes" }, { "all", "2-1", "--layers takes" }, { "all", "1-", "--layers takes" },
		{ "all", "-1", "--layers takes" }, { "all", "99999999999999999999", "no layer" }, { ".*q_proj", "1", "has the layers in it" },
		{ "q.proj", NULL, "matches no projection" }, { "(", NULL, "no regular expression, at character 2" }, { "(([a-z0-9_.]+)+)+[A-Z]", NULL, "takes too long" },
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct lora l = { .rank = 2, .alpha = 2 };
		struct err e = ERR_INIT;

		ck_assert_msg(lora_choose(&l, &model, bad[i][0], bad[i][1], &e) < 0, "%s", bad[i][0]);
		ck_assert_int_eq(e.code, LP_USAGE);
		ck_assert_msg(strstr(e.msg, bad[i][2]) != NULL, "%s", e.msg);
		lora_release(&l);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("lora");
	TCase *t = tcase_create("lora");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_test(t, test_peft);
	tcase_add_test(t, test_refused);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
