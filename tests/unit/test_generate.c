/* Greedy decoding against transformers (tests/oracle/make_generate.py) up to the
 * first step whose two best logits are closer than 1e-3, in one batch and
 * alone; sampling keyed by record, not by batch. The same between the steps of an
 * engine that trains, whose gradients do not change by it. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/xalloc.h"
#include "json/jsonl.h"
#include "train/generate.h"

#define MODEL "data/stories260K"
#define MAX 16
#define CONTEXT 256

struct golden {
	int32_t prompt[CONTEXT], ids[CONTEXT];
	double gaps[CONTEXT];
	int64_t n_prompt, n_ids;
};
static struct golden gold[MAX];
static int n_gold;
static struct device dev;
static struct engine g;
static struct lora lora; /* of an engine that trains: its B is zero, so that answers are the model's */
static double gap; /* of two logits whose order is certain */

static void must(bool ok, const struct err *e)
{
	if (!ok)
		ck_abort_msg("%s: %s", e->path, e->msg);
}

static int64_t ints(const struct json *v, const char *key, int32_t *out)
{
	const struct json *a = json_get(v, key);
	int64_t x;

	ck_assert(json_is(a, JSON_ARR) && a->n <= CONTEXT);
	for (uint32_t i = 0; i < a->n; i++) {
		ck_assert(json_as_i64(&a->items[i], &x));
		out[i] = (int32_t)x;
	}
	return a->n;
}

static void load_golden(void)
{
	struct err e = ERR_INIT;
	struct in *in = in_open("tests/conformance/model/generate.jsonl", &e);
	struct jsonl *j = in ? jsonl_open_take(in, NULL, &e) : NULL;
	struct jsonl_rec r;

	must(j != NULL, &e);
	for (n_gold = 0; jsonl_next(j, &r, &e) == 1 && n_gold < MAX;) {
		struct golden *q = &gold[n_gold];

		if (!json_get(&r.v, "prompt_ids"))
			continue;
		q->n_prompt = ints(&r.v, "prompt_ids", q->prompt);
		q->n_ids = ints(&r.v, "ids", q->ids);
		for (int64_t i = 0; i < q->n_ids; i++)
			ck_assert(json_as_f64(&json_get(&r.v, "gaps")->items[i], &q->gaps[i]));
		n_gold++;
	}
	jsonl_close(j);
	ck_assert_int_ge(n_gold, 5);
}

static void load(const struct engine_shape *shape, struct lora *l)
{
	struct err e = ERR_INIT;
	struct model_desc m;
	struct model_source *s;

	load_golden();
	must(device_open(&dev, getenv("LP_DEVICE") ? getenv("LP_DEVICE") : "cpu", getenv("LP_COMPUTE"), 2, &e) == 0, &e);
	gap = dev.act == DT_F32 ? 1e-3 : dev.act == DT_F16 ? 0.2 / 8 : 0.2; /* three bits more */
	must(model_desc_load(MODEL, &m, &e) == 0, &e);
	must((s = model_source_open(MODEL, &e)) != NULL, &e);
	if (l)
		lora_init(l, &m);
	must(engine_plan(&g, &dev, &m, DT_F32, false, l, shape, &e) == 0, &e);
	must(engine_alloc(&g, &e) == 0, &e);
	must(engine_load(&g, s, &e) == 0, &e);
	model_source_close(s);
	if (l)
		lora_start(l, &dev, 1);
}

static void setup(void)
{
	load(&(struct engine_shape){ .max_tokens = 2 * CONTEXT, .max_seq = CONTEXT, .decode = MAX }, NULL);
}

static void setup_beside(void)
{
	lora = (struct lora){ .rank = 4, .alpha = 8 };
	for (int i = 0; i < LIN_N; i++)
		lora.targets[i] = true;
	load(&(struct engine_shape){ .max_tokens = 2 * CONTEXT, .max_seq = CONTEXT, .train = true, .beside = MAX }, &lora);
}

