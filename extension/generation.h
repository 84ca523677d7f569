/*
 * generation.h
 *	  Which generations of event_processing_log a batch inserts into, and the lock that shows that it is still running.
 */
#ifndef SENTINAI_GENERATION_H
#define SENTINAI_GENERATION_H

#include "postgres.h"

typedef struct SnGenerations
{
	int32 state_number;
	int32 newest;
	int32 previous_open; /* insert into this one too, with shadow = true; 0: none is open */
} SnGenerations;

/*
 * Takes the lock SN_LOCK_GENERATION with the state_number that the batch works under (rotation goes on once none with an
 * older number is held) and reads the state, in the only order that is right: lock the number that was read, read again by the
 * newest snapshot, and begin again if it has changed meanwhile. SPI must be connected. Activated databases only.
 */
extern void sn_generation_enter(SnGenerations *generations);

#endif /* SENTINAI_GENERATION_H */
