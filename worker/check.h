/*
 * check.h
 *	  sentinai-worker --check: connect to both sides, print what is there.
 */
#ifndef WORKER_CHECK_H
#define WORKER_CHECK_H

#include "worker.h"

/* Returns the exit status: 0, or 1 where something that the worker needs is missing; each line says what. */
extern int check_run(Worker *w);

#endif /* WORKER_CHECK_H */
