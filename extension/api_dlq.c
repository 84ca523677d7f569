/*
 * api_dlq.c
 *	  Dead letters over HTTP: a page of them, one, and its retry.
 *
 * A list is read by a statement of the filters that are there and of no others, so that each of these shapes has a plan of
 * its own that goes by an index, and its rows become JSON on their way out of the executor. Rows are read as the caller, by
 * row security and the rights of its role. Their payloads are no role's but the admin's: who is a member of
 * sentinai_payload gets those of a page from dlq_payloads(), which masks them; the others are told null, and nothing is read.
 *
 * A retry is dlq_retry()'s, called past the executor; what the caller may retry is first read as the caller.
 *
 * nginx names no arguments when it calls the GETs: they read them out of X-Sentinai-Args, as a POST does. PostgREST would put
 * them into JSON, and its statement take them out again, which costs more than to read a dead letter.
 *
 * What is not here: the same for SQL (dlq_list() and dlq_get() in sql/40_dead_letter.sql).
 */
#include "sentinai.h"

#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "pgtime.h"
#include "tcop/dest.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "api.h"
#include "caller.h"
#include "dead_letter.h"
#include "json_text.h"
#include "spi.h"

PG_FUNCTION_INFO_V1(sn_api_dlq_list);
PG_FUNCTION_INFO_V1(sn_api_dlq_get);
PG_FUNCTION_INFO_V1(sn_api_dlq_retry);

/* How many are counted for the total of a list, unless it is to be exact. */
#define COUNT_MAX 10000

/* ---- a dead letter as JSON ---- */

/* A field of dlq_entry. Where the payload stands its two columns are one place, which is filled in at the end. */
typedef struct Field
{
	char *name; /* ,"event_id": */
	int name_len;
	Oid type;
} Field;

static Field *fields = NULL; /* those that are read from the table, in the order of dlq_entry; lives with the backend */
static int n_fields;
static char *field_list; /* d.id, d.event_id, ... */
static int payload_place;
static int id_field;
static int created_at_field;

static bool
is_payload(const char *name)
{
	return strcmp(name, "payload") == 0 || strcmp(name, "event_metadata") == 0;
}

static void
field_add(Field *field, StringInfo list, const char *name, Oid type)
{
	if (strcmp(name, "id") == 0)
		id_field = n_fields;
	if (strcmp(name, "created_at") == 0)
		created_at_field = n_fields;
	field->name = psprintf("%c\"%s\":", n_fields == 0 ? '{' : ',', name);
	field->name_len = strlen(field->name);
	field->type = type;
	appendStringInfo(list, "%sd.%s", n_fields == 0 ? "" : ", ", name);
	n_fields++;
}

/* The fields are those of the type dlq_entry; once a backend. */
static void
fields_know(void)
{
	TupleDesc desc;
	MemoryContext old;
	Field *found;
	StringInfoData list;

	if (fields != NULL)
		return;
	desc = lookup_rowtype_tupdesc(sn_type_oid("dlq_entry"), -1);
	old = MemoryContextSwitchTo(TopMemoryContext);
	found = palloc(desc->natts * sizeof(Field));
	initStringInfo(&list);
	n_fields = 0;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (is_payload(NameStr(attribute->attname)))
			payload_place = n_fields;
		else
			field_add(&found[n_fields], &list, NameStr(attribute->attname), attribute->atttypid);
	}
	field_list = list.data;
	fields = found;
	MemoryContextSwitchTo(old);
	ReleaseTupleDesc(desc);
}

/* Dead letters on their way from the executor into JSON, one after the other. */
typedef struct Entries
{
	DestReceiver pub;
	StringInfo out;
	bool payloads; /* the caller may see them: out lacks them until entries_finish(), at these places */
	Datum *ids;
	int *places;
	int max;
	int n;
	int64 id; /* of the last */
	TimestampTz created_at;
	bool utc; /* the session's time zone */
	SnJsonDay day;
} Entries;

