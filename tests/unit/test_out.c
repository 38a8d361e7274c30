/* base/out*.c: nothing under the final name before the commit, nothing left
 * behind after a failure, a signal or an exit. */
#include "scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/hash.h"
#include "base/out.h"

static int n_entries(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *de;
	int n = 0;

	ck_assert_ptr_nonnull(d);
	while ((de = readdir(d)))
		n += strcmp(de->d_name, ".") && strcmp(de->d_name, "..");
	closedir(d);
	return n;
}

static void is_text(const char *path, const char *want)
{
	size_t n;
	char *s = get_file(path, &n);

	ck_assert_str_eq(s, want);
	free(s);
}

START_TEST(appears_at_commit)
{
	struct out *o = NULL;
	char hex[33], want[33];
	struct stat st;

	scratch_open();
	umask(027);
	OK((o = out_open(at("a"), &er)) ? 0 : -1);
	ck_assert_str_eq(out_name(o), at("a"));
	OK(out_write(o, "hello ", 6, &er));
	OK(out_write(o, "world", 5, &er));
	ck_assert_uint_eq(out_bytes(o), 11);
	xxh_once("hello world", 11, want);
	out_hash(o, hex);
	ck_assert_str_eq(hex, want);
	OK(out_flush(o, &er));
	out_hash(o, hex);
	ck_assert_str_eq(hex, want);
	ck_assert_int_ne(access(at("a"), F_OK), 0);
	ck_assert_int_eq(n_entries(scratch), 1);
	OK(out_commit(o, &er));
	is_text(at("a"), "hello world");
	ck_assert_int_eq(n_entries(scratch), 1);
	ck_assert_int_eq(stat(at("a"), &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0640); /* the umask is obeyed */
	scratch_close();
}
END_TEST

START_TEST(abort_keeps_the_old)
{
	struct out *o = NULL;

	scratch_open();
	put_text(at("a"), "old");
	OK((o = out_open(at("a"), &er)) ? 0 : -1);
	OK(out_write(o, "new", 3, &er));
	is_text(at("a"), "old");
	out_abort(o);
	out_abort(NULL);
	is_text(at("a"), "old");
	ck_assert_int_eq(n_entries(scratch), 1);
	OK((o = out_open(at("a"), &er)) ? 0 : -1);
	OK(out_write(o, "new", 3, &er));
	OK(out_commit(o, &er));
	is_text(at("a"), "new");
	scratch_close();
}
END_TEST

START_TEST(large_and_small_writes)
{
	size_t n = 3000017, done = 0, step = 1, len;
	char *data = malloc(n), *back;
	struct out *o = NULL;

	scratch_open();
	for (size_t i = 0; i < n; i++)
		data[i] = (char)(i * 7 + i / 255);
	OK((o = out_open(at("a"), &er)) ? 0 : -1);
	while (done < n) {
		size_t k = n - done < step ? n - done : step;

		OK(out_write(o, data + done, k, &er));
		done += k;
		step = step * 3 + 1;
		if (step > 700000)
			step = 1;
	}
	OK(out_write(o, NULL, 0, &er));
	OK(out_commit(o, &er));
	back = get_file(at("a"), &len);
	ck_assert(len == n && !memcmp(back, data, n));
	free(back);
	free(data);
	scratch_close();
}
END_TEST

START_TEST(odd_targets)
{
	struct out *o = NULL;
	struct stat st;

	scratch_open();
	put_text(at("real"), "old");
	ck_assert_int_eq(symlink("real", at("link")), 0);
	OK((o = out_open(at("link"), &er)) ? 0 : -1);
	OK(out_write(o, "new", 3, &er));
	OK(out_commit(o, &er));
	ck_assert_int_eq(lstat(at("link"), &st), 0);
	ck_assert(S_ISLNK(st.st_mode)); /* its target was replaced, not the link */
	is_text(at("real"), "new");
	if (!access("/dev/shm", W_OK)) { /* a folder like any other */
		char name[64];

		snprintf(name, sizeof(name), "/dev/shm/lp-unit.%d", (int)getpid());
		OK((o = out_open(name, &er)) ? 0 : -1);
		OK(out_write(o, "x", 1, &er));
		OK(out_commit(o, &er));
		is_text(name, "x");
		unlink(name);
	}
	BAD((o = out_open(scratch, &er)) ? 0 : -1, LP_IO, "is a directory");
	BAD((o = out_open(at("none/"), &er)) ? 0 : -1, LP_IO, "is a directory");
	BAD((o = out_open(at("none/x"), &er)) ? 0 : -1, LP_IO, "No such file");
	BAD((o = out_open("", &er)) ? 0 : -1, LP_USAGE, "name is empty");
	OK((o = out_open("/dev/null", &er)) ? 0 : -1);
	OK(out_write(o, "x", 1, &er));
	OK(out_commit(o, &er));
	ck_assert_int_eq(stat("/dev/null", &st), 0);
	ck_assert(S_ISCHR(st.st_mode));
	scratch_close();
}
END_TEST

START_TEST(full_disk)
{
	struct out *o = NULL;
	char *big = calloc(1, 1 << 20);

	OK((o = out_open("/dev/full", &er)) ? 0 : -1);
	OK(out_write(o, "x", 1, &er));
	BAD(out_commit(o, &er), LP_IO, "No space left on device");
	OK((o = out_open("/dev/full", &er)) ? 0 : -1);
	BAD(out_write(o, big, 1 << 20, &er), LP_IO, "No space left on device");
	BAD(out_commit(o, &er), LP_IO, "an earlier write failed"); /* a caller that went on is not believed */
	free(big);
}
END_TEST

START_TEST(size_limit)
{
	struct rlimit lim = { 100000, 100000 };
	struct out *o = NULL;
	char *big = calloc(1, 1 << 20);

	scratch_open();
	signal(SIGXFSZ, SIG_IGN);
	put_text(at("a"), "old");
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &lim), 0);
	OK((o = out_open(at("a"), &er)) ? 0 : -1);
	BAD(out_write(o, big, 1 << 20, &er), LP_IO, "File too large");
	out_abort(o);
	is_text(at("a"), "old");
	ck_assert_int_eq(n_entries(scratch), 1);
	free(big);
	scratch_close();
}
END_TEST

