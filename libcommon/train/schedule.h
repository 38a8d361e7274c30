/* Learning-rate schedules, equal to transformers' get_*_schedule_with_warmup and
 * get_wsd_schedule at every step, to the last bit. */
#ifndef LP_TRAIN_SCHEDULE_H
#define LP_TRAIN_SCHEDULE_H

#include <stdint.h>

#include "base/err.h"

enum schedule_kind { SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_CONSTANT, SCHEDULE_WSD };
enum schedule_shape { SHAPE_COSINE, SHAPE_LINEAR, SHAPE_SQRT }; /* of the fall at a warm-up-stable-decay's end */

struct schedule {
	enum schedule_kind kind;
	enum schedule_shape shape;
	int64_t warmup, decay; /* steps at the begin, and of SCHEDULE_WSD's at the end */
	int64_t total;
};

int schedule_parse(const char *name, enum schedule_kind *k, struct err *e) LP_MUST_USE;
int schedule_parse_shape(const char *name, enum schedule_shape *s, struct err *e) LP_MUST_USE;
/* The factor on the learning rate for optimiser step `step` (from 0). */
double schedule_factor(const struct schedule *s, int64_t step);
/* Steps of a part of all, as transformers: ceil(total * ratio). */
int64_t schedule_part(double ratio, int64_t total);

#endif
