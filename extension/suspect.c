/*
 * suspect.c
 *	  Suspect mode: finding the event whose handler kills its backend, and with it every connection of the server.
 *
 * One session of a database searches at a time. It holds an advisory lock exclusively, and each call of consume() takes the
 * same lock shared for its transaction, without waiting: so while a session searches, or waits for the calls that still
 * run, the others handle nothing, and a crash breaks no innocent call. A call that finds the lock free pays for a look into
 * the lock table, and for no statement.
 *
 * The searching session handles one event a call. suspect_next() (37_suspect.sql) has marked it in a transaction of its
 * own, which survives the crash. A mark that is found a third time convicts: two calls have broken under it. Here are the
 * lock and what a searching session's consume() does otherwise; when to begin and end is the worker's decision
 * (worker/suspect.c).
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "lock.h"
#include "point.h"
#include "sentinai.h"
#include "spi.h"
#include "suspect.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(sn_suspect_lock);
PG_FUNCTION_INFO_V1(sn_suspect_unlock);
PG_FUNCTION_INFO_V1(sn_suspect_searching);

/* More marks than this convict. */
#define SUSPECT_MARKS 2

/* This session searches: it holds the lock. */
static bool searching = false;

static SnStatement read_mark = {
	.sql = "SELECT marks FROM sentinai.suspect WHERE worker_type = $1 AND topic = $2 AND partition = $3"
		   " AND pending_id = $4 AND kafka_offset = $5",
	.n_args = 5,
	.args = {TEXTOID, TEXTOID, INT4OID, INT8OID, INT8OID}};

static SnStatement delete_mark = {
	.sql = "DELETE FROM sentinai.suspect WHERE worker_type = $1 AND topic = $2 AND partition = $3"
		   " AND pending_id = $4 AND kafka_offset = $5",
	.n_args = 5,
	.args = {TEXTOID, TEXTOID, INT4OID, INT8OID, INT8OID}};

/*
 * See suspect.h. The searching session takes the lock for the transaction, too: what a handler does to the session's locks
 * lets nobody in before sn_suspect_keep().
 */
bool
sn_suspect_admit(void)
{
	if (!searching)
		return sn_lock_try(SN_LOCK_SUSPECT, 0, ShareLock);
	sn_lock(SN_LOCK_SUSPECT, 0, ExclusiveLock);
	return true;
}

void
sn_suspect_keep(void)
{
	if (searching)
		sn_lock_session(SN_LOCK_SUSPECT, ExclusiveLock);
}

/* See suspect.h. */
bool
sn_suspect_is_searching(void)
{
	return searching;
}

static int
mark_statement(SnStatement *statement, SnBatch *batch, SnPartition *partition, int64 pending_id, int64 offset)
{
	Datum values[5] = {CStringGetTextDatum(batch->worker_type->name), CStringGetTextDatum(partition->topic),
					   Int32GetDatum(partition->partition), Int64GetDatum(pending_id), Int64GetDatum(offset)};

	return (int) sn_execute(statement, values, NULL);
}

/* The first record that is to be handled; NULL: none. */
static SnRecord *
first_record(SnBatch *batch)
{
	for (int i = 0; i < batch->n_records; i++)
	{
		SnPartition *partition = &batch->partitions[batch->records[i].entry];

		if (!partition->fenced && batch->records[i].offset >= partition->next_offset)
			return &batch->records[i];
	}
	return NULL;
}

/* Nothing new: records stay in Kafka. */
static void
leave_records(SnBatch *batch)
{
	batch->n_records = 0;
	for (int i = 0; i < batch->n_partitions; i++)
		batch->partitions[i].position = Min(batch->partitions[i].position, batch->partitions[i].next_offset);
}

/* This record alone; the partitions stay where they are but for its own, which moves behind it. */
static void
leave_other_records(SnBatch *batch, SnRecord *record)
{
	SnPartition *partition = &batch->partitions[record->entry];
	int64 position = partition->position;

	for (SnRecord *next = record + 1; next < batch->records + batch->n_records; next++)
		if (next->entry == record->entry)
			position = Min(position, next->offset);
	leave_records(batch);
	batch->records[0] = *record;
	batch->n_records = 1;
	partition->position = position;
}

/*
 * Due work comes first, as in suspect_next(). What has become due since then isn't marked, and waits for the next call.
 */
void
sn_suspect_select(SnBatch *batch)
{
	SnRecord *record;
	SnPartition *partition;
	SnWork *due = batch->n_work > 0 ? batch->work[0] : NULL;

	if (!searching)
		return;
	record = due != NULL ? due->record : first_record(batch);
	if (record == NULL)
		return;
	partition = &batch->partitions[record->entry];
	batch->n_due = batch->n_work = due != NULL ? 1 : 0;
	if (mark_statement(&read_mark, batch, partition, due != NULL ? due->pending_id : 0, record->offset) == 0)
	{
		batch->n_due = batch->n_work = 0;
		leave_records(batch);
		return;
	}
	batch->suspect = true;
	batch->suspect_marks = sn_result_int32(0, 1);
	batch->suspect_partition = partition;
	batch->suspect_pending_id = due != NULL ? due->pending_id : 0;
	batch->suspect_offset = record->offset;
	SN_POINT("suspect.selected");
	if (due != NULL)
		leave_records(batch);
	else
		leave_other_records(batch, record);
}

void
sn_suspect_convict(SnBatch *batch)
{
	if (!batch->suspect || batch->suspect_marks <= SUSPECT_MARKS)
		return;
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];

		if (work->outcome != SN_TODO || work->handler == NULL)
			continue;
		work->failure =
			(SnFailure){.step = "handle",
						.error_type = "handler_crashed",
						.message = "handler has crashed the server",
						.detail = psprintf("%d calls that handled nothing but this event broke the connection.",
										   batch->suspect_marks - 1),
						.sqlstate = "SN032",
						.error_class = SN_CLASS_PERMANENT};
		sn_handle_fail(batch, work);
	}
}

void
sn_suspect_settle(SnBatch *batch)
{
	if (!batch->suspect)
		return;
	mark_statement(&delete_mark, batch, batch->suspect_partition, batch->suspect_pending_id, batch->suspect_offset);
	SN_POINT("suspect.cleared");
}

/*
 * suspect_lock(): see 37_suspect.sql. The lock is the session's, and outlives an error of the transaction.
 */
Datum
sn_suspect_lock(PG_FUNCTION_ARGS)
{
	if (!searching)
		sn_lock_session(SN_LOCK_SUSPECT, ExclusiveLock);
	searching = true;
	PG_RETURN_VOID();
}

/*
 * suspect_unlock(): see 37_suspect.sql.
 */
Datum
sn_suspect_unlock(PG_FUNCTION_ARGS)
{
	bool was = searching;

	searching = false;
	if (was)
		sn_lock_session_end(SN_LOCK_SUSPECT, ExclusiveLock);
	PG_RETURN_BOOL(was);
}

/*
 * suspect_searching(): see 37_suspect.sql.
 */
Datum
sn_suspect_searching(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(searching);
}
