/* What a run is asked to do by signals. A process has one set of them, so this
 * is state of the process. */
#ifndef LP_TRAIN_STOP_H
#define LP_TRAIN_STOP_H

#include <stdbool.h>

/* From now on SIGUSR1 asks for a checkpoint. */
void stop_listen(void);
/* From now on SIGINT and SIGTERM ask for an end, and a second one ends at once; one that is ignored stays so. Before, when there is
 * nothing to save, they end the process. */
void stop_listen_ends(void);
/* As it was before both. */
void stop_unlisten(void);
int stop_signal(void);            /* the one that asked for an end, 0: none did */
bool stop_asks(void);             /* for either */
bool stop_wants_checkpoint(void); /* since the last call */

#endif
