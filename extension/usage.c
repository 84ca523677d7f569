/*
 * usage.c
 *	  Counting what tenants use: rows of usage_delta, appended in the transaction that uses it.
 *
 * A batch writes one row for each tenant and event type that it has finished, a claim one unit, with the minute of the
 * claim's processed_at: books_check() compares the two. There is no row that two transactions write, and so no lock between
 * them. usage_roll() moves the rows into usage_metric (sql/52_usage.sql).
 *
 * Two tables take turns by the clock, so that the one whose turn is over has no writers and can be truncated: deleted rows
 * that an old snapshot keeps alive go with it. Nothing else depends on which table a row is in.
 */
#include "sentinai.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "caller.h"
#include "consume.h"
#include "insert.h"
#include "lookup.h"
#include "rate_limit.h"
#include "usage.h"
#include "usage_count.h"

/* How long a table's turn is. The other one has that long to be emptied and truncated. */
#define TURN_US (5 * 60 * USECS_PER_SEC)

/* In the order of the columns of usage_delta_0. */
enum
{
	DELTA_MINUTE,
	DELTA_QUANTITY,
	DELTA_TENANT,
	DELTA_METRIC,
	DELTA_RESOURCE,
	DELTA_COLUMNS
};

static Relation
open_table(void)
{
	char name[NAMEDATALEN];
	Oid relid;
	Relation rel;

	snprintf(name, sizeof(name), "usage_delta_%d", (int) (GetCurrentTimestamp() / TURN_US & 1));
	relid = get_relname_relid(name, get_namespace_oid(SN_SCHEMA, false));
	if (!OidIsValid(relid))
		ereport(ERROR, (errcode(SN_ERRCODE("SN014")), errmsg("table sentinai.%s is missing", name),
						errhint("ALTER EXTENSION sentinai UPDATE")));
	rel = table_open(relid, RowExclusiveLock);
	if (RelationGetDescr(rel)->natts != DELTA_COLUMNS)
		elog(ERROR, "table sentinai.%s does not have %d columns", name, DELTA_COLUMNS);
	return rel;
}

void
sn_usage_insert(const SnUsage *rows, int n, TimestampTz at)
{
	TimestampTz minute = at - (at % USECS_PER_MINUTE + USECS_PER_MINUTE) % USECS_PER_MINUTE;
	Relation rel;
	SnInsert insert;

	if (n == 0)
		return;
	rel = open_table();
	sn_insert_begin(&insert, rel, NULL, NULL);
	for (int i = 0; i < n; i++)
	{
		TupleTableSlot *slot = sn_insert_slot(&insert);

		sn_insert_datum(slot, DELTA_MINUTE, TimestampTzGetDatum(minute), false);
		sn_insert_datum(slot, DELTA_QUANTITY, Int64GetDatum(rows[i].quantity), false);
		sn_insert_text(slot, DELTA_TENANT, rows[i].tenant_id);
		sn_insert_text(slot, DELTA_METRIC, rows[i].metric_type);
		sn_insert_text(slot, DELTA_RESOURCE, rows[i].resource);
		ExecStoreVirtualTuple(slot);
	}
	sn_insert_end(&insert);
	table_close(rel, NoLock);
}

void
sn_usage_add(const char *tenant_id, const char *metric_type, const char *resource, int64 n)
{
	SnUsage row = {tenant_id, metric_type, resource, n};

	sn_usage_insert(&row, 1, sn_now());
}

/* ---- what consume() has finished ---- */

static int
compare_work(const void *a, const void *b)
{
	const SnEvent *left = &(*(SnWork *const *) a)->event;
	const SnEvent *right = &(*(SnWork *const *) b)->event;
	int order = strcmp(left->tenant_id, right->tenant_id);

	return order != 0 ? order : strcmp(left->event_type, right->event_type);
}

