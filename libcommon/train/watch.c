#include "train/watch.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>

#define NEAR_ZERO 0.05 /* nats a token: over 95 % on each */
enum {
	AROUND = 4,      /* losses on each side of a running median */
	LEVEL = 9,       /* losses that make the present level */
	AGAIN = 100,     /* steps until a name may be repeated */
	FLAT_FIRST = 30, /* steps before which no curve is called flat, whatever the run's length */
	FLAT_LAST = 200, /* and at which one is, however long the run */
	SAME = 16        /* steps without a difference of rewards that are no chance */
};

static double median(const double *x, int n)
{
	double v[WATCH_RING];

	for (int i = 0; i < n; i++) {
		int j = i;

		for (; j > 0 && v[j - 1] > x[i]; j--)
			v[j] = v[j - 1];
		v[j] = x[i];
	}
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* The last n losses, oldest first, without the newest `skip`. Returns how many there are. */
static int last(const struct watch *w, int n, int skip, double *out)
{
	int have = w->n < WATCH_RING ? (int)w->n : WATCH_RING;

	n = n < have - skip ? n : have - skip;
	for (int i = 0; i < n; i++)
		out[i] = w->ring[(int64_t)(w->n - skip - n + i) % WATCH_RING];
	return n > 0 ? n : 0;
}

static double level(const struct watch *w, int skip)
{
	double x[WATCH_RING];
	int n = last(w, LEVEL, skip, x);

	return n ? median(x, n) : NAN;
}

/* How far losses lie from their running median, as a part of it: the width of the curve, without the newest. */
static double noise(const struct watch *w)
{
	double x[WATCH_RING], off[WATCH_RING];
	int n = last(w, WATCH_RING, 1, x);

	for (int i = 0; i < n; i++) {
		int from = i < AROUND ? 0 : i - AROUND, to = i + AROUND + 1 < n ? i + AROUND + 1 : n;
		double mid = median(x + from, to - from);

		off[i] = mid > 0 && x[i] > 0 ? fabs(log(x[i] / mid)) : 0;
	}
	return n ? 1.4826 * median(off, n) : 0;
}

static const struct {
	const char *name, *advice;
} words[WATCH_N] = {
	[WATCH_FLAT] = { "flat", "the learning rate may be too low (--lr), or the data teach nothing: look at them with tokenize --show-mask" },
	[WATCH_EXPLODING] = { "exploding", "lower --lr or --max-grad-norm, and look at these records" },
	[WATCH_COLLAPSING] = { "collapsing", "the examples are learnt by heart: fewer --epochs, more data, --dropout 0.1, or a lower --rank" },
	[WATCH_NOISY] = { "noisy", "the batch is too small (raise --accumulate), or --lr too high" },
	[WATCH_OVERFITTING] = { "overfitting", "end here (--patience, --restore-best), or take fewer --epochs, --dropout 0.1, a lower --rank, or more data" },
};

const char *watch_name(enum watch_code c)
{
	return words[c].name;
}

static bool lately(const struct watch *w, enum watch_code c, int64_t step)
{
	return w->said[c] > 0 && (double)step - w->said[c] < AGAIN;
}

/* The next word, or NULL when it was said lately. */
static struct watch_word *say(struct watch *w, enum watch_code c, int64_t step, struct watch_word *out, int *n)
{
	bool again = lately(w, c, step);

	w->said[c] = (double)step;
	if (again)
		return NULL;
	out[*n].name = words[c].name;
	out[*n].advice = words[c].advice;
	return &out[(*n)++];
}

static void check_spike(struct watch *w, int64_t step, int64_t warmup, double loss, struct watch_word *out, int *n)
{
	bool noisy = lately(w, WATCH_NOISY, step);
	/* how wide the curve is, few losses do not tell; a wide one is no explosion */
	double before = level(w, 1), jump = noisy ? 10 : w->n > WATCH_RING ? 1.5 : 3;
	struct watch_word *o;

	if (w->n < LEVEL + 1 || !(loss > jump * before) || !(loss > exp(6 * noise(w)) * before) || !(o = say(w, WATCH_EXPLODING, step, out, n)))
		return;
	snprintf(o->what, sizeof(o->what), "the loss jumps to %.4f, %.1f times its level", loss, loss / before);
	if (step <= 2 * warmup + WATCH_FIRST)
		o->advice = "so early, --lr is too high or the warm-up too short";
}

static void check_level(struct watch *w, int64_t step, int64_t warmup, int64_t total, struct watch_word *out, int *n)
{
	double first = median(w->first, WATCH_FIRST), now = level(w, 0), clear = 2 * noise(w) * first;
	int64_t when = total / 5 < FLAT_FIRST ? FLAT_FIRST : total / 5 > FLAT_LAST ? FLAT_LAST : total / 5;
	struct watch_word *o;

	if (now < NEAR_ZERO && (o = say(w, WATCH_COLLAPSING, step, out, n)))
		snprintf(o->what, sizeof(o->what), "the training loss is %.4f, near 0", now);
	if (w->n > WATCH_RING && now - first > 0.1 * first && now - first > clear && (o = say(w, WATCH_EXPLODING, step, out, n)))
		snprintf(o->what, sizeof(o->what), "the loss rises from %.4f at the start to %.4f", first, now);
	/* later on a level curve may be one that has arrived */
	if (step == warmup + when && w->n >= WATCH_RING && first - median(w->ring, WATCH_RING) < (0.02 + noise(w)) * first && first >= NEAR_ZERO && (o = say(w, WATCH_FLAT, step, out, n)))
		snprintf(o->what, sizeof(o->what), "the loss does not fall: %.4f at the start, %.4f after %lld steps", first, now, (long long)step);
}

static void check_noise(struct watch *w, int64_t step, struct watch_word *out, int *n)
{
	double x = noise(w);
	struct watch_word *o;

	if (w->n > WATCH_RING && x > 0.2 && (o = say(w, WATCH_NOISY, step, out, n)))
		snprintf(o->what, sizeof(o->what), "the loss swings by %.0f %% of its level from one step to the next", 100 * x);
}

int watch_loss(struct watch *w, int64_t step, int64_t warmup, int64_t total, double loss, struct watch_word out[WATCH_N])
{
	int n = 0;

	if (!isfinite(loss))
		return 0;
	if (w->n < WATCH_FIRST)
		w->first[(int)w->n] = loss;
	w->ring[(int64_t)w->n % WATCH_RING] = loss;
	w->n++;
	if (w->n < WATCH_FIRST)
		return 0;
	check_spike(w, step, warmup, loss, out, &n);
	check_level(w, step, warmup, total, out, &n);
	check_noise(w, step, out, &n);
	return n;
}

int watch_rewards(struct watch *w, int64_t step, double flat, double reward, struct watch_word out[WATCH_N])
{
	struct watch_word *o;
	int n = 0;

	w->n = flat < 1 ? 0 : w->n + 1;
	if (w->n < SAME || !(o = say(w, WATCH_FLAT, step, out, &n)))
		return 0;
	snprintf(o->what, sizeof(o->what), "for %d steps the rewards of no group have differed, all %.4g on the average", (int)w->n, reward);
	o->advice = "nothing is learnt from them: look at what --reward writes; if it is right, what it asks for is never met, or always";
	return n;
}

int watch_eval(struct watch *w, int64_t step, double loss, struct watch_word out[WATCH_N])
{
	double now = level(w, 0);
	int n = 0;
	struct watch_word *o;

	if (!isfinite(loss))
		return 0;
	if (w->n_evals++ == 0 || loss < w->best_eval) {
		w->best_eval = loss;
		w->best_step = (double)step;
		w->level_at_best = isnan(now) ? INFINITY : now;
		return 0;
	}
	/* held-out loss rises while training loss falls */
	if (w->n_evals < 3 || !(loss > 1.02 * w->best_eval) || !(now < w->level_at_best) || !(o = say(w, WATCH_OVERFITTING, step, out, &n)))
		return 0;
	snprintf(o->what, sizeof(o->what), "the held-out loss rises from %.4f at step %.0f to %.4f while the training loss falls", w->best_eval, w->best_step, loss);
	return n;
}
