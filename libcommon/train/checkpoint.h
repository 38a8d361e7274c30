/* The state of a run between two steps: a directory OUTPUT.step-N that is an
 * adapter like any other, and beside its files state.safetensors with the optimiser, the
 * best adapter so far and the counters. All else (order, dropout, schedule) is a
 * function of seed and step. A run that is started again with the same command goes
 * on from the newest one, and ends in the same bytes.
 *
 * Saving takes a copy of the state and returns; a thread writes it while the steps
 * go on. A checkpoint is synced before it has its name, and its check sum covers
 * everything that a run reads from it. */
#ifndef LP_TRAIN_CHECKPOINT_H
#define LP_TRAIN_CHECKPOINT_H

#include "train/run_int.h"

/* Room for the copy, before the first step; sets r->saver. Without an output there is none, and the others do nothing. */
int checkpoint_open(struct run *r, struct err *e) LP_MUST_USE;
/* Bytes of host memory of that room. */
uint64_t checkpoint_bytes(const struct run *r);
/* Reads the newest checkpoint; *found says whether there is one. A damaged one draws a warning, and the one before is
 * taken; when all are damaged that is LP_DATA. One of another command, base or data is LP_USAGE, and says what differs; with force,
 * those that a finished run left are removed instead. */
int checkpoint_load(struct run *r, bool *found, struct err *e) LP_MUST_USE;
/* Copies the state as OUTPUT.step-N and begins to write it, after what is being written; then the oldest go as
 * keep_checkpoints says. A write that fails is a warning, and the older checkpoints stay. */
int checkpoint_save(struct run *r, bool finished, struct err *e) LP_MUST_USE;
/* Tells what came of writes that have ended. */
void checkpoint_poll(struct run *r);
/* Waits for the last write: LP_OK, or why it failed. */
int checkpoint_wait(struct run *r, struct err *e) LP_MUST_USE;
/* Waits and frees. */
void checkpoint_close(struct run *r);

/* --- by name (checkpoint_files.c) --- */

char *checkpoint_path(const char *out, int64_t step); /* OUTPUT.step-N */
/* The steps of the checkpoints beside out, newest first; caller frees. */
int64_t *checkpoint_list(const char *out, size_t *n);
void checkpoint_remove(const char *out, int64_t step);
void checkpoint_remove_dir(const char *dir); /* one such directory, or an adapter's */
/* All but the newest `keep`. */
void checkpoint_prune(const char *out, int64_t keep);
/* What killed processes of this machine left half-written beside out. */
void checkpoint_sweep(const char *out);

#endif
