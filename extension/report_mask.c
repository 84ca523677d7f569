/*
 * report_mask.c
 *	  Values and texts without their secrets, for reports of tools and configurations. What secrets are called is
 *	  sentinai.report_mask (sql/56_report.sql), whose patterns come here as one.
 */
#include "sentinai.h"

#include "catalog/pg_collation.h"
#include "regex/regex.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#define MASK "***"
/* What follows Bearer and Basic; password=, token=, api_key= and their like. */
#define BEARER "\\m((?:bearer|basic)\\s+)[A-Za-z0-9+/=._~-]+"
#define ASSIGNED "((?:passw(?:or)?d|secret|token|api[_-]?key|access[_-]?key)\\w*\\s*[=:]\\s*)[^\\s&;,\"]+"

PG_FUNCTION_INFO_V1(sn_report_masked);
PG_FUNCTION_INFO_V1(sn_report_masked_text);

static Datum
replace_all(Datum value, const char *pattern)
{
	return DirectFunctionCall4Coll(textregexreplace, DEFAULT_COLLATION_OID, value, CStringGetTextDatum(pattern),
								   CStringGetTextDatum("\\1" MASK), CStringGetTextDatum("gi"));
}

/* Whether the text has the word, of small ASCII letters, in any case. */
static bool
has_word(const char *data, int len, const char *word)
{
	int word_len = strlen(word);

	for (int i = 0; i + word_len <= len; i++)
		if ((data[i] | 0x20) == *word && pg_strncasecmp(data + i, word, word_len) == 0)
			return true;
	return false;
}

/* Most texts have nothing that the patterns could begin with. */
static Datum
masked_text(Datum value)
{
	text *packed = DatumGetTextPP(value);
	const char *data = VARDATA_ANY(packed);
	int len = VARSIZE_ANY_EXHDR(packed);
	bool bearer = has_word(data, len, "bearer") || has_word(data, len, "basic");

	if (memchr(data, '=', len) != NULL || memchr(data, ':', len) != NULL)
		value = replace_all(bearer ? replace_all(value, BEARER) : value, ASSIGNED);
	else if (bearer)
		value = replace_all(value, BEARER);
	return value;
}

/* report_masked_text(value text) returns text */
Datum
sn_report_masked_text(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(masked_text(PG_GETARG_DATUM(0)));
}

static void
mask_string(JsonbValue *value)
{
	text *masked = DatumGetTextPP(
		masked_text(PointerGetDatum(cstring_to_text_with_len(value->val.string.val, value->val.string.len))));

	value->val.string.val = VARDATA_ANY(masked);
	value->val.string.len = VARSIZE_ANY_EXHDR(masked);
}

static bool
is_secret(const JsonbValue *key, text *pattern)
{
	return RE_compile_and_execute(pattern, key->val.string.val, key->val.string.len, REG_ADVANCED | REG_ICASE,
								  DEFAULT_COLLATION_OID, 0, NULL);
}

/* Takes what stands behind a key that is a secret's, whatever it is. */
static JsonbValue *
push_mask(JsonbParseState **state, JsonbIterator **iterator)
{
	JsonbValue value;

	(void) JsonbIteratorNext(iterator, &value, true);
	if (value.type != jbvNull)
	{
		value.type = jbvString;
		value.val.string.val = MASK;
		value.val.string.len = strlen(MASK);
	}
	return pushJsonbValue(state, WJB_VALUE, &value);
}

/* report_masked(value jsonb, pattern text) returns jsonb */
Datum
sn_report_masked(PG_FUNCTION_ARGS)
{
	Jsonb *jsonb = PG_GETARG_JSONB_P(0);
	text *pattern = PG_GETARG_TEXT_PP(1);
	JsonbIterator *iterator = JsonbIteratorInit(&jsonb->root);
	bool is_scalar = JB_ROOT_IS_SCALAR(jsonb);
	JsonbParseState *state = NULL;
	JsonbValue *result = NULL;
	JsonbIteratorToken token;
	JsonbValue value;

	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
	{
		bool has_value = token == WJB_KEY || token == WJB_VALUE || token == WJB_ELEM;

		if (has_value && token != WJB_KEY && value.type == jbvString)
			mask_string(&value);
		result = pushJsonbValue(&state, token, has_value ? &value : NULL);
		if (token == WJB_KEY && is_secret(&value, pattern))
			result = push_mask(&state, &iterator);
	}
	if (result->type == jbvArray)
		result->val.array.rawScalar = is_scalar;
	PG_RETURN_JSONB_P(JsonbValueToJsonb(result));
}
