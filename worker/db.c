/*
 * db.c
 *	  One connection to the database, for one thread. See db.h for how it is used.
 *
 * libpq is driven without blocking, so that a wait for the server is always a wait for the shutdown too: connecting stops
 * at PHASE_STOPPING, a statement in flight is cancelled at PHASE_ABORTING.
 */
#include "db.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

#define BACKOFF_MIN_MS 200
#define BACKOFF_MAX_MS 10000
#define CONNECT_TIMEOUT_MS 10000
#define MAX_PREPARED 32

/* After a cancel the server answers at once, or is not there. */
#define CANCEL_WAIT_MS 2000

struct Db
{
	Worker *w;
	char application_name[64];
	PGconn *conn; /* NULL: no session */
	int session;
	bool down; /* counted in connections_down */
	bool up;   /* counted in connections_up */
	int64_t backoff_ms;
	int64_t next_attempt_ms;
	DbError error;
	char farewell[6]; /* SQLSTATE with which the server ended the session, "": it said nothing */
	const DbStatement *prepared[MAX_PREPARED];
	int n_prepared;

	pthread_mutex_t cancel_lock; /* guards cancel, which db_interrupt() uses from other threads */
	PGcancel *cancel;
};

char *
db_int_text(char buffer[24], int64_t number)
{
	snprintf(buffer, 24, "%" PRId64, number);
	return buffer;
}

/* ---- errors ---- */

DbErrorKind
db_error_kind(const char *sqlstate)
{
	static const char *const classes[] = {"08", "53", "57", "58"};

	for (int i = 0; i < 4; i++)
		if (strncmp(sqlstate, classes[i], 2) == 0)
			return DB_INFRASTRUCTURE;
	/* Read only: the session has found a standby. */
	return strcmp(sqlstate, "25006") == 0 ? DB_INFRASTRUCTURE : DB_OTHER;
}

/* The first line of a text without the severity in front. */
static void
copy_line(char *to, size_t size, const char *text)
{
	size_t length;

	to[0] = '\0';
	if (text == NULL)
		return;
	length = strcspn(text, "\n");
	snprintf(to, size, "%.*s", (int) length, text);
}

static void
error_clear(Db *db)
{
	memset(&db->error, 0, sizeof(db->error));
}

static void
error_lost(Db *db, const char *text)
{
	error_clear(db);
	db->error.kind = DB_INFRASTRUCTURE;
	db->error.lost = true;
	copy_line(db->error.message, sizeof(db->error.message),
			  text == NULL || *text == '\0' ? "no connection to the database" : text);
}

static void
error_result(Db *db, const PGresult *res)
{
	const char *sqlstate = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	error_clear(db);
	snprintf(db->error.sqlstate, sizeof(db->error.sqlstate), "%s", sqlstate ? sqlstate : "");
	db->error.kind = sqlstate ? db_error_kind(sqlstate) : DB_INFRASTRUCTURE;
	copy_line(db->error.message, sizeof(db->error.message),
			  sqlstate ? PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY) : PQresultErrorMessage(res));
	copy_line(db->error.detail, sizeof(db->error.detail), PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL));
	copy_line(db->error.hint, sizeof(db->error.hint), PQresultErrorField(res, PG_DIAG_MESSAGE_HINT));
}

/* ---- state of the connection, for the process ---- */

static void
count_down(Db *db, const char *reason, const char *hint)
{
	if (!db->down)
	{
		db->down = true;
		atomic_fetch_add(&db->w->connections_down, 1);
	}
	if (db->up)
	{
		db->up = false;
		atomic_fetch_sub(&db->w->connections_up, 1);
	}
	health_bad(db->w, HEALTH_DATABASE, reason, hint);
}

static void
count_up(Db *db)
{
	if (!db->up)
	{
		db->up = true;
		atomic_fetch_add(&db->w->connections_up, 1);
	}
	if (!db->down)
		return;
	db->down = false;
	if (atomic_fetch_sub(&db->w->connections_down, 1) == 1)
		health_good(db->w, HEALTH_DATABASE);
}

static void
set_cancel(Db *db, PGcancel *cancel)
{
	pthread_mutex_lock(&db->cancel_lock);
	if (db->cancel != NULL)
		PQfreeCancel(db->cancel);
	db->cancel = cancel;
	pthread_mutex_unlock(&db->cancel_lock);
}

