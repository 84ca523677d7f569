/*
 * dead_letter.c
 *	  Dead letters: what could not be handled, whole, until somebody decides.
 *
 * Here: the states and the one table of legal transitions, the one setter that performs them, the triggers that hold an
 * operator's own UPDATE to the same table, writing dead letters, retries by outbox or event_pending, and what consume()
 * does with the record of a retry. Reading, counting and cleaning up is SQL: sql/40_dead_letter.sql. Not here: whether an
 * event becomes a dead letter (retry.c), who waits behind one (key_order.c), rehearsals (rehearse.c).
 *
 * A retry is an attempt with a token. The token stands in the dead letter while the attempt is under way, in the record's
 * headers, and for ever in dlq_history; whoever changes the status takes it out of the dead letter, so a record that comes
 * late finds it used.
 */
#include "sentinai.h"

#include "catalog/pg_type.h"
#include "caller.h"
#include "commands/trigger.h"
#include "dead_letter.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "outbox.h"
#include "point.h"
#include "sentinai_wire.h"
#include "spi.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/uuid.h"

PG_FUNCTION_INFO_V1(sn_dlq_transitions);
PG_FUNCTION_INFO_V1(sn_dead_letter_guard);
PG_FUNCTION_INFO_V1(sn_dead_letter_changed);
PG_FUNCTION_INFO_V1(sn_dlq_retry);
PG_FUNCTION_INFO_V1(sn_dlq_retry_batch);
PG_FUNCTION_INFO_V1(sn_dlq_discard);
PG_FUNCTION_INFO_V1(sn_dlq_retry_lost);
PG_FUNCTION_INFO_V1(sn_dlq_retry_refused);

/* ---------- the states ---------- */

typedef enum DeadLetterState
{
	DEAD_LETTER_PENDING,   /* waits for somebody's decision */
	DEAD_LETTER_RETRYING,  /* an attempt is under way; retry_token is its token */
	DEAD_LETTER_SUCCEEDED, /* closed: a retry was handled */
	DEAD_LETTER_DISCARDED  /* closed: given up by somebody, at discarded_at */
} DeadLetterState;

static const char *const state_names[] = {[DEAD_LETTER_PENDING] = "pending",
										  [DEAD_LETTER_RETRYING] = "retrying",
										  [DEAD_LETTER_SUCCEEDED] = "succeeded",
										  [DEAD_LETTER_DISCARDED] = "discarded"};

typedef struct DeadLetterTransition
{
	DeadLetterState from;
	DeadLetterState to;
	bool by_hand; /* an operator's UPDATE may do it, too */
} DeadLetterTransition;

/* Everything that may happen to a status. A retry has to send a record, which no UPDATE does. */
static const DeadLetterTransition dead_letter_transitions[] = {
	{DEAD_LETTER_PENDING, DEAD_LETTER_RETRYING, false},	 /* dlq_retry() */
	{DEAD_LETTER_PENDING, DEAD_LETTER_DISCARDED, true},	 /* dlq_discard() */
	{DEAD_LETTER_RETRYING, DEAD_LETTER_SUCCEEDED, true}, /* consume(): the retry was handled */
	{DEAD_LETTER_RETRYING, DEAD_LETTER_PENDING, true},	 /* consume(): it failed again; dlq_lost_check(): it was lost */
};

/* A change of status under way: what the history is to say of it, and the new failure, if there is one. */
typedef struct DeadLetterChange
{
	const char *action;
	const char *reason;
	const char *actor;
	const char *token;		/* of the attempt that begins; NULL: none begins */
	const char *error_type; /* NULL: the failure stays as it is */
	const char *error_message;
	const char *error_detail;
	const char *sqlstate;
	int more_retries; /* added to retry_count */
} DeadLetterChange;

/* Set while the setter's own UPDATE runs. NULL in the triggers: somebody else's UPDATE. */
static const DeadLetterChange *current_change = NULL;

/* Why something can't be done with a dead letter; an error for one, a row of the result for a batch. */
typedef struct Refusal
{
	int sqlerrcode; /* 0: none */
	char *message;
	char *detail;
	char *hint;
} Refusal;

static bool
state_find(const char *name, DeadLetterState *state)
{
	for (int i = 0; i < lengthof(state_names); i++)
	{
		*state = (DeadLetterState) i;
		if (strcmp(state_names[i], name) == 0)
			return true;
	}
	return false;
}

bool
sn_dead_letter_is_state(const char *name)
{
	DeadLetterState state;

	return state_find(name, &state);
}

static DeadLetterState
state_by_name(const char *name)
{
	DeadLetterState state;

	if (state_find(name, &state))
		return state;
	ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("\"%s\" is not a status of a dead letter", name),
					errhint("A status is pending, retrying, succeeded or discarded.")));
}

static const DeadLetterTransition *
transition_find(DeadLetterState from, DeadLetterState to)
{
	for (int i = 0; i < lengthof(dead_letter_transitions); i++)
		if (dead_letter_transitions[i].from == from && dead_letter_transitions[i].to == to)
			return &dead_letter_transitions[i];
	return NULL;
}

/* What a status may become, as text. */
static char *
allowed_from(DeadLetterState from, bool by_hand)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < lengthof(dead_letter_transitions); i++)
	{
		const DeadLetterTransition *transition = &dead_letter_transitions[i];

		if (transition->from == from && (transition->by_hand || !by_hand))
			appendStringInfo(&text, "%s%s", text.len > 0 ? " or " : "", state_names[transition->to]);
	}
	return text.data;
}

