/*
 * report.c
 *	  Background workers that make reports: maintenance starts them after the request's commit, at most
 *	  sentinai.report_workers in a database; each takes one report after the other and ends when none is left.
 *
 * A report is counted, read, written to a temporary file and stored, in many short transactions: no snapshot is held for
 * long, and memory doesn't grow with the report. The file has the values of report_chunk, already compressed: lz4 is quicker
 * than the writing that it spares. Its rows are those below its bound; report_take() gives it out once no
 * transaction is left that could still bring one. It is read in chunks, each from behind the key of the last row on. A
 * report over tables that change (key_columns = 0) is read at once instead.
 *
 * The query runs read only, as its type's role or the one that asked. What it could leave in the session ends with its
 * transaction, or with the process: that ends after a report of a user's own type, and after one that failed or was cancelled.
 *
 * sn_shared->databases[].reports says which report each worker is making (launcher_lock). A report that is "generating"
 * and stands there for none has lost its worker: report_tend(). States and everything that people call are SQL:
 * sql/56_report.sql. How rows are written: report_format.c; PDFs: report_pdf.c; hashes and signatures: report_sign.c.
 */
#include "sentinai.h"

#include "access/toast_compression.h"
#include "access/toast_internals.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "nodes/params.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "caller.h"
#include "guc.h"
#include "launcher.h"
#include "report.h"
#include "report_pdf.h"
#include "report_sign.h"
#include "shmem.h"
#include "spi.h"

/*
 * A chunk that is read ends after so many rows, or so much time since its first one (or so many times what that took),
 * whichever comes first: it holds a snapshot.
 */
#define CHUNK_ROWS 20000
#define CHUNK_MS 1000
#define CHUNK_LOOK 100 /* it looks at the clock once in so many rows */
#define CHUNK_PARTS 10
/* Bytes of a row of report_chunk, and how many rows one transaction writes. */
#define STORE_BYTES (256 * 1024)
#define STORE_ROWS 64
#define PROGRESS_MS 1000
/* What is no part of making a report takes no longer. */
#define OWN_MS 10000
#define TRIES_MAX 3

#define N_ARGUMENTS 7
#define ARGUMENT_KEY 5
#define ARGUMENT_ROWS 6

static Oid argument_types[N_ARGUMENTS] = {TEXTOID,		  TIMESTAMPTZOID, TIMESTAMPTZOID, JSONBOID,
										  TIMESTAMPTZOID, TEXTARRAYOID,	  INT8OID};

/* A report while it is made. */
typedef struct Generation
{
	SnReport *report;
	SnReportWriter *writer;
	BufFile *spool;		/* the values of report_chunk */
	SnReportHash *hash; /* of the report's bytes in the spool */
	int n_pieces;		/* in the spool */
	int64 bytes;		/* of the report, in the spool */
	SnReportPdf *pdf;	/* draws it; NULL: another format */
	StringInfoData out; /* what is not in the spool yet */
	SPIPlanPtr plan;	/* of the query; NULL: not prepared */
	Datum key;			/* text[] of the last row of a full chunk; 0: none */
	bool begun;			/* the header is written */
	int64 rows_total;	/* below the bound; -1: not counted */
	int64 rows;			/* read so far */
	int64 chunk_rows;	/* of these in the current chunk */
	TimestampTz chunk_begun;
	TimestampTz chunk_until;
	bool chunk_full; /* ended by us: there may be more */
	TimestampTz deadline;
	TimestampTz progress_at; /* when progress is told next */
} Generation;

typedef struct Receiver
{
	DestReceiver pub;
	Generation *generation;
} Receiver;

/* What a read transaction changes for the time of the query. */
typedef struct Reader
{
	Oid user;
	int security;
	int nest_level;
} Reader;

PG_FUNCTION_INFO_V1(sn_report_worker_list);
PG_FUNCTION_INFO_V1(sn_report_workers_start);
PG_FUNCTION_INFO_V1(sn_report_query_columns);

