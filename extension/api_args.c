/*
 * api_args.c
 *	  The arguments of a request over HTTP: its headers, what nginx found in the path and behind the "?" (X-Sentinai-Args),
 *	  and the body of a POST; and where a page begins.
 *
 * X-Sentinai-Args is "id=...&tenant_id=...&" with the query behind it, all of it percent-encoded as it came. A "+" is a blank
 * behind the "?" and a "+" in the path.
 */
#include "sentinai.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#include "api.h"
#include "sentinai_json.h"

PG_FUNCTION_INFO_V1(sn_api_request_header_sql);
PG_FUNCTION_INFO_V1(sn_api_decode);
PG_FUNCTION_INFO_V1(sn_api_args_sql);
PG_FUNCTION_INFO_V1(sn_api_key_sql);
PG_FUNCTION_INFO_V1(sn_api_text_sql);
PG_FUNCTION_INFO_V1(sn_api_bigint_sql);
PG_FUNCTION_INFO_V1(sn_api_boolean);
PG_FUNCTION_INFO_V1(sn_api_after_sql);
PG_FUNCTION_INFO_V1(sn_api_cursor_sql);

#define HEADERS "request.headers"
#define IN_PATH 2	  /* of the pairs in X-Sentinai-Args: id and tenant_id, which may be empty */
#define ACTOR_MAX 255 /* bytes: it stands in every list */
#define BIGINT_DIGITS 18

/* ---- headers ---- */

/* A header of this request, by its name in small letters; NULL: there is none. */
static char *
request_header(const char *name)
{
	const char *headers = GetConfigOption(HEADERS, true, false);
	sn_limits limits = SN_LIMITS_DEFAULT;
	sn_json json;
	sn_json_token token;
	char *value = NULL;

	if (headers == NULL)
		return NULL;
	sn_json_begin(&json, headers, strlen(headers), &limits);
	while ((token = sn_json_next(&json)) > SN_TOKEN_END)
	{
		if (token != SN_TOKEN_KEY || json.depth != 1 || json.len != strlen(name) ||
			memcmp(json.text, name, json.len) != 0)
			continue;
		if (sn_json_next(&json) != SN_TOKEN_STRING)
			return NULL;
		value = palloc(json.len + 1);
		value[sn_json_unescape(json.text, json.len, value)] = '\0';
	}
	return value;
}

char *
sn_api_key(void)
{
	char *key = request_header("idempotency-key");
	size_t len = key ? strlen(key) : 0;

	/* A structured field (RFC 8941) has quotes; most clients leave them out. */
	if (len < 2 || key[0] != '"' || key[len - 1] != '"')
		return key;
	key[len - 1] = '\0';
	return key + 1;
}

