/*
 * metrics.h
 *	  Counting what is handled, in shared memory. metrics() and its text are in sql/65_metrics.sql.
 */
#ifndef SENTINAI_METRICS_H
#define SENTINAI_METRICS_H

#include "postgres.h"

/*
 * n events of one kind had this outcome. Counted when the transaction commits, forgotten when it aborts: call it outside
 * of subtransactions that may be undone. error_type NULL or "": none. seconds: mean time of handling one of them, 0
 * if they were not handled (a duplicate, a parked one), so that they don't enter the histogram.
 */
extern void sn_metric_handled(const char *worker_type, const char *event_type, const char *tenant_id,
							  const char *status, const char *error_type, int64 n, double seconds);

/* This backend is handling n events now; the end of the transaction sets it back to 0. */
extern void sn_metric_processing(int n);

extern Size sn_metrics_shmem_size(void);
extern void sn_metrics_shmem_init(void);
extern void sn_metrics_install(void);

#endif /* SENTINAI_METRICS_H */