/* Its claim says "succeeded" from now on: handled, or logged where there is no handler. */
static bool
is_finished(const SnWork *work)
{
	return work->claimed && (work->outcome == SN_SUCCEEDED || work->outcome == SN_LOGGED);
}

void
sn_usage_settle(SnBatch *batch)
{
	SnWork **works = palloc(Max(batch->n_work, 1) * sizeof(SnWork *));
	SnUsage *rows;
	int n = 0;
	int n_rows = 0;

	for (int i = 0; i < batch->n_work; i++)
		if (is_finished(batch->work[i]))
			works[n++] = batch->work[i];
	qsort(works, n, sizeof(SnWork *), compare_work);
	rows = palloc(Max(n, 1) * sizeof(SnUsage));
	for (int i = 0; i < n; i++)
	{
		const SnEvent *event = &works[i]->event;

		if (i == 0 || compare_work(&works[i - 1], &works[i]) != 0)
			rows[n_rows++] = (SnUsage){event->tenant_id, SN_USAGE_EVENTS,
									   psprintf("%s/%s", batch->worker_type->name, event->event_type), 0};
		rows[n_rows - 1].quantity++;
	}
	sn_usage_insert(rows, n_rows, batch->now);
}

/* ---- what is refused ---- */

#define RESOURCE_MAX 255
#define QUANTITY_MAX INT64CONST(1000000000000)

/* As many characters of a value as a message shows. */
#define SHOWN_MAX 100

/*
 * Rows of a table by the first column of its primary key; NULL: all. They are read like a catalogue's: as they are now,
 * whatever the caller's rights.
 */
static SysScanDesc
scan_begin(const char *table, const char *key)
{
	Relation rel = table_open(get_relname_relid(table, get_namespace_oid(SN_SCHEMA, false)), AccessShareLock);
	ScanKeyData scan_key;

	if (key != NULL)
		ScanKeyInit(&scan_key, 1, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(key));
	return systable_beginscan(rel, SN_PRIMARY_KEY_INDEX(rel), true, NULL, key != NULL ? 1 : 0, &scan_key);
}

static void
scan_end(SysScanDesc scan)
{
	Relation rel = scan->heap_rel;

	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

static bool
has_row(const char *table, const char *key)
{
	SysScanDesc scan = scan_begin(table, key);
	bool found = HeapTupleIsValid(systable_getnext(scan));

	scan_end(scan);
	return found;
}

/* The metric types, for a hint. */
static char *
known_types(void)
{
	SysScanDesc scan = scan_begin("usage_type", NULL);
	StringInfoData names;
	HeapTuple tuple;

	initStringInfo(&names);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool isnull;
		Datum name = heap_getattr(tuple, 1, RelationGetDescr(scan->heap_rel), &isnull);

		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", TextDatumGetCString(name));
	}
	scan_end(scan);
	return names.data;
}

static char *
clipped(const char *value)
{
	return pnstrdup(value, pg_mbcharcliplen(value, strlen(value), SHOWN_MAX));
}

static char *
literal(const char *value)
{
	return value != NULL ? quote_literal_cstr(clipped(value)) : "NULL";
}

static void
check_type(const char *metric_type)
{
	if (metric_type == NULL || !has_row("usage_type", metric_type))
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("%s is not a metric type of usage", literal(metric_type)),
						errhint("They are %s.", known_types())));
}

static void
refuse_tenant(const char *tenant_id)
{
	ereport(ERROR,
			(errcode(SN_ERRCODE("SN004")),
			 errmsg("tenant %s does not exist", tenant_id != NULL ? quote_identifier(clipped(tenant_id)) : "NULL"),
			 errhint("SELECT * FROM sentinai.tenant_list() shows all tenants.")));
}

/* gone: a tenant will do that is no more, as long as there is usage of it. */
static void
check_tenant(const char *tenant_id, bool gone)
{
	sn_tenant_check(tenant_id);
	if (tenant_id == NULL || !(has_row("tenant", tenant_id) || (gone && has_row("usage_metric", tenant_id))))
		refuse_tenant(tenant_id);
}

