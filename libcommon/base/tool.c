#include "base/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

const char lp_version[] =
#include "version.inc"
	;

static const char *name; /* of the running program */

const char *tool_name(void)
{
	return name ? name : program_invocation_short_name;
}

/* A closed standard stream must not become the first file that is opened:
 * the stand-in fails whatever is tried with it. */
static void guard_std_fds(void)
{
	for (int fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd ? O_RDONLY : O_WRONLY) < 0)
			exit(LP_IO);
}

/* There in programs that use OpenMP, NULL in the others. */
extern int omp_get_max_threads(void) __attribute__((weak));

static bool only_asks(char **argv)
{
	for (; *argv; argv++)
		if (!strcmp(*argv, "-h") || !strcmp(*argv, "--help") || !strcmp(*argv, "-V") || !strcmp(*argv, "--version"))
			return true;
	return false;
}

/* OpenMP's threads spin while they wait, which on a machine that does anything
 * else beside makes a run several times slower. Its library reads its settings
 * before main(), so the program starts again with the setting made; without
 * /proc it goes on as it is. What the user has set holds. */
static void wait_without_spinning(char **argv)
{
	char self[4096];
	ssize_t n;

	if (!omp_get_max_threads || getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || only_asks(argv))
		return;
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n <= 0 || setenv("OMP_WAIT_POLICY", "passive", 0))
		return;
	self[n] = 0;
	execv(self, argv);
}

int tool_spares(const char *input, struct err *e)
{
	struct stat in, out;

	if (!opt_common.output || stat(input, &in) || stat(opt_common.output, &out) || !S_ISREG(in.st_mode))
		return 0;
	if (in.st_dev == out.st_dev && in.st_ino == out.st_ino)
		return err_set(e, LP_USAGE, "-o would replace the input '%s'; give another name", input);
	return 0;
}

void tool_init(const struct opt_spec *spec, int *argc, char ***argv)
{
	struct err e = ERR_INIT;

	name = spec->tool;
	wait_without_spinning(*argv);
	guard_std_fds();
	signal(SIGPIPE, SIG_DFL);
	signal(SIGXFSZ, SIG_IGN); /* a size limit shows as a write error, with a message */
	if (opt_parse(spec, argc, *argv, &e))
		exit(tool_fail(&e));
	for (int i = 1; i < *argc; i++)
		if (tool_spares((*argv)[i], &e))
			exit(tool_fail(&e));
	if (log_open(spec->tool, &e))
		exit(tool_fail(&e));
}

int tool_fail(const struct err *e)
{
	enum lp_status code = e->code == LP_OK ? LP_DATA : e->code;

	fflush(stdout);
	progress_done();
	fprintf(stderr, "%s: ", tool_name());
	if (e->path[0])
		fprintf(stderr, "%s:", e->path);
	if (e->path[0] && e->line)
		fprintf(stderr, "%llu:", (unsigned long long)e->line);
	if (e->off >= 0)
		fprintf(stderr, "%sbyte %lld:", e->path[0] ? " " : "", (long long)e->off);
	fprintf(stderr, "%s%s\n", e->path[0] || e->off >= 0 ? " " : "", e->msg);
	return tool_done(code);
}

/* Closing tells what flushing does not: a full disk, a quota, a lost server. */
static int close_stdout(struct err *e)
{
	if (fflush(stdout) || ferror(stdout))
		return err_sys(e, "(stdout)", "write");
	if (close(1) && errno != EBADF)
		return err_sys(e, "(stdout)", "close");
	return 0;
}

int tool_done(int status)
{
	struct err e = ERR_INIT;
	int bad = close_stdout(&e);

	progress_done();
	if (log_close(&e))
		bad = -1;
	if (bad) {
		fprintf(stderr, "%s: %s: %s\n", tool_name(), e.path, e.msg);
		if (status == LP_OK || status == LP_NO)
			status = e.code;
	}
	return status;
}
