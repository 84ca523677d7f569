/*
 * insert.c
 *	  Many rows into one table at once, as COPY writes them: a page at a time with one WAL record, then index by index, the
 *	  entries of each in its own order, so that neighbours find the pages of their way still in the processor's cache.
 *
 * For tables of ours whose rows need nothing of the executor: no trigger, no check, no generated column, and no constraint
 * that an index could break but a plain unique one. Whether a table is like that is for the caller to know.
 *
 * sn_insert_begin, then for each row sn_insert_slot, its columns, ExecStoreVirtualTuple, and sn_insert_end. Values must live
 * until then.
 *
 * With a function "lost" a row whose key is taken doesn't raise: as ON CONFLICT DO NOTHING, but the row is written first, its
 * entry is put beside the other's, and whoever came second waits for the first to end. If that one is committed the row
 * is deleted again; if not, it stays. All put the entries of a unique index there in its order, and wait before they go on
 * to the next: who waits holds smaller keys only, so no two wait for each other. A dead row stays behind for vacuum, so this
 * is for keys that are rarely taken.
 */
#include "sentinai.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "executor/executor.h"
#include "insert.h"
#include "lookup.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/sortsupport.h"

/* An entry of an index: what it says, and which of the chunk's rows has it. */
typedef struct Entry
{
	int row;
	Datum *values;
	bool *nulls;
} Entry;

/* The order of an index. */
typedef struct Order
{
	int n_keys;
	SortSupportData keys[INDEX_MAX_KEYS];
} Order;

void
sn_insert_begin(SnInsert *insert, Relation rel, SnInsertLost lost, void *lost_arg)
{
	insert->rel = rel;
	insert->lost = lost;
	insert->lost_arg = lost_arg;
	insert->estate = CreateExecutorState();
	insert->info = makeNode(ResultRelInfo);
	insert->desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	insert->max_slots = SN_INSERT_CHUNK;
	insert->slots = palloc(insert->max_slots * sizeof(TupleTableSlot *));
	insert->n_slots = 0;
	insert->n = 0;
	insert->taken = NULL;
	InitResultRelInfo(insert->info, rel, 1, NULL, 0);
	ExecOpenIndices(insert->info, false);
}

static int
compare_entries(const void *a, const void *b, void *arg)
{
	const Entry *left = a;
	const Entry *right = b;
	Order *order = arg;
	int result = 0;

	for (int i = 0; i < order->n_keys && result == 0; i++)
		result =
			ApplySortComparator(left->values[i], left->nulls[i], right->values[i], right->nulls[i], &order->keys[i]);
	return result;
}

static void
sort_entries(Relation index, Entry *entries, int n)
{
	Order order = {.n_keys = IndexRelationGetNumberOfKeyAttributes(index)};

	if (index->rd_rel->relam != BTREE_AM_OID)
		return;
	for (int i = 0; i < order.n_keys; i++)
	{
		int16 option = index->rd_indoption[i];

		order.keys[i].ssup_cxt = CurrentMemoryContext;
		order.keys[i].ssup_collation = index->rd_indcollation[i];
		order.keys[i].ssup_nulls_first = (option & INDOPTION_NULLS_FIRST) != 0;
		order.keys[i].ssup_attno = i + 1;
		SN_SORT_BY_INDEX(index, (option & INDOPTION_DESC) != 0, &order.keys[i]);
	}
	qsort_arg(entries, n, sizeof(Entry), compare_entries, &order);
}

/* The entries that the rows make in an index; a partial one has none for some. */
static int
make_entries(SnInsert *insert, IndexInfo *info, Entry *entries)
{
	ExprContext *context = GetPerTupleExprContext(insert->estate);
	int n_columns = info->ii_NumIndexAttrs;
	Datum values[INDEX_MAX_KEYS];
	bool nulls[INDEX_MAX_KEYS];
	int n = 0;

	if (info->ii_Predicate != NIL && info->ii_PredicateState == NULL)
		info->ii_PredicateState = ExecPrepareQual(info->ii_Predicate, insert->estate);
	for (int i = 0; i < insert->n; i++)
	{
		context->ecxt_scantuple = insert->slots[i];
		if (info->ii_Predicate != NIL && !ExecQual(info->ii_PredicateState, context))
			continue;
		FormIndexDatum(info, insert->slots[i], insert->estate, values, nulls);
		entries[n].row = i;
		entries[n].values = memcpy(palloc(n_columns * sizeof(Datum)), values, n_columns * sizeof(Datum));
		entries[n++].nulls = memcpy(palloc(n_columns), nulls, n_columns);
	}
	return n;
}

