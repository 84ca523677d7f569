/*
 * metrics.c
 *	  What metrics() counts: one hash table in shared memory for all databases, an entry for each series.
 *
 * A backend collects its counts until its transaction commits: an aborted batch is done again and would count twice.
 * The lock of the table is held shared to count, exclusively to add a series; counts are atomics, a sum of seconds is kept
 * as whole microseconds. A full table drops the count and counts that. The text of metrics() is made in
 * sql/65_metrics.sql; the worker's own /metrics are in worker/metrics.c.
 */
#include "sentinai.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "port/atomics.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/array.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "caller.h"
#include "guc.h"
#include "metrics.h"
#include "shmem.h"

/* Upper bounds of the histogram, the runbook's; the last bucket of an entry has none. */
static const double bounds[] = {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60};

#define N_BUCKETS (lengthof(bounds) + 1)

/* Longer names are clipped, whole characters at a time. Zeroed before it is filled: it is hashed as bytes. */
typedef struct SeriesKey
{
	Oid database;
	char worker_type[64];
	char event_type[128];
	char tenant_id[68];
	char status[24];
	char error_type[64];
} SeriesKey;

typedef struct Series
{
	SeriesKey key;
	pg_atomic_uint64 count;
	pg_atomic_uint64 microseconds;		 /* of all observations in the histogram */
	pg_atomic_uint64 buckets[N_BUCKETS]; /* not cumulative */
} Series;

/* A count that waits for the commit. */
typedef struct Pending
{
	SeriesKey key;
	int64 n;
	int bucket;		/* -1: no observation */
	double seconds; /* of all n */
} Pending;

static HTAB *series_table;

static Pending *pending; /* in TopMemoryContext, grows */
static int n_pending;
static int max_pending;

Size
sn_metrics_shmem_size(void)
{
	return hash_estimate_size(sn_metric_series_max, sizeof(Series));
}

void
sn_metrics_shmem_init(void)
{
	HASHCTL info = {0};

	info.keysize = sizeof(SeriesKey);
	info.entrysize = sizeof(Series);
	series_table = ShmemInitHash("sentinai series", sn_metric_series_max, sn_metric_series_max, &info,
								 HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
}

static void
clip(char *to, const char *from, size_t size)
{
	if (from)
		memcpy(to, from, pg_mbcliplen(from, strlen(from), size - 1));
}

/* ---- counting ---- */

static int
bucket_of(double seconds)
{
	int i = 0;

	if (seconds <= 0)
		return -1;
	while (i < lengthof(bounds) && seconds > bounds[i])
		i++;
	return i;
}

/* Room for one more, zeroed. */
static Pending *
pending_next(void)
{
	if (n_pending == max_pending)
	{
		int max = Max(64, max_pending * 2);

		if (pending == NULL)
			pending = MemoryContextAlloc(TopMemoryContext, max * sizeof(Pending));
		else
			pending = repalloc(pending, max * sizeof(Pending));
		max_pending = max;
	}
	memset(&pending[n_pending], 0, sizeof(Pending));
	return &pending[n_pending];
}

void
sn_metric_handled(const char *worker_type, const char *event_type, const char *tenant_id, const char *status,
				  const char *error_type, int64 n, double seconds)
{
	Pending *p = pending_next();
	Pending *last = n_pending > 0 ? p - 1 : NULL;

	p->key.database = MyDatabaseId;
	clip(p->key.worker_type, worker_type, sizeof(p->key.worker_type));
	clip(p->key.event_type, event_type, sizeof(p->key.event_type));
	clip(p->key.tenant_id, sn_metrics_include_tenant_id && tenant_id ? tenant_id : "all", sizeof(p->key.tenant_id));
	clip(p->key.status, status, sizeof(p->key.status));
	clip(p->key.error_type, error_type, sizeof(p->key.error_type));
	p->n = n;
	p->bucket = bucket_of(seconds);
	p->seconds = p->bucket < 0 ? 0 : seconds * n;

	/* A batch's events are much alike. */
	if (last && last->bucket == p->bucket && memcmp(&last->key, &p->key, sizeof(SeriesKey)) == 0)
	{
		last->n += p->n;
		last->seconds += p->seconds;
	}
	else
		n_pending++;
}

static void
series_add(Series *series, const Pending *p)
{
	pg_atomic_fetch_add_u64(&series->count, p->n);
	if (p->bucket >= 0)
	{
		pg_atomic_fetch_add_u64(&series->buckets[p->bucket], p->n);
		pg_atomic_fetch_add_u64(&series->microseconds, (uint64) (p->seconds * 1e6));
	}
}

static void
series_init(Series *series)
{
	pg_atomic_init_u64(&series->count, 0);
	pg_atomic_init_u64(&series->microseconds, 0);
	for (int i = 0; i < N_BUCKETS; i++)
		pg_atomic_init_u64(&series->buckets[i], 0);
}

/* Adds a count whose series is new. */
static void
series_add_new(const Pending *p)
{
	Series *series;
	bool found;

	LWLockAcquire(sn_shared->metric_lock, LW_EXCLUSIVE);
	series = hash_search(series_table, &p->key, HASH_ENTER_NULL, &found);
	if (series && !found)
		series_init(series);
	if (series)
		series_add(series, p);
	else
		pg_atomic_fetch_add_u64(&sn_shared->metrics_dropped, p->n);
	LWLockRelease(sn_shared->metric_lock);
}

/* Runs in the commit callback: nothing here raises. */
static void
pending_apply(void)
{
	for (int i = 0; i < n_pending; i++)
	{
		Series *series;

		LWLockAcquire(sn_shared->metric_lock, LW_SHARED);
		series = hash_search(series_table, &pending[i].key, HASH_FIND, NULL);
		if (series)
			series_add(series, &pending[i]);
		LWLockRelease(sn_shared->metric_lock);
		if (series == NULL)
			series_add_new(&pending[i]);
	}
}

void
sn_metric_processing(int n)
{
	pg_atomic_write_u32(&sn_my_slot()->processing, n);
}

static void
on_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT)
		pending_apply();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
	{
		n_pending = 0;
		if (MyProc != NULL && SN_MY_PROC_NUMBER < sn_shared->n_slots)
			pg_atomic_write_u32(&sn_shared->slots[SN_MY_PROC_NUMBER].processing, 0);
	}
}

