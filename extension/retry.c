/*
 * retry.c
 *	  What an error means, and when the event that met it is tried again.
 *
 * Here: error classes by SQLSTATE, condition names, and the retry policy that decides about one failure. The tables with a
 * site's own classes and policies are in sql/35_retry.sql; both are read at a failure only, and what was read is kept in
 * the backend until one of the tables changes. Not here: writing the failure down (settle, dead_letter.c), finding due
 * work (consume), naming a time-out (the handler's caller knows whose timer fired).
 */
#include "sentinai.h"

#include <math.h>

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "caller.h"
#include "common/pg_prng.h"
#include "funcapi.h"
#include "retry.h"
#include "spi.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(sn_retry_delay);
PG_FUNCTION_INFO_V1(sn_condition_name_sql);
PG_FUNCTION_INFO_V1(sn_error_class_sql);
PG_FUNCTION_INFO_V1(sn_error_class_list);

/* ---------- error classes ---------- */

typedef struct ErrorClass
{
	char prefix[6];
	bool constraint_needed; /* counts only where the error names a constraint */
	SnErrorClass class;
} ErrorClass;

/* The longest prefix that fits decides; what none fits is retry. */
static const ErrorClass error_classes[] = {
	{"08", false, SN_CLASS_STOP},		  /* connection exception */
	{"22", false, SN_CLASS_PERMANENT},	  /* data exception */
	{"23502", false, SN_CLASS_PERMANENT}, /* not_null_violation */
	{"23503", false, SN_CLASS_RETRY},	  /* foreign_key_violation: the other row may be on its way */
	{"23505", false, SN_CLASS_RETRY},	  /* unique_violation: a race, or an order */
	{"23514", true, SN_CLASS_PERMANENT},  /* check_violation; without a constraint's name: a missing partition */
	{"23P01", false, SN_CLASS_RETRY},	  /* exclusion_violation */
	{"25006", false, SN_CLASS_STOP},	  /* read_only_sql_transaction: this is a standby */
	{"40", false, SN_CLASS_RETRY},		  /* transaction rollback: deadlock, serialization */
	{"42", false, SN_CLASS_BROKEN},		  /* syntax error or access rule violation */
	{"53", false, SN_CLASS_STOP},		  /* insufficient resources */
	{"55P03", false, SN_CLASS_RETRY},	  /* lock_not_available */
	{"57", false, SN_CLASS_STOP},		  /* operator intervention */
	{"58", false, SN_CLASS_STOP},		  /* system error */
	{"P0001", false, SN_CLASS_RETRY},	  /* raise_exception: the handler's own word */
	{"SN006", false, SN_CLASS_PERMANENT}, /* validation_error */
	{"SN061", false, SN_CLASS_PERMANENT}, /* idempotency_mismatch: the request stays another one */
	{"XX", false, SN_CLASS_BROKEN},		  /* internal error */
};

static const char *const class_names[] = {[SN_CLASS_PERMANENT] = "permanent",
										  [SN_CLASS_RETRY] = "retry",
										  [SN_CLASS_STOP] = "stop",
										  [SN_CLASS_BROKEN] = "broken"};

/* Error types without a SQLSTATE that no retry can help: the event itself is at fault. */
static const char *const permanent_types[] = {"validation_error", "unknown_event_type", "id_conflict",
											  "tenant_mismatch", "header_mismatch"};

/* ---------- what was read from the tables ---------- */

typedef struct RetryPolicy
{
	int max_retries;
	double base_ms;
	double factor;
	double max_ms;
	double jitter;
	double deadline_ms; /* negative: none */
	bool park;
} RetryPolicy;

/* Texts longer than these are looked up each time. A missing one is "". */
typedef struct PolicyKey
{
	char tenant_id[65];
	char worker_type[64];
	char event_type[256];
	char error_type[128];
} PolicyKey;

typedef struct PolicyEntry
{
	PolicyKey key;
	RetryPolicy policy;
} PolicyEntry;

#define MAX_CACHED_POLICIES 1000

static const char *const cached_tables[] = {"retry_policy", "retry_policy_override", "error_class_override"};

