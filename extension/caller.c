/*
 * caller.c
 *	  Who asks, and for which tenant: what row security, and every function that runs as its owner, go by.
 *
 * The caller is the role that the session acts as (SET ROLE, or else who is logged in), never current_user, which is the
 * owner inside of a SECURITY DEFINER function. Its tenant is, in this order,
 *	  1. the one that is held in C, where nothing in SQL reaches it: for a handler with scope = tenant, and for a report;
 *	  2. that of the role's rows in the table tenant_role;
 *	  3. in sessions of the authenticator (PostgREST's login) the claim tenant_id of the token. Anybody can SET
 *		 request.jwt.claims, so that nowhere else looks at it;
 *	  4. that of the logged-in role's rows in tenant_role: SET ROLE does not lead out of one's tenant.
 * A role with several rows, or with one for every tenant ('*'), has no tenant until it chooses one of them: by the setting
 * sentinai.tenant_id, and in sessions of the authenticator by the claim; one with '*' also by a function's argument. Who logged in as an admin may choose any.
 *
 * What was found out is kept until a role, a membership, tenant_role or one of the settings changes. tenant_role is read like
 * a catalogue: as it is now, whatever the statement's snapshot, so that a binding that was taken away is gone at COMMIT.
 *
 * A security-restricted operation (ANALYZE, an index's function, REFRESH MATERIALIZED VIEW) runs the code of a table's owner
 * in the session of whoever maintains it, a superuser or autovacuum. There nobody has a tenant, nor sees all.
 */
#include "sentinai.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "mb/pg_wchar.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "caller.h"
#include "emit.h"
#include "guc.h"
#include "sentinai_json.h"

PG_FUNCTION_INFO_V1(sn_caller_role_sql);
PG_FUNCTION_INFO_V1(sn_caller_identity_sql);
PG_FUNCTION_INFO_V1(sn_caller_names_tenants_sql);
PG_FUNCTION_INFO_V1(sn_caller_sees_all_sql);
PG_FUNCTION_INFO_V1(sn_current_tenant_sql);
PG_FUNCTION_INFO_V1(sn_tenant_check_sql);
PG_FUNCTION_INFO_V1(sn_tenant_visible_sql);
PG_FUNCTION_INFO_V1(sn_reason_check_sql);

/* Attributes of tenant_role. */
#define ROLE_NAME 1
#define ROLE_TENANT 2

#define EVERY_TENANT "*"
#define CLAIMS "request.jwt.claims"
#define SUBJECT_MAX 255
#define REASON_MAX 1000 /* characters */

typedef struct Claims
{
	char *text;						/* that the rest was read from, NULL: none yet */
	char tenant[SN_TENANT_MAX + 1]; /* '': none */
	char subject[SUBJECT_MAX + 1];	/* sub; '': none */
	bool has_bad_subject;			/* no text, too long for a history, or not to be read */
} Claims;

/* What is known of the caller. */
static struct
{
	uint64 as_of; /* how many changes; see changes */
	Oid role;
	Oid session;
	bool sees_all;
	bool every_tenant;				/* bound to '*' */
	bool authenticated_by_token;	/* logged in as the authenticator */
	char tenant[SN_TENANT_MAX + 1]; /* '': none */
} caller;

static Claims claims;
static uint64 changes = 1;
static Oid tenant_role_relid = InvalidOid;

/* Tenants that are held, the innermost first. */
typedef struct Held
{
	int nest_level; /* of the transaction */
	bool any;		/* false: no tenant at all */
	char tenant[SN_TENANT_MAX + 1];
	struct Held *outer;
} Held;

static Held *held = NULL;

/* ---- what a tenant_role row, a setting and a claim say ---- */

/* What a role may be, by its rows in tenant_role. */
typedef struct Binding
{
	int n;
	bool every;
	bool has_wanted;
	char only[SN_TENANT_MAX + 1]; /* where there is one row */
} Binding;

static void
binding_add(Binding *binding, const char *tenant_id, const char *wanted)
{
	binding->n++;
	if (strcmp(tenant_id, EVERY_TENANT) == 0)
		binding->every = true;
	else
		strlcpy(binding->only, tenant_id, sizeof(binding->only));
	if (strcmp(tenant_id, wanted) == 0)
		binding->has_wanted = true;
}

