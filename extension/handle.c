/*
 * handle.c
 *	  The fifth step of consume(): calling handlers, in slices and waves, and finding the events that fail.
 *
 * A slice is a part of the batch that runs in one subtransaction; within it an event goes into the first wave after every
 * earlier event of its key that has another handler, and each wave calls each handler once (set-based) or once an event.
 * When a slice fails it is rolled back; the event that failed is taken out if it is known, else the slice is cut in halves.
 * What stands behind a failed event of the same key is parked. What handlers may call (emit, fail) lives in emit.c; what
 * becomes of failures is settle.c's.
 *
 * A handler with scope = tenant is called once for each tenant of a wave (tenant_scope.c holds it to that tenant). Deferred
 * triggers fire under the role and tenant that have deferred them, whenever the next call has others, and at the slice's end.
 *
 * Handlers run as their row's role, with the session's own settings and the database's search_path, under a timer. Whoever
 * calls can't put objects of its own in the place of those that a handler names: they would run with the handler's rights.
 * What handlers leave in the session (settings, advisory locks, LISTENs, temporary objects) is undone after the batch,
 * temporary objects of one tenant before the next. They can't run as a security-restricted operation, which would do some of
 * that, since that forbids deferred constraints.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "caller.h"
#include "circuit.h"
#include "consume.h"
#include "emit.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "guc.h"
#include "handle.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "point.h"
#include "portability/instr_time.h"
#include "sentinai.h"
#include "spi.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "suspect.h"
#include "tenant_scope.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/typcache.h"

/*
 * A backend caches 64 subtransactions; more make every snapshot of every session slower. Batches of this many events never
 * need more.
 */
#define MAX_SLICES 50

/*
 * The handlers of one call may take this many of their time-outs together, and this long in any case; see check_budget().
 * More than the circuit breaker waits for: where all fail alike it ends the call earlier.
 */
#define BUDGET_TIMEOUTS 25
#define BUDGET_MIN_MS 2000

/* A known culprit is taken out and the slice run again this often, then the slice is cut. */
#define MAX_RERUNS 3

/* The settings of consume() that a handler must not see: it gets the session's. */
static const char *const handler_settings[] = {"enable_seqscan", "enable_hashjoin", "enable_mergejoin",
											   "plan_cache_mode", "jit"};

/* Thread of control: set by the timer's signal handler. */
bool sn_rehearsing = false;

static volatile sig_atomic_t handler_timed_out = false;
static TimeoutId handler_timeout = MAX_TIMEOUTS;

/* Whose code runs now: commands that would outlive it are refused (sn_handler_check_command). */
static enum
{
	HANDLER_NONE,	/* ours */
	HANDLER_CALLED, /* a handler */
	HANDLER_FIRING	/* deferred triggers of what a handler has written */
} handler_phase = HANDLER_NONE;

/* Constraints that are deferred from the start, quoted for SET CONSTRAINTS. */
static SnStatement read_deferred_constraints = {
	.sql = "SELECT pg_catalog.string_agg(DISTINCT pg_catalog.format('%I.%I', n.nspname, c.conname), ', ')"
		   " FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace"
		   " WHERE c.condeferred AND n.nspname !~ '^pg_toast|^pg_temp'",
	.n_args = 0};

/* Their names, NULL: there are none; and as of how many changes. */
static char *deferred_constraints = NULL;
static uint64 deferred_constraints_as_of = 0;
static uint64 constraint_changes = 1;

/* What a role has made in the session's temporary schema, as commands that drop it. */
static SnStatement read_temporary_objects = {
	.sql =
		"SELECT pg_catalog.format('DROP %s IF EXISTS %s CASCADE', o.kind, o.name) FROM ("
		"SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE'"
		" ELSE 'TABLE' END AS kind, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, c.relowner AS owner"
		" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
		" WHERE c.relnamespace = pg_catalog.pg_my_temp_schema() AND c.relkind IN ('r', 'p', 'v', 'S', 'f', 'c')"
		" UNION ALL SELECT 'ROUTINE', p.oid::pg_catalog.regprocedure::text, p.proowner FROM pg_catalog.pg_proc p"
		" WHERE p.pronamespace = pg_catalog.pg_my_temp_schema()"
		" UNION ALL SELECT 'TYPE', pg_catalog.format('%I.%I', n.nspname, t.typname), t.typowner"
		" FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace"
		" WHERE t.typnamespace = pg_catalog.pg_my_temp_schema() AND t.typtype IN ('d', 'e', 'r')) o"
		" WHERE o.owner = (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = $1)"
		" ORDER BY o.kind DESC", /* views before what they look at */
	.n_args = 1,
	.args = {TEXTOID}};

