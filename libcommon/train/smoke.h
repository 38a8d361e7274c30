/* A long run's settings proved in a minute: ten steps on a slice, with everything
 * that the run has switched on (evaluation, samples, checkpoints, one of which is read back),
 * in the long run's own memory plan. What it writes is removed. */
#ifndef LP_TRAIN_SMOKE_H
#define LP_TRAIN_SMOKE_H

#include "train/run.h"

/* Its figures, and how long the whole run would take, as text. */
int train_smoke(const struct train_config *c, struct sb *text, struct err *e) LP_MUST_USE;

#endif
