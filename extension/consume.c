/*
 * consume.c
 *	  The heart: one call takes a batch of records through its steps, in one transaction.
 *
 * This file holds the order of the steps and what happens when a step gives up; each step has a file of its own:
 *
 *	fence		here			locks the partitions' rows; whoever comes with an old epoch takes part in nothing
 *	(due)		pending.c		adds the work that is due in the database
 *	screen		screen.c		parses and checks; poison becomes dead letters
 *	claim		claim.c			an identity is handled once
 *	circuit		circuit.c		what an open circuit covers waits; later: what has become the rule opens one
 *	order		key_order.c		parks what stands behind an unfinished event of its exception
 *	limit		backpressure.c	charges the tenants; what is over their rate waits in their queues
 *	handle		handle.c		calls the handlers
 *	settle		settle.c		writes what became of each event, and moves the positions
 *	(answer)	answer.c
 *
 * While a session looks for a record that kills the server (suspect.c) the others are refused before the fence, and its own
 * calls handle one event.
 *
 * Everything behind the fence is one subtransaction, so that a call that has to give up keeps its locks and answers why,
 * and what it has charged is given back.
 */
#include "postgres.h"

#include "access/xact.h"
#include "activation.h"
#include "backpressure.h"
#include "catalog/pg_type.h"
#include "circuit.h"
#include "consume.h"
#include "executor/spi.h"
#include "guc.h"
#include "miscadmin.h"
#include "metrics.h"
#include "point.h"
#include "sentinai.h"
#include "spi.h"
#include "suspect.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(sn_consume);
PG_FUNCTION_INFO_V1(sn_consume_records);

/*
 * Our own statements look a few hundred keys up in tables that may be empty at one call and huge at the next: index
 * lookups from generic plans are right at both ends.
 */
static const struct
{
	const char *name;
	const char *value;
} settings[] = {{"enable_seqscan", "off"},
				{"enable_hashjoin", "off"},
				{"enable_mergejoin", "off"},
				{"plan_cache_mode", "force_generic_plan"},
				{"jit", "off"}};

static bool in_consume = false;

static SnStatement lock_partitions = {
	.sql = "SELECT u.i, k.next_offset, k.epoch FROM unnest($2, $3, $4) AS u(i, topic, partition)"
		   " JOIN sentinai.kafka_offset k ON k.group_id = $1 AND k.topic = u.topic AND k.partition = u.partition"
		   " FOR UPDATE OF k",
	.n_args = 4,
	.args = {TEXTOID, INT4ARRAYOID, TEXTARRAYOID, INT4ARRAYOID}};

/* Gives a batch up: the answer says to send smaller ones. */
void
sn_split(SnBatch *batch, int size)
{
	batch->split_size = Max(size, 1);
	ereport(ERROR, (errcode(SN_ERRCODE("SN030")), errmsg("batch is too large to be handled in one transaction")));
}

static void
use_settings(void)
{
	for (int i = 0; i < lengthof(settings); i++)
		set_config_option(settings[i].name, settings[i].value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
						  false);
}

/* Deferred rows of the caller's own would be checked, and might fail, inside of ours. */
static void
refuse_deferred_rows(SnBatch *batch)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	if (!batch->in_block || !TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0);
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		ereport(ERROR, (errcode(SN_ERRCODE("SN013")),
						errmsg("consume() can't run in a transaction with pending deferred constraints that fail"),
						errdetail("%s", error->message), errhint("Call consume() in a transaction of its own.")));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
}

static void
check_call(SnBatch *batch, const char *worker_type, const char *group_id)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR, (errcode(SN_ERRCODE("SN013")), errmsg("consume() needs isolation level READ COMMITTED"),
						errdetail("It waits for other sessions' claims and must see them afterwards.")));
	batch->worker_type = sn_worker_type_get(worker_type);
	if (batch->worker_type == NULL)
		ereport(ERROR, (errcode(SN_ERRCODE("SN002")), errmsg("worker type \"%s\" is not known", worker_type),
						errhint("worker_type_add() makes one; SELECT name FROM sentinai.worker_type lists them.")));
	if (strcmp(group_id, batch->worker_type->group_id) != 0)
		ereport(ERROR, (errcode(SN_ERRCODE("SN003")),
						errmsg("group \"%s\" is not the group of worker type \"%s\"", group_id, worker_type),
						errdetail("Its group is \"%s\".", batch->worker_type->group_id),
						errhint("SELECT sentinai.worker_type_group('%s', '%s') changes it.", worker_type, group_id)));
}

