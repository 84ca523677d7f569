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

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "consume.h"
#include "insert.h"
#include "rate_limit.h"
#include "usage.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

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

/* ---- SQL ---- */

/* usage_add(tenant_ids text[], metric_type text, resources text[], quantities bigint[]) returns void */
PG_FUNCTION_INFO_V1(sn_usage_add_sql);
Datum
sn_usage_add_sql(PG_FUNCTION_ARGS)
{
	char *metric_type = text_to_cstring(PG_GETARG_TEXT_PP(1));
	Datum *tenants;
	Datum *resources;
	Datum *quantities;
	int n;
	int n_resources;
	int n_quantities;
	int n_rows = 0;
	SnUsage *rows;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT, &tenants, NULL, &n);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), TEXTOID, -1, false, TYPALIGN_INT, &resources, NULL, &n_resources);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(3), INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &quantities, NULL,
					  &n_quantities);
	if (n_resources != n || n_quantities != n)
		elog(ERROR, "usage_add() was given %d tenants, %d resources and %d quantities", n, n_resources, n_quantities);
	rows = palloc(Max(n, 1) * sizeof(SnUsage));
	for (int i = 0; i < n; i++)
		if (DatumGetInt64(quantities[i]) != 0)
			rows[n_rows++] = (SnUsage){TextDatumGetCString(tenants[i]), metric_type, TextDatumGetCString(resources[i]),
									   DatumGetInt64(quantities[i])};
	sn_usage_insert(rows, n_rows, sn_now());
	PG_RETURN_VOID();
}
