/*
 * health.h
 *	  The HTTP answers that follow from the state of the process. The state itself, and who sets it, is in worker.h; what the
 *	  database knows of itself and of other workers is asked through health_db.h.
 *
 * Each function returns the HTTP status and makes *body, a JSON object that the caller frees. Thread: any; none waits.
 */
#ifndef WORKER_HEALTH_H
#define WORKER_HEALTH_H

#include <stdint.h>

#include "worker.h"

/* /healthz is 503 when the poll loop has not turned for so long. */
#define HEALTH_TURN_MS 30000

/* Always 200: what is wrong is `status` and `checks`. */
extern int health_summary(Worker *w, char **body);

/* 503: the process hangs, and only a restart helps. now: now_ms(). */
extern int health_healthz(Worker *w, int64_t now, char **body);

/* 503: it can't work now, or not yet. `missing` says what for. */
extern int health_readyz(Worker *w, char **body);

/* The gauges of connections. */
extern void health_export(Worker *w);

#endif /* WORKER_HEALTH_H */
