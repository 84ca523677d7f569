/*
 * guard.h
 *	  The thread that reads the signals and keeps the time of the shutdown.
 *
 *	SIGTERM, SIGINT		first: PHASE_STOPPING; second: the process ends with 1 at once
 *	time				SHUTDOWN_TIMEOUT after PHASE_STOPPING the process ends with 1; a little before, PHASE_ABORTING
 */
#ifndef WORKER_GUARD_H
#define WORKER_GUARD_H

#include "worker.h"

/* Blocks the signals for this thread and all that it starts: before the first one. */
extern void guard_block_signals(void);
extern bool guard_start(Worker *w);
/* All is joined: the guard need not watch any longer. */
extern void guard_stop(Worker *w);

#endif /* WORKER_GUARD_H */