static Oid my_database;
static MemoryContext report_context; /* reset with each report */

static SnStatement take_report = {
	.sql =
		"SELECT seq, tries, id, tenant_id, format, query, count_query, role_name::text, search_path, header, period_from,"
		" period_to, parameters, bound_at, key_columns, row_limit, builtin, summary_query FROM sentinai.report_take()"};

static SnStatement tell_progress = {.sql = "SELECT sentinai.report_progress($1, $2, $3, $4)",
									.n_args = 4,
									.args = {TEXTOID, INT4OID, INT8OID, INT8OID}};

static SnStatement store_chunk = {.sql = "INSERT INTO sentinai.report_chunk (report_id, n, data) VALUES ($1, $2, $3)",
								  .n_args = 3,
								  .args = {TEXTOID, INT4OID, BYTEAOID}};

static SnStatement complete_report = {.sql = "SELECT sentinai.report_complete($1, $2, $3, $4, $5, $6)",
									  .n_args = 6,
									  .args = {TEXTOID, INT4OID, INT8OID, INT8OID, BYTEAOID, TEXTOID}};

static SnStatement set_status = {.sql = "SELECT sentinai.report_set_status($1, $2, $3, $4)",
								 .n_args = 4,
								 .args = {TEXTOID, TEXTOID, TEXTOID, INT4OID}};

/* ---- places in shared memory ---- */

/* The place with that pid (0: a free one) of this database. Caller holds launcher_lock. */
static SnReportWorker *
find_place(SnDatabase *entry, int pid, int n)
{
	for (int i = 0; entry != NULL && i < n; i++)
		if (entry->reports[i].pid == pid)
			return &entry->reports[i];
	return NULL;
}

static bool
place_attach(void)
{
	SnDatabase *entry;
	SnReportWorker *place = NULL;

	LWLockAcquire(sn_shared->launcher_lock, LW_EXCLUSIVE);
	entry = sn_launcher_find(my_database);
	if (entry != NULL && entry->hold_pid == 0 && !entry->gone)
		place = find_place(entry, 0, sn_report_workers);
	if (place != NULL)
	{
		place->pid = MyProcPid;
		place->seq = 0;
	}
	LWLockRelease(sn_shared->launcher_lock);
	return place != NULL;
}

static void
place_set(int64 seq)
{
	SnReportWorker *place;

	LWLockAcquire(sn_shared->launcher_lock, LW_EXCLUSIVE);
	place = find_place(sn_launcher_find(my_database), MyProcPid, SN_MAX_REPORT_WORKERS);
	if (place != NULL)
		place->seq = seq;
	LWLockRelease(sn_shared->launcher_lock);
}

static void
place_leave(int code, Datum arg)
{
	SnReportWorker *place;

	LWLockAcquire(sn_shared->launcher_lock, LW_EXCLUSIVE);
	place = find_place(sn_launcher_find(my_database), MyProcPid, SN_MAX_REPORT_WORKERS);
	if (place != NULL)
		place->pid = 0;
	LWLockRelease(sn_shared->launcher_lock);
}

