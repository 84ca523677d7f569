/*
 * outbox.h
 *	  Writing to the outbox from C. The order that the publisher reads in, and why, is told in outbox.c.
 */
#ifndef SENTINAI_OUTBOX_H
#define SENTINAI_OUTBOX_H

#include "postgres.h"

typedef struct SnOutboxRow
{
	const char *topic;
	int partition;		   /* -1: by key */
	Datum key;			   /* bytea; 0: NULL */
	Datum headers;		   /* header[]; 0: NULL */
	Datum value;		   /* bytea; 0: NULL, a tombstone */
	const char *tenant_id; /* this and the next two: may be NULL */
	const char *event_id;
	const char *event_type;
	int64 dlq_id;		   /* 0: not a dead letter's retry */
	const char *dlq_token; /* UUID text; NULL: none */
	int64 id;			   /* out */
} SnOutboxRow;

/* Appends rows in their order. They are published after commit; the waiting publisher is woken. */
extern void sn_outbox_insert(SnOutboxRow *rows, int n);

extern void sn_outbox_install(void);

#endif /* SENTINAI_OUTBOX_H */
