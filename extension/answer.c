/*
 * answer.c
 *	  What consume() answers: counts, positions, when to come back, and statistics for the worker's metrics.
 *
 * The columns are those of sentinai.consume_result in 20_consume.sql.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "consume.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "metrics.h"
#include "sentinai.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/jsonb.h"

/* The columns of sentinai.consume_result, in order. */
enum
{
	HANDLED,
	LOGGED,
	DUPLICATE,
	SKIPPED,
	FAILED,
	PARKED,
	DEFERRED,
	DEAD_LETTERED,
	EMITTED,
	DUE,
	NEXT_DUE_MS,
	RELOAD,
	STOP,
	SPLIT,
	PARTITIONS,
	STATS,
	ANSWER_COLUMNS
};

/* How an outcome is counted: its column, and its name in the statistics (NULL: not there). */
static const struct
{
	int column;
	const char *status;
} outcomes[] = {[SN_TODO] = {SKIPPED, NULL},
				[SN_SKIPPED] = {SKIPPED, NULL},
				[SN_DUPLICATE] = {DUPLICATE, "duplicate"},
				[SN_LOGGED] = {LOGGED, "logged"},
				[SN_SUCCEEDED] = {HANDLED, "succeeded"},
				[SN_RETRYING] = {FAILED, "retrying"},
				[SN_PARKED] = {PARKED, "parked"},
				[SN_DEFERRED] = {DEFERRED, "deferred"},
				[SN_DEAD] = {DEAD_LETTERED, "dead_lettered"}};

/* What is counted together; error_type "": none. */
typedef struct StatKey
{
	const char *event_type;
	const char *tenant_id;
	const char *error_type;
	SnOutcome outcome;
} StatKey;

typedef struct Stat
{
	StatKey key;
	int count;
	int retries;
	double seconds;
} Stat;

static void
put_string(StringInfo buf, const char *name, const char *value)
{
	appendStringInfo(buf, "\"%s\":", name);
	if (value == NULL)
		appendStringInfoString(buf, "null");
	else
		escape_json(buf, value);
	appendStringInfoChar(buf, ',');
}

static Datum
partitions_json(SnBatch *batch)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '[');
	for (int i = 0; i < batch->n_partitions; i++)
	{
		SnPartition *partition = &batch->partitions[i];

		appendStringInfo(&buf, "%s{", i == 0 ? "" : ",");
		put_string(&buf, "topic", partition->topic);
		put_string(&buf, "pause", batch->pause);
		appendStringInfo(
			&buf, "\"partition\":%d,\"epoch\":" INT64_FORMAT ",\"next_offset\":" INT64_FORMAT ",\"fenced\":%s}",
			partition->partition, partition->epoch, partition->next_offset, partition->fenced ? "true" : "false");
	}
	appendStringInfoChar(&buf, ']');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data));
}

static const char *
text_or_empty(const char *text)
{
	return text == NULL ? "" : text;
}

/* Anybody may send any event type: one that we don't know makes no series of its own. */
static const char *
stat_event_type(SnBatch *batch, const SnWork *work)
{
	const char *event_type = text_or_empty(work->event.event_type);

	if (event_type[0] == '\0' || sn_event_type_get(batch->worker_type, event_type) != NULL)
		return event_type;
	return "unknown";
}

static uint32
stat_hash(const void *key, Size size)
{
	const StatKey *stat = key;
	uint32 names = hash_combine(string_hash(stat->event_type, SN_EVENT_TEXT_MAX + 1),
								string_hash(stat->tenant_id, SN_TENANT_ID_MAX + 1));

	return hash_combine(hash_combine(names, string_hash(stat->error_type, SN_EVENT_TEXT_MAX + 1)), stat->outcome);
}

static int
stat_match(const void *a, const void *b, Size size)
{
	const StatKey *left = a;
	const StatKey *right = b;

	return left->outcome != right->outcome || strcmp(left->event_type, right->event_type) != 0 ||
		   strcmp(left->tenant_id, right->tenant_id) != 0 || strcmp(left->error_type, right->error_type) != 0;
}

