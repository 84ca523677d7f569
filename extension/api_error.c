/*
 * api_error.c
 *	  What an error answers over HTTP. PostgREST takes the status and the headers of an answer from an error whose SQLSTATE
 *	  is PGRST: its message is {code, message, details, hint}, its detail {status, headers}.
 *
 * In sessions of the authenticator (PostgREST's login, see caller.c) an error that ends a client's own query leaves the
 * executor in that form, where the list below has a status for it. No function needs a frame of its own for that, nor the
 * subtransaction which such a frame is, and the lists under /rest answer like the functions. Inside of the query the error
 * is what it was when it was raised, for EXCEPTION blocks and for what else catches it, and so it is in the server's log.
 *
 * Not seen here is what happens before the executor runs (a body that is no JSON, 42501 for a function) and at COMMIT:
 * that is PostgREST's to answer.
 */
#include "sentinai.h"

#include "executor/executor.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "tcop/dest.h"
#include "utils/guc.h"
#include "utils/json.h"

#include "api.h"
#include "api_error.h"
#include "caller.h"
#include "rate_limit.h"
#include "sentinai_json.h"

#define HEADERS "response.headers"
#define LIMIT_REACHED "SN040"

typedef struct Answer
{
	const char *code; /* an SQLSTATE, or a class of them */
	int status;
	const char *meaning;
} Answer;

/* The first that an SQLSTATE begins with counts. docs/http.md has the same list. */
static const Answer answers[] = {
	{"SN001", 422, "an argument is not valid"},
	{"SN002", 422, "there is no such worker type"},
	{"SN004", 404, "there is no such tenant"},
	{"SN005", 422, "there is no such event type"},
	{"SN006", 422, "the event is not valid"},
	{"SN010", 409, "its status does not allow that"},
	{"SN011", 404, "there is none, or not for you"},
	{"SN012", 409, "it exists already"},
	{"SN014", 409, "the database is not active"},
	{"SN019", 409, "it is in use"},
	{LIMIT_REACHED, 429, "the limit is reached"},
	{"SN041", 422, "there is no such limit type"},
	{"SN042", 422, "no window is large enough for that"},
	{"SN050", 409, "the period is closed"},
	{"SN051", 409, "the snapshot is too old: ask again"},
	{"SN060", 409, "a request with this Idempotency-Key is in flight"},
	{"SN061", 422, "this Idempotency-Key was used for another request"},
	{"SN064", 400, "no Idempotency-Key is kept here"},
	{"SN070", 422, "there is no such report type"},
	{"SN071", 409, "the report is not completed"},
	{"SN072", 410, "the report has expired"},
	{"SN073", 403, "the link is not valid, or no longer"},
	{"SN075", 422, "the report is too large"},
	{"SN077", 409, "it is under a legal hold"},
	{"SN079", 400, "the body is no object"},
	{"54000", 422, "it is too large"},
	{"54001", 422, "it is nested too deeply"},
	{"57014", 504, "it took longer than the role's statement_timeout"},
	{"40P01", 409, "a deadlock: ask again"},
	{"55P03", 409, "it is locked: ask again"},
	{"22", 422, "a value can't be what it should be"},
	{"23", 409, "it contradicts what is stored"},
};

static ExecutorRun_hook_type previous_hook;

static bool own_headers = false; /* the query that runs has set the headers of its error */

void
sn_api_error_own_headers(void)
{
	own_headers = true;
}

static const Answer *
find_answer(int sqlerrcode)
{
	const char *code = unpack_sql_state(sqlerrcode);

	for (int i = 0; i < lengthof(answers); i++)
		if (strncmp(code, answers[i].code, strlen(answers[i].code)) == 0)
			return &answers[i];
	return NULL;
}

/* ---- hints ---- */

/* Hints are for SQL. What they send to has a path, too: those of docker/nginx.conf. */
typedef struct Way
{
	const char *function;
	const char *path;
} Way;