static bool cache_valid = false; /* cleared at any time by an invalidation */
static Oid cached_relids[lengthof(cached_tables)];
static MemoryContext cache_context = NULL; /* lives with the backend, reset when a table changed */
static HTAB *policies;					   /* PolicyEntry, in cache_context */
static ErrorClass *overrides;			   /* in cache_context */
static int n_overrides;

static SnStatement read_overrides = {.sql = "SELECT sqlstate_prefix, class FROM sentinai.error_class_override",
									 .n_args = 0};

static SnStatement read_policy = {
	.sql = "SELECT max_retries, 1000 * extract(epoch FROM base_delay)::float8, factor,"
		   " 1000 * extract(epoch FROM max_delay)::float8, jitter,"
		   " coalesce(1000 * extract(epoch FROM deadline)::float8, -1), after_dead_letter = 'park'"
		   " FROM sentinai.retry_policy_for($1, $2, $3, $4)",
	.n_args = 4,
	.args = {TEXTOID, TEXTOID, TEXTOID, TEXTOID}};

static void
retry_config_invalidated(Datum arg, Oid relid)
{
	for (int i = 0; i < lengthof(cached_tables); i++)
		if (!OidIsValid(relid) || relid == cached_relids[i])
			cache_valid = false;
}

void
sn_retry_init(void)
{
	CacheRegisterRelcacheCallback(retry_config_invalidated, (Datum) 0);
}

/* The class of that name; the table's CHECK knows the same names. */
static SnErrorClass
class_by_name(const char *name)
{
	for (int i = 0; i < lengthof(class_names); i++)
		if (strcmp(class_names[i], name) == 0)
			return (SnErrorClass) i;
	elog(ERROR, "unknown error class \"%s\"", name);
}

