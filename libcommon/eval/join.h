/* Joins of record streams on their ids: a table from id to row number. */
#ifndef LP_EVAL_JOIN_H
#define LP_EVAL_JOIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Ids are the JSON text of a record's id, so that "7" and 7 differ. */
struct join;
struct join *join_new(void);
void join_free(struct join *j);
/* The new row's number (rows count from 0), or -1 when the id is there already. */
int64_t join_add(struct join *j, const char *id, size_t len);
/* Its row, or -1. */
int64_t join_find(const struct join *j, const char *id, size_t len);
size_t join_rows(const struct join *j);
const char *join_id(const struct join *j, size_t row); /* NUL-terminated */

#endif
