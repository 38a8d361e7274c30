/* fmt/peft.c: a directory and a stream there and back; what is refused by
 * name; scales by rank, by rslora and by patterns; every cut of the stream. */
#include <math.h>
#include <sys/stat.h>

#include "fmt/peft.h"
#include "scratch.h"

#define ID "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static const float nums[64] = { 1, 2, 3, 4, 5, 6, 7, 8, 9 };
#define Q "base_model.model.model.layers.0.self_attn.q_proj"
#define D "base_model.model.model.layers.10.mlp.down_proj"
static struct tensor tensors[] = {
	{ .name = D ".lora_A.weight", .dtype = DT_F32, .n_dims = 2, .shape = { 2, 5 }, .bytes = 40, .data = nums },
	{ .name = D ".lora_B.weight", .dtype = DT_F32, .n_dims = 2, .shape = { 3, 2 }, .bytes = 24, .data = nums + 1 },
	{ .name = Q ".lora_B.weight", .dtype = DT_F32, .n_dims = 2, .shape = { 4, 2 }, .bytes = 32, .data = nums + 2 },
	{ .name = Q ".lora_A.weight", .dtype = DT_F32, .n_dims = 2, .shape = { 2, 3 }, .bytes = 24, .data = nums + 3 },
};
static const char *const targets[] = { "q_proj", "down_proj" };
static struct peft_write w = { .base_name = "some/base", .base_id = ID, .r = 2, .alpha = 16, .dropout = 0.05,
				     .targets = targets, .n_targets = 2, .lineage = "{\"tool\":\"t\"}" };

static void save(const char *dir)
{
	struct outdir *d = outdir_open(dir, true, &er);

	ck_assert_msg(d != NULL, "%s", er.msg);
	OK(peft_save(d, &w, tensors, 4, &er));
	OK(outdir_commit(d, &er));
}

static void check_loaded(const struct peft *p)
{
	const struct peft_module *m;

	ck_assert_uint_eq(p->n_modules, 2);
	ck_assert_str_eq(p->modules[0].path, "model.layers.0.self_attn.q_proj");
	m = peft_find(p, "model.layers.10.mlp.down_proj");
	ck_assert_ptr_nonnull(m);
	ck_assert_int_eq(m->r, 2);
	ck_assert(m->scale == 8);
	ck_assert_uint_eq(m->b->shape[0], 3);
	ck_assert_mem_eq(m->a->data, nums, 40);
	ck_assert_mem_eq(m->b->data, nums + 1, 24);
	ck_assert_str_eq(p->base_id, ID);
	ck_assert_str_eq(p->base_name, "some/base");
	ck_assert_str_eq(p->lineage, "{\"tool\":\"t\"}");
	ck_assert_ptr_null(peft_find(p, "model.layers.1"));
}

static int load(const char *path, struct err *e)
{
	struct peft p;

	if (peft_open(&p, path, e))
		return -1;
	peft_release(&p);
	return 0;
}

START_TEST(directory)
{
	struct peft p;

	save(at("a"));
	OK(peft_load(&p, at("a"), &er));
	check_loaded(&p);
	ck_assert_int_eq(strncmp(p.hash, "sha256:", 7), 0);
	peft_release(&p);
	put_text(at("a/lorapipe.json"), "{\"base_id\":\"" ID "\"}");
	OK(load(at("a"), &er));
	put_text(at("a/lorapipe.json"), "{\"base_id\":\"sha256:1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"}");
	BAD(load(at("a"), &er), LP_DATA, "two adapters");
	put_text(at("a/lorapipe.json"), "{\"base_id\":3}");
	BAD(load(at("a"), &er), LP_DATA, "string");
}
END_TEST

static void write_stream(const char *path)
{
	struct out *o = out_open(path, &er);

	OK(peft_save_stream(o, &w, tensors, 4, &er));
	OK(out_commit(o, &er));
}

START_TEST(stream)
{
	struct peft p;
	char *all;
	size_t n;

	write_stream(at("a.lps"));
	OK(peft_open(&p, at("a.lps"), &er));
	check_loaded(&p);
	ck_assert_int_eq(strncmp(p.hash, "xxh3:", 5), 0);
	peft_release(&p);
	all = get_file(at("a.lps"), &n);
	for (size_t cut = 0; cut < n; cut++) {
		put_file(at("cut"), all, cut);
		BAD(load(at("cut"), &er), LP_DATA, "");
	}
	free(all);
	save(at("a"));
	BAD(load(at("a/adapter_model.safetensors"), &er), LP_USAGE, "--adapter");
	BAD(load(at("none"), &er), LP_IO, "open");
}
END_TEST

/* Writes a configuration with one member added (the last of duplicates counts). */
static void config_with(const char *member)
{
	struct sb s = SB_INIT;

	peft_config_json(&w, &s);
	s.len -= 2; /* "}\n" */
	sb_addf(&s, ",%s}", member);
	put_file(at("a/adapter_config.json"), s.s, s.len);
	sb_release(&s);
}