/*
 * What a new session has, unless its role or its client say otherwise: those are the caller's to choose.
 */
static SnStatement read_search_path = {
	.sql =
		"SELECT coalesce("
		"(SELECT pg_catalog.substr(c, 13) FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c"
		" WHERE s.setrole = 0 AND c ~ '^search_path=' AND s.setdatabase IN (0, (SELECT d.oid FROM pg_catalog.pg_database d"
		" WHERE d.datname = pg_catalog.current_database())) ORDER BY s.setdatabase DESC LIMIT 1),"
		"(SELECT f.setting FROM pg_catalog.pg_file_settings f WHERE f.name = 'search_path' AND f.applied"
		" ORDER BY f.seqno DESC LIMIT 1),"
		"(SELECT s.boot_val FROM pg_catalog.pg_settings s WHERE s.name = 'search_path'))",
	.n_args = 0};

/* Read once a session, as a new one would. */
static char *search_path = NULL;

/* An object in the session's temporary schema that somebody has made who is no superuser. */
static SnStatement read_strange_object = {
	.sql =
		"SELECT o.name FROM ("
		"SELECT c.relname AS name, c.relowner AS owner FROM pg_catalog.pg_class c"
		" WHERE c.relnamespace = pg_catalog.pg_my_temp_schema()"
		" UNION ALL SELECT p.proname, p.proowner FROM pg_catalog.pg_proc p WHERE p.pronamespace = pg_catalog.pg_my_temp_schema()"
		" UNION ALL SELECT t.typname, t.typowner FROM pg_catalog.pg_type t WHERE t.typnamespace = pg_catalog.pg_my_temp_schema()"
		") o JOIN pg_catalog.pg_roles r ON r.oid = o.owner WHERE NOT r.rolsuper ORDER BY 1 LIMIT 1",
	.n_args = 0};

static SnStatement read_channels = {.sql = "SELECT FROM pg_catalog.pg_listening_channels() LIMIT 1", .n_args = 0};

typedef struct Slice
{
	SnBatch *batch;
	SnWork **works;
	int n;
	int calling;   /* index of the event that a plain handler is at, -1: not known */
	int n_emitted; /* by the last run, also one that was rolled back */

	/* Whose code runs, or ran last; after an error: whose it was. */
	SnHandler *handler; /* NULL: nobody's yet */
	const char *tenant; /* NULL: the handler's scope is all tenants */
} Slice;

/* Who the session was before it became a handler. */
typedef struct Self
{
	Oid user;
	int security;
	int nest_level;
	MemoryContext context;
} Self;

static void
on_handler_timeout(void)
{
	handler_timed_out = true;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

static int
timeout_of(const SnHandler *handler)
{
	return handler->timeout_ms > 0 ? handler->timeout_ms : sn_handler_timeout_ms;
}

static void
start_timer(const SnHandler *handler)
{
	if (handler_timeout == MAX_TIMEOUTS)
		handler_timeout = RegisterTimeout(USER_TIMEOUT, on_handler_timeout);
	handler_timed_out = false;
	enable_timeout_after(handler_timeout, timeout_of(handler));
}

static void
stop_timer(void)
{
	if (handler_timeout != MAX_TIMEOUTS)
		disable_timeout(handler_timeout, false);
}

/* A handler that swallowed the timer's cancellation has had its time all the same. */
static void
check_timer(void)
{
	stop_timer();
	if (handler_timed_out)
	{
		QueryCancelPending = false;
		ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED), errmsg("handler has run out of time")));
	}
}

