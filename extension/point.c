/*
 * point.c
 *	  Named points of a debug build (make points): what happens at one is said by the setting sentinai.point.
 *
 * sentinai.point is "NAME ACTION [PASS]": at the PASSth time (the first by default) that this session comes by, once. Actions are
 * the errors below, terminate (what pg_terminate_backend() does), kill (SIGKILL: the server starts anew), and wait, which ends
 * only by the end of the session; application_name says then "at point NAME". Each is logged before it is done.
 */
#include "sentinai.h"

#include <ctype.h>
#include <signal.h>
#include <unistd.h>

#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "point.h"

typedef enum ActionKind
{
	ACTION_ERROR,
	ACTION_TERMINATE,
	ACTION_KILL,
	ACTION_WAIT
} ActionKind;

static const struct Action
{
	const char *name;
	ActionKind kind;
	int sqlerrcode; /* of the error: one of each class, and what a cancelled query raises */
} actions[] = {{"retry", ACTION_ERROR, ERRCODE_T_R_SERIALIZATION_FAILURE},
			   {"permanent", ACTION_ERROR, ERRCODE_INVALID_PARAMETER_VALUE},
			   {"stop", ACTION_ERROR, ERRCODE_DISK_FULL},
			   {"broken", ACTION_ERROR, ERRCODE_INTERNAL_ERROR},
			   {"cancel", ACTION_ERROR, ERRCODE_QUERY_CANCELED},
			   {"terminate", ACTION_TERMINATE, ERRCODE_ADMIN_SHUTDOWN},
			   {"kill", ACTION_KILL, 0},
			   {"wait", ACTION_WAIT, 0}};

/* What the setting says; action NULL: nothing, or it has been done. */
typedef struct Armed
{
	char name[NAMEDATALEN];
	const struct Action *action;
	int passes_left;
} Armed;

static char *setting;
static Armed armed;

/* Put around the section by the linker. */
extern SnPoint __start_sn_points[] __attribute__((visibility("hidden")));
extern SnPoint __stop_sn_points[] __attribute__((visibility("hidden")));

static bool
parse(const char *text, Armed *result)
{
	char action[NAMEDATALEN];
	char name[NAMEDATALEN];

	memset(result, 0, sizeof(Armed));
	result->passes_left = 1;
	if (text == NULL || text[0] == '\0')
		return true;
	if (strlen(text) >= NAMEDATALEN || sscanf(text, "%s %s %d", name, action, &result->passes_left) < 2)
		return false;
	strlcpy(result->name, name, sizeof(result->name));
	for (int i = 0; i < lengthof(actions); i++)
		if (strcmp(actions[i].name, action) == 0)
			result->action = &actions[i];
	return result->action != NULL && result->passes_left > 0;
}

static bool
check_setting(char **newval, void **extra, GucSource source)
{
	Armed ignored;

	if (parse(*newval, &ignored))
		return true;
	GUC_check_errdetail("It is \"NAME ACTION [PASS]\".");
	return false;
}

static void
assign_setting(const char *newval, void *extra)
{
	parse(newval, &armed);
}

void
sn_point_define(void)
{
	DefineCustomStringVariable("sentinai.point", "What goes wrong, and where: NAME ACTION [PASS].", NULL, &setting, "",
							   PGC_SUSET, 0, check_setting, assign_setting, NULL);
}

static void
wait_for_the_end(const char *name)
{
	pgstat_report_appname(psprintf("at point %s", name));
	for (;;)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
act(const char *name, const struct Action *action)
{
	ereport(LOG, (errmsg("point %s: %s", name, action->name), errhidestmt(true), errhidecontext(true)));
	switch (action->kind)
	{
		case ACTION_ERROR:
			ereport(ERROR, (errcode(action->sqlerrcode), errmsg("error made at point %s", name)));
			break;
		case ACTION_TERMINATE:
			ereport(FATAL, (errcode(action->sqlerrcode), errmsg("session ended at point %s", name)));
			break;
		case ACTION_KILL:
			kill(MyProcPid, SIGKILL);
			pause();
			break;
		case ACTION_WAIT:
			wait_for_the_end(name);
			break;
	}
}

void
sn_point_pass(const SnPoint *point)
{
	const struct Action *action = armed.action;

	if (action == NULL || strcmp(armed.name, point->name) != 0)
		return;
	if (point->late && action->kind != ACTION_KILL && action->kind != ACTION_WAIT)
		return;
	if (--armed.passes_left > 0)
		return;
	armed.action = NULL;
	act(point->name, action);
}

/* point(name text) returns void: a point in PL/pgSQL */
PG_FUNCTION_INFO_V1(sn_point);
Datum
sn_point(PG_FUNCTION_ARGS)
{
	SnPoint point = {.name = text_to_cstring(PG_GETARG_TEXT_PP(0))};

	sn_point_pass(&point);
	PG_RETURN_VOID();
}

/* points() returns table (name text, late boolean): those in C */
PG_FUNCTION_INFO_V1(sn_points);
Datum
sn_points(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (SnPoint *point = __start_sn_points; point < __stop_sn_points; point++)
	{
		Datum values[2] = {CStringGetTextDatum(point->name), BoolGetDatum(point->late)};
		bool nulls[2] = {false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
