/*
 * insert.h
 *	  Many rows into one table at once, as COPY writes them. See insert.c.
 */
#ifndef SENTINAI_INSERT_H
#define SENTINAI_INSERT_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "utils/relcache.h"

/* Rows that go into pages, and then into indexes, together */
#define SN_INSERT_CHUNK 256

typedef struct SnInsert
{
	Relation rel;
	EState *estate;
	ResultRelInfo *info;
	TupleTableSlot *slots[SN_INSERT_CHUNK];
	int n_slots; /* that have been made */
	int n;		 /* that hold a row */
} SnInsert;

extern void sn_insert_begin(SnInsert *insert, Relation rel);
extern TupleTableSlot *sn_insert_slot(SnInsert *insert);
extern void sn_insert_end(SnInsert *insert);
extern void sn_insert_text(TupleTableSlot *slot, int column, const char *value);
extern void sn_insert_datum(TupleTableSlot *slot, int column, Datum value, bool isnull);

#endif /* SENTINAI_INSERT_H */
