/* Learning-rate schedules, equal to transformers' get_*_schedule_with_warmup at
 * every step. */
#ifndef LP_TRAIN_SCHEDULE_H
#define LP_TRAIN_SCHEDULE_H

#include <stdint.h>

#include "base/err.h"

enum schedule { SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_CONSTANT };

int schedule_parse(const char *name, enum schedule *s, struct err *e) LP_MUST_USE;
/* The factor on the learning rate for optimiser step `step` (from 0) of `total`. */
double schedule_factor(enum schedule s, int64_t step, int64_t warmup, int64_t total);
/* As transformers: ceil(total * ratio). */
int64_t schedule_warmup(double ratio, int64_t total);

#endif
