/* A token stream in a file, for tests of runs. */
#ifndef LP_TESTS_STREAM_FIX_H
#define LP_TESTS_STREAM_FIX_H

#include <check.h>

#include "train/run_int.h"

static inline void write_frame(const char *path, const struct token_frame *t)
{
	struct err e = ERR_INIT;
	struct st_writer *w;
	struct out *o;

	ck_assert_msg((o = out_open(path, &e)) != NULL, "%s", e.msg);
	w = st_writer_new(o, "tokens");
	ck_assert_msg(token_frame_write(w, t, NULL, 0, &e) == 0 && st_writer_end(w, &e) == 0, "%s", e.msg);
	st_writer_free(w);
	ck_assert_msg(out_commit(o, &e) == 0, "%s", e.msg);
}

#endif