static void
check_unit(const char *resource, bool has_quantity, int64 quantity)
{
	if (resource == NULL || strlen(resource) > RESOURCE_MAX || !has_quantity || quantity < 0 || quantity > QUANTITY_MAX)
		ereport(
			ERROR,
			(errcode(SN_ERRCODE("SN001")), errmsg("usage is not valid"),
			 errdetail("The resource is %s, the quantity %s.", literal(resource),
					   has_quantity ? psprintf(INT64_FORMAT, quantity) : "NULL"),
			 errhint("A resource has at most 255 bytes; a quantity is from 0 to 10^12. usage_correct() takes away.")));
}

/* ---- SQL ---- */

/* usage_check_type(metric_type text) returns void */
PG_FUNCTION_INFO_V1(sn_usage_check_type);
Datum
sn_usage_check_type(PG_FUNCTION_ARGS)
{
	check_type(sn_text_arg(fcinfo, 0));
	PG_RETURN_VOID();
}

/* usage_check_tenant(tenant_id text, gone boolean) returns void */
PG_FUNCTION_INFO_V1(sn_usage_check_tenant);
Datum
sn_usage_check_tenant(PG_FUNCTION_ARGS)
{
	check_tenant(sn_text_arg(fcinfo, 0), !PG_ARGISNULL(1) && PG_GETARG_BOOL(1));
	PG_RETURN_VOID();
}

/* The arguments (tenant_id text, metric_type text, resource text, quantity bigint), looked at. */
static SnUsage
unit_args(FunctionCallInfo fcinfo)
{
	SnUsage unit = {sn_text_arg(fcinfo, 0), sn_text_arg(fcinfo, 1), sn_text_arg(fcinfo, 2),
					PG_ARGISNULL(3) ? 0 : PG_GETARG_INT64(3)};

	check_type(unit.metric_type);
	check_tenant(unit.tenant_id, false);
	check_unit(unit.resource, !PG_ARGISNULL(3), unit.quantity);
	return unit;
}

/* usage_record(tenant_id text, metric_type text, resource text, quantity bigint) returns void */
PG_FUNCTION_INFO_V1(sn_usage_record);
Datum
sn_usage_record(PG_FUNCTION_ARGS)
{
	SnUsage unit = unit_args(fcinfo);

	PreventCommandIfReadOnly("usage_record()");
	if (unit.quantity != 0)
		sn_usage_insert(&unit, 1, sn_now());
	PG_RETURN_VOID();
}

/* usage_count(tenant_id text, metric_type text, resource text, quantity bigint) returns void */
PG_FUNCTION_INFO_V1(sn_usage_count_sql);
Datum
sn_usage_count_sql(PG_FUNCTION_ARGS)
{
	SnUsage unit = unit_args(fcinfo);

	sn_usage_count(unit.tenant_id, unit.metric_type, unit.resource, unit.quantity);
	PG_RETURN_VOID();
}

static int
n_elements(FunctionCallInfo fcinfo, int arg)
{
	ArrayType *array = PG_ARGISNULL(arg) ? NULL : PG_GETARG_ARRAYTYPE_P(arg);

	return array != NULL ? ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)) : 0;
}

/* n strings of an array; NULL where it has none. */
static char **
array_strings(FunctionCallInfo fcinfo, int arg, int n)
{
	char **strings = palloc0(Max(n, 1) * sizeof(char *));
	Datum *values;
	bool *nulls;
	int length = 0;

	if (!PG_ARGISNULL(arg))
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(arg), TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &length);
	for (int i = 0; i < length; i++)
		strings[i] = nulls[i] ? NULL : TextDatumGetCString(values[i]);
	return strings;
}