static void
close_session(Db *db)
{
	set_cancel(db, NULL);
	if (db->conn != NULL)
		PQfinish(db->conn);
	db->conn = NULL;
	db->n_prepared = 0;
}

/* The session is gone, or in doubt: error says why. */
static void
lose(Db *db)
{
	close_session(db);
	if (db->error.sqlstate[0] == '\0')
		snprintf(db->error.sqlstate, sizeof(db->error.sqlstate), "%s", db->farewell);
	db->error.lost = true;
	db->error.kind = DB_INFRASTRUCTURE;
	count_down(db, db->error.message, db->error.hint);
}

/* ---- waiting ---- */

typedef enum Waited
{
	WAITED_READY,
	WAITED_TIMEOUT,
	WAITED_STOP
} Waited;

/* For the socket, or for the phase that stop_fd stands for. ms < 0: as long as it takes. */
static Waited
wait_socket(PGconn *conn, short events, int stop_fd, int64_t ms)
{
	struct pollfd fds[2] = {{PQsocket(conn), events, 0}, {stop_fd, POLLIN, 0}};
	int n = poll(fds, stop_fd < 0 ? 1 : 2, (int) ms);

	if (n < 0)
		return errno == EINTR ? WAITED_READY : WAITED_TIMEOUT;
	if (n == 0)
		return WAITED_TIMEOUT;
	if (fds[0].revents != 0)
		return WAITED_READY;
	return WAITED_STOP;
}

static void
send_cancel(Db *db)
{
	char why[256];

	pthread_mutex_lock(&db->cancel_lock);
	if (db->cancel != NULL && !PQcancel(db->cancel, why, sizeof(why)))
		log_debug("could not cancel a statement", F_TEXT("error", why));
	pthread_mutex_unlock(&db->cancel_lock);
}

void
db_interrupt(Db *db)
{
	send_cancel(db);
}

/*
 * Class 57P says that the server ends the session: a shutdown (57P01, an error), or another session's crash (57P02, a
 * notice). What libpq says itself when the connection breaks comes after it, and would hide it.
 */
static void
note_farewell(Db *db, const PGresult *res)
{
	const char *sqlstate = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	if (sqlstate != NULL && strncmp(sqlstate, "57P", 3) == 0)
		snprintf(db->farewell, sizeof(db->farewell), "%s", sqlstate);
}

/*
 * The result of what was sent. At PHASE_ABORTING the statement is cancelled; a server that doesn't answer then is given up.
 */
static PGresult *
take_result(Db *db)
{
	int stop_fd = db->w->abort_fd;
	int64_t timeout = -1;
	PGresult *last = NULL;
	PGresult *res;

	for (;;)
	{
		while (PQisBusy(db->conn))
		{
			switch (wait_socket(db->conn, POLLIN, stop_fd, timeout))
			{
				case WAITED_STOP:
					send_cancel(db);
					stop_fd = -1;
					timeout = CANCEL_WAIT_MS;
					break;
				case WAITED_TIMEOUT:
					PQclear(last);
					return NULL;
				case WAITED_READY:
					if (!PQconsumeInput(db->conn))
					{
						PQclear(last);
						return NULL;
					}
			}
		}
		res = PQgetResult(db->conn);
		if (res == NULL)
			return last;
		note_farewell(db, res);
		PQclear(last);
		last = res;
	}
}

/* True: res is good. Else error is set, res cleared, and the session lost where it must be. */
static bool
check_result(Db *db, PGresult **res)
{
	ExecStatusType status = *res == NULL ? PGRES_FATAL_ERROR : PQresultStatus(*res);

	if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK)
	{
		error_clear(db);
		return true;
	}
	if (*res != NULL && PQresultErrorField(*res, PG_DIAG_SQLSTATE) != NULL)
		error_result(db, *res);
	else
		error_lost(db, PQerrorMessage(db->conn));
	PQclear(*res);
	*res = NULL;
	if (db->error.sqlstate[0] == '\0' || PQstatus(db->conn) != CONNECTION_OK ||
		strcmp(db->error.sqlstate, "25006") == 0)
		lose(db);
	return false;
}

/* Everything to the server, reading what comes meanwhile so that neither side waits for the other. */
static bool
flush(Db *db)
{
	int rest;

	while ((rest = PQflush(db->conn)) > 0)
	{
		Waited waited = wait_socket(db->conn, POLLIN | POLLOUT, db->w->abort_fd, -1);

		if (waited != WAITED_READY || !PQconsumeInput(db->conn))
			return false;
	}
	return rest == 0;
}

