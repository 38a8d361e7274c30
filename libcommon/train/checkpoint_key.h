/* Which run a checkpoint is of: what must be equal for another run to go on
 * from it, and what is told when it is not. */
#ifndef LP_TRAIN_CHECKPOINT_KEY_H
#define LP_TRAIN_CHECKPOINT_KEY_H

#include "train/run_int.h"

enum { KEY_FIELDS = 5 };
struct checkpoint_key {
	struct st_kv kv[KEY_FIELDS]; /* metadata of the state; points into this struct and the run */
	struct sb options;
};
void checkpoint_key_init(struct checkpoint_key *k, const struct run *r);
void checkpoint_key_release(struct checkpoint_key *k);
/* LP_USAGE, and what differs, when the state b is of another run. Options that change no step (where files lie, how often
 * is saved) may differ; with extend, how long it trains too. */
int checkpoint_key_check(const struct checkpoint_key *k, const struct run *r, const struct st_blob *b, struct err *e) LP_MUST_USE;

#endif
