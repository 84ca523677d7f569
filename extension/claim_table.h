/*
 * claim_table.h
 *	  Claims in the table of one generation of event_processing_log. See claim_table.c.
 */
#ifndef SENTINAI_CLAIM_TABLE_H
#define SENTINAI_CLAIM_TABLE_H

#include "consume.h"

/* The work's identity is taken by something with this hash. */
typedef void (*SnClaimTaken)(SnWork *work, int64 hash, bool hash_known);

extern void sn_claims_find(int generation, const char *worker_type, SnWork **works, int n, SnClaimTaken taken);
extern void sn_claims_insert(SnBatch *batch, int generation, bool shadow, SnWork **works, int n, SnClaimTaken taken);

#endif /* SENTINAI_CLAIM_TABLE_H */
