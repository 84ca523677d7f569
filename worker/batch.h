/*
 * batch.h
 *	  The bytes of one call of consume(): the format of include/sentinai_wire.h, packed.
 *
 * In this order: batch_begin, batch_partition for each partition, batch_record for each record, each with batch_header for
 * each of its headers, batch_end. A Batch is reused; batch_free() at its end. Out of memory and a number out of the
 * format's range make the batch bad, which batch_end() answers. A Batch belongs to one thread.
 */
#ifndef WORKER_BATCH_H
#define WORKER_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Batch
{
	char *data;
	size_t length;
	size_t room;
	bool bad;
	int32_t n_partitions;
	int32_t n_records;
	size_t n_partitions_at; /* where the counts stand */
	size_t n_records_at;
	size_t n_headers_at;
	int32_t n_headers;
} Batch;

extern void batch_begin(Batch *batch, int64_t handler_version, int32_t max_events);
/* Returns the index for batch_record(). All partitions come before the first record. */
extern int32_t batch_partition(Batch *batch, const char *topic, int32_t partition, int64_t epoch, int64_t position);
/* key and value may be NULL. timestamp in ms, -1: none. */
extern void batch_record(Batch *batch, int32_t entry, int64_t offset, int64_t timestamp, const void *key,
						 size_t key_len, const void *value, size_t value_len);
extern void batch_header(Batch *batch, const char *name, const void *value, size_t value_len);
/* False: the batch can't be sent. */
extern bool batch_end(Batch *batch);
extern void batch_free(Batch *batch);

#endif /* WORKER_BATCH_H */
