/*
 * backpressure.h
 *	  Events over their tenant's rate, as the steps of consume() see them: see backpressure.c.
 */
#ifndef SN_BACKPRESSURE_H
#define SN_BACKPRESSURE_H

#include "consume.h"

/* At the start of a call: reads whose queues there are. */
extern void sn_backpressure_begin(SnBatch *batch);

/* Adds the events whose turn it is, as its part of a call that has room for so many; returns how many. */
extern int sn_backpressure_take_turns(SnBatch *batch, int left);

/* The limit step: charges the tenants, and gives what is over their rate its place in their queues. */
extern void sn_backpressure(SnBatch *batch);

/* Puts a deferred event away. */
extern void sn_backpressure_put(SnBatch *batch, SnWork *work);

/* Whether the event keeps the place that it has in its tenant's queue: nothing of it changes. */
extern bool sn_backpressure_stays(const SnWork *work);

/* Emits BackpressureApplied, once a window and tenant. */
extern void sn_backpressure_emit(SnBatch *batch);

/* Milliseconds until the next turn in the batch's partitions, at most SN_MAX_NEXT_DUE_MS. */
extern int sn_backpressure_next_turn_ms(SnBatch *batch);

#endif /* SN_BACKPRESSURE_H */
