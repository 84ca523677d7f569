/*
 * usage_count.h
 *	  Counting usage outside of transactions. See usage_count.c.
 */
#ifndef SENTINAI_USAGE_COUNT_H
#define SENTINAI_USAGE_COUNT_H

#include "postgres.h"

#include "storage/lwlock.h"

extern Size sn_usage_shmem_size(void);
extern void sn_usage_shmem_init(LWLock *lock);
extern void sn_usage_install(void);

/* Counts at once, whatever becomes of the transaction, and in one that is READ ONLY. Never raises, never waits on disk. */
extern void sn_usage_count(const char *tenant_id, const char *metric_type, const char *resource, int64 n);

extern void sn_usage_forget_database(Oid database);

#endif /* SENTINAI_USAGE_COUNT_H */
