/*
 * health_db.h
 *	  The HTTP side's own connection to the database. It gives up within seconds, and no pump ever waits for it.
 *
 * Any thread may ask; one question at a time.
 */
#ifndef WORKER_HEALTH_DB_H
#define WORKER_HEALTH_DB_H

#include <stdbool.h>
#include <stddef.h>

#include <libpq-fe.h>

/* Connecting, and a question, may each take so long. */
#define HEALTH_DB_TIMEOUT_MS 2000

typedef struct HealthDb HealthDb;

extern HealthDb *health_db_new(const char *database_url);
extern void health_db_free(HealthDb *db);

/*
 * The rows, which the caller clears, or NULL, and error says why (one line, no secret). wait: behind another question;
 * otherwise that, too, is NULL.
 */
extern PGresult *health_db_ask(HealthDb *db, const char *sql, bool wait, char *error, size_t size);

#endif /* WORKER_HEALTH_DB_H */
