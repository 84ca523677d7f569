/*
 * outbox.c
 *	  Appending to the outbox, and reading it in id order below the emit horizon.
 *
 * The order. Rows of one key must be published in the order in which they were committed, and a row that commits late must
 * not be overtaken for good. Ids come from a sequence, so a writer that took a small id may commit after one with a larger
 * id. The horizon is below every id that may still appear.
 *
 * Writer, at the first row of its transaction: (1) puts 0 into its slot in shared memory, (2) nextval, (3) puts that id
 * into the slot. Further ids of the transaction are larger. The callback at commit or abort clears the slot; it runs after
 * the transaction has left the ProcArray, so whoever finds the slot clear and takes a snapshot then sees its rows.
 *
 * Publisher: (1) reads the sequence's last value L, (2) the smallest slot M of this database, (3) takes a fresh snapshot,
 * (4) makes sure that WAL is flushed for all that the snapshot can see, (5) takes rows with id <= L and id < M. A slot of 0
 * means nothing this time. Whoever got an id <= L had put 0 into its slot before, so in (2) either its slot still shows, or
 * it has ended and (3) sees what it did. An open transaction that has not emitted has no slot and holds up nobody.
 *
 * No LWLock is held across nextval. PREPARE TRANSACTION is refused for who has emitted: its slot would be lost.
 *
 * The three tables. Row outbox_state.current says which one is written to. A writer reads it by the newest snapshot after
 * it has filled its slot; that is what outbox_rotate() (sql/45_outbox.sql) relies on when it truncates a table. What a topic
 * that takes nothing still needs of such a table moves to outbox_blocked, which is read with the three.
 *
 * The publisher's cursor, where its last read ended, is this session's; watermarks, up to where each topic is published,
 * are rows.
 */
#include "sentinai.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "insert.h"
#include "lock.h"
#include "outbox.h"
#include "point.h"
#include "shmem.h"

/* Rows of one fetch of a read. */
#define FETCH_CHUNK 64

#define OUTBOX_COLUMNS 12

#define CURRENT_QUERY "SELECT current FROM sentinai.outbox_state"

/* Rows above the cursor and their topic's watermark, below the horizon. The subquery keeps the order, a join may not. */
#define READ_QUERY \
	"SELECT o.id, o.topic, o.partition, o.key, o.headers, o.value, o.dlq_id, o.dlq_token" \
	"  FROM sentinai.outbox o" \
	" WHERE o.id > $1 AND o.id <= $2" \
	"   AND o.id > coalesce((SELECT w.id FROM sentinai.outbox_watermark w WHERE w.topic = o.topic), 0)" \
	"   AND o.topic <> ALL ($4)" \
	" ORDER BY o.id LIMIT $3"
#define READ_COLUMNS 8
#define READ_HEADERS 4 /* column numbers, from 0 */
#define READ_VALUE 5

/* This session's cursor: everything up to here has been read, or -1: begin at the watermarks. */
static int64 read_cursor = -1;

static SPIPlanPtr current_plan;
static SPIPlanPtr read_plan;

/* ---- helpers ---- */

static Oid
outbox_relid(const char *name)
{
	Oid relid = get_relname_relid(name, get_namespace_oid(SN_SCHEMA, true));

	if (!OidIsValid(relid))
		ereport(ERROR, (errcode(SN_ERRCODE("SN014")), errmsg("table or sequence sentinai.%s is missing", name),
						errhint("CREATE EXTENSION sentinai, or ALTER EXTENSION sentinai UPDATE.")));
	return relid;
}

static SPIPlanPtr
prepare(const char *query, int nargs, Oid *types)
{
	SPIPlanPtr plan = SPI_prepare_cursor(query, nargs, types, CURSOR_OPT_NO_SCROLL);

	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare \"%s\"", query);
	return plan;
}

/* ---- the writer ---- */

/* Fills the slot at the first call of a transaction; returns the next id. */
static int64
next_id(Oid sequence)
{
	SnBackendSlot *slot = sn_my_slot();
	int64 id;

	if (pg_atomic_read_u64(&slot->emit) != SN_EMIT_NONE)
		return SN_NEXTVAL(sequence);

	slot->emit_since = GetCurrentTimestamp();
	pg_write_barrier();
	pg_atomic_write_u64(&slot->emit, 0);
	pg_memory_barrier();
	SN_POINT("outbox.announced");
	id = SN_NEXTVAL(sequence);
	SN_POINT("outbox.numbered");
	pg_atomic_write_u64(&slot->emit, (uint64) id);
	return id;
}

