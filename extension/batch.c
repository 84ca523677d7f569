/*
 * batch.c
 *	  The bytes of a batch: decoding what the worker packed, and packing a record[] to the same bytes.
 *
 * The format stands in include/sentinai_wire.h. Decoded spans point into the batch's bytes; nothing is copied. What the
 * records mean is screen.c's.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "consume.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "sentinai.h"
#include "sentinai_wire.h"
#include "spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/* The columns of sentinai.record, in order. */
enum
{
	RECORD_TOPIC,
	RECORD_PARTITION,
	RECORD_OFFSET,
	RECORD_EPOCH,
	RECORD_TS,
	RECORD_KEY,
	RECORD_HEADERS,
	RECORD_VALUE,
	RECORD_COLUMNS
};

#define RECORD_MAX_EVENTS 500

/* 1970-01-01 in TimestampTz is this many milliseconds before 2000-01-01. */
#define EPOCH_DIFFERENCE_MS ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * INT64CONST(86400000))

typedef struct Reader
{
	const char *at;
	const char *end;
} Reader;

SN_NORETURN static void
invalid_batch(const char *detail)
{
	ereport(ERROR,
			(errcode(SN_ERRCODE("SN007")), errmsg("batch is not valid"), errdetail("%s", detail),
			 errhint("The worker and the extension must be of the same version; see sentinai_wire.h for the format.")));
}

static uint64
read_int(Reader *reader, int width)
{
	uint64 value = 0;

	if (reader->end - reader->at < width)
		invalid_batch("The batch ends in the middle of a number.");
	for (int i = 0; i < width; i++)
		value = (value << 8) | (unsigned char) *reader->at++;
	return value;
}

static int32
read_count(Reader *reader, int32 max, const char *what)
{
	int32 count = (int32) read_int(reader, 4);

	if (count < 0 || count > max)
		invalid_batch(psprintf("It announces %d %s.", count, what));
	return count;
}

static SnSpan
read_bytes(Reader *reader, int64 len)
{
	SnSpan span = {NULL, 0};

	if (len < 0)
		return span;
	if (reader->end - reader->at < len)
		invalid_batch("The batch ends in the middle of a value.");
	span.data = reader->at;
	span.len = (int) len;
	reader->at += len;
	return span;
}

static SnSpan
read_str16(Reader *reader)
{
	return read_bytes(reader, (int64) read_int(reader, 2));
}

static SnSpan
read_bytes32(Reader *reader)
{
	return read_bytes(reader, (int32) read_int(reader, 4));
}

static void
read_partition(Reader *reader, SnPartition *partition)
{
	SnSpan topic = read_str16(reader);

	if (!pg_verify_mbstr(PG_UTF8, topic.data, topic.len, true) || memchr(topic.data, '\0', topic.len) != NULL)
		invalid_batch("A topic's name is not valid UTF-8.");
	partition->topic = pnstrdup(topic.data, topic.len);
	partition->partition = (int32) read_int(reader, 4);
	partition->epoch = (int64) read_int(reader, 8);
	partition->position = (int64) read_int(reader, 8);
}

static void
read_record(Reader *reader, SnRecord *record, int n_partitions)
{
	int64 ts;

	record->entry = (int32) read_int(reader, 4);
	if (record->entry < 0 || record->entry >= n_partitions)
		invalid_batch("A record names a partition entry that is not there.");
	record->offset = (int64) read_int(reader, 8);
	ts = (int64) read_int(reader, 8);
	record->ts = ts < 0 ? 0 : (ts - EPOCH_DIFFERENCE_MS) * 1000;
	if (record->ts != 0 && !IS_VALID_TIMESTAMP(record->ts))
		record->ts = 0;
	record->key = read_bytes32(reader);
	record->value = read_bytes32(reader);
	record->n_headers = read_count(reader, SN_WIRE_MAX_HEADERS, "headers of one record");
	if (record->n_headers > 0)
		record->headers = palloc(record->n_headers * sizeof(SnHeader));
	for (int i = 0; i < record->n_headers; i++)
	{
		record->headers[i].name = read_str16(reader);
		record->headers[i].value = read_bytes32(reader);
	}
}

