/*
 * insert.c
 *	  Many rows into one table at once, as COPY writes them: a page at a time with one WAL record, then the indexes.
 *
 * For tables of ours whose rows need nothing of the executor: no trigger, no check, no generated column, and no constraint
 * that an index could break. Whether a table is like that is for the caller to know.
 *
 * sn_insert_begin, then for each row sn_insert_slot, its columns, ExecStoreVirtualTuple, and sn_insert_end. Values must live
 * until then.
 */
#include "sentinai.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "insert.h"
#include "utils/builtins.h"

void
sn_insert_begin(SnInsert *insert, Relation rel)
{
	insert->rel = rel;
	insert->estate = CreateExecutorState();
	insert->info = makeNode(ResultRelInfo);
	insert->n_slots = 0;
	insert->n = 0;
	InitResultRelInfo(insert->info, rel, 1, NULL, 0);
	ExecOpenIndices(insert->info, false);
}

static void
flush(SnInsert *insert)
{
	table_multi_insert(insert->rel, insert->slots, insert->n, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < insert->n; i++)
	{
		list_free(SN_INSERT_INDEX_TUPLES(insert->info, insert->slots[i], insert->estate));
		ResetPerTupleExprContext(insert->estate);
	}
	insert->n = 0;
}

/* The next row's slot, empty. */
TupleTableSlot *
sn_insert_slot(SnInsert *insert)
{
	if (insert->n == SN_INSERT_CHUNK)
		flush(insert);
	if (insert->n == insert->n_slots)
		insert->slots[insert->n_slots++] = table_slot_create(insert->rel, NULL);
	return ExecClearTuple(insert->slots[insert->n++]);
}

/* The table itself stays open. */
void
sn_insert_end(SnInsert *insert)
{
	if (insert->n > 0)
		flush(insert);
	for (int i = 0; i < insert->n_slots; i++)
		ExecDropSingleTupleTableSlot(insert->slots[i]);
	ExecCloseIndices(insert->info);
	FreeExecutorState(insert->estate);
	CommandCounterIncrement();
}

void
sn_insert_text(TupleTableSlot *slot, int column, const char *value)
{
	sn_insert_datum(slot, column, value == NULL ? (Datum) 0 : CStringGetTextDatum(value), value == NULL);
}

void
sn_insert_datum(TupleTableSlot *slot, int column, Datum value, bool isnull)
{
	slot->tts_values[column] = value;
	slot->tts_isnull[column] = isnull;
}