/* The number of the table that is written to. The newest snapshot, whatever the transaction's isolation. */
static int
current_table(void)
{
	bool isnull;
	int current;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (current_plan == NULL)
		current_plan = prepare(CURRENT_QUERY, 0, NULL);
	PushActiveSnapshot(GetLatestSnapshot());
	if (SPI_execute_plan(current_plan, NULL, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read outbox_state");
	PopActiveSnapshot();
	if (SPI_processed != 1)
		ereport(ERROR, (errcode(SN_ERRCODE("SN014")), errmsg("the outbox of this database has not been set up"),
						errhint("SELECT sentinai.activate()")));
	current = DatumGetInt16(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return current;
}

/* In the order of the columns of outbox_0. */
static void
fill_slot(TupleTableSlot *slot, const SnOutboxRow *row)
{
	sn_insert_datum(slot, 0, Int64GetDatum(row->id), false);
	sn_insert_text(slot, 1, row->topic);
	sn_insert_datum(slot, 2, Int32GetDatum(row->partition), row->partition < 0);
	sn_insert_datum(slot, 3, row->key, row->key == 0);
	sn_insert_datum(slot, 4, row->headers, row->headers == 0);
	sn_insert_datum(slot, 5, row->value, row->value == 0);
	sn_insert_text(slot, 6, row->tenant_id);
	sn_insert_text(slot, 7, row->event_id);
	sn_insert_text(slot, 8, row->event_type);
	sn_insert_datum(slot, 9, Int64GetDatum(row->dlq_id), row->dlq_id == 0);
	sn_insert_datum(slot, 10,
					row->dlq_token ? DirectFunctionCall1(uuid_in, CStringGetDatum(row->dlq_token)) : (Datum) 0,
					row->dlq_token == NULL);
	sn_insert_datum(slot, 11, TimestampTzGetDatum(GetCurrentTransactionStartTimestamp()), false);
	ExecStoreVirtualTuple(slot);
}

static void
insert_all(int table, SnOutboxRow *rows, int n)
{
	char name[NAMEDATALEN];
	SnInsert insert;
	Relation rel;

	snprintf(name, sizeof(name), "outbox_%d", table);
	rel = table_open(outbox_relid(name), RowExclusiveLock);
	if (RelationGetDescr(rel)->natts != OUTBOX_COLUMNS)
		elog(ERROR, "table sentinai.%s does not have %d columns", name, OUTBOX_COLUMNS);
	sn_insert_begin(&insert, rel, NULL, NULL);
	for (int i = 0; i < n; i++)
		fill_slot(sn_insert_slot(&insert), &rows[i]);
	sn_insert_end(&insert);
	table_close(rel, NoLock);
}

void
sn_outbox_insert(SnOutboxRow *rows, int n)
{
	MemoryContext context;
	MemoryContext old;
	Oid sequence;

	if (n == 0)
		return;
	context = AllocSetContextCreate(CurrentMemoryContext, "sentinai outbox insert", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	sequence = outbox_relid("outbox_id_seq");
	for (int i = 0; i < n; i++)
		rows[i].id = next_id(sequence);
	SN_POINT("outbox.identified");
	insert_all(current_table(), rows, n);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* The slot of this backend, without setting it up: NULL where there can't be one. */
static SnBackendSlot *
existing_slot(void)
{
	if (MyProc == NULL || SN_MY_PROC_NUMBER >= sn_shared->n_slots)
		return NULL;
	return &sn_shared->slots[SN_MY_PROC_NUMBER];
}

static void
on_xact_end(XactEvent event, void *arg)
{
	SnBackendSlot *slot = existing_slot();

	if (slot == NULL || pg_atomic_read_u64(&slot->emit) == SN_EMIT_NONE)
		return;
	if (event == XACT_EVENT_PRE_PREPARE)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot PREPARE a transaction that has emitted events"), errhint("COMMIT it.")));
	if (event == XACT_EVENT_PRE_COMMIT)
		SN_POINT("outbox.committing");
	if (event == XACT_EVENT_COMMIT)
		SN_POINT_LATE("outbox.committed");
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
	{
		pg_atomic_write_u64(&slot->emit, SN_EMIT_NONE);
		pg_memory_barrier();
		ConditionVariableBroadcast(&sn_shared->outbox_cv);
	}
}

void
sn_outbox_install(void)
{
	RegisterXactCallback(on_xact_end, NULL);
}

/* outbox_add(topic, partition, key, headers, value, tenant_id, event_id, event_type, dlq_id, dlq_token) returns bigint */
PG_FUNCTION_INFO_V1(sn_outbox_add);
Datum
sn_outbox_add(PG_FUNCTION_ARGS)
{
	SnOutboxRow row = {0};

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("topic must not be null")));
	row.topic = text_to_cstring(PG_GETARG_TEXT_PP(0));
	row.partition = PG_ARGISNULL(1) ? -1 : PG_GETARG_INT32(1);
	row.key = PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2);
	row.headers = PG_ARGISNULL(3) ? (Datum) 0 : PG_GETARG_DATUM(3);
	row.value = PG_ARGISNULL(4) ? (Datum) 0 : PG_GETARG_DATUM(4);
	row.tenant_id = PG_ARGISNULL(5) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(5));
	row.event_id = PG_ARGISNULL(6) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(6));
	row.event_type = PG_ARGISNULL(7) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(7));
	row.dlq_id = PG_ARGISNULL(8) ? 0 : PG_GETARG_INT64(8);
	row.dlq_token = PG_ARGISNULL(9) ? NULL : DatumGetCString(DirectFunctionCall1(uuid_out, PG_GETARG_DATUM(9)));
	sn_outbox_insert(&row, 1);
	PG_RETURN_INT64(row.id);
}

