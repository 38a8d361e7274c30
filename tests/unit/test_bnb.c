/* Checkpoints in bitsandbytes' 4-bit form (tests/conformance/model/README.md): weights
 * equal its own to the bit, from a directory, from shards and from a stream whose parts
 * come in another order, dense or not; logits agree with transformers' 4-bit model; what
 * is not such a checkpoint, or is only part of one, is refused by name.
 *
 * Tolerance of logits: transformers' own fp32 lies bnb_logits_max_abs from the fp64 truth;
 * ours may lie twice as far (STYLE.md), so three times that from transformers'.
 *
 * On the device that LP_DEVICE names the weights are those, rounded once to its type. */
#include <math.h>

#include "base/hash.h"
#include "base/num.h"
#include "base/xalloc.h"
#include "scratch.h"
#include "train/engine.h"

#define DIR_MODEL "tests/conformance/model/"
static const char *const cases[] = { "bnb_llama", "bnb_qwen2", "bnb_storage" };
enum { N_CASES = 3, MOST = 29 };

struct fix {
	struct device dev;
	struct model_desc desc;
	struct lora lora; /* adapters of zeros: they only take room behind the rows */
	struct engine g;
	struct st_file gold;
	struct microbatch b;
};

static const char *dir_of(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), DIR_MODEL "%s", name);
	return path;
}

static int plan(struct fix *f, uint64_t budget, bool nf4, struct err *e)
{
	struct engine_shape shape = { .max_tokens = 64, .max_seq = 40, .budget = budget };

	return engine_plan(&f->g, &f->dev, &f->desc, DT_F32, nf4, &f->lora, &shape, e);
}

/* The least that a plan takes: no layer keeps dense weights. */
static uint64_t smallest(struct fix *f)
{
	uint64_t n;

	ck_assert_int_eq(plan(f, 1, true, &er), -1);
	n = engine_bytes(&f->g);
	engine_release(&f->g);
	return n;
}

/* path NULL: the case's own directory. */
static int load_on(struct fix *f, const char *device, const char *name, const char *path, bool tight, struct err *e)
{
	struct model_source *s;
	int rc;

	memset(f, 0, sizeof(*f));
	OK(device_open(&f->dev, device, strcmp(device, "cpu") == 0 ? NULL : getenv("LP_COMPUTE"), 2, &er));
	OK(model_desc_load(dir_of(name), &f->desc, &er));
	ck_assert(f->desc.bnb.on);
	f->lora = (struct lora){ .rank = 3, .alpha = 3, .targets = { [LIN_Q] = true, [LIN_O] = true, [LIN_GATE] = true, [LIN_DOWN] = true } };
	lora_init(&f->lora, &f->desc);
	s = model_source_open(path ? path : dir_of(name), e);
	ck_assert_ptr_nonnull(s);
	if (!path)
		ck_assert_int_eq(weights_source_dtype(s, DT_F16), f->desc.dtype);
	OK(plan(f, tight ? smallest(f) : 0, true, &er));
	OK(engine_alloc(&f->g, &er));
	rc = engine_load(&f->g, s, e);
	model_source_close(s);
	return rc;
}

static int load(struct fix *f, const char *name, const char *path, bool tight, struct err *e)
{
	return load_on(f, "cpu", name, path, tight, e);
}

static void drop(struct fix *f)
{
	engine_release(&f->g);
	lora_release(&f->lora);
	device_close(&f->dev);
}

static void open_gold(struct fix *f, const char *name)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/golden.safetensors", dir_of(name));
	OK(st_file_open(&f->gold, path, &er));
}

static const struct tensor *gold(const struct fix *f, const char *name)
{
	const struct tensor *t = st_find(&f->gold.blob, name);

	ck_assert_msg(t != NULL, "no golden %s", name);
	return t;
}

