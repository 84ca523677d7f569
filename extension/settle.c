/*
 * settle.c
 *	  The last step of consume(): writing what became of every event, and moving the positions, in the same transaction.
 *
 * Waiting work goes to event_pending, dead letters to the queue, emitted events to event_log and outbox, statuses to the
 * claims; usage.c counts. Who may go on with a key is key_order.c's, the answer to the worker answer.c's.
 */
#include "postgres.h"

#include "access/table.h"
#include "backpressure.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "consume.h"
#include "dead_letter.h"
#include "emit.h"
#include "executor/executor.h"
#include "guc.h"
#include "insert.h"
#include "outbox.h"
#include "point.h"
#include "sentinai.h"
#include "sentinai_wire.h"
#include "spi.h"
#include "usage.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

/* The columns of an event_log row, as arrays; created_at is the last one, behind them. */
enum
{
	LOG_TENANT,
	LOG_EVENT,
	LOG_TYPE,
	LOG_EXCEPTION,
	LOG_TIME,
	LOG_CORRELATION,
	LOG_PAYLOAD,
	LOG_METADATA,
	LOG_VERSION,
	LOG_TOPIC,
	LOG_PARTITION,
	LOG_OFFSET,
	LOG_COLUMNS
};

static const Oid log_types[LOG_COLUMNS] = {TEXTOID,	 TEXTOID,  TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID,
										   JSONBOID, JSONBOID, INT4OID, TEXTOID, INT4OID,		 INT8OID};

static SnStatement insert_log = {
	.sql =
		"INSERT INTO sentinai.event_log (tenant_id, event_id, event_type, exception_id, \"timestamp\", correlation_id,"
		" payload, metadata, version, topic, partition, kafka_offset, created_at)"
		" SELECT u.*, $13 FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) AS u",
	.n_args = 13,
	.args = {TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID, JSONBARRAYOID,
			 JSONBARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INT4ARRAYOID, INT8ARRAYOID, TIMESTAMPTZOID}};

static SnStatement move_offsets = {
	.sql = "UPDATE sentinai.kafka_offset k SET next_offset = u.position, updated_at = $5"
		   " FROM unnest($2, $3, $4) AS u(topic, partition, position)"
		   " WHERE k.group_id = $1 AND k.topic = u.topic AND k.partition = u.partition AND k.next_offset < u.position",
	.n_args = 5,
	.args = {TEXTOID, TEXTARRAYOID, INT4ARRAYOID, INT8ARRAYOID, TIMESTAMPTZOID}};

static bool
waits(const SnWork *work)
{
	return work->outcome == SN_RETRYING || work->outcome == SN_PARKED || work->outcome == SN_DEFERRED;
}

/*
 * Work that waits gets its row, work that ended loses it. In order: the ids are the order of a key's queue.
 *
 * A new event's identity may wait there already, as the retry of a reassigned dead letter: its claim then says that it waits,
 * so that the retry handles it.
 */
static void
settle_pending(SnBatch *batch)
{
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];

		if (!waits(work))
			sn_pending_done(work);
		else if (work->outcome == SN_RETRYING)
			sn_pending_put(batch, work, "retrying", work->next_attempt_at, NULL);
		else if (work->outcome == SN_DEFERRED)
			sn_backpressure_put(batch, work);
		else if (!sn_pending_put(batch, work, "parked", batch->now, NULL) && !(work->fresh && work->replay == NULL))
			work->outcome = SN_DUPLICATE;
	}
}