/* report_workers() returns table (pid integer, seq bigint) */
Datum
sn_report_worker_list(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SnReportWorker places[SN_MAX_REPORT_WORKERS] = {0};
	SnDatabase *entry;

	InitMaterializedSRF(fcinfo, 0);
	LWLockAcquire(sn_shared->launcher_lock, LW_SHARED);
	entry = sn_launcher_find(MyDatabaseId);
	if (entry != NULL)
		memcpy(places, entry->reports, sizeof(places));
	LWLockRelease(sn_shared->launcher_lock);
	for (int i = 0; i < lengthof(places); i++)
	{
		Datum values[2] = {Int32GetDatum(places[i].pid), Int64GetDatum(places[i].seq)};
		bool nulls[2] = {false};

		if (places[i].pid != 0)
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* report_workers_start(n integer) returns text */
Datum
sn_report_workers_start(PG_FUNCTION_ARGS)
{
	int n = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT32(0);
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	strlcpy(worker.bgw_library_name, "sentinai", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "sn_report_main", sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "sentinai report of database %u", MyDatabaseId);
	strlcpy(worker.bgw_type, "sentinai report", sizeof(worker.bgw_type));
	for (int i = 0; i < n; i++)
		if (!RegisterDynamicBackgroundWorker(&worker, NULL))
			PG_RETURN_TEXT_P(cstring_to_text(
				psprintf("%d reports wait for a background worker slot: raise max_worker_processes", n - i)));
	PG_RETURN_NULL();
}

/* ---- transactions ---- */

/* Nothing that somebody holds is waited for any longer than until then. */
static void
begin(TimestampTz until)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	enable_timeout_after(STATEMENT_TIMEOUT, Max(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until), 1));
	PushActiveSnapshot(GetTransactionSnapshot());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	MemoryContextSwitchTo(report_context);
}

static void
commit(void)
{
	SPI_finish();
	disable_timeout(STATEMENT_TIMEOUT, false);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(report_context);
	pgstat_report_stat(false);
}

static void
set_for_query(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/* A transaction for the query: read only, with the rights of its role, until the deadline. */
static void
begin_read(Generation *generation, Reader *reader)
{
	const SnReport *report = generation->report;

	begin(generation->deadline);
	GetUserIdAndSecContext(&reader->user, &reader->security);
	reader->nest_level = NewGUCNestLevel();
	set_for_query("search_path", report->search_path);
	sn_hold_tenant(report->tenant_id);
	SetUserIdAndSecContext(get_role_oid(report->role_name, false),
						   reader->security | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	XactReadOnly = true;
}

static void
commit_read(const Reader *reader)
{
	SetUserIdAndSecContext(reader->user, reader->security);
	sn_release_tenant();
	AtEOXact_GUC(false, reader->nest_level);
	commit();
	LockReleaseSession(USER_LOCKMETHOD);
}

/* ---- the next report ---- */

/* In the current context. */
static Datum
copy_result(int row, int column, int typlen)
{
	bool isnull;
	Datum value = sn_result_datum(row, column, &isnull);

	return isnull ? (Datum) 0 : datumCopy(value, typlen > 0, typlen);
}

static SnReport *
read_report(void)
{
	SnReport *report = palloc0(sizeof(SnReport));

	report->seq = sn_result_int64(0, 1);
	report->tries = sn_result_int32(0, 2);
	report->id = sn_result_text(0, 3);
	report->tenant_id = sn_result_text(0, 4);
	report->format = sn_result_text(0, 5);
	report->query = sn_result_text(0, 6);
	report->count_query = sn_result_text(0, 7);
	report->role_name = sn_result_text(0, 8);
	report->search_path = sn_result_text(0, 9);
	report->header = sn_result_text(0, 10);
	report->arguments[0] = CStringGetTextDatum(report->tenant_id);
	report->arguments[1] = copy_result(0, 11, sizeof(TimestampTz));
	report->arguments[2] = copy_result(0, 12, sizeof(TimestampTz));
	report->arguments[3] = copy_result(0, 13, -1);
	report->arguments[4] = copy_result(0, 14, sizeof(TimestampTz));
	report->key_columns = sn_result_int32(0, 15);
	report->row_limit = sn_result_int64(0, 16);
	report->builtin = sn_result_bool(0, 17);
	report->summary_query = sn_result_text(0, 18);
	return report;
}

/* NULL: there is none. Whoever finds it generating after this commit finds us making it. */
static SnReport *
take(void)
{
	SnReport *report = NULL;

	begin(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), OWN_MS));
	if (sn_execute(&take_report, NULL, NULL) == 1)
	{
		report = read_report();
		place_set(report->seq);
	}
	commit();
	return report;
}

