/* Internal to opt*.c. */
#ifndef LP_BASE_OPT_PRIV_H
#define LP_BASE_OPT_PRIV_H

#include "base/opt.h"

/* What every program has without a row of its own. */
struct opt_builtin {
	const char *name;
	char letter;
	const char *arg, *help;
};
extern const struct opt_builtin opt_builtins[]; /* ends with a NULL name */

struct opt *opt_find(const struct opt_spec *spec, const char *name, size_t n); /* NULL when unknown */
/* text NULL: a flag without a value. Checks kind, choices and limits. */
int opt_set(struct opt *o, const char *text, enum opt_from from, struct err *e) LP_MUST_USE;
int opt_unknown(const struct opt_spec *spec, const char *name, size_t n, struct err *e);

int opt_load_config(const struct opt_spec *spec, const char *path, struct err *e) LP_MUST_USE;
void opt_config_text(const struct opt_spec *spec, struct sb *out); /* --print-config */
void opt_help_text(const struct opt_spec *spec, struct sb *out);
int opt_completion(const struct opt_spec *spec, const char *shell, struct sb *out, struct err *e) LP_MUST_USE;

/* The value as text that opt_set reads back; of a list, item i. false: unset
 * (a default outside the limits stands for that). */
bool opt_value_text(const struct opt *o, size_t i, struct sb *out);
bool opt_has_value(enum opt_kind k); /* takes an argument */
bool opt_in_limits(const struct opt *o, double v);

#endif