/* One matrix in fp32, without what lies behind its rows, which must be 0 where it stays; room is device memory. */
static float *rows_of(struct fix *f, int64_t layer, enum linear_slot s, void *room)
{
	const struct layer_weights *lw = &f->g.w.layers[layer];
	const struct wgroup *g = &lw->grp[group_of(s)];
	int64_t n = lw->lin[s].rows * g->ld;
	void *dense = weights_dense(&f->dev, lw, group_of(s), room), *there = xcalloc((size_t)n, dtype_bytes(f->dev.act));
	float *w = xcalloc((size_t)n, sizeof(*w));

	device_download(&f->dev, there, act_at(&f->dev, dense, g->row[s - g->first] * g->ld), (uint64_t)n * dtype_bytes(f->dev.act));
	OK(device_sync(&f->dev, &er));
	to_f32(f->dev.act, there, w, (size_t)n);
	for (int64_t i = 0; i < lw->lin[s].rows; i++)
		for (int64_t j = g->in; j < g->ld && dense != room; j++)
			ck_assert_msg(w[i * g->ld + j] == 0, "row %lld: %g behind it", (long long)i, (double)w[i * g->ld + j]);
	for (int64_t i = 0; i < lw->lin[s].rows; i++)
		memmove(w + i * g->in, w + i * g->ld, (size_t)g->in * sizeof(*w));
	free(there);
	return w;
}

static void *room_of(struct fix *f)
{
	void *room = device_alloc(&f->dev, (uint64_t)weights_largest(&f->g.w) * dtype_bytes(f->dev.act), "a group", &er);

	ck_assert_ptr_nonnull(room);
	return room;
}

/* What was not quantised is in the checkpoint's own tensors. */
static void check_kept(const char *name, const char *tensor, const float *w)
{
	struct model_source *s = model_source_open(dir_of(name), &er);
	const struct tensor *t = model_source_find(s, tensor);
	size_t n = tensor_elems(t);
	float *want = xcalloc(n, sizeof(*want));

	to_f32(t->dtype, t->data, want, n);
	ck_assert_mem_eq(w, want, n * sizeof(*want));
	free(want);
	model_source_close(s);
}

/* Every projection, to the bit. Returns how many are in 4 bits. */
static int check_weights(struct fix *f, const char *name)
{
	void *room = room_of(f);
	int quantised = 0;

	for (int64_t l = 0; l < f->desc.layers; l++)
		for (int s = 0; s < LIN_N; s++) {
			float *w = rows_of(f, l, s, room);
			char path[ARCH_NAME], key[ARCH_NAME + 16], hex[65];
			const char *want;

			arch_linear_name(path, l, s, "weight");
			snprintf(key, sizeof(key), "sha256 %s", path);
			want = st_meta(&f->gold.blob, key);
			ck_assert_int_eq(want != NULL, f->g.w.layers[l].lin[s].nf4);
			sha_once(w, (size_t)f->g.w.layers[l].lin[s].q.n * sizeof(*w), hex);
			if (want)
				ck_assert_msg(strcmp(hex, want) == 0, "%s: %s is not bitsandbytes'", name, path);
			else
				check_kept(name, path, w);
			quantised += want != NULL;
			free(w);
		}
	device_free(&f->dev, room);
	return quantised;
}

