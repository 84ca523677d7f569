/*
 * claim_table.c
 *	  Claims in the table of one generation of event_processing_log: finding those that are there, and inserting new ones.
 *
 * Both go past the executor: triggers on these tables are refused, since nothing would call them. Which generations there
 * are, and what a claim that is taken means, is claim.c's.
 */
#include "sentinai.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "claim_table.h"
#include "executor/executor.h"
#include "insert.h"
#include "lookup.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* The columns of event_processing_log. */
enum
{
	CLAIM_GENERATION,
	CLAIM_TENANT,
	CLAIM_EVENT,
	CLAIM_WORKER_TYPE,
	CLAIM_EXCEPTION,
	CLAIM_EVENT_TYPE,
	CLAIM_STATUS,
	CLAIM_RETRY_COUNT,
	CLAIM_HASH,
	CLAIM_SHADOW,
	CLAIM_PROCESSED,
	CLAIM_LAST_ATTEMPT,
	CLAIM_ERROR_TYPE,
	CLAIM_ERROR_MESSAGE,
	CLAIM_COLUMNS
};

typedef struct Claims
{
	SnWork **works;
	SnClaimTaken taken;
} Claims;

static Relation
open_table(int generation, LOCKMODE mode)
{
	char *name = psprintf("event_processing_log_g%d", generation);
	Oid relid = get_relname_relid(name, get_namespace_oid(SN_SCHEMA, false));
	Relation rel = table_open(relid, mode);

	if (RelationGetDescr(rel)->natts != CLAIM_COLUMNS)
		elog(ERROR, "table sentinai.%s does not have %d columns", name, CLAIM_COLUMNS);
	if (rel->trigdesc != NULL)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("table sentinai.%s has a trigger", name),
						errdetail("Claims are inserted without calling triggers."),
						errhint("DROP TRIGGER; a handler sees every event.")));
	return rel;
}

/* The index of the identities. */
static Relation
open_identity_index(Relation rel)
{
	ListCell *cell;

	foreach (cell, RelationGetIndexList(rel))
	{
		Relation index = index_open(lfirst_oid(cell), AccessShareLock);

		if (index->rd_index->indisunique && index->rd_index->indisvalid)
			return index;
		index_close(index, NoLock);
	}
	elog(ERROR, "table sentinai.%s has no unique index", RelationGetRelationName(rel));
}

static void
tell_taken(const Claims *claims, int row, TupleTableSlot *claim)
{
	bool isnull;
	Datum hash = slot_getattr(claim, CLAIM_HASH + 1, &isnull);

	claims->taken(claims->works[row], isnull ? 0 : DatumGetInt64(hash), !isnull);
}

static void
on_lost(void *arg, int row, TupleTableSlot *winner)
{
	tell_taken(arg, row, winner);
}

/* The work's identity in the order of the index. */
static void
identity_values(Relation index, const SnWork *work, Datum worker_type, Datum *values)
{
	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(index); i++)
	{
		switch (index->rd_index->indkey.values[i] - 1)
		{
			case CLAIM_TENANT:
				values[i] = CStringGetTextDatum(work->event.tenant_id);
				break;
			case CLAIM_EVENT:
				values[i] = CStringGetTextDatum(work->event.event_id);
				break;
			case CLAIM_WORKER_TYPE:
				values[i] = worker_type;
				break;
			default:
				elog(ERROR, "index %s is not of identities", RelationGetRelationName(index));
		}
	}
}

/*
 * Looks for committed claims of these identities, by the newest snapshot.
 */
void
sn_claims_find(int generation, const char *worker_type, SnWork **works, int n, SnClaimTaken taken)
{
	Relation rel = open_table(generation, AccessShareLock);
	Relation index = open_identity_index(rel);
	Datum worker = CStringGetTextDatum(worker_type);
	Claims claims = {works, taken};
	SnLookup lookup;

	PushActiveSnapshot(GetLatestSnapshot());
	sn_lookup_begin(&lookup, rel, index, GetActiveSnapshot());
	for (int i = 0; i < n; i++)
	{
		Datum values[INDEX_MAX_KEYS];
		TupleTableSlot *claim;

		identity_values(index, works[i], worker, values);
		sn_lookup_keys(&lookup, values);
		if ((claim = sn_lookup_next(&lookup)) != NULL)
			tell_taken(&claims, i, claim);
	}
	sn_lookup_end(&lookup);
	PopActiveSnapshot();
	index_close(index, NoLock);
	table_close(rel, NoLock);
}

static void
fill_slot(TupleTableSlot *slot, const SnWork *work)
{
	sn_insert_text(slot, CLAIM_TENANT, work->event.tenant_id);
	sn_insert_text(slot, CLAIM_EVENT, work->event.event_id);
	sn_insert_text(slot, CLAIM_EXCEPTION, work->event.exception_id);
	sn_insert_text(slot, CLAIM_EVENT_TYPE, work->event.event_type);
	sn_insert_datum(slot, CLAIM_RETRY_COUNT, Int32GetDatum(0), false);
	sn_insert_datum(slot, CLAIM_HASH, Int64GetDatum(work->event.hash), false);
	sn_insert_text(slot, CLAIM_ERROR_TYPE, NULL);
	sn_insert_text(slot, CLAIM_ERROR_MESSAGE, NULL);
}

/*
 * Inserts claims, as of events that were handled at first sight. Waits for other batches that are about to take one of the
 * identities, and tells which were taken.
 */
void
sn_claims_insert(SnBatch *batch, int generation, bool shadow, SnWork **works, int n, SnClaimTaken taken)
{
	Relation rel = open_table(generation, RowExclusiveLock);
	Claims claims = {works, taken};
	Datum worker_type = CStringGetTextDatum(batch->worker_type->name);
	Datum status = CStringGetTextDatum("succeeded");
	SnInsert insert;

	sn_insert_begin(&insert, rel, on_lost, &claims);
	for (int i = 0; i < n; i++)
	{
		TupleTableSlot *slot = sn_insert_slot(&insert);

		fill_slot(slot, works[i]);
		sn_insert_datum(slot, CLAIM_GENERATION, Int32GetDatum(generation), false);
		sn_insert_datum(slot, CLAIM_WORKER_TYPE, worker_type, false);
		sn_insert_datum(slot, CLAIM_STATUS, status, false);
		sn_insert_datum(slot, CLAIM_SHADOW, BoolGetDatum(shadow), false);
		sn_insert_datum(slot, CLAIM_PROCESSED, TimestampTzGetDatum(batch->now), false);
		sn_insert_datum(slot, CLAIM_LAST_ATTEMPT, TimestampTzGetDatum(batch->now), false);
		ExecStoreVirtualTuple(slot);
	}
	sn_insert_end(&insert);
	table_close(rel, NoLock);
}