static void
make_dead_letter(SnBatch *batch, SnWork *work, SnDeadLetter *letter)
{
	SnEvent *event = &work->event;
	SnRecord *record = work->record;

	*letter = (SnDeadLetter){.tenant_id = work->tenant_known ? event->tenant_id : "",
							 .event_id = event->event_id,
							 .event_type = event->event_type,
							 .exception_id = event->exception_id,
							 .worker_type = batch->worker_type->name,
							 .step = work->failure.step,
							 .error_type = work->failure.error_type,
							 .error_message = work->failure.message,
							 .error_detail = work->failure.detail,
							 .sqlstate = work->failure.sqlstate,
							 .retry_count = work->retry_count,
							 .topic = work->queue->topic,
							 .partition = work->origin_partition,
							 .offset = work->origin_offset,
							 .payload = event->payload,
							 .metadata = event->metadata,
							 .event_timestamp = work->parsed ? event->timestamp : 0,
							 .record_ts = record->ts,
							 .key = sn_span_bytea(record->key),
							 .headers = sn_record_headers_datum(record),
							 .value = sn_span_bytea(record->value)};
}

static void
settle_dead_letters(SnBatch *batch)
{
	SnDeadLetter *letters = palloc(Max(batch->n_work, 1) * sizeof(SnDeadLetter));
	SnWork **works = palloc(Max(batch->n_work, 1) * sizeof(SnWork *));
	int n = 0;

	for (int i = 0; i < batch->n_work; i++)
	{
		if (batch->work[i]->outcome != SN_DEAD || batch->work[i]->replay != NULL)
			continue;
		make_dead_letter(batch, batch->work[i], &letters[n]);
		works[n++] = batch->work[i];
	}
	if (n > 0)
		sn_dead_letter_insert(letters, n);
	for (int i = 0; i < n; i++)
		works[i]->dlq_id = letters[i].id;
}

static SnStatement was_handled = {
	.sql =
		"SELECT FROM sentinai.event_processing_log l WHERE l.tenant_id = $1 AND l.event_id = $2 AND l.worker_type = $3"
		" AND NOT l.shadow AND l.status = 'succeeded'",
	.n_args = 3,
	.args = {TEXTOID, TEXTOID, TEXTOID}};

/* Whether the batch has another record of the same retry that decides: a publisher that crashed may send it twice. */
static bool
is_copy(SnBatch *batch, SnWork *copy)
{
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];

		if (work != copy && work->replay != NULL && work->replay->dlq_id == copy->replay->dlq_id &&
			work->outcome != SN_DUPLICATE)
			return true;
	}
	return false;
}

/* A retry whose event turned out to be known: done if it was handled, and not ended by this record if it waits. */
static bool
is_done(SnBatch *batch, SnWork *work)
{
	Datum values[3];

	if (is_copy(batch, work))
		return false;
	values[0] = CStringGetTextDatum(work->event.tenant_id);
	values[1] = CStringGetTextDatum(work->event.event_id);
	values[2] = CStringGetTextDatum(batch->worker_type->name);
	return sn_execute(&was_handled, values, NULL) > 0;
}

static void
settle_replay(SnBatch *batch, SnWork *work)
{
	SnReplay *replay = work->replay;
	SnFailure *failure = &work->failure;
	bool ok = work->outcome == SN_SUCCEEDED || work->outcome == SN_LOGGED || work->outcome == SN_DUPLICATE;

	if (work->outcome == SN_DUPLICATE && !is_done(batch, work))
		return;
	if (!ok && work->outcome != SN_DEAD)
		*failure =
			(SnFailure){.error_type = "handler_missing", .message = "event type has no handler", .sqlstate = "SN005"};
	work->dlq_id = replay->dlq_id;
	sn_dead_letter_replayed(replay->dlq_id, replay->token, ok, failure->error_type, failure->message, failure->detail,
							failure->sqlstate);
}

/* The retries of dead letters that have ended use their tokens up. */
static void
settle_replays(SnBatch *batch)
{
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];

		if (work->replay != NULL && work->replay->state == SN_REPLAY_CURRENT && !waits(work))
			settle_replay(batch, work);
	}
}