/* ---- the horizon ---- */

/*
 * The sequence's last value, 0 before the first. Under the buffer's lock: nextval writes a value that is ahead into the
 * tuple for a moment, and a plain SELECT could read it.
 */
static int64
sequence_last(void)
{
	Relation rel = relation_open(outbox_relid("outbox_id_seq"), AccessShareLock);
	Buffer buffer = ReadBuffer(rel, 0);
	Page page;
	ItemId item;
	Form_pg_sequence_data data;
	int64 last;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	item = PageGetItemId(page, FirstOffsetNumber);
	data = (Form_pg_sequence_data) ((char *) PageGetItem(page, item) +
									((HeapTupleHeader) PageGetItem(page, item))->t_hoff);
	last = data->is_called ? data->last_value : data->last_value - 1;
	UnlockReleaseBuffer(buffer);
	relation_close(rel, AccessShareLock);
	return last;
}

/* The smallest slot of this database; SN_EMIT_NONE: none. */
static uint64
smallest_slot(void)
{
	uint64 smallest = SN_EMIT_NONE;

	for (int i = 0; i < sn_shared->n_slots; i++)
	{
		SnBackendSlot *slot = &sn_shared->slots[i];
		uint64 emit = pg_atomic_read_u64(&slot->emit);

		if (emit == SN_EMIT_NONE)
			continue;
		pg_read_barrier();
		if (slot->database == MyDatabaseId)
			smallest = Min(smallest, emit);
	}
	return smallest;
}

/* Steps 1 and 2; -1: nothing this time. The caller takes its snapshot afterwards. */
static int64
horizon(void)
{
	int64 last = sequence_last();
	uint64 smallest;

	pg_memory_barrier();
	smallest = smallest_slot();
	if (smallest == 0)
		return -1;
	return smallest <= (uint64) last ? (int64) smallest - 1 : last;
}

/*
 * Step 4: what the snapshot saw may be the work of asynchronous commits. The insert position may lie behind the header of
 * a page that holds nothing yet: then the end of WAL is where that page begins.
 */
static void
flush_wal(void)
{
	XLogRecPtr lsn = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(lsn, wal_segment_size) == SizeOfXLogLongPHD)
		lsn -= SizeOfXLogLongPHD;
	else if (lsn % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		lsn -= SizeOfXLogShortPHD;
	if (GetFlushRecPtr(NULL) < lsn)
		XLogFlush(lsn);
}

/* outbox_horizon(): (last_id bigint, first_open bigint) first_open NULL: nobody has a slot */
PG_FUNCTION_INFO_V1(sn_outbox_horizon);
Datum
sn_outbox_horizon(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	Datum values[2];
	bool nulls[2] = {false, false};
	uint64 smallest;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "outbox_horizon does not return a row");
	values[0] = Int64GetDatum(sequence_last());
	pg_memory_barrier();
	smallest = smallest_slot();
	values[1] = Int64GetDatum((int64) smallest);
	nulls[1] = smallest == SN_EMIT_NONE;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* outbox_slots(): (pid integer, first_id bigint, since timestamptz) of this database */