void
sn_metrics_install(void)
{
	RegisterXactCallback(on_xact_end, NULL);
}

/* ---- reading ---- */

static void
series_put(ReturnSetInfo *rsinfo, Series *series, bool by_tenant)
{
	Datum buckets[N_BUCKETS];
	Datum values[8];
	bool nulls[8] = {false};

	for (int i = 0; i < N_BUCKETS; i++)
		buckets[i] = Int64GetDatum(pg_atomic_read_u64(&series->buckets[i]));
	values[0] = CStringGetTextDatum(series->key.worker_type);
	values[1] = CStringGetTextDatum(series->key.event_type);
	values[2] = CStringGetTextDatum(by_tenant ? series->key.tenant_id : "all");
	values[3] = CStringGetTextDatum(series->key.status);
	values[4] = CStringGetTextDatum(series->key.error_type);
	values[5] = Int64GetDatum(pg_atomic_read_u64(&series->count));
	values[6] = Float8GetDatum(pg_atomic_read_u64(&series->microseconds) / 1e6);
	values[7] = PointerGetDatum(construct_array(buckets, N_BUCKETS, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* metric_series(): the series of this database. */
PG_FUNCTION_INFO_V1(sn_metric_series);
Datum
sn_metric_series(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	HASH_SEQ_STATUS scan;
	Series *series;
	bool by_tenant = sn_caller_names_tenants();

	InitMaterializedSRF(fcinfo, 0);
	LWLockAcquire(sn_shared->metric_lock, LW_SHARED);
	hash_seq_init(&scan, series_table);
	while ((series = hash_seq_search(&scan)) != NULL)
	{
		if (series->key.database == MyDatabaseId)
			series_put(rsinfo, series, by_tenant);
	}
	LWLockRelease(sn_shared->metric_lock);
	return (Datum) 0;
}

/* metric_bounds() returns double precision[] */
PG_FUNCTION_INFO_V1(sn_metric_bounds);
Datum
sn_metric_bounds(PG_FUNCTION_ARGS)
{
	Datum values[lengthof(bounds)];

	for (int i = 0; i < lengthof(bounds); i++)
		values[i] = Float8GetDatum(bounds[i]);
	PG_RETURN_ARRAYTYPE_P(construct_array(values, lengthof(bounds), FLOAT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* metric_processing() returns bigint: events that backends of this database are handling now */
PG_FUNCTION_INFO_V1(sn_metric_processing_now);
Datum
sn_metric_processing_now(PG_FUNCTION_ARGS)
{
	int64 n = 0;

	for (int i = 0; i < sn_shared->n_slots; i++)
	{
		SnBackendSlot *slot = &sn_shared->slots[i];
		uint32 processing = pg_atomic_read_u32(&slot->processing);

		if (processing != 0 && slot->database == MyDatabaseId)
			n += processing;
	}
	PG_RETURN_INT64(n);
}

/* metric_dropped() returns bigint: counts that found no room, of all databases */
PG_FUNCTION_INFO_V1(sn_metric_dropped);
Datum
sn_metric_dropped(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(pg_atomic_read_u64(&sn_shared->metrics_dropped));
}
