/*
 * guc.h
 *	  The settings of the extension, as the code reads them. guc.c says what each means.
 */
#ifndef SENTINAI_GUC_H
#define SENTINAI_GUC_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "pgtime.h"

extern bool sn_allow_future_schema;
extern char *sn_authenticator; /* name of a role */
extern char *sn_databases;	   /* list of names; empty: all */
extern int sn_dedupe_generation_rows;
extern int sn_dedupe_window; /* seconds */
extern int sn_deferred_max;
extern int sn_emit_idle_timeout_ms;
extern const char *sn_event_log_mode; /* "full" or "failures" */
extern int sn_event_retention;		  /* seconds */
extern int sn_flush_interval_ms;
extern int sn_handler_timeout_ms;
extern int sn_idempotency_retention;
extern int sn_maintenance_interval_ms;
extern int sn_max_event_bytes;
extern int sn_max_event_depth;
extern int sn_metric_series_max;
extern bool sn_metrics_include_tenant_id;
extern int sn_outbox_rotation_period_ms;
extern int sn_pending_max;
extern int sn_rate_limit_slots;
extern pg_tz *sn_rate_limit_time_zone;
extern int sn_report_max_range; /* seconds */
extern int sn_report_pdf_max_rows;
extern char *sn_report_pdf_program;
extern int sn_report_retention; /* seconds */
extern int sn_report_timeout_ms;
extern int sn_report_workers;
extern char *sn_tenant_id;		   /* as the session chose it, or empty */
extern TimestampTz sn_test_clock;  /* 0: the real clock */
extern int sn_usage_day_retention; /* seconds, as the next two */
extern int sn_usage_hour_retention;
extern int sn_usage_minute_retention;

extern void sn_guc_define(void);

#endif /* SENTINAI_GUC_H */