static char *
hint_for(int64 id, DeadLetterState from, DeadLetterState to)
{
	switch (from)
	{
		case DEAD_LETTER_PENDING:
			if (to == DEAD_LETTER_DISCARDED)
				return psprintf("SELECT sentinai.dlq_discard(" INT64_FORMAT ", 'why') discards it.", id);
			return psprintf("SELECT sentinai.dlq_retry(" INT64_FORMAT ", 'why') retries it.", id);
		case DEAD_LETTER_RETRYING:
			return psprintf(
				"Wait until the retry has ended; sentinai.event_why() says where it is, sentinai.dlq_history(" INT64_FORMAT
				") since when.",
				id);
		case DEAD_LETTER_SUCCEEDED:
		case DEAD_LETTER_DISCARDED:
			break;
	}
	return psprintf("It is closed for good; sentinai.dlq_history(" INT64_FORMAT ") says by whom.", id);
}

/* Whether a dead letter may change so; else why not. */
static bool
transition_allowed(int64 id, DeadLetterState from, DeadLetterState to, bool by_hand, Refusal *refusal)
{
	const DeadLetterTransition *transition = transition_find(from, to);
	char *allowed = allowed_from(from, by_hand);

	if (transition != NULL && (transition->by_hand || !by_hand))
		return true;
	refusal->sqlerrcode = SN_ERRCODE("SN010");
	refusal->message = psprintf("dead letter " INT64_FORMAT " can't go from %s to %s%s", id, state_names[from],
								state_names[to], transition != NULL ? " by UPDATE" : "");
	refusal->detail = allowed[0] == '\0'
						  ? psprintf("Its status is %s, which nothing follows.", state_names[from])
						  : psprintf("Its status is %s, which may become %s.", state_names[from], allowed);
	refusal->hint = hint_for(id, from, to);
	return false;
}

static void
refuse(const Refusal *refusal)
{
	ereport(ERROR, (errcode(refusal->sqlerrcode), errmsg("%s", refusal->message),
					refusal->detail != NULL ? errdetail("%s", refusal->detail) : 0,
					refusal->hint != NULL ? errhint("%s", refusal->hint) : 0));
}

static void
refuse_missing(int64 id, Refusal *refusal)
{
	refusal->sqlerrcode = SN_ERRCODE("SN011");
	refusal->message = psprintf("there is no dead letter " INT64_FORMAT, id);
	refusal->detail = NULL;
	refusal->hint =
		psprintf("sentinai.dlq_list() lists them; sentinai.dlq_history(" INT64_FORMAT ") says what became of it.", id);
}

/* ---------- small helpers for SPI ---------- */

static void
set_text(Datum *values, char *nulls, int i, const char *text)
{
	nulls[i] = text == NULL ? 'n' : ' ';
	values[i] = text == NULL ? (Datum) 0 : CStringGetTextDatum(text);
}

static void
set_datum(Datum *values, char *nulls, int i, Datum datum)
{
	nulls[i] = datum == (Datum) 0 ? 'n' : ' ';
	values[i] = datum;
}

static void
set_int64(Datum *values, char *nulls, int i, int64 value, bool isnull)
{
	nulls[i] = isnull ? 'n' : ' ';
	values[i] = Int64GetDatum(value);
}

static void
set_int32(Datum *values, char *nulls, int i, int32 value, bool isnull)
{
	nulls[i] = isnull ? 'n' : ' ';
	values[i] = Int32GetDatum(value);
}

static void
set_time(Datum *values, char *nulls, int i, TimestampTz value)
{
	nulls[i] = value == 0 ? 'n' : ' ';
	values[i] = TimestampTzGetDatum(value);
}

/* A column of the result that outlives it; 0 where it is NULL. For types by reference without a fixed length. */
static Datum
result_copy(int row, int column)
{
	bool isnull;
	Datum value = sn_result_datum(row, column, &isnull);

	return isnull ? (Datum) 0 : PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
}

/* ---------- the setter and its triggers ---------- */

static SnStatement update_status = {
	.sql = "UPDATE sentinai.dead_letter_queue SET status = $2, retry_token = $3::pg_catalog.uuid,"
		   " retry_count = retry_count + $4,"
		   " fingerprint = CASE WHEN $5 IS NULL THEN fingerprint"
		   "  ELSE sentinai.dlq_fingerprint($5, $8, $6, event_type, worker_type) END,"
		   " error_message = CASE WHEN $5 IS NULL THEN error_message ELSE $6 END,"
		   " error_detail = CASE WHEN $5 IS NULL THEN error_detail ELSE $7 END,"
		   " sqlstate = CASE WHEN $5 IS NULL THEN sqlstate ELSE $8 END,"
		   " error_type = CASE WHEN $5 IS NULL THEN error_type ELSE $5 END,"
		   " retried_at = CASE WHEN $2 = 'retrying' THEN pg_catalog.now() ELSE retried_at END,"
		   " discarded_by = CASE WHEN $2 = 'discarded' THEN $9 ELSE discarded_by END WHERE id = $1",
	.n_args = 9,
	.args = {INT8OID, TEXTOID, TEXTOID, INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}};

static SnStatement insert_history = {
	.sql =
		"INSERT INTO sentinai.dlq_history (dlq_id, tenant_id, action, from_status, to_status, token, reason, actor, details)"
		" VALUES ($1, $2, $3, $4, $5, $6::pg_catalog.uuid, $7, $8, $9::pg_catalog.jsonb)",
	.n_args = 9,
	.args = {INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}};