/* ---- rows ---- */

/* Bytes as a value of report_chunk. */
static struct varlena *
make_piece(const char *data, size_t size)
{
	struct varlena *piece = palloc(VARHDRSZ + size);

	SET_VARSIZE(piece, VARHDRSZ + size);
	memcpy(VARDATA(piece), data, size);
#ifdef USE_LZ4
	{
		Datum compressed = toast_compress_datum(PointerGetDatum(piece), TOAST_LZ4_COMPRESSION);

		if (DatumGetPointer(compressed) != NULL)
		{
			pfree(piece);
			piece = (struct varlena *) DatumGetPointer(compressed);
		}
	}
#endif
	return piece;
}

static void
spool_piece(Generation *generation, const char *data, size_t size)
{
	struct varlena *piece = make_piece(data, size);
	uint32 piece_size = VARSIZE(piece);

	sn_report_hash_add(generation->hash, data, size);
	BufFileWrite(generation->spool, &piece_size, sizeof(piece_size));
	BufFileWrite(generation->spool, piece, piece_size);
	generation->n_pieces++;
	generation->bytes += size;
	pfree(piece);
}

/* Spools the full pieces of out; at the end the last one too. */
static void
spool(Generation *generation, bool end)
{
	StringInfo out = &generation->out;
	int done = 0;

	for (; out->len - done >= STORE_BYTES; done += STORE_BYTES)
		spool_piece(generation, out->data + done, STORE_BYTES);
	if (end && out->len > done)
	{
		spool_piece(generation, out->data + done, out->len - done);
		done = out->len;
	}
	memmove(out->data, out->data + done, out->len - done);
	out->len -= done;
}

static void
flush(Generation *generation, bool end)
{
	if (generation->pdf == NULL)
		spool(generation, end);
	else
	{
		sn_report_pdf_feed(generation->pdf, generation->out.data, generation->out.len);
		resetStringInfo(&generation->out);
	}
}

static void
receive_startup(DestReceiver *self, int operation, TupleDesc columns)
{
	Generation *generation = ((Receiver *) self)->generation;
	MemoryContext caller = MemoryContextSwitchTo(report_context);

	if (!generation->begun)
		sn_report_write_begin(generation->writer, columns, &generation->out);
	generation->begun = true;
	MemoryContextSwitchTo(caller);
}

/* The key of a row as text[], from which the next chunk goes on. */
static void
save_key(Generation *generation, TupleTableSlot *slot)
{
	MemoryContext caller = MemoryContextSwitchTo(report_context);
	SnColumn key;

	sn_column_init(&key, TEXTOID, generation->report->key_columns);
	for (int i = 0; i < generation->report->key_columns; i++)
	{
		Oid output;
		bool is_varlena;

		if (slot->tts_isnull[i])
			ereport(ERROR, (errcode(SN_ERRCODE("SN074")), errmsg("a column of the report's key is NULL"),
							errdetail("It is column %d of the query.", i + 1)));
		getTypeOutputInfo(TupleDescAttr(slot->tts_tupleDescriptor, i)->atttypid, &output, &is_varlena);
		sn_column_text(&key, OidOutputFunctionCall(output, slot->tts_values[i]));
	}
	generation->key = sn_column_array(&key);
	MemoryContextSwitchTo(caller);
}

/* What a report says of its failure is the message and its detail. */
static void
check_size(const Generation *generation, int64 rows)
{
	if (generation->pdf != NULL && rows > sn_report_pdf_max_rows)
		ereport(ERROR, (errcode(SN_ERRCODE("SN075")), errmsg("a PDF has at most %d rows", sn_report_pdf_max_rows),
						errdetail("Ask for a shorter period, or for csv, json or jsonl.")));
}

static void
not_complete(const char *why)
{
	ereport(
		ERROR,
		(errcode(SN_ERRCODE("SN074")), errmsg("report is not complete: %s", why),
		 errhint(
			 "Either its key is not unique, its rows are not in the order of its key or don't go on from $6, or rows below its bound were changed.")));
}