static void
append_value(Entries *entries, Oid type, Datum value)
{
	StringInfo out = entries->out;
	char buffer[MAXDATELEN + 1];
	struct varlena *packed;

	switch (type)
	{
		case INT4OID:
			appendBinaryStringInfo(out, buffer, pg_ltoa(DatumGetInt32(value), buffer));
			break;
		case INT8OID:
			appendBinaryStringInfo(out, buffer, pg_lltoa(DatumGetInt64(value), buffer));
			break;
		case TEXTOID:
			packed = PG_DETOAST_DATUM_PACKED(value);
			sn_json_append(out, VARDATA_ANY(packed), VARSIZE_ANY_EXHDR(packed));
			break;
		case TIMESTAMPTZOID:
			if (!entries->utc || !sn_json_time(&entries->day, buffer, DatumGetTimestampTz(value), true))
				JsonEncodeDateTime(buffer, value, TIMESTAMPTZOID, NULL);
			appendStringInfo(out, "\"%s\"", buffer);
			break;
		default:
			elog(ERROR, "type %u is none of a dead letter's", type);
	}
}

/* The place of the payload: nothing is there for who may not see it. */
static void
put_payload_place(Entries *entries, Datum id)
{
	static const char none[] = ",\"payload\":null,\"event_metadata\":null";

	if (!entries->payloads)
	{
		appendBinaryStringInfo(entries->out, none, sizeof(none) - 1);
		return;
	}
	if (entries->n == entries->max)
		elog(ERROR, "more than %d dead letters", entries->max);
	entries->ids[entries->n] = id;
	entries->places[entries->n] = entries->out->len;
}

static bool
entries_receive(TupleTableSlot *slot, DestReceiver *self)
{
	Entries *entries = (Entries *) self;
	StringInfo out = entries->out;

	slot_getallattrs(slot);
	if (entries->n > 0)
		appendBinaryStringInfo(out, ",\n", 2);
	for (int i = 0; i < n_fields; i++)
	{
		if (i == payload_place)
			put_payload_place(entries, slot->tts_values[id_field]);
		appendBinaryStringInfo(out, fields[i].name, fields[i].name_len);
		if (slot->tts_isnull[i])
			appendBinaryStringInfo(out, "null", 4);
		else
			append_value(entries, fields[i].type, slot->tts_values[i]);
	}
	appendStringInfoCharMacro(out, '}');
	entries->id = DatumGetInt64(slot->tts_values[id_field]);
	entries->created_at = DatumGetTimestampTz(slot->tts_values[created_at_field]);
	entries->n++;
	return true;
}

