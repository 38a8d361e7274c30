#include "train/schedule.h"

#include <math.h>
#include <string.h>

int schedule_parse(const char *name, enum schedule *s, struct err *e)
{
	static const char *const names[] = { "cosine", "linear", "constant" };

	for (int i = 0; i < 3; i++)
		if (strcmp(name, names[i]) == 0) {
			*s = (enum schedule)i;
			return 0;
		}
	return err_set(e, LP_USAGE, "unknown schedule '%s'; use cosine, linear or constant", name);
}

static double max_f64(double a, double b)
{
	return a > b ? a : b;
}

double schedule_factor(enum schedule s, int64_t step, int64_t warmup, int64_t total)
{
	double rest = max_f64(1, (double)(total - warmup));

	if (step < warmup)
		return (double)step / max_f64(1, (double)warmup);
	switch (s) {
	case SCHEDULE_LINEAR:
		return max_f64(0, (double)(total - step) / rest);
	case SCHEDULE_COSINE:
		return max_f64(0, 0.5 * (1 + cos(M_PI * 0.5 * 2.0 * ((double)(step - warmup) / rest))));
	default:
		return 1;
	}
}

int64_t schedule_warmup(double ratio, int64_t total)
{
	return (int64_t)ceil((double)total * ratio);
}
