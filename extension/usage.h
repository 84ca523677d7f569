/*
 * usage.h
 *	  Counting what tenants use, in the transaction that uses it. See usage.c.
 */
#ifndef SENTINAI_USAGE_H
#define SENTINAI_USAGE_H

#include "postgres.h"
#include "datatype/timestamp.h"

struct SnBatch;

/* The metric types that C counts; all of them are rows of usage_type. */
#define SN_USAGE_EVENTS "events"

typedef struct SnUsage
{
	const char *tenant_id;
	const char *metric_type;
	const char *resource; /* what was used, '' where there is nothing to tell apart */
	int64 quantity;
} SnUsage;

/* Writes rows of the minute of that time: they commit with the transaction, or not at all. */
extern void sn_usage_insert(const SnUsage *rows, int n, TimestampTz at);

/* One row, of now. */
extern void sn_usage_add(const char *tenant_id, const char *metric_type, const char *resource, int64 n);

/* Counts the events that the batch has finished. */
extern void sn_usage_settle(struct SnBatch *batch);

#endif /* SENTINAI_USAGE_H */
