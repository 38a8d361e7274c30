/* TensorBoard's event files: records (length, masked CRC-32C, bytes, CRC) of Event
 * protocol messages; here those that a run needs: the version, scalars, and the
 * word that a run goes on after a step, so that TensorBoard forgets later points of a
 * run that was killed. It only writes. */
#ifndef LP_FMT_TFEVENTS_H
#define LP_FMT_TFEVENTS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/sb.h"

/* The records as bytes; time in seconds since 1970. */
void tfevents_version(struct sb *out, double time);
void tfevents_start(struct sb *out, double time, int64_t step);
void tfevents_scalar(struct sb *out, double time, int64_t step, const char *tag, double value);
uint32_t crc32c(const void *p, size_t n);

struct tfevents;
/* A new file in dir, events.out.tfevents.SECONDS.HOST.PID; makes dir, not its parents. */
struct tfevents *tfevents_open(const char *dir, struct err *e) LP_MUST_USE;
/* Each record is one write. */
int tfevents_put(struct tfevents *t, const struct sb *records, struct err *e) LP_MUST_USE;
int tfevents_close(struct tfevents *t, struct err *e) LP_MUST_USE; /* NULL is fine */

#endif
