/*
 * maintenance.c
 *	  The background worker of one active database: a short loop over duties.
 *
 * A duty is an SQL function without arguments; an operator can call the same. It runs in a transaction of its own, under
 * a lock_timeout, and returns NULL or why it could not do all its work this time, which is no error: it comes again, and
 * health() says since when it has failed. An error ends the process. The launcher starts it again, with the duty behind
 * the one that failed, so that a broken duty doesn't starve the others.
 *
 * Memory: "sentinai round" is reset each round; nothing else grows.
 */
#include "sentinai.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "guc.h"
#include "launcher.h"
#include "maintenance.h"
#include "shmem.h"

typedef struct Duty
{
	const char *name;
	const char *sql;	/* returns one text: NULL, or why something is left undone */
	int interval_ms;	/* at least sentinai.maintenance_interval */
	const int *setting; /* the interval instead, where it is one */
} Duty;

static const Duty duties[] = {
	{"outbox_idle", "SELECT sentinai.outbox_idle_end()", 1000},
	{"outbox_rotation", "SELECT sentinai.outbox_rotate()", 1000},
	{"dedupe_rotation", "SELECT sentinai.dedupe_rotate()", 1000},
	{"reports", "SELECT sentinai.report_tend()", 1000},
	{"dlq_lost", "SELECT nullif(count(*), count(*))::text FROM sentinai.dlq_lost_check()", 5 * 1000},
	{"key_check", "SELECT nullif(n, n)::text FROM sentinai.key_check() n", 60 * 1000},
	{"event_log_partitions", "SELECT sentinai.event_log_partitions()", 60 * 1000},
	{"event_log_retention", "SELECT sentinai.event_log_retain()", 60 * 1000},
	{"idempotency_retention", "SELECT sentinai.idempotency_retain()", 1000},
	{"rate_limit_flush", "SELECT sentinai.rate_limit_flush()", 0, &sn_flush_interval_ms},
	{"rate_limit_retention", "SELECT sentinai.rate_limit_retain()", 60 * 60 * 1000},
	{"usage_flush", "SELECT sentinai.usage_flush()", 0, &sn_flush_interval_ms},
	{"usage_roll", "SELECT sentinai.usage_roll()", 60 * 1000},
	{"usage_compact", "SELECT sentinai.usage_compact()", 10 * 1000},
	{"usage_storage", "SELECT sentinai.usage_storage()", 10 * 60 * 1000},
	{"worker_instances", "SELECT sentinai.worker_instance_clean()", 60 * 1000},
};

StaticAssertDecl(lengthof(duties) <= SN_MAX_DUTIES, "the status of each duty has a place in shared memory");

static Oid my_database;
static TimestampTz next_run[lengthof(duties)];

/* ---- what others see of us ---- */

static SnDatabase *
entry_lock(void)
{
	SnDatabase *entry;

	LWLockAcquire(sn_shared->launcher_lock, LW_EXCLUSIVE);
	entry = sn_launcher_find(my_database);
	return entry && entry->worker_pid == MyProcPid ? entry : NULL;
}

static void
entry_unlock(void)
{
	LWLockRelease(sn_shared->launcher_lock);
}

static void
set_outcome(SnWorkerEnd outcome)
{
	SnDatabase *entry = entry_lock();

	if (entry)
		entry->outcome = outcome;
	entry_unlock();
}

static void
set_active(void)
{
	SnDatabase *entry = entry_lock();

	if (entry)
		entry->active = true;
	if (sn_shared->launcher_latch)
		SetLatch(sn_shared->launcher_latch);
	entry_unlock();
}

/* message NULL: the duty did all its work. */
static void
set_duty_status(int duty, const char *message)
{
	SnDatabase *entry = entry_lock();

	if (entry)
	{
		SnDutyStatus *status = &entry->duties[duty];

		status->last_run_at = GetCurrentTimestamp();
		if (message == NULL)
			status->failing_since = 0;
		else if (status->failing_since == 0)
			status->failing_since = status->last_run_at;
		strlcpy(status->message, message ? message : "", sizeof(status->message));
	}
	entry_unlock();
}

