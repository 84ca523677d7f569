/*
 * json.c
 *		Unit tests of the JSON scanner and of the envelope.
 *
 * What lives here: what the headers promise by themselves (tokens, spans,
 * errors and their offsets, limits), every prefix of an event, and the figures
 * of speed.  That they agree with jsonb_in is tested in sql/event.sql.
 *
 * Every text is copied to a heap block of exactly its length, so that the
 * address sanitizer sees a read of one byte too many.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "sentinai_envelope.h"

static const sn_limits limits = {1024 * 1024, 128};

static char *
exact_copy(const char *text, size_t len)
{
	char *copy = malloc(len > 0 ? len : 1);

	assert_non_null(copy);
	memcpy(copy, text, len);
	return copy;
}

/* Reads all tokens; the result is what ended it. */
static sn_json_error
scan(const char *text, size_t len, const sn_limits *with)
{
	char *copy = exact_copy(text, len);
	sn_json json;
	sn_json_token token;

	sn_json_begin(&json, copy, len, with);
	do
		token = sn_json_next(&json);
	while (token > SN_TOKEN_END);
	assert_int_equal(token == SN_TOKEN_END, json.error.code == SN_JSON_OK);
	assert_int_equal(sn_json_next(&json), token); /* the end is for good */
	free(copy);
	return json.error;
}

typedef struct text_case
{
	const char *text;
	size_t len;
	sn_json_code code;
	size_t offset;
} text_case;

#define CASE(text, code, offset) \
	{ \
		text, sizeof(text) - 1, code, offset \
	}
#define GOOD(text) CASE(text, SN_JSON_OK, 0)

