/* Record streams: JSONL, or a top-level JSON array, or CSV with a header
 * (fields become strings), all streaming, told apart by their first bytes
 * (CSV by its name or by force). Memory is one record's. */
#ifndef LP_JSON_JSONL_H
#define LP_JSON_JSONL_H

#include "base/arena.h"
#include "base/in.h"
#include "json/json.h"

#define JSONL_MAX_RECORD (256u << 20) /* bytes */

struct jsonl;
struct jsonl_rec {
	const char *raw; /* the record's JSON text, one line's worth; CSV: made here */
	size_t raw_len;
	struct json v;   /* the parsed value */
	uint64_t line;   /* JSONL, CSV: line where it starts; array: number of the record, from 1 */
};

/* format: NULL or "auto", "jsonl", "array", "csv". Takes in, and closes it. */
struct jsonl *jsonl_open_take(struct in *in, const char *format, struct err *e) LP_MUST_USE;
/* 1 a record (valid until the next call), 0 end, -1 error. Empty lines are skipped. An error in one
 * record (LP_DATA) leaves the stream usable when jsonl_can_continue is true. */
int jsonl_next(struct jsonl *j, struct jsonl_rec *rec, struct err *e) LP_MUST_USE;
/* The same, but a record of JSONL is not parsed: its text may be no JSON, and v is null. JSON_PADDING bytes
 * behind it can be read. */
int jsonl_next_raw(struct jsonl *j, struct jsonl_rec *rec, struct err *e) LP_MUST_USE;
bool jsonl_can_continue(const struct jsonl *j);
/* After a failed record: the raw bytes of it (for a rejects file). */
void jsonl_bad_raw(const struct jsonl *j, const char **raw, size_t *len);
struct in *jsonl_in(struct jsonl *j);
/* A scratch arena that is reset at each jsonl_next. */
struct arena *jsonl_arena(struct jsonl *j);
void jsonl_close(struct jsonl *j);

#endif
