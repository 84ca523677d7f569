/*
 * batch.c
 *	  The bytes of one call of consume(). See batch.h.
 */
#include "batch.h"

#include <stdlib.h>
#include <string.h>

#include "sentinai_wire.h"

/* bytea holds up to 1 GiB; what is larger can't be sent. */
#define BATCH_BYTES_MAX ((size_t) 1000 * 1024 * 1024)

static bool
need(Batch *batch, size_t more)
{
	size_t room = batch->room;
	char *data;

	if (batch->bad)
		return false;
	if (batch->length + more <= room)
		return true;
	while (room < batch->length + more)
		room = room == 0 ? 65536 : room * 2;
	if (batch->length + more > BATCH_BYTES_MAX || (data = realloc(batch->data, room)) == NULL)
	{
		batch->bad = true;
		return false;
	}
	batch->data = data;
	batch->room = room;
	return true;
}

/* size bytes of the number, the highest first */
static void
write_number(char *to, uint64_t number, int size)
{
	for (int i = size - 1; i >= 0; i--)
	{
		to[i] = (char) (number & 0xff);
		number >>= 8;
	}
}

static void
put_number(Batch *batch, uint64_t number, int size)
{
	if (!need(batch, size))
		return;
	write_number(batch->data + batch->length, number, size);
	batch->length += size;
}

static void
put_raw(Batch *batch, const void *bytes, size_t length)
{
	if (length == 0 || !need(batch, length))
		return;
	memcpy(batch->data + batch->length, bytes, length);
	batch->length += length;
}

static void
put_str16(Batch *batch, const char *text)
{
	size_t length = strlen(text);

	if (length > UINT16_MAX)
	{
		batch->bad = true;
		return;
	}
	put_number(batch, length, 2);
	put_raw(batch, text, length);
}

static void
put_bytes32(Batch *batch, const void *bytes, size_t length)
{
	if (bytes == NULL)
	{
		put_number(batch, (uint32_t) -1, 4);
		return;
	}
	put_number(batch, length, 4);
	put_raw(batch, bytes, length);
}

/* A count that is known later: returns where it stands. */
static size_t
put_later(Batch *batch)
{
	size_t at = batch->length;

	put_number(batch, 0, 4);
	return at;
}

static void
fill_in(Batch *batch, size_t at, int32_t count)
{
	if (!batch->bad)
		write_number(batch->data + at, (uint32_t) count, 4);
}

static void
end_record(Batch *batch)
{
	if (batch->n_records > 0)
		fill_in(batch, batch->n_headers_at, batch->n_headers);
}

void
batch_begin(Batch *batch, int64_t handler_version, int32_t max_events)
{
	char *data = batch->data;
	size_t room = batch->room;

	*batch = (Batch){.data = data, .room = room};
	put_raw(batch, SN_WIRE_MAGIC, SN_WIRE_MAGIC_LEN);
	put_number(batch, (uint64_t) handler_version, 8);
	put_number(batch, (uint32_t) max_events, 4);
	batch->n_partitions_at = put_later(batch);
}

int32_t
batch_partition(Batch *batch, const char *topic, int32_t partition, int64_t epoch, int64_t position)
{
	put_str16(batch, topic);
	put_number(batch, (uint32_t) partition, 4);
	put_number(batch, (uint64_t) epoch, 8);
	put_number(batch, (uint64_t) position, 8);
	if (batch->n_partitions == SN_WIRE_MAX_PARTITIONS)
		batch->bad = true;
	return batch->n_partitions++;
}

void
batch_record(Batch *batch, int32_t entry, int64_t offset, int64_t timestamp, const void *key, size_t key_len,
			 const void *value, size_t value_len)
{
	end_record(batch);
	if (batch->n_records == 0)
		batch->n_records_at = put_later(batch);
	if (batch->n_records == SN_WIRE_MAX_RECORDS)
		batch->bad = true;
	batch->n_records++;
	put_number(batch, (uint32_t) entry, 4);
	put_number(batch, (uint64_t) offset, 8);
	put_number(batch, (uint64_t) timestamp, 8);
	put_bytes32(batch, key, key_len);
	put_bytes32(batch, value, value_len);
	batch->n_headers_at = put_later(batch);
	batch->n_headers = 0;
}

void
batch_header(Batch *batch, const char *name, const void *value, size_t value_len)
{
	put_str16(batch, name);
	put_bytes32(batch, value, value_len);
	if (batch->n_headers == SN_WIRE_MAX_HEADERS)
		batch->bad = true;
	batch->n_headers++;
}

bool
batch_end(Batch *batch)
{
	end_record(batch);
	if (batch->n_records == 0)
		batch->n_records_at = put_later(batch);
	fill_in(batch, batch->n_partitions_at, batch->n_partitions);
	fill_in(batch, batch->n_records_at, batch->n_records);
	return !batch->bad;
}

void
batch_free(Batch *batch)
{
	free(batch->data);
	*batch = (Batch){NULL};
}
