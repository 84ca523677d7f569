/*
 * health_db.c
 *	  One connection, non-blocking libpq under a deadline; see health_db.h.
 *
 * A connection that failed is not tried again for RETRY_MS, so that scrapes of a worker whose database is away stay quick.
 */
#include "health_db.h"

#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker.h"

#define RETRY_MS 1000

struct HealthDb
{
	pthread_mutex_t mutex; /* guards all that follows; held for a question */
	char *url;
	PGconn *conn; /* NULL: none */
	int64_t retry_at_ms;
	char error[256]; /* of the last failure */
};

HealthDb *
health_db_new(const char *database_url)
{
	HealthDb *db = calloc(1, sizeof(HealthDb));

	if (db == NULL)
		abort();
	pthread_mutex_init(&db->mutex, NULL);
	db->url = strdup(database_url);
	return db;
}

void
health_db_free(HealthDb *db)
{
	if (db == NULL)
		return;
	PQfinish(db->conn);
	free(db->url);
	pthread_mutex_destroy(&db->mutex);
	free(db);
}

/* The first line of a message of libpq. */
static void
keep_error(HealthDb *db, const char *message)
{
	snprintf(db->error, sizeof(db->error), "%.*s", (int) strcspn(message, "\n"), message);
}

/* False when the deadline has passed. */
static bool
wait_socket(PGconn *conn, short events, int64_t deadline_ms)
{
	struct pollfd fd = {PQsocket(conn), events, 0};
	int64_t left = deadline_ms - now_ms();

	return left > 0 && poll(&fd, 1, (int) left) >= 0 && now_ms() < deadline_ms;
}

static bool
finish_connecting(HealthDb *db, int64_t deadline_ms)
{
	PostgresPollingStatusType state = PGRES_POLLING_WRITING;

	while (PQstatus(db->conn) != CONNECTION_BAD && state != PGRES_POLLING_FAILED)
	{
		if (state == PGRES_POLLING_OK)
			return true;
		if (!wait_socket(db->conn, state == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline_ms))
		{
			keep_error(db, "timeout while connecting");
			return false;
		}
		state = PQconnectPoll(db->conn);
	}
	keep_error(db, PQerrorMessage(db->conn));
	return false;
}

/* The last result of the SQL, or NULL. */
static PGresult *
query(HealthDb *db, const char *sql, int64_t deadline_ms)
{
	PGresult *last = NULL;
	PGresult *result;

	if (!PQsendQuery(db->conn, sql))
	{
		keep_error(db, PQerrorMessage(db->conn));
		return NULL;
	}
	for (;;)
	{
		while (PQisBusy(db->conn))
		{
			if (!wait_socket(db->conn, POLLIN, deadline_ms))
			{
				keep_error(db, "timeout while waiting for an answer");
				PQclear(last);
				return NULL;
			}
			if (!PQconsumeInput(db->conn))
				break;
		}
		if ((result = PQgetResult(db->conn)) == NULL)
			return last;
		PQclear(last);
		last = result;
		if (PQresultStatus(last) == PGRES_FATAL_ERROR)
			keep_error(db, PQresultErrorField(last, PG_DIAG_MESSAGE_PRIMARY) != NULL
							   ? PQresultErrorField(last, PG_DIAG_MESSAGE_PRIMARY)
							   : PQresultErrorMessage(last));
	}
}

static void
give_up(HealthDb *db)
{
	PQfinish(db->conn);
	db->conn = NULL;
	db->retry_at_ms = now_ms() + RETRY_MS;
}

static bool
connected(HealthDb *db)
{
	const char *names[] = {"dbname", "fallback_application_name", NULL};
	const char *values[] = {db->url, "sentinai health", NULL};
	int64_t deadline_ms = now_ms() + HEALTH_DB_TIMEOUT_MS;
	char sql[200];

	if (db->conn != NULL && PQstatus(db->conn) == CONNECTION_OK)
		return true;
	if (now_ms() < db->retry_at_ms)
		return false;
	PQfinish(db->conn);
	db->conn = PQconnectStartParams(names, values, 1);
	if (db->conn == NULL || !finish_connecting(db, deadline_ms))
	{
		give_up(db);
		return false;
	}
	snprintf(sql, sizeof(sql),
			 "SET search_path = pg_catalog, sentinai, pg_temp; SET statement_timeout = %d;"
			 "SET default_transaction_read_only = on; SET application_name = 'sentinai health'",
			 HEALTH_DB_TIMEOUT_MS);
	PQclear(query(db, sql, deadline_ms));
	return true;
}

PGresult *
health_db_ask(HealthDb *db, const char *sql, bool wait, char *error, size_t size)
{
	PGresult *result = NULL;

	if (wait)
		pthread_mutex_lock(&db->mutex);
	else if (pthread_mutex_trylock(&db->mutex) != 0)
	{
		snprintf(error, size, "busy");
		return NULL;
	}
	/* twice: the session may have ended since the last question */
	for (int i = 0; i < 2 && connected(db); i++)
	{
		bool answered;
		bool broken;

		result = query(db, sql, now_ms() + HEALTH_DB_TIMEOUT_MS + 500);
		if (result != NULL && PQresultStatus(result) == PGRES_TUPLES_OK)
			break;
		answered = result != NULL;
		broken = PQstatus(db->conn) == CONNECTION_BAD;
		PQclear(result);
		result = NULL;
		if (broken || !answered)
		{
			PQfinish(db->conn);
			db->conn = NULL;
		}
		if (!broken)
			break;
	}
	if (result == NULL)
		snprintf(error, size, "%s", db->error);
	pthread_mutex_unlock(&db->mutex);
	return result;
}
