/*
 * usage_count.c
 *	  Counting what is used outside of transactions: calls that write nothing, or that fail and count all the same.
 *
 * One hash table in shared memory for all databases, an entry for each tenant, metric and resource since the last flush;
 * its lock is held shared to count, exclusively to add an entry or to take them away. usage_flush(), a duty, takes all of a
 * database's and writes them to usage_delta in the same transaction; when that aborts they are given back. So a crash
 * loses what was counted since the last flush, and nothing is counted twice.
 */
#include "sentinai.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "port/atomics.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "usage_count.h"

/* Of all databases, in one interval of the flush. 2.4 MB. */
#define MAX_COUNTS 8192

/* Longer names are clipped, whole characters at a time. Zeroed before it is filled: it is hashed as bytes. */
typedef struct CountKey
{
	Oid database;
	char tenant_id[68];
	char metric_type[64];
	char resource[128];
} CountKey;

typedef struct Count
{
	CountKey key;
	pg_atomic_uint64 n;
} Count;

/* What the open transaction has taken. */
typedef struct Taken
{
	SubTransactionId subid;
	CountKey key;
	uint64 n;
} Taken;

typedef struct CountShared
{
	pg_atomic_uint64 lost; /* units that found no room since the last flush that told so */
} CountShared;

static CountShared *shared;
static HTAB *counts;
static LWLock *counts_lock;

static Taken *taken; /* in TopMemoryContext, grows */
static int n_taken;
static int max_taken;

Size
sn_usage_shmem_size(void)
{
	return add_size(MAXALIGN(sizeof(CountShared)), hash_estimate_size(MAX_COUNTS, sizeof(Count)));
}

