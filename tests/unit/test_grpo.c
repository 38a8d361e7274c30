/* Ten steps of GRPO on given completions and rewards, against PyTorch + PEFT in fp64 (make_grpo.py, which has TRL's own function agree
 * first): loss, gradient and its norm, KL, clipped ratios, and where the adapter ends differ from that truth by no more than twice what
 * PyTorch in fp32 does. On the device that LP_DEVICE names (cpu), one step away from where the completions were made, against PyTorch's
 * error in its type, recorded and replayed. How a step is cut changes nothing. And: advantages, options, what commands answer. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/num.h"
#include "base/xalloc.h"
#include "train/generate.h"
#include "train/reward.h"
#include "train/run_int.h"
#include "golden_fix.h"

enum { STEPS = 10 };

static const char *const cases[] = { "dapo", "grpo", "dr_grpo" };
enum { CASES = sizeof(cases) / sizeof(*cases) };

static const char *which; /* case */
static char prompts[64];

static const char *text_of(const char *name)
{
	char full[96];

	snprintf(full, sizeof(full), "%s.%s", which, name);
	return setting(full);
}

static double of_case(const char *name)
{
	return strtod(text_of(name), NULL);
}

static const struct tensor *tensor(const char *what, const char *name)
{
	char full[ARCH_NAME + 40];
	const struct tensor *t;
	bool all = strcmp(what, "init.") == 0 || strcmp(what, "all.") == 0;

	snprintf(full, sizeof(full), "%s%s%s%s", all ? "" : which, all ? "" : ".", strcmp(what, "all.") == 0 ? "" : what, name);
	t = st_find(&gold.blob, full);
	ck_assert_msg(t != NULL, "no %s", full);
	return t;
}

