/*
 * http.h
 *	  The worker's HTTP port: /metrics, /health, /health/db, /health/workers, /healthz, /readyz.
 *
 * It reads the process's state (health.h) and counters (metrics.h), and asks the database over a connection of its own (health_db.h). It has
 * threads of its own, and no pump waits for it.
 */
#ifndef WORKER_HTTP_H
#define WORKER_HTTP_H

typedef struct Worker Worker;
typedef struct Http Http;

/*
 * Listens on the configured address, and on port or, where that is taken, the next free of port + 10 ... port + 90, which
 * goes to w->http_port. NULL: none of them could be had, and the log says why; the worker works without it.
 */
extern Http *http_start(Worker *w, int port);
extern void http_stop(Http *http);

#endif /* WORKER_HTTP_H */
