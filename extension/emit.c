/*
 * emit.c
 *	  What a handler may call: emit() and fail(). Both work on the slice that is being handled and write nothing.
 *
 * Emitted events are a list of the batch until settle.c writes them; what was emitted in a subtransaction that is rolled
 * back (a slice, or a block with an exception handler inside of one) leaves the list again. Their ids are derived from the
 * parent's, so a batch that runs again emits the same ids. Publishing is outbox.c's and the worker's.
 */
#include "postgres.h"

#include "access/xact.h"
#include "consume.h"
#include "emit.h"
#include "funcapi.h"
#include "guc.h"
#include "sentinai.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/datum.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(sn_emit);
PG_FUNCTION_INFO_V1(sn_fail);

#define DEFAULT_TOPIC "exceptions"
#define TOPIC_MAX 249 /* Kafka's own limit */

/* The columns of sentinai.event that name an event. */
#define EVENT_EVENT_ID 1
#define EVENT_TENANT_ID 3

/* The slice that is being handled; NULL outside of handlers. */
static SnBatch *current_batch = NULL;

/* Empty between two emits, but for what an error has left. */
static MemoryContext scratch = NULL;

/*
 * Begins a run of a slice: what an earlier run said of its events counts no longer.
 */
void
sn_emit_begin(SnBatch *batch, SnWork **works, int n)
{
	current_batch = batch;
	for (int i = 0; i < n; i++)
	{
		works[i]->given = false;
		if (works[i]->outcome == SN_TODO)
			works[i]->failure.error_type = NULL;
	}
}

/*
 * Which events the handler that runs next is given, or that it has ended: nobody else's may be failed or emitted for.
 */
void
sn_emit_give(SnWork **works, int n, bool given)
{
	for (int i = 0; i < n; i++)
		works[i]->given = given;
}

bool
sn_in_handler(void)
{
	return current_batch != NULL;
}

bool
sn_emit_any_failed(SnWork **works, int n)
{
	for (int i = 0; i < n; i++)
		if (works[i]->outcome == SN_TODO && works[i]->failure.error_type != NULL)
			return true;
	return false;
}

void
sn_emit_end(void)
{
	current_batch = NULL;
}

static void
forget_emits_of(SubTransactionId subid)
{
	ListCell *cell;

	foreach (cell, current_batch->emits)
	{
		SnEmit *emit = lfirst(cell);

		if (emit->subid != subid)
			continue;
		emit->parent->n_emitted--;
		current_batch->emits = foreach_delete_current (current_batch->emits, cell);
	}
}

static void
on_subtransaction(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	ListCell *cell;

	if (current_batch == NULL)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		forget_emits_of(subid);
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		foreach (cell, current_batch->emits)
		{
			SnEmit *emit = lfirst(cell);

			if (emit->subid == subid)
				emit->subid = parent;
		}
}

static void
on_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT)
		current_batch = NULL;
}

void
sn_emit_init(void)
{
	RegisterSubXactCallback(on_subtransaction, NULL);
	RegisterXactCallback(on_transaction, NULL);
}

/* The piece of work that an argument of type sentinai.event names. */
static SnWork *
work_of_argument(FunctionCallInfo fcinfo, const char *function)
{
	HeapTupleHeader event;
	bool event_null;
	bool tenant_null;
	Datum event_id;
	Datum tenant_id;
	SnWork *work;

	if (current_batch == NULL)
		ereport(
			ERROR,
			(errcode(SN_ERRCODE("SN008")), errmsg("%s() was called outside of a handler", function),
			 errhint(
				 "Call it in a function that handler_add() registered, for an event that the function was given.")));
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("the event of %s() is NULL", function)));
	event = PG_GETARG_HEAPTUPLEHEADER(0);
	event_id = GetAttributeByNum(event, EVENT_EVENT_ID, &event_null);
	tenant_id = GetAttributeByNum(event, EVENT_TENANT_ID, &tenant_null);
	work = event_null || tenant_null
			   ? NULL
			   : sn_work_by_identity(current_batch, TextDatumGetCString(tenant_id), TextDatumGetCString(event_id));
	if (work == NULL || !work->given)
		ereport(ERROR,
				(errcode(SN_ERRCODE("SN008")), errmsg("the event of %s() is not one that is being handled", function),
				 errhint("Pass the event that the handler was given.")));
	return work;
}