PG_FUNCTION_INFO_V1(sn_outbox_slots);
Datum
sn_outbox_slots(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < sn_shared->n_slots; i++)
	{
		SnBackendSlot *slot = &sn_shared->slots[i];
		uint64 emit = pg_atomic_read_u64(&slot->emit);
		Datum values[3];
		bool nulls[3] = {false, false, false};

		pg_read_barrier();
		if (emit == SN_EMIT_NONE || slot->database != MyDatabaseId)
			continue;
		values[0] = Int32GetDatum(slot->pid);
		values[1] = Int64GetDatum((int64) emit);
		values[2] = TimestampTzGetDatum(slot->emit_since);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ---- the publisher ---- */

/* outbox_lock() returns boolean */
PG_FUNCTION_INFO_V1(sn_outbox_lock);
Datum
sn_outbox_lock(PG_FUNCTION_ARGS)
{
	bool locked =
		sn_lock_held_by_me(SN_LOCK_PUBLISHER, ExclusiveLock) || sn_lock_session_try(SN_LOCK_PUBLISHER, ExclusiveLock);

	if (locked)
		read_cursor = -1;
	PG_RETURN_BOOL(locked);
}

/* outbox_locked() returns boolean: this session is the active publisher */
PG_FUNCTION_INFO_V1(sn_outbox_locked);
Datum
sn_outbox_locked(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(sn_lock_held_by_me(SN_LOCK_PUBLISHER, ExclusiveLock));
}

/* outbox_rewind() returns void */
PG_FUNCTION_INFO_V1(sn_outbox_rewind);
Datum
sn_outbox_rewind(PG_FUNCTION_ARGS)
{
	read_cursor = -1;
	PG_RETURN_VOID();
}

static void
pack_header(StringInfo buf, HeapTupleHeader header)
{
	bool isnull;
	Datum name = GetAttributeByNum(header, 1, &isnull);
	text *name_text = isnull ? NULL : DatumGetTextPP(name);
	Datum value = GetAttributeByNum(header, 2, &isnull);
	bytea *value_bytes = isnull ? NULL : DatumGetByteaPP(value);
	int name_len = name_text ? VARSIZE_ANY_EXHDR(name_text) : 0;

	if (name_len > PG_UINT16_MAX)
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")),
						errmsg("the name of a record header has %d bytes, more than %d", name_len, PG_UINT16_MAX)));
	pq_sendint16(buf, name_len);
	if (name_len > 0)
		appendBinaryStringInfo(buf, VARDATA_ANY(name_text), name_len);
	pq_sendint32(buf, value_bytes ? (int32) VARSIZE_ANY_EXHDR(value_bytes) : -1);
	if (value_bytes)
		appendBinaryStringInfo(buf, VARDATA_ANY(value_bytes), VARSIZE_ANY_EXHDR(value_bytes));
}

/* header[] as in include/sentinai_wire.h; elements that are NULL are left out */
static bytea *
pack_headers(ArrayType *array)
{
	StringInfoData buf;
	Datum *elements;
	bool *nulls;
	int n;
	int n_packed = 0;
	int16 typlen;
	bool typbyval;
	char typalign;

	get_typlenbyvalalign(ARR_ELEMTYPE(array), &typlen, &typbyval, &typalign);
	deconstruct_array(array, ARR_ELEMTYPE(array), typlen, typbyval, typalign, &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
		n_packed += nulls[i] ? 0 : 1;

	pq_begintypsend(&buf);
	pq_sendint32(&buf, n_packed);
	for (int i = 0; i < n; i++)
	{
		if (!nulls[i])
			pack_header(&buf, DatumGetHeapTupleHeader(elements[i]));
	}
	return pq_endtypsend(&buf);
}

static void
check_read(int32 max_rows, int32 max_bytes)
{
	if (XactIsoLevel != XACT_READ_COMMITTED)
		ereport(ERROR,
				(errcode(SN_ERRCODE("SN013")), errmsg("outbox_read() needs isolation level READ COMMITTED"),
				 errdetail("Each read takes a snapshot of its own, after it has looked at who is still emitting.")));
	if (max_rows <= 0 || max_bytes <= 0)
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("max_rows and max_bytes must be positive")));
}

