/*
 * pending.c
 *	  event_pending: the work that waits in the database, taken when it is due and put away when it has to wait.
 *
 * A row holds the record as it came, so that due work takes the same way through the steps as new records do. A row is
 * only touched by the processor that holds its partition's row in kafka_offset, or by an operator. When to try again is
 * retry.c's decision, who waits behind whom is key_order.c's, and whose turn it is in the queues of events over their
 * tenants' rate is backpressure.c's.
 */
#include "postgres.h"

#include "backpressure.h"
#include "catalog/pg_type.h"
#include "consume.h"
#include "funcapi.h"
#include "sentinai.h"
#include "spi.h"
#include "suspect.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/* Due work may always take this share of a call, so that a full topic can't starve it. */
#define DUE_SHARE 4

/* What add_due() takes, in its order. */
#define DUE_COLUMNS \
	"SELECT p.id, p.tenant_id, p.event_id, p.retry_count, p.first_failed_at, p.origin_partition, p.origin_offset," \
	" p.record_ts, p.record_key, p.record_headers, p.record_value, p.dlq_id, r.retry_token::text, p.status, p.claimed," \
	" p.charged, p.rate_limit IS NOT NULL, p.topic, p.partition"

static SnStatement read_due = {
	.sql = DUE_COLUMNS " FROM (SELECT p.* FROM sentinai.event_pending p"
					   "  WHERE p.worker_type = $1 AND p.topic = $2 AND p.partition = $3"
					   "  AND p.status <> 'parked' AND p.rate_limit IS NULL AND p.next_attempt_at <= $4"
					   "  ORDER BY p.next_attempt_at, p.id LIMIT $5 FOR UPDATE) p"
					   " LEFT JOIN sentinai.dead_letter_queue r ON r.id = p.dlq_id ORDER BY p.next_attempt_at, p.id",
	.n_args = 5,
	.args = {TEXTOID, TEXTOID, INT4OID, TIMESTAMPTZOID, INT4OID}};

/* The event that suspect_next() has marked, by the same function. */
static SnStatement read_suspect_due = {.sql = DUE_COLUMNS
									   " FROM (SELECT p.* FROM sentinai.event_pending p"
									   "  WHERE p.id = sentinai.suspect_due($1, $2, $3, $4) FOR UPDATE) p"
									   " LEFT JOIN sentinai.dead_letter_queue r ON r.id = p.dlq_id",
									   .n_args = 4,
									   .args = {TEXTOID, TEXTOID, INT4OID, TIMESTAMPTZOID}};

/*
 * The first events of several tenants' queues. A row that somebody holds (backpressure_move() of another processor) comes
 * without its columns: it is not waited for, and what stands behind it must not overtake it.
 */
static SnStatement read_turns = {
	.sql = DUE_COLUMNS ", w.tenant_id"
					   " FROM (SELECT t.tenant_id, o.id, o.next_attempt_at"
					   "  FROM unnest($4, $5, $6) AS t(tenant_id, quota, until), LATERAL ("
					   "   SELECT q.id, q.next_attempt_at FROM unnest($2, $3) AS u(topic, partition), LATERAL ("
					   "    SELECT e.id, e.next_attempt_at FROM sentinai.event_pending e"
					   "    WHERE e.rate_limit IS NOT NULL AND e.tenant_id = t.tenant_id AND e.worker_type = $1"
					   "    AND e.topic = u.topic AND e.partition = u.partition AND e.next_attempt_at <= t.until"
					   "    ORDER BY e.next_attempt_at, e.id LIMIT t.quota) q"
					   "   ORDER BY q.next_attempt_at, q.id LIMIT t.quota) o) w"
					   " LEFT JOIN LATERAL (SELECT e.* FROM sentinai.event_pending e"
					   "  WHERE e.id = w.id AND e.rate_limit IS NOT NULL FOR UPDATE SKIP LOCKED) p ON true"
					   " LEFT JOIN sentinai.dead_letter_queue r ON r.id = p.dlq_id"
					   " ORDER BY w.tenant_id, w.next_attempt_at, w.id",
	.n_args = 6,
	.args = {TEXTOID, TEXTARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID}};

static SnStatement read_next_due = {
	.sql = "SELECT min(d.next_attempt_at) FROM unnest($2, $3) AS u(topic, partition),"
		   " LATERAL (SELECT p.next_attempt_at FROM sentinai.event_pending p"
		   "  WHERE p.worker_type = $1 AND p.topic = u.topic AND p.partition = u.partition AND p.status <> 'parked'"
		   "  AND p.rate_limit IS NULL ORDER BY p.next_attempt_at LIMIT 1) d",
	.n_args = 3,
	.args = {TEXTOID, TEXTARRAYOID, INT4ARRAYOID}};

