/* Steps that are queued before the last one's sums were seen: the same run as one that waits, whatever is refused on the way. And a
 * device that is lost: what was written before is good, nothing else is written. The CPU's functions play a device that is ahead. */
#include <check.h>
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "run_fix.h"
#include "train/stop.h"

enum { STEPS = 12 };

/* --- a device that does what the test says; one at a time --- */

static struct kn_ops real;
static int squares_at, loss_at, squares_seen, losses_seen; /* which sum is not finite, from 1; 0: none */
static int settle_at, sync_at, settled, synced;            /* which wait finds the device gone; 0: none */
static int raise_at;                                       /* which step's sum of squares SIGTERM comes in */
static bool gone;

static const double *losses;                               /* where they are added up; the other sum is that of squares */

static void some_sum(struct device *d, const double *x, int64_t n, double *out)
{
	real.sum(d, x, n, out);
	if (out == losses && ++losses_seen == loss_at)
		*out = NAN;
	if (out != losses && squares_seen + 1 == raise_at)
		raise(SIGTERM);
	if (out != losses && ++squares_seen == squares_at)
		*out = INFINITY;
}

static int wait_for(struct err *e)
{
	return gone ? err_set(e, LP_DEVICE, "the device: an illegal memory access was encountered (cudaErrorIllegalAddress)") : 0;
}

static int some_settle(struct device *d, int slot, struct err *e)
{
	(void)d, (void)slot;
	if (!e)
		return 0;
	gone |= ++settled == settle_at;
	return wait_for(e);
}

static int some_sync(struct device *d, struct err *e)
{
	(void)d;
	gone |= ++synced == sync_at;
	return wait_for(e);
}

/* What a lost device gives is nothing that anybody should keep. */
static void some_download(struct device *d, void *dst, const void *src, uint64_t bytes)
{
	if (gone || (sync_at && synced + 1 == sync_at))
		memset(dst, 0x55, bytes);
	else
		real.download(d, dst, src, bytes);
}

static void play(struct run *r, int ahead)
{
	real = r->dev.k;
	squares_seen = losses_seen = settled = synced = 0;
	gone = false;
	r->dev.ahead = ahead;
	r->dev.k.sum = some_sum;
	losses = r->g.sums;
	r->dev.k.settle = some_settle;
	r->dev.k.sync = some_sync;
	r->dev.k.download = some_download;
}

static void all_well(void)
{
	squares_at = loss_at = settle_at = sync_at = raise_at = 0;
}

/* --- runs --- */

static char out[256];

static struct train_config run_config(double loss_scale)
{
	struct train_config c = config(loss_scale);

	snprintf(out, sizeof(out), "%s", at("first"));
	c.evals = c.streams;
	c.n_evals = 1;
	c.out = out;
	c.lr = 1e-3;
	c.epochs = 2;
	c.save_every = 4;
	c.eval_every = 3;
	return c;
}

/* The whole run; what it logged, and the adapter's parameters. */
static int whole(const struct train_config *c, int ahead, char **logged, float **got, struct err *e)
{
	struct run r;
	struct err closing = ERR_INIT;
	size_t n;
	int rc, sig;

	opt_common.log = at("log");
	unlink(opt_common.log);
	must(log_open("test", e) == 0, e);
	start(&r, c);
	play(&r, ahead);
	stop_listen();
	stop_listen_ends();
	rc = run_all(&r, &sig, e);
	stop_unlisten();
	ck_assert_int_eq(sig, raise_at ? SIGTERM : 0);
	r.dev.k.download = real.download;
	*got = params(&r);
	run_release(&r);
	must(log_close(&closing) == 0, &closing);
	*logged = get_file(opt_common.log, &n);
	return rc;
}

/* The value behind "name": up to the next comma or brace; "" when there is none. */
static const char *value(const char *line, const char *name, char buf[64])
{
	char key[64];
	const char *p;

	snprintf(key, sizeof(key), "\"%s\":", name);
	p = strstr(line, key);
	snprintf(buf, 64, "%.*s", p ? (int)strcspn(p + strlen(key), ",}") : 0, p ? p + strlen(key) : "");
	return buf;
}

/* Behind the records of checkpoints: those come when a thread has written. */
static char *next_record(char *from, char **end)
{
	char *line = strtok_r(from, "\n", end);

	while (line && strstr(line, "\"event\":\"checkpoint\""))
		line = strtok_r(NULL, "\n", end);
	return line;
}

/* The same events in the same order, with the same numbers, but for times. */
static void same_log(char *a, char *b)
{
	static const char *const names[] = { "event", "step", "epoch", "loss", "lr", "grad_norm", "tokens", "loss_scale", "overflows", "skipped", "best", "best_loss", "reward", "kl",
		"clip_ratio/region_mean" };
	char *end_a, *end_b, *x = next_record(a, &end_a), *y = next_record(b, &end_b), u[64], v[64];

	for (; x && y; x = next_record(NULL, &end_a), y = next_record(NULL, &end_b))
		for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
			ck_assert_str_eq(value(x, names[i], u), value(y, names[i], v));
	ck_assert(!x && !y);
}

