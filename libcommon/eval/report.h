/* The report on fine-tuning runs: curves, red flags, run facts, comparison and
 * sample answers, as one HTML file or as text. Everything shown comes from
 * metric records (docs/formats/lp-metric.5), a comparison (eval/ab.h) and
 * completions; nothing is fetched, and the HTML needs no network and no script. */
#ifndef LP_EVAL_REPORT_H
#define LP_EVAL_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/sb.h"
#include "eval/ab.h"

struct train_point { /* NAN: not in the record, or null */
	double step, loss, lr, grad_norm, tokens, tok_s, epoch, peak_bytes, time;
	double margin, reward; /* of rewards: a preference method's; GRPO's */
};
struct eval_point {
	double step, loss;
	bool best;
};
struct run_fact { /* a byte count of the plan: "weights" 1234 */
	char *name;
	double value;
};

/* One training run out of a log. A log that is appended to may hold several:
 * the last one counts. A resumed run goes on from the step it names, and what
 * was logged beyond that step before is dropped. */
struct run_log {
	char *name;                 /* of the file, without folders */
	char *model, *method;       /* of the plan; NULL */
	double trainable, total, percent; /* parameters; NAN */
	struct run_fact *facts;
	size_t n_facts, cap_facts;
	struct train_point *train;
	size_t n_train, cap_train;
	struct eval_point *evals;
	size_t n_evals, cap_evals;
	size_t n_nonfinite;         /* nonfinite records and null losses */
	double first_nonfinite;     /* its step */
	bool done;
	double seconds;             /* of the done record, else between first and last record */
	size_t n_older;             /* runs before this one in the same log */
};
int run_log_read(const char *path, struct run_log *r, struct err *e) LP_MUST_USE; /* LP_DATA without a train or eval record */
void run_log_release(struct run_log *r);

/* --- red flags --- */
enum flag_level { FLAG_INFO, FLAG_WARN, FLAG_BAD };
struct flag {
	const char *code; /* "flat", "rising", "near-zero", "noisy", "spike", "nonfinite", "overfit", "unfinished", "no-held-out" */
	enum flag_level level;
	double step;      /* where it begins; NAN */
	char what[200];   /* what is seen, with figures */
	const char *advice;
};
#define REPORT_MAX_FLAGS 12
/* What curves are called, over the logged losses l[0..n) of training:
 *   nonfinite  any loss that is not a number
 *   rising     n >= 10, and the end (median of the last fifth) is above the start (median of the first 3) by over 10 %
 *              and by over 2 noise widths of it
 *   flat       n >= 10, not rising, the start is not above the end by 2 % and 2 noise widths (a quick fall), and the
 *              median of the first fifth is not above the end by 2 % (a slow one)
 *   near-zero  n >= 5, and the end is under 0.05 nats a token: the model gives each target token over 95 %
 *   spike      l[i] over 1.5 times the median of the 9 before it (at least 5), and over exp(6 noise widths) times that
 *   noisy      n >= 20, and the noise width is over 0.2 (some 20 %); it is 1.4826 times the median of |log(l[i] / m)|,
 *              m the median of the 9 losses around i
 *   overfit    3 evaluations or more, the last held-out loss is over 2 % above the best, earlier one, and the
 *              training loss after the best is below the training loss before it (medians)
 *   unfinished no done record;  no-held-out: no evaluations
 * Returns how many, at most REPORT_MAX_FLAGS, the worst first. */
size_t run_flags(const struct run_log *r, struct flag flags[REPORT_MAX_FLAGS]);

/* --- figures of a run that tiles and tables show; NAN when not known --- */
struct run_figures {
	double first_loss, last_loss;  /* training, medians of the first 3 and of the last fifth */
	double first_eval, best_eval, last_eval, best_step;
	double steps, tokens, tok_s, peak_bytes, seconds;
};
void run_figures(const struct run_log *r, struct run_figures *f);

struct report {
	const char *title;
	struct run_log *runs;
	size_t n_runs;
	struct ab_result *ab;      /* NULL: no comparison */
	struct ab_result *samples; /* whose samples to show; may be ab; NULL: none */
	int64_t max_samples;
};
void report_html(const struct report *r, struct sb *out);
/* width columns; ascii: no character beyond ASCII in what we draw. Control
 * characters in answers never reach the terminal. */
void report_text(const struct report *r, int width, bool ascii, struct sb *out);

/* Human figures, into buf: 83,886,080; 1.2 GiB; 1 h 4 min; 0.5321. Return buf. */
char *fmt_count(double v, char buf[32]);
char *fmt_bytes(double v, char buf[32]);
char *fmt_seconds(double v, char buf[32]);
char *fmt_loss(double v, char buf[32]);
double median_of(const double *x, size_t n); /* NAN when n is 0 */

#endif