static SnStatement insert_pending = {
	.sql =
		"INSERT INTO sentinai.event_pending (tenant_id, event_id, worker_type, event_type, exception_id, status, topic,"
		" partition, next_attempt_at, retry_count, first_failed_at, error_type, error_message, sqlstate, origin_partition,"
		" origin_offset, record_ts, record_key, record_headers, record_value, dlq_id, charged, rate_limit)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)"
		" ON CONFLICT (tenant_id, event_id, worker_type) DO NOTHING",
	.n_args = 23};

static SnStatement update_pending = {
	.sql =
		"UPDATE sentinai.event_pending SET status = $2, claimed = true, next_attempt_at = $3, retry_count = $4, first_failed_at = $5,"
		" error_type = coalesce($6, error_type), error_message = coalesce($7, error_message),"
		" sqlstate = coalesce($8, sqlstate), charged = $9, rate_limit = $10 WHERE id = $1",
	.n_args = 10,
	.args = {INT8OID, TEXTOID, TIMESTAMPTZOID, INT4OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, BOOLOID, TEXTOID}};

static SnStatement delete_pending = {.sql = "DELETE FROM sentinai.event_pending WHERE id = $1",
									 .n_args = 1,
									 .args = {INT8OID}};

static SnSpan
result_span(int row, int column)
{
	bool isnull;
	Datum value = sn_result_datum(row, column, &isnull);
	SnSpan span = {NULL, 0};

	if (!isnull)
	{
		bytea *bytes = DatumGetByteaPCopy(value);

		span.data = VARDATA_ANY(bytes);
		span.len = VARSIZE_ANY_EXHDR(bytes);
	}
	return span;
}

static void
result_headers(int row, int column, SnRecord *record)
{
	bool isnull;
	Datum value = sn_result_datum(row, column, &isnull);
	Datum *elements;
	bool *nulls;

	if (isnull)
		return;
	deconstruct_array(DatumGetArrayTypePCopy(value), sn_type_oid("header"), -1, false, TYPALIGN_DOUBLE, &elements,
					  &nulls, &record->n_headers);
	record->headers = palloc0(Max(record->n_headers, 1) * sizeof(SnHeader));
	for (int i = 0; i < record->n_headers; i++)
	{
		HeapTupleHeader header = DatumGetHeapTupleHeader(elements[i]);
		bool name_null;
		bool value_null;
		text *name = DatumGetTextPP(GetAttributeByNum(header, 1, &name_null));
		Datum header_value = GetAttributeByNum(header, 2, &value_null);

		record->headers[i].name.data = VARDATA_ANY(name);
		record->headers[i].name.len = VARSIZE_ANY_EXHDR(name);
		if (!value_null)
		{
			bytea *bytes = DatumGetByteaPP(header_value);

			record->headers[i].value.data = VARDATA_ANY(bytes);
			record->headers[i].value.len = VARSIZE_ANY_EXHDR(bytes);
		}
	}
}

static void
add_due(SnBatch *batch, SnPartition *partition, int row)
{
	SnWork *work = sn_batch_add_work(batch);
	SnRecord *record = palloc0(sizeof(SnRecord));
	int64 dlq_id = sn_result_int64(row, 12);

	record->entry = partition - batch->partitions;
	record->offset = sn_result_int64(row, 7);
	record->ts = sn_result_time(row, 8);
	record->key = result_span(row, 9);
	result_headers(row, 10, record);
	record->value = result_span(row, 11);
	work->record = record;
	work->queue = partition;
	work->claimed = sn_result_bool(row, 15);
	work->charged = sn_result_bool(row, 16);
	work->queued = sn_result_bool(row, 17);
	work->pending_id = sn_result_int64(row, 1);
	work->kept_tenant = sn_result_text(row, 2);
	work->kept_event_id = sn_result_text(row, 3);
	work->released = strcmp(sn_result_text(row, 14), "released") == 0;
	work->retry_count = sn_result_int32(row, 4);
	work->first_failed_at = sn_result_time(row, 5);
	work->origin_partition = sn_result_int32(row, 6);
	work->origin_offset = record->offset;
	if (dlq_id != 0 && sn_result_text(row, 13) != NULL)
	{
		work->replay = palloc0(sizeof(SnReplay));
		work->replay->dlq_id = dlq_id;
		work->replay->token = sn_result_text(row, 13);
	}
}