static Datum
event_datum(const SnEvent *event, TupleDesc desc)
{
	Datum values[9];
	bool nulls[9] = {false};

	values[0] = CStringGetTextDatum(event->event_id);
	values[1] = CStringGetTextDatum(event->event_type);
	values[2] = CStringGetTextDatum(event->tenant_id);
	nulls[3] = event->exception_id == NULL;
	values[3] = nulls[3] ? (Datum) 0 : CStringGetTextDatum(event->exception_id);
	values[4] = TimestampTzGetDatum(event->timestamp);
	nulls[5] = event->correlation_id == NULL;
	values[5] = nulls[5] ? (Datum) 0 : CStringGetTextDatum(event->correlation_id);
	values[6] = Int32GetDatum(event->version);
	values[7] = event->payload;
	nulls[8] = event->metadata == (Datum) 0;
	values[8] = event->metadata;
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* The handler's argument: a sentinai.event, or an array of them. */
static Datum
handler_argument(const SnHandler *handler, SnWork **works, int n)
{
	Oid type = sn_type_oid("event");
	TupleDesc desc = lookup_rowtype_tupdesc(type, -1);
	Datum *events = palloc(n * sizeof(Datum));
	Datum result;

	for (int i = 0; i < n; i++)
		events[i] = event_datum(&works[i]->event, desc);
	ReleaseTupleDesc(desc);
	if (!handler->set_based)
		return events[0];
	result = PointerGetDatum(construct_array(events, n, type, -1, false, TYPALIGN_DOUBLE));
	return result;
}

/* Resolved by schema and name at the first call; PostgreSQL resolves it again when the function changes. */
static void
prepare_handler(SnHandler *handler)
{
	Oid type = sn_type_oid("event");
	const char *type_name = handler->set_based ? "sentinai.event[]" : "sentinai.event";
	SPIPlanPtr plan;

	if (handler->plan != NULL)
		return;
	if (handler->set_based)
		type = get_array_type(type);
	plan =
		SPI_prepare(psprintf("SELECT %s($1::%s)",
							 quote_qualified_identifier(handler->function_schema, handler->function_name), type_name),
					1, &type);
	if (plan == NULL)
		elog(ERROR, "could not prepare the handler: %s", SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	handler->plan = plan;
}

static Oid
handler_role(const SnHandler *handler)
{
	Oid role = get_role_oid(handler->role_name, true);

	if (!OidIsValid(role) || superuser_arg(role))
		ereport(ERROR, (errcode(SN_ERRCODE("SN009")),
						errmsg("handler %s.%s can't run as role \"%s\"", handler->function_schema,
							   handler->function_name, handler->role_name),
						errdetail("%s", OidIsValid(role) ? "The role is a superuser." : "There is no such role."),
						errhint("handler_add(..., role_name => '...') names another role.")));
	if (handler->tenant_scope)
		sn_tenant_scope_check_role(role);
	return role;
}

static void
set_for_handler(const char *name, const char *value)
{
	set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

static bool
has_temporary_schema(void)
{
	return OidIsValid(DatumGetObjectId(OidFunctionCall0(F_PG_MY_TEMP_SCHEMA)));
}

/*
 * What the caller has chosen of this session is no part of a handler: its search_path, and temporary tables and types, which are
 * found before all others. What a superuser has made is trusted.
 */
static void
check_session(void)
{
	if (search_path == NULL)
	{
		sn_execute(&read_search_path, NULL, NULL);
		search_path = MemoryContextStrdup(TopMemoryContext, sn_result_text(0, 1));
	}
	if (has_temporary_schema() && !sn_caller_session_is_trusted() && sn_execute(&read_strange_object, NULL, NULL) > 0)
		ereport(ERROR,
				(errcode(SN_ERRCODE("SN013")), errmsg("handlers can't run in a session that has temporary objects"),
				 errdetail("One of them is \"%s\".", sn_result_text(0, 1)),
				 errhint("DISCARD TEMP takes them away; a new session has none.")));
}

/* The tenant that the handler's call for an event is held to, NULL: none. */
static const char *
scope_of(const SnHandler *handler, const SnWork *work)
{
	return handler->tenant_scope ? work->event.tenant_id : NULL;
}

/*
 * From here on the session acts as the handler's role, with the session's own settings, held to the tenant (if any), under
 * the timer. An error is left to the slice's catch, whose rollback restores all of it but what that catch names.
 */
static void
become_handler(const SnHandler *handler, const char *tenant, Self *self)
{
	Oid role = handler_role(handler);

	self->context = CurrentMemoryContext;
	self->nest_level = NewGUCNestLevel();
	set_for_handler("search_path", search_path);
	for (int i = 0; i < lengthof(handler_settings); i++)
		set_for_handler(handler_settings[i], GetConfigOptionResetString(handler_settings[i]));
	GetUserIdAndSecContext(&self->user, &self->security);
	SetUserIdAndSecContext(role, self->security | SECURITY_LOCAL_USERID_CHANGE);
	if (tenant != NULL)
		sn_tenant_scope_enter(tenant);
	start_timer(handler);
}

static void
become_self(const char *tenant, const Self *self)
{
	handler_phase = HANDLER_NONE;
	check_timer();
	if (tenant != NULL)
		sn_tenant_scope_leave();
	MemoryContextSwitchTo(self->context);
	SetUserIdAndSecContext(self->user, self->security);
	AtEOXact_GUC(false, self->nest_level);
}

/*
 * Calls a handler for n events (1 unless it is set-based; all of the tenant, if one is given).
 */
static void
call_handler(SnHandler *handler, const char *tenant, SnWork **works, int n)
{
	Datum argument = handler_argument(handler, works, n);
	Self self;
	int rc;

	become_handler(handler, tenant, &self);
	handler_phase = HANDLER_CALLED;
	prepare_handler(handler);
	sn_emit_give(works, n, true);
	rc = SPI_execute_plan(handler->plan, &argument, NULL, false, 0);
	SN_POINT("handler.returned");
	if (rc < 0)
		elog(ERROR, "could not call the handler: %s", SPI_result_code_string(rc));
	SPI_freetuptable(SPI_tuptable);
	sn_emit_give(works, n, false);
	become_self(tenant, &self);
}

/* Deferred constraints and triggers fire as the handler's role, and for its tenant, would have them fire at COMMIT. */
static void
fire_deferred(const SnHandler *handler, const char *tenant)
{
	Self self;

	become_handler(handler, tenant, &self);
	handler_phase = HANDLER_FIRING;
	if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) < 0)
		elog(ERROR, "could not fire deferred constraints");
	become_self(tenant, &self);
}

static void
refuse_command(const char *command)
{
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("%s is not allowed in a handler", command),
					errdetail("It would outlive the handler, in a session that is not the handler's role's.")));
}