static void
receiver_startup(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
receiver_end(DestReceiver *self)
{
}

static const DestReceiver receiver = {.rStartup = receiver_startup,
									  .rShutdown = receiver_end,
									  .rDestroy = receiver_end};

static bool
may_see_payloads(void)
{
	Oid role = get_role_oid("sentinai_payload", true);

	return OidIsValid(role) && has_privs_of_role(sn_caller_role(), role);
}

static bool
is_utc(void)
{
	const char *name = pg_get_timezone_name(session_timezone);

	return strcmp(name, "UTC") == 0 || strcmp(name, "Etc/UTC") == 0 || strcmp(name, "GMT") == 0;
}

/* At most max dead letters will come. */
static void
entries_begin(Entries *entries, StringInfo out, int max)
{
	memset(entries, 0, sizeof(Entries));
	entries->pub = receiver;
	entries->pub.receiveSlot = entries_receive;
	entries->out = out;
	entries->utc = is_utc();
	entries->payloads = may_see_payloads();
	if (!entries->payloads)
		return;
	entries->max = max;
	entries->ids = palloc(max * sizeof(Datum));
	entries->places = palloc(max * sizeof(int));
}

/* ---- their payloads ---- */

/* One row a dead letter, in their order: where there is none for the caller, of NULLs. */
static SnStatement read_payloads = {
	.sql = "SELECT p.payload, p.event_metadata FROM pg_catalog.unnest($1) WITH ORDINALITY AS i (id, place)"
		   " LEFT JOIN sentinai.dlq_payloads($1) p ON p.id OPERATOR(pg_catalog.=) i.id ORDER BY i.place",
	.n_args = 1,
	.args = {INT8ARRAYOID}};

typedef struct Payloads
{
	DestReceiver pub;
	const Entries *entries;
	StringInfoData out; /* the entries, as far as copied says, with their payloads */
	int copied;
	int n;
} Payloads;

static void
payloads_copy(Payloads *payloads, int end)
{
	appendBinaryStringInfo(&payloads->out, payloads->entries->out->data + payloads->copied, end - payloads->copied);
	payloads->copied = end;
}

static void
put_jsonb(StringInfo out, const char *name, Datum value, bool isnull)
{
	Jsonb *jsonb;

	appendStringInfo(out, ",\"%s\":", name);
	if (isnull)
	{
		appendBinaryStringInfo(out, "null", 4);
		return;
	}
	jsonb = DatumGetJsonbP(value);
	JsonbToCString(out, &jsonb->root, VARSIZE(jsonb));
}

static bool
payloads_receive(TupleTableSlot *slot, DestReceiver *self)
{
	Payloads *payloads = (Payloads *) self;

	slot_getallattrs(slot);
	payloads_copy(payloads, payloads->entries->places[payloads->n++]);
	put_jsonb(&payloads->out, "payload", slot->tts_values[0], slot->tts_isnull[0]);
	put_jsonb(&payloads->out, "event_metadata", slot->tts_values[1], slot->tts_isnull[1]);
	return true;
}

/* All have come: now their payloads, where the caller may see any. SPI is connected. */
static void
entries_finish(Entries *entries)
{
	Payloads payloads = {.pub = receiver, .entries = entries};
	Datum ids;

	if (!entries->payloads || entries->n == 0)
		return;
	payloads.pub.receiveSlot = payloads_receive;
	initStringInfo(&payloads.out);
	ids = PointerGetDatum(
		construct_array(entries->ids, entries->n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	sn_query(&read_payloads, &ids, NULL, &payloads.pub);
	payloads_copy(&payloads, entries->out->len);
	resetStringInfo(entries->out);
	appendBinaryStringInfo(entries->out, payloads.out.data, payloads.out.len);
}

/* ---- the statements of a list ---- */

/* The arguments of all of its statements. The first ones are filters, whose columns these are. */
static const char *const filters[] = {"tenant_id", "status", "event_type", "worker_type", "error_type", "fingerprint"};

enum
{
	ARG_TENANT,
	ARG_STATUS,
	N_FILTERS = lengthof(filters),
	ARG_AFTER_AT = N_FILTERS,
	ARG_AFTER_ID,
	ARG_LIMIT,
	ARG_OFFSET,
	N_ARGS
};

/* A shape says which filters there are, and how a page goes. */
#define SHAPE_FILTERS ((1 << N_FILTERS) - 1)
#define SHAPE_AFTER (1 << N_FILTERS)
#define SHAPE_ASC (1 << (N_FILTERS + 1))

static SnStatement page_statements[1 << (N_FILTERS + 2)];
static SnStatement count_statements[1 << N_FILTERS];

static void
append_conditions(StringInfo sql, int shape)
{
	const char *word = " WHERE";

	for (int i = 0; i < N_FILTERS; i++)
	{
		if (!(shape & 1 << i))
			continue;
		appendStringInfo(sql, "%s d.%s OPERATOR(pg_catalog.=) $%d", word, filters[i], i + 1);
		word = " AND";
	}
	if (shape & SHAPE_AFTER)
		appendStringInfo(sql, "%s (d.created_at, d.id) OPERATOR(pg_catalog.%s) ($%d, $%d)", word,
						 shape & SHAPE_ASC ? ">" : "<", ARG_AFTER_AT + 1, ARG_AFTER_ID + 1);
}

static void
statement_set(SnStatement *statement, const char *sql)
{
	for (int i = 0; i < N_FILTERS; i++)
		statement->args[i] = TEXTOID;
	statement->args[ARG_AFTER_AT] = TIMESTAMPTZOID;
	statement->args[ARG_AFTER_ID] = statement->args[ARG_LIMIT] = statement->args[ARG_OFFSET] = INT8OID;
	statement->n_args = N_ARGS;
	statement->sql = MemoryContextStrdup(TopMemoryContext, sql);
}

static SnStatement *
page_statement(int shape)
{
	SnStatement *statement = &page_statements[shape];
	const char *direction = shape & SHAPE_ASC ? "" : " DESC";
	StringInfoData sql;

	if (statement->sql != NULL)
		return statement;
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s FROM sentinai.dead_letter_queue d", field_list);
	append_conditions(&sql, shape);
	appendStringInfo(&sql, " ORDER BY d.created_at%s, d.id%s LIMIT $%d OFFSET $%d", direction, direction, ARG_LIMIT + 1,
					 ARG_OFFSET + 1);
	statement_set(statement, sql.data);
	return statement;
}

/* Counts no further than $LIMIT; NULL: all. */
static SnStatement *
count_statement(int shape)
{
	SnStatement *statement = &count_statements[shape & SHAPE_FILTERS];
	StringInfoData sql;

	if (statement->sql != NULL)
		return statement;
	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT pg_catalog.count(*) FROM (SELECT FROM sentinai.dead_letter_queue d");
	append_conditions(&sql, shape & SHAPE_FILTERS);
	appendStringInfo(&sql, " LIMIT $%d) d", ARG_LIMIT + 1);
	statement_set(statement, sql.data);
	return statement;
}

/* ---- the arguments of a list ---- */

#define PAGE_MAX 1000

/* Those of dlq_list(), in their order; the first are the filters. */
static const char *const list_words[] = {"tenant_id",  "status",	  "event_type", "worker_type",
										 "error_type", "fingerprint", "limit",		"offset",
										 "after",	   "order",		  "count"};

enum
{
	WORD_TENANT = ARG_TENANT,
	WORD_STATUS = ARG_STATUS,
	WORD_LIMIT = N_FILTERS,
	WORD_OFFSET,
	WORD_AFTER,
	WORD_ORDER,
	WORD_COUNT
};

typedef struct ListPage
{
	int shape;
	Datum values[N_ARGS];
	char nulls[N_ARGS];
	int limit;
	int offset;
	bool exact; /* count all */
} ListPage;

/* The arguments of a GET: what nginx found, else those of the call. */
typedef struct Args
{
	FunctionCallInfo call;
	const char *const *names; /* as they stand behind the "?" */
	SnApiPairs pairs;
} Args;

static void
args_begin(Args *args, FunctionCallInfo fcinfo, const char *const *names)
{
	args->call = fcinfo;
	args->names = names;
	sn_api_pairs(&args->pairs);
}

/* NULL: it is not given. */
static const char *
text_arg(const Args *args, int n)
{
	const char *value = sn_api_value(&args->pairs, args->names[n]);

	if (value == NULL && !args->call->args[n].isnull)
		value = TextDatumGetCString(args->call->args[n].value);
	return value;
}

static int
int_arg(const Args *args, int n, int least, int most, const char *must)
{
	const char *given = sn_api_value(&args->pairs, args->names[n]);
	bool missing = given == NULL && args->call->args[n].isnull;
	int value = given != NULL ? pg_strtoint32(given) : DatumGetInt32(args->call->args[n].value);

	if (missing || value < least || value > most)
		sn_api_wrong(args->names[n], missing ? NULL : psprintf("%d", value), must);
	return value;
}

static void
after_check(const char *after, ListPage *page)
{
	TimestampTz at;
	const char *id_text;
	char *end;
	int64 id;

	if (after == NULL)
		return;
	sn_api_after(after, &at, &id_text);
	errno = 0;
	id = strtoi64(id_text, &end, 10);
	if (*id_text < '0' || *id_text > '9' || *end != '\0' || errno != 0)
		sn_api_wrong_after(after);
	page->shape |= SHAPE_AFTER;
	page->values[ARG_AFTER_AT] = TimestampTzGetDatum(at);
	page->values[ARG_AFTER_ID] = Int64GetDatum(id);
}

static void
filter_set(ListPage *page, int filter, const char *value)
{
	if (value == NULL)
		return;
	page->shape |= 1 << filter;
	page->values[filter] = CStringGetTextDatum(value);
}

static void
status_check(const char *status)
{
	if (status != NULL && !sn_dead_letter_is_state(status))
		sn_api_wrong("status", sn_api_as_json(status), "pending, retrying, succeeded or discarded");
}

static void
order_check(const char *order, ListPage *page)
{
	if (order == NULL || (strcmp(order, "desc") != 0 && strcmp(order, "asc") != 0))
		sn_api_wrong("order", sn_api_as_json(order), "desc or asc");
	if (strcmp(order, "asc") == 0)
		page->shape |= SHAPE_ASC;
}

static void
count_check(const char *count, ListPage *page)
{
	page->exact = count != NULL;
	if (count != NULL && strcmp(count, "exact") != 0)
		sn_api_wrong("count", sn_api_as_json(count), "exact, or missing");
}

static void
page_args(FunctionCallInfo fcinfo, ListPage *page)
{
	Args args;

	args_begin(&args, fcinfo, list_words);
	memset(page, 0, sizeof(ListPage));
	memset(page->nulls, ' ', sizeof(page->nulls));
	filter_set(page, ARG_TENANT, sn_tenant_check(text_arg(&args, WORD_TENANT)));
	page->limit = int_arg(&args, WORD_LIMIT, 1, PAGE_MAX, "1 to 1000");
	page->offset = int_arg(&args, WORD_OFFSET, 0, PG_INT32_MAX, "0 or more");
	status_check(text_arg(&args, WORD_STATUS));
	for (int i = ARG_STATUS; i < N_FILTERS; i++)
		filter_set(page, i, text_arg(&args, i));
	order_check(text_arg(&args, WORD_ORDER), page);
	after_check(text_arg(&args, WORD_AFTER), page);
	count_check(text_arg(&args, WORD_COUNT), page);
	page->values[ARG_LIMIT] = Int64GetDatum(page->limit);
	page->values[ARG_OFFSET] = Int64GetDatum(page->offset);
}

/* ---- a list ---- */

/*
 * Lists of which there were more than COUNT_MAX rows a moment ago: that many are counted again only when the moment is over.
 * By a hash of what was asked for; one that two lists have would make one of them say "gte" in vain.
 */
#define MANY_LISTS 64
#define MANY_US USECS_PER_SEC

static struct
{
	uint64 list;
	TimestampTz at;
} many[MANY_LISTS];

static uint64
list_hash(const ListPage *page)
{
	uint64 hash = page->shape & SHAPE_FILTERS;

	for (int i = 0; i < N_FILTERS; i++)
	{
		text *value = page->shape & 1 << i ? DatumGetTextPP(page->values[i]) : NULL;

		if (value != NULL)
			hash = hash_bytes_extended((unsigned char *) VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), hash);
	}
	return hash;
}

/* All rows, or COUNT_MAX and one. */
static int64
count_rows(ListPage *page)
{
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	uint64 list = list_hash(page);
	int64 total;

	if (!page->exact && many[list % MANY_LISTS].list == list && now >= many[list % MANY_LISTS].at &&
		now < many[list % MANY_LISTS].at + MANY_US)
		return COUNT_MAX + 1;
	page->values[ARG_LIMIT] = Int64GetDatum(COUNT_MAX + 1);
	page->nulls[ARG_LIMIT] = page->exact ? 'n' : ' ';
	sn_query(count_statement(page->shape), page->values, page->nulls, NULL);
	total = sn_result_int64(0, 1);
	if (total > COUNT_MAX)
	{
		many[list % MANY_LISTS].list = list;
		many[list % MANY_LISTS].at = now;
	}
	return total;
}

/* How many there are. A page that isn't full says so itself; who reads on from page to page is not told again. */
static void
put_total(StringInfo out, ListPage *page, int n)
{
	bool after = (page->shape & SHAPE_AFTER) != 0;
	int64 total;

	if (after && !page->exact)
	{
		appendStringInfoString(out, "\"total\":null,\"total_relation\":null");
		return;
	}
	if (!after && n < page->limit && (n > 0 || page->offset == 0))
		total = page->offset + n;
	else
		total = count_rows(page);
	if (total > COUNT_MAX && !page->exact)
		appendStringInfo(out, "\"total\":%d,\"total_relation\":\"gte\"", COUNT_MAX);
	else
		appendStringInfo(out, "\"total\":" INT64_FORMAT ",\"total_relation\":\"eq\"", total);
}

/* Where the next page goes on, if there may be one. */
static void
put_after(StringInfo out, const ListPage *page, const Entries *entries)
{
	char *cursor = NULL;

	if (entries->n == page->limit)
		cursor = sn_api_cursor(entries->created_at, psprintf(INT64_FORMAT, entries->id));
	if (cursor == NULL)
		appendStringInfoString(out, "null");
	else
		appendStringInfo(out, "\"%s\"", cursor);
}

/* A json value is made in place, behind its header. */
static void
json_begin(StringInfo out)
{
	initStringInfo(out);
	appendStringInfoSpaces(out, VARHDRSZ);
}

static Datum
json_end(StringInfo out)
{
	SET_VARSIZE(out->data, out->len);
	return PointerGetDatum(out->data);
}

/*
 * dlq_list(tenant_id, status, event_type, worker_type, error_type, fingerprint, p_limit, p_offset, p_after, p_order, p_count)
 * returns json
 */
Datum
sn_api_dlq_list(PG_FUNCTION_ARGS)
{
	StringInfoData out;
	ListPage page;
	Entries entries;

	if (sn_api_limited() != NULL)
		PG_RETURN_TEXT_P(cstring_to_text(sn_api_limited()));
	page_args(fcinfo, &page);
	fields_know();
	json_begin(&out);
	appendStringInfoString(&out, "{\"items\":[");
	SPI_connect();
	entries_begin(&entries, &out, page.limit);
	sn_query(page_statement(page.shape), page.values, page.nulls, &entries.pub);
	entries_finish(&entries);
	appendStringInfoString(&out, "],");
	put_total(&out, &page, entries.n);
	SPI_finish();
	appendStringInfo(&out, ",\"limit\":%d,\"offset\":%d,\"next_after\":", page.limit, page.offset);
	put_after(&out, &page, &entries);
	appendStringInfoChar(&out, '}');
	return json_end(&out);
}

/* ---- one ---- */

static void
set_text(Datum *values, char *nulls, int i, const char *given)
{
	nulls[i] = given == NULL ? 'n' : ' ';
	values[i] = given == NULL ? (Datum) 0 : CStringGetTextDatum(given);
}

/* The same for another tenant's as for one that doesn't exist. */
SN_NORETURN static void
refuse_missing(int64 id)
{
	ereport(ERROR, (errcode(SN_ERRCODE("SN011")), errmsg("there is no dead letter " INT64_FORMAT, id),
					errhint("GET /ops/dlq lists them.")));
}

static SnStatement *
one_statement(void)
{
	static SnStatement statement = {.n_args = 2, .args = {INT8OID, TEXTOID}};

	if (statement.sql == NULL)
		statement.sql = MemoryContextStrdup(
			TopMemoryContext,
			psprintf("SELECT %s FROM sentinai.dead_letter_queue d WHERE d.id OPERATOR(pg_catalog.=) $1"
					 " AND ($2 IS NULL OR d.tenant_id OPERATOR(pg_catalog.=) $2)",
					 field_list));
	return &statement;
}

/* dlq_get(id, tenant_id) returns json */
Datum
sn_api_dlq_get(PG_FUNCTION_ARGS)
{
	static const char *const words[] = {"id", "tenant_id"};
	Args args;
	const char *id;
	const char *tenant;
	Datum values[2] = {PG_GETARG_DATUM(0)};
	char nulls[2] = {' ', ' '};
	StringInfoData out;
	Entries entries;

	if (sn_api_limited() != NULL)
		PG_RETURN_TEXT_P(cstring_to_text(sn_api_limited()));
	args_begin(&args, fcinfo, words);
	id = sn_api_value(&args.pairs, "id");
	if (id != NULL)
		values[0] = DirectFunctionCall1(int8in, CStringGetDatum(id));
	else if (PG_ARGISNULL(0))
		sn_api_wrong("id", NULL, "an integer");
	tenant = sn_tenant_check(text_arg(&args, 1));
	set_text(values, nulls, 1, tenant);
	fields_know();
	json_begin(&out);
	SPI_connect();
	entries_begin(&entries, &out, 1);
	sn_query(one_statement(), values, nulls, &entries.pub);
	entries_finish(&entries);
	SPI_finish();
	if (entries.n == 0)
		refuse_missing(DatumGetInt64(values[0]));
	return json_end(&out);
}

/* ---- a retry ---- */

static SnStatement read_tenant = {
	.sql = "SELECT d.tenant_id FROM sentinai.dead_letter_queue d WHERE d.id OPERATOR(pg_catalog.=) $1"
		   " AND ($2 IS NULL OR d.tenant_id OPERATOR(pg_catalog.=) $2)",
	.n_args = 2,
	.args = {INT8OID, TEXTOID}};

static SnStatement begin_with_key = {.sql = "SELECT sentinai.api_begin('dlq_retry', $1, $2)::pg_catalog.text",
									 .n_args = 2,
									 .args = {TEXTOID, JSONBOID}};

static SnStatement end_with_key = {.sql = "SELECT sentinai.api_end($1, $2::pg_catalog.json)",
								   .n_args = 2,
								   .args = {TEXTOID, TEXTOID}};

/* The tenant of a dead letter that the caller may see, and that is this tenant's, where one is given. */
static char *
tenant_of(int64 id, const char *tenant_id)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum values[2] = {Int64GetDatum(id)};
	char nulls[2] = {' ', ' '};
	char *tenant = NULL;

	set_text(values, nulls, 1, tenant_id);

	SPI_connect();
	if (sn_query(&read_tenant, values, nulls, NULL) > 0)
		tenant = MemoryContextStrdup(caller, sn_result_text(0, 1));
	SPI_finish();
	if (tenant == NULL)
		refuse_missing(id);
	return tenant;
}

/* Begins what has an Idempotency-Key. An answer: it was done before, and was answered so; NULL: it is to be done. */
static char *
key_begin(const char *tenant, Jsonb *args)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum values[2] = {CStringGetTextDatum(tenant), JsonbPGetDatum(args)};
	char *answer;

	SPI_connect();
	sn_execute(&begin_with_key, values, NULL);
	answer = sn_result_text(0, 1);
	if (answer != NULL)
		answer = MemoryContextStrdup(caller, answer);
	SPI_finish();
	return answer;
}

static void
key_end(const char *tenant, const char *answer)
{
	Datum values[2] = {CStringGetTextDatum(tenant), CStringGetTextDatum(answer)};

	SPI_connect();
	sn_execute(&end_with_key, values, NULL);
	SPI_finish();
}

static void
set_text_arg(NullableDatum *arg, const char *text)
{
	arg->isnull = text == NULL;
	arg->value = text == NULL ? (Datum) 0 : CStringGetTextDatum(text);
}

/* sentinai.dlq_retry(id, reason, actor), where the caller may execute it; its row. */
static HeapTupleHeader
call_retry(int64 id, const char *reason, const char *actor)
{
	static const Oid types[] = {INT8OID, TEXTOID, TEXTOID};
	LOCAL_FCINFO(call, 3);
	FmgrInfo function;
	Oid oid = LookupFuncName(list_make2(makeString(SN_SCHEMA), makeString("dlq_retry")), 3, types, false);

	if (SN_PROC_ACLCHECK(oid, GetUserId()) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, "dlq_retry");
	fmgr_info(oid, &function);
	InitFunctionCallInfoData(*call, &function, 3, InvalidOid, NULL, NULL);
	call->args[0] = (NullableDatum){Int64GetDatum(id), false};
	set_text_arg(&call->args[1], reason);
	set_text_arg(&call->args[2], actor);
	return DatumGetHeapTupleHeader(FunctionCallInvoke(call));
}

static char *
retry_json(HeapTupleHeader row)
{
	char retried_at[MAXDATELEN + 1];
	bool isnull;
	char *status = TextDatumGetCString(GetAttributeByName(row, "status", &isnull));
	char *via = TextDatumGetCString(GetAttributeByName(row, "via", &isnull));

	JsonEncodeDateTime(retried_at, GetAttributeByName(row, "retried_at", &isnull), TIMESTAMPTZOID, NULL);
	return psprintf("{\"id\":" INT64_FORMAT
					",\"status\":\"%s\",\"retried_at\":\"%s\",\"retry_count\":%d,\"via\":\"%s\"}",
					DatumGetInt64(GetAttributeByName(row, "id", &isnull)), status, retried_at,
					DatumGetInt32(GetAttributeByName(row, "retry_count", &isnull)), via);
}

/* dlq_retry(body) returns json */
Datum
sn_api_dlq_retry(PG_FUNCTION_ARGS)
{
	Jsonb *args = sn_api_args(PG_ARGISNULL(0) ? NULL : PG_GETARG_JSONB_P(0));
	int64 id = sn_api_bigint(args, "id", NULL);
	const char *given = sn_tenant_check(sn_api_any(args, "tenant_id"));
	char *tenant = given != NULL ? pstrdup(given) : tenant_of(id, NULL);
	bool has_key = sn_api_key() != NULL;
	char *answer = has_key ? key_begin(tenant, args) : NULL;

	if (answer != NULL)
		PG_RETURN_TEXT_P(cstring_to_text(answer));
	tenant_of(id, tenant);
	answer = retry_json(call_retry(id, sn_api_text(args, "reason"), sn_api_text(args, "actor")));
	if (has_key)
		key_end(tenant, answer);
	PG_RETURN_TEXT_P(cstring_to_text(answer));
}