static int64_t n_params(const struct train_config *c)
{
	struct run r;
	int64_t n;

	start(&r, c);
	n = r.lora.n_params;
	run_release(&r);
	return n;
}

/* 0: good steps; 1: a scale that overflows; 2: a gradient, 3: a loss that is not finite, skipped; 4, 5: the same, and the end. */
START_TEST(test_as_if_it_waited)
{
	struct train_config c;
	struct err e[2] = { ERR_INIT, ERR_INIT };
	char *logged[2];
	float *got[2];

	scratch_open();
	all_well();
	c = run_config(_i == 1 ? 0x1p127 : 0);
	c.nonfinite_skips = _i == 2 || _i == 3 ? 2 : 0;
	if (_i == 1)
		c.lr = 0.25;
	squares_at = _i == 2 || _i == 4 ? 5 : 0;
	loss_at = _i == 3 || _i == 5 ? 8 : 0; /* a step is one micro-batch, and there is no evaluation */
	if (_i == 3 || _i == 5)
		c.n_evals = 0;
	for (int ahead = 0; ahead < 2; ahead++) {
		snprintf(out, sizeof(out), "%s", at(ahead ? "ahead" : "waits"));
		ck_assert_int_eq(whole(&c, ahead, &logged[ahead], &got[ahead], &e[ahead]), _i >= 4 ? -1 : 0);
	}
	if (_i >= 4) {
		ck_assert_int_eq(e[1].code, LP_DIVERGED);
		ck_assert_str_eq(e[0].msg, e[1].msg);
		ck_assert_msg(strncmp(e[1].msg, _i == 4 ? "step 5: the gradient" : "step 8: the loss", 16) == 0, "%s", e[1].msg);
	}
	ck_assert(_i != 1 || strstr(logged[1], "\"event\":\"overflow\""));
	ck_assert((_i != 2 && _i != 3) || strstr(logged[1], "\"event\":\"nonfinite\""));
	same_log(logged[0], logged[1]);
	ck_assert_mem_eq(got[0], got[1], (size_t)n_params(&c) * sizeof(float));
	for (int i = 0; i < 2; i++)
		free(logged[i]), free(got[i]);
	scratch_close();
}
END_TEST

/* Files of the run: none is a temporary, and the adapter's folder is not there. */
static void nothing_half_done(void)
{
	DIR *d = opendir(scratch);
	struct dirent *f;

	ck_assert_ptr_nonnull(d);
	while ((f = readdir(d))) {
		ck_assert_msg(!strstr(f->d_name, ".tmp"), "%s was left", f->d_name);
		ck_assert_str_ne(f->d_name, "out");
	}
	closedir(d);
}

/* The device goes while step 7 is waited for; while the adapter, or the state, of step 8 is copied; before anything was saved. What goes on
 * from the state gives what an undisturbed run gives. */
START_TEST(test_lost)
{
	struct train_config c;
	struct err e = ERR_INIT;
	char *logged, want[400];
	float *undisturbed, *got;

	scratch_open();
	all_well();
	c = run_config(0);
	c.n_evals = 0;
	ck_assert_int_eq(whole(&c, 1, &logged, &undisturbed, &e), 0);
	free(logged);
	snprintf(out, sizeof(out), "%s", at("out"));
	settle_at = _i == 0 ? 7 : _i == 3 ? 2 : 0;
	sync_at = _i == 1 ? 3 : _i == 2 ? 4 : 0; /* a checkpoint waits before it copies, and after */
	ck_assert_int_eq(whole(&c, 1, &logged, &got, &e), -1);
	free(logged), free(got);
	ck_assert_int_eq(e.code, LP_DEVICE);
	ck_assert_msg(strstr(e.msg, "cudaErrorIllegalAddress") != NULL, "%s", e.msg);
	snprintf(want, sizeof(want), "the state after step 4 is in '%s.step-4', and the same command goes on", out);
	ck_assert_msg(strstr(e.msg, _i == 3 ? "no state was written yet" : want) != NULL, "%s", e.msg);
	ck_assert_msg(strncmp(e.msg, _i == 0 ? "after step 6:" : _i == 3 ? "after step 1:" : "after step 8:", 13) == 0, "%s", e.msg);
	nothing_half_done();
	all_well();
	e = (struct err)ERR_INIT;
	ck_assert_int_eq(whole(&c, 1, &logged, &got, &e), 0);
	ck_assert_mem_eq(got, undisturbed, (size_t)n_params(&c) * sizeof(float));
	free(logged), free(got), free(undisturbed);
	scratch_close();
}
END_TEST