static void
add_due_of(SnBatch *batch, SnPartition *partition, int limit)
{
	Datum values[5] = {CStringGetTextDatum(batch->worker_type->name), CStringGetTextDatum(partition->topic),
					   Int32GetDatum(partition->partition), TimestampTzGetDatum(batch->now), Int32GetDatum(limit)};
	uint64 n = sn_execute(sn_suspect_is_searching() ? &read_suspect_due : &read_due, values, NULL);

	for (int row = 0; row < n; row++)
		add_due(batch, partition, row);
	batch->n_due += n;
}

static SnPartition *
result_partition(SnBatch *batch, int row)
{
	char *topic = sn_result_text(row, 18);
	int number = sn_result_int32(row, 19);
	int i = 0;

	while (batch->partitions[i].partition != number || strcmp(batch->partitions[i].topic, topic) != 0)
		i++;
	return &batch->partitions[i];
}

/*
 * Adds the events whose turn it is, each tenant's in the order of its queue.
 */
void
sn_pending_take_turns(SnBatch *batch, const SnTurn *turns, int n)
{
	SnColumn columns[3];
	Datum values[6] = {CStringGetTextDatum(batch->worker_type->name)};
	const char *held_up = "";
	uint64 rows;

	sn_column_init(&columns[0], TEXTOID, n);
	sn_column_init(&columns[1], INT4OID, n);
	sn_column_init(&columns[2], TIMESTAMPTZOID, n);
	for (int i = 0; i < n; i++)
	{
		sn_column_text(&columns[0], turns[i].tenant_id);
		sn_column_add(&columns[1], Int32GetDatum(turns[i].quota), false);
		sn_column_add(&columns[2], TimestampTzGetDatum(turns[i].until), false);
	}
	sn_batch_places(batch, &values[1], &values[2]);
	for (int c = 0; c < 3; c++)
		values[c + 3] = sn_column_array(&columns[c]);
	rows = sn_execute(&read_turns, values, NULL);
	for (int row = 0; row < rows; row++)
	{
		char *tenant_id = sn_result_text(row, 20);

		if (sn_result_int64(row, 1) == 0)
			held_up = tenant_id;
		if (strcmp(tenant_id, held_up) == 0)
			continue;
		add_due(batch, result_partition(batch, row), row);
		batch->n_due++;
	}
}

/*
 * Adds the work that is due for the partitions of the batch, in its order, counted against the size of the call. Events
 * over their tenants' rate come first, with their part of it.
 */
void
sn_pending_due(SnBatch *batch)
{
	int left = Max(batch->max_events - batch->n_records, Max(batch->max_events / DUE_SHARE, 1));

	if (!sn_suspect_is_searching())
		left -= sn_backpressure_take_turns(batch, left);
	for (int i = 0; i < batch->n_partitions && left > 0; i++)
	{
		SnPartition *partition = &batch->partitions[i];
		int before = batch->n_due;

		if (partition->fenced)
			continue;
		add_due_of(batch, partition, left);
		left -= batch->n_due - before;
	}
}

static Datum
text_or_null(const char *value, char *null)
{
	*null = value == NULL ? 'n' : ' ';
	return value == NULL ? (Datum) 0 : CStringGetTextDatum(value);
}

static Datum
time_or_null(TimestampTz value, char *null)
{
	*null = value == 0 ? 'n' : ' ';
	return TimestampTzGetDatum(value);
}

