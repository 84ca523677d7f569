/*
 * rehearse.c
 *	  The rehearsal of dead letters: their real handlers run on their real records, and nothing of it stays.
 *
 * What rolls back, and what a handler may do meanwhile, is handle.c's business (sn_handle_rehearse). Here: which record,
 * under which identity, and a row of answer for each. Which dead letters is SQL's: dlq_rehearse().
 */
#include "sentinai.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "handle.h"
#include "spi.h"
#include "utils/array.h"

PG_FUNCTION_INFO_V1(sn_dlq_rehearse_ids);

/* A tenant that is gone would be refused before any handler. */
static SnStatement read_dead_letter = {
	.sql = "SELECT d.worker_type, nullif(d.tenant_id, ''), d.event_id, d.event_timestamp, d.record_ts, d.payload_raw,"
		   " CASE WHEN d.tenant_id <> '' THEN coalesce(t.status, 'not known') END"
		   " FROM sentinai.dead_letter_queue d LEFT JOIN sentinai.tenant t USING (tenant_id) WHERE d.id = $1",
	.n_args = 1,
	.args = {INT8OID}};

static void
read_value(SnRehearsal *rehearsal, int column)
{
	bool isnull;
	Datum value = sn_result_datum(0, column, &isnull);
	bytea *bytes;

	if (isnull)
		return;
	bytes = DatumGetByteaPCopy(value);
	rehearsal->value = VARDATA_ANY(bytes);
	rehearsal->len = VARSIZE_ANY_EXHDR(bytes);
}

static void
rehearse_one(int64 id, SnRehearsal *rehearsal)
{
	Datum value = Int64GetDatum(id);
	char *tenant_status;

	memset(rehearsal, 0, sizeof(SnRehearsal));
	if (sn_execute(&read_dead_letter, &value, NULL) == 0)
	{
		rehearsal->error_type = "not_found";
		rehearsal->error_message = psprintf("there is no dead letter " INT64_FORMAT, id);
		strlcpy(rehearsal->sqlstate, "SN011", sizeof(rehearsal->sqlstate));
		return;
	}
	rehearsal->worker_type = sn_result_text(0, 1);
	rehearsal->tenant_id = sn_result_text(0, 2);
	rehearsal->event_id = sn_result_text(0, 3);
	rehearsal->event_timestamp = sn_result_time(0, 4);
	rehearsal->record_ts = sn_result_time(0, 5);
	read_value(rehearsal, 6);
	tenant_status = sn_result_text(0, 7);
	SPI_freetuptable(SPI_tuptable);
	if (tenant_status != NULL && strcmp(tenant_status, "active") != 0 && strcmp(tenant_status, "suspended") != 0)
	{
		rehearsal->error_type = "validation_error";
		rehearsal->error_message = psprintf("tenant \"%s\" is %s", rehearsal->tenant_id, tenant_status);
		strlcpy(rehearsal->sqlstate, "SN004", sizeof(rehearsal->sqlstate));
		return;
	}
	sn_handle_rehearse(rehearsal);
}

static Datum
text_or_null(const char *value, bool *isnull)
{
	*isnull = value == NULL || value[0] == '\0';
	return *isnull ? (Datum) 0 : CStringGetTextDatum(value);
}

static void
put_rehearsal(ReturnSetInfo *rsinfo, int64 id, const SnRehearsal *rehearsal)
{
	Datum values[7] = {Int64GetDatum(id), BoolGetDatum(rehearsal->ok)};
	bool nulls[7] = {false};

	if (rehearsal->ok)
		memset(nulls + 2, true, 4);
	else
	{
		values[2] = text_or_null(rehearsal->error_type, &nulls[2]);
		values[3] = text_or_null(rehearsal->sqlstate, &nulls[3]);
		values[4] = text_or_null(rehearsal->error_message, &nulls[4]);
		values[5] = text_or_null(rehearsal->error_detail, &nulls[5]);
	}
	values[6] = Int32GetDatum(rehearsal->ok ? rehearsal->n_emitted : 0);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* dlq_rehearse_ids(ids) returns setof (id, would_succeed, error_type, sqlstate, error_message, error_detail, emitted) */
Datum
sn_dlq_rehearse_ids(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum *ids;
	bool *nulls;
	int n;

	InitMaterializedSRF(fcinfo, 0);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &ids, &nulls,
					  &n);
	SPI_connect();
	for (int i = 0; i < n; i++)
	{
		MemoryContext one = AllocSetContextCreate(CurrentMemoryContext, "sentinai rehearsal", ALLOCSET_DEFAULT_SIZES);
		MemoryContext old = MemoryContextSwitchTo(one);
		SnRehearsal rehearsal;

		CHECK_FOR_INTERRUPTS();
		if (!nulls[i])
		{
			rehearse_one(DatumGetInt64(ids[i]), &rehearsal);
			put_rehearsal(rsinfo, DatumGetInt64(ids[i]), &rehearsal);
		}
		MemoryContextSwitchTo(old);
		MemoryContextDelete(one);
	}
	SPI_finish();
	return (Datum) 0;
}
