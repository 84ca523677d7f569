/*
 * lookup.h
 *	  Rows of one table by a unique index of it, without the executor. See lookup.c.
 */
#ifndef SENTINAI_LOOKUP_H
#define SENTINAI_LOOKUP_H

#include "postgres.h"

#include "access/genam.h"
#include "access/skey.h"
#include "executor/tuptable.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

typedef struct SnLookup
{
	IndexScanDesc scan;
	int n_keys;
	ScanKeyData keys[INDEX_MAX_KEYS];
	TupleTableSlot *slot;
} SnLookup;

extern void sn_lookup_begin(SnLookup *lookup, Relation rel, Relation index, Snapshot snapshot);
extern void sn_lookup_keys(SnLookup *lookup, const Datum *values);
extern TupleTableSlot *sn_lookup_next(SnLookup *lookup);
extern void sn_lookup_end(SnLookup *lookup);

#endif /* SENTINAI_LOOKUP_H */