static SnStatement let_go = {.sql = "SELECT sentinai.dlq_let_go($1, $2, $3, $4, $5)",
							 .n_args = 5,
							 .args = {INT8OID, TEXTOID, TEXTOID, TEXTOID, BOOLOID}};

/*
 * The one way in which code of ours changes a status. The row is there and the transition legal, or the trigger refuses.
 * SPI is connected.
 */
static void
dead_letter_set_state(int64 id, DeadLetterState to, const DeadLetterChange *change)
{
	const DeadLetterChange *outer = current_change;
	Datum values[9];
	char nulls[10] = "         ";

	set_int64(values, nulls, 0, id, false);
	set_text(values, nulls, 1, state_names[to]);
	set_text(values, nulls, 2, change->token);
	set_int32(values, nulls, 3, change->more_retries, false);
	set_text(values, nulls, 4, change->error_type);
	set_text(values, nulls, 5, change->error_message != NULL ? change->error_message : "");
	set_text(values, nulls, 6, change->error_detail);
	set_text(values, nulls, 7, change->sqlstate);
	set_text(values, nulls, 8, change->actor);
	current_change = change;
	PG_TRY();
	{
		sn_execute(&update_status, values, nulls);
	}
	PG_FINALLY();
	{
		current_change = outer;
	}
	PG_END_TRY();
}

/* A column of a trigger's tuple as text, NULL where it is NULL. */
static char *
tuple_text(TriggerData *trigger, HeapTuple tuple, const char *column)
{
	TupleDesc desc = trigger->tg_relation->rd_att;

	return SPI_getvalue(tuple, desc, SPI_fnumber(desc, column));
}

static int64
tuple_id(TriggerData *trigger, HeapTuple tuple)
{
	TupleDesc desc = trigger->tg_relation->rd_att;
	bool isnull;

	return DatumGetInt64(SPI_getbinval(tuple, desc, SPI_fnumber(desc, "id"), &isnull));
}

static bool
tuple_null(TriggerData *trigger, HeapTuple tuple, const char *column)
{
	TupleDesc desc = trigger->tg_relation->rd_att;
	bool isnull;

	SPI_getbinval(tuple, desc, SPI_fnumber(desc, column), &isnull);
	return isnull;
}

/* Sets one column of a trigger's new tuple. */
static HeapTuple
tuple_set(TriggerData *trigger, HeapTuple tuple, const char *column, Datum value, bool isnull)
{
	TupleDesc desc = trigger->tg_relation->rd_att;
	int number = SPI_fnumber(desc, column);

	return heap_modify_tuple_by_cols(tuple, desc, 1, &number, &value, &isnull);
}

static TriggerData *
trigger_data(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		elog(ERROR, "not called by a row's update");
	return trigger;
}

/* Fills in what the new status demands, whoever sets it. */
static HeapTuple
complete_change(TriggerData *trigger, HeapTuple new, DeadLetterState to)
{
	Datum now = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());

	if (to != DEAD_LETTER_RETRYING)
		new = tuple_set(trigger, new, "retry_token", (Datum) 0, true);
	if (to == DEAD_LETTER_DISCARDED)
	{
		if (tuple_null(trigger, new, "discarded_at"))
			new = tuple_set(trigger, new, "discarded_at", now, false);
		if (tuple_null(trigger, new, "discarded_by"))
			new = tuple_set(trigger, new, "discarded_by",
							CStringGetTextDatum(GetUserNameFromId(GetSessionUserId(), false)), false);
	}
	return new;
}

/*
 * BEFORE UPDATE FOR EACH ROW: refuses what the table of transitions doesn't have.
 */
Datum
sn_dead_letter_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = trigger_data(fcinfo);
	HeapTuple new = trigger->tg_newtuple;
	int64 id = tuple_id(trigger, trigger->tg_trigtuple);
	DeadLetterState from = state_by_name(tuple_text(trigger, trigger->tg_trigtuple, "status"));
	char *to_name = tuple_text(trigger, new, "status");
	Refusal refusal = {0};

	if (to_name == NULL)
		PG_RETURN_POINTER(new); /* NOT NULL says it */
	if (from != state_by_name(to_name))
	{
		if (!transition_allowed(id, from, state_by_name(to_name), current_change == NULL, &refusal))
			refuse(&refusal);
		new = complete_change(trigger, new, state_by_name(to_name));
	}
	new = tuple_set(trigger, new, "updated_at", TimestampTzGetDatum(GetCurrentTransactionStartTimestamp()), false);
	PG_RETURN_POINTER(new);
}

/* {"error_type": ..., "sqlstate": ..., "error_message": ...} of a change that brings a failure, NULL else. */
static char *
failure_details(const DeadLetterChange *change)
{
	StringInfoData json;

	if (change->error_type == NULL)
		return NULL;
	initStringInfo(&json);
	appendStringInfoString(&json, "{\"error_type\": ");
	escape_json(&json, change->error_type);
	if (change->sqlstate != NULL)
	{
		appendStringInfoString(&json, ", \"sqlstate\": ");
		escape_json(&json, change->sqlstate);
	}
	appendStringInfoString(&json, ", \"error_message\": ");
	escape_json(&json, change->error_message != NULL ? change->error_message : "");
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* {"worker_type": ..., "step": ...}: a replay that outlives its dead letter still has to know whose it was. */
static char *
attempt_details(TriggerData *trigger, HeapTuple tuple)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"worker_type\": ");
	escape_json(&json, tuple_text(trigger, tuple, "worker_type"));
	appendStringInfoString(&json, ", \"step\": ");
	escape_json(&json, tuple_text(trigger, tuple, "step"));
	appendStringInfoChar(&json, '}');
	return json.data;
}

