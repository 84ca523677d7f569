/*
 * consume_internal.h
 *	  What the threads of the consume pump share: poller.c, assigner.c, processor.c; consume.c starts and ends them.
 *
 * The walk of a partition: the group assigns it (poller: `assigning`), the assigner asks the database where to read
 * (`located` with epoch and offset), the poller fetches from there (`active`), its processor reads its queue, sends batches
 * and gets back where the partition stands. A fence, a changed list of handlers or a position that isn't ours sends it
 * once more through `detaching` and `assigning`. The group takes it away (`revoking`): the poller waits for the processor's
 * call, then forgets it.
 *
 * Consume.lock guards the list and what assignment.h names; Consume.changed tells of changes. It is held for look-ups only,
 * never over a call of librdkafka's that waits or of the database. A processor that works with a partition sets `held` and
 * counts a reference; while it does, the partition's messages and positions are its own.
 */
#ifndef WORKER_CONSUME_INTERNAL_H
#define WORKER_CONSUME_INTERNAL_H

#include <pthread.h>

#include "assignment.h"
#include "batch.h"
#include "consume.h"
#include "db.h"

/* A partition in a round of its processor. */
typedef struct Taken
{
	Partition *part;
	bool read;	/* its queue may be read: it is active */
	bool empty; /* its queue had nothing more */
	bool gap;	/* the broker refused the position */
	int64_t epoch;
	int send; /* how many of its messages go along */
} Taken;

typedef struct Processor
{
	struct Consume *c;
	int number;
	pthread_t thread;
	int wake_fd; /* eventfd: records in a queue, or a changed state; librdkafka writes it too */

	/* its thread's alone */
	Db *db;
	WorkerType *type; /* the list of handlers that it skips by */
	Batch batch;
	Taken *taken; /* held for this round */
	int n_taken;
	int room_taken;
	int turn;			  /* which partition reads first: each round another one */
	bool alone_turn;	  /* alone partitions and the others take turns */
	int limit;			  /* most records of a call now: BATCH, or less after a split */
	int good_calls;		  /* since the limit was lowered */
	int64_t tick_ms;	  /* when the next call is due, with or without records */
	int64_t committed_ms; /* when positions were last committed to Kafka */
	bool idle;			  /* the last round had no partition to work for */
	bool reload;		  /* the type must be fetched again */
	bool searching;		  /* in suspect mode: see suspect.c */
	int64_t due;		  /* how many events of the last good call came from event_pending */
} Processor;

typedef struct Consume
{
	Worker *w;
	rd_kafka_t *rk;
	char *topic;
	char *group_id;
	int n_processors;
	Processor *processors;
	pthread_t poller;
	pthread_t assigner;
	atomic_bool close; /* processors and assigner are joined: the poller may leave the group */
	atomic_int alone;  /* partitions that are sent by themselves */
	int unconnected;   /* the poller's: how often in a row there was no connection to a broker */

	pthread_mutex_t lock;
	pthread_cond_t changed; /* on CLOCK_MONOTONIC */
	Partition **parts;		/* under lock */
	int n_parts;
} Consume;

/* ---- consume.c ---- */
/* Counts assigned, active, paused and gapped partitions into health. Caller holds lock. */
extern void consume_count(Consume *c);
/* The partition is no longer sent by itself: a call with it went well, or it is gone. Thread: its processor, or poller
 * while it isn't held. */
extern void consume_unhold(Consume *c, Partition *part);
/* Wakes the processor. Thread: any. */
extern void processor_wake(Processor *p);
/* Waits for `changed` until then (now_ms()); caller holds lock. */
extern void consume_wait(Consume *c, int64_t until_ms);

/* ---- poller.c ---- */
extern bool poller_open(Consume *c, char *error, size_t size);
extern void *poller_main(void *arg);
/* Tells the broker where these partitions stand; doesn't wait. Thread: any; the partitions are the caller's. */
extern void poller_commit(Consume *c, Partition **parts, int n);

/* ---- assigner.c ---- */
extern void *assigner_main(void *arg);

/* ---- processor.c ---- */
extern void *processor_main(void *arg);
/* One call of consume() with what the taken partitions are to send, and its answer. True: it was done. */
extern bool processor_call(Processor *p, int n_records);
/* Each of the taken partitions goes by itself from now on, after a back-off. True: one of them didn't before. */
extern bool processor_hold(Processor *p);

#endif /* WORKER_CONSUME_INTERNAL_H */
