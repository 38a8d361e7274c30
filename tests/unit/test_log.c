/* base/log.c and base/tool.c: records, warnings, statuses. */
#include "scratch.h"

#include <math.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/opt.h"
#include "base/tool.h"
#include "json/json.h"

START_TEST(records)
{
	struct arena a = ARENA_INIT;
	struct json v;
	char *s, *nl;
	size_t n;
	double t;
	const char *str;

	scratch_open();
	OK(log_open("x", &er)); /* no --log: nothing happens */
	OK(log_metric("step", &er, "\"loss\":1"));
	OK(log_close(&er));
	opt_common.log = at("log");
	for (int run = 0; run < 2; run++) { /* the second run appends */
		OK(log_open("qlora-train", &er));
		OK(log_metric("step", &er, "\"step\":%d,\"loss\":%s,\"bad\":%s", run, log_num(0.1), log_num((double)NAN)));
		OK(log_metric("end", &er, "%s", ""));
		OK(log_close(&er));
	}
	s = get_file(at("log"), &n);
	for (char *p = s; p < s + n; p = nl + 1) {
		nl = strchr(p, '\n');
		ck_assert_ptr_nonnull(nl);
		*nl = 0;
		OK(json_parse_str(p, &a, &v, &er));
		ck_assert(json_str_is(json_get(&v, "tool"), "qlora-train"));
		ck_assert(json_get_f64(&v, "time", 0, &t) && t > 1.6e9);
		ck_assert(json_get_str(&v, "event", NULL, &str) && str);
		if (!strcmp(str, "step")) {
			ck_assert(json_is(json_get(&v, "bad"), JSON_NULL));
			ck_assert(json_get_f64(&v, "loss", 0, &t) && t == 0.1);
		}
	}
	free(s);
	arena_release(&a);
	opt_common.log = "/nonexistent/log";
	BAD(log_open("x", &er), LP_IO, "cannot open the log");
	opt_common.log = "/dev/full";
	OK(log_open("x", &er));
	BAD(log_metric("step", &er, "\"a\":1"), LP_IO, "No space left");
	OK(log_close(&er));
	scratch_close();
}
END_TEST

START_TEST(eight_numbers_at_once)
{
	const char *p[8];

	for (int i = 0; i < 8; i++)
		p[i] = log_num(i + 0.5);
	for (int i = 0; i < 8; i++) {
		char want[8];

		snprintf(want, sizeof(want), "%d.5", i);
		ck_assert_str_eq(p[i], want);
	}
	ck_assert_str_eq(log_num(INFINITY), "null");
}
END_TEST

/* Runs fn with stdout and stderr in files; returns its exit status. */
static int run(int (*fn)(void))
{
	pid_t pid = fork();
	int st;

	if (!pid) {
		if (!freopen(at("out"), "w", stdout) || !freopen(at("err"), "w", stderr))
			_exit(99);
		exit(fn());
	}
	waitpid(pid, &st, 0);
	return WIFEXITED(st) ? WEXITSTATUS(st) : -1;
}

static void wrote(const char *name, const char *want)
{
	size_t n;
	char *s = get_file(at(name), &n);

	ck_assert_str_eq(s, want);
	free(s);
}

static struct opt opts[] = { OPT_COMMON };
static const struct opt_spec spec = { "a-tool", "test", "[FILE]", NULL, opts };
static char *args[4];

static void start(void)
{
	char **argv = args;
	int argc = 0;

	while (args[argc])
		argc++;
	tool_init(&spec, &argc, &argv);
}

static int fail_with_line(void)
{
	struct err e = ERR_INIT;

	start();
	printf("data\n");
	err_line(&e, LP_DATA, "x.jsonl", 3, "field 'role' is missing");
	return tool_fail(&e);
}

static int fail_with_offset(void)
{
	struct err e = ERR_INIT;

	start();
	err_off(&e, LP_DATA, "x.json", 17, "bad JSON");
	return tool_fail(&e);
}

static int fail_plainly(void)
{
	struct err e = ERR_INIT;

	start();
	err_set(&e, LP_DEVICE, "no device");
	return tool_fail(&e);
}

static int chatty(void)
{
	start();
	progress("never seen off a terminal");
	warn("w %d", 1);
	note("n %d", 2);
	return tool_done(LP_NO);
}

START_TEST(messages_and_statuses)
{
	scratch_open();
	args[0] = (char *)(uintptr_t)"whatever";
	ck_assert_int_eq(run(fail_with_line), LP_DATA);
	wrote("err", "a-tool: x.jsonl:3: field 'role' is missing\n");
	wrote("out", "data\n");
	ck_assert_int_eq(run(fail_with_offset), LP_DATA);
	wrote("err", "a-tool: x.json: byte 17: bad JSON\n");
	ck_assert_int_eq(run(fail_plainly), LP_DEVICE);
	wrote("err", "a-tool: no device\n");
	ck_assert_int_eq(run(chatty), LP_NO);
	wrote("err", "a-tool: warning: w 1\n");
	args[1] = (char *)(uintptr_t)"-q";
	ck_assert_int_eq(run(chatty), LP_NO);
	wrote("err", "");
	args[1] = (char *)(uintptr_t)"-v";
	ck_assert_int_eq(run(chatty), LP_NO);
	wrote("err", "a-tool: warning: w 1\na-tool: n 2\n");
	args[1] = (char *)(uintptr_t)"--version";
	ck_assert_int_eq(run(chatty), LP_OK);
	args[1] = (char *)(uintptr_t)"--qiet";
	ck_assert_int_eq(run(chatty), LP_USAGE);
	wrote("err", "a-tool: unknown option '--qiet' (did you mean '--quiet'?; see --help)\n");
	scratch_close();
}
END_TEST

static int to_full_disk(void)
{
	if (!freopen("/dev/full", "w", stdout))
		_exit(99);
	start();
	printf("data\n");
	return tool_done(LP_OK);
}

static int help_to_full_disk(void)
{
	args[1] = (char *)(uintptr_t)"--help";
	return to_full_disk();
}

static int closed_stdout(void)
{
	close(1);
	start();
	printf("data\n");
	return tool_done(LP_OK);
}

START_TEST(stdout_is_checked)
{
	scratch_open();
	args[0] = (char *)(uintptr_t)"whatever";
	ck_assert_int_eq(run(to_full_disk), LP_IO);
	wrote("err", "a-tool: (stdout): cannot write: No space left on device\n");
	ck_assert_int_eq(run(help_to_full_disk), LP_IO);
	ck_assert_int_eq(run(closed_stdout), LP_IO);
	scratch_close();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("log");
	TCase *c = tcase_create("all");

	tcase_add_test(c, records);
	tcase_add_test(c, eight_numbers_at_once);
	tcase_add_test(c, messages_and_statuses);
	tcase_add_test(c, stdout_is_checked);
	suite_add_tcase(s, c);
	return run_tests(s);
}
