/* Metric records to --log FILE (JSONL, docs/formats/lp-metric.5), and the one
 * progress line, which appears on a foreground terminal only. */
#ifndef LP_BASE_LOG_H
#define LP_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* Opens opt_common.log for appending; without it metric calls do nothing. */
int log_open(const char *tool, struct err *e) LP_MUST_USE;
/* One record: {"tool","event","time",...} with the fields of a printf-made
 * JSON fragment ("\"loss\":%.9g,\"step\":%d"); non-finite numbers must be
 * written as null by the caller (log_num). */
int log_metric(const char *event, struct err *e, const char *fields_fmt, ...) LP_PRINTF(3, 4) LP_MUST_USE;
/* "1.25" or "null" for a number in such a fragment; rotates 8 static buffers. */
const char *log_num(double v);
int log_close(struct err *e) LP_MUST_USE;

void progress(const char *fmt, ...) LP_PRINTF(1, 2); /* at most 10 a second */
void progress_done(void);                             /* clears the line */
void warn(const char *fmt, ...) LP_PRINTF(1, 2);      /* "tool: warning: ..." unless --quiet */
void note(const char *fmt, ...) LP_PRINTF(1, 2);      /* "tool: ..." only with --verbose or on a terminal */

double now_seconds(void); /* monotonic */

#endif
