/*
 * consume.h
 *	  The consume pump: Kafka's records to sentinai.consume(), its answer back to Kafka as commits.
 */
#ifndef WORKER_CONSUME_H
#define WORKER_CONSUME_H

#include "worker.h"

/* The worker type is known. Starts poller, assigner and processors. False: error says why. Thread: main. */
extern bool consume_start(Worker *w, char *error, size_t size);

/*
 * After PHASE_STOPPING: waits until what is in flight is finished (at PHASE_ABORTING it is cancelled), commits, leaves the
 * group, closes the consumer and frees all. False: the broker did not let us leave in time, so the poller's thread still
 * runs and nothing is freed: the process must end by _exit(). Thread: main.
 */
extern bool consume_stop(Worker *w);

/* The partitions as JSON for the heartbeat's details; the caller frees it. Thread: any. */
extern char *consume_details(Worker *w);

#endif /* WORKER_CONSUME_H */
