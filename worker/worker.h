/*
 * worker.h
 *	  What all threads of the process share, who owns it, and which thread may touch it.
 *
 * Threads
 *	main		boots (main.c), then sends the heartbeat through a connection of its own, and joins the others at the end.
 *	guard		guard.c: reads the signals (blocked in every thread) and keeps the time of the shutdown.
 *	poller		poller.c: the only caller of rd_kafka_consumer_poll() and rd_kafka_assign(); rebalance, error, statistics and
 *				log callbacks of the consumer run in it. Never talks to the database.
 *	assigner	assigner.c: asks the database where to read a partition (assign()), so that polling never waits for it.
 *	processor n	processor.c: n of CONCURRENCY. Reads the queues of its partitions and calls consume().
 *	publisher	publish.c: reads the outbox, produces, advances the watermarks.
 *	http		http.c: libmicrohttpd's threads. They read health and metrics, and have a connection of their own.
 *
 * Rules
 *	1. A Db (db.h) belongs to the thread that made it. Only db_interrupt() may be called by others.
 *	2. Worker.config and the fields under "boot" are written by main before the first thread exists, and then only read.
 *	3. Everything else of Worker is an atomic, or is named below with the mutex that guards it. No mutex is held over I/O,
 *	   and none while another one of this file is taken; consume.c's own mutex may be held while one of these is taken.
 *	4. A WorkerType is immutable. worker_type_get() gives a reference, worker_type_release() gives it back; the secret in it
 *	   is wiped with the last reference.
 *	5. The phase only grows. worker_set_phase() is the one setter; guard and main call it.
 *	6. Nothing but the phase stops a thread: no cancellation, and no exit but main's return and
 *	   the guard's when the time is up. A thread that waits does so on a
 *	   file descriptor together with stop_fd, or for no longer than a second.
 *	7. What arrives as Kafka message is owned by the processor that took it from its queue, until the position behind it
 *	   is stored; it is destroyed before the consumer is.
 */
#ifndef WORKER_WORKER_H
#define WORKER_WORKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "config.h"
#include "emitted.h"
#include "metrics.h"

struct Consume;
struct Publish;
struct Http;
struct Db;

/* The phases of a shutdown, in their order. */
typedef enum WorkerPhase
{
	PHASE_RUNNING,	/* all pumps turn */
	PHASE_STOPPING, /* SIGTERM came: no new call and no new read; what is in flight is finished, positions are
								 * committed to Kafka, the group is left; stop_fd is readable from here on */
	PHASE_ABORTING, /* the time is nearly up: statements in flight are cancelled, so that their effects and their
								 * positions are undone together; abort_fd is readable from here on */
	PHASE_ENDED		/* all threads are joined */
} WorkerPhase;

/* What may be wrong without ending the process. Each is one line in /health and makes it `degraded`. */
typedef enum HealthSubject
{
	HEALTH_DATABASE, /* a connection is down */
	HEALTH_BROKER,	 /* no broker answers */
	HEALTH_TOPIC,	 /* the topic is not there */
	HEALTH_OFFSETS,	 /* a partition stands still: the log doesn't have its position (offset_gap) */
	HEALTH_CONSUME,	 /* the database can't take batches now (stop, or an error of a call) */
	HEALTH_PAUSED,	 /* partitions are not read because the database said so */
	HEALTH_PUBLISH,	 /* the publisher can't go on */
	HEALTH_SUBJECTS	 /* how many there are */
} HealthSubject;

/* The row of the worker type, as worker_config() answers. Immutable, counted. */
typedef struct WorkerType
{
	atomic_int references;
	char *topic;
	char *group_id;
	bool owns_topic;
	char *display_name; /* "IntakeWorker" */
	int http_port;		/* 0: the row has none */
	int64_t handler_version;
	char **event_types; /* that have a handler, sorted by bytes */
	int n_event_types;
	EmittedKey *emitted; /* NULL: the database has no secret */
} WorkerType;