/*
 * See handle.h. A cursor WITH HOLD and triggers deferred once more would run at COMMIT, as the session's user; a prepared
 * statement could take the place of one of the worker's.
 */
void
sn_handler_check_command(Node *stmt)
{
	if (handler_phase == HANDLER_NONE)
		return;
	switch (nodeTag(stmt))
	{
		case T_DeclareCursorStmt:
			if (castNode(DeclareCursorStmt, stmt)->options & CURSOR_OPT_HOLD)
				refuse_command("DECLARE CURSOR WITH HOLD");
			break;
		case T_ConstraintsSetStmt:
			if (handler_phase == HANDLER_FIRING && castNode(ConstraintsSetStmt, stmt)->deferred)
				refuse_command("SET CONSTRAINTS DEFERRED");
			break;
		case T_PrepareStmt:
			refuse_command("PREPARE");
			break;
		case T_DeallocateStmt:
			refuse_command("DEALLOCATE");
			break;
		case T_DiscardStmt:
			refuse_command("DISCARD");
			break;
		default:
			break;
	}
}

static bool
to_handle(const SnWork *work)
{
	return work->outcome == SN_TODO;
}

/* Puts every event of the slice into its wave; returns how many there are. */
static int
assign_waves(Slice *slice)
{
	int waves = 0;

	for (int i = 0; i < slice->n; i++)
		if (slice->works[i]->key != NULL)
			slice->works[i]->key->handler = NULL;
	for (int i = 0; i < slice->n; i++)
	{
		SnWork *work = slice->works[i];
		SnKey *key = work->key;

		if (!to_handle(work))
			continue;
		work->wave = 0;
		if (key != NULL)
		{
			if (key->handler != NULL && key->handler != work->handler)
				key->wave++;
			else if (key->handler == NULL)
				key->wave = 0;
			key->handler = work->handler;
			work->wave = key->wave;
		}
		waves = Max(waves, work->wave + 1);
	}
	return waves;
}

static void
share_time(SnWork **works, int n, instr_time since)
{
	instr_time now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, since);
	for (int i = 0; i < n; i++)
		works[i]->seconds = INSTR_TIME_GET_DOUBLE(now) / n;
}

/*
 * Many events that run out of time, or are slow, would hold the transaction and its partitions for hours: the batch is
 * given up, and the next one has half of what was done until now. One record and one piece of due work are always done, so
 * it goes on. called: handler calls of this run.
 */
static void
check_budget(Slice *slice, const SnHandler *handler, int called)
{
	SnBatch *batch = slice->batch;
	int64 budget_ms = Max((int64) timeout_of(handler) * BUDGET_TIMEOUTS, BUDGET_MIN_MS);
	int done = called;

	if (batch->n_work <= 2 || GetCurrentTimestamp() - batch->handling_since < budget_ms * 1000)
		return;
	for (int i = 0; i < batch->n_work; i++)
		done += batch->work[i]->handler != NULL && !to_handle(batch->work[i]);
	sn_split(batch, done / 2);
}

static void drop_temporary_objects(const char *role_name);
static void restore_constraints(void);