static const Way ways[] = {
	{"circuit_list", "GET /ops/circuits"},
	{"dlq_discard", "POST /ops/dlq/{id}/discard"},
	{"dlq_history", "GET /ops/dlq/{id}/history"},
	{"dlq_list", "GET /ops/dlq"},
	{"dlq_retry", "POST /ops/dlq/{id}/retry"},
	{"event_trace", "GET /api/exceptions/{tenant_id}/{exception_id}/trace"},
	{"event_why", "GET /ops/events/{event_id}/why"},
	{"legal_hold_add", "POST /audit/holds"},
	{"legal_hold_list", "GET /audit/holds"},
	{"legal_hold_release", "POST /audit/holds/{id}/release"},
	{"outbox_failed_discard", "POST /ops/outbox/failed/{id}/discard"},
	{"rate_limit_set", "PUT /admin/rate-limits/{tenant_id}"},
	{"report_hold", "POST /audit/reports/{id}/hold"},
	{"report_link", "POST /audit/reports/{id}/link"},
	{"report_list", "GET /audit/reports"},
	{"report_release", "POST /audit/reports/{id}/release"},
	{"report_request", "POST /audit/reports"},
	{"report_status", "GET /audit/reports/{id}"},
	{"subject_erase", "POST /admin/tenants/{tenant_id}/erase"},
	{"tenant_add", "POST /admin/tenants"},
	{"tenant_list", "GET /admin/tenants"},
	{"tenant_resume", "POST /admin/tenants/{tenant_id}/resume"},
};

/* Whether the text has a call of the function: with or without its schema, and no other's whose name ends alike. */
static bool
has_call(const char *text, const char *function)
{
	int len = strlen(function);

	for (const char *at = strstr(text, function); at != NULL; at = strstr(at + len, function))
		if (at[len] == '(' && (at == text || (!isalnum((unsigned char) at[-1]) && at[-1] != '_')))
			return true;
	return false;
}

static char *
hint_with_paths(const char *hint)
{
	StringInfoData out;
	int n = 0;

	if (hint == NULL)
		return NULL;
	initStringInfo(&out);
	appendStringInfoString(&out, hint);
	for (int i = 0; i < lengthof(ways); i++)
		if (has_call(hint, ways[i].function))
			appendStringInfo(&out, "%s%s", n++ == 0 ? " Over HTTP: " : ", ", ways[i].path);
	if (n > 0)
		appendStringInfoChar(&out, '.');
	return out.data;
}

/* ---- headers ---- */

/* What stands in the JSON stays escaped as it was. */
typedef struct Span
{
	const char *text;
	int len;
} Span;

#define SPAN(span) (span).len, (span).text

static Span
span_of(const sn_json *json)
{
	return (Span){json->text, (int) json->len};
}

static bool
span_is(Span span, const char *word)
{
	return span.len == strlen(word) && memcmp(span.text, word, span.len) == 0;
}

static void
header_append(StringInfo out, const char *name, const char *value)
{
	appendStringInfo(out, "%s\"%s\": ", out->data[out->len - 1] == '{' ? "" : ", ", name);
	escape_json(out, value);
}

/* Those that were set for the answer, an array of objects. Of a limit that is reached there are others than of one that isn't. */
static void
set_headers_append(StringInfo out, const char *set, bool limited)
{
	sn_limits limits = SN_LIMITS_DEFAULT;
	sn_json json;
	sn_json_token token;

	sn_json_begin(&json, set, strlen(set), &limits);
	while ((token = sn_json_next(&json)) > SN_TOKEN_END)
	{
		Span name = span_of(&json);

		if (token != SN_TOKEN_KEY || json.depth != 2 || sn_json_next(&json) != SN_TOKEN_STRING)
			continue;
		if (limited && name.len >= 9 && pg_strncasecmp(name.text, "RateLimit", 9) == 0)
			continue;
		appendStringInfo(out, "%s\"%.*s\": \"%.*s\"", out->data[out->len - 1] == '{' ? "" : ", ", SPAN(name),
						 SPAN(span_of(&json)));
	}
}

/* The runbook's body of an answer 429, as sn_rate_limit_answer() writes it. */
typedef struct LimitBody
{
	Span detail;
	Span limit_type;
	Span limit;
	Span current;
	Span reset_at;
} LimitBody;

