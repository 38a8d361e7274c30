/* Gates: "rougeL>=0.3", "delta.exact>0", "win.rougeL>=0.5", "ppl<12". A bare
 * metric is the tuned (or only) run's mean; base., delta. and win. need a
 * comparison; ppl is perplexity. */
#ifndef LP_EVAL_GATE_H
#define LP_EVAL_GATE_H

#include <stdbool.h>

#include "base/err.h"
#include "eval/verdict.h"

#define GATE_PPL N_METRICS /* the metric number of perplexity */

enum gate_of { GATE_TUNED, GATE_BASE, GATE_DELTA, GATE_WIN };

struct gate {
	const char *text; /* as the user wrote it; borrowed */
	enum gate_of of;
	int metric;
	char op[3];
	double bound;
	double value; /* set by the caller before gate_met */
};

int gate_parse(const char *text, struct gate *g, struct err *e) LP_MUST_USE; /* LP_USAGE */
bool gate_met(const struct gate *g); /* a NAN value never meets a gate */
/* {"gate","value","met"} */
void gate_write(const struct gate *g, struct jw *w);

#endif
