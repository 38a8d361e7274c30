/* What common guides to fine-tuning advise for a run of this size, beside what was
 * asked. Rules of thumb, as text; nothing is changed by them. */
#ifndef LP_TRAIN_ADVISE_H
#define LP_TRAIN_ADVISE_H

#include "train/run.h"

enum task { TASK_ANY, TASK_STYLE, TASK_QA, TASK_CODE, TASK_REASONING };

/* The run that c describes, of config.json and the token stream alone, and the table. */
int train_advise(const struct train_config *c, enum task task, struct sb *text, struct err *e) LP_MUST_USE;

#endif
