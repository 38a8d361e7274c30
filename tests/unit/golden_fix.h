/* A golden of tensors and settings, and how far something is from it. */
#ifndef LP_TESTS_GOLDEN_FIX_H
#define LP_TESTS_GOLDEN_FIX_H

#include <check.h>
#include <math.h>
#include <stdlib.h>

#include "fmt/st.h"

static struct st_file gold;

static void must(bool ok, const struct err *e)
{
	if (!ok)
		ck_abort_msg("%s: %s", e->path, e->msg);
}

static const char *setting(const char *name)
{
	const char *s = st_meta(&gold.blob, name);

	ck_assert_msg(s != NULL, "no %s", name);
	return s;
}

static double number(const char *name)
{
	return strtod(setting(name), NULL);
}

#endif
