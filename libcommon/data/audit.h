/* The audit of training data: rules over one chat record, and over the whole
 * set. Each rule is the one of the same order in the public guides' Python
 * (len in code points, str.strip, str.lower; see text/pystr.h), so that both
 * give the same findings by record, rule and role. */
#ifndef LP_DATA_AUDIT_H
#define LP_DATA_AUDIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/opt.h"
#include "base/sb.h"
#include "json/record.h"

enum audit_rule {
	AUDIT_FEW_TURNS,        /* fewer than min_turns messages */
	AUDIT_SHORT_RESPONSE,   /* assistant message under min_chars code points */
	AUDIT_LONG_RESPONSE,    /* assistant message over max_chars */
	AUDIT_EMPTY_MESSAGE,    /* nothing left after strip() */
	AUDIT_CONSECUTIVE_ROLE, /* two neighbours of one role, system messages left out */
	AUDIT_IDENTITY_LEAK,    /* lower() holds one of the phrases */
	AUDIT_MALFORMED,        /* the guides' Python would stop on this record */
	AUDIT_DUPLICATE,        /* same text as an earlier record; only when asked for */
	AUDIT_MIXED_SHAPE,      /* of the whole set: records of more than one shape */
	AUDIT_SIZE,             /* of the whole set: the number of records against the task */
	AUDIT_N_RULES
};
enum audit_severity { AUDIT_INFO, AUDIT_WARNING, AUDIT_ERROR };

const char *audit_rule_name(enum audit_rule r);
const char *audit_severity_name(enum audit_severity s);
/* "few-turns,duplicate", "warning" (that or worse), "all": a set of bits 1 << rule; option names the flag in errors. */
int audit_parse_rules(const char *csv, const char *option, uint32_t *rules, struct err *e) LP_MUST_USE;
enum audit_severity audit_rule_severity(enum audit_rule r);

struct audit_opts {
	int64_t min_turns, min_chars, max_chars;
	struct opt_list phrases;    /* any case */
	struct opt_list leak_roles; /* empty: every role */
	bool tool_calls;            /* a message with tool_calls needs no content; the guides' Python would object */
	bool duplicates;            /* remembers a hash of each record: 40 to 80 bytes a record */
};

struct audit_finding {
	enum audit_rule rule;
	const char *role; /* NULL when the record as a whole is meant; lives as long as the record */
	char msg[256];
};
struct audit_findings {
	struct audit_finding *v;
	size_t n, cap;
};

struct audit;
struct audit *audit_new(const struct audit_opts *o);
void audit_free(struct audit *a);

/* The findings of one record, in the order of the rules (replaces what f holds). line is remembered for duplicates. */
void audit_chat(struct audit *a, uint64_t line, const struct chat *c, struct audit_findings *f);
/* A record that could not be read as a chat. */
void audit_malformed(struct audit *a, const char *why, struct audit_findings *f);
/* What only the whole set shows: mixed shapes when asked, size when task is not NULL. */
void audit_set(struct audit *a, bool one_shape, const char *task, struct audit_findings *f);
void audit_findings_release(struct audit_findings *f);

/* Counted so far. */
uint64_t audit_records(const struct audit *a);
uint64_t audit_count(const struct audit *a, enum audit_rule r); /* findings */
uint64_t audit_flagged(const struct audit *a);                  /* records with at least one */
/* A few lines of text for people. */
void audit_summary(const struct audit *a, struct sb *out);

/* "style", "qa", "code" or "reasoning": whether n records are few, enough or more than the guides' table
 * finds useful. *ok is false below the range that it finds best. */
#define AUDIT_TASKS "style|qa|code|reasoning"
void audit_size_verdict(const char *task, uint64_t n, struct sb *out, bool *ok);

#endif
