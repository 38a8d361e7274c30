#include "train/reward.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/num.h"

extern char **environ;

struct child {
	pid_t pid;
	int in, out;    /* our ends, -1: closed */
	size_t written; /* of its input */
	struct sb said;
	bool late, flood;
};

enum { LINE_MOST = 4096 }; /* bytes of a number, on the average */

static void shut(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* In a process group of its own, with the signals of a fresh process. */
static int spawn(struct child *c, const char *command, const int in[2], const int out[2])
{
	char *argv[] = { (char *)(uintptr_t)"sh", (char *)(uintptr_t)"-c", (char *)(uintptr_t)command, NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t how;
	sigset_t none, normal;
	int rc;

	sigemptyset(&none);
	sigemptyset(&normal);
	sigaddset(&normal, SIGPIPE);
	sigaddset(&normal, SIGXFSZ);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, in[0], 0);
	posix_spawn_file_actions_adddup2(&files, out[1], 1);
	posix_spawnattr_init(&how);
	posix_spawnattr_setflags(&how, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&how, &none);
	posix_spawnattr_setsigdefault(&how, &normal);
	rc = posix_spawn(&c->pid, "/bin/sh", &files, &how, argv, environ);
	posix_spawnattr_destroy(&how);
	posix_spawn_file_actions_destroy(&files);
	return rc;
}

static int start(struct child *c, const char *command, struct err *e)
{
	int in[2] = { -1, -1 }, out[2] = { -1, -1 }, rc;

	*c = (struct child){ .in = -1, .out = -1 };
	rc = pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) ? errno : spawn(c, command, in, out);
	shut(&in[0]);
	shut(&out[1]);
	c->in = in[1];
	c->out = out[0];
	if (rc == 0 && (fcntl(c->in, F_SETFL, O_NONBLOCK) || fcntl(c->out, F_SETFL, O_NONBLOCK)))
		rc = errno;
	return rc ? err_set(e, LP_IO, "the reward '%.200s' cannot be started: %s", command, strerror(rc)) : 0;
}

/* As much as fits. A command that does not read to its end is none of our business: what it says and how it ends is. */
static void feed(struct child *c, const struct sb *text)
{
	ssize_t k = write(c->in, text->s + c->written, text->len - c->written);

	if (k > 0)
		c->written += (size_t)k;
	if (c->written == text->len || (k < 0 && errno != EAGAIN && errno != EINTR))
		shut(&c->in);
}

static void listen_to(struct child *c)
{
	char buf[65536];
	ssize_t k = read(c->out, buf, sizeof(buf));

	if (k > 0)
		sb_add(&c->said, buf, (size_t)k);
	else if (k == 0 || (errno != EAGAIN && errno != EINTR))
		shut(&c->out);
}

/* Milliseconds until then, for poll; -1: for ever. */
static int left(double until)
{
	double ms = (until - now_seconds()) * 1000;

	return until <= 0 ? -1 : ms <= 0 ? 0 : ms > 1e6 ? 1000000 : (int)ms + 1;
}

/* Gives and takes until the command closes its output, its time is over, or it says more than n numbers can be. */
static void talk(struct child *c, const struct sb *text, int64_t n, double until)
{
	while (c->out >= 0 && !c->late && !c->flood) {
		struct pollfd p[2] = { { c->out, POLLIN, 0 }, { c->in, POLLOUT, 0 } };

		poll(p, c->in >= 0 ? 2 : 1, left(until));
		if (p[0].revents)
			listen_to(c);
		if (c->in >= 0 && p[1].revents)
			feed(c, text);
		c->late = until > 0 && now_seconds() > until && c->out >= 0;
		c->flood = c->said.len > (size_t)(n + 1) * LINE_MOST;
	}
	shut(&c->in);
	shut(&c->out);
}

/* It has closed its output; that it ends as well is waited for until its time is over. */
static int reap(struct child *c, double until)
{
	struct timespec pause = { 0, 1000000 };
	int status = 0;
	pid_t got = 0;

	while (!c->late && !c->flood && (got = waitpid(c->pid, &status, until > 0 ? WNOHANG : 0)) == 0) {
		c->late = now_seconds() > until;
		nanosleep(&pause, NULL);
	}
	if (got == c->pid)
		return status;
	kill(-c->pid, SIGKILL);
	while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

/* The pipe of a command that has ended would kill us. */
static void without_sigpipe(struct child *c, const struct sb *text, int64_t n, double until)
{
	static const struct timespec now = { 0 };
	sigset_t set, old;

	sigemptyset(&set);
	sigaddset(&set, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &set, &old);
	talk(c, text, n, until);
	while (sigtimedwait(&set, NULL, &now) > 0)
		;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static int ended(const struct child *c, const char *command, int64_t n, double seconds, int status, struct err *e)
{
	if (c->flood)
		return err_set(e, LP_DATA, "the reward '%.200s' wrote more than %lld numbers can be, and was ended; it has to write one a line", command, (long long)n);
	if (c->late)
		return err_set(e, LP_IO, "the reward '%.200s' was not done after %g s, and was ended; make it faster, or give --reward-timeout more", command, seconds);
	if (WIFSIGNALED(status))
		return err_set(e, LP_IO, "the reward '%.200s' was ended by signal %d (%s)", command, WTERMSIG(status), strsignal(WTERMSIG(status)));
	if (WEXITSTATUS(status))
		return err_set(e, LP_IO, "the reward '%.200s' ended with status %d%s", command, WEXITSTATUS(status),
		               WEXITSTATUS(status) == 127 ? ": there is no such command" : "; what it wrote to standard error says why");
	return 0;
}

/* A number a line. The text is written to. */
static int parse(char *text, const char *command, int64_t n, double *reward, struct err *e)
{
	int64_t got = 0;

	for (char *line = text, *end; *line; line = end, got++) {
		size_t len = strcspn(line, "\n");

		end = line + len + (line[len] == '\n');
		while (len && strchr(" \t\r", line[len - 1]))
			len--;
		line[len] = 0;
		line += strspn(line, " \t");
		if (got < n && !parse_f64(line, &reward[got]))
			return err_set(e, LP_DATA, "the reward '%.200s' wrote '%.60s' for record %lld of %lld: a line has to be one finite number", command, line, (long long)got + 1,
			               (long long)n);
	}
	if (got == n)
		return 0;
	return err_set(e, LP_DATA, "the reward '%.200s' read %lld records and wrote %lld lines; it has to write a number for each", command, (long long)n, (long long)got);
}

int reward_run(const char *command, const struct sb *text, int64_t n, double seconds, double *reward, struct err *e)
{
	double until = seconds > 0 ? now_seconds() + seconds : 0;
	struct child c;
	int rc = start(&c, command, e);

	if (rc == 0) {
		without_sigpipe(&c, text, n, until);
		rc = ended(&c, command, n, seconds, reap(&c, until), e);
	}
	if (rc == 0)
		rc = parse((char *)(uintptr_t)sb_str(&c.said), command, n, reward, e);
	shut(&c.in);
	shut(&c.out);
	sb_release(&c.said);
	return rc;
}