static const text_case cases[] = {
	/* values */
	GOOD("null"),
	GOOD("true"),
	GOOD("false"),
	GOOD("\"\""),
	GOOD("{}"),
	GOOD("[]"),
	GOOD(" \t\r\n[ ] "),
	GOOD("[1,\"a\",null,{\"b\":[]}]"),
	GOOD("{\"a\" : 1 , \"a\" : 2}"),
	GOOD("{\"\":0}"),
	CASE("", SN_JSON_EMPTY, 0),
	CASE(" \n", SN_JSON_EMPTY, 2),
	CASE("nul", SN_JSON_TRUNCATED, 3),
	CASE("nulL", SN_JSON_UNEXPECTED, 3),
	CASE("truex", SN_JSON_TRAILING, 4),
	CASE("[1", SN_JSON_TRUNCATED, 2),
	CASE("[1,", SN_JSON_TRUNCATED, 3),
	CASE("{\"a\"", SN_JSON_TRUNCATED, 4),
	CASE("{\"a\":", SN_JSON_TRUNCATED, 5),
	CASE("{", SN_JSON_TRUNCATED, 1),
	CASE("[1,]", SN_JSON_UNEXPECTED, 3),
	CASE("[,1]", SN_JSON_UNEXPECTED, 1),
	CASE("[1 2]", SN_JSON_UNEXPECTED, 3),
	CASE("{\"a\":1,}", SN_JSON_UNEXPECTED, 7),
	CASE("{a:1}", SN_JSON_UNEXPECTED, 1),
	CASE("{\"a\" 1}", SN_JSON_UNEXPECTED, 5),
	CASE("{1:1}", SN_JSON_UNEXPECTED, 1),
	CASE("[1}", SN_JSON_UNEXPECTED, 2),
	CASE("{\"a\":1]", SN_JSON_UNEXPECTED, 6),
	CASE("]", SN_JSON_UNEXPECTED, 0),
	CASE("{} {}", SN_JSON_TRAILING, 3),
	CASE("1\0", SN_JSON_TRAILING, 1),
	CASE("'a'", SN_JSON_UNEXPECTED, 0),
	CASE("[1]//", SN_JSON_TRAILING, 3),
	CASE("\f1", SN_JSON_UNEXPECTED, 0),
	CASE("NaN", SN_JSON_UNEXPECTED, 0),
	/* numbers */
	GOOD("0"),
	GOOD("-0"),
	GOOD("10"),
	GOOD("-1.5"),
	GOOD("0.0"),
	GOOD("1e5"),
	GOOD("1E+05"),
	GOOD("1.25e-1000"),
	GOOD("1e0000000000000000000001"),
	GOOD("12345678901234567890"),
	CASE("-", SN_JSON_TRUNCATED, 1),
	CASE("01", SN_JSON_BAD_NUMBER, 1),
	CASE("-a", SN_JSON_BAD_NUMBER, 1),
	CASE("1.", SN_JSON_TRUNCATED, 2),
	CASE("1.x", SN_JSON_BAD_NUMBER, 2),
	CASE("1e", SN_JSON_TRUNCATED, 2),
	CASE("1e+", SN_JSON_TRUNCATED, 3),
	CASE("1ex", SN_JSON_BAD_NUMBER, 2),
	CASE("+1", SN_JSON_UNEXPECTED, 0),
	CASE(".5", SN_JSON_UNEXPECTED, 0),
	CASE("0x10", SN_JSON_TRAILING, 1),
	CASE("--1", SN_JSON_BAD_NUMBER, 1),
	GOOD("1e1000"),
	GOOD("-1e-1000"),
	CASE("[1e1001]", SN_JSON_EXPONENT_RANGE, 1),
	CASE("1e400000", SN_JSON_EXPONENT_RANGE, 0),
	CASE("1e-99999999999999999999", SN_JSON_EXPONENT_RANGE, 0),
	/* strings */
	GOOD("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""),
	GOOD("\"\\u00e9\\u20AC\""),
	GOOD("\"\\ud83d\\uDE00\""),
	GOOD("\"\x7f\""),
	CASE("\"", SN_JSON_TRUNCATED, 1),
	CASE("\"abcdefghijk", SN_JSON_TRUNCATED, 12),
	CASE("\"\\", SN_JSON_TRUNCATED, 2),
	CASE("\"\\u00", SN_JSON_TRUNCATED, 5),
	CASE("\"\\u00g0\"", SN_JSON_BAD_ESCAPE, 5),
	CASE("\"\\x41\"", SN_JSON_BAD_ESCAPE, 1),
	CASE("\"\\U0041\"", SN_JSON_BAD_ESCAPE, 1),
	CASE("\"a\nb\"", SN_JSON_CONTROL, 2),
	CASE("\"a\0b\"", SN_JSON_CONTROL, 2),
	CASE("\"\x1f\"", SN_JSON_CONTROL, 1),
	CASE("\"\\u0000\"", SN_JSON_NUL, 1),
	CASE("{\"\\u0000\":1}", SN_JSON_NUL, 2),
	CASE("\"\\ud800\"", SN_JSON_SURROGATE, 1),
	CASE("\"\\udc00\"", SN_JSON_SURROGATE, 1),
	CASE("\"\\ud800\\ud800\"", SN_JSON_SURROGATE, 1),
	CASE("\"\\udc00\\ud800\"", SN_JSON_SURROGATE, 1),
	CASE("\"\\ud800x\"", SN_JSON_SURROGATE, 1),
	CASE("\"\\ud83d\\n\\ude00\"", SN_JSON_SURROGATE, 1),
	CASE("\"\\ud83d\\ude0\"", SN_JSON_SURROGATE, 1),
	CASE("\"\\ud83d", SN_JSON_SURROGATE, 1),
	/* UTF-8 */
	GOOD("\"\xc2\x80\xdf\xbf\""),
	GOOD("\"\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\""),
	GOOD("\"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\""),
	CASE("\"\x80\"", SN_JSON_BAD_UTF8, 1),
	CASE("\"\xc0\x80\"", SN_JSON_BAD_UTF8, 1),
	CASE("\"\xc1\xbf\"", SN_JSON_BAD_UTF8, 1),
	CASE("\"\xe0\x9f\xbf\"", SN_JSON_BAD_UTF8, 1),
	CASE("\"\xed\xa0\x80\"", SN_JSON_BAD_UTF8, 1),
	CASE("\"\xf0\x8f\xbf\xbf\"", SN_JSON_BAD_UTF8, 1),
	CASE("\"\xf4\x90\x80\x80\"", SN_JSON_BAD_UTF8, 1),
	CASE("\"\xf5\x80\x80\x80\"", SN_JSON_BAD_UTF8, 1),
	CASE("\"\xff\"", SN_JSON_BAD_UTF8, 1),
	CASE("\"\xc3\"", SN_JSON_BAD_UTF8, 1),
	CASE("\"\xe2\x82", SN_JSON_BAD_UTF8, 1),
	CASE("\"12345678\xe2\x28\xa1\"", SN_JSON_BAD_UTF8, 9),
	CASE("{\"\xff\":1}", SN_JSON_BAD_UTF8, 2),
	CASE("\xc3\xa9", SN_JSON_UNEXPECTED, 0),
	/* other encodings */
	CASE("\xef\xbb\xbf{}", SN_JSON_BYTE_ORDER_MARK, 0),
	CASE("\xff\xfe{\0}\0", SN_JSON_UTF16, 0),
	CASE("\xfe\xff\0{\0}", SN_JSON_UTF16, 0),
	CASE("{\0}\0", SN_JSON_UTF16, 0),
	CASE("\0{\0}", SN_JSON_UTF16, 0),
	CASE("[\0]\0", SN_JSON_UTF16, 0),
};

static void
test_cases(void **state)
{
	(void) state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		sn_json_error error = scan(cases[i].text, cases[i].len, &limits);

		if (error.code != cases[i].code || error.offset != cases[i].offset)
			fail_msg("%s: got \"%s\" at %zu, expected \"%s\" at %zu", cases[i].text, error.code ? error.reason : "ok",
					 error.offset, cases[i].code ? sn_json_reason(cases[i].code) : "ok", cases[i].offset);
	}
}