static int
get_first_duty(void)
{
	SnDatabase *entry = entry_lock();
	int first = entry ? entry->first_duty : 0;

	entry_unlock();
	return first;
}

static void
set_first_duty(int duty)
{
	SnDatabase *entry = entry_lock();

	if (entry)
		entry->first_duty = duty % lengthof(duties);
	entry_unlock();
}

static void
maintenance_exit(int code, Datum arg)
{
	SnDatabase *entry = entry_lock();

	if (entry)
		entry->worker_pid = 0;
	entry_unlock();
}

/* False: the database has a worker already, or somebody wants none in it. */
static bool
maintenance_attach(void)
{
	SnDatabase *entry;
	bool attached = false;

	LWLockAcquire(sn_shared->launcher_lock, LW_EXCLUSIVE);
	entry = sn_launcher_find(my_database);
	if (entry && entry->worker_pid == 0 && entry->hold_pid == 0 && !entry->gone)
	{
		entry->worker_pid = MyProcPid;
		attached = true;
	}
	else if (entry)
		entry->outcome = SN_OUTCOME_STOPPED;
	LWLockRelease(sn_shared->launcher_lock);
	return attached;
}

/* ---- the duties ---- */

/* One text of one row, in the caller's context; NULL: NULL, or no row. */
static char *
query_text(const char *sql)
{
	MemoryContext caller = CurrentMemoryContext;
	char *result = NULL;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(sql, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "\"%s\" is not a query", sql);
	if (SPI_processed == 1)
		result = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (result)
		result = MemoryContextStrdup(caller, result);
	SPI_finish();
	return result;
}

/*
 * Until the end of the transaction nobody drops the extension; DROP EXTENSION takes this lock before all others. False: it
 * is gone, or is being dropped, which is nothing to wait for, and no error.
 */
static bool
extension_hold(void)
{
	Oid extension = get_extension_oid(SN_SCHEMA, true);
	LOCKTAG tag;

	if (!OidIsValid(extension))
		return false;
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ExtensionRelationId, extension, 0);
	if (LockAcquire(&tag, AccessShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	AcceptInvalidationMessages();
	return get_extension_oid(SN_SCHEMA, true) == extension;
}

/* Runs a query in a transaction of its own. The result is in the caller's context. False: see extension_hold(). */
static bool
run_query(const char *sql, char **result)
{
	MemoryContext caller = CurrentMemoryContext;
	bool held;

	*result = NULL;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	pgstat_report_activity(STATE_RUNNING, sql);
	held = extension_hold();
	if (held)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		*result = query_text(sql);
		if (*result)
			*result = MemoryContextStrdup(caller, *result);
		PopActiveSnapshot();
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	return held;
}

/* The error that is being handled, for health(). */
static void
note_error(int duty)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	ErrorData *error = CopyErrorData();

	set_duty_status(duty, error->message);
	set_first_duty(duty + 1);
	FreeErrorData(error);
	MemoryContextSwitchTo(old);
}

static void
duty_run(int i)
{
	int interval_ms = duties[i].setting ? *duties[i].setting : duties[i].interval_ms;
	char *undone;

	PG_TRY();
	{
		if (run_query(duties[i].sql, &undone))
			set_duty_status(i, undone);
	}
	PG_CATCH();
	{
		if (!ShutdownRequestPending)
			note_error(i);
		PG_RE_THROW();
	}
	PG_END_TRY();
	next_run[i] = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Max(interval_ms, sn_maintenance_interval_ms));
}

static void
duties_run(int first)
{
	for (int n = 0; n < lengthof(duties) && !ShutdownRequestPending; n++)
	{
		int i = (first + n) % lengthof(duties);

		if (GetCurrentTimestamp() >= next_run[i])
			duty_run(i);
	}
}

/* ---- the process ---- */

