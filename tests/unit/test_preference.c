/* Ten steps of each preference method, and of a reward model, against PyTorch + PEFT in fp64 (make_preference.py, which has TRL's own
 * functions agree first). Loss, gradient and its norm, what is told of rewards, and where the adapter ends differ from that truth by no
 * more than twice what PyTorch in fp32 does, which the golden says. On the device that LP_DEVICE names (cpu), one step over all records
 * away from the start, against PyTorch's error in its type; a step that is recorded and one that is replayed have the same bits. And: how
 * a step is cut changes nothing; what is refused. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "train/pref.h"
#include "train/run_int.h"
#include "golden_fix.h"

enum { STEPS = 10 };

static const char *const cases[] = { "dpo", "dpo_smooth", "ipo", "orpo", "simpo", "kto", "reward" };
enum { CASES = sizeof(cases) / sizeof(*cases) };

static const char *which; /* case */

static const char *meta(const char *name)
{
	char full[96];

	snprintf(full, sizeof(full), "%s.%s", which, name);
	return st_meta(&gold.blob, full);
}

/* Of the case; below 0: it has none. */
static double of_case(const char *name)
{
	const char *s = meta(name);

	return s ? strtod(s, NULL) : -1;
}

static const void *data(const char *what, const char *name)
{
	char full[ARCH_NAME + 40];
	const struct tensor *t;

	snprintf(full, sizeof(full), "%s%s%s%s", strcmp(what, "init.") ? which : "", strcmp(what, "init.") ? "." : "", what, name);
	t = st_find(&gold.blob, full);
	ck_assert_msg(t != NULL, "no %s", full);
	return t->data;
}

/* |a - b| / |b| */
static double away(const double *a, const double *b, int64_t n)
{
	double d = 0, s = 0;

	for (int64_t i = 0; i < n; i++) {
		d += (a[i] - b[i]) * (a[i] - b[i]);
		s += b[i] * b[i];
	}
	return sqrt(d / s);
}

static void check_values(const struct lora *l, const float *x, const char *what, double most)
{
	for (int64_t i = 0; i < l->n_tensors; i++) {
		const struct lora_tensor *t = &l->tensors[i];
		double *wide = xcalloc((size_t)t->n, sizeof(*wide)), d;

		if (!t->on) {
			free(wide);
			continue;
		}
		for (int64_t j = 0; j < t->n; j++)
			wide[j] = (double)x[t->offset + j];
		d = away(wide, data(what, t->name), t->n);
		ck_assert_msg(d <= most, "%s: %s%s: %.2e away, at most %.2e", which, what, t->name, d, most);
		free(wide);
	}
}

static double all_off(const struct lora *l, const float *x, double scale, const char *what)
{
	double d = 0, n = 0;

	for (int64_t i = 0; i < l->n_tensors; i++) {
		const struct lora_tensor *t = &l->tensors[i];
		const double *want = t->on ? data(what, t->name) : NULL;

		for (int64_t j = 0; want && j < t->n; j++) {
			d += pow((double)x[t->offset + j] / scale - want[j], 2);
			n += want[j] * want[j];
		}
	}
	return sqrt(d / n);
}

static void load_init(struct run *r)
{
	for (int64_t i = 0; i < r->lora.n_tensors; i++) {
		const struct lora_tensor *t = &r->lora.tensors[i];

		if (t->on)
			device_upload(&r->dev, r->lora.params + t->offset, data("init.", t->name), (uint64_t)t->n * sizeof(float));
	}
}

static struct train_config config(struct kn_pref_rule *rule)
{
	static const char *const streams[] = { "tests/conformance/model/preference.tokens.safetensors" };
	struct pref_options given = { of_case("beta"), of_case("smoothing"), of_case("gamma"), of_case("desirable"), of_case("undesirable"), NULL };
	struct err e = ERR_INIT;
	bool on;

	must(pref_parse(meta("method"), &given, rule, &on, &e) == 0 && on, &e);
	return (struct train_config){ .model = "data/stories260K", .streams = streams, .n_streams = 1, .device = "cpu", .threads = 1, .accumulate = 1, .batch = 2,
		                      .max_steps = STEPS, .schedule = SCHEDULE_CONSTANT, .pref = rule, .targets = setting("targets"), .rank = (int64_t)number("rank"),
		                      .alpha = number("alpha"), .lr = number("lr"), .max_grad_norm = number("clip"),
		                      .optim = { .kind = OPTIM_ADAMW, .beta1 = 0.9, .beta2 = 0.999, .eps = number("eps"), .weight_decay = number("weight_decay") } };
}

static void start(struct run *r, const struct train_config *c)
{
	struct err e = ERR_INIT;

	must(run_prepare(r, c, true, &e) == 0, &e);
	must(run_load(r, &e) == 0, &e);
	load_init(r);
}

