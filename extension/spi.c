/*
 * spi.c
 *	  Saved SPI plans, array parameters for unnest(), and result columns by number: what the steps of consume() share.
 *
 * Plans live as long as the backend; PostgreSQL replans them itself when what they refer to changes. Nothing here knows a
 * table: the SQL stands with its subject.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "point.h"
#include "spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* The type of that name in schema sentinai. */
Oid
sn_type_oid(const char *name)
{
	Oid type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum(name),
							   ObjectIdGetDatum(get_namespace_oid("sentinai", false)));

	if (!OidIsValid(type))
		elog(ERROR, "type sentinai.%s is missing", name);
	return type;
}

/* Makes the plan at the first call. */
static SPIPlanPtr
statement_plan(SnStatement *statement)
{
	if (statement->plan == NULL)
	{
		SPIPlanPtr plan =
			SPI_prepare_cursor(statement->sql, statement->n_args, statement->args, CURSOR_OPT_GENERIC_PLAN);

		if (plan == NULL)
			elog(ERROR, "could not prepare \"%s\": %s", statement->sql, SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		statement->plan = plan;
	}
	return statement->plan;
}

/*
 * Runs a statement in the caller's SPI connection and returns the number of rows. The result stands in SPI_tuptable
 * until the next call. Unlike SPI itself it leaves the caller in his memory context.
 */
uint64
sn_execute(SnStatement *statement, Datum *values, const char *nulls)
{
	MemoryContext caller = CurrentMemoryContext;
	int rc = SPI_execute_plan(statement_plan(statement), values, nulls, false, 0);

	MemoryContextSwitchTo(caller);
	SN_POINT("statement");
	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", statement->sql, SPI_result_code_string(rc));
	return SPI_processed;
}

/*
 * The same for a query of a function that is STABLE: on the snapshot of who called it. Rows go to dest as they come; NULL: to
 * SPI_tuptable.
 */
uint64
sn_query(SnStatement *statement, const Datum *values, const char *nulls, DestReceiver *dest)
{
	MemoryContext caller = CurrentMemoryContext;
	SPIExecuteOptions options = {
		.params = makeParamList(statement->n_args), .read_only = true, .must_return_tuples = true, .dest = dest};
	int rc;

	for (int i = 0; i < statement->n_args; i++)
		options.params->params[i] = (ParamExternData){.value = values[i],
													  .isnull = nulls != NULL && nulls[i] == 'n',
													  .pflags = PARAM_FLAG_CONST,
													  .ptype = statement->args[i]};
	rc = SPI_execute_plan_extended(statement_plan(statement), &options);
	MemoryContextSwitchTo(caller);
	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", statement->sql, SPI_result_code_string(rc));
	return SPI_processed;
}

void
sn_column_init(SnColumn *column, Oid element, int max)
{
	column->element = element;
	column->n = 0;
	column->max = Max(max, 8);
	column->values = palloc(column->max * sizeof(Datum));
	column->nulls = palloc(column->max * sizeof(bool));
}

void
sn_column_add(SnColumn *column, Datum value, bool isnull)
{
	if (column->n == column->max)
	{
		column->max *= 2;
		column->values = repalloc(column->values, column->max * sizeof(Datum));
		column->nulls = repalloc(column->nulls, column->max * sizeof(bool));
	}
	column->values[column->n] = value;
	column->nulls[column->n++] = isnull;
}

/* Adds a text; NULL is SQL NULL. */
void
sn_column_text(SnColumn *column, const char *value)
{
	if (value == NULL)
		sn_column_add(column, (Datum) 0, true);
	else
		sn_column_add(column, CStringGetTextDatum(value), false);
}

Datum
sn_column_array(SnColumn *column)
{
	int16 typlen;
	bool typbyval;
	char typalign;
	int dims[1] = {column->n};
	int lbs[1] = {1};

	get_typlenbyvalalign(column->element, &typlen, &typbyval, &typalign);
	if (column->n == 0)
		return PointerGetDatum(construct_empty_array(column->element));
	return PointerGetDatum(
		construct_md_array(column->values, column->nulls, 1, dims, lbs, column->element, typlen, typbyval, typalign));
}

Datum
sn_result_datum(int row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

/* A text column as a palloc'd string, NULL where it is NULL. */
char *
sn_result_text(int row, int column)
{
	bool isnull;
	Datum value = sn_result_datum(row, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

int64
sn_result_int64(int row, int column)
{
	bool isnull;
	Datum value = sn_result_datum(row, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

int32
sn_result_int32(int row, int column)
{
	bool isnull;
	Datum value = sn_result_datum(row, column, &isnull);

	return isnull ? 0 : DatumGetInt32(value);
}

bool
sn_result_bool(int row, int column)
{
	bool isnull;
	Datum value = sn_result_datum(row, column, &isnull);

	return !isnull && DatumGetBool(value);
}

/* A timestamptz column, 0 where it is NULL. */
TimestampTz
sn_result_time(int row, int column)
{
	bool isnull;
	Datum value = sn_result_datum(row, column, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(value);
}
