/*
 * consume.h
 *	  The nouns that the steps of consume() share: a batch with its partitions and records, and one piece of work.
 *
 * A batch is decoded by batch.c, and the steps work on it in the order of consume.c: fence, screen, claim, order, handle,
 * settle. Everything here lives in the batch's memory context and dies with the call.
 */
#ifndef SN_CONSUME_H
#define SN_CONSUME_H

#include "postgres.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "dead_letter.h"
#include "event.h"
#include "retry.h"
#include "worker_type.h"

typedef struct SnSpan
{
	const char *data; /* NULL: SQL NULL */
	int len;
} SnSpan;

typedef struct SnHeader
{
	SnSpan name;
	SnSpan value;
} SnHeader;

/* One entry of the batch: a partition that the processor holds. */
typedef struct SnPartition
{
	char *topic;
	int partition;
	int64 epoch;
	int64 position;	   /* behind the last record that the worker read */
	int64 next_offset; /* ours, from kafka_offset */
	bool fenced;	   /* somebody else's by now: takes part in nothing */
	struct SnTopic *info;
} SnPartition;

typedef struct SnRecord
{
	int entry; /* index into the batch's partitions */
	int64 offset;
	TimestampTz ts; /* 0: none */
	SnSpan key;
	SnSpan value;
	int n_headers;
	SnHeader *headers;
} SnRecord;

/* What kafka_topic knows of a topic. */
typedef struct SnTopic
{
	char *topic;
	char *cluster_id;
	int incarnation;
	int partition_count;
	char tenant_source; /* 'p'ayload, 'h'eader, 'k'ey, 'f'ixed */
	char *tenant_value;
	struct SnTopic *next;
} SnTopic;

/* How a piece of work ends; a row of the answer's statistics each. */
typedef enum SnOutcome
{
	SN_TODO,	  /* to be handled */
	SN_SKIPPED,	  /* not this worker type's, or behind our position */
	SN_DUPLICATE, /* handled before under the same identity */
	SN_LOGGED,	  /* known type without a handler: in the log, done */
	SN_SUCCEEDED,
	SN_RETRYING, /* failed; event_pending knows when to try again */
	SN_PARKED,	 /* waits behind an unfinished event of its key */
	SN_DEFERRED, /* waits for its tenant */
	SN_DEAD		 /* in the dead letter queue */
} SnOutcome;

typedef struct SnFailure
{
	const char *step; /* "screen" or "handle" */
	const char *error_type;
	const char *message;
	const char *detail;
	char sqlstate[6];
	int error_class; /* SnErrorClass */
} SnFailure;

/* A tenant of the batch. */
typedef struct SnTenant
{
	char tenant_id[SN_TENANT_ID_MAX + 1];
	char status[16];		   /* tenant.status, empty: unknown */
	struct SnBacklog *backlog; /* its queue of events over the rate, NULL: it has none */
	int64 wanted;			   /* events of this call that are to be charged */
	int64 granted;			   /* of these, not used yet */
} SnTenant;

/* A key of the batch: an exception whose events are handled in order. */
typedef struct SnKey
{
	char *tenant_id;
	char *exception_id;
	bool held;	  /* it has a row in key_state, and we hold its lock */
	bool adopted; /* the row appeared during this call: whoever made it goes on with the key */
	char *topic;  /* of that row: whose queue it is */
	int partition;
	char *event_id;				/* of that row: whom the others wait for */
	const struct SnWork *first; /* that event, where this call has it */
	int64 dlq_id;				/* of that row: a dead letter that blocks the key, 0: none */
	struct SnWork *blocker;		/* unfinished in this call: what comes later is parked */
	int wave;					/* of its last event so far, and that event's handler */
	const struct SnHandler *handler;
} SnKey;

/* One event on its way through the steps, new or due. */
typedef struct SnWork
{
	int place; /* in the batch's work */
	SnRecord *record;
	SnPartition *queue; /* the partition whose processor has it */
	SnEvent event;
	bool parsed;	   /* event is whole; else only what was usable */
	bool emitted;	   /* provably ours: a valid emitted header */
	bool fresh;		   /* arrived in this batch; else it is due work */
	bool claimed;	   /* holds a claim (its own insert, or one from before) */
	bool log;		   /* the owner writes it to event_log */
	bool tenant_known; /* event.tenant_id names a tenant that may own a dead letter */
	bool defer;		   /* its tenant is suspended, or a circuit is open */
	bool charged;	   /* its tenant has paid for it, or need not */
	bool appointed;	   /* deferred, with a place in its tenant's queue */
	bool displaced;	   /* with whom its key waits for elsewhere: it gives its place in the queue up */
	bool given;		   /* to the handler that is running: emit() and fail() take it */
	SnTenant *tenant;  /* NULL: none was looked for */
	SnKey *key;		   /* NULL: belongs to no exception */
	SnHandler *handler;

	/* due work */
	int64 pending_id;
	bool released; /* was parked, and its turn has come */
	bool queued;   /* had a place in its tenant's queue */
	int origin_partition;
	int64 origin_offset;
	int retry_count;
	TimestampTz first_failed_at; /* 0: has not failed */
	SnReplay *replay;			 /* a dead letter's retry */
	char *kept_tenant;			 /* the identity it was put away with */
	char *kept_event_id;

	TimestampTz next_attempt_at; /* of a retry */
	int64 dlq_id;				 /* of its dead letter */
	int wave;
	int n_emitted;	/* events emitted for it so far: the next ordinal */
	double seconds; /* share of its handler call */
	SnOutcome outcome;
	SnFailure failure;
} SnWork;