static void
binding_read(Binding *binding, Oid role, const char *wanted)
{
	NameData name;
	Relation rel = table_open(tenant_role_relid, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	memset(binding, 0, sizeof(Binding));
	namestrcpy(&name, GetUserNameFromId(role, false));
	ScanKeyInit(&key, ROLE_NAME, BTEqualStrategyNumber, F_NAMEEQ, NameGetDatum(&name));
	scan = systable_beginscan(rel, SN_PRIMARY_KEY_INDEX(rel), true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool isnull;
		char *tenant_id = TextDatumGetCString(heap_getattr(tuple, ROLE_TENANT, RelationGetDescr(rel), &isnull));

		binding_add(binding, tenant_id, wanted);
		pfree(tenant_id);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

/* A role's tenant by its rows, '': none (chosen), NULL: it has no rows. */
static const char *
bound_tenant(Oid role, const char *wanted)
{
	static Binding binding;

	binding_read(&binding, role, wanted);
	if (binding.n == 0)
		return NULL;
	caller.every_tenant |= binding.every;
	if (binding.n == 1 && !binding.every)
		return binding.only;
	return binding.every || binding.has_wanted ? wanted : "";
}

static bool
is_tenant_id(const char *text)
{
	size_t len = strlen(text);

	return len > 0 && len <= SN_TENANT_MAX &&
		   strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") == len;
}

/* A string of the token into a buffer; left empty where it is none, or too long. */
static void
claim_string(char *to, size_t size, const sn_json *json, sn_json_token token)
{
	to[0] = '\0';
	if (token == SN_TOKEN_STRING && json->len < size)
		to[sn_json_unescape(json->text, json->len, to)] = '\0';
}

/* Who asks is never cut short, nor left out: such a token is refused, see sn_caller_require_subject(). */
static void
claim_subject(const sn_json *json, sn_json_token token)
{
	claims.subject[0] = '\0';
	claims.has_bad_subject = token != SN_TOKEN_STRING && token != SN_TOKEN_NULL;
	if (token == SN_TOKEN_STRING)
	{
		char *subject = palloc(json->len + 1);

		subject[sn_json_unescape(json->text, json->len, subject)] = '\0';
		claims.has_bad_subject = strlen(subject) > SUBJECT_MAX;
		if (!claims.has_bad_subject)
			strcpy(claims.subject, subject);
		pfree(subject);
	}
}

/* Reads what is needed of the token's claims; of what is no JSON, nothing. */
static void
claims_parse(const char *text)
{
	sn_limits limits = SN_LIMITS_DEFAULT;
	sn_json json;
	sn_json_token token;

	claims.tenant[0] = claims.subject[0] = '\0';
	claims.has_bad_subject = false;
	sn_json_begin(&json, text, strlen(text), &limits);
	while ((token = sn_json_next(&json)) > SN_TOKEN_END)
	{
		bool is_tenant =
			token == SN_TOKEN_KEY && json.depth == 1 && json.len == 9 && memcmp(json.text, "tenant_id", 9) == 0;
		bool is_subject = token == SN_TOKEN_KEY && json.depth == 1 && json.len == 3 && memcmp(json.text, "sub", 3) == 0;

		if (is_tenant)
			claim_string(claims.tenant, sizeof(claims.tenant), &json, sn_json_next(&json));
		else if (is_subject)
			claim_subject(&json, sn_json_next(&json));
	}
	if (token == SN_TOKEN_ERROR || !is_tenant_id(claims.tenant))
		claims.tenant[0] = '\0';
	if (token == SN_TOKEN_ERROR)
	{
		claims.subject[0] = '\0';
		claims.has_bad_subject = text[0] != '\0';
	}
}

/* The claims of the present request; parsed once as long as they stay the same. */
static bool
claims_changed(void)
{
	const char *text = GetConfigOption(CLAIMS, true, false);

	if (text == NULL)
		text = "";
	if (claims.text != NULL && strcmp(text, claims.text) == 0)
		return false;
	if (claims.text != NULL)
		pfree(claims.text);
	claims.text = NULL;
	claims_parse(text);
	claims.text = MemoryContextStrdup(TopMemoryContext, text);
	return true;
}

/* ---- the caller ---- */

static void
caller_forget(void)
{
	changes++;
}

static void
roles_changed(Datum arg, int cacheid, uint32 hash)
{
	caller_forget();
}

static void
relation_changed(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == tenant_role_relid)
		caller_forget();
}

/* The setting was assigned. */
void
sn_caller_setting_changed(const char *newval, void *extra)
{
	caller_forget();
}

bool
sn_caller_tenant_id_check(char **newval, void **extra, GucSource source)
{
	if (**newval == '\0' || is_tenant_id(*newval))
		return true;
	GUC_check_errdetail("A tenant_id has 1 to 64 characters, each one a letter, a digit, \"_\", \".\" or \"-\".");
	return false;
}

/* Uses its privileges: an authenticator that may SET ROLE to an admin is none before it does. */
static bool
is_admin(Oid role)
{
	Oid admin = get_role_oid("sentinai_admin", true);

	return superuser_arg(role) || (OidIsValid(admin) && has_privs_of_role(role, admin));
}

/* The rules at the top of this file, from 2 on. */
static const char *
find_tenant(void)
{
	const char *wanted = caller.authenticated_by_token && claims.tenant[0] != '\0' ? claims.tenant : sn_tenant_id;
	const char *tenant = bound_tenant(caller.role, wanted);

	if (tenant == NULL && caller.authenticated_by_token && claims.tenant[0] != '\0')
		return claims.tenant;
	if (tenant == NULL && caller.session != caller.role)
		tenant = bound_tenant(caller.session, wanted);
	if (tenant == NULL && is_admin(caller.session))
		tenant = wanted;
	return tenant != NULL ? tenant : "";
}

/* Apart from the rest: it is asked for in sessions of databases that have no sentinai, too. */
bool
sn_caller_is_authenticator(void)
{
	static uint64 as_of = 0;
	static Oid session = InvalidOid;
	static bool result = false;

	if (as_of != changes || session != GetSessionUserId())
	{
		uint64 now = changes;

		as_of = 0;
		session = GetSessionUserId();
		result = session == get_role_oid(sn_authenticator, true);
		as_of = now;
	}
	return result;
}

/* Finds everything out. Reads tables, so that it is for transactions only. */
static void
caller_find(void)
{
	/* Counted before anything is read: what changes meanwhile is found out at the next call. */
	uint64 as_of = changes;

	/* What stops this halfway leaves nothing that is believed. */
	caller.as_of = 0;
	caller.role = GetOuterUserId();
	caller.session = GetSessionUserId();
	caller.authenticated_by_token = sn_caller_is_authenticator();
	if (caller.authenticated_by_token)
		claims_changed();
	tenant_role_relid = get_relname_relid("tenant_role", get_namespace_oid(SN_SCHEMA, false));
	if (!OidIsValid(tenant_role_relid))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("table \"sentinai.tenant_role\" does not exist"),
						errhint("ALTER EXTENSION sentinai UPDATE makes it.")));
	caller.sees_all = is_admin(caller.role);
	caller.every_tenant = false;
	strlcpy(caller.tenant, find_tenant(), sizeof(caller.tenant));
	caller.as_of = as_of;
}