static const void *data(const char *what, const char *name)
{
	return tensor(what, name)->data;
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

/* Of all tensors together where each is false. */
static void check_values(const struct lora *l, const float *x, double scale, const char *what, bool each, double most)
{
	double d = 0, n = 0;

	for (int64_t i = 0; i < l->n_tensors; i++) {
		const struct lora_tensor *t = &l->tensors[i];
		const double *want = t->on ? data(what, t->name) : NULL;

		for (int64_t j = 0; want && j < t->n; j++) {
			d += pow((double)x[t->offset + j] / scale - want[j], 2);
			n += want[j] * want[j];
		}
		if (want && each) {
			ck_assert_msg(sqrt(d / n) <= most, "%s: %s%s: %.2e away, at most %.2e", which, what, t->name, sqrt(d / n), most);
			d = n = 0;
		}
	}
	if (!each) {
		printf("%s: %s off by %.2e, at most %.2e\n", which, what, sqrt(d / n), most);
		ck_assert_msg(sqrt(d / n) <= most, "%s: %s: %.2e away, at most %.2e", which, what, sqrt(d / n), most);
	}
}

/* --- a run whose completions are the golden's --- */

static void write_prompts(void)
{
	FILE *f;

	snprintf(prompts, sizeof(prompts), "/tmp/lp-grpo-XXXXXX");
	close(mkstemp(prompts));
	f = fopen(prompts, "w");
	for (int i = 0; i < 4; i++)
		fprintf(f, "{\"prompt\":\"one two three four five six seven eight nine ten eleven twelve\"}\n");
	fclose(f);
}

static struct train_config config(struct grpo_config *g, int64_t batch, int64_t accumulate)
{
	static const char *const streams[] = { prompts }, *const rewards[] = { "cat" };
	struct grpo_options o = { text_of("loss_type"), text_of("scale_rewards"), text_of("kl"), NULL, of_case("epsilon_high") };
	struct err e = ERR_INIT;

	*g = (struct grpo_config){ .rewards = rewards, .n_rewards = 1, .group = (int64_t)number("group"), .max_new = (int64_t)number("max_new"), .top_p = 1,
		                   .updates = (int64_t)of_case("updates"),
		                   .rule = { .beta = of_case("beta"), .low = of_case("epsilon"), .temperature = of_case("temperature") } };
	must(grpo_parse(g, &o, batch * accumulate, &e) == 0, &e);
	return (struct train_config){ .model = "data/stories260K", .streams = streams, .n_streams = 1, .device = "cpu", .threads = 1, .accumulate = accumulate, .batch = batch,
		                      .max_steps = STEPS, .schedule = SCHEDULE_CONSTANT, .grpo = g, .targets = setting("targets"), .rank = (int64_t)number("rank"),
		                      .alpha = number("alpha"), .lr = number("lr"), .max_grad_norm = number("clip"),
		                      .optim = { .kind = OPTIM_ADAMW, .beta1 = 0.9, .beta2 = 0.999, .eps = number("eps"), .weight_decay = number("weight_decay") } };
}

static void upload(struct run *r, const char *what)
{
	for (int64_t i = 0; i < r->lora.n_tensors; i++) {
		const struct lora_tensor *t = &r->lora.tensors[i];
		char full[ARCH_NAME + 16];
		const struct tensor *b;

		snprintf(full, sizeof(full), "%s%s", what, t->name);
		b = t->on ? st_find(&gold.blob, full) : NULL;
		if (b)
			device_upload(&r->dev, r->lora.params + t->offset, b->data, b->bytes);
	}
}

static void start(struct run *r, const struct train_config *c)
{
	struct err e = ERR_INIT;

	write_prompts();
	must(run_prepare(r, c, true, &e) == 0, &e);
	must(run_load(r, &e) == 0, &e);
	unlink(prompts);
	upload(r, "init.");
}

static void open_gold(const char *name)
{
	struct err e = ERR_INIT;

	which = name;
	must(st_file_open(&gold, "tests/conformance/model/grpo.safetensors", &e) == 0, &e);
}

/* Completions from `first` on, n of them. */
static void give(struct run *r, int64_t first, int64_t n)
{
	const int32_t *ids = data("all.", "ids");
	const int64_t *len = data("all.", "n"), *n_prompt = data("all.", "n_prompt");
	const double *rewards = data("all.", "rewards");
	int64_t *prompt_of, at = 0;
	double *reward;
	struct gen_seq *q = run_grpo_seqs(r, &prompt_of, &reward);
	struct err e = ERR_INIT;

	for (int64_t i = 0; i < first; i++)
		at += len[i];
	for (int64_t i = 0; i < n; at += len[first + i], i++) {
		q[i] = (struct gen_seq){ .prompt = ids + at, .n_prompt = n_prompt[first + i], .out = (int32_t *)(uintptr_t)(ids + at + n_prompt[first + i]),
			                 .n_new = len[first + i] - n_prompt[first + i], .finish = GEN_LENGTH };
		prompt_of[i] = (first + i) / r->c->grpo->group;
		reward[i] = rewards[first + i];
	}
	must(run_grpo_take(r, n, &e) == 0, &e);
}

static void step(struct run *r, struct step_result *res)
{
	int64_t rows[16];
	struct err e = ERR_INIT;

	for (int64_t i = 0; i < r->train.n_rows; i++)
		rows[i] = i;
	run_queue(r, rows, r->train.n_rows, r->c->lr);
	must(run_result(r, res, &e) == 0, &e);
}

static void check_told(const struct run *r, const struct step_result *res, int64_t s)
{
	static const char *const told[] = { "kl", "clip_ratio/low_mean", "clip_ratio/high_mean" };
	const char *names[TOLD_MEANS];
	double means[TOLD_MEANS];
	int n = run_told_means(r, &res->told, names, means);

	for (int i = 0; i < n; i++)
		for (int k = 0; k < 3; k++) {
			double want;

			if (strcmp(names[i], told[k]) != 0)
				continue;
			want = ((const double *)data("", told[k]))[s];
			/* a KL is a small difference of log-probabilities */
			ck_assert_msg(fabs(means[i] - want) <= 2e-5 * (0.05 + fabs(want)), "%s: step %d: %s is %.9g, not %.9g", which, (int)s, names[i], means[i], want);
		}
}

START_TEST(test_ten_steps)
{
	struct grpo_config g;
	struct train_config c;
	struct run r;
	struct step_result res;
	double loss[STEPS], norm[STEPS];

	open_gold(cases[_i]);
	c = config(&g, 6, 1);
	start(&r, &c);
	for (int64_t s = 0; s < STEPS; s++) {
		char what[16];

		r.step = s;
		if (run_grpo_due(&r, s))
			give(&r, s / g.updates * 6 % 12, 6);
		step(&r, &res);
		loss[s] = res.loss;
		norm[s] = res.grad_norm;
		check_told(&r, &res, s);
		snprintf(what, sizeof(what), "grad.%d.", (int)s);
		if (s == 1)
			check_values(&r.lora, r.lora.grads, 1, what, true, 2 * of_case("fp32_grad."));
	}
	ck_assert_msg(away(loss, data("loss", ""), STEPS) <= 2 * of_case("fp32_loss"), "%s: loss %.2e away", which, away(loss, data("loss", ""), STEPS));
	ck_assert_msg(away(norm, data("grad_norm", ""), STEPS) <= 2 * of_case("fp32_grad_norm"), "%s: norm %.2e away", which, away(norm, data("grad_norm", ""), STEPS));
	check_values(&r.lora, r.lora.params, 1, "final.", true, 2 * of_case("fp32_final."));
	run_release(&r);
	st_file_close(&gold);
}
END_TEST

/* All completions at once, or one after the other: the same losses and gradients (docs/design: 1e-6, 1e-5). */
START_TEST(test_cut)
{
	struct grpo_config g;
	struct train_config c;
	struct run r[2];
	struct step_result res[2];
	double d = 0, n = 0;

	open_gold(cases[_i]);
	for (int k = 0; k < 2; k++) {
		c = config(&g, k ? 1 : 12, k ? 12 : 1);
		start(&r[k], &c);
		give(&r[k], 0, 12);
		upload(&r[k], "point.");
		step(&r[k], &res[k]);
	}
	ck_assert_double_le(fabs(res[0].loss - res[1].loss), 1e-6 * fmax(fabs(res[0].loss), 0.1));
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

START_TEST(test_point)
{
	struct grpo_config g;
	struct train_config c;
	struct run r;
	struct step_result res[3];
	struct err e = ERR_INIT;
	const char *compute = getenv("LP_COMPUTE"), *type;
	const double *each;
	double size = 0, loss, want;
	float *grads[3];
	char name[32];

	open_gold(cases[_i]);
	c = config(&g, 12, 1);
	g.rule.low = g.rule.high = 1e3;
	c.device = getenv("LP_DEVICE") ? getenv("LP_DEVICE") : "cpu";
	c.compute = compute;
	c.loss_scale = compute && strcmp(compute, "fp16") == 0 ? 4096 : 0; /* as make_grpo.py */
	c.max_grad_norm = 0;
	c.lr = 0; /* nothing is learnt */
	start(&r, &c);
	give(&r, 0, 12);
	upload(&r, "point.");
	type = r.dev.act == DT_F32 ? "fp32" : r.dev.act == DT_F16 ? "fp16" : "bf16";
	for (int k = 0; k < 3; k++) {
		step(&r, &res[k]);
		grads[k] = xcalloc((size_t)r.lora.n_params, sizeof(float));
		device_download(&r.dev, grads[k], r.lora.grads, (uint64_t)r.lora.n_params * sizeof(float));
		must(device_sync(&r.dev, &e) == 0, &e);
		ck_assert(res[k].loss == res[0].loss && memcmp(res[k].told.sums, res[0].told.sums, sizeof(res[k].told.sums)) == 0);
		ck_assert_mem_eq(grads[k], grads[0], (size_t)r.lora.n_params * sizeof(float));
	}
	snprintf(name, sizeof(name), "%s_point_grad.", type);
	check_values(&r.lora, grads[0], r.scaler.scale, "point.grad.", false, 2 * of_case(name));
	each = data("", "point.each");
	for (int i = 0; i < 12; i++)
		size += fabs(each[i]) / 12;
	want = ((const double *)data("", "point.loss"))[0];
	loss = fabs(res[0].loss - want);
	/* completions' losses cancel in their mean: its error is at most theirs */
	snprintf(name, sizeof(name), "%s_point_each", type);
	printf("%s, %s: loss %.6f, off by %.2e, at most %.2e; replayed %d\n", which, type, res[0].loss, loss, 2 * of_case(name) * size, (int)r.g.replayed);
	ck_assert_double_le(loss, 2 * of_case(name) * size);
	for (int k = 0; k < 3; k++)
		free(grads[k]);
	run_release(&r);
	st_file_close(&gold);
}
END_TEST

/* --- groups --- */

START_TEST(test_advantages)
{
	const double reward[] = { 1, 2, 3, 5, 5, 5 };
	double adv[6];

	ck_assert_int_eq(grpo_advantages(reward, 6, 3, GRPO_SCALE_GROUP, adv), 1);
	ck_assert_double_eq_tol(adv[0], -1 / (1 + 1e-4), 1e-15);
	ck_assert_double_eq_tol(adv[2], 1 / (1 + 1e-4), 1e-15);
	ck_assert_double_eq(adv[1], 0);
	for (int i = 3; i < 6; i++)
		ck_assert_double_eq(adv[i], 0);
	ck_assert_int_eq(grpo_advantages(reward, 6, 3, GRPO_SCALE_NONE, adv), 1);
	ck_assert_double_eq(adv[0], -1);
	grpo_advantages(reward, 6, 3, GRPO_SCALE_BATCH, adv);
	ck_assert_double_eq_tol(adv[0], -1 / (sqrt(15.5 / 5) + 1e-4), 1e-15);
	ck_assert_double_eq(grpo_stats(reward, 1).std, 0);
}
END_TEST

static struct err refused(struct grpo_config c, const char *weights, int64_t n)
{
	const struct grpo_options o = { "dapo", "group", "unbiased", weights, -1 };
	struct err e = ERR_INIT;

	ck_assert_int_eq(grpo_parse(&c, &o, n, &e), -1);
	ck_assert_int_eq(e.code, LP_USAGE);
	return e;
}

START_TEST(test_options)
{
	static const char *const two[] = { "a", "b" };
	struct grpo_config c = { .rewards = two, .n_rewards = 2, .group = 4, .updates = 1, .rule = { .low = 0.2 } };
	const struct grpo_options o = { "dr_grpo", "none", "k3", "2,-0.5", -1 };
	struct err e = ERR_INIT;

	must(grpo_parse(&c, &o, 8, &e) == 0, &e);
	ck_assert(c.loss == GRPO_DR_GRPO && c.scale == GRPO_SCALE_NONE && !c.rule.unbiased && c.rule.on_policy && c.rule.high == 0.2);
	ck_assert(c.weights[0] == 2 && c.weights[1] == -0.5);
	ck_assert_ptr_nonnull(strstr(refused(c, NULL, 6).msg, "whole groups of 4"));
	ck_assert_ptr_nonnull(strstr(refused(c, "1", 8).msg, "1 numbers for 2 rewards"));
	refused(c, "1,2,3", 8);
	refused(c, "1,x", 8);
	refused(c, "1,", 8);
	c.n_rewards = 0;
	ck_assert_ptr_nonnull(strstr(refused(c, NULL, 8).msg, "needs a reward"));
}
END_TEST

/* --- commands --- */

static struct err fails(const char *command, double seconds, enum lp_status code, const char *says)
{
	struct sb text = SB_INIT;
	double reward[3];
	struct err e = ERR_INIT;

	sb_adds(&text, "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
	ck_assert_int_eq(reward_run(command, &text, 3, seconds, reward, &e), -1);
	ck_assert_msg(e.code == code && strstr(e.msg, says), "%s: %d: %s", command, e.code, e.msg);
	sb_release(&text);
	return e;
}

START_TEST(test_commands)
{
	struct sb text = SB_INIT;
	double reward[3];
	struct err e = ERR_INIT;

	sb_adds(&text, "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
	must(reward_run("sed 's/.*://; s/}//'", &text, 3, 0, reward, &e) == 0, &e);
	ck_assert(reward[0] == 1 && reward[1] == 2 && reward[2] == 3);
	must(reward_run("printf ' 1e-3 \\r\\n-2\\n3'", &text, 3, 60, reward, &e) == 0, &e); /* reads nothing */
	ck_assert(reward[0] == 1e-3 && reward[1] == -2 && reward[2] == 3);
	fails("head -n 2 | wc -c; exit 3", 0, LP_IO, "ended with status 3");
	fails("no-such-command-at-all 2>/dev/null", 0, LP_IO, "there is no such command");
	fails("kill -9 $$", 0, LP_IO, "ended by signal 9");
	fails("echo 1", 0, LP_DATA, "read 3 records and wrote 1 lines");
	fails("echo 1; echo 2; echo 3; echo 4", 0, LP_DATA, "wrote 4 lines");
	fails("echo 1; echo; echo 3", 0, LP_DATA, "wrote '' for record 2 of 3");
	fails("echo 1; echo nan; echo 3", 0, LP_DATA, "wrote 'nan' for record 2 of 3");
	fails("echo 1; echo '2 3'; echo 3", 0, LP_DATA, "wrote '2 3' for record 2 of 3");
	fails("yes", 0, LP_DATA, "wrote more than 3 numbers can be");
	fails("sleep 30", 0.2, LP_IO, "was not done after 0.2 s");
	fails("exec >&-; sleep 30", 0.2, LP_IO, "was not done after 0.2 s"); /* its output is closed, it goes on */
	sb_release(&text);
}
END_TEST

/* More than pipes hold, both ways. */
START_TEST(test_much)
{
	struct sb text = SB_INIT;
	int64_t n = 20000;
	double *reward = xcalloc((size_t)n, sizeof(*reward));
	struct err e = ERR_INIT;

	for (int64_t i = 0; i < n; i++)
		sb_addf(&text, "%lld.%0100d\n", (long long)i, 0);
	must(reward_run("cat", &text, n, 60, reward, &e) == 0, &e);
	for (int64_t i = 0; i < n; i++)
		ck_assert_double_eq(reward[i], (double)i);
	sb_release(&text);
	free(reward);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("grpo");
	TCase *t = tcase_create("grpo");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_loop_test(t, test_ten_steps, 0, CASES);
	tcase_add_loop_test(t, test_cut, 0, CASES);
	tcase_add_loop_test(t, test_point, 0, CASES);
	tcase_add_test(t, test_advantages);
	tcase_add_test(t, test_options);
	tcase_add_test(t, test_commands);
	tcase_add_test(t, test_much);
	tcase_set_timeout(t, 60);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
