/*
 * db.h
 *	  One connection to the database, for one thread: it comes back by itself, with backoff and jitter.
 *
 *	Db *db = db_new(w, "consume 0");
 *	while (!worker_stopping(w))
 *	{
 *		if (!db_connect(db))			waits as long as it takes; false: the process stops
 *			break;
 *		res = db_call(db, &statement, params);
 *		if (res == NULL)				db_error(db) says why, and db_error(db)->kind what to do
 *			...
 *		PQclear(res);
 *	}
 *	db_free(db);
 *
 * Statements are prepared at their first use in each session. Every session has search_path pg_catalog (the SQL of the
 * worker is qualified), sentinai.allow_future_schema by the setting, and no time-outs of its own. Only changes of state are logged, once
 * for the process however many connections it has (health_bad(HEALTH_DATABASE)).
 */
#ifndef WORKER_DB_H
#define WORKER_DB_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

#include "worker.h"

typedef struct Db Db;

/* What an error asks for; by SQLSTATE alone (db_error_kind). */
typedef enum DbErrorKind
{
	DB_OK,
	DB_INFRASTRUCTURE, /* 08, 25006, 53, 57, 58, or the connection broke: back off and try again */
	DB_OTHER		   /* anything else: the statement, its data or the installation */
} DbErrorKind;

typedef struct DbError
{
	DbErrorKind kind;
	bool lost;		   /* the connection is gone */
	char sqlstate[6];  /* "" where there is none (the connection broke, and the server had not said why) */
	char message[600]; /* one line each, "" where missing */
	char detail[600];
	char hint[600];
} DbError;

#define DB_MAX_PARAMS 16

/* A statement of the worker; a static const object, known by its address. */
typedef struct DbStatement
{
	const char *name; /* of the prepared statement */
	const char *sql;
	int n_params;
} DbStatement;

/* A parameter. Text, unless binary is set. value NULL: SQL NULL. */
typedef struct DbParam
{
	const char *value;
	int length; /* binary ones */
	bool binary;
} DbParam;

/* A bigint or integer as text: DB_INT(n) lives as long as the enclosing block. */
#define DB_TEXT(text) ((DbParam){(text), 0, false})
#define DB_INT(number) ((DbParam){db_int_text((char[24]){0}, (number)), 0, false})
#define DB_BOOL(yes) ((DbParam){(yes) ? "true" : "false", 0, false})
#define DB_BYTES(bytes, length) ((DbParam){(const char *) (bytes), (length), true})
extern char *db_int_text(char buffer[24], int64_t number);

/* role is what pg_stat_activity shows behind "sentinai-worker intake". Doesn't connect. NULL: no memory. */
extern Db *db_new(Worker *w, const char *role);
extern void db_free(Db *db);

/* Waits until there is a session. False: the process is stopping. */
extern bool db_connect(Db *db);
/* One attempt, unless one is not due yet; never waits longer than connect_timeout. True: there is a session. */
extern bool db_try_connect(Db *db);
extern bool db_connected(const Db *db);
/* A number that differs for each session: what was prepared or locked in the last one is gone. 0: never connected. */
extern int db_session(const Db *db);

/*
 * Runs the statement and waits for its result. NULL: it failed, or there is no session (kind DB_INFRASTRUCTURE). The
 * result is the caller's (PQclear). When the phase reaches PHASE_ABORTING the statement is cancelled.
 */
extern PGresult *db_call(Db *db, const DbStatement *statement, const DbParam *params);
/* The same, with a result of binary values: read them by column. */
extern PGresult *db_call_binary(Db *db, const DbStatement *statement, const DbParam *params);
/* The same without preparing, for --check and the like: text parameters, any SQL. */
extern PGresult *db_query(Db *db, const char *sql, int n_params, const DbParam *params);

/* Of the last call; DB_OK after a good one. */
extern const DbError *db_error(const Db *db);

/* Cancels what the thread of this Db waits for now (an outbox_wait). Thread: any, as long as the Db lives. */
extern void db_interrupt(Db *db);

/* The fields of a result by name; NULL or the given value where the field is NULL or missing. */
extern const char *db_text(const PGresult *res, int row, const char *name);
extern int64_t db_int(const PGresult *res, int row, const char *name, int64_t otherwise);
extern bool db_bool(const PGresult *res, int row, const char *name);

/* By the SQLSTATE alone. */
extern DbErrorKind db_error_kind(const char *sqlstate);

/* The connection broke in the call, and nothing that the server said explains it: its backend may have crashed. */
static inline bool
db_error_crash(const DbError *error)
{
	return error->lost && db_error_kind(error->sqlstate) == DB_OTHER;
}

/* The live session, for what isn't covered here (PQserverVersion). NULL: none. */
extern PGconn *db_raw(Db *db);

#endif /* WORKER_DB_H */
