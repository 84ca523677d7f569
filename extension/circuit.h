/*
 * circuit.h
 *	  The circuit breaker as the steps of consume() see it.
 */
#ifndef SN_CIRCUIT_H
#define SN_CIRCUIT_H

#include "consume.h"
#include "storage/lwlock.h"

/* Before the steps: makes a waiting event due where a probe is, and pauses reading where too much waits. */
extern const char *sn_circuit_begin(SnBatch *batch);

/* Before order: marks what open circuits cover to be deferred, but one probe each. */
extern void sn_circuit_screen(SnBatch *batch);

/* While handling: a handler that can't run opens its circuit at once. True: the event waits for it. */
extern bool sn_circuit_trip(SnBatch *batch, SnWork *work);

/* After handling: what the probes and the failures of the last 30 s mean. */
extern void sn_circuit_judge(SnBatch *batch);

extern Size sn_circuit_shmem_size(void);
extern void sn_circuit_shmem_init(LWLock *lock);

#endif /* SN_CIRCUIT_H */
