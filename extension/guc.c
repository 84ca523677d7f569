/*
 * guc.c
 *	  One row a setting, in alphabetical order: name, default, range, unit, who may set it, what it means.
 *
 * A table for each type of setting. docs/settings.md is tested against pg_settings, so what stands here is what it says.
 */
#include "sentinai.h"

#include <limits.h>

#include "utils/guc.h"
#include "utils/timestamp.h"

#include "caller.h"
#include "guc.h"
#include "point.h"
#include "shmem.h"

#define SN_DAY (24 * 60 * 60)

enum
{
	SN_EVENT_LOG_FULL,
	SN_EVENT_LOG_FAILURES
};

static const struct config_enum_entry event_log_modes[] = {{"full", SN_EVENT_LOG_FULL, false},
														   {"failures", SN_EVENT_LOG_FAILURES, false},
														   {NULL, 0, false}};

bool sn_allow_future_schema;
char *sn_authenticator;
char *sn_databases;
int sn_dedupe_generation_rows;
int sn_dedupe_window;
int sn_deferred_max;
int sn_emit_idle_timeout_ms;
const char *sn_event_log_mode = "full";
int sn_event_retention;
int sn_flush_interval_ms;
int sn_handler_timeout_ms;
int sn_idempotency_retention;
int sn_maintenance_interval_ms;
int sn_max_event_bytes;
int sn_max_event_depth;
int sn_metric_series_max;
bool sn_metrics_include_tenant_id;
int sn_outbox_rotation_period_ms;
int sn_pending_max;
int sn_rate_limit_slots;
pg_tz *sn_rate_limit_time_zone;
int sn_report_max_range;
int sn_report_pdf_max_rows;
char *sn_report_pdf_program;
int sn_report_retention;
int sn_report_timeout_ms;
int sn_report_workers;
char *sn_tenant_id;
TimestampTz sn_test_clock;
int sn_usage_day_retention;
int sn_usage_hour_retention;
int sn_usage_minute_retention;

static int event_log_mode;
static char *change_actor; /* both are read in SQL */
static char *change_reason;
static char *rate_limit_time_zone;
static char *test_clock;

typedef struct BoolSetting
{
	const char *name;
	bool *variable;
	bool boot;
	GucContext context;
	const char *description;
} BoolSetting;

typedef struct IntSetting
{
	const char *name;
	int *variable;
	int boot;
	int min;
	int max;
	int unit;
	GucContext context;
	const char *description;
} IntSetting;

typedef struct StringSetting
{
	const char *name;
	char **variable;
	const char *boot;
	int flags;
	GucContext context;
	const char *description;
	GucStringCheckHook check;
	GucStringAssignHook assign;
} StringSetting;

static const BoolSetting bool_settings[] = {
	{"sentinai.allow_future_schema", &sn_allow_future_schema, false, PGC_SUSET,
	 "Takes events whose version is above 1."},
	{"sentinai.metrics_include_tenant_id", &sn_metrics_include_tenant_id, false, PGC_SUSET,
	 "Counts by tenant in metrics(); otherwise the label tenant_id is \"all\"."},
};

