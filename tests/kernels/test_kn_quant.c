/* NF4 and 8-bit AdamW against bitsandbytes (tests/conformance/model/README.md), the
 * learning-rate schedules against transformers. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "fmt/st.h"
#include "kernels/device.h"
#include "kernels/dynmap.h"
#include "train/run.h"
#include "train/schedule.h"

#define DIR_MODEL "tests/conformance/model/"

static struct st_file f;
static struct device dev;

static void must(bool ok, const struct err *e)
{
	if (!ok)
		ck_abort_msg("%s: %s", e->path, e->msg);
}

static const struct tensor *get(const char *c, const char *what)
{
	char name[96];
	const struct tensor *t;

	snprintf(name, sizeof(name), "%s%s%s", c, *c ? "." : "", what);
	t = st_find(&f.blob, name);
	ck_assert_msg(t != NULL, "no %s", name);
	return t;
}

static void open_golden(const char *name)
{
	struct err e = ERR_INIT;

	must(st_file_open(&f, name, &e) == 0, &e);
	must(device_open(&dev, "cpu", NULL, 2, &e) == 0, &e);
}

static const char *const nf4_cases[] = { "plain", "odd_tail", "short", "one", "wide_bf16", "fp16", "zeros", "zero_tail", "zero_blocks",
	                                 "constant", "negative", "huge", "tiny", "denormal", "outlier", "ties" };
#define N_NF4 ((int)(sizeof(nf4_cases) / sizeof(*nf4_cases)))

/* Zero and NaN payloads apart, floats are compared as bits. */
static void same_floats(const float *got, const float *want, int64_t n, const char *what)
{
	for (int64_t i = 0; i < n; i++)
		ck_assert_msg(memcmp(&got[i], &want[i], 4) == 0 || (got[i] == 0 && want[i] == 0), "%s[%lld]: %.9g, not %.9g", what,
		              (long long)i, (double)got[i], (double)want[i]);
}

START_TEST(test_nf4)
{
	const char *c = nf4_cases[_i];
	const struct tensor *w;
	struct nf4 q;
	float *x, *absmax, *y, *want;
	int64_t n, nb, nb2;

	open_golden(DIR_MODEL "nf4.safetensors");
	w = get(c, "w");
	n = (int64_t)tensor_elems(w);
	nb = nf4_blocks(n);
	nb2 = nf4_blocks2(n);
	x = xcalloc((size_t)n, 4);
	y = xcalloc((size_t)n, 4);
	want = xcalloc((size_t)n, 4);
	absmax = xcalloc((size_t)nb, 4);
	q = (struct nf4){ n, xcalloc((size_t)(n + 1) / 2, 1), xcalloc((size_t)nb, 1), xcalloc((size_t)nb2, 4), 0 };
	to_f32(w->dtype, w->data, x, (size_t)n);
	nf4_quantize(x, &q, absmax);
	ck_assert_mem_eq(q.codes, get(c, "codes")->data, (size_t)(n + 1) / 2);
	same_floats(absmax, get(c, "absmax")->data, nb, "absmax");
	same_floats(&q.offset, get(c, "offset")->data, 1, "offset");
	ck_assert_mem_eq(q.qabsmax, get(c, "absmax8")->data, (size_t)nb);
	same_floats(q.absmax2, get(c, "absmax2")->data, nb2, "absmax2");
	/* given bitsandbytes' offset: its codes and its dequantised values, bit for bit */
	q.offset = *(const float *)get(c, "offset_bnb")->data;
	nf4_quantize_absmax(absmax, nb, q.offset, q.qabsmax, q.absmax2);
	ck_assert_mem_eq(q.qabsmax, get(c, "absmax8_bnb")->data, (size_t)nb);
	same_floats(q.absmax2, get(c, "absmax2_bnb")->data, nb2, "absmax2_bnb");
	dev.k.nf4_dequant(&dev, y, n, &q, 1, n);
	if (w->dtype == DT_F32) {
		same_floats(y, get(c, "dequant_bnb")->data, n, "dequantised");
	} else {
		uint16_t *y16 = xcalloc((size_t)n, 2);

		from_f32(w->dtype, y, y16, (size_t)n);
		to_f32(w->dtype, y16, y, (size_t)n);
		to_f32(w->dtype, get(c, "dequant_bnb")->data, want, (size_t)n);
		same_floats(y, want, n, "dequantised");
		free(y16);
	}
	free(x);
	free(y);
	free(want);
	free(absmax);
	free(q.codes);
	free(q.qabsmax);
	free(q.absmax2);
	st_file_close(&f);
}
END_TEST