static bool
same_text(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* Whether a call of the handler for that tenant goes on with the role and tenant of the last call. */
static bool
same_scope(const Slice *slice, const SnHandler *handler, const char *tenant)
{
	return slice->handler != NULL && strcmp(slice->handler->role_name, handler->role_name) == 0 &&
		   same_text(slice->tenant, tenant);
}

/*
 * Ends what the last calls did under one role, and one tenant, if any: afterwards nothing of it is left for others to run, or
 * to read, in this slice or the next.
 */
static void
end_scope(Slice *slice)
{
	slice->calling = -1;
	fire_deferred(slice->handler, slice->tenant);
	if (slice->batch->worker_type->has_tenant_scope)
	{
		sn_tenant_scope_close_cursors();
		drop_temporary_objects(slice->handler->role_name);
	}
}

static void
begin_scope(Slice *slice, SnHandler *handler, const char *tenant)
{
	if (slice->handler != NULL && !same_scope(slice, handler, tenant))
	{
		end_scope(slice);
		restore_constraints();
	}
	slice->handler = handler;
	slice->tenant = tenant;
}

/* One handler's events of one wave (and one tenant, where that is its scope). */
static void
call_group(Slice *slice, int *members, int n)
{
	SnHandler *handler = slice->handler;
	SnWork **works = palloc(n * sizeof(SnWork *));
	instr_time start;

	for (int i = 0; i < n; i++)
		works[i] = slice->works[members[i]];
	if (handler->set_based)
	{
		check_budget(slice, handler, 0);
		INSTR_TIME_SET_CURRENT(start);
		slice->calling = n == 1 ? members[0] : -1;
		call_handler(handler, slice->tenant, works, n);
		share_time(works, n, start);
		return;
	}
	for (int i = 0; i < n; i++)
	{
		check_budget(slice, handler, i);
		INSTR_TIME_SET_CURRENT(start);
		slice->calling = members[i];
		call_handler(handler, slice->tenant, &works[i], 1);
		share_time(&works[i], 1, start);
	}
}

/* Where the wave goes on: with the first event under the present role and tenant, else with the first; n: it is done. */
static int
next_group(Slice *slice, int wave, const bool *done)
{
	int first = slice->n;

	for (int i = 0; i < slice->n; i++)
	{
		SnWork *work = slice->works[i];

		if (done[i] || !to_handle(work) || work->wave != wave)
			continue;
		if (slice->tenant == NULL || same_scope(slice, work->handler, scope_of(work->handler, work)))
			return i;
		first = Min(first, i);
	}
	return first;
}

/* Runs the handlers of one wave, in the order of their first events, tenant by tenant where that is their scope. */
static void
run_wave(Slice *slice, int wave)
{
	bool *done = palloc0(slice->n * sizeof(bool));
	int *members = palloc(slice->n * sizeof(int));
	int first;

	while ((first = next_group(slice, wave, done)) < slice->n)
	{
		SnHandler *handler = slice->works[first]->handler;
		const char *tenant = scope_of(handler, slice->works[first]);
		int n = 0;

		for (int i = first; i < slice->n; i++)
		{
			SnWork *work = slice->works[i];

			if (to_handle(work) && work->wave == wave && work->handler == handler &&
				same_text(scope_of(handler, work), tenant))
			{
				done[i] = true;
				members[n++] = i;
			}
		}
		begin_scope(slice, handler, tenant);
		call_group(slice, members, n);
	}
}

static void
run_waves(Slice *slice)
{
	int waves = assign_waves(slice);

	slice->handler = NULL;
	slice->tenant = NULL;
	for (int wave = 0; wave < waves; wave++)
		run_wave(slice, wave);
	if (slice->handler != NULL)
		end_scope(slice);
}

/* What an error says of the event that met it. Cancellations and class stop are not the event's: they go on up. */
static void
describe_error(ErrorData *error, SnFailure *failure)
{
	bool timed_out = error->sqlerrcode == ERRCODE_QUERY_CANCELED && handler_timed_out;

	failure->step = "handle";
	failure->error_type = timed_out ? "timeout" : sn_condition_name(error->sqlerrcode);
	failure->message = timed_out ? "handler has run out of time" : error->message == NULL ? "" : error->message;
	failure->detail = error->detail != NULL ? error->detail : error->context;
	strlcpy(failure->sqlstate, unpack_sql_state(error->sqlerrcode), sizeof(failure->sqlstate));
	failure->error_class = timed_out ? SN_CLASS_RETRY : sn_error_class(error->sqlerrcode, error->constraint_name);
}

static bool
must_rethrow(const SnBatch *batch, const ErrorData *error, const SnFailure *failure)
{
	return (error->sqlerrcode == ERRCODE_QUERY_CANCELED && !handler_timed_out) || batch->split_size > 0 ||
		   failure->error_class == SN_CLASS_STOP;
}

static void
park_behind(SnBatch *batch, SnWork *failed)
{
	bool behind = false;

	if (failed->key == NULL)
		return;
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];

		if (work == failed)
			behind = true;
		else if (behind && work->key == failed->key && to_handle(work))
			work->outcome = SN_PARKED;
	}
}

