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
	size_t recipes, repeated; /* cases with a recipe; renderings that recipes made and the engine agreed with */
};

/* {"template","case","input",["generation"],"output" or "error"}: rendered and
 * compared byte for byte. Templates are DIR/NAME or DIR/templates/NAME. */
int cases_templates(const char *path, const char *dir, bool verbose, struct cases_result *r, struct err *e) LP_MUST_USE;

/* A case's rendering repeated for other texts, by a recipe and by the engine: the same? (cases_recipes.c) */
struct tmpl;
struct json;
bool case_recipes(const struct tmpl *t, const char *src, size_t n_src, const struct json *input, int64_t now, struct cases_result *r);

/* {"tokenizer","engine","text","ids" or "error",["begin","decoded"]}. Files are
 * DIR/NAME or DIR/tokenizers/NAME, also with .zst or .gz behind it. */
int cases_tokens(const char *path, const char *dir, bool verbose, struct cases_result *r, struct err *e) LP_MUST_USE;

#endif
