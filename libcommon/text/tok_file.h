/* A tokenizer's file in memory, as it is read once and let go. */
#ifndef LP_TEXT_TOK_FILE_H
#define LP_TEXT_TOK_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct tok_file {
	const char *text; /* no NUL behind it */
	size_t len;
	void *map;        /* a plain JSON file is mapped, and plain ranks; any other read and unpacked */
	char *copy;
};
/* Do lines of base64 and a number begin here? */
bool tok_file_is_ranks(const char *s, size_t n);
int tok_file_open(struct tok_file *f, const char *path, struct err *e) LP_MUST_USE;
void tok_file_close(struct tok_file *f);

#endif