/* A replay is one attempt, but what a deadlock took back was none. */
static bool
replay_waits(const SnWork *work)
{
	return work->replay != NULL && strncmp(work->failure.sqlstate, "40", 2) == 0;
}

/* Decides what becomes of an event that failed, and parks what stands behind it. */
void
sn_handle_fail(SnBatch *batch, SnWork *work)
{
	SnFailure *failure = &work->failure;
	SnRetryDecision decision =
		sn_retry_decide(batch->worker_type->name, work->event.tenant_id, work->event.event_type, failure->error_type,
						failure->error_class, work->retry_count, work->first_failed_at);

	if (sn_circuit_trip(batch, work))
		return;
	if (work->first_failed_at == 0)
		work->first_failed_at = batch->now;
	if (replay_waits(work) || (work->replay == NULL && decision.retry))
	{
		work->outcome = SN_RETRYING;
		work->retry_count += work->replay == NULL;
		work->next_attempt_at =
			GetCurrentTimestamp() + Max(decision.delay_ms, work->replay == NULL ? 0 : 1000) * INT64CONST(1000);
	}
	else
		work->outcome = SN_DEAD;
	if (work->key != NULL && (work->outcome == SN_RETRYING || decision.park))
	{
		work->key->blocker = work;
		park_behind(batch, work);
	}
}

/*
 * One run of the slice in a subtransaction. True: it stays, or nothing of it does because fail() named events (their
 * failure is set). False: it was rolled back, and *failure says why.
 */
static bool
try_slice(Slice *slice, SnFailure *failure, bool *named, bool keep)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool ok = true;

	*named = false;
	slice->calling = -1;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	sn_emit_begin(slice->batch, slice->works, slice->n);
	PG_TRY();
	{
		/* A failure's context is the handler's, whoever called us. PG_END_TRY restores it. */
		error_context_stack = NULL;
		SN_POINT("slice.begun");
		run_waves(slice);
		SN_POINT("slice.handled");
		slice->n_emitted = list_length(slice->batch->emits);
		*named = sn_emit_any_failed(slice->works, slice->n);
		if (*named || !keep)
			RollbackAndReleaseCurrentSubTransaction();
		else
			ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		stop_timer();
		handler_phase = HANDLER_NONE;
		sn_tenant_scope_abort();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		describe_error(error, failure);
		if (must_rethrow(slice->batch, error, failure))
		{
			sn_emit_end();
			ReThrowError(error);
		}
		ok = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	sn_emit_end();
	return ok;
}

static void
constraint_changed(Datum arg, int cache, uint32 hash)
{
	constraint_changes++;
}