/* sent: what PQsend...() answered. */
static PGresult *
finish_call(Db *db, int sent)
{
	PGresult *res;

	if (!sent || !flush(db))
	{
		error_lost(db, PQerrorMessage(db->conn));
		lose(db);
		return NULL;
	}
	res = take_result(db);
	check_result(db, &res);
	return res;
}

/* ---- connecting ---- */

static PGconn *
connect_start(Db *db)
{
	/* What stands before dbname gives way to the URL, what stands behind it doesn't. */
	static const char *const keywords[] = {"keepalives_idle",  "keepalives_interval",		"keepalives_count",
										   "tcp_user_timeout", "target_session_attrs",		"dbname",
										   "client_encoding",  "fallback_application_name", NULL};
	const char *values[] = {
		"10", "5", "3", "30000", "read-write", db->w->config.database_url, "UTF8", db->application_name, NULL};

	return PQconnectStartParams(keywords, values, 1);
}

/* Several addresses and hosts may be tried one after the other: the limit is for all of them. */
static bool
connect_finish(Db *db)
{
	int64_t limit = now_ms() + CONNECT_TIMEOUT_MS;
	PostgresPollingStatusType state = PGRES_POLLING_WRITING;

	while (state != PGRES_POLLING_OK && state != PGRES_POLLING_FAILED)
	{
		Waited waited = wait_socket(db->conn, state == PGRES_POLLING_WRITING ? POLLOUT : POLLIN, db->w->stop_fd,
									limit - now_ms() > 0 ? limit - now_ms() : 0);

		if (waited != WAITED_READY)
		{
			error_lost(db, waited == WAITED_STOP ? "the process stops" : "time-out while connecting to the database");
			return false;
		}
		state = PQconnectPoll(db->conn);
	}
	if (state == PGRES_POLLING_FAILED)
		error_lost(db, PQerrorMessage(db->conn));
	return state == PGRES_POLLING_OK;
}

/* Settings of a session; a role's or database's defaults must not end long calls or hide our names. */
static bool
setup_session(Db *db)
{
	static const char sql[] =
		"SELECT pg_catalog.set_config(s.name, s.value, false) FROM (VALUES"
		" ('search_path', 'pg_catalog, pg_temp'), ('statement_timeout', '0'), ('lock_timeout', '0'),"
		" ('idle_session_timeout', '0'), ('jit', 'off'), ('DateStyle', 'ISO'),"
		" ('sentinai.allow_future_schema', $1)) AS s(name, value)";
	DbParam param = DB_TEXT(db->w->config.allow_future_schema ? "on" : "off");
	PGresult *res = db_query(db, sql, 1, &param);

	if (res == NULL && strcmp(db->error.sqlstate, "42501") == 0)
		snprintf(db->error.hint, sizeof(db->error.hint), "GRANT sentinai_worker TO \"%s\"", PQuser(db->conn));
	PQclear(res);
	return res != NULL;
}

static void
take_notice(void *arg, const PGresult *res)
{
	note_farewell(arg, res);
	log_debug("notice of the database", F_TEXT("text", PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY)));
}

static void
attempt_failed(Db *db)
{
	DbError why = db->error;

	close_session(db);
	db->error = why;
	db->error.kind = DB_INFRASTRUCTURE;
	db->error.lost = true;
	db->backoff_ms = db->backoff_ms == 0 ? BACKOFF_MIN_MS : db->backoff_ms * 2;
	if (db->backoff_ms > BACKOFF_MAX_MS)
		db->backoff_ms = BACKOFF_MAX_MS;
	db->next_attempt_ms = now_ms() + with_jitter(db->backoff_ms);
	if (!worker_stopping(db->w))
		count_down(db, why.message, why.hint);
}

bool
db_try_connect(Db *db)
{
	if (db->conn != NULL)
		return true;
	if (now_ms() < db->next_attempt_ms)
		return false;
	db->farewell[0] = '\0';
	db->conn = connect_start(db);
	if (db->conn == NULL || PQstatus(db->conn) == CONNECTION_BAD)
	{
		error_lost(db, db->conn == NULL ? "out of memory" : PQerrorMessage(db->conn));
		attempt_failed(db);
		return false;
	}
	PQsetNoticeReceiver(db->conn, take_notice, db);
	if (!connect_finish(db) || PQsetnonblocking(db->conn, 1) != 0)
	{
		attempt_failed(db);
		return false;
	}
	set_cancel(db, PQgetCancel(db->conn));
	if (!setup_session(db))
	{
		attempt_failed(db);
		return false;
	}
	db->session++;
	db->backoff_ms = 0;
	db->next_attempt_ms = 0;
	count_up(db);
	return true;
}

