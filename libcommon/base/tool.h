/* What every main() does first and last. */
#ifndef LP_BASE_TOOL_H
#define LP_BASE_TOOL_H

#include "base/err.h"
#include "base/opt.h"

extern const char lp_version[]; /* from the VERSION file */

const char *tool_name(void); /* of the running program, for messages */

/* Parses options (see opt.h), opens --log, sets signals and the exit checks.
 * Does not return on --help and the like, nor on a usage error; an operand that
 * -o would replace is one. */
void tool_init(const struct opt_spec *spec, int *argc, char ***argv);
/* LP_USAGE when -o would replace the input: for files that are not plain operands. */
int tool_spares(const char *input, struct err *e) LP_MUST_USE;

/* Prints "tool: FILE:LINE: reason" once, flushes stdout before, and gives the
 * exit status. Use: return tool_fail(&e). */
int tool_fail(const struct err *e);

/* Ends main: commits nothing, checks stdout (a full disk is LP_IO), closes the log. */
int tool_done(int status) LP_MUST_USE;

#endif
