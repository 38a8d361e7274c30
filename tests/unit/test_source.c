/* model/source.c and sink.c: a model through a directory, shards and a stream
 * keeps its identity; broken directories are refused; every cut of a stream. */
#include <sys/stat.h>

#include "model/source.h"
#include "scratch.h"

static const float nums[256] = { 1, 2, 3, 4, 5, 6, 7, 8, 9 };
static const struct tensor list[] = {
	{ .name = "model.embed_tokens.weight", .dtype = DT_F32, .n_dims = 2, .shape = { 4, 3 }, .bytes = 48, .data = nums },
	{ .name = "model.layers.0.w", .dtype = DT_BF16, .n_dims = 1, .shape = { 5 }, .bytes = 10, .data = nums + 1 },
	{ .name = "model.empty", .dtype = DT_F32, .n_dims = 1, .shape = { 0 }, .bytes = 0, .data = nums },
	{ .name = "a.norm", .dtype = DT_F16, .n_dims = 1, .shape = { 3 }, .bytes = 6, .data = nums + 2 },
};
static const unsigned char spm[] = { 0, 1, 2, 255, 10 };

static struct model_texts texts(void)
{
	return (struct model_texts){ .config = "{\"model_type\":\"llama\"}", .tokenizer = "{\"t\":\"h\xc3\xa9\\u0000\"}", .chat_template = "{{ x }}\n",
				     .tokenizer_model = (unsigned char *)(uintptr_t)spm, .tokenizer_model_bytes = sizeof(spm) };
}

static void write_model(struct model_sink *k)
{
	const struct model_texts t = texts();
	const struct st_kv meta[] = { { "lineage", "{\"tool\":\"x\"}" } };

	ck_assert_ptr_nonnull(k);
	OK(model_sink_begin(k, &t, list, 4, meta, 1, &er));
	OK(model_sink_tensor(k, &list[0], &er));
	BAD(model_sink_tensor(k, &list[2], &er), LP_DATA, "not the next");
	OK(model_sink_bytes(k, nums + 1, 4, &er));
	OK(model_sink_bytes(k, nums + 2, 6, &er));
	OK(model_sink_tensor(k, &list[2], &er));
	BAD(model_sink_bytes(k, nums, 7, &er), LP_DATA, "more data");
	OK(model_sink_tensor(k, &list[3], &er));
	OK(model_sink_commit(k, &er));
}

static void write_dir(const char *name, uint64_t shard)
{
	write_model(model_sink_dir(at(name), true, shard, &er));
}

static void write_stream(const char *name)
{
	write_model(model_sink_stream(out_open(at(name), &er), &er));
}

/* Reads all of it; its identity. */
static int read_model(const char *path, char id[72], struct err *e)
{
	struct model_source *s = model_source_open(path, e);
	struct tensor t;
	size_t n = 0;
	int rc = -1;

	while (s && (rc = model_source_next(s, &t, e)) > 0) {
		const struct tensor *same = NULL;

		for (int i = 0; i < 4; i++)
			if (!strcmp(list[i].name, t.name))
				same = &list[i];
		ck_assert_ptr_nonnull(same);
		ck_assert(st_same_shape(&t, same));
		ck_assert_mem_eq(t.data, same->data, t.bytes);
		model_source_dropped(s, &t);
		n++;
	}
	if (!rc) {
		const struct model_texts *got = model_source_texts(s), want = texts();

		ck_assert_uint_eq(n, 4);
		ck_assert_str_eq(got->config, want.config);
		ck_assert_str_eq(got->tokenizer, want.tokenizer);
		ck_assert_str_eq(got->chat_template, want.chat_template);
		ck_assert_ptr_null(got->generation_config);
		ck_assert_uint_eq(got->tokenizer_model_bytes, sizeof(spm));
		ck_assert_mem_eq(got->tokenizer_model, spm, sizeof(spm));
		ck_assert_str_eq(model_source_lineage(s), "{\"tool\":\"x\"}");
		rc = model_source_identity(s, id, e);
	}
	model_source_close(s);
	return rc;
}

START_TEST(same_identity_every_way)
{
	char one[72], many[72], stream[72];
	struct stat st;

	write_dir("one", 0);
	write_dir("many", 20);
	write_stream("s.lps");
	OK(read_model(at("one"), one, &er));
	OK(read_model(at("many"), many, &er));
	OK(read_model(at("s.lps"), stream, &er));
	ck_assert_str_eq(one, many);
	ck_assert_str_eq(one, stream);
	/* By hand: sha256 over the lines that model/source.c documents, from Python's hashlib. */
	ck_assert_str_eq(one, "sha256:42792aea84f19211c29910bb28638b6f77da9cec175236ad29924e22d9f557d0");
	ck_assert(!stat(at("many/model-00002-of-00002.safetensors"), &st));
	ck_assert(!stat(at("many/model.safetensors.index.json"), &st));
	ck_assert(stat(at("one/model.safetensors.index.json"), &st));
}
END_TEST