bool
db_connect(Db *db)
{
	while (!worker_stopping(db->w))
	{
		if (db_try_connect(db))
			return true;
		worker_wait(db->w, -1, db->next_attempt_ms - now_ms());
	}
	return false;
}

bool
db_connected(const Db *db)
{
	return db->conn != NULL;
}

int
db_session(const Db *db)
{
	return db->session;
}

Db *
db_new(Worker *w, const char *role)
{
	Db *db = calloc(1, sizeof(Db));

	if (db == NULL)
		return NULL;
	db->w = w;
	snprintf(db->application_name, sizeof(db->application_name), "sentinai-worker %s %s", w->config.worker_type, role);
	pthread_mutex_init(&db->cancel_lock, NULL);
	return db;
}

void
db_free(Db *db)
{
	if (db == NULL)
		return;
	close_session(db);
	if (db->down)
		atomic_fetch_sub(&db->w->connections_down, 1);
	if (db->up)
		atomic_fetch_sub(&db->w->connections_up, 1);
	pthread_mutex_destroy(&db->cancel_lock);
	free(db);
}

/* ---- calls ---- */

typedef struct Arguments
{
	const char *values[DB_MAX_PARAMS];
	int lengths[DB_MAX_PARAMS];
	int formats[DB_MAX_PARAMS];
} Arguments;

static void
pack(Arguments *to, int n, const DbParam *params)
{
	for (int i = 0; i < n; i++)
	{
		to->values[i] = params[i].value;
		to->lengths[i] = params[i].length;
		to->formats[i] = params[i].binary ? 1 : 0;
	}
}

static bool
prepare(Db *db, const DbStatement *statement)
{
	PGresult *res;

	for (int i = 0; i < db->n_prepared; i++)
		if (db->prepared[i] == statement)
			return true;
	res = finish_call(db, PQsendPrepare(db->conn, statement->name, statement->sql, 0, NULL));
	if (res == NULL)
		return false;
	PQclear(res);
	if (db->n_prepared < MAX_PREPARED)
		db->prepared[db->n_prepared++] = statement;
	return true;
}

static PGresult *
call_prepared(Db *db, const DbStatement *statement, const DbParam *params, int result_format)
{
	Arguments arguments;

	if (db->conn == NULL)
	{
		error_lost(db, NULL);
		return NULL;
	}
	if (!prepare(db, statement))
		return NULL;
	pack(&arguments, statement->n_params, params);
	return finish_call(db, PQsendQueryPrepared(db->conn, statement->name, statement->n_params, arguments.values,
											   arguments.lengths, arguments.formats, result_format));
}

PGresult *
db_call(Db *db, const DbStatement *statement, const DbParam *params)
{
	return call_prepared(db, statement, params, 0);
}

PGresult *
db_call_binary(Db *db, const DbStatement *statement, const DbParam *params)
{
	return call_prepared(db, statement, params, 1);
}

PGresult *
db_query(Db *db, const char *sql, int n_params, const DbParam *params)
{
	Arguments arguments;

	if (db->conn == NULL)
	{
		error_lost(db, NULL);
		return NULL;
	}
	pack(&arguments, n_params, params);
	return finish_call(db, PQsendQueryParams(db->conn, sql, n_params, NULL, arguments.values, arguments.lengths,
											 arguments.formats, 0));
}

const DbError *
db_error(const Db *db)
{
	return &db->error;
}

PGconn *
db_raw(Db *db)
{
	return db->conn;
}

/* ---- results ---- */

const char *
db_text(const PGresult *res, int row, const char *name)
{
	int column = PQfnumber(res, name);

	if (column < 0 || row >= PQntuples(res) || PQgetisnull(res, row, column))
		return NULL;
	return PQgetvalue(res, row, column);
}

int64_t
db_int(const PGresult *res, int row, const char *name, int64_t otherwise)
{
	const char *text = db_text(res, row, name);

	return text == NULL ? otherwise : strtoll(text, NULL, 10);
}

bool
db_bool(const PGresult *res, int row, const char *name)
{
	const char *text = db_text(res, row, name);

	return text != NULL && text[0] == 't';
}