static void check_logits(struct fix *f)
{
	const struct tensor *ids = gold(f, "input_ids"), *truth = gold(f, "logits"), *bnb = gold(f, "bnb.logits");
	int64_t v = f->desc.vocab, n = (int64_t)tensor_elems(ids), start[2] = { 0, n }, rec = 0;
	struct dataset data = { 0 };
	uint8_t mask[MOST];
	double torch;

	ck_assert(parse_f64(st_meta(&f->gold.blob, "bnb_logits_max_abs"), &torch));
	memset(mask, 1, sizeof(mask));
	dataset_add_row(&data, ids->data, mask, start, &rec, 1);
	microbatch_init(&f->b, 64);
	microbatch_clear(&f->b);
	microbatch_add(&f->b, &data, 0);
	for (int32_t t = 0; t < n; t++) {
		OK(engine_logits(&f->g, &f->b, &t, 1, &er));
		for (int64_t i = 0; i < v; i++) {
			double x = (double)((const float *)f->g.logits)[i];

			ck_assert_double_eq_tol(x, ((const double *)truth->data)[t * v + i], 2 * torch);
			ck_assert_double_eq_tol(x, (double)((const float *)bnb->data)[t * v + i], 3 * torch);
		}
	}
	engine_run(&f->g, &f->b, false, 1);
	for (int64_t i = 0; i < f->b.n_targets; i++)
		ck_assert_double_eq_tol(f->g.nll[i], ((const double *)gold(f, "nll")->data)[f->b.tgt_row[i] + 1], 4 * torch);
	microbatch_release(&f->b);
	dataset_release(&data);
}

START_TEST(test_equal)
{
	static const int quantised[] = { 14, 17, 7 };
	const char *name = cases[_i % N_CASES];
	bool tight = _i >= N_CASES;
	struct fix f;

	OK(load(&f, name, NULL, tight, &er));
	ck_assert_int_eq(f.g.w.cached_layers, tight ? 0 : f.desc.layers);
	open_gold(&f, name);
	ck_assert_int_eq(check_weights(&f, name), quantised[_i % N_CASES]);
	check_logits(&f);
	st_file_close(&f.gold);
	drop(&f);
}
END_TEST

START_TEST(test_device)
{
	const char *name = cases[_i % N_CASES], *spec = getenv("LP_DEVICE") ? getenv("LP_DEVICE") : "cpu";
	bool tight = _i >= N_CASES;
	struct fix f, on;
	void *room, *there;

	OK(load(&f, name, NULL, true, &er));
	OK(load_on(&on, spec, name, NULL, tight, &er));
	room = room_of(&f);
	there = room_of(&on);
	for (int64_t l = 0; l < f.desc.layers; l++)
		for (int s = 0; s < LIN_N; s++) {
			size_t n = (size_t)f.g.w.layers[l].lin[s].q.n;
			float *want = rows_of(&f, l, s, room), *got = rows_of(&on, l, s, there);
			void *once = xcalloc(n, sizeof(*want));

			from_f32(on.dev.act, want, once, n);
			to_f32(on.dev.act, once, want, n);
			ck_assert_mem_eq(got, want, n * sizeof(*want));
			free(want), free(got), free(once);
		}
	device_free(&f.dev, room), device_free(&on.dev, there);
	drop(&f), drop(&on);
}
END_TEST

/* --- streams, and broken ones --- */

/* A change to the tensor whose name ends in tail: gone, or of other bytes. */
struct change {
	const char *tail;
	const void *data; /* of a tensor of these bytes, NULL: as they are */
	uint64_t bytes;
	enum { AS_IT_IS, GONE, RENAMED } what;
	const char *to;
};

static bool ends(const char *s, const char *tail)
{
	size_t n = strlen(s), k = strlen(tail);

	return n >= k && strcmp(s + n - k, tail) == 0;
}

/* The case as a stream, last tensor first. */
static void write_stream(const char *name, const char *path, const struct change *c)
{
	struct model_source *s = model_source_open(dir_of(name), &er);
	size_t n = model_source_count(s), k = 0;
	struct tensor *list = xcalloc(n, sizeof(*list));
	struct model_sink *sink = model_sink_stream(out_open(path, &er), &er);

	for (size_t i = n; i-- > 0;) {
		struct tensor t = *model_source_at(s, i);

		if (c && ends(t.name, c->tail)) {
			if (c->what == GONE)
				continue;
			if (c->what == RENAMED)
				t.name = c->to;
			if (c->data) {
				t.data = c->data;
				t.shape[0] = c->bytes / dtype_bytes(t.dtype);
				t.bytes = c->bytes;
			}
		}
		list[k++] = t;
	}
	ck_assert(!c || k < n || c->what != GONE);
	OK(model_sink_begin(sink, model_source_texts(s), list, k, NULL, 0, &er));
	for (size_t i = 0; i < k; i++)
		OK(model_sink_tensor(sink, &list[i], &er));
	OK(model_sink_commit(sink, &er));
	free(list);
	model_source_close(s);
}

