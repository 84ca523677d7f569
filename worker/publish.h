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
 * After the consume pump's end: publishes what that has emitted, gives what is in flight the time until PHASE_ABORTING to be
 * delivered, advances the watermarks over it, and ends the thread. Frees w->publish. Thread: main.
 */
extern void publish_stop(Worker *w);

#endif /* WORKER_PUBLISH_H */