/* The arguments (tenant_ids text[], metric_type text, resources text[], quantities bigint[]), NULL where an array ends early. */
static SnUsage *
units_args(FunctionCallInfo fcinfo, bool **has_quantity, int *n)
{
	char *metric_type = sn_text_arg(fcinfo, 1);
	int most = Max(n_elements(fcinfo, 0), Max(n_elements(fcinfo, 2), n_elements(fcinfo, 3)));
	char **tenants = array_strings(fcinfo, 0, most);
	char **resources = array_strings(fcinfo, 2, most);
	SnUsage *units = palloc(Max(most, 1) * sizeof(SnUsage));
	Datum *quantities;
	bool *nulls;
	int n_quantities = 0;

	if (!PG_ARGISNULL(3))
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(3), INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &quantities, &nulls,
						  &n_quantities);
	*has_quantity = palloc(Max(most, 1) * sizeof(bool));
	for (int i = 0; i < most; i++)
	{
		(*has_quantity)[i] = i < n_quantities && !nulls[i];
		units[i] =
			(SnUsage){tenants[i], metric_type, resources[i], (*has_quantity)[i] ? DatumGetInt64(quantities[i]) : 0};
	}
	*n = most;
	return units;
}

/* check_tenant() for many: a scan of its own for each would cost three times as much. */
static void
check_tenants(const SnUsage *units, int n)
{
	Relation rel = table_open(get_relname_relid("tenant", get_namespace_oid(SN_SCHEMA, false)), AccessShareLock);
	Relation index = index_open(SN_PRIMARY_KEY_INDEX(rel), AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	SnLookup lookup;

	sn_lookup_begin(&lookup, rel, index, snapshot);
	for (int i = 0; i < n; i++)
	{
		const char *tenant_id = units[i].tenant_id;
		Datum key;

		if (i > 0 && tenant_id != NULL && strcmp(tenant_id, units[i - 1].tenant_id) == 0)
			continue;
		sn_tenant_check(tenant_id);
		if (tenant_id == NULL)
			refuse_tenant(NULL);
		key = CStringGetTextDatum(tenant_id);
		sn_lookup_keys(&lookup, &key);
		if (sn_lookup_next(&lookup) == NULL)
			refuse_tenant(tenant_id);
	}
	sn_lookup_end(&lookup);
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
}

/* Inserts those of which there is something. */
static void
insert_units(SnUsage *units, int n)
{
	int n_rows = 0;

	for (int i = 0; i < n; i++)
		if (units[i].quantity != 0)
			units[n_rows++] = units[i];
	sn_usage_insert(units, n_rows, sn_now());
}

/* usage_record_batch(tenant_ids text[], metric_type text, resources text[], quantities bigint[]) returns void */
PG_FUNCTION_INFO_V1(sn_usage_record_batch);
Datum
sn_usage_record_batch(PG_FUNCTION_ARGS)
{
	bool *has_quantity;
	int n;
	SnUsage *units = units_args(fcinfo, &has_quantity, &n);

	check_type(sn_text_arg(fcinfo, 1));
	check_tenants(units, n);
	for (int i = 0; i < n; i++)
		check_unit(units[i].resource, has_quantity[i], units[i].quantity);
	PreventCommandIfReadOnly("usage_record_batch()");
	insert_units(units, n);
	PG_RETURN_VOID();
}

/* usage_add(tenant_ids text[], metric_type text, resources text[], quantities bigint[]) returns void */
PG_FUNCTION_INFO_V1(sn_usage_add_sql);
Datum
sn_usage_add_sql(PG_FUNCTION_ARGS)
{
	bool *has_quantity;
	int n;
	SnUsage *units = units_args(fcinfo, &has_quantity, &n);

	/* An insert of ours looks at no constraint. */
	for (int i = 0; i < n; i++)
		if (units[i].tenant_id == NULL || units[i].resource == NULL || !has_quantity[i])
			elog(ERROR, "usage_add() was given a NULL, or arrays of different lengths");
	PreventCommandIfReadOnly("usage_add()");
	insert_units(units, n);
	PG_RETURN_VOID();
}