START_TEST(test_maps)
{
	open_golden(DIR_MODEL "nf4.safetensors");
	ck_assert_mem_eq(nf4_levels, get("", "nf4_map")->data, sizeof(nf4_levels));
	ck_assert_mem_eq(dynmap_signed, get("", "dynamic_map")->data, sizeof(dynmap_signed));
	ck_assert_mem_eq(dynmap_unsigned, get("", "dynamic_map_unsigned")->data, sizeof(dynmap_unsigned));
	st_file_close(&f);
}
END_TEST

static const char *step_name(const char *what, int t)
{
	static char buf[4][32];
	static int at;

	at = (at + 1) % 4;
	snprintf(buf[at], sizeof(buf[at]), "%s.%d", what, t);
	return buf[at];
}

static int64_t code_misses(const uint8_t *got, const uint8_t *want, int64_t n)
{
	int64_t miss = 0;

	for (int64_t i = 0; i < n; i++) {
		ck_assert_int_le(abs(got[i] - want[i]), 1);
		miss += got[i] != want[i];
	}
	return miss;
}

static void close_to(const float *got, const float *want, int64_t n, double rel, double abs_, const char *what)
{
	for (int64_t i = 0; i < n; i++)
		ck_assert_msg(fabs((double)got[i] - (double)want[i]) <= abs_ + rel * fabs((double)want[i]), "%s[%lld]: %.9g, not %.9g", what,
		              (long long)i, (double)got[i], (double)want[i]);
}

static void adam8_step(const char *c, int t)
{
	const struct tensor *p0 = get(c, step_name("p", t - 1)), *g = get(c, step_name("g", t));
	int64_t n = (int64_t)tensor_elems(p0), nb = (n + ADAM8_BLOCK - 1) / ADAM8_BLOCK;
	float *p = xcalloc((size_t)n, 4), *mm = xcalloc((size_t)nb, 4), *vm = xcalloc((size_t)nb, 4);
	uint8_t *m8 = xcalloc((size_t)n, 1), *v8 = xcalloc((size_t)n, 1);
	struct kn_adam a = { ((const double *)get("", "lr")->data)[t - 1], 0.9, 0.999, 1e-8, 0.01, t, 1 };

	memcpy(p, p0->data, (size_t)n * 4);
	if (t > 1) {
		memcpy(m8, get(c, step_name("state1", t - 1))->data, (size_t)n);
		memcpy(v8, get(c, step_name("state2", t - 1))->data, (size_t)n);
		memcpy(mm, get(c, step_name("absmax1", t - 1))->data, (size_t)nb * 4);
		memcpy(vm, get(c, step_name("absmax2", t - 1))->data, (size_t)nb * 4);
	}
	kn_adam8_cpu(&dev, p, g->data, m8, v8, mm, vm, n, &a);
	close_to(p, get(c, step_name("p", t))->data, n, 2e-7, 1e-8, "p");
	close_to(mm, get(c, step_name("absmax1", t))->data, nb, 2e-7, 0, "absmax of m");
	close_to(vm, get(c, step_name("absmax2", t))->data, nb, 2e-7, 0, "absmax of v");
	ck_assert_int_le(code_misses(m8, get(c, step_name("state1", t))->data, n), n / 1000);
	ck_assert_int_le(code_misses(v8, get(c, step_name("state2", t))->data, n), n / 1000);
	free(p);
	free(mm);
	free(vm);
	free(m8);
	free(v8);
}

START_TEST(test_adam8)
{
	static const char *const cases[] = { "odd", "edge" };

	open_golden(DIR_MODEL "adam8.safetensors");
	for (int t = 1; t <= 4; t++)
		adam8_step(cases[_i], t);
	st_file_close(&f);
}
END_TEST