static void open_gold(const char *name)
{
	struct err e = ERR_INIT;

	which = name;
	must(st_file_open(&gold, "tests/conformance/model/preference.safetensors", &e) == 0, &e);
}

static void check_told(const struct run *r, const struct step_result *res, int64_t step, double most)
{
	const char *names[TOLD_MEANS];
	double means[TOLD_MEANS];
	int n = run_told_means(r, &res->told, names, means);

	for (int i = 0; i < n; i++) {
		double want;

		if (strcmp(names[i], "rewards/margins") == 0 && r->c->pref->method == KN_PREF_KTO)
			continue;
		want = ((const double *)data("", names[i]))[step];
		if (isnan(want)) {
			ck_assert_msg(isnan(means[i]), "%s: step %d: %s is %g", which, (int)step, names[i], means[i]);
			continue;
		}
		/* a small difference of log-probabilities is as good as these are */
		ck_assert_msg(fabs(means[i] - want) <= most * (50 + fabs(want)), "%s: step %d: %s is %.9g, not %.9g", which, (int)step, names[i], means[i], want);
	}
}

static void take_steps(struct run *r, const struct train_config *c, struct step_result res[STEPS], bool check)
{
	struct err e = ERR_INIT;

	for (int64_t s = 0; s < STEPS; s++) {
		int64_t rows[2] = { s * 2 % r->train.n_rows, (s * 2 + 1) % r->train.n_rows };
		char what[16];

		r->step = s;
		run_queue(r, rows, 2, c->lr);
		must(run_result(r, &res[s], &e) == 0, &e);
		snprintf(what, sizeof(what), "grad.%d.", (int)s);
		if (check && s == 1)
			check_values(&r->lora, r->lora.grads, what, 2 * of_case("fp32_grad."));
		if (check)
			check_told(r, &res[s], s, 2 * of_case("fp32_grad."));
	}
}

START_TEST(test_ten_steps)
{
	struct kn_pref_rule rule;
	struct train_config c;
	struct run r;
	struct step_result res[STEPS];
	double loss[STEPS], norm[STEPS];

	open_gold(cases[_i]);
	c = config(&rule);
	start(&r, &c);
	take_steps(&r, &c, res, true);
	for (int s = 0; s < STEPS; s++) {
		loss[s] = res[s].loss;
		norm[s] = res[s].grad_norm;
	}
	if (rule.method == KN_PREF_DPO) /* the model is its reference yet */
		ck_assert_double_eq_tol(loss[0], log(2), 1e-12);
	ck_assert_msg(away(loss, data("loss", ""), STEPS) <= 2 * of_case("fp32_loss"), "%s: loss %.2e away", which, away(loss, data("loss", ""), STEPS));
	ck_assert_msg(away(norm, data("grad_norm", ""), STEPS) <= 2 * of_case("fp32_grad_norm"), "%s: norm %.2e away", which, away(norm, data("grad_norm", ""), STEPS));
	check_values(&r.lora, r.lora.params, "final.", 2 * of_case("fp32_final."));
	run_release(&r);
	st_file_close(&gold);
}
END_TEST

/* Two rows at once, or one after the other: the same losses and gradients (docs/design: 1e-6, 1e-5). */
START_TEST(test_cut)
{
	struct kn_pref_rule rule;
	struct train_config c;
	struct run r[2];
	struct step_result res[2];
	struct err e = ERR_INIT;
	int64_t rows[3] = { 4, 0, 3 };
	double d = 0, n = 0;

	open_gold(cases[_i]);
	for (int k = 0; k < 2; k++) {
		c = config(&rule);
		c.batch = k ? 1 : 3;
		start(&r[k], &c);
		r[k].lora.dropout = 0;
		/* away from the start, where everything is the reference */
		for (int64_t i = 0; i < r[k].lora.n_params; i++)
			r[k].lora.params[i] += r[k].lora.params[i] == 0 ? 0 : 0.01F * (float)(i % 7);
		run_queue(&r[k], rows, 3, 1e-3);
		must(run_result(&r[k], &res[k], &e) == 0, &e);
	}
	ck_assert_double_le(fabs(res[0].loss - res[1].loss), 1e-6 * fabs(res[0].loss));
	for (int64_t i = 0; i < r[0].lora.n_params; i++) {
		d += pow((double)r[0].lora.grads[i] - (double)r[1].lora.grads[i], 2);
		n += pow((double)r[0].lora.grads[i], 2);
	}
	ck_assert_double_gt(n, 0);
	ck_assert_double_le(sqrt(d / n), 1e-5);
	run_release(&r[0]);
	run_release(&r[1]);
	st_file_close(&gold);
}
END_TEST

