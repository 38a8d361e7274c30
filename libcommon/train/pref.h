/* Methods by name: which there are, what their options mean, and what goes together. */
#ifndef LP_TRAIN_PREF_H
#define LP_TRAIN_PREF_H

#include <stdbool.h>

#include "base/err.h"
#include "base/sb.h"
#include "kernels/pref.h"

#define PREF_METHODS "sft|dpo|ipo|orpo|simpo|kto|reward"

/* As a user gave them; below 0: not. */
struct pref_options {
	double beta, smoothing, gamma, desirable, undesirable;
	const char *reference; /* "start" or "base", or NULL */
};
/* *on: the method is not sft, and *rule is its rule, with the method's own defaults for what was not given. An option that the method has
 * not is LP_USAGE. */
int pref_parse(const char *method, const struct pref_options *o, struct kn_pref_rule *rule, bool *on, struct err *e) LP_MUST_USE;
const char *pref_name(enum kn_pref_method m);
/* A line for people. started: the reference has the adapter that the run starts from. */
void pref_describe(const struct kn_pref_rule *r, bool started, struct sb *out);
/* Whether its loss looks at what another model gives the same answers. */
bool pref_has_reference(enum kn_pref_method m);

#endif
