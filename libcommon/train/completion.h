/* Completion records (lp-record(5)): what lm-generate writes, and what a reward's command reads. */
#ifndef LP_TRAIN_COMPLETION_H
#define LP_TRAIN_COMPLETION_H

#include "train/generate.h"
#include "train/prompt.h"

/* Appends a line: q completes p. more: further members as JSON text, each behind a comma, or NULL. */
int completion_write(const struct prompter *m, const struct prompt *p, const struct gen_seq *q, const char *more, struct sb *line, struct err *e) LP_MUST_USE;
/* Appends the members of a record that are none of a completion's own, as more. */
void completion_more(const struct json *record, struct sb *more);

#endif