static void to_point(struct run *r)
{
	for (int64_t i = 0; i < r->lora.n_tensors; i++) {
		const struct lora_tensor *t = &r->lora.tensors[i];
		char name[ARCH_NAME + 16];
		const struct tensor *b;

		snprintf(name, sizeof(name), "point.%s", t->name);
		b = st_find(&gold.blob, name);
		if (b)
			device_upload(&r->dev, r->lora.params + t->offset, b->data, b->bytes);
	}
}

START_TEST(test_point)
{
	struct kn_pref_rule rule;
	struct train_config c;
	struct run r;
	struct step_result res[3];
	struct err e = ERR_INIT;
	const char *fp16 = getenv("LP_COMPUTE"), *type;
	int64_t rows[16], n;
	float *grads[3];
	double off, loss, most;
	char name[32];

	open_gold(cases[_i]);
	c = config(&rule);
	c.device = getenv("LP_DEVICE") ? getenv("LP_DEVICE") : "cpu";
	c.compute = fp16;
	c.loss_scale = fp16 && strcmp(fp16, "fp16") == 0 ? 4096 : 0; /* as make_preference.py */
	c.batch = 16;
	c.max_grad_norm = 0;
	start(&r, &c);
	to_point(&r);
	type = r.dev.act == DT_F32 ? "fp32" : r.dev.act == DT_F16 ? "fp16" : "bf16";
	n = r.train.n_rows;
	for (int64_t i = 0; i < n; i++)
		rows[i] = i;
	for (int k = 0; k < 3; k++) {
		run_queue(&r, rows, n, 0); /* nothing is learnt */
		must(run_result(&r, &res[k], &e) == 0, &e);
		grads[k] = xcalloc((size_t)r.lora.n_params, sizeof(float));
		device_download(&r.dev, grads[k], r.lora.grads, (uint64_t)r.lora.n_params * sizeof(float));
		must(device_sync(&r.dev, &e) == 0, &e);
		ck_assert(res[k].loss == res[0].loss && memcmp(res[k].told.sums, res[0].told.sums, sizeof(res[k].told.sums)) == 0);
		ck_assert_mem_eq(grads[k], grads[0], (size_t)r.lora.n_params * sizeof(float));
	}
	off = all_off(&r.lora, grads[0], r.scaler.scale, "point.grad.");
	loss = fabs(res[0].loss / ((const double *)data("point.loss", ""))[0] - 1);
	snprintf(name, sizeof(name), "%s_point_grad.", type);
	most = 2 * of_case(name);
	/* the mean's error is at most the errors' own, which PyTorch's mean may lack by luck */
	snprintf(name, sizeof(name), "%s_point_each", type);
	printf("%s, %s: gradients off by %.2e (PyTorch %.2e), loss by %.2e (%.2e); replayed %d\n", which, type, off, most / 2, loss, of_case(name), (int)r.g.replayed);
	ck_assert_double_le(off, most);
	ck_assert_double_le(loss, 2 * of_case(name));
	for (int k = 0; k < 3; k++)
		free(grads[k]);
	run_release(&r);
	st_file_close(&gold);
}
END_TEST

static struct err refuse(const char *method, struct pref_options o)
{
	struct kn_pref_rule rule;
	struct err e = ERR_INIT;
	bool on;

	ck_assert_int_eq(pref_parse(method, &o, &rule, &on, &e), -1);
	ck_assert_int_eq(e.code, LP_USAGE);
	return e;
}

START_TEST(test_options)
{
	struct pref_options none = { -1, -1, -1, -1, -1, NULL }, o;
	struct kn_pref_rule rule;
	struct err e = ERR_INIT;
	bool on;

	ck_assert_int_eq(pref_parse("sft", &none, &rule, &on, &e), 0);
	ck_assert(!on);
	ck_assert_int_eq(pref_parse("simpo", &none, &rule, &on, &e), 0);
	ck_assert(on && rule.method == KN_PREF_SIMPO && rule.beta == 2 && rule.gamma == 1);
	o = none, o.beta = 0.1;
	ck_assert_ptr_nonnull(strstr(refuse("sft", o).msg, "--beta is no option of --method sft"));
	refuse("reward", o);
	o = none, o.smoothing = 0;
	refuse("ipo", o);
	o = none, o.gamma = 1;
	refuse("dpo", o);
	o = none, o.desirable = 1;
	refuse("dpo", o);
	o = none, o.reference = "base";
	refuse("orpo", o);
	ck_assert_int_eq(pref_parse("kto", &o, &rule, &on, &e), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("preference");
	TCase *t = tcase_create("preference");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_loop_test(t, test_ten_steps, 0, CASES);
	tcase_add_loop_test(t, test_cut, 0, CASES);
	tcase_add_loop_test(t, test_point, 0, CASES);
	tcase_add_test(t, test_options);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