static void
write_history(TriggerData *trigger, const char *from, const char *to)
{
	static const DeadLetterChange by_hand = {.action = "by_hand"};
	const DeadLetterChange *change = current_change != NULL ? current_change : &by_hand;
	HeapTuple old = trigger->tg_trigtuple;
	HeapTuple new = trigger->tg_newtuple;
	bool begins = change->token != NULL;
	Datum values[9];
	char nulls[10] = "         ";

	set_int64(values, nulls, 0, tuple_id(trigger, new), false);
	set_text(values, nulls, 1, tuple_text(trigger, new, "tenant_id"));
	set_text(values, nulls, 2, change->action);
	set_text(values, nulls, 3, from);
	set_text(values, nulls, 4, to);
	set_text(values, nulls, 5, begins ? change->token : tuple_text(trigger, old, "retry_token"));
	set_text(values, nulls, 6, change->reason);
	set_text(values, nulls, 7, change->actor);
	set_text(values, nulls, 8, begins ? attempt_details(trigger, new) : failure_details(change));
	sn_execute(&insert_history, values, nulls);
}

/*
 * AFTER UPDATE FOR EACH ROW, where the status has changed: history, and the key of what is closed now goes on.
 */
Datum
sn_dead_letter_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = trigger_data(fcinfo);
	HeapTuple new = trigger->tg_newtuple;
	char *from = tuple_text(trigger, trigger->tg_trigtuple, "status");
	char *to = tuple_text(trigger, new, "status");
	DeadLetterState state = state_by_name(to);
	bool closed = state == DEAD_LETTER_SUCCEEDED || state == DEAD_LETTER_DISCARDED;

	SPI_connect();
	write_history(trigger, from, to);
	if (closed || (current_change == NULL && state == DEAD_LETTER_PENDING))
	{
		Datum values[5];
		char nulls[6] = "     ";

		set_int64(values, nulls, 0, tuple_id(trigger, new), false);
		set_text(values, nulls, 1, tuple_text(trigger, new, "tenant_id"));
		set_text(values, nulls, 2, tuple_text(trigger, new, "exception_id"));
		set_text(values, nulls, 3, tuple_text(trigger, new, "worker_type"));
		values[4] = BoolGetDatum(closed);
		sn_execute(&let_go, values, nulls);
	}
	SPI_finish();
	return PointerGetDatum(NULL);
}

