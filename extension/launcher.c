/*
 * launcher.c
 *	  One process a cluster: it keeps a maintenance worker running in every active database.
 *
 * At start nothing in shared memory says which databases are active, so the launcher starts a worker in each database that
 * may have one; a worker that finds its database inactive says so and ends, and the database leaves the list. From then on
 * activate() names databases (sn_launcher_name). A worker that failed is started again after 1, 2, 4 ... 60 s.
 *
 * It connects to no database. The postmaster starts it when recovery is over, so a standby has none until its promotion.
 *
 * A connected worker would make DROP DATABASE and its like fail: those commands put a hold on the database first
 * (sn_launcher_hold, called by utility.c). A hold belongs to a backend and ends with it at the latest.
 *
 * What the workers do is in maintenance.c. Workers that make reports (report.c) are held in the same way.
 */
#include "sentinai.h"

#include <limits.h>
#include <signal.h>

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/varlena.h"

#include "guc.h"
#include "launcher.h"
#include "rate_limit_slot.h"
#include "maintenance.h"
#include "usage_count.h"

/* The list of databases is compared with pg_database this often. */
#define LIST_INTERVAL_MS (60 * 1000)
/* How long a hold waits for a worker to end. */
#define HOLD_TIMEOUT_MS (10 * 1000)
#define BACKOFF_MIN_MS 1000
#define BACKOFF_MAX_MS (60 * 1000)
/* At start databases are looked into a few at a time: worker slots are few. */
#define PROBES_MAX 2

/* The launcher's own knowledge of the worker of sn_shared->databases[i], at the same index. */
typedef struct Worker
{
	BackgroundWorkerHandle *handle; /* NULL: none was started, or its end has been seen */
	TimestampTz started_at;
	TimestampTz start_after;
	int backoff_ms;
} Worker;

static Worker workers[SN_MAX_DATABASES];

/* ---- seen from other backends ---- */

SnDatabase *
sn_launcher_find(Oid database)
{
	for (int i = 0; i < SN_MAX_DATABASES; i++)
	{
		if (sn_shared->databases[i].database == database)
			return &sn_shared->databases[i];
	}
	return NULL;
}

static void
launcher_wake(void)
{
	if (sn_shared->launcher_latch)
		SetLatch(sn_shared->launcher_latch);
}

/* Caller holds launcher_lock exclusively. NULL: the list is full. */
static SnDatabase *
database_add(Oid database)
{
	SnDatabase *entry = sn_launcher_find(database);

	if (entry == NULL && (entry = sn_launcher_find(InvalidOid)) != NULL)
	{
		memset(entry, 0, sizeof(*entry));
		entry->database = database;
	}
	return entry;
}

void
sn_launcher_name(Oid database)
{
	SnDatabase *entry;

	LWLockAcquire(sn_shared->launcher_lock, LW_EXCLUSIVE);
	entry = database_add(database);
	if (entry)
		entry->named = true;
	launcher_wake();
	LWLockRelease(sn_shared->launcher_lock);
}

/* Asks a worker to end; true if there is one. */
static bool
end_worker(int pid)
{
	if (pid != 0)
		kill(pid, SIGTERM);
	return pid != 0;
}

/* True once no worker is attached to the database; asks them to end. */
static bool
hold_done(Oid database)
{
	SnDatabase *entry;
	bool done = true;

	LWLockAcquire(sn_shared->launcher_lock, LW_EXCLUSIVE);
	entry = sn_launcher_find(database);
	if (entry)
	{
		entry->hold_pid = MyProcPid;
		done = !end_worker(entry->worker_pid);
		for (int i = 0; i < SN_MAX_REPORT_WORKERS; i++)
			done = !end_worker(entry->reports[i].pid) && done;
	}
	LWLockRelease(sn_shared->launcher_lock);
	return done;
}

void
sn_launcher_hold(Oid database)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), HOLD_TIMEOUT_MS);

	while (!hold_done(database) && GetCurrentTimestamp() < until)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

void
sn_launcher_release(Oid database, bool dropped)
{
	SnDatabase *entry;

	LWLockAcquire(sn_shared->launcher_lock, LW_EXCLUSIVE);
	entry = sn_launcher_find(database);
	if (entry)
	{
		entry->hold_pid = 0;
		entry->gone = dropped;
	}
	launcher_wake();
	LWLockRelease(sn_shared->launcher_lock);
	if (dropped)
	{
		sn_slot_forget_database(database);
		sn_usage_forget_database(database);
	}
}

/* ---- the list ---- */