/* DoRA's, with values in all of its parts. */
static void setup_dora(void)
{
	float *x;

	lora = (struct lora){ .rank = 4, .alpha = 8, .dora = true };
	for (int i = 0; i < LIN_N; i++)
		lora.targets[i] = true;
	load(&(struct engine_shape){ .max_tokens = 2 * CONTEXT, .max_seq = CONTEXT, .decode = MAX }, &lora);
	engine_start_magnitudes(&g);
	x = xcalloc((size_t)lora.n_params, sizeof(*x));
	device_download(&dev, x, lora.params, (uint64_t)lora.n_params * sizeof(*x));
	for (int64_t i = 0; i < lora.n_tensors; i++)
		for (int64_t k = lora.tensors[i].offset; k < lora.tensors[i].offset + lora.tensors[i].n; k++)
			if (strstr(lora.tensors[i].name, "magnitude"))
				x[k] *= (float)(1 + 0.1 * rng_normal(3, 1, (uint64_t)k));
			else if (strstr(lora.tensors[i].name, "lora_B"))
				x[k] = (float)(0.02 * rng_normal(3, 2, (uint64_t)k));
	device_upload(&dev, lora.params, x, (uint64_t)lora.n_params * sizeof(*x));
	free(x);
}

static void teardown_beside(void)
{
	engine_release(&g);
	lora_release(&lora);
	device_close(&dev);
}

static void teardown(void)
{
	engine_release(&g);
	device_close(&dev);
}

static void run(struct gen_seq *s, int32_t (*out)[CONTEXT], int first, int count, int64_t batch, const struct gen_options *o)
{
	struct generator n;
	struct err e = ERR_INIT;

	must(generator_init(&n, &g, batch, CONTEXT, &e) == 0, &e);
	for (int i = 0; i < count; i += (int)batch) {
		int64_t m = count - i < batch ? count - i : batch;

		for (int64_t k = i; k < i + m; k++)
			s[k] = (struct gen_seq){ .prompt = gold[first + k].prompt, .n_prompt = gold[first + k].n_prompt, .out = out[k], .stream = (uint64_t)(first + k) };
		must(generator_run(&n, s + i, m, o, &e) == 0, &e);
	}
	generator_release(&n);
}

START_TEST(test_greedy)
{
	static const int64_t batches[] = { 1, 3, MAX };
	static const int32_t stop[] = { 1, 2 };
	static int32_t out[MAX][CONTEXT];
	struct gen_options o = { .max_new = 64, .top_p = 1, .stop = stop, .n_stop = 2 };
	struct gen_seq s[MAX];
	int64_t compared = 0;

	run(s, out, 0, n_gold, batches[_i], &o);
	for (int i = 0; i < n_gold; i++)
		for (int64_t t = 0; t < gold[i].n_ids && t < s[i].n_new && gold[i].gaps[t] >= gap; t++) {
			ck_assert_msg(s[i].out[t] == gold[i].ids[t], "prompt %d, token %lld: %d, not %d (gap %g)", i, (long long)t, s[i].out[t],
			              gold[i].ids[t], gold[i].gaps[t]);
			compared++;
		}
	ck_assert_int_ge(compared, dev.act == DT_F32 ? 60 * n_gold / 2 : 6 * n_gold);
}
END_TEST

START_TEST(test_sampling_is_keyed)
{
	static int32_t a[MAX][CONTEXT], b[MAX][CONTEXT], c[MAX][CONTEXT];
	struct gen_options o = { .max_new = 24, .temperature = 0.9, .top_p = 0.95, .top_k = 50, .seed = 5 };
	struct gen_seq s[MAX];

	run(s, a, 0, 4, 4, &o);
	run(s, b, 0, 4, 1, &o);
	ck_assert_mem_eq(a, b, sizeof(a));
	o.seed = 6;
	run(s, c, 0, 4, 4, &o);
	ck_assert(memcmp(a, c, sizeof(a)) != 0);
	/* so cold that only the best token is left */
	o.temperature = 1e-3;
	run(s, b, 0, 4, 4, &o);
	o.temperature = 0;
	run(s, c, 0, 4, 4, &o);
	ck_assert_mem_eq(b[0], c[0], (dev.act == DT_F32 ? 8 : 4) * sizeof(int32_t));
}
END_TEST

START_TEST(test_ends)
{
	static int32_t out[MAX][CONTEXT];
	struct gen_options o = { .max_new = 10000, .top_p = 1 };
	struct gen_seq s[MAX];
	struct generator n;
	struct err e = ERR_INIT;
	int32_t stop = gold[0].ids[3];

	run(s, out, 0, 1, 1, &o);
	ck_assert_int_eq(s[0].finish, GEN_CONTEXT);
	ck_assert_int_eq(s[0].n_prompt + s[0].n_new, CONTEXT);
	o.max_new = 5;
	run(s, out, 0, 1, 1, &o);
	ck_assert_int_eq(s[0].finish, GEN_LENGTH);
	ck_assert_int_eq(s[0].n_new, 5);
	o.stop = &stop;
	o.n_stop = 1;
	run(s, out, 0, 1, 1, &o);
	ck_assert_int_eq(s[0].finish, GEN_STOP);
	ck_assert_int_le(s[0].n_new, 3);
	must(generator_init(&n, &g, 1, 4, &e) == 0, &e);
	s[0].n_prompt = 4;
	ck_assert_int_eq(generator_run(&n, s, 1, &o, &e), -1);
	ck_assert_int_eq(e.code, LP_DATA);
	generator_release(&n);
}
END_TEST