/* Runs fn in a child and returns its wait status. */
static int in_child(void (*fn)(void), int sig)
{
	pid_t pid = fork();
	int st;

	if (!pid) {
		fn();
		if (sig)
			kill(getpid(), sig);
		exit(0);
	}
	waitpid(pid, &st, 0);
	return st;
}

static void leave_open(void)
{
	struct err e = ERR_INIT;
	static struct out *o, *inside; /* static: no leak to a sanitiser */
	static struct outdir *d;

	o = out_open(at("file"), &e);
	d = outdir_open(at("dir"), false, &e);
	if (!o || !d || out_write(o, "half", 4, &e) || out_flush(o, &e) || outdir_put(d, "x", "y", 1, &e) || outdir_put(d, "sub/z", "y", 1, &e))
		_exit(99);
	inside = out_open(outdir_path(d, "shard"), &e);
	if (!inside || out_write(inside, "y", 1, &e) || out_flush(inside, &e))
		_exit(99);
}

START_TEST(signals_and_exit_leave_nothing)
{
	static const int sigs[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT };
	struct rlimit no_core = { 0, 0 };
	int st;

	scratch_open();
	setrlimit(RLIMIT_CORE, &no_core);
	for (size_t i = 0; i < sizeof(sigs) / sizeof(*sigs); i++) {
		signal(sigs[i], SIG_DFL);
		st = in_child(leave_open, sigs[i]);
		ck_assert_msg(WIFSIGNALED(st) && WTERMSIG(st) == sigs[i], "signal %d: wait status %d", sigs[i], st);
		ck_assert_msg(n_entries(scratch) == 0, "signal %d left something", sigs[i]);
	}
	st = in_child(leave_open, 0);
	ck_assert(WIFEXITED(st) && WEXITSTATUS(st) == 0);
	ck_assert_int_eq(n_entries(scratch), 0);
	scratch_close();
}
END_TEST

START_TEST(an_ignored_signal_stays_ignored)
{
	struct out *o = NULL;

	scratch_open();
	signal(SIGHUP, SIG_IGN); /* nohup */
	OK((o = out_open(at("a"), &er)) ? 0 : -1);
	raise(SIGHUP);
	OK(out_write(o, "x", 1, &er));
	OK(out_commit(o, &er));
	is_text(at("a"), "x");
	scratch_close();
}
END_TEST

/* A child that ends must not take its parent's temporaries along. */
START_TEST(children_do_not_remove)
{
	struct out *o = NULL;
	pid_t pid;

	scratch_open();
	OK((o = out_open(at("a"), &er)) ? 0 : -1);
	pid = fork();
	if (!pid)
		exit(0);
	waitpid(pid, NULL, 0);
	ck_assert_int_eq(n_entries(scratch), 1);
	OK(out_write(o, "x", 1, &er));
	OK(out_commit(o, &er));
	is_text(at("a"), "x");
	scratch_close();
}
END_TEST

