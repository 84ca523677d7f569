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

/* Rows that go into pages, and then into indexes, together. With a function "lost" all of them do. */
#define SN_INSERT_CHUNK 1000

/*
 * A row (by its number, from 0) has lost: the winner has the same key in a unique index and is committed, or is of this
 * transaction. What is to be known of it must be taken at once.
 */
typedef void (*SnInsertLost)(void *arg, int row, TupleTableSlot *winner);

typedef struct SnInsert
{
	Relation rel;
	SnInsertLost lost; /* NULL: a taken key raises 23505 */
	void *lost_arg;
	EState *estate;
	ResultRelInfo *info;
	TupleDesc desc; /* the slots' own: a shared one would be counted by each, one by one */
	TupleTableSlot **slots;
	int max_slots;
	int n_slots; /* that have been made */
	int n;		 /* that hold a row */
	bool *taken; /* of a chunk that is being written: the row has lost */
} SnInsert;

extern void sn_insert_begin(SnInsert *insert, Relation rel, SnInsertLost lost, void *lost_arg);
extern TupleTableSlot *sn_insert_slot(SnInsert *insert);
extern void sn_insert_end(SnInsert *insert);
extern void sn_insert_text(TupleTableSlot *slot, int column, const char *value);
extern void sn_insert_datum(TupleTableSlot *slot, int column, Datum value, bool isnull);

#endif /* SENTINAI_INSERT_H */
