/* One text record as tokenize takes it: {"text","spans"}, {"text"} (every token
 * is a target), a preference pair {"prompt","chosen","rejected","chosen_spans",
 * "rejected_spans"}, or one answer with its verdict {"prompt","chosen","label"}. */
#ifndef LP_DATA_TOK_RECORD_H
#define LP_DATA_TOK_RECORD_H

#include "json/json.h"

struct tok_span {
	size_t begin, end; /* bytes of the text */
};
struct tok_text {
	const char *text; /* valid UTF-8, in the arena */
	size_t len;
	struct tok_span *spans;
	size_t n_spans;
	bool all;            /* no spans given: every token is a target */
	bool good;           /* of a pair: the chosen one, or the label */
	/* Once it is encoded: */
	const int32_t *ids;  /* (n) */
	const uint8_t *mask; /* (n) */
	size_t n;
	size_t at;           /* where they begin among the batch's */
	size_t n_full;       /* tokens before truncation */
	size_t n_targets;    /* what counts: never the first token */
};
struct tok_rec {
	const char *name;    /* of the input, or its member */
	uint64_t line;
	int64_t number;      /* from 0, in input order */
	const char *raw;     /* the record as it came, on one line */
	size_t raw_at, raw_len;
	struct tok_text t[2]; /* text; or chosen, rejected */
	int n_texts;
	bool pair, dropped;  /* dropped: longer than max_len */
	struct err *problem; /* NULL: none */
};

/* raw[0..len), JSON_PADDING readable bytes behind, into r's texts. texts keeps them; tree is scratch. */
int tok_record_parse(struct json_parser *p, const char *raw, size_t len, struct arena *texts, struct arena *tree, struct tok_rec *r, struct err *e) LP_MUST_USE;

#endif