/* One row of the query into the result; returns its bytes. */
static int64
read_row(ReturnSetInfo *rsinfo, HeapTuple tuple, TupleDesc desc)
{
	Datum values[READ_COLUMNS];
	bool nulls[READ_COLUMNS];

	heap_deform_tuple(tuple, desc, values, nulls);
	if (!nulls[READ_HEADERS])
		values[READ_HEADERS] = PointerGetDatum(pack_headers(DatumGetArrayTypeP(values[READ_HEADERS])));
	if (!nulls[READ_VALUE])
		values[READ_VALUE] = PointerGetDatum(DatumGetByteaPP(values[READ_VALUE]));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	read_cursor = DatumGetInt64(values[0]);
	return (nulls[READ_VALUE] ? 0 : VARSIZE_ANY_EXHDR(DatumGetPointer(values[READ_VALUE]))) +
		   (nulls[READ_HEADERS] ? 0 : VARSIZE_ANY_EXHDR(DatumGetPointer(values[READ_HEADERS])));
}

/* Up to max_bytes of what is fetched, at least one row; returns the number of rows, *complete: the portal ran dry. */
static int
read_rows(ReturnSetInfo *rsinfo, Portal portal, int64 max_bytes, bool *complete)
{
	int64 bytes = 0;
	int rows = 0;

	for (;;)
	{
		SPI_cursor_fetch(portal, true, FETCH_CHUNK);
		*complete = SPI_processed == 0;
		if (*complete)
			return rows;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			bytes += read_row(rsinfo, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
			rows++;
			if (bytes >= max_bytes)
				return rows;
		}
		SPI_freetuptable(SPI_tuptable);
	}
}

/* outbox_read(max_rows integer, max_bytes integer, skip_topics text[]) */
PG_FUNCTION_INFO_V1(sn_outbox_read);
Datum
sn_outbox_read(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int32 max_rows = PG_GETARG_INT32(0);
	int32 max_bytes = PG_GETARG_INT32(1);
	Oid types[] = {INT8OID, INT8OID, INT4OID, TEXTARRAYOID};
	int64 upto = horizon();
	Datum args[lengthof(types)];
	Portal portal;
	bool complete;
	int rows;

	check_read(max_rows, max_bytes);
	InitMaterializedSRF(fcinfo, 0);
	if (upto < 0 || upto <= read_cursor)
		return (Datum) 0;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (read_plan == NULL)
		read_plan = prepare(READ_QUERY, lengthof(types), types);
	args[0] = Int64GetDatum(Max(read_cursor, 0));
	args[1] = Int64GetDatum(upto);
	args[2] = Int32GetDatum(max_rows);
	args[3] = PG_GETARG_DATUM(2);
	SN_POINT("outbox.horizon");
	portal = SPI_cursor_open(NULL, read_plan, args, NULL, false);
	flush_wal();
	SN_POINT("outbox.flushed");
	rows = read_rows(rsinfo, portal, max_bytes, &complete);
	SPI_cursor_close(portal);
	SPI_finish();

	if (complete && rows < max_rows)
		read_cursor = upto;
	SN_POINT("outbox.read");
	return (Datum) 0;
}

/* Rows up to there that are not published, asked once in a session that has not read yet. */
static bool
unpublished(int64 upto)
{
	Oid types[1] = {INT8OID};
	Datum args[1] = {Int64GetDatum(upto)};
	bool isnull;

	if (SPI_execute_with_args("SELECT sentinai.outbox_unpublished($1)", 1, types, args, NULL, false, 1) !=
		SPI_OK_SELECT)
		elog(ERROR, "outbox_unpublished() did not answer");
	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* Sleeps until the horizon is above seen or the time is up. Holds no snapshot. */
static void
wait_above(int64 seen, int32 timeout_ms)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);

	ConditionVariablePrepareToSleep(&sn_shared->outbox_cv);
	while (horizon() <= seen)
	{
		long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		InvalidateCatalogSnapshot();
		if (left <= 0)
			break;
		(void) ConditionVariableTimedSleep(&sn_shared->outbox_cv, left, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
}

/* outbox_wait(timeout_ms integer), a procedure */
PG_FUNCTION_INFO_V1(sn_outbox_wait);
Datum
sn_outbox_wait(PG_FUNCTION_ARGS)
{
	int32 timeout_ms = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT32(0);
	int64 seen = read_cursor;

	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) || castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR, (errcode(SN_ERRCODE("SN013")), errmsg("outbox_wait() cannot run inside a transaction block"),
						errdetail("It would hold a snapshot while it waits.")));

	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (seen < 0)
	{
		seen = horizon();
		if (seen >= 0 && unpublished(seen))
			timeout_ms = 0;
	}
	SPI_commit();
	if (timeout_ms > 0)
		wait_above(seen, timeout_ms);
	SPI_finish();
	PG_RETURN_VOID();
}