/* What we say of our own doings is never about one of themselves. */
bool
sn_is_notice(const char *event_type)
{
	return strcmp(event_type, "RetryScheduled") == 0 || strcmp(event_type, "DeadLettered") == 0 ||
		   strcmp(event_type, "BackpressureApplied") == 0;
}

static Datum
notice_payload(SnBatch *batch, SnWork *work)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "{\"worker_type\":");
	escape_json(&buf, batch->worker_type->name);
	appendStringInfoString(&buf, ",\"event_id\":");
	escape_json(&buf, work->event.event_id);
	appendStringInfoString(&buf, ",\"event_type\":");
	escape_json(&buf, work->event.event_type);
	appendStringInfoString(&buf, ",\"error_type\":");
	escape_json(&buf, work->failure.error_type);
	appendStringInfo(&buf, ",\"retry_count\":%d", work->retry_count);
	if (work->outcome == SN_RETRYING)
		appendStringInfo(&buf, ",\"next_attempt_at\":\"%s\"",
						 JsonEncodeDateTime(palloc(MAXDATELEN + 1), TimestampTzGetDatum(work->next_attempt_at),
											TIMESTAMPTZOID, NULL));
	else
		appendStringInfo(&buf, ",\"dlq_id\":" INT64_FORMAT, work->dlq_id);
	appendStringInfoChar(&buf, '}');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data));
}

/* RetryScheduled and DeadLettered, for whoever listens. */
static void
emit_notices(SnBatch *batch)
{
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];
		bool retrying = work->outcome == SN_RETRYING;

		if ((!retrying && work->outcome != SN_DEAD) || work->replay != NULL || !work->parsed || !work->tenant_known ||
			sn_is_notice(work->event.event_type) ||
			sn_event_type_get(batch->worker_type, work->event.event_type) == NULL)
			continue;
		sn_emit_add(batch, work, retrying ? "RetryScheduled" : "DeadLettered", notice_payload(batch, work), NULL, NULL,
					psprintf("%s:%s:%d:" INT64_FORMAT, batch->worker_type->name, retrying ? "retry" : "dead",
							 work->origin_partition, work->origin_offset),
					work->retry_count);
	}
}

static void
log_work(SnColumn *columns, const SnWork *work)
{
	const SnEvent *event = &work->event;

	sn_column_text(&columns[LOG_TENANT], event->tenant_id);
	sn_column_text(&columns[LOG_EVENT], event->event_id);
	sn_column_text(&columns[LOG_TYPE], event->event_type);
	sn_column_text(&columns[LOG_EXCEPTION], event->exception_id);
	sn_column_add(&columns[LOG_TIME], TimestampTzGetDatum(event->timestamp), false);
	sn_column_text(&columns[LOG_CORRELATION], event->correlation_id);
	sn_column_add(&columns[LOG_PAYLOAD], event->payload, false);
	sn_column_add(&columns[LOG_METADATA], event->metadata, event->metadata == (Datum) 0);
	sn_column_add(&columns[LOG_VERSION], Int32GetDatum(event->version), false);
	sn_column_text(&columns[LOG_TOPIC], work->queue->topic);
	sn_column_add(&columns[LOG_PARTITION], Int32GetDatum(work->origin_partition), false);
	sn_column_add(&columns[LOG_OFFSET], Int64GetDatum(work->origin_offset), false);
}

static void
log_emit(SnColumn *columns, SnBatch *batch, const SnEmit *emit)
{
	sn_column_text(&columns[LOG_TENANT], emit->parent->event.tenant_id);
	sn_column_text(&columns[LOG_EVENT], emit->event_id);
	sn_column_text(&columns[LOG_TYPE], emit->event_type);
	sn_column_text(&columns[LOG_EXCEPTION], emit->exception_id);
	sn_column_add(&columns[LOG_TIME], TimestampTzGetDatum(batch->now), false);
	sn_column_text(&columns[LOG_CORRELATION], emit->correlation_id);
	sn_column_add(&columns[LOG_PAYLOAD], emit->payload, false);
	sn_column_add(&columns[LOG_METADATA], emit->metadata, false);
	sn_column_add(&columns[LOG_VERSION], Int32GetDatum(1), false);
	sn_column_text(&columns[LOG_TOPIC], emit->topic);
	sn_column_add(&columns[LOG_PARTITION], (Datum) 0, true);
	sn_column_add(&columns[LOG_OFFSET], (Datum) 0, true);
}