/* sentinai.databases names it, or names nothing. */
static bool
database_chosen(const char *name)
{
	char *copy = pstrdup(sn_databases);
	List *names;
	ListCell *cell;

	if (!SplitIdentifierString(copy, ',', &names))
	{
		ereport(LOG,
				(errmsg("setting sentinai.databases is not a list of names: no database gets a maintenance worker")));
		return false;
	}
	foreach (cell, names)
	{
		if (strcmp((const char *) lfirst(cell), name) == 0)
			return true;
	}
	return names == NIL;
}

/* The oids of the databases that may have a worker, allocated in the caller's context. */
static List *
databases_eligible(void)
{
	MemoryContext caller = CurrentMemoryContext;
	List *oids = NIL;
	Relation rel;
	TableScanDesc scan;
	HeapTuple tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database db = (Form_pg_database) GETSTRUCT(tuple);

		if (db->datallowconn && !db->datistemplate && database_chosen(NameStr(db->datname)))
		{
			MemoryContext old = MemoryContextSwitchTo(caller);

			oids = lappend_oid(oids, db->oid);
			MemoryContextSwitchTo(old);
		}
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return oids;
}

/*
 * Marks what may have no worker any more. With look_at_all every database that may have one comes onto the list, to be
 * looked into; otherwise only activate() adds.
 */
static void
list_update(bool look_at_all)
{
	List *eligible = databases_eligible();
	ListCell *cell;
	bool full = false;

	LWLockAcquire(sn_shared->launcher_lock, LW_EXCLUSIVE);
	for (int i = 0; i < SN_MAX_DATABASES; i++)
	{
		SnDatabase *entry = &sn_shared->databases[i];

		if (!OidIsValid(entry->database))
			continue;
		entry->listed = list_member_oid(eligible, entry->database);
		if (!entry->listed)
			entry->gone = true;
	}
	foreach (cell, eligible)
	{
		SnDatabase *entry = look_at_all ? database_add(lfirst_oid(cell)) : NULL;

		if (look_at_all && entry == NULL)
			full = true;
		else if (entry)
		{
			entry->listed = true;
			entry->gone = false;
		}
	}
	LWLockRelease(sn_shared->launcher_lock);
	list_free(eligible);

	if (full)
		ereport(LOG, (errmsg("sentinai looks after at most %d databases", SN_MAX_DATABASES),
					  errhint("Name those that matter in sentinai.databases.")));
}

/* A database was named that has not been compared with pg_database and sentinai.databases. */
static bool
list_outdated(void)
{
	bool outdated = false;

	LWLockAcquire(sn_shared->launcher_lock, LW_SHARED);
	for (int i = 0; i < SN_MAX_DATABASES; i++)
	{
		SnDatabase *entry = &sn_shared->databases[i];

		if (OidIsValid(entry->database) && !entry->listed && !entry->gone)
			outdated = true;
	}
	LWLockRelease(sn_shared->launcher_lock);
	return outdated;
}

/* ---- the workers ---- */

static bool
worker_start(int i, Oid database)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, "sentinai", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "sn_maintenance_main", sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "sentinai maintenance of database %u", database);
	strlcpy(worker.bgw_type, "sentinai maintenance", sizeof(worker.bgw_type));

	if (RegisterDynamicBackgroundWorker(&worker, &workers[i].handle))
		return true;
	workers[i].handle = NULL;
	return false;
}

static void
worker_backoff(Worker *worker, TimestampTz now)
{
	bool ran_long = TimestampDifferenceExceeds(worker->started_at, now, BACKOFF_MAX_MS);

	if (worker->backoff_ms == 0 || ran_long)
		worker->backoff_ms = BACKOFF_MIN_MS;
	else
		worker->backoff_ms = Min(worker->backoff_ms * 2, BACKOFF_MAX_MS);
	worker->start_after = TimestampTzPlusMilliseconds(now, worker->backoff_ms);
}

/* A worker has ended: caller holds launcher_lock exclusively. */
static void
worker_ended(int i, TimestampTz now)
{
	SnDatabase *entry = &sn_shared->databases[i];
	Worker *worker = &workers[i];

	pfree(worker->handle);
	worker->handle = NULL;
	entry->worker_pid = 0;
	if (entry->named || entry->outcome == SN_OUTCOME_STOPPED)
		worker->start_after = 0;
	else if (entry->outcome == SN_OUTCOME_INACTIVE)
		entry->gone = true;
	else
		worker_backoff(worker, now);
}

/* A hold ends with its backend, however that ends. */
static bool
held(SnDatabase *entry)
{
	if (entry->hold_pid != 0 && BackendPidGetProc(entry->hold_pid) == NULL)
		entry->hold_pid = 0;
	return entry->hold_pid != 0;
}

