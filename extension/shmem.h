/*
 * shmem.h
 *	  The one segment in shared memory: which part belongs to whom, and what guards it.
 *
 * Every field names its guard. The hash table of the metrics is its own segment (metrics.c).
 */
#ifndef SENTINAI_SHMEM_H
#define SENTINAI_SHMEM_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

/* More active databases than this in one cluster get no maintenance worker; the launcher says so. */
#define SN_MAX_DATABASES 128
#define SN_MAX_DUTIES 32
#define SN_MAX_REPORT_WORKERS 16
#define SN_DUTY_MESSAGE_LEN 256

/* A slot without an emitting transaction. No id of the outbox is ever that large. */
#define SN_EMIT_NONE PG_UINT64_MAX

/*
 * One per backend, at the index of its PGPROC. Written by its backend alone; others read.
 */
typedef struct SnBackendSlot
{
	pg_atomic_uint64 emit; /* SN_EMIT_NONE; 0: about to take its first id; else its first id */
	Oid database;		   /* set before emit or processing */
	int pid;
	TimestampTz emit_since;		 /* set before emit */
	pg_atomic_uint32 processing; /* events that the backend is handling now */
	char pad[36];				 /* a cache line each */
} SnBackendSlot;

StaticAssertDecl(sizeof(SnBackendSlot) == 64, "a slot is a cache line");

/* How a maintenance worker ended; the launcher reads it to know whether to start it again. */
typedef enum SnWorkerEnd
{
	SN_OUTCOME_FAILED,	/* by an error: again, after a while */
	SN_OUTCOME_STOPPED, /* told to */
	SN_OUTCOME_INACTIVE /* nothing to do here: not again until the database is named */
} SnWorkerEnd;

/* What health() tells of a duty. Zero times mean "not". */
typedef struct SnDutyStatus
{
	TimestampTz last_run_at;
	TimestampTz failing_since; /* could not do its work since then */
	char message[SN_DUTY_MESSAGE_LEN];
} SnDutyStatus;

/* A background worker that makes reports (report.c). */
typedef struct SnReportWorker
{
	int pid;   /* 0: the place is free */
	int64 seq; /* of audit_report: what it is making; 0: nothing yet */
} SnReportWorker;

/* A database on the launcher's list. All fields: launcher_lock. */
typedef struct SnDatabase
{
	Oid database;		 /* InvalidOid: entry is free. Only the launcher frees */
	bool named;			 /* activate() named it since the last worker was started */
	bool listed;		 /* the launcher has found that it may have a worker */
	bool active;		 /* its worker found it active */
	bool gone;			 /* dropped: the launcher is to free the entry */
	int hold_pid;		 /* this backend wants no worker in it for now; 0: nobody */
	int worker_pid;		 /* its maintenance worker; 0: none attached */
	SnWorkerEnd outcome; /* of the last worker */
	int first_duty;		 /* where a restarted worker begins, so that one failing duty doesn't starve the rest */
	SnDutyStatus duties[SN_MAX_DUTIES];
	SnReportWorker reports[SN_MAX_REPORT_WORKERS];
} SnDatabase;

typedef struct SnShared
{
	LWLock *launcher_lock;
	Latch *launcher_latch; /* launcher_lock; NULL: no launcher */
	SnDatabase databases[SN_MAX_DATABASES];

	ConditionVariable outbox_cv; /* broadcast when a transaction that has emitted ends */

	LWLock *metric_lock;			  /* the hash table of series: shared to count, exclusive to add */
	pg_atomic_uint64 metrics_dropped; /* counts that found no room for their series */

	int n_slots; /* constant after startup */
	SnBackendSlot slots[FLEXIBLE_ARRAY_MEMBER];
} SnShared;

extern SnShared *sn_shared;

extern void sn_shmem_install(void);
extern SnBackendSlot *sn_my_slot(void);

#endif /* SENTINAI_SHMEM_H */
