/*
 * tenant_scope.c
 *	  What makes a handler with scope = tenant see one tenant only.
 *
 * handle.c calls it once for each tenant of a wave, as its row's role, which row security applies to. The tenant is held in
 * caller.c, where nothing that the handler can execute reaches it. What is left is to keep others' rights away, and to let
 * nothing go from one tenant's call to the next one's:
 *
 *	SECURITY DEFINER functions	would run with the rights of somebody whom row security may not apply to; refused at each
 *								execution (triggers included) by fmgr's hook, which is there during such a call only. The
 *								extension's own check the caller's tenant themselves.
 *	the role					of a superuser, with BYPASSRLS, or with the privileges of a role whose policies show every tenant:
 *								refused before the call
 *	cursors						hold rows that were read for the tenant they were opened for; closed
 *
 * Settings, temporary objects and deferred triggers are handle.c's, as for every handler. What row security doesn't cover
 * (tables without it, views with their owner's rights, sequences, large objects) is the grantor's: tenant_scope_holes() lists it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/syscache.h"

#include "caller.h"
#include "sentinai.h"
#include "spi.h"
#include "tenant_scope.h"

PG_FUNCTION_INFO_V1(sn_tenant_scope_check_role_sql);

static SnStatement read_cursors = {.sql = "SELECT name FROM pg_catalog.pg_cursors WHERE name <> ALL ($1)",
								   .n_args = 1,
								   .args = {TEXTARRAYOID}};

/* Roles that policies of ours show every tenant to. */
static const char *const unbound_roles[] = {"sentinai_admin", "sentinai_platform", "sentinai_handler"};

/* Names of the session's own cursors: text[], of the batch. */
static Datum own_cursors = (Datum) 0;

static bool active = false;
static fmgr_hook_type previous_hook = NULL;

static bool
is_foreign_definer(Oid function)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	bool definer = HeapTupleIsValid(tuple) && ((Form_pg_proc) GETSTRUCT(tuple))->prosecdef;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return definer && getExtensionOfObject(ProcedureRelationId, function) != get_extension_oid("sentinai", true);
}

/* Runs at the start of every function that is SECURITY DEFINER or has settings of its own, after the change of user. */
static void
check_function(FmgrHookEventType event, FmgrInfo *flinfo, Datum *arg)
{
	if (event == FHET_START && is_foreign_definer(flinfo->fn_oid))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("function %s is SECURITY DEFINER and can't run in a handler with scope tenant",
							   get_func_name(flinfo->fn_oid)),
						errdetail("It would run with its owner's rights, and not under the tenant's row security."),
						errhint("Make it SECURITY INVOKER and grant the handler's role what it needs.")));
	if (previous_hook != NULL)
		previous_hook(event, flinfo, arg);
}

static void
read_names(SnColumn *names, Datum except)
{
	uint64 n = sn_execute(&read_cursors, &except, NULL);

	sn_column_init(names, TEXTOID, Max(n, 1));
	for (int row = 0; row < n; row++)
		sn_column_text(names, sn_result_text(row, 1));
}

void
sn_tenant_scope_begin(void)
{
	SnColumn none;
	SnColumn names;

	sn_column_init(&none, TEXTOID, 1);
	read_names(&names, sn_column_array(&none));
	own_cursors = sn_column_array(&names);
}

void
sn_tenant_scope_enter(const char *tenant_id)
{
	Assert(!active);
	sn_hold_tenant(tenant_id);
	previous_hook = fmgr_hook;
	fmgr_hook = check_function;
	active = true;
}

void
sn_tenant_scope_leave(void)
{
	sn_tenant_scope_abort();
	sn_release_tenant();
}

void
sn_tenant_scope_abort(void)
{
	if (active)
		fmgr_hook = previous_hook;
	active = false;
}

/* Rows that a cursor has not given out yet were chosen for the tenant that it was opened for. */
void
sn_tenant_scope_close_cursors(void)
{
	uint64 n = sn_execute(&read_cursors, &own_cursors, NULL);
	char **names = palloc(Max(n, 1) * sizeof(char *));

	for (int row = 0; row < n; row++)
		names[row] = sn_result_text(row, 1);
	for (int row = 0; row < n; row++)
	{
		Portal portal = SPI_cursor_find(names[row]);

		if (portal != NULL && portal->status != PORTAL_ACTIVE)
			SPI_cursor_close(portal);
	}
}

void
sn_tenant_scope_check_role(Oid role)
{
	const char *reason = has_bypassrls_privilege(role) ? "It has BYPASSRLS." : NULL;

	for (int i = 0; i < lengthof(unbound_roles) && reason == NULL; i++)
	{
		Oid unbound = get_role_oid(unbound_roles[i], true);

		if (OidIsValid(unbound) && has_privs_of_role(role, unbound))
			reason = psprintf("It has the privileges of %s, which sees every tenant.", unbound_roles[i]);
	}
	if (reason != NULL)
		ereport(ERROR, (errcode(SN_ERRCODE("SN009")),
						errmsg("role \"%s\" can't run a handler with scope tenant", GetUserNameFromId(role, false)),
						errdetail("%s", reason), errhint("sentinai_tenant_handler is the role for these.")));
}

/* tenant_scope_check_role(role): for handler_add(). */
Datum
sn_tenant_scope_check_role_sql(PG_FUNCTION_ARGS)
{
	sn_tenant_scope_check_role(get_role_oid(text_to_cstring(PG_GETARG_TEXT_PP(0)), false));
	PG_RETURN_VOID();
}