/* Looking all constraints through takes longer than many a handler: done once, until one changes. */
static void
learn_deferred_constraints(void)
{
	static bool registered = false;
	uint64 as_of = constraint_changes;
	char *names = NULL;

	if (!registered)
	{
		CacheRegisterSyscacheCallback(CONSTROID, constraint_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(NAMESPACEOID, constraint_changed, (Datum) 0);
		registered = true;
	}
	if (sn_execute(&read_deferred_constraints, NULL, NULL) == 1)
		names = sn_result_text(0, 1);
	names = names == NULL ? NULL : MemoryContextStrdup(TopMemoryContext, names);
	if (deferred_constraints != NULL)
		pfree(deferred_constraints);
	deferred_constraints = names;
	deferred_constraints_as_of = as_of;
}

/* SET CONSTRAINTS ALL IMMEDIATE outlives its slice and would refuse legal orders in the next one. */
static void
restore_constraints(void)
{
	if (deferred_constraints_as_of != constraint_changes)
		learn_deferred_constraints();
	if (deferred_constraints != NULL &&
		SPI_execute(psprintf("SET CONSTRAINTS %s DEFERRED", deferred_constraints), false, 0) < 0)
		elog(ERROR, "could not restore deferred constraints");
}

static int
count_to_handle(Slice *slice, int *only)
{
	int n = 0;

	for (int i = 0; i < slice->n; i++)
		if (to_handle(slice->works[i]))
		{
			*only = i;
			n++;
		}
	return n;
}

static void
settle_slice(Slice *slice)
{
	for (int i = 0; i < slice->n; i++)
		if (to_handle(slice->works[i]))
			slice->works[i]->outcome = SN_SUCCEEDED;
	if (++slice->batch->n_slices > MAX_SLICES)
		sn_split(slice->batch, MAX_SLICES);
	restore_constraints();
	SN_POINT("slice.settled");
}

/* Settles the events that fail() named in the last run. */
static void
fail_named(Slice *slice)
{
	for (int i = 0; i < slice->n; i++)
		if (to_handle(slice->works[i]) && slice->works[i]->failure.error_type != NULL)
			sn_handle_fail(slice->batch, slice->works[i]);
}

static void run_slice(SnBatch *batch, SnWork **works, int n);

/* Moves the events of the tenant whose code has failed behind the others, whose order stays; how many others there are. */
static int
part_tenant(Slice *slice)
{
	SnWork **theirs = palloc(slice->n * sizeof(SnWork *));
	int n_others = 0;
	int n_theirs = 0;

	for (int i = 0; i < slice->n; i++)
		if (strcmp(slice->works[i]->event.tenant_id, slice->tenant) == 0)
			theirs[n_theirs++] = slice->works[i];
		else
			slice->works[n_others++] = slice->works[i];
	memcpy(slice->works + n_others, theirs, n_theirs * sizeof(SnWork *));
	pfree(theirs);
	return n_others;
}

/*
 * Cuts a slice in two that are run one after the other: where one tenant's call has failed, into the other tenants' events and
 * its own (a few times: with many tenants that fail halves are found sooner), else in halves.
 */
static void
cut_slice(Slice *slice)
{
	int first = 0;

	if (slice->tenant != NULL && slice->batch->n_parted++ < MAX_RERUNS)
		first = part_tenant(slice);
	if (first == 0)
		first = slice->n / 2;
	run_slice(slice->batch, slice->works, first);
	run_slice(slice->batch, slice->works + first, slice->n - first);
}

/*
 * Handles the events of a slice, in order, whatever it takes: afterwards each of them has succeeded, failed or been
 * parked. Halves run one after the other, so the order per key holds.
 */
static void
run_slice(SnBatch *batch, SnWork **works, int n)
{
	Slice slice = {.batch = batch, .works = works, .n = n, .calling = -1};
	int reruns = 0;

	for (;;)
	{
		SnFailure failure = {0};
		bool named;
		int only = -1;
		int left = count_to_handle(&slice, &only);
		int culprit;

		if (left == 0)
			return;
		CHECK_FOR_INTERRUPTS();
		if (try_slice(&slice, &failure, &named, true))
		{
			if (!named)
			{
				settle_slice(&slice);
				return;
			}
			fail_named(&slice);
			continue;
		}
		culprit = left == 1 ? only : slice.calling;
		SN_POINT("slice.failed");
		if (culprit >= 0)
		{
			works[culprit]->failure = failure;
			sn_handle_fail(batch, works[culprit]);
		}
		if (culprit < 0 || (++reruns > MAX_RERUNS && left > 2))
		{
			cut_slice(&slice);
			return;
		}
	}
}

/* What a handler's role has made in the session's temporary schema; a person's who calls consume() by hand stays. */
static void
drop_temporary_objects(const char *role_name)
{
	Datum role = CStringGetTextDatum(role_name);
	SPITupleTable *rows;
	uint64 n;

	if (!has_temporary_schema())
		return;
	n = sn_execute(&read_temporary_objects, &role, NULL);
	rows = SPI_tuptable;
	for (int row = 0; row < n; row++)
		SPI_execute(SPI_getvalue(rows->vals[row], rows->tupdesc, 1), false, 0);
}

/*
 * Undoes what handlers may have left in the session. In a transaction block the session is a person's, who may hold locks
 * of his own.
 */
static void
clean_session(SnBatch *batch)
{
	for (SnHandler *handler = batch->worker_type->handlers; handler != NULL; handler = handler->next)
		drop_temporary_objects(handler->role_name);
	if (batch->in_block)
		return;
	LockReleaseSession(USER_LOCKMETHOD);
	sn_suspect_keep();
	if (sn_execute(&read_channels, NULL, NULL) == 0)
		Async_UnlistenAll();
}

/*
 * Handles what the earlier steps left to do.
 */
void
sn_handle(SnBatch *batch)
{
	SnWork **works = palloc(Max(batch->n_work, 1) * sizeof(SnWork *));
	int n = 0;

	for (int i = 0; i < batch->n_work; i++)
		if (to_handle(batch->work[i]))
			works[n++] = batch->work[i];
	if (n == 0)
		return;
	check_session();
	batch->handling_since = GetCurrentTimestamp();
	if (batch->worker_type->has_tenant_scope)
		sn_tenant_scope_begin();
	run_slice(batch, works, n);
	SN_POINT("session.dirty");
	clean_session(batch);
}

/*
 * PL/pgSQL keeps the types that a function had when it was first called in the session, by whomever and under whichever
 * search_path. Of ours nobody else may call any.
 */
static void
check_rehearsal(const SnHandler *handler)
{
	if (handler->tenant_scope || strcmp(handler->function_schema, SN_SCHEMA) == 0 || sn_caller_session_is_trusted())
		return;
	ereport(
		ERROR,
		(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
		 errmsg("permission denied to rehearse handler %s.%s", handler->function_schema, handler->function_name),
		 errdetail(
			 "It sees every tenant's rows, and who is logged in could have prepared this session to see them, too."),
		 errhint(
			 "Rehearse over HTTP, or log in as an admin. A handler with scope tenant sees that tenant's rows only.")));
}

/* What a rehearsal refuses before a handler is called: the part of the screen that one event needs. */
static bool
prepare_rehearsal(SnBatch *batch, SnWork *work, SnRehearsal *rehearsal)
{
	SnEventError error;
	SnEventTypeEntry *type;

	if (!sn_event_parse(rehearsal->value, rehearsal->len, rehearsal->record_ts == 0 ? batch->now : rehearsal->record_ts,
						rehearsal->tenant_id, &work->event, &error))
	{
		work->failure = (SnFailure){
			.error_type = error.error_type, .message = error.message, .detail = error.detail, .sqlstate = "SN006"};
		return false;
	}
	if (rehearsal->tenant_id != NULL)
		work->event.tenant_id = pstrdup(rehearsal->tenant_id);
	if (rehearsal->event_id != NULL)
		work->event.event_id = pstrdup(rehearsal->event_id);
	if (rehearsal->event_timestamp != 0)
		work->event.timestamp = rehearsal->event_timestamp;
	type = sn_event_type_get(batch->worker_type, work->event.event_type);
	if (work->event.event_id == NULL || type == NULL || type->handler == NULL)
	{
		work->failure = (SnFailure){.error_type = type == NULL ? "unknown_event_type" : "handler_missing",
									.message = type == NULL ? "event type is not known" : "event type has no handler",
									.sqlstate = "SN005"};
		return false;
	}
	work->handler = type->handler;
	return true;
}

/*
 * See handle.h.
 */
void
sn_handle_rehearse(SnRehearsal *rehearsal)
{
	SnBatch *batch = palloc0(sizeof(SnBatch));
	SnWork *work;
	SnFailure failure = {0};
	bool named = false;

	batch->context = CurrentMemoryContext;
	batch->now = GetCurrentTimestamp();
	batch->worker_type = sn_worker_type_get(rehearsal->worker_type);
	if (batch->worker_type == NULL)
		ereport(ERROR,
				(errcode(SN_ERRCODE("SN002")), errmsg("worker type \"%s\" is not known", rehearsal->worker_type)));
	work = sn_batch_add_work(batch);
	rehearsal->ok = prepare_rehearsal(batch, work, rehearsal);
	if (rehearsal->ok)
	{
		Slice slice = {.batch = batch, .works = batch->work, .n = 1, .calling = -1};

		check_rehearsal(work->handler);
		check_session();
		sn_claim_index(batch);
		if (batch->worker_type->has_tenant_scope)
			sn_tenant_scope_begin();
		sn_rehearsing = true;
		PG_TRY();
		{
			rehearsal->ok = try_slice(&slice, &failure, &named, false) && !named;
		}
		PG_FINALLY();
		{
			sn_rehearsing = false;
		}
		PG_END_TRY();
		if (!rehearsal->ok && !named)
			work->failure = failure;
		rehearsal->n_emitted = slice.n_emitted;
	}
	rehearsal->error_type = work->failure.error_type;
	rehearsal->error_message = work->failure.message;
	rehearsal->error_detail = work->failure.detail;
	strlcpy(rehearsal->sqlstate, work->failure.sqlstate, sizeof(rehearsal->sqlstate));
}