static void
caller_know(void)
{
	if (caller.as_of != changes || caller.role != GetOuterUserId() || caller.session != GetSessionUserId() ||
		(caller.authenticated_by_token && claims_changed()))
		caller_find();
}

Oid
sn_caller_role(void)
{
	return GetOuterUserId();
}

void
sn_caller_require_subject(void)
{
	caller_know();
	if (caller.authenticated_by_token && claims.has_bad_subject)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("permission denied: the token does not say who it is"),
				 errdetail("Its claims must be JSON of at most %d levels, its sub a text of at most %d bytes.",
						   SN_LIMITS_DEFAULT.max_depth, SUBJECT_MAX)));
}

char *
sn_caller_identity(void)
{
	sn_caller_require_subject();
	if (!caller.authenticated_by_token)
		return GetUserNameFromId(caller.session, false);
	if (claims.subject[0] != '\0')
		return psprintf("jwt:%s", claims.subject);
	return psprintf("role:%s", GetUserNameFromId(caller.role, false));
}

bool
sn_caller_sees_all(void)
{
	if (held != NULL || InSecurityRestrictedOperation())
		return false;
	if (sn_in_handler())
		return true;
	caller_know();
	return caller.sees_all;
}

bool
sn_caller_session_is_trusted(void)
{
	return sn_caller_is_authenticator() || is_admin(GetSessionUserId());
}

bool
sn_caller_names_tenants(void)
{
	return sn_caller_sees_all() || (held == NULL && !InSecurityRestrictedOperation() && caller.every_tenant);
}

const char *
sn_current_tenant(void)
{
	if (held != NULL)
		return held->any ? held->tenant : NULL;
	if (InSecurityRestrictedOperation() || sn_in_handler())
		return NULL;
	caller_know();
	return caller.tenant[0] != '\0' ? caller.tenant : NULL;
}

/* ---- what may be asked for ---- */

SN_NORETURN static void
refuse_no_tenant(void)
{
	ereport(
		ERROR,
		(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("permission denied: the caller has no tenant"),
		 errhint(
			 "An admin binds a role to its tenant: SELECT sentinai.tenant_role_add(role, tenant_id). A role with several "
			 "chooses one: SET sentinai.tenant_id.")));
}

