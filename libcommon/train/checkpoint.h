/* The state of a run between two steps, as one file beside the output
 * (OUTPUT.state): parameters, optimiser, best state and counters. All else (order,
 * dropout, schedule) is a function of seed and step. A run that is started again
 * with the same command goes on from it, and ends in the same bytes. */
#ifndef LP_TRAIN_CHECKPOINT_H
#define LP_TRAIN_CHECKPOINT_H

#include "train/run_int.h"

/* Writes OUTPUT.state, atomically; does nothing without an output. */
int checkpoint_save(struct run *r, struct err *e) LP_MUST_USE;
/* Reads it when it is there; *found says so. One of another command, base or
 * data is LP_USAGE; a damaged one LP_DATA. */
int checkpoint_load(struct run *r, bool *found, struct err *e) LP_MUST_USE;
/* Removes OUTPUT.step-STEP, an adapter that was written before; nothing when it is not there. */
void checkpoint_prune(const struct run *r, int64_t step);
/* The run is done. */
void checkpoint_remove(const struct run *r);

#endif