/* dlq_transitions() returns setof (from_status, to_status, by_hand): the table above */
Datum
sn_dlq_transitions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < lengthof(dead_letter_transitions); i++)
	{
		const DeadLetterTransition *transition = &dead_letter_transitions[i];
		Datum values[3] = {CStringGetTextDatum(state_names[transition->from]),
						   CStringGetTextDatum(state_names[transition->to]), BoolGetDatum(transition->by_hand)};
		bool nulls[3] = {false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ---------- writing dead letters ---------- */

static SnStatement insert_dead_letter = {
	.sql =
		"WITH d AS (INSERT INTO sentinai.dead_letter_queue (tenant_id, event_id, event_type, exception_id, worker_type,"
		" step, error_type, error_message, error_detail, sqlstate, fingerprint, retry_count, original_topic,"
		" original_partition, original_offset, payload, event_metadata, event_timestamp, record_ts, record_key,"
		" record_headers, payload_raw)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, sentinai.dlq_fingerprint($7, $10, $8, $3, $5), $11, $12, $13, $14,"
		" $15, $16, $17, $18, $19, $20, $21) RETURNING id, tenant_id, status)"
		" INSERT INTO sentinai.dlq_history (dlq_id, tenant_id, action, to_status, details)"
		" SELECT d.id, d.tenant_id, 'dead_lettered', d.status, pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object("
		"'error_type', $7, 'sqlstate', $10, 'error_message', $8, 'retry_count', $11)) FROM d RETURNING dlq_id",
	.n_args = 21};

static void
insert_one(SnDeadLetter *letter)
{
	Datum values[21];
	char nulls[22] = "                     ";

	set_text(values, nulls, 0, letter->tenant_id);
	set_text(values, nulls, 1, letter->event_id);
	set_text(values, nulls, 2, letter->event_type);
	set_text(values, nulls, 3, letter->exception_id);
	set_text(values, nulls, 4, letter->worker_type);
	set_text(values, nulls, 5, letter->step);
	set_text(values, nulls, 6, letter->error_type);
	set_text(values, nulls, 7, letter->error_message != NULL ? letter->error_message : "");
	set_text(values, nulls, 8, letter->error_detail);
	set_text(values, nulls, 9, letter->sqlstate);
	set_int32(values, nulls, 10, letter->retry_count, false);
	set_text(values, nulls, 11, letter->topic);
	set_int32(values, nulls, 12, letter->partition, letter->partition < 0);
	set_int64(values, nulls, 13, letter->offset, letter->offset < 0);
	set_datum(values, nulls, 14, letter->payload);
	set_datum(values, nulls, 15, letter->metadata);
	set_time(values, nulls, 16, letter->event_timestamp);
	set_time(values, nulls, 17, letter->record_ts);
	set_datum(values, nulls, 18, letter->key);
	set_datum(values, nulls, 19, letter->headers);
	set_datum(values, nulls, 20, letter->value);
	sn_execute(&insert_dead_letter, values, nulls);
	letter->id = sn_result_int64(0, 1);
}

void
sn_dead_letter_insert(SnDeadLetter *rows, int n)
{
	static const Oid types[] = {TEXTOID,  TEXTOID,	TEXTOID,		TEXTOID,		TEXTOID,  TEXTOID,	  TEXTOID,
								TEXTOID,  TEXTOID,	TEXTOID,		INT4OID,		TEXTOID,  INT4OID,	  INT8OID,
								JSONBOID, JSONBOID, TIMESTAMPTZOID, TIMESTAMPTZOID, BYTEAOID, InvalidOid, BYTEAOID};

	StaticAssertStmt(lengthof(types) <= lengthof(insert_dead_letter.args), "too many arguments");
	memcpy(insert_dead_letter.args, types, sizeof(types));
	insert_dead_letter.args[19] = get_array_type(sn_type_oid("header"));
	for (int i = 0; i < n; i++)
		insert_one(&rows[i]);
}

/* ---------- retries ---------- */

/* A dead letter as a retry needs it. */
typedef struct RetryRow
{
	int64 id;
	DeadLetterState status;
	char *tenant_id;
	char *event_id;
	char *event_type;
	char *exception_id;
	char *worker_type;
	bool reassigned; /* its bytes name another tenant, so its retry stays in the database */
	char *topic;
	int partition; /* -1: by key */
	int64 offset;  /* -1: none */
	TimestampTz record_ts;
	Datum key;
	Datum headers;
	Datum value;
	int retry_count;
} RetryRow;

/*
 * Headers of an earlier attempt are left out, and so is the event type's where it was wrong. What else the record came with
 * is sent as it is.
 */
static SnStatement read_for_retry = {
	.sql = "SELECT d.status, d.tenant_id, d.event_id, d.event_type, d.exception_id, d.worker_type, d.reassigned,"
		   " d.original_topic, coalesce(d.original_partition, -1), coalesce(d.original_offset, -1),"
		   " d.record_ts, d.record_key, ARRAY(SELECT ROW(h.name, h.value)::sentinai.header"
		   "  FROM pg_catalog.unnest(d.record_headers) WITH ORDINALITY AS h(name, value, place)"
		   "  WHERE h.name NOT IN ('" SN_HEADER_DLQ_ID "', '" SN_HEADER_DLQ_TOKEN "')"
		   "  AND NOT (h.name = '" SN_HEADER_EVENT_TYPE "' AND EXISTS (SELECT FROM sentinai.dlq_history y"
		   "   WHERE y.dlq_id = d.id AND y.details->>'error_type' = 'header_mismatch')) ORDER BY h.place)"
		   " || ARRAY[ROW('" SN_HEADER_DLQ_ID "', pg_catalog.convert_to(d.id::text, 'UTF8'))::sentinai.header,"
		   "  ROW('" SN_HEADER_DLQ_TOKEN "', pg_catalog.convert_to($2, 'UTF8'))::sentinai.header],"
		   " d.payload_raw, d.retry_count FROM sentinai.dead_letter_queue d"
		   " WHERE d.id = $1 AND sentinai.tenant_visible(d.tenant_id) FOR UPDATE",
	.n_args = 2,
	.args = {INT8OID, TEXTOID}};

static SnStatement insert_pending = {
	.sql =
		"INSERT INTO sentinai.event_pending (tenant_id, event_id, worker_type, event_type, exception_id, status, topic,"
		" partition, next_attempt_at, origin_partition, origin_offset, record_ts, record_key, record_headers, record_value,"
		" dlq_id, claimed) SELECT d.tenant_id, coalesce(d.event_id, 'dlq-' || d.id), d.worker_type,"
		" coalesce(d.event_type, ''), d.exception_id, 'deferred', d.original_topic,"
		" coalesce(d.original_partition, 0), pg_catalog.now(), d.original_partition, d.original_offset, d.record_ts,"
		" d.record_key, d.record_headers, d.payload_raw, d.id, false FROM sentinai.dead_letter_queue d WHERE d.id = $1"
		" ON CONFLICT (tenant_id, event_id, worker_type) DO NOTHING",
	.n_args = 1,
	.args = {INT8OID}};

static char *
new_token(void)
{
	Datum uuid = DirectFunctionCall1(gen_random_uuid, (Datum) 0);

	return DatumGetCString(DirectFunctionCall1(uuid_out, uuid));
}

/* Reads and locks; false: there is no such row. */
static bool
read_retry_row(int64 id, const char *token, RetryRow *row)
{
	Datum values[2] = {Int64GetDatum(id), CStringGetTextDatum(token)};

	if (sn_execute(&read_for_retry, values, NULL) == 0)
		return false;
	row->id = id;
	row->status = state_by_name(sn_result_text(0, 1));
	row->tenant_id = sn_result_text(0, 2);
	row->event_id = sn_result_text(0, 3);
	row->event_type = sn_result_text(0, 4);
	row->exception_id = sn_result_text(0, 5);
	row->worker_type = sn_result_text(0, 6);
	row->reassigned = sn_result_bool(0, 7);
	row->topic = sn_result_text(0, 8);
	row->partition = sn_result_int32(0, 9);
	row->offset = sn_result_int64(0, 10);
	row->record_ts = sn_result_time(0, 11);
	row->key = result_copy(0, 12);
	row->headers = result_copy(0, 13);
	row->value = result_copy(0, 14);
	row->retry_count = sn_result_int32(0, 15);
	SPI_freetuptable(SPI_tuptable); /* a batch reads many, each with its record */
	return true;
}

/* The retry's work: in the database under the new tenant, or by the outbox to where the record came from. */
static bool
send_retry(const RetryRow *row, const char *token, Refusal *refusal)
{
	SnOutboxRow outbox = {.topic = row->topic,
						  .partition = row->partition,
						  .key = row->key,
						  .headers = row->headers,
						  .value = row->value,
						  .tenant_id = row->tenant_id,
						  .event_id = row->event_id,
						  .event_type = row->event_type,
						  .dlq_id = row->id,
						  .dlq_token = token};
	Datum id = Int64GetDatum(row->id);

	if (!row->reassigned)
	{
		sn_outbox_insert(&outbox, 1);
		return true;
	}
	if (row->value == (Datum) 0)
	{
		refusal->sqlerrcode = SN_ERRCODE("SN001");
		refusal->message = psprintf("dead letter " INT64_FORMAT " has no bytes that could be handled", row->id);
		refusal->detail = "Its record is a tombstone.";
		refusal->hint = hint_for(row->id, DEAD_LETTER_PENDING, DEAD_LETTER_DISCARDED);
		return false;
	}
	if (sn_execute(&insert_pending, &id, NULL) == 0)
	{
		refusal->sqlerrcode = SN_ERRCODE("SN012");
		refusal->message = psprintf("an event of dead letter " INT64_FORMAT "'s identity waits already", row->id);
		refusal->detail = psprintf("It is event \"%s\" of tenant \"%s\" for worker type \"%s\" in event_pending.",
								   row->event_id != NULL ? row->event_id : "", row->tenant_id, row->worker_type);
		refusal->hint = "Retry this one when that one has been handled.";
		return false;
	}
	return true;
}

/* Begins an attempt; false: *refusal says why not, and nothing has changed. SPI is connected. */
static bool
retry_one(int64 id, const char *reason, const char *actor, RetryRow *row, char **token, Refusal *refusal)
{
	DeadLetterChange change = {.action = "retry", .reason = reason, .actor = actor};

	memset(refusal, 0, sizeof(Refusal));
	*token = new_token();
	if (!read_retry_row(id, *token, row))
	{
		refuse_missing(id, refusal);
		return false;
	}
	if (!transition_allowed(id, row->status, DEAD_LETTER_RETRYING, false, refusal) || !send_retry(row, *token, refusal))
		return false;
	change.token = *token;
	SN_POINT("dead_letter.sent");
	dead_letter_set_state(id, DEAD_LETTER_RETRYING, &change);
	SN_POINT("dead_letter.retrying");
	return true;
}

static char *
reason_arg(FunctionCallInfo fcinfo)
{
	char *reason = sn_text_arg(fcinfo, 1);

	sn_reason_check(reason);
	return reason;
}

static int64
id_arg(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("id of the dead letter is NULL"),
						errhint("sentinai.dlq_list() lists them.")));
	return PG_GETARG_INT64(0);
}

