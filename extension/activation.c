/*
 * activation.c
 *	  Activation seen from C: cheap when there is nothing to do, and the launcher hears of it when it has committed.
 *
 * What is to be made stands in sql/22_activation.sql (activation_make), which says until when it is enough. This backend
 * remembers that time, and the oid of the table activation, which changes when the extension is created anew. What was
 * made in a transaction counts only after its commit, and not if its subtransaction was rolled back.
 */
#include "sentinai.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "activation.h"
#include "launcher.h"

typedef struct Enough
{
	Oid relid; /* of the table activation */
	TimestampTz until;
} Enough;

static Enough committed;
static Enough pending;	  /* of the current transaction */
static int pending_level; /* nesting level of the subtransaction that pending belongs to; 0: nothing pending */

static bool
is_enough(const Enough *enough, Oid relid)
{
	return enough->relid == relid && GetCurrentTransactionStartTimestamp() < enough->until;
}

static Oid
activation_relid(void)
{
	Oid relid = get_relname_relid("activation", get_namespace_oid(SN_SCHEMA, true));

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(SN_ERRCODE("SN014")),
				 errmsg("extension sentinai is not installed in database \"%s\"", get_database_name(MyDatabaseId)),
				 errhint("CREATE EXTENSION sentinai, or ALTER EXTENSION sentinai UPDATE.")));
	return relid;
}

/* Makes what is missing; returns until when that is enough. */
static TimestampTz
activation_make(void)
{
	bool isnull;
	Datum until;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute("SELECT sentinai.activation_make()", false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "activation_make() did not answer");
	until = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	SPI_finish();
	return DatumGetTimestampTz(until);
}

void
sn_activate(void)
{
	Oid relid = activation_relid();

	if (is_enough(&committed, relid) || (pending_level > 0 && is_enough(&pending, relid)))
		return;
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION), errmsg("sentinai does not handle events on a standby"),
				 errhint("Connect to the primary server.")));

	pending.until = activation_make();
	pending.relid = relid;
	pending_level = GetCurrentTransactionNestLevel();
}

static void
on_xact_end(XactEvent event, void *arg)
{
	if (pending_level == 0)
		return;
	if (event == XACT_EVENT_COMMIT)
	{
		committed = pending;
		sn_launcher_name(MyDatabaseId);
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		pending_level = 0;
}

static void
on_subxact_end(SubXactEvent event, SubTransactionId sub, SubTransactionId parent, void *arg)
{
	if (pending_level < GetCurrentTransactionNestLevel())
		return;
	if (event == SUBXACT_EVENT_COMMIT_SUB)
		pending_level--;
	else if (event == SUBXACT_EVENT_ABORT_SUB)
		pending_level = 0;
}

void
sn_activation_install(void)
{
	RegisterXactCallback(on_xact_end, NULL);
	RegisterSubXactCallback(on_subxact_end, NULL);
}

/* activate() returns void */
PG_FUNCTION_INFO_V1(sn_activate_sql);
Datum
sn_activate_sql(PG_FUNCTION_ARGS)
{
	sn_activate();
	PG_RETURN_VOID();
}