void
sn_usage_shmem_init(LWLock *lock)
{
	HASHCTL info = {.keysize = sizeof(CountKey), .entrysize = sizeof(Count)};
	bool found;

	counts_lock = lock;
	shared = ShmemInitStruct("sentinai usage", sizeof(CountShared), &found);
	if (!found)
		pg_atomic_init_u64(&shared->lost, 0);
	counts =
		ShmemInitHash("sentinai usage counts", MAX_COUNTS, MAX_COUNTS, &info, HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
}

/* ---- counting ---- */

static void
count_new(const CountKey *key, uint64 n)
{
	Count *count;
	bool found;

	LWLockAcquire(counts_lock, LW_EXCLUSIVE);
	count = hash_search(counts, key, HASH_ENTER_NULL, &found);
	if (count == NULL)
		pg_atomic_fetch_add_u64(&shared->lost, n);
	else if (found)
		pg_atomic_fetch_add_u64(&count->n, n);
	else
		pg_atomic_init_u64(&count->n, n);
	LWLockRelease(counts_lock);
}

static void
count_add(const CountKey *key, uint64 n)
{
	Count *count;

	LWLockAcquire(counts_lock, LW_SHARED);
	count = hash_search(counts, key, HASH_FIND, NULL);
	if (count != NULL)
		pg_atomic_fetch_add_u64(&count->n, n);
	LWLockRelease(counts_lock);
	if (count == NULL)
		count_new(key, n);
}

static void
clip(char *to, const char *from, size_t size)
{
	memcpy(to, from, pg_mbcliplen(from, strlen(from), size - 1));
}

void
sn_usage_count(const char *tenant_id, const char *metric_type, const char *resource, int64 n)
{
	CountKey key;

	if (n <= 0 || RecoveryInProgress()) /* nobody flushes on a standby */
		return;
	memset(&key, 0, sizeof(key));
	key.database = MyDatabaseId;
	clip(key.tenant_id, tenant_id, sizeof(key.tenant_id));
	clip(key.metric_type, metric_type, sizeof(key.metric_type));
	clip(key.resource, resource, sizeof(key.resource));
	count_add(&key, n);
}

/* ---- taking ---- */

/* Gives back what was taken in that subtransaction, InvalidSubTransactionId: in all of them. */
static void
give_back(SubTransactionId subid)
{
	int kept = 0;

	for (int i = 0; i < n_taken; i++)
		if (subid == InvalidSubTransactionId || taken[i].subid == subid)
			count_add(&taken[i].key, taken[i].n);
		else
			taken[kept++] = taken[i];
	n_taken = kept;
}

static void
on_xact_end(XactEvent event, void *arg)
{
	if (n_taken > 0 && event == XACT_EVENT_PRE_PREPARE)
		ereport(ERROR, (errcode(SN_ERRCODE("SN013")),
						errmsg("a transaction that has written counts of usage can't be prepared"),
						errdetail("If it is rolled back, they are given back, by this session only.")));
	if (n_taken > 0 && event == XACT_EVENT_ABORT)
		give_back(InvalidSubTransactionId);
	if (event == XACT_EVENT_COMMIT)
		n_taken = 0;
}

static void
on_subxact_end(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (n_taken > 0 && event == SUBXACT_EVENT_ABORT_SUB)
		give_back(subid);
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		for (int i = 0; i < n_taken; i++)
			if (taken[i].subid == subid)
				taken[i].subid = parent;
}

void
sn_usage_install(void)
{
	RegisterXactCallback(on_xact_end, NULL);
	RegisterSubXactCallback(on_subxact_end, NULL);
}

/* Room for all that there can be, so that nothing raises while they are taken. */
static void
make_room(void)
{
	int max = n_taken + MAX_COUNTS;

	if (max <= max_taken)
		return;
	taken = taken == NULL ? MemoryContextAlloc(TopMemoryContext, max * sizeof(Taken))
						  : repalloc(taken, max * sizeof(Taken));
	max_taken = max;
}

/* Moves the counts of a database to taken; without it they are dropped. */
static void
take(Oid database, bool keep)
{
	HASH_SEQ_STATUS scan;
	Count *count;

	LWLockAcquire(counts_lock, LW_EXCLUSIVE);
	hash_seq_init(&scan, counts);
	while ((count = hash_seq_search(&scan)) != NULL)
	{
		if (count->key.database != database)
			continue;
		if (keep)
			taken[n_taken++] = (Taken){GetCurrentSubTransactionId(), count->key, pg_atomic_read_u64(&count->n)};
		hash_search(counts, &count->key, HASH_REMOVE, NULL);
	}
	LWLockRelease(counts_lock);
}

void
sn_usage_forget_database(Oid database)
{
	take(database, false);
}

/* ---- SQL ---- */

/* usage_count_add(tenant_id text, metric_type text, resource text, quantity bigint) returns void */
PG_FUNCTION_INFO_V1(sn_usage_count_add);
Datum
sn_usage_count_add(PG_FUNCTION_ARGS)
{
	sn_usage_count(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)),
				   text_to_cstring(PG_GETARG_TEXT_PP(2)), PG_GETARG_INT64(3));
	PG_RETURN_VOID();
}

/* usage_take(): (tenant_id text, metric_type text, resource text, quantity bigint) */
PG_FUNCTION_INFO_V1(sn_usage_take);
Datum
sn_usage_take(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int first = n_taken;

	InitMaterializedSRF(fcinfo, 0);
	make_room();
	take(MyDatabaseId, true);
	for (int i = first; i < n_taken; i++)
	{
		Datum values[4] = {CStringGetTextDatum(taken[i].key.tenant_id), CStringGetTextDatum(taken[i].key.metric_type),
						   CStringGetTextDatum(taken[i].key.resource), Int64GetDatum((int64) taken[i].n)};
		bool nulls[4] = {false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* usage_lost() returns bigint: units that found no room; asking sets it back */
PG_FUNCTION_INFO_V1(sn_usage_lost);
Datum
sn_usage_lost(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(pg_atomic_exchange_u64(&shared->lost, 0));
}