/* What had to be done before the first row is done again for each chunk: it stays a small part of it. */
static bool
ends_chunk(Generation *generation)
{
	TimestampTz now;

	if (generation->chunk_rows >= CHUNK_ROWS)
		return true;
	if (generation->chunk_rows % CHUNK_LOOK != 1)
		return false;
	now = GetCurrentTimestamp();
	if (generation->chunk_rows == 1)
		generation->chunk_until =
			Max(TimestampTzPlusMilliseconds(now, CHUNK_MS), now + CHUNK_PARTS * (now - generation->chunk_begun));
	return now >= generation->chunk_until;
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	Generation *generation = ((Receiver *) self)->generation;
	const SnReport *report = generation->report;

	slot_getallattrs(slot);
	sn_report_write_row(generation->writer, slot, &generation->out);
	generation->rows++;
	generation->chunk_rows++;
	if (generation->out.len >= STORE_BYTES)
		flush(generation, false);
	if (generation->rows_total >= 0 && generation->rows > generation->rows_total)
		not_complete(psprintf("it has more than " INT64_FORMAT " rows", generation->rows_total));
	if (report->key_columns == 0)
	{
		check_size(generation, generation->rows);
		if (generation->rows > report->row_limit)
			ereport(ERROR, (errcode(SN_ERRCODE("SN075")),
							errmsg("report has more than " INT64_FORMAT " rows", report->row_limit),
							errdetail("Ask for a shorter period, or raise row_limit of its type.")));
		return true;
	}
	generation->chunk_full = ends_chunk(generation);
	if (generation->chunk_full)
		save_key(generation, slot);
	return !generation->chunk_full;
}

static void
receive_nothing(DestReceiver *self)
{
}

static ParamListInfo
make_params(const Generation *generation, int64 rows)
{
	ParamListInfo params = makeParamList(N_ARGUMENTS);

	for (int i = 0; i < N_ARGUMENTS; i++)
	{
		params->params[i].value = generation->report->arguments[i];
		params->params[i].isnull = false;
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].ptype = argument_types[i];
	}
	params->params[ARGUMENT_KEY].value = generation->key;
	params->params[ARGUMENT_KEY].isnull = generation->key == (Datum) 0;
	params->params[ARGUMENT_ROWS].value = Int64GetDatum(rows);
	params->params[ARGUMENT_ROWS].isnull = rows == 0;
	return params;
}

static SPIPlanPtr
prepare(const char *sql)
{
	SPIPlanPtr plan = SPI_prepare_cursor(sql, N_ARGUMENTS, argument_types, CURSOR_OPT_CUSTOM_PLAN);

	if (plan == NULL)
		elog(ERROR, "could not prepare the report's query: %s", SPI_result_code_string(SPI_result));
	return plan;
}

/* Runs a query of the report in the current read transaction. receiver NULL: its rows are in SPI_tuptable. */
static void
run_query(SPIPlanPtr plan, ParamListInfo params, Receiver *receiver)
{
	SPIExecuteOptions options = {.params = params, .read_only = true, .dest = receiver ? &receiver->pub : NULL};
	int rc = SPI_execute_plan_extended(plan, &options);

	MemoryContextSwitchTo(report_context);
	if (rc != SPI_OK_SELECT)
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("the report's query is no SELECT")));
}

/* Counts the rows below the bound. A snapshot needs no such check. */
static void
count_rows(Generation *generation)
{
	const SnReport *report = generation->report;
	const char *sql = report->count_query;
	Reader reader;

	generation->rows_total = -1;
	if (report->key_columns == 0)
		return;
	if (sql == NULL)
		sql = psprintf("SELECT count(*) FROM (%s\n) q", report->query);
	begin_read(generation, &reader);
	run_query(prepare(sql), make_params(generation, 0), NULL);
	generation->rows_total = sn_result_int64(0, 1);
	commit_read(&reader);
}