static const IntSetting int_settings[] = {
	{"sentinai.dedupe_generation_rows", &sn_dedupe_generation_rows, 50000000, 1, INT_MAX, 0, PGC_SIGHUP,
	 "Number of identities after which a new generation of event_processing_log is begun early."},
	{"sentinai.dedupe_window", &sn_dedupe_window, 7 * SN_DAY, 1, INT_MAX, GUC_UNIT_S, PGC_SIGHUP,
	 "How long an identity is remembered at least, so that its event is handled once."},
	{"sentinai.deferred_max", &sn_deferred_max, 100000, 1, INT_MAX, 0, PGC_SUSET,
	 "Number of events of a tenant in its queue above which health() names it."},
	{"sentinai.emit_idle_timeout", &sn_emit_idle_timeout_ms, 60 * 1000, 0, INT_MAX, GUC_UNIT_MS, PGC_SIGHUP,
	 "Ends a transaction that has emitted and is idle for this long, since it holds the outbox; 0 never ends one."},
	{"sentinai.event_retention", &sn_event_retention, 30 * SN_DAY, 1, INT_MAX, GUC_UNIT_S, PGC_SIGHUP,
	 "How long event_log is kept; whole days go at once."},
	{"sentinai.flush_interval", &sn_flush_interval_ms, 1000, 10, 60 * 60 * 1000, GUC_UNIT_MS, PGC_SIGHUP,
	 "How often the counts of rate limits are written to rate_limit_usage: what a crash may forget."},
	{"sentinai.handler_timeout", &sn_handler_timeout_ms, 30 * 1000, 1, 60 * 60 * 1000, GUC_UNIT_MS, PGC_SUSET,
	 "Longest time of one call of a handler that has no time of its own."},
	{"sentinai.idempotency_retention", &sn_idempotency_retention, SN_DAY, 1, INT_MAX, GUC_UNIT_S, PGC_SIGHUP,
	 "How long an idempotency key and its answer are kept at least."},
	{"sentinai.maintenance_interval", &sn_maintenance_interval_ms, 1000, 10, 60 * 60 * 1000, GUC_UNIT_MS, PGC_SIGHUP,
	 "Shortest time between two rounds of the maintenance worker."},
	{"sentinai.max_event_bytes", &sn_max_event_bytes, 1024 * 1024, 1024, 128 * 1024 * 1024, GUC_UNIT_BYTE, PGC_SIGHUP,
	 "Largest value of a record that is taken as an event; above it is a dead letter."},
	{"sentinai.max_event_depth", &sn_max_event_depth, 128, 1, 1000, 0, PGC_SIGHUP,
	 "Deepest nesting of arrays and objects in an event; above it is a dead letter."},
	{"sentinai.metric_series_max", &sn_metric_series_max, 10000, 100, 1000000, 0, PGC_POSTMASTER,
	 "Number of series that shared memory has room for; further ones are counted as dropped."},
	{"sentinai.outbox_rotation_period", &sn_outbox_rotation_period_ms, 30 * 1000, 10, INT_MAX, GUC_UNIT_MS, PGC_SIGHUP,
	 "How long rows are written to one table of the outbox before the next one's turn."},
	{"sentinai.pending_max", &sn_pending_max, 100000, 1, INT_MAX, 0, PGC_SUSET,
	 "Number of waiting events of a worker type above which no further records are read."},
	{"sentinai.rate_limit_slots", &sn_rate_limit_slots, 100000, 1000, 100000000, 0, PGC_POSTMASTER,
	 "Number of pairs of tenant and limit type that shared memory counts at once."},
	{"sentinai.report_max_range", &sn_report_max_range, 366 * SN_DAY, 1, INT_MAX, GUC_UNIT_S, PGC_SIGHUP,
	 "Longest period that one report may be about."},
	{"sentinai.report_pdf_max_rows", &sn_report_pdf_max_rows, 100000, 1, INT_MAX, 0, PGC_SIGHUP,
	 "Number of rows above which a report can't be a PDF."},
	{"sentinai.report_retention", &sn_report_retention, SN_DAY, 1, INT_MAX, GUC_UNIT_S, PGC_SIGHUP,
	 "How long the bytes of a completed report are kept."},
	{"sentinai.report_timeout", &sn_report_timeout_ms, 60 * 60 * 1000, 100, INT_MAX, GUC_UNIT_MS, PGC_SIGHUP,
	 "Longest time that a report may take to read its rows."},
	{"sentinai.report_workers", &sn_report_workers, 2, 0, SN_MAX_REPORT_WORKERS, 0, PGC_SIGHUP,
	 "Number of reports that are made at once in a database; 0 leaves them waiting."},
	{"sentinai.usage_day_retention", &sn_usage_day_retention, 3653 * SN_DAY, SN_DAY, INT_MAX, GUC_UNIT_S, PGC_SIGHUP,
	 "How long usage is kept, by the day."},
	{"sentinai.usage_hour_retention", &sn_usage_hour_retention, 90 * SN_DAY, 0, INT_MAX, GUC_UNIT_S, PGC_SIGHUP,
	 "How long usage is kept by the hour; older hours become days."},
	{"sentinai.usage_minute_retention", &sn_usage_minute_retention, 2 * SN_DAY, 0, INT_MAX, GUC_UNIT_S, PGC_SIGHUP,
	 "How long usage is kept by the minute; older minutes become hours."},
};

