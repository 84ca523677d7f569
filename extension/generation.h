/*
 * generation.h
 *	  Which generations of event_processing_log a batch inserts into, and the lock that shows that it is still running.
 */
#ifndef SENTINAI_GENERATION_H
#define SENTINAI_GENERATION_H

#include "postgres.h"

/*
 * First key of the advisory lock that a batch holds, shared, until its transaction ends; the second key is the
 * state_number that it works under (pg_locks: classid, objid, objsubid 2). Rotation goes on once no lock with an older
 * number is held.
 */
#define SN_LOCK_GENERATION 0x534E4701

typedef struct SnGenerations
{
	int32 state_number;
	int32 newest;
	int32 previous_open; /* insert into this one too, with shadow = true; 0: none is open */
} SnGenerations;

/*
 * Takes the lock and reads the state, in the only order that is right: lock the number that was read, read again by the
 * newest snapshot, and begin again if it has changed meanwhile. SPI must be connected. Activated databases only.
 */
extern void sn_generation_enter(SnGenerations *generations);

#endif /* SENTINAI_GENERATION_H */