START_TEST(test_stream)
{
	const char *name = cases[_i % N_CASES];
	struct fix f;

	write_stream(name, at("x.lps"), NULL);
	OK(load(&f, name, at("x.lps"), _i >= N_CASES, &er));
	open_gold(&f, name);
	ck_assert_int_gt(check_weights(&f, name), 0);
	st_file_close(&f.gold);
	drop(&f);
}
END_TEST

static void refused(const char *name, struct change c, const char *why)
{
	struct fix f;

	write_stream(name, at("x.lps"), &c);
	BAD(load(&f, name, at("x.lps"), false, &er), LP_DATA, why);
	drop(&f);
}

static void refused_state(const char *text, const char *why)
{
	refused("bnb_llama", (struct change){ "0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4", text, strlen(text), AS_IT_IS, NULL }, why);
}

#define UP "model.layers.0.mlp.up_proj.weight"

START_TEST(test_broken)
{
	static const char *const parts[] = { UP, UP ".absmax", UP ".nested_absmax", UP ".quant_map", UP ".nested_quant_map", UP ".quant_state.bitsandbytes__nf4" };
	float map[256] = { 0 };
	char want[160];

	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		snprintf(want, sizeof(want), "tensor '%s' is missing", parts[i]);
		refused("bnb_llama", (struct change){ .tail = parts[i], .what = GONE }, want);
		snprintf(want, sizeof(want), "tensor '%s", parts[i]);
		refused("bnb_llama", (struct change){ .tail = parts[i], .data = map, .bytes = 12, .what = AS_IT_IS }, want);
	}
	refused("bnb_qwen2", (struct change){ .tail = UP ".absmax", .what = GONE }, "'" UP ".absmax' is missing");
	refused("bnb_storage", (struct change){ .tail = UP, .data = map, .bytes = 12 }, "the 4-bit codes of (44, 40) are a column of 880");
	refused("bnb_llama", (struct change){ UP ".quant_map", map, 64, AS_IT_IS, NULL }, "not a level of nf4");
	refused("bnb_llama", (struct change){ UP ".nested_quant_map", map, 1024, AS_IT_IS, NULL }, "not the dynamic map");
	map[0] = INFINITY;
	refused("bnb_llama", (struct change){ UP ".nested_absmax", map, 8, AS_IT_IS, NULL }, "is infinite");
	map[0] = NAN;
	refused("bnb_qwen2", (struct change){ UP ".absmax", map, 26 * 4, AS_IT_IS, NULL }, "not a number");
	refused("bnb_llama", (struct change){ .tail = UP ".quant_state.bitsandbytes__nf4", .what = RENAMED, .to = UP ".quant_state.bitsandbytes__fp4" }, "type fp4");
	refused("bnb_llama", (struct change){ .tail = UP ".quant_map", .what = RENAMED, .to = UP ".SCB" }, "does not belong");
	refused("bnb_llama", (struct change){ .tail = UP ".quant_map", .what = RENAMED, .to = "lm_head.weight.quant_map" }, "head in 4 bits is not read");
	refused_state("{\"quant_type\":\"fp4\"}", "quant_type 'fp4'");
	refused_state("{\"quant_type\": \"nf4\", \"blocksize\": 128}", "blocks of 128 weights, and only blocks of 64");
	refused_state("{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[72,233]}", "another shape than the (233, 72)");
	refused_state("{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[233,72],\"nested_blocksize\":64}", "blocks of 64 scales");
	refused_state("{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[233,72],\"nested_blocksize\":256}", "no finite nested_offset");
	refused_state("{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[233,72],\"nested_blocksize\":256,\"nested_offset\":1e99}", "no finite nested_offset");
	refused_state("[1]", "not the JSON");
	refused_state("{\"quant_type\":", "not the JSON");
}
END_TEST