static int
compare_partitions(const void *a, const void *b)
{
	const SnPartition *left = *(SnPartition *const *) a;
	const SnPartition *right = *(SnPartition *const *) b;
	int order = strcmp(left->topic, right->topic);

	if (order == 0)
		order = left->partition < right->partition ? -1 : left->partition > right->partition;
	return order;
}

/*
 * Locks the rows of the batch's partitions, sorted, before anything else. A partition without a row, or with another
 * epoch, is somebody else's.
 */
static void
fence(SnBatch *batch)
{
	SnPartition **sorted = palloc(Max(batch->n_partitions, 1) * sizeof(SnPartition *));
	SnColumn columns[3];
	Datum values[4];
	uint64 n;

	sn_column_init(&columns[0], INT4OID, batch->n_partitions);
	sn_column_init(&columns[1], TEXTOID, batch->n_partitions);
	sn_column_init(&columns[2], INT4OID, batch->n_partitions);
	for (int i = 0; i < batch->n_partitions; i++)
	{
		batch->partitions[i].fenced = true;
		sorted[i] = &batch->partitions[i];
	}
	qsort(sorted, batch->n_partitions, sizeof(SnPartition *), compare_partitions);
	for (int i = 0; i < batch->n_partitions; i++)
	{
		if (i > 0 && compare_partitions(&sorted[i - 1], &sorted[i]) == 0)
			ereport(ERROR, (errcode(SN_ERRCODE("SN007")), errmsg("batch is not valid"),
							errdetail("It has two entries for partition %d of topic \"%s\".", sorted[i]->partition,
									  sorted[i]->topic)));
		sn_column_add(&columns[0], Int32GetDatum(sorted[i] - batch->partitions), false);
		sn_column_text(&columns[1], sorted[i]->topic);
		sn_column_add(&columns[2], Int32GetDatum(sorted[i]->partition), false);
	}
	values[0] = CStringGetTextDatum(batch->worker_type->group_id);
	for (int c = 0; c < 3; c++)
		values[c + 1] = sn_column_array(&columns[c]);
	n = sn_execute(&lock_partitions, values, NULL);
	for (int row = 0; row < n; row++)
	{
		SnPartition *partition = &batch->partitions[sn_result_int32(row, 1)];

		partition->next_offset = sn_result_int64(row, 2);
		partition->fenced = sn_result_int64(row, 3) != partition->epoch;
	}
}

/* A paused partition's records stay in Kafka; its due work goes on. */
static void
leave_records(SnBatch *batch)
{
	batch->n_records = 0;
	for (int i = 0; i < batch->n_partitions; i++)
		batch->partitions[i].position = batch->partitions[i].next_offset;
}

/* The steps behind the fence. */
static void
run_steps(SnBatch *batch)
{
	batch->pause = sn_circuit_begin(batch);
	if (batch->pause != NULL)
		leave_records(batch);
	sn_backpressure_begin(batch);
	sn_pending_due(batch);
	SN_POINT("consume.due");
	sn_suspect_select(batch);
	sn_screen(batch);
	SN_POINT("consume.screened");
	sn_metric_processing(batch->n_work);
	sn_claim(batch);
	SN_POINT("consume.claimed");
	sn_circuit_screen(batch);
	sn_key_order(batch);
	SN_POINT("consume.ordered");
	sn_backpressure(batch);
	SN_POINT("consume.limited");
	sn_suspect_convict(batch);
	sn_handle(batch);
	SN_POINT("consume.handled");
	sn_circuit_judge(batch);
	sn_settle(batch);
	SN_POINT("consume.settled");
	sn_suspect_settle(batch);
}

