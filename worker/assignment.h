/*
 * assignment.h
 *	  A partition of the worker's topic: its state, who may change it, and what it holds.
 *
 *		unassigned --> assigning --> located --> active <--> paused
 *						|  ^  ^                    |           |
 *						v  |  +---- detaching <----+-----------+
 *					   gapped
 *		every state but unassigned --> revoking --> unassigned
 *
 * partition_set_state() is the one setter; the legal transitions are a table in assignment.c.
 */
#ifndef WORKER_ASSIGNMENT_H
#define WORKER_ASSIGNMENT_H

#include <librdkafka/rdkafka.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum PartitionState
{
	PARTITION_UNASSIGNED, /* not ours (a new one, or one about to be freed) */
	PARTITION_ASSIGNING,  /* ours; the assigner is to ask the database where to read */
	PARTITION_LOCATED,	  /* the database has answered; the poller is to begin fetching there */
	PARTITION_ACTIVE,	  /* fetched, read and handled by its processor */
	PARTITION_PAUSED,	  /* as active, but its queue is not read: the database said so; its due work goes on */
	PARTITION_DETACHING,  /* not read any more; the poller is to end the fetching, then it is located anew */
	PARTITION_GAPPED,	  /* not read: the log doesn't have its position; asked again from time to time */
	PARTITION_REVOKING,	  /* the group takes it away; its processor may still be finishing a call */
	PARTITION_STATES	  /* how many there are */
} PartitionState;

typedef struct Partition
{
	/* immutable */
	char *topic;
	int32_t number;
	int owner;				 /* processor */
	int64_t serial;			 /* another one after each assignment */
	rd_kafka_queue_t *queue; /* its own, not forwarded; NULL in unit tests */

	/* under the mutex of consume.c */
	PartitionState state;
	int refs;			  /* the list's and, while its processor is out with it, the processor's */
	bool held;			  /* its processor works with it: the fields further down are the processor's */
	bool asking;		  /* the assigner is out with it */
	int64_t epoch;		  /* as assign() answered */
	int64_t start_offset; /* where to fetch from, of a located one */
	int64_t ask_at_ms;	  /* assigning, gapped: not before */
	int64_t ask_backoff_ms;
	int64_t located_at_ms;
	bool report_gap; /* the broker refused the position: tell the database before asking */
	int64_t gap_offset;

	/* behind the last record taken from the queue; written by the processor, read by the poller */
	_Atomic int64_t read_position;

	/* the processor's, while active, paused or held */
	int64_t next_offset;	   /* what the database has stored */
	int64_t committed;		   /* what the broker was told */
	int64_t last_skipped;	   /* the last record that was skipped without the database; -1: none */
	rd_kafka_message_t **msgs; /* read, to be passed on, not yet acknowledged; in the order of their offsets */
	int n_msgs;
	int room_msgs;
	bool alone;			   /* a call with it failed: it is sent by itself */
	int64_t hold_until_ms; /* alone ones: not before */
	int64_t backoff_ms;
	int breaks;	 /* calls with it that broke the connection since the last good one */
	bool broken; /* the last one did */
} Partition;

extern const char *partition_state_name(PartitionState state);

/* Whether the table has this transition. */
extern bool partition_may(PartitionState from, PartitionState to);

/* The setter. Logs from, to and reason; an illegal transition changes nothing, is logged as an error and returns false. */
extern bool partition_set_state(Partition *part, PartitionState to, const char *reason);

/* A new one, unassigned, with one reference. NULL: no memory. */
extern Partition *partition_new(const char *topic, int32_t number, int owner);
/* Gives a reference back; the last one frees it, its queue and its messages. True: it is gone. */
extern bool partition_unref(Partition *part);

/* Whether the processor may read it and send it along. */
static inline bool
partition_working(const Partition *part)
{
	return part->state == PARTITION_ACTIVE || part->state == PARTITION_PAUSED;
}

/* ---- its messages (processor) ---- */

/* Takes the message over. False: no memory, the message is still the caller's. */
extern bool partition_keep(Partition *part, rd_kafka_message_t *msg);
/* Everything below the offset is acknowledged. */
extern void partition_drop_below(Partition *part, int64_t offset);
extern void partition_drop_all(Partition *part);
/* Where a batch with the first n messages stands: behind them and the skipped ones that follow. */
extern int64_t partition_position(const Partition *part, int n);
/* Reading begins here, nothing is kept. */
extern void partition_start(Partition *part, int64_t offset);

/* ---- after calls (processor) ---- */

#define PARTITION_BACKOFF_MIN_MS 1000
#define PARTITION_BACKOFF_MAX_MS 30000

/* A call with it failed; now + backoff with jitter is when to try it next, by itself. True: it wasn't alone before. */
extern bool partition_hold(Partition *part, int64_t now);
/* A call with it went well. True: it was alone before. */
extern bool partition_release_hold(Partition *part);
/* A call with it has failed: whether that broke the connection, and not because the server shut down. */
extern void partition_note_break(Partition *part, bool broke);

#endif /* WORKER_ASSIGNMENT_H */