static HTAB *
stat_table(SnBatch *batch)
{
	HASHCTL ctl = {.keysize = sizeof(StatKey),
				   .entrysize = sizeof(Stat),
				   .hash = stat_hash,
				   .match = stat_match,
				   .hcxt = batch->context};

	return hash_create("sentinai statistics", 16, &ctl, HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

static void
stat_add(Stat *stat, const SnBatch *batch, const SnWork *work)
{
	stat->count++;
	stat->retries += work->outcome == SN_RETRYING && work->replay == NULL;
	stat->seconds += work->seconds;
	sn_metric_handled(batch->worker_type->name, stat->key.event_type, stat->key.tenant_id,
					  outcomes[work->outcome].status, work->failure.error_type, 1, work->seconds);
}

/* Counts the work, and sums it up: into stats, in the order in which they first come. */
static int
collect_stats(SnBatch *batch, Stat **stats)
{
	HTAB *table = stat_table(batch);
	int n = 0;

	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];
		StatKey key = {.event_type = stat_event_type(batch, work),
					   .tenant_id = work->tenant_known ? work->event.tenant_id : "",
					   .error_type = text_or_empty(work->failure.error_type),
					   .outcome = work->outcome};
		Stat *stat;
		bool found;

		if (outcomes[work->outcome].status == NULL)
			continue;
		stat = hash_search(table, &key, HASH_ENTER, &found);
		if (!found)
		{
			stat->count = stat->retries = 0;
			stat->seconds = 0;
			stats[n++] = stat;
		}
		stat_add(stat, batch, work);
	}
	return n;
}

static Datum
stats_json(SnBatch *batch)
{
	Stat **stats = palloc(Max(batch->n_work, 1) * sizeof(Stat *));
	int n = collect_stats(batch, stats);
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '[');
	for (int i = 0; i < n; i++)
	{
		Stat *stat = stats[i];

		appendStringInfo(&buf, "%s{", i == 0 ? "" : ",");
		put_string(&buf, "event_type", stat->key.event_type);
		put_string(&buf, "tenant_id", stat->key.tenant_id);
		put_string(&buf, "status", outcomes[stat->key.outcome].status);
		put_string(&buf, "error_type", stat->key.error_type[0] == '\0' ? NULL : stat->key.error_type);
		appendStringInfo(&buf, "\"count\":%d,\"retries\":%d,\"seconds\":%.9f}", stat->count, stat->retries,
						 stat->seconds / stat->count);
	}
	appendStringInfoChar(&buf, ']');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data));
}

static Datum
empty_json(void)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum("[]"));
}

/*
 * The answer of a call. stop, split (0: no change) and reload mean that nothing was done. The caller is connected to SPI;
 * the result lives in the function's own context.
 */
Datum
sn_answer(SnBatch *batch, FunctionCallInfo fcinfo, const char *stop, int split, bool reload)
{
	bool done = stop == NULL && split == 0 && !reload;
	int counts[ANSWER_COLUMNS] = {0};
	Datum values[ANSWER_COLUMNS];
	bool nulls[ANSWER_COLUMNS] = {false};
	TupleDesc desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != ANSWER_COLUMNS)
		elog(ERROR, "consume() does not return sentinai.consume_result");
	counts[NEXT_DUE_MS] = SN_MAX_NEXT_DUE_MS;
	if (done)
	{
		for (int i = 0; i < batch->n_work; i++)
			counts[outcomes[batch->work[i]->outcome].column]++;
		counts[SKIPPED] += batch->n_skipped;
		counts[EMITTED] = list_length(batch->emits);
		counts[DUE] = batch->n_due;
		counts[NEXT_DUE_MS] = sn_pending_next_due_ms(batch);
	}
	for (int i = HANDLED; i <= NEXT_DUE_MS; i++)
		values[i] = Int32GetDatum(counts[i]);
	values[RELOAD] = BoolGetDatum(reload);
	nulls[STOP] = stop == NULL;
	values[STOP] = stop == NULL ? (Datum) 0 : CStringGetTextDatum(stop);
	nulls[SPLIT] = split == 0;
	values[SPLIT] = Int32GetDatum(split);
	values[PARTITIONS] = partitions_json(batch);
	values[STATS] = done ? stats_json(batch) : empty_json();
	return heap_copy_tuple_as_datum(heap_form_tuple(BlessTupleDesc(desc), values, nulls), desc);
}
