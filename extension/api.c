/*
 * api.c
 *	  What runs before each request over HTTP: PostgREST's db-pre-request.
 *
 * It is on the way of every request, so it is C, with no statement of SQL in it: the tenant from caller.c, the decision
 * from rate_limit.c, the count of the call in usage_count.c. All of them work in a transaction that is READ ONLY, and none
 * needs rights on a table. The headers of the answer are the setting response.headers, which PostgREST reads at the end of
 * the request; an error takes them along (api_error.c).
 *
 * An answer 429 is no line in the server's log: whoever asks in a loop would fill it. Refused calls are counted in
 * metrics(), rate_limit_usage() and usage.
 *
 * And what the functions of sentinai_api that are C share (api_dlq.c): how an argument is refused.
 */
#include "sentinai.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "pgtime.h"
#include "utils/acl.h"
#include "utils/catcache.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "api.h"
#include "api_error.h"
#include "caller.h"
#include "rate_limit.h"
#include "usage_count.h"

PG_FUNCTION_INFO_V1(sn_api_pre_request);

#define LIMIT_TYPE "api_requests"
#define USAGE_TYPE "api_calls"
#define RESOURCE_MAX 100 /* characters, as the next */
#define SHOWN_MAX 100
#define RPC "/rpc/"

/* The same as sentinai.api_wrong(). */
void
sn_api_wrong(const char *name, const char *value, const char *must)
{
	int shown = value == NULL ? 0 : pg_mbcharcliplen(value, strlen(value), SHOWN_MAX);

	ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("%s must be %s", name, must),
					value == NULL ? errdetail("It is missing.") : errdetail("It is %.*s.", shown, value)));
}

int64
sn_api_seconds_until(TimestampTz at)
{
	return Max((at - sn_now() + USECS_PER_SEC - 1) / USECS_PER_SEC, 0);
}

/*
 * PostgREST asks the database for a list of any name, and only then learns that there is none. Of a name that is too long to be
 * one the catalogue's cache would keep a piece for each time that it is asked.
 */
static bool
path_is_known(const char *path)
{
	Oid schema = get_namespace_oid("sentinai_api", true);

	return strchr(path + 1, '/') != NULL ||
		   (OidIsValid(schema) && strlen(path + 1) < NAMEDATALEN && OidIsValid(get_relname_relid(path + 1, schema)));
}

/* What the call is counted as: "GET /rpc/dlq_list". A resource is a row a minute: names that callers think of are one. */
static char *
resource_name(void)
{
	const char *method = GetConfigOption("request.method", true, false);
	const char *path = GetConfigOption("request.path", true, false);
	char *name;

	if (path != NULL && path[0] == '/' && path[1] != '\0' && !path_is_known(path))
		path = "(unknown)";
	name = psprintf("%s%s%s", method ? method : "", method != NULL && path != NULL ? " " : "", path ? path : "");

	name[pg_mbcharcliplen(name, strlen(name), RESOURCE_MAX)] = '\0';
	return name;
}

static void
set_local(const char *name, const char *value)
{
	set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/* The headers RateLimit and RateLimit-Policy, of draft-ietf-httpapi-ratelimit-headers, and others in front of them. */
static void
set_headers(const SnRateLimit *state, const char *others)
{
	set_local("response.headers",
			  psprintf("[%s{\"RateLimit\": \"\\\"" LIMIT_TYPE "\\\";r=" INT64_FORMAT ";t=" INT64_FORMAT "\"},"
					   " {\"RateLimit-Policy\": \"\\\"" LIMIT_TYPE "\\\";q=" INT64_FORMAT ";w=%d\"}]",
					   others, state->allowed ? state->remaining : 0,
					   Max(sn_api_seconds_until(state->reset_at), state->allowed ? 0 : 1), state->limit,
					   state->window_seconds));
}

/* What a function of this request is to answer in its own stead, until the transaction ends; NULL: nothing. */
static char *limited_answer = NULL;

static void
limited_answer_forget(void *arg)
{
	limited_answer = NULL;
}

const char *
sn_api_limited(void)
{
	return limited_answer;
}

/*
 * Whether the request is for a function that asks sn_api_limited() first. An error makes nginx answer in PostgREST's stead, and
 * close the connection to it, which costs more than all else of a 429.
 */
static bool
answers_itself(void)
{
	static const char *const paths[] = {"/rpc/dlq_list", "/rpc/dlq_get"};
	const char *method = GetConfigOption("request.method", true, false);
	const char *path = GetConfigOption("request.path", true, false);

	for (int i = 0; i < lengthof(paths); i++)
		if (method != NULL && path != NULL && strcmp(method, "GET") == 0 && strcmp(path, paths[i]) == 0)
			return true;
	return false;
}

static void
answer_limited(const SnRateLimit *state, const char *body)
{
	MemoryContextCallback *forget = MemoryContextAllocZero(TopTransactionContext, sizeof(MemoryContextCallback));

	forget->func = limited_answer_forget;
	MemoryContextRegisterResetCallback(TopTransactionContext, forget);
	limited_answer = MemoryContextStrdup(TopTransactionContext, body);
	set_local("response.status", "429");
	set_headers(state, psprintf("{\"Retry-After\": \"" INT64_FORMAT "\"}, {\"Cache-Control\": \"no-store\"}, ",
								Max(sn_api_seconds_until(state->reset_at), 1)));
}

/* The runbook's words and body. As an error, api_error.c makes the answer 429 of them. */
static void
limit_request(const SnRateLimit *state)
{
	char *body = sn_rate_limit_answer(LIMIT_TYPE, state);
	ErrorData error = {.elevel = ERROR,
					   .output_to_server = false,
					   .output_to_client = true,
					   .filename = __FILE__,
					   .lineno = __LINE__,
					   .funcname = __func__,
					   .sqlerrcode = SN_ERRCODE("SN040"),
					   .message = sn_rate_limit_words(LIMIT_TYPE, state),
					   .detail = body,
					   .hint = psprintf("Try again at %s.", sn_rate_limit_reset_at(state)),
					   .assoc_context = CurrentMemoryContext};

	if (!answers_itself())
		ReThrowError(&error);
	answer_limited(state, body);
}

/* ---- words behind the "?" ---- */

/* The function that a GET is for, where the caller's role may call it: to others nothing is said of it. NULL: none. */
static HeapTuple
called_function(void)
{
	const char *method = GetConfigOption("request.method", true, false);
	const char *path = GetConfigOption("request.path", true, false);
	Oid schema = get_namespace_oid("sentinai_api", true);
	HeapTuple found = NULL;
	CatCList *list;

	if (method == NULL || path == NULL || strcmp(method, "GET") != 0 || strncmp(path, RPC, strlen(RPC)) != 0)
		return NULL;
	/* The HEAD of a download, whose GET is a POST here. */
	if (strncmp(path, RPC "report_download_head", strlen(RPC "report_download_head")) == 0)
		return NULL;
	list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(path + strlen(RPC)));
	for (int i = 0; i < list->n_members && found == NULL; i++)
	{
		HeapTuple tuple = &list->members[i]->tuple;
		Form_pg_proc function = (Form_pg_proc) GETSTRUCT(tuple);

		if (function->pronamespace == schema && SN_PROC_ACLCHECK(function->oid, sn_caller_role()) == ACLCHECK_OK)
			found = heap_copytuple(tuple);
	}
	ReleaseSysCacheList(list);
	return found;
}