static float *gradients(const struct microbatch *b)
{
	float *x = xcalloc((size_t)lora.n_params, sizeof(*x));
	struct err e = ERR_INIT;
	double loss;

	engine_begin(&g);
	engine_run(&g, b, true, 1);
	must(engine_sums(&g, &loss, NULL, &e) == 0, &e);
	device_download(&dev, x, lora.grads, (uint64_t)lora.n_params * sizeof(*x));
	return x;
}

START_TEST(test_between_steps)
{
	static int32_t out[MAX][CONTEXT];
	uint8_t mask[CONTEXT];
	struct gen_options o = { .max_new = 64, .top_p = 1 };
	struct gen_seq s[MAX];
	struct dataset d = { 0 };
	struct microbatch b;
	int64_t start[2] = { 0, gold[0].n_ids }, record = 0;
	float *before, *after;

	memset(mask, 1, sizeof(mask));
	microbatch_init(&b, g.shape.max_tokens);
	dataset_add_row(&d, gold[0].ids, mask, start, &record, 1);
	microbatch_clear(&b);
	microbatch_add(&b, &d, 0);
	before = gradients(&b);
	run(s, out, 0, n_gold, MAX, &o);
	after = gradients(&b);
	ck_assert_mem_eq(before, after, (size_t)lora.n_params * sizeof(*before));
	free(before);
	free(after);
	microbatch_release(&b);
	dataset_release(&d);
}
END_TEST

/* The loss of the last n of so many ids. */
static double loss_of(const int32_t *ids, int64_t all, int64_t n)
{
	struct dataset d = { 0 };
	struct microbatch b;
	struct err e = ERR_INIT;
	int64_t start[2] = { 0, all }, record = 0;
	uint8_t mask[2 * CONTEXT];
	double loss;

	for (int64_t i = 0; i < all; i++)
		mask[i] = i >= all - n;
	microbatch_init(&b, g.shape.max_tokens);
	dataset_add_row(&d, ids, mask, start, &record, 1);
	microbatch_clear(&b);
	microbatch_add(&b, &d, 0);
	engine_begin(&g);
	engine_run(&g, &b, false, 1);
	must(engine_sums(&g, &loss, NULL, &e) == 0, &e);
	microbatch_release(&b);
	dataset_release(&d);
	return loss;
}

/* What decoding says of its answers is what a pass over all of them says. */
START_TEST(test_decoded_as_scored)
{
	static const int64_t batches[] = { 1, 3, MAX };
	static int32_t out[MAX][CONTEXT];
	struct gen_options o = { .max_new = 24, .top_p = 1 };
	struct gen_seq s[MAX];

	run(s, out, 0, n_gold, batches[_i], &o);
	for (int i = 0; i < n_gold; i++) {
		int32_t ids[2 * CONTEXT];
		double loss, off;

		memcpy(ids, gold[i].prompt, (size_t)gold[i].n_prompt * sizeof(*ids));
		memcpy(ids + gold[i].n_prompt, out[i], (size_t)s[i].n_new * sizeof(*ids));
		loss = loss_of(ids, gold[i].n_prompt + s[i].n_new, s[i].n_new);
		off = (loss + s[i].logprob) / (double)s[i].n_new;
		ck_assert_msg(off < (dev.act == DT_F32 ? 1e-4 : 0.05) && -off < (dev.act == DT_F32 ? 1e-4 : 0.05), "prompt %d: a token's loss is %g, and %g where it was decoded", i,
		              loss / (double)s[i].n_new, -s[i].logprob / (double)s[i].n_new);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("generate");
	TCase *t = tcase_create("generate");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_loop_test(t, test_greedy, 0, 3);
	tcase_add_test(t, test_sampling_is_keyed);
	tcase_add_test(t, test_ends);
	suite_add_tcase(s, t);
	t = tcase_create("beside training");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup_beside, teardown_beside);
	tcase_add_loop_test(t, test_greedy, 0, 3);
	tcase_add_test(t, test_between_steps);
	suite_add_tcase(s, t);
	t = tcase_create("magnitudes");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup_dora, teardown_beside);
	tcase_add_loop_test(t, test_decoded_as_scored, 0, 3);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