/*
 * A chunk of our types comes from an index in the order of its key. Where the planner takes it for all that is left it
 * would read all that is left, and sort it, for each chunk.
 */
static void
keep_order(const SnReport *report)
{
	static const char *const unordered[] = {"enable_sort", "enable_hashjoin", "enable_mergejoin"};

	for (int i = 0; report->builtin && i < lengthof(unordered); i++)
		set_for_query(unordered[i], "off");
}

/* Reads one chunk; false: it was the last one. */
static bool
read_chunk(Generation *generation)
{
	/* Any kind but DestNone, with which SPI would say that it was no SELECT, and DestSPI, which it looks into. */
	Receiver receiver = {{receive_row, receive_startup, receive_nothing, receive_nothing, DestTuplestore}, generation};
	Reader reader;

	generation->chunk_rows = 0;
	generation->chunk_begun = GetCurrentTimestamp();
	generation->chunk_full = false;
	begin_read(generation, &reader);
	keep_order(generation->report);
	if (generation->plan == NULL)
	{
		generation->plan = prepare(generation->report->query);
		SPI_keepplan(generation->plan);
	}
	run_query(generation->plan, make_params(generation, generation->report->key_columns > 0 ? CHUNK_ROWS : 0),
			  &receiver);
	commit_read(&reader);
	return generation->chunk_full;
}

/* A PDF begins with what its type has to say of all rows, an object of the program's a row. */
static void
write_summary(Generation *generation)
{
	Reader reader;

	if (generation->pdf == NULL || generation->report->summary_query == NULL)
		return;
	begin_read(generation, &reader);
	run_query(prepare(generation->report->summary_query), make_params(generation, 0), NULL);
	for (int row = 0; row < SPI_processed; row++)
		appendStringInfo(&generation->out, "%s\n", SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1));
	commit_read(&reader);
}

/* False: somebody has taken the report from us. */
static bool
told_progress(const Generation *generation)
{
	Datum values[4] = {CStringGetTextDatum(generation->report->id), Int32GetDatum(generation->report->tries),
					   Int64GetDatum(generation->rows_total), Int64GetDatum(generation->rows)};

	sn_execute(&tell_progress, values, generation->rows_total < 0 ? "  n " : NULL);
	return sn_result_bool(0, 1);
}

static bool
still_ours(Generation *generation)
{
	bool ours;

	if (GetCurrentTimestamp() < generation->progress_at)
		return true;
	begin(generation->deadline);
	ours = told_progress(generation);
	commit();
	generation->progress_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PROGRESS_MS);
	return ours;
}

/* Complete, or an error. */
static void
check_count(const Generation *generation)
{
	if (generation->rows_total >= 0 && generation->rows != generation->rows_total)
		not_complete(
			psprintf("it has " INT64_FORMAT " rows of " INT64_FORMAT, generation->rows, generation->rows_total));
}

/* ---- storing ---- */

static void
read_spool(Generation *generation, void *data, size_t size)
{
	if (BufFileRead(generation->spool, data, size) != size)
		elog(ERROR, "could not read the temporary file of a report");
}

/* The next value of report_chunk. */
static struct varlena *
read_piece(Generation *generation)
{
	struct varlena *piece;
	uint32 size;

	read_spool(generation, &size, sizeof(size));
	piece = palloc(size);
	read_spool(generation, piece, size);
	return piece;
}

/* Writes the next rows of report_chunk, from row *n on; false: the report is not ours any more. */
static bool
store_some(Generation *generation, int *n)
{
	bool ours;

	begin(generation->deadline);
	ours = told_progress(generation); /* holds the row until we commit */
	for (int i = 0; ours && i < STORE_ROWS && *n < generation->n_pieces; i++)
	{
		struct varlena *piece = read_piece(generation);
		Datum values[3] = {CStringGetTextDatum(generation->report->id), Int32GetDatum(*n), PointerGetDatum(piece)};

		sn_execute(&store_chunk, values, NULL);
		pfree(piece);
		(*n)++;
	}
	commit();
	return ours;
}