/* False: it is none. */
static bool
limit_body_parse(LimitBody *body, const char *text)
{
	struct
	{
		const char *name;
		Span *value;
	} fields[] = {{"detail", &body->detail},
				  {"limit_type", &body->limit_type},
				  {"limit", &body->limit},
				  {"current", &body->current},
				  {"reset_at", &body->reset_at}};
	sn_limits limits = SN_LIMITS_DEFAULT;
	sn_json json;
	sn_json_token token;

	memset(body, 0, sizeof(*body));
	sn_json_begin(&json, text, strlen(text), &limits);
	while ((token = sn_json_next(&json)) > SN_TOKEN_END)
	{
		Span name = span_of(&json);

		if (token != SN_TOKEN_KEY || json.depth != 1 || sn_json_next(&json) < SN_TOKEN_END)
			continue;
		for (int i = 0; i < lengthof(fields); i++)
			if (span_is(name, fields[i].name))
				*fields[i].value = span_of(&json);
	}
	for (int i = 0; i < lengthof(fields); i++)
		if (fields[i].value->len == 0)
			return false;
	return token == SN_TOKEN_END;
}

/* Until then, rounded up, and never at once; 0: that is no time. (timestamptz_in() would throw.) */
static int64
retry_after(Span time)
{
	struct pg_tm tm = {0};
	int utc = 0;
	TimestampTz at;

	if (sscanf(pnstrdup(time.text, time.len), "%d-%d-%dT%d:%d:%dZ", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour,
			   &tm.tm_min, &tm.tm_sec) != 6 ||
		tm2timestamp(&tm, 0, &utc, &at) != 0)
		return 0;
	return Max(sn_api_seconds_until(at), 1);
}

/* For X-Accel-Redirect nginx answers X-Sentinai-Limit as the body. */
static void
limit_headers_append(StringInfo out, const char *detail)
{
	LimitBody body;
	int64 seconds;
	const char *window;

	if (detail == NULL || !limit_body_parse(&body, detail) || (seconds = retry_after(body.reset_at)) == 0)
		return;
	/* "Rate limit exceeded: api_requests (1000/60s)" */
	window = pnstrdup(body.detail.text, body.detail.len);
	window = strrchr(window, '/') ? strrchr(window, '/') + 1 : "";
	header_append(out, "Retry-After", psprintf(INT64_FORMAT, seconds));
	header_append(out, "RateLimit", psprintf("\"%.*s\";r=0;t=" INT64_FORMAT, SPAN(body.limit_type), seconds));
	header_append(out, "RateLimit-Policy",
				  psprintf("\"%.*s\";q=%.*s;w=%d", SPAN(body.limit_type), SPAN(body.limit), atoi(window)));
	header_append(out, "Cache-Control", "no-store");
	header_append(out, "X-Accel-Redirect", "@limited");
	header_append(out, "X-Sentinai-Limit",
				  psprintf("{\"detail\": \"%.*s\", \"limit_type\": \"%.*s\", \"limit\": %.*s, \"current\": %.*s, "
						   "\"reset_at\": \"%.*s\"}",
						   SPAN(body.detail), SPAN(body.limit_type), SPAN(body.limit), SPAN(body.current),
						   SPAN(body.reset_at)));
}

/* ---- the error ---- */

static void
field_append(StringInfo out, const char *name, const char *value)
{
	if (value == NULL || value[0] == '\0')
		return;
	appendStringInfo(out, ", \"%s\": ", name);
	escape_json(out, value);
}

static char *
answer_body(const ErrorData *error)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfo(&out, "{\"code\": \"%s\", \"message\": ", unpack_sql_state(error->sqlerrcode));
	escape_json(&out, error->message ? error->message : "");
	field_append(&out, "details", error->detail);
	field_append(&out, "hint", hint_with_paths(error->hint));
	appendStringInfoChar(&out, '}');
	return out.data;
}

