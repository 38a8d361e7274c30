/* For the unit tests of formats: a scratch folder, files by bytes, and running a case over every cut. */
#ifndef LP_TESTS_SCRATCH_H
#define LP_TESTS_SCRATCH_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/in.h"
#include "base/out.h"

static char scratch[64];
static struct err er; /* what the calls in OK and BAD are given */

static inline void scratch_open(void)
{
	strncpy(scratch, "/tmp/lp-unit.XXXXXX", sizeof(scratch) - 1);
	if (!mkdtemp(scratch))
		exit(99);
}

static inline void scratch_close(void)
{
	char cmd[128];
	pid_t pid;

	snprintf(cmd, sizeof(cmd), "rm -rf %s", scratch);
	pid = fork();
	if (!pid) {
		execl("/bin/sh", "sh", "-c", cmd, (char *)NULL);
		_exit(1);
	}
}

/* Valid until the eighth call after. */
static inline const char *at(const char *name)
{
	static char buf[8][256];
	static int k;

	k = (k + 1) % 8;
	snprintf(buf[k], sizeof(buf[k]), "%s/%s", scratch, name);
	return buf[k];
}

static inline void put_file(const char *path, const void *p, size_t n)
{
	FILE *f;

	unlink(path); /* ext4 writes a truncated file out at once, a new one later */
	f = fopen(path, "wb");
	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(p, 1, n, f), n);
	fclose(f);
}

static inline void put_text(const char *path, const char *text)
{
	put_file(path, text, strlen(text));
}

static inline char *get_file(const char *path, size_t *n)
{
	char *p = in_slurp(path, (size_t)1 << 28, n, &er);

	ck_assert_msg(p != NULL, "%s: %s", path, er.msg);
	return p;
}

#define OK(call)                                                                                    \
	do {                                                                                        \
		er = (struct err)ERR_INIT;                                                          \
		ck_assert_msg((call) >= 0, "%s: %s: %s", #call, er.path, er.msg);                   \
	} while (0)
/* The call fails with this status and says this. */
#define BAD(call, status, text)                                                                     \
	do {                                                                                        \
		int ret_;                                                                           \
		er = (struct err)ERR_INIT;                                                          \
		ret_ = (call);                                                                      \
		ck_assert_msg(ret_ < 0, "%s succeeded, '%s' was due", #call, (text));               \
		ck_assert_msg(er.code == (status), "status %d: %s", er.code, er.msg);               \
		ck_assert_msg(strstr(er.msg, (text)) != NULL, "'%s' has no '%s'", er.msg, (text));  \
	} while (0)

static inline int run_tests(Suite *s)
{
	SRunner *sr = srunner_create(s);
	int failed;

	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? 1 : 0;
}

#endif