/* Starts an empty cache where there is none that counts. SPI is connected. */
static void
cache_refresh(void)
{
	HASHCTL ctl = {.keysize = sizeof(PolicyKey), .entrysize = sizeof(PolicyEntry)};

	if (cache_valid)
		return;
	if (cache_context == NULL)
		cache_context = AllocSetContextCreate(TopMemoryContext, "sentinai retry policies", ALLOCSET_SMALL_SIZES);
	MemoryContextReset(cache_context);
	for (int i = 0; i < lengthof(cached_tables); i++)
		cached_relids[i] = get_relname_relid(cached_tables[i], get_namespace_oid(SN_SCHEMA, false));
	ctl.hcxt = cache_context;
	policies = hash_create("sentinai retry policies", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	/* A change that arrives while the tables are read clears this again. */
	cache_valid = true;
	n_overrides = (int) sn_execute(&read_overrides, NULL, NULL);
	overrides = MemoryContextAllocZero(cache_context, (n_overrides + 1) * sizeof(ErrorClass));
	for (int i = 0; i < n_overrides; i++)
	{
		strlcpy(overrides[i].prefix, sn_result_text(i, 1), sizeof(overrides[i].prefix));
		overrides[i].class = class_by_name(sn_result_text(i, 2));
	}
}

/* The entry of a list with the longest prefix that fits, NULL where none does. */
static const ErrorClass *
longest_prefix(const ErrorClass *classes, int n, const char *sqlstate, bool names_constraint)
{
	const ErrorClass *best = NULL;

	for (int i = 0; i < n; i++)
	{
		size_t len = strlen(classes[i].prefix);

		if (strncmp(classes[i].prefix, sqlstate, len) != 0 || (classes[i].constraint_needed && !names_constraint))
			continue;
		if (best == NULL || len > strlen(best->prefix))
			best = &classes[i];
	}
	return best;
}

SnErrorClass
sn_error_class(int sqlerrcode, const char *constraint_name)
{
	char sqlstate[6];
	bool names_constraint = constraint_name != NULL && constraint_name[0] != '\0';
	const ErrorClass *installed;
	const ErrorClass *own;

	strlcpy(sqlstate, unpack_sql_state(sqlerrcode), sizeof(sqlstate));
	installed = longest_prefix(error_classes, lengthof(error_classes), sqlstate, names_constraint);
	SPI_connect();
	cache_refresh();
	own = longest_prefix(overrides, n_overrides, sqlstate, names_constraint);
	SPI_finish();
	if (own != NULL && (installed == NULL || strlen(own->prefix) >= strlen(installed->prefix)))
		return own->class;
	return installed != NULL ? installed->class : SN_CLASS_RETRY;
}

SnErrorClass
sn_error_type_class(const char *error_type)
{
	for (int i = 0; i < lengthof(permanent_types); i++)
		if (strcmp(permanent_types[i], error_type) == 0)
			return SN_CLASS_PERMANENT;
	return SN_CLASS_RETRY;
}

/* ---------- condition names ---------- */

typedef struct Condition
{
	char sqlstate[6];
	const char *name;
} Condition;

static const Condition conditions[] = {
#define X(symbol, code, name) {code, name},
	SN_ERRCODES(X)
#undef X
#include "error_conditions.h"
};

const char *
sn_condition_name(int sqlerrcode)
{
	const char *sqlstate = unpack_sql_state(sqlerrcode);

	for (int i = 0; i < lengthof(conditions); i++)
		if (strcmp(conditions[i].sqlstate, sqlstate) == 0)
			return conditions[i].name;
	return pstrdup(sqlstate);
}

/* ---------- the policy's decision ---------- */

static void
policy_read(const char *tenant_id, const char *worker_type, const char *event_type, const char *error_type,
			RetryPolicy *policy)
{
	const char *texts[] = {tenant_id, worker_type, event_type, error_type};
	Datum values[4];
	char nulls[5] = "    ";
	bool isnull;

	for (int i = 0; i < 4; i++)
	{
		if (texts[i] == NULL)
			nulls[i] = 'n';
		else
			values[i] = CStringGetTextDatum(texts[i]);
	}
	sn_execute(&read_policy, values, nulls);
	sn_result_datum(0, 1, &isnull);
	if (isnull) /* the function's row is a row of NULLs */
		ereport(
			ERROR,
			(errcode(SN_ERRCODE("SN011")), errmsg("there is no retry policy"),
			 errhint(
				 "Somebody deleted the installed row of sentinai.retry_policy; SELECT sentinai.retry_policy_set() makes one for everything.")));
	policy->max_retries = sn_result_int32(0, 1);
	policy->base_ms = DatumGetFloat8(sn_result_datum(0, 2, &isnull));
	policy->factor = DatumGetFloat8(sn_result_datum(0, 3, &isnull));
	policy->max_ms = DatumGetFloat8(sn_result_datum(0, 4, &isnull));
	policy->jitter = DatumGetFloat8(sn_result_datum(0, 5, &isnull));
	policy->deadline_ms = DatumGetFloat8(sn_result_datum(0, 6, &isnull));
	policy->park = sn_result_bool(0, 7);
}

/* One column of the key; false where it doesn't fit. */
static bool
key_set(char *field, size_t size, const char *value)
{
	return strlcpy(field, value != NULL ? value : "", size) < size;
}

/* The policy that decides about such a failure. SPI is connected. */
static void
policy_get(const char *tenant_id, const char *worker_type, const char *event_type, const char *error_type,
		   RetryPolicy *policy)
{
	PolicyKey key;
	PolicyEntry *entry;

	cache_refresh();
	memset(&key, 0, sizeof(key));
	if (!key_set(key.tenant_id, sizeof(key.tenant_id), tenant_id) ||
		!key_set(key.worker_type, sizeof(key.worker_type), worker_type) ||
		!key_set(key.event_type, sizeof(key.event_type), event_type) ||
		!key_set(key.error_type, sizeof(key.error_type), error_type))
	{
		policy_read(tenant_id, worker_type, event_type, error_type, policy);
		return;
	}
	entry = hash_search(policies, &key, HASH_FIND, NULL);
	if (entry != NULL)
	{
		*policy = entry->policy;
		return;
	}
	policy_read(tenant_id, worker_type, event_type, error_type, policy);

	/* Error types are any text that a handler writes: the cache may not grow with them. */
	if (cache_valid && hash_get_num_entries(policies) < MAX_CACHED_POLICIES)
	{
		entry = hash_search(policies, &key, HASH_ENTER, NULL);
		entry->policy = *policy;
	}
}

/* Delay before the retry of that number, jitter aside. */
static double
policy_delay_ms(const RetryPolicy *policy, int retry)
{
	return Min(policy->base_ms * pow(policy->factor, retry - 1), policy->max_ms);
}

SnRetryDecision
sn_retry_decide(const char *worker_type, const char *tenant_id, const char *event_type, const char *error_type,
				SnErrorClass error_class, int retries_used, TimestampTz first_failed_at)
{
	SnRetryDecision decision = {0};
	RetryPolicy policy;
	TimestampTz now = GetCurrentTimestamp();
	double delay;
	double waited_ms;

	policy_get(tenant_id, worker_type, event_type, error_type, &policy);
	decision.park = policy.park;
	if (error_class == SN_CLASS_PERMANENT || retries_used >= policy.max_retries)
		return decision;

	delay = policy_delay_ms(&policy, retries_used + 1);
	delay *= 1 + policy.jitter * (2 * pg_prng_double(&pg_global_prng_state) - 1);
	waited_ms = first_failed_at != 0 ? (now - first_failed_at) / 1000.0 : 0;
	if (policy.deadline_ms >= 0 && waited_ms + delay > policy.deadline_ms)
		return decision;
	decision.retry = true;
	decision.delay_ms = (int64) rint(delay);
	return decision;
}

/* ---------- the same for SQL ---------- */

/* retry_delay(retry_count, worker_type, tenant_id, event_type, error_type) returns interval */
Datum
sn_retry_delay(PG_FUNCTION_ARGS)
{
	RetryPolicy policy;
	Interval *delay;
	int retry;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	retry = PG_GETARG_INT32(0);
	if (retry < 1)
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("retry_count must be at least 1"),
						errhint("1 is the first retry.")));
	if (!PG_ARGISNULL(2))
		sn_tenant_check(sn_text_arg(fcinfo, 2));
	SPI_connect();
	policy_get(sn_text_arg(fcinfo, 2), sn_text_arg(fcinfo, 1), sn_text_arg(fcinfo, 3), sn_text_arg(fcinfo, 4), &policy);
	SPI_finish();
	if (retry > policy.max_retries)
		PG_RETURN_NULL();
	delay = palloc0(sizeof(Interval));
	delay->time = (TimeOffset) rint(policy_delay_ms(&policy, retry) * 1000);
	PG_RETURN_INTERVAL_P(delay);
}