START_TEST(closed_pipe)
{
	struct out *o = NULL;
	int fd[2];

	signal(SIGPIPE, SIG_IGN);
	ck_assert_int_eq(pipe(fd), 0);
	close(fd[0]);
	dup2(fd[1], 1);
	OK((o = out_open("-", &er)) ? 0 : -1);
	OK(out_write(o, "x", 1, &er));
	BAD(out_commit(o, &er), LP_IO, "Broken pipe");
}
END_TEST

static struct outdir *fill(const char *path, bool force, const char *text, struct err *e)
{
	struct outdir *d = outdir_open(path, force, e);

	if (d && (outdir_put(d, "a", text, strlen(text), e) || outdir_put(d, "sub/deep/b", text, strlen(text), e))) {
		outdir_abort(d);
		return NULL;
	}
	return d;
}

START_TEST(directories)
{
	struct outdir *d = NULL;

	scratch_open();
	OK((d = fill(at("d"), false, "one", &er)) ? 0 : -1);
	ck_assert_int_ne(access(at("d"), F_OK), 0);
	OK(outdir_commit(d, &er));
	is_text(at("d/a"), "one");
	is_text(at("d/sub/deep/b"), "one");
	ck_assert_int_eq(n_entries(scratch), 1);
	ck_assert_int_eq(n_entries(at("d")), 2);
	BAD((d = fill(at("d"), false, "two", &er)) ? 0 : -1, LP_USAGE, "--force");
	OK((d = fill(at("d/"), true, "two", &er)) ? 0 : -1);
	put_text(at("d/mine"), "a file of the old one");
	is_text(at("d/a"), "one");
	OK(outdir_commit(d, &er));
	is_text(at("d/a"), "two");
	ck_assert_int_ne(access(at("d/mine"), F_OK), 0); /* exchanged, not merged */
	ck_assert_int_eq(n_entries(scratch), 1);
	OK((d = fill(at("new"), true, "x", &er)) ? 0 : -1); /* force without an old one */
	OK(outdir_commit(d, &er));
	is_text(at("new/a"), "x");
	OK((d = fill(at("gone"), false, "x", &er)) ? 0 : -1);
	outdir_abort(d);
	outdir_abort(NULL);
	ck_assert_int_eq(n_entries(scratch), 2);
	put_text(at("file"), "x");
	BAD((d = fill(at("file"), true, "x", &er)) ? 0 : -1, LP_USAGE, "is not a directory");
	BAD((d = fill("..", true, "x", &er)) ? 0 : -1, LP_USAGE, "cannot be an output directory");
	BAD((d = fill("/", true, "x", &er)) ? 0 : -1, LP_USAGE, "cannot be an output directory");
	BAD((d = fill(at("none/d"), false, "x", &er)) ? 0 : -1, LP_IO, "No such file");
	scratch_close();
}
END_TEST

/* Somebody made the directory while we wrote: it is not overwritten. */
START_TEST(a_directory_in_between)
{
	struct outdir *d = NULL;

	scratch_open();
	OK((d = fill(at("d"), false, "ours", &er)) ? 0 : -1);
	ck_assert_int_eq(mkdir(at("d"), 0777), 0);
	BAD(outdir_commit(d, &er), LP_IO, "File exists");
	ck_assert_int_eq(n_entries(at("d")), 0);
	ck_assert_int_eq(n_entries(scratch), 1);
	scratch_close();
}
END_TEST

START_TEST(many_at_once)
{
	enum { N = 300 };
	struct out *o[N];
	char name[16];

	scratch_open();
	for (int i = 0; i < N; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		OK((o[i] = out_open(at(name), &er)) ? 0 : -1);
		OK(out_write(o[i], name, strlen(name), &er));
	}
	for (int i = 0; i < N; i += 2)
		OK(out_commit(o[i], &er));
	out_abort_all();
	ck_assert_int_eq(n_entries(scratch), N / 2);
	is_text(at("f298"), "f298");
	for (int i = 1; i < N; i += 2)
		out_abort(o[i]);
	scratch_close();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("out");
	TCase *c = tcase_create("all");

	tcase_set_timeout(c, 60);
	tcase_add_test(c, appears_at_commit);
	tcase_add_test(c, abort_keeps_the_old);
	tcase_add_test(c, large_and_small_writes);
	tcase_add_test(c, odd_targets);
	tcase_add_test(c, full_disk);
	tcase_add_test(c, size_limit);
	tcase_add_test(c, signals_and_exit_leave_nothing);
	tcase_add_test(c, an_ignored_signal_stays_ignored);
	tcase_add_test(c, children_do_not_remove);
	tcase_add_test(c, closed_pipe);
	tcase_add_test(c, directories);
	tcase_add_test(c, a_directory_in_between);
	tcase_add_test(c, many_at_once);
	suite_add_tcase(s, c);
	return run_tests(s);
}