/*
 * Runs the steps in a subtransaction. Returns NULL when all is written, else why nothing is: an infrastructure error's
 * text, or with *split set that the batch was too hard. Any other error goes on up.
 */
static char *
try_steps(SnBatch *batch, bool *split)
{
	ResourceOwner owner = CurrentResourceOwner;
	char *volatile stop = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(batch->context);
	PG_TRY();
	{
		run_steps(batch);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(batch->context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(batch->context);
		CurrentResourceOwner = owner;
		*split = batch->split_size > 0; /* not by the code: a handler may raise any */
		if (!*split && (error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
						sn_error_class(error->sqlerrcode, error->constraint_name) != SN_CLASS_STOP))
			ReThrowError(error);
		stop = psprintf("%s: %s", unpack_sql_state(error->sqlerrcode), error->message);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(batch->context);
	CurrentResourceOwner = owner;
	return stop;
}

static Datum
run_batch(SnBatch *batch, FunctionCallInfo fcinfo)
{
	bool split = false;
	char *stop;

	if (batch->handler_version != 0 && batch->handler_version != batch->worker_type->version)
		return sn_answer(batch, fcinfo, NULL, 0, true);
	if (!sn_suspect_admit())
		return sn_answer(batch, fcinfo, "another session looks for a record that kills the server", 0, false);
	SN_POINT("consume.admitted");
	fence(batch);
	SN_POINT("consume.fenced");
	refuse_deferred_rows(batch);
	stop = try_steps(batch, &split);
	SN_POINT("consume.done");
	if (split)
		return sn_answer(batch, fcinfo, NULL, Max(1, Min(batch->split_size, batch->max_events / 2)), false);
	return sn_answer(batch, fcinfo, stop, 0, false);
}

static Datum
consume(FunctionCallInfo fcinfo, const char *worker_type, const char *group_id, const char *data, int len)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "sentinai batch", ALLOCSET_DEFAULT_SIZES);
	SnBatch *batch = MemoryContextAllocZero(context, sizeof(SnBatch));
	int nest_level = NewGUCNestLevel();
	Datum answer;

	batch->context = context;
	batch->now = GetCurrentTimestamp();
	batch->in_block = IsTransactionBlock();
	use_settings();
	sn_activate();
	SPI_connect();
	MemoryContextSwitchTo(context);
	check_call(batch, worker_type, group_id);
	sn_worker_type_pin(true);
	sn_batch_decode(batch, data, len);
	answer = run_batch(batch, fcinfo);
	MemoryContextSwitchTo(caller);
	answer = PointerGetDatum(pg_detoast_datum_copy((struct varlena *) DatumGetPointer(answer)));
	SPI_finish();
	AtEOXact_GUC(true, nest_level);
	MemoryContextDelete(context);
	return answer;
}

static Datum
guarded_consume(FunctionCallInfo fcinfo, const char *worker_type, const char *group_id, const char *data, int len)
{
	volatile Datum answer = (Datum) 0;

	if (in_consume)
		ereport(ERROR, (errcode(SN_ERRCODE("SN013")), errmsg("consume() can't be called by a handler")));
	in_consume = true;
	PG_TRY();
	{
		answer = consume(fcinfo, worker_type, group_id, data, len);
	}
	PG_FINALLY();
	{
		in_consume = false;
		sn_worker_type_pin(false);
	}
	PG_END_TRY();
	return answer;
}

/*
 * consume(worker_type, group_id, batch bytea): see 20_consume.sql.
 */
Datum
sn_consume(PG_FUNCTION_ARGS)
{
	bytea *batch = PG_GETARG_BYTEA_PP(2);

	return guarded_consume(fcinfo, text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)),
						   VARDATA_ANY(batch), VARSIZE_ANY_EXHDR(batch));
}

/*
 * consume(worker_type, group_id, record[]): packs to the same bytes and takes the same way.
 */
Datum
sn_consume_records(PG_FUNCTION_ARGS)
{
	bytea *batch = sn_batch_pack(PG_GETARG_ARRAYTYPE_P(2));

	return guarded_consume(fcinfo, text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)),
						   VARDATA_ANY(batch), VARSIZE_ANY_EXHDR(batch));
}