/* A signal while a step is queued behind the one that is waited for: the state that is saved is that of a whole number of steps. */
START_TEST(test_asked_to_end)
{
	struct train_config c;
	struct err e = ERR_INIT;
	char *logged;
	float *undisturbed, *got;

	scratch_open();
	all_well();
	c = run_config(0);
	c.save_every = 0;
	c.n_evals = 0;
	ck_assert_int_eq(whole(&c, 1, &logged, &undisturbed, &e), 0);
	free(logged);
	snprintf(out, sizeof(out), "%s", at("out"));
	raise_at = _i + 3;
	must(whole(&c, 1, &logged, &got, &e) == 0, &e);
	ck_assert_ptr_nonnull(strstr(logged, "\"event\":\"stopped\""));
	free(logged), free(got);
	nothing_half_done();
	all_well();
	must(whole(&c, 1, &logged, &got, &e) == 0, &e);
	ck_assert_ptr_nonnull(strstr(logged, "\"event\":\"resume\""));
	ck_assert_mem_eq(got, undisturbed, (size_t)n_params(&c) * sizeof(float));
	free(logged), free(got), free(undisturbed);
	scratch_close();
}
END_TEST

/* Completions of three prompts; four steps see each batch. */
static struct train_config grpo_config(double loss_scale)
{
	static char path[256];
	static const char *const prompts[] = { path }, *const rewards[] = { "sed 's/.*\"tokens\":\\([0-9]*\\).*/\\1/'" };
	static struct grpo_config g;
	const struct grpo_options given = { "grpo", "group", "unbiased", NULL, -1 };
	struct train_config c = run_config(loss_scale);
	struct err e = ERR_INIT;
	FILE *f;

	g = (struct grpo_config){ .rewards = rewards, .n_rewards = 1, .group = 2, .max_new = 6, .top_p = 1, .updates = 4, .raw = true,
		                  .rule = { .beta = 0.1, .low = 0.05, .temperature = 1.5 } };
	must(grpo_parse(&g, &given, 4, &e) == 0, &e);
	snprintf(path, sizeof(path), "%s", at("p.jsonl"));
	f = fopen(path, "w");
	fprintf(f, "{\"prompt\":\"Once\"}\n{\"prompt\":\"One day\"}\n{\"prompt\":\"The dog was\"}\n");
	fclose(f);
	c.grpo = &g;
	c.streams = c.evals = prompts;
	c.batch = c.accumulate = 2;
	return c;
}

/* 0: good steps; 1: a scale that overflows; 2: a gradient that is not finite, skipped amid a batch of completions; 3 to 5: a signal in its
 * second, third and last step, and what goes on from the state. */
START_TEST(test_rewards)
{
	struct train_config c;
	struct err e = ERR_INIT;
	char *logged[2];
	float *got[2];

	scratch_open();
	all_well();
	c = grpo_config(_i == 1 ? 0x1p127 : 0);
	c.nonfinite_skips = 1;
	squares_at = _i == 2 ? 6 : 0;
	for (int ahead = 0; ahead < 2; ahead++) {
		snprintf(out, sizeof(out), "%s", at(ahead ? "ahead" : "waits"));
		raise_at = ahead && _i > 2 ? _i + 3 : 0;
		must(whole(&c, ahead, &logged[ahead], &got[ahead], &e) == 0, &e);
	}
	ck_assert(_i != 1 || strstr(logged[1], "\"event\":\"overflow\""));
	ck_assert(_i != 2 || strstr(logged[1], "\"event\":\"nonfinite\""));
	if (_i > 2) {
		ck_assert_ptr_nonnull(strstr(logged[1], "\"event\":\"stopped\""));
		ck_assert_ptr_nonnull(strstr(logged[1], "\"step\":8,\"signal\":15"));
		free(logged[1]), free(got[1]);
		raise_at = 0;
		must(whole(&c, 1, &logged[1], &got[1], &e) == 0, &e);
		ck_assert_ptr_nonnull(strstr(logged[1], "\"event\":\"resume\""));
	} else {
		same_log(logged[0], logged[1]);
	}
	ck_assert_mem_eq(got[0], got[1], (size_t)n_params(&c) * sizeof(float));
	for (int i = 0; i < 2; i++)
		free(logged[i]), free(got[i]);
	scratch_close();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("run_ahead");
	TCase *t = tcase_create("run_ahead");

	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, test_as_if_it_waited, 0, 6);
	tcase_add_loop_test(t, test_lost, 0, 4);
	tcase_add_loop_test(t, test_asked_to_end, 0, 3);
	tcase_add_loop_test(t, test_rewards, 0, 6);
	suite_add_tcase(s, t);
	return run_tests(s);
}
