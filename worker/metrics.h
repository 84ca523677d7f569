/*
 * metrics.h
 *	  What this process has counted, as Prometheus text. The database's totals are another thing: sentinai.metrics().
 *
 * Any thread may call anything here: one mutex guards all of it and is held for a few microseconds, for a scrape as long as
 * it takes to write the text. Names, types and help are the table families[] in metrics.c; docs/metrics.md explains them.
 */
#ifndef WORKER_METRICS_H
#define WORKER_METRICS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct Metrics Metrics;

/* Copies the names. include_tenant: label tenant_id says which, else `all`. */
extern Metrics *metrics_new(const char *worker_type, const char *group_id, bool include_tenant);
/* Once the database has told: the label group_id of lag. */
extern void metrics_set_group(Metrics *m, const char *group_id);
extern void metrics_free(Metrics *m);

/* The stats of one answer of consume(); NULL counts nothing. False: that was no such array, nothing is counted. */
extern bool metrics_record_stats(Metrics *m, const char *stats_json);

/* Events that a call of consume() is out with: +n before it, -n after it. */
extern void metrics_in_processing(Metrics *m, int delta);

/* Records of the partition that the group has not handled yet; -1: the partition is no longer ours. */
extern void metrics_set_lag(Metrics *m, const char *topic, int32_t partition, int64_t lag);

/* Rows of the outbox that the database knows to be published now. */
extern void metrics_published(Metrics *m, int64_t rows);
extern void metrics_publish_failure(Metrics *m, const char *topic);
extern void metrics_set_publisher(Metrics *m, bool active, int64_t in_flight, int blocked_topics);

/*
 * Open dead letters: begin, one call a tenant, end. A failed look-up is begin and end alone with known = false: no figure
 * is better than an old one.
 */
extern void metrics_dlq_begin(Metrics *m);
extern void metrics_dlq_size(Metrics *m, const char *tenant_id, int64_t size);
extern void metrics_dlq_end(Metrics *m, bool known);

/* 1 or 0 for the connections to "database" or "broker". */
extern void metrics_set_connection(Metrics *m, const char *to, bool up);

/* The text; the caller frees it. */
extern char *metrics_render(Metrics *m);

#endif /* WORKER_METRICS_H */
