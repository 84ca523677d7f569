/*
 * handle.h
 *	  Running handlers outside of a batch: the rehearsal of dead letters; and what no handler may do.
 */
#ifndef SN_HANDLE_H
#define SN_HANDLE_H

#include "postgres.h"
#include "datatype/timestamp.h"
#include "nodes/nodes.h"

/* What a rehearsal is fed with, and what came of it. */
typedef struct SnRehearsal
{
	const char *worker_type;
	const char *tenant_id; /* identity as the dead letter has it; NULL: as in the bytes */
	const char *event_id;
	TimestampTz event_timestamp; /* 0: as in the bytes */
	TimestampTz record_ts;		 /* 0: none */
	const char *value;			 /* the record's bytes, NULL: a tombstone */
	int len;

	/* out */
	bool ok;
	const char *error_type;
	const char *error_message;
	const char *error_detail;
	char sqlstate[6];
	int n_emitted;
} SnRehearsal;

/*
 * Runs the real handler on one event in a subtransaction that is always rolled back: nothing stays, nothing is emitted.
 * The caller is connected to SPI. Raises what consume() would raise for class stop and for cancellations.
 */
extern void sn_handle_rehearse(SnRehearsal *rehearsal);

/* Handlers run in a rehearsal: what stands outside of transactions is not to be touched. */
extern bool sn_rehearsing;

/* Raises where a handler is running that must not use this command, because the command's effect would outlive it. */
extern void sn_handler_check_command(Node *stmt);

#endif /* SN_HANDLE_H */