typedef struct SnBatch
{
	MemoryContext context;
	SnWorkerType *worker_type;
	TimestampTz now;
	bool in_block; /* the caller is in a transaction block: a person, not a worker */
	int64 handler_version;
	int max_events;
	int n_partitions;
	SnPartition *partitions;
	int n_records;
	SnRecord *records;
	SnTopic *topics;
	struct SnCircuit *circuits; /* open ones of the worker type */
	HTAB *tenants;				/* SnTenant, by tenant_id; NULL: no event has one */
	TimestampTz rate_now;		/* the clock of limits */
	List *backlogs;				/* SnBacklog: queues of events over their tenants' rate */
	const char *pause;			/* why no records are taken for now, NULL: they are */

	/* while this session looks for a record that kills the server: the one event of the call */
	bool suspect;
	int suspect_marks;
	SnPartition *suspect_partition;
	int64 suspect_pending_id; /* 0: a new record */
	int64 suspect_offset;

	int n_work;
	int max_work;
	SnWork **work;	   /* due work first, then new records in order */
	HTAB *by_identity; /* (tenant_id, event_id) -> work */
	int n_keys;
	SnKey **keys;				/* sorted */
	List *emits;				/* SnEmit, those of rolled back slices removed */
	int n_slices;				/* committed subtransactions so far */
	int n_parted;				/* slices that were cut at one tenant's events */
	TimestampTz handling_since; /* of the handle step */
	int split_size;				/* of a batch that was given up: send as many at most */
	int n_due;
	int n_skipped; /* records behind our position */
} SnBatch;

/* An event that a handler emitted; written by settle. */
typedef struct SnEmit
{
	SubTransactionId subid;
	SnWork *parent;
	const char *event_id;
	const char *event_type;
	const char *exception_id; /* NULL: none */
	const char *correlation_id;
	const char *topic;
	Datum payload;	/* jsonb */
	Datum metadata; /* jsonb */
	Datum value;	/* bytea: the whole envelope as it goes to Kafka */
} SnEmit;

/* batch.c */
extern void sn_batch_decode(SnBatch *batch, const char *data, int len);
extern bytea *sn_batch_pack(ArrayType *records);
extern SnWork *sn_batch_add_work(SnBatch *batch);
extern void sn_batch_places(SnBatch *batch, Datum *topics, Datum *partitions);
extern const SnHeader *sn_record_header(const SnRecord *record, const char *name);
extern Datum sn_record_headers_datum(const SnRecord *record);
extern Datum sn_span_bytea(SnSpan span);

/* screen.c */
extern void sn_screen(SnBatch *batch);
extern bytea *sn_emit_secret(void);

/* claim.c */
extern void sn_claim(SnBatch *batch);
extern void sn_claim_index(SnBatch *batch);
extern SnWork *sn_work_by_identity(SnBatch *batch, const char *tenant_id, const char *event_id);
extern void sn_claim_settle(SnBatch *batch);

/* A tenant's turn: so many of its queue's events, of those due until then. */
typedef struct SnTurn
{
	const char *tenant_id;
	int quota;
	TimestampTz until;
} SnTurn;

/* The worker is asked to come back after this many milliseconds at the latest: other sessions make work due, too. */
#define SN_MAX_NEXT_DUE_MS 1000

/* pending.c */
extern void sn_pending_due(SnBatch *batch);
extern void sn_pending_take_turns(SnBatch *batch, const SnTurn *turns, int n);
extern bool
sn_pending_put(SnBatch *batch, SnWork *work, const char *status, TimestampTz next_attempt_at, const char *rate_limit);
extern void sn_pending_done(SnWork *work);
extern int sn_pending_next_due_ms(SnBatch *batch);

/* key_order.c */
extern void sn_key_order(SnBatch *batch);
extern bool sn_key_is_blocked(const SnWork *work);
extern bool sn_key_in_line(const SnWork *work);
extern bool sn_key_has_begun(const SnWork *work);
extern bool sn_key_is_elsewhere(const SnWork *work);
extern void sn_key_block(SnBatch *batch);
extern void sn_key_finish(SnBatch *batch);

/* handle.c */
extern void sn_handle(SnBatch *batch);
extern void sn_handle_fail(SnBatch *batch, SnWork *work);

/* settle.c */
extern void sn_settle(SnBatch *batch);
extern bool sn_is_notice(const char *event_type);

/* answer.c */
extern Datum sn_answer(SnBatch *batch, FunctionCallInfo fcinfo, const char *stop, int split, bool reload);

/* consume.c: gives the batch up, with the answer "send at most so many". */
SN_NORETURN extern void sn_split(SnBatch *batch, int size);

#endif /* SN_CONSUME_H */
