/*
 * event.h
 *		One event: its bytes in, its checked fields out.
 *
 * What lives here: parsing and validating one record's value, and the ids of
 * events that have none.  What doesn't: the scanner (include/sentinai_json.h),
 * and whatever needs a table: tenants, event types (consume).
 */
#ifndef SENTINAI_EVENT_H
#define SENTINAI_EVENT_H

#include "postgres.h"
#include "datatype/timestamp.h"

/* Longest event_id, event_type, exception_id and correlation_id, and tenant_id, in bytes. */
#define SN_EVENT_TEXT_MAX 255
#define SN_TENANT_ID_MAX 64
/* The newest version of the envelope that we know. */
#define SN_EVENT_VERSION 1

typedef struct SnEvent /* one parsed event; palloc'd in the current context */
{
	char *event_id; /* NULL where the event has none: the caller derives it */
	bool event_id_given;
	char *event_type;
	char *tenant_id;
	char *exception_id;	   /* NULL: none */
	char *correlation_id;  /* defaults to exception_id */
	TimestampTz timestamp; /* record's ts where missing */
	int version;
	Datum payload;	/* jsonb */
	Datum metadata; /* jsonb, (Datum) 0 where missing or null */
	int64 hash;		/* over event type and canonical payload; 1.0 and 1 are the same */
} SnEvent;

typedef struct SnEventError
{
	const char *error_type; /* always validation_error */
	char *message;
	char *detail;	 /* NULL: nothing to add */
	bool structural; /* decided by the bytes alone, not by a setting of ours */
} SnEventError;

/*
 * Parses value[0 .. len), NULL for a tombstone.  An event that names no tenant
 * is tenant's; NULL: the event must name one.  Never throws because of what
 * the bytes are.  False: *err says why, and *out has what is usable all the
 * same, for the dead letter to show (NULL, (Datum) 0 for the rest, the payload
 * included).
 */
extern bool
sn_event_parse(const char *value, int len, TimestampTz record_ts, const char *tenant, SnEvent *out, SnEventError *err);

/* Whether a text is a tenant id by its form: ^[A-Za-z0-9_.-]{1,64}$ */
extern bool sn_tenant_id_valid(const char *text);

/* The id of an event that came without one: UUIDv5 of the record's place. */
extern char *
sn_event_id_from_place(const char *cluster_id, const char *topic, int incarnation, int partition, int64 offset);

/* The id of the ordinal-th event that a worker type emits for a parent: UUIDv8, the parent's time in front. */
extern char *sn_event_id_derived(const char *tenant_id, const char *parent_event_id, TimestampTz parent_ts,
								 const char *worker_type, int ordinal);

#endif /* SENTINAI_EVENT_H */