static bool
complete(const Generation *generation, Datum sha256)
{
	Datum values[6] = {CStringGetTextDatum(generation->report->id),
					   Int32GetDatum(generation->report->tries),
					   Int64GetDatum(generation->rows),
					   Int64GetDatum(generation->bytes),
					   sha256,
					   CStringGetTextDatum(generation->report->query)};
	bool ours;

	begin(generation->deadline);
	sn_execute(&complete_report, values, NULL);
	ours = sn_result_bool(0, 1);
	commit();
	return ours;
}

/* False: the report is not ours any more. */
static bool
store(Generation *generation)
{
	int n = 0;

	if (BufFileSeek(generation->spool, 0, 0, SEEK_SET) != 0)
		elog(ERROR, "could not read the temporary file of a report");
	while (n < generation->n_pieces)
		if (!store_some(generation, &n))
			return false;
	return complete(generation, sn_report_hash_end(generation->hash));
}

/* ---- one report ---- */

static void
read_pdf(Generation *generation)
{
	sn_report_pdf_end_input(generation->pdf);
	while (sn_report_pdf_read(generation->pdf, &generation->out, STORE_BYTES))
		spool(generation, false);
	spool(generation, true);
	sn_report_pdf_finish(generation->pdf, generation->bytes > 0);
}

/* False: the report is not ours any more. */
static bool
read_rows(Generation *generation)
{
	count_rows(generation);
	check_size(generation, generation->rows_total);
	sn_report_write_head(generation->writer, &generation->out);
	write_summary(generation);
	do
	{
		if (!still_ours(generation))
			return false;
	} while (read_chunk(generation));
	check_count(generation);
	sn_report_write_end(generation->writer, generation->rows, &generation->out);
	flush(generation, true);
	if (generation->pdf != NULL)
		read_pdf(generation);
	return true;
}

/* False: it was taken from us, and what it had is left to the end of the process. */
static bool
generate(SnReport *report, TimestampTz deadline)
{
	Generation *generation = palloc0(sizeof(Generation));

	generation->report = report;
	generation->deadline = deadline;
	generation->spool = BufFileCreateTemp(true);
	generation->hash = sn_report_hash_new();
	generation->writer = sn_report_writer(report);
	initStringInfo(&generation->out);
	if (strcmp(report->format, "pdf") == 0)
		generation->pdf = sn_report_pdf_start(deadline);
	if (!read_rows(generation) || !store(generation))
		return false;
	SPI_freeplan(generation->plan);
	BufFileClose(generation->spool);
	return true;
}

/* What goes away by itself is tried again, a few times. */
static bool
worth_another_try(const SnReport *report, int sqlerrcode)
{
	int category = ERRCODE_TO_CATEGORY(sqlerrcode);

	return report->tries < TRIES_MAX && (category == ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK) ||
										 category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
										 sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE);
}

static char *
message_of(const ErrorData *error, TimestampTz deadline)
{
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && GetCurrentTimestamp() >= deadline)
		return psprintf("report took longer than sentinai.report_timeout (%d s)", sn_report_timeout_ms / 1000);
	if (error->detail != NULL)
		return psprintf("%s: %s", error->message, error->detail);
	return error->message;
}

/* Notes the error in a transaction of its own. If the report was cancelled it has another one already. */
static void
note_failure(const SnReport *report, ErrorData *error, TimestampTz deadline)
{
	const char *status = worth_another_try(report, error->sqlerrcode) ? "pending" : "failed";
	Datum values[4] = {CStringGetTextDatum(report->id), CStringGetTextDatum(status),
					   CStringGetTextDatum(message_of(error, deadline)), Int32GetDatum(report->tries)};

	begin(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), OWN_MS));
	sn_execute(&set_status, values, NULL);
	commit();
}