static void
append_field(StringInfo buf, const char *name, const char *value)
{
	appendStringInfoString(buf, name);
	if (value == NULL)
		appendStringInfoString(buf, "null");
	else
		escape_json(buf, value);
}

static void
append_jsonb(StringInfo buf, const char *name, Datum value)
{
	Jsonb *jsonb = DatumGetJsonbP(value);

	appendStringInfoString(buf, name);
	JsonbToCString(buf, &jsonb->root, VARSIZE(jsonb));
}

/* The envelope of an emitted event, as it goes to Kafka. */
static void
make_envelope(StringInfo buf, SnBatch *batch, const SnEmit *emit)
{
	char time[MAXDATELEN + 1];

	initStringInfo(buf);
	append_field(buf, "{\"event_id\":", emit->event_id);
	append_field(buf, ",\"event_type\":", emit->event_type);
	append_field(buf, ",\"tenant_id\":", emit->parent->event.tenant_id);
	append_field(buf, ",\"exception_id\":", emit->exception_id);
	JsonEncodeDateTime(time, TimestampTzGetDatum(batch->now), TIMESTAMPTZOID, NULL);
	append_field(buf, ",\"timestamp\":", time);
	append_field(buf, ",\"correlation_id\":", emit->correlation_id);
	appendStringInfoString(buf, ",\"version\":1");
	append_jsonb(buf, ",\"payload\":", emit->payload);
	append_jsonb(buf, ",\"metadata\":", emit->metadata);
	appendStringInfoChar(buf, '}');
	if (buf->len > sn_max_event_bytes)
		ereport(ERROR,
				(errcode(SN_ERRCODE("SN006")), errmsg("emitted event is too large"),
				 errdetail("It has %d bytes; sentinai.max_event_bytes allows %d.", buf->len, sn_max_event_bytes)));
}

static void
push_text(JsonbParseState **state, JsonbIteratorToken token, const char *text)
{
	JsonbValue value = {.type = jbvString};

	value.val.string.val = (char *) text;
	value.val.string.len = strlen(text);
	pushJsonbValue(state, token, &value);
}

/* Where an emitted event comes from. */
static Jsonb *
make_metadata(SnBatch *batch, SnWork *parent)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_text(&state, WJB_KEY, "parent_event_id");
	push_text(&state, WJB_VALUE, parent->event.event_id);
	push_text(&state, WJB_KEY, "emitted_by");
	push_text(&state, WJB_VALUE, batch->worker_type->name);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* Made in a context of its own: the batch's gets the results, and not what they were made of. */
static void
make_bytes(SnBatch *batch, SnEmit *emit)
{
	StringInfoData buf;

	if (scratch == NULL)
		scratch = AllocSetContextCreate(TopMemoryContext, "sentinai emit", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(scratch);
	emit->metadata = JsonbPGetDatum(make_metadata(batch, emit->parent));
	make_envelope(&buf, batch, emit);
	MemoryContextSwitchTo(batch->context);
	emit->metadata = datumCopy(emit->metadata, false, -1);
	emit->value = PointerGetDatum(cstring_to_text_with_len(buf.data, buf.len));
	MemoryContextReset(scratch);
}

/*
 * Adds an emitted event to the batch, under that id. exception_id NULL: the parent's.
 */
void
sn_emit_add_as(SnBatch *batch, SnWork *parent, const char *event_id, const char *event_type, Datum payload,
			   const char *exception_id, const char *topic)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	SnEvent *event = &parent->event;
	SnEmit *emit = palloc0(sizeof(SnEmit));

	emit->subid = GetCurrentSubTransactionId();
	emit->parent = parent;
	emit->event_id = pstrdup(event_id);
	emit->event_type = pstrdup(event_type);
	emit->exception_id = exception_id != NULL ? pstrdup(exception_id) : event->exception_id;
	emit->correlation_id = event->correlation_id != NULL ? event->correlation_id : emit->exception_id;
	emit->topic = pstrdup(topic == NULL ? DEFAULT_TOPIC : topic);
	emit->payload = PointerGetDatum(PG_DETOAST_DATUM_COPY(payload));
	make_bytes(batch, emit);
	parent->n_emitted++;
	batch->emits = lappend(batch->emits, emit);
	MemoryContextSwitchTo(old);
}