/* A byte that ends plain text is found at every distance from a word's begin. */
static void
test_plain_ends(void **state)
{
	static const struct
	{
		const char *bytes;
		sn_json_code code;
	} ends[] = {
		{"\"", SN_JSON_OK},		   {"\\n\"", SN_JSON_OK},	  {"\xc3\xa9\"", SN_JSON_OK}, {" ~!#[]\"", SN_JSON_OK},
		{"\x01", SN_JSON_CONTROL}, {"\x1f", SN_JSON_CONTROL}, {"\x80", SN_JSON_BAD_UTF8}, {"\xff", SN_JSON_BAD_UTF8},
	};

	(void) state;
	for (size_t before = 0; before < 40; before++)
		for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
		{
			char text[64] = "\"";
			sn_json_error error;

			memset(text + 1, 'x', before);
			strcpy(text + 1 + before, ends[i].bytes);
			error = scan(text, strlen(text), &limits);
			assert_int_equal(error.code, ends[i].code);
			if (error.code != SN_JSON_OK)
				assert_int_equal(error.offset, 1 + before);
		}
}

static void
test_depth(void **state)
{
	static char text[40000];
	const sn_limits shallow = {sizeof(text), 3};
	const sn_limits boundless = {sizeof(text), 1000000};

	(void) state;
	assert_int_equal(scan("[{\"a\":[1]}]", 11, &shallow).code, SN_JSON_OK);
	assert_int_equal(scan("[{\"a\":[[]]}]", 12, &shallow).code, SN_JSON_TOO_DEEP);
	assert_int_equal(scan("[{\"a\":[[]]}]", 12, &shallow).offset, 7);

	memset(text, '[', 10000);
	memset(text + 10000, ']', 10000);
	assert_int_equal(scan(text, 20000, &limits).offset, 128);
	assert_int_equal(scan(text, 20000, &boundless).offset, SN_JSON_DEPTH_CEILING);
	assert_int_equal(scan(text + 10000 - 128, 256, &limits).code, SN_JSON_OK);
	assert_int_equal(scan(text + 10000 - SN_JSON_DEPTH_CEILING, 2 * SN_JSON_DEPTH_CEILING, &boundless).code,
					 SN_JSON_OK);

	/* Objects and arrays in turn, so that every bit of the stack counts. */
	for (int i = 0; i < 64; i++)
		memcpy(text + i * 6, "{\"a\":[", 6);
	for (int i = 0; i < 64; i++)
		memcpy(text + 384 + i * 2, "]}", 2);
	assert_int_equal(scan(text, 512, &limits).code, SN_JSON_OK);
	text[384 + 101] = ']';
	assert_int_equal(scan(text, 512, &limits).offset, 384 + 101);
}

static void
test_number_limits(void **state)
{
	char text[SN_JSON_MAX_DIGITS + 8];

	(void) state;
	memset(text, '7', sizeof(text));
	assert_int_equal(scan(text, SN_JSON_MAX_DIGITS, &limits).code, SN_JSON_OK);
	assert_int_equal(scan(text, SN_JSON_MAX_DIGITS + 1, &limits).code, SN_JSON_TOO_MANY_DIGITS);
	text[500] = '.';
	assert_int_equal(scan(text, SN_JSON_MAX_DIGITS + 1, &limits).code, SN_JSON_OK);
	assert_int_equal(scan(text, SN_JSON_MAX_DIGITS + 2, &limits).code, SN_JSON_TOO_MANY_DIGITS);
	text[0] = '-';
	assert_int_equal(scan(text, SN_JSON_MAX_DIGITS + 2, &limits).code, SN_JSON_OK);
}

static void
test_size_limit(void **state)
{
	const sn_limits small = {4, 128};

	(void) state;
	assert_int_equal(scan("1234", 4, &small).code, SN_JSON_OK);
	assert_int_equal(scan("12345", 5, &small).code, SN_JSON_TOO_LONG);
	assert_int_equal(scan("12345", 5, &small).offset, 4);
	assert_true(sn_json_is_limit(SN_JSON_TOO_LONG));
	assert_true(sn_json_is_limit(SN_JSON_EXPONENT_RANGE));
	assert_false(sn_json_is_limit(SN_JSON_NOT_OBJECT));
}