/* ---- percent-encoding (RFC 3986) ---- */

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = pg_ascii_tolower(c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* In the server's encoding. Error 22021: it is no UTF-8. plus: a "+" is a blank. */
static char *
decode(const char *text, int len, bool plus)
{
	char *out = palloc(len + 1);
	int n = 0;

	for (int i = 0; i < len; i++)
	{
		int high = text[i] == '%' && i + 2 < len ? hex_digit(text[i + 1]) : -1;
		int low = high >= 0 ? hex_digit(text[i + 2]) : -1;

		if (low >= 0)
		{
			out[n++] = high << 4 | low;
			i += 2;
		}
		else
			out[n++] = plus && text[i] == '+' ? ' ' : text[i];
	}
	out[n] = '\0';
	return memchr(text, '%', len) == NULL ? out : pg_any_to_server(out, n, PG_UTF8);
}

/* ---- arguments ---- */

/* A pair of X-Sentinai-Args; false: its name or value is empty. */
static bool
read_pair(const char *text, int len, bool in_path, SnApiPair *pair)
{
	const char *equals = memchr(text, '=', len);

	if (equals == NULL || equals == text || equals + 1 == text + len)
		return false;
	pair->name = decode(text, equals - text, false);
	pair->value = decode(equals + 1, text + len - (equals + 1), !in_path);
	return true;
}

bool
sn_api_pairs(SnApiPairs *pairs)
{
	char *header = request_header("x-sentinai-args");
	int place = 0;

	pairs->n = 0;
	if (header == NULL)
		return false;
	pairs->pairs =
		palloc((strlen(header) / 2 + 1) * sizeof(SnApiPair)); /* no pair has less than two bytes with its & */
	while (*header != '\0')
	{
		int len = strcspn(header, "&");

		if (read_pair(header, len, place++ < IN_PATH, &pairs->pairs[pairs->n]))
			pairs->n++;
		header += len + (header[len] == '&');
	}
	return true;
}

const char *
sn_api_query(void)
{
	char *rest = request_header("x-sentinai-args");

	for (int i = 0; rest != NULL && i < IN_PATH; i++)
	{
		rest = strchr(rest, '&');
		if (rest != NULL)
			rest++;
	}
	return rest;
}

const char *
sn_api_value(const SnApiPairs *pairs, const char *name)
{
	for (int i = 0; i < pairs->n; i++)
		if (strcmp(pairs->pairs[i].name, name) == 0)
			return pairs->pairs[i].value;
	return NULL;
}

static void
push_string(JsonbParseState **state, JsonbIteratorToken token, char *string)
{
	JsonbValue value = {.type = jbvString, .val.string = {.len = strlen(string), .val = string}};

	pushJsonbValue(state, token, &value);
}

/* From the last to the first: of one name the last that is pushed counts. */
static Jsonb *
pairs_as_object(const SnApiPairs *pairs)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = pairs->n - 1; i >= 0; i--)
	{
		push_string(&state, WJB_KEY, pairs->pairs[i].name);
		push_string(&state, WJB_VALUE, pairs->pairs[i].value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

Jsonb *
sn_api_args(Jsonb *body)
{
	SnApiPairs pairs;

	if (body == NULL || !JB_ROOT_IS_OBJECT(body))
		ereport(ERROR, (errcode(SN_ERRCODE("SN079")), errmsg("the body must be a JSON object"),
						errdetail("It is %s.", body == NULL ? "missing"
															: TextDatumGetCString(DirectFunctionCall1(
																  jsonb_typeof, JsonbPGetDatum(body))))));
	if (!sn_api_pairs(&pairs) || pairs.n == 0)
		return body;
	return DatumGetJsonbP(
		DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(body), JsonbPGetDatum(pairs_as_object(&pairs))));
}

/* An argument; NULL: it is missing. */
static JsonbValue *
find(Jsonb *args, const char *name)
{
	return getKeyJsonValueFromContainer(&args->root, name, strlen(name), NULL);
}

static char *
as_json(JsonbValue *value)
{
	Jsonb *jsonb;

	if (value == NULL)
		return NULL;
	jsonb = JsonbValueToJsonb(value);
	return JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
}

/* As ->> has it: NULL for null too. */
static char *
as_text(JsonbValue *value)
{
	if (value == NULL || value->type == jbvNull)
		return NULL;
	if (value->type == jbvString)
		return pnstrdup(value->val.string.val, value->val.string.len);
	return as_json(value);
}

char *
sn_api_any(Jsonb *args, const char *name)
{
	return as_text(find(args, name));
}

char *
sn_api_text(Jsonb *args, const char *name)
{
	JsonbValue *value = find(args, name);
	char *text = as_text(value);

	if (value != NULL && value->type != jbvString && value->type != jbvNull)
		sn_api_wrong(name, as_json(value), "a text");
	if (text != NULL && strlen(text) > ACTOR_MAX && (strcmp(name, "actor") == 0 || strcmp(name, "requested_by") == 0))
		sn_api_wrong(name, as_json(value), "a text of at most 255 bytes");
	return text;
}

static bool
is_bigint(const char *text)
{
	int digits;

	if (text == NULL)
		return false;
	text += *text == '-';
	digits = strspn(text, "0123456789");
	return digits >= 1 && digits <= BIGINT_DIGITS && text[digits] == '\0';
}

/* fallback NULL: it is required. */
int64
sn_api_bigint(Jsonb *args, const char *name, const int64 *fallback)
{
	JsonbValue *value = find(args, name);
	char *text = as_text(value);

	if (text == NULL && fallback != NULL)
		return *fallback;
	if (!is_bigint(text))
		sn_api_wrong(name, as_json(value), "an integer");
	return strtoi64(text, NULL, 10);
}

/* ---- pages ---- */

char *
sn_api_as_json(const char *text)
{
	StringInfoData json;

	if (text == NULL)
		return NULL;
	initStringInfo(&json);
	escape_json(&json, text);
	return json.data;
}

/* So many digits, and the character behind them. */
static bool
take_number(const char **text, int least, int most, char behind, int *value)
{
	int n = strspn(*text, "0123456789");

	if (n < least || n > most || (*text)[n] != behind)
		return false;
	*value = atoi(*text);
	*text += n + 1;
	return true;
}

/* Reads what sn_api_cursor() wrote; not by timestamptz_in(), whose error would be another one. */
static bool
read_cursor(const char *text, TimestampTz *at, const char **id)
{
	struct pg_tm tm = {0};
	int us;
	int utc = 0;

	if (!take_number(&text, 4, 6, '-', &tm.tm_year) || !take_number(&text, 2, 2, '-', &tm.tm_mon) ||
		!take_number(&text, 2, 2, 'T', &tm.tm_mday) || !take_number(&text, 2, 2, ':', &tm.tm_hour) ||
		!take_number(&text, 2, 2, ':', &tm.tm_min) || !take_number(&text, 2, 2, '.', &tm.tm_sec) ||
		!take_number(&text, 6, 6, 'Z', &us) || *text++ != '_')
		return false;
	*id = text;
	return tm.tm_mon >= 1 && tm.tm_mon <= MONTHS_PER_YEAR && tm.tm_mday >= 1 &&
		   tm.tm_mday <= day_tab[isleap(tm.tm_year)][tm.tm_mon - 1] && tm.tm_hour < HOURS_PER_DAY &&
		   tm.tm_min < MINS_PER_HOUR && tm.tm_sec < SECS_PER_MINUTE && tm2timestamp(&tm, us, &utc, at) == 0 &&
		   *text != '\0';
}

void
sn_api_wrong_after(const char *after)
{
	sn_api_wrong("after", sn_api_as_json(after), "the next_after of the page before");
}

void
sn_api_after(const char *after, TimestampTz *at, const char **id)
{
	if (!read_cursor(after, at, id))
		sn_api_wrong_after(after);
}

char *
sn_api_cursor(TimestampTz at, const char *id)
{
	struct pg_tm tm;
	fsec_t fsec;

	if (timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0)
		return NULL;
	return psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ_%s", tm.tm_year, tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min,
					tm.tm_sec, (int) fsec, id);
}