/*
 * The same, where id_scope and ordinal make its id together with the parent's identity; the same ones make the same id
 * again.
 */
void
sn_emit_add(SnBatch *batch, SnWork *parent, const char *event_type, Datum payload, const char *exception_id,
			const char *topic, const char *id_scope, int ordinal)
{
	SnEvent *event = &parent->event;

	sn_emit_add_as(batch, parent,
				   sn_event_id_derived(event->tenant_id, event->event_id, event->timestamp, id_scope, ordinal),
				   event_type, payload, exception_id, topic);
}

static void
check_topic(const char *topic)
{
	size_t len = strlen(topic);

	if (len == 0 || len > TOPIC_MAX ||
		strspn(topic, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != len)
		ereport(ERROR,
				(errcode(SN_ERRCODE("SN001")), errmsg("topic name is not valid"),
				 errdetail("Kafka allows letters, digits, dot, underscore and dash, at most %d of them.", TOPIC_MAX)));
}

/*
 * emit(parent, event_type, payload, exception_id, topic): returns the derived id.
 */
Datum
sn_emit(PG_FUNCTION_ARGS)
{
	SnWork *parent = work_of_argument(fcinfo, "emit");
	char *event_type = sn_text_arg(fcinfo, 1);
	char *exception_id = sn_text_arg(fcinfo, 3);
	char *topic = sn_text_arg(fcinfo, 4);
	SnBatch *batch = current_batch;

	if (event_type == NULL || sn_event_type_get(batch->worker_type, event_type) == NULL)
		ereport(ERROR, (errcode(SN_ERRCODE("SN005")), errmsg("event type is not known"),
						errdetail("emit() was given \"%s\".", event_type == NULL ? "NULL" : event_type),
						errhint("event_type_add() makes one.")));
	if (PG_ARGISNULL(2) || !JB_ROOT_IS_OBJECT(PG_GETARG_JSONB_P(2)))
		ereport(ERROR, (errcode(SN_ERRCODE("SN006")), errmsg("payload of an emitted event is not a JSON object")));
	if (exception_id != NULL && (exception_id[0] == '\0' || strlen(exception_id) > SN_EVENT_TEXT_MAX))
		ereport(ERROR, (errcode(SN_ERRCODE("SN006")), errmsg("exception_id of an emitted event is not valid"),
						errdetail("It has 1 to %d bytes.", SN_EVENT_TEXT_MAX)));
	if (topic != NULL)
		check_topic(topic);
	sn_emit_add(batch, parent, event_type, PG_GETARG_DATUM(2), exception_id, topic, batch->worker_type->name,
				parent->n_emitted);
	PG_RETURN_TEXT_P(cstring_to_text(((SnEmit *) llast(batch->emits))->event_id));
}

/*
 * fail(event, error_type, message): this event has failed, the others of a set-based call have not.
 */
Datum
sn_fail(PG_FUNCTION_ARGS)
{
	SnWork *work = work_of_argument(fcinfo, "fail");
	char *error_type = sn_text_arg(fcinfo, 1);
	char *message = sn_text_arg(fcinfo, 2);
	MemoryContext old;

	if (error_type == NULL || error_type[0] == '\0' || strlen(error_type) > 63)
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("error_type of fail() is not valid"),
						errdetail("It has 1 to 63 bytes, such as validation_error.")));
	old = MemoryContextSwitchTo(current_batch->context);
	work->failure = (SnFailure){.step = "handle",
								.error_type = pstrdup(error_type),
								.message = message == NULL ? pstrdup(error_type) : pstrdup(message),
								.error_class = sn_error_type_class(error_type)};
	strlcpy(work->failure.sqlstate, work->failure.error_class == SN_CLASS_PERMANENT ? "SN006" : "P0001",
			sizeof(work->failure.sqlstate));
	MemoryContextSwitchTo(old);
	PG_RETURN_VOID();
}