static void
test_tokens(void **state)
{
	static const char text[] = "{\"k\\n\" : [ \"v\", -1.5 ,7, true,false,null ], \"o\":{}}";
	static const struct
	{
		sn_json_token token;
		const char *text;
		bool escaped;
		bool integral;
	} expected[] = {
		{SN_TOKEN_OBJECT, "{", false, false},	  {SN_TOKEN_KEY, "k\\n", true, false},
		{SN_TOKEN_ARRAY, "[", false, false},	  {SN_TOKEN_STRING, "v", false, false},
		{SN_TOKEN_NUMBER, "-1.5", false, false},  {SN_TOKEN_NUMBER, "7", false, true},
		{SN_TOKEN_TRUE, "true", false, false},	  {SN_TOKEN_FALSE, "false", false, false},
		{SN_TOKEN_NULL, "null", false, false},	  {SN_TOKEN_ARRAY_END, "]", false, false},
		{SN_TOKEN_KEY, "o", false, false},		  {SN_TOKEN_OBJECT, "{", false, false},
		{SN_TOKEN_OBJECT_END, "}", false, false}, {SN_TOKEN_OBJECT_END, "}", false, false},
	};
	sn_json json;

	(void) state;
	sn_json_begin(&json, text, sizeof(text) - 1, &limits);
	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
	{
		assert_int_equal(sn_json_next(&json), expected[i].token);
		assert_int_equal(json.len, strlen(expected[i].text));
		assert_memory_equal(json.text, expected[i].text, json.len);
		if (expected[i].token == SN_TOKEN_KEY || expected[i].token == SN_TOKEN_STRING)
			assert_int_equal(json.escaped, expected[i].escaped);
		if (expected[i].token == SN_TOKEN_NUMBER)
			assert_int_equal(json.integral, expected[i].integral);
	}
	assert_int_equal(sn_json_next(&json), SN_TOKEN_END);
}

static void
test_unescape(void **state)
{
	static const struct
	{
		const char *text;
		const char *plain;
	} pairs[] = {
		{"plain", "plain"},
		{"", ""},
		{"\\\"\\\\\\/\\b\\f\\n\\r\\t", "\"\\/\b\f\n\r\t"},
		{"a\\u0041g\\u00e9h\\u20aci", "aAg\xc3\xa9h\xe2\x82\xaci"},
		{"\\ud83d\\ude00", "\xf0\x9f\x98\x80"},
		{"\\udbff\\udfff", "\xf4\x8f\xbf\xbf"},
		{"\\ud800\\udc00", "\xf0\x90\x80\x80"},
		{"\\u0001\\uFFFF\\u07ff\\u0800", "\x01\xef\xbf\xbf\xdf\xbf\xe0\xa0\x80"},
		{"\\\\u0041", "\\u0041"},
	};

	(void) state;
	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
	{
		size_t len = strlen(pairs[i].text);
		size_t plain_len = strlen(pairs[i].plain);
		char *text = exact_copy(pairs[i].text, len);
		char *out = malloc(len > 0 ? len : 1);
		sn_field field = {SN_FIELD_STRING, memchr(text, '\\', len) != NULL, false, text, len};

		assert_int_equal(sn_json_unescape(text, len, out), plain_len);
		assert_memory_equal(out, pairs[i].plain, plain_len);
		assert_true(sn_utf8_valid(out, plain_len));
		assert_true(sn_field_equals(&field, pairs[i].plain, plain_len));
		assert_false(sn_field_equals(&field, "something else", 14));
		if (plain_len > 0)
			assert_false(sn_field_equals(&field, pairs[i].plain, plain_len - 1));
		free(out);
		free(text);
	}
}

static void
field_is(const sn_field *field, sn_field_kind kind, const char *text)
{
	assert_int_equal(field->kind, kind);
	if (text == NULL)
		return;
	assert_int_equal(field->len, strlen(text));
	assert_memory_equal(field->text, text, field->len);
}