static char *
answer_head(const ErrorData *error, const Answer *answer, const char *set_headers)
{
	bool limited = strcmp(answer->code, LIMIT_REACHED) == 0;
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfo(&out, "{\"status\": %d, \"headers\": {", answer->status);
	set_headers_append(&out, set_headers, limited);
	if (limited)
		limit_headers_append(&out, error->detail);
	appendStringInfoString(&out, "}}");
	return out.data;
}

/* Into the server's log, and to nobody else. */
static void
log_error(ErrorData *error)
{
	bool to_client = error->output_to_client;

	error->output_to_client = false;
	PG_TRY();
	{
		ReThrowError(error);
	}
	PG_CATCH();
	{
		EmitErrorReport();
		FlushErrorState();
	}
	PG_END_TRY();
	error->output_to_client = to_client;
}

/* Nothing of this reads a table: after an error one can't. What goes wrong in here is thrown as it is. */
SN_NORETURN static void
throw_answer(const Answer *answer, const char *set_headers)
{
	ErrorData *error = CopyErrorData();
	char *body;
	char *head;

	FlushErrorState();
	body = answer_body(error);
	head = answer_head(error, answer, set_headers);
	log_error(error);
	error->sqlerrcode = SN_ERRCODE("PGRST");
	error->message = body;
	error->detail = head;
	error->hint = NULL;
	error->context = NULL;
	error->output_to_server = false;
	ReThrowError(error);
}

/* ---- the hook ---- */

/*
 * Rows of a query inside of another, or inside of a function, go there: only those of a client's own go to the client. And
 * before it has become the token's role, PostgREST asks for itself.
 */
static bool
is_request(const QueryDesc *query)
{
	CommandDest dest = query->dest->mydest;

	return (dest == DestRemote || dest == DestRemoteExecute) && sn_caller_is_authenticator() &&
		   sn_caller_role() != GetSessionUserId();
}

static void
run_next(QueryDesc *query, ScanDirection direction, uint64 count SN_EXECUTE_ONCE_DECLARED)
{
	if (previous_hook)
		previous_hook(query, direction, count SN_EXECUTE_ONCE);
	else
		standard_ExecutorRun(query, direction, count SN_EXECUTE_ONCE);
}

static void
executor_run(QueryDesc *query, ScanDirection direction, uint64 count SN_EXECUTE_ONCE_DECLARED)
{
	MemoryContext context = CurrentMemoryContext;
	const char *set_headers;

	if (!is_request(query))
	{
		run_next(query, direction, count SN_EXECUTE_ONCE);
		return;
	}

	/* Those that a query sets before it fails are of the answer that it would have given. */
	set_headers = GetConfigOption(HEADERS, true, false);
	set_headers = set_headers ? pstrdup(set_headers) : "";
	own_headers = false;
	PG_TRY();
	{
		run_next(query, direction, count SN_EXECUTE_ONCE);
	}
	PG_CATCH();
	{
		const Answer *answer = find_answer(geterrcode());

		if (answer == NULL)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		if (own_headers)
			set_headers = GetConfigOption(HEADERS, true, false);
		throw_answer(answer, set_headers);
	}
	PG_END_TRY();
}

void
sn_api_error_install(void)
{
	previous_hook = ExecutorRun_hook;
	ExecutorRun_hook = executor_run;
}

/* ---- in SQL ---- */

PG_FUNCTION_INFO_V1(sn_api_status_list);
PG_FUNCTION_INFO_V1(sn_api_way_list);

/* api_status_list() returns (sqlstate text, status integer, meaning text) */
Datum
sn_api_status_list(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < lengthof(answers); i++)
	{
		Datum values[3] = {CStringGetTextDatum(answers[i].code), Int32GetDatum(answers[i].status),
						   CStringGetTextDatum(answers[i].meaning)};
		bool nulls[3] = {false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* api_way_list() returns (function_name text, path text) */
Datum
sn_api_way_list(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < lengthof(ways); i++)
	{
		Datum values[2] = {CStringGetTextDatum(ways[i].function), CStringGetTextDatum(ways[i].path)};
		bool nulls[2] = {false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