/* Asks for an orderly end and interrupts what is running; die() would log each end as FATAL. */
static void
handle_sigterm(SIGNAL_ARGS)
{
	int save_errno = errno;

	ShutdownRequestPending = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
	errno = save_errno;
}

/* The extension is there and its database active. The table first: there may be no extension, or an old one. */
static bool
database_active(void)
{
	bool there;
	char *active;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	there = OidIsValid(get_relname_relid("activation", get_namespace_oid(SN_SCHEMA, true)));
	CommitTransactionCommand();
	if (!there)
		return false;
	/* One that is being dropped is active until it has been. */
	return !run_query("SELECT true FROM sentinai.activation WHERE database_oid = (SELECT oid"
					  " FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())",
					  &active) ||
		   active != NULL;
}

static void
maintenance_connect(void)
{
	BackgroundWorkerInitializeConnectionByOid(my_database, InvalidOid, 0);
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "100ms", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
}

/* One round; false: the database is not active any more. */
static bool
maintenance_round(int first_duty)
{
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	if (!database_active())
		return false;
	duties_run(first_duty);
	return true;
}

static void
maintenance_loop(void)
{
	MemoryContext round = AllocSetContextCreate(TopMemoryContext, "sentinai round", ALLOCSET_DEFAULT_SIZES);
	int first_duty = get_first_duty();

	MemoryContextSwitchTo(round);
	while (!ShutdownRequestPending)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (!maintenance_round(first_duty))
		{
			set_outcome(SN_OUTCOME_INACTIVE);
			return;
		}
		first_duty = 0;
		MemoryContextReset(round);
		if (!ShutdownRequestPending)
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, sn_maintenance_interval_ms,
							 PG_WAIT_EXTENSION);
	}
	set_outcome(SN_OUTCOME_STOPPED);
}

void
sn_maintenance_main(Datum database)
{
	my_database = DatumGetObjectId(database);

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, handle_sigterm);
	BackgroundWorkerUnblockSignals();
	if (!maintenance_attach())
		proc_exit(0);
	before_shmem_exit(maintenance_exit, (Datum) 0);
	maintenance_connect();
	PG_TRY();
	{
		if (database_active())
		{
			set_active();
			maintenance_loop();
		}
		else
			set_outcome(SN_OUTCOME_INACTIVE);
	}
	PG_CATCH();
	{
		if (!ShutdownRequestPending)
			PG_RE_THROW();
		FlushErrorState(); /* the query that the signal interrupted */
		set_outcome(SN_OUTCOME_STOPPED);
	}
	PG_END_TRY();
	proc_exit(0);
}

/* maintenance_status(): the duties of this database's worker, for health(). */
PG_FUNCTION_INFO_V1(sn_maintenance_status);
Datum
sn_maintenance_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SnDutyStatus statuses[lengthof(duties)] = {0};
	SnDatabase *entry;
	int worker_pid = 0;

	InitMaterializedSRF(fcinfo, 0);
	LWLockAcquire(sn_shared->launcher_lock, LW_SHARED);
	entry = sn_launcher_find(MyDatabaseId);
	if (entry)
	{
		worker_pid = entry->worker_pid;
		memcpy(statuses, entry->duties, sizeof(statuses));
	}
	LWLockRelease(sn_shared->launcher_lock);

	for (int i = 0; i < lengthof(duties); i++)
	{
		SnDutyStatus *status = &statuses[i];
		Datum values[5];
		bool nulls[5] = {false};

		values[0] = CStringGetTextDatum(duties[i].name);
		values[1] = Int32GetDatum(worker_pid);
		nulls[1] = worker_pid == 0;
		values[2] = TimestampTzGetDatum(status->last_run_at);
		nulls[2] = status->last_run_at == 0;
		values[3] = TimestampTzGetDatum(status->failing_since);
		nulls[3] = status->failing_since == 0;
		values[4] = CStringGetTextDatum(status->message);
		nulls[4] = status->failing_since == 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