/* For what the short way isn't for. It raises the errors too, such as that of a day without a partition. */
static void
execute_insert_log(SnColumn *columns, TimestampTz now)
{
	Datum values[LOG_COLUMNS + 1];

	for (int c = 0; c < LOG_COLUMNS; c++)
		values[c] = sn_column_array(&columns[c]);
	values[LOG_COLUMNS] = TimestampTzGetDatum(now);
	sn_execute(&insert_log, values, NULL);
}

/* Whether the executor would do no more than insert: no triggers, checks or columns of somebody else's. */
static bool
is_plain_log(Relation rel)
{
	TupleDesc desc = RelationGetDescr(rel);

	return rel->rd_rel->relkind == RELKIND_RELATION && rel->trigdesc == NULL && desc->natts == LOG_COLUMNS + 1 &&
		   desc->constr != NULL && desc->constr->num_check == 0;
}

/* The partition of that time, locked; NULL: there is none, or not a plain one. Days are UTC's, as activation makes them. */
static Relation
open_log_partition(TimestampTz now)
{
	Oid schema = get_namespace_oid("sentinai", false);
	struct pg_tm tm;
	fsec_t fsec;
	Oid relid;
	Relation rel;

	if (timestamp2tm(now, NULL, &tm, &fsec, NULL, NULL) != 0)
		return NULL;
	relid = get_relname_relid(psprintf("event_log_p%04d%02d%02d", tm.tm_year, tm.tm_mon, tm.tm_mday), schema);
	rel = OidIsValid(relid) ? try_table_open(relid, RowExclusiveLock) : NULL;
	if (rel == NULL)
		return NULL;
	if (rel->rd_rel->relispartition && is_plain_log(rel) &&
		get_partition_parent(relid, true) == get_relname_relid("event_log", schema))
		return rel;
	table_close(rel, NoLock);
	return NULL;
}

/*
 * Writes the rows as COPY would. All of a call have one created_at, and so one partition. False: nothing was done, it takes
 * the executor.
 */
static bool
insert_log_rows(SnColumn *columns, TimestampTz now)
{
	Relation rel = open_log_partition(now);
	SnInsert insert;

	if (rel == NULL)
		return false;
	sn_insert_begin(&insert, rel, NULL, NULL);
	for (int row = 0; row < columns[0].n; row++)
	{
		TupleTableSlot *slot = sn_insert_slot(&insert);

		for (int c = 0; c < LOG_COLUMNS; c++)
			sn_insert_datum(slot, c, columns[c].values[row], columns[c].nulls[row]);
		sn_insert_datum(slot, LOG_COLUMNS, TimestampTzGetDatum(now), false);
		ExecStoreVirtualTuple(slot);
	}
	sn_insert_end(&insert);
	table_close(rel, NoLock);
	return true;
}

/* What arrived from outside (by the topic's owner) and what was emitted; mode "failures" keeps failed events only. */
static void
write_log(SnBatch *batch)
{
	bool all = strcmp(sn_event_log_mode, "full") == 0;
	SnColumn columns[LOG_COLUMNS];
	ListCell *cell;

	for (int c = 0; c < LOG_COLUMNS; c++)
		sn_column_init(&columns[c], log_types[c], batch->n_work + list_length(batch->emits));
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];

		if (work->log && work->claimed && (all || work->outcome == SN_RETRYING || work->outcome == SN_DEAD))
			log_work(columns, work);
	}
	if (all)
		foreach (cell, batch->emits)
			log_emit(columns, batch, lfirst(cell));
	if (columns[0].n == 0)
		return;
	if (!insert_log_rows(columns, batch->now))
		execute_insert_log(columns, batch->now);
}