/* A worker of an earlier launcher, which ended without its workers, is still there. */
static bool
orphaned(SnDatabase *entry)
{
	if (entry->worker_pid != 0 && BackendPidGetProc(entry->worker_pid) == NULL)
		entry->worker_pid = 0;
	return entry->worker_pid != 0;
}

/*
 * One database: notes the end of its worker, frees the entry, or says that a worker is to be started (true). Caller holds
 * launcher_lock exclusively.
 */
static bool
database_step(int i, TimestampTz now)
{
	SnDatabase *entry = &sn_shared->databases[i];
	Worker *worker = &workers[i];
	pid_t pid;

	if (worker->handle && GetBackgroundWorkerPid(worker->handle, &pid) == BGWH_STOPPED)
		worker_ended(i, now);
	if (entry->gone && worker->handle)
		TerminateBackgroundWorker(worker->handle);
	else if (entry->gone && orphaned(entry))
		kill(entry->worker_pid, SIGTERM);
	else if (entry->gone)
	{
		entry->database = InvalidOid;
		memset(worker, 0, sizeof(*worker));
	}
	return entry->listed && !entry->gone && worker->handle == NULL && !held(entry) && !orphaned(entry) &&
		   now >= worker->start_after;
}

/* Starts the worker of entry i, outside of the lock. */
static void
database_start(int i, Oid database, TimestampTz now)
{
	static bool complained = false;

	workers[i].started_at = now;
	if (worker_start(i, database))
	{
		complained = false;
		return;
	}
	worker_backoff(&workers[i], now);
	if (!complained)
		ereport(LOG, (errmsg("could not start a maintenance worker for database %u", database),
					  errdetail("There is no free background worker slot."), errhint("Raise max_worker_processes.")));
	complained = true;
}

/* Looks at every database on the list; returns how long to sleep at most. */
static long
databases_step(void)
{
	TimestampTz now = GetCurrentTimestamp();
	long sleep_ms = LIST_INTERVAL_MS;
	int probes = 0;

	for (int i = 0; i < SN_MAX_DATABASES; i++)
	{
		SnDatabase *entry = &sn_shared->databases[i];
		Oid database;
		bool probe;
		bool start = false;

		LWLockAcquire(sn_shared->launcher_lock, LW_EXCLUSIVE);
		database = entry->database;
		probe = !entry->active;
		if (OidIsValid(database))
		{
			start = database_step(i, now);
			if (probe && (workers[i].handle || start) && ++probes > PROBES_MAX)
				start = false;
			if (start)
			{
				entry->named = false;
				entry->outcome = SN_OUTCOME_FAILED;
			}
			if (entry->hold_pid != 0 || (entry->worker_pid != 0 && workers[i].handle == NULL))
				sleep_ms = Min(sleep_ms, 1000);
		}
		LWLockRelease(sn_shared->launcher_lock);

		if (start)
			database_start(i, database, now);
		if (OidIsValid(database) && workers[i].handle == NULL && workers[i].start_after > now)
			sleep_ms = Min(sleep_ms, TimestampDifferenceMilliseconds(now, workers[i].start_after));
	}
	return sleep_ms;
}

/* ---- the process ---- */

static void
launcher_exit(int code, Datum arg)
{
	LWLockAcquire(sn_shared->launcher_lock, LW_EXCLUSIVE);
	sn_shared->launcher_latch = NULL;
	LWLockRelease(sn_shared->launcher_lock);
}

static void
launcher_attach(void)
{
	before_shmem_exit(launcher_exit, (Datum) 0);
	LWLockAcquire(sn_shared->launcher_lock, LW_EXCLUSIVE);
	sn_shared->launcher_latch = MyLatch;
	LWLockRelease(sn_shared->launcher_lock);
}

void
sn_launcher_main(Datum arg)
{
	TimestampTz list_at = 0;
	bool look_at_all = true;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	launcher_attach();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	while (!ShutdownRequestPending)
	{
		long sleep_ms;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			look_at_all = true;
		}
		if (look_at_all || list_outdated() || GetCurrentTimestamp() >= list_at)
		{
			list_update(look_at_all);
			look_at_all = false;
			list_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LIST_INTERVAL_MS);
		}
		sleep_ms = databases_step();
		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, sleep_ms, PG_WAIT_EXTENSION);
	}
	proc_exit(1); /* 0 would mean: never start it again */
}

void
sn_launcher_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "sentinai", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "sn_launcher_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "sentinai launcher", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "sentinai launcher", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}
