/* The watch over a run's curves: what goes wrong is named while it happens, with
 * what to do about it. Medians over short windows, so that one odd step decides
 * nothing but a spike; the thresholds are those by which ft-report judges a whole log. */
#ifndef LP_TRAIN_WATCH_H
#define LP_TRAIN_WATCH_H

#include <stdint.h>

enum watch_code { WATCH_FLAT, WATCH_EXPLODING, WATCH_COLLAPSING, WATCH_NOISY, WATCH_OVERFITTING, WATCH_N };
enum { WATCH_RING = 32, WATCH_FIRST = 10 };

/* Numbers alone, so that a checkpoint keeps it as an array. All zero is a watch that has seen nothing. */
struct watch {
	double n;                          /* finite training losses so far; GRPO: steps in a row without a difference of rewards */
	double first[WATCH_FIRST];         /* the first of them */
	double ring[WATCH_RING];           /* the last, at place n % WATCH_RING */
	double n_evals, best_eval, best_step;
	double level_at_best;              /* of the training loss then */
	double said[WATCH_N];              /* the step when each was last named, 0: never */
};

struct watch_word {
	const char *name;   /* "exploding" */
	const char *advice; /* what to do */
	char what[160];     /* what is seen, with numbers */
};
const char *watch_name(enum watch_code c);
/* A step's loss, of a run of total steps that warms up for warmup: how many words there are now, at most WATCH_N. A name is
 * repeated only when it comes again after some time. */
int watch_loss(struct watch *w, int64_t step, int64_t warmup, int64_t total, double loss, struct watch_word out[WATCH_N]);
/* GRPO, in its place, since its losses are around 0: of the step's groups, the part whose rewards do not differ, and the mean reward. */
int watch_rewards(struct watch *w, int64_t step, double flat, double reward, struct watch_word out[WATCH_N]);
/* The same for a held-out loss. */
int watch_eval(struct watch *w, int64_t step, double loss, struct watch_word out[WATCH_N]);

#endif