/*
 * Decodes a batch into its partitions and records. Raises SN007 where the bytes are not a batch.
 */
void
sn_batch_decode(SnBatch *batch, const char *data, int len)
{
	Reader reader = {data, data + len};
	SnSpan magic = read_bytes(&reader, Min(len, SN_WIRE_MAGIC_LEN));

	if (magic.len != SN_WIRE_MAGIC_LEN || memcmp(magic.data, SN_WIRE_MAGIC, SN_WIRE_MAGIC_LEN) != 0)
		invalid_batch("It does not begin with the format's mark.");
	batch->handler_version = (int64) read_int(&reader, 8);
	batch->max_events = read_count(&reader, SN_WIRE_MAX_RECORDS, "events at the most");
	batch->max_events = Max(batch->max_events, 1);
	batch->n_partitions = read_count(&reader, SN_WIRE_MAX_PARTITIONS, "partitions");
	batch->partitions = palloc0(Max(batch->n_partitions, 1) * sizeof(SnPartition));
	for (int i = 0; i < batch->n_partitions; i++)
		read_partition(&reader, &batch->partitions[i]);
	batch->n_records = read_count(&reader, SN_WIRE_MAX_RECORDS, "records");
	batch->records = palloc0(Max(batch->n_records, 1) * sizeof(SnRecord));
	for (int i = 0; i < batch->n_records; i++)
		read_record(&reader, &batch->records[i], batch->n_partitions);
	if (reader.at != reader.end)
		invalid_batch("Bytes are left behind the last record.");
}

SnWork *
sn_batch_add_work(SnBatch *batch)
{
	SnWork *work = palloc0(sizeof(SnWork));

	if (batch->n_work == batch->max_work)
	{
		batch->max_work = Max(batch->max_work * 2, 64);
		batch->work = batch->work == NULL ? palloc(batch->max_work * sizeof(SnWork *))
										  : repalloc(batch->work, batch->max_work * sizeof(SnWork *));
	}
	work->place = batch->n_work;
	batch->work[batch->n_work++] = work;
	return work;
}

/* The partitions that the batch may work for, as arrays of topics and numbers. */
void
sn_batch_places(SnBatch *batch, Datum *topics, Datum *partitions)
{
	SnColumn names;
	SnColumn numbers;

	sn_column_init(&names, TEXTOID, batch->n_partitions);
	sn_column_init(&numbers, INT4OID, batch->n_partitions);
	for (int i = 0; i < batch->n_partitions; i++)
	{
		if (batch->partitions[i].fenced)
			continue;
		sn_column_text(&names, batch->partitions[i].topic);
		sn_column_add(&numbers, Int32GetDatum(batch->partitions[i].partition), false);
	}
	*topics = sn_column_array(&names);
	*partitions = sn_column_array(&numbers);
}

/* The last header of that name, as librdkafka's and Java's clients look one up; NULL where there is none. */
const SnHeader *
sn_record_header(const SnRecord *record, const char *name)
{
	int len = strlen(name);

	for (int i = record->n_headers - 1; i >= 0; i--)
	{
		const SnHeader *header = &record->headers[i];

		if (header->name.len == len && memcmp(header->name.data, name, len) == 0)
			return header;
	}
	return NULL;
}

Datum
sn_span_bytea(SnSpan span)
{
	if (span.data == NULL)
		return (Datum) 0;
	return PointerGetDatum(cstring_to_text_with_len(span.data, span.len));
}

/* A header's name as text: Kafka wants UTF-8; bytes that are not (and NUL) are shown as \xHH. */
static text *
header_name(SnSpan name)
{
	StringInfoData buf;

	if (pg_verify_mbstr(PG_UTF8, name.data, name.len, true))
		return cstring_to_text_with_len(name.data, name.len);
	initStringInfo(&buf);
	for (int i = 0; i < name.len; i++)
	{
		unsigned char c = name.data[i];

		if (c < 0x20 || c >= 0x7f)
			appendStringInfo(&buf, "\\x%02x", c);
		else
			appendStringInfoChar(&buf, c);
	}
	return cstring_to_text_with_len(buf.data, buf.len);
}

