#include "train/schedule.h"

#include <math.h>
#include <string.h>

static int find(const char *name, const char *const *names, int n)
{
	for (int i = 0; i < n; i++)
		if (strcmp(name, names[i]) == 0)
			return i;
	return -1;
}

int schedule_parse(const char *name, enum schedule_kind *k, struct err *e)
{
	static const char *const names[] = { "cosine", "linear", "constant", "wsd" };
	int i = find(name, names, 4);

	if (i < 0)
		return err_set(e, LP_USAGE, "unknown schedule '%s'; use cosine, linear, constant or wsd", name);
	*k = (enum schedule_kind)i;
	return 0;
}

int schedule_parse_shape(const char *name, enum schedule_shape *s, struct err *e)
{
	static const char *const names[] = { "cosine", "linear", "1-sqrt" };
	int i = find(name, names, 3);

	if (i < 0)
		return err_set(e, LP_USAGE, "unknown shape '%s' of a schedule's end; use cosine, linear or 1-sqrt", name);
	*s = (enum schedule_shape)i;
	return 0;
}

static double max_f64(double a, double b)
{
	return a > b ? a : b;
}

static double fall(enum schedule_shape s, double progress)
{
	switch (s) {
	case SHAPE_LINEAR:
		return 1 - progress;
	case SHAPE_SQRT:
		return 1 - sqrt(progress);
	default:
		return 0.5 * (1 + cos(M_PI * 0.5 * 2.0 * progress));
	}
}

/* Where warm-up and end together are longer than all steps the end has begun before it is reached. */
static double wsd(const struct schedule *s, int64_t step)
{
	int64_t into = step - (s->total - s->decay);

	if (into < 0)
		return 1;
	return into < s->decay ? max_f64(0, fall(s->shape, (double)into / max_f64(1, (double)s->decay))) : 0;
}

double schedule_factor(const struct schedule *s, int64_t step)
{
	double rest = max_f64(1, (double)(s->total - s->warmup));

	if (step < s->warmup)
		return (double)step / max_f64(1, (double)s->warmup);
	switch (s->kind) {
	case SCHEDULE_LINEAR:
		return max_f64(0, (double)(s->total - step) / rest);
	case SCHEDULE_COSINE:
		return max_f64(0, fall(SHAPE_COSINE, (double)(step - s->warmup) / rest));
	case SCHEDULE_WSD:
		return wsd(s, step);
	default:
		return 1;
	}
}

int64_t schedule_part(double ratio, int64_t total)
{
	return (int64_t)ceil((double)total * ratio);
}