/* A SQLSTATE given as text. */
static int
sqlstate_arg(FunctionCallInfo fcinfo, int n)
{
	char *code = text_to_cstring(PG_GETARG_TEXT_PP(n));

	if (strlen(code) != 5 || strspn(code, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") != 5)
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("\"%s\" is not a SQLSTATE", code),
						errhint("A SQLSTATE is five digits or capital letters, such as 23505.")));
	return SN_ERRCODE(code);
}

/* condition_name(sqlstate) returns text */
Datum
sn_condition_name_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(sn_condition_name(sqlstate_arg(fcinfo, 0))));
}

/* error_class(sqlstate, constraint_name) returns text */
Datum
sn_error_class_sql(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(class_names[sn_error_class(sqlstate_arg(fcinfo, 0), sn_text_arg(fcinfo, 1))]));
}

static void
put_error_class(ReturnSetInfo *rsinfo, const ErrorClass *class, bool builtin)
{
	Datum values[4] = {CStringGetTextDatum(class->prefix), BoolGetDatum(class->constraint_needed),
					   CStringGetTextDatum(class_names[class->class]), BoolGetDatum(builtin)};
	bool nulls[4] = {false};

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* error_class_list() returns setof (sqlstate_prefix, constraint_needed, class, builtin) */
Datum
sn_error_class_list(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	cache_refresh();
	SPI_finish();
	for (int i = 0; i < n_overrides; i++)
		put_error_class(rsinfo, &overrides[i], false);
	for (int i = 0; i < lengthof(error_classes); i++)
		put_error_class(rsinfo, &error_classes[i], true);
	return (Datum) 0;
}