/* The record's headers as sentinai.header[], 0 where it has none. */
Datum
sn_record_headers_datum(const SnRecord *record)
{
	Oid type;
	TupleDesc desc;
	Datum *elements;
	Datum result;

	if (record->n_headers == 0)
		return (Datum) 0;
	type = sn_type_oid("header");
	desc = lookup_rowtype_tupdesc(type, -1);
	elements = palloc(record->n_headers * sizeof(Datum));
	for (int i = 0; i < record->n_headers; i++)
	{
		Datum values[2];
		bool nulls[2] = {false, record->headers[i].value.data == NULL};

		values[0] = PointerGetDatum(header_name(record->headers[i].name));
		values[1] = sn_span_bytea(record->headers[i].value);
		elements[i] = heap_copy_tuple_as_datum(heap_form_tuple(desc, values, nulls), desc);
	}
	ReleaseTupleDesc(desc);
	result = PointerGetDatum(construct_array(elements, record->n_headers, type, -1, false, TYPALIGN_DOUBLE));
	return result;
}

static void
put_str16(StringInfo buf, Datum value, const char *what)
{
	text *str = DatumGetTextPP(value);
	int len = VARSIZE_ANY_EXHDR(str);

	if (len > PG_UINT16_MAX)
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("%s is too long", what),
						errdetail("It has %d bytes; at most %d are possible.", len, PG_UINT16_MAX)));
	pq_sendint16(buf, len);
	appendBinaryStringInfo(buf, VARDATA_ANY(str), len);
}

static void
put_bytes32(StringInfo buf, Datum value, bool isnull)
{
	bytea *bytes;

	if (isnull)
	{
		pq_sendint32(buf, -1);
		return;
	}
	bytes = DatumGetByteaPP(value);
	pq_sendint32(buf, VARSIZE_ANY_EXHDR(bytes));
	appendBinaryStringInfo(buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
}

static void
put_headers(StringInfo buf, Datum value, bool isnull)
{
	Datum *elements;
	bool *nulls;
	int n = 0;

	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(value), sn_type_oid("header"), -1, false, TYPALIGN_DOUBLE, &elements,
						  &nulls, &n);
	pq_sendint32(buf, n);
	for (int i = 0; i < n; i++)
	{
		HeapTupleHeader row = nulls[i] ? NULL : DatumGetHeapTupleHeader(elements[i]);
		bool name_null = true;
		bool value_null = true;
		Datum name = (Datum) 0;
		Datum header_value = (Datum) 0;

		if (row != NULL)
		{
			name = GetAttributeByNum(row, 1, &name_null);
			header_value = GetAttributeByNum(row, 2, &value_null);
		}
		if (name_null)
			ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("a record's header has no name")));
		put_str16(buf, name, "a header's name");
		put_bytes32(buf, header_value, value_null);
	}
}

/* Column values of the elements of a record[]. */
typedef struct RecordRow
{
	Datum values[RECORD_COLUMNS];
	bool nulls[RECORD_COLUMNS];
	int entry;
} RecordRow;

static void
deform_record(Datum element, bool isnull, RecordRow *row)
{
	HeapTupleHeader header;

	if (isnull)
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("a record of the batch is NULL")));
	header = DatumGetHeapTupleHeader(element);
	for (int i = 0; i < RECORD_COLUMNS; i++)
		row->values[i] = GetAttributeByNum(header, i + 1, &row->nulls[i]);
	for (int i = RECORD_TOPIC; i <= RECORD_EPOCH; i++)
		if (row->nulls[i])
			ereport(
				ERROR,
				(errcode(SN_ERRCODE("SN001")),
				 errmsg("a record of the batch has no topic, partition, kafka_offset or epoch"),
				 errhint(
					 "A row is (topic, partition, kafka_offset, epoch, ts, key, headers, value); the epoch is what assign() returned.")));
}

/* A row that only tells a position: neither key, time nor value. */
static bool
is_position(const RecordRow *row)
{
	return row->nulls[RECORD_TS] && row->nulls[RECORD_KEY] && row->nulls[RECORD_VALUE];
}

