/* Verdict records: what one completion scored. judge-eval score writes them,
 * judge-eval ab and ft-report read them back; a completion record that comes
 * where a verdict is read is scored on the spot (docs/formats/lp-record.5). */
#ifndef LP_EVAL_VERDICT_H
#define LP_EVAL_VERDICT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/sb.h"
#include "eval/match.h"
#include "json/json.h"

/* Everything that is averaged, compared and gated, in the order of tables. */
enum metric {
	METRIC_ROUGE1,
	METRIC_ROUGE2,
	METRIC_ROUGEL,
	METRIC_EXACT,
	METRIC_NORM_EXACT,
	METRIC_REGEX,
	METRIC_JSON_VALID,
	METRIC_JSON,
	METRIC_FORMAT,
	METRIC_NLL,
	METRIC_CHARS,
	METRIC_TOKENS,
	N_METRICS
};

struct metric_info {
	const char *name;  /* in records, summaries and gates */
	const char *label; /* for people */
	int better;        /* 1 higher, -1 lower, 0 neither */
	bool rate;         /* 0..1, shown in per cent */
	bool needs_text;   /* says something about the answer itself: not likelihood, not length */
};
const struct metric_info *metric_info(enum metric m);
int metric_by_name(const char *name); /* -1: no such metric */

#define VERDICT_PROMPT_CHARS 200 /* of a review, code points */
#define VERDICT_ANSWER_CHARS 300

struct verdict {
	const char *id; /* as JSON text: "a" with its quotes, or 17 */
	size_t id_len;
	double m[N_METRICS]; /* NAN where it does not apply */
	double p[3], r[3];   /* precision and recall of ROUGE-1, -2, -L */
	double nll;          /* sum over n_tokens, nats; NAN when not known */
	uint64_t n_tokens;
	char prompt_hash[33]; /* "" when there was no prompt */
	const char *finish;   /* "stop", "length", ... or NULL */
	bool has_expected;
	/* the texts, not NUL-terminated; NULL when not there */
	const char *prompt, *expected, *response;
	size_t n_prompt, n_expected, n_response;
};

/* Scores completions, reads verdicts. The regex is borrowed, NULL for none. */
struct scorer;
struct scorer *scorer_new(struct match_regex *regex, bool json);
void scorer_free(struct scorer *s);
/* v points into rec, and into s until the next call. line stands in for a
 * missing id. LP_DATA when it is neither a completion nor a verdict. */
int scorer_read(struct scorer *s, const struct json *rec, uint64_t line, struct verdict *v, struct err *e) LP_MUST_USE;
/* Likewise, completions only. */
int scorer_score(struct scorer *s, const struct json *rec, uint64_t line, struct verdict *v, struct err *e) LP_MUST_USE;

/* One line, newline included. review: with the texts, cut. */
void verdict_write(const struct verdict *v, bool review, struct sb *out);
/* "prompt", "expected", "response" members, cut to the review's lengths. */
void verdict_write_review(const struct verdict *v, struct jw *w);

#endif
