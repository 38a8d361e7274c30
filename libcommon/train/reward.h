/* Rewards from a command of the user's: it reads completion records (lp-record(5)), a line each, and writes a number a line, in their order.
 *
 * The command is started for every batch of completions, and its input ends with the batch. So any filter will do, whether it flushes its
 * lines or not; its exit status is seen; and nothing that it keeps can make a run that goes on differ from one that was not interrupted. */
#ifndef LP_TRAIN_REWARD_H
#define LP_TRAIN_REWARD_H

#include <stdint.h>

#include "base/err.h"
#include "base/sb.h"

/* The n rewards of n records (text), by sh -c command. LP_IO: the command cannot be started, fails, or takes more than seconds (0: any time),
 * and is killed with all that it started in its process group. LP_DATA: other than n finite numbers. What it writes to standard error
 * is not touched; signals from a terminal do not reach it. */
int reward_run(const char *command, const struct sb *text, int64_t n, double seconds, double *reward, struct err *e) LP_MUST_USE;

#endif