static int64
row_position(const RecordRow *row)
{
	int64 offset = DatumGetInt64(row->values[RECORD_OFFSET]);

	return is_position(row) || offset == PG_INT64_MAX ? offset : offset + 1;
}

static bool
same_partition(const RecordRow *a, const RecordRow *b)
{
	return DatumGetInt32(a->values[RECORD_PARTITION]) == DatumGetInt32(b->values[RECORD_PARTITION]) &&
		   strcmp(TextDatumGetCString(a->values[RECORD_TOPIC]), TextDatumGetCString(b->values[RECORD_TOPIC])) == 0;
}

/* Finds or makes the entry of a row's partition; entries[] holds the row that opened each. */
static int
find_entry(RecordRow *rows, int *entries, int64 *positions, int *n_entries, int row)
{
	int i;

	for (i = 0; i < *n_entries; i++)
		if (same_partition(&rows[entries[i]], &rows[row]))
			break;
	if (i == *n_entries)
	{
		entries[(*n_entries)++] = row;
		positions[i] = row_position(&rows[row]);
	}
	if (DatumGetInt64(rows[entries[i]].values[RECORD_EPOCH]) != DatumGetInt64(rows[row].values[RECORD_EPOCH]))
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("records of one partition carry different epochs")));
	positions[i] = Max(positions[i], row_position(&rows[row]));
	return i;
}

static void
put_record(StringInfo buf, const RecordRow *row)
{
	pq_sendint32(buf, row->entry);
	pq_sendint64(buf, DatumGetInt64(row->values[RECORD_OFFSET]));
	if (row->nulls[RECORD_TS] || TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(row->values[RECORD_TS])))
		pq_sendint64(buf, -1);
	else
		pq_sendint64(buf, DatumGetTimestampTz(row->values[RECORD_TS]) / 1000 + EPOCH_DIFFERENCE_MS);
	put_bytes32(buf, row->values[RECORD_KEY], row->nulls[RECORD_KEY]);
	put_bytes32(buf, row->values[RECORD_VALUE], row->nulls[RECORD_VALUE]);
	put_headers(buf, row->values[RECORD_HEADERS], row->nulls[RECORD_HEADERS]);
}

/*
 * Packs a sentinai.record[] into the bytes of a batch: the order of the records is kept, the position of a partition is
 * behind its last record.
 */
bytea *
sn_batch_pack(ArrayType *records)
{
	Datum *elements;
	bool *nulls;
	int n;
	int n_entries = 0;
	int n_records = 0;
	RecordRow *rows;
	int *entries;
	int64 *positions;
	StringInfoData buf;

	deconstruct_array(records, ARR_ELEMTYPE(records), -1, false, TYPALIGN_DOUBLE, &elements, &nulls, &n);
	rows = palloc(Max(n, 1) * sizeof(RecordRow));
	entries = palloc(Max(n, 1) * sizeof(int));
	positions = palloc(Max(n, 1) * sizeof(int64));
	for (int i = 0; i < n; i++)
	{
		deform_record(elements[i], nulls[i], &rows[i]);
		rows[i].entry = find_entry(rows, entries, positions, &n_entries, i);
		n_records += !is_position(&rows[i]);
	}

	pq_begintypsend(&buf);
	appendBinaryStringInfo(&buf, SN_WIRE_MAGIC, SN_WIRE_MAGIC_LEN);
	pq_sendint64(&buf, 0);
	pq_sendint32(&buf, Max(n_records, RECORD_MAX_EVENTS));
	pq_sendint32(&buf, n_entries);
	for (int i = 0; i < n_entries; i++)
	{
		const RecordRow *row = &rows[entries[i]];

		put_str16(&buf, row->values[RECORD_TOPIC], "a topic's name");
		pq_sendint32(&buf, DatumGetInt32(row->values[RECORD_PARTITION]));
		pq_sendint64(&buf, DatumGetInt64(row->values[RECORD_EPOCH]));
		pq_sendint64(&buf, positions[i]);
	}
	pq_sendint32(&buf, n_records);
	for (int i = 0; i < n; i++)
		if (!is_position(&rows[i]))
			put_record(&buf, &rows[i]);
	return pq_endtypsend(&buf);
}