/* A row of the function's result type. */
static Datum
result_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
	TupleDesc desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/* dlq_retry(id, reason, actor) returns (id, status, retry_token, retried_at, retry_count, via) */
Datum
sn_dlq_retry(PG_FUNCTION_ARGS)
{
	int64 id = id_arg(fcinfo);
	MemoryContext caller = CurrentMemoryContext;
	RetryRow row;
	Refusal refusal;
	char *token;
	int retry_count;
	bool reassigned;
	Datum values[6];
	bool nulls[6] = {false};

	SPI_connect();
	if (!retry_one(id, reason_arg(fcinfo), sn_text_arg(fcinfo, 2), &row, &token, &refusal))
		refuse(&refusal);
	token = MemoryContextStrdup(caller, token);
	retry_count = row.retry_count;
	reassigned = row.reassigned;
	SPI_finish();
	values[0] = Int64GetDatum(id);
	values[1] = CStringGetTextDatum(state_names[DEAD_LETTER_RETRYING]);
	values[2] = DirectFunctionCall1(uuid_in, CStringGetDatum(token));
	values[3] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	values[4] = Int32GetDatum(retry_count);
	values[5] = CStringGetTextDatum(reassigned ? "database" : "kafka");
	return result_row(fcinfo, values, nulls);
}

typedef struct BatchItem
{
	int64 id;
	int place; /* in the caller's array */
	bool isnull;
	bool ok;
	Refusal refusal;
} BatchItem;

static int
compare_ids(const void *a, const void *b)
{
	const BatchItem *left = a;
	const BatchItem *right = b;

	if (left->id != right->id)
		return left->id < right->id ? -1 : 1;
	return left->place - right->place;
}

static int
compare_places(const void *a, const void *b)
{
	return ((const BatchItem *) a)->place - ((const BatchItem *) b)->place;
}

static BatchItem *
batch_items(ArrayType *array, int *n)
{
	Datum *ids;
	bool *nulls;
	BatchItem *items;

	deconstruct_array(array, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &ids, &nulls, n);
	items = palloc0(Max(*n, 1) * sizeof(BatchItem));
	for (int i = 0; i < *n; i++)
	{
		items[i].isnull = nulls[i];
		items[i].id = nulls[i] ? PG_INT64_MAX : DatumGetInt64(ids[i]);
		items[i].place = i;
	}
	return items;
}