/* The row of a piece of work that comes to wait for the first time. False: its identity waits already. */
static bool
insert_work(SnBatch *batch, SnWork *work, const char *status, TimestampTz next_attempt_at, const char *rate_limit)
{
	static const Oid types[] = {TEXTOID,		TEXTOID,  TEXTOID,		  TEXTOID,	TEXTOID, TEXTOID, TEXTOID, INT4OID,
								TIMESTAMPTZOID, INT4OID,  TIMESTAMPTZOID, TEXTOID,	TEXTOID, TEXTOID, INT4OID, INT8OID,
								TIMESTAMPTZOID, BYTEAOID, InvalidOid,	  BYTEAOID, INT8OID, BOOLOID, TEXTOID};
	SnEvent *event = &work->event;
	SnRecord *record = work->record;
	SnKey *key = work->key;
	bool behind = key != NULL && key->held;
	char nulls[lengthof(types) + 1];
	Datum headers = sn_record_headers_datum(record);
	Datum values[lengthof(types)];
	int i = 0;

	memcpy(insert_pending.args, types, sizeof(types));
	insert_pending.args[18] = get_array_type(sn_type_oid("header"));
	memset(nulls, ' ', sizeof(nulls));

	values[i++] = CStringGetTextDatum(event->tenant_id);
	values[i++] = CStringGetTextDatum(event->event_id);
	values[i++] = CStringGetTextDatum(batch->worker_type->name);
	values[i++] = CStringGetTextDatum(event->event_type);
	values[i] = text_or_null(event->exception_id, &nulls[i]), i++;
	values[i++] = CStringGetTextDatum(status);
	values[i++] = CStringGetTextDatum(behind ? key->topic : work->queue->topic);
	values[i++] = Int32GetDatum(behind ? key->partition : work->queue->partition);
	values[i++] = TimestampTzGetDatum(next_attempt_at);
	values[i++] = Int32GetDatum(work->retry_count);
	values[i] = time_or_null(work->first_failed_at, &nulls[i]), i++;
	values[i] = text_or_null(work->failure.error_type, &nulls[i]), i++;
	values[i] = text_or_null(work->failure.message, &nulls[i]), i++;
	values[i] = text_or_null(work->failure.error_type == NULL ? NULL : work->failure.sqlstate, &nulls[i]), i++;
	values[i++] = Int32GetDatum(work->origin_partition);
	values[i++] = Int64GetDatum(work->origin_offset);
	values[i] = time_or_null(record->ts, &nulls[i]), i++;
	nulls[i] = record->key.data == NULL ? 'n' : ' ';
	values[i++] = sn_span_bytea(record->key);
	nulls[i] = headers == (Datum) 0 ? 'n' : ' ';
	values[i++] = headers;
	values[i++] = sn_span_bytea(record->value);
	nulls[i] = work->replay == NULL ? 'n' : ' ';
	values[i++] = Int64GetDatum(work->replay == NULL ? 0 : work->replay->dlq_id);
	values[i++] = BoolGetDatum(work->charged);
	values[i] = text_or_null(rate_limit, &nulls[i]), i++;
	return sn_execute(&insert_pending, values, nulls) > 0;
}

static void
update_work(SnWork *work, const char *status, TimestampTz next_attempt_at, const char *rate_limit)
{
	char nulls[11] = "          ";
	Datum values[10] = {Int64GetDatum(work->pending_id), CStringGetTextDatum(status),
						TimestampTzGetDatum(next_attempt_at), Int32GetDatum(work->retry_count)};

	values[4] = time_or_null(work->first_failed_at, &nulls[4]);
	values[5] = text_or_null(work->failure.error_type, &nulls[5]);
	values[6] = text_or_null(work->failure.message, &nulls[6]);
	values[7] = text_or_null(work->failure.error_type == NULL ? NULL : work->failure.sqlstate, &nulls[7]);
	values[8] = BoolGetDatum(work->charged);
	values[9] = text_or_null(rate_limit, &nulls[9]);
	sn_execute(&update_pending, values, nulls);
}

/*
 * Puts a piece of work away until next_attempt_at: retrying, parked, deferred. A parked event of a key goes to the queue
 * of whoever blocked the key. rate_limit: the limit under which next_attempt_at is its place in its tenant's queue, NULL:
 * it has none. False: the same identity waits already, so this one is a duplicate.
 */
bool
sn_pending_put(SnBatch *batch, SnWork *work, const char *status, TimestampTz next_attempt_at, const char *rate_limit)
{
	if (work->pending_id == 0)
		return insert_work(batch, work, status, next_attempt_at, rate_limit);
	update_work(work, status, next_attempt_at, rate_limit);
	return true;
}

/* Due work that has ended, one way or the other. */
void
sn_pending_done(SnWork *work)
{
	Datum value = Int64GetDatum(work->pending_id);

	if (work->pending_id != 0)
		sn_execute(&delete_pending, &value, NULL);
}

/*
 * Milliseconds until the next work of the batch's partitions is due, at most SN_MAX_NEXT_DUE_MS. Rounded up: a call that
 * comes before the time would find nothing.
 */
int
sn_pending_next_due_ms(SnBatch *batch)
{
	Datum values[3] = {CStringGetTextDatum(batch->worker_type->name)};
	int ms = sn_backpressure_next_turn_ms(batch);
	TimestampTz next;

	sn_batch_places(batch, &values[1], &values[2]);
	sn_execute(&read_next_due, values, NULL);
	next = sn_result_time(0, 1);
	if (next == 0 || next > batch->now + ms * INT64CONST(1000))
		return ms;
	return (int) ((Max(next - GetCurrentTimestamp(), 0) + 999) / 1000);
}
