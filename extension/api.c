/*
 * api.c
 *	  What runs before each request over HTTP: PostgREST's db-pre-request.
 *
 * It is on the way of every request, so it is C, with no statement of SQL in it: the tenant from caller.c, the decision
 * from rate_limit.c, the count of the call in usage_count.c. All of them work in a transaction that is READ ONLY, and none
 * needs rights on a table. The headers of the answer are the setting response.headers, which PostgREST reads at the end of
 * the request; an error brings its own.
 *
 * An answer 429 is no line in the server's log: whoever asks in a loop would fill it. Refused calls are counted in
 * metrics(), rate_limit_usage() and usage.
 */
#include "sentinai.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/guc.h"
#include "utils/json.h"

#include "caller.h"
#include "rate_limit.h"
#include "usage_count.h"

PG_FUNCTION_INFO_V1(sn_api_pre_request);

#define LIMIT_TYPE "api_requests"
#define USAGE_TYPE "api_calls"
#define RESOURCE_MAX 100 /* characters */

/* Whole seconds until that time, rounded up; at least *least*. */
static int64
seconds_until(TimestampTz at, int64 least)
{
	int64 us = at - sn_now();

	return us <= 0 ? least : Max(least, (us + USECS_PER_SEC - 1) / USECS_PER_SEC);
}

/* What the call is counted as: "GET /rpc/dlq_list". */
static char *
resource_name(void)
{
	const char *method = GetConfigOption("request.method", true, false);
	const char *path = GetConfigOption("request.path", true, false);
	char *name = psprintf("%s%s%s", method ? method : "", method != NULL && path != NULL ? " " : "", path ? path : "");

	name[pg_mbcharcliplen(name, strlen(name), RESOURCE_MAX)] = '\0';
	return name;
}

/* The headers RateLimit and RateLimit-Policy, of draft-ietf-httpapi-ratelimit-headers, for who has requests left. */
static void
set_headers(const SnRateLimit *state)
{
	char *headers = psprintf("[{\"RateLimit\": \"\\\"" LIMIT_TYPE "\\\";r=" INT64_FORMAT ";t=" INT64_FORMAT "\"},"
							 " {\"RateLimit-Policy\": \"\\\"" LIMIT_TYPE "\\\";q=" INT64_FORMAT ";w=%d\"}]",
							 state->remaining, seconds_until(state->reset_at, 0), state->limit, state->window_seconds);

	set_config_option("response.headers", headers, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/* "message": ..., as a member of an object. */
static void
append_member(StringInfo out, const char *name, const char *value)
{
	appendStringInfo(out, "%s\"%s\": ", out->data[out->len - 1] == '{' ? "" : ", ", name);
	escape_json(out, value);
}

/* The DETAIL of an error of PostgREST's kind: the status and the headers of the answer. nginx answers X-Sentinai-Limit as the body. */
static char *
limited_answer(const SnRateLimit *state, const char *body)
{
	StringInfoData out;
	int64 seconds = seconds_until(state->reset_at, 1);

	initStringInfo(&out);
	appendStringInfoString(&out, "{\"status\": 429, \"headers\": {");
	append_member(&out, "Retry-After", psprintf(INT64_FORMAT, seconds));
	append_member(&out, "RateLimit", psprintf("\"" LIMIT_TYPE "\";r=0;t=" INT64_FORMAT, seconds));
	append_member(&out, "RateLimit-Policy",
				  psprintf("\"" LIMIT_TYPE "\";q=" INT64_FORMAT ";w=%d", state->limit, state->window_seconds));
	append_member(&out, "Cache-Control", "no-store");
	append_member(&out, "X-Sentinai-Limit", body);
	appendStringInfoString(&out, "}}");
	return out.data;
}

/* Answers 429, in the runbook's words. */
SN_NORETURN static void
raise_limited(const SnRateLimit *state)
{
	ErrorData error = {.elevel = ERROR,
					   .output_to_server = false,
					   .output_to_client = true,
					   .filename = __FILE__,
					   .lineno = __LINE__,
					   .funcname = PG_FUNCNAME_MACRO,
					   .sqlerrcode = SN_ERRCODE("PGRST")};
	char *words =
		psprintf("Rate limit exceeded: " LIMIT_TYPE " (" INT64_FORMAT "/%ds)", state->limit, state->window_seconds);
	char *reset_at = sn_rate_limit_reset_at(state);
	char *body = psprintf("{\"detail\" : \"%s\", \"limit_type\" : \"" LIMIT_TYPE "\", \"limit\" : " INT64_FORMAT
						  ", \"current\" : " INT64_FORMAT ", \"reset_at\" : \"%s\"}",
						  words, state->limit, state->granted + state->refused, reset_at);
	StringInfoData message;

	initStringInfo(&message);
	appendStringInfoChar(&message, '{');
	append_member(&message, "code", "SN040");
	append_member(&message, "message", words);
	append_member(&message, "details", body);
	append_member(&message, "hint", psprintf("Try again at %s.", reset_at));
	appendStringInfoChar(&message, '}');
	error.message = message.data;
	error.detail = limited_answer(state, body);
	error.assoc_context = CurrentMemoryContext;
	ReThrowError(&error);
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

	if (tenant == NULL)
		PG_RETURN_VOID();
	tenant = pstrdup(tenant);
	if (!sn_rate_limit_charge(tenant, LIMIT_TYPE, &state))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("permission denied for tenant \"%s\"", tenant)));
	sn_usage_count(tenant, USAGE_TYPE, resource_name(), 1);
	if (!state.allowed)
		raise_limited(&state);
	set_headers(&state);
	PG_RETURN_VOID();
}