static void
put_batch_item(ReturnSetInfo *rsinfo, const BatchItem *item)
{
	Datum values[5] = {Int64GetDatum(item->id), BoolGetDatum(item->ok)};
	bool nulls[5] = {item->isnull, false, !item->ok, item->ok, item->ok};

	if (item->ok)
		values[2] = CStringGetTextDatum(state_names[DEAD_LETTER_RETRYING]);
	else
	{
		values[3] = CStringGetTextDatum(unpack_sql_state(item->refusal.sqlerrcode));
		values[4] = CStringGetTextDatum(item->refusal.message);
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * dlq_retry_batch(ids, reason, actor) returns setof (id, ok, status, sqlstate, error): rows are locked in the order of
 * their ids, results come in the caller's.
 */
Datum
sn_dlq_retry_batch(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext caller = CurrentMemoryContext;
	char *reason = reason_arg(fcinfo);
	char *actor = sn_text_arg(fcinfo, 2);
	BatchItem *items;
	int n;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	items = batch_items(PG_GETARG_ARRAYTYPE_P(0), &n);
	qsort(items, n, sizeof(BatchItem), compare_ids);
	SPI_connect();
	for (int i = 0; i < n; i++)
	{
		MemoryContext one = AllocSetContextCreate(CurrentMemoryContext, "sentinai retry", ALLOCSET_DEFAULT_SIZES);
		MemoryContext old = MemoryContextSwitchTo(one);
		RetryRow row;
		char *token;

		CHECK_FOR_INTERRUPTS();
		items[i].ok = !items[i].isnull && retry_one(items[i].id, reason, actor, &row, &token, &items[i].refusal);
		if (items[i].isnull)
			items[i].refusal = (Refusal){.sqlerrcode = SN_ERRCODE("SN001"), .message = "id of the dead letter is NULL"};
		if (!items[i].ok)
			items[i].refusal.message = MemoryContextStrdup(caller, items[i].refusal.message);
		MemoryContextSwitchTo(old);
		MemoryContextDelete(one);
	}
	SPI_finish();
	qsort(items, n, sizeof(BatchItem), compare_places);
	for (int i = 0; i < n; i++)
		put_batch_item(rsinfo, &items[i]);
	return (Datum) 0;
}

/* ---------- discarding, and what was lost ---------- */

static SnStatement lock_dead_letter = {
	.sql = "SELECT d.status FROM sentinai.dead_letter_queue d"
		   " WHERE d.id = $1 AND (NOT $2 OR sentinai.tenant_visible(d.tenant_id)) FOR UPDATE",
	.n_args = 2,
	.args = {INT8OID, BOOLOID}};

/*
 * Locks a dead letter that may become *to*, or refuses. One of another tenant than the caller's is not there, where it is the
 * caller who decides and not the machinery.
 */
static void
lock_for(int64 id, DeadLetterState to, bool by_caller)
{
	Datum values[2] = {Int64GetDatum(id), BoolGetDatum(by_caller)};
	Refusal refusal = {0};

	if (sn_execute(&lock_dead_letter, values, NULL) == 0)
		refuse_missing(id, &refusal);
	else
		transition_allowed(id, state_by_name(sn_result_text(0, 1)), to, false, &refusal);
	if (refusal.sqlerrcode != 0)
		refuse(&refusal);
}

/* dlq_discard(id, reason, actor) returns (id, status, discarded_at, discarded_by) */
Datum
sn_dlq_discard(PG_FUNCTION_ARGS)
{
	int64 id = id_arg(fcinfo);
	char *reason = reason_arg(fcinfo);
	char *actor = sn_text_arg(fcinfo, 2);
	DeadLetterChange change = {.action = "discard", .reason = reason, .actor = actor};
	Datum values[4];
	bool nulls[4] = {false};

	if (reason == NULL || strspn(reason, " \t\n") == strlen(reason))
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("a dead letter is not discarded without a reason"),
						errhint("SELECT sentinai.dlq_discard(" INT64_FORMAT ", 'why', 'who')", id)));
	if (actor == NULL)
		change.actor = actor = sn_caller_identity();
	SPI_connect();
	lock_for(id, DEAD_LETTER_DISCARDED, true);
	dead_letter_set_state(id, DEAD_LETTER_DISCARDED, &change);
	SPI_finish();
	values[0] = Int64GetDatum(id);
	values[1] = CStringGetTextDatum(state_names[DEAD_LETTER_DISCARDED]);
	values[2] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	values[3] = CStringGetTextDatum(actor);
	return result_row(fcinfo, values, nulls);
}

/* dlq_retry_lost(id, message): the attempt under way will never end; called by dlq_lost_check(), which knows */
Datum
sn_dlq_retry_lost(PG_FUNCTION_ARGS)
{
	int64 id = PG_GETARG_INT64(0);
	DeadLetterChange change = {
		.action = "retry_lost", .error_type = "retry_lost", .error_message = text_to_cstring(PG_GETARG_TEXT_PP(1))};

	SPI_connect();
	lock_for(id, DEAD_LETTER_PENDING, false);
	dead_letter_set_state(id, DEAD_LETTER_PENDING, &change);
	SN_POINT("dead_letter.lost");
	SPI_finish();
	PG_RETURN_VOID();
}

/* dlq_retry_refused(id, message): the record of the attempt under way can't be published; called by outbox_refuse() */
Datum
sn_dlq_retry_refused(PG_FUNCTION_ARGS)
{
	int64 id = PG_GETARG_INT64(0);
	DeadLetterChange change = {.action = "replay_failed",
							   .error_type = "publish_refused",
							   .error_message = text_to_cstring(PG_GETARG_TEXT_PP(1)),
							   .more_retries = 1};

	SPI_connect();
	lock_for(id, DEAD_LETTER_PENDING, false);
	dead_letter_set_state(id, DEAD_LETTER_PENDING, &change);
	SPI_finish();
	PG_RETURN_VOID();
}

