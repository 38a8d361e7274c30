/* Records as bytes: one record as one line, and an input that is read twice. */
#ifndef LP_DATA_RECIO_H
#define LP_DATA_RECIO_H

#include "base/out.h"
#include "fmt/lineage.h"
#include "json/jsonl.h"

/* The record as it came, on one line with its newline; a record that was laid out over several lines is
 * written compactly. Replaces what out holds. */
void recio_line(const struct jsonl_rec *rec, struct sb *out);

/* Any bytes as a JSON string; what is not UTF-8 becomes U+FFFD. */
void recio_json_text(struct jw *w, const char *s, size_t n);

/* Commits o, which goes to path (NULL: stdout), and writes its lineage beside it. */
int recio_commit(struct out *o, const char *path, const struct lineage *l, struct err *e) LP_MUST_USE;

/* An input that is read once, or (again) first to count or to take keys and then to be
 * written. Files are then opened twice; standard input is kept in an unlinked
 * file under $TMPDIR. */
struct recio;
struct recio *recio_open(const char *path, const char *format, bool again, struct err *e) LP_MUST_USE; /* NULL on error; path NULL or "-": stdin */
/* The next record of this pass: as jsonl_next, with file and line in *e. */
int recio_next(struct recio *r, struct jsonl_rec *rec, struct err *e) LP_MUST_USE;
/* From the start again (opened so only). A finished pass whose bytes differ from the first one's is LP_DATA. */
int recio_again(struct recio *r, struct err *e) LP_MUST_USE;
const char *recio_name(const struct recio *r);
void recio_hash(const struct recio *r, char hex[33]); /* of the input's bytes; after a whole pass */
struct arena *recio_arena(struct recio *r);           /* reset at each record */
void recio_close(struct recio *r);                    /* NULL is fine */

#endif