/* False: the process is to end. */
static bool
make_report(SnReport *report)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), sn_report_timeout_ms);
	volatile bool ok = false;

	PG_TRY();
	{
		ok = generate(report, deadline);
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(report_context);
		error = CopyErrorData();
		EmitErrorReport();
		FlushErrorState();
		disable_timeout(STATEMENT_TIMEOUT, false);
		AbortCurrentTransaction();
		MemoryContextSwitchTo(report_context);
		note_failure(report, error, deadline);
	}
	PG_END_TRY();
	return ok;
}

/* Rows look the same whatever the server's settings are. A chunk is read before JIT would have compiled what reads it. */
static void
report_connect(void)
{
	static const char *const settings[][2] = {{"search_path", "pg_catalog, pg_temp"},
											  {"statement_timeout", "0"},
											  {"idle_in_transaction_session_timeout", "0"},
											  {"default_transaction_isolation", "read committed"},
											  {"DateStyle", "ISO, YMD"},
											  {"IntervalStyle", "iso_8601"},
											  {"TimeZone", "UTC"},
											  {"bytea_output", "hex"},
											  {"extra_float_digits", "1"},
											  {"lc_monetary", "C"},
											  {"row_security", "on"},
											  {"jit", "off"}};

	BackgroundWorkerInitializeConnectionByOid(my_database, InvalidOid, 0);
	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

void
sn_report_main(Datum database)
{
	SnReport *report;

	my_database = DatumGetObjectId(database);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	if (!place_attach())
		proc_exit(0);
	before_shmem_exit(place_leave, (Datum) 0);
	report_connect();
	report_context = AllocSetContextCreate(TopMemoryContext, "sentinai report", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(report_context);

	while ((report = take()) != NULL)
	{
		pgstat_report_activity(STATE_RUNNING, psprintf("report %s of tenant %s", report->id, report->tenant_id));
		if (!make_report(report) || !report->builtin)
			break;
		place_set(0);
		MemoryContextReset(report_context);
	}
	proc_exit(0);
}

/* ---- checking a query ---- */

static void
refuse_query(const char *what)
{
	ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("query is not valid: %s", what),
					errhint("It is one SELECT, without a semicolon at its end.")));
}

/* The shown columns of a prepared query, no two of one name. */
static Datum
shown_columns(TupleDesc columns, int key_columns)
{
	SnColumn names;

	if (columns->natts <= key_columns)
		refuse_query("it has no columns besides its key");
	sn_column_init(&names, TEXTOID, columns->natts);
	for (int i = key_columns; i < columns->natts; i++)
	{
		char *name = NameStr(TupleDescAttr(columns, i)->attname);

		for (int j = key_columns; j < i; j++)
			if (strcmp(NameStr(TupleDescAttr(columns, j)->attname), name) == 0)
				refuse_query(psprintf("two columns are called \"%s\"", name));
		sn_column_text(&names, name);
	}
	return sn_column_array(&names);
}

/* report_query_columns(query text, key_columns integer) returns text[] */
Datum
sn_report_query_columns(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	char *query;
	SPIPlanPtr plan;
	CachedPlanSource *source;
	Datum names;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		refuse_query("it is NULL");
	query = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	plan = prepare(query);
	if (list_length(SPI_plan_get_plan_sources(plan)) != 1 || !SPI_is_cursor_plan(plan))
		refuse_query("it is no query");
	source = linitial(SPI_plan_get_plan_sources(plan));
	if (source->commandTag != CMDTAG_SELECT)
		refuse_query("it is no SELECT");
	(void) prepare(psprintf("SELECT count(*) FROM (%s\n) q", query));
	MemoryContextSwitchTo(caller);
	names = shown_columns(source->resultDesc, PG_GETARG_INT32(1));
	SPI_finish();
	PG_RETURN_DATUM(names);
}