static bool
time_zone_check(char **newval, void **extra, GucSource source)
{
	pg_tz *zone = pg_tzset(*newval);

	if (zone == NULL || !pg_tz_acceptable(zone))
	{
		GUC_check_errdetail("\"%s\" is not a time zone.", *newval);
		return false;
	}
	*extra = SN_GUC_MALLOC(sizeof(pg_tz *));
	if (*extra == NULL)
		return false;
	*(pg_tz **) *extra = zone;
	return true;
}

static void
time_zone_assign(const char *newval, void *extra)
{
	sn_rate_limit_time_zone = *(pg_tz **) extra;
}

/* Empty: the real clock. */
static bool
test_clock_check(char **newval, void **extra, GucSource source)
{
	TimestampTz clock = 0;

	if (**newval != '\0')
		clock = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(*newval),
														ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	*extra = SN_GUC_MALLOC(sizeof(TimestampTz));
	if (*extra == NULL)
		return false;
	*(TimestampTz *) *extra = clock;
	return true;
}

static void
test_clock_assign(const char *newval, void *extra)
{
	sn_test_clock = *(TimestampTz *) extra;
}

static const StringSetting string_settings[] = {
	{"sentinai.authenticator", &sn_authenticator, "authenticator", 0, PGC_SIGHUP,
	 "The role as which PostgREST logs in: in its sessions the claims of the request's token say who asks.", NULL,
	 sn_caller_setting_changed},
	{"sentinai.change_actor", &change_actor, "", 0, PGC_USERSET,
	 "Who changes a limit by hand: goes to rate_limit_history.actor.", NULL, NULL},
	{"sentinai.change_reason", &change_reason, "", 0, PGC_USERSET,
	 "Why a limit is changed by hand: goes to rate_limit_history.reason.", NULL, NULL},
	{"sentinai.databases", &sn_databases, "", GUC_LIST_INPUT, PGC_SIGHUP,
	 "Names of the databases that get a maintenance worker once they are active; empty: all.", NULL, NULL},
	{"sentinai.rate_limit_time_zone", &rate_limit_time_zone, "UTC", 0, PGC_SIGHUP,
	 "Whose midnight begins a window of a day.", time_zone_check, time_zone_assign},
	{"sentinai.report_pdf_program", &sn_report_pdf_program, "sentinai-report-pdf", 0, PGC_SIGHUP,
	 "Program that draws reports as PDF; without a path it is looked for beside the server's own, then in its PATH.",
	 NULL, NULL},
	{"sentinai.tenant_id", &sn_tenant_id, "", 0, PGC_USERSET,
	 "The tenant that a role chooses that is bound to several, or to every one.", sn_caller_tenant_id_check,
	 sn_caller_setting_changed},
	{"sentinai.test_clock", &test_clock, "", GUC_NOT_IN_SAMPLE, PGC_SUSET,
	 "For tests: the time that limits, usage, idempotency keys and the expiry of reports go by; empty: now.",
	 test_clock_check, test_clock_assign},
};

static void
event_log_mode_assign(int newval, void *extra)
{
	sn_event_log_mode = event_log_modes[newval].name;
}

void
sn_guc_define(void)
{
	for (int i = 0; i < lengthof(bool_settings); i++)
	{
		const BoolSetting *s = &bool_settings[i];

		DefineCustomBoolVariable(s->name, s->description, NULL, s->variable, s->boot, s->context, 0, NULL, NULL, NULL);
	}
	for (int i = 0; i < lengthof(int_settings); i++)
	{
		const IntSetting *s = &int_settings[i];

		DefineCustomIntVariable(s->name, s->description, NULL, s->variable, s->boot, s->min, s->max, s->context,
								s->unit, NULL, NULL, NULL);
	}
	for (int i = 0; i < lengthof(string_settings); i++)
	{
		const StringSetting *s = &string_settings[i];

		DefineCustomStringVariable(s->name, s->description, NULL, s->variable, s->boot, s->context, s->flags, s->check,
								   s->assign, NULL);
	}
	DefineCustomEnumVariable("sentinai.event_log_mode", "What event_log keeps: every event, or only those that failed.",
							 NULL, &event_log_mode, SN_EVENT_LOG_FULL, event_log_modes, PGC_SIGHUP, 0, NULL,
							 event_log_mode_assign, NULL);
	sn_point_define();
	MarkGUCPrefixReserved("sentinai");
}