START_TEST(find_and_early_digest)
{
	struct model_source *s;
	char a[72], b[72];

	write_dir("one", 0);
	s = model_source_open(at("one"), &er);
	ck_assert_uint_eq(model_source_count(s), 4);
	ck_assert(model_source_is_dir(s));
	for (int i = 0; i < 4; i++)
		ck_assert_str_eq(model_source_find(s, list[i].name)->name, list[i].name);
	ck_assert_ptr_null(model_source_find(s, "model"));
	model_source_digest(s, 2);
	OK(model_source_identity(s, a, &er));
	OK(model_source_identity(s, b, &er));
	ck_assert_str_eq(a, b);
	model_source_close(s);
}
END_TEST

START_TEST(every_cut_of_a_stream)
{
	char id[72], *all;
	size_t n;

	write_stream("s.lps");
	all = get_file(at("s.lps"), &n);
	for (size_t cut = 0; cut < n; cut++) {
		put_file(at("cut"), all, cut);
		BAD(read_model(at("cut"), id, &er), LP_DATA, "");
	}
	free(all);
}
END_TEST

static int try_open(const char *path, struct err *e)
{
	struct model_source *s = model_source_open(path, e);

	model_source_close(s);
	return s ? 0 : -1;
}

START_TEST(broken_directories)
{
	static const char index[] = "many/model.safetensors.index.json";
	char id[72], *text;
	size_t n;

	BAD(try_open(at("none"), &er), LP_IO, "open");
	mkdir(at("empty"), 0777);
	BAD(try_open(at("empty"), &er), LP_USAGE, "config.json");
	put_text(at("empty/config.json"), "{}");
	BAD(try_open(at("empty"), &er), LP_USAGE, "safetensors");
	write_dir("many", 20);
	text = get_file(at(index), &n);
	put_text(at(index), "{\"weight_map\":{\"a.norm\":\"../x\"}}");
	BAD(try_open(at("many"), &er), LP_DATA, "plain file name");
	put_text(at(index), "{\"weight_map\":{}}");
	BAD(try_open(at("many"), &er), LP_DATA, "weight_map");
	put_text(at(index), "{\"weight_map\":{\"a.norm\":\"model-00002-of-00002.safetensors\"}}");
	BAD(try_open(at("many"), &er), LP_DATA, "not in the index");
	put_text(at(index), "{\"weight_map\":{\"a.norm\":\"x\",\"a.norm\":\"y\"}}");
	BAD(try_open(at("many"), &er), LP_DATA, "twice");
	text[n - 6] = ',';
	{
		struct sb s = SB_INIT; /* one tensor more in the index than in its shard */
		char *brace = strrchr(text, '"');

		sb_add(&s, text, (size_t)(brace + 1 - text));
		sb_adds(&s, ",\"b\":\"model-00001-of-00002.safetensors\"}}");
		put_file(at(index), s.s, s.len);
		BAD(try_open(at("many"), &er), LP_DATA, "missing from its shard");
		sb_release(&s);
	}
	free(text);
	write_dir("many", 20); /* one tensor in both shards */
	text = get_file(at("many/model-00001-of-00002.safetensors"), &n);
	put_file(at("many/model-00002-of-00002.safetensors"), text, n);
	BAD(try_open(at("many"), &er), LP_DATA, "by the index");
	free(text);
	unlink(at("many/model-00001-of-00002.safetensors"));
	BAD(read_model(at("many"), id, &er), LP_DATA, "missing");
	write_stream("s.lps");
	write_dir("one", 0);
	text = get_file(at("s.lps"), &n);
	put_file(at("one/model.safetensors"), text, n);
	BAD(try_open(at("one"), &er), LP_DATA, "");
	free(text);
}
END_TEST

START_TEST(unfinished_model_is_not_committed)
{
	const struct model_texts t = texts();
	struct model_sink *k = model_sink_dir(at("half"), false, 0, &er);
	struct stat st;

	OK(model_sink_begin(k, &t, list, 4, NULL, 0, &er));
	OK(model_sink_tensor(k, &list[0], &er));
	BAD(model_sink_commit(k, &er), LP_DATA, "not written");
	ck_assert_int_ne(stat(at("half"), &st), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("source");
	TCase *c = tcase_create("all");
	int rc;

	scratch_open();
	tcase_set_timeout(c, 120);
	tcase_add_test(c, same_identity_every_way);
	tcase_add_test(c, find_and_early_digest);
	tcase_add_test(c, every_cut_of_a_stream);
	tcase_add_test(c, broken_directories);
	tcase_add_test(c, unfinished_model_is_not_committed);
	suite_add_tcase(s, c);
	rc = run_tests(s);
	scratch_close();
	return rc;
}