static void
test_envelope(void **state)
{
	static const char text[] =
		"{\"event_id\":\"first\",\"x\":{\"tenant_id\":\"inner\"},\"tenant\\u005fid\":\"T1\",\"event_type\":\"A\\u0042\","
		" \"exception_id\":null,\"version\":1,\"timestamp\":true,\"payload\": {\"a\":[1,{}]} ,\"metadata\":[1],"
		"\"event_id\":\"last\",\"event_idx\":1,\"event\":2}";
	sn_envelope envelope;

	(void) state;
	assert_int_equal(sn_envelope_scan(text, sizeof(text) - 1, &limits, &envelope), SN_JSON_OK);
	field_is(&envelope.event_id, SN_FIELD_STRING, "last");
	field_is(&envelope.tenant_id, SN_FIELD_STRING, "T1");
	field_is(&envelope.event_type, SN_FIELD_STRING, "A\\u0042");
	assert_true(envelope.event_type.escaped);
	assert_false(envelope.tenant_id.escaped);
	assert_true(sn_field_equals(&envelope.event_type, "AB", 2));
	field_is(&envelope.exception_id, SN_FIELD_NULL, "null");
	field_is(&envelope.correlation_id, SN_FIELD_MISSING, NULL);
	field_is(&envelope.version, SN_FIELD_NUMBER, "1");
	assert_true(envelope.version.integral);
	field_is(&envelope.timestamp, SN_FIELD_BOOLEAN, "true");
	field_is(&envelope.payload, SN_FIELD_OBJECT, "{\"a\":[1,{}]}");
	field_is(&envelope.metadata, SN_FIELD_ARRAY, "[1]");

	assert_int_equal(sn_envelope_scan("[1]", 3, &limits, &envelope), SN_JSON_NOT_OBJECT);
	assert_int_equal(sn_envelope_scan("[1", 2, &limits, &envelope), SN_JSON_TRUNCATED);
	assert_int_equal(sn_envelope_scan("{} x", 4, &limits, &envelope), SN_JSON_TRAILING);
	assert_int_equal(sn_envelope_scan("{\"event_type\":\"T\",\"payload\":{\"a\":}}", 34, &limits, &envelope),
					 SN_JSON_UNEXPECTED);
	field_is(&envelope.event_type, SN_FIELD_STRING, "T");
	field_is(&envelope.payload, SN_FIELD_MISSING, NULL);
}

/* An event of the size that our figures are about. */
static const char event[] =
	"{\"event_id\":\"3f0c2f0e-7d0e-4a53-9a53-7e1d2f60b8c4\",\"event_type\":\"ExceptionIngested\","
	"\"tenant_id\":\"TENANT_001\",\"exception_id\":\"EXC_000001\",\"timestamp\":\"2025-01-31T12:00:00.123456Z\","
	"\"correlation_id\":\"EXC_000001\",\"version\":1,\"payload\":{\"source_system\":\"erp\","
	"\"exception_type\":\"INVOICE_MISMATCH\",\"severity\":\"HIGH\",\"amount\":1250.50,\"currency\":\"EUR\","
	"\"message\":\"Invoice total doesn't match the purchase order of 2025-01-30\",\"raw_payload\":{\"invoice\":\"INV-2025-0042\","
	"\"order\":4711,\"lines\":[1,2,3]}},\"metadata\":{\"producer\":\"erp-gateway\",\"attempt\":1,\"ok\":true}}";

/* No prefix of an event is one, and none is read beyond its end. */
static void
test_prefixes(void **state)
{
	(void) state;
	for (size_t len = 0; len < sizeof(event) - 1; len++)
	{
		char *copy = exact_copy(event, len);
		sn_envelope envelope;

		assert_int_not_equal(sn_envelope_scan(copy, len, &limits, &envelope), SN_JSON_OK);
		assert_in_range(envelope.error.offset, 0, len);
		free(copy);
	}
}

static void
test_speed(void **state)
{
	const int rounds = 20000;
	struct timespec start;
	struct timespec end;
	size_t sum = 0;
	sn_envelope envelope;

	(void) state;
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (int i = 0; i < rounds; i++)
	{
		assert_int_equal(sn_envelope_scan(event, sizeof(event) - 1, &limits, &envelope), SN_JSON_OK);
		sum += envelope.payload.len;
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	assert_int_equal(sum, rounds * envelope.payload.len);
	print_message("envelope of %zu bytes: %.0f ns\n", sizeof(event) - 1,
				  ((double) (end.tv_sec - start.tv_sec) * 1e9 + (double) (end.tv_nsec - start.tv_nsec)) / rounds);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cases),		  cmocka_unit_test(test_plain_ends), cmocka_unit_test(test_depth),
		cmocka_unit_test(test_number_limits), cmocka_unit_test(test_size_limit), cmocka_unit_test(test_tokens),
		cmocka_unit_test(test_unescape),	  cmocka_unit_test(test_envelope),	 cmocka_unit_test(test_prefixes),
		cmocka_unit_test(test_speed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