/* Waits for the end of the transaction, or the speculative insertion, that a lookup by a dirty snapshot has met. */
static void
wait_for(SnInsert *insert, const SnapshotData *dirty, ItemPointer row)
{
	if (TransactionIdIsValid(dirty->xmin) && dirty->speculativeToken != 0)
		SpeculativeInsertionWait(dirty->xmin, dirty->speculativeToken);
	else
		XactLockTableWait(TransactionIdIsValid(dirty->xmin) ? dirty->xmin : dirty->xmax, insert->rel, row,
						  XLTW_InsertIndex);
}

/*
 * Looks for another row with the entry's key; *again: whoever has it was not at his end, and has been waited for. Tells the
 * caller about a winner.
 */
static bool
find_winner(SnInsert *insert, Relation index, const Entry *entry, bool *again)
{
	ItemPointer own = &insert->slots[entry->row]->tts_tid;
	SnapshotData dirty;
	SnLookup lookup;
	TupleTableSlot *other;
	ItemPointerData place;
	bool won;

	InitDirtySnapshot(dirty);
	sn_lookup_begin(&lookup, insert->rel, index, &dirty);
	sn_lookup_keys(&lookup, entry->values);
	while ((other = sn_lookup_next(&lookup)) != NULL && ItemPointerEquals(&other->tts_tid, own))
		;
	*again = other != NULL && (TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax));
	won = other != NULL && !*again;
	if (won)
		insert->lost(insert->lost_arg, entry->row, other);
	else if (*again)
		place = other->tts_tid;
	sn_lookup_end(&lookup);
	if (*again)
		wait_for(insert, &dirty, &place);
	return won;
}

/* The key may be taken. Our entry is there already: whoever comes from now on waits for us. */
static void
settle_conflict(SnInsert *insert, Relation index, const Entry *entry)
{
	bool again = true;

	while (again)
		insert->taken[entry->row] = find_winner(insert, index, entry, &again);
}

static void
insert_entries(SnInsert *insert, Relation index, IndexInfo *info)
{
	IndexUniqueCheck check = UNIQUE_CHECK_NO;
	Entry *entries = palloc(insert->n * sizeof(Entry));
	int n = make_entries(insert, info, entries);

	if (index->rd_index->indisunique)
		check = insert->lost == NULL ? UNIQUE_CHECK_YES : UNIQUE_CHECK_PARTIAL;
	sort_entries(index, entries, n);
	for (int i = 0; i < n; i++)
	{
		ItemPointer row = &insert->slots[entries[i].row]->tts_tid;

		if (!index_insert(index, entries[i].values, entries[i].nulls, row, insert->rel, check, false, info) &&
			check == UNIQUE_CHECK_PARTIAL)
			settle_conflict(insert, index, &entries[i]);
	}
}

static void
delete_lost(SnInsert *insert)
{
	CommandCounterIncrement();
	for (int i = 0; i < insert->n; i++)
		if (insert->taken[i])
			simple_heap_delete(insert->rel, &insert->slots[i]->tts_tid);
}

static void
flush(SnInsert *insert)
{
	MemoryContext old;

	table_multi_insert(insert->rel, insert->slots, insert->n, GetCurrentCommandId(true), 0, NULL);
	old = MemoryContextSwitchTo(GetPerTupleMemoryContext(insert->estate));
	insert->taken = palloc0(insert->n * sizeof(bool));
	for (int i = 0; i < insert->info->ri_NumIndices; i++)
	{
		if (insert->info->ri_IndexRelationInfo[i]->ii_ReadyForInserts)
			insert_entries(insert, insert->info->ri_IndexRelationDescs[i], insert->info->ri_IndexRelationInfo[i]);
	}
	if (memchr(insert->taken, true, insert->n) != NULL)
		delete_lost(insert);
	MemoryContextSwitchTo(old);
	ResetPerTupleExprContext(insert->estate);
	insert->n = 0;
}

/* The next row's slot, empty. */
TupleTableSlot *
sn_insert_slot(SnInsert *insert)
{
	if (insert->n == SN_INSERT_CHUNK && insert->lost == NULL)
		flush(insert);
	if (insert->n == insert->max_slots)
	{
		insert->max_slots *= 2;
		insert->slots = repalloc(insert->slots, insert->max_slots * sizeof(TupleTableSlot *));
	}
	if (insert->n == insert->n_slots)
		insert->slots[insert->n_slots++] = MakeSingleTupleTableSlot(insert->desc, table_slot_callbacks(insert->rel));
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
