/*
 * utility.c
 *	  Commands that need a database without sessions find none of ours: DROP DATABASE, ALTER DATABASE RENAME and SET
 *	  TABLESPACE, CREATE DATABASE ... TEMPLATE. The maintenance worker of that database is stopped first and comes back
 *	  afterwards (launcher.c). The hook that sees them also asks handle.c, which has commands that handlers must not use.
 */
#include "sentinai.h"

#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/acl.h"

#include "handle.h"
#include "launcher.h"
#include "utility.h"

static ProcessUtility_hook_type previous_hook;

static const char *
option_string(List *options, const char *name)
{
	ListCell *cell;

	foreach (cell, options)
	{
		DefElem *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0 && option->arg)
			return defGetString(option);
	}
	return NULL;
}

/* The database that the command wants to have to itself; NULL: none. */
static const char *
wanted_database(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			return castNode(DropdbStmt, stmt)->dbname;
		case T_RenameStmt:
			if (castNode(RenameStmt, stmt)->renameType != OBJECT_DATABASE)
				return NULL;
			return castNode(RenameStmt, stmt)->subname;
		case T_AlterDatabaseStmt:
			if (!option_string(castNode(AlterDatabaseStmt, stmt)->options, "tablespace"))
				return NULL;
			return castNode(AlterDatabaseStmt, stmt)->dbname;
		case T_CreatedbStmt:
			return option_string(castNode(CreatedbStmt, stmt)->options, "template");
		default:
			return NULL;
	}
}

/* Its oid, if the caller may do such things to it: nobody else stops a worker, their command is about to be refused. */
static Oid
wanted_oid(Node *stmt)
{
	const char *name = wanted_database(stmt);
	Oid oid = name ? get_database_oid(name, true) : InvalidOid;

	if (!OidIsValid(oid) || oid == MyDatabaseId || !SN_DATABASE_OWNERCHECK(oid))
		return InvalidOid;
	return oid;
}

static void
run_next(PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context,
		 ParamListInfo params, QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	if (previous_hook)
		previous_hook(pstmt, query, read_only_tree, context, params, env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params, env, dest, qc);
}

static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context,
				ParamListInfo params, QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	Oid database = wanted_oid(pstmt->utilityStmt);
	volatile bool done = false;

	sn_handler_check_command(pstmt->utilityStmt);
	if (!OidIsValid(database))
	{
		run_next(pstmt, query, read_only_tree, context, params, env, dest, qc);
		return;
	}

	PG_TRY();
	{
		sn_launcher_hold(database);
		run_next(pstmt, query, read_only_tree, context, params, env, dest, qc);
		done = true;
	}
	PG_FINALLY();
	{
		sn_launcher_release(database, done && IsA(pstmt->utilityStmt, DropdbStmt));
	}
	PG_END_TRY();
}

void
sn_utility_install(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
