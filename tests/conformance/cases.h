/* Files of conformance cases, run against the library: what the program
 * build/tests/conformance and the unit tests share. Failures go to stdout. */
#ifndef LP_CONFORMANCE_CASES_H
#define LP_CONFORMANCE_CASES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define CASES_SHOWN 20 /* failures told in full, unless all are to be */

struct cases_result {
	size_t passed, failed;
};

/* {"template","case","input",["generation"],"output" or "error"}: rendered and
 * compared byte for byte. Templates are DIR/NAME or DIR/templates/NAME. */
int cases_templates(const char *path, const char *dir, bool verbose, struct cases_result *r, struct err *e) LP_MUST_USE;

/* {"tokenizer","engine","text","ids" or "error",["begin","decoded"]}. Files are
 * DIR/NAME or DIR/tokenizers/NAME, also with .zst or .gz behind it. */
int cases_tokens(const char *path, const char *dir, bool verbose, struct cases_result *r, struct err *e) LP_MUST_USE;

#endif
