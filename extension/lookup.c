/*
 * lookup.c
 *	  Rows of one table by a unique index of it, without the executor: for a thousand keys in a row a statement's way through
 *	  the executor costs more than the descent of the tree.
 *
 * sn_lookup_begin, then for each key sn_lookup_keys and sn_lookup_next until it returns NULL, and sn_lookup_end. What may be
 * seen is for the snapshot to say.
 */
#include "sentinai.h"

#include "access/tableam.h"
#include "lookup.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* Equality on every key column of a btree. */
static void
make_keys(SnLookup *lookup, Relation index)
{
	lookup->n_keys = IndexRelationGetNumberOfKeyAttributes(index);
	for (int i = 0; i < lookup->n_keys; i++)
	{
		Oid type = index->rd_opcintype[i];
		Oid operator= get_opfamily_member(index->rd_opfamily[i], type, type, BTEqualStrategyNumber);

		ScanKeyEntryInitialize(&lookup->keys[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid, index->rd_indcollation[i],
							   get_opcode(operator), (Datum) 0);
	}
}

void
sn_lookup_begin(SnLookup *lookup, Relation rel, Relation index, Snapshot snapshot)
{
	make_keys(lookup, index);
	lookup->slot = table_slot_create(rel, NULL);
	lookup->scan = SN_INDEX_BEGINSCAN(rel, index, snapshot, lookup->n_keys);
}

/* One value for each key column of the index, in its order. None is NULL: a unique index is no help there. */
void
sn_lookup_keys(SnLookup *lookup, const Datum *values)
{
	for (int i = 0; i < lookup->n_keys; i++)
		lookup->keys[i].sk_argument = values[i];
	index_rescan(lookup->scan, lookup->keys, lookup->n_keys, NULL, 0);
}

/* The next row that has these keys; NULL: there is none left. */
TupleTableSlot *
sn_lookup_next(SnLookup *lookup)
{
	return index_getnext_slot(lookup->scan, ForwardScanDirection, lookup->slot) ? lookup->slot : NULL;
}

void
sn_lookup_end(SnLookup *lookup)
{
	index_endscan(lookup->scan);
	ExecDropSingleTupleTableSlot(lookup->slot);
}