/* ---------- what consume() does with the record of a retry ---------- */

static SnStatement lock_replayed = {
	.sql =
		"SELECT d.id, d.retry_token::text, d.tenant_id, d.event_id, d.worker_type, d.step, d.event_timestamp, d.retry_count,"
		" d.reassigned, d.payload_raw FROM sentinai.dead_letter_queue d WHERE d.id = ANY ($1) ORDER BY d.id FOR UPDATE",
	.n_args = 1,
	.args = {INT8ARRAYOID}};

static SnStatement read_attempts = {
	.sql = "SELECT h.dlq_id, h.token::text, h.details->>'worker_type', h.details->>'step', h.tenant_id"
		   " FROM sentinai.dlq_history h WHERE h.dlq_id = ANY ($1) AND h.action = 'retry'",
	.n_args = 1,
	.args = {INT8ARRAYOID}};

static SnStatement read_token = {.sql = "SELECT d.retry_token::text FROM sentinai.dead_letter_queue d WHERE d.id = $1",
								 .n_args = 1,
								 .args = {INT8OID}};

/* Who can read a token off the topic can't close the dead letter with bytes of his own. */
static bool
same_bytes(const SnReplay *replay, int row)
{
	bool isnull;
	Datum value = sn_result_datum(row, 10, &isnull);
	bytea *bytes;

	if (!replay->from_topic)
		return true;
	if (isnull || replay->value == NULL)
		return isnull && replay->value == NULL;
	bytes = DatumGetByteaPP(value);
	return VARSIZE_ANY_EXHDR(bytes) == replay->value_len &&
		   memcmp(VARDATA_ANY(bytes), replay->value, replay->value_len) == 0;
}

/* What the dead letter's row says about a replay: its identity, and whether it is the one under way. */
static void
note_row(SnReplay *replay, int row)
{
	char *token = sn_result_text(row, 2);

	if (sn_result_int64(row, 1) != replay->dlq_id)
		return;
	replay->tenant_id = sn_result_text(row, 3);
	replay->event_id = sn_result_text(row, 4);
	replay->worker_type = sn_result_text(row, 5);
	replay->step = sn_result_text(row, 6);
	replay->event_timestamp = sn_result_time(row, 7);
	replay->retry_count = sn_result_int32(row, 8);
	replay->reassigned = sn_result_bool(row, 9);
	replay->foreign = !same_bytes(replay, row);
	if (replay->foreign)
		return;
	if (token == NULL || (replay->token != NULL && pg_strcasecmp(token, replay->token) != 0))
		return;
	replay->state = SN_REPLAY_CURRENT;
	replay->token = token;
}

/* An attempt that history knows and that is not under way was used up, or its dead letter is gone. */
static void
note_attempt(SnReplay *replay, int row)
{
	if (sn_result_int64(row, 1) != replay->dlq_id || replay->token == NULL || replay->state != SN_REPLAY_UNKNOWN ||
		replay->foreign || pg_strcasecmp(sn_result_text(row, 2), replay->token) != 0)
		return;
	replay->state = SN_REPLAY_USED;
	if (replay->worker_type == NULL)
	{
		replay->worker_type = sn_result_text(row, 3);
		replay->step = sn_result_text(row, 4);
		replay->tenant_id = sn_result_text(row, 5);
	}
	if (replay->worker_type == NULL || replay->step == NULL)
	{
		/* Somebody else's row of history: nobody's replay. */
		replay->worker_type = pstrdup("");
		replay->step = pstrdup("handle");
	}
}

void
sn_dead_letter_lookup(SnReplay *replays, int n)
{
	SnColumn ids;
	Datum array;
	uint64 rows;

	sn_column_init(&ids, INT8OID, n);
	for (int i = 0; i < n; i++)
	{
		sn_column_add(&ids, Int64GetDatum(replays[i].dlq_id), false);
		replays[i].state = SN_REPLAY_UNKNOWN;
	}
	array = sn_column_array(&ids);
	rows = sn_execute(&lock_replayed, &array, NULL);
	for (int row = 0; row < rows; row++)
		for (int i = 0; i < n; i++)
			note_row(&replays[i], row);
	/* A dead letter that is gone still has its history. */
	rows = sn_execute(&read_attempts, &array, NULL);
	for (int row = 0; row < rows; row++)
		for (int i = 0; i < n; i++)
			note_attempt(&replays[i], row);
}

void
sn_dead_letter_replayed(int64 dlq_id, const char *token, bool ok, const char *error_type, const char *error_message,
						const char *error_detail, const char *sqlstate)
{
	DeadLetterChange change = {.action = ok ? "replay_succeeded" : "replay_failed"};
	Datum id = Int64GetDatum(dlq_id);
	char *current;

	/* The caller holds the row's lock, so it can be gone only by its own doing. */
	if (sn_execute(&read_token, &id, NULL) == 0)
		return;
	/* An earlier copy of the record in the same batch has used the token up. */
	current = sn_result_text(0, 1);
	if (current == NULL || (token != NULL && pg_strcasecmp(current, token) != 0))
		return;
	if (!ok)
	{
		change.error_type = error_type != NULL ? error_type : "unknown";
		change.error_message = error_message;
		change.error_detail = error_detail;
		change.sqlstate = sqlstate;
		change.more_retries = 1;
	}
	dead_letter_set_state(dlq_id, ok ? DEAD_LETTER_SUCCEEDED : DEAD_LETTER_PENDING, &change);
	SN_POINT("dead_letter.replayed");
}
