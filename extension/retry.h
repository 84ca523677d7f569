/*
 * retry.h
 *	  What an error means (class, name) and when the event that met it is tried again.
 */
#ifndef SN_RETRY_H
#define SN_RETRY_H

#include "postgres.h"
#include "datatype/timestamp.h"

typedef enum SnErrorClass
{
	SN_CLASS_PERMANENT, /* trying again can't help: a dead letter at once */
	SN_CLASS_RETRY,		/* an order, a race, or something we don't know: by the retry policy */
	SN_CLASS_STOP,		/* the infrastructure is not there: nothing moves, no retry is used up */
	SN_CLASS_BROKEN		/* a bad deployment, or one odd event: what to do is the circuit breaker's decision */
} SnErrorClass;

typedef struct SnRetryDecision
{
	bool retry;		/* false: dead letter */
	int64 delay_ms; /* with jitter; 0 where retry is false */
	bool park;		/* after a dead letter: later events of the key wait behind it */
} SnRetryDecision;

/*
 * Class of an error by its SQLSTATE (as in ErrorData.sqlerrcode) and the constraint that it names, NULL for none. Reads
 * error_class_override, so it needs a transaction in which statements can be run.
 */
extern SnErrorClass sn_error_class(int sqlerrcode, const char *constraint_name);

/* Class of an error that has a type and no SQLSTATE: what fail() and our own checks say. */
extern SnErrorClass sn_error_type_class(const char *error_type);

/* "foreign_key_violation"; for a code that nobody knows its five characters. */
extern const char *sn_condition_name(int sqlerrcode);

/*
 * What is to be done with an event that failed after retries_used retries (0: it failed at first sight) and for the first
 * time at first_failed_at (0: now). Classes stop and broken are the caller's to handle; here they count as retry.
 */
extern SnRetryDecision
sn_retry_decide(const char *worker_type, const char *tenant_id, const char *event_type, const char *error_type,
				SnErrorClass error_class, int retries_used, TimestampTz first_failed_at);

/* In _PG_init: caches of policies and classes end when their tables change. */
extern void sn_retry_init(void);

#endif /* SN_RETRY_H */