START_TEST(refused_by_name)
{
	static const char *const members[][2] = {
		{ "\"modules_to_save\":[\"lm_head\"]", "modules_to_save" },
		{ "\"fan_in_fan_out\":true", "fan_in_fan_out" },
		{ "\"bias\":\"all\"", "bias" },
		{ "\"lora_bias\":true", "lora_bias" },
		{ "\"layer_replication\":[[0,4]]", "layer_replication" },
		{ "\"init_lora_weights\":\"pissa\"", "init_lora_weights" },
		{ "\"target_parameters\":[\"x\"]", "target_parameters" },
		{ "\"trainable_token_indices\":[1]", "trainable_token_indices" },
		{ "\"use_qalora\":true", "use_qalora" },
		{ "\"peft_type\":\"IA3\"", "IA3" },
	};

	save(at("a"));
	for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
		config_with(members[i][0]);
		BAD(load(at("a"), &er), LP_USAGE, members[i][1]);
	}
	config_with("\"r\":0");
	BAD(load(at("a"), &er), LP_DATA, "positive");
	config_with("\"lora_alpha\":\"x\"");
	BAD(load(at("a"), &er), LP_DATA, "lora_alpha");
	config_with("\"r\":4");
	BAD(load(at("a"), &er), LP_DATA, "rank 2");
	config_with("\"peft_type\":null");
	BAD(load(at("a"), &er), LP_DATA, "peft_type");
	config_with("\"rank_pattern\":{\"(\":2}");
	BAD(load(at("a"), &er), LP_DATA, "regular expression");
	put_text(at("a/adapter_config.json"), "[]");
	BAD(load(at("a"), &er), LP_DATA, "object");
}
END_TEST

static void save_tensors(const struct tensor *t, size_t n)
{
	struct outdir *d = outdir_open(at("b"), true, &er);

	OK(peft_save(d, &w, t, n, &er));
	OK(outdir_commit(d, &er));
}

/* DoRA: every module has its magnitudes, as many as B has rows, and no other adapter has any. */
START_TEST(magnitudes)
{
	struct tensor t[6] = { tensors[0], tensors[1], tensors[2], tensors[3], { Q ".lora_magnitude_vector", DT_F32, 1, { 4 }, 16, nums },
		               { D ".lora_magnitude_vector", DT_F32, 1, { 3 }, 12, nums + 3 } };
	struct peft p;

	w.dora = true;
	save_tensors(t, 6);
	OK(peft_load(&p, at("b"), &er));
	ck_assert(p.dora);
	ck_assert_uint_eq(p.n_modules, 2);
	ck_assert_mem_eq(peft_find(&p, "model.layers.10.mlp.down_proj")->m->data, nums + 3, 12);
	ck_assert_mem_eq(peft_find(&p, "model.layers.0.self_attn.q_proj")->m->data, nums, 16);
	peft_release(&p);
	save_tensors(t, 5);
	BAD(load(at("b"), &er), LP_DATA, "has no lora_magnitude_vector");
	t[5].shape[0] = 2, t[5].bytes = 8;
	save_tensors(t, 6);
	BAD(load(at("b"), &er), LP_DATA, "lora_B has 3 rows, lora_magnitude_vector 2");
	t[5].n_dims = 2, t[5].shape[1] = 1;
	save_tensors(t, 6);
	BAD(load(at("b"), &er), LP_DATA, "not a vector");
	w.dora = false;
	save_tensors(t, 6);
	BAD(load(at("b"), &er), LP_DATA, "no use_dora");
}
END_TEST

static double scale_of(const char *path)
{
	struct peft p;
	double s;

	OK(peft_load(&p, at("a"), &er));
	s = peft_find(&p, path)->scale;
	peft_release(&p);
	return s;
}

START_TEST(scales)
{
	const char *q = "model.layers.0.self_attn.q_proj", *d = "model.layers.10.mlp.down_proj";

	save(at("a"));
	config_with("\"use_rslora\":true");
	ck_assert(scale_of(q) == 16 / sqrt(2));
	config_with("\"alpha_pattern\":{\"q_proj\":3,\"layers\\\\.1\\\\d\\\\..*\":5}");
	ck_assert(scale_of(q) == 1.5);
	ck_assert(scale_of(d) == 2.5);
	config_with("\"alpha_pattern\":{\"proj\":3,\"own_proj\":3}"); /* whole components only */
	ck_assert(scale_of(q) == 8);
	config_with("\"r\":7,\"rank_pattern\":{\"q_proj\":2,\"layers.10.mlp.down_proj\":2}");
	ck_assert(scale_of(q) == 8);
}
END_TEST

START_TEST(tensors_refused)
{
	struct tensor t[4];

	memcpy(t, tensors, sizeof(t));
	save_tensors(t, 3);
	BAD(load(at("b"), &er), LP_DATA, "only one of");
	save_tensors(t, 0);
	BAD(load(at("b"), &er), LP_DATA, "no modules");
	t[0].name = D ".lora_embedding_A";
	save_tensors(t, 4);
	BAD(load(at("b"), &er), LP_DATA, "lora_embedding_A");
	t[0] = tensors[0];
	t[0].dtype = DT_I32;
	save_tensors(t, 4);
	BAD(load(at("b"), &er), LP_DATA, "I32");
	t[0] = tensors[0];
	t[0].n_dims = 1, t[0].shape[0] = 10;
	save_tensors(t, 4);
	BAD(load(at("b"), &er), LP_DATA, "matrix");
	t[0] = tensors[0];
	t[0].shape[0] = 5, t[0].shape[1] = 2;
	save_tensors(t, 4);
	BAD(load(at("b"), &er), LP_DATA, "lora_A has rank 5, lora_B 2");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("peft");
	TCase *c = tcase_create("all");
	int rc;

	scratch_open();
	tcase_set_timeout(c, 120);
	tcase_add_test(c, directory);
	tcase_add_test(c, stream);
	tcase_add_test(c, refused_by_name);
	tcase_add_test(c, magnitudes);
	tcase_add_test(c, scales);
	tcase_add_test(c, tensors_refused);
	suite_add_tcase(s, c);
	rc = run_tests(s);
	scratch_close();
	return rc;
}