/* The words that it takes, NULL at the end: its arguments, limit for p_limit. How many of them are of the path. */
static int
known_words(HeapTuple function, char ***words)
{
	Form_pg_proc form = (Form_pg_proc) GETSTRUCT(function);
	bool isnull;
	Datum names = SysCacheGetAttr(PROCOID, function, Anum_pg_proc_proargnames, &isnull);
	bool no_modes;
	Datum modes = SysCacheGetAttr(PROCOID, function, Anum_pg_proc_proargmodes, &no_modes);
	int n = isnull ? 0 : get_func_input_arg_names(names, no_modes ? (Datum) 0 : modes, words);

	*words = n == 0 ? palloc(sizeof(char *)) : repalloc(*words, (n + 1) * sizeof(char *));
	for (int i = 0; i < n; i++)
	{
		char *name = (*words)[i] ? (*words)[i] : "";

		(*words)[i] = strncmp(name, "p_", 2) == 0 ? name + 2 : name;
	}
	(*words)[n] = NULL;
	return form->pronargs - form->pronargdefaults;
}

static bool
is_known(const char *word, int len, char *const *words)
{
	for (; *words != NULL; words++)
		if (strlen(*words) == len && memcmp(*words, word, len) == 0)
			return true;
	return false;
}

SN_NORETURN static void
refuse_word(const char *word, int len, char *const *words)
{
	StringInfoData known;

	initStringInfo(&known);
	for (; *words != NULL; words++)
		if (strcmp(*words, "id") != 0)
			appendStringInfo(&known, "%s%s", known.len == 0 ? "" : ", ", *words);
	ereport(ERROR, (errcode(SN_ERRCODE("SN001")),
					errmsg("unknown query parameter \"%.*s\"", pg_mbcliplen(word, len, SHOWN_MAX), word),
					known.len == 0 ? errhint("This path takes none.") : errhint("This path takes %s.", known.data)));
}

/*
 * A filter with a slip in its name would be no filter. Only a GET is looked at: the body of a POST may have fields that its
 * function doesn't know, and so may its query. What takes none (health, metrics) answers whatever a probe or a cache has
 * added. Words count as they came, as nginx reads them.
 */
static void
check_words(void)
{
	const char *query = sn_api_query();
	HeapTuple function;
	char **words;
	int in_path;

	if (query == NULL || *query == '\0' || (function = called_function()) == NULL)
		return;
	in_path = known_words(function, &words);
	while (words[0] != NULL && *query != '\0')
	{
		int len = strcspn(query, "&");
		int name_len = Min(strcspn(query, "="), len);

		if (name_len > 0 && !is_known(query, name_len, words))
			refuse_word(query, name_len, words + in_path);
		query += len + (query[len] == '&');
	}
}

/* ---- before each request ---- */

/* Times in answers are UTC's, wherever the server is, and so are those of a request that says no zone. */
static void
set_time_zone(void)
{
	if (strcmp(pg_get_timezone_name(session_timezone), "UTC") != 0)
		set_local("TimeZone", "UTC");
}

/*
 * api_pre_request() returns void: charges the caller's tenant one of its api_requests. Who has no tenant is the admin, whom
 * nothing limits, or nobody, who may do nothing that costs.
 */
Datum
sn_api_pre_request(PG_FUNCTION_ARGS)
{
	const char *tenant = sn_current_tenant();
	SnRateLimit state;

	sn_caller_require_subject();
	set_time_zone();
	if (tenant == NULL)
	{
		check_words();
		PG_RETURN_VOID();
	}
	tenant = pstrdup(tenant);
	if (!sn_rate_limit_charge(tenant, LIMIT_TYPE, &state))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("permission denied for tenant \"%s\"", tenant)));
	sn_usage_count(tenant, USAGE_TYPE, resource_name(), 1);
	if (state.allowed)
	{
		set_headers(&state, "");
		sn_api_error_own_headers();
		check_words();
	}
	else
		limit_request(&state);
	PG_RETURN_VOID();
}
