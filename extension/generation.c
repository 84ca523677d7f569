/*
 * generation.c
 *	  A batch's way into the present state of the generations. Rotation itself is SQL: sql/26_generation.sql tells how it
 *	  works and why it never waits.
 */
#include "sentinai.h"

#include "executor/spi.h"
#include "commands/dbcommands.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"

#include "generation.h"
#include "lock.h"

#define STATE_QUERY "SELECT state_number, newest, previous_open FROM sentinai.dedupe_state"

static SPIPlanPtr state_plan;

static int32
int_column(int column, int32 if_null)
{
	bool isnull;
	Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? if_null : DatumGetInt32(value);
}

/* Reads the row by the newest snapshot there is, whatever the transaction's isolation. */
static void
state_read(SnGenerations *state)
{
	if (state_plan == NULL)
	{
		SPIPlanPtr plan = SPI_prepare(STATE_QUERY, 0, NULL);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare \"%s\"", STATE_QUERY);
		state_plan = plan;
	}

	PushActiveSnapshot(GetLatestSnapshot());
	if (SPI_execute_plan(state_plan, NULL, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read dedupe_state");
	PopActiveSnapshot();
	if (SPI_processed != 1)
		ereport(ERROR,
				(errcode(SN_ERRCODE("SN014")),
				 errmsg("database \"%s\" has no generation of event_processing_log", get_database_name(MyDatabaseId)),
				 errhint("SELECT sentinai.activate()")));

	state->state_number = int_column(1, 0);
	state->newest = int_column(2, 0);
	state->previous_open = int_column(3, 0);
	SPI_freetuptable(SPI_tuptable);
}

void
sn_generation_enter(SnGenerations *generations)
{
	SnGenerations locked;

	state_read(generations);
	do
	{
		locked = *generations;
		sn_lock(SN_LOCK_GENERATION, locked.state_number, ShareLock);
		state_read(generations);
	} while (generations->state_number != locked.state_number);
}