bool
sn_tenant_visible(const char *tenant_id, int len)
{
	const char *own;

	if (sn_caller_sees_all())
		return true;
	own = sn_current_tenant();
	return own != NULL && tenant_id != NULL && strlen(own) == len && memcmp(own, tenant_id, len) == 0;
}

/* In the same words whether the tenant exists or not. Who may choose any tenant has chosen one by naming it. */
void
sn_tenant_require(const char *tenant_id, int len)
{
	if (!sn_tenant_visible(tenant_id, len) && !sn_caller_names_tenants())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied for tenant \"%.*s\"", pg_mbcliplen(tenant_id, len, 100), tenant_id)));
}

const char *
sn_tenant_check(const char *tenant_id)
{
	const char *own;

	if (tenant_id != NULL)
	{
		sn_tenant_require(tenant_id, strlen(tenant_id));
		return tenant_id;
	}
	own = sn_current_tenant();
	if (own == NULL && !sn_caller_sees_all())
		refuse_no_tenant();
	return own;
}

/* It stands in histories, which lists show whole. */
void
sn_reason_check(const char *reason)
{
	int length = reason ? pg_mbstrlen(reason) : 0;

	if (length > REASON_MAX)
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("reason is too long"),
						errdetail("It has %d characters, and may have %d.", length, REASON_MAX)));
}

/* ---- holding a tenant ---- */

void
sn_hold_tenant(const char *tenant_id)
{
	Held *hold = MemoryContextAllocZero(TopMemoryContext, sizeof(Held));

	hold->nest_level = GetCurrentTransactionNestLevel();
	hold->any = tenant_id != NULL;
	if (tenant_id != NULL)
		strlcpy(hold->tenant, tenant_id, sizeof(hold->tenant));
	hold->outer = held;
	held = hold;
}

void
sn_release_tenant(void)
{
	Held *hold = held;

	if (hold == NULL)
		elog(ERROR, "no tenant is held");
	held = hold->outer;
	pfree(hold);
}

static void
release_from(int nest_level)
{
	while (held != NULL && held->nest_level >= nest_level)
		sn_release_tenant();
}

static void
on_subtransaction(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	int nest_level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB)
		release_from(nest_level);
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		for (Held *hold = held; hold != NULL && hold->nest_level >= nest_level; hold = hold->outer)
			hold->nest_level = nest_level - 1;
}

static void
on_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		release_from(0);
}

void
sn_caller_init(void)
{
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, roles_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, roles_changed, (Datum) 0);
	RegisterSubXactCallback(on_subtransaction, NULL);
	RegisterXactCallback(on_transaction, NULL);
}

/* ---- in SQL ---- */

/* caller_role() returns name */
Datum
sn_caller_role_sql(PG_FUNCTION_ARGS)
{
	Name name = palloc0(NAMEDATALEN);

	namestrcpy(name, GetUserNameFromId(sn_caller_role(), false));
	PG_RETURN_NAME(name);
}

/* caller_identity() returns text */
Datum
sn_caller_identity_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(sn_caller_identity()));
}

/* caller_sees_all() returns boolean */
Datum
sn_caller_sees_all_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(sn_caller_sees_all());
}

/* caller_names_tenants() returns boolean */
Datum
sn_caller_names_tenants_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(sn_caller_names_tenants());
}

static Datum
text_or_null(FunctionCallInfo fcinfo, const char *text)
{
	if (text == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(text));
}

/* current_tenant() returns text */
Datum
sn_current_tenant_sql(PG_FUNCTION_ARGS)
{
	return text_or_null(fcinfo, sn_current_tenant());
}

/* tenant_check(tenant_id text) returns text */
Datum
sn_tenant_check_sql(PG_FUNCTION_ARGS)
{
	return text_or_null(fcinfo, sn_tenant_check(PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0))));
}

/* tenant_visible(tenant_id text) returns boolean */
Datum
sn_tenant_visible_sql(PG_FUNCTION_ARGS)
{
	text *tenant_id = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);

	PG_RETURN_BOOL(tenant_id == NULL ? sn_tenant_visible(NULL, 0)
									 : sn_tenant_visible(VARDATA_ANY(tenant_id), VARSIZE_ANY_EXHDR(tenant_id)));
}

/* reason_check(reason text, call text) returns void; call, where a reason is required: how it is said */
Datum
sn_reason_check_sql(PG_FUNCTION_ARGS)
{
	char *reason = PG_ARGISNULL(0) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(0));

	sn_reason_check(reason);
	if (!PG_ARGISNULL(1) && strspn(reason, " \t\n") == strlen(reason))
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("a reason is required"),
						errhint("SELECT sentinai.%s", text_to_cstring(PG_GETARG_TEXT_PP(1)))));
	PG_RETURN_VOID();
}