typedef struct Health
{
	bool bad;
	char reason[300];
	int64_t since_ms;  /* now_ms() of the last change */
	int64_t logged_ms; /* when a reason was last logged */
} Health;

typedef struct Worker
{
	/* boot: written by main before the first thread */
	Config config;
	char instance_id[200]; /* GROUP_INSTANCE_ID, else host-pid */
	char host[100];
	int pid;
	int64_t started_ms; /* now_ms() */
	int stop_fd;		/* eventfds, readable from a phase on, never read: to wait on */
	int abort_fd;
	int fail_fd; /* readable once worker_fail() was called; main waits on it */
	Metrics *metrics;
	struct Consume *consume;
	struct Publish *publish; /* NULL: PUBLISH=off */
	struct Http *http;

	/* atomics */
	_Atomic(WorkerPhase) phase;
	atomic_bool failed;				/* worker_fail(): the process ends with 1 */
	atomic_int http_port;			/* the one in use; 0: none yet (main writes it into the heartbeat) */
	_Atomic int64_t poll_turned_ms; /* when the poller last turned; /healthz */
	atomic_bool broker_up;			/* a broker answers */
	atomic_int connections_down;	/* Dbs that want to be connected and aren't */
	atomic_int connections_up;
	atomic_bool assigned;			/* the group has given us our partitions once, maybe none; /readyz */
	atomic_int partitions_assigned; /* for health and heartbeat */
	atomic_int partitions_active;

	/* under type_lock */
	pthread_mutex_t type_lock;
	WorkerType *type;

	/* under health_lock */
	pthread_mutex_t health_lock;
	Health health[HEALTH_SUBJECTS];
} Worker;

/* ---- clock: CLOCK_MONOTONIC in milliseconds ---- */
extern int64_t now_ms(void);
/* ms, more or less a fifth of it: so that many processes don't come back at once. */
extern int64_t with_jitter(int64_t ms);

/* ---- life (main) ---- */
extern bool worker_init(Worker *w); /* config is filled; false: no memory or descriptors */
extern void worker_destroy(Worker *w);

/* ---- phase ---- */
extern const char *worker_phase_name(WorkerPhase phase);
extern void worker_set_phase(Worker *w, WorkerPhase phase);
static inline WorkerPhase
worker_phase(Worker *w)
{
	return atomic_load(&w->phase);
}
static inline bool
worker_stopping(Worker *w)
{
	return worker_phase(w) >= PHASE_STOPPING;
}
/* Waits up to ms for fd (-1: none) to be readable or the stop. Returns true when fd is readable. Thread: any. */
extern bool worker_wait(Worker *w, int fd, int64_t ms);

/* Something that only a new process can mend: logs it, and lets main end this one with 1, in order. Thread: any. */
extern void worker_fail(Worker *w, const char *message, const char *reason, const char *hint);

/* ---- worker type ---- */
/* Asks the database. 0: the process has the row now; 1: ask again later (said in log and health); -1: the settings are
 * wrong, error holds the line to end with. Thread: db's. */
extern int worker_type_fetch(Worker *w, struct Db *db, char *error, size_t size);
/* NULL before the first fetch. Thread: any. */
extern WorkerType *worker_type_get(Worker *w);
extern void worker_type_release(WorkerType *type);
/* Whether the worker type has a handler for it. */
extern bool worker_type_handles(const WorkerType *type, const char *event_type, size_t length);

/* ---- health: logs one line a change of state; thread: any ---- */
extern const char *health_name(HealthSubject subject); /* "database", ... */
extern void health_bad(Worker *w, HealthSubject subject, const char *reason, const char *hint);
extern void health_good(Worker *w, HealthSubject subject);
/* Whether all is well; else *subject and the reason of the first that isn't. */
extern bool health_all_good(Worker *w, HealthSubject *subject, char *reason, size_t size);
extern Health health_get(Worker *w, HealthSubject subject);
/* starting, healthy, degraded or stopping. */
extern const char *worker_status(Worker *w, char *reason, size_t size);

#endif /* WORKER_WORKER_H */