/* Under 4,096 elements bitsandbytes keeps fp32 states: the fp32 AdamW is it. */
START_TEST(test_adamw_small)
{
	float p[31 * 33], m[31 * 33] = { 0 }, v[31 * 33] = { 0 };
	const int64_t n = 31 * 33;

	open_golden(DIR_MODEL "adam8.safetensors");
	memcpy(p, get("small", "p.0")->data, sizeof(p));
	for (int t = 1; t <= 4; t++) {
		struct kn_adam a = { ((const double *)get("", "lr")->data)[t - 1], 0.9, 0.999, 1e-8, 0.01, t, 1 };

		kn_adamw_cpu(&dev, p, get("small", step_name("g", t))->data, m, v, n, &a);
		close_to(m, get("small", step_name("state1", t))->data, n, 1e-6, 1e-10, "m");
		close_to(v, get("small", step_name("state2", t))->data, n, 1e-6, 1e-14, "v");
		close_to(p, get("small", step_name("p", t))->data, n, 1e-6, 1e-7, "p");
	}
	st_file_close(&f);
}
END_TEST

START_TEST(test_schedules)
{
	struct arena a = ARENA_INIT;
	struct json v;
	const struct json *cases;
	struct err e = ERR_INIT;

	must(json_load(DIR_MODEL "schedule.json", &a, &v, &e) == 0, &e);
	cases = json_get(&v, "cases");
	ck_assert(json_is(cases, JSON_ARR) && cases->n >= 6);
	for (uint32_t i = 0; i < cases->n; i++) {
		const struct json *c = &cases->items[i], *rates = json_get(c, "rates");
		const char *name, *shape;
		struct schedule s = { 0 };
		int64_t warmup;
		double lr, ratio, rate;

		ck_assert(json_get_str(c, "schedule", NULL, &name) && json_get_f64(c, "lr", 0, &lr) && json_get_i64(c, "steps", 0, &s.total) &&
		          json_get_i64(c, "warmup", 0, &s.warmup) && json_get_i64(c, "decay", 0, &s.decay) && json_get_str(c, "shape", "cosine", &shape) && json_get_f64(c, "warmup_ratio", -1, &ratio) &&
		          json_get_i64(c, "warmup_steps", -1, &warmup));
		must(schedule_parse(name, &s.kind, &e) == 0, &e);
		must(schedule_parse_shape(shape, &s.shape, &e) == 0, &e);
		ck_assert_int_eq(ratio >= 0 && warmup <= 0 ? schedule_part(ratio, s.total) : warmup < 0 ? 0 : warmup, s.warmup);
		for (uint32_t k = 0; k < rates->n; k++) {
			ck_assert(json_as_f64(&rates->items[k], &rate));
			ck_assert_double_eq(lr * schedule_factor(&s, k), rate);
		}
	}
	arena_release(&a);
}
END_TEST

/* transformers' EarlyStoppingCallback, patience 3, threshold 0.01 */
START_TEST(test_early_stop)
{
	static const double loss[] = { 2.0, 1.5, 1.495, 1.2, 1.195, 1.196, 1.1951, 1.0 };
	static const int64_t want[] = { 0, 0, 1, 0, 1, 2, 3, 0 };
	double best = INFINITY;
	int64_t stale = 0;

	for (int i = 0; i < 8; i++) {
		stale = train_stale_evals(stale, loss[i], best, 0.01);
		ck_assert_int_eq(stale, want[i]);
		best = fmin(best, loss[i]);
	}
	ck_assert_int_eq(train_stale_evals(1, (double)NAN, best, 0), 2);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("kn_quant");
	TCase *t = tcase_create("kn_quant");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_loop_test(t, test_nf4, 0, N_NF4);
	tcase_add_test(t, test_maps);
	tcase_add_loop_test(t, test_adam8, 0, 2);
	tcase_add_test(t, test_adamw_small);
	tcase_add_test(t, test_schedules);
	tcase_add_test(t, test_early_stop);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