/* Kafka's key of an event: events of one exception go to one partition. */
static Datum
emit_key(const SnEmit *emit)
{
	return PointerGetDatum(cstring_to_text(psprintf("%s:%s", emit->parent->event.tenant_id,
													emit->exception_id != NULL ? emit->exception_id : emit->event_id)));
}

static Datum
emit_headers(const SnEmit *emit)
{
	SnHeader header = {.name = {SN_HEADER_EVENT_TYPE, strlen(SN_HEADER_EVENT_TYPE)},
					   .value = {emit->event_type, strlen(emit->event_type)}};
	SnRecord record = {.n_headers = 1, .headers = &header};

	return sn_record_headers_datum(&record);
}

static void
write_outbox(SnBatch *batch)
{
	SnOutboxRow *rows = palloc0(Max(list_length(batch->emits), 1) * sizeof(SnOutboxRow));
	ListCell *cell;
	int n = 0;

	foreach (cell, batch->emits)
	{
		SnEmit *emit = lfirst(cell);
		bool as_before = n > 0 && strcmp(rows[n - 1].event_type, emit->event_type) == 0;
		Datum headers = as_before ? rows[n - 1].headers : emit_headers(emit);

		rows[n++] = (SnOutboxRow){.topic = emit->topic,
								  .partition = -1,
								  .key = emit_key(emit),
								  .headers = headers,
								  .value = emit->value,
								  .tenant_id = emit->parent->event.tenant_id,
								  .event_id = emit->event_id,
								  .event_type = emit->event_type};
	}
	if (n > 0)
		sn_outbox_insert(rows, n);
}

/* Every partition that took part moves behind what was read. */
static void
move_positions(SnBatch *batch)
{
	SnColumn topics;
	SnColumn partitions;
	SnColumn positions;
	Datum values[5];

	sn_column_init(&topics, TEXTOID, batch->n_partitions);
	sn_column_init(&partitions, INT4OID, batch->n_partitions);
	sn_column_init(&positions, INT8OID, batch->n_partitions);
	for (int i = 0; i < batch->n_partitions; i++)
	{
		SnPartition *partition = &batch->partitions[i];

		if (partition->fenced || partition->position <= partition->next_offset)
			continue;
		partition->next_offset = partition->position;
		sn_column_text(&topics, partition->topic);
		sn_column_add(&partitions, Int32GetDatum(partition->partition), false);
		sn_column_add(&positions, Int64GetDatum(partition->position), false);
	}
	if (topics.n == 0)
		return;
	values[0] = CStringGetTextDatum(batch->worker_type->group_id);
	values[1] = sn_column_array(&topics);
	values[2] = sn_column_array(&partitions);
	values[3] = sn_column_array(&positions);
	values[4] = TimestampTzGetDatum(batch->now);
	sn_execute(&move_offsets, values, NULL);
}

/*
 * Writes everything that the earlier steps decided.
 */
void
sn_settle(SnBatch *batch)
{
	sn_key_block(batch);
	settle_pending(batch);
	SN_POINT("settle.pending");
	settle_dead_letters(batch);
	SN_POINT("settle.dead_letters");
	settle_replays(batch);
	SN_POINT("settle.replays");
	emit_notices(batch);
	sn_backpressure_emit(batch);
	write_log(batch);
	SN_POINT("settle.log");
	write_outbox(batch);
	SN_POINT("settle.outbox");
	sn_claim_settle(batch);
	SN_POINT("settle.claims");
	sn_usage_settle(batch);
	SN_POINT("settle.usage");
	sn_key_finish(batch);
	SN_POINT("settle.keys");
	move_positions(batch);
}
