/*
 * dead_letter.h
 *	  What the steps of consume() do with dead letters: add them, look up their replays, settle a replay.
 *	  And which states there are, for lists of them.
 */
#ifndef SN_DEAD_LETTER_H
#define SN_DEAD_LETTER_H

#include "postgres.h"
#include "datatype/timestamp.h"

/* A dead letter to be written. Texts may be NULL unless said otherwise; Datums are 0 for NULL. */
typedef struct SnDeadLetter
{
	const char *tenant_id; /* not NULL; '' where there is none that can be used */
	const char *event_id;
	const char *event_type;
	const char *exception_id;
	const char *worker_type;   /* not NULL */
	const char *step;		   /* "screen" or "handle" */
	const char *error_type;	   /* not NULL */
	const char *error_message; /* not NULL */
	const char *error_detail;
	const char *sqlstate;
	int retry_count;			 /* automatic retries used so far */
	const char *topic;			 /* not NULL */
	int partition;				 /* -1: none, a replay goes by key */
	int64 offset;				 /* -1: none */
	Datum payload;				 /* jsonb */
	Datum metadata;				 /* jsonb */
	TimestampTz event_timestamp; /* 0: none */
	TimestampTz record_ts;		 /* 0: none */
	Datum key;					 /* bytea */
	Datum headers;				 /* sentinai.header[] */
	Datum value;				 /* bytea; 0: a tombstone */
	int64 id;					 /* out */
} SnDeadLetter;

typedef enum SnReplayState
{
	SN_REPLAY_UNKNOWN, /* dlq_history knows no such attempt, or the bytes are others: the headers are ignored */
	SN_REPLAY_USED,	   /* an old or used token, or the dead letter is gone: the record is a duplicate */
	SN_REPLAY_CURRENT  /* the attempt that the dead letter waits for */
} SnReplayState;

/* One record that says it is a dead letter's replay. */
typedef struct SnReplay
{
	int64 dlq_id;
	const char *token; /* as in the header; NULL: in the database, the dead letter's current one */
	bool from_topic;   /* anybody could have written it: its bytes have to be the dead letter's */
	const char *value; /* then the record's bytes; NULL: a tombstone */
	int value_len;

	/* out; for SN_REPLAY_USED as far as it is still known: worker_type, step and tenant_id always are */
	SnReplayState state;
	char *tenant_id;
	char *event_id; /* NULL where it had none */
	char *worker_type;
	char *step;
	TimestampTz event_timestamp; /* 0: none */
	int retry_count;
	bool foreign;	 /* the dead letter is there, and its bytes are others */
	bool reassigned; /* its identity is not the one that its event was claimed under */
} SnReplay;

/*
 * Writes dead letters with their fingerprints and their first row of history, and fills in the ids. SPI is connected.
 */
extern void sn_dead_letter_insert(SnDeadLetter *rows, int n);

/* Locks the dead letters of current replays, in the order of their ids, and fills in the rest. SPI is connected. */
extern void sn_dead_letter_lookup(SnReplay *replays, int n);

/*
 * The end of a replay that sn_dead_letter_lookup() said is current: uses the token up, unless that is done already. ok: succeeded, and the key is
 * released. Else back to pending with retry_count + 1 and the error; the error's texts may be NULL only where ok. SPI is
 * connected. token as in SnReplay.
 */
extern void sn_dead_letter_replayed(int64 dlq_id, const char *token, bool ok, const char *error_type,
									const char *error_message, const char *error_detail, const char *sqlstate);

/* Whether that is a status of dead letters. */
extern bool sn_dead_letter_is_state(const char *name);

#endif /* SN_DEAD_LETTER_H */