/* --- config.json --- */

/* model_desc_read of bnb_llama's with another quantization_config. */
static int read_config(const char *quant, struct model_desc *m, struct err *e)
{
	struct arena a = ARENA_INIT;
	struct json v, q;
	int rc;

	OK(json_load(DIR_MODEL "bnb_llama/config.json", &a, &v, &er));
	OK(json_parse_str(quant, &a, &q, &er));
	*(struct json *)(uintptr_t)json_get(&v, "quantization_config") = q;
	rc = model_desc_read(&v, "config.json", m, e);
	arena_release(&a);
	return rc;
}

#define NF4 "{\"load_in_4bit\":true,\"bnb_4bit_quant_type\":\"nf4\""

START_TEST(test_config)
{
	struct model_desc m;
	struct fix f = { 0 };

	OK(read_config("null", &m, &er));
	ck_assert(!m.bnb.on);
	OK(read_config(NF4 "}", &m, &er));
	ck_assert(m.bnb.on && m.bnb.plain && !m.bnb.kept[0]);
	OK(read_config(NF4 ",\"bnb_4bit_use_double_quant\":true,\"llm_int8_skip_modules\":[\"lm_head\",\"model.layers.1.mlp\",\"o_proj\",\"model.layers.0.self_attn.q\","
	               "\"model.layers.10\",\"model.layers.0.mlp.\"]}", &m, &er));
	ck_assert(m.bnb.on && !m.bnb.plain);
	ck_assert_int_eq(m.bnb.kept[0], 1 << LIN_O | 1 << LIN_GATE | 1 << LIN_UP | 1 << LIN_DOWN);
	ck_assert_int_eq(m.bnb.kept[1], 1 << LIN_O | 1 << LIN_GATE | 1 << LIN_UP | 1 << LIN_DOWN);
	BAD(read_config(NF4 ",\"llm_int8_skip_modules\":[\"model.layers.*.mlp\"]}", &m, &er), LP_DATA, "is a pattern");
	BAD(read_config(NF4 ",\"llm_int8_skip_modules\":[1]}", &m, &er), LP_DATA, "list of names");
	BAD(read_config("{\"load_in_4bit\":true}", &m, &er), LP_DATA, "type 'fp4', and only nf4 is read");
	BAD(read_config("{\"load_in_8bit\":true,\"quant_method\":\"bitsandbytes\"}", &m, &er), LP_DATA, "8 bits");
	BAD(read_config("{\"quant_method\":\"gptq\",\"bits\":4}", &m, &er), LP_DATA, "quantised by 'gptq'");
	BAD(read_config(NF4 ",\"bnb_4bit_use_double_quant\":1}", &m, &er), LP_DATA, "of another type");
	BAD(read_config("[]", &m, &er), LP_DATA, "must be an object");
	/* full weights are not to be had */
	OK(device_open(&f.dev, "cpu", NULL, 1, &er));
	OK(model_desc_load(dir_of("bnb_llama"), &f.desc, &er));
	BAD(plan(&f, 0, false, &er), LP_USAGE, "--quant nf4");
	drop(&f);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("bnb");
	TCase *c = tcase_create("bnb");
	int failed;

	scratch_open();
	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, test_equal, 0, 2 * N_CASES);
	tcase_add_loop_test(c, test_device, 0, 2 * N_CASES);
	tcase_add_loop_test(c, test_stream, 0, 2 * N_CASES);
	tcase_add_test(c, test_broken);
	tcase_add_test(c, test_config);
	suite_add_tcase(s, c);
	failed = run_tests(s);
	scratch_close();
	return failed;
}
