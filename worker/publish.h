/*
 * publish.h
 *	  The publish pump: rows of sentinai.outbox -> Kafka. publish.c says how.
 */
#ifndef WORKER_PUBLISH_H
#define WORKER_PUBLISH_H

typedef struct Worker Worker;

/* Starts the pump's thread, w->publish. False: it can't be had. */
extern bool publish_start(Worker *w);

/*
 * Waits for the thread's end, which follows PHASE_STOPPING: what is in flight is given the time until PHASE_ABORTING to be
 * delivered, and the watermarks are advanced over it. Frees w->publish. Thread: main.
 */
extern void publish_stop(Worker *w);

#endif /* WORKER_PUBLISH_H */