/* ---- in SQL ---- */

static Datum
text_or_null(FunctionCallInfo fcinfo, const char *text)
{
	if (text == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(text));
}

/* api_request_header(name text) returns text */
Datum
sn_api_request_header_sql(PG_FUNCTION_ARGS)
{
	return text_or_null(fcinfo, request_header(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}

/* api_decode(value text) returns text */
Datum
sn_api_decode(PG_FUNCTION_ARGS)
{
	text *value = PG_GETARG_TEXT_PP(0);

	return text_or_null(fcinfo, decode(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), false));
}

/* api_args(body jsonb) returns jsonb */
Datum
sn_api_args_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_JSONB_P(sn_api_args(PG_ARGISNULL(0) ? NULL : PG_GETARG_JSONB_P(0)));
}

/* api_key() returns text */
Datum
sn_api_key_sql(PG_FUNCTION_ARGS)
{
	return text_or_null(fcinfo, sn_api_key());
}

/* api_text(args jsonb, name text) returns text */
Datum
sn_api_text_sql(PG_FUNCTION_ARGS)
{
	return text_or_null(fcinfo, sn_api_text(PG_GETARG_JSONB_P(0), text_to_cstring(PG_GETARG_TEXT_PP(1))));
}

/* api_bigint(args jsonb, name text, fallback bigint) returns bigint */
Datum
sn_api_bigint_sql(PG_FUNCTION_ARGS)
{
	int64 fallback = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2);

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	PG_RETURN_INT64(
		sn_api_bigint(PG_GETARG_JSONB_P(0), text_to_cstring(PG_GETARG_TEXT_PP(1)), PG_ARGISNULL(2) ? NULL : &fallback));
}

/* api_after(p_after text, OUT at timestamptz, OUT id text) */
Datum
sn_api_after_sql(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	TimestampTz at;
	const char *id;
	Datum values[2] = {0};
	bool nulls[2] = {true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "api_after() is called where no row can be");
	if (!PG_ARGISNULL(0))
	{
		sn_api_after(text_to_cstring(PG_GETARG_TEXT_PP(0)), &at, &id);
		values[0] = TimestampTzGetDatum(at);
		values[1] = CStringGetTextDatum(id);
		nulls[0] = nulls[1] = false;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* api_cursor(at timestamptz, id text) returns text */
Datum
sn_api_cursor_sql(PG_FUNCTION_ARGS)
{
	return text_or_null(fcinfo, sn_api_cursor(PG_GETARG_TIMESTAMPTZ(0), text_to_cstring(PG_GETARG_TEXT_PP(1))));
}

/* api_boolean(args jsonb, name text, fallback boolean) returns boolean */
Datum
sn_api_boolean(PG_FUNCTION_ARGS)
{
	char *name;
	JsonbValue *value;
	char *given;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	value = find(PG_GETARG_JSONB_P(0), name);
	given = as_text(value);
	if (given == NULL && PG_ARGISNULL(2))
		PG_RETURN_NULL();
	if (given == NULL)
		PG_RETURN_BOOL(PG_GETARG_BOOL(2));
	if (strcmp(given, "true") != 0 && strcmp(given, "false") != 0)
		sn_api_wrong(name, as_json(value), "true or false");
	PG_RETURN_BOOL(given[0] == 't');
}
